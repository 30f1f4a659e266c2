//! The sending end of a hop: what waits for the link, in the order of its urgency, and what was sent, for who asks again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use bytes::Bytes;
use media::Time;

use super::lane::Lane;
use super::outbound::{Class, Outbound};
use super::{RoundTrip, SENT_UNIT_US};
use crate::datagram::{BACK_MAX, Body, Flags, Media, Nack, Next, Part, left_out, left_out_count, write_end};

/// What was sent is kept so long: a loss is asked for within a round trip and the reorder window, a lost repair a few times more.
const KEPT_US: i64 = 2_000_000;
/// Bytes of it: two seconds of a hundred streams of 2 Mbit/s. Payloads are shared with the rings that they come from.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// What waits for the link: the oldest are out of time long before, unless the link stands still. Full means that a packet is not taken, and counted.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Asks of the peer that wait to be sent: each has what was due at one time, so more than a few is a link that stands still. The oldest is dropped.
const ASKS_MAX: usize = 16;
/// A frame's packets are due one after the other at this distance, so that those of others go between: a key frame does not hold up a link.
const SPREAD_US: i64 = 110;
/// Up to half a frame's interval.
const SPREAD_US_MAX: i64 = 16_000;
/// When nothing follows for so long, the peer is told the highest number: it would miss a lost last packet only with the next frame. Of one that the datagram
/// before it announced it knows, which is most: to tell it of each frame would be 0.35 % of 4 Mbit/s. Sound, 20 or 21 ms apart, is told of by the next.
const END_US: i64 = 25_000;
/// Who misses a number that was announced may miss as many from there on: some milliseconds of 100 Mbit/s.
const TAIL_MAX: usize = 64;
/// Said again for as long as nothing follows: the link's heartbeat.
const HEARTBEAT_US: i64 = 100_000;
/// The second copy of what was lost goes so much later: a burst of losses is over by then.
const APART_US: i64 = 8_000;
/// Copies of what was lost twice and more cost at most this share of what is sent new...
const COPIES_PER_MILLE: i64 = 1;
/// ...and a copy of what was lost once is made while all that is sent again costs less than this: it is what keeps a frame of a hundred from
/// waiting two round trips where 2 % are lost, and where 5 % are it would be dear. Of 2 % seven in ten have one.
const REPAIRS_PER_MILLE: i64 = 36;
/// Of either is saved up at most: a key frame's.
const SAVED_BYTES_MAX: i64 = 64_000;
/// Frames wait so long, in quarters of their budget, before nothing is taken that no other frame refers to...
const DISCARDABLE_QUARTERS: i64 = 1;
/// ...and before a track is cut up to its next key frame.
const CUT_QUARTERS: i64 = 3;

/// What became of a packet for the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits to be sent.
    Taken,
    /// Its frame is left out, as the link takes less than comes: nothing that is taken refers to it.
    LeftOut,
    /// The queue is full: its frame has a hole.
    Overflowed,
}

/// What the sending end has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OutgoingStats {
    /// Datagrams of media sent, those sent again not included.
    pub sent: u64,
    /// Bytes of all datagrams.
    pub bytes: u64,
    /// Numbers that the peer asked for.
    pub asked: u64,
    /// Datagrams sent again.
    pub resent: u64,
    /// Asked for, and not kept any more or too late to be of use.
    pub late: u64,
    /// Asked for again before the answer can be there, or after it went in two.
    pub refused: u64,
    /// Packets left out as nothing refers to them, or up to a key frame, because the link takes less.
    pub left_out: u64,
    /// Packets that grew too old in the queue.
    pub expired: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
}

/// A packet or a request that waits.
#[derive(Debug)]
enum Waits {
    New(Outbound),
    Again(u64),
}

/// In the order of sending.
#[derive(Debug)]
struct Entry {
    order: (Class, i64, u64),
    waits: Waits,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// What was sent with a number.
#[derive(Debug)]
struct Sent {
    packet: Outbound,
    part: Part,
    at: Time,
    last: Time,
    tries: u8,
    /// In the queue, to be sent again.
    waits: bool,
}

/// How many packets it stands for: none of those that say so does itself.
fn stands_for(packet: &Outbound) -> u32 {
    if packet.left_out { left_out_count(&packet.payload).unwrap_or(0) } else { 1 }
}

/// The sending end.
#[derive(Default, Debug)]
pub struct Outgoing {
    queue: BinaryHeap<Reverse<Entry>>,
    queued_bytes: usize,
    pushed: u64,
    /// When the video that waits came, oldest first.
    video: VecDeque<Time>,
    lanes: HashMap<u64, Lane>,
    asks: VecDeque<Vec<u8>>,
    /// What goes next of a packet: its second half, or both, of which the header was sent.
    rest: Option<(Part, Outbound)>,
    /// Second and third copies, by when they are due.
    copies: VecDeque<(Time, u64)>,
    /// Bytes that they may still cost.
    copies_budget: i64,
    /// Bytes that all repair may still cost before it makes no copy of what was lost once.
    repairs_budget: i64,
    sent: VecDeque<Sent>,
    /// The number of the first that is kept.
    first: u64,
    kept_bytes: usize,
    end_due: Option<Time>,
    /// The datagram sent last said that another follows.
    announced: bool,
    /// The packet that was sent last with a whole header, without what it carried, its number, and when: the frame's next ones go on with it.
    frame: Option<(u64, Time, Outbound)>,
    stats: OutgoingStats,
}

impl Outgoing {
    /// Nothing sent yet.
    pub fn new() -> Outgoing {
        Outgoing::default()
    }

    /// What it has done.
    pub fn stats(&self) -> OutgoingStats {
        self.stats
    }

    /// How long the picture that waits longest has waited, in microseconds.
    pub fn queue_us(&self, now: Time) -> i64 {
        self.video.front().map_or(0, |since| now.since(*since).max(0))
    }

    /// Whether something could be sent at once.
    pub fn is_waiting(&self, now: Time) -> bool {
        !self.asks.is_empty()
            || self.rest.is_some()
            || !self.queue.is_empty()
            || self.deadline().is_some_and(|due| due <= now)
    }

    /// When to poll again though nothing was pushed.
    pub fn deadline(&self) -> Option<Time> {
        self.copies.front().map(|(due, _)| *due).into_iter().chain(self.end_due).min()
    }

    /// From now on the peer hears of this end each tenth of a second, whether or not media follows.
    pub fn keep_alive(&mut self, now: Time) {
        self.end_due.get_or_insert(now);
    }

    /// Nothing of the track is taken before its next key frame.
    pub fn is_cut(&self, track: u64) -> bool {
        self.lanes.get(&track).is_some_and(|lane| lane.cut)
    }

    /// Takes a packet for the link.
    pub fn push(&mut self, packet: Outbound, now: Time) -> Pushed {
        if packet.left_out {
            self.miss(&packet, stands_for(&packet), now);
            return Pushed::LeftOut;
        }
        let waits_us = self.queue_us(now);
        let lane = self.lanes.entry(packet.track).or_default();
        let nth = match lane.frame {
            Some((timestamp, nth)) if timestamp == packet.timestamp => nth.saturating_add(1),
            _ => 0,
        };
        lane.frame = Some((packet.timestamp, nth));
        let key = packet.flags.has(Flags::KEY);
        // A key frame's first packet may come behind its second.
        if packet.class == Class::Video && (nth == 0 || key) {
            let quarter_us = i64::from(packet.budget_ms).saturating_mul(250);
            let over = |quarters: i64| waits_us > quarter_us.saturating_mul(quarters);
            lane.cut = if key { over(CUT_QUARTERS) } else { lane.cut || over(CUT_QUARTERS) };
            lane.leaves_out =
                lane.cut || (over(DISCARDABLE_QUARTERS) && packet.flags.has(Flags::DISCARDABLE));
        }
        if lane.leaves_out {
            self.stats.left_out = self.stats.left_out.saturating_add(1);
            self.miss(&packet, 1, now);
            return Pushed::LeftOut;
        }
        let len = packet.payload.len();
        // Sound is little: it has as much again.
        let most =
            if packet.class == Class::Audio { QUEUE_BYTES_MAX.saturating_mul(2) } else { QUEUE_BYTES_MAX };
        if self.queued_bytes.saturating_add(len) > most {
            self.stats.overflowed = self.stats.overflowed.saturating_add(1);
            self.miss(&packet, 1, now);
            return Pushed::Overflowed;
        }
        lane.take(&packet);
        if let Some(missing) = lane.missing.take() {
            self.tell_missing(&packet, missing, now, now);
        }
        self.queued_bytes = self.queued_bytes.saturating_add(len);
        if packet.class == Class::Video {
            self.video.push_back(now);
        }
        let due = now.plus_us(nth.saturating_mul(SPREAD_US).min(SPREAD_US_MAX));
        self.enqueue(packet.class, due, Waits::New(packet));
        Pushed::Taken
    }

    /// So many packets from this one on do not go.
    fn miss(&mut self, packet: &Outbound, count: u32, now: Time) {
        let lane = self.lanes.entry(packet.track).or_default();
        if let Some(apart) = lane.miss(packet.seq, count) {
            self.tell_missing(packet, apart, now, now);
        }
    }

    /// The peer is told that these do not come, of the track of this packet.
    fn tell_missing(&mut self, of: &Outbound, (seq, count): (u32, u32), due: Time, now: Time) {
        let word = Outbound {
            flags: Flags::default(),
            ingest: now,
            seq,
            dts_offset: 0,
            descriptor: Bytes::new(),
            payload: left_out(count),
            left_out: true,
            ..of.clone()
        };
        self.queued_bytes = self.queued_bytes.saturating_add(word.payload.len());
        if word.class == Class::Video {
            self.video.push_back(now);
        }
        self.enqueue(word.class, due, Waits::New(word));
    }

    fn enqueue(&mut self, class: Class, due: Time, waits: Waits) {
        self.pushed = self.pushed.saturating_add(1);
        self.queue.push(Reverse(Entry { order: (class, due.us(), self.pushed), waits }));
    }

    /// Takes a request to the peer: it goes before everything.
    pub fn ask(&mut self, datagram: Vec<u8>) {
        if self.asks.len() >= ASKS_MAX {
            self.asks.pop_front();
        }
        self.asks.push_back(datagram);
    }

    /// A track that is not subscribed any more.
    pub fn forget(&mut self, track: u64) {
        self.lanes.remove(&track);
    }

    /// What the peer asks for again goes before what is new of its class, unless it was sent so lately that the answer is on its way.
    pub fn on_nack(&mut self, nack: &Nack<'_>, trip: RoundTrip, now: Time) {
        for (first, count) in nack.ranges() {
            for number in first..first.saturating_add(count).min(nack.highest) {
                self.asked(number, trip, now);
            }
            if first.saturating_add(count) > nack.highest {
                self.asked_tail(nack.highest, trip, now);
            }
        }
    }

    /// The number was announced and did not come: nor did what left behind it, as far as it could have been there when the peer asked.
    fn asked_tail(&mut self, number: u64, trip: RoundTrip, now: Time) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let behind = self.sent.iter().skip(index.unwrap_or(usize::MAX)).take(TAIL_MAX);
        let left = |sent: &&Sent| now.since(sent.last) >= trip.smoothed_us;
        let count = behind.take_while(left).count() as u64;
        for number in number..number.saturating_add(count) {
            self.asked(number, trip, now);
        }
    }

    fn asked(&mut self, number: u64, trip: RoundTrip, now: Time) {
        self.stats.asked = self.stats.asked.saturating_add(1);
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(sent) = index.and_then(|index| self.sent.get_mut(index)) else {
            self.stats.late = self.stats.late.saturating_add(1);
            return;
        };
        let arrives = now.plus_us(trip.smoothed_us / 2);
        if arrives > sent.packet.ingest.plus_ms(i64::from(sent.packet.budget_ms)) {
            self.stats.late = self.stats.late.saturating_add(1);
            return;
        }
        if sent.waits || now.since(sent.last) < trip.shortest_us() {
            self.stats.refused = self.stats.refused.saturating_add(1);
            return;
        }
        (sent.waits, sent.tries) = (true, sent.tries.saturating_add(1));
        let (class, tries) = (sent.packet.class, sent.tries);
        let len = i64::try_from(sent.packet.payload.len()).unwrap_or(i64::MAX).saturating_add(40);
        self.enqueue(class, Time::ZERO, Waits::Again(number));
        self.repairs_budget = self.repairs_budget.saturating_sub(len).max(-SAVED_BYTES_MAX);
        let copies = if trip.waits() { 0 } else { i64::from(tries.saturating_sub(1).clamp(1, 2)) };
        for copy in 1..=copies {
            let budget = if tries == 1 { &mut self.repairs_budget } else { &mut self.copies_budget };
            if *budget < len {
                break;
            }
            *budget = budget.saturating_sub(len);
            let due = now.plus_us(APART_US.saturating_mul(copy));
            let at = self.copies.partition_point(|(other, _)| *other <= due);
            self.copies.insert(at, (due, number));
        }
    }

    /// The next datagram, of at most `size_max` bytes; `None` when nothing is to be sent now. Its number is given here, so what is left out before leaves
    /// no hole on the link.
    pub fn poll(&mut self, size_max: usize, now: Time) -> Option<Vec<u8>> {
        let datagram = self.next(size_max, now)?;
        self.stats.bytes = self.stats.bytes.saturating_add(datagram.len() as u64);
        Some(datagram)
    }

    fn next(&mut self, size_max: usize, now: Time) -> Option<Vec<u8>> {
        if let Some(ask) = self.asks.pop_front() {
            return Some(ask);
        }
        match self.rest.take() {
            Some((Part::SecondHalf, half)) => return Some(self.send(half, Part::SecondHalf, now)),
            Some((_, packet)) => return Some(self.send_first(packet, size_max, now)),
            None => {}
        }
        while let Some(&(due, number)) = self.copies.front()
            && due <= now
        {
            self.copies.pop_front();
            if let Some(datagram) = self.send_again(number, size_max, now) {
                return Some(datagram);
            }
        }
        while let Some(Reverse(Entry { waits, .. })) = self.queue.pop() {
            match waits {
                Waits::Again(number) => {
                    if let Some(datagram) = self.send_again(number, size_max, now) {
                        return Some(datagram);
                    }
                }
                Waits::New(packet) => {
                    self.queued_bytes = self.queued_bytes.saturating_sub(packet.payload.len());
                    if packet.class == Class::Video {
                        self.video.pop_front();
                    }
                    if !self.is_over(&packet, now) {
                        return Some(self.send_first(packet, size_max, now));
                    }
                }
            }
        }
        if self.end_due.is_some_and(|due| due <= now) {
            self.end_due = Some(now.plus_us(HEARTBEAT_US));
            let mut out = Vec::new();
            write_end(&mut out, self.number());
            return Some(out);
        }
        None
    }

    /// Whether a packet whose turn it is grew too old, or goes with one that did, or nobody takes its track any more. What began is brought to its end,
    /// within twice its time.
    fn is_over(&mut self, packet: &Outbound, now: Time) -> bool {
        let Some(lane) = self.lanes.get_mut(&packet.track) else { return true };
        if lane.drops(packet) {
            self.stats.left_out = self.stats.left_out.saturating_add(u64::from(!packet.left_out));
            return true;
        }
        // The word is of use however late.
        if packet.left_out {
            return false;
        }
        let began = lane.sent == Some(packet.timestamp);
        let budget_us = i64::from(packet.budget_ms).saturating_mul(if began { 2_000 } else { 1_000 });
        if now <= packet.ingest.plus_us(budget_us) {
            lane.sent = Some(packet.timestamp);
            return false;
        }
        self.stats.expired = self.stats.expired.saturating_add(1);
        let count = if packet.class == Class::Video { lane.drop_from(packet.seq) } else { 1 };
        let goes_on = !lane.cut;
        self.miss(packet, count, now);
        // What waits behind them, a key frame or sound, is not to be there before the word.
        let missing = self.lanes.get_mut(&packet.track).and_then(|lane| lane.missing.take_if(|_| goes_on));
        if let Some(missing) = missing {
            self.tell_missing(packet, missing, Time::ZERO, now);
        }
        true
    }

    /// The number of the next datagram of media.
    fn number(&self) -> u64 {
        self.first.saturating_add(self.sent.len() as u64)
    }

    /// Whole where it fits, else its first half.
    fn send_first(&mut self, packet: Outbound, size_max: usize, now: Time) -> Vec<u8> {
        let len = packet.payload.len();
        let (number, more) = (self.number(), !self.queue.is_empty());
        if let Some(next) = self.goes_on(&packet, more, now) {
            let mut out = Vec::with_capacity(len.saturating_add(8));
            next.write(&packet.payload, &mut out);
            if out.len() <= size_max {
                self.keep(packet, Part::Whole, (out.len(), more), now);
                return out;
            }
        }
        let whole = write(&packet, Part::Whole, number, Leaves::New { more }, now);
        if whole.len() <= size_max || len < 2 {
            if self.is_gone_on_with(&packet, now) {
                let nothing = || Bytes::new();
                let first = Outbound { payload: nothing(), descriptor: nothing(), ..packet.clone() };
                self.frame = Some((number, now, first));
            }
            self.keep(packet, Part::Whole, (whole.len(), more), now);
            return whole;
        }
        let middle = len.div_ceil(2);
        let second =
            Outbound { payload: packet.payload.slice(middle..), descriptor: Bytes::new(), ..packet.clone() };
        self.rest = Some((Part::SecondHalf, second));
        self.send(Outbound { payload: packet.payload.slice(..middle), ..packet }, Part::FirstHalf, now)
    }

    /// The header of a packet that goes on with the frame whose datagram says all else of it.
    fn goes_on(&self, packet: &Outbound, more: bool, now: Time) -> Option<Next> {
        let (first_number, at, first) = self.frame.as_ref()?;
        let link_seq = self.number();
        let back = u8::try_from(link_seq.checked_sub(*first_number)?).ok()?;
        let gap = packet.goes_on_with(first, back).filter(|_| is_soon(*at, now) && back <= BACK_MAX)?;
        let last = packet.flags.has(Flags::END_OF_FRAME);
        Some(Next { link_seq, back, gap, sent: sent(now) as u8, last, more })
    }

    /// Whether others may go on with a packet that leaves: not with sound, and not with one that comes late.
    fn is_gone_on_with(&self, packet: &Outbound, now: Time) -> bool {
        let is_before = |(_, at, first): &(u64, Time, Outbound)| {
            let is_behind = packet.seq.wrapping_sub(first.seq).cast_signed() < 0;
            is_behind && packet.track == first.track && is_soon(*at, now)
        };
        !packet.flags.has(Flags::END_OF_FRAME) && !self.frame.as_ref().is_some_and(is_before)
    }

    fn send(&mut self, packet: Outbound, part: Part, now: Time) -> Vec<u8> {
        let more = self.rest.is_some() || !self.queue.is_empty();
        let datagram = write(&packet, part, self.number(), Leaves::New { more }, now);
        self.keep(packet, part, (datagram.len(), more), now);
        datagram
    }

    /// What was sent, in a datagram of so many bytes, and whether it announces another.
    fn keep(&mut self, packet: Outbound, part: Part, (datagram_len, more): (usize, bool), now: Time) {
        let len = packet.payload.len();
        let new = i64::try_from(datagram_len).unwrap_or(0);
        for (budget, share) in
            [(&mut self.copies_budget, COPIES_PER_MILLE), (&mut self.repairs_budget, REPAIRS_PER_MILLE)]
        {
            *budget = budget.saturating_add(new.saturating_mul(share) / 1_000).min(SAVED_BYTES_MAX);
        }
        self.kept_bytes = self.kept_bytes.saturating_add(len);
        self.sent.push_back(Sent { packet, part, at: now, last: now, tries: 0, waits: false });
        self.stats.sent = self.stats.sent.saturating_add(1);
        let announced = std::mem::replace(&mut self.announced, more);
        self.end_due = Some(now.plus_us(if announced && !more { HEARTBEAT_US } else { END_US }));
        while let Some(oldest) = self.sent.front()
            && (now.since(oldest.at) > KEPT_US || self.kept_bytes > KEPT_BYTES_MAX)
        {
            self.kept_bytes = self.kept_bytes.saturating_sub(oldest.packet.payload.len());
            self.sent.pop_front();
            self.first = self.first.saturating_add(1);
        }
    }

    fn send_again(&mut self, number: u64, size_max: usize, now: Time) -> Option<Vec<u8>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.sent.get_mut(index)?;
        (sent.waits, sent.last) = (false, now);
        self.stats.resent = self.stats.resent.saturating_add(1);
        let datagram = write(&sent.packet, sent.part, number, Leaves::Again, now);
        if datagram.len() <= size_max || sent.part != Part::Whole {
            return Some(datagram);
        }
        // The path became too narrow for it: it goes on in two, with numbers of their own. Under this one there is the header, for what goes on with it.
        let packet = sent.packet.clone();
        (sent.packet.payload, sent.packet.descriptor, sent.part) = (Bytes::new(), Bytes::new(), Part::Header);
        let header = write(&sent.packet, Part::Header, number, Leaves::Again, now);
        self.kept_bytes = self.kept_bytes.saturating_sub(packet.payload.len());
        self.rest = Some((Part::Whole, packet));
        Some(header)
    }
}

/// Whether a datagram leaves for the first time.
enum Leaves {
    /// It does, and another follows at once, or not.
    New {
        more: bool,
    },
    Again,
}

/// Whether what a header of a frame's next packets says of when it left is enough.
fn is_soon(first: Time, now: Time) -> bool {
    sent(now).wrapping_sub(sent(first)) <= u8::MAX.into()
}

/// When a datagram leaves, as it says it.
fn sent(now: Time) -> u16 {
    (now.us() / SENT_UNIT_US) as u16
}

fn write(packet: &Outbound, part: Part, link_seq: u64, leaves: Leaves, now: Time) -> Vec<u8> {
    let (flags, more) = match leaves {
        Leaves::New { more } => (packet.flags, more),
        Leaves::Again => (packet.flags.with(Flags::RETRANSMISSION), false),
    };
    let media = Media { part, flags, link_seq, sent: sent(now), more, ..packet.header(now) };
    let mut out =
        Vec::with_capacity(packet.payload.len().saturating_add(packet.descriptor.len()).saturating_add(40));
    media.write(Body { descriptor: &packet.descriptor, payload: &packet.payload }, &mut out);
    out
}

#[cfg(test)]
mod tests;
