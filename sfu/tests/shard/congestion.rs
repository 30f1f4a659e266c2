//! A viewer whose link takes less than there is: what it gets, and that nobody else sees any of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use media::Time;
use metrics::DropReason;
use rtc::rtcp;
use rtc::rtcp::twcc::feedback_packet;

use crate::camera::{FRAME_MS, Video};
use crate::source::Source;
use crate::world::{Got, Random, Wish, World, assert_contiguous, numbers};

#[test]
fn every_packet_has_a_transport_wide_number() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::numbered(0));
    let mut source = Source::new(3);
    source.run(&mut world, 300);
    let lost: Vec<u16> = world.peers[viewer].video().iter().map(|g| g.header.seq).take(4).collect();
    world.nack(viewer, &lost);
    source.run(&mut world, 300);
    let peer = &world.peers[viewer];
    let all: Vec<u16> = peer.got.iter().map(|g| g.number.expect("a number")).collect();
    assert!(all.windows(2).all(|w| w[1] == w[0].wrapping_add(1)), "one count for all: {all:?}");
    for ssrc in [peer.audio_ssrc, peer.video_ssrc, peer.rtx_ssrc] {
        assert!(peer.of_ssrc(ssrc).len() >= 4);
    }

    // Without RTX, and with NACK, a retransmission is the same bytes again: that stream has none, and the rest of the session would say nothing of
    // the link.
    let (numbered, mut plain) = (viewer, Wish::numbered(0));
    plain.medias[1].codecs.iter_mut().for_each(|c| c.rtx_pt = None);
    let viewer = world.subscriber(plain);
    source.run(&mut world, 2_100);
    let asked = world.peers[viewer].video().last().unwrap().header.seq;
    world.nack(viewer, &[asked]);
    source.run(&mut world, 100);
    let peer = &world.peers[viewer];
    let copies: Vec<_> = peer.video().into_iter().filter(|g| g.header.seq == asked).collect();
    assert_eq!((copies.len(), &copies[0].sealed), (2, &copies[1].sealed));
    assert!(peer.got.iter().all(|g| g.number.is_none()));
    // Sound did not negotiate NACK, and has them: another number under the same nonce is not sent, whoever asks.
    let peer = &world.peers[numbered];
    let (sound, resent) =
        (peer.of_ssrc(peer.audio_ssrc).last().unwrap().header.seq, peer.stats.resent.load(Ordering::Relaxed));
    let mut nack = Vec::new();
    rtcp::nack(&mut nack, 1, peer.audio_ssrc, &[sound]);
    world.rtcp(numbered, &nack);
    source.run(&mut world, 100);
    let peer = &world.peers[numbered];
    let copies = peer.of_ssrc(peer.audio_ssrc).iter().filter(|g| g.header.seq == sound).count();
    assert_eq!((copies, peer.stats.resent.load(Ordering::Relaxed)), (1, resent));
}

/// What viewers got, apart from their keys.
fn seen(world: &World, viewers: &[usize]) -> Vec<Vec<(Time, u16, Vec<u8>)>> {
    let of = |viewer: &usize| {
        let got = &world.peers[*viewer].got;
        got.iter().map(|g| (g.at, g.header.seq, g.payload.clone())).collect()
    };
    viewers.iter().map(of).collect()
}

#[test]
fn a_dead_slow_viewer_hurts_nobody() {
    let play = |slow: Option<u64>| {
        let mut world = World::new(1);
        let viewers: Vec<usize> = (0..6).map(|_| world.subscriber(Wish::numbered(0))).collect();
        world.peers[viewers[2]].down.rate_bps = slow;
        // Frames of two slices, so that all wait for the pacer.
        let mut source = Source::new(12);
        source.run(&mut world, 5_000);
        let others: Vec<usize> = viewers.iter().copied().filter(|v| *v != viewers[2]).collect();
        (seen(&world, &others), world.peers[viewers[2]].got.len())
    };
    let (alone, all) = play(None);
    let (beside, few) = play(Some(60_000));
    assert!(few * 3 < all, "{few} of {all}");
    assert!(alone == beside, "the others get the same packets at the same times");
}

/// The frames that came: time stamp, packets, whether the last has the marker, when it was complete.
fn frames(got: &[&Got]) -> Vec<(u32, usize, bool, Time)> {
    let mut all: Vec<(u32, usize, bool, Time)> = Vec::new();
    for g in got {
        match all.last_mut().filter(|f| f.0 == g.header.timestamp) {
            Some(frame) => (frame.1, frame.2, frame.3) = (frame.1 + 1, frame.2 | g.header.marker, g.at),
            None => all.push((g.header.timestamp, 1, g.header.marker, g.at)),
        }
    }
    all
}

/// Delay of each video packet from its frame's making to its arrival, in milliseconds, from `from` on. Time stamps are media time.
fn delays_ms(world: &World, viewer: usize, from: Time) -> Vec<i64> {
    let first = world.peers[viewer].video()[0];
    let (at, timestamp) = (first.at, first.header.timestamp);
    let delay = |g: &&Got| {
        let made = i64::from(g.header.timestamp.wrapping_sub(timestamp)) / 90;
        g.at.since(at) / 1_000 - made + 5
    };
    world.peers[viewer].video().iter().filter(|g| g.at >= from).map(delay).collect()
}

#[test]
fn a_link_of_half_the_rate_gets_whole_frames_and_all_sound() {
    for discardable in [false, true] {
        let mut world = World::new(1);
        let viewer = world.subscriber(Wish::numbered(0));
        world.peers[viewer].down.delay_us = 20_000;
        // 7 packets of 1100 bytes, 30 times a second: 1.9 Mbit/s; a key frame each 2 s.
        let mut source = Source { discardable, marks_keys: discardable, ..Source::new(7) };
        source.run(&mut world, 4_000);
        let whole = world.peers[viewer].video().len();
        assert!(whole > 800, "a good link: all of it, {whole}");
        world.peers[viewer].down.rate_bps = Some(1_000_000);
        world.peers[viewer].down.queue_us_max = 3_000_000;
        let slow_from = world.now;
        source.run(&mut world, 12_000);
        let slow_to = world.now;
        world.peers[viewer].down.rate_bps = Some(20_000_000);
        source.run(&mut world, 18_000);

        let peer = &world.peers[viewer];
        let video = peer.video();
        assert_contiguous(&video);
        let frames = frames(&video);
        let broken = frames.iter().filter(|f| !f.2 || f.1 < 7).count();
        assert_eq!(broken, 0, "whole frames only");
        let sound = peer.of_ssrc(peer.audio_ssrc);
        assert_contiguous(&sound);
        assert!(sound.len() >= 34_000 / 20 - 2, "{} packets of sound", sound.len());

        let slow = frames.iter().filter(|f| f.3 > slow_from.plus_ms(1_000) && f.3 < slow_to).count();
        assert!((40..11 * 30 * 3 / 4).contains(&slow), "{slow} frames in 11 s");
        let mut delays = delays_ms(&world, viewer, slow_from.plus_ms(3_000));
        delays.sort_unstable();
        let (p95, worst) = (delays[delays.len() * 95 / 100], delays[delays.len() - 1]);
        assert!(p95 < 700 && worst < 1_200, "queue and pacer: p95 {p95} ms, worst {worst} ms");
        let between = |from, to| frames.iter().filter(|f| f.3 > from && f.3 <= to).count();
        let soon = between(slow_to, slow_to.plus_ms(2_200));
        assert!(soon >= 5, "the next key frame and more: {soon}");
        let back = between(slow_to.plus_ms(13_000), world.now);
        assert!((145..=155).contains(&back), "{back} frames in the last 5 s");
        let left_out = peer.stats.frames_congested.load(Ordering::Relaxed);
        assert!(left_out > 60, "{left_out}");
        let reason =
            if discardable { DropReason::CongestedDiscardable } else { DropReason::CongestedToKeyFrame };
        assert!(world.drops(0, reason) > 0);
    }
}

#[test]
fn a_slow_viewer_costs_a_browser_few_key_frames_and_gets_one_when_its_link_is_better() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::numbered(0));
    world.peers[viewer].down.queue_us_max = 3_000_000;
    let mut video = Video { packets_per_frame: 7, ..Video::vp8(500, 100) };
    let (mut answered, mut stands) = (0, 0);
    let mut run = |world: &mut World, seconds: usize| {
        for index in 0..seconds * 30 {
            let asked = world.peers[publisher].plis();
            let mut frame = video.frame(asked > answered || video.timestamp < 4_000);
            answered = asked;
            frame.iter_mut().for_each(|p| p.payload.resize(1_100, 0));
            world.send(publisher, frame);
            world.run(FRAME_MS);
            // Its picture stands still: it asks, five times a second.
            let left_out = world.peers[viewer].stats.frames_congested.load(Ordering::Relaxed);
            if index % 6 == 0 && left_out > stands {
                world.pli(viewer);
            }
            stands = left_out;
        }
    };
    run(&mut world, 4);
    let before = world.peers[publisher].plis();
    world.peers[viewer].down.rate_bps = Some(700_000);
    run(&mut world, 20);
    let asked = world.peers[publisher].plis() - before;
    assert!((7..=10).contains(&asked), "{asked} key frames in 20 s, one each 2 s");
    world.peers[viewer].down.rate_bps = Some(20_000_000);
    run(&mut world, 12);
    let seen = world.peers[viewer].video().len();
    run(&mut world, 2);
    let got = world.peers[viewer].video();
    assert_eq!(got.len() - seen, 2 * 30 * 7, "all of it again");
    assert_contiguous(&got);
}

#[test]
fn a_viewer_without_numbers_is_believed_by_its_remb() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut source = Source::new(7);
    let say = |world: &mut World, source: &mut Source, bps: u64, seconds: usize| {
        let before = world.peers[viewer].got.iter().map(|g| g.sealed.len()).sum::<usize>();
        for _ in 0..seconds {
            let mut remb = Vec::new();
            rtcp::remb(&mut remb, 1, bps, &[2]);
            world.rtcp(viewer, &remb);
            if world.now > Time::from_ms(2_000) {
                world.report(viewer);
            }
            source.run(world, 990);
        }
        world.peers[viewer].got.iter().map(|g| g.sealed.len()).sum::<usize>() - before
    };
    say(&mut world, &mut source, 5_000_000, 4);
    assert_eq!(world.peers[viewer].stats.frames_congested.load(Ordering::Relaxed), 0);
    let few = say(&mut world, &mut source, 600_000, 8) * 8 / 8;
    assert!(few < 700_000, "{few} bit/s");
    assert!(world.peers[viewer].stats.frames_congested.load(Ordering::Relaxed) > 60);
    assert_contiguous(&world.peers[viewer].video());
    say(&mut world, &mut source, 5_000_000, 10);
    let all = say(&mut world, &mut source, 5_000_000, 4) * 8 / 4;
    assert!(all > 1_800_000, "{all} bit/s: back");
}

/// Probes upwards: a link that gets wide again.
fn widened(world: &mut World, viewer: usize, source: &mut Source) {
    source.run(world, 3_000);
    world.peers[viewer].down.queue_us_max = 3_000_000;
    world.peers[viewer].down.rate_bps = Some(400_000);
    source.run(world, 6_000);
    world.peers[viewer].down.rate_bps = Some(20_000_000);
    source.run(world, 10_000);
}

/// The number that a packet of the RTX stream repeats, and its payload; none of padding.
fn original(got: &Got) -> Option<(u16, &[u8])> {
    let (number, payload) = got.payload.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), payload))
}

#[test]
fn probes_are_copies_and_padding_that_no_decoder_sees() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::numbered(0));
    widened(&mut world, viewer, &mut Source::new(3));
    let peer = &world.peers[viewer];
    let probes = peer.of_ssrc(peer.rtx_ssrc);
    assert!(probes.iter().all(|g| g.header.payload_type == 103 && g.number.is_some()));
    assert!(peer.video().iter().all(|g| !g.payload.is_empty()));
    assert_contiguous(&peer.video());
    let rtx = numbers(&probes);
    assert!(rtx.windows(2).all(|w| w[1] > w[0]));
    let copies: Vec<&&Got> = probes.iter().filter(|g| original(g).is_some()).collect();
    assert!(copies.len() >= 5, "{}", copies.len());
    let firsts: Vec<u16> = copies[..4].iter().filter_map(|g| original(g)).map(|(number, _)| number).collect();
    assert!(firsts.windows(2).all(|w| w[1] == w[0] - 1), "the newest first: {firsts:?}");
    // Each is a packet that was sent within the last second, byte for byte; nobody asked, and nothing counts as an answer.
    for copy in &copies {
        let (number, payload) = original(copy).unwrap();
        let sent = peer.video().into_iter().find(|g| g.header.seq == number).unwrap();
        assert!(sent.payload == payload && sent.header.timestamp == copy.header.timestamp);
        assert!(copy.at.since(sent.at) <= 1_050_000, "{} us old", copy.at.since(sent.at));
    }
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    assert_eq!(read(&peer.stats.probe_copies), copies.len() as u64);
    let bytes: usize = copies.iter().map(|g| g.payload.len() + 12 + 8).sum();
    assert_eq!(read(&peer.stats.probe_copy_bytes), bytes as u64);
    assert_eq!((read(&peer.stats.resent), read(&peer.stats.resent_bytes)), (0, 0));
    assert_eq!(world.nodes[0].metrics.probe_copies_out.get(), copies.len() as u64);
    assert_eq!(world.nodes[0].metrics.retransmissions_out.get(), 0);
}

#[test]
fn what_feedback_says_is_lost_goes_again_unasked_until_it_arrives() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::numbered(0));
    let mut source = Source::new(3);
    source.run(&mut world, 3_000);
    // One packet is lost, and its first two copies; nothing is ever asked for.
    let video = world.peers[viewer].video_ssrc;
    let rtx = world.peers[viewer].rtx_ssrc;
    let lost = numbers(&world.peers[viewer].video()).last().unwrap() + 5;
    let (copies, mut left) = (world.peers[viewer].of_ssrc(rtx).len(), 2);
    world.peers[viewer].down.drop = Box::new(move |h| {
        let drops = (h.ssrc == video && h.seq == lost as u16) || (h.ssrc == rtx && left > 0);
        left -= usize::from(drops && h.ssrc == rtx);
        drops
    });
    world.report(viewer);
    source.run(&mut world, 1_000);
    let peer = &world.peers[viewer];
    let stats = &peer.stats;
    let came: Vec<u16> =
        peer.of_ssrc(rtx)[copies..].iter().filter_map(|g| original(g)).map(|(number, _)| number).collect();
    assert_eq!(came, [lost as u16]);
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    assert_eq!((read(&stats.nacks_in), read(&stats.resent), read(&stats.resent_unasked)), (0, 3, 3));
}

#[test]
fn a_number_that_was_asked_for_is_not_sent_again_by_feedback_on_the_packet_lost_first() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::numbered(0));
    let mut source = Source::new(3);
    source.run(&mut world, 3_000);
    let video = world.peers[viewer].video_ssrc;
    let lost = (numbers(&world.peers[viewer].video()).last().unwrap() + 5) as u16;
    world.peers[viewer].down.drop = Box::new(move |h| h.ssrc == video && h.seq == lost);
    // The guard knows a round trip of 10 ms, and feedback comes each 50 to 100.
    world.report(viewer);
    let mut asked = false;
    for _ in 0..500 {
        source.run(&mut world, 1);
        let came = numbers(&world.peers[viewer].video()).last().is_some_and(|n| *n as u16 > lost);
        if came && !asked {
            asked = true;
            world.nack(viewer, &[lost]);
        }
    }
    let stats = &world.peers[viewer].stats;
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    assert!(asked);
    assert_eq!((read(&stats.resent), read(&stats.resent_unasked)), (1, 0));
}

#[test]
fn a_number_that_a_probe_sent_again_is_not_sent_again_within_a_round_trip() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::numbered(0));
    let mut source = Source::new(3);
    let copied = |world: &World| {
        let peer = &world.peers[viewer];
        peer.of_ssrc(peer.rtx_ssrc).into_iter().rev().find_map(|g| original(g).map(|(n, _)| n))
    };
    while copied(&world).is_none() {
        source.run(&mut world, 1);
        assert!(world.now < Time::from_ms(20_000), "no probe sent anything again");
    }
    let number = copied(&world).unwrap();
    let stats = world.peers[viewer].stats.clone();
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    world.nack(viewer, &[number]);
    world.run(15);
    assert_eq!((read(&stats.resent), read(&stats.nacks_refused)), (0, 1));
    world.run(60);
    world.nack(viewer, &[number]);
    world.run(15);
    assert_eq!((read(&stats.resent), read(&stats.nacks_refused)), (1, 1));
}

/// The time stamps of frames by number of packets, for a look at what a catch-up left out.
fn sizes(got: &[&Got]) -> BTreeMap<usize, usize> {
    let mut sizes = BTreeMap::new();
    for (_, packets, ..) in frames(got) {
        *sizes.entry(packets).or_default() += 1;
    }
    sizes
}

#[test]
fn a_joiner_gets_the_references_of_the_gop_and_then_all() {
    for marks_keys in [false, true] {
        let mut world = World::new(1);
        let mut source = Source { discardable: true, marks_keys, gop: 200, ..Source::new(3) };
        (0..100).for_each(|_| {
            source.frame(&mut world);
            world.run(FRAME_MS);
        });
        let viewer = world.subscriber(Wish::numbered(0));
        world.run(400);
        let got = world.peers[viewer].video();
        assert_contiguous(&got);
        assert_eq!(sizes(&got), BTreeMap::from([(3, 49), (4, 1)]), "the key frame and each second of 99");
        let before = got.len();
        (0..20).for_each(|_| {
            source.frame(&mut world);
            world.run(FRAME_MS);
        });
        let got = world.peers[viewer].video();
        assert_contiguous(&got);
        assert_eq!(got.len() - before, 60, "at the live point there is all of it");
        assert_eq!(world.drops(0, DropReason::CongestedDiscardable), 0);
    }
}

/// A transport-wide feedback of whatever bytes.
fn forged(random: &mut Random) -> Vec<u8> {
    let words = 2 + random.below(40) as u16;
    let mut compound = vec![0x80 | 15, 205];
    compound.extend((2 + words).to_be_bytes());
    compound.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    compound.extend((0..words * 4).map(|_| random.below(256) as u8));
    compound
}

#[test]
fn a_viewer_that_lies_about_what_arrived_gets_no_more_than_probes_and_its_budget() {
    let mut world = World::new(1);
    let honest = world.subscriber(Wish::numbered(0));
    let liar = world.subscriber(Wish::numbered(0));
    world.peers[liar].feedback = None;
    let mut source = Source::new(4);
    let mut random = Random(7);
    source.run(&mut world, 1_000);
    for round in 0..400_u64 {
        // All that was sent, and more, came at the same moment; and nonsense.
        let received: Vec<(u64, i64)> = (round * 12..round * 12 + 150).map(|n| (n, 0)).collect();
        let mut compound = Vec::new();
        feedback_packet(&mut compound, 1, 2, round as u8, round * 12, &received);
        world.rtcp(liar, &compound);
        world.rtcp(liar, &forged(&mut random));
        let mut remb = Vec::new();
        rtcp::remb(&mut remb, 1, random.below(u64::MAX), &[1]);
        world.rtcp(liar, &remb);
        let highest = world.peers[liar].video().last().unwrap().header.seq;
        let all: Vec<u16> = (0..100).map(|back| highest.wrapping_sub(back)).collect();
        world.nack(liar, &all);
        source.run(&mut world, 20);
    }
    let bytes = |peer: usize| world.peers[peer].got.iter().map(|g| g.sealed.len() as u64).sum::<u64>();
    let (asked, liars) = (bytes(honest), bytes(liar));
    assert!(liars < asked * 2, "{liars} for {asked}");
    let stats = &world.peers[liar].stats;
    let resent = stats.resent_bytes.load(Ordering::Relaxed);
    let sent = world.peers[liar].video().iter().map(|g| g.payload.len() as u64).sum::<u64>();
    assert!(resent < 30_000 + sent * 15 / 100, "{resent} bytes again of {sent}");
    assert!(world.peers[honest].video().len() > 1_000);
    assert_contiguous(&world.peers[honest].video());
}
