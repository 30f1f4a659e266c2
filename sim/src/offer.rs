//! What SDP agreed on with a model client.

use media::{Codec, Kind};
use rtc::sdp::{NegotiatedCodec, NegotiatedMedia};

/// Payload types of VP8, H.264 and Opus; RTX of a video format is the next number.
pub const VP8: u8 = 96;
/// See [`VP8`].
pub const H264: u8 = 102;
/// See [`VP8`].
pub const OPUS: u8 = 111;
/// Id of the transport-wide sequence number.
pub const TWCC_ID: u8 = 3;
/// Ids of a packet's m-line and encoding, and of the encoding that a retransmission is of (RFC 8852).
pub const MID_ID: u8 = 4;
/// See [`MID_ID`].
pub const RID_ID: u8 = 10;
/// See [`MID_ID`].
pub const REPAIRED_RID_ID: u8 = 11;
/// Names of a simulcast publisher's encodings.
pub const RIDS: [&str; 3] = ["l", "m", "h"];
/// The mid of video.
pub const VIDEO_MID: &str = "1";

/// What differs from client to client.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Retransmissions have a payload type and SSRC of their own (RFC 4588).
    pub rtx: bool,
    /// Transport-wide feedback.
    pub twcc: bool,
}

impl Default for Features {
    /// What browsers have.
    fn default() -> Features {
        Features { rtx: true, twcc: true }
    }
}

/// The payload type of a video codec.
pub fn payload_type(codec: Codec) -> u8 {
    if codec == Codec::Vp8 { VP8 } else { H264 }
}

/// Of a publisher with as many encodings.
pub fn simulcast(features: Features, encodings: usize) -> Vec<NegotiatedMedia> {
    let mut medias = medias(features);
    for video in medias.iter_mut().filter(|m| m.kind == Kind::Video && encodings > 1) {
        video.mid_ext_id = Some(MID_ID);
        video.rids = RIDS.iter().take(encodings).map(|rid| rid.to_string()).collect();
        (video.rid_ext_id, video.repaired_rid_ext_id) = (Some(RID_ID), Some(REPAIRED_RID_ID));
    }
    medias
}

/// Opus, H.264 and VP8.
pub fn medias(features: Features) -> Vec<NegotiatedMedia> {
    let codec = |codec: Codec, pt: u8| {
        let video = codec.kind() == Kind::Video;
        NegotiatedCodec {
            pt,
            codec,
            fmtp: String::new(),
            profile_level_id: None,
            packetization_mode: u8::from(codec == Codec::H264),
            rtx_pt: (video && features.rtx).then_some(pt + 1),
            nack: video,
            pli: video,
            fir: video,
        }
    };
    let section = |index: usize, kind: Kind, codecs: Vec<NegotiatedCodec>| NegotiatedMedia {
        index,
        mid: index.to_string(),
        kind,
        codecs,
        mid_ext_id: None,
        twcc_ext_id: features.twcc.then_some(TWCC_ID),
        remb: false,
        abs_send_time_ext_id: None,
        dependency_ext_id: None,
        ssrcs: Vec::new(),
        rtx_of: Vec::new(),
        rtcp_rsize: true,
        rids: Vec::new(),
        rid_ext_id: None,
        repaired_rid_ext_id: None,
    };
    vec![
        section(0, Kind::Audio, vec![codec(Codec::Opus, OPUS)]),
        section(1, Kind::Video, vec![codec(Codec::H264, H264), codec(Codec::Vp8, VP8)]),
    ]
}
