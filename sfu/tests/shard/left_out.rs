//! A stream from another node, of which the way here took less than came: frames were left out, and the word comes in their place.

use media::payload::{self, Temporal, discardable};
use media::{Codec, Packet};
use sfu::{Command, Layer, LayerRequest, Layers, Mail, SourceId};

use crate::camera::{FRAME_MS, Video, external};
use crate::world::{VIDEO, Wish, World, assert_contiguous};

const SOURCE: SourceId = SourceId(1);
/// The number of the shards that stands for the relay.
const RELAY: usize = 2;

/// Two viewers of three temporal layers of VP8, one of them on another shard than the home.
struct Stage {
    world: World,
    viewers: [usize; 2],
    video: Video,
    frames: usize,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new(RELAY + 1);
        world.command(0, Command::Relay(VIDEO.stream, Some(RELAY)));
        let viewers = [0, 1].map(|shard| world.subscriber(Wish::on(shard)));
        let video =
            Video { height: 360, layered: true, picture_id: 0x7ff0, tl0: 250, ..Video::vp8(500, 65_000) };
        let mut stage = Stage { world, viewers, video, frames: 0 };
        stage.send(true);
        let layer = Layer {
            rate_bps: 500_000,
            height: 360,
            flows: true,
            live: true,
            temporal_layers: 3,
            temporal_bps: [200_000, 300_000, 500_000, 0],
            ..Layer::default()
        };
        let layers: Layers = std::array::from_fn(|nth| if nth == 0 { layer } else { Layer::default() });
        stage.world.mail(0, Mail::Layers { stream: VIDEO.stream, layers });
        stage
    }

    /// The next frame, as the relay has it.
    fn make(&mut self, key: bool) -> Vec<Packet> {
        self.frames += 1;
        let frame = self.video.frame(key);
        let packets = external(frame, Codec::Vp8, self.world.now, 0);
        let of_frame = |p: &Packet| Packet {
            temporal: Temporal::of(Codec::Vp8, &p.payload, None),
            discardable: discardable(Codec::Vp8, &p.payload),
            ..p.clone()
        };
        packets.iter().map(of_frame).collect()
    }

    fn mail(&mut self, packets: Vec<Packet>) {
        self.world.mail(0, Mail::Packets { track: VIDEO, source: SOURCE, packets: packets.into() });
    }

    fn leave_out(&mut self, packets: &[Packet]) {
        let (seq, count) = (packets[0].seq, packets.len() as u32);
        self.world.mail(0, Mail::LeftOut { track: VIDEO, source: SOURCE, seq, count });
        self.frames -= 1;
    }

    fn send(&mut self, key: bool) {
        let packets = self.make(key);
        self.mail(packets);
        self.world.run(FRAME_MS);
    }

    /// Key frames that the relay was asked for.
    fn asked(&self) -> usize {
        let to_relay =
            |(_, to, mail): &&(usize, usize, Mail)| *to == RELAY && matches!(mail, Mail::RequestKeyFrame(_));
        self.world.mail.iter().filter(to_relay).count()
    }

    /// Viewers got all frames but those left out, and their numbers and ids have no hole.
    fn check(&self) {
        self.check_whole();
        for viewer in self.viewers {
            assert_eq!(self.world.peers[viewer].video().len(), self.frames * 3);
        }
    }

    fn check_whole(&self) {
        for viewer in self.viewers {
            let video = self.world.peers[viewer].video();
            assert_contiguous(&video);
            let mut ids = video.iter().filter(|got| got.header.marker).map(|got| {
                let found = payload::vp8::Descriptor::parse(&got.payload).expect("a descriptor");
                found.picture_id_in(&got.payload).expect("an id")
            });
            let first = ids.next().expect("a frame");
            for (nth, id) in (1..).zip(ids) {
                assert_eq!(id, (first + nth) & 0x7fff, "picture id of frame {nth} of viewer {viewer}");
            }
        }
    }
}

#[test]
fn frames_that_were_left_out_leave_no_hole() {
    let mut stage = Stage::new();
    let asked = stage.asked();
    for nth in 0..120 {
        let frame = stage.make(false);
        match frame[0].discardable && nth % 3 != 0 {
            true => stage.leave_out(&frame),
            false => stage.mail(frame),
        }
        stage.world.run(FRAME_MS);
    }
    assert!(stage.frames < 100, "{} of 121", stage.frames);
    stage.check();
    // Up to the next key frame.
    for _ in 0..45 {
        let frame = stage.make(false);
        stage.leave_out(&frame);
        stage.world.run(FRAME_MS);
    }
    stage.send(true);
    for _ in 0..20 {
        stage.send(false);
    }
    stage.check();
    assert_eq!(stage.asked(), asked, "nobody missed anything");
}

#[test]
fn ids_have_no_hole_for_frames_that_were_left_out_here_and_on_the_way() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        stage.send(false);
    }
    for viewer in stage.viewers {
        let (shard, id) = (stage.world.peers[viewer].shard, stage.world.peers[viewer].id);
        let base = LayerRequest { temporal_max: Some(0), ..LayerRequest::default() };
        stage.world.command(shard, Command::RequestLayer(id, base));
    }
    for nth in 0..80 {
        let frame = stage.make(false);
        match frame[0].discardable && nth % 3 != 0 {
            true => stage.leave_out(&frame),
            false => stage.mail(frame),
        }
        stage.world.run(FRAME_MS);
    }
    stage.check_whole();
    for viewer in stage.viewers {
        let frames = stage.world.peers[viewer].video().len() / 3;
        assert!((23..26).contains(&frames), "{frames} of 84: one of four of the last");
    }
}

#[test]
fn what_comes_late_from_before_them_has_its_place() {
    let mut stage = Stage::new();
    for _ in 0..40 {
        let mut frame = stage.make(false);
        let late = frame.remove(1);
        let left_out = stage.make(false);
        stage.mail(frame);
        stage.leave_out(&left_out);
        let next = stage.make(false);
        stage.mail(next);
        stage.mail(vec![late]);
        // By another way they come all the same.
        stage.mail(left_out);
        stage.world.run(FRAME_MS);
    }
    for viewer in stage.viewers {
        let peer = &mut stage.world.peers[viewer];
        assert_eq!(peer.video().len(), stage.frames * 3);
        let mut got = peer.got.clone();
        got.retain(|got| got.header.ssrc == peer.video_ssrc);
        got.sort_by_key(|got| got.header.seq);
        assert_contiguous(&got.iter().collect::<Vec<_>>());
    }
}

#[test]
fn of_what_is_said_too_late_a_key_frame_is_asked_for_and_no_number_changes() {
    let mut stage = Stage::new();
    for _ in 0..20 {
        stage.send(false);
    }
    let (left_out, frame) = (stage.make(false), stage.make(false));
    stage.mail(frame);
    stage.world.run(FRAME_MS);
    let asked = stage.asked();
    stage.leave_out(&left_out);
    stage.world.run(FRAME_MS);
    assert_eq!(stage.asked(), asked + 1);
    let hole = stage.world.peers[stage.viewers[0]].video()[..].last().expect("a packet").header.seq - 3;
    for _ in 0..3 {
        stage.world.nack(stage.viewers[0], &[hole]);
        stage.send(false);
    }
    stage.send(true);
    assert_eq!(stage.asked(), asked + 1, "once");
    for viewer in stage.viewers {
        let video = stage.world.peers[viewer].video();
        assert_eq!(video.len(), stage.frames * 3, "nothing went twice");
        let (before, behind) = video.split_at(21 * 3);
        assert_contiguous(before);
        assert_contiguous(behind);
        assert_eq!(before[62].header.seq.wrapping_add(4), behind[0].header.seq, "the hole stays");
    }
}
