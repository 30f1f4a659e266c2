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
