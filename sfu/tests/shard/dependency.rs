//! Dependency descriptors: what they say of a frame's layer counts, and who negotiated them gets them.

use media::Codec;
use sfu::{Command, LayerRequest};

use crate::camera::{FRAME_MS, Rtp, Video, negotiated};
use crate::world::{Got, Wish, World, assert_contiguous};

/// A key frame's: three layers, templates from 60 on of layers 0, 0, 1, 2, 2, and a size. The frame number is in the second and third byte.
const STRUCTURE: [u8; 20] = [
    0xfc, 0x00, 0x07, 0x87, 0x82, 0x14, 0xea, 0xa8, 0x60, 0x41, 0x4d, 0x14, 0x10, 0x20, 0x84, 0x27, 0x02,
    0x7f, 0x01, 0x67,
];
const UP_ID: u8 = 12;
const DOWN_ID: u8 = 9;

/// Three temporal layers, of AV1 where nothing else is said.
struct Stage {
    world: World,
    publisher: usize,
    video: Video,
    frame: u16,
    /// The next frame is a key frame, whoever asks.
    begins: bool,
    answered: usize,
    /// Packets have a descriptor.
    described: bool,
    /// Base frames of VP9 say by their bit that one may go up.
    marked: bool,
}

/// `id`: of dependency descriptors. Transport-wide numbers come with them.
fn wish(shard: usize, id: Option<u8>) -> Wish {
    wish_of(Codec::Av1, shard, id)
}

fn wish_of(codec: Codec, shard: usize, id: Option<u8>) -> Wish {
    let mut wish = Wish { medias: negotiated(&[codec], true), ..Wish::numbered(shard) };
    wish.medias[1].dependency_ext_id = id;
    wish.medias[1].twcc_ext_id = Some(5);
    wish
}

impl Stage {
    fn new(shards: usize) -> Stage {
        Stage::of(Codec::Av1, shards)
    }

    fn of(codec: Codec, shards: usize) -> Stage {
        let mut world = World::new(shards);
        let publisher = world.publisher(wish_of(codec, 0, Some(UP_ID)), 1);
        let video = if codec == Codec::H264 { Video::h264(500, 100) } else { Video::vp8(500, 100) };
        let video = Video { codec, layered: true, ..video };
        let (described, marked) = (true, false);
        Stage { world, publisher, video, frame: 65_500, begins: true, answered: 0, described, marked }
    }

    fn make(&mut self) -> Vec<Rtp> {
        let asked = self.world.peers[self.publisher].plis();
        let key = asked > self.answered || std::mem::take(&mut self.begins);
        self.answered = asked;
        let mut packets = self.video.frame(key);
        let (layer, _) = self.video.temporal();
        let [high, low] = self.frame.to_be_bytes();
        self.frame = self.frame.wrapping_add(1);
        let last = packets.len() - 1;
        for (index, packet) in packets.iter_mut().enumerate() {
            let ends = u8::from(index == 0) << 7 | u8::from(index == last) << 6;
            let template = if key { 60 } else { 61 + layer };
            let mut descriptor = vec![ends | template, high, low];
            if key && index == 0 {
                descriptor.extend(&STRUCTURE[3..]);
            }
            packet.descriptor = Some((UP_ID, descriptor)).filter(|_| self.described);
            if self.video.codec == Codec::Vp9 && self.marked && layer == 0 {
                packet.payload[3] |= 0x10;
            }
        }
        packets
    }

    fn run(&mut self, frames: usize) {
        for _ in 0..frames {
            let packets = self.make();
            self.world.send(self.publisher, packets);
            self.world.run(FRAME_MS);
        }
    }

    fn ask(&mut self, viewer: usize, temporal_max: Option<u8>) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(
            shard,
            Command::RequestLayer(id, LayerRequest { temporal_max, ..LayerRequest::default() }),
        );
    }

    /// Frame numbers of what a viewer got from `from` on, each once.
    fn frames(&self, viewer: usize, from: usize) -> Vec<u16> {
        let all = self.world.peers[viewer].video();
        let mut numbers: Vec<u16> = all[from..].iter().map(|got| number(got)).collect();
        numbers.dedup();
        numbers
    }
}

fn number(got: &Got) -> u16 {
    let descriptor = got.descriptor.as_ref().expect("a descriptor");
    u16::from_be_bytes([descriptor[1], descriptor[2]])
}

#[test]
fn layers_are_chosen_by_descriptors_whoever_gets_them() {
    chosen_by_descriptors(Codec::Av1);
}

/// Nothing else says which layer its frames are of.
#[test]
fn layers_of_h264_are_chosen_by_descriptors() {
    chosen_by_descriptors(Codec::H264);
}

fn chosen_by_descriptors(codec: Codec) {
    let mut stage = Stage::of(codec, 2);
    let viewers = [(0, Some(DOWN_ID)), (1, Some(DOWN_ID)), (0, None), (1, None)]
        .map(|(shard, id)| stage.world.subscriber(wish_of(codec, shard, id)));
    stage.run(40);
    let plis = stage.world.peers[stage.publisher].plis();
    for (temporal_max, each) in [(None, 1), (Some(0), 4), (Some(1), 2), (Some(0), 4), (None, 1)] {
        viewers.iter().for_each(|viewer| stage.ask(*viewer, temporal_max));
        // Any frame of the base layer is one to go up at.
        stage.run(5);
        let before = viewers.map(|viewer| stage.world.peers[viewer].video().len());
        stage.run(40);
        for (viewer, before) in viewers.into_iter().zip(before) {
            let got = stage.world.peers[viewer].video().len() - before;
            assert_eq!(got, 3 * 40 / each, "of {viewer}, up to {temporal_max:?}");
        }
        for (viewer, before) in viewers.into_iter().zip(before).take(2) {
            // Numbers are those of the publisher: they say what was left out.
            let numbers = stage.frames(viewer, before);
            assert!(numbers.windows(2).all(|w| w[1].wrapping_sub(w[0]) == each as u16), "{numbers:?}");
        }
    }
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis);
    for viewer in viewers {
        let video = stage.world.peers[viewer].video();
        assert_contiguous(&video);
        assert!(video.iter().all(|got| got.number.is_some()), "and a transport-wide number");
        assert_eq!(video.iter().filter(|got| got.descriptor.is_none()).count() == 0, viewer < viewers[2]);
    }
    let first = stage.world.peers[viewers[0]].video()[0];
    assert_eq!(first.descriptor.as_ref().unwrap()[3..], STRUCTURE[3..], "the structure of the key frame");
}

/// VP9 says it in the payload, in the descriptor, or in both; either will do. Where neither does, a key frame is asked for.
#[test]
fn vp9_goes_up_where_the_payload_or_the_descriptor_says_so() {
    for (described, marked) in [(true, false), (false, true), (true, true), (false, false)] {
        let mut stage = Stage::of(Codec::Vp9, 1);
        (stage.described, stage.marked) = (described, marked);
        let viewer = stage.world.subscriber(wish_of(Codec::Vp9, 0, Some(DOWN_ID)));
        stage.run(40);
        stage.ask(viewer, Some(0));
        stage.run(5);
        let plis = stage.world.peers[stage.publisher].plis();
        let each = |stage: &mut Stage, frames: usize| {
            let before = stage.world.peers[viewer].video().len();
            stage.run(frames);
            3 * frames / (stage.world.peers[viewer].video().len() - before)
        };
        assert_eq!(each(&mut stage, 40), 4, "the base");
        stage.ask(viewer, None);
        stage.run(5);
        let says = described || marked;
        assert_eq!(
            each(&mut stage, 40),
            if says { 1 } else { 4 },
            "described: {described}, marked: {marked}"
        );
        // It was asked for after two seconds.
        stage.run(30);
        assert_eq!(each(&mut stage, 40), 1);
        assert_eq!(stage.world.peers[stage.publisher].plis() - plis, usize::from(!says));
        assert_contiguous(&stage.world.peers[viewer].video());
    }
}

/// What follows the frame number in a key frame's: L1T2, with templates of T0, T0 and T1, and L2T2_KEY, with those of each spatial layer.
const L1T2: &[u8] = &[0x80, 0x01, 0x1e, 0xa8, 0x40];
const L2T2_KEY: &[u8] = &[0x80, 0x03, 0x18, 0x7a, 0xaa, 0x01, 0x00, 0xa0, 0xa0, 0x10, 0x00];

/// Two temporal layers, and in the second spatial layer of a picture, which has a frame of its own, the same: any base picture is one to go up at.
#[test]
fn two_layers_in_each_of_the_spatial_ones() {
    for (structure, spatial) in [(L1T2, 1), (L2T2_KEY, 2)] {
        let mut stage = Stage::new(1);
        let viewer = stage.world.subscriber(wish(0, Some(DOWN_ID)));
        let run = |stage: &mut Stage, pictures: usize| {
            for _ in 0..pictures {
                let mut packets = stage.make();
                let key = media::payload::key_start(Codec::Av1, &packets[0].payload);
                let template = if key { 0 } else { 1 + u8::from(stage.video.temporal().0 == 2) };
                let number = stage.frame.wrapping_mul(spatial);
                for (index, packet) in packets.iter_mut().enumerate() {
                    // The second of two frames begins with the second packet.
                    let above = spatial == 2 && index > 0;
                    let [high, low] = number.wrapping_add(u16::from(above)).to_be_bytes();
                    let (first, last) =
                        (index == 0 || (above && index == 1), index == 2 || spatial == 2 && index == 0);
                    let ends = u8::from(first) << 7 | u8::from(last) << 6;
                    let mut descriptor = vec![ends | (template + if above { 3 } else { 0 }), high, low];
                    if key && index == 0 {
                        descriptor.extend(structure);
                    }
                    packet.descriptor = Some((UP_ID, descriptor));
                }
                stage.world.send(stage.publisher, packets);
                stage.world.run(FRAME_MS);
            }
        };
        run(&mut stage, 40);
        let plis = stage.world.peers[stage.publisher].plis();
        for (temporal_max, each) in [(Some(0), 2), (None, 1), (Some(0), 2), (None, 1)] {
            stage.ask(viewer, temporal_max);
            run(&mut stage, 5);
            let before = stage.world.peers[viewer].video().len();
            run(&mut stage, 40);
            let got = stage.world.peers[viewer].video().len() - before;
            assert_eq!(got, 3 * 40 / each, "{spatial} up to {temporal_max:?}");
        }
        assert_eq!(stage.world.peers[stage.publisher].plis(), plis, "nobody asked for a key frame");
        assert_contiguous(&stage.world.peers[viewer].video());
    }
}

/// Two spatial layers whose temporal patterns are apart by a picture: three templates of S0T0, one of S0T1, two of S1T0 and
/// one of S1T1, of which S0T1 and S1T0 are one picture's, and S0T0 and S1T1 the next one's.
const L2T2_KEY_SHIFT: &[u8] = &[
    0x80, 0x03, 0x06, 0x1e, 0xaa, 0x82, 0x80, 0x40, 0x28, 0x28, 0x05, 0x14, 0xd1, 0x41, 0x34, 0x51, 0x80,
    0x10, 0xa0, 0x91, 0x88, 0x9a, 0x09, 0x00,
];

/// Half of the pictures cannot be left out: the next one's upper frame would refer to nothing.
#[test]
fn pictures_of_frames_of_both_layers_are_all_sent() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(wish(0, Some(DOWN_ID)));
    let mut picture = 0_usize;
    let mut run = |stage: &mut Stage, pictures: usize| {
        for _ in 0..pictures {
            let mut packets = stage.make();
            let key = media::payload::key_start(Codec::Av1, &packets[0].payload);
            picture = if key { 0 } else { picture + 1 };
            let number = stage.frame.wrapping_mul(2);
            let [lower, upper] = match picture {
                0 => [0, 4],
                picture if picture % 2 == 1 => [3, 5],
                _ => [2, 6],
            };
            for (index, packet) in packets.iter_mut().enumerate() {
                let above = index > 0;
                let [high, low] = number.wrapping_add(u16::from(above)).to_be_bytes();
                let ends = u8::from(index < 2) << 7 | u8::from(index != 1) << 6;
                let mut descriptor = vec![ends | if above { upper } else { lower }, high, low];
                if key && index == 0 {
                    descriptor.extend(L2T2_KEY_SHIFT);
                }
                packet.descriptor = Some((UP_ID, descriptor));
            }
            stage.world.send(stage.publisher, packets);
            stage.world.run(FRAME_MS);
        }
    };
    run(&mut stage, 40);
    let plis = stage.world.peers[stage.publisher].plis();
    let before = stage.world.peers[viewer].video().len();
    stage.ask(viewer, Some(0));
    run(&mut stage, 90);
    assert_eq!(stage.world.peers[viewer].video().len() - before, 3 * 90);
    assert_eq!(stage.world.peers[stage.publisher].plis(), plis, "nobody asked for a key frame");
    assert_contiguous(&stage.world.peers[viewer].video());
}

/// A receiver takes a key frame with a lower number for one that came late.
#[test]
fn frame_numbers_go_on_when_the_publisher_begins_anew() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(wish(0, Some(DOWN_ID)));
    let plain = stage.world.subscriber(wish(0, None));
    stage.run(60);
    let before = stage.world.peers[viewer].video().len();
    stage.video = Video { ssrc: 600, seq: 9_000, ..stage.video.clone() };
    (stage.frame, stage.begins) = (3, true);
    stage.run(30);
    let all = stage.frames(viewer, 0);
    assert!(all.len() >= 85 && all.windows(2).all(|w| w[1] == w[0].wrapping_add(1)), "{all:?}");
    let video = stage.world.peers[viewer].video();
    assert_eq!(video[before].descriptor.as_ref().unwrap()[3..], STRUCTURE[3..]);
    // What is sent again is what was sent.
    let lost: Vec<Got> = [before - 3, before + 3].map(|at| video[at].clone()).to_vec();
    let seqs: Vec<u16> = lost.iter().map(|got| got.header.seq).collect();
    stage.world.nack(viewer, &seqs);
    stage.run(10);
    let peer = &stage.world.peers[viewer];
    let again = peer.of_ssrc(peer.rtx_ssrc);
    let again: Vec<&&Got> = again.iter().filter(|got| !got.payload.is_empty()).collect();
    assert!(!again.is_empty());
    for got in again {
        let original = u16::from_be_bytes([got.payload[0], got.payload[1]]);
        let first = lost.iter().find(|first| first.header.seq == original).unwrap();
        assert_eq!(got.descriptor, first.descriptor);
    }
    assert!(stage.world.peers[plain].video().len() > 250);
}

#[test]
fn descriptors_of_nonsense_change_nothing() {
    let mut stage = Stage::new(1);
    let viewer = stage.world.subscriber(wish(0, Some(DOWN_ID)));
    let mut random = crate::world::Random(5);
    stage.run(10);
    stage.ask(viewer, Some(0));
    for _ in 0..300 {
        let mut packets = stage.make();
        for packet in &mut packets {
            let len = 1 + random.below(30);
            let nonsense = (0..len).map(|_| random.below(256) as u8).collect();
            packet.descriptor = Some((UP_ID, nonsense));
        }
        stage.world.send(stage.publisher, packets);
        stage.world.run(FRAME_MS);
    }
    assert_contiguous(&stage.world.peers[viewer].video());
}
