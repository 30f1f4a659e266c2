//! The receiving end of a hop: each packet is given on as it arrives, once; holes in the link's numbers are asked for.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use media::Time;

use super::answers::Answers;
use super::firsts::Firsts;
use super::{RoundTrip, SENT_UNIT_US};
use crate::datagram::{
    Body, Flags, Media, NACK_NUMBERS_MAX, NACK_RANGES_MAX, Next, PAYLOAD_LEN_MAX, Part, whole_number,
    write_nack,
};

/// Numbers that are missing at one time. More is no loss that repair helps against: the oldest are given up.
const MISSING_MAX: usize = NACK_NUMBERS_MAX as usize;
/// Numbers behind the highest of which it is known whether they came: two seconds of 100 Mbit/s. What is older is taken for a repetition.
const KNOWN: u64 = 1 << 14;
/// Halves of packets whose other half has not come. The oldest is given up.
const HALVES_MAX: usize = 512;
/// A hole is a loss and no packet out of order after so long at least.
const REORDER_US_MIN: i64 = 1_000;
/// Where packets are late by that, waiting for them may cost a quarter of a round trip, and this where that is less: asking for each in vain costs the
/// link twice what it carries.
const REORDER_US_MOST: i64 = 25_000;
/// How late the usual packet out of order is goes up by this part of what one was beyond it, and down by this: who is a little late is asked for in vain, who
/// is waited for too long is late for viewers.
const LATER_PART: i64 = 1;
const EARLIER_PART: i64 = 16_384;
/// The longest usual delay goes up by so much with each packet that took longer, and down by this part with each that did not: one of a hundred and
/// fifty takes longer.
const DELAY_STEP_US: i64 = 1_000;
const DELAY_DOWN_PART: i64 = 150;
/// Of use for so long, until something came: what a live viewer has.
const LEFT_US: i64 = 400_000;
/// What was announced and did not come for so long, and what a packet out of order may take, is asked for: the pacer may hold it up. Twice as long, up to
/// that of a frame, when it came after all, and less again by this part with each that comes in time.
const TAIL_US: i64 = 4_000;
const TAIL_US_MAX: i64 = 32_000;
const TAIL_DOWN_PART: i64 = 512;
/// Halved in so long.
const FORGET_US: i64 = 10_000_000;

/// A packet that came, whole.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its header; of a packet in halves the first one's.
    pub media: Media,
    /// Since it came into the cluster, by the headers and half a round trip, in microseconds.
    pub age_us: i64,
    /// Its frame's dependency descriptor.
    pub descriptor: Bytes,
    /// RTP payload.
    pub payload: Bytes,
}

/// What the receiving end has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IncomingStats {
    /// Datagrams of media that were of use.
    pub received: u64,
    /// Datagrams that had come already.
    pub duplicates: u64,
    /// Of `received`, those that came after a later one, without having been asked for.
    pub reordered: u64,
    /// Numbers asked for, each time counted.
    pub asked: u64,
    /// Numbers that came as they were sent again.
    pub repaired: u64,
    /// Numbers given up: too late to be of use, or too many.
    pub lost: u64,
}

#[derive(Debug)]
struct Missing {
    /// When it was seen to be missing.
    since: Time,
    /// When to ask for it, again.
    due: Time,
    /// When it was asked for the last two times.
    asked: [Option<Time>; 2],
    /// When it is of no use any more.
    end: Time,
}

impl Missing {
    /// How long the answer took that is here now, if that is known.
    fn answered_us(&self, trip: RoundTrip, now: Time) -> Option<i64> {
        match self.asked {
            [Some(asked), None] => Some(now.since(asked)),
            // None is there so soon: it is to the request before, and they take longer than was waited for.
            [Some(again), Some(asked)] if now.since(again) < trip.min_us / 2 => Some(now.since(asked)),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Half {
    media: Media,
    descriptor: Bytes,
    payload: Bytes,
}

/// The receiving end.
#[derive(Debug)]
pub struct Incoming {
    /// The number expected next: the peer's first is 0.
    next: u64,
    /// Whether the [`KNOWN`] numbers before `next` came, newest last.
    known: VecDeque<bool>,
    missing: BTreeMap<u64, Missing>,
    /// When to ask for `next`, which was announced, and when it was asked for: once, for it may not have left.
    tail_due: Option<Time>,
    tail_asked: Option<Time>,
    tail_us: i64,
    answers: Answers,
    halves: BTreeMap<u64, Half>,
    firsts: Firsts,
    /// Packets that had waited for the first of their frame.
    released: VecDeque<Arrived>,
    /// How late the latest but a few of what came out of order were, fading; of a new link what it may cost to wait.
    lateness_us: Option<i64>,
    faded: Option<Time>,
    /// Arrival less departure of what came last, by two clocks, in units of [`Media::sent`].
    last: u16,
    /// By how much more than the first one's, in microseconds...
    delay_us: i64,
    /// ...and of what took the longest but a few.
    long_delay_us: Option<i64>,
    /// The budget of the newest, in microseconds: what is missing has about the same.
    left_us: i64,
    stats: IncomingStats,
}

impl Default for Incoming {
    fn default() -> Incoming {
        Incoming::new()
    }
}

impl Incoming {
    /// Nothing came yet.
    pub fn new() -> Incoming {
        Incoming {
            next: 0,
            known: VecDeque::new(),
            missing: BTreeMap::new(),
            tail_due: None,
            tail_asked: None,
            tail_us: TAIL_US,
            answers: Answers::default(),
            halves: BTreeMap::new(),
            firsts: Firsts::default(),
            released: VecDeque::new(),
            lateness_us: None,
            faded: None,
            last: 0,
            delay_us: 0,
            long_delay_us: None,
            left_us: LEFT_US,
            stats: IncomingStats::default(),
        }
    }

    /// What it has seen.
    pub fn stats(&self) -> IncomingStats {
        self.stats
    }

    /// How long a hole may be a packet out of order, in microseconds.
    pub fn reorder_us(&self, trip: RoundTrip) -> i64 {
        let most = (trip.smoothed_us / 4).max(REORDER_US_MOST);
        self.lateness_us.unwrap_or(trip.smoothed_us / 8).clamp(REORDER_US_MIN, most)
    }

    /// The same of what left no later than what came last: it will not take longer than the longest usual.
    fn hole_us(&self, trip: RoundTrip) -> i64 {
        let still_us = self.long_delay_us.map_or(i64::MAX, |long| long.saturating_sub(self.delay_us));
        self.reorder_us(trip).min(still_us.max(REORDER_US_MIN))
    }

    /// Takes a datagram of media: the packet, if it is new and whole now. Others may have waited for it: see [`Self::released`].
    pub fn on_media(&mut self, media: Media, body: Body<'_>, trip: RoundTrip, now: Time) -> Option<Arrived> {
        let media = Media { link_seq: whole_number(media.link_seq, self.next), ..media };
        let age_us = age_us(&media, trip);
        if media.link_seq >= self.next {
            self.left_us = i64::from(media.budget_ms).saturating_mul(1_000).saturating_sub(age_us);
        }
        self.measure(media.sent, now);
        let again = media.flags.has(Flags::RETRANSMISSION);
        if !self.is_new(media.link_seq, again, media.more, trip, now) {
            return None;
        }
        // They came into the cluster together.
        let release = |(next, payload): (Next, Bytes)| {
            let media = next.media(&media);
            Arrived { media, age_us, descriptor: Bytes::new(), payload }
        };
        self.released.extend(self.firsts.came(&media).into_iter().map(release));
        let half = Half {
            media,
            descriptor: Bytes::copy_from_slice(body.descriptor),
            payload: Bytes::copy_from_slice(body.payload),
        };
        let Half { media, descriptor, payload } = match media.part {
            Part::Whole => half,
            Part::FirstHalf => self.join(media.link_seq, media.link_seq.saturating_add(1), half)?,
            Part::SecondHalf => self.join(media.link_seq, media.link_seq.checked_sub(1)?, half)?,
            Part::Header => return None,
        };
        Some(Arrived { media, age_us, descriptor, payload })
    }

    /// Takes a frame's next packet, if it is new and the datagram that it goes on with is there; else it waits for that.
    pub fn on_next(&mut self, next: Next, payload: &[u8], trip: RoundTrip, now: Time) -> Option<Arrived> {
        let next = Next { link_seq: whole_number(next.link_seq, self.next), ..next };
        self.measure_low(next.sent, now);
        if !self.is_new(next.link_seq, false, next.more, trip, now) {
            return None;
        }
        let payload = Bytes::copy_from_slice(payload);
        let Some(media) = self.firsts.media(&next) else {
            let is_lost = self.firsts.wait(next, payload);
            self.stats.lost = self.stats.lost.saturating_add(is_lost.into());
            return None;
        };
        Some(Arrived { media, age_us: age_us(&media, trip), descriptor: Bytes::new(), payload })
    }

    /// A packet that waited for what came last, the oldest first.
    pub fn released(&mut self) -> Option<Arrived> {
        self.released.pop_front()
    }

    fn measure(&mut self, sent: u16, now: Time) {
        self.took(((now.us() / SENT_UNIT_US) as u16).wrapping_sub(sent));
    }

    /// The same by the low bits: what is nearest to the one before.
    fn measure_low(&mut self, sent: u8, now: Time) {
        let took = ((now.us() / SENT_UNIT_US) as u8).wrapping_sub(sent);
        let more = took.wrapping_sub(self.last as u8).cast_signed();
        if self.long_delay_us.is_some() {
            self.took(self.last.wrapping_add_signed(more.into()));
        }
    }

    fn took(&mut self, took: u16) {
        // From one to the next: clocks that drift apart for days take the sum as far as they like.
        let more = took.wrapping_sub(self.last).cast_signed();
        self.last = took;
        let Some(long) = self.long_delay_us else {
            self.long_delay_us = Some(0);
            return;
        };
        self.delay_us = self.delay_us.saturating_add(i64::from(more).saturating_mul(SENT_UNIT_US));
        let step = if self.delay_us > long { DELAY_STEP_US } else { -(DELAY_STEP_US / DELAY_DOWN_PART) };
        self.long_delay_us = Some(long.saturating_add(step));
    }

    /// The other half is there, or this one waits for it.
    fn join(&mut self, number: u64, other: u64, half: Half) -> Option<Half> {
        let is_pair = |a: &Media, b: &Media| a.part != b.part && (a.track, a.seq) == (b.track, b.seq);
        let Some(found) = self.halves.remove(&other).filter(|found| is_pair(&found.media, &half.media))
        else {
            if self.halves.len() >= HALVES_MAX {
                self.halves.pop_first();
            }
            self.halves.insert(number, half);
            return None;
        };
        let (first, second) = if number < other { (half, found) } else { (found, half) };
        let mut payload = BytesMut::from(&first.payload[..]);
        payload.extend_from_slice(&second.payload);
        if payload.len() > PAYLOAD_LEN_MAX {
            return None;
        }
        Some(Half { payload: payload.freeze(), ..first })
    }

    /// Whether the number did not come before, which is counted; what is missing before it is noted.
    fn is_new(&mut self, number: u64, again: bool, more: bool, trip: RoundTrip, now: Time) -> bool {
        let is_new = self.came(number, again, more, trip, now);
        let count = if is_new { &mut self.stats.received } else { &mut self.stats.duplicates };
        *count = count.saturating_add(1);
        is_new
    }

    fn came(&mut self, number: u64, again: bool, more: bool, trip: RoundTrip, now: Time) -> bool {
        let next = self.next;
        if number >= next {
            let usual_us = if number == next && !again && self.tail_asked.is_some() {
                self.tail_us.saturating_mul(2)
            } else {
                self.tail_us.saturating_sub(self.tail_us / TAIL_DOWN_PART)
            };
            self.tail_us = usual_us.clamp(TAIL_US, TAIL_US_MAX);
            self.advance(next, number.saturating_add(1), trip, now);
            let wait_us = self.hole_us(trip).saturating_add(self.tail_us);
            self.tail_due = more.then(|| now.plus_us(wait_us));
            self.stats.repaired = self.stats.repaired.saturating_add(again.into());
            if let Some(last) = self.known.back_mut() {
                *last = true;
            }
            self.missing.remove(&number);
            return true;
        }
        let back = usize::try_from(next.saturating_sub(number)).unwrap_or(usize::MAX);
        let came = self.known.len().checked_sub(back).and_then(|at| self.known.get_mut(at));
        let Some(came) = came.filter(|came| !**came) else { return false };
        *came = true;
        let missing = self.missing.remove(&number);
        if again {
            self.stats.repaired = self.stats.repaired.saturating_add(1);
            if let Some(after_us) = missing.and_then(|missing| missing.answered_us(trip, now)) {
                self.answers.came(after_us);
            }
        } else {
            self.stats.reordered = self.stats.reordered.saturating_add(1);
            if let Some(missing) = missing {
                let usual = self.reorder_us(trip);
                let beyond = now.since(missing.since).min(trip.smoothed_us).saturating_sub(usual);
                let part = if beyond > 0 { LATER_PART } else { EARLIER_PART };
                self.lateness_us = Some(usual.saturating_add(beyond.checked_div(part).unwrap_or(0)));
            }
        }
        true
    }

    /// The peer's next number is `next`: what is missing before it was sent.
    pub fn on_end(&mut self, next: u64, trip: RoundTrip, now: Time) {
        if next >= self.next {
            self.tail_due = None;
            self.advance(self.next, next, trip, now);
        }
    }

    fn advance(&mut self, from: u64, next: u64, trip: RoundTrip, now: Time) {
        let due = now.plus_us(self.hole_us(trip));
        let end = now.plus_us(self.left_us.max(0));
        for number in from.max(next.saturating_sub(KNOWN))..next {
            if self.known.len() as u64 == KNOWN {
                self.known.pop_front();
            }
            self.known.push_back(false);
            if next.saturating_sub(number) <= MISSING_MAX as u64 {
                self.missing.insert(number, Missing { since: now, due, asked: [None; 2], end });
            }
        }
        // It was announced: the answer is on its way.
        if let Some(asked) = self.tail_asked.take()
            && let Some(missing) = self.missing.get_mut(&from)
        {
            missing.due = asked.plus_us(self.answers.longest_us(trip));
            missing.asked = [Some(asked), None];
        }
        self.next = next;
        while self.missing.len() > MISSING_MAX.saturating_add(1) {
            self.missing.pop_first();
            self.stats.lost = self.stats.lost.saturating_add(1);
        }
    }

    /// When to ask, or to give up.
    pub fn deadline(&self) -> Option<Time> {
        self.missing.values().map(|missing| missing.due.min(missing.end)).chain(self.tail_due).min()
    }

    /// The request for what is due, to be sent at once; `None` when nothing is.
    pub fn poll(&mut self, trip: RoundTrip, now: Time) -> Option<Vec<u8>> {
        self.fade(trip, now);
        let again = now.plus_us(self.answers.longest_us(trip));
        let answer = now.plus_us(self.answers.usual_us(trip));
        let (mut ranges, mut lost): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
        let mut numbers: u64 = 0;
        self.missing.retain(|number, missing| {
            if answer > missing.end {
                if now < missing.end {
                    missing.due = missing.end;
                    return true;
                }
                lost = lost.saturating_add(1);
                return false;
            }
            if missing.due > now || numbers >= NACK_NUMBERS_MAX {
                return true;
            }
            let full = ranges.len() >= NACK_RANGES_MAX;
            match ranges.last_mut() {
                Some((first, count)) if first.saturating_add(*count) == *number => {
                    *count = count.saturating_add(1);
                }
                _ if full => return true,
                _ => ranges.push((*number, 1)),
            }
            numbers = numbers.saturating_add(1);
            missing.due = again;
            missing.asked = [Some(now), missing.asked[0]];
            true
        });
        self.stats.lost = self.stats.lost.saturating_add(lost);
        let mut highest = self.next.saturating_sub(1);
        if self.tail_due.is_some_and(|due| due <= now) && ranges.len() < NACK_RANGES_MAX {
            (self.tail_due, self.tail_asked) = (None, Some(now));
            highest = self.next;
            ranges.push((highest, 1));
            numbers = numbers.saturating_add(1);
        }
        if ranges.is_empty() {
            return None;
        }
        self.stats.asked = self.stats.asked.saturating_add(numbers);
        let mut out = Vec::new();
        write_nack(&mut out, highest, &ranges);
        Some(out)
    }

    fn fade(&mut self, trip: RoundTrip, now: Time) {
        if now.since(*self.faded.get_or_insert(now)) >= FORGET_US {
            (self.lateness_us, self.faded) = (Some(self.reorder_us(trip) / 2), Some(now));
        }
    }
}

/// Of a packet that is here now, since it came into the cluster.
fn age_us(media: &Media, trip: RoundTrip) -> i64 {
    i64::from(media.age_ms).saturating_mul(1_000).saturating_add(trip.smoothed_us / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: RoundTrip = RoundTrip { min_us: 100_000, smoothed_us: 100_000, deviation_us: 1_000 };

    fn media(link_seq: u64, sent_us: i64, age_ms: u16) -> Media {
        Media {
            part: Part::Whole,
            flags: Flags::default(),
            link_seq,
            track: 1,
            sent: (sent_us / SENT_UNIT_US) as u16,
            age_ms,
            budget_ms: 400,
            seq: link_seq as u32,
            timestamp: 0,
            dts_offset: 0,
            temporal: Default::default(),
            left_out: false,
            more: false,
        }
    }

    fn take(incoming: &mut Incoming, media: Media, payload: &[u8], now: Time) -> Option<Arrived> {
        incoming.on_media(media, Body { descriptor: b"", payload }, TRIP, now)
    }

    #[test]
    fn a_new_link_waits_an_eighth_of_a_round_trip_however_long_the_node_has_run() {
        let (mut incoming, now) = (Incoming::new(), Time(3_600_000_000));
        assert_eq!(incoming.poll(RoundTrip::default(), now), None);
        assert_eq!(incoming.reorder_us(TRIP), 12_500);
        assert_eq!(incoming.poll(TRIP, now.plus_us(FORGET_US)), None);
        assert_eq!(incoming.reorder_us(TRIP), 6_250);
    }

    #[test]
    fn clocks_that_drift_apart_for_days_are_no_delay() {
        let mut incoming = Incoming::new();
        for second in 0..3 * 86_400_i64 {
            // 100 ppm.
            let now = Time(second * 1_000_100 + 50_000);
            assert!(take(&mut incoming, media(second as u64, second * 1_000_000, 0), b"p", now).is_some());
            let off_us = incoming.delay_us - incoming.long_delay_us.unwrap();
            assert!(off_us.abs() <= 2_000, "{off_us} us after {second} s");
        }
        assert!(incoming.delay_us > 20_000_000, "{} us", incoming.delay_us);
    }

    #[test]
    fn what_was_lost_before_anything_came_is_asked_for() {
        let mut incoming = Incoming::new();
        incoming.on_end(1, TRIP, Time(1_000));
        assert!(incoming.poll(TRIP, Time(20_000)).is_some());
    }

    #[test]
    fn what_was_announced_is_asked_for_once_when_it_does_not_follow() {
        let mut incoming = Incoming::new();
        let announces = |number: u64| Media { more: true, ..media(number, 0, 0) };
        take(&mut incoming, announces(0), b"p", Time::ZERO);
        let at = asks(&mut incoming, TRIP, 0);
        assert_eq!(at, [5]);
        // It is there, sent again: nothing else is missing.
        let again = Media { flags: Flags::RETRANSMISSION, ..media(1, 0, 0) };
        assert!(take(&mut incoming, again, b"p", Time::from_ms(500)).is_some());
        assert_eq!((asks(&mut incoming, TRIP, 500).len(), incoming.stats().repaired), (0, 1));
        take(&mut incoming, announces(2), b"p", Time::from_ms(1_000));
        take(&mut incoming, media(3, 0, 0), b"p", Time::from_ms(1_001));
        assert_eq!(asks(&mut incoming, TRIP, 1_000).len(), 0, "it followed");
        take(&mut incoming, announces(4), b"p", Time::from_ms(2_000));
        incoming.on_end(5, TRIP, Time::from_ms(2_001));
        assert_eq!(asks(&mut incoming, TRIP, 2_000).len(), 0, "it never left");
        // What comes after all is waited for longer from then on, up to what a frame is apart.
        let mut number = 5;
        let waits = [5, 9, 17, 33, 33].map(|wait| {
            let from = 2_000 + number as i64 * 100;
            take(&mut incoming, announces(number), b"p", Time::from_ms(from));
            let at = asks(&mut incoming, TRIP, from);
            take(&mut incoming, media(number + 1, 0, 0), b"p", Time::from_ms(from + 90));
            number += 2;
            (at[0], wait)
        });
        assert!(waits.iter().all(|(waited, wait)| waited == wait), "{waits:?}");
    }

    /// What is asked for, and when in milliseconds, of a number that never comes.
    fn asks(incoming: &mut Incoming, trip: RoundTrip, from_ms: i64) -> Vec<i64> {
        let at = |ms: &i64| incoming.poll(trip, Time::from_ms(*ms)).is_some();
        (from_ms..from_ms + 400).filter(at).map(|ms| ms - from_ms).collect()
    }

    #[test]
    fn a_lost_handshake_packet_does_not_delay_what_is_asked_for() {
        let mut trip = RoundTrip::default();
        trip.measured(1_100_000, 1_100_000, 1_100_000);
        trip.measured(100_000, 100_000, 975_000);
        let mut incoming = Incoming::new();
        assert_eq!(incoming.reorder_us(trip), 18_750);
        take(&mut incoming, media(0, 0, 0), b"p", Time::ZERO);
        incoming.on_end(2, trip, Time::ZERO);
        let at = asks(&mut incoming, trip, 0);
        assert!(at.len() == 2 && at[0] <= 19 && at[1] <= 220, "{at:?}");
    }

    #[test]
    fn what_is_asked_for_again_is_so_as_soon_as_its_answer_is_late() {
        // QUIC's deviation has delayed acknowledgements in it.
        let trip = RoundTrip { deviation_us: 15_000, ..TRIP };
        let mut incoming = Incoming::new();
        for lost in 0..10_u64 {
            let now = Time::from_ms(100 + lost as i64 * 500);
            incoming.on_end(lost + 1, trip, now);
            let ask = (0..50).map(|ms| now.plus_ms(ms)).find(|at| incoming.poll(trip, *at).is_some());
            let again = Media { flags: Flags::RETRANSMISSION, ..media(lost, 0, 0) };
            let came = ask.expect("it is missing").plus_ms(101);
            assert!(incoming.on_media(again, Body::default(), trip, came).is_some());
        }
        incoming.on_end(11, trip, Time::from_ms(6_000));
        let at = asks(&mut incoming, trip, 6_000);
        assert!(at[1] - at[0] <= 108, "{at:?}");
        // They take longer now than was waited for: it is seen though each is asked for twice.
        for lost in 11..20_u64 {
            let now = Time::from_ms(10_000 + lost as i64 * 500);
            incoming.on_end(lost + 1, trip, now);
            let asked = (0..160).filter(|ms| incoming.poll(trip, now.plus_ms(*ms)).is_some()).min().unwrap();
            let again = Media { flags: Flags::RETRANSMISSION, ..media(lost, 0, 0) };
            incoming.on_media(again, Body::default(), trip, now.plus_ms(asked + 150));
        }
        incoming.on_end(21, trip, Time::from_ms(30_000));
        let at = asks(&mut incoming, trip, 30_000);
        assert!(at[1] - at[0] >= 150, "{at:?}");
    }

    #[test]
    fn an_old_packet_that_was_sent_again_does_not_shorten_what_others_have() {
        let mut incoming = Incoming::new();
        take(&mut incoming, media(0, 0, 0), b"p", Time(50_000));
        take(&mut incoming, media(2, 1_000, 0), b"p", Time(51_000));
        let again = Media { flags: Flags::default().with(Flags::RETRANSMISSION), ..media(1, 160_000, 345) };
        assert!(take(&mut incoming, again, b"p", Time(210_000)).is_some());
        incoming.on_end(4, TRIP, Time(211_000));
        assert!(incoming.poll(TRIP, Time(240_000)).is_some(), "it has 400 ms");
    }

    #[test]
    fn a_frames_next_packets_wait_for_the_first_and_are_as_old_as_they_are() {
        let mut incoming = Incoming::new();
        let first = |number: u64| Media { seq: 90 + number as u32, ..media(number, 0, 10) };
        let next = |link_seq: u64, back: u8| Next {
            link_seq,
            back,
            gap: 0,
            sent: 8,
            last: back == 2,
            more: back == 1,
        };
        let on_next = |incoming: &mut Incoming, next: Next, ms: i64| {
            incoming.on_next(next, b"n", TRIP, Time::from_ms(ms))
        };
        assert!(take(&mut incoming, first(0), b"p", Time::from_ms(50)).is_some());
        let came = on_next(&mut incoming, next(1, 1), 52).expect("its first is there");
        assert_eq!((came.media.seq, came.age_us, came.media.track), (91, 62_000, 1));
        assert!(!came.media.flags.has(Flags::END_OF_FRAME));
        assert!(on_next(&mut incoming, next(1, 1), 52).is_none() && incoming.stats().duplicates == 1);
        // 3 is lost: what goes on with it waits for it, and not to be asked for.
        assert!(on_next(&mut incoming, next(2, 2), 53).is_some());
        assert!(on_next(&mut incoming, next(4, 1), 60).is_none());
        assert!(on_next(&mut incoming, next(5, 2), 61).is_none());
        assert!(incoming.released().is_none());
        let nack = incoming.poll(TRIP, Time::from_ms(90)).expect("it is missing");
        let Ok(crate::datagram::Datagram::Nack(nack)) = crate::datagram::read(&nack) else { panic!() };
        assert_eq!(nack.ranges().collect::<Vec<_>>(), [(3, 1)]);
        let again = Media { flags: Flags::RETRANSMISSION, sent: 400, age_ms: 110, ..first(3) };
        assert!(take(&mut incoming, again, b"p", Time::from_ms(160)).is_some());
        let came: Vec<Arrived> = std::iter::from_fn(|| incoming.released()).collect();
        let what = |it: &Arrived| (it.media.seq, it.age_us, it.media.flags.has(Flags::END_OF_FRAME));
        // As old as the first.
        assert_eq!(came.iter().map(what).collect::<Vec<_>>(), [(94, 160_000, false), (95, 160_000, true)]);
        assert_eq!(incoming.stats().received, 6);
    }

    #[test]
    fn packets_whose_first_never_comes_are_given_up_when_others_wait() {
        let mut incoming = Incoming::new();
        for number in 1..=2_000_u64 {
            let next = Next { link_seq: number, back: 1, gap: 0, sent: 0, last: false, more: false };
            assert!(incoming.on_next(next, b"n", TRIP, Time::from_ms(1)).is_none());
        }
        assert_eq!(incoming.stats().lost, 2_000 - 1_024);
        // A half, a word, and a frame's last packet are no first ones.
        for (at, no) in [
            Media { part: Part::FirstHalf, ..media(1_999, 0, 0) },
            Media { left_out: true, ..media(1_999, 0, 0) },
            Media { flags: Flags::END_OF_FRAME, ..media(1_999, 0, 0) },
        ]
        .into_iter()
        .enumerate()
        {
            let mut incoming = Incoming::new();
            let next = Next { link_seq: 2_000, back: 1, gap: 0, sent: 0, last: false, more: false };
            incoming.on_next(next, b"n", TRIP, Time::from_ms(1));
            take(&mut incoming, no, b"p", Time::from_ms(2));
            assert!(incoming.released().is_none(), "{at}");
        }
    }

    #[test]
    fn two_halves_are_one_packet_and_no_longer_than_one_may_be() {
        let half = |number: u64, part: Part| Media { part, seq: 7, ..media(number, 0, 0) };
        let mut incoming = Incoming::new();
        assert!(take(&mut incoming, half(1, Part::SecondHalf), b"cd", Time(1)).is_none());
        let whole = take(&mut incoming, half(0, Part::FirstHalf), b"ab", Time(2)).expect("both are there");
        assert_eq!(&whole.payload[..], b"abcd");
        assert!(take(&mut incoming, half(2, Part::FirstHalf), &[0; PAYLOAD_LEN_MAX], Time(3)).is_none());
        assert!(take(&mut incoming, half(3, Part::SecondHalf), b"x", Time(4)).is_none());
        // Halves of different packets are none.
        assert!(take(&mut incoming, half(4, Part::FirstHalf), b"ab", Time(5)).is_none());
        let other = Media { seq: 8, ..half(5, Part::SecondHalf) };
        assert!(take(&mut incoming, other, b"cd", Time(6)).is_none());
    }
}
