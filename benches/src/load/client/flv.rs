//! One HTTP-FLV viewer: an answer that does not end, and tags in it.

use anyhow::{Result, bail, ensure};
use media::Time;
use media::flv::Reader;

use super::link::Limit;
use super::rtmp_play::LIMIT_TICK_MS;
use super::tags::Tags;
use super::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::{Link, Seat};

/// A refusal's text that is told.
const TEXT_LEN_MAX: usize = 500;

/// A viewer.
pub struct Viewer {
    exchange: Exchange,
    stream: Stream,
    limit: Option<Limit>,
    /// More may wait than the link allowed to read; it is looked for then.
    unread: Option<Time>,
    join_deadline: Time,
}

/// What came of the answer.
#[derive(Default)]
struct Stream {
    reader: Reader,
    tags: Tags,
    /// The body's begin, for when it is no FLV.
    text: Vec<u8>,
    /// When that came.
    first_us: Option<u64>,
    error: Option<media::flv::Error>,
}

impl Viewer {
    /// Starts to connect.
    pub fn start(seat: &Seat, link: Link, io: &mut Io<'_>) -> Result<Viewer> {
        let bearer = seat.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
        let mut exchange = Exchange::start(&seat.url, "GET", &headers, "")?;
        io.watch(0, &mut exchange.stream)?;
        let now = io.now();
        Ok(Viewer {
            exchange,
            stream: Stream { tags: Tags::new(link.listens), ..Stream::default() },
            limit: Limit::new(link.limit_kbps, now),
            unread: None,
            join_deadline: io.join_deadline(),
        })
    }

    fn read(&mut self, io: &mut Io<'_>) -> Result<()> {
        loop {
            let now = io.now();
            let room = self.limit.as_mut().map_or(usize::MAX, |limit| limit.room(now));
            if room == 0 {
                self.unread = Some(now.plus_ms(LIMIT_TICK_MS));
                return Ok(());
            }
            let Io { kit, meter, .. } = io;
            let (clock, stream) = (kit.clock, &mut self.stream);
            let mut taken = 0;
            let more = self.exchange.ready(&mut kit.buffer, room, &mut |piece, at| {
                taken += piece.len();
                let at_us = clock.arrival(at).us().max(0) as u64;
                stream.first_us.get_or_insert(at_us);
                stream.take(piece, at_us, meter);
            });
            if let Some(limit) = &mut self.limit {
                limit.take(taken);
            }
            self.judge(io)?;
            if !more? {
                self.unread = None;
                return Ok(());
            }
        }
    }

    /// An error when it is refused, no FLV, or over.
    fn judge(&mut self, io: &mut Io<'_>) -> Result<()> {
        let (what, is_done) = (self.exchange.what(), self.exchange.response.is_done());
        let Some(head) = self.exchange.response.head() else { return Ok(()) };
        if head.status != 200 {
            let text = String::from_utf8_lossy(&self.stream.text);
            ensure!(!is_done, "{what} was answered {}: {}", head.status, text.trim());
            return Ok(());
        }
        io.meter.connected(self.stream.first_us.unwrap_or(io.now_us()));
        if io.meter.seat.has_picture() {
            self.join_deadline = Time::MAX;
        }
        if let Some(error) = self.stream.error.take() {
            return Err(anyhow::Error::new(error).context(format!("{what}: the answer is no FLV")));
        }
        ensure!(!is_done, "{what}: the server ended the stream");
        Ok(())
    }
}

impl Stream {
    fn take(&mut self, piece: &[u8], at_us: u64, meter: &mut crate::load::tally::Meter<'_>) {
        let room = TEXT_LEN_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&piece[..room.min(piece.len())]);
        if self.error.is_some() {
            return;
        }
        self.reader.push(piece);
        loop {
            match self.reader.poll() {
                Ok(Some(tag)) => self.tags.take(tag.type_id, tag.timestamp_ms, &tag.body, at_us, meter),
                Ok(None) => return,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            }
        }
    }
}

impl Client for Viewer {
    fn ready(&mut self, _source: usize, io: &mut Io<'_>) -> Result<()> {
        self.read(io)
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        if io.now() >= self.join_deadline {
            bail!("{}: no picture within {} ms", self.exchange.what(), io.kit.join_ms);
        }
        self.read(io)
    }

    fn due(&self) -> Time {
        self.unread.unwrap_or(Time::MAX).min(self.join_deadline)
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        None
    }
}
