//! Codecs and what a decoder must know before the first frame.

use bytes::Bytes;

/// Audio or video.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Sound.
    Audio,
    /// Picture.
    Video,
}

impl Kind {
    /// `audio` or `video`, as SDP and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
        }
    }
}

/// The codecs a track may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Codec {
    /// H.264/AVC. Frames are AVCC (4-byte lengths), packets are RFC 6184.
    H264,
    /// H.265/HEVC, forwarded only.
    H265,
    /// VP8, forwarded only.
    Vp8,
    /// VP9, forwarded only.
    Vp9,
    /// AV1, forwarded only.
    Av1,
    /// AAC. Frames are raw access units without ADTS.
    Aac,
    /// Opus. A frame is one packet.
    Opus,
    /// G.711 A-law, forwarded only.
    Pcma,
    /// G.711 mu-law, forwarded only.
    Pcmu,
}

impl Codec {
    /// Audio or video.
    pub const fn kind(self) -> Kind {
        match self {
            Codec::H264 | Codec::H265 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 => Kind::Video,
            Codec::Aac | Codec::Opus | Codec::Pcma | Codec::Pcmu => Kind::Audio,
        }
    }

    /// The encoding name that SDP registers (RFC 8851 and the payload format RFCs). AAC has none here: it never
    /// goes over WebRTC.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::H264 => "H264",
            Codec::H265 => "H265",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::Av1 => "AV1",
            Codec::Aac => "AAC",
            Codec::Opus => "opus",
            Codec::Pcma => "PCMA",
            Codec::Pcmu => "PCMU",
        }
    }

    /// The RTP clock in Hz.
    pub const fn clock_hz(self) -> u32 {
        match self {
            Codec::Opus | Codec::Aac => 48_000,
            Codec::Pcma | Codec::Pcmu => 8_000,
            _ => 90_000,
        }
    }
}

/// What a decoder of H.264 must know, from `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 5.3.3).
#[derive(Clone, PartialEq, Debug)]
pub struct VideoConfig {
    /// The whole record, with 4-byte NAL lengths: the body of an FLV/RTMP sequence header.
    pub avcc: Bytes,
    /// Sequence parameter set, with its NAL header.
    pub sps: Bytes,
    /// Picture parameter set, with its NAL header.
    pub pps: Bytes,
    /// Picture width in pixels, after cropping.
    pub width: u32,
    /// Picture height in pixels, after cropping.
    pub height: u32,
    /// From VUI timing, when the SPS has it.
    pub fps: Option<f32>,
}

/// What a decoder of AAC must know, from `AudioSpecificConfig` (ISO/IEC 14496-3 1.6.2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AudioConfig {
    /// The whole record: the body of an FLV/RTMP sequence header.
    pub asc: Bytes,
    /// Audio object type: 2 is AAC-LC, 5 SBR, 29 PS.
    pub object_type: u8,
    /// Core sampling rate in Hz.
    pub sample_rate_hz: u32,
    /// 1 mono, 2 stereo, up to 8.
    pub channels: u8,
}

/// A frame track's decoder configuration; frames point at the one they were coded under.
#[derive(Clone, PartialEq, Debug)]
pub enum TrackConfig {
    /// H.264.
    H264(VideoConfig),
    /// AAC.
    Aac(AudioConfig),
    /// Opus: each packet says for itself how it is decoded.
    Opus,
}

impl TrackConfig {
    /// The codec this configures.
    pub const fn codec(&self) -> Codec {
        match self {
            TrackConfig::H264(_) => Codec::H264,
            TrackConfig::Aac(_) => Codec::Aac,
            TrackConfig::Opus => Codec::Opus,
        }
    }
}
