//! RTP payload formats: frames into payloads, packets into frames, packets into order, and what the first bytes of a payload
//! say about the frame it belongs to.

use bytes::Bytes;

use crate::{Frame, Packet, Time};

mod av1;
pub mod dependency;
pub mod h264;
mod keyframe;
mod reorder;
mod size;
mod temporal;
pub mod vp8;
mod vp9;

pub use keyframe::{discardable, key_start};
pub use reorder::{Reorder, ReorderCounts};
pub use size::size;
pub use temporal::{Pictures, TEMPORAL_LAYERS_MAX, Temporal};

/// Longest payload a packetizer of ours makes, in bytes. With RTP header, extensions, SRTP tag and the relay's own header it still
/// fits a datagram of a 1200-byte QUIC packet, so no hop has to split it.
pub const PAYLOAD_LEN_MAX: usize = 1100;

/// One RTP payload and what its header must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RtpPayload {
    /// The payload.
    pub bytes: Bytes,
    /// RTP marker: the last packet of a frame.
    pub marker: bool,
    /// The first packet of a frame that a decoder can start at.
    pub key_start: bool,
}

impl RtpPayload {
    /// As a packet of that frame, with this number; its time is the frame's presentation time.
    pub fn packet(self, frame: &Frame, seq: u64, capture: Time) -> Packet {
        let codec = frame.config.codec();
        Packet {
            seq,
            timestamp: frame.pts.ticks(codec.clock_hz()),
            arrival: capture,
            capture,
            codec,
            marker: self.marker,
            key_start: self.key_start,
            discardable: frame.discardable,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: self.bytes,
        }
    }
}
