//! Bodies of FLV tags, as RTMP and HTTP-FLV viewers get them: counted, and heard by the viewer that listens.

use media::flv::{TYPE_AUDIO, TYPE_VIDEO};

use crate::load::beep::{Ear, Skew};
use crate::load::stamp::Stamp;
use crate::load::tally::Meter;

/// What came of one viewer's tags.
#[derive(Default)]
pub struct Tags {
    listens: bool,
    /// Once the sound's configuration came.
    ear: Option<Ear>,
    skew: Skew,
}

impl Tags {
    /// For a viewer that listens, or not.
    pub fn new(listens: bool) -> Tags {
        Tags { listens, ..Tags::default() }
    }

    /// Takes a tag.
    pub fn take(&mut self, type_id: u8, timestamp_ms: u32, body: &[u8], at_us: u64, meter: &mut Meter<'_>) {
        if type_id != TYPE_VIDEO && type_id != TYPE_AUDIO {
            return;
        }
        meter.bytes(body.len(), at_us);
        let time_us = i64::from(timestamp_ms) * 1_000;
        let skew = match (type_id, body) {
            // FLV E.4.3.1: frame type 1 is a key frame, packet type 1 holds NAL units.
            (TYPE_VIDEO, [first, 1, _, _, _, data @ ..]) => {
                let stamp = Stamp::of_avcc(data);
                meter.frame(stamp, first >> 4 == 1, at_us);
                let marks = self.listens && stamp.is_some_and(|stamp| meter.seat.is_full_second(stamp));
                if marks { self.skew.frame(time_us) } else { None }
            }
            // FLV E.4.2.1: packet type 0 is the AudioSpecificConfig, 1 a raw AAC unit.
            (TYPE_AUDIO, [_, 0, asc @ ..]) if self.listens => {
                self.ear = Ear::aac(asc).ok();
                None
            }
            (TYPE_AUDIO, [_, 1, unit @ ..]) => {
                let beep = self.ear.as_mut().and_then(|ear| ear.hear(unit, time_us));
                beep.and_then(|beep| self.skew.beep(beep))
            }
            _ => None,
        };
        if let Some(skew) = skew {
            meter.skew(skew, at_us);
        }
    }
}
