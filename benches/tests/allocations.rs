//! In the steady state the packet path does not allocate: counted by an allocator, from the publisher's datagram to the last subscriber's
//! sealed packet.
//!
//! Payloads are copied once into blocks of 64 KiB that all subscribers share; a block serves some fifty packets *in*, so that with 100
//! subscribers it is one allocation (and one for its count of owners) for 5000 packets out. Less than 0.01 a packet is asked for.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe by its trait; this one passes on to the system's and counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;

use benches::world::{PACKET_OUT_LEN, World};
use media::Time;
use metrics::DropReason;
use rtc::rtcp;
use rtc::rtcp::twcc::TwccRecorder;
use rtc::srtp::{Profile, Protect, TAG_LEN_MAX, Unprotect};
use sfu::Egress;

struct Counting;

thread_local! {
    /// Allocations of this thread; tests beside this one must not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes of this thread that are allocated and not freed.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    live(bytes);
}

fn live(bytes: i64) {
    let _ = LIVE.try_with(|n| n.set(n.get() + bytes));
}

// SAFETY: each call goes to the system's allocator with the arguments it came with; counting allocates nothing (a const thread-local of
// a type without a destructor).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count(len as i64 - layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, len) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        live(-(layout.size() as i64));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SUBSCRIBERS: usize = 100;
const BURST: usize = 5;
/// Of a viewer without trouble, beside its session.
const QUIET_BYTES_MAX: usize = 24 * 1_024;
/// And of one that lost packets, or was probed: 8 KiB are the table of what was sent again.
const LOSSY_BYTES_MAX: usize = 28 * 1_024;

/// Keeps the last packet.
struct Last {
    packet: Vec<u8>,
    len: usize,
    to: Option<SocketAddr>,
    packets: usize,
}

impl Egress for Last {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.packet.get_mut(..len)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        (self.len, self.to) = (len, Some(to));
        self.packets += 1;
    }
}

fn last() -> Last {
    Last { packet: vec![0; 2_048], len: 0, to: None, packets: 0 }
}

fn addresses() -> Vec<SocketAddr> {
    (0..SUBSCRIBERS).map(|i| SocketAddr::from(([192, 0, 2, 2], 5_000 + i as u16))).collect()
}

fn every_profile(mut each: impl FnMut(Profile)) {
    for profile in [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmSha1_80] {
        each(profile);
    }
}

#[test]
fn no_allocation_per_packet_out() {
    every_profile(|profile| {
        let mut world = World::connect(profile, &addresses());
        let mut out = last();
        // Past the first GOPs and the ring's two seconds, where tables grow to their size.
        for _ in 0..200 {
            let mut frame = world.seal(BURST);
            world.forward(&mut frame, &mut out);
        }
        world.discard_events();
        let mut frames: Vec<_> = (0..200).map(|_| world.seal(BURST)).collect();
        out.packets = 0;
        let before = ALLOCATIONS.get();
        for frame in &mut frames {
            world.forward(frame, &mut out);
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(out.packets, 200 * BURST * SUBSCRIBERS);
        let each = allocations as f64 / out.packets as f64;
        println!(
            "{profile:?}: {allocations} allocations for {} packets in, {} out",
            200 * BURST,
            out.packets
        );
        assert!(each < 0.01, "{profile:?}: {allocations} allocations for {} packets out", out.packets);
    });
}

/// A viewer's end: it says what came.
struct Viewer {
    address: SocketAddr,
    protect: Protect,
    came: TwccRecorder,
    /// SSRC and number of the packet that came last.
    last: (u32, u16),
}

/// What viewers have of the packets: transport-wide numbers.
struct Viewers {
    packet: Vec<u8>,
    now: Time,
    all: Vec<Viewer>,
}

impl Egress for Viewers {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.packet.get_mut(..len)
    }

    fn commit(&mut self, _: usize, to: SocketAddr) {
        let rtp = !(200..=207).contains(&self.packet[1]);
        let at = self.all.iter_mut().find(|viewer| viewer.address == to);
        // One extension of one element, in the clear.
        if let Some(viewer) = at.filter(|_| rtp && self.packet[0] & 0x10 != 0) {
            let Some(&[_, _, s0, s1, _, _, _, _, a, b, c, d]) = self.packet.first_chunk::<12>() else {
                return;
            };
            viewer.last = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([s0, s1]));
            viewer.came.on_packet(u16::from_be_bytes([self.packet[17], self.packet[18]]), self.now);
        }
    }
}

/// Memory goes by tracks, not by viewers: what one more viewer adds to its shard beside its session (ICE, DTLS and SRTP state), which is measured
/// alone. It has sound and picture, RTX and transport-wide feedback. What it `loses`
/// is sent again: then it has the table of that, too.
fn viewer_bytes(profile: Profile, loses: bool) -> usize {
    let mut world = World::connect(profile, &addresses()[..1]);
    let mut out = Viewers { packet: vec![0; 2_048], now: Time::ZERO, all: Vec::new() };
    let mut compound = Vec::with_capacity(4_096);
    let mut sealed = Vec::with_capacity(4_096);
    let mut play = |world: &mut World, out: &mut Viewers| {
        for _ in 0..200 {
            let mut frame = world.seal(10);
            out.now = world.now();
            world.forward(&mut frame, out);
            // The pacer's slices until the next frame.
            for _ in 0..15 {
                world.pass(1_100);
                out.now = world.now();
                world.handle_timeout(out);
            }
            for n in 0..out.all.len() {
                let viewer = &mut out.all[n];
                compound.clear();
                if viewer.came.build(world.now(), 1, 1, &mut compound) {
                    viewer.protect.protect_rtcp(&compound, &mut sealed).unwrap();
                    world.datagram(&mut sealed, out.all[n].address, out);
                }
            }
        }
        world.discard_events();
    };
    play(&mut world, &mut out);
    let before = LIVE.get();
    let sessions: Vec<_> = addresses()[50..].iter().map(|address| world.session(*address)).collect();
    let session_len = (LIVE.get() - before) as usize / (SUBSCRIBERS - 50);
    drop(sessions);
    let before = LIVE.get();
    for address in &addresses()[50..] {
        world.join(*address);
        let protect = Protect::new(profile, &world.last_subscriber.client).unwrap();
        out.all.push(Viewer { address: *address, protect, came: TwccRecorder::new(), last: (0, 0) });
    }
    play(&mut world, &mut out);
    let asked = world.resent();
    for n in (0..out.all.len()).filter(|_| loses) {
        let ((ssrc, seq), mut compound, mut sealed) = (out.all[n].last, Vec::new(), Vec::new());
        rtcp::receiver_report(&mut compound, 1, &[], "viewer");
        rtcp::nack(&mut compound, 1, ssrc, &[seq]);
        out.all[n].protect.protect_rtcp(&compound, &mut sealed).unwrap();
        world.datagram(&mut sealed, out.all[n].address, &mut out);
    }
    play(&mut world, &mut out);
    assert_eq!(world.resent() - asked, if loses { 50 } else { 0 });
    drop(std::mem::take(&mut out.all));
    let each = (LIVE.get() - before) as usize / (SUBSCRIBERS - 50);
    println!("{profile:?}: {each} bytes a viewer, of which {session_len} are its session");
    each - session_len
}

#[test]
fn a_viewer_is_small() {
    every_profile(|profile| {
        let (quiet, lossy) = (viewer_bytes(profile, false), viewer_bytes(profile, true));
        println!("{profile:?}: {quiet} bytes a viewer beside its session, {lossy} once it lost something");
        assert!(quiet <= QUIET_BYTES_MAX && lossy <= LOSSY_BYTES_MAX, "{profile:?}: {quiet}, {lossy}");
    });
}

/// What the figures above were counted on is the real thing: the last subscriber can read what came out, and nothing was dropped.
#[test]
fn what_comes_out_is_the_publishers_packet_under_the_subscribers_keys() {
    every_profile(|profile| {
        let mut world = World::connect(profile, &addresses());
        let mut unprotect = Unprotect::new(profile, &world.last_subscriber.server).unwrap();
        let mut out = last();
        for _ in 0..10 {
            let mut frame = world.seal(BURST);
            world.forward(&mut frame, &mut out);
            assert_eq!(out.to, addresses().last().copied());
            assert_eq!(out.len, PACKET_OUT_LEN + profile.tag_len());
            assert!(out.len <= PACKET_OUT_LEN + TAG_LEN_MAX);
            let mut sealed = out.packet[..out.len].to_vec();
            let plain = unprotect.unprotect_rtp(&mut sealed).unwrap();
            assert_eq!(plain.len(), PACKET_OUT_LEN);
            assert!(plain[23..].iter().all(|byte| *byte == 0x5a), "the payload, untouched");
            assert_ne!(plain[1] & 0x80, 0, "the frame's last packet");
        }
        assert_eq!(out.packets, 10 * BURST * SUBSCRIBERS);
        for reason in [DropReason::AwaitKeyFrame, DropReason::SendBufferFull, DropReason::SrtpUnauthenticated]
        {
            assert_eq!(world.drops(reason), 0, "{reason:?}");
        }
    });
}
