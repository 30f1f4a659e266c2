//! The node's audio converters: decoders of other projects on what a publisher sends.

use std::sync::Arc;

use bytes::Bytes;
use media::{AudioConfig, Frame, Time, TrackConfig};

use crate::convert::{AacToOpus, OpusToAac};
use crate::input::Input;
use crate::novelty::{note, note_count};

/// A converter is handed at most so many packets: enough for every state, few enough for many inputs a second.
const PACKETS_MAX: usize = 64;

/// Opus packets: (milliseconds since the last, packet) again and again.
pub fn opus_to_aac(data: &[u8]) {
    let mut input = Input::new(data);
    let mut converter = OpusToAac::new(0).expect("the encoder's own configuration");
    let mut pts = Time::ZERO;
    let mut out = Vec::new();
    let mut last = Time(i64::MIN);
    for _ in 0..PACKETS_MAX {
        if input.is_empty() {
            break;
        }
        pts = pts.plus_ms(i64::from(input.u16().cast_signed()));
        let result = converter.push(input.bytes(), pts, &mut out);
        note(&result);
        for frame in out.drain(..) {
            assert!(frame.dts >= last, "time goes back");
            last = frame.dts;
        }
        if result.is_err() {
            break;
        }
    }
    note(&converter.stats());
}

/// AAC: a configuration, then (milliseconds since the last, access unit) again and again.
pub fn aac_to_opus(data: &[u8]) {
    let mut input = Input::new(data);
    let config = match AudioConfig::from_asc(Bytes::copy_from_slice(input.bytes())) {
        Ok(config) => Arc::new(TrackConfig::Aac(config)),
        Err(why) => return note(&why),
    };
    let mut converter = match AacToOpus::new(Arc::clone(&config), 0) {
        Ok(converter) => converter,
        Err(why) => return note(&why),
    };
    let mut pts = Time::ZERO;
    let mut out = Vec::new();
    for _ in 0..PACKETS_MAX {
        if input.is_empty() {
            break;
        }
        pts = pts.plus_ms(i64::from(input.u16().cast_signed()));
        let data = Bytes::copy_from_slice(input.bytes());
        let config = Arc::clone(&config);
        let frame = Frame { config, dts: pts, pts, key: true, discardable: false, data };
        let result = converter.push(&frame, &mut out);
        note(&result);
        note_count("packets", out.len());
        out.clear();
        if result.is_err() {
            break;
        }
    }
    note(&converter.stats());
}
