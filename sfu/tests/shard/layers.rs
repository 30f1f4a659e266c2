//! Simulcast: encodings told apart by RID, one of them for each viewer, switches that make one stream.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use media::{Codec, Kind, Time};
use metrics::DropReason;
use proptest::prelude::*;
use rtc::rtcp;
use sfu::{CloseReason, Command, Event, LayerReason, LayerRequest, LayerShown, TrackKey};

use crate::camera::{FRAME_MS, FRAME_TICKS, Video};
use crate::world::{Got, Rtcp, STREAM, UNIX_US, VIDEO, Wish, World, cases, numbers, times};

const RIDS: [&str; 3] = ["q", "h", "f"];
const RID_ID: u8 = 10;
const REPAIRED_ID: u8 = 11;
const HEIGHTS: [u16; 3] = [180, 360, 720];
/// The encodings have this SSRC and the next two.
const SSRC: u32 = 500;
/// Of each encoding's first frame.
const TIMESTAMPS: [u32; 3] = [1_000, 4_000_000_000, 77];

/// A publisher of three encodings, one frame of each every 33 ms, that answers key-frame requests.
struct Stage {
    world: World,
    publisher: usize,
    cameras: Vec<Video>,
    /// Encodings that are not sent.
    stopped: [bool; 3],
    answered: [usize; 3],
    frames: u64,
    /// As Chromium it does not listen to a request within so long of the last, for whichever encoding.
    deaf_ms: i64,
    heard: Time,
    /// What it was told and has not done yet: the encodings that it is not to send.
    told: VecDeque<[bool; 3]>,
    /// Encodings that begin with a key frame, as they were not sent before.
    begins: [bool; 3],
    /// Bytes of a packet, where there are more of them than the camera's.
    payload_len: usize,
}

fn simulcast(shard: usize) -> Wish {
    let mut wish = Wish::on(shard);
    let video = &mut wish.medias[1];
    video.rids = RIDS.map(String::from).to_vec();
    (video.rid_ext_id, video.repaired_rid_ext_id) = (Some(RID_ID), Some(REPAIRED_ID));
    wish
}

fn cameras(codec: Codec, ssrc: u32) -> Vec<Video> {
    let of = |i: usize| {
        let ssrc = ssrc + i as u32;
        let video = if codec == Codec::H264 { Video::h264(ssrc, 100) } else { Video::vp8(ssrc, 65_000) };
        Video {
            packets_per_frame: [1, 2, 6][i],
            timestamp: TIMESTAMPS[i],
            height: HEIGHTS[i],
            picture_id: [0x7ff0, 12, 9_000][i],
            rid: Some((RID_ID, RIDS[i])),
            ..video
        }
    };
    (0..3).map(of).collect()
}

impl Stage {
    fn new(shards: usize, codec: Codec) -> Stage {
        let mut world = World::new(shards);
        let publisher = world.publisher(simulcast(0), 1);
        world.batched = true;
        Stage {
            world,
            publisher,
            cameras: cameras(codec, SSRC),
            stopped: [false; 3],
            answered: [0; 3],
            frames: 0,
            deaf_ms: 0,
            heard: Time::ZERO,
            told: VecDeque::new(),
            begins: [false; 3],
            payload_len: 0,
        }
    }

    fn plis(&self, layer: usize) -> usize {
        let of = self.cameras[layer].ssrc;
        self.world.peers[self.publisher].count(|r| matches!(r, Rtcp::Pli { ssrc } if *ssrc == of))
    }

    fn frame(&mut self) {
        let hears = self.world.now.since(self.heard) >= self.deaf_ms * 1_000;
        for layer in 0..3 {
            let asked = self.plis(layer);
            let is_asked = asked > self.answered[layer];
            if is_asked && hears {
                self.heard = self.world.now;
            }
            let begins = std::mem::take(&mut self.begins[layer]);
            let key = (is_asked && hears) || self.frames == 0 || begins;
            self.answered[layer] = asked;
            let mut packets = self.cameras[layer].frame(key);
            packets.iter_mut().for_each(|p| p.payload.resize(p.payload.len().max(self.payload_len), 0));
            if !self.stopped[layer] {
                self.world.send(self.publisher, packets);
            }
        }
        if self.frames.is_multiple_of(30) {
            self.report();
        }
        self.frames += 1;
        self.world.run(FRAME_MS);
    }

    /// Sender reports: what ties the three clocks together.
    fn report(&mut self) {
        for camera in self.cameras.clone() {
            let info = rtcp::SenderInfo {
                ssrc: camera.ssrc,
                ntp: rtcp::ntp_from_unix_us(UNIX_US + self.world.now.us()),
                rtp: camera.timestamp.wrapping_sub(FRAME_TICKS),
                packets: 1,
                octets: 1,
            };
            let mut compound = Vec::new();
            rtcp::sender_report(&mut compound, &info, &[], "camera");
            self.world.rtcp(self.publisher, &compound);
        }
    }

    fn run(&mut self, ms: i64) {
        (0..ms / FRAME_MS).for_each(|_| self.frame());
    }

    fn ask(&mut self, viewer: usize, request: LayerRequest) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(shard, Command::RequestLayer(id, request));
    }

    fn estimate(&mut self, viewer: usize, bps: u64) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(shard, Command::Estimate(id, bps));
    }

    /// The encoding of the last packet that a viewer got.
    fn shown(&self, viewer: usize) -> usize {
        let all = self.world.peers[viewer].video();
        let last = all.iter().rev().find(|g| !g.payload.is_empty()).expect("it got something");
        (origin(last).0 - self.cameras[0].ssrc) as usize
    }

    fn says(&self, viewer: usize) -> LayerShown {
        self.world.peers[viewer].stats.layer()
    }

    /// Runs until a viewer gets an encoding; how long that took.
    fn until(&mut self, viewer: usize, layer: usize, ms_max: i64) -> i64 {
        let start = self.world.now;
        while self.shown(viewer) != layer {
            assert!(
                self.world.now.since(start) < ms_max * 1_000,
                "layer {layer} is not there in {ms_max} ms"
            );
            self.frame();
        }
        self.world.now.since(start) / 1_000
    }
}

/// Which packet of which encoding a payload is.
fn origin(got: &Got) -> (u32, u64) {
    (camera_says(got, 0, 4) as u32, camera_says(got, 4, 8))
}

/// When its frame was taken, in ticks since the encodings' first.
fn captured(got: &Got) -> i64 {
    let first = TIMESTAMPS[(origin(got).0 - SSRC) as usize];
    i64::from((camera_says(got, 12, 4) as u32).wrapping_sub(first))
}

/// What the camera wrote behind a payload's head.
fn camera_says(got: &Got, from: usize, len: usize) -> u64 {
    let head = match got.payload[..] {
        [0x78, ..] => 11,
        [0x7c, ..] => 3,
        [0x90, _, _, _, _, _, 0, ..] => 16,
        [0x90 | 0xb0, ..] => 7,
        _ => 6,
    };
    got.payload[head + from..head + from + len].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Picture id and TL0PICIDX, where there are any.
fn picture_id(got: &Got) -> Option<(u16, u8)> {
    let &[0x80 | 0x90 | 0xa0 | 0xb0, 0xe0, high, low, tl0, ..] = &got.payload[..] else { return None };
    Some((u16::from_be_bytes([high & 0x7f, low]), tl0))
}

fn is_entrance(got: &Got) -> bool {
    matches!(got.payload[..], [0x90, _, _, _, _, _, 0, ..] | [0x78, ..])
}

/// Whatever was switched: numbers name one packet each, time goes on and never back, a frame is of one encoding and in its numbering, each
/// switch begins with a key frame and its parameter sets, and a cut frame is followed by a gap.
fn check(world: &World, viewer: usize) -> Result<usize, TestCaseError> {
    let mut sealed: HashMap<u16, &[u8]> = HashMap::new();
    let all = world.peers[viewer].video();
    for got in &all {
        let before = sealed.insert(got.header.seq, &got.sealed);
        prop_assert!(before.is_none_or(|b| b == got.sealed), "number {} twice, unlike", got.header.seq);
    }
    let mut new: Vec<&Got> = all.into_iter().filter(|g| !g.payload.is_empty()).collect();
    new.sort_by_key(|g| g.header.seq);
    new.dedup_by_key(|g| g.header.seq);
    let (seqs, times) = (numbers(&new), times(&new));
    let mut switches = 0;
    for i in 1..new.len() {
        let [before, after] = [new[i - 1], new[i]];
        let (from, to) = (origin(before), origin(after));
        let (step, passed) = (seqs[i] - seqs[i - 1], times[i] - times[i - 1]);
        prop_assert!(passed >= 0, "time goes back at {}", seqs[i]);
        if passed == 0 {
            prop_assert_eq!((from.0, from.1 + step), to, "one frame, one numbering");
            continue;
        }
        // Whole pictures lost on the way leave ids out; none comes twice, and a switch is no loss.
        if let (Some(id), Some(next)) = (picture_id(before), picture_id(after)) {
            let ahead = (next.0.wrapping_sub(id.0) & 0x7fff, next.1.wrapping_sub(id.1));
            prop_assert!((1..0x4000).contains(&ahead.0), "picture id {} after {}", next.0, id.0);
            prop_assert!(step > 1 || from.0 == to.0 || ahead == (1, 1), "a switch leaves out {:?}", ahead);
        }
        if step == 1 {
            prop_assert!(before.header.marker, "a cut frame, and no gap: {}", seqs[i]);
        }
        if from.0 != to.0 {
            switches += 1;
            // Of a key frame whose first packet is lost on the viewer's way the rest is there.
            prop_assert!(step > 1 || is_entrance(after), "a switch without a key frame: {}", seqs[i]);
            // By when they were taken, not by when they came: a packet may be a repair, and a key frame a mirror's backlog.
            let taken = captured(after) - captured(before);
            prop_assert!(
                passed <= taken.max(0) + SLACK_TICKS,
                "time jumps by {} where {} passed",
                passed,
                taken
            );
        }
    }
    Ok(switches)
}

/// A switch is put where capture times say, behind the last picture by one frame at least, as well as sender reports tell them.
const SLACK_TICKS: i64 = 9_000;

const LOW: LayerRequest =
    LayerRequest { layer: Some(0), height_max: None, rate_bps_max: None, temporal_max: None, paused: false };
const ANY: LayerRequest = LayerRequest { layer: None, ..LOW };

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

/// What the publisher was told last, where it hears that.
fn wanted(stage: &Stage) -> Option<[bool; 3]> {
    let told = stage.world.nodes[0].events.iter().rev();
    told.filter_map(|event| match event {
        Event::Wanted(_, [q, h, f, _]) => Some([*q, *h, *f]),
        _ => None,
    })
    .next()
}

impl Stage {
    /// Frames, from a publisher that does what it is told, `late_ms` after it was.
    fn obeys(&mut self, ms: i64, late_ms: i64) {
        for _ in 0..ms / FRAME_MS {
            self.told.push_back(wanted(self).unwrap_or([true; 3]).map(|wanted| !wanted));
            if self.told.len() as i64 > late_ms / FRAME_MS {
                let stopped = self.told.pop_front().unwrap();
                // An encoder that begins again begins with a key frame.
                (0..3).for_each(|layer| self.begins[layer] |= self.stopped[layer] && !stopped[layer]);
                self.stopped = stopped;
            }
            self.frame();
        }
    }

    fn hears(&mut self, hears: bool) {
        let id = self.world.peers[self.publisher].id;
        self.world.command(0, Command::HearWishes(id, hears));
    }

    fn paused(&self) -> [bool; 3] {
        let [q, h, f, _] = self.world.peers[self.publisher].stats.encodings();
        [q, h, f].map(|layer| layer.paused)
    }
}

#[test]
fn encodings_above_all_that_is_taken_are_paused_and_come_back_when_they_are_chosen() {
    let mut stage = Stage::new(2, Codec::Vp8);
    stage.hears(true);
    let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), None, "what is below is there for who needs it");
    viewers.iter().for_each(|viewer| stage.ask(*viewer, LOW));
    stage.obeys(4_000, 100);
    assert_eq!(wanted(&stage), None, "not at once");
    stage.obeys(3_000, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true, false, false]), [false, true, true]));
    let figures = stage.world.peers[stage.publisher].stats.encodings();
    assert!(figures[2].height == 720 && figures[2].rate_bps > 250_000, "{figures:?}");
    let before = stage.world.peers[stage.publisher].plis();
    stage.obeys(20_000, 100);
    assert_eq!(stage.world.peers[stage.publisher].plis(), before, "nobody asks for what is not wanted");
    // From either shard.
    for viewer in viewers {
        let came = stage.world.now;
        stage.ask(viewer, ANY);
        while stage.shown(viewer) != 2 {
            stage.obeys(FRAME_MS, 330);
            assert!(stage.world.now.since(came) < 700_000, "the best is there soon after it was asked for");
        }
        assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
        stage.obeys(4_000, 100);
        assert_eq!((stage.shown(viewer), stage.says(viewer).reason), (2, LayerReason::Best), "and stays");
        stage.ask(viewer, LOW);
        stage.obeys(9_000, 100);
        assert_eq!((stage.shown(viewer), wanted(&stage)), (0, Some([true, false, false])));
    }
    assert_eq!(stage.world.nodes[0].metrics.encoding_pauses.get(), 6);
    for viewer in viewers {
        check(&stage.world, viewer).unwrap();
    }
}

/// Not on the word of somebody who is not there: nobody waits for what does not come.
#[test]
fn a_publisher_that_does_not_resume_leaves_nobody_without_a_picture() {
    let mut stage = Stage::new(1, Codec::Vp8);
    stage.hears(true);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    stage.ask(viewer, LOW);
    stage.obeys(9_000, 100);
    assert_eq!(stage.paused(), [false, true, true]);
    stage.ask(viewer, ANY);
    let before = stage.world.peers[viewer].video().len();
    stage.run(4_950);
    assert_eq!(stage.world.peers[viewer].video().len() - before, 150, "what it has goes on");
    assert_eq!(stage.paused(), [false, true, true], "it is waited for");
    stage.run(1_000);
    let says = stage.says(viewer);
    assert_eq!((stage.paused(), says.layer, says.reason), ([false; 3], 0, LayerReason::Starved));
    stage.obeys(3_000, 100);
    assert_eq!(stage.shown(viewer), 2, "when it comes after all");
    // Nobody listens any more: all that there is is sent.
    stage.ask(viewer, LOW);
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    stage.hears(false);
    stage.obeys(990, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true; 3]));
    check(&stage.world, viewer).unwrap();
}

#[test]
fn who_has_no_way_to_hear_it_and_who_comes_next_are_told_nothing() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.ask(viewer, LOW);
    stage.run(12_000);
    assert_eq!(wanted(&stage), None);
    stage.hears(true);
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    let id = stage.world.peers[stage.publisher].id;
    stage.world.command(0, Command::RemovePeer(id, CloseReason::Left));
    stage.world.nodes[0].events.clear();
    stage.publisher = stage.world.publisher(simulcast(0), 2);
    (stage.cameras, stage.stopped, stage.frames) = (cameras(Codec::Vp8, SSRC), [false; 3], 0);
    stage.answered = [0; 3];
    stage.run(9_000);
    assert_eq!((wanted(&stage), stage.paused()), (None, [false; 3]));
    stage.ask(viewer, ANY);
    stage.until(viewer, 2, 500);
    // A tap takes the best, whoever watches.
    stage.hears(true);
    stage.ask(viewer, LOW);
    stage.world.command(0, Command::Tap(VIDEO));
    stage.run(9_000);
    assert_eq!(wanted(&stage), None);
    stage.world.command(0, Command::Untap(VIDEO));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    stage.world.command(0, Command::Tap(VIDEO));
    stage.obeys(2_000, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
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
