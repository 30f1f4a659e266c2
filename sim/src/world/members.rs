//! Who is in the world, and how they come into it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use link::{Config, Link, Random};
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Identity, Role};
use rtc::ice::Credentials;
use rtc::sdp::{Negotiated, NegotiatedMedia};
use rtc::session::{CONNECT_TIMEOUT_MS, SessionConfig};
use sfu::{Command, PeerConfig, PeerId, PeerRole, PeerStats, SourceId, StreamId};

use super::{Happening, PEERS_NET, World};
use crate::offer::{self, Features};
use crate::oracle::{Facts, Oracle};
use crate::peer::{Model, Peer, Seed};
use crate::publisher::Publisher;
use crate::receiver::Receiver;
use crate::source::Source;
use crate::video::Settings;

static IDENTITIES: LazyLock<[Arc<Identity>; 2]> =
    LazyLock::new(|| std::array::from_fn(|_| Identity::generate().expect("a certificate")));
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One way, while a client connects; its path is made bad afterwards.
const CONNECT_DELAY_US: i64 = 2_000;
/// Time that a connection may take.
const CONNECT_US: i64 = 5_000_000;

impl World {
    /// A WebRTC publisher of `stream`, at home on shard 0; captures once it is connected.
    pub fn publisher(&mut self, stream: u64, features: Features, settings: Settings) -> usize {
        self.simulcast(stream, features, &[settings])
    }

    /// The same with several encodings.
    pub fn simulcast(&mut self, stream: u64, features: Features, settings: &[Settings]) -> usize {
        let source = SourceId(self.peers.len() as u64 + self.sources.len() as u64 + 1);
        let stream = StreamId(stream);
        let medias = offer::simulcast(features, settings.len());
        let peer = self.add(0, features, medias, |_| PeerRole::Publish { stream, source });
        self.connect(&[peer]);
        let model = Publisher::new(peer as u32, features, settings, self.random.draw(), self.now);
        self.peers[peer].model = Model::Publisher(Box::new(model));
        self.wake(peer, self.now);
        peer
    }

    /// An RTMP-like publisher of `stream`, at home on shard 0.
    pub fn source(&mut self, stream: u64, settings: Settings) -> usize {
        let index = self.sources.len();
        let fence = SourceId(self.peers.len() as u64 + index as u64 + 1);
        let id = 1_000 + index as u32;
        let seed = self.random.draw();
        self.sources.push(Source::new(id, StreamId(stream), fence, settings, seed, self.now));
        self.put(self.now, Happening::Source(index));
        index
    }

    /// A viewer of `stream` on a shard, connected.
    pub fn viewer(&mut self, stream: u64, shard: usize, features: Features) -> usize {
        let peer = self.joining(stream, shard, features);
        self.connect(&[peer]);
        peer
    }

    /// A viewer whose first check leaves now.
    pub fn joining(&mut self, stream: u64, shard: usize, features: Features) -> usize {
        let stream = StreamId(stream);
        let peer = self.add(shard, features, offer::medias(features), |facts| PeerRole::Subscribe {
            stream,
            audio_ssrc: facts.audio_ssrc,
            video_ssrc: facts.video_ssrc,
            video_rtx_ssrc: facts.rtx_ssrc,
        });
        let facts = self.peers[peer].oracle.facts;
        let receiver = Receiver::new(features, facts.audio_ssrc, facts.video_ssrc, facts.rtx_ssrc, self.now);
        self.peers[peer].model = Model::Receiver(Box::new(receiver));
        peer
    }

    fn add(
        &mut self,
        shard: usize,
        features: Features,
        medias: Vec<NegotiatedMedia>,
        role: impl FnOnce(&Facts) -> PeerRole,
    ) -> usize {
        let index = self.peers.len();
        let n = index as u32 + 1;
        let mut entropy = Random(0xc0ffee ^ u64::from(n));
        let mut credentials = || Credentials::from_entropy(&std::array::from_fn(|_| entropy.draw() as u8));
        let (local, remote) = (credentials(), credentials());
        let facts = Facts {
            audio_ssrc: n * 1_000 + 1,
            video_ssrc: n * 1_000 + 2,
            rtx_ssrc: n * 1_000 + 3,
            rtx: features.rtx,
            in_order: true,
            rtt_us: 2 * CONNECT_DELAY_US,
        };
        let seed = self.random.draw();
        let config = PeerConfig {
            id: PeerId(u64::from(n)),
            session: SessionConfig {
                local: local.clone(),
                remote: remote.clone(),
                remote_fingerprint: IDENTITIES[1].fingerprint().clone(),
                identity: IDENTITIES[0].clone(),
                base: *BASE,
                role: Role::Passive,
                connect_timeout_ms: CONNECT_TIMEOUT_MS,
            },
            negotiated: Negotiated {
                ice: rtc::sdp::Credentials { ufrag: remote.ufrag.clone(), pwd: remote.pwd.clone() },
                fingerprints: Vec::new(),
                medias,
                rejected: Vec::new(),
            },
            role: role(&facts),
            home: 0,
            stats: Arc::new(PeerStats::default()),
            seed,
        };
        let stats = config.stats.clone();
        let client = ClientConfig {
            local: remote,
            remote: local,
            remote_fingerprint: IDENTITIES[0].fingerprint().clone(),
            identity: IDENTITIES[1].clone(),
            base: *BASE,
            role: Role::Active,
            controlling: true,
            server: self.nodes[shard].address,
            seed: self.random.draw(),
        };
        let clean = Config { delay_us: CONNECT_DELAY_US, ..Config::default() };
        let mut link = || Link::new(clean, self.random.draw());
        let (up, down) = (link(), link());
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(PEERS_NET | n)), 6_000);
        let client = Client::new(client, self.now);
        self.peers.push(Peer::new(Seed {
            shard,
            address,
            client,
            up,
            down,
            stats,
            oracle: Oracle::new(facts),
        }));
        let node = &mut self.nodes[shard];
        node.shard.handle_command(Command::AddPeer(Box::new(config)), self.now, &mut node.out);
        self.settle(shard);
        self.wake(index, self.now);
        index
    }

    /// Runs until all are connected.
    pub fn connect(&mut self, peers: &[usize]) {
        let end = self.now.plus_us(CONNECT_US);
        while !peers.iter().all(|peer| self.peers[*peer].client.is_connected()) {
            assert!(self.now < end, "seed {}: peers {peers:?} do not connect", self.seed);
            self.run_us(1_000);
        }
    }
}
