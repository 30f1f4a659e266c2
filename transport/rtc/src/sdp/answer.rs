//! Answers (RFC 8829 section 5.3): one transport, ICE-lite, DTLS passive, at most one audio and one video section.

use std::net::SocketAddr;

use media::{Codec, Kind};
use sdp_types::{AddrType, Attribute, NetType, Origin, Session};

use super::fmtp::{self, Profile};
use super::simulcast;
use super::{
    Direction, EXTENSION_ABS_SEND_TIME, EXTENSION_DEPENDENCY, EXTENSION_MID, EXTENSION_REPAIRED_RID,
    EXTENSION_RID, EXTENSION_TWCC, Error, Media, Negotiated, NegotiatedCodec, NegotiatedMedia, Offer,
    OfferCodec, Setup,
};

/// Ids of one-byte header extensions end here, and we write no others.
const EXTENSION_ID_MAX: u8 = 14;
/// Codec names listed in the reason of a rejection.
const NAMES_LISTED_MAX: usize = 8;

/// What the server puts into an answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerParams<'a> {
    /// Publish (WHIP) or play (WHEP).
    pub role: Role<'a>,
    /// Our ICE user name fragment.
    pub ufrag: &'a str,
    /// Our ICE password.
    pub pwd: &'a str,
    /// SHA-256 of our certificate: `AB:CD:...`.
    pub fingerprint: &'a str,
    /// Host candidates, UDP, the preferred first.
    pub candidates: &'a [SocketAddr],
    /// The origin line's session id; the top bit is cut off (RFC 8829 section 5.2.1 wants 63 bits).
    pub session_id: u64,
    /// Video codecs to put first, in this order; the others follow in the offer's order. With H.264 in it, its formats
    /// are sorted too: packetization-mode 1 and constrained baseline (42e0) first, which RTMP viewers take.
    pub prefer_video: &'a [Codec],
}

/// Which way media goes.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// From the client to us.
    Publish,
    /// From us to the client.
    Play(PlayTracks<'a>),
}

/// What we send to a player.
#[derive(Clone, Copy, Default, Debug)]
pub struct PlayTracks<'a> {
    /// Canonical name of our sources (RFC 3550 section 6.5.1).
    pub cname: &'a str,
    /// Media stream id; audio and video of one stream play in sync.
    pub stream_id: &'a str,
    /// Source of the audio; `None` rejects audio sections.
    pub audio_ssrc: Option<u32>,
    /// Source of the video; `None` rejects video sections.
    pub video_ssrc: Option<u32>,
    /// Source of the video's retransmissions, used when the client offers RTX.
    pub video_rtx_ssrc: Option<u32>,
    /// The audio is known to be stereo.
    pub stereo: bool,
    /// Ask for transport-wide feedback, for bandwidth estimation.
    pub twcc: bool,
}

/// Header extensions this server takes part in, and when. All others are left out of answers.
const EXTENSIONS: [(&str, When); 6] = [
    (EXTENSION_MID, When::Always),
    (EXTENSION_TWCC, When::Twcc),
    (EXTENSION_ABS_SEND_TIME, When::Remb),
    (EXTENSION_DEPENDENCY, When::Dependency),
    (EXTENSION_RID, When::Simulcast),
    (EXTENSION_REPAIRED_RID, When::Simulcast),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// With transport-wide feedback.
    Twcc,
    /// With our estimate in place of the client's.
    Remb,
    /// With frames that depend on others, and room for what key frames say.
    Dependency,
    /// With encodings.
    Simulcast,
}

/// Answers an offer: the text for the client, and what was agreed for us.
///
/// Sections that cannot be accepted get port 0 ([`Negotiated::rejected`] says why); it is an error when none can.
pub fn answer(offer: &Offer, params: &AnswerParams<'_>) -> Result<(String, Negotiated), Error> {
    if offer.ice_lite {
        return Err(Error::BothLite);
    }
    let mut accepted: Vec<Accepted<'_>> = Vec::new();
    let mut rejected = Vec::new();
    for (index, media) in offer.medias.iter().enumerate() {
        match accept(offer, index, &accepted, params) {
            Ok(section) => accepted.push(section),
            Err(why) => {
                rejected.push((index, format!("section {index} ({}): {why}", short(&media.kind_text))))
            }
        }
    }
    let Some(first) = accepted.first() else {
        let why: Vec<&str> = rejected.iter().map(|(_, why)| why.as_str()).collect();
        return Err(Error::NothingAccepted(why.join("; ")));
    };
    // RFC 8843 section 7.3.2: the first accepted section carries the bundle's transport; bundle-only sections of the offer
    // have none of their own, and take it from the section they are bundled with.
    let index = first.index;
    let carriers = || {
        let bundled =
            |media: &&Media| offer.bundle.contains(&first.media.mid) && offer.bundle.contains(&media.mid);
        std::iter::once(first.media).chain(offer.medias.iter().filter(bundled))
    };
    let ice = carriers().find_map(|media| media.ice.clone());
    let ice = ice.ok_or(Error::Missing { index, what: "a=ice-ufrag or a=ice-pwd" })?;
    let fingerprints = carriers().map(|media| &media.fingerprints).find(|all| !all.is_empty());
    let fingerprints = fingerprints.cloned().ok_or(Error::Missing { index, what: "a=fingerprint" })?;
    if let Some(setup @ (Setup::Passive | Setup::HoldConn)) = carriers().find_map(|media| media.setup) {
        return Err(Error::Setup { index, setup: setup.as_str() });
    }
    let text = write(offer, &accepted, params);
    let medias = accepted.into_iter().map(|section| section.negotiated).collect();
    Ok((text, Negotiated { ice, fingerprints, medias, rejected }))
}

struct Accepted<'a> {
    index: usize,
    media: &'a Media,
    negotiated: NegotiatedMedia,
}

/// Decides on one section, after those before it.
fn accept<'a>(
    offer: &'a Offer,
    index: usize,
    before: &[Accepted<'a>],
    params: &AnswerParams<'_>,
) -> Result<Accepted<'a>, String> {
    let media = offer.medias.get(index).ok_or("no such section")?;
    if media.is_rejected() {
        return Err("its port is 0".to_owned());
    }
    let kind = media.kind.ok_or("neither audio nor video")?;
    if !media.proto.contains("RTP/SAVP") {
        return Err("its protocol is not RTP over DTLS".to_owned());
    }
    if !media.rtcp_mux {
        return Err("a=rtcp-mux is missing".to_owned());
    }
    if before.iter().any(|section| section.negotiated.kind == kind) {
        return Err(format!("a session has one {} section", kind.as_str()));
    }
    let in_bundle = |media: &Media| offer.bundle.contains(&media.mid);
    if before.first().is_some_and(|first| !in_bundle(first.media) || !in_bundle(media)) {
        return Err("it is not bundled with the first accepted section".to_owned());
    }
    let twcc_wanted = match params.role {
        Role::Publish if !media.direction.sends() => return Err("the client does not send".to_owned()),
        Role::Publish => true,
        Role::Play(_) if !media.direction.receives() => return Err("the client does not receive".to_owned()),
        Role::Play(tracks) if tracks.ssrc(kind).is_none() => {
            return Err(format!("there is no {} to play", kind.as_str()));
        }
        Role::Play(tracks) => tracks.twcc,
    };
    let formats = select(media, kind, params);
    if formats.is_empty() {
        let names: Vec<String> =
            media.codecs.iter().take(NAMES_LISTED_MAX).map(|codec| short(&codec.name)).collect();
        return Err(format!("no codec in common, offered: {}", names.join(", ")));
    }
    // RFC 8285 section 6: one that its writer takes part in that way only is of no use the other way.
    let goes = |direction: Direction| match params.role {
        Role::Publish => direction.sends(),
        Role::Play(_) => direction.receives(),
    };
    let extension_id = |uri| {
        let offered = media.extensions.iter().find(|extension| extension.uri == uri);
        let offered = offered.filter(|extension| extension.direction.is_none_or(goes));
        offered.map(|extension| extension.id).filter(|id| *id <= EXTENSION_ID_MAX)
    };
    let twcc = twcc_wanted && formats.iter().any(|format| format.twcc);
    // Who is told when packets arrived estimates by itself; who cannot be is told what fits.
    let remb = matches!(params.role, Role::Publish) && !twcc && formats.iter().any(|format| format.remb);
    let rid_ext_id = extension_id(EXTENSION_RID);
    let rids = match (params.role, kind) {
        (Role::Publish, Kind::Video) if rid_ext_id.is_some() => simulcast::encodings(media),
        _ => Vec::new(),
    };
    let negotiated = NegotiatedMedia {
        index,
        mid: media.mid.clone(),
        kind,
        codecs: formats.into_iter().filter_map(|format| negotiate(format, params)).collect(),
        // The structure that key frames bring is longer than a one-byte element, and the rest means nothing without it.
        dependency_ext_id: extension_id(EXTENSION_DEPENDENCY)
            .filter(|_| kind == Kind::Video && media.extensions_mixed),
        mid_ext_id: extension_id(EXTENSION_MID),
        twcc_ext_id: extension_id(EXTENSION_TWCC).filter(|_| twcc),
        remb,
        abs_send_time_ext_id: extension_id(EXTENSION_ABS_SEND_TIME).filter(|_| remb),
        rid_ext_id: rid_ext_id.filter(|_| !rids.is_empty()),
        repaired_rid_ext_id: extension_id(EXTENSION_REPAIRED_RID).filter(|_| !rids.is_empty()),
        rids,
        ssrcs: media.ssrcs.clone(),
        rtx_of: media.rtx_of.clone(),
        rtcp_rsize: media.rtcp_rsize,
    };
    Ok(Accepted { index, media, negotiated })
}

/// The offered formats that can be forwarded, the preferred first.
fn select<'a>(media: &'a Media, kind: Kind, params: &AnswerParams<'_>) -> Vec<&'a OfferCodec> {
    let mode_1 = |format: &OfferCodec| fmtp::packetization_mode(&format.fmtp) == 1;
    let has_mode_1 = media.codecs.iter().any(|format| format.codec == Some(Codec::H264) && mode_1(format));
    let forwardable = |format: &OfferCodec| match format.codec {
        // We send FU-A, so mode 0 only when there is nothing better.
        Some(Codec::H264) => mode_1(format) || !has_mode_1,
        // Profile 0 is what all browsers take (RFC 9628 section 6, AV1 RTP section 7.2.1); absent means 0.
        Some(Codec::Vp9) => matches!(fmtp::param(&format.fmtp, "profile-id"), None | Some("0")),
        Some(Codec::Av1) => matches!(fmtp::param(&format.fmtp, "profile"), None | Some("0")),
        Some(codec) => codec.kind() == kind,
        None => false,
    };
    let mut formats: Vec<&OfferCodec> = media
        .codecs
        .iter()
        .filter(|format| format.codec.is_some_and(|codec| codec.kind() == kind) && forwardable(format))
        .collect();
    // The sort is stable: equals stay in the offer's order.
    formats.sort_by_key(|format| match (kind, format.codec) {
        (Kind::Audio, codec) => (usize::from(codec != Some(Codec::Opus)), 0),
        (Kind::Video, codec) => {
            let place = params.prefer_video.iter().position(|preferred| Some(*preferred) == codec);
            let h264 = codec == Some(Codec::H264) && place.is_some();
            (place.unwrap_or(usize::MAX), if h264 { h264_rank(&format.fmtp) } else { 0 })
        }
    });
    formats
}

/// Constrained baseline is what every decoder behind RTMP takes, and has no B-frames.
fn h264_rank(fmtp: &str) -> u8 {
    match (fmtp::packetization_mode(fmtp), Profile::of(fmtp::profile_level_id(fmtp))) {
        (1, Profile::ConstrainedBaseline) => 0,
        (1, Profile::Baseline) => 1,
        (1, _) => 2,
        _ => 3,
    }
}

fn negotiate(format: &OfferCodec, params: &AnswerParams<'_>) -> Option<NegotiatedCodec> {
    let codec = format.codec?;
    let h264 = codec == Codec::H264;
    Some(NegotiatedCodec {
        pt: format.pt,
        codec,
        fmtp: match codec {
            Codec::Opus => opus_fmtp(&format.fmtp, params).to_owned(),
            _ => format.fmtp.clone(),
        },
        profile_level_id: h264.then(|| fmtp::profile_level_id(&format.fmtp)),
        packetization_mode: if h264 { fmtp::packetization_mode(&format.fmtp) } else { 0 },
        rtx_pt: format.rtx_pt,
        nack: format.nack,
        pli: format.pli,
        fir: format.fir,
    })
}

/// RFC 7587 section 7: parameters say what their writer receives (`stereo`) and sends (`sprop-stereo`), each for itself.
fn opus_fmtp(offered: &str, params: &AnswerParams<'_>) -> &'static str {
    let source_stereo = matches!(params.role, Role::Play(PlayTracks { stereo: true, .. }));
    match source_stereo || fmtp::param(offered, "stereo") == Some("1") {
        true => "minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1",
        false => "minptime=10;useinbandfec=1",
    }
}

impl PlayTracks<'_> {
    fn ssrc(&self, kind: Kind) -> Option<u32> {
        match kind {
            Kind::Audio => self.audio_ssrc,
            Kind::Video => self.video_ssrc,
        }
    }
}

fn write(offer: &Offer, accepted: &[Accepted<'_>], params: &AnswerParams<'_>) -> String {
    let id = params.session_id & (u64::MAX >> 1);
    let origin = Origin::new(id, 1, NetType::In, AddrType::Ip4, "0.0.0.0");
    let mut session = Session::new(origin, "-");
    let attributes = &mut session.attributes;
    let mids: Vec<&str> = accepted
        .iter()
        .map(|section| section.negotiated.mid.as_str())
        .filter(|mid| offer.bundle.iter().any(|bundled| bundled == mid))
        .collect();
    if !mids.is_empty() {
        attributes.push(Attribute::with_value("group", format!("BUNDLE {}", mids.join(" "))));
    }
    attributes.push(Attribute::new("ice-lite"));
    attributes.push(Attribute::with_value("msid-semantic", " WMS *"));
    session.medias = offer
        .medias
        .iter()
        .enumerate()
        .map(|(index, media)| match accepted.iter().position(|section| section.index == index) {
            Some(place) => section(media, accepted.get(place), place == 0, params),
            None => section(media, None, false, params),
        })
        .collect();
    let mut text = Vec::new();
    // Writing to a Vec has no error.
    let _ = session.write(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// One section of the answer: the offer's line, accepted or with port 0 (RFC 8829 section 5.3.1).
fn section(
    media: &Media,
    accepted: Option<&Accepted<'_>>,
    first: bool,
    params: &AnswerParams<'_>,
) -> sdp_types::Media {
    let mut attributes = Attributes(Vec::new());
    if !media.mid.is_empty() {
        attributes.add("mid", &media.mid);
    }
    match accepted {
        Some(section) => {
            attributes.transport(first, params);
            attributes.media(section, params);
        }
        None => attributes.flag("inactive"),
    }
    let formats = accepted.map(|section| {
        let pts = section.negotiated.codecs.iter().flat_map(|codec| [Some(codec.pt), codec.rtx_pt]);
        pts.flatten().map(|pt| pt.to_string()).collect::<Vec<_>>().join(" ")
    });
    sdp_types::Media {
        media: media.kind_text.clone(),
        // 9 is "discard": the address is the candidate's (RFC 8840 section 4.1.1).
        port: if accepted.is_some() { 9 } else { 0 },
        num_ports: None,
        proto: media.proto.clone(),
        fmt: formats.unwrap_or_else(|| media.formats.clone()),
        media_title: None,
        connections: vec![sdp_types::Connection::new(NetType::In, AddrType::Ip4, "0.0.0.0")],
        bandwidths: Vec::new(),
        key: None,
        attributes: attributes.0,
    }
}

struct Attributes(Vec<Attribute>);

impl Attributes {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push(Attribute::with_value(name, value));
    }

    fn flag(&mut self, name: &str) {
        self.0.push(Attribute::new(name));
    }

    fn transport(&mut self, first: bool, params: &AnswerParams<'_>) {
        self.add("ice-ufrag", params.ufrag);
        self.add("ice-pwd", params.pwd);
        self.add("fingerprint", format!("sha-256 {}", params.fingerprint));
        self.add("setup", Setup::Passive.as_str());
        if !first {
            return;
        }
        for (place, address) in params.candidates.iter().enumerate() {
            self.add("candidate", host_candidate(place, *address));
        }
        self.flag("end-of-candidates");
    }

    fn media(&mut self, section: &Accepted<'_>, params: &AnswerParams<'_>) {
        let negotiated = &section.negotiated;
        for (uri, when) in EXTENSIONS {
            let wanted = match when {
                When::Always => true,
                When::Twcc => negotiated.twcc_ext_id.is_some(),
                When::Remb => negotiated.abs_send_time_ext_id.is_some(),
                When::Dependency => negotiated.dependency_ext_id.is_some(),
                When::Simulcast => !negotiated.rids.is_empty(),
            };
            if let Some(id) = section.media.extension_id(uri).filter(|id| wanted && *id <= EXTENSION_ID_MAX) {
                self.add("extmap", format!("{id} {uri}"));
            }
        }
        if negotiated.dependency_ext_id.is_some() {
            self.flag("extmap-allow-mixed");
        }
        let direction = match params.role {
            Role::Publish => Direction::RecvOnly,
            Role::Play(_) => Direction::SendOnly,
        };
        self.flag(direction.as_str());
        self.flag("rtcp-mux");
        if section.media.rtcp_rsize {
            self.flag("rtcp-rsize");
        }
        for codec in &negotiated.codecs {
            self.format(codec, section, params);
        }
        if !negotiated.rids.is_empty() {
            for rid in &negotiated.rids {
                self.add("rid", format!("{rid} recv"));
            }
            self.add("simulcast", format!("recv {}", negotiated.rids.join(";")));
        }
        if let Role::Play(tracks) = params.role {
            self.sources(negotiated, &tracks);
        }
    }

    fn format(&mut self, format: &NegotiatedCodec, section: &Accepted<'_>, params: &AnswerParams<'_>) {
        let NegotiatedCodec { pt, codec, .. } = format;
        let (name, clock_hz) = (codec.name(), codec.clock_hz());
        let channels = if *codec == Codec::Opus { "/2" } else { "" };
        self.add("rtpmap", format!("{pt} {name}/{clock_hz}{channels}"));
        if !format.fmtp.is_empty() {
            self.add("fmtp", format!("{pt} {}", format.fmtp));
        }
        let offered = section.media.codecs.iter().find(|offered| offered.pt == *pt);
        let twcc = section.negotiated.twcc_ext_id.is_some() && offered.is_some_and(|offered| offered.twcc);
        // A player that cannot say when packets arrived may say what it thinks fits.
        let estimates = match params.role {
            Role::Publish => section.negotiated.remb,
            Role::Play(tracks) => tracks.twcc,
        };
        let remb = estimates && !twcc && offered.is_some_and(|offered| offered.remb);
        let feedback = [
            (twcc, "transport-cc"),
            (remb, "goog-remb"),
            (format.fir, "ccm fir"),
            (format.nack, "nack"),
            (format.pli, "nack pli"),
        ];
        for (_, what) in feedback.into_iter().filter(|(wanted, _)| *wanted) {
            self.add("rtcp-fb", format!("{pt} {what}"));
        }
        if let Some(rtx_pt) = format.rtx_pt {
            self.add("rtpmap", format!("{rtx_pt} rtx/{clock_hz}"));
            self.add("fmtp", format!("{rtx_pt} apt={pt}"));
        }
    }

    fn sources(&mut self, negotiated: &NegotiatedMedia, tracks: &PlayTracks<'_>) {
        let track_id = negotiated.kind.as_str();
        self.add("msid", format!("{} {track_id}", tracks.stream_id));
        let Some(ssrc) = tracks.ssrc(negotiated.kind) else { return };
        let repairs =
            negotiated.kind == Kind::Video && negotiated.codecs.iter().any(|codec| codec.rtx_pt.is_some());
        let rtx_ssrc = tracks.video_rtx_ssrc.filter(|_| repairs);
        if let Some(rtx_ssrc) = rtx_ssrc {
            self.add("ssrc-group", format!("FID {ssrc} {rtx_ssrc}"));
        }
        for ssrc in [Some(ssrc), rtx_ssrc].into_iter().flatten() {
            self.add("ssrc", format!("{ssrc} cname:{}", tracks.cname));
            self.add("ssrc", format!("{ssrc} msid:{} {track_id}", tracks.stream_id));
        }
    }
}

/// The value of `a=candidate` for the host candidate at `place` in the order of preference.
pub(super) fn host_candidate(place: usize, address: SocketAddr) -> String {
    // RFC 8445 section 5.1.2.1: type preference 126 for host, then local preference, then component 1.
    let local = 65_535_u32.saturating_sub(u32::try_from(place).unwrap_or(u32::MAX));
    let priority = 126_u32 << 24 | local << 8 | 255;
    let foundation = place.saturating_add(1);
    let (ip, port) = (address.ip(), address.port());
    format!("{foundation} 1 udp {priority} {ip} {port} typ host")
}

/// A name from outside, cut for a message.
fn short(name: &str) -> String {
    name.chars().take(20).collect()
}
