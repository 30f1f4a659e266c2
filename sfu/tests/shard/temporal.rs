//! Temporal layers: what a viewer gets of them, by request and by what its link carries, is one stream that a decoder can follow.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use media::{Codec, Time};
use metrics::DropReason;
use rtc::rtcp;
use sfu::{Command, LayerReason, LayerRequest, LayerShown};

use crate::camera::{FRAME_MS, FRAME_TICKS, Rtp, Video};
use crate::world::{Got, UNIX_US, Wish, World, assert_contiguous, numbers};

const ANY: LayerRequest =
    LayerRequest { layer: None, height_max: None, rate_bps_max: None, temporal_max: None, paused: false };
const BASE: LayerRequest = LayerRequest { temporal_max: Some(0), ..ANY };
const HALF: LayerRequest = LayerRequest { temporal_max: Some(1), ..ANY };
/// Bytes from the descriptor to the packet's own number, in a first packet of a frame that is none of keys.
const HEAD: usize = 6;
/// Where its layer is, and the bit that says that one may go up.
const LAYER: usize = 5;
const SYNC: u8 = 0x20;

/// A frame as the camera made it: its layer, and the frames that it refers to.
#[derive(Clone, Debug)]
struct Made {
    layer: u8,
    references: Vec<usize>,
}

/// A publisher of three temporal layers, 30 frames a second, that answers key-frame requests.
struct Stage {
    world: World,
    publisher: usize,
    video: Video,
    made: Vec<Made>,
    /// The frame of each packet's number.
    frame_of: BTreeMap<u64, usize>,
    /// The newest frame of each layer.
    newest: [Option<usize>; 3],
    answered: usize,
    payload_len: usize,
    /// Frames do not say that one may go up.
    unmarked: bool,
}

impl Stage {
    fn new(shards: usize) -> Stage {
        let mut world = World::new(shards);
        let publisher = world.publisher(Wish::on(0), 1);
        let video =
            Video { height: 360, layered: true, picture_id: 0x7ff0, tl0: 250, ..Video::vp8(500, 65_000) };
        Stage {
            world,
            publisher,
            video,
            made: Vec::new(),
            frame_of: BTreeMap::new(),
            newest: [None; 3],
            answered: 0,
            payload_len: 220,
            unmarked: false,
        }
    }

    fn make(&mut self) -> Vec<Rtp> {
        let asked = self.world.peers[self.publisher].plis();
        let key = asked > self.answered || self.made.is_empty();
        self.answered = asked;
        let mut packets = self.video.frame(key);
        packets.iter_mut().for_each(|p| p.payload.resize(self.payload_len, 0));
        if self.unmarked {
            packets.iter_mut().for_each(|p| p.payload[LAYER] &= !SYNC);
        }
        let (layer, sync) = self.video.temporal();
        let [base, middle, _] = self.newest;
        let references = match (key, layer, sync) {
            (true, ..) => vec![],
            (_, 0, _) | (_, _, true) => vec![base],
            _ => vec![base, middle],
        };
        let frame = self.made.len();
        if key {
            self.newest = [Some(frame); 3];
        }
        self.newest[usize::from(layer)] = Some(frame);
        self.made.push(Made { layer, references: references.into_iter().flatten().collect() });
        self.frame_of.extend(packets.iter().map(|p| (p.seq, frame)));
        packets
    }

    fn run(&mut self, ms: i64) {
        for _ in 0..ms / FRAME_MS {
            let packets = self.make();
            self.world.send(self.publisher, packets);
            self.world.run(FRAME_MS);
        }
    }

    fn ask(&mut self, viewer: usize, request: LayerRequest) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(shard, Command::RequestLayer(id, request));
    }

    fn says(&self, viewer: usize) -> LayerShown {
        self.world.peers[viewer].stats.layer()
    }

    /// The frame that a packet is of.
    fn frame(&self, got: &Got) -> usize {
        let key = got.payload[0] & 0x10 != 0 && got.payload[HEAD] == 0;
        let first = got.payload[0] & 0x10 != 0;
        let at = HEAD + if key { 10 } else { usize::from(first) } + 4;
        let number = got.payload[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        self.frame_of[&number]
    }

    /// Frames of each layer that a viewer got since `from`.
    fn layers(&self, viewer: usize, from: Time) -> [usize; 3] {
        let mut layers = [0; 3];
        for got in self.world.peers[viewer].video() {
            if got.at >= from && got.header.marker {
                layers[usize::from(self.made[self.frame(got)].layer)] += 1;
            }
        }
        layers
    }

    /// What a viewer got is one stream: numbers, picture ids and TL0PICIDX without a hole, each frame whole, and after its references.
    fn check(&self, viewer: usize) {
        let video = self.world.peers[viewer].video();
        assert_contiguous(&video);
        let mut shown: Vec<(usize, usize)> = Vec::new();
        let mut ids: Option<(u16, u8)> = None;
        for got in video {
            let frame = self.frame(got);
            let [_, _, high, low, tl0, ..] = got.payload[..] else { panic!("cut") };
            let id = u16::from_be_bytes([high & 0x7f, low]);
            match shown.last_mut() {
                Some((last, packets)) if *last == frame => *packets += 1,
                _ => {
                    let made = &self.made[frame];
                    for wanted in &made.references {
                        assert!(shown.iter().any(|(f, _)| f == wanted), "{frame} without {wanted}: {made:?}");
                    }
                    assert!(shown.last().is_none_or(|(last, packets)| *last < frame && *packets == 3));
                    if let Some((last_id, last_tl0)) = ids {
                        assert_eq!(id, (last_id + 1) & 0x7fff, "picture id of {frame}");
                        assert_eq!(tl0, last_tl0.wrapping_add(u8::from(made.layer == 0)), "of {frame}");
                    }
                    shown.push((frame, 1));
                }
            }
            ids = Some((id, tl0));
        }
    }
}

#[test]
fn a_viewer_gets_the_layers_it_asks_for() {
    let mut stage = Stage::new(2);
    let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    let other = stage.world.subscriber(Wish::on(0));
    stage.run(1_000);
    let plis = stage.world.peers[stage.publisher].plis();
    let mut get = |request: LayerRequest, wanted: [usize; 3], temporal: Option<u8>| {
        viewers.iter().for_each(|viewer| stage.ask(*viewer, request));
        // A pattern of eight frames, twice, has each frame at which one may go up.
        stage.run(17 * FRAME_MS);
        let from = stage.world.now;
        stage.run(40 * FRAME_MS);
        for viewer in viewers {
            assert_eq!(stage.layers(viewer, from), wanted, "{request:?}");
            let says = stage.says(viewer);
            let reason = if temporal.is_some() { LayerReason::Request } else { LayerReason::Only };
            assert_eq!((says.layer, says.temporal, says.reason), (0, temporal, reason));
        }
    };
    get(ANY, [10, 10, 20], None);
    get(BASE, [10, 0, 0], Some(0));
    get(HALF, [10, 10, 0], Some(1));
    get(BASE, [10, 0, 0], Some(0));
    get(ANY, [10, 10, 20], None);
    get(LayerRequest { temporal_max: Some(9), ..ANY }, [10, 10, 20], None);
    viewers.iter().for_each(|viewer| stage.check(*viewer));
    stage.check(other);
    assert_eq!(stage.layers(other, Time::ZERO).iter().sum::<usize>(), stage.made.len(), "others get all");
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis, "nobody asked for a key frame");
    let left_out = [0, 1].map(|shard| stage.world.drops(shard, DropReason::TemporalLayer));
    assert!(left_out[0] > 300 && left_out[0] == left_out[1], "{left_out:?}");
    let stats = &stage.world.peers[viewers[1]].stats;
    assert_eq!(stats.frames_above.load(Ordering::Relaxed), left_out[1] / 3);
    assert_eq!(stats.frames_congested.load(Ordering::Relaxed), 0);
}

/// Nothing is measured of a publisher that pauses. What it then goes on with is of the layers it had.
#[test]
fn a_wish_outlasts_a_pause_of_the_publisher() {
    let mut stage = Stage::new(2);
    let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.run(990);
    viewers.iter().for_each(|viewer| stage.ask(*viewer, BASE));
    stage.run(330);
    for _ in 0..8 {
        let from = stage.world.now;
        stage.world.run(700);
        stage.run(11 * FRAME_MS);
        for viewer in viewers {
            assert_eq!(stage.layers(viewer, from)[1..], [0, 0]);
        }
    }
    viewers.iter().for_each(|viewer| stage.check(*viewer));
}

/// It goes on where it was: what the publisher's reports make of its clock meanwhile is no reason to leave out a key frame.
#[test]
fn a_viewer_that_paused_goes_on_with_the_first_key_frame() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(Wish::on(0));
    let report = |stage: &mut Stage, behind_us: i64| {
        let info = rtcp::SenderInfo {
            ssrc: stage.video.ssrc,
            ntp: rtcp::ntp_from_unix_us(UNIX_US + stage.world.now.us() - behind_us),
            rtp: stage.video.timestamp.wrapping_sub(FRAME_TICKS),
            packets: 1,
            octets: 1,
        };
        let mut compound = Vec::new();
        rtcp::sender_report(&mut compound, &info, &[], "camera");
        stage.world.rtcp(stage.publisher, &compound);
    };
    stage.run(990);
    report(&mut stage, 0);
    stage.run(990);
    let plis = stage.world.peers[stage.publisher].plis();
    stage.ask(viewer, LayerRequest { paused: true, ..ANY });
    stage.run(330);
    report(&mut stage, 2_000_000);
    stage.run(330);
    let before = stage.world.peers[viewer].video().len();
    stage.ask(viewer, ANY);
    let from = stage.world.now;
    stage.run(990);
    assert!(stage.world.peers[viewer].video()[before].at.since(from) < 100_000);
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis + 1);
    stage.check(viewer);
}

/// One key frame for all who wait to go up, and nobody asks while nobody does.
#[test]
fn where_nothing_says_that_one_may_go_up_a_key_frame_is_asked_for() {
    let mut stage = Stage::new(2);
    stage.unmarked = true;
    let viewers = [0, 1, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.run(2_970);
    viewers.iter().for_each(|viewer| stage.ask(*viewer, BASE));
    let plis = stage.world.peers[stage.publisher].plis();
    stage.run(5_940);
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis);
    viewers.iter().for_each(|viewer| stage.ask(*viewer, HALF));
    let from = stage.world.now;
    stage.run(1_980);
    assert_eq!(stage.layers(viewers[0], from)[1..], [0, 0]);
    stage.run(990);
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis + 1);
    let from = stage.world.now;
    stage.run(40 * FRAME_MS);
    for viewer in viewers {
        let [base, half, top] = stage.layers(viewer, from);
        assert!((9..=11).contains(&base) && (9..=11).contains(&half) && top == 0, "{base} {half} {top}");
    }
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis + 1);
    viewers.iter().for_each(|viewer| stage.check(*viewer));
}

/// Where the frame under way when the wish comes is of a layer above, it is brought to its end.
#[test]
fn a_frame_that_began_is_whole() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(330);
    for round in 0..16 {
        let packets = stage.make();
        let (first, rest) = packets.split_at(1);
        stage.world.send(stage.publisher, first.to_vec());
        stage.world.run(8);
        stage.ask(viewer, if round % 2 == 0 { BASE } else { ANY });
        stage.world.send(stage.publisher, rest.to_vec());
        stage.world.run(25);
        stage.run(10 * FRAME_MS);
    }
    stage.check(viewer);
}

/// A link of 70 %: half of the frames fit, and they come without a freeze.
#[test]
fn a_link_that_carries_fewer_frames_gets_fewer_layers() {
    let mut stage = Stage::new(1);
    // 3 packets of 1100 bytes, 30 times a second: 800 kbit/s; half of them without the uppermost layer.
    stage.payload_len = 1_100;
    let viewer = stage.world.subscriber(Wish::numbered(0));
    stage.world.peers[viewer].down.queue_us_max = 3_000_000;
    stage.run(4_000);
    let plis = stage.world.peers[stage.publisher].plis();
    stage.world.peers[viewer].down.rate_bps = Some(600_000);
    stage.run(4_000);
    let from = stage.world.now;
    stage.run(8_000);
    let got = stage.layers(viewer, from);
    let says = stage.says(viewer);
    assert_eq!((says.temporal, says.reason), (Some(1), LayerReason::Estimate), "{got:?}");
    assert!(got[0] >= 58 && got[1] >= 58 && got[2] == 0, "{got:?} in 8 s");
    let ends: Vec<Time> =
        stage.world.peers[viewer].video().iter().filter(|g| g.header.marker).map(|g| g.at).collect();
    let worst = ends.windows(2).map(|w| w[1].since(w[0]) / 1_000).max().unwrap();
    assert!(worst < 300, "a hole of {worst} ms");
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis, "no key frame was needed");
    stage.world.peers[viewer].down.rate_bps = Some(20_000_000);
    stage.run(14_000);
    let from = stage.world.now;
    stage.run(4_000);
    let got = stage.layers(viewer, from);
    assert!(got.iter().sum::<usize>() >= 120, "all again: {got:?}");
    stage.check(viewer);
}

/// A base frame among what is left out comes late: in its own place, picture id included.
#[test]
fn a_frame_that_comes_late_among_what_is_left_out_has_its_own_picture_id() {
    for lost in [1, 3] {
        let mut stage = Stage::new(1);
        let viewer = stage.world.subscriber(Wish::on(0));
        stage.run(990);
        stage.ask(viewer, BASE);
        stage.run(330);
        let mut late = 0;
        for round in 0..120 {
            let mut packets = stage.make();
            if stage.video.temporal().0 == 0 && round % 3 == 0 {
                let held = packets.split_off(3 - lost);
                stage.world.send(stage.publisher, packets);
                stage.world.run(FRAME_MS);
                // The frame behind it is left out, as the one before it was.
                let next = stage.make();
                stage.world.send(stage.publisher, next);
                stage.world.run(5);
                stage.world.send(stage.publisher, held);
                stage.world.run(FRAME_MS - 5);
                late += 1;
            } else {
                stage.world.send(stage.publisher, packets);
                stage.world.run(FRAME_MS);
            }
        }
        assert!(late >= 10, "{late}");
        stage.check(viewer);
    }
}

/// What the publisher's way loses of a frame that is sent shows as a hole, though what is next to it is left out; what is left out shows as
/// none, and is not sent again.
#[test]
fn losses_of_the_publisher_among_what_is_left_out_are_not_hidden() {
    for (request, seed) in [(HALF, 3), (BASE, 4), (ANY, 5)] {
        let mut stage = Stage::new(1);
        let viewer = stage.world.subscriber(Wish::on(0));
        stage.run(990);
        stage.ask(viewer, request);
        stage.run(330);
        let mut random = crate::world::Random(seed);
        // Lost for good: the publisher does not answer.
        for _ in 0..300 {
            let mut packets = stage.make();
            if random.below(6) == 0 {
                packets.remove(random.below(3) as usize);
            } else if random.below(20) == 0 {
                packets.clear();
            }
            stage.world.send(stage.publisher, packets);
            stage.world.run(FRAME_MS);
        }
        let video = stage.world.peers[viewer].video();
        let seqs = numbers(&video);
        let mut gap_at: Vec<usize> = Vec::new();
        let mut last_of: BTreeMap<usize, usize> = BTreeMap::new();
        let mut count_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, got) in video.iter().enumerate() {
            let frame = stage.frame(got);
            if at > 0 && seqs[at] != seqs[at - 1] + 1 {
                gap_at.push(at);
            }
            *count_of.entry(frame).or_default() += 1;
            last_of.insert(frame, at);
        }
        let (mut missed, mut hidden) = (0, 0);
        for (frame, at) in &last_of {
            for wanted in &stage.made[*frame].references {
                if count_of.get(wanted) != Some(&3) {
                    missed += 1;
                    let before = last_of.range(..wanted).next_back().map_or(0, |(_, at)| *at);
                    hidden += usize::from(!gap_at.iter().any(|gap| (before..=*at).contains(gap)));
                }
            }
        }
        assert!(missed > 10, "{missed}");
        assert_eq!(hidden, 0, "of {missed} {request:?}");
    }
}

#[test]
fn a_nack_is_answered_with_what_was_sent() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(990);
    stage.ask(viewer, HALF);
    stage.run(990);
    let video: Vec<Got> = stage.world.peers[viewer].video().into_iter().cloned().collect();
    let asked: Vec<&Got> = video.iter().rev().step_by(4).take(8).collect();
    let seqs: Vec<u16> = asked.iter().map(|g| g.header.seq).collect();
    let mut nack = Vec::new();
    rtcp::nack(&mut nack, 1, stage.world.peers[viewer].video_ssrc, &seqs);
    stage.world.rtcp(viewer, &nack);
    stage.run(330);
    let rtx = stage.world.peers[viewer].of_ssrc(stage.world.peers[viewer].rtx_ssrc);
    assert_eq!(rtx.len(), asked.len());
    for got in rtx {
        let original = u16::from_be_bytes([got.payload[0], got.payload[1]]);
        let first = asked.iter().find(|g| g.header.seq == original).unwrap();
        assert_eq!(got.payload[2..], first.payload[..], "the ids it had");
    }
    assert_eq!(stage.video.codec, Codec::Vp8);
}
