//! A frame: one access unit. RTMP, FLV, HLS and recordings speak frames.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Kind, Time, TrackConfig};

/// One access unit of H.264 or AAC, or one Opus packet, with the configuration it was coded under.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The configuration of this frame's track. Compare with `Arc::ptr_eq` first: it changes rarely.
    pub config: Arc<TrackConfig>,
    /// Decode time, never going back within a track.
    pub dts: Time,
    /// Presentation time, at or after `dts`.
    pub pts: Time,
    /// A decoder can start here: an IDR, or any audio frame.
    pub key: bool,
    /// No other frame refers to this one (H.264: every slice has nal_ref_idc 0).
    pub discardable: bool,
    /// H.264 as AVCC with 4-byte lengths and without SPS/PPS/AUD; AAC raw; an Opus packet.
    pub data: Bytes,
}

impl Frame {
    /// Audio or video.
    pub fn kind(&self) -> Kind {
        self.config.codec().kind()
    }
}
