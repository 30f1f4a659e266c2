//! A child process that cannot outlive its test.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program, its two outputs in one file. Dropping it ends it; when the test is failing, the end of its
/// output is shown.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `tests/interop/out/NAME.log`.
    pub fn start(name: &str, command: &mut Command) -> Process {
        // Test programs may run side by side, each with its own names.
        let log = crate::scratch().join(format!("{name}-{}.log", std::process::id()));
        let out = File::create(&log).expect("the log file can be made");
        let err = out.try_clone().expect("a file handle can be cloned");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: cannot start {command:?}: {error}"));
        Process { child, name: name.into(), log }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, name: &str) {
        // the shell's own `kill`: a small system has no program of that name
        let _ = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
    }

    /// The exit status, when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end; `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end (SIGTERM), and makes it (SIGKILL) when it has not after `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended().is_none() {
            self.signal("CONT"); // a stopped process does not see SIGTERM
            self.signal("TERM");
        }
        let status = self.wait(limit);
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        status
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        read(&self.log)
    }

    /// Resident memory in bytes, from /proc.
    pub fn memory(&self) -> u64 {
        let status = read(&PathBuf::from(format!("/proc/{}/status", self.child.id())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
        if std::thread::panicking() {
            let text = self.output();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(60);
            eprintln!(
                "---- {} (the end of {})\n{}\n----",
                self.name,
                self.log.display(),
                lines[from..].join("\n")
            );
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
