//! A whole shard with two publishers that come one after the other and a viewer, all connected and hostile: authentic RTP and RTCP
//! with any content.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use media::{Codec, Kind, Time};
use metrics::ShardMetrics;
use rtc::client::Client;
use rtc::rtp;
use rtc::sdp::{
    AnswerParams, ClientOffer, Direction, Negotiated, Offer, PlayTracks, Role, answer, client_offer,
};
use rtc::srtp::TAG_LEN_MAX;
use sfu::{
    CloseReason, Command, Egress, Event, LayerRequest, PeerConfig, PeerId, PeerRole, PeerStats, Shard,
    ShardConfig, SourceId, StreamId, TrackKey,
};

use super::rtc::{FINGERPRINT, PWD};
use super::session::{IDENTITIES, address, client, session_config};
use crate::input::Input;
use crate::memory;
use crate::novelty::{note, note_count};

const STREAM: StreamId = StreamId(1);
/// Who is who: the second publisher replaces the first.
const PUBLISHER: u8 = 1;
const VIEWER: u8 = 2;
const SECOND: u8 = 3;
/// Sources announced in the publishers' SDP.
pub const AUDIO_SSRC: u32 = 0x11;
/// See [`AUDIO_SSRC`].
pub const VIDEO_SSRC: u32 = 0x22;
/// See [`AUDIO_SSRC`].
pub const RTX_SSRC: u32 = 0x33;
/// Sources towards the viewer.
pub const VIEWER_SSRCS: [u32; 3] = [0x44, 0x55, 0x66];

/// Rings of 9 MiB and what the sessions hold; packets cost more than their payload, and a hostile publisher sends small ones.
const SHARD_BYTES_MAX: isize = 64 << 20;

/// Steps, again and again: 0 RTP of the publisher, 1 RTCP of the publisher, 2 RTCP of the viewer, 3 time passes, 4 a datagram as it is,
/// 5 RTP of the viewer, 6 another publisher takes over, 7 a tap, an untap or a key-frame request, 8 many RTP packets: the same with
/// rising numbers.
pub fn shard(data: &[u8]) {
    steps(data, false);
}

/// The same with a first publisher of three encodings, which its packets' RIDs tell apart, and two steps more: 9 the viewer's request for an
/// encoding, 10 its estimate.
pub fn layers(data: &[u8]) {
    steps(data, true);
}

fn steps(data: &[u8], layered: bool) {
    LazyLock::force(&IDENTITIES);
    LazyLock::force(&NEGOTIATED);
    let before = memory::live();
    let mut world = World::new();
    world.layered = layered;
    world.join(PUBLISHER, PeerRole::Publish { stream: STREAM, source: SourceId(1) });
    let [audio_ssrc, video_ssrc, video_rtx_ssrc] = VIEWER_SSRCS;
    world.join(VIEWER, PeerRole::Subscribe { stream: STREAM, audio_ssrc, video_ssrc, video_rtx_ssrc });
    let mut publisher = PUBLISHER;
    let mut input = Input::new(data);
    while !input.is_empty() {
        match input.u8() % if layered { 11 } else { 9 } {
            0 => world.rtp(publisher, input.bytes()),
            1 => world.rtcp(publisher, input.bytes()),
            2 => world.rtcp(VIEWER, input.bytes()),
            3 => world.pass(i64::from(input.u16())),
            4 => {
                let from = address(input.u8());
                world.datagram(&mut input.bytes().to_vec(), from);
            }
            5 => world.rtp(VIEWER, input.bytes()),
            6 => {
                if publisher == PUBLISHER {
                    let stream = STREAM;
                    if input.u8() & 1 == 0 {
                        world.command(Command::RemovePeer(
                            PeerId(u64::from(publisher)),
                            CloseReason::Replaced,
                        ));
                    }
                    publisher = SECOND;
                    world.join(SECOND, PeerRole::Publish { stream, source: SourceId(2) });
                }
            }
            7 => {
                let kind = if input.u8() & 1 == 0 { Kind::Audio } else { Kind::Video };
                let key = TrackKey::new(STREAM, kind);
                world.command(match input.u8() % 3 {
                    0 => Command::Tap(key),
                    1 => Command::Untap(key),
                    _ => Command::RequestKeyFrame(key),
                });
            }
            9 => {
                let flags = input.u8();
                let request = LayerRequest {
                    layer: (flags & 1 != 0).then_some(input.u8()),
                    height_max: (flags & 2 != 0).then(|| input.u32()),
                    rate_bps_max: (flags & 4 != 0).then(|| u64::from(input.u32())),
                    temporal_max: (flags & 16 != 0).then(|| input.u8()),
                    paused: flags & 8 != 0,
                };
                world.command(Command::RequestLayer(PeerId(u64::from(VIEWER)), request));
            }
            10 => {
                let bps = if input.u8() & 1 == 0 { u64::MAX } else { u64::from(input.u32()) };
                world.command(Command::Estimate(PeerId(u64::from(VIEWER)), bps));
            }
            _ => {
                let (count, step) = (input.u8(), input.u8());
                let mut packet = input.bytes().to_vec();
                for _ in 0..count {
                    world.rtp(publisher, &packet);
                    if let Some([high, low]) = packet.get(2..4) {
                        let next = u16::from_be_bytes([*high, *low]).wrapping_add(1 + u16::from(step));
                        packet[2..4].copy_from_slice(&next.to_be_bytes());
                    }
                }
            }
        }
        world.turn();
        let held = memory::live() - before;
        assert!(held <= SHARD_BYTES_MAX, "a shard of three peers holds {held} bytes");
    }
    // Whatever came, nobody was thrown out for a fault of ours.
    assert!(!world.closed.contains(&CloseReason::Internal));
    note(&world.closed);
}

/// What the publishers and the viewer offer.
pub fn offer(direction: Direction) -> String {
    client_offer(&ClientOffer {
        direction,
        audio: &[Codec::Opus],
        video: &[Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1],
        ufrag: "ufrag",
        pwd: PWD,
        fingerprint: FINGERPRINT,
        audio_ssrc: AUDIO_SSRC,
        video_ssrc: VIDEO_SSRC,
        video_rtx_ssrc: RTX_SSRC,
    })
}

static NEGOTIATED: LazyLock<[Negotiated; 2]> = LazyLock::new(|| {
    [Direction::SendOnly, Direction::RecvOnly].map(|direction| {
        let text = offer(direction);
        let [audio, video, rtx] = VIEWER_SSRCS;
        let tracks = PlayTracks {
            cname: "c",
            stream_id: "s",
            audio_ssrc: Some(audio),
            video_ssrc: Some(video),
            video_rtx_ssrc: Some(rtx),
            stereo: false,
            twcc: true,
        };
        let params = AnswerParams {
            role: if direction == Direction::SendOnly { Role::Publish } else { Role::Play(tracks) },
            ufrag: "ufrag",
            pwd: PWD,
            fingerprint: FINGERPRINT,
            candidates: &[address(1)],
            session_id: 1,
            prefer_video: &[],
        };
        answer(&Offer::parse(&text).expect("our own offer"), &params).expect("an answer").1
    })
});

/// The encodings of the publisher that has some.
const RIDS: [&str; 3] = ["q", "h", "f"];
/// The id of the RID extension.
pub const RID_ID: u8 = 10;
/// The id of the repaired RID extension.
pub const REPAIRED_ID: u8 = 11;

fn with_encodings(mut negotiated: Negotiated) -> Negotiated {
    for video in negotiated.medias.iter_mut().filter(|m| m.kind == Kind::Video) {
        video.rids = RIDS.map(String::from).to_vec();
        (video.rid_ext_id, video.repaired_rid_ext_id) = (Some(RID_ID), Some(REPAIRED_ID));
    }
    negotiated
}

struct World {
    shard: Shard,
    wire: Wire,
    clients: HashMap<u8, Client>,
    /// For the rollover counter of each client's sources, as a sender counts it.
    numbers: HashMap<(u8, u32), rtp::Unwrapper>,
    base: Instant,
    now: Time,
    closed: Vec<CloseReason>,
    /// The first publisher sends three encodings.
    layered: bool,
}

/// What the shard sent.
#[derive(Default)]
struct Wire {
    buffer: Vec<u8>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Egress for Wire {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        // As the real one: a datagram that no network carries is refused.
        if len > 1_500 {
            return None;
        }
        self.buffer.clear();
        self.buffer.resize(len, 0);
        Some(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.sent.push((to, self.buffer[..len].to_vec()));
    }
}

impl World {
    fn new() -> World {
        let config = ShardConfig { id: 0, unix_us_at_zero: 1_700_000_000_000_000, seed: 7, pacer: true };
        World {
            shard: Shard::new(config, Arc::new(ShardMetrics::default())),
            wire: Wire::default(),
            clients: HashMap::new(),
            numbers: HashMap::new(),
            base: Instant::now(),
            now: Time::ZERO,
            closed: Vec::new(),
            layered: false,
        }
    }

    fn join(&mut self, n: u8, role: PeerRole) {
        let publishes = matches!(role, PeerRole::Publish { .. });
        let config = PeerConfig {
            id: PeerId(u64::from(n)),
            session: session_config(n, self.base),
            negotiated: match NEGOTIATED[usize::from(!publishes)].clone() {
                negotiated if self.layered && n == PUBLISHER => with_encodings(negotiated),
                negotiated => negotiated,
            },
            role,
            home: 0,
            stats: Arc::new(PeerStats::default()),
            seed: u64::from(n),
        };
        self.command(Command::AddPeer(Box::new(config)));
        self.clients.insert(n, client(n, self.base, self.now));
        for _ in 0..40 {
            let mut up = Vec::new();
            let now = self.now;
            self.client(n).handle_timeout(now, &mut |_, p| up.push(p.to_vec()));
            self.exchange(n, up);
            if self.client(n).is_connected() {
                break;
            }
            self.pass(5);
        }
        assert!(self.client(n).is_connected(), "an honest client connects");
    }

    fn client(&mut self, n: u8) -> &mut Client {
        self.clients.get_mut(&n).expect("it joined")
    }

    /// The client's datagrams and all that follows from them.
    fn exchange(&mut self, n: u8, mut up: Vec<Vec<u8>>) {
        let at = address(100 + n);
        loop {
            for mut datagram in std::mem::take(&mut up) {
                self.datagram(&mut datagram, at);
            }
            let now = self.now;
            let down: Vec<_> = std::mem::take(&mut self.wire.sent);
            for (_, mut datagram) in down.into_iter().filter(|(to, _)| *to == at) {
                let _ = self.client(n).handle_datagram(&mut datagram, now, &mut |_, p| up.push(p.to_vec()));
            }
            if up.is_empty() {
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.shard.handle_command(command, self.now, &mut self.wire);
    }

    fn datagram(&mut self, datagram: &mut [u8], from: SocketAddr) {
        self.shard.handle_datagram(datagram, from, self.now, &mut self.wire);
    }

    fn rtp(&mut self, n: u8, plain: &[u8]) {
        let Ok(header) = rtp::Header::parse_protected(plain) else { return };
        let numbers = self.numbers.entry((n, header.ssrc)).or_default();
        // An unwrapper counts from one cycle up.
        let roc = (numbers.seq(header.sequence_number) >> 16).saturating_sub(1) as u32;
        let mut sealed = plain.to_vec();
        sealed.resize(plain.len() + TAG_LEN_MAX, 0);
        let len = self.client(n).protect_rtp(&mut sealed, plain.len(), header.header_len, roc);
        if let Ok(len) = len {
            self.datagram(&mut sealed[..len], address(100 + n));
        }
    }

    fn rtcp(&mut self, n: u8, plain: &[u8]) {
        let mut sealed = Vec::new();
        if self.client(n).send_rtcp(plain, &mut |_, p| sealed = p.to_vec()).is_ok() {
            self.datagram(&mut sealed, address(100 + n));
        }
    }

    fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
        while self.shard.handle_timeout(self.now, &mut self.wire) {}
        while self.shard.handle_handshake(self.now, &mut self.wire) {}
    }

    /// The end of a turn of the shard's loop.
    fn turn(&mut self) {
        self.shard.fan_out(self.now, &mut self.wire);
        while self.shard.handle_timeout(self.now, &mut self.wire) {}
        while self.shard.handle_handshake(self.now, &mut self.wire) {}
        self.shard.take_mail().for_each(drop);
        for event in self.shard.take_events() {
            match event {
                Event::Closed(_, why) => self.closed.push(why),
                Event::Tapped(_, packets) => note_count("tapped", packets.len()),
                other => note(&std::mem::discriminant(&other)),
            }
        }
        // The viewer can read what it was sent.
        let (viewer, now) = (address(100 + VIEWER), self.now);
        let sent = std::mem::take(&mut self.wire.sent);
        note_count("sent", sent.len());
        if let Some(client) = self.clients.get_mut(&VIEWER) {
            for (_, mut datagram) in sent.into_iter().filter(|(to, _)| *to == viewer) {
                let read = client.handle_datagram(&mut datagram, now, &mut |_, _| {});
                note(&read.map(|came| std::mem::discriminant(&came)));
            }
        }
    }
}
