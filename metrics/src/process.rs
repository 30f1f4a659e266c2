//! The process's own figures, read from `/proc/self`. Whatever cannot be read is left out of the scrape.

use std::fs;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture Rust runs Linux on.
const TICKS_HZ: f64 = 100.0;

/// One reading.
#[derive(Default, Debug)]
pub(crate) struct Process {
    /// CPU time of user and system, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// When it started, in seconds since 1970.
    pub(crate) start_time_seconds: Option<f64>,
    /// Resident memory.
    pub(crate) resident_bytes: Option<f64>,
    /// Virtual memory.
    pub(crate) virtual_bytes: Option<f64>,
    /// Threads.
    pub(crate) threads: Option<f64>,
    /// Open file descriptors.
    pub(crate) open_fds: Option<f64>,
    /// The soft limit of open file descriptors.
    pub(crate) max_fds: Option<f64>,
}

impl Process {
    pub(crate) fn read() -> Process {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = Stat::parse(&read("/proc/self/stat"));
        let status = read("/proc/self/status");
        let boot = field(&read("/proc/stat"), "btime ");
        Process {
            cpu_seconds: stat.as_ref().map(|s| s.cpu_ticks / TICKS_HZ),
            start_time_seconds: stat.as_ref().zip(boot).map(|(s, boot)| boot + s.start_ticks / TICKS_HZ),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024.0),
            virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1024.0),
            threads: field(&status, "Threads:"),
            // The directory being read is one of them.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|dir| (dir.count() as f64 - 1.0).max(0.0)),
            max_fds: field(&read("/proc/self/limits"), "Max open files"),
        }
    }
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// The fields of `/proc/PID/stat` that nothing else tells (proc_pid_stat(5)).
#[derive(PartialEq, Debug)]
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Stat> {
        // Field 2 is the program's name in parentheses and may hold spaces and parentheses itself; what follows
        // the last one begins with field 3.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Stat { cpu_ticks: number(14)? + number(15)?, start_ticks: number(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a ) (b) S 1 2 3 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 123456 1000 20";
        assert_eq!(Stat::parse(line), Some(Stat { cpu_ticks: 300.0, start_ticks: 123_456.0 }));
        assert_eq!(Stat::parse("42 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_read() {
        let file = fs::File::open("/proc/self/stat").unwrap();
        let before = Process::read();
        assert!(before.resident_bytes.unwrap() > 1e5 && before.virtual_bytes >= before.resident_bytes);
        assert!(before.threads.unwrap() >= 1.0 && before.max_fds.unwrap() >= before.open_fds.unwrap());
        assert!(before.open_fds.unwrap() >= 4.0, "three of its own and {file:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - before.start_time_seconds.unwrap();
        // /proc/stat gives the boot time in whole seconds.
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
        let mut x = 0_u64;
        while Process::read().cpu_seconds < before.cpu_seconds.map(|s| s + 0.02) {
            x = std::hint::black_box(x.wrapping_add(1));
        }
    }
}
