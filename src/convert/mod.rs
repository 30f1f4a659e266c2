//! Audio conversion, sample-exact, both ways: AAC to Opus for WebRTC viewers ([`AacToOpus`]) and Opus to AAC
//! for RTMP and FLV viewers ([`OpusToAac`]).
//!
//! Both are pure state machines: no IO, no clock, no thread; the same input gives the same output. One frame
//! costs about as much as a hundred forwarded packets, so they run on a worker pool, once a stream, never on
//! a media thread.
//!
//! What a time stamp means is the same everywhere here: **the time of the first sample that a decoder gives
//! for this frame**. Each stage that holds samples back (a codec's look-ahead, a resampler's filter) is
//! compensated by counting samples, so a click in the source keeps its place against the picture.
//!
//! ```text
//! AacToOpus:  access unit -> decode -> (downmix) -> (resample) -> FIFO of 960 -> encode -> 20 ms packet
//! OpusToAac:  packet (or a hole: FEC, concealment, silence) -> decode -> encode by 1024 -> access unit
//! ```
//!
//! Every buffer is bounded by one access unit, one Opus packet of 120 ms or one resampler block.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod aac;
mod aac_to_opus;
mod opus_to_aac;
mod pcm;
mod resample;

#[cfg(test)]
mod tests;

pub use aac_to_opus::{AacToOpus, AacToOpusStats, OpusFrame};
pub use opus_to_aac::{OpusToAac, OpusToAacStats};

use media::Codec;

/// The rate of everything between the codecs, in Hz: what Opus works in (RFC 6716 section 2), and what is
/// kept for AAC.
pub const RATE_HZ: u32 = 48_000;

/// Samples per second, as the signed number positions are counted in.
const RATE: i64 = RATE_HZ as i64;

/// What the Opus encoder holds back, in samples at 48 kHz: 2.5 ms of overlap and 4 ms of delay compensation.
/// libopus has the same in its VOIP and AUDIO modes, so it is also what a browser's packets carry.
const OPUS_LOOKAHEAD: i64 = 312;

/// A hole or an overlap of the source up to this long is followed (silence goes in, or sound is left out), so
/// that the output's time has no jump; beyond it the output's time jumps. 1 s, at 48 kHz.
const FOLLOW_SAMPLES_MAX: i64 = RATE;

/// This many frames in a row that cannot be decoded end the conversion: about 1 s of either codec.
/// A single one is replaced.
const FAILURES_MAX: u32 = 50;

/// Why a conversion cannot start or go on. The converter is of no use afterwards.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The track to convert is not AAC.
    #[error("cannot convert {0:?} to Opus, only AAC")]
    NotAac(Codec),
    /// No decoder takes the configuration. The publisher's doing.
    #[error("AAC object type {object_type} at {sample_rate_hz} Hz is not supported: {reason}")]
    Config {
        /// Audio object type of the configuration (2 is AAC-LC).
        object_type: u8,
        /// Core rate of the configuration in Hz.
        sample_rate_hz: u32,
        /// What the decoder said.
        reason: String,
    },
    /// Decoded sound has a rate outside the AAC table (ISO/IEC 14496-3 table 1.18). The publisher's doing.
    #[error("AAC decodes to {0} Hz, which is no AAC rate")]
    Rate(u32),
    /// Too many frames in a row could not be decoded. The publisher's doing.
    #[error("{count} {codec:?} frames in a row could not be decoded: {reason}")]
    Decode {
        /// The codec of the input.
        codec: Codec,
        /// How many in a row.
        count: u32,
        /// What the decoder said of the last one.
        reason: String,
    },
    /// The resampler refused. A fault of this program.
    #[error("resampling {from_hz} Hz to {RATE_HZ} Hz: {reason}")]
    Resample {
        /// Rate of its input in Hz.
        from_hz: u32,
        /// What the resampler said.
        reason: String,
    },
    /// The encoder refused its settings or its input. A fault of this program, or of its settings.
    #[error("{codec:?} encoder: {reason}")]
    Encode {
        /// The codec of the output.
        codec: Codec,
        /// What the encoder said.
        reason: String,
    },
}
