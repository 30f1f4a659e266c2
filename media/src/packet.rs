//! A packet: one RTP packet of a track, as rings hold it and shards pass it on.

use bytes::Bytes;

use crate::payload::Temporal;
use crate::{Codec, Time};

/// One RTP packet in its track's own numbering. The track gives `seq` and `timestamp`, so they go on without a jump
/// when the publisher behind the track changes. Each subscriber maps them to its own.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Extended sequence number in the track's numbering.
    pub seq: u64,
    /// Extended RTP time in the track's clock (`codec.clock_hz()`).
    pub timestamp: i64,
    /// When it reached this process.
    pub arrival: Time,
    /// When it was captured, on this process's time line, as well as is known: from the source's sender reports, or from
    /// RTMP time. Audio and video of one stream agree on it.
    pub capture: Time,
    /// Its codec; a track may change codec when its publisher does.
    pub codec: Codec,
    /// RTP marker: last packet of a video frame, first of an audio talk spurt.
    pub marker: bool,
    /// The first packet of a frame that a decoder can start at (for audio: any packet).
    pub key_start: bool,
    /// No other frame refers to this one's frame.
    pub discardable: bool,
    /// Where its frame stands among the temporal layers of its encoding.
    pub temporal: Temporal,
    /// Its frame's dependency descriptor, as the publisher sent it; empty without.
    pub descriptor: Bytes,
    /// The first packet after the track's source changed: numbers go on, references do not.
    pub fresh_source: bool,
    /// RTP payload, without header, extensions and padding.
    pub payload: Bytes,
}
