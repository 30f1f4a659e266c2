//! One HLS viewer: reads the playlist again and again and every new segment in order, one connection a request. All frames of a segment
//! count as arrived with its last byte, since that is when a player has them.

mod mpegts;
mod playlist;

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};
use media::Time;

use super::link::Limit;
use super::rtmp_play::LIMIT_TICK_MS;
use super::{Client, Io};
use crate::load::http::Exchange;
use crate::load::plan::{Link, Seat};
use crate::load::stamp::Stamp;
use crate::load::target::Url;
use playlist::{Media, Playlist, Segment};

const PLAYLIST_LEN_MAX: usize = 1 << 20;
/// 30 s of 16 Mbit/s.
const SEGMENT_LEN_MAX: usize = 64 << 20;
/// A server that answers no request within this is given up on.
const ANSWER_MS: i64 = 10_000;
/// A stream that has just begun has no playlist yet: it is asked for again so often.
const RETRY_MS: i64 = 250;
/// Playlists are not read more often than this, whatever they say.
const RELOAD_US_MIN: i64 = 100_000;
/// A playlist whose end is so many segments older than what was read is of a stream that began anew; less, and it is a stale copy.
const SEGMENTS_BACK: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Playlist,
    Map,
    Segment,
}

struct Request {
    what: What,
    exchange: Exchange,
    body: Vec<u8>,
    is_long: bool,
    last_us: u64,
    deadline: Time,
}

/// A viewer.
pub struct Viewer {
    /// Of the media playlist, once the master playlist was followed.
    playlist: Url,
    is_variant: bool,
    bearer: Option<String>,
    request: Option<Request>,
    waiting: VecDeque<Segment>,
    /// The sequence number that comes next.
    next: Option<u64>,
    /// The initialization section that was read last.
    map: Option<String>,
    is_ended: bool,
    reload_at: Time,
    limit: Option<Limit>,
    unread: Option<Time>,
    join_deadline: Time,
    refusal: String,
}

impl Viewer {
    /// Asks for the playlist.
    pub fn start(seat: &Seat, link: Link, io: &mut Io<'_>) -> Result<Viewer> {
        let now = io.now();
        let mut viewer = Viewer {
            playlist: seat.url.clone(),
            is_variant: false,
            bearer: seat.token.as_ref().map(|token| format!("Bearer {token}")),
            request: None,
            waiting: VecDeque::new(),
            next: None,
            map: None,
            is_ended: false,
            reload_at: Time::MAX,
            limit: Limit::new(link.limit_kbps, now),
            unread: None,
            join_deadline: io.join_deadline(),
            refusal: String::new(),
        };
        viewer.ask(What::Playlist, &seat.url, io)?;
        Ok(viewer)
    }

    fn ask(&mut self, what: What, url: &Url, io: &mut Io<'_>) -> Result<()> {
        let headers: Vec<(&str, &str)> =
            self.bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
        let mut exchange = Exchange::start(url, "GET", &headers, "")?;
        io.watch(0, &mut exchange.stream)?;
        let deadline = io.now().plus_ms(ANSWER_MS);
        self.request =
            Some(Request { what, exchange, body: Vec::new(), is_long: false, last_us: 0, deadline });
        Ok(())
    }

    /// Asks for what is next: a segment, the section before it, or the playlist, once that is due.
    fn go_on(&mut self, io: &mut Io<'_>) -> Result<()> {
        if self.request.is_some() {
            return Ok(());
        }
        if let Some(segment) = self.waiting.front() {
            let (what, url) = match &segment.map {
                Some(map) if self.map.as_ref() != Some(map) => (What::Map, map),
                _ => (What::Segment, &segment.url),
            };
            let url = self.playlist.join(url).with_context(|| format!("{}", self.playlist))?;
            return self.ask(what, &url, io);
        }
        ensure!(!self.is_ended, "{}: the server ended the stream", self.playlist);
        if io.now() >= self.reload_at {
            self.reload_at = Time::MAX;
            let url = self.playlist.clone();
            self.ask(What::Playlist, &url, io)?;
        }
        Ok(())
    }

    fn read(&mut self, io: &mut Io<'_>) -> Result<()> {
        loop {
            let Some(request) = &mut self.request else { return Ok(()) };
            let now = io.now();
            let room = self.limit.as_mut().map_or(usize::MAX, |limit| limit.room(now));
            if room == 0 {
                self.unread = Some(now.plus_ms(LIMIT_TICK_MS));
                return Ok(());
            }
            self.unread = None;
            let clock = io.kit.clock;
            let len_max = if request.what == What::Segment { SEGMENT_LEN_MAX } else { PLAYLIST_LEN_MAX };
            let Request { exchange, body, is_long, last_us, .. } = request;
            let mut taken = 0;
            let more = exchange.ready(&mut io.kit.buffer, room, &mut |piece, at| {
                taken += piece.len();
                *last_us = clock.arrival(at).us().max(0) as u64;
                *is_long |= body.len() + piece.len() > len_max;
                if !*is_long {
                    body.extend_from_slice(piece);
                }
            })?;
            if let Some(limit) = &mut self.limit {
                limit.take(taken);
            }
            ensure!(!*is_long, "{}: the answer is longer than {len_max} bytes", exchange.what());
            if exchange.response.is_done()
                && let Some(request) = self.request.take()
            {
                self.take(request, io)?;
                return self.go_on(io);
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn take(&mut self, request: Request, io: &mut Io<'_>) -> Result<()> {
        let Request { what, exchange, body, last_us, .. } = request;
        let status = exchange.response.head().map_or(0, |head| head.status);
        if status != 200 {
            let text = String::from_utf8_lossy(&body);
            self.refusal = format!("{} was answered {status}: {:.200}", exchange.what(), text.trim());
        }
        match (what, status) {
            (What::Playlist, 200) => {
                let text = String::from_utf8_lossy(&body);
                let playlist = Playlist::parse(&text).with_context(|| exchange.what().to_owned())?;
                self.take_playlist(playlist, io).with_context(|| exchange.what().to_owned())
            }
            (What::Playlist, _) if self.next.is_none() => {
                self.reload_at = io.now().plus_ms(RETRY_MS);
                Ok(())
            }
            (What::Map, 200) => {
                self.map = self.waiting.front().and_then(|segment| segment.map.clone());
                io.meter.bytes(body.len(), last_us);
                Ok(())
            }
            (What::Segment, 200) => {
                self.waiting.pop_front();
                self.take_segment(&body, last_us, io);
                Ok(())
            }
            // It was taken off before its turn came: this viewer is behind, and its frames are lost.
            (What::Segment, 404 | 410) => {
                self.waiting.pop_front();
                Ok(())
            }
            _ => bail!("{}", self.refusal),
        }
    }

    fn take_playlist(&mut self, playlist: Playlist, io: &mut Io<'_>) -> Result<()> {
        let now = io.now();
        let media = match playlist {
            Playlist::Media(media) => media,
            Playlist::Empty => {
                self.refusal = format!("{} lists nothing", self.playlist);
                self.reload_at = now.plus_ms(RETRY_MS);
                return Ok(());
            }
            Playlist::Master(variant) => {
                ensure!(!self.is_variant, "a master playlist lists a master playlist");
                self.playlist = self.playlist.join(&variant)?;
                (self.is_variant, self.reload_at) = (true, now);
                return Ok(());
            }
        };
        io.meter.connected(now.us().max(0) as u64);
        let target_us = media.target_us;
        let is_new = self.enqueue(media);
        // RFC 8216 section 6.3.4: after a target duration, or half of one when nothing was new.
        let wait_us = if is_new { target_us } else { target_us / 2 };
        self.reload_at = now.plus_us(wait_us.max(RELOAD_US_MIN));
        Ok(())
    }

    /// Whether there was something new.
    fn enqueue(&mut self, media: Media) -> bool {
        self.is_ended = media.is_ended;
        let Some(last) = media.segments.last().map(|segment| segment.sequence) else { return false };
        if self.next.is_some_and(|next| last + SEGMENTS_BACK < next) {
            self.next = None;
        }
        let Some(from) = self.next.or_else(|| media.begin()) else { return false };
        self.next = Some(from.max(last + 1));
        let before = self.waiting.len();
        self.waiting.extend(media.segments.into_iter().filter(|segment| segment.sequence >= from));
        self.waiting.len() > before
    }

    fn take_segment(&mut self, segment: &[u8], at_us: u64, io: &mut Io<'_>) {
        io.meter.bytes(segment.len(), at_us);
        let video = mpegts::is_mpegts(segment).then(|| mpegts::video(segment));
        let mut rest = video.as_deref().unwrap_or(segment);
        // RFC 8216 section 3: a segment should begin with a key frame, and servers cut there.
        let mut key = true;
        while let Some((stamp, end)) = Stamp::find(rest) {
            io.meter.frame_of_segment(stamp, std::mem::take(&mut key), at_us);
            rest = &rest[end..];
        }
        if io.meter.seat.has_picture() {
            self.join_deadline = Time::MAX;
        }
    }
}

impl Client for Viewer {
    fn ready(&mut self, _source: usize, io: &mut Io<'_>) -> Result<()> {
        self.read(io)
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        let now = io.now();
        if now >= self.join_deadline {
            let why = if self.refusal.is_empty() { "" } else { ": " };
            bail!("no picture within {} ms{why}{}", io.kit.join_ms, self.refusal);
        }
        if let Some(request) = &self.request {
            ensure!(
                now < request.deadline,
                "{}: no whole answer within {ANSWER_MS} ms",
                request.exchange.what()
            );
            return self.read(io);
        }
        self.go_on(io)
    }

    fn due(&self) -> Time {
        let next = match &self.request {
            Some(request) => request.deadline.min(self.unread.unwrap_or(Time::MAX)),
            None => self.reload_at,
        };
        next.min(self.join_deadline)
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        None
    }
}
