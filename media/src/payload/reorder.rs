//! Packets back into order, for consumers that need it.

use std::collections::BTreeMap;

use crate::{Packet, Time};

/// Puts a track's packets into the order of `seq`. A gap is waited for until the packets behind it have been here for the given time,
/// or until the buffer is full; what comes after that is late and dropped. Packets before a `fresh_source` packet are not
/// waited for: their source is gone.
///
/// After each [`push`](Reorder::push), and at [`next_deadline`](Reorder::next_deadline), call [`pop`](Reorder::pop) until it gives `None`.
#[derive(Debug)]
pub struct Reorder {
    wait_us_max: i64,
    packets_max: usize,
    /// All at or after `next`.
    buffer: BTreeMap<u64, Packet>,
    /// What `pop` gives next; `None` before the first.
    next: Option<u64>,
    /// The latest source's first packet, while it is in the buffer.
    fresh: Option<u64>,
    /// Numbers that do not come, by the first: how many.
    left_out: BTreeMap<u64, u64>,
    counts: ReorderCounts,
}

/// What a [`Reorder`] dropped or never got.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReorderCounts {
    /// Came twice while the first was still waiting.
    pub duplicate: u64,
    /// Came after its turn: a packet that was given up, or one that was already given out.
    pub late: u64,
    /// Sequence numbers that were given up.
    pub missing: u64,
    /// Came to a full buffer that nobody emptied.
    pub overflow: u64,
}

impl Reorder {
    /// Waits at most `wait_us_max` microseconds for a gap and holds at most `packets_max` packets (at least 1).
    pub fn new(wait_us_max: i64, packets_max: usize) -> Reorder {
        Reorder {
            wait_us_max,
            packets_max: packets_max.max(1),
            buffer: BTreeMap::new(),
            next: None,
            fresh: None,
            left_out: BTreeMap::new(),
            counts: ReorderCounts::default(),
        }
    }

    /// The first packet is this one, unless one came already: what comes before it in time waits for it.
    pub fn begins(&mut self, seq: u64) {
        self.next.get_or_insert(seq);
    }

    /// These numbers do not come: nobody is to wait for them. As many runs as packets are remembered, the latest.
    pub fn leave_out(&mut self, first: u64, count: u64) {
        self.left_out.insert(first, count);
        if self.left_out.len() > self.packets_max {
            self.left_out.pop_first();
        }
        self.pass_left_out();
    }

    /// Takes a packet in, or drops and counts it.
    pub fn push(&mut self, packet: Packet) {
        let seq = packet.seq;
        if let Some(next) = self.next
            && seq < next
        {
            // A late packet is at most a buffer behind. A new source that far back means that the numbering began anew.
            let restart = packet.fresh_source && next.saturating_sub(seq) > self.packets_max as u64;
            if !restart {
                self.counts.late = self.counts.late.saturating_add(1);
                return;
            }
            self.buffer.clear();
            self.left_out.clear();
            self.fresh = None;
            self.next = Some(seq);
        }
        if self.buffer.contains_key(&seq) {
            self.counts.duplicate = self.counts.duplicate.saturating_add(1);
            return;
        }
        if self.buffer.len() >= self.packets_max {
            self.counts.overflow = self.counts.overflow.saturating_add(1);
            return;
        }
        if packet.fresh_source {
            self.fresh = self.fresh.max(Some(seq));
        }
        self.buffer.insert(seq, packet);
    }

    /// The next packet in order, if its turn has come. `now` only moves forward.
    pub fn pop(&mut self, now: Time) -> Option<Packet> {
        let (&seq, _) = self.buffer.first_key_value()?;
        let missing = seq.saturating_sub(self.next.unwrap_or(seq));
        if missing > 0 {
            let source_gone = self.fresh.is_some_and(|fresh| seq <= fresh);
            let full = self.buffer.len() >= self.packets_max;
            if !source_gone && !full && now < self.gap_deadline() {
                return None;
            }
            self.counts.missing = self.counts.missing.saturating_add(missing);
        }
        let (_, packet) = self.buffer.pop_first()?;
        self.next = Some(seq.saturating_add(1));
        self.pass_left_out();
        self.fresh = self.fresh.filter(|fresh| *fresh > seq);
        Some(packet)
    }

    /// What does not come next is passed over.
    fn pass_left_out(&mut self) {
        while let (Some(next), Some(run)) = (self.next, self.left_out.first_entry())
            && *run.key() <= next
        {
            let (first, count) = run.remove_entry();
            self.next = Some(next.max(first.saturating_add(count)));
        }
    }

    /// When [`pop`](Reorder::pop) may give a packet without another push; `None` when the buffer is empty. In the past when one is ready.
    pub fn next_deadline(&self) -> Option<Time> {
        let (seq, packet) = self.buffer.first_key_value()?;
        let in_order = self.next.is_none_or(|next| next == *seq);
        Some(if in_order { packet.arrival } else { self.gap_deadline() })
    }

    /// What was dropped so far.
    pub const fn counts(&self) -> ReorderCounts {
        self.counts
    }

    /// The gap at the front is known since the first of the packets behind it came, which need not be the lowest.
    fn gap_deadline(&self) -> Time {
        let known_since = self.buffer.values().map(|packet| packet.arrival).min();
        known_since.map_or(Time::MAX, |since| since.plus_us(self.wait_us_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn packet(seq: u64, arrival_ms: i64) -> Packet {
        Packet {
            seq,
            timestamp: 0,
            arrival: Time::from_ms(arrival_ms),
            capture: Time::ZERO,
            codec: Codec::H264,
            marker: false,
            key_start: false,
            discardable: false,
            temporal: crate::payload::Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: Bytes::new(),
        }
    }

    fn drain(reorder: &mut Reorder, now_ms: i64) -> Vec<u64> {
        std::iter::from_fn(|| reorder.pop(Time::from_ms(now_ms))).map(|packet| packet.seq).collect()
    }

    #[test]
    fn a_gap_is_waited_for_and_then_given_up() {
        let mut reorder = Reorder::new(100_000, 64);
        for (seq, at_ms) in [(10, 0), (13, 5), (12, 20)] {
            reorder.push(packet(seq, at_ms));
        }
        assert_eq!(drain(&mut reorder, 20), [10]);
        assert_eq!(reorder.next_deadline(), Some(Time::from_ms(105)), "since 13 came, not since 12");
        assert_eq!(drain(&mut reorder, 104), []);
        assert_eq!(drain(&mut reorder, 105), [12, 13]);
        assert_eq!(reorder.next_deadline(), None);
        reorder.push(packet(11, 106));
        assert_eq!(drain(&mut reorder, 106), []);
        let counts = ReorderCounts { late: 1, missing: 1, ..ReorderCounts::default() };
        assert_eq!(reorder.counts(), counts);
    }

    #[test]
    fn a_packet_in_time_fills_the_gap() {
        let mut reorder = Reorder::new(100_000, 64);
        for seq in [1, 3, 3, 4] {
            reorder.push(packet(seq, 0));
        }
        assert_eq!(drain(&mut reorder, 1), [1]);
        reorder.push(packet(2, 50));
        assert_eq!(drain(&mut reorder, 50), [2, 3, 4]);
        assert_eq!(reorder.counts(), ReorderCounts { duplicate: 1, ..ReorderCounts::default() });
    }

    #[test]
    fn what_was_left_out_is_not_waited_for() {
        let mut reorder = Reorder::new(100_000, 64);
        for seq in [1, 7, 12] {
            reorder.push(packet(seq, 0));
        }
        assert_eq!(drain(&mut reorder, 0), [1]);
        // Said before its turn, in its turn, and too late; 4 is late and no more than that.
        reorder.leave_out(5, 2);
        reorder.leave_out(2, 2);
        assert_eq!(drain(&mut reorder, 0), []);
        reorder.push(packet(4, 1));
        assert_eq!(drain(&mut reorder, 1), [4, 7]);
        reorder.leave_out(2, 2);
        reorder.leave_out(8, 3);
        assert_eq!(drain(&mut reorder, 1), [], "11 is still to come");
        assert_eq!(drain(&mut reorder, 100), [12]);
        assert_eq!(reorder.counts(), ReorderCounts { missing: 1, ..ReorderCounts::default() });
    }

    #[test]
    fn full_means_no_more_waiting() {
        let mut reorder = Reorder::new(100_000, 3);
        reorder.push(packet(1, 0));
        assert_eq!(drain(&mut reorder, 0), [1]);
        for seq in [3, 4, 5, 6] {
            reorder.push(packet(seq, 0));
        }
        assert_eq!(reorder.counts().overflow, 1);
        assert_eq!(drain(&mut reorder, 0), [3, 4, 5]);
    }

    #[test]
    fn a_fresh_source_is_not_held_up_by_the_old_one() {
        let mut reorder = Reorder::new(100_000, 8);
        reorder.push(packet(1, 0));
        assert_eq!(drain(&mut reorder, 0), [1]);
        reorder.push(packet(3, 0));
        reorder.push(Packet { fresh_source: true, ..packet(6, 1) });
        reorder.push(packet(8, 1));
        assert_eq!(drain(&mut reorder, 1), [3, 6], "8 waits for 7 of its own source");
        reorder.push(Packet { fresh_source: true, ..packet(0, 2) });
        assert_eq!(reorder.counts().late, 1);
        let mut far = Reorder::new(100_000, 8);
        far.push(packet(1000, 0));
        assert_eq!(drain(&mut far, 0), [1000]);
        far.push(Packet { fresh_source: true, ..packet(5, 0) });
        assert_eq!(drain(&mut far, 0), [5]);
    }

    proptest! {
        /// Each packet is late by less than the wait, some come twice, none is lost: all come out, once, in order.
        #[test]
        fn late_within_the_wait_is_in_order(delays_ms in prop::collection::vec((0_i64..90, any::<bool>()), 1..100)) {
            let mut arrivals = vec![(0, 0)];
            for (seq, (delay_ms, twice)) in (1..).zip(&delays_ms) {
                arrivals.push((seq as i64 * 10 + delay_ms, seq));
                arrivals.extend(twice.then_some((seq as i64 * 10 + delay_ms + 40, seq)));
            }
            arrivals.sort_unstable();
            let mut reorder = Reorder::new(100_000, 64);
            let mut out = Vec::new();
            for (at_ms, seq) in arrivals {
                reorder.push(packet(seq, at_ms));
                out.extend(drain(&mut reorder, at_ms));
            }
            prop_assert_eq!(out, (0..=delays_ms.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!(reorder.counts().missing, 0);
        }

        /// Whatever comes, what goes out rises, nothing is held beyond the wait, and every packet is accounted for.
        #[test]
        fn order_and_bound_hold(seqs in prop::collection::vec(0_u64..60, 0..150), wait_ms in 0_i64..50) {
            let mut reorder = Reorder::new(wait_ms * 1000, 10);
            let mut out = Vec::new();
            for (at_ms, seq) in (0..).zip(&seqs) {
                reorder.push(packet(*seq, at_ms));
                out.extend(drain(&mut reorder, at_ms));
                prop_assert!(reorder.buffer.len() < 10);
                prop_assert!(reorder.next_deadline().is_none_or(|deadline| deadline > Time::from_ms(at_ms)));
            }
            out.extend(drain(&mut reorder, i64::MAX / 1000));
            prop_assert!(out.is_sorted_by(|a, b| a < b));
            let counts = reorder.counts();
            let accounted = out.len() as u64 + counts.duplicate + counts.late + counts.overflow;
            prop_assert_eq!(accounted, seqs.len() as u64);
            if let (Some(first), Some(last)) = (out.first(), out.last()) {
                prop_assert_eq!(counts.missing + out.len() as u64, last - first + 1);
            }
        }
    }
}
