//! The node as a child process on a core of its own, and what /proc says about processes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::http;

const START_TIMEOUT: Duration = Duration::from_secs(15);
/// USER_HZ, the unit of times in /proc, is 100 on every Linux architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const LOG_TAIL_LINES: usize = 15;

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

/// A running node. It ends with this value.
pub struct Node {
    child: Child,
    folder: PathBuf,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Where it serves RTMP.
    pub rtmp: SocketAddr,
    ops: SocketAddr,
}

impl Node {
    /// Starts `program serve` on `core`, on free ports of 127.0.0.1, and waits until it is ready.
    pub fn start(program: &Path, core: usize, viewers: usize) -> Result<Node> {
        ensure!(
            program.is_file(),
            "{} is not there: build it with `cargo build --release -p millrace`, or name another with --millrace",
            program.display()
        );
        let folder = std::env::temp_dir().join(format!("millrace-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let [http, rtmp, ops] = free_tcp()?;
        let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let connections = viewers + 64;
        let settings = format!(
            "[node]\nshards = 1\n[rtmp]\nlisten = \"{rtmp}\"\nconnections_max = {connections}\n[http]\nlisten = \"{http}\"\n\
             [webrtc]\nlisten_ip = \"127.0.0.1\"\nbase_port = {udp}\nsessions_max = {connections}\n[ops]\nlisten = \"{ops}\"\n\
             [log]\nfilter = \"warn\"\nformat = \"text\"\n"
        );
        let (config, log) = (folder.join("millrace.toml"), folder.join("log"));
        fs::write(&config, settings)?;
        let child = taskset()
            .arg("-c")
            .arg(core.to_string())
            .arg(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            // The end of its log is shown when it fails: a panic's message, not sixty frames.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .map_err(explain_taskset)?;
        let mut node = Node { child, folder, http, rtmp, ops };
        node.wait_until_ready()?;
        Ok(node)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.check_alive()?;
            match http::request(self.ops, "GET", "/readyz", "text/plain", "") {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) if Instant::now() > deadline => {
                    bail!("the node says {} on /readyz", answer.status)
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("the node is not ready after {START_TIMEOUT:?}")));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it is gone.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node ended ({status}); its log ends:\n{}", self.log_tail()),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Its metrics of things dropped that are not zero.
    pub fn drops(&self) -> Vec<String> {
        let Ok(answer) = http::request(self.ops, "GET", "/metrics", "text/plain", "") else {
            return Vec::new();
        };
        let is_drop = |line: &&str| !line.starts_with('#') && line.contains("drop") && !line.ends_with(" 0");
        answer.body.lines().filter(is_drop).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Three free ports, held together so that they differ.
fn free_tcp() -> Result<[SocketAddr; 3]> {
    let held = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// What a process has used so far.
#[derive(Clone, Debug)]
pub struct Usage {
    seconds: f64,
    /// By thread name.
    threads: Vec<(String, f64)>,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// CPU used between two looks.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Of one core.
    pub percent: f64,
    /// Thread names and their parts, the greatest first.
    pub threads: Vec<(String, f64)>,
}

impl Usage {
    /// Reads /proc.
    pub fn of(pid: u32) -> Result<Usage> {
        let gone = || format!("process {pid} cannot be looked at");
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let (_, seconds) = stat(&folder.join("stat")).with_context(gone)?;
        let mut threads: Vec<(String, f64)> = Vec::new();
        for entry in fs::read_dir(folder.join("task")).with_context(gone)? {
            // A thread may end between the listing and the look.
            let Ok((name, seconds)) = stat(&entry?.path().join("stat")) else { continue };
            match threads.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += seconds,
                None => threads.push((name, seconds)),
            }
        }
        let status = fs::read_to_string(folder.join("status")).with_context(gone)?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        let rss_kib: u64 = rss.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok(Usage { seconds, threads, rss_bytes: rss_kib * 1024 })
    }

    /// The share of a core used since `before`.
    pub fn since(&self, before: &Usage, elapsed: Duration) -> Cpu {
        let percent = |seconds: f64| seconds * 100.0 / elapsed.as_secs_f64();
        let earlier =
            |name: &str| before.threads.iter().find(|(known, _)| known == name).map_or(0.0, |(_, s)| *s);
        let mut threads: Vec<(String, f64)> =
            self.threads.iter().map(|(name, s)| (name.clone(), percent(s - earlier(name)))).collect();
        threads.sort_by(|a, b| b.1.total_cmp(&a.1));
        Cpu { percent: percent(self.seconds - before.seconds), threads }
    }
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
        assert!(after.rss_bytes > 1 << 20);
        assert!(Usage::of(u32::MAX).is_err());
        assert!(core_busy_seconds(0).unwrap() > 0.0 && core_busy_seconds(100_000).is_err());
    }

    #[test]
    fn a_missing_program_is_told() {
        let error = Node::start(Path::new("no/such/program"), 0, 1).err().unwrap().to_string();
        assert!(error.contains("no/such/program") && error.contains("--millrace"), "{error}");
    }
}
