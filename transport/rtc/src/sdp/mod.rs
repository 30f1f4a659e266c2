//! Session descriptions (RFC 8866, RFC 8829): offers of WHIP and WHEP clients in, answers out.
//!
//! ```text
//! text -> Offer::parse -> answer(offer, params) -> (text, Negotiated)
//! ```
//!
//! `sdp-types` reads and writes lines; what lines mean is here. The description is outside text: its size, media
//! sections and attributes are bounded before it is parsed, numbers are checked where they are read.

mod answer;
mod client;
mod fmtp;
mod fragment;
mod negotiated;
mod offer;
mod simulcast;

pub use answer::{AnswerParams, PlayTracks, Role, answer};
pub use client::{
    Answer, ClientAnswer, ClientOffer, client_answer, client_offer, client_payload_type, client_takes,
};
pub use fragment::{Fragment, RestartAnswer, parse_fragment, restart_fragment};
pub use negotiated::{Negotiated, NegotiatedCodec, NegotiatedMedia};
pub use offer::{Extension, Media, Offer, OfferCodec};
pub use simulcast::ENCODINGS_MAX;

/// Longest description, in bytes. A browser's is 10 KiB; ten medias with every candidate stay below 100.
pub const TEXT_LEN_MAX: usize = 128 * 1024;
/// Most media sections of a description. An answer must name each, so they cost us too.
pub const MEDIAS_MAX: usize = 64;
/// Most attribute lines of a description; a browser's section has about 150.
pub const ATTRIBUTES_MAX: usize = 4096;

/// URI of the MID header extension (RFC 8843 section 15.1).
pub const EXTENSION_MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// URI of the RID header extension: which encoding a packet is of (RFC 8852 section 4.1).
pub const EXTENSION_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// URI of the RID of what a retransmission repeats (RFC 8852 section 4.2).
pub const EXTENSION_REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// URI of the time of sending: 24 bits, in seconds with 18 bits behind the point (draft-alvestrand-rmcat-remb-03 section 4).
pub const EXTENSION_ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// URI of the transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 2).
pub const EXTENSION_TWCC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// URI of the dependency descriptor (AV1 RTP specification, appendix A).
pub const EXTENSION_DEPENDENCY: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Why a description is refused. The fault is the client's; the text is meant for its developer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`TEXT_LEN_MAX`].
    #[error("the description has {len} bytes, more than {TEXT_LEN_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// More media sections than [`MEDIAS_MAX`].
    #[error("the description has {count} media sections, more than {MEDIAS_MAX}")]
    TooManyMedias {
        /// How many.
        count: usize,
    },
    /// More attributes than [`ATTRIBUTES_MAX`].
    #[error("the description has {count} attributes, more than {ATTRIBUTES_MAX}")]
    TooManyAttributes {
        /// How many.
        count: usize,
    },
    /// A line is not SDP; the text names it.
    #[error("not a session description: {0}")]
    Syntax(String),
    /// There is no media section.
    #[error("the description has no media section")]
    NoMedia,
    /// An attribute that matters is broken.
    #[error("{section}: a={name} {why}")]
    Attribute {
        /// Where it stands.
        section: Section,
        /// Its name.
        name: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Two media sections have one `mid`.
    #[error("media section {index}: a=mid:{mid} is already taken")]
    DuplicateMid {
        /// The later section, from 0.
        index: usize,
        /// The identification tag.
        mid: String,
    },
    /// The client is ICE-lite, and so is this server: nobody would check the path.
    #[error(
        "the description says a=ice-lite; the server is ICE-lite, so the client must be a full ICE agent"
    )]
    BothLite,
    /// The client wants the passive DTLS role, which is the server's.
    #[error("media section {index}: a=setup:{setup} does not let the server be the passive side of DTLS")]
    Setup {
        /// The section, from 0.
        index: usize,
        /// What it says.
        setup: &'static str,
    },
    /// A section that would be accepted lacks what the transport needs.
    #[error("media section {index}: {what} is missing, also on session level")]
    Missing {
        /// The section, from 0.
        index: usize,
        /// The attribute.
        what: &'static str,
    },
    /// No section could be accepted; the text says why for each.
    #[error("no media section can be accepted: {0}")]
    NothingAccepted(String),
}

/// Which part of a description an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// Before the first `m=`.
    Session,
    /// A media section, counted from 0.
    Media(usize),
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Section::Session => f.write_str("session level"),
            Section::Media(index) => write!(f, "media section {index}"),
        }
    }
}

/// Who sends in a media section, seen from the one who writes the description (RFC 8866 section 6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// The writer only.
    SendOnly,
    /// The other side only.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// From an attribute's name.
    pub fn from_name(name: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|direction| direction.as_str() == name)
    }

    /// Whether the writer sends.
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether the writer receives.
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }
}

/// DTLS roles (RFC 8842 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// Either.
    ActPass,
    /// Sends the ClientHello.
    Active,
    /// Waits for it.
    Passive,
    /// Not yet.
    HoldConn,
}

impl Setup {
    /// The attribute's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Setup::ActPass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
            Setup::HoldConn => "holdconn",
        }
    }

    fn from_value(value: &str) -> Option<Setup> {
        [Setup::ActPass, Setup::Active, Setup::Passive, Setup::HoldConn]
            .into_iter()
            .find(|setup| setup.as_str() == value)
    }
}

/// ICE user name fragment and password (RFC 8839 section 5.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// 4-256 characters.
    pub ufrag: String,
    /// 22-256 characters.
    pub pwd: String,
}

/// Hash of a certificate (RFC 8122 section 5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Lower case: `sha-256`.
    pub hash: String,
    /// The digest, 16-64 bytes.
    pub bytes: Vec<u8>,
}

/// RFC 8839 section 5.4 has 4*256 ice-char (letters, digits, `+`, `/`). Other printable characters but the colon are let
/// through: the fragment goes into a table and a colon-separated user name, nothing else.
fn is_ufrag(value: &str) -> bool {
    (4..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// See [`is_ufrag`]; a password has 22*256.
fn is_pwd(value: &str) -> bool {
    (22..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
