//! The stages of RTP: whose a datagram is, SRTP, ring, rewrite, retransmission. Packets have 1200 bytes; a shard has 20 subscribers, and
//! its frames five packets. Egress is memory: the system call is measured by the benchmark `fan_out`.

use std::hint::black_box;
use std::net::SocketAddr;

use bytes::Bytes;
use media::{Codec, Packet, Temporal, Time};
use metrics::DropReason;
use rtc::rtcp;
use rtc::srtp::{Profile, Protect, TAG_LEN_MAX, Unprotect};
use sfu::{Ring, RingLimits};

use super::{Workload, work};
use crate::peer::keys;
use crate::world::{Forgetting, GOP_FRAMES, HEADER_LEN, PACKET_LEN, World};

/// Of a pass: long against the clock's call.
const PACKETS: usize = 1_000;
const SUBSCRIBERS: u16 = 20;
const BURST: usize = 5;
const FRAMES: usize = 20;
/// Look-ups and insertions are short.
const RING_PACKETS: usize = 10_000;
/// NACKs of a pass: what 600 packets earn of the retransmission budget is enough for 87.
const NACKS: usize = 50;
/// First bytes of an RTP packet whose payload type is dynamic.
const RTP_START: [u8; 2] = [0x80, 102];
const EGRESS_BYTES: usize = 512 * 1024;

fn subscribers(count: u16) -> Vec<SocketAddr> {
    (0..count).map(|i| SocketAddr::from(([192, 0, 2, 2], 5_000 + i))).collect()
}

fn last_subscriber() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 5_000 + SUBSCRIBERS - 1))
}

fn world(profile: Profile, count: u16) -> (World, Forgetting) {
    (World::connect(profile, &subscribers(count)), Forgetting::new(EGRESS_BYTES))
}

/// A packet to be numbered, with room for its tag.
fn packet() -> Vec<u8> {
    let mut packet = vec![0x5a; PACKET_LEN + TAG_LEN_MAX];
    packet[..2].copy_from_slice(&RTP_START);
    packet
}

/// Protects `packet` as number `seq`.
fn seal(protect: &mut Protect, packet: &mut [u8], seq: u64) -> usize {
    packet[2..4].copy_from_slice(&(seq as u16).to_be_bytes());
    protect.protect_rtp(packet, PACKET_LEN, HEADER_LEN, (seq >> 16) as u32).expect("a well-formed packet")
}

/// `Protect::protect_rtp` in place.
pub(super) fn protect(profile: Profile) -> Box<dyn Workload> {
    let protect = Protect::new(profile, &keys(profile, 1).server).expect("the profile's keys");
    work(
        (protect, packet(), 0_u64),
        |_| (),
        |(protect, packet, seq), ()| {
            for _ in 0..PACKETS {
                *seq += 1;
                black_box(seal(protect, packet, *seq));
            }
            PACKETS
        },
    )
}

/// `Unprotect::unprotect_rtp`: replay window, then in place.
pub(super) fn unprotect(profile: Profile) -> Box<dyn Workload> {
    let keys = keys(profile, 1);
    let protect = Protect::new(profile, &keys.server).expect("the profile's keys");
    let unprotect = Unprotect::new(profile, &keys.server).expect("the profile's keys");
    work(
        (protect, unprotect, 0_u64),
        |(protect, _, seq)| -> Vec<Vec<u8>> {
            let mut sealed = || {
                let mut packet = packet();
                *seq += 1;
                let len = seal(protect, &mut packet, *seq);
                packet.truncate(len);
                packet
            };
            (0..PACKETS).map(|_| sealed()).collect()
        },
        |(_, unprotect, _), sealed| {
            for packet in &mut *sealed {
                black_box(unprotect.unprotect_rtp(packet).expect("an authentic packet"));
            }
            sealed.len()
        },
    )
}

/// Datagrams that are each dropped for `reason`. They come from many, or one unlucky place in a hash table would be the figure.
fn dropped(datagrams: Vec<(Vec<u8>, SocketAddr)>, reason: DropReason) -> Box<dyn Workload> {
    assert_eq!(datagrams.len(), PACKETS);
    work(
        (world(Profile::AeadAes128Gcm, SUBSCRIBERS), datagrams),
        |_| (),
        move |((world, out), datagrams), ()| {
            let before = world.drops(reason);
            for (datagram, from) in &mut *datagrams {
                world.datagram(datagram, *from, out);
            }
            assert_eq!(world.drops(reason) - before, PACKETS as u64);
            PACKETS
        },
    )
}

/// Checks for users that the shard does not know.
pub(super) fn demux_stun_stranger() -> Box<dyn Workload> {
    let check = |i: usize| {
        let mut check = Vec::new();
        let writer = rtc::stun::Writer::new(&mut check, rtc::stun::Class::Request, [7; 12]);
        writer.username(&format!("user{i:04}"), "them").priority(1).controlling(1).finish("no password");
        (check, SocketAddr::from(([192, 0, 2, 3], 9)))
    };
    dropped((0..PACKETS).map(check).collect(), DropReason::StunUnknownUser)
}

/// RTP from addresses that no check made valid.
pub(super) fn demux_rtp_stranger() -> Box<dyn Workload> {
    let stranger = |i: usize| (packet(), SocketAddr::from(([192, 0, 2, 3], 9 + i as u16)));
    dropped((0..PACKETS).map(stranger).collect(), DropReason::AddressNotValidated)
}

/// RTP from sessions' addresses, up to the first check of SRTP: the packets are too short for a tag.
pub(super) fn demux_rtp() -> Box<dyn Workload> {
    let from = subscribers(SUBSCRIBERS).into_iter().cycle().take(PACKETS);
    dropped(from.map(|from| (packet()[..HEADER_LEN + 1].to_vec(), from)).collect(), DropReason::SrtpShort)
}

/// A connected viewer's check, authenticated and answered.
pub(super) fn stun_check() -> Box<dyn Workload> {
    let (world, out) = world(Profile::AeadAes128Gcm, SUBSCRIBERS);
    let check = world.last_check().to_vec();
    work(
        (world, out, check),
        |_| (),
        |(world, out, check), ()| {
            let before = out.packets;
            for _ in 0..PACKETS {
                world.datagram(check, last_subscriber(), out);
            }
            assert_eq!(out.packets - before, PACKETS, "each is answered");
            PACKETS
        },
    )
}

/// A publisher's packet up to the ring, nobody watching: demultiplexed, decrypted, numbered, copied, kept.
pub(super) fn packet_in() -> Box<dyn Workload> {
    work(
        world(Profile::AeadAes128Gcm, 0),
        |(world, _)| (0..FRAMES * 10).map(|_| world.seal(BURST)).collect::<Vec<_>>(),
        |(world, out), frames| {
            for frame in &mut *frames {
                world.forward(frame, out);
            }
            assert_eq!(world.drops_all(), 0);
            frames.len() * BURST
        },
    )
}

/// `Shard::fan_out` of a frame that is in the ring.
pub(super) fn fan_out(profile: Profile) -> Box<dyn Workload> {
    work(
        world(profile, SUBSCRIBERS),
        |(world, out)| {
            let mut frame = world.seal(BURST);
            world.take(&mut frame, out);
            frame
        },
        |(world, out), frame| {
            let before = out.packets;
            world.fan_out(frame.at, out);
            let made = out.packets - before;
            assert_eq!(made, BURST * usize::from(SUBSCRIBERS));
            made
        },
    )
}

/// The whole way of a frame, but for the system calls.
pub(super) fn path_out() -> Box<dyn Workload> {
    work(
        world(Profile::AeadAes128Gcm, SUBSCRIBERS),
        |(world, _)| (0..FRAMES).map(|_| world.seal(BURST)).collect::<Vec<_>>(),
        |(world, out), frames| {
            let before = out.packets;
            for frame in &mut *frames {
                world.forward(frame, out);
            }
            let made = out.packets - before;
            assert_eq!(made, FRAMES * BURST * usize::from(SUBSCRIBERS));
            made
        },
    )
}

/// A viewer's NACK of one packet: decrypted, parsed, found in the ring, allowed, and sent again as RTX.
pub(super) fn nack_service() -> Box<dyn Workload> {
    let profile = Profile::AeadAes128Gcm;
    let (world, out) = world(profile, 1);
    let viewer = subscribers(1)[0];
    let protect = Protect::new(profile, &world.last_subscriber.client).expect("the profile's keys");
    work(
        (world, out, protect),
        |(world, out, protect)| -> Vec<Vec<u8>> {
            // Two GOPs: packets before the last key frame are not sent again.
            for _ in 0..2 * GOP_FRAMES {
                let mut frame = world.seal(BURST);
                world.forward(&mut frame, out);
            }
            let last = out.last();
            let seq = u16::from_be_bytes([last[2], last[3]]);
            let ssrc = u32::from_be_bytes([last[8], last[9], last[10], last[11]]);
            let nack = |back: usize| {
                let (mut plain, mut sealed) = (Vec::new(), Vec::new());
                rtcp::receiver_report(&mut plain, 1, &[], "");
                rtcp::nack(&mut plain, 1, ssrc, &[seq.wrapping_sub(back as u16)]);
                protect.protect_rtcp(&plain, &mut sealed).expect("a compound of ours");
                sealed
            };
            (0..NACKS).map(nack).collect()
        },
        move |(world, out, _), nacks| {
            let before = out.packets;
            for nack in &mut *nacks {
                // In a tick of its own: the pacer spreads what comes at once.
                world.pass(1_000);
                world.datagram(nack, viewer, out);
            }
            assert_eq!(out.packets - before, NACKS, "each is served");
            NACKS
        },
    )
}

/// A track's packets as they come, five a frame and 30 frames a second.
struct Source {
    payload: Bytes,
    seq: u64,
}

impl Source {
    fn new() -> Source {
        Source { payload: Bytes::from(vec![0x5a; PACKET_LEN - HEADER_LEN]), seq: 0 }
    }

    fn next(&mut self) -> Packet {
        let frame = self.seq / BURST as u64;
        let first = self.seq.is_multiple_of(BURST as u64);
        let arrival = Time::from_ms(frame as i64 * 33);
        let packet = Packet {
            seq: self.seq,
            timestamp: arrival.ms() * 90,
            arrival,
            capture: arrival,
            codec: Codec::H264,
            marker: self.seq % BURST as u64 == BURST as u64 - 1,
            key_start: first && frame.is_multiple_of(u64::from(GOP_FRAMES)),
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: self.payload.clone(),
        };
        self.seq += 1;
        packet
    }
}

/// `Ring::insert` into a ring that is full, so that the oldest packet goes.
pub(super) fn ring_insert() -> Box<dyn Workload> {
    work(
        (Ring::new(RingLimits::VIDEO), Source::new()),
        |(_, source)| (0..RING_PACKETS).map(|_| source.next()).collect::<Vec<_>>(),
        |(ring, _), packets| {
            for packet in packets.drain(..) {
                let now = packet.arrival;
                ring.insert(packet, now).expect("the next packet");
            }
            assert!(ring.head().is_some_and(|head| ring.get(head - 300).is_some()), "2 s are kept");
            RING_PACKETS
        },
    )
}

/// `Ring::get` of what viewers ask for again.
pub(super) fn ring_lookup() -> Box<dyn Workload> {
    let (mut ring, mut source) = (Ring::new(RingLimits::VIDEO), Source::new());
    for _ in 0..1_000 {
        let packet = source.next();
        let now = packet.arrival;
        ring.insert(packet, now).expect("the next packet");
    }
    let head = ring.head().expect("packets");
    let wanted: Vec<u64> = (0..RING_PACKETS as u64).map(|i| head - i * 7 % 300).collect();
    work(
        (ring, wanted),
        |_| (),
        |(ring, wanted), ()| {
            let mut found = 0;
            for &seq in &*wanted {
                found += usize::from(black_box(ring.get(black_box(seq))).is_some());
            }
            assert_eq!(found, RING_PACKETS);
            found
        },
    )
}
