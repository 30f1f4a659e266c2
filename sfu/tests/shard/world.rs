//! The world: shards, clients, wires and the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use media::{Codec, Kind, Time};
use metrics::{DropReason, ShardMetrics};
use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Identity, Role};
use rtc::ice::Credentials;
use rtc::rtcp;
use rtc::rtcp::twcc::TwccRecorder;
use rtc::sdp::{Negotiated, NegotiatedMedia};
use rtc::session::{CONNECT_TIMEOUT_MS, Input, SessionConfig};
use rtc::srtp::TAG_LEN_MAX;
use sfu::{
    Command, Egress, Event, Mail, PeerConfig, PeerId, PeerRole, PeerStats, Shard, ShardConfig, SourceId,
    StreamId, TrackKey,
};

use crate::camera::{Rtp, negotiated};
pub use crate::wire::{Header, Link, Random};

static IDENTITIES: LazyLock<[Arc<Identity>; 2]> =
    LazyLock::new(|| std::array::from_fn(|_| Identity::generate().unwrap()));
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds of the Unix epoch at `Time::ZERO`.
pub const UNIX_US: i64 = 1_700_000_000_000_000;
pub const STREAM: StreamId = StreamId(1);
pub const VIDEO: TrackKey = TrackKey::new(STREAM, Kind::Video);
pub const AUDIO: TrackKey = TrackKey::new(STREAM, Kind::Audio);

/// Collects what a shard sends.
#[derive(Default)]
pub struct Out {
    buffer: Vec<u8>,
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Egress for Out {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.buffer.resize(len, 0);
        Some(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.sent.push((to, self.buffer[..len].to_vec()));
    }
}

/// A media packet that reached a client.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: Time,
    pub header: Header,
    pub payload: Vec<u8>,
    /// As it was on the wire.
    pub sealed: Vec<u8>,
    /// Its transport-wide number, where that was negotiated.
    pub number: Option<u16>,
    /// Its dependency descriptor, where that was negotiated.
    pub descriptor: Option<Vec<u8>>,
}

/// An RTCP message that reached a client, in an owned form.
#[derive(Clone, PartialEq, Debug)]
pub enum Rtcp {
    Nack { ssrc: u32, seqs: Vec<u16> },
    Pli { ssrc: u32 },
    SenderReport { ssrc: u32, ntp: u64, rtp: u32, packets: u32 },
    Report { about: u32, fraction_lost: u8, cumulative_lost: i32, highest: u32 },
    ReferenceTime { from: u32, ntp: u64 },
    DelaySinceReference { about: u32, last: u32, delay: u32 },
    Remb { bps: u64 },
}

/// A client and what it got.
pub struct Peer {
    pub id: PeerId,
    pub shard: usize,
    pub address: SocketAddr,
    pub client: Client,
    pub up: Link,
    pub down: Link,
    pub got: Vec<Got>,
    pub rtcp: Vec<(Time, Rtcp)>,
    /// When reports came that say nothing.
    pub empty_reports: Vec<Time>,
    pub stats: Arc<PeerStats>,
    pub ufrag: String,
    pub pwd: String,
    /// Neither sends nor hears.
    pub silent: bool,
    /// It answers no STUN request.
    pub deaf_to_checks: bool,
    pub audio_ssrc: u32,
    pub video_ssrc: u32,
    pub rtx_ssrc: u32,
    /// What it sent, protected, newest last.
    pub sent: Vec<Vec<u8>>,
    /// Feedback on transport-wide numbers, and the id they come under.
    pub feedback: Option<(u8, TwccRecorder)>,
    /// The id of dependency descriptors.
    pub descriptor_id: Option<u8>,
    /// The id of times of sending.
    pub send_time_id: Option<u8>,
}

impl Peer {
    pub fn of_ssrc(&self, ssrc: u32) -> Vec<&Got> {
        self.got.iter().filter(|g| g.header.ssrc == ssrc).collect()
    }

    pub fn video(&self) -> Vec<&Got> {
        self.of_ssrc(self.video_ssrc)
    }

    pub fn count(&self, f: impl Fn(&Rtcp) -> bool) -> usize {
        self.rtcp.iter().filter(|(_, r)| f(r)).count()
    }

    pub fn plis(&self) -> usize {
        self.count(|r| matches!(r, Rtcp::Pli { .. }))
    }
}

/// One shard and where it is.
pub struct Node {
    pub shard: Shard,
    pub metrics: Arc<ShardMetrics>,
    pub address: SocketAddr,
    pub events: Vec<Event>,
    pub out: Out,
    /// How often one of its sessions was looked after because that was due.
    pub looked_after: usize,
}

/// What a new session is.
#[derive(Clone)]
pub struct Wish {
    pub shard: usize,
    pub medias: Vec<NegotiatedMedia>,
}

impl Wish {
    /// VP8, H.264 and Opus, with RTX.
    pub fn on(shard: usize) -> Wish {
        Wish { shard, medias: negotiated(&[Codec::Vp8, Codec::H264], true) }
    }

    /// The same for publishers that are told what fits, with times of sending or without.
    pub fn told(shard: usize, times: bool) -> Wish {
        let mut wish = Wish::on(shard);
        (wish.medias[1].remb, wish.medias[1].abs_send_time_ext_id) = (true, times.then_some(4));
        wish
    }

    /// The same with transport-wide numbers, whose feedback it sends.
    pub fn numbered(shard: usize) -> Wish {
        let mut wish = Wish::on(shard);
        wish.medias.iter_mut().for_each(|m| m.twcc_ext_id = Some(5));
        wish.medias[0].codecs[0].nack = false;
        wish
    }
}

pub struct World {
    pub now: Time,
    pub nodes: Vec<Node>,
    pub peers: Vec<Peer>,
    /// All mail, in order: from, to, what.
    pub mail: Vec<(usize, usize, Mail)>,
    /// Handshakes wait.
    pub patient: bool,
    /// What arrives in one millisecond is fanned out together, as a batch of the socket is.
    pub batched: bool,
    /// Whose publishers and subscribers are made; [`STREAM`] at first.
    pub stream: StreamId,
    wire: BTreeMap<(Time, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    seed: u64,
}

impl World {
    pub fn new(shards: usize) -> World {
        let node = |id: usize| {
            let metrics = Arc::new(ShardMetrics::default());
            let config = ShardConfig { id, unix_us_at_zero: UNIX_US, seed: 99, pacer: true };
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 5_000 + id as u16);
            let shard = Shard::new(config, metrics.clone());
            Node { shard, metrics, address, events: Vec::new(), out: Out::default(), looked_after: 0 }
        };
        World {
            now: Time::ZERO,
            nodes: (0..shards).map(node).collect(),
            peers: Vec::new(),
            mail: Vec::new(),
            patient: false,
            batched: false,
            stream: STREAM,
            wire: BTreeMap::new(),
            sent: 0,
            seed: 1,
        }
    }

    /// A publisher of [`STREAM`], at home on its shard.
    pub fn publisher(&mut self, wish: Wish, source: u64) -> usize {
        let (home, stream) = (wish.shard, self.stream);
        let peer = self.add(wish, home, |_, _, _| PeerRole::Publish { stream, source: SourceId(source) });
        self.connect(peer);
        peer
    }

    /// A subscriber of [`STREAM`], which is at home on shard 0.
    pub fn subscriber(&mut self, wish: Wish) -> usize {
        let peer = self.add_subscriber(wish);
        self.connect(peer);
        peer
    }

    /// A subscriber that has only been announced.
    pub fn add_subscriber(&mut self, wish: Wish) -> usize {
        let stream = self.stream;
        self.add(wish, 0, |audio_ssrc, video_ssrc, video_rtx_ssrc| PeerRole::Subscribe {
            stream,
            audio_ssrc,
            video_ssrc,
            video_rtx_ssrc,
        })
    }

    fn add(&mut self, wish: Wish, home: usize, role: impl FnOnce(u32, u32, u32) -> PeerRole) -> usize {
        let index = self.peers.len();
        let n = index as u8 + 1;
        let id = PeerId(u64::from(n));
        let credentials = |salt: u8| {
            Credentials::from_entropy(&std::array::from_fn(|i| {
                salt.wrapping_mul(41).wrapping_add(i as u8 * 5) ^ n
            }))
        };
        let (local, remote) = (credentials(7), credentials(200));
        let (ufrag, pwd) = (local.ufrag.clone(), local.pwd.clone());
        let stats = Arc::new(PeerStats::default());
        let ssrc = u32::from(n) * 1_000;
        let twcc = wish.medias.iter().find_map(|m| m.twcc_ext_id);
        let send_time_id = wish.medias.iter().find_map(|m| m.abs_send_time_ext_id);
        let descriptor_id = wish.medias.iter().find_map(|m| m.dependency_ext_id);
        let config = PeerConfig {
            id,
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
                medias: wish.medias,
                rejected: Vec::new(),
            },
            role: role(ssrc + 1, ssrc + 2, ssrc + 3),
            home,
            stats: stats.clone(),
            seed: self.seed.wrapping_mul(0x1234_5678_9abc_def1).wrapping_add(u64::from(n)),
        };
        let client = ClientConfig {
            local: remote,
            remote: local,
            remote_fingerprint: IDENTITIES[0].fingerprint().clone(),
            identity: IDENTITIES[1].clone(),
            base: *BASE,
            role: Role::Active,
            controlling: true,
            server: self.nodes[wish.shard].address,
            seed: u64::from(n),
        };
        self.peers.push(Peer {
            id,
            shard: wish.shard,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)), 6_000),
            client: Client::new(client, self.now),
            up: Link::new(self.seed * 100 + u64::from(n)),
            down: Link::new(self.seed * 200 + u64::from(n)),
            got: Vec::new(),
            rtcp: Vec::new(),
            empty_reports: Vec::new(),
            stats,
            ufrag,
            pwd,
            silent: false,
            deaf_to_checks: false,
            audio_ssrc: ssrc + 1,
            video_ssrc: ssrc + 2,
            rtx_ssrc: ssrc + 3,
            sent: Vec::new(),
            feedback: twcc.map(|id| (id, TwccRecorder::new())),
            descriptor_id,
            send_time_id,
        });
        self.command(wish.shard, Command::AddPeer(Box::new(config)));
        index
    }

    /// Draws losses and first numbers of what follows.
    pub fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn connect(&mut self, peer: usize) {
        for _ in 0..1_000 {
            if self.peers[peer].client.is_connected() && self.is_known_connected(peer) {
                return;
            }
            self.run(1);
        }
        panic!("peer {peer} does not connect");
    }

    fn is_known_connected(&self, peer: usize) -> bool {
        let Peer { id, shard, .. } = &self.peers[peer];
        self.nodes[*shard].events.iter().any(|e| matches!(e, Event::Connected(connected) if connected == id))
    }

    pub fn command(&mut self, shard: usize, command: Command) {
        let node = &mut self.nodes[shard];
        node.shard.handle_command(command, self.now, &mut node.out);
        self.settle(shard);
    }

    pub fn mail(&mut self, shard: usize, mail: Mail) {
        self.nodes[shard].shard.handle_mail(mail, self.now);
        self.settle(shard);
    }

    /// A datagram reaches a shard; gives what the shard sent at once.
    pub fn datagram(&mut self, shard: usize, datagram: &[u8], from: SocketAddr) -> usize {
        let node = &mut self.nodes[shard];
        let mut bytes = datagram.to_vec();
        node.shard.handle_datagram(&mut bytes, from, self.now, &mut node.out);
        while !self.patient && node.shard.handle_handshake(self.now, &mut node.out) {}
        let answers = node.out.sent.len();
        if !self.batched {
            self.settle(shard);
        }
        answers
    }

    /// The control plane's part of an ICE restart, and the client's when it has the answer: new credentials of both.
    pub fn restart_ice(&mut self, peer: usize) {
        let fresh = |salt: u8| {
            Credentials::from_entropy(&std::array::from_fn(|i| {
                salt ^ peer as u8 ^ (i as u8).wrapping_mul(29)
            }))
        };
        let (local, remote) = (fresh(91), fresh(92));
        let Peer { id, shard, .. } = self.peers[peer];
        let order = Command::RestartIce { peer: id, local: local.clone(), remote: remote.clone() };
        self.command(shard, order);
        let (p, now) = (&mut self.peers[peer], self.now);
        (p.ufrag, p.pwd) = (local.ufrag.clone(), local.pwd.clone());
        p.client.restart_ice(remote, local, now);
    }

    /// Lets `ms` pass, a millisecond at a time.
    pub fn run(&mut self, ms: i64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (from, to, datagram) = entry.remove();
                self.deliver(from, to, datagram);
            }
            for peer in 0..self.peers.len() {
                let mut up = Vec::new();
                let p = &mut self.peers[peer];
                if !p.silent && self.now >= p.client.next_timeout() {
                    p.client.handle_timeout(self.now, &mut |_, bytes| up.push(bytes.to_vec()));
                }
                if let Some((_, recorder)) = p.feedback.as_mut().filter(|_| !p.silent) {
                    let mut compound = Vec::new();
                    while recorder.deadline().is_some_and(|due| due <= self.now)
                        && recorder.build(self.now, 1, p.video_ssrc, &mut compound)
                    {
                        p.client.send_rtcp(&compound, &mut |_, bytes| up.push(bytes.to_vec())).unwrap();
                        compound.clear();
                    }
                }
                self.send_up(peer, up);
            }
            for shard in 0..self.nodes.len() {
                let node = &mut self.nodes[shard];
                while node.shard.handle_timeout(self.now, &mut node.out) {
                    node.looked_after += 1;
                }
                while !self.patient && node.shard.handle_handshake(self.now, &mut node.out) {}
                self.settle(shard);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut datagram: Vec<u8>) {
        if let Some(shard) = self.nodes.iter().position(|n| n.address == to) {
            self.datagram(shard, &datagram, from);
            return;
        }
        let Some(peer) = self.peers.iter().position(|p| p.address == to) else { return };
        let p = &mut self.peers[peer];
        if p.silent || (p.deaf_to_checks && datagram.starts_with(&[0, 1])) {
            return;
        }
        let (sealed, now) = (datagram.clone(), self.now);
        let mut up = Vec::new();
        match p.client.handle_datagram(&mut datagram, now, &mut |_, bytes| up.push(bytes.to_vec())) {
            Ok(Input::Rtp(packet)) => {
                let header = Header::of(packet).expect("a shard sends well-formed RTP");
                let parsed = rtc::rtp::Header::parse(packet).unwrap();
                let payload = parsed.payload(packet).to_vec();
                let number = p.feedback.as_mut().and_then(|(id, recorder)| {
                    let number = u16::from_be_bytes(parsed.extension(*id)?.try_into().ok()?);
                    recorder.on_packet(number, now);
                    Some(number)
                });
                let descriptor = p.descriptor_id.and_then(|id| parsed.extension(id)).map(<[u8]>::to_vec);
                p.got.push(Got { at: now, header, payload, sealed, number, descriptor });
            }
            Ok(Input::Rtcp(compound)) => {
                let before = p.rtcp.len();
                rtcp::parse(&compound, |event| p.rtcp.extend(owned(event).map(|e| (now, e))))
                    .expect("a shard sends well-formed RTCP");
                if p.rtcp.len() == before {
                    p.empty_reports.push(now);
                }
            }
            Ok(_) => {}
            // What was on its way to who had this address before.
            Err(_) if !p.client.is_connected() => {}
            // Plain retransmissions and the network's duplicates.
            Err(DropReason::SrtpReplayed) => {
                if let Some(header) = Header::of(&sealed) {
                    // RFC 3711 9.1: with other bytes it would be a nonce used twice.
                    let before = p
                        .got
                        .iter()
                        .rev()
                        .find(|got| (got.header.ssrc, got.header.seq) == (header.ssrc, header.seq));
                    assert!(
                        before.is_none_or(|got| got.sealed == sealed),
                        "{header:?} twice, with other bytes"
                    );
                    p.got.push(Got {
                        at: now,
                        header,
                        payload: Vec::new(),
                        sealed,
                        number: None,
                        descriptor: None,
                    });
                }
            }
            Err(why) => panic!("client {peer} cannot read what its shard sends: {why:?}"),
        }
        self.send_up(peer, up);
    }

    fn send_up(&mut self, peer: usize, datagrams: Vec<Vec<u8>>) {
        let p = &mut self.peers[peer];
        let (from, to) = (p.address, self.nodes[p.shard].address);
        for datagram in datagrams {
            for at in p.up.carry(&datagram, self.now) {
                self.sent += 1;
                self.wire.insert((at, self.sent), (from, to, datagram.clone()));
            }
            p.sent.push(datagram);
        }
    }

    /// Fans out, and carries datagrams to the wire, mail to the other shards and events to the test, until nothing is left.
    fn settle(&mut self, shard: usize) {
        let now = self.now;
        let node = &mut self.nodes[shard];
        node.shard.fan_out(now, &mut node.out);
        node.events.extend(node.shard.take_events());
        let address = node.address;
        for (to, datagram) in std::mem::take(&mut node.out.sent) {
            let Some(peer) = self.peers.iter_mut().find(|p| p.address == to) else { continue };
            for at in peer.down.carry(&datagram, now) {
                self.sent += 1;
                self.wire.insert((at, self.sent), (address, to, datagram.clone()));
            }
        }
        let mail: Vec<_> = node.shard.take_mail().collect();
        for (to, mail) in mail {
            self.mail.push((shard, to, mail.clone()));
            self.mail(to, mail);
        }
    }

    /// A client sends RTP.
    pub fn send(&mut self, peer: usize, packets: impl IntoIterator<Item = Rtp>) {
        let sealed = packets.into_iter().map(|packet| self.seal(peer, &packet)).collect();
        self.send_up(peer, sealed);
    }

    /// An RTP packet as the client would send it.
    pub fn seal(&mut self, peer: usize, packet: &Rtp) -> Vec<u8> {
        let descriptor = packet.descriptor.as_ref().map(|(id, value)| (*id, value.as_slice()));
        let rid = packet.rid.map(|(id, rid)| (id, rid.as_bytes()));
        let ticks = ((self.now.us() << 18) / 1_000_000) as u32;
        let [_, ticks @ ..] = ticks.to_be_bytes();
        let sent = self.peers[peer].send_time_id.map(|id| (id, &ticks[..]));
        let extensions: Vec<(u8, &[u8])> = rid.into_iter().chain(descriptor).chain(sent).collect();
        let mut buffer = vec![0; 12 + 64 + packet.payload.len() + TAG_LEN_MAX];
        let header_len = rtc::rtp::write_header(
            &mut buffer,
            &rtc::rtp::Fields {
                marker: packet.marker,
                payload_type: packet.payload_type,
                sequence_number: packet.seq as u16,
                timestamp: packet.timestamp,
                ssrc: packet.ssrc,
                extensions: &extensions,
            },
        );
        buffer[header_len..header_len + packet.payload.len()].copy_from_slice(&packet.payload);
        let (len, roc) = (header_len + packet.payload.len(), (packet.seq >> 16) as u32);
        let len = self.peers[peer].client.protect_rtp(&mut buffer, len, header_len, roc).unwrap();
        buffer.truncate(len);
        buffer
    }

    /// A client sends RTCP.
    pub fn rtcp(&mut self, peer: usize, compound: &[u8]) {
        let mut up = Vec::new();
        self.peers[peer].client.send_rtcp(compound, &mut |_, bytes| up.push(bytes.to_vec())).unwrap();
        self.send_up(peer, up);
    }

    /// A client asks its shard for numbers of its video again.
    pub fn nack(&mut self, peer: usize, seqs: &[u16]) {
        let mut compound = Vec::new();
        rtcp::nack(&mut compound, 1, self.peers[peer].video_ssrc, seqs);
        self.rtcp(peer, &compound);
    }

    /// A client asks its shard for a key frame.
    pub fn pli(&mut self, peer: usize) {
        let mut compound = Vec::new();
        rtcp::pli(&mut compound, 1, self.peers[peer].video_ssrc);
        self.rtcp(peer, &compound);
    }

    /// A client's report on its video: what gives the shard a round trip.
    pub fn report(&mut self, peer: usize) {
        let p = &self.peers[peer];
        let ssrc = p.video_ssrc;
        let last = p.rtcp.iter().rev().find_map(|(at, r)| match r {
            Rtcp::SenderReport { ssrc: of, ntp, .. } if *of == ssrc => Some((*at, *ntp)),
            _ => None,
        });
        let (at, ntp) = last.expect("a sender report came");
        let block = rtcp::ReportBlock {
            ssrc,
            lsr: rtcp::ntp_middle(ntp),
            dlsr: (self.now.since(at) * 65_536 / 1_000_000) as u32,
            ..rtcp::ReportBlock::default()
        };
        let mut compound = Vec::new();
        rtcp::receiver_report(&mut compound, 1, &[block], "");
        self.rtcp(peer, &compound);
    }

    pub fn drops(&self, shard: usize, reason: DropReason) -> u64 {
        self.nodes[shard].metrics.drops(reason)
    }
}

fn owned(event: rtcp::Event<'_>) -> Option<Rtcp> {
    Some(match event {
        rtcp::Event::Nack { ssrc, seqs } => Rtcp::Nack { ssrc, seqs: seqs.to_vec() },
        rtcp::Event::Pli { ssrc } => Rtcp::Pli { ssrc },
        rtcp::Event::SenderReport { ssrc, ntp, rtp, packets, .. } => {
            Rtcp::SenderReport { ssrc, ntp, rtp, packets }
        }
        rtcp::Event::Report { about_ssrc, fraction_lost, cumulative_lost, highest_seq, .. } => {
            Rtcp::Report { about: about_ssrc, fraction_lost, cumulative_lost, highest: highest_seq }
        }
        rtcp::Event::ReferenceTime { from_ssrc, ntp } => Rtcp::ReferenceTime { from: from_ssrc, ntp },
        rtcp::Event::DelaySinceReference { about_ssrc, last, delay } => {
            Rtcp::DelaySinceReference { about: about_ssrc, last, delay }
        }
        rtcp::Event::Remb { bitrate_bps, .. } => Rtcp::Remb { bps: bitrate_bps },
        _ => return None,
    })
}

/// Sequence numbers, unwrapped from the first.
pub fn numbers(packets: &[&Got]) -> Vec<u64> {
    let mut unwrapper = rtc::rtp::Unwrapper::new();
    packets.iter().map(|p| unwrapper.seq(p.header.seq)).collect()
}

/// Time stamps, unwrapped from the first.
pub fn times(packets: &[&Got]) -> Vec<i64> {
    let mut unwrapper = rtc::rtp::Unwrapper::new();
    packets.iter().map(|p| unwrapper.timestamp(p.header.timestamp)).collect()
}

/// Asserts that numbers rise by one.
pub fn assert_contiguous(packets: &[&Got]) {
    let numbers = numbers(packets);
    let at = numbers.windows(2).position(|w| w[1] != w[0] + 1);
    assert!(at.is_none(), "{:?} of {}", at.map(|at| &numbers[at..numbers.len().min(at + 20)]), numbers.len());
}

/// The cases of a property are of a committed seed, so that a failure is of a change. Others, a thousand of them:
/// `PROPTEST_CASES=1000 PROPTEST_RNG_SEED=8 cargo test -p millrace-sfu --test shard switches_under`, without the seed for any.
pub fn cases(cases: u32) -> ProptestConfig {
    let asked = ["PROPTEST_CASES", "PROPTEST_RNG_SEED"].iter().any(|name| std::env::var_os(name).is_some());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases, rng_seed: RngSeed::Fixed(7), ..config } }
}
