//! From a track's numbers and time to a subscriber's: ranges, so that sources change, GOPs are shown again and frames are left out without
//! a jump or a gap that the receiver would take for loss.

use std::collections::VecDeque;

/// Ranges remembered: a NACK older than so many source changes, or than so many frames left out, is too old anyway.
const RANGES_MAX: usize = 64;

/// What is added to the ids that a codec's frames carry: the source's become the subscriber's.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct IdDeltas {
    /// VP8's picture id (RFC 7741 section 4.2).
    pub(crate) picture: u16,
    /// VP8's TL0PICIDX.
    pub(crate) tl0: u8,
    /// The dependency descriptor's frame number.
    pub(crate) frame: u16,
}

/// A mapping, valid from `out_first` until the next range starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) out_first: u64,
    pub(crate) in_first: u64,
    pub(crate) time_in: i64,
    pub(crate) time_out: i64,
    /// Time runs at `num / den` of the track's; `None` at the live point.
    pub(crate) squeeze: Option<(i64, i64)>,
    /// The time stamp of the frame that was left out right before. A packet of it that comes late goes out empty: its number may be the
    /// receiver's to miss.
    pub(crate) left_out: Option<i64>,
    pub(crate) ids: IdDeltas,
}

impl Range {
    pub(crate) fn out_time(&self, timestamp: i64) -> i64 {
        let passed = timestamp - self.time_in;
        let passed = self
            .squeeze
            .map_or(passed, |(num, den)| (passed as i128 * num as i128 / den.max(1) as i128) as i64);
        self.time_out + passed
    }
}

/// In order of their making.
#[derive(Debug)]
pub(crate) struct Ranges(VecDeque<Range>);

impl Ranges {
    pub(crate) fn new() -> Ranges {
        Ranges(VecDeque::with_capacity(4))
    }

    pub(crate) fn push(&mut self, range: Range) {
        if self.0.len() == RANGES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(range);
    }

    /// Nothing was sent that counts any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest.
    pub(crate) fn last(&self) -> Option<Range> {
        self.0.back().copied()
    }

    /// The subscriber's number for a track's: by the newest range that it fits in, unless that number is another range's.
    pub(crate) fn of_track(&self, seq: u64) -> Option<(Range, u64)> {
        let mut end = u64::MAX;
        for range in self.0.iter().rev() {
            if let Some(past) = seq.checked_sub(range.in_first) {
                let out_seq = range.out_first + past;
                return (out_seq < end).then_some((*range, out_seq));
            }
            end = range.out_first;
        }
        None
    }

    /// The track's number for a subscriber's; none for one that was left free or was padding.
    pub(crate) fn of_subscriber(&self, out_seq: u64) -> Option<(Range, u64)> {
        let at = self.0.iter().rposition(|r| r.out_first <= out_seq)?;
        let range = self.0.get(at)?;
        let seq = range.in_first + (out_seq - range.out_first);
        let is_next =
            self.0.get(at + 1).is_some_and(|next| range.in_first < next.in_first && next.in_first <= seq);
        (!is_next).then_some((*range, seq))
    }

    /// The number `out_first` is taken by padding: what comes from the track's `in_first` on is one further.
    pub(crate) fn pad(&mut self, out_first: u64, in_first: u64) {
        match self.0.back_mut() {
            Some(last) if last.in_first == in_first => last.out_first = out_first + 1,
            Some(last) => {
                let next = Range { out_first: out_first + 1, in_first, left_out: None, ..*last };
                self.push(next);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(in_first: u64, out_first: u64) -> Range {
        let ids = IdDeltas::default();
        Range { out_first, in_first, time_in: 0, time_out: 0, squeeze: None, left_out: None, ids }
    }

    #[test]
    fn a_number_names_one_packet_whatever_was_left_out() {
        let mut ranges = Ranges::new();
        ranges.push(range(100, 1_000));
        // 110 to 119 were left out.
        ranges.push(range(120, 1_010));
        let out = |seq| ranges.of_track(seq).map(|(_, out)| out);
        assert_eq!((out(109), out(110), out(119)), (Some(1_009), None, None));
        assert_eq!((out(120), out(130), out(99)), (Some(1_010), Some(1_020), None));
        // The number 1014 is padding, and 1015.
        ranges.pad(1_014, 124);
        ranges.pad(1_015, 124);
        assert_eq!((ranges.of_track(123).unwrap().1, ranges.of_track(124).unwrap().1), (1_013, 1_016));
        let back = |out| ranges.of_subscriber(out).map(|(_, seq)| seq);
        assert_eq!((back(1_009), back(1_010), back(999)), (Some(109), Some(120), None));
        assert_eq!((back(1_013), back(1_014), back(1_015), back(1_016)), (Some(123), None, None, Some(124)));
    }
}
