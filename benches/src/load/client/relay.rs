//! One hop over RTMP: plays here, publishes there, every message passed on as it came.

use anyhow::{Result, bail, ensure};
use media::Time;
use rtmp::ClientEvent;

use super::rtmp_play::Connection;
use super::rtmp_publish::WAITING_MAX;
use super::tags::Tags;
use super::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::Seat;
use crate::load::target::Url;

const TO: usize = 0;
const FROM: usize = 1;

/// A relay.
pub struct Relay {
    from_url: Url,
    /// It plays only once the far side takes what it will get: the first messages are the codecs' headers.
    from: Option<Connection>,
    to: Connection,
    tags: Tags,
    join_deadline: Time,
}

impl Relay {
    /// Starts to connect to the far side.
    pub fn start(seat: &Seat, to: &Url, io: &mut Io<'_>) -> Result<Relay> {
        Ok(Relay {
            from_url: seat.url.clone(),
            from: None,
            to: Connection::start(to, true, TO, io)?,
            tags: Tags::default(),
            join_deadline: io.join_deadline(),
        })
    }

    fn hear_far_side(&mut self, io: &mut Io<'_>) -> Result<()> {
        self.to.write()?;
        while self.to.read(usize::MAX, io)?.is_some() {
            while let Some(event) = self.to.rtmp().poll_event() {
                match event {
                    ClientEvent::Ready => {
                        self.from = Some(Connection::start(&self.from_url, false, FROM, io)?);
                    }
                    ClientEvent::Rejected { code, description } => {
                        bail!("the far server refused: {code}: {description}")
                    }
                    ClientEvent::Ended => bail!("the far server ended the stream"),
                    ClientEvent::Media { .. } => {}
                }
            }
        }
        self.to.write()
    }

    fn pass_on(&mut self, io: &mut Io<'_>) -> Result<()> {
        let Some(from) = &mut self.from else { return Ok(()) };
        from.write()?;
        while let Some((_, at)) = from.read(usize::MAX, io)? {
            let at_us = at.us().max(0) as u64;
            while let Some(event) = from.rtmp().poll_event() {
                match event {
                    ClientEvent::Media { type_id, timestamp_ms, body } => {
                        self.to.rtmp().send_media(type_id, timestamp_ms, &body);
                        self.join_deadline = Time::MAX;
                        self.tags.take(type_id, timestamp_ms, &body, at_us, &mut io.meter);
                    }
                    ClientEvent::Ready => io.meter.connected(at_us),
                    ClientEvent::Rejected { code, description } => {
                        bail!("the near server refused: {code}: {description}")
                    }
                    ClientEvent::Ended => bail!("the near server ended the stream"),
                }
            }
            self.to.write()?;
            let waiting = self.to.waiting();
            ensure!(waiting <= WAITING_MAX, "the far server has stopped reading: {waiting} bytes wait");
        }
        from.write()
    }
}

impl Client for Relay {
    fn ready(&mut self, source: usize, io: &mut Io<'_>) -> Result<()> {
        if source == TO { self.hear_far_side(io) } else { self.pass_on(io) }
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        let what = if self.from.is_some() { "no picture to relay" } else { "publishing was not accepted" };
        ensure!(io.now() < self.join_deadline, "{what} within {} ms", io.kit.join_ms);
        Ok(())
    }

    fn due(&self) -> Time {
        self.join_deadline
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        for side in self.from.iter_mut().chain([&mut self.to]) {
            side.rtmp().stop();
            let _ = side.write();
        }
        None
    }
}
