//! The node as a child process on a core of its own, and what /proc says about processes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::http::{self, Whole};
use super::target::{Target, Url};

const START_TIMEOUT: Duration = Duration::from_secs(15);
/// USER_HZ, the unit of times in /proc, is 100 on every Linux architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const LOG_TAIL_LINES: usize = 15;

/// Keeps the calling thread on one core.
pub fn pin_thread(core: usize) -> Result<()> {
    let link = fs::read_link("/proc/thread-self").context("/proc/thread-self")?;
    let id = link.file_name().context("/proc/thread-self names no thread")?.to_owned();
    let output = taskset().args(["-p", "-c", &core.to_string()]).arg(id).output().map_err(explain_taskset)?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Keeps this process and the threads it will start on one core.
pub fn pin_self(core: usize) -> Result<()> {
    let output =
        taskset().args(["-a", "-p", "-c", &core.to_string(), &std::process::id().to_string()]).output();
    let output = output.map_err(explain_taskset)?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn taskset() -> Command {
    Command::new("taskset")
}

fn explain_taskset(error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error)
        .context("cannot run taskset, which pins processes to cores (package util-linux)")
}

/// CPU seconds of this process so far.
pub fn own_cpu_seconds() -> Result<f64> {
    Ok(stat(Path::new("/proc/self/stat")).context("/proc/self/stat")?.1)
}

/// A server that was started. It ends with this value, and its folder goes.
pub struct Process {
    child: Child,
    name: String,
    folder: PathBuf,
}

/// A folder for a server's settings and log.
pub fn folder() -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("millrace-bench-").tempdir()?.keep())
}

impl Process {
    /// Starts a program on these cores (none: anywhere); what it says goes to `log` in its folder.
    pub fn start(program: &Path, arguments: &[&str], cores: &[usize], folder: PathBuf) -> Result<Process> {
        let mut command = if cores.is_empty() {
            Command::new(program)
        } else {
            let list: Vec<String> = cores.iter().map(usize::to_string).collect();
            let mut command = taskset();
            command.arg("-c").arg(list.join(",")).arg(program);
            command
        };
        let log = folder.join("log");
        let child = command
            .args(arguments)
            // The end of its log is shown when it fails: a panic's message, not sixty frames.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .map_err(explain_taskset)?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Process { child, name, folder })
    }

    /// Asks again and again until it is ready.
    pub fn wait_until(&mut self, is_ready: impl Fn(&Process) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.check_alive()?;
            match is_ready(self) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{} is not ready after {START_TIMEOUT:?}", self.name)));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds that it took so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid());
        Ok(stat(Path::new(&path)).context(path)?.1)
    }

    /// An error with the end of its log when it is gone.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log ends:\n{}", self.name, self.log_tail()),
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A running node. It ends with this value.
pub struct Node {
    process: Process,
    http: SocketAddr,
    rtmp: SocketAddr,
    ops: SocketAddr,
}

impl Node {
    /// Starts `program serve` for so many clients on `cores`, with a shard for each, on free ports of 127.0.0.1, and waits until it is ready.
    pub fn start(program: &Path, cores: &[usize], clients: usize) -> Result<Node> {
        ensure!(
            program.is_file(),
            "{} is not there: build it with `cargo build --release -p millrace`, or name another with --start",
            program.display()
        );
        let folder = folder()?;
        let [http, rtmp, ops] = free_tcp()?;
        let shards = cores.len().max(1);
        let udp = free_udp(shards)?;
        let connections = clients + 64;
        let settings = format!(
            "[node]\nshards = {shards}\n[rtmp]\nlisten = \"{rtmp}\"\nconnections_max = {connections}\n[http]\nlisten = \"{http}\"\n\
             [webrtc]\nlisten_ip = \"127.0.0.1\"\nbase_port = {udp}\nsessions_max = {connections}\n[ops]\nlisten = \"{ops}\"\n\
             [log]\nfilter = \"warn\"\nformat = \"text\"\n"
        );
        let config = folder.join("millrace.toml");
        fs::write(&config, settings)?;
        let arguments = ["serve", "--config", &config.to_string_lossy()];
        let mut process = Process::start(program, &arguments, cores, folder)?;
        process.wait_until(|_| {
            let answer = http::request(&http::url_of(ops, "/readyz"), "GET", &[], "")?;
            ensure!(answer.head.status == 200, "it says {} on /readyz", answer.head.status);
            Ok(())
        })?;
        Ok(Node { process, http, rtmp, ops })
    }

    /// Points a target at it.
    pub fn aim(&self, target: &mut Target) {
        let (http, rtmp) = (self.http, self.rtmp);
        target.whip.get_or_insert(format!("http://{http}/whip/{{app}}/{{stream}}"));
        target.whep.get_or_insert(format!("http://{http}/whep/{{app}}/{{stream}}"));
        target.rtmp.get_or_insert(format!("rtmp://{rtmp}/{{app}}/{{stream}}"));
        target.flv.get_or_insert(format!("http://{http}/{{app}}/{{stream}}.flv"));
        target.hls.get_or_insert(format!("http://{http}/{{app}}/{{stream}}.m3u8"));
        target.metrics.get_or_insert(format!("http://{}/metrics", self.ops));
        target.pid = Some(self.process.pid());
    }

    /// An error with the end of its log when it is gone.
    pub fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }
}

/// The first of so many free UDP ports in a row.
fn free_udp(count: usize) -> Result<u16> {
    for _ in 0..100 {
        let first = UdpSocket::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        let rest =
            (1..count as u16).map(|i| UdpSocket::bind(("127.0.0.1", port.checked_add(i).unwrap_or(0))));
        if usize::from(port) + count < 65_536 && rest.collect::<std::io::Result<Vec<_>>>().is_ok() {
            return Ok(port);
        }
    }
    bail!("no {count} free UDP ports in a row")
}

/// Three free ports, held together so that they differ.
pub fn free_tcp() -> Result<[SocketAddr; 3]> {
    let held = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// What a process and its children have used so far.
#[derive(Clone, Debug)]
pub struct Usage {
    seconds: f64,
    /// By thread name.
    threads: Vec<(String, f64)>,
    /// Resident memory. Pages that several of its processes share count for each.
    pub rss_bytes: u64,
    /// Context switches, voluntary and not, of all its threads that live.
    switches: [u64; 2],
}

/// CPU used between two looks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// Of one core.
    pub percent: f64,
    /// Thread names and their parts, the greatest first.
    pub threads: Vec<(String, f64)>,
    /// Context switches a second: voluntary, and not.
    pub switches_per_second: [f64; 2],
}

impl Usage {
    /// Reads /proc.
    pub fn of(pid: u32) -> Result<Usage> {
        let mut usage = Usage { seconds: 0.0, threads: Vec::new(), rss_bytes: 0, switches: [0, 0] };
        let mut children = usage.add(pid).with_context(|| format!("process {pid} cannot be looked at"))?;
        while let Some(child) = children.pop() {
            // A child may end between the listing and the look.
            children.extend(usage.add(child).unwrap_or_default());
        }
        Ok(usage)
    }

    /// Adds one process; returns its children.
    fn add(&mut self, pid: u32) -> Result<Vec<u32>> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        self.seconds += stat(&folder.join("stat"))?.1;
        let mut children = Vec::new();
        for entry in fs::read_dir(folder.join("task"))? {
            // So may a thread.
            let task = entry?.path();
            let Ok((name, seconds)) = stat(&task.join("stat")) else { continue };
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            for (sum, key) in
                self.switches.iter_mut().zip(["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"])
            {
                *sum += number_behind(&status, key);
            }
            match self.threads.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += seconds,
                None => self.threads.push((name, seconds)),
            }
            let list = fs::read_to_string(task.join("children")).unwrap_or_default();
            children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        self.rss_bytes += number_behind(&fs::read_to_string(folder.join("status"))?, "VmRSS:") * 1024;
        Ok(children)
    }

    /// The share of a core used since `before`.
    pub fn since(&self, before: &Usage, elapsed: Duration) -> Cpu {
        let percent = |seconds: f64| seconds * 100.0 / elapsed.as_secs_f64();
        let earlier =
            |name: &str| before.threads.iter().find(|(known, _)| known == name).map_or(0.0, |(_, s)| *s);
        let mut threads: Vec<(String, f64)> =
            self.threads.iter().map(|(name, s)| (name.clone(), percent(s - earlier(name)))).collect();
        threads.sort_by(|a, b| b.1.total_cmp(&a.1));
        let rate =
            |i: usize| self.switches[i].saturating_sub(before.switches[i]) as f64 / elapsed.as_secs_f64();
        Cpu {
            percent: percent(self.seconds - before.seconds),
            threads,
            switches_per_second: [rate(0), rate(1)],
        }
    }

    /// CPU seconds so far.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

/// A number of proc(5)'s `status`.
fn number_behind(status: &str, key: &str) -> u64 {
    let rest = status.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// A server's metrics: name and labels, and value. Those of a histogram's buckets are left out.
pub fn metrics(url: &Url) -> Result<Vec<(String, f64)>> {
    let Whole { head, body } = http::request(url, "GET", &[], "")?;
    ensure!(head.status == 200, "{url} was answered {}", head.status);
    let samples = body.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    let sample = |line: &str| {
        line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
    };
    Ok(samples.filter_map(sample).collect())
}

/// Seconds that a core has been busy so far, whoever it was; what a hypervisor took for others counts too.
pub fn core_busy_seconds(core: usize) -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let name = format!("cpu{core}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name.as_str()));
    let fields: Vec<f64> =
        line.context("no such core")?.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    // proc(5): user nice system idle iowait irq softirq steal
    Ok([0, 1, 2, 5, 6, 7].into_iter().filter_map(|field| fields.get(field)).sum::<f64>() / TICKS_PER_SECOND)
}

/// Name and CPU seconds of proc(5)'s `stat`. The name is in parentheses and may hold any character.
fn stat(path: &Path) -> std::io::Result<(String, f64)> {
    let text = fs::read_to_string(path)?;
    let odd = || std::io::Error::new(ErrorKind::InvalidData, "not a stat line");
    let (before, after) = text.rsplit_once(')').ok_or_else(odd)?;
    let (_, name) = before.split_once('(').ok_or_else(odd)?;
    // utime and stime are fields 14 and 15; what follows the name starts with field 3.
    let ticks: f64 =
        after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    Ok((name.to_owned(), ticks / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_busy() {
        let before = Usage::of(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(before.rss_bytes);
        }
        let after = Usage::of(std::process::id()).unwrap();
        let cpu = after.since(&before, start.elapsed());
        assert!(cpu.percent > 10.0 && cpu.percent < 3_000.0, "{cpu:?}");
        assert!(after.rss_bytes > 1 << 20 && cpu.switches_per_second.iter().sum::<f64>() > 0.0, "{cpu:?}");
        assert!(Usage::of(u32::MAX).is_err());
        // A shell that only waits for a child that works.
        let work = "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done";
        let mut shell = Command::new("sh").args(["-c", &format!("sh -c '{work}' & wait")]).spawn().unwrap();
        let (pid, deadline) = (shell.id(), Instant::now() + Duration::from_secs(20));
        let seen = std::iter::from_fn(|| Some(Usage::of(pid).ok()?.seconds()))
            .take_while(|_| Instant::now() < deadline)
            .any(|seconds| seconds > 0.1);
        let _ = shell.kill();
        let _ = shell.wait();
        assert!(seen, "its child's time is its own");
        assert!(core_busy_seconds(0).unwrap() > 0.0 && core_busy_seconds(100_000).is_err());
    }

    #[test]
    fn a_missing_program_is_told() {
        let error = Node::start(Path::new("no/such/program"), &[0], 1).err().unwrap().to_string();
        assert!(error.contains("no/such/program") && error.contains("--start"), "{error}");
    }
}
