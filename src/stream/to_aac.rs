//! Opus to AAC: the sound of a browser that publishes for RTMP and FLV viewers, here and at other nodes. It taps the track at its home shard and puts what it
//! makes into the frame log, started with the first who takes it and ended with the last.

use std::sync::Arc;
use std::time::Duration;

use media::payload::Reorder;
use media::{Codec, Frame, Kind, Packet, Time};
use metrics::Conversion;
use sfu::SourceId;

use super::Stream;
use super::conversions::Counted;
use super::to_frames::{REORDER_PACKETS_MAX, REORDER_US, Slew, Tap};
use crate::convert::OpusToAac;

/// Runs until it is aborted. `publisher` is the fence of whose sound it is, `fence` this conversion's.
pub async fn run(stream: Arc<Stream>, publisher: SourceId, fence: SourceId) {
    let shared = stream.shared().clone();
    let _counted = Counted::new(&shared.metrics, Conversion::OpusToAac);
    let Some((_tap, mut audio)) = Tap::new(&stream, Kind::Audio, fence) else { return };
    let mut sound = match Sound::new(shared.convert.aac_bps) {
        Ok(sound) => sound,
        Err(error) => return tracing::error!(%error, "the AAC encoder does not start"),
    };
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut frames = Vec::new();
    loop {
        tokio::select! {
            packets = audio.recv() => match packets {
                Some(packets) => sound.push(packets),
                None => return,
            },
            _ = tick.tick() => {}
        }
        let now = shared.clock.now();
        let refused = sound.pop(now, &mut frames);
        for frame in frames.drain(..) {
            shared.metrics.conversion_frames.of(Conversion::OpusToAac).add(1);
            let captured = frame.dts;
            stream.log.push_captured(publisher, frame, captured, now);
        }
        shared.metrics.conversion_errors.of(Conversion::OpusToAac).add(std::mem::take(&mut sound.errors));
        if let Some(codec) = refused {
            return stream.refuse_codec(publisher, codec);
        }
    }
}

struct Sound {
    reorder: Reorder,
    slew: Slew,
    converter: OpusToAac,
    errors: u64,
}

impl Sound {
    fn new(aac_bps: u32) -> Result<Sound, crate::convert::Error> {
        Ok(Sound {
            reorder: Reorder::new(REORDER_US, REORDER_PACKETS_MAX),
            slew: Slew::default(),
            converter: OpusToAac::new(aac_bps)?,
            errors: 0,
        })
    }

    fn push(&mut self, packets: Vec<Packet>) {
        for packet in packets {
            self.reorder.push(packet);
        }
    }

    /// Frames that are whole, at the times of their capture; the codec, when it is another.
    fn pop(&mut self, now: Time, out: &mut Vec<Frame>) -> Option<Codec> {
        while let Some(packet) = self.reorder.pop(now) {
            if packet.codec != Codec::Opus {
                return Some(packet.codec);
            }
            // A packet that does not decode is silence; many in a row are errors.
            let at = self.slew.time(packet.timestamp, Codec::Opus.clock_hz(), packet.capture);
            self.errors += u64::from(self.converter.push(&packet.payload, at, out).is_err());
        }
        None
    }
}
