//! What an offer (or an answer: the grammar is one) says, checked and typed.

use std::net::{IpAddr, SocketAddr};

use media::{Codec, Kind};

use super::{
    ATTRIBUTES_MAX, Credentials, Direction, Error, Fingerprint, MEDIAS_MAX, Section, Setup, TEXT_LEN_MAX,
    fmtp, is_pwd, is_ufrag,
};

/// Sources and candidates kept of one section; simulcast with RTX needs 6 sources.
const PER_MEDIA_MAX: usize = 64;
/// Fingerprints kept of one section: one a hash function, and a few certificates.
const FINGERPRINTS_MAX: usize = 8;
/// The longest identification tag: it must fit a one-byte header extension (RFC 8285: 16 bytes).
const MID_LEN_MAX: usize = 16;

/// A session description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The sections, in order.
    pub medias: Vec<Media>,
    /// Identification tags of the first BUNDLE group (RFC 8843).
    pub bundle: Vec<String>,
    /// The writer is ICE-lite.
    pub ice_lite: bool,
}

/// One media section; session-level transport attributes and direction are filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Media {
    /// Identification tag; empty only in a section of port 0.
    pub mid: String,
    /// Audio or video; `None` for data channels and the like.
    pub kind: Option<Kind>,
    /// The `m=` line's media type.
    pub kind_text: String,
    /// The `m=` line's port. 0 rejects the section, unless it is [`Media::bundle_only`].
    pub port: u16,
    /// The `m=` line's protocol.
    pub proto: String,
    /// The `m=` line's formats.
    pub formats: String,
    /// `a=bundle-only`: port 0 does not reject (RFC 8843 section 6).
    pub bundle_only: bool,
    /// Who sends.
    pub direction: Direction,
    /// Formats in order of preference; RTX only as [`OfferCodec::rtx_pt`].
    pub codecs: Vec<OfferCodec>,
    /// Header extensions.
    pub extensions: Vec<Extension>,
    /// Their one-byte and two-byte elements may be mixed in a stream (RFC 8285 section 6).
    pub extensions_mixed: bool,
    /// Sources, in order.
    pub ssrcs: Vec<u32>,
    /// (primary, RTX) pairs from `ssrc-group:FID` (RFC 4588 section 8.8).
    pub rtx_of: Vec<(u32, u32)>,
    /// Restriction identifiers that the writer sends (RFC 8851).
    pub rids: Vec<String>,
    /// The value of `a=simulcast` (RFC 8853).
    pub simulcast: Option<String>,
    /// ICE credentials.
    pub ice: Option<Credentials>,
    /// Certificate fingerprints.
    pub fingerprints: Vec<Fingerprint>,
    /// DTLS role.
    pub setup: Option<Setup>,
    /// RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// Reduced-size RTCP (RFC 5506).
    pub rtcp_rsize: bool,
    /// Host and reflexive UDP candidates with an IP address; names (mDNS) and TCP are left out.
    pub candidates: Vec<SocketAddr>,
    /// No candidates will follow.
    pub end_of_candidates: bool,
}

/// One format of a section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferCodec {
    /// Payload type.
    pub pt: u8,
    /// The codec, when this server knows it.
    pub codec: Option<Codec>,
    /// Encoding name as written.
    pub name: String,
    /// RTP clock in Hz.
    pub clock_hz: u32,
    /// Audio channels; 1 when not said.
    pub channels: u8,
    /// Format parameters, as written; empty when there are none.
    pub fmtp: String,
    /// Generic NACK.
    pub nack: bool,
    /// Picture loss indication.
    pub pli: bool,
    /// Full intra request.
    pub fir: bool,
    /// Transport-wide feedback.
    pub twcc: bool,
    /// REMB.
    pub remb: bool,
    /// Payload type of its retransmissions (RFC 4588).
    pub rtx_pt: Option<u8>,
}

/// One header extension (RFC 8285 section 5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extension {
    /// Element id, 1-14 or 16-255.
    pub id: u8,
    /// What it is.
    pub uri: String,
    /// Restricts it to one direction.
    pub direction: Option<Direction>,
}

impl Offer {
    /// Parses and checks a description.
    pub fn parse(text: &str) -> Result<Offer, Error> {
        check_size(text)?;
        let session = sdp_types::Session::parse(text.as_bytes())
            .map_err(|error| Error::Syntax(error.to_string().chars().take(200).collect()))?;
        if session.medias.is_empty() {
            return Err(Error::NoMedia);
        }
        let mut defaults = Transport::default();
        let mut offer =
            Offer { medias: Vec::with_capacity(session.medias.len()), bundle: Vec::new(), ice_lite: false };
        for attribute in &session.attributes {
            let value = attribute.value.as_deref().unwrap_or("");
            match attribute.attribute.as_str() {
                "ice-lite" => offer.ice_lite = true,
                "group" if offer.bundle.is_empty() => {
                    if let Some(mids) = value.strip_prefix("BUNDLE") {
                        offer.bundle = mids.split_whitespace().take(MEDIAS_MAX).map(str::to_owned).collect();
                    }
                }
                name => defaults.read(Section::Session, name, value)?,
            }
        }
        for (index, lines) in session.medias.iter().enumerate() {
            let media = Media::parse(index, lines, &defaults)?;
            if !media.mid.is_empty() && offer.medias.iter().any(|other| other.mid == media.mid) {
                return Err(Error::DuplicateMid { index, mid: media.mid });
            }
            offer.medias.push(media);
        }
        Ok(offer)
    }
}

/// Counts before anything is allocated.
fn check_size(text: &str) -> Result<(), Error> {
    if text.len() > TEXT_LEN_MAX {
        return Err(Error::TooLong { len: text.len() });
    }
    let count = |prefix| text.split('\n').filter(|line| line.starts_with(prefix)).count();
    let medias = count("m=");
    if medias > MEDIAS_MAX {
        return Err(Error::TooManyMedias { count: medias });
    }
    let attributes = count("a=");
    if attributes > ATTRIBUTES_MAX {
        return Err(Error::TooManyAttributes { count: attributes });
    }
    Ok(())
}

/// The attributes that a session may say for all its sections.
#[derive(Clone, Default)]
struct Transport {
    ufrag: Option<String>,
    pwd: Option<String>,
    fingerprints: Vec<Fingerprint>,
    setup: Option<Setup>,
    direction: Option<Direction>,
    extensions_mixed: bool,
}

impl Transport {
    /// Takes an attribute when it is one of these.
    fn read(&mut self, section: Section, name: &str, value: &str) -> Result<(), Error> {
        let broken = |name, why| Error::Attribute { section, name, why };
        match name {
            "ice-ufrag" if is_ufrag(value) => self.ufrag = Some(value.to_owned()),
            "ice-ufrag" => {
                return Err(broken("ice-ufrag", "must have 4 to 256 printable characters and no colon"));
            }
            "ice-pwd" if is_pwd(value) => self.pwd = Some(value.to_owned()),
            "ice-pwd" => return Err(broken("ice-pwd", "must have 22 to 256 printable characters")),
            "setup" => {
                let setup = Setup::from_value(value);
                self.setup = Some(setup.ok_or_else(|| broken("setup", "is not actpass, active or passive"))?);
            }
            "fingerprint" => {
                let fingerprint = parse_fingerprint(value).ok_or_else(|| {
                    broken("fingerprint", "is not a hash function and 16 to 64 bytes in hex")
                })?;
                if self.fingerprints.len() < FINGERPRINTS_MAX {
                    self.fingerprints.push(fingerprint);
                }
            }
            "extmap-allow-mixed" => self.extensions_mixed = true,
            _ => self.direction = Direction::from_name(name).or(self.direction),
        }
        Ok(())
    }
}

fn parse_fingerprint(value: &str) -> Option<Fingerprint> {
    let (hash, hex) = value.split_once(' ')?;
    let bytes: Vec<u8> = hex
        .trim()
        .split(':')
        .take(65)
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2 && !byte.starts_with('+')))
        .collect::<Option<_>>()?;
    ((16..=64).contains(&bytes.len())).then(|| Fingerprint { hash: hash.to_ascii_lowercase(), bytes })
}

impl Media {
    /// The section is refused by its writer.
    pub fn is_rejected(&self) -> bool {
        self.port == 0 && !self.bundle_only
    }

    /// The id of the header extension with this URI.
    pub fn extension_id(&self, uri: &str) -> Option<u8> {
        self.extensions.iter().find(|extension| extension.uri == uri).map(|extension| extension.id)
    }

    fn parse(index: usize, lines: &sdp_types::Media, defaults: &Transport) -> Result<Media, Error> {
        let section = Section::Media(index);
        let kind = match lines.media.as_str() {
            "audio" => Some(Kind::Audio),
            "video" => Some(Kind::Video),
            _ => None,
        };
        let mut media = Media {
            mid: String::new(),
            kind,
            kind_text: lines.media.clone(),
            port: lines.port,
            proto: lines.proto.clone(),
            formats: lines.fmt.clone(),
            bundle_only: false,
            direction: Direction::SendRecv,
            codecs: Vec::new(),
            extensions: Vec::new(),
            extensions_mixed: false,
            ssrcs: Vec::new(),
            rtx_of: Vec::new(),
            rids: Vec::new(),
            simulcast: None,
            ice: None,
            fingerprints: Vec::new(),
            setup: None,
            rtcp_mux: false,
            rtcp_rsize: false,
            candidates: Vec::new(),
            end_of_candidates: false,
        };
        let mut own = Transport::default();
        let mut formats =
            if kind.is_some() { Formats::new(section, &lines.fmt)? } else { Formats::default() };
        for attribute in &lines.attributes {
            let value = attribute.value.as_deref().unwrap_or("");
            let name = attribute.attribute.as_str();
            if !formats.read(name, value)? && !media.read(section, name, value)? {
                own.read(section, name, value)?;
            }
        }
        let ufrag = own.ufrag.or_else(|| defaults.ufrag.clone());
        let pwd = own.pwd.or_else(|| defaults.pwd.clone());
        media.ice = ufrag.zip(pwd).map(|(ufrag, pwd)| Credentials { ufrag, pwd });
        media.fingerprints =
            if own.fingerprints.is_empty() { defaults.fingerprints.clone() } else { own.fingerprints };
        media.setup = own.setup.or(defaults.setup);
        media.extensions_mixed = own.extensions_mixed || defaults.extensions_mixed;
        // RFC 8866 section 6.7: "sendrecv" is what a missing direction means.
        media.direction = own.direction.or(defaults.direction).unwrap_or(Direction::SendRecv);
        media.codecs = formats.codecs();
        if media.mid.is_empty() && !media.is_rejected() {
            // RFC 8829 section 5.2.1: every m= section has a mid; the answer and BUNDLE speak by it.
            return Err(Error::Missing { index, what: "a=mid" });
        }
        Ok(media)
    }

    /// Takes an attribute when it is the section's own.
    fn read(&mut self, section: Section, name: &str, value: &str) -> Result<bool, Error> {
        let broken = |name, why| Error::Attribute { section, name, why };
        match name {
            "mid" => {
                if value.is_empty()
                    || value.len() > MID_LEN_MAX
                    || !value.bytes().all(|b| b.is_ascii_graphic())
                {
                    return Err(broken("mid", "must have 1 to 16 printable characters"));
                }
                self.mid = value.to_owned();
            }
            "bundle-only" => self.bundle_only = true,
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp-rsize" => self.rtcp_rsize = true,
            "end-of-candidates" => self.end_of_candidates = true,
            "simulcast" => self.simulcast = Some(value.to_owned()),
            "extmap" => {
                let extension = parse_extension(value)
                    .ok_or_else(|| broken("extmap", "is not an id of 1-14 or 16-255 and a URI"))?;
                if !self.extensions.iter().any(|other| other.id == extension.id) {
                    self.extensions.push(extension);
                }
            }
            "ssrc" => {
                let ssrc = value.split_whitespace().next().and_then(|ssrc| ssrc.parse().ok());
                let ssrc = ssrc.ok_or_else(|| broken("ssrc", "is not a number of 32 bits"))?;
                if !self.ssrcs.contains(&ssrc) {
                    if self.ssrcs.len() >= PER_MEDIA_MAX {
                        return Err(broken("ssrc", "names more than 64 sources"));
                    }
                    self.ssrcs.push(ssrc);
                }
            }
            "ssrc-group" => {
                let mut words = value.split_whitespace();
                if words.next() == Some("FID") && self.rtx_of.len() < PER_MEDIA_MAX {
                    let pair = words.next().zip(words.next());
                    let pair =
                        pair.and_then(|(primary, rtx)| Some((primary.parse().ok()?, rtx.parse().ok()?)));
                    self.rtx_of
                        .push(pair.ok_or_else(|| broken("ssrc-group", "FID does not name two sources"))?);
                }
            }
            "rid" => {
                let mut words = value.split_whitespace();
                if let (Some(rid), Some("send")) = (words.next(), words.next())
                    && self.rids.len() < PER_MEDIA_MAX
                {
                    self.rids.push(rid.to_owned());
                }
            }
            "candidate" => {
                // What we cannot use is no error: names (mDNS), TCP, types to come.
                if let Some(address) = parse_candidate(value)
                    && self.candidates.len() < PER_MEDIA_MAX
                {
                    self.candidates.push(address);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// `id[/direction] URI [attributes]` (RFC 8285 section 5).
fn parse_extension(value: &str) -> Option<Extension> {
    let mut words = value.split_whitespace();
    let (id, direction) = match words.next()?.split_once('/') {
        Some((id, direction)) => (id, Some(Direction::from_name(direction)?)),
        None => (value.split_whitespace().next()?, None),
    };
    let id = id.parse().ok().filter(|id: &u8| *id != 0 && *id != 15)?;
    Some(Extension { id, uri: words.next()?.to_owned(), direction })
}

/// `foundation component transport priority address port typ ...` (RFC 8839 section 5.1).
fn parse_candidate(value: &str) -> Option<SocketAddr> {
    let mut words = value.split_whitespace().skip(1);
    let component = words.next()?;
    let transport = words.next()?;
    let ip: IpAddr = words.nth(1)?.parse().ok()?;
    let port: u16 = words.next()?.parse().ok()?;
    (component == "1" && transport.eq_ignore_ascii_case("udp") && port != 0)
        .then(|| SocketAddr::new(ip, port))
}

/// The formats of a section while its attributes are read: rtpmap, fmtp and rtcp-fb may come in any order.
#[derive(Default)]
struct Formats {
    section: Option<Section>,
    codecs: Vec<OfferCodec>,
}

impl Formats {
    fn new(section: Section, formats: &str) -> Result<Formats, Error> {
        let mut codecs: Vec<OfferCodec> = Vec::new();
        for word in formats.split_whitespace() {
            let pt = word.parse().ok().filter(|pt: &u8| *pt < 128);
            let Some(pt) = pt else {
                return Err(Error::Attribute {
                    section,
                    name: "rtpmap",
                    why: "has a payload type above 127",
                });
            };
            if codecs.iter().any(|other| other.pt == pt) {
                continue;
            }
            // RFC 3551 section 6: payload types that need no rtpmap.
            let (name, clock_hz) = match pt {
                0 => ("PCMU", 8_000),
                8 => ("PCMA", 8_000),
                _ => ("", 0),
            };
            codecs.push(OfferCodec {
                pt,
                codec: None,
                name: name.to_owned(),
                clock_hz,
                channels: 1,
                fmtp: String::new(),
                nack: false,
                pli: false,
                fir: false,
                twcc: false,
                remb: false,
                rtx_pt: None,
            });
        }
        Ok(Formats { section: Some(section), codecs })
    }

    /// Takes an attribute when it is about a format. Those of a payload type that the `m=` line lacks are dropped.
    fn read(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        let Some(section) = self.section else { return Ok(false) };
        let broken = |name, why| Error::Attribute { section, name, why };
        let (pt, rest) = value.split_once(' ').unwrap_or((value, ""));
        let rest = rest.trim();
        let of_pt = pt.parse::<u8>().ok();
        let codec = self.codecs.iter_mut().find(|codec| Some(codec.pt) == of_pt);
        match (name, codec) {
            ("rtpmap", Some(codec)) => {
                let mut parts = rest.split('/');
                codec.name = parts.next().unwrap_or("").to_owned();
                let clock_hz = parts.next().and_then(|clock| clock.parse().ok());
                codec.clock_hz = clock_hz.ok_or_else(|| broken("rtpmap", "has no clock rate"))?;
                if let Some(channels) = parts.next() {
                    codec.channels =
                        channels.parse().map_err(|_| broken("rtpmap", "has an absurd channel count"))?;
                }
            }
            ("fmtp", Some(codec)) => rest.clone_into(&mut codec.fmtp),
            ("rtcp-fb", Some(codec)) => codec.read_feedback(rest),
            ("rtcp-fb", None) if pt == "*" => {
                self.codecs.iter_mut().for_each(|codec| codec.read_feedback(rest));
            }
            ("rtpmap" | "fmtp" | "rtcp-fb", None) if of_pt.is_none() => {
                return Err(Error::Attribute {
                    section,
                    name: "rtpmap",
                    why: "or fmtp or rtcp-fb has no payload type",
                });
            }
            ("rtpmap" | "fmtp" | "rtcp-fb", None) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Ties RTX to what it repeats, and names the codecs known.
    fn codecs(mut self) -> Vec<OfferCodec> {
        let is_rtx = |codec: &OfferCodec| codec.name.eq_ignore_ascii_case("rtx");
        // RFC 4588 section 8.1: apt names the payload type that is repeated.
        let pairs: Vec<(u8, u8)> = self
            .codecs
            .iter()
            .filter(|codec| is_rtx(codec))
            .filter_map(|rtx| Some((fmtp::param(&rtx.fmtp, "apt")?.parse().ok()?, rtx.pt)))
            .collect();
        self.codecs.retain(|codec| !is_rtx(codec));
        for codec in &mut self.codecs {
            codec.rtx_pt = pairs.iter().find(|(apt, _)| *apt == codec.pt).map(|(_, rtx)| *rtx);
            codec.codec = known(codec);
        }
        self.codecs
    }
}

impl OfferCodec {
    /// RFC 4585 section 4.2, RFC 5104 section 7.1.
    fn read_feedback(&mut self, what: &str) {
        match what {
            "nack" => self.nack = true,
            "nack pli" => self.pli = true,
            "ccm fir" => self.fir = true,
            "transport-cc" => self.twcc = true,
            "goog-remb" => self.remb = true,
            _ => {}
        }
    }
}

/// Encoding names compare without case (RFC 8866 section 6.6); clock and channels belong to the name.
fn known(format: &OfferCodec) -> Option<Codec> {
    const OVER_RTP: [Codec; 8] =
        [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus, Codec::Pcma, Codec::Pcmu];
    // RFC 7587 section 7: "opus/48000/2" whatever is sent.
    let channels = |codec| if codec == Codec::Opus { 2 } else { 1 };
    OVER_RTP.into_iter().find(|codec| {
        codec.name().eq_ignore_ascii_case(&format.name)
            && codec.clock_hz() == format.clock_hz
            && channels(*codec) == format.channels
    })
}
