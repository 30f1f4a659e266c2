//! One viewer: `watch`, Janus' offer in an event, our answer with `start`, then [`Watching`].

use anyhow::{Context, Result, bail};
use media::Time;
use rtc::sdp::{self, Answer, ClientAnswer};
use serde_json::{Value, json};

use super::api::{self, Call, Session};
use super::{API, POLL, UDP, mount_point};
use crate::load::client::rtp_watch::{Offered, PayloadTypes, Transport, Watching, credentials, fingerprint};
use crate::load::client::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::{Link, Seat};

/// A viewer.
pub struct Viewer {
    seat: Seat,
    session: Session,
    poll: Option<Call>,
    watching: Option<Watching>,
    link: Link,
    join_deadline: Time,
}

impl Viewer {
    /// Asks for a session.
    pub fn start(seat: &Seat, link: Link, io: &mut Io<'_>) -> Result<Viewer> {
        let watch = json!({"request": "watch", "id": mount_point(seat.stream)});
        Ok(Viewer {
            seat: seat.clone(),
            session: Session::start(seat, watch, io)?,
            poll: None,
            watching: None,
            link,
            join_deadline: io.join_deadline(),
        })
    }

    /// Events are polled for until the connection is there: a poll costs Janus a thread, and the end comes by DTLS.
    fn poll(&mut self, io: &mut Io<'_>) -> Result<()> {
        let is_connected = self.watching.as_ref().is_some_and(Watching::is_connected);
        if self.poll.is_none() && !is_connected {
            self.poll = Some(self.session.poll(POLL, io)?);
        }
        Ok(())
    }

    fn take_event(&mut self, event: &Value, io: &mut Io<'_>) -> Result<()> {
        api::check(event)?;
        if event["janus"] == "hangup" {
            bail!("Janus hung up: {}", event["reason"].as_str().unwrap_or("no reason"));
        }
        let jsep = &event["jsep"];
        if jsep["type"] != "offer" || self.watching.is_some() {
            return Ok(());
        }
        let offer = Answer::parse(jsep["sdp"].as_str().unwrap_or("")).context("Janus' offer")?;
        let local = credentials(io);
        let host = self.seat.url.address.ip();
        let transport = Transport::new(&offer, Offered::ByServer, host, local.clone(), UDP, io)?;
        let answer = sdp::client_answer(
            &offer,
            &ClientAnswer {
                ufrag: &local.ufrag,
                pwd: &local.pwd,
                fingerprint: &fingerprint(io),
                candidate: transport.socket.local_addr(),
            },
        );
        self.session.message(json!({"request": "start"}), Some(&answer), io)?;
        let mut watching = Watching::new(transport, PayloadTypes::of_offer(&offer), self.link, io);
        watching.handle_timeout(io)?;
        self.watching = Some(watching);
        Ok(())
    }
}

impl Client for Viewer {
    fn ready(&mut self, source: usize, io: &mut Io<'_>) -> Result<()> {
        match (source, &mut self.watching, &mut self.poll) {
            (UDP, Some(watching), _) => {
                watching.handle_ready(io)?;
                if io.meter.seat.has_picture() {
                    self.join_deadline = Time::MAX;
                }
                Ok(())
            }
            (API, ..) => match self.session.ready(io)? {
                Some(_) => self.poll(io),
                None => Ok(()),
            },
            (POLL, _, Some(poll)) => {
                let Some(answer) = poll.ready(io)? else { return Ok(()) };
                self.poll = None;
                let one = std::slice::from_ref(&answer);
                let events = answer.as_array().map_or(one, Vec::as_slice);
                events.iter().try_for_each(|event| self.take_event(event, io))?;
                self.poll(io)
            }
            _ => Ok(()),
        }
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        if io.now() >= self.join_deadline {
            let what = match &self.watching {
                None => "offer",
                Some(watching) if !watching.is_connected() => "connection (ICE, DTLS)",
                Some(_) => "picture",
            };
            bail!("no {what} from Janus within {} ms", io.kit.join_ms);
        }
        self.session.handle_timeout(io)?;
        self.watching.as_mut().map_or(Ok(()), |watching| watching.handle_timeout(io))
    }

    fn due(&self) -> Time {
        let watching = self.watching.as_ref().map_or(Time::MAX, Watching::due);
        watching.min(self.session.due()).min(self.join_deadline)
    }

    fn leave(&mut self, io: &mut Io<'_>) -> Option<Exchange> {
        if let Some(watching) = &mut self.watching {
            watching.close(io);
        }
        self.session.goodbye(None)
    }
}
