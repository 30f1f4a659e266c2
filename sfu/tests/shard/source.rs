//! An RTMP-like source: frames and sound by mail, no layers, and no answer to a request for a key frame.

use std::sync::Arc;

use media::{Codec, Packet};
use sfu::{Mail, SourceId};

use crate::camera::{Audio, FRAME_MS, Video, external};
use crate::world::{AUDIO, VIDEO, World};

const SOURCE: SourceId = SourceId(1);

pub struct Source {
    pub video: Video,
    pub audio: Audio,
    pub payload_len: usize,
    pub frames: u64,
    /// A key frame each so many.
    pub gop: u64,
    /// Each second frame is one that no other refers to.
    pub discardable: bool,
    /// Key frames say so, too, of whom it is not true.
    pub marks_keys: bool,
}

impl Source {
    pub fn new(packets_per_frame: usize) -> Source {
        let video = Video { packets_per_frame, ..Video::h264(500, 0) };
        let audio = Audio { ssrc: 501, seq: 0, timestamp: 0 };
        Source { video, audio, payload_len: 1_100, frames: 0, gop: 60, discardable: false, marks_keys: false }
    }

    /// The next frame.
    pub fn frame(&mut self, world: &mut World) {
        let key = self.frames.is_multiple_of(self.gop);
        let discardable = if key { self.marks_keys } else { self.discardable && self.frames % 2 == 1 };
        self.frames += 1;
        let mut frame = self.video.frame(key);
        frame.iter_mut().for_each(|p| p.payload.resize(self.payload_len, 0));
        let packets = external(frame, Codec::H264, world.now, 0);
        let packets: Arc<[Packet]> = packets.iter().map(|p| Packet { discardable, ..p.clone() }).collect();
        world.mail(0, Mail::Packets { track: VIDEO, source: SOURCE, packets });
    }

    /// The next 20 ms of sound.
    pub fn sound(&mut self, world: &mut World) {
        let packets = external(vec![self.audio.packet()], Codec::Opus, world.now, 0);
        world.mail(0, Mail::Packets { track: AUDIO, source: SOURCE, packets });
    }

    /// So many milliseconds of both.
    pub fn run(&mut self, world: &mut World, ms: i64) {
        for passed in 0..ms {
            if passed % FRAME_MS == 0 {
                self.frame(world);
            }
            if passed % 20 == 0 {
                self.sound(world);
            }
            world.run(1);
        }
    }
}
