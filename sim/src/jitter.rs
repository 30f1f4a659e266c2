//! A browser's jitter buffer: packets into frames, the wait for what a frame refers to, a delay that follows the path, and what the viewer saw of it.
//! Frames go by numbers, as libwebrtc's do for H.264: one can be decoded when it is a key frame, or begins right behind the last decoded one.

use std::collections::{BTreeMap, VecDeque};

use media::{Codec, Time, payload};

use crate::oracle::begins;
use crate::video::{FrameId, Tag};

/// A viewer that has no key frame asks for one this often, and one whose picture stands this long asks, too (`kMaxWaitForKeyFrame`,
/// `kMaxWaitForFrame`).
pub const WAIT_KEY_US: i64 = 200_000;
const WAIT_FRAME_US: i64 = 3_000_000;
/// The least and most delay, and how many frames its estimate looks back on.
const DELAY_US_MIN: i64 = 10_000;
const DELAY_US_MAX: i64 = 1_000_000;
const LATENESS_MAX: usize = 300;
/// The W3C's freeze: a frame is shown later than max(3 intervals, interval + 150 ms) after the one before, by the mean of 30.
const FREEZE_US: i64 = 150_000;
/// One that has not ended is counted when it is this long.
const STANDS_US: i64 = 1_000_000;
const INTERVALS_MAX: usize = 30;
/// Packets kept; older ones are given up.
const PACKETS_MAX: usize = 4_096;

#[derive(Clone, Debug)]
struct Packet {
    time: i64,
    marker: bool,
    padding: bool,
    /// It begins a frame: parameter sets, or the first slice of a frame that is none.
    begins: bool,
    /// It has parameter sets.
    sets: bool,
    tag: Option<Tag>,
    discardable: bool,
}

#[derive(Clone, Debug)]
struct Frame {
    last: u64,
    time: i64,
    tag: Tag,
    sets: bool,
    discardable: bool,
}

/// A freeze of the picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freeze {
    /// When the picture stopped moving.
    pub from: Time,
    /// From that frame to the next.
    pub len_us: i64,
}

/// What the viewer saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// When each frame was whole, with its capture time.
    pub complete: BTreeMap<FrameId, (Time, Time)>,
    /// When each frame was shown.
    pub played: BTreeMap<FrameId, Time>,
    /// Freezes that have ended.
    pub freezes: Vec<Freeze>,
    /// The first frame could be decoded.
    pub first_decoded: Option<Time>,
}

/// The buffer of one stream.
#[derive(Debug)]
pub struct JitterBuffer {
    packets: BTreeMap<u64, Packet>,
    frames: BTreeMap<u64, Frame>,
    /// The last number of the last decoded frame, its time, and the last two frames that others refer to, the newer first: with temporal layers
    /// the base goes on from the one before that of the layer above.
    decoded: Option<(u64, i64, [FrameId; 2])>,
    /// The time stamp and time of the frame that came soonest: others are late by what they exceed it.
    base: Option<(i64, Time)>,
    lateness: VecDeque<i64>,
    delay_us: i64,
    /// A key frame that does not follow what was decoded is decoded then.
    jump_at: Time,
    waiting: VecDeque<(Time, Frame)>,
    shown: Option<(Time, i64)>,
    intervals: VecDeque<i64>,
    stands_since: Time,
    asked: Time,
    /// What came of it.
    pub seen: Seen,
}

impl JitterBuffer {
    /// An empty buffer.
    pub fn new(now: Time) -> JitterBuffer {
        JitterBuffer {
            packets: BTreeMap::new(),
            frames: BTreeMap::new(),
            decoded: None,
            base: None,
            lateness: VecDeque::new(),
            delay_us: DELAY_US_MIN,
            jump_at: Time::MAX,
            waiting: VecDeque::new(),
            shown: None,
            intervals: VecDeque::new(),
            stands_since: now,
            asked: now,
            seen: Seen::default(),
        }
    }

    /// A packet, in whatever order. Gives where a key frame begins that was decoded, and errors when a browser would show a broken picture.
    pub fn insert(
        &mut self,
        seq: u64,
        time: i64,
        marker: bool,
        codec: Codec,
        body: &[u8],
        now: Time,
    ) -> Result<Option<u64>, String> {
        if self.packets.contains_key(&seq) || self.decoded.is_some_and(|(last, ..)| seq <= last) {
            return Ok(None);
        }
        let (sets, slice) = begins(codec, body);
        let tag = slice.then(|| Tag::read(codec, body)).flatten();
        let begins = sets || tag.is_some_and(|tag| !tag.is_key());
        let (padding, discardable) = (body.is_empty(), payload::discardable(codec, body));
        self.packets.insert(seq, Packet { time, marker, padding, begins, sets, tag, discardable });
        while self.packets.len() > PACKETS_MAX {
            self.packets.pop_first();
        }
        self.find_frame(seq, now);
        self.decode(now)
    }

    /// Whether `seq` makes its frame whole.
    fn find_frame(&mut self, seq: u64, now: Time) {
        let Some(here) = self.packets.get(&seq).cloned() else { return };
        let of_frame = |seq: u64| self.packets.get(&seq).filter(|p| p.time == here.time && !p.padding);
        let mut last = seq;
        while !of_frame(last).is_some_and(|p| p.marker) {
            last += 1;
            if of_frame(last).is_none() {
                return;
            }
        }
        let mut first = seq;
        while !of_frame(first).is_some_and(|p| p.begins) {
            // A key frame without parameter sets begins where another frame ends.
            if self.packets.get(&(first - 1)).is_some_and(|p| p.time != here.time) {
                break;
            }
            first -= 1;
            if of_frame(first).is_none() {
                return;
            }
        }
        let packets = || self.packets.range(first..=last).map(|(_, p)| p);
        let Some(tag) = packets().find_map(|p| p.tag) else { return };
        let (sets, discardable) = (packets().any(|p| p.sets), packets().any(|p| p.discardable));
        self.frames.insert(first, Frame { last, time: here.time, tag, sets, discardable });
        self.seen.complete.entry(tag.id).or_insert((now, tag.capture));
        self.note_delay(here.time, now);
    }

    /// The delay follows the 95th percentile of how late frames are.
    fn note_delay(&mut self, time: i64, now: Time) {
        let (base_time, base_at) = *self.base.get_or_insert((time, now));
        let late = now.since(base_at) - (time - base_time) * 100 / 9;
        // Another time line: its publisher jumped.
        if !(0..=10 * DELAY_US_MAX).contains(&late) {
            self.base = Some((time, now));
        }
        let late = late.clamp(0, DELAY_US_MAX);
        if self.lateness.len() == LATENESS_MAX {
            self.lateness.pop_front();
        }
        self.lateness.push_back(late);
        let mut sorted: Vec<i64> = self.lateness.iter().copied().collect();
        sorted.sort_unstable();
        let wanted = sorted[(sorted.len() - 1) * 95 / 100].clamp(DELAY_US_MIN, DELAY_US_MAX);
        // Up at once, down slowly, lest frames come too soon.
        self.delay_us =
            if wanted > self.delay_us { wanted } else { self.delay_us - (self.delay_us - wanted) / 100 };
    }

    fn decode(&mut self, now: Time) -> Result<Option<u64>, String> {
        let mut key_at = None;
        loop {
            // Padding between frames.
            if let Some((last, ..)) = &mut self.decoded {
                while self.packets.get(&(*last + 1)).is_some_and(|p| p.padding) {
                    *last += 1;
                }
            }
            let next = self
                .decoded
                .and_then(|(last, ..)| self.frames.get(&(last + 1)).cloned().map(|f| (last + 1, f)));
            let mut keys = self.frames.iter().filter(|(_, f)| f.tag.is_key() && f.sets);
            let key = keys.next().map(|(first, f)| (*first, f.clone()));
            // Frames before a key frame may still be repaired until it is due.
            self.jump_at = Time::MAX;
            let key = match (&next, key) {
                (None, Some((first, key))) => {
                    let due = if self.decoded.is_some() { self.show_at(key.time, now) } else { now };
                    if due > now {
                        self.jump_at = due;
                    }
                    (due <= now).then_some((first, key))
                }
                _ => None,
            };
            let Some((first, frame)) = next.filter(|(_, f)| !f.tag.is_key() || f.sets).or(key) else {
                return Ok(key_at);
            };
            let tag = frame.tag;
            let referred =
                match self.decoded {
                    _ if tag.is_key() => [tag.id; 2],
                    // A frame that no other refers to does not take the place of the one before.
                    Some((.., referred))
                        if referred.contains(&FrameId { number: tag.refers_to, ..tag.id }) =>
                    {
                        if frame.discardable { referred } else { [tag.id, referred[0]] }
                    }
                    decoded => {
                        return Err(format!(
                            "a broken picture: {:?} refers to {}, and the last one decoded by number is {:?}",
                            tag.id, tag.refers_to, decoded
                        ));
                    }
                };
            if tag.is_key() {
                key_at = Some(first);
            }
            self.decoded = Some((frame.last, frame.time, referred));
            self.frames = self.frames.split_off(&(frame.last + 1));
            self.packets = self.packets.split_off(&(frame.last + 1));
            self.seen.first_decoded.get_or_insert(now);
            self.stands_since = now;
            let at = self.show_at(frame.time, now);
            self.waiting.push_back((at, frame));
        }
    }

    fn show_at(&self, time: i64, now: Time) -> Time {
        let Some((base_time, base_at)) = self.base else { return now };
        let due = base_at.plus_us((time - base_time) * 100 / 9).plus_us(self.delay_us);
        // A decoded frame waits no longer than the buffer's most.
        due.max(now).min(now.plus_us(DELAY_US_MAX))
    }

    /// Shows frames that are due; returns whether a key frame should be asked for. Errors as [`JitterBuffer::insert`].
    pub fn poll(&mut self, now: Time) -> Result<bool, String> {
        if now >= self.jump_at {
            self.decode(now)?;
        }
        while self.waiting.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, frame)) = self.waiting.pop_front() else { break };
            self.show(&frame, at);
        }
        let wait = if self.decoded.is_some() { WAIT_FRAME_US } else { WAIT_KEY_US };
        if now.since(self.stands_since.max(self.asked)) >= wait {
            self.asked = now;
            return Ok(true);
        }
        Ok(false)
    }

    fn show(&mut self, frame: &Frame, at: Time) {
        self.seen.played.insert(frame.tag.id, at);
        if let Some((before, time)) = self.shown {
            let interval = ((frame.time - time) * 100 / 9).clamp(0, 200_000);
            let mean = match self.intervals.len() {
                0 => interval,
                n => self.intervals.iter().sum::<i64>() / n as i64,
            };
            let gap = at.since(before);
            if gap > (3 * mean).max(mean + FREEZE_US) {
                self.seen.freezes.push(Freeze { from: before, len_us: gap });
            }
            if self.intervals.len() == INTERVALS_MAX {
                self.intervals.pop_front();
            }
            self.intervals.push_back(interval);
        }
        self.shown = Some((at, frame.time));
    }

    /// How long the picture has stood.
    pub fn stands(&self, now: Time) -> Option<Freeze> {
        let (from, _) = self.shown?;
        let len_us = now.since(from);
        (len_us > STANDS_US).then_some(Freeze { from, len_us })
    }

    /// Its delay now, in microseconds.
    pub fn delay_us(&self) -> i64 {
        self.delay_us
    }

    /// When [`JitterBuffer::poll`] is due.
    pub fn next(&self) -> Time {
        let shown = self.waiting.front().map_or(Time::MAX, |(at, _)| *at);
        let wait = if self.decoded.is_some() { WAIT_FRAME_US } else { WAIT_KEY_US };
        shown.min(self.jump_at).min(self.stands_since.max(self.asked).plus_us(wait))
    }
}

#[cfg(test)]
mod tests;
