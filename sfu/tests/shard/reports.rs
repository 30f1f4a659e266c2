//! Sender reports to viewers, receiver reports to publishers.

use media::Codec;
use rtc::rtcp;
use sfu::{Mail, SourceId};

use crate::camera::{Audio, FRAME_MS, Video, external};
use crate::world::{AUDIO, Rtcp, UNIX_US, VIDEO, Wish, World};

/// Sender reports of an SSRC: when they came, wall clock in microseconds of the world's time, RTP time, packets.
fn reports(world: &World, viewer: usize, ssrc: u32) -> Vec<(i64, i64, u32, u32)> {
    let reports = world.peers[viewer].rtcp.iter().filter_map(|(at, r)| match r {
        Rtcp::SenderReport { ssrc: of, ntp, rtp, packets } if *of == ssrc => {
            Some((at.us(), rtcp::unix_us_from_ntp(*ntp) - UNIX_US, *rtp, *packets))
        }
        _ => None,
    });
    reports.collect()
}

#[test]
fn the_first_sender_report_follows_the_first_packet_and_then_one_comes_each_second() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    world.run(300);
    let mut video = Video::vp8(500, 100);
    for index in 0..100 {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    let peer = &world.peers[viewer];
    let reports = reports(&world, viewer, peer.video_ssrc);
    assert_eq!(reports.len(), 4, "{reports:?}");
    let first = peer.video()[0];
    assert!(reports[0].0 - first.at.us() <= 25_000);
    assert!(reports.windows(2).all(|w| (990_000..=1_030_000).contains(&(w[1].0 - w[0].0))));
    for (came, wall, rtp, packets) in reports {
        assert_eq!(came - wall, 5_000, "the wall clock is the time of sending");
        // The RTP time of now, on the line of what was sent.
        let expected = i64::from(first.header.timestamp) + (wall - (first.at.us() - 5_000)) * 90 / 1_000;
        assert!(
            (i64::from(rtp.wrapping_sub(expected as u32) as i32)).abs() <= 10 * 90 * 4,
            "within frames' drift"
        );
        let sent = peer.video().iter().filter(|g| g.at.us() - 5_000 <= wall).count();
        assert_eq!(packets as usize, sent);
    }
}

#[test]
fn audio_and_video_of_rtmp_share_one_clock() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let (mut video, mut audio) = (Video::h264(500, 0), Audio { ssrc: 501, seq: 0, timestamp: 0 });
    // Sound reaches us 200 ms after the picture of the same moment; what they share is the capture time.
    const AUDIO_LATE_MS: i64 = 200;
    let mut captured = Vec::new();
    for ms in 0..3_000_i64 {
        let now = world.now;
        if ms % FRAME_MS == 0 {
            let packets = external(video.frame(ms == 0), Codec::H264, now, 0);
            captured.push((packets[0].payload.clone(), now));
            world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(1), packets });
        }
        if ms % 20 == 0 {
            let packets = external(vec![audio.packet()], Codec::Opus, now.plus_ms(-AUDIO_LATE_MS), 0);
            captured.push((packets[0].payload.clone(), now.plus_ms(-AUDIO_LATE_MS)));
            world.mail(0, Mail::Packets { track: AUDIO, source: SourceId(1), packets });
        }
        world.run(1);
    }
    let peer = &world.peers[viewer];
    for (ssrc, hz) in [(peer.video_ssrc, 90_000), (peer.audio_ssrc, 48_000)] {
        let (_, wall, rtp, _) = *reports(&world, viewer, ssrc).last().unwrap();
        let mut checked = 0;
        for got in peer.of_ssrc(ssrc) {
            let Some((_, capture)) = captured.iter().find(|(payload, _)| *payload == got.payload) else {
                continue;
            };
            // What a receiver takes for the capture time of this packet.
            let ticks = i64::from(got.header.timestamp.wrapping_sub(rtp) as i32);
            let shown = wall + ticks * 1_000_000 / hz;
            assert!((shown - capture.us()).abs() <= 100, "{ssrc}: {shown} for {}", capture.us());
            checked += 1;
        }
        assert!(checked > 50);
    }
}

#[test]
fn the_publisher_is_told_what_was_lost() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    world.peers[publisher].up.drop = Box::new(|h| h.seq % 10 == 7);
    let mut video = Video::vp8(500, 100);
    for index in 0..100 {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    let reports: Vec<_> = world.peers[publisher]
        .rtcp
        .iter()
        .filter_map(|(at, r)| match r {
            Rtcp::Report { about: 500, fraction_lost, cumulative_lost, highest } => {
                Some((at.us(), *fraction_lost, *cumulative_lost, *highest))
            }
            _ => None,
        })
        .collect();
    assert!((3..=4).contains(&reports.len()), "{reports:?}");
    assert!(reports.windows(2).all(|w| (990_000..=1_030_000).contains(&(w[1].0 - w[0].0))));
    for (_, fraction, cumulative, highest) in &reports[1..] {
        assert!((23..=28).contains(fraction), "a tenth of 256: {fraction}");
        let sent = highest & 0xffff;
        let lost = (100..=sent).filter(|s| s % 10 == 7).count() as i32;
        assert_eq!(*cumulative, lost);
    }
}

/// As browsers do that send: the last reference time that came to the publisher, answered now.
fn answer_reference_time(world: &mut World, publisher: usize) {
    let p = &world.peers[publisher];
    let last = p.rtcp.iter().rev().find_map(|(at, r)| match r {
        Rtcp::ReferenceTime { from, ntp } => Some((*at, *from, *ntp)),
        _ => None,
    });
    let (at, from, ntp) = last.expect("a reference time came");
    let delay = (world.now.since(at) * 65_536 / 1_000_000) as u32;
    let mut compound = Vec::new();
    rtcp::delay_since_reference(&mut compound, 500, from, rtcp::ntp_middle(ntp), delay);
    world.rtcp(publisher, &compound);
}

/// Where all reports of one source were lost, the receiver goes on answering an old clock, with the path as it was then.
#[test]
fn the_answer_to_the_newest_clock_says_a_viewers_round_trip() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    let mut run = |world: &mut World| {
        for _ in 0..60 {
            world.send(publisher, video.frame(video.seq == 100));
            world.run(FRAME_MS);
        }
    };
    run(&mut world);
    let clocks = |world: &World| -> Vec<(media::Time, u64)> {
        let of = |(at, r): &(media::Time, Rtcp)| match r {
            Rtcp::SenderReport { ntp, .. } => Some((*at, *ntp)),
            _ => None,
        };
        world.peers[viewer].rtcp.iter().filter_map(of).collect()
    };
    let old = *clocks(&world).last().unwrap();
    let peer = &mut world.peers[viewer];
    (peer.up.delay_us, peer.down.delay_us) = (50_000, 50_000);
    run(&mut world);
    let new = *clocks(&world).last().unwrap();
    let now = world.now;
    let block = |ssrc: u32, (at, ntp): (media::Time, u64)| rtcp::ReportBlock {
        ssrc,
        lsr: rtcp::ntp_middle(ntp),
        dlsr: (now.since(at) * 65_536 / 1_000_000) as u32,
        ..rtcp::ReportBlock::default()
    };
    let peer = &world.peers[viewer];
    let blocks = [block(peer.audio_ssrc, new), block(peer.video_ssrc, old)];
    let mut compound = Vec::new();
    rtcp::receiver_report(&mut compound, 1, &blocks, "");
    world.rtcp(viewer, &compound);
    world.run(100);
    let rtt_us = world.peers[viewer].stats.rtt_us.load(std::sync::atomic::Ordering::Relaxed);
    assert!((99_000..=101_500).contains(&rtt_us), "{rtt_us}");
}

#[test]
fn a_publishers_round_trip_is_known_without_a_loss() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let peer = &mut world.peers[publisher];
    (peer.up.delay_us, peer.down.delay_us) = (60_000, 40_000);
    let mut video = Video::vp8(500, 100);
    let rtt_us =
        |world: &World| world.peers[publisher].stats.rtt_us.load(std::sync::atomic::Ordering::Relaxed);
    for index in 0..100 {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    let asked = world.peers[publisher].count(|r| matches!(r, Rtcp::ReferenceTime { .. }));
    assert!((2..=4).contains(&asked), "one a second, with the reports: {asked}");
    assert_eq!(rtt_us(&world), 0, "nothing was answered");
    answer_reference_time(&mut world, publisher);
    world.run(100);
    assert!((99_000..=101_500).contains(&rtt_us(&world)), "{}", rtt_us(&world));

    // The next loss is asked for again after 1.25 of it, without a repair to measure by.
    let mut lossy = video.frame(false);
    let lost = lossy.remove(1);
    world.send(publisher, lossy);
    world.run(400);
    let nacks: Vec<i64> = world.peers[publisher]
        .rtcp
        .iter()
        .filter_map(|(at, r)| match r {
            Rtcp::Nack { seqs, .. } if seqs == &[lost.seq as u16] => Some(at.us()),
            _ => None,
        })
        .collect();
    assert!(nacks.len() >= 2, "{nacks:?}");
    let spacing_ms = (nacks[1] - nacks[0]) / 1_000;
    assert!((124..=131).contains(&spacing_ms), "{spacing_ms}");
}

#[test]
fn a_viewer_that_sends_its_clock_is_told_its_round_trip() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    let mut sent = Vec::new();
    for index in 0..100 {
        // Several of them: the last before our report counts, and one answer is enough.
        if index > 60 && index % 4 == 0 {
            let ntp = rtcp::ntp_from_unix_us(9_000_000_000 + world.now.us());
            sent.push((world.now, rtcp::ntp_middle(ntp)));
            let mut compound = Vec::new();
            rtcp::reference_time(&mut compound, 77, ntp);
            world.rtcp(viewer, &compound);
        }
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    // Silence is not answered.
    for _ in 0..90 {
        world.send(publisher, video.frame(false));
        world.run(FRAME_MS);
    }
    let answers: Vec<_> = world.peers[viewer]
        .rtcp
        .iter()
        .filter_map(|(at, r)| match r {
            Rtcp::DelaySinceReference { about, last, delay } => Some((*at, *about, *last, *delay)),
            _ => None,
        })
        .collect();
    assert!((1..=2).contains(&answers.len()), "with our reports, one a second: {answers:?}");
    for (at, about, last, delay) in answers {
        assert_eq!(about, 77);
        let (sent_at, _) = sent.iter().find(|(_, middle)| *middle == last).expect("one of those sent");
        let rtt_us = at.since(*sent_at) - i64::from(delay) * 1_000_000 / 65_536;
        assert!((9_900..=10_100).contains(&rtt_us), "{rtt_us}");
    }
}

#[test]
fn what_answers_no_clock_of_ours_is_no_round_trip() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let mut video = Video::vp8(500, 100);
    for index in 0..40 {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
    let last = world.peers[publisher].rtcp.iter().rev().find_map(|(_, r)| match r {
        Rtcp::ReferenceTime { from, ntp } => Some((*from, rtcp::ntp_middle(*ntp))),
        _ => None,
    });
    let (from, last) = last.expect("a reference time came");
    for (about, last, delay) in
        [(from ^ 1, last, 0), (from, last ^ 1, 0), (from, 0, 0), (from, last, u32::MAX / 2)]
    {
        let mut compound = Vec::new();
        rtcp::delay_since_reference(&mut compound, 500, about, last, delay);
        world.rtcp(publisher, &compound);
    }
    world.run(20);
    assert_eq!(world.peers[publisher].stats.rtt_us.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// What a viewer hears nothing on for longer is a path that is lost: so pages find that, and a publisher's pause is none.
#[test]
fn a_viewer_to_whom_no_media_goes_hears_from_the_node_all_the_same() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    let mut frames = |world: &mut World, count: usize| {
        for index in 0..count {
            world.send(publisher, video.frame(index == 0));
            world.run(FRAME_MS);
        }
    };
    frames(&mut world, 90);
    assert_eq!(
        world.peers[viewer].empty_reports.iter().filter(|at| at.ms() > 600).count(),
        0,
        "media says enough"
    );
    let paused = world.now;
    world.run(3_000);
    let times: Vec<i64> = world.peers[viewer]
        .empty_reports
        .iter()
        .filter(|at| **at > paused)
        .map(|at| at.since(paused) / 1_000)
        .collect();
    assert!(times[0] <= 180, "{times:?}");
    assert!(times.windows(2).all(|w| w[1] - w[0] <= 180), "{times:?}");
    assert!((18..=40).contains(&times.len()), "{}: {times:?}", times.len());
}
