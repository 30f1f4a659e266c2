//! The real node, on free ports, with a settings file of its own.
use crate::http;
use crate::process::Process;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// How long a node may take to be ready. Generous: it shares two cores with what a build left running.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Two shards, so that a packet can cross threads on the smallest machine.
pub const SHARDS: u16 = 2;

/// A running node; dropping it ends it.
pub struct Node {
    /// The process, for signals and what it printed.
    pub process: Process,
    pub rtmp: SocketAddr,
    pub http: SocketAddr,
    pub ops: SocketAddr,
    /// UDP ports, one a shard.
    pub webrtc: Vec<SocketAddr>,
}

impl Node {
    /// With the defaults, on free ports.
    pub fn start() -> Node {
        Node::start_with(&[])
    }

    /// With settings of its own: `("stream.publisher_grace", "\"2s\"")`, the value as TOML writes it.
    ///
    /// # Panics
    /// When it is not ready in time.
    #[track_caller]
    pub fn start_with(settings: &[(&str, &str)]) -> Node {
        Node::start_on(Ipv4Addr::LOCALHOST, settings)
    }

    /// The same on another address of the machine, for clients that are elsewhere.
    ///
    /// # Panics
    /// When it is not ready in time.
    #[track_caller]
    pub fn start_on(ip: Ipv4Addr, settings: &[(&str, &str)]) -> Node {
        let [rtmp, http] = [(); 2].map(|()| free_tcp_on(ip));
        let ops = free_tcp();
        let first = free_udp_range(ip, SHARDS);
        let webrtc: Vec<SocketAddr> = (0..SHARDS).map(|shard| (ip, first + shard).into()).collect();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        all.insert("rtmp.listen".into(), format!("\"{rtmp}\""));
        all.insert("http.listen".into(), format!("\"{http}\""));
        all.insert("ops.listen".into(), format!("\"{ops}\""));
        all.insert("webrtc.listen_ip".into(), format!("\"{ip}\""));
        all.insert("node.allow_open".into(), (!ip.is_loopback()).to_string());
        all.insert("webrtc.base_port".into(), first.to_string());
        all.insert("node.shards".into(), SHARDS.to_string());
        all.insert("log.filter".into(), "\"info,millrace=debug\"".into());
        all.insert("log.format".into(), "\"text\"".into());
        all.extend(settings.iter().map(|(key, value)| (key.to_string(), value.to_string())));

        let name = crate::unique("node");
        let name = format!("{name}-{}", std::process::id());
        let file = write_settings(&name, &all);
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(file).env("RUST_BACKTRACE", "1");
        let mut node = Node { process: Process::start(&name, &mut command), rtmp, http, ops, webrtc };
        crate::until("the node is ready", READY_LIMIT, || {
            if let Some(status) = node.process.ended() {
                panic!("the node ended at once, {status}");
            }
            let url = format!("http://{}/readyz", node.ops);
            http::request("GET", &url, &[], b"").ok().filter(|it| it.status == 200)
        });
        node
    }

    /// `rtmp://.../live/NAME`
    pub fn rtmp_url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.rtmp)
    }

    /// `http://.../live/NAME.flv`
    pub fn flv_url(&self, name: &str) -> String {
        self.url(&format!("/live/{name}.flv"))
    }

    /// `http://.../whip/live/NAME`
    pub fn whip_url(&self, name: &str) -> String {
        self.url(&format!("/whip/live/{name}"))
    }

    /// `http://.../whep/live/NAME`
    pub fn whep_url(&self, name: &str) -> String {
        self.url(&format!("/whep/live/{name}"))
    }

    /// A path of the public HTTP port.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// A `GET` of the API, as JSON.
    ///
    /// # Panics
    /// When it is not a 200 with JSON.
    #[track_caller]
    pub fn api(&self, path: &str) -> serde_json::Value {
        let response = http::get(&self.url(path));
        assert_eq!(response.status, 200, "GET {path}: {}", response.text());
        response.json()
    }

    /// The stream's entry in the API, once it is there; `None` while it is not.
    pub fn stream(&self, name: &str) -> Option<serde_json::Value> {
        let all = self.api("/api/v1/streams/");
        all["streams"].as_array().expect("`streams` is a list").iter().find(|it| it["name"] == name).cloned()
    }

    /// Waits until a publisher of the stream is live, with both tracks known.
    #[track_caller]
    pub fn wait_live(&self, name: &str) -> serde_json::Value {
        crate::until(&format!("{name} is live"), Duration::from_secs(10), || {
            self.stream(name).filter(|it| it["publish"]["active"] == true)
        })
    }

    /// Every sample of /metrics: the name with its labels as written, and the value.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let response = http::get(&format!("http://{}/metrics", self.ops));
        assert_eq!(response.status, 200);
        parse_metrics(&response.text())
    }

    /// The sum of a metric over its labels; 0 when it has no sample.
    pub fn metric(&self, name: &str) -> f64 {
        let own = |key: &str| key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        self.metrics().iter().filter(|(key, _)| own(key)).map(|(_, value)| value).sum()
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// SIGTERM, and the exit status if it came within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.stop(limit)
    }

    /// Still running, still ready, and no thread of it has panicked.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn assert_well(&mut self) {
        assert_eq!(self.process.ended(), None, "the node has ended");
        let response = http::get(&format!("http://{}/readyz", self.ops));
        assert_eq!(response.status, 200, "/readyz: {}", response.text());
        assert!(!self.log().contains("panicked at"), "a thread of the node panicked");
    }
}

fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(key, value)| Some((key.into(), value.parse().ok()?)))
        .collect()
}

/// The file of a settings map whose keys are `section.key`.
pub fn write_settings(name: &str, settings: &BTreeMap<String, String>) -> PathBuf {
    let mut text = String::new();
    let mut section = "";
    for (key, value) in settings {
        let (of, key) = key.rsplit_once('.').expect("a key is section.key");
        if of != section {
            text += &format!("[{of}]\n");
            section = of;
        }
        text += &format!("{key} = {value}\n");
    }
    let path = crate::scratch().join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("the settings file can be written");
    path
}

/// The node's program: `$NODE_UNDER_TEST`, or the one of this checkout, built first so that it is never an old one.
/// (Not `MILLRACE_...`: the node takes that for a setting, and refuses one it does not know.)
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("NODE_UNDER_TEST") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(crate::root()).args([
            "build",
            "--quiet",
            "--package",
            "millrace",
            "--bin",
            "millrace",
        ]);
        assert!(build.status().expect("cargo runs").success(), "the node does not build");
        // .../target/debug/deps/THIS-TEST
        let own = std::env::current_exe().expect("a program knows its path");
        own.ancestors().nth(2).expect("a test is in target/PROFILE/deps").join("millrace")
    })
}

/// Ports given out by this process: the system may offer a released one again at once.
static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

fn take(ports: &[u16]) -> bool {
    let mut taken = TAKEN.lock().expect("no test panics while it takes a port");
    let free = ports.iter().all(|port| !taken.contains(port));
    if free {
        taken.extend_from_slice(ports);
    }
    free
}

/// A TCP port of 127.0.0.1 nobody has.
pub fn free_tcp() -> SocketAddr {
    free_tcp_on(Ipv4Addr::LOCALHOST)
}

fn free_tcp_on(ip: Ipv4Addr) -> SocketAddr {
    loop {
        let found = TcpListener::bind((ip, 0)).and_then(|it| it.local_addr()).expect("a TCP port is free");
        if take(&[found.port()]) {
            return found;
        }
    }
}

/// A UDP port of 127.0.0.1 nobody has.
pub fn free_udp() -> u16 {
    free_udp_range(Ipv4Addr::LOCALHOST, 1)
}

/// The first of `count` UDP ports in a row that nobody has, on TCP neither (ICE-TCP has the first).
fn free_udp_range(ip: Ipv4Addr, count: u16) -> u16 {
    loop {
        let first =
            UdpSocket::bind((ip, 0)).and_then(|it| it.local_addr()).expect("a UDP port is free").port();
        let Some(end) = first.checked_add(count) else { continue };
        let ports: Vec<u16> = (first..end).collect();
        let free =
            |port: &u16| UdpSocket::bind((ip, *port)).is_ok() && TcpListener::bind((ip, *port)).is_ok();
        if ports.iter().all(free) && take(&ports) {
            return first;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn metrics_text_is_read() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1 2\"} 3\nb 4.5\n";
        let all = super::parse_metrics(text);
        assert_eq!(all.get("a{x=\"1 2\"}"), Some(&3.0));
        assert_eq!(all.get("b"), Some(&4.5));
    }
}
