//! One WHEP viewer (draft-ietf-wish-whep): offer and answer by HTTP, then [`Watching`].

use anyhow::{Context, Result, ensure};
use media::{Codec, Time};
use rtc::ice::Credentials;
use rtc::sdp::{self, Answer, ClientOffer, Direction};

use super::rtp_watch::{Offered, PayloadTypes, Transport, Watching, credentials, fingerprint};
use super::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::{Link, Seat};
use crate::load::target::Url;

const HTTP: usize = 0;
const UDP: usize = 1;
/// No SDP is longer; a server that goes on is not listened to.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// The HTTP half of WHIP and WHEP: an offer POSTed, and the answer to it.
pub struct Signalling {
    url: Url,
    token: Option<String>,
    local: Credentials,
    /// Until the answer is whole.
    exchange: Option<Exchange>,
    body: Vec<u8>,
}

impl Signalling {
    /// POSTs an offer; the connection is source 0 of its client.
    pub fn start(seat: &Seat, direction: Direction, ssrcs: [u32; 3], io: &mut Io<'_>) -> Result<Signalling> {
        let local = credentials(io);
        let fingerprint = fingerprint(io);
        let [audio_ssrc, video_ssrc, video_rtx_ssrc] = ssrcs;
        let offer = sdp::client_offer(&ClientOffer {
            direction,
            audio: &[Codec::Opus],
            video: &[Codec::H264],
            ufrag: &local.ufrag,
            pwd: &local.pwd,
            fingerprint: &fingerprint,
            audio_ssrc,
            video_ssrc,
            video_rtx_ssrc,
        });
        let bearer = seat.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Content-Type", "application/sdp")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let mut exchange = Exchange::start(&seat.url, "POST", &headers, &offer)?;
        io.watch(HTTP, &mut exchange.stream)?;
        Ok(Signalling {
            url: seat.url.clone(),
            token: seat.token.clone(),
            local,
            exchange: Some(exchange),
            body: Vec::new(),
        })
    }

    /// The connection is ready. Once the answer is whole: the transport it describes, and the session's URL.
    pub fn ready(&mut self, io: &mut Io<'_>) -> Result<Option<(Transport, Option<Url>)>> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        let body = &mut self.body;
        let more = exchange
            .ready(&mut io.kit.buffer, ANSWER_LEN_MAX, &mut |piece, _| body.extend_from_slice(piece))?;
        ensure!(!more && body.len() <= ANSWER_LEN_MAX, "the answer is longer than {ANSWER_LEN_MAX} bytes");
        let Some(head) = exchange.response.head().filter(|_| exchange.response.is_done()) else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&self.body);
        let what = exchange.what();
        ensure!(matches!(head.status, 200 | 201), "{what} was answered {}: {}", head.status, text.trim());
        let answer = Answer::parse(&text).with_context(|| format!("the answer to {what}"))?;
        let session = head.location.as_ref().map(|location| self.url.join(location)).transpose()?;
        self.exchange = None;
        let (host, local) = (self.url.address.ip(), self.local.clone());
        let transport = Transport::new(&answer, Offered::ByUs, host, local, UDP, io)?;
        Ok(Some((transport, session)))
    }

    /// The request that ends a session.
    pub fn goodbye(&self, session: &Url) -> Option<Exchange> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.as_deref().map(|bearer| ("Authorization", bearer)).into_iter().collect();
        Exchange::start(session, "DELETE", &headers, "").ok()
    }
}

/// A viewer.
pub struct Viewer {
    signalling: Signalling,
    session: Option<Url>,
    watching: Option<Watching>,
    link: Link,
    join_deadline: Time,
}

impl Viewer {
    /// POSTs the offer.
    pub fn start(seat: &Seat, link: Link, io: &mut Io<'_>) -> Result<Viewer> {
        let signalling = Signalling::start(seat, Direction::RecvOnly, [0; 3], io)?;
        let join_deadline = io.join_deadline();
        Ok(Viewer { signalling, session: None, watching: None, link, join_deadline })
    }
}

impl Client for Viewer {
    fn ready(&mut self, source: usize, io: &mut Io<'_>) -> Result<()> {
        match &mut self.watching {
            Some(watching) if source == UDP => {
                watching.handle_ready(io)?;
                if io.meter.seat.has_picture() {
                    self.join_deadline = Time::MAX;
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                if let Some((transport, session)) = self.signalling.ready(io)? {
                    let mut watching = Watching::new(transport, PayloadTypes::offered(), self.link, io);
                    watching.handle_timeout(io)?;
                    (self.watching, self.session) = (Some(watching), session);
                }
                Ok(())
            }
        }
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        if io.now() >= self.join_deadline {
            let what = match &self.watching {
                None => "answer",
                Some(watching) if !watching.is_connected() => "connection (ICE, DTLS)",
                Some(_) => "picture",
            };
            anyhow::bail!("no {what} within {} ms", io.kit.join_ms);
        }
        self.watching.as_mut().map_or(Ok(()), |watching| watching.handle_timeout(io))
    }

    fn due(&self) -> Time {
        self.join_deadline.min(self.watching.as_ref().map_or(Time::MAX, Watching::due))
    }

    fn leave(&mut self, io: &mut Io<'_>) -> Option<Exchange> {
        if let Some(watching) = &mut self.watching {
            watching.close(io);
        }
        self.session.take().and_then(|session| self.signalling.goodbye(&session))
    }
}
