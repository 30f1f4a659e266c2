//! Late joiners: the GOP of the ring, squeezed, and then the live point.

use std::sync::Arc;

use media::{Codec, Packet, Time};
use metrics::{DropReason, PacketKind};
use sfu::{Mail, SourceId};

use crate::camera::{FRAME_MS, FRAME_TICKS, Rtp, Video, external, negotiated};
use crate::world::{Got, Rtcp, VIDEO, Wish, World, assert_contiguous, times};

/// An RTMP-like source: frames by mail, a key frame every `gop`.
struct Rtmp {
    video: Video,
    frames: u64,
    gop: u64,
    /// Payloads since the last key frame.
    since_key: Vec<Vec<u8>>,
}

impl Rtmp {
    fn new(gop: u64) -> Rtmp {
        Rtmp { video: Video::h264(500, 0), frames: 0, gop, since_key: Vec::new() }
    }

    fn frame(&mut self, world: &mut World) {
        let packets = self.packets(world);
        self.mail(world, packets);
    }

    fn mail(&self, world: &mut World, packets: Arc<[Packet]>) {
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(1), packets });
    }

    fn packets(&mut self, world: &World) -> Arc<[Packet]> {
        let key = self.frames.is_multiple_of(self.gop);
        if key {
            self.since_key.clear();
        }
        self.frames += 1;
        let mut frame = self.video.frame(key);
        frame.iter_mut().for_each(|p| p.payload.resize(1_000, 0));
        let packets: Arc<[Packet]> = external(frame, Codec::H264, world.now, 0);
        self.since_key.extend(packets.iter().map(|p| p.payload.to_vec()));
        packets
    }

    fn run(&mut self, world: &mut World, frames: usize) {
        for _ in 0..frames {
            self.frame(world);
            world.run(FRAME_MS);
        }
    }
}

/// The time stamp of each frame, in order of number; asserts that numbers are contiguous.
fn frame_times(got: &[&Got]) -> Vec<i64> {
    assert_contiguous(got);
    let mut times = times(got);
    times.dedup();
    times
}

fn assert_rising(times: &[i64]) {
    assert!(times.windows(2).all(|w| w[1] > w[0]), "{times:?}");
}

const LIVE_STEP: i64 = FRAME_MS * 90;

#[test]
fn a_joiner_of_an_rtmp_stream_gets_the_gop_at_once_and_is_then_live() {
    for shard in [0, 1] {
        let mut world = World::new(2);
        let mut rtmp = Rtmp::new(121);
        rtmp.run(&mut world, 118);
        let viewer = world.subscriber(Wish::on(shard));
        let joined = world.now;
        let gop = rtmp.since_key.clone();
        rtmp.run(&mut world, 2);
        world.run(300 - 2 * FRAME_MS);
        let all = rtmp.since_key.clone();
        let got = world.peers[viewer].video();
        let payloads: Vec<_> = got.iter().map(|g| g.payload.clone()).collect();
        assert_eq!(payloads, all, "all of it, from the parameter sets on");
        assert_eq!(payloads[0][0], 0x78);
        assert!(got[gop.len() - 1].at.since(joined) <= 300_000);

        let times = frame_times(&got);
        assert_rising(&times);
        let squeezed = times[117] - times[0];
        assert!(squeezed <= 118 * LIVE_STEP / 15, "{squeezed}: 3.9 s are shown in a quarter");
        let since_mail = |i: usize| times[i] - times[117];
        assert!(
            since_mail(118) >= LIVE_STEP && since_mail(119) == since_mail(118) + LIVE_STEP,
            "{:?}",
            &times[115..]
        );

        rtmp.run(&mut world, 40);
        let times = frame_times(&world.peers[viewer].video());
        assert_rising(&times);
        assert!(times[125..].windows(2).all(|w| w[1] - w[0] == LIVE_STEP));
    }
}

/// The conversion of an RTMP stream starts with its first viewer, and may have the GOP ready when that one is connected already.
#[test]
fn a_gop_that_comes_at_once_to_a_viewer_that_waits_is_squeezed_as_well() {
    for shard in [0, 1] {
        let mut world = World::new(2);
        let mut rtmp = Rtmp::new(121);
        let viewer = world.subscriber(Wish::on(shard));
        let mut gop: Vec<Packet> = Vec::new();
        for _ in 0..118 {
            world.run(FRAME_MS);
            gop.extend_from_slice(&rtmp.packets(&world));
        }
        let came = world.now;
        rtmp.mail(&mut world, gop.into());
        world.run(FRAME_MS);
        rtmp.run(&mut world, 3);
        world.run(300 - 4 * FRAME_MS);
        let got = world.peers[viewer].video();
        let payloads: Vec<_> = got.iter().map(|g| g.payload.clone()).collect();
        assert_eq!(payloads, rtmp.since_key);
        assert!(got.last().expect("it got some").at.since(came) <= 300_000);
        let times = frame_times(&got);
        assert_rising(&times);
        let squeezed = times[117] - times[0];
        assert!(squeezed <= 118 * LIVE_STEP / 15, "{squeezed}: 3.9 s are shown in a quarter");
        assert_eq!(times[120] - times[119], LIVE_STEP);
    }
}

#[test]
fn a_pli_to_an_rtmp_stream_shows_the_gop_again() {
    let mut world = World::new(1);
    let mut rtmp = Rtmp::new(121);
    rtmp.run(&mut world, 60);
    let viewer = world.subscriber(Wish::on(0));
    rtmp.run(&mut world, 30);
    let before = world.peers[viewer].video().len();
    let asked = world.now;
    world.pli(viewer);
    world.run(8);
    let gop = rtmp.since_key.len();
    rtmp.run(&mut world, 20);
    world.run(20);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), before + rtmp.since_key.len(), "the GOP again, and what came meanwhile once");
    let again: Vec<_> = got[before..].iter().map(|g| g.payload.clone()).collect();
    assert_eq!(again, rtmp.since_key);
    assert!(got[before + gop - 1].at.since(asked) < 320_000);
    let times = frame_times(&got);
    assert_rising(&times);
    let total = times.last().unwrap() - times[59];
    assert!(
        (49 * LIVE_STEP..=50 * LIVE_STEP + 6_000).contains(&total),
        "{total}: the live clock was not moved"
    );
}

#[test]
fn a_joiner_in_the_middle_of_a_frame_sees_no_gap() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let mut video = Video::vp8(500, 100);
    let mut sent: Vec<Rtp> = Vec::new();
    for index in 0..20 {
        let frame = video.frame(index == 0);
        sent.extend(frame.clone());
        world.send(publisher, frame);
        world.run(FRAME_MS);
    }
    let mut frame = video.frame(false);
    sent.extend(frame.clone());
    let rest = frame.split_off(2);
    world.send(publisher, frame);
    let viewer = world.subscriber(Wish::on(0));
    world.run(300);
    world.send(publisher, rest);
    world.run(50);
    let got = world.peers[viewer].video();
    let payloads: Vec<_> = got.iter().map(|g| g.payload.clone()).collect();
    assert_eq!(payloads, sent.iter().map(|p| p.payload.clone()).collect::<Vec<_>>());
    let times = frame_times(&got);
    assert_eq!(times.len(), 21, "the cut frame has one time stamp");
    assert_rising(&times);
    assert_eq!(world.peers[publisher].plis(), 0, "a young GOP is replayed");
}

#[test]
fn a_packet_lost_at_the_seam_shows_as_a_gap() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let mut video = Video::vp8(500, 100);
    for index in 0..20 {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    let viewer = world.subscriber(Wish::on(0));
    world.run(300);
    let before = world.peers[viewer].video().len();
    let mut frame = video.frame(false);
    let lost = frame.remove(0);
    world.send(publisher, frame);
    world.run(20);
    let got = world.peers[viewer].video();
    let gap = got[before].header.seq - got[before - 1].header.seq;
    assert_eq!(gap, 2, "the frame's first packet is missing, and the viewer can see it");

    // It comes late: the viewer's NACK is answered with it.
    let wanted = got[before].header.seq - 1;
    world.send(publisher, [lost.clone()]);
    world.run(20);
    world.nack(viewer, &[wanted]);
    world.run(20);
    let peer = &world.peers[viewer];
    let got = peer.got.last().unwrap();
    assert!(got.payload.ends_with(&lost.payload), "{:?}", got.header);
    assert_eq!(got.header.timestamp, peer.video()[before].header.timestamp);
}

/// On the publisher's shard, and as the first viewer on another one.
#[test]
fn a_joiner_of_an_old_gop_costs_the_browser_one_key_frame() {
    for shard in [0, 1] {
        let mut world = World::new(2);
        let publisher = world.publisher(Wish { shard: 0, medias: negotiated(&[Codec::Vp8], true) }, 1);
        let mut video = Video::vp8(500, 100);
        let a_frame = video.packets_per_frame;
        let mut frames = |world: &mut World, count: usize, key: bool| {
            for index in 0..count {
                let frame = video.frame(key && index == 0);
                world.send(publisher, frame);
                world.run(FRAME_MS);
            }
        };
        frames(&mut world, 60, true);
        let viewer = world.subscriber(Wish::on(shard));
        frames(&mut world, 8, false);
        assert_eq!(world.peers[publisher].plis(), 1);
        assert!(world.peers[viewer].video().is_empty(), "2 s old, and the browser can make a new one");
        let mirrored = |mail: &Mail| match mail {
            Mail::Mirrored { packets, .. } => packets.len(),
            _ => 0,
        };
        let most = world.mail.iter().map(|(.., mail)| mirrored(mail)).max();
        assert!(most <= Some(a_frame), "{most:?}: no other shard is sent what nobody is shown");
        frames(&mut world, 20, true);
        let got = world.peers[viewer].video();
        assert_eq!(got.len(), 60);
        assert_eq!(got[0].payload[..2], [0x10, 0x00], "the key frame");
        let times = frame_times(&got);
        assert!(times.windows(2).all(|w| w[1] - w[0] == i64::from(FRAME_TICKS)));
        assert_eq!(world.peers[publisher].plis(), 1);
    }
}

#[test]
fn a_source_that_changes_during_the_catch_up_is_shown_from_its_own_key_frame() {
    let mut world = World::new(1);
    let mut rtmp = Rtmp::new(1_000);
    rtmp.run(&mut world, 200);
    let viewer = world.subscriber(Wish::on(0));
    world.run(40); // some of the GOP is out
    let mut next = Video::h264(600, 7_000);
    let mut all = Vec::new();
    for index in 0..250 {
        let packets = external(next.frame(index == 0), Codec::H264, Time::from_ms(index * FRAME_MS), 0);
        all.extend(packets.iter().map(|p| p.payload.to_vec()));
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(2), packets });
        world.run(FRAME_MS);
    }
    world.run(100);
    let got = world.peers[viewer].video();
    let first = got.iter().position(|g| g.payload == all[0]).expect("its key frame comes");
    let tail: Vec<_> = got[first..].iter().map(|g| g.payload.clone()).collect();
    assert_eq!(tail, all, "nobody waits for the next one");
    let times = times(&got);
    assert!(times.windows(2).all(|w| w[1] >= w[0]), "{times:?}");
    // What the catch-up had planned is no guide to what a NACK means.
    let last: Vec<_> = got[got.len() - 10..].iter().map(|g| (g.header.seq, g.payload.clone())).collect();
    world.nack(viewer, &last.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
    world.run(20);
    let again = world.peers[viewer].of_ssrc(world.peers[viewer].rtx_ssrc);
    let again =
        again.iter().map(|g| (u16::from_be_bytes([g.payload[0], g.payload[1]]), g.payload[2..].to_vec()));
    assert_eq!(again.collect::<Vec<_>>(), last);
    assert!(world.peers[viewer].count(|r| matches!(r, Rtcp::SenderReport { .. })) > 0);
}

#[test]
fn a_source_that_changes_right_after_a_gop_was_shown_again_does_not_turn_time_back() {
    let mut world = World::new(1);
    let mut rtmp = Rtmp::new(1_000);
    rtmp.video.packets_per_frame = 1;
    rtmp.run(&mut world, 1);
    let viewer = world.subscriber(Wish::on(0));
    rtmp.run(&mut world, 1);
    world.pli(viewer);
    world.run(4);
    rtmp.frame(&mut world);
    world.run(12);
    let mut next = Video::h264(600, 7_000);
    for index in 0..5 {
        let packets = external(next.frame(index == 0), Codec::H264, Time::from_ms(index * FRAME_MS), 0);
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(2), packets });
        world.run(FRAME_MS);
    }
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 4 + 4 + 16, "three frames, again, and the next source's five");
    assert_rising(&frame_times(&got));
}

/// However many watch: a join is looked after by itself, and who has nothing due is not looked at.
#[test]
fn a_join_is_no_work_for_those_who_watch() {
    let mut world = World::new(1);
    for _ in 0..20 {
        world.subscriber(Wish::on(0));
    }
    world.run(100);
    world.nodes[0].looked_after = 0;
    world.subscriber(Wish::on(0));
    world.run(100);
    let looked_after = world.nodes[0].looked_after;
    assert!((1..=3).contains(&looked_after), "{looked_after} times for one join");
    // A report each second for each, and no more.
    let mut rtmp = Rtmp::new(10);
    rtmp.run(&mut world, 30);
    world.nodes[0].looked_after = 0;
    rtmp.run(&mut world, 3 * 1_000 / FRAME_MS as usize);
    let looked_after = world.nodes[0].looked_after;
    assert!((2 * 21..=4 * 21).contains(&looked_after), "{looked_after} times for 21 viewers in 3 s");
}

/// A shard with viewers whose first flight has come, and nobody has worked on it.
fn with_waiting_handshakes(viewers: usize) -> World {
    let mut world = World::new(1);
    world.patient = true;
    for _ in 0..viewers {
        world.add_subscriber(Wish::on(0));
    }
    world.run(40);
    world
}

fn dtls_out(world: &World) -> u64 {
    world.nodes[0].metrics.packets_out.of(PacketKind::Dtls).get()
}

#[test]
fn media_does_not_wait_for_a_storm_of_handshakes() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut rtmp = Rtmp::new(10);
    rtmp.run(&mut world, 3);
    world.patient = true;
    let joining: Vec<usize> = (0..10).map(|_| world.add_subscriber(Wish::on(0))).collect();
    let (before, seen) = (dtls_out(&world), world.peers[viewer].video().len());
    world.run(40);
    rtmp.frame(&mut world);
    assert_eq!(dtls_out(&world), before, "handshakes wait");
    assert_eq!(world.nodes[0].shard.next_timeout(), Time::ZERO, "and the shard is not to sleep");
    world.run(10);
    assert!(world.peers[viewer].video().len() > seen, "media does not");
    // One piece of work is one datagram.
    let node = &mut world.nodes[0];
    assert!(node.shard.handle_handshake(world.now, &mut node.out));
    let one = dtls_out(&world) - before;
    assert!((1..=5).contains(&one), "a flight, not {one} datagrams");
    world.patient = false;
    world.run(2_000);
    assert!(joining.iter().all(|peer| world.peers[*peer].client.is_connected()));
}

#[test]
fn one_session_cannot_fill_the_queue_of_handshakes() {
    let mut world = with_waiting_handshakes(2);
    let hello = world.peers[0].sent.iter().find(|d| d[0] == 22).expect("a ClientHello").clone();
    let from = world.peers[0].address;
    for _ in 0..100 {
        world.datagram(0, &hello, from);
    }
    let dropped = world.nodes[0].metrics.drops(DropReason::HandshakeBacklog);
    assert!((84..100).contains(&dropped), "{dropped} of 100");
    world.patient = false;
    world.run(2_000);
    assert!(world.peers[1].client.is_connected());
}

#[test]
fn thirty_joins_in_a_second_cost_the_browser_two_key_frames() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish { shard: 0, medias: negotiated(&[Codec::Vp8], true) }, 1);
    let mut video = Video::vp8(500, 100);
    let mut answered = 0;
    let mut frame = |world: &mut World, first: bool| {
        let asked = world.peers[publisher].plis();
        let frame = video.frame(first || asked > answered);
        answered = asked;
        world.send(publisher, frame);
        world.run(FRAME_MS);
    };
    (0..60).for_each(|index| frame(&mut world, index == 0));
    let mut viewers = Vec::new();
    for _ in 0..30 {
        viewers.push(world.add_subscriber(Wish::on(0)));
        frame(&mut world, false);
    }
    (0..15).for_each(|_| frame(&mut world, false));
    let asked = world.peers[publisher].plis();
    assert!((1..=2).contains(&asked), "{asked}");
    for viewer in viewers {
        let got = world.peers[viewer].video();
        assert_contiguous(&got);
        assert!(got.len() >= 15 * 3 && got[0].payload[..2] == [0x10, 0x00], "{} packets", got.len());
    }
}
