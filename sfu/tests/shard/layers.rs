//! Simulcast: encodings told apart by RID, one of them for each viewer, switches that make one stream.

use std::sync::atomic::Ordering;

use media::{Codec, Kind, Time};
use metrics::DropReason;
use proptest::prelude::*;
use sfu::{CloseReason, Command, Event, LayerReason, LayerRequest, TrackKey};

use crate::camera::{FRAME_MS, Video};
use crate::simulcast::{ANY, LOW, REPAIRED_ID, RID_ID, SSRC, Stage, check, is_entrance, origin};
use crate::world::{Got, STREAM, VIDEO, Wish, World, cases, times};

#[test]
fn viewers_get_the_best_and_what_they_ask_for_on_both_shards() {
    let mut stage = Stage::new(2, Codec::Vp8);
    let early = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.run(3_000);
    let late = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.run(500);
    for viewer in early.into_iter().chain(late) {
        assert_eq!(stage.shown(viewer), 2);
        let says = stage.says(viewer);
        assert_eq!((says.layer, says.height, says.reason), (2, 720, LayerReason::Best));
    }
    for viewer in early {
        stage.ask(viewer, LOW);
    }
    for viewer in early {
        let took = stage.until(viewer, 0, 200);
        println!("down by request after {took} ms");
    }
    stage.run(500);
    let says = stage.says(early[1]);
    assert_eq!((says.layer, says.height, says.reason), (0, 180, LayerReason::Request));
    assert!(late.iter().all(|v| stage.shown(*v) == 2), "others are not disturbed");
    stage.ask(early[0], LayerRequest { height_max: Some(400), ..ANY });
    stage.ask(early[1], LayerRequest { rate_bps_max: Some(150_000), ..ANY });
    early.iter().for_each(|v| assert!(stage.until(*v, 1, 420) <= 420));
    stage.ask(early[0], ANY);
    stage.ask(early[1], ANY);
    early.iter().for_each(|v| assert!(stage.until(*v, 2, 420) <= 420));
    stage.run(200);
    for viewer in early {
        assert_eq!(check(&stage.world, viewer).unwrap(), 3 + usize::from(stage.says(viewer).switches > 3));
    }
}

/// An encoding that nobody on another shard takes does not cross threads.
#[test]
fn another_shard_mirrors_what_is_taken_there_and_no_more() {
    let mut stage = Stage::new(2, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(1));
    stage.run(3_000);
    stage.world.mail.clear();
    stage.run(1_000);
    let crossed = |world: &World, layer: u8| {
        let of = |m: &sfu::Mail| matches!(m, sfu::Mail::Mirrored { track, .. } if track.layer == layer && track.kind == Kind::Video);
        world.mail.iter().filter(|(_, _, m)| of(m)).count()
    };
    assert_eq!([0, 1].map(|l| crossed(&stage.world, l)), [0, 0]);
    assert!(crossed(&stage.world, 2) >= 30);
    stage.ask(viewer, LOW);
    stage.until(viewer, 0, 300);
    stage.world.mail.clear();
    stage.run(1_000);
    assert_eq!([1, 2].map(|l| crossed(&stage.world, l)), [0, 0]);
}

#[test]
fn many_that_switch_cost_one_key_frame() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewers: Vec<usize> = (0..8).map(|_| stage.world.subscriber(Wish::on(0))).collect();
    stage.run(3_000);
    let before = stage.plis(0);
    viewers.iter().for_each(|v| stage.ask(*v, LOW));
    stage.run(400);
    assert!(viewers.iter().all(|v| stage.shown(*v) == 0));
    assert_eq!(stage.plis(0) - before, 1);
}

/// A request that the publisher does not listen to would be made again half a second later.
#[test]
fn a_publisher_is_asked_when_it_listens_whichever_encoding_it_was_asked_for() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    // It hears when it makes a frame.
    stage.deaf_ms = 300 - FRAME_MS;
    for layer in [0, 1, 2, 0, 2, 1] {
        stage.ask(viewer, LayerRequest { layer: Some(layer), ..ANY });
        let took = stage.until(viewer, usize::from(layer), 2_000);
        assert!(took <= 420, "layer {layer} after {took} ms");
    }
}

#[test]
fn a_layer_that_stops_is_left_at_once_and_taken_again_when_it_is_live() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    assert_eq!(stage.shown(viewer), 2);
    stage.stopped[2] = true;
    let took = stage.until(viewer, 1, 600);
    println!("fell back after {took} ms");
    stage.run(300);
    assert_eq!(stage.says(viewer).reason, LayerReason::Starved);
    stage.stopped[2] = false;
    stage.run(1_500);
    assert_eq!(stage.shown(viewer), 1, "not live yet");
    stage.run(1_000);
    assert_eq!(stage.shown(viewer), 2);
    assert_eq!(check(&stage.world, viewer).unwrap(), 3, "from the first that came to the best, down, up");
}

/// So long that its numbers begin anew: its height is not known any more, and nobody takes it who would ask for a key frame.
#[test]
fn a_layer_that_was_away_for_long_is_measured_anew() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    stage.stopped[2] = true;
    stage.run(9_000);
    assert_eq!(stage.shown(viewer), 1);
    stage.stopped[2] = false;
    let before = stage.plis(2);
    stage.run(4_000);
    assert_eq!(stage.shown(viewer), 2);
    assert!(stage.plis(2) - before <= 3);
    check(&stage.world, viewer).unwrap();
}

#[test]
fn the_estimate_decides_down_at_once_and_up_after_the_hold() {
    let mut stage = Stage::new(2, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(1));
    stage.run(3_000);
    assert_eq!(stage.shown(viewer), 2);
    stage.estimate(viewer, 64_000 + 130_000);
    let took = stage.until(viewer, 1, 300);
    println!("down by estimate after {took} ms");
    stage.run(200);
    assert_eq!(stage.says(viewer).reason, LayerReason::Estimate);
    stage.estimate(viewer, 2_000_000);
    stage.run(5_000);
    assert_eq!((stage.shown(viewer), stage.says(viewer).reason), (1, LayerReason::Hold));
    stage.run(4_000);
    assert_eq!((stage.shown(viewer), stage.says(viewer).reason), (2, LayerReason::Best));
    // Nothing fits: no picture, and the sound is not touched.
    stage.estimate(viewer, 64_000 + 10_000);
    stage.run(100);
    let before = stage.world.peers[viewer].video().len();
    stage.run(1_000);
    assert_eq!(stage.world.peers[viewer].video().len(), before);
    assert_eq!(stage.says(viewer).reason, LayerReason::PausedByEstimate);
    stage.estimate(viewer, u64::MAX);
    stage.run(9_000);
    assert_eq!(stage.shown(viewer), 2);
    check(&stage.world, viewer).unwrap();
}

/// Of the best, 1.6 Mbit/s, half of the frames fit: what the link does not take then is not sent, and nothing is short of anything.
#[test]
fn a_viewer_that_gets_some_temporal_layers_of_one_encoding_is_not_limited() {
    let mut stage = Stage::new(1, Codec::Vp8);
    stage.payload_len = 1_100;
    stage.cameras.iter_mut().for_each(|camera| camera.layered = true);
    let viewer = stage.world.subscriber(Wish::numbered(0));
    stage.world.peers[viewer].down.queue_us_max = 3_000_000;
    stage.world.peers[viewer].down.rate_bps = Some(1_300_000);
    stage.run(20_000);
    let stats = stage.world.peers[viewer].stats.clone();
    let left_out = || stats.frames_congested.load(Ordering::Relaxed);
    let (before, mut limited) = (left_out(), 0);
    for _ in 0..100 {
        stage.run(99);
        limited += usize::from(stats.limited.load(Ordering::Relaxed));
        let says = stage.says(viewer);
        assert_eq!((says.layer, says.temporal), (2, Some(1)), "{says:?}");
    }
    let needs = stats.needs_bps.load(Ordering::Relaxed);
    assert!((700_000..950_000).contains(&needs), "{needs}");
    assert!(limited <= 10 && left_out() == before, "{limited} {}", left_out() - before);
}

/// Where it begins is a key frame of a while ago, as on a shard that nobody has watched it on: frames above are left out from there on.
#[test]
fn an_encoding_begins_with_no_more_temporal_layers_than_were_asked_for() {
    let mut stage = Stage::new(2, Codec::Vp8);
    stage.cameras.iter_mut().for_each(|camera| camera.layered = true);
    let other = stage.world.subscriber(Wish::on(0));
    let viewer = stage.world.subscriber(Wish::on(1));
    stage.run(3_000);
    stage.ask(viewer, LOW);
    stage.until(viewer, 0, 400);
    stage.run(1_000);
    stage.world.pli(other);
    stage.run(660);
    let before = stage.world.peers[viewer].video().len();
    stage.ask(viewer, LayerRequest { layer: Some(2), temporal_max: Some(0), ..ANY });
    stage.until(viewer, 2, 100);
    stage.run(500);
    assert_eq!(upper_frames(&stage, viewer, before), []);
    check(&stage.world, viewer).unwrap();
}

/// Layers of the packets of temporal layers above the base that a viewer got of the best encoding.
fn upper_frames(stage: &Stage, viewer: usize, from: usize) -> Vec<u8> {
    let video = stage.world.peers[viewer].video();
    assert!(video.len() > from + 20, "{}", video.len());
    let best = video[from..].iter().filter(|got| origin(got).0 == SSRC + 2);
    best.map(|got| got.payload[5] >> 6).filter(|temporal| *temporal > 0).collect()
}

/// Who came paused has nothing when its encoding is chosen.
#[test]
fn a_viewer_that_has_nothing_yet_begins_with_no_more_than_it_asked_for() {
    let mut stage = Stage::new(1, Codec::Vp8);
    stage.cameras.iter_mut().for_each(|camera| camera.layered = true);
    stage.run(3_000);
    let viewer = stage.world.add_subscriber(Wish::on(0));
    stage.ask(viewer, LayerRequest { paused: true, ..ANY });
    stage.run(990);
    assert!(stage.world.peers[viewer].video().is_empty());
    stage.ask(viewer, LayerRequest { layer: Some(2), temporal_max: Some(0), ..ANY });
    stage.run(990);
    assert_eq!(upper_frames(&stage, viewer, 0), []);
    check(&stage.world, viewer).unwrap();
}

#[test]
fn a_viewer_pauses_and_goes_on_at_a_key_frame() {
    let mut stage = Stage::new(1, Codec::H264);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    stage.ask(viewer, LayerRequest { paused: true, ..ANY });
    stage.run(100);
    let before = stage.world.peers[viewer].video().len();
    stage.run(2_000);
    assert_eq!(stage.world.peers[viewer].video().len(), before);
    assert_eq!(stage.says(viewer).reason, LayerReason::PausedByRequest);
    stage.ask(viewer, ANY);
    stage.run(300);
    let peer = &stage.world.peers[viewer];
    assert!(is_entrance(peer.video()[before]), "it goes on with a key frame");
    let (passed, real) = {
        let (all, times) = (peer.video(), times(&peer.video()));
        (times[before] - times[before - 1], all[before].at.since(all[before - 1].at))
    };
    assert!((passed * 1_000 / 90 - real).abs() < 100_000, "time stood for {passed} ticks of {real} us");
    check(&stage.world, viewer).unwrap();
}

/// A conversion gets one track, whatever it is made of.
#[test]
fn the_tap_follows_the_best_in_one_numbering() {
    let mut stage = Stage::new(1, Codec::H264);
    stage.run(3_000);
    stage.world.command(0, Command::Tap(VIDEO));
    stage.run(1_000);
    stage.stopped[2] = true;
    stage.run(1_500);
    stage.stopped[2] = false;
    stage.run(3_000);
    let tapped: Vec<_> = stage.world.nodes[0]
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Tapped(key, packets) => Some((*key, packets.clone())),
            _ => None,
        })
        .collect();
    assert!(tapped.iter().all(|(key, _)| *key == VIDEO));
    let packets: Vec<_> = tapped.into_iter().flat_map(|(_, packets)| packets).collect();
    let mut fresh = 0;
    for pair in packets.windows(2) {
        let [before, after] = [&pair[0], &pair[1]];
        fresh += usize::from(after.fresh_source);
        assert_eq!(after.seq - before.seq, if after.fresh_source { 64 } else { 1 });
        assert!(!after.fresh_source || after.key_start);
        assert!(after.timestamp >= before.timestamp);
        let passed = after.capture.since(before.capture);
        assert!(
            (after.timestamp - before.timestamp - Time(passed).ticks(90_000)).abs() < 1_500,
            "in step with capture: {} of {passed} us, fresh: {}",
            after.timestamp - before.timestamp,
            after.fresh_source
        );
    }
    assert_eq!(fresh, 2, "down and up again");
    let asked = stage.plis(2);
    stage.world.command(0, Command::RequestKeyFrame(VIDEO));
    stage.run(300);
    assert_eq!(stage.plis(2), asked + 1, "the track that is tapped is asked");
    stage.world.command(0, Command::Untap(VIDEO));
    stage.world.nodes[0].events.clear();
    stage.run(300);
    assert!(!stage.world.nodes[0].events.iter().any(|e| matches!(e, Event::Tapped(..))));
}

/// A publisher without encodings takes the name: nobody stays on an encoding of the one before, and nothing of it comes through.
#[test]
fn a_plain_publisher_after_one_with_encodings() {
    let mut stage = Stage::new(2, Codec::Vp8);
    let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.run(3_000);
    let plain = stage.world.publisher(Wish::on(0), 2);
    let mut camera = Video::vp8(900, 5);
    for i in 0..60 {
        let asked = stage.world.peers[plain].plis() > 0;
        let packets = camera.frame(i == 0 || (asked && i % 10 == 0));
        stage.world.send(plain, packets);
        // The one before does not know yet.
        stage.frame();
    }
    for viewer in viewers {
        let all = stage.world.peers[viewer].video();
        let last: Vec<u32> = all.iter().rev().take(30).map(|g| origin_plain(g)).collect();
        assert!(last.iter().all(|ssrc| *ssrc == 900), "{last:?}");
    }
}

fn origin_plain(got: &Got) -> u32 {
    let at = match got.payload[..] {
        [0x10, ..] => 2,
        _ => 1,
    };
    got.payload[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

#[test]
fn rids_of_nobody_and_rids_that_change() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(2_500);
    let unknown = |world: &World| world.drops(0, DropReason::NotNegotiated);
    let before = unknown(&stage.world);
    let strange = |ssrc: u32, rid: Option<(u8, &'static str)>, pt: u8| {
        let mut camera = Video { rid, payload_type: pt, ..Video::vp8(ssrc, 1) };
        camera.frame(true)
    };
    // An unknown RID, none at all, RTX of a RID of nobody, RTX that says RID only, a RID under the wrong id.
    for (ssrc, rid, pt) in [
        (7_000, Some((RID_ID, "x")), 96),
        (7_001, None, 96),
        (7_002, Some((REPAIRED_ID, "zz")), 97),
        (7_003, Some((RID_ID, "q")), 97),
        (7_004, Some((5, "q")), 96),
    ] {
        let packets = strange(ssrc, rid, pt);
        stage.world.send(stage.publisher, packets);
    }
    stage.run(100);
    assert_eq!(unknown(&stage.world) - before, 15);
    // An SSRC keeps the encoding it began with, whatever it says later.
    stage.cameras[0].rid = Some((RID_ID, "f"));
    stage.run(500);
    assert_eq!(stage.shown(viewer), 2);
    let got = stage.world.peers[viewer].video().len();
    stage.run(330);
    assert_eq!(stage.world.peers[viewer].video().len() - got, 60, "ten frames of six packets");
    // Another SSRC for each packet: bounded, and those known go on.
    for ssrc in 8_000..8_100 {
        let packets = strange(ssrc, Some((RID_ID, "h")), 96);
        stage.world.send(stage.publisher, packets);
        stage.world.run(2);
    }
    assert!(stage.world.drops(0, DropReason::TooManySources) > 200);
    let asked: usize = (0..3).map(|l| stage.plis(l)).sum();
    stage.run(1_000);
    assert_eq!(stage.shown(viewer), 2);
    assert!((0..3).map(|l| stage.plis(l)).sum::<usize>() - asked <= 6, "within the throttle");
    check(&stage.world, viewer).unwrap();
}

#[test]
fn requests_in_floods_ask_for_key_frames_within_the_throttle() {
    let mut stage = Stage::new(2, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(1));
    stage.run(3_000);
    let before: usize = (0..3).map(|l| stage.plis(l)).sum();
    for i in 0..300_u64 {
        for j in 0..10 {
            let layer = Some(((i * 7 + j * 3) % 5) as u8);
            stage.ask(viewer, LayerRequest { layer, paused: (i + j) % 4 == 0, ..ANY });
        }
        stage.frame();
    }
    let asked = (0..3).map(|l| stage.plis(l)).sum::<usize>() - before;
    assert!(asked <= 3 * 24, "{asked} requests in ten seconds for three encodings");
    stage.ask(viewer, ANY);
    stage.run(1_000);
    assert_eq!(stage.shown(viewer), 2);
    check(&stage.world, viewer).unwrap();
    let id = stage.world.peers[viewer].id;
    stage.world.command(1, Command::RemovePeer(id, CloseReason::Left));
    stage.run(100);
    stage.world.mail.clear();
    stage.run(300);
    assert!(
        !stage.world.mail.iter().any(|(_, _, m)| matches!(m, sfu::Mail::Mirrored { .. })),
        "nothing is left behind"
    );
    let _ = TrackKey::new(STREAM, Kind::Video);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Frames(u8),
    Ask(bool, Option<u8>, bool),
    Estimate(bool, u64),
    Stop(u8),
    Pli(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u8..40).prop_map(Step::Frames),
        4 => (any::<bool>(), prop::option::of(0_u8..5), prop::bool::weighted(0.1)).prop_map(|(v, l, p)| Step::Ask(v, l, p)),
        3 => (any::<bool>(), 0_u64..800_000).prop_map(|(v, bps)| Step::Estimate(v, bps)),
        1 => (0_u8..3).prop_map(Step::Stop),
        1 => any::<bool>().prop_map(Step::Pli),
    ];
    proptest::collection::vec(step, 4..30)
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn switches_under_loss_make_one_stream(seed in 1_u64..1_000_000, h264: bool, steps in steps()) {
        let mut stage = Stage::new(2, if h264 { Codec::H264 } else { Codec::Vp8 });
        stage.world.seed(seed);
        let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
        let up = &mut stage.world.peers[stage.publisher].up;
        (up.jitter_us, up.loss, up.duplicates) = (8_000, 30, 10);
        for viewer in viewers {
            let down = &mut stage.world.peers[viewer].down;
            (down.jitter_us, down.loss, down.duplicates) = (8_000, 20, 10);
        }
        stage.run(1_000);
        for step in steps {
            match step {
                Step::Frames(count) => (0..count).for_each(|_| stage.frame()),
                Step::Ask(which, layer, paused) => {
                    stage.ask(viewers[usize::from(which)], LayerRequest { layer, paused, ..ANY });
                }
                Step::Estimate(which, bps) => stage.estimate(viewers[usize::from(which)], bps),
                Step::Stop(layer) => {
                    let stopped = &mut stage.stopped[usize::from(layer)];
                    *stopped = !*stopped;
                }
                Step::Pli(which) => stage.world.pli(viewers[usize::from(which)]),
            }
        }
        for viewer in viewers {
            stage.ask(viewer, ANY);
            stage.estimate(viewer, u64::MAX);
        }
        stage.stopped = [false; 3];
        for camera in &mut stage.world.peers {
            (camera.up.loss, camera.down.loss) = (0, 0);
        }
        stage.run(12_000);
        for viewer in viewers {
            prop_assert_eq!(stage.shown(viewer), 2, "it comes back to the best: {:?}", stage.says(viewer));
            check(&stage.world, viewer)?;
        }
    }
}
