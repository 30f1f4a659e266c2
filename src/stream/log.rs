//! The frame log: a stream's last frames, shared by every RTMP and FLV viewer. A viewer is a cursor; the bytes it sends are made once a
//! stream. It is the GOP cache, and a slow viewer's bound: who falls behind is moved to the newest key frame.
//!
//! Viewers over TCP are woken for each picture (or for several, by setting), and what sound came since goes with it: most of what a frame costs a
//! viewer is the wake-up and the system call, and sound would make five of eight. Whoever wants each frame at once says so ([`FrameLog::prompt_reader`]).

mod headers;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use media::flv::{self, Metadata};
use media::{Codec, Frame, Kind, Time, TrackConfig};
use sfu::SourceId;
use tokio::sync::watch;

pub use headers::{Before, Headers, rtmp_header};

/// How much the log keeps, and how far behind a viewer may be.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Frame bytes kept at most: one endless GOP cannot grow it.
    pub bytes_max: usize,
    /// The GOP cache's longest, in microseconds.
    pub gop_us_max: i64,
    /// A viewer this far behind live is moved to the newest key frame.
    pub lag_us_max: i64,
    /// Likewise in bytes.
    pub lag_bytes_max: usize,
    /// Pictures are gathered for so long before viewers are woken for them; 0: each picture wakes them.
    pub merge_us: i64,
}

/// Sound that waits for a picture waits so long, and then for the sound behind it at most. Pictures of 25 a second are 40 ms apart, with one or
/// two AAC frames of 21 to 23 ms between them: at usual rates sound never wakes a viewer, and where pictures are rare it is 46 ms late at most.
const SOUND_HELD_US: i64 = 30_000;

/// Clocks differ by no more than a part of so many.
const DRIFT: i64 = 10_000;

/// What of a stream a reader takes. Sound is there in two forms, when both are needed: the one that was published, and the one that was made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// What RTMP and FLV carry: pictures and AAC.
    Frames,
    /// What becomes packets: pictures and Opus.
    Packets,
    /// Sound of that codec alone, and what was there before is not for it.
    Sound(Codec),
    /// All there is.
    All,
}

impl Takes {
    const fn is_sound(self) -> bool {
        matches!(self, Takes::Sound(_))
    }

    const fn has(self, codec: Codec) -> bool {
        match self {
            Takes::Frames => !matches!(codec, Codec::Opus),
            Takes::Packets => !matches!(codec, Codec::Aac),
            Takes::Sound(own) => own as u8 == codec as u8,
            Takes::All => true,
        }
    }
}

/// A frame with its place in the log and the bytes that players share.
#[derive(Debug)]
pub struct Entry {
    /// The frame, on the stream's time line.
    pub frame: Frame,
    /// When it came.
    pub arrival: Time,
    /// When what it shows was captured, less what it is shown later than decoded: when it came to the publisher's node, on this clock.
    pub captured: Time,
    /// What the publisher had said of the stream by then: see [`Metadata::published`].
    pub published: Bytes,
    source: SourceId,
    rtmp: OnceLock<Box<[Bytes]>>,
    flv: OnceLock<Box<[Bytes]>>,
}

impl Entry {
    /// Whether that, taken from this log, is what the publisher said: not looked at byte by byte for each frame and player.
    pub fn is_published_with(&self, published: &Bytes) -> bool {
        (self.published.as_ptr(), self.published.len()) == (published.as_ptr(), published.len())
    }

    /// The frame as RTMP chunks, the same for all players: parts to write one behind the other, which share the frame's data.
    pub fn rtmp(&self) -> &[Bytes] {
        self.rtmp.get_or_init(|| {
            let head = flv::frame_head(&self.frame);
            rtmp_message(self.frame.kind(), self.frame.dts, &head, &self.frame.data).into()
        })
    }

    /// The frame as an FLV tag, likewise.
    pub fn flv(&self) -> &[Bytes] {
        self.flv.get_or_init(|| {
            let (type_id, head) = (flv::type_id(self.frame.kind()), flv::frame_head(&self.frame));
            Box::new(flv::tag_parts(type_id, wire_ms(self.frame.dts), &head, &self.frame.data))
        })
    }
}

/// RTMP and FLV count milliseconds in 32 bits that wrap.
pub fn wire_ms(time: Time) -> u32 {
    time.ms() as u32
}

fn rtmp_message(kind: Kind, time: Time, head: &[u8], rest: &Bytes) -> Vec<Bytes> {
    let csid = match kind {
        Kind::Audio => rtmp::csid::AUDIO,
        Kind::Video => rtmp::csid::VIDEO,
    };
    let (type_id, time) = (flv::type_id(kind), wire_ms(time));
    rtmp::message_parts(csid, type_id, time, rtmp::PLAY_STREAM_ID, head, rest, rtmp::CHUNK_SIZE_OUT)
}

/// Why a log gives no more frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The publisher left and did not come back in time.
    Over,
    /// What is published cannot be carried in frames; the text says what and why.
    Refused(String),
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Arc<Entry>>,
    first: u64,
    bytes: usize,
    key: Option<u64>,
    audio: Option<Arc<TrackConfig>>,
    video: Option<Arc<TrackConfig>>,
    published: Bytes,
    rates: Rates,
    source: SourceId,
    rebase: bool,
    offset_us: i64,
    last: Option<(Time, Time)>,
    /// Of AAC, pictures, and Opus.
    last_dts: [Option<Time>; 3],
    source_began: Option<Time>,
    /// Capture minus decode time, and by which frame it was known last.
    capture_line: Option<(i64, Time)>,
    /// Since when the oldest frame waits that viewers were not woken for, and the oldest picture.
    held: Option<Time>,
    picture_held: Option<Time>,
    ended: Option<Ended>,
    /// How often the log ended.
    ends: u64,
}

/// Bits per second of each track, over about the last seconds, for onMetaData and the API.
#[derive(Debug, Default, Clone, Copy)]
struct Rates {
    bytes: [u64; 2],
    frames: u64,
    since: Time,
    kbps: [f64; 2],
    fps: f64,
}

/// A stream's last frames.
#[derive(Debug)]
pub struct FrameLog {
    inner: Mutex<Inner>,
    /// Changes with each frame.
    pushed: watch::Sender<()>,
    /// Changes when viewers should look.
    flushed: watch::Sender<()>,
    limits: LogLimits,
}

impl FrameLog {
    /// An empty log.
    pub fn new(limits: LogLimits) -> FrameLog {
        let (pushed, flushed) = (watch::Sender::new(()), watch::Sender::new(()));
        FrameLog { inner: Mutex::default(), pushed, flushed, limits }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding it leaves whole entries behind: go on with what is there.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new source starts: its time goes on from the last frame's, by what passed on the clock.
    pub fn begin(&self, source: SourceId) {
        let mut inner = self.lock();
        if source > inner.source {
            inner.source = source;
            inner.rebase = true;
            inner.ended = None;
            (inner.source_began, inner.capture_line) = (None, None);
            inner.let_go();
            (inner.audio, inner.video) = (None, None);
            inner.published = Bytes::new();
            // References of the old source mean nothing now: viewers start at the new one's first key frame.
            inner.clear();
        }
    }

    /// How much later it is in the log than by the times of its source, in microseconds.
    pub fn offset_us(&self) -> i64 {
        self.lock().offset_us
    }

    /// Viewers of frames come after there were none: what is left of `source` is nothing to begin with.
    pub fn begin_anew(&self, source: SourceId) {
        let mut inner = self.lock();
        if source == inner.source {
            inner.let_go();
            inner.clear();
            (inner.audio, inner.video, inner.source_began) = (None, None, None);
        }
    }

    /// A track comes from now on that did not: new viewers wait for it as for those of a new source.
    pub fn expect_track(&self, now: Time) {
        let began = &mut self.lock().source_began;
        *began = began.map(|_| now);
    }

    /// What `source` says of itself from now on; `false` when that is no news, or it is an older source.
    pub fn publish_metadata(&self, source: SourceId, published: Bytes) -> bool {
        let mut inner = self.lock();
        let is_news = source == inner.source && published != inner.published;
        if is_news {
            inner.published = published;
        }
        is_news
    }

    /// What the publisher said of itself last.
    pub fn published_metadata(&self) -> Bytes {
        self.lock().published.clone()
    }

    /// Appends a frame of `source` that is captured as it comes; an older source's is refused (`false`).
    pub fn push(&self, source: SourceId, frame: Frame, now: Time) -> bool {
        self.push_captured(source, frame, now, now)
    }

    /// The same of one that came to its publisher's node before.
    pub fn push_captured(&self, source: SourceId, frame: Frame, captured: Time, now: Time) -> bool {
        self.put(source, frame, Some(captured), now)
    }

    /// The same of sound that was made of what is in the log: its times are the log's already.
    pub fn push_made(&self, source: SourceId, frame: Frame, now: Time) -> bool {
        self.put(source, frame, None, now)
    }

    fn put(&self, source: SourceId, mut frame: Frame, captured: Option<Time>, now: Time) -> bool {
        let mut inner = self.lock();
        if source != inner.source || (captured.is_none() && inner.rebase) {
            return false;
        }
        let is_opus = frame.config.codec() == Codec::Opus;
        if inner.rebase {
            inner.rebase = false;
            let (dts, at) = inner.last.unwrap_or((Time::ZERO, now));
            let goes_on_at = if inner.last.is_some() { dts.plus_us(now.since(at).max(1_000)) } else { dts };
            inner.offset_us = goes_on_at.since(frame.dts);
        }
        inner.source_began.get_or_insert(now);
        let cts = frame.pts.since(frame.dts).max(0);
        let kind = frame.kind();
        if captured.is_some() {
            frame.dts = frame.dts.plus_us(inner.offset_us);
        }
        if !is_opus {
            // The other track's first frame may be some milliseconds older than the one that began the line; on the wire there is no time before 0.
            frame.dts = frame.dts.max(Time::ZERO);
        }
        let last = &mut inner.last_dts[if is_opus { 2 } else { kind as usize }];
        frame.dts = last.map_or(frame.dts, |last| frame.dts.max(last));
        *last = Some(frame.dts);
        frame.pts = frame.dts.plus_us(cts);
        let captured = inner.captured(frame.dts, captured);
        inner.last = Some((inner.last.map_or(frame.dts, |(dts, _)| dts.max(frame.dts)), now));
        if !is_opus {
            let slot = match kind {
                Kind::Audio => &mut inner.audio,
                Kind::Video => &mut inner.video,
            };
            if slot.as_ref().is_none_or(|config| !Arc::ptr_eq(config, &frame.config)) {
                *slot = Some(frame.config.clone());
            }
            inner.rates.count(kind, frame.data.len(), now);
        }
        inner.bytes += frame.data.len();
        let seq = inner.first + inner.entries.len() as u64;
        if kind == Kind::Video && frame.key {
            inner.key = Some(seq);
        }
        let published = inner.published.clone();
        inner.entries.push_back(Arc::new(Entry {
            frame,
            arrival: now,
            captured,
            published,
            source,
            rtmp: OnceLock::new(),
            flv: OnceLock::new(),
        }));
        inner.trim(&self.limits, now);
        // Nobody whom that wakes takes Opus.
        let flush = !is_opus && inner.is_due(kind, self.limits.merge_us, now);
        drop(inner);
        self.pushed.send_replace(());
        if flush {
            self.flushed.send_replace(());
        }
        true
    }

    /// Nothing may come for a while: what waits to be gathered goes out.
    pub fn flush(&self) {
        self.lock().let_go();
        self.flushed.send_replace(());
    }

    /// The same, when something waits for longer than it should: its source has paused. Call it each second.
    pub fn flush_late(&self, now: Time) {
        let wait_us = self.limits.merge_us + SOUND_HELD_US;
        if self.lock().held.is_some_and(|since| now.since(since) > wait_us) {
            self.flush();
        }
    }

    /// No more frames come; readers are told when they have read what is left.
    pub fn end(&self, why: Ended) {
        let mut inner = self.lock();
        inner.ended = Some(why);
        inner.ends += 1;
        drop(inner);
        self.pushed.send_replace(());
        self.flushed.send_replace(());
    }

    /// The tracks' configurations: audio, video.
    pub fn configs(&self) -> (Option<Arc<TrackConfig>>, Option<Arc<TrackConfig>>) {
        let inner = self.lock();
        (inner.audio.clone(), inner.video.clone())
    }

    /// onMetaData's numbers, none of them zero for a track that is there.
    pub fn metadata(&self) -> Metadata {
        let inner = self.lock();
        inner.metadata()
    }

    /// Why it ended, if it did.
    pub fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// When the newest key frame came.
    pub fn key_arrival(&self) -> Option<Time> {
        let inner = self.lock();
        inner.key.and_then(|key| inner.get(key)).map(|e| e.arrival)
    }

    /// Measured frames per second and kilobits per second (audio, video).
    pub fn rates(&self) -> (f64, [f64; 2]) {
        let inner = self.lock();
        (inner.rates.fps, inner.rates.kbps)
    }

    /// A viewer's cursor, at the newest key frame (or at live, without video). Frames older than that are not for it. It is woken for pictures.
    pub fn reader(self: &Arc<Self>) -> Reader {
        self.reader_woken_by(&self.flushed, Takes::Frames)
    }

    /// The same, woken for each frame.
    pub fn prompt_reader(self: &Arc<Self>, takes: Takes) -> Reader {
        self.reader_woken_by(&self.pushed, takes)
    }

    fn reader_woken_by(self: &Arc<Self>, wake: &watch::Sender<()>, takes: Takes) -> Reader {
        let inner = self.lock();
        let head = inner.first + inner.entries.len() as u64;
        let cursor = inner.key.filter(|_| !takes.is_sound()).unwrap_or(head);
        let catch_up = inner.catch_up(cursor);
        let ends_before = inner.ends;
        drop(inner);
        Reader {
            log: self.clone(),
            // Before the first look at the log: what comes in between wakes it.
            wake: wake.subscribe(),
            takes,
            cursor,
            caught_up: false,
            catch_up,
            source: SourceId::default(),
            picture: false,
            ends_before,
            dropped: 0,
        }
    }
}

impl Inner {
    fn get(&self, seq: u64) -> Option<&Arc<Entry>> {
        self.entries.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    /// When it was captured that is decoded then and came then, if it is not made here: by the frames that came least late, so that whoever reads the log has
    /// the same line.
    fn captured(&mut self, dts: Time, came: Option<Time>) -> Time {
        let Some(came) = came else {
            return dts.plus_us(self.capture_line.map_or(0, |(line_us, _)| line_us));
        };
        let late_us = came.since(dts);
        let line_us = self.capture_line.map_or(late_us, |(line_us, at)| {
            // The encoder's clock may be slower than this one.
            late_us.min(line_us.saturating_add(came.since(at).max(0) / DRIFT))
        });
        self.capture_line = Some((line_us, came));
        dts.plus_us(line_us)
    }

    /// How far behind a reader is that starts at `cursor`: that is the GOP cache, and not its fault.
    fn catch_up(&self, cursor: u64) -> CatchUp {
        let lag = self
            .get(cursor)
            .zip(self.entries.back())
            .map_or(0, |(from, newest)| newest.arrival.since(from.arrival));
        CatchUp { until: self.first + self.entries.len() as u64, lag_us: lag }
    }

    fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
        self.key = None;
    }

    /// Whether viewers are woken for a frame that was just put in. Pictures are gathered from a picture on: if the sound before it made that
    /// wait shorter, most writes would be for one picture.
    fn is_due(&mut self, kind: Kind, merge_us: i64, now: Time) -> bool {
        let held = *self.held.get_or_insert(now);
        let due = match (kind, self.picture_held) {
            (Kind::Video, _) => now.since(*self.picture_held.get_or_insert(now)) >= merge_us,
            (Kind::Audio, Some(picture)) => now.since(picture) >= merge_us + SOUND_HELD_US,
            (Kind::Audio, None) if self.video.is_some() => now.since(held) >= SOUND_HELD_US,
            (Kind::Audio, None) => now.since(held) >= merge_us,
        };
        if due {
            self.let_go();
        }
        due
    }

    /// Nothing waits any more.
    fn let_go(&mut self) {
        (self.held, self.picture_held) = (None, None);
    }

    fn trim(&mut self, limits: &LogLimits, now: Time) {
        // What a viewer may lag is kept even when a newer key frame came; what is before the last key frame and older than that is not.
        while let Some(front) = self.entries.front() {
            let over = self.bytes > limits.bytes_max
                || now.since(front.arrival) > limits.gop_us_max.max(limits.lag_us_max);
            let done =
                self.key.is_none_or(|key| self.first < key) && now.since(front.arrival) > limits.lag_us_max;
            if !(over || done) || self.entries.len() == 1 {
                break;
            }
            self.bytes -= front.frame.data.len();
            if self.key == Some(self.first) {
                self.key = None; // the GOP was cut: no viewer can start in it
            }
            self.entries.pop_front();
            self.first += 1;
        }
    }

    fn metadata(&self) -> Metadata {
        let mut meta = Metadata { published: self.published.clone(), ..Metadata::default() };
        if let Some(TrackConfig::H264(video)) = self.video.as_deref() {
            meta.has_video = true;
            (meta.width, meta.height) = (video.width, video.height);
            let measured = if self.rates.fps > 0.0 { self.rates.fps } else { 25.0 };
            meta.fps = video.fps.map_or(measured, f64::from);
            meta.video_kbps = self.rates.kbps[Kind::Video as usize].max(1.0);
        }
        if let Some(TrackConfig::Aac(audio)) = self.audio.as_deref() {
            meta.has_audio = true;
            // A zero audiodatarate leaves some players (WeChat live-player) without picture.
            meta.audio_kbps = self.rates.kbps[Kind::Audio as usize].max(1.0);
            meta.audio_sample_rate_hz = audio.sample_rate_hz;
            meta.audio_channels = audio.channels;
        }
        meta
    }
}

impl Rates {
    fn count(&mut self, kind: Kind, bytes: usize, now: Time) {
        self.bytes[kind as usize] += bytes as u64;
        self.frames += u64::from(kind == Kind::Video);
        let passed = now.since(self.since);
        let first = self.kbps == [0.0, 0.0];
        if passed >= 2_000_000 || (first && passed >= 200_000) {
            let seconds = passed as f64 / 1e6;
            if self.since != Time::ZERO {
                self.kbps = self.bytes.map(|b| b as f64 * 8.0 / 1000.0 / seconds);
                self.fps = self.frames as f64 / seconds;
            }
            if self.since == Time::ZERO || passed >= 2_000_000 {
                (self.bytes, self.frames, self.since) = ([0, 0], 0, now);
            }
        }
    }
}

/// A viewer's place in a log.
#[derive(Debug)]
pub struct Reader {
    log: Arc<FrameLog>,
    wake: watch::Receiver<()>,
    takes: Takes,
    cursor: u64,
    /// It has all there is: the next wake-up is waited for.
    caught_up: bool,
    catch_up: CatchUp,
    /// Whose frame was last given.
    source: SourceId,
    /// A key frame of that source was given, so its other pictures may follow.
    picture: bool,
    /// How often the log had ended before this reader was made.
    ends_before: u64,
    dropped: u64,
}

/// The part of a reader's lag that it started with.
#[derive(Clone, Copy, Debug)]
struct CatchUp {
    /// Made good when the cursor is here.
    until: u64,
    lag_us: i64,
}

/// What a reader got.
#[derive(Debug)]
pub enum Read {
    /// Frames in order.
    Entries(Vec<Arc<Entry>>),
    /// Nothing more will come.
    Ended(Ended),
}

/// Frames handed out at once, and their bytes (the last frame may be over): about what one write should carry. However slow a
/// reader is, it holds what it was given.
const ENTRIES_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 * 1024;

impl Reader {
    /// Waits for the next frames. The first one given is a key frame when the stream has video.
    pub async fn next(&mut self) -> Read {
        loop {
            if self.caught_up && self.wake.changed().await.is_err() {
                return Read::Ended(Ended::Over);
            }
            if let Some(read) = self.poll() {
                return read;
            }
        }
    }

    /// Waits until the tracks are known: both, or one and a second passed (nobody waits for the other track for ever).
    pub async fn tracks(&mut self, now: impl Fn() -> Time) -> Result<Metadata, Ended> {
        loop {
            self.wake.mark_unchanged();
            {
                let inner = self.log.lock();
                let both = inner.audio.is_some() && inner.video.is_some();
                let waited = inner.source_began.is_some_and(|at| now().since(at) > 1_000_000);
                if both || (waited && (inner.audio.is_some() || inner.video.is_some())) {
                    return Ok(inner.metadata());
                }
                if let Some(ended) = self.ended(&inner) {
                    return Err(ended);
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), self.wake.changed()).await;
        }
    }

    /// Whether what comes next was there when the reader was made.
    pub fn is_catching_up(&self) -> bool {
        self.cursor < self.catch_up.until
    }

    /// Bytes of the pictures that come next and were there when the reader was made.
    pub fn catch_up_picture_bytes(&self) -> usize {
        let inner = self.log.lock();
        let past = (self.cursor..self.catch_up.until).filter_map(|seq| inner.get(seq));
        past.filter(|e| e.frame.kind() == Kind::Video).map(|e| e.frame.data.len()).sum()
    }

    /// Frames this viewer lost by falling behind, since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether the log ended for this reader. One that was made after a publisher left for good waits for the next; a refusal holds for all.
    fn ended(&self, inner: &Inner) -> Option<Ended> {
        inner.ended.clone().filter(|why| *why != Ended::Over || inner.ends > self.ends_before)
    }

    fn poll(&mut self) -> Option<Read> {
        let inner = self.log.lock();
        let end = inner.first + inner.entries.len() as u64;
        if self.cursor < end && self.source != SourceId::default() {
            let front = inner.get(self.cursor.max(inner.first));
            let newest = inner.entries.back();
            let lag = front.zip(newest).map_or(0, |(f, n)| n.arrival.since(f.arrival));
            let catching_up = self.is_catching_up();
            let lag_us_max = self.log.limits.lag_us_max + if catching_up { self.catch_up.lag_us } else { 0 };
            let behind = self.cursor < inner.first || lag > lag_us_max;
            let bytes_behind = || -> usize {
                let skip = usize::try_from(self.cursor.saturating_sub(inner.first)).unwrap_or(usize::MAX);
                inner.entries.iter().skip(skip).map(|e| e.frame.data.len()).sum()
            };
            // While it catches up, the log's own bound in bytes is the bound.
            let heavy =
                !catching_up && end - self.cursor > 64 && bytes_behind() > self.log.limits.lag_bytes_max;
            if behind || heavy {
                // Behind: on to the newest key frame, or wait for the next one.
                let target = inner.key.filter(|key| *key > self.cursor).unwrap_or(end);
                self.dropped += target - self.cursor;
                self.cursor = target;
                self.catch_up = inner.catch_up(target);
                self.picture = false;
            }
        }
        self.cursor = self.cursor.max(inner.first);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = inner.get(self.cursor) {
            if batch.len() == ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            if entry.source != self.source {
                (self.source, self.picture) = (entry.source, false);
            }
            // Pictures start at a key frame; sound goes with them, or alone while no video is in sight.
            self.picture |= entry.frame.kind() == Kind::Video && entry.frame.key;
            let alone = inner.video.is_none() || self.takes.is_sound();
            let begins = self.picture || (entry.frame.kind() == Kind::Audio && alone);
            if begins && self.takes.has(entry.frame.config.codec()) {
                bytes += entry.frame.data.len();
                batch.push(entry.clone());
            }
            self.cursor += 1;
        }
        // The end is told by the call that finds nothing else: no more wake-ups come then.
        let ended = self.ended(&inner);
        self.caught_up = inner.get(self.cursor).is_none() && ended.is_none();
        if !batch.is_empty() {
            return Some(Read::Entries(batch));
        }
        ended.map(Read::Ended)
    }
}

#[cfg(test)]
mod tests;
