//! A publisher of three encodings, told apart by RID, and what holds for whatever a viewer gets of them.

use std::collections::{HashMap, VecDeque};

use media::{Codec, Time};
use proptest::prelude::*;
use rtc::rtcp;
use sfu::{Command, LayerRequest, LayerShown};

use crate::camera::{FRAME_MS, FRAME_TICKS, Video};
use crate::world::{Got, Rtcp, UNIX_US, Wish, World, numbers, times};

pub const RIDS: [&str; 3] = ["q", "h", "f"];
pub const RID_ID: u8 = 10;
pub const REPAIRED_ID: u8 = 11;
pub const HEIGHTS: [u16; 3] = [180, 360, 720];
/// The encodings have this SSRC and the next two.
pub const SSRC: u32 = 500;
/// Of each encoding's first frame.
pub const TIMESTAMPS: [u32; 3] = [1_000, 4_000_000_000, 77];

/// A publisher of three encodings, one frame of each every 33 ms, that answers key-frame requests.
pub struct Stage {
    pub world: World,
    pub publisher: usize,
    pub cameras: Vec<Video>,
    /// Encodings that are not sent.
    pub stopped: [bool; 3],
    pub answered: [usize; 3],
    pub frames: u64,
    /// As Chromium it does not listen to a request within so long of the last, for whichever encoding.
    pub deaf_ms: i64,
    pub heard: Time,
    /// What it was told and has not done yet: the encodings that it is not to send.
    pub told: VecDeque<[bool; 3]>,
    /// Encodings that begin with a key frame, as they were not sent before.
    pub begins: [bool; 3],
    /// Bytes of a packet, where there are more of them than the camera's.
    pub payload_len: usize,
}

pub fn simulcast(shard: usize) -> Wish {
    let mut wish = Wish::on(shard);
    let video = &mut wish.medias[1];
    video.rids = RIDS.map(String::from).to_vec();
    (video.rid_ext_id, video.repaired_rid_ext_id) = (Some(RID_ID), Some(REPAIRED_ID));
    wish
}

pub fn cameras(codec: Codec, ssrc: u32) -> Vec<Video> {
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
    pub fn new(shards: usize, codec: Codec) -> Stage {
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

    pub fn plis(&self, layer: usize) -> usize {
        let of = self.cameras[layer].ssrc;
        self.world.peers[self.publisher].count(|r| matches!(r, Rtcp::Pli { ssrc } if *ssrc == of))
    }

    pub fn frame(&mut self) {
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
    pub fn report(&mut self) {
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

    pub fn run(&mut self, ms: i64) {
        (0..ms / FRAME_MS).for_each(|_| self.frame());
    }

    pub fn ask(&mut self, viewer: usize, request: LayerRequest) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(shard, Command::RequestLayer(id, request));
    }

    pub fn estimate(&mut self, viewer: usize, bps: u64) {
        let (shard, id) = (self.world.peers[viewer].shard, self.world.peers[viewer].id);
        self.world.command(shard, Command::Estimate(id, bps));
    }

    /// The encoding of the last packet that a viewer got.
    pub fn shown(&self, viewer: usize) -> usize {
        let all = self.world.peers[viewer].video();
        let last = all.iter().rev().find(|g| !g.payload.is_empty()).expect("it got something");
        (origin(last).0 - self.cameras[0].ssrc) as usize
    }

    pub fn says(&self, viewer: usize) -> LayerShown {
        self.world.peers[viewer].stats.layer()
    }

    /// Runs until a viewer gets an encoding; how long that took.
    pub fn until(&mut self, viewer: usize, layer: usize, ms_max: i64) -> i64 {
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
pub fn origin(got: &Got) -> (u32, u64) {
    (camera_says(got, 0, 4) as u32, camera_says(got, 4, 8))
}

/// When its frame was taken, in ticks since the encodings' first.
pub fn captured(got: &Got) -> i64 {
    let first = TIMESTAMPS[(origin(got).0 - SSRC) as usize];
    i64::from((camera_says(got, 12, 4) as u32).wrapping_sub(first))
}

/// What the camera wrote behind a payload's head.
pub fn camera_says(got: &Got, from: usize, len: usize) -> u64 {
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
pub fn picture_id(got: &Got) -> Option<(u16, u8)> {
    let &[0x80 | 0x90 | 0xa0 | 0xb0, 0xe0, high, low, tl0, ..] = &got.payload[..] else { return None };
    Some((u16::from_be_bytes([high & 0x7f, low]), tl0))
}

pub fn is_entrance(got: &Got) -> bool {
    matches!(got.payload[..], [0x90, _, _, _, _, _, 0, ..] | [0x78, ..])
}

/// Whatever was switched: numbers name one packet each, time goes on and never back, a frame is of one encoding and in its numbering, each
/// switch begins with a key frame and its parameter sets, and a cut frame is followed by a gap.
pub fn check(world: &World, viewer: usize) -> Result<usize, TestCaseError> {
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
pub const SLACK_TICKS: i64 = 9_000;

pub const LOW: LayerRequest =
    LayerRequest { layer: Some(0), height_max: None, rate_bps_max: None, temporal_max: None, paused: false };
pub const ANY: LayerRequest = LayerRequest { layer: None, ..LOW };
