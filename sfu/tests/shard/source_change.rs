//! The source behind a track changes; numbers and time of its viewers go on.

use std::sync::atomic::Ordering;

use media::{Codec, Time};
use metrics::DropReason;
use sfu::{CloseReason, Command, Event, Mail, SourceId};

use crate::camera::{FRAME_MS, FRAME_TICKS, Video, external, negotiated};
use crate::world::{VIDEO, Wish, World, assert_contiguous, numbers, times};

fn send(world: &mut World, publisher: usize, video: &mut Video, frames: usize, key: bool) {
    for index in 0..frames {
        world.send(publisher, video.frame(key && index == 0));
        world.run(FRAME_MS);
    }
}

fn leave(world: &mut World, publisher: usize) {
    let (id, shard) = (world.peers[publisher].id, world.peers[publisher].shard);
    world.command(shard, Command::RemovePeer(id, CloseReason::Left));
}

/// Asserts that from one packet to the next time goes on by what passed on the clock, and a frame at most.
fn assert_time_goes_on(world: &World, viewer: usize) {
    let got = world.peers[viewer].video();
    let times = times(&got);
    for (pair, at) in times.windows(2).zip(got.windows(2)) {
        let passed = at[1].at.since(at[0].at) * 90 / 1_000;
        let step = pair[1] - pair[0];
        assert!((0..=passed + i64::from(FRAME_TICKS)).contains(&step), "{step} ticks in {passed}");
    }
    let total = times.last().unwrap() - times[0];
    let passed = got.last().unwrap().at.since(got[0].at) * 90 / 1_000;
    assert!((total - passed).abs() <= 3 * i64::from(FRAME_TICKS), "{total} ticks in {passed}");
}

#[test]
fn another_publisher_goes_on_where_the_last_one_left() {
    let mut world = World::new(2);
    let first = world.publisher(Wish::on(0), 1);
    let viewers = [0, 1].map(|shard| world.subscriber(Wish::on(shard)));
    let mut video = Video::vp8(500, 60_000);
    send(&mut world, first, &mut video, 30, true);
    leave(&mut world, first);
    world.run(500);

    let second = world.publisher(Wish::on(0), 2);
    let mut video = Video::vp8(501, 3);
    video.timestamp = 4_000_000_000;
    send(&mut world, second, &mut video, 6, false);
    let counts = viewers.map(|v| world.peers[v].video().len());
    assert_eq!(counts, [90, 90], "nothing can be decoded before a key frame");
    assert!(world.peers[second].plis() >= 1, "so one is asked for");
    send(&mut world, second, &mut video, 30, true);
    for viewer in viewers {
        let got = world.peers[viewer].video();
        assert_eq!(got.len(), 180);
        assert_contiguous(&got);
        assert_time_goes_on(&world, viewer);
    }
}

#[test]
fn a_newer_publisher_shuts_the_older_out() {
    let mut world = World::new(1);
    let first = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let (mut old, mut new) = (Video::vp8(500, 100), Video::vp8(501, 40_000));
    send(&mut world, first, &mut old, 10, true);
    let second = world.publisher(Wish::on(0), 2);
    for index in 0..20 {
        world.send(first, old.frame(false));
        world.send(second, new.frame(index == 0));
        world.run(FRAME_MS);
    }
    assert!(world.drops(0, DropReason::NoTrack) >= 57, "the older one's");
    let got = world.peers[viewer].video();
    assert_contiguous(&got);
    assert!(
        got.len() >= 90 && got[33..].iter().all(|g| g.payload.windows(4).any(|w| w == 501_u32.to_be_bytes()))
    );
    // The older one's end is not the stream's.
    leave(&mut world, first);
    send(&mut world, second, &mut new, 5, false);
    assert_eq!(world.peers[viewer].video().len(), got_len(&world, viewer));
    assert_time_goes_on(&world, viewer);
    assert!(world.peers[second].plis() <= 1);
}

fn got_len(world: &World, viewer: usize) -> usize {
    let numbers = numbers(&world.peers[viewer].video());
    (numbers.last().unwrap() - numbers[0]) as usize + 1
}

#[test]
fn from_rtmp_to_a_browser_and_from_vp8_to_h264() {
    let mut world = World::new(1);
    let both = world.subscriber(Wish::on(0));
    let h264_only = world.subscriber(Wish { shard: 0, medias: negotiated(&[Codec::H264], true) });
    let mut rtmp = Video::h264(500, 0);
    for index in 0..30 {
        let packets =
            external(rtmp.frame(index == 0), Codec::H264, Time::from_ms(3_000_000 + index * FRAME_MS), 0);
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(1), packets });
        world.run(FRAME_MS);
    }
    assert_eq!(world.peers[h264_only].video().len(), 91);

    let browser = world.publisher(Wish::on(0), 2);
    let mut video = Video::vp8(501, 50_000);
    send(&mut world, browser, &mut video, 30, true);
    world.command(0, Command::EndSource(VIDEO, SourceId(1)));
    let mut video = Video::h264(502, 9);
    leave(&mut world, browser);
    let browser = world.publisher(Wish::on(0), 3);
    send(&mut world, browser, &mut video, 30, true);

    let got = world.peers[both].video();
    assert_eq!(got.len(), 91 + 90 + 91);
    assert_contiguous(&got);
    assert_time_goes_on(&world, both);
    let types: Vec<u8> = got.iter().map(|g| g.header.payload_type).collect();
    assert!(types[..91].iter().all(|t| *t == 102) && types[91..181].iter().all(|t| *t == 96));
    assert!(types[181..].iter().all(|t| *t == 102));

    // Who did not negotiate VP8 was told so; the other went on.
    assert_eq!(world.peers[h264_only].video().len(), 91);
    let closed: Vec<_> = world.nodes[0]
        .events
        .iter()
        .filter_map(|e| if let Event::Closed(id, reason) = e { Some((*id, *reason)) } else { None })
        .collect();
    let id = world.peers[h264_only].id;
    assert!(closed.contains(&(id, CloseReason::CodecNotNegotiated(Codec::Vp8))), "{closed:?}");
    assert_eq!(closed.len(), 2, "it and the first browser: {closed:?}");
}

#[test]
fn a_cut_frame_is_followed_by_a_gap_that_nothing_fills() {
    let mut world = World::new(1);
    let first = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    send(&mut world, first, &mut video, 5, true);
    let mut cut = video.frame(false);
    cut.pop();
    world.send(first, cut);
    world.run(20);
    leave(&mut world, first);
    let second = world.publisher(Wish::on(0), 2);
    let mut video = Video::vp8(501, 100);
    send(&mut world, second, &mut video, 5, true);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 32);
    let gap = got[16].header.seq + 1;
    assert_eq!(got[17].header.seq, gap + 1);
    world.nack(viewer, &[gap]);
    world.run(20);
    assert_eq!(world.peers[viewer].stats.resent.load(Ordering::Relaxed), 0);
}

#[test]
fn another_ssrc_in_the_same_session_goes_on() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 60_000);
    send(&mut world, publisher, &mut video, 20, true);
    let mut video = Video::vp8(600, 10);
    video.timestamp = 7;
    send(&mut world, publisher, &mut video, 20, true);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 120);
    assert_contiguous(&got);
    assert_time_goes_on(&world, viewer);
}

#[test]
fn a_jump_of_numbers_costs_the_viewers_a_key_frame_and_no_more() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    send(&mut world, publisher, &mut video, 20, true);
    // As far as a 16-bit number can say ahead, again and again.
    for _ in 0..6 {
        let far = {
            video.seq += 32_000;
            video.frame(false)
        };
        let further = {
            video.seq += 32_000;
            video.frame(false)
        };
        world.send(publisher, far);
        world.send(publisher, further);
        world.run(FRAME_MS);
    }
    send(&mut world, publisher, &mut video, 20, true);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 120);
    assert_contiguous(&got);
    assert!(world.peers[publisher].plis() >= 1);
}

#[test]
fn early_packets_of_a_new_source_do_not_land_among_the_last_ones() {
    let mut world = World::new(1);
    let first = world.publisher(Wish::on(0), 1);
    world.command(0, Command::Tap(VIDEO));
    let mut video = Video::vp8(500, 100);
    world.peers[first].up.drop = Box::new(|h| h.seq == 180);
    send(&mut world, first, &mut video, 32, true);
    let second = world.publisher(Wish::on(0), 2);
    let mut video = Video::vp8(501, 7_000);
    let mut early = video.clone().frame(false).remove(0);
    send(&mut world, second, &mut video, 1, true);
    // The hole is 15 before the last source's end, which is 64 before the new one's start.
    (early.seq, early.payload[1]) = (7_000 - 64 - 15, 9);
    world.send(second, [early.clone()]);
    world.run(20);
    assert_eq!(world.drops(0, DropReason::TooOld), 1);
    let tapped = |e: &Event| matches!(e, Event::Tapped(_, packets) if packets.iter().any(|p| p.payload == early.payload));
    assert!(!world.nodes[0].events.iter().any(tapped));
}

#[test]
fn a_new_source_is_asked_for_a_key_frame_though_the_last_one_owes_one() {
    let mut world = World::new(1);
    let first = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    send(&mut world, first, &mut Video::vp8(500, 100), 20, true);
    let asked = world.now;
    world.pli(viewer);
    world.run(100);
    assert_eq!(world.peers[first].plis(), 1);
    leave(&mut world, first);
    let second = world.publisher(Wish::on(0), 2);
    let left_ms = 220 - world.now.since(asked) / 1_000;
    world.run(left_ms);
    send(&mut world, second, &mut Video::vp8(501, 100), 2, false);
    assert_eq!(world.peers[second].plis(), 1);
}
