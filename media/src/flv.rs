//! FLV: the tag bodies that RTMP and FLV files share, and the file format itself (Video File Format Specification
//! Version 10.1, Annex E).
//!
//! [`Demuxer`] turns tag bodies into frames with mended times, the functions of `mux` turn frames into tag bodies and
//! tags, [`Reader`] takes an FLV byte stream apart.

mod demux;
mod metadata;
mod mux;
mod reader;
mod timeline;

pub use demux::{Demuxer, Input};
pub use metadata::{METADATA_LEN_MAX, Metadata, metadata_body};
pub use mux::{file_header, frame_body, frame_head, sequence_header, tag, tag_parts, type_id};
pub use reader::{Reader, TAG_LEN_MAX, Tag};

use crate::{aac, h264};

/// Tag and RTMP message type of audio (E.4.1).
pub const TYPE_AUDIO: u8 = 8;
/// Tag and RTMP message type of video.
pub const TYPE_VIDEO: u8 = 9;
/// Tag and RTMP message type of script data, AMF0.
pub const TYPE_DATA: u8 = 18;

/// Why a tag is refused. The fault is the publisher's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A codec other than H.264 and AAC.
    #[error("{what} is not supported: send H.264 and AAC")]
    UnsupportedCodec {
        /// The codec as its users know it.
        what: String,
    },
    /// A tag body that ends inside its own header.
    #[error("{0} tag is cut short")]
    Truncated(&'static str),
    /// A packet type that the codec does not have.
    #[error("{kind} packet type {packet_type} does not exist")]
    PacketType {
        /// `AVC` or `AAC`.
        kind: &'static str,
        /// The byte on the wire.
        packet_type: u8,
    },
    /// A tag type other than audio, video and script data (E.4.1). An encrypted tag shows as this, too.
    #[error("FLV tag type {0} is not supported")]
    TagType(u8),
    /// The stream does not begin with an FLV header of version 1.
    #[error("not an FLV stream")]
    NotFlv,
    /// A tag longer than [`TAG_LEN_MAX`].
    #[error("FLV tag of {0} bytes is longer than {TAG_LEN_MAX}")]
    Long(usize),
    /// The H.264 inside is broken.
    #[error(transparent)]
    H264(#[from] h264::Error),
    /// The AAC configuration is broken.
    #[error(transparent)]
    Aac(#[from] aac::Error),
}
