//! The client's half, for tests and the load harness: writes an offer and reads the answer, or the other way round.

use std::fmt::Write;
use std::net::SocketAddr;

use media::{Codec, Kind};

use super::{
    Credentials, Direction, EXTENSION_MID, EXTENSION_TWCC, Error, Fingerprint, Media, Offer, OfferCodec,
    Setup,
};

/// What [`client_offer`] offers: one audio and one video section, bundled.
#[derive(Clone, Copy, Debug)]
pub struct ClientOffer<'a> {
    /// `SendOnly` publishes, `RecvOnly` plays.
    pub direction: Direction,
    /// Audio codecs, the preferred first; none leaves the section out.
    pub audio: &'a [Codec],
    /// Video codecs, the preferred first; none leaves the section out. Each comes with RTX.
    pub video: &'a [Codec],
    /// ICE user name fragment.
    pub ufrag: &'a str,
    /// ICE password.
    pub pwd: &'a str,
    /// SHA-256 of the client's certificate: `AB:CD:...`.
    pub fingerprint: &'a str,
    /// The source of the audio, when it sends.
    pub audio_ssrc: u32,
    /// The source of the video, when it sends.
    pub video_ssrc: u32,
    /// The source of the video's retransmissions, when it sends.
    pub video_rtx_ssrc: u32,
}

/// The payload type that [`client_offer`] gives a codec; its RTX, for video, has the next number. `None` for codecs that
/// do not go over RTP.
pub const fn client_payload_type(codec: Codec) -> Option<u8> {
    Some(match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::Opus => 111,
        Codec::Vp8 => 96,
        Codec::Vp9 => 98,
        Codec::H264 => 102,
        Codec::Av1 => 104,
        Codec::H265 => 106,
        Codec::Aac => return None,
    })
}

/// Writes an offer in the shape browsers write theirs.
pub fn client_offer(offer: &ClientOffer<'_>) -> String {
    let sections = [(Kind::Audio, offer.audio), (Kind::Video, offer.video)];
    let sections: Vec<_> = sections.into_iter().filter(|(_, codecs)| !codecs.is_empty()).collect();
    let mids: Vec<String> = (0..sections.len()).map(|mid| mid.to_string()).collect();
    let mut text = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS *\r\n",
        mids.join(" ")
    );
    for (mid, (kind, codecs)) in mids.iter().zip(sections) {
        // Writing to a String has no error.
        let _ = write_section(&mut text, offer, mid, kind, codecs);
    }
    text
}

fn write_section(
    text: &mut String,
    offer: &ClientOffer<'_>,
    mid: &str,
    kind: Kind,
    codecs: &[Codec],
) -> std::fmt::Result {
    let video = kind == Kind::Video;
    let formats: Vec<(Codec, u8)> =
        codecs.iter().filter_map(|codec| Some((*codec, client_payload_type(*codec)?))).collect();
    write!(text, "m={} 9 UDP/TLS/RTP/SAVPF", kind.as_str())?;
    for (_, pt) in &formats {
        write!(text, " {pt}")?;
        if video {
            write!(text, " {}", pt.saturating_add(1))?;
        }
    }
    write!(text, "\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\n", offer.ufrag)?;
    write!(text, "a=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\n", offer.pwd, offer.fingerprint)?;
    write!(
        text,
        "a=setup:actpass\r\na=mid:{mid}\r\na=extmap:4 {EXTENSION_MID}\r\na=extmap:3 {EXTENSION_TWCC}\r\n"
    )?;
    write!(text, "a={}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n", offer.direction.as_str())?;
    for (codec, pt) in &formats {
        let (name, clock_hz) = (codec.name(), codec.clock_hz());
        let channels = if *codec == Codec::Opus { "/2" } else { "" };
        write!(text, "a=rtpmap:{pt} {name}/{clock_hz}{channels}\r\na=rtcp-fb:{pt} transport-cc\r\n")?;
        match codec {
            Codec::Opus => write!(text, "a=fmtp:{pt} minptime=10;useinbandfec=1\r\n")?,
            Codec::H264 => write!(
                text,
                "a=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
            )?,
            Codec::Vp9 => write!(text, "a=fmtp:{pt} profile-id=0\r\n")?,
            _ => {}
        }
        if video {
            for feedback in ["ccm fir", "nack", "nack pli"] {
                write!(text, "a=rtcp-fb:{pt} {feedback}\r\n")?;
            }
            let rtx_pt = pt.saturating_add(1);
            write!(text, "a=rtpmap:{rtx_pt} rtx/{clock_hz}\r\na=fmtp:{rtx_pt} apt={pt}\r\n")?;
        }
    }
    if offer.direction.sends() {
        let ssrcs = match kind {
            Kind::Audio => vec![offer.audio_ssrc],
            Kind::Video => vec![offer.video_ssrc, offer.video_rtx_ssrc],
        };
        if let [primary, rtx] = ssrcs.as_slice() {
            write!(text, "a=ssrc-group:FID {primary} {rtx}\r\n")?;
        }
        for ssrc in ssrcs {
            write!(text, "a=ssrc:{ssrc} cname:client\r\na=ssrc:{ssrc} msid:client {}\r\n", kind.as_str())?;
        }
    }
    Ok(())
}

/// What [`client_answer`] says about the client.
#[derive(Clone, Copy, Debug)]
pub struct ClientAnswer<'a> {
    /// ICE user name fragment.
    pub ufrag: &'a str,
    /// ICE password.
    pub pwd: &'a str,
    /// SHA-256 of the client's certificate: `AB:CD:...`.
    pub fingerprint: &'a str,
    /// Where the client is.
    pub candidate: SocketAddr,
}

/// The format that [`client_answer`] takes of an offered section: the first of H.264 or Opus.
pub fn client_takes(media: &Media) -> Option<&OfferCodec> {
    let wanted = match media.kind? {
        Kind::Audio => Codec::Opus,
        Kind::Video => Codec::H264,
    };
    media.codecs.iter().find(|format| format.codec == Some(wanted))
}

/// Answers a server that offers to send: takes one H.264 and one Opus of it, starts the DTLS handshake.
pub fn client_answer(offer: &Answer, client: &ClientAnswer<'_>) -> String {
    let mids: Vec<&str> =
        offer.medias.iter().filter(|media| takes(media).is_some()).map(|media| media.mid.as_str()).collect();
    let mut text = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS *\r\n",
        mids.join(" ")
    );
    for media in &offer.medias {
        // Writing to a String has no error.
        let _ = match takes(media) {
            Some(format) => write_taken(&mut text, media, format, client),
            None => write!(
                text,
                "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=inactive\r\n",
                media.kind_text, media.proto, media.formats, media.mid
            ),
        };
    }
    text
}

fn takes(media: &Media) -> Option<&OfferCodec> {
    client_takes(media).filter(|_| !media.is_rejected())
}

fn write_taken(
    text: &mut String,
    media: &Media,
    format: &OfferCodec,
    client: &ClientAnswer<'_>,
) -> std::fmt::Result {
    let OfferCodec { pt, name, clock_hz, fmtp, .. } = format;
    write!(text, "m={} 9 {} {pt}", media.kind_text, media.proto)?;
    if let Some(rtx) = format.rtx_pt {
        write!(text, " {rtx}")?;
    }
    let ClientAnswer { ufrag, pwd, fingerprint, candidate } = client;
    write!(text, "\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n")?;
    write!(text, "a=fingerprint:sha-256 {fingerprint}\r\na=setup:active\r\na=mid:{}\r\n", media.mid)?;
    // RFC 8839 section 5.1; the priority of RFC 8445 section 5.1.2.1 for a host candidate of component 1.
    let (ip, port) = (candidate.ip(), candidate.port());
    write!(text, "a=candidate:1 1 udp 2130706431 {ip} {port} typ host\r\na=end-of-candidates\r\n")?;
    write!(text, "a=recvonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\n")?;
    let channels = if format.channels > 1 { format!("/{}", format.channels) } else { String::new() };
    write!(text, "a=rtpmap:{pt} {name}/{clock_hz}{channels}\r\n")?;
    if !fmtp.is_empty() {
        write!(text, "a=fmtp:{pt} {fmtp}\r\n")?;
    }
    for (is_offered, feedback) in [(format.fir, "ccm fir"), (format.nack, "nack"), (format.pli, "nack pli")] {
        if is_offered {
            write!(text, "a=rtcp-fb:{pt} {feedback}\r\n")?;
        }
    }
    if let Some(rtx) = format.rtx_pt {
        write!(text, "a=rtpmap:{rtx} rtx/{clock_hz}\r\na=fmtp:{rtx} apt={pt}\r\n")?;
    }
    Ok(())
}

/// What an answer says, for the client; or the offer of a server that offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The server's ICE credentials.
    pub ice: Credentials,
    /// The server's certificate must match one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// The server's DTLS role.
    pub setup: Option<Setup>,
    /// The server is ICE-lite.
    pub ice_lite: bool,
    /// The server's UDP candidates, in order.
    pub candidates: Vec<SocketAddr>,
    /// All sections, in order; [`Media::is_rejected`] tells those refused.
    pub medias: Vec<Media>,
}

impl Answer {
    /// Parses an answer, or a server's offer. At least one section must be accepted, with credentials and fingerprint.
    pub fn parse(text: &str) -> Result<Answer, Error> {
        let Offer { medias, ice_lite, .. } = Offer::parse(text)?;
        let accepted = medias.iter().enumerate().find(|(_, media)| !media.is_rejected());
        let (index, first) = accepted.ok_or_else(|| Error::NothingAccepted("all have port 0".to_owned()))?;
        let missing = |what| Error::Missing { index, what };
        if first.fingerprints.is_empty() {
            return Err(missing("a=fingerprint"));
        }
        Ok(Answer {
            ice: first.ice.clone().ok_or_else(|| missing("a=ice-ufrag or a=ice-pwd"))?,
            fingerprints: first.fingerprints.clone(),
            setup: first.setup,
            ice_lite,
            candidates: first.candidates.clone(),
            medias,
        })
    }

    /// The accepted section of a kind.
    pub fn media(&self, kind: Kind) -> Option<&Media> {
        self.medias.iter().find(|media| media.kind == Some(kind) && !media.is_rejected())
    }
}
