//! What offer and answer agreed on: what the transport and the forwarder need of both.

use media::{Codec, Kind};

use super::fmtp::Profile;
use super::{Credentials, Fingerprint};

/// The outcome of a negotiation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The client's ICE credentials.
    pub ice: Credentials,
    /// The client's certificate must match one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// Accepted sections, in order; at most one of each kind.
    pub medias: Vec<NegotiatedMedia>,
    /// Rejected sections: index in the offer, and why.
    pub rejected: Vec<(usize, String)>,
}

/// One accepted section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NegotiatedMedia {
    /// Its place in the offer.
    pub index: usize,
    /// Identification tag.
    pub mid: String,
    /// Audio or video.
    pub kind: Kind,
    /// Codecs, the preferred first.
    pub codecs: Vec<NegotiatedCodec>,
    /// Id of the MID header extension.
    pub mid_ext_id: Option<u8>,
    /// Id of the transport-wide sequence number; `None` without its feedback.
    pub twcc_ext_id: Option<u8>,
    /// Publish: the client is told what fits by REMB, having no transport-wide feedback.
    pub remb: bool,
    /// Id of the time of sending; `None` without REMB.
    pub abs_send_time_ext_id: Option<u8>,
    /// Id of the dependency descriptor; of video only.
    pub dependency_ext_id: Option<u8>,
    /// Publish: the simulcast encodings the client sends, by their RIDs, in the offer's order; none without simulcast.
    pub rids: Vec<String>,
    /// Id of the RID header extension; `None` without simulcast.
    pub rid_ext_id: Option<u8>,
    /// Id of the repaired RID header extension; `None` without simulcast.
    pub repaired_rid_ext_id: Option<u8>,
    /// Publish: the sources the client announced, RTX ones too; may be empty (simulcast).
    pub ssrcs: Vec<u32>,
    /// Publish: (primary, RTX) sources.
    pub rtx_of: Vec<(u32, u32)>,
    /// The client takes reduced-size RTCP.
    pub rtcp_rsize: bool,
}

/// One accepted format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NegotiatedCodec {
    /// Payload type, the offer's.
    pub pt: u8,
    /// The codec.
    pub codec: Codec,
    /// Format parameters, as answered.
    pub fmtp: String,
    /// H.264 only: profile_idc, constraint bits, level_idc.
    pub profile_level_id: Option<[u8; 3]>,
    /// H.264 only, else 0.
    pub packetization_mode: u8,
    /// Payload type of retransmissions.
    pub rtx_pt: Option<u8>,
    /// Generic NACK.
    pub nack: bool,
    /// Picture loss indication.
    pub pli: bool,
    /// Full intra request.
    pub fir: bool,
}

impl Negotiated {
    /// The accepted section of a kind.
    pub fn media(&self, kind: Kind) -> Option<&NegotiatedMedia> {
        self.medias.iter().find(|media| media.kind == kind)
    }
}

impl NegotiatedMedia {
    /// The format of a payload type.
    pub fn by_pt(&self, pt: u8) -> Option<&NegotiatedCodec> {
        self.codecs.iter().find(|codec| codec.pt == pt)
    }

    /// The format that an RTX payload type repeats.
    pub fn by_rtx_pt(&self, pt: u8) -> Option<&NegotiatedCodec> {
        self.codecs.iter().find(|codec| codec.rtx_pt == Some(pt))
    }

    /// The format to send a track in, `None` when the client cannot take its codec.
    ///
    /// For H.264 with a known profile: packetization-mode 1 (we send FU-A) before others; then the same profile by
    /// profile_idc and constraint bits, whatever the level; then any baseline (42c0, 42e0, 4200); then any. The last two
    /// because decoders read the SPS and browsers offer few profiles: Firefox names 42e0 only and decodes High.
    pub fn for_codec(&self, codec: Codec, profile_level_id: Option<[u8; 3]>) -> Option<&NegotiatedCodec> {
        let wanted = profile_level_id.map(Profile::of);
        let distance = |format: &NegotiatedCodec| {
            let profile = format.profile_level_id.map(Profile::of);
            let profile_distance = match (wanted, profile) {
                (None, _) | (_, None) => 0,
                (Some(wanted), Some(profile)) if wanted == profile => 0,
                (_, Some(profile)) if profile.is_baseline() => 1,
                _ => 2,
            };
            (codec == Codec::H264 && format.packetization_mode != 1, profile_distance)
        };
        // The first of equals: codecs are in order of preference.
        self.codecs.iter().filter(|format| format.codec == codec).min_by_key(|format| distance(format))
    }
}
