//! A shard with one publisher and many subscribers, all truly connected: ICE, DTLS and SRTP are the real ones, only the wire between is
//! memory.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use media::{Codec, Time};
use metrics::{DropReason, ShardMetrics};
use rtc::dtls::{Identity, Role};
use rtc::ice::Credentials;
use rtc::sdp::{self, AnswerParams, ClientOffer, Direction, Negotiated, PlayTracks};
use rtc::session::{Session, SessionConfig};
use rtc::srtp::{Profile, Protect, TAG_LEN_MAX};
use sfu::{
    Command, Egress, Event, Mail, PeerConfig, PeerId, PeerRole, PeerStats, Shard, ShardConfig, ShardId,
    SourceId, StreamId,
};

use crate::floor::thread_cpu_ns;
use crate::peer::{Offerer, Peer};

/// RTP header and payload of each packet in and out.
pub const PACKET_LEN: usize = 1_200;
/// RTP header without extensions.
pub const HEADER_LEN: usize = 12;
/// Each packet out: the same with its transport-wide number.
pub const PACKET_OUT_LEN: usize = PACKET_LEN + 8;
/// A frame each 33 ms, so that rings age as with real media.
const FRAME_US: i64 = 33_333;
const FRAME_TICKS: u32 = 3_000;
/// A key frame each 2 s.
pub const GOP_FRAMES: u32 = 60;
const VIDEO_SSRC: u32 = 0x1111;
const PUBLISHER: ([u8; 4], u16) = ([192, 0, 2, 1], 4_000);

/// One frame's datagrams, sealed by the publisher.
pub struct SealedFrame {
    datagrams: Vec<Vec<u8>>,
    /// When it arrives.
    pub at: Time,
}

/// What one join cost the shard, in nanoseconds of the thread's CPU time.
#[derive(Clone, Copy, Default, Debug)]
pub struct JoinCost {
    /// The order of the control plane.
    pub order: u64,
    /// The ICE check.
    pub check: u64,
    /// The datagrams of the DTLS handshake.
    pub handshake: u64,
    /// What is due by time, asked for after each of them, as the media plane's loop does.
    pub timers: u64,
    /// The longest of the calls.
    pub longest: u64,
}

impl JoinCost {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.order + self.check + self.handshake + self.timers
    }

    fn timed(&mut self, work: impl FnOnce()) -> u64 {
        let start = thread_cpu_ns();
        work();
        let ns = thread_cpu_ns() - start;
        self.longest = self.longest.max(ns);
        ns
    }
}

/// The shard, and the publisher's state.
pub struct World {
    set_up: SetUp,
    publisher: SocketAddr,
    protect: Protect,
    /// What the last subscriber encrypts and decrypts with, to check what comes out.
    pub last_subscriber: rtc::srtp::Keys,
    now: Time,
    sequence: u64,
    timestamp: u32,
    frames: u32,
}

/// An egress that forgets.
pub struct Nowhere([u8; 2_048]);

impl Default for Nowhere {
    fn default() -> Nowhere {
        Nowhere([0; 2_048])
    }
}

impl Egress for Nowhere {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.get_mut(..len)
    }

    fn commit(&mut self, _: usize, _: SocketAddr) {}
}

/// A shard that mirrors the stream of a [`World`], with subscribers of its own.
pub struct Mirror {
    set_up: SetUp,
}

/// Mail to another shard, and when it was sent.
pub struct Posted {
    mail: Mail,
    at: Time,
}

impl Mirror {
    /// Connects a subscriber at each address; the stream is at home on shard 0.
    ///
    /// # Panics
    /// When one does not connect.
    pub fn connect(profile: Profile, subscribers: &[SocketAddr]) -> Mirror {
        let mut set_up = SetUp::new(1, profile);
        for &address in subscribers {
            set_up.add_subscriber(address, Time::ZERO);
        }
        Mirror { set_up }
    }

    /// What it asks of the stream's home.
    pub fn take_mail(&mut self) -> impl Iterator<Item = Posted> {
        self.set_up.shard.take_mail().map(|(_, mail)| Posted { mail, at: Time::ZERO })
    }

    /// A frame's packets by mail, and out to everybody.
    pub fn forward<E: Egress>(&mut self, posted: Posted, out: &mut E) {
        self.set_up.shard.handle_mail(posted.mail, posted.at);
        self.set_up.shard.fan_out(posted.at, out);
    }
}

/// Keeps what the shard sends while it connects.
#[derive(Default)]
struct Wire {
    reserved: Vec<u8>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Egress for Wire {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved.clear();
        self.reserved.resize(len, 0);
        Some(&mut self.reserved)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.sent.push((to, self.reserved[..len].to_vec()));
    }
}

/// An egress over memory of a send batch's size that forgets what was written: the path without the system call.
pub struct Forgetting {
    /// The memory, for measures that fill it themselves.
    pub arena: Vec<u8>,
    used: usize,
    last_len: usize,
    /// Datagrams so far.
    pub packets: usize,
}

impl Forgetting {
    /// With room for `len` bytes.
    pub fn new(len: usize) -> Forgetting {
        Forgetting { arena: vec![0; len], used: 0, last_len: 0, packets: 0 }
    }

    /// The last datagram.
    pub fn last(&self) -> &[u8] {
        &self.arena[self.used - self.last_len..self.used]
    }
}

impl Egress for Forgetting {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.arena.len() - self.used < len {
            self.used = 0;
        }
        self.arena.get_mut(self.used..self.used + len)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        black_box(to);
        (self.used, self.last_len) = (self.used + len, len);
        self.packets += 1;
    }
}

impl World {
    /// Connects a publisher and one subscriber at each address. All end on `profile`.
    ///
    /// # Panics
    /// When one does not connect.
    pub fn connect(profile: Profile, subscribers: &[SocketAddr]) -> World {
        let mut set_up = SetUp::new(0, profile);
        let stream = StreamId(1);
        let publisher = SocketAddr::from(PUBLISHER);
        let (keys, _) = set_up.add(publisher, PeerRole::Publish { stream, source: SourceId(1) }, Time::ZERO);
        let protect = Protect::new(profile, &keys.client).expect("the profile's keys");
        let mut last_subscriber = keys;
        for &address in subscribers {
            (last_subscriber, _) = set_up.add_subscriber(address, Time::ZERO);
        }
        World {
            set_up,
            publisher,
            protect,
            last_subscriber,
            now: Time::from_ms(1),
            sequence: 1,
            timestamp: 0,
            frames: 0,
        }
    }

    /// One more subscriber, and what it cost.
    ///
    /// # Panics
    /// When it does not connect.
    pub fn join(&mut self, address: SocketAddr) -> JoinCost {
        let (keys, cost) = self.set_up.add_subscriber(address, self.now);
        self.last_subscriber = keys;
        cost
    }

    /// A session beside the shard, connected as a subscriber's is: what of a subscriber is not the shard's.
    ///
    /// # Panics
    /// When it does not connect.
    pub fn session(&mut self, address: SocketAddr) -> Session {
        self.set_up.session(address, self.now)
    }

    /// Packets sent again.
    pub fn resent(&self) -> u64 {
        self.set_up.metrics.retransmissions_out.get()
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The publisher's next frame: `packets` of [`PACKET_LEN`] bytes, H.264 in FU-A.
    pub fn seal(&mut self, packets: usize) -> SealedFrame {
        let key = self.frames.is_multiple_of(GOP_FRAMES);
        let datagrams = (0..packets).map(|i| self.seal_packet(key, i == 0, i + 1 == packets)).collect();
        self.frames += 1;
        self.timestamp = self.timestamp.wrapping_add(FRAME_TICKS);
        self.now = self.now.plus_us(FRAME_US);
        SealedFrame { datagrams, at: self.now }
    }

    fn seal_packet(&mut self, key: bool, first: bool, last: bool) -> Vec<u8> {
        let mut packet = vec![0x5a; PACKET_LEN + TAG_LEN_MAX];
        let payload_type = sdp::client_payload_type(Codec::H264).expect("H.264 has one");
        rtc::rtp::write_header(
            &mut packet,
            &rtc::rtp::Fields {
                marker: last,
                payload_type,
                sequence_number: self.sequence as u16,
                timestamp: self.timestamp,
                ssrc: VIDEO_SSRC,
                extensions: &[],
            },
        );
        // RFC 6184 section 5.8: FU indicator (NRI 3 or 2, type 28), FU header (start, end, type 5 or 1), then the slice's first bits.
        let kind = if key { 5 } else { 1 };
        let (start, end) = (u8::from(first) << 7, u8::from(last) << 6);
        packet[HEADER_LEN..HEADER_LEN + 3].copy_from_slice(&[
            if key { 0x7c } else { 0x5c },
            start | end | kind,
            0x88,
        ]);
        let roc = (self.sequence >> 16) as u32;
        self.sequence += 1;
        let len = self.protect.protect_rtp(&mut packet, PACKET_LEN, HEADER_LEN, roc).expect("it fits");
        packet.truncate(len);
        packet
    }

    /// A frame's datagrams into the shard, and out to everybody.
    pub fn forward<E: Egress>(&mut self, frame: &mut SealedFrame, out: &mut E) {
        self.take(frame, out);
        self.fan_out(frame.at, out);
    }

    /// The first half of [`forward`](World::forward): a frame's datagrams into the ring.
    pub fn take<E: Egress>(&mut self, frame: &mut SealedFrame, out: &mut E) {
        for datagram in &mut frame.datagrams {
            self.set_up.shard.handle_datagram(datagram, self.publisher, frame.at, out);
        }
    }

    /// The second half: what came in since the last call, out to everybody.
    pub fn fan_out<E: Egress>(&mut self, at: Time, out: &mut E) {
        self.set_up.shard.fan_out(at, out);
    }

    /// The check that the last subscriber came with.
    pub fn last_check(&self) -> &[u8] {
        &self.set_up.last_check
    }

    /// A datagram of anybody's, at the time of the last frame.
    pub fn datagram<E: Egress>(&mut self, datagram: &mut [u8], from: SocketAddr, out: &mut E) {
        self.set_up.shard.handle_datagram(datagram, from, self.now, out);
    }

    /// Reports and time-outs that are due, as the media plane's loop calls them.
    pub fn handle_timeout<E: Egress>(&mut self, out: &mut E) {
        while self.set_up.shard.handle_timeout(self.now, out) {}
    }

    /// So many microseconds pass.
    pub fn pass(&mut self, us: i64) {
        self.now = self.now.plus_us(us);
    }

    /// What it has for other shards since the frame of `at`. All may be sealed before the first is forwarded: `now` is then the last one's.
    pub fn take_mail(&mut self, at: Time) -> impl Iterator<Item = Posted> {
        self.set_up.shard.take_mail().map(move |(_, mail)| Posted { mail, at })
    }

    /// What another shard asks.
    pub fn handle_mail(&mut self, posted: Posted) {
        self.set_up.shard.handle_mail(posted.mail, posted.at);
    }

    /// Forgets what the control plane was told.
    pub fn discard_events(&mut self) {
        self.set_up.shard.take_events().for_each(drop);
    }

    /// Packets dropped for whatever reason.
    pub fn drops_all(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// Packets dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.set_up.metrics.drops(reason)
    }
}

struct SetUp {
    shard: Shard,
    metrics: Arc<ShardMetrics>,
    offerer: Offerer,
    identity: Arc<Identity>,
    base: Instant,
    next: u64,
    /// The check that the last peer came with.
    last_check: Vec<u8>,
}

impl SetUp {
    fn new(id: ShardId, profile: Profile) -> SetUp {
        let metrics = Arc::new(ShardMetrics::default());
        let config = ShardConfig { id, unix_us_at_zero: 0, seed: 1, pacer: true };
        SetUp {
            shard: Shard::new(config, Arc::clone(&metrics)),
            metrics,
            offerer: Offerer::new(profile),
            identity: Identity::generate().expect("an identity"),
            base: Instant::now(),
            next: 0,
            last_check: Vec::new(),
        }
    }

    fn add_subscriber(&mut self, address: SocketAddr, now: Time) -> (rtc::srtp::Keys, JoinCost) {
        let ssrc = 0x10_0000 + self.next as u32 * 4;
        let role = PeerRole::Subscribe {
            stream: StreamId(1),
            audio_ssrc: ssrc,
            video_ssrc: ssrc + 1,
            video_rtx_ssrc: ssrc + 2,
        };
        self.add(address, role, now)
    }

    fn session_config(&self, local: &Credentials, remote: &Credentials) -> SessionConfig {
        SessionConfig {
            local: local.clone(),
            remote: remote.clone(),
            remote_fingerprint: self.offerer.fingerprint(),
            identity: Arc::clone(&self.identity),
            base: self.base,
            role: Role::Passive,
            connect_timeout_ms: 10_000,
        }
    }

    fn session(&mut self, address: SocketAddr, now: Time) -> Session {
        let (local, remote) = credentials(self.next);
        self.next += 1;
        let mut session = Session::new(self.session_config(&local, &remote), now);
        let mut peer = Peer::new(&self.offerer, address);
        let mut up = vec![peer.check(&remote, &local)];
        up.extend(peer.start());
        while !up.is_empty() {
            let mut down = Vec::new();
            let mut out = |_, packet: &[u8]| down.push(packet.to_vec());
            for mut datagram in std::mem::take(&mut up) {
                session.handle_datagram(&mut datagram, address, now, &mut out).expect("in order");
            }
            assert_eq!(session.handle_timeout(now, &mut out), None);
            up.extend(down.iter().flat_map(|datagram| peer.receive(datagram)));
        }
        assert!(session.is_connected());
        session
    }

    fn add(&mut self, address: SocketAddr, role: PeerRole, now: Time) -> (rtc::srtp::Keys, JoinCost) {
        let id = self.next;
        self.next += 1;
        let (local, remote) = credentials(id);
        let offer = offer(&remote, &self.offerer, &role);
        let negotiated = answer(&offer, &local, &self.identity, &role, address);
        let session = self.session_config(&local, &remote);
        let config = PeerConfig {
            id: PeerId(id),
            session,
            negotiated,
            role,
            home: 0,
            stats: Arc::new(PeerStats::default()),
            seed: id,
        };
        let (mut wire, mut cost) = (Wire::default(), JoinCost::default());
        let shard = &mut self.shard;
        let add = Command::AddPeer(Box::new(config));
        cost.order = cost.timed(|| shard.handle_command(add, now, &mut wire));
        cost.timers += cost.timed(|| while shard.handle_timeout(now, &mut wire) {});
        let mut peer = Peer::new(&self.offerer, address);
        let check = peer.check(&remote, &local);
        self.last_check.clone_from(&check);
        let mut up = vec![check];
        up.extend(peer.start());
        while !up.is_empty() {
            for mut datagram in std::mem::take(&mut up) {
                let stun = datagram.first().is_some_and(|first| *first < 4);
                let mut ns = cost.timed(|| shard.handle_datagram(&mut datagram, address, now, &mut wire));
                ns += cost.timed(|| while shard.handle_handshake(now, &mut wire) {});
                *if stun { &mut cost.check } else { &mut cost.handshake } += ns;
            }
            cost.timers += cost.timed(|| while shard.handle_timeout(now, &mut wire) {});
            // What is due for the others goes out meanwhile.
            for (_, datagram) in wire.sent.drain(..).filter(|(to, _)| *to == address) {
                up.extend(peer.receive(&datagram));
            }
        }
        let connected =
            self.shard.take_events().any(|event| matches!(event, Event::Connected(who) if who == PeerId(id)));
        assert!(connected, "the shard calls peer {id} connected");
        (peer.keys().expect("the peer has the profile's keys").clone(), cost)
    }
}

/// The node's and the peer's.
fn credentials(id: u64) -> (Credentials, Credentials) {
    let entropy = |salt: u64| {
        let words: [u64; 4] =
            std::array::from_fn(|i| (id * 8 + salt * 4 + i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    };
    (Credentials::from_entropy(&entropy(0)), Credentials::from_entropy(&entropy(1)))
}

/// CPU time to parse and answer one offer, the mean of `n`.
pub fn negotiation_ns(n: usize) -> u64 {
    let entropy = [7; 32];
    let (local, remote) = (Credentials::from_entropy(&entropy), Credentials::from_entropy(&entropy));
    let (offerer, identity) =
        (Offerer::new(Profile::AeadAes256Gcm), Identity::generate().expect("an identity"));
    let role = PeerRole::Subscribe { stream: StreamId(1), audio_ssrc: 1, video_ssrc: 2, video_rtx_ssrc: 3 };
    let address = SocketAddr::from(PUBLISHER);
    let offer = offer(&remote, &offerer, &role);
    let start = thread_cpu_ns();
    for _ in 0..n {
        black_box(answer(&offer, &local, &identity, &role, address));
    }
    (thread_cpu_ns() - start) / n.max(1) as u64
}

fn offer(remote: &Credentials, offerer: &Offerer, role: &PeerRole) -> String {
    let direction = match role {
        PeerRole::Publish { .. } => Direction::SendOnly,
        PeerRole::Subscribe { .. } => Direction::RecvOnly,
    };
    sdp::client_offer(&ClientOffer {
        direction,
        audio: &[Codec::Opus],
        video: &[Codec::H264],
        ufrag: &remote.ufrag,
        pwd: &remote.pwd,
        fingerprint: &hex(&offerer.fingerprint()),
        audio_ssrc: 0x2222,
        video_ssrc: VIDEO_SSRC,
        video_rtx_ssrc: VIDEO_SSRC + 1,
    })
}

fn answer(
    offer: &str,
    local: &Credentials,
    identity: &Identity,
    role: &PeerRole,
    address: SocketAddr,
) -> Negotiated {
    let role = match *role {
        PeerRole::Publish { .. } => sdp::Role::Publish,
        PeerRole::Subscribe { audio_ssrc, video_ssrc, video_rtx_ssrc, .. } => {
            let tracks = PlayTracks {
                cname: "bench",
                stream_id: "bench",
                audio_ssrc: Some(audio_ssrc),
                video_ssrc: Some(video_ssrc),
                video_rtx_ssrc: Some(video_rtx_ssrc),
                twcc: true,
                ..PlayTracks::default()
            };
            sdp::Role::Play(tracks)
        }
    };
    let offer = sdp::Offer::parse(offer).expect("our own offer");
    let params = AnswerParams {
        role,
        ufrag: &local.ufrag,
        pwd: &local.pwd,
        fingerprint: &hex(identity.fingerprint()),
        candidates: &[address],
        session_id: 1,
        prefer_video: &[],
    };
    sdp::answer(&offer, &params).expect("an answer to it").1
}

/// A fingerprint as SDP writes it, without the hash's name.
fn hex(fingerprint: &rtc::dtls::Fingerprint) -> String {
    let text = fingerprint.to_string();
    text.split_once(' ').map_or(text.clone(), |(_, hex)| hex.to_owned())
}
