//! What values may be, beyond their types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use media::NodeId;

use super::{Config, ConfigError, DirectoryKind, Place, Problem, duration};

/// More shards than any machine has cores for; each has a port.
const SHARDS_MAX: usize = 256;

impl Config {
    /// Checks a configuration that the program made or changed. [`Config::load`] has checked its own.
    ///
    /// # Errors
    /// Every rule that is broken, each with its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_rules(|key| Place::Key(key.into()))
    }

    /// The number of shards: the setting, or one a core.
    pub fn shards(&self) -> usize {
        match self.node.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX),
            shards => shards,
        }
    }

    pub(super) fn check_rules(&self, place: impl Fn(&str) -> Place) -> Result<(), ConfigError> {
        let mut rules = Rules { problems: Vec::new() };
        self.check_names(&mut rules);
        self.check_limits(&mut rules);
        self.check_addresses(&mut rules);
        self.check_open(&mut rules);
        if rules.problems.is_empty() {
            return Ok(());
        }
        let problem = |(key, what, advice): (&str, _, _)| Problem { place: place(key), what, advice };
        Err(rules.problems.into_iter().map(problem).collect::<Vec<_>>().into())
    }

    fn check_names(&self, rules: &mut Rules) {
        let name = &self.node.name;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            let what = format!("node.name is {name:?}");
            rules.broken("node.name", what, "Use 1 to 64 letters, digits, `-`, `.` and `_`");
        }
        for (key, tokens) in [
            ("auth.publish", &self.auth.publish),
            ("auth.play", &self.auth.play),
            ("auth.api", &self.auth.api),
        ] {
            if !tokens.iter().all(|token| token.is_valid()) {
                let advice =
                    "Use 1 to 256 letters, digits, `-`, `.`, `_` and `~`, which a URL leaves as they are";
                rules.broken(key, format!("{key} has a token that does not fit a URL"), advice);
            }
        }
        for origin in &self.http.cors_origins {
            if origin != "*" && !is_origin(origin) {
                let what = format!("http.cors_origins has {origin:?}");
                rules.broken("http.cors_origins", what, "Use `*`, or origins such as `https://example.com`");
            }
        }
        self.check_cluster(rules);
        if self.log.filter.trim().is_empty() {
            let advice = "Use error, warn, info, debug or trace";
            rules.broken("log.filter", "log.filter is empty".into(), advice);
        }
    }

    fn check_cluster(&self, rules: &mut Rules) {
        let cluster = &self.cluster;
        if !cluster.node.is_empty() && NodeId::new(&cluster.node).is_none() {
            let what = format!("cluster.node is {:?}", cluster.node);
            rules.broken("cluster.node", what, &format!("Use {}", NodeId::FORM));
        }
        self.check_directory(rules);
        let mut ids = BTreeSet::new();
        for (text, peer) in cluster.peers.iter().zip(cluster.peers()) {
            let what = format!("cluster.peers has {text:?}");
            match peer {
                None => rules.broken("cluster.peers", what, "Write ID=ADDRESS:PORT, such as b=10.0.0.2:4443"),
                Some((id, _)) if id.as_str() == cluster.node => {
                    rules.broken("cluster.peers", what, "Name the other nodes, not this one");
                }
                Some((id, _)) if !ids.insert(id.clone()) => {
                    rules.broken("cluster.peers", what, "Name each node once: it has one link");
                }
                Some(_) => {}
            }
        }
        for uplink in &cluster.uplinks {
            let fits = NodeId::new(uplink).is_some_and(|id| id.as_str() != cluster.node && ids.insert(id));
            if !fits {
                let what = format!("cluster.uplinks has {uplink:?}");
                rules.broken(
                    "cluster.uplinks",
                    what,
                    "Name ids as certificates have them, each once and none of a node",
                );
            }
        }
    }

    fn check_directory(&self, rules: &mut Rules) {
        let cluster = &self.cluster;
        if cluster.directory == DirectoryKind::Static {
            return;
        }
        if cluster.node.is_empty() {
            let what = "cluster.directory is set, and cluster.node is empty".into();
            rules.broken("cluster.directory", what, "Give the node an id and a certificate");
        }
        if cluster.nats.is_empty() {
            let what = "cluster.directory is nats, and cluster.nats is empty".into();
            rules.broken("cluster.nats", what, "Name the servers, such as nats://10.0.0.1:4222");
        }
        for server in &cluster.nats {
            if server.parse::<async_nats::ServerAddr>().is_err() || !server.contains("://") {
                let what = format!("cluster.nats has {server:?}");
                rules.broken("cluster.nats", what, "Write nats://HOST:PORT or tls://HOST:PORT");
            }
        }
        if ![1, 3, 5].contains(&cluster.nats_replicas) {
            let what = format!("cluster.nats_replicas is {}", cluster.nats_replicas);
            rules.broken("cluster.nats_replicas", what, "Use 1, 3 or 5, and as many servers at least");
        }
        if cluster.region.len() > 64 {
            rules.broken("cluster.region", "cluster.region is too long".into(), "Use up to 64 bytes");
        }
        if !cluster.advertise.is_empty() && cluster.advertise.parse::<SocketAddr>().is_err() {
            let what = format!("cluster.advertise is {:?}", cluster.advertise);
            rules.broken("cluster.advertise", what, "Write ADDRESS:PORT, such as 203.0.113.7:4443");
        } else if cluster.advertised().ip().is_unspecified() {
            let what = format!("other nodes cannot reach {} (cluster.listen)", cluster.listen);
            rules.broken("cluster.advertise", what, "Set cluster.advertise to the address that they reach");
        }
    }

    fn check_limits(&self, rules: &mut Rules) {
        rules.within("node.shards", self.node.shards, 0, SHARDS_MAX);
        rules.within("rtmp.connections_max", self.rtmp.connections_max, 1, 1_000_000);
        // An SDP offer of a browser has 5 to 10 KiB; what is above 1 MiB is kept in memory for strangers.
        rules.within("http.request_body_bytes_max", self.http.request_body_bytes_max, 16 << 10, 1 << 20);
        rules.within("webrtc.sessions_max", self.webrtc.sessions_max, 1, 1_000_000);
        // A key frame of 4K is 1 MiB; a cache or queue that cannot hold one never starts a viewer.
        rules.within("stream.gop_bytes_max", self.stream.gop_bytes_max, 256 << 10, 1 << 30);
        rules.within("stream.viewer_queue_bytes_max", self.stream.viewer_queue_bytes_max, 256 << 10, 1 << 30);
        // What Opus can (RFC 6716 section 2.1.1), and what AAC-LC can in stereo at 48 kHz.
        rules.within("audio.opus_kbps", self.audio.opus_kbps as usize, 6, 510);
        rules.within("audio.aac_kbps", self.audio.aac_kbps as usize, 16, 320);

        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        rules.within_time("node.drain_deadline", self.node.drain_deadline, Duration::ZERO, hour);
        // A half-open session costs memory; a handshake over a bad link takes seconds.
        rules.within_time("webrtc.connect_timeout", self.webrtc.connect_timeout, second, 60 * second);
        rules.within_time("stream.publisher_grace", self.stream.publisher_grace, Duration::ZERO, hour);
        rules.within_time("stream.gop_duration_max", self.stream.gop_duration_max, second, 60 * second);
        rules.within_time("stream.viewer_lag_max", self.stream.viewer_lag_max, second / 2, 60 * second);
        // Beyond half a second players' buffers run dry between writes; it is also the least that a viewer may lag.
        rules.within_time("stream.merge_write", self.stream.merge_write, Duration::ZERO, second / 2);
    }

    fn check_addresses(&self, rules: &mut Rules) {
        let known =
            |server: &&String| !["stun:", "stuns:", "turn:", "turns:"].iter().any(|s| server.starts_with(s));
        let broken = |server: &&String| {
            known(server) || !server.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b))
        };
        if let Some(server) = self.webrtc.ice_servers.iter().find(broken) {
            let what = format!("webrtc.ice_servers has {server:?}, which is no STUN or TURN URI");
            rules.broken("webrtc.ice_servers", what, "Write stun:HOST:PORT or turn:HOST:PORT");
        }
        let base = usize::from(self.webrtc.base_port);
        if base != 0 && base + self.shards() > 65_536 {
            let what = format!("webrtc.base_port is {base}, and {} shards need a port each", self.shards());
            rules.broken("webrtc.base_port", what, "The last port is 65535: choose a lower one");
        }
        if let Some(ip) = self.node.public_ips.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            let what = format!("node.public_ips has {ip}, which nobody can send to");
            rules.broken("node.public_ips", what, "Name addresses of this machine as viewers see them");
        }
        let mut taken = BTreeMap::new();
        let tcp = [
            ("http.listen", self.http.listen, true),
            ("rtmp.listen", self.rtmp.listen, self.rtmp.enabled),
            ("ops.listen", self.ops.listen, true),
        ];
        for (key, listen, enabled) in tcp.into_iter().filter(|(_, listen, _)| listen.port() != 0) {
            if enabled && let Some(other) = taken.insert(listen, key) {
                rules.broken(key, format!("{key} and {other} are both {listen}"), "Give each its own port");
            }
        }
    }

    /// Design: public addresses without authentication are refused, naming the one setting that allows them.
    fn check_open(&self, rules: &mut Rules) {
        if self.node.allow_open || !self.auth.publish.is_empty() {
            return;
        }
        if let Some((key, listen)) = self.public_listeners().first() {
            let what = format!("{key} is {listen}, a public address, and anybody could publish there");
            let advice = "Set tokens in `auth.publish`, or `node.allow_open = true` if that is what you want";
            rules.broken(key, what, advice);
        }
    }

    /// Keys and values of the listeners that others than this machine can reach, save the operations one.
    pub(super) fn public_listeners(&self) -> Vec<(&'static str, String)> {
        let listeners = [
            ("rtmp.listen", self.rtmp.listen.ip(), self.rtmp.listen.to_string(), self.rtmp.enabled),
            ("http.listen", self.http.listen.ip(), self.http.listen.to_string(), true),
            ("webrtc.listen_ip", self.webrtc.listen_ip, self.webrtc.listen_ip.to_string(), true),
        ];
        let public = |(_, ip, _, enabled): &(_, IpAddr, _, bool)| *enabled && is_public(*ip);
        listeners.into_iter().filter(public).map(|(key, _, listen, _)| (key, listen)).collect()
    }
}

/// Whether others than this machine can reach it.
pub(super) fn is_public(ip: IpAddr) -> bool {
    !ip.to_canonical().is_loopback()
}

/// `scheme://host[:port]`, as browsers send it (RFC 6454 section 6.1).
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
    })
}

/// The rules broken so far: key, what, advice.
struct Rules {
    problems: Vec<(&'static str, String, String)>,
}

impl Rules {
    fn broken(&mut self, key: &'static str, what: String, advice: &str) {
        self.problems.push((key, what, advice.into()));
    }

    fn within(&mut self, key: &'static str, value: usize, min: usize, max: usize) {
        if !(min..=max).contains(&value) {
            self.broken(key, format!("{key} is {value}"), &format!("Use {min} to {max}"));
        }
    }

    fn within_time(&mut self, key: &'static str, value: Duration, min: Duration, max: Duration) {
        if !(min..=max).contains(&value) {
            let advice = format!(r#"Use "{}" to "{}""#, duration::text(min), duration::text(max));
            self.broken(key, format!("{key} is {}", duration::text(value)), &advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Token;

    fn problems(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        match config.validate() {
            Ok(()) => Vec::new(),
            Err(error) => error.problems.iter().map(Problem::to_string).collect(),
        }
    }

    #[test]
    fn public_and_open_is_refused_naming_the_setting_that_allows_it() {
        let public: IpAddr = "0.0.0.0".parse().unwrap();
        let open = problems(|c| c.http.listen.set_ip(public));
        let want = "setting http.listen: http.listen is 0.0.0.0:8080, a public address, and anybody could publish \
                    there. Set tokens in `auth.publish`, or `node.allow_open = true` if that is what you want";
        assert_eq!(open, [want]);
        assert_eq!(problems(|c| c.webrtc.listen_ip = public).len(), 1);
        assert_eq!(problems(|c| c.rtmp.listen.set_ip("2001:db8::1".parse().unwrap())).len(), 1);
        assert_eq!(problems(|c| c.rtmp.listen.set_ip("::ffff:127.0.0.1".parse().unwrap())).len(), 0);

        for allowed in [
            (|c| c.node.allow_open = true) as fn(&mut Config),
            |c| c.auth.publish = vec![Token::new("t")],
            |c| (c.http.listen, c.rtmp.enabled) = ("127.0.0.1:1".parse().unwrap(), false),
        ] {
            let all = |c: &mut Config| {
                c.http.listen.set_ip(public);
                c.rtmp.listen.set_ip(public);
                allowed(c);
            };
            assert_eq!(problems(all), [""; 0]);
        }
        let play_only = |c: &mut Config| {
            c.http.listen.set_ip(public);
            c.auth.play = vec![Token::new("t")];
        };
        assert_eq!(problems(play_only).len(), 1, "anybody could still publish");
    }

    #[test]
    fn limits_are_inclusive_and_told() {
        assert_eq!(problems(|c| c.node.shards = 256), [""; 0]);
        assert_eq!(
            problems(|c| c.node.shards = 257),
            ["setting node.shards: node.shards is 257. Use 0 to 256"]
        );
        assert_eq!(
            problems(|c| c.webrtc.connect_timeout = Duration::from_millis(999)),
            [r#"setting webrtc.connect_timeout: webrtc.connect_timeout is 999ms. Use "1s" to "1m""#]
        );
        let all: [fn(&mut Config); 9] = [
            |c| c.rtmp.connections_max = 0,
            |c| c.http.request_body_bytes_max = 0,
            |c| c.webrtc.sessions_max = 0,
            |c| c.stream.gop_bytes_max = 0,
            |c| c.stream.viewer_queue_bytes_max = usize::MAX,
            |c| c.audio.opus_kbps = 5,
            |c| c.audio.aac_kbps = 321,
            |c| c.stream.gop_duration_max = Duration::ZERO,
            |c| c.stream.viewer_lag_max = Duration::MAX,
        ];
        for change in all {
            assert_eq!(problems(change).len(), 1);
        }
        assert_eq!(
            problems(|c| all.iter().for_each(|change| change(c))).len(),
            all.len(),
            "all are told at once"
        );
    }

    #[test]
    fn ports_that_cannot_be_are_refused() {
        assert_eq!(problems(|c| c.ops.listen = c.http.listen).len(), 1);
        assert_eq!(problems(|c| (c.ops.listen, c.rtmp.enabled) = (c.rtmp.listen, false)), [""; 0]);
        let chosen = |c: &mut Config| {
            for listen in [&mut c.ops.listen, &mut c.http.listen, &mut c.rtmp.listen] {
                listen.set_port(0);
            }
            c.webrtc.base_port = 0;
        };
        assert_eq!(problems(chosen), [""; 0], "port 0 is free for all");
        assert_eq!(problems(|c| (c.webrtc.base_port, c.node.shards) = (65_535, 1)), [""; 0]);
        assert_eq!(problems(|c| (c.webrtc.base_port, c.node.shards) = (65_535, 2)).len(), 1);
        assert_eq!(problems(|c| c.node.public_ips = vec!["0.0.0.0".parse().unwrap()]).len(), 1);
        assert_eq!(problems(|c| c.webrtc.ice_servers = vec!["stun:stun.example.com:3478".into()]), [""; 0]);
        assert_eq!(problems(|c| c.webrtc.ice_servers = vec!["stun:a>; rel=x".into()]).len(), 1);
    }

    #[test]
    fn peers_are_other_nodes() {
        let peers = |peers: &[&str]| {
            let peers = peers.iter().map(ToString::to_string).collect();
            problems(|c| (c.cluster.node, c.cluster.peers) = ("a".into(), peers)).len()
        };
        assert_eq!(peers(&["b=10.0.0.2:4443", "c=[::1]:4443"]), 0);
        assert_eq!(peers(&["b", "b=host:1", "B=10.0.0.2:4443", "a=10.0.0.2:4443"]), 4);
        assert_eq!(peers(&["b=10.0.0.2:4443", "b=10.0.0.3:4443"]), 1, "one node twice");
        assert_eq!(problems(|c| c.cluster.node = "a.b".into()).len(), 1);
        let uplinks = |c: &mut Config| {
            (c.cluster.node, c.cluster.peers) = ("a".into(), vec!["b=10.0.0.2:4443".into()]);
            c.cluster.uplinks = ["u", "u", "a", "b", "U"].map(String::from).into();
        };
        assert_eq!(problems(uplinks).len(), 4);
    }

    #[test]
    fn names_and_origins_are_checked() {
        for name in ["", "a b", "ü", &"n".repeat(65)] {
            assert_eq!(problems(|c| c.node.name = name.into()).len(), 1, "{name}");
        }
        assert_eq!(problems(|c| c.auth.play = vec![Token::new("a b")]).len(), 1);
        let told = problems(|c| c.auth.play = vec![Token::new("s3cr3t!")]);
        assert!(!told[0].contains("s3cr3t"), "a token is not told");
        assert_eq!(problems(|c| c.log.filter = " ".into()).len(), 1);
        let origins = |origins: &[&str]| {
            problems(|c| c.http.cors_origins = origins.iter().map(|o| o.to_string()).collect()).len()
        };
        assert_eq!(origins(&["https://example.com", "http://localhost:3000", "*"]), 0);
        assert_eq!(origins(&[]), 0);
        assert_eq!(origins(&["example.com", "https://example.com/", "https://"]), 3);
    }
}
