//! The settings: one TOML file, parsed once into one struct, with the defaults in one place (below).
//!
//! Every key can be overridden by an environment variable `MILLRACE_SECTION__KEY`. What is not known is refused,
//! with its line. `docs/CONFIG.md` and `millrace.example.toml` list every key; tests keep them complete.

mod auth;
mod check;
mod duration;
mod error;
mod load;
mod rules;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use media::NodeId;
use serde::{Deserialize, Serialize};

pub use auth::{Auth, Token};
pub use error::{ConfigError, Place, Problem};

/// All settings. `Config::default()` is a node that binds loopback only and is open.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[node]`: the process as a whole.
    pub node: Node,
    /// `[rtmp]`: the RTMP listener.
    pub rtmp: Rtmp,
    /// `[http]`: WHIP, WHEP, HTTP-FLV, pages and API.
    pub http: Http,
    /// `[webrtc]`: the media plane.
    pub webrtc: WebRtc,
    /// `[stream]`: publishers, the GOP cache and slow viewers.
    pub stream: Stream,
    /// `[audio]`: conversion of audio.
    pub audio: Audio,
    /// `[video]`: conversion of video.
    pub video: Video,
    /// `[cluster]`: the relay between nodes.
    pub cluster: Cluster,
    /// `[auth]`: who may publish and play.
    pub auth: Auth,
    /// `[ops]`: metrics and health.
    pub ops: Ops,
    /// `[log]`: the log.
    pub log: Log,
}

/// `[node]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// What the node calls itself in logs and the API.
    pub name: String,
    /// Threads of the media plane, each with a UDP port; 0: one a core.
    pub shards: usize,
    /// How long SIGTERM waits for viewers to leave.
    #[serde(with = "duration")]
    pub drain_deadline: Duration,
    /// Addresses offered to WebRTC peers as ICE candidates; empty: `webrtc.listen_ip`, or that of the default route.
    pub public_ips: Vec<IpAddr>,
    /// Serve public addresses although nobody must authenticate.
    pub allow_open: bool,
}

/// `[rtmp]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmp {
    /// Whether RTMP is served at all.
    pub enabled: bool,
    /// Where it listens (TCP).
    pub listen: SocketAddr,
    /// Connections at once; more are refused.
    pub connections_max: usize,
}

/// `[http]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens (TCP).
    pub listen: SocketAddr,
    /// Web origins whose pages may call this node; `*`: all.
    pub cors_origins: Vec<String>,
    /// The longest request body.
    pub request_body_bytes_max: usize,
}

/// `[webrtc]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebRtc {
    /// The address the UDP ports are bound to.
    pub listen_ip: IpAddr,
    /// Shard `i` listens on UDP port `base_port + i`; 0: ports the system chooses.
    pub base_port: u16,
    /// Answer a publisher that offers H.264 with H.264 first.
    pub prefer_h264: bool,
    /// Spread frames, estimate each viewer's bandwidth and keep within it.
    pub pacer: bool,
    /// A session whose ICE and DTLS are not through by then is ended.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Sessions at once; more are refused.
    pub sessions_max: usize,
    /// STUN and TURN servers that clients are told of, in `Link` headers (RFC 9725 section 4.6): `stun:HOST[:PORT]`.
    pub ice_servers: Vec<String>,
}

/// `[stream]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// How long viewers of a stream wait for its publisher to come back.
    #[serde(with = "duration")]
    pub publisher_grace: Duration,
    /// A second publisher of a live name takes it over, rather than being refused.
    pub replace_publisher: bool,
    /// What a stream keeps for new viewers, in bytes.
    pub gop_bytes_max: usize,
    /// What a stream keeps for new viewers, in time.
    #[serde(with = "duration")]
    pub gop_duration_max: Duration,
    /// A viewer further behind than this is moved to the next key frame.
    #[serde(with = "duration")]
    pub viewer_lag_max: Duration,
    /// A viewer with more unsent bytes than this is moved to the next key frame.
    pub viewer_queue_bytes_max: usize,
    /// Frames are gathered for so long and written to RTMP and FLV viewers together; 0: each picture at once.
    #[serde(with = "duration")]
    pub merge_write: Duration,
}

/// `[audio]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audio {
    /// Bitrate of Opus made from AAC.
    pub opus_kbps: u32,
    /// Bitrate of AAC made from Opus.
    pub aac_kbps: u32,
}

/// `[video]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Video {
    /// What becomes of B-frames towards WebRTC, whose players do not reorder.
    pub b_frames: BFrames,
}

/// B-frames towards WebRTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BFrames {
    /// B-frames that nothing refers to are left out.
    Drop,
    /// WebRTC play of a stream with B-frames is refused.
    Refuse,
    /// They are sent as they are; most players stutter.
    Pass,
}

/// `[cluster]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// The node's id, which its certificate names; empty: no cluster.
    pub node: String,
    /// Where the relay listens (UDP).
    pub listen: SocketAddr,
    /// The other nodes, as `ID=ADDRESS:PORT`.
    pub peers: Vec<String>,
    /// How nodes find each other, and who has which stream.
    pub directory: DirectoryKind,
    /// NATS servers, as `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub nats: Vec<String>,
    /// A credentials file for them; empty: none.
    pub nats_creds: String,
    /// Servers that keep each record, where this node is the first to come.
    pub nats_replicas: usize,
    /// Where the node stands, for people.
    pub region: String,
    /// Where other nodes reach the relay, as `ADDRESS:PORT`; empty: `listen`.
    pub advertise: String,
    /// A second node holds what is watched here and comes from elsewhere.
    pub standby: bool,
    /// Ids of uplinks, whose certificates may dial in and ask for rights.
    pub uplinks: Vec<String>,
    /// This process is an uplink: it dials its one peer and asks it who may do what. Not a setting: `millrace uplink` is one.
    #[serde(skip)]
    pub is_uplink: bool,
    /// The cluster's authority (PEM).
    pub ca: String,
    /// The node's certificate (PEM).
    pub cert: String,
    /// Its key (PEM).
    pub key: String,
}

/// How nodes find each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryKind {
    /// By `peers`; who publishes a stream last has it.
    Static,
    /// In NATS, beside `peers`.
    Nats,
}

impl Cluster {
    /// Where other nodes reach the relay.
    pub fn advertised(&self) -> SocketAddr {
        self.advertise.parse().unwrap_or(self.listen)
    }

    /// Whether that is the id of an uplink.
    pub fn has_uplink(&self, id: &NodeId) -> bool {
        self.uplinks.iter().any(|uplink| uplink == id.as_str())
    }

    /// The other nodes; `None` for what is no `ID=ADDRESS:PORT`.
    pub fn peers(&self) -> impl Iterator<Item = Option<(NodeId, SocketAddr)>> {
        self.peers.iter().map(|peer| {
            let (id, at) = peer.split_once('=')?;
            Some((NodeId::new(id)?, at.parse().ok()?))
        })
    }
}

/// `[ops]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// Where `/metrics`, `/livez` and `/readyz` listen (TCP). Nobody is asked for a token there.
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Level, or `tracing` directives.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

// The defaults, in one place.

impl Default for Node {
    fn default() -> Node {
        Node {
            name: "millrace".into(),
            shards: 0,
            drain_deadline: Duration::from_secs(10),
            public_ips: Vec::new(),
            allow_open: false,
        }
    }
}

impl Default for Rtmp {
    fn default() -> Rtmp {
        // One that has not authenticated costs at most 256 KiB: 1 GiB if all are such.
        Rtmp { enabled: true, listen: loopback(1935), connections_max: 4096 }
    }
}

impl Default for Http {
    fn default() -> Http {
        // `*`: WHIP and WHEP are made to be called from other people's pages. 128 KiB: the largest SDP taken.
        Http { listen: loopback(8080), cors_origins: vec!["*".into()], request_body_bytes_max: 128 << 10 }
    }
}

impl Default for WebRtc {
    fn default() -> WebRtc {
        WebRtc {
            listen_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            base_port: 8000,
            prefer_h264: true,
            pacer: true,
            // Browsers repeat their checks every 5 s at most and give up after 30 s (RFC 7675 section 5.1).
            connect_timeout: Duration::from_secs(10),
            sessions_max: 10_000,
            ice_servers: Vec::new(),
        }
    }
}

impl Default for Stream {
    fn default() -> Stream {
        Stream {
            publisher_grace: Duration::from_secs(30),
            replace_publisher: false,
            // 10 s of 12 Mbit/s; OBS makes a key frame every 8.3 s unless told otherwise.
            gop_bytes_max: 16 << 20,
            gop_duration_max: Duration::from_secs(10),
            viewer_lag_max: Duration::from_secs(3),
            // 3 s of 20 Mbit/s.
            viewer_queue_bytes_max: 8 << 20,
            // A picture a write costs what SRS does with 350 ms of them; latency comes first.
            merge_write: Duration::ZERO,
        }
    }
}

impl Default for Audio {
    fn default() -> Audio {
        Audio { opus_kbps: 96, aac_kbps: 128 }
    }
}

impl Default for Video {
    fn default() -> Video {
        Video { b_frames: BFrames::Drop }
    }
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            node: String::new(),
            listen: loopback(4443),
            peers: Vec::new(),
            directory: DirectoryKind::Static,
            nats: Vec::new(),
            nats_creds: String::new(),
            nats_replicas: 1,
            region: String::new(),
            advertise: String::new(),
            standby: true,
            uplinks: Vec::new(),
            is_uplink: false,
            ca: "ca.pem".into(),
            cert: "node.pem".into(),
            key: "node.key".into(),
        }
    }
}

impl Default for Ops {
    fn default() -> Ops {
        Ops { listen: loopback(9464) }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info".into(), format: LogFormat::Auto }
    }
}
