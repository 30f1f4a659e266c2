//! From a source's numbers and time to its track's, which go on whatever the source does: it changes, its time jumps, or frames of it are left out on the
//! way here.

use std::collections::VecDeque;

use media::Time;

/// Numbers left free when a source changes, so that packets of the new one that come out of order before its first still have a place,
/// and no number is used twice.
pub(crate) const SOURCE_GAP: u64 = 64;

/// A source's time that goes back by more than B-frames do, or ahead of the clock by more than any queue holds, is on another line.
const BACK_US: i64 = 1_000_000;
const AHEAD_US: i64 = 5_000_000;

/// Runs that were left out are remembered for packets from before them that come late: a second or two of every other frame. What is before the oldest
/// is too old.
const CLOSED_MAX: usize = 64;
/// So many numbers of a run, the newest, are looked at for one that viewers miss: two seconds of 500 packets.
const LOOKED_AT_MAX: usize = 1_024;

/// The two maps of a track's source.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    /// The source begins anew with its next packet.
    pub(crate) rebase: bool,
    /// The newest packet's: number, time stamp, arrival, clock.
    pub(crate) last: Option<(u64, i64, Time, u32)>,
    seq_delta: i64,
    time_delta: i64,
    /// The source's time jumped at this number of it: what `time_delta` was for those before.
    jumped: Option<(u64, i64)>,
    /// The source's numbers below this have no place: the track's before them are another source's.
    floor: u64,
    /// The source's number behind the newest that came, or that is known not to come.
    next: u64,
    /// What was left out, the newest last.
    closed: VecDeque<Closed>,
}

/// Numbers of the source that the track has none for.
#[derive(Clone, Copy, Debug)]
struct Closed {
    first: u64,
    end: u64,
    /// What `seq_delta` was for those before.
    before: i64,
}

impl Numbering {
    /// The source's first packet.
    pub(crate) fn begin(&mut self, source_seq: u64, timestamp: i64, clock_hz: u32, now: Time) {
        (self.rebase, self.jumped, self.next) = (false, None, source_seq);
        self.closed.clear();
        self.floor = (source_seq + 1).saturating_sub(SOURCE_GAP);
        let Some((seq, last, arrival, last_hz)) = self.last else {
            (self.seq_delta, self.time_delta) = (SOURCE_GAP as i64, 0);
            return;
        };
        // Time goes on by what passed on the clock, at least one tick; after a codec change it is counted in the new clock.
        let before = Time::from_ticks(last, last_hz).ticks(clock_hz);
        let passed = Time(now.since(arrival).max(1)).ticks(clock_hz).max(1);
        self.seq_delta = (seq + SOURCE_GAP) as i64 - source_seq as i64;
        self.time_delta = before.wrapping_add(passed).wrapping_sub(timestamp);
    }

    /// The track's number for one of the source's; none for one that is too old, or was left out.
    pub(crate) fn seq(&self, source_seq: u64) -> Option<u64> {
        if source_seq < self.floor {
            return None;
        }
        let mut delta = self.seq_delta;
        for run in self.closed.iter().rev() {
            if source_seq >= run.end {
                break;
            }
            if source_seq >= run.first {
                return None;
            }
            delta = run.before;
        }
        source_seq.checked_add_signed(delta)
    }

    /// A packet of the source has its place.
    pub(crate) fn came(&mut self, source_seq: u64) {
        self.next = self.next.max(source_seq + 1);
    }

    /// Packets of the source do not come. From the first on behind which nothing came the track has no numbers for them. `ends` says of a number of the
    /// track whether its packet ends a frame, if it is there. Gives the newest number of the track that is missed all the same: what is behind it came, or
    /// it is of a frame that began to.
    pub(crate) fn leave_out(
        &mut self,
        seq: u64,
        count: u32,
        ends: impl Fn(u64) -> Option<bool>,
    ) -> Option<u64> {
        if self.rebase || self.last.is_none() {
            return None; // nobody has anything before it
        }
        let end = seq.saturating_add(count.into());
        let holes = (seq..end.min(self.next)).rev().take(LOOKED_AT_MAX);
        let mut missed = holes.filter_map(|hole| self.seq(hole)).find(|at| ends(*at).is_none());
        let mut first = seq.max(self.next);
        if first >= end {
            return missed;
        }
        let ended = match first.checked_sub(1).and_then(|before| self.seq(before)) {
            // Its frame was left out.
            None => true,
            // It may come late. Where all before that was left out it is a key frame's first packet, and those here its others.
            Some(at) => ends(at).unwrap_or_else(|| self.seq(self.next - 1).is_some()),
        };
        if !ended {
            // One number is left, for a receiver to see that something is missing.
            missed = self.seq(first);
            first += 1;
        }
        self.next = end;
        self.close(first, end);
        missed
    }

    fn close(&mut self, first: u64, end: u64) {
        if first == end {
            return;
        }
        let before = self.seq_delta;
        self.seq_delta -= (end - first) as i64;
        if let Some(last) = self.closed.back_mut().filter(|last| last.end == first) {
            last.end = end;
            return;
        }
        if self.closed.len() == CLOSED_MAX
            && let Some(oldest) = self.closed.pop_front()
        {
            self.floor = self.floor.max(oldest.end);
        }
        self.closed.push_back(Closed { first, end, before });
    }

    /// The track's time for a packet of the source, `source_seq` there and `seq` here. Where the source's time jumps, the track's goes on by what
    /// passed on the clock.
    pub(crate) fn time(&mut self, source_seq: u64, seq: u64, timestamp: i64, now: Time) -> i64 {
        if let Some((_, delta)) = self.jumped.filter(|(at, _)| source_seq < *at) {
            return timestamp.wrapping_add(delta);
        }
        let mapped = timestamp.wrapping_add(self.time_delta);
        let Some((_, last, arrival, clock_hz)) = self.last.filter(|(highest, ..)| seq > *highest) else {
            return mapped;
        };
        let (ahead, passed) =
            (Time::from_ticks(mapped.saturating_sub(last), clock_hz), now.since(arrival).max(1));
        if ahead.us() >= -BACK_US && ahead.us() <= passed.saturating_add(AHEAD_US) {
            return mapped;
        }
        let goes_on = last.wrapping_add(Time(passed).ticks(clock_hz).max(1));
        self.jumped = Some((source_seq, self.time_delta));
        self.time_delta = goes_on.wrapping_sub(timestamp);
        goes_on
    }

    /// The track's time for one that a report of the source says; none for one from the other side of a jump: that says nothing about this one.
    pub(crate) fn reported(&self, timestamp: i64) -> Option<i64> {
        let timestamp = timestamp.wrapping_add(self.time_delta);
        let is_far = |(_, last, _, hz): (u64, i64, Time, u32)| {
            Time::from_ticks(timestamp.saturating_sub(last), hz).us().abs() > AHEAD_US
        };
        (!self.rebase && !self.last.is_some_and(is_far)).then_some(timestamp)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A numbering and what came, by the track's number: whether it ends a frame.
    #[derive(Default)]
    struct Came {
        numbering: Numbering,
        ring: BTreeMap<u64, bool>,
    }

    impl Came {
        fn packet(&mut self, source_seq: u64, ends: bool) -> Option<u64> {
            if self.ring.is_empty() {
                self.numbering.begin(source_seq, 0, 90_000, Time::ZERO);
            }
            let seq = self.numbering.seq(source_seq)?;
            self.numbering.came(source_seq);
            self.numbering.last = Some((seq, 0, Time::ZERO, 90_000));
            self.ring.insert(seq, ends);
            Some(seq)
        }

        fn left_out(&mut self, seq: u64, count: u32) -> Option<u64> {
            let ring = &self.ring;
            self.numbering.leave_out(seq, count, |at| ring.get(&at).copied())
        }
    }

    #[test]
    fn what_is_left_out_has_no_numbers() {
        let mut came = Came::default();
        assert_eq!(came.left_out(1, 9), None, "nothing came yet");
        assert_eq!(came.packet(1_000, true), Some(1_064));
        // 1001 comes late.
        assert_eq!(came.packet(1_002, true), Some(1_066));
        assert_eq!((came.left_out(1_003, 7), came.left_out(1_010, 2)), (None, None), "one run");
        assert_eq!(came.left_out(1_003, 7), None, "said twice");
        assert_eq!(came.packet(1_012, true), Some(1_067));
        assert_eq!((came.packet(1_001, true), came.packet(1_005, true)), (Some(1_065), None));
        // 1013 was the end of a frame, and comes late.
        assert_eq!(came.left_out(1_014, 6), None);
        assert_eq!((came.packet(1_020, true), came.packet(1_013, true)), (Some(1_069), Some(1_068)));
        assert_eq!((came.packet(1_012, true), came.packet(1_000, true)), (Some(1_067), Some(1_064)));
    }

    #[test]
    fn what_is_said_too_late_is_missed() {
        let mut came = Came::default();
        for seq in [1_000, 1_001, 1_005, 1_006] {
            came.packet(seq, true);
        }
        assert_eq!(came.left_out(1_002, 2), Some(1_067));
        assert_eq!(came.left_out(1_006, 4), None, "1006 is there");
        assert_eq!(came.packet(1_010, true), Some(1_071), "and what is behind it was left out");
        assert_eq!(came.left_out(1_004, 2), Some(1_068));
    }

    #[test]
    fn a_frame_that_began_shows_its_hole() {
        let mut came = Came::default();
        assert_eq!(came.packet(1_000, false), Some(1_064));
        assert_eq!(came.left_out(1_001, 5), Some(1_065));
        assert_eq!(came.packet(1_006, true), Some(1_066));
        assert_eq!(came.packet(1_001, true), Some(1_065), "it came all the same");
        // The first packet of a key frame is on its way behind its second, which was cut.
        assert_eq!(came.left_out(1_007, 3), None);
        assert_eq!(came.left_out(1_011, 1), Some(1_068));
        assert_eq!((came.packet(1_010, false), came.packet(1_012, false)), (Some(1_067), Some(1_069)));
    }

    proptest! {
        /// Whatever comes and is said in whatever order: numbers rise with the source's, none is given twice, and one that was given stays or is too old.
        #[test]
        fn numbers_stay(words in proptest::collection::vec((0_u64..400, 0_u32..8, any::<bool>()), 1..300)) {
            let (mut came, mut given) = (Came::default(), BTreeMap::new());
            came.packet(1_000, true);
            for (nth, (at, count, ends)) in words.into_iter().enumerate() {
                // About the newest, some far behind it.
                let seq = 1_000 + (nth as u64 * 4 + at % 12).saturating_sub(if at > 350 { at } else { 0 });
                if count == 0 || at % 2 == 0 {
                    if let Some(number) = came.packet(seq, ends) {
                        given.insert(seq, number);
                    }
                } else {
                    came.left_out(seq, count);
                }
                let now: Vec<(u64, u64)> =
                    given.iter().filter_map(|(seq, number)| Some((*number, came.numbering.seq(*seq)?))).collect();
                prop_assert!(now.iter().all(|(before, now)| before == now), "{now:?}");
                prop_assert!(now.windows(2).all(|two| two[0].1 < two[1].1), "{now:?}");
            }
        }
    }
}
