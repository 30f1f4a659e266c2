//! Going over to another track: another encoding of the same picture, with numbers and a clock of its own.

use media::{Packet, Time};
use metrics::DropReason;

use super::{Forwarder, State};

/// A key frame further behind what was sent is left out: the picture would jump back. The next one may be better timed.
const BEHIND_US_MAX: i64 = 50_000;
/// After so many, the two clocks disagree and no key frame will be better: it is taken.
const REFUSED_MAX: u8 = 3;
/// From the last picture to one that is no later by its capture time: a frame at 30 a second.
const STEP_US: i64 = 33_333;

impl Forwarder {
    /// From `first` on, a key frame's first packet, packets are another track's. Its time is where its capture time puts it.
    /// `Err`: not at this key frame.
    pub(crate) fn switch(&mut self, first: &Packet) -> Result<(), DropReason> {
        if self.is_catching_up() {
            return Err(DropReason::AwaitKeyFrame);
        }
        let before = self.newest.zip(self.live_offset);
        self.choose(first)?;
        let ticks = |us: i64| Time(us).ticks(first.codec.clock_hz());
        if let Some((((timestamp, capture), (offset, clock_hz)), _)) = before.zip(self.highest)
            && clock_hz == first.codec.clock_hz()
        {
            let here = timestamp + offset + ticks(first.capture.since(capture));
            if self.last_time - here > ticks(BEHIND_US_MAX) {
                // One of a mirror's backlog is old, and says nothing of the clocks.
                let is_old = first.arrival <= self.newest_arrival;
                if is_old || self.refused < REFUSED_MAX {
                    self.refused += u8::from(!is_old);
                    return Err(DropReason::AwaitKeyFrame);
                }
            }
            // What earlier switches were put off by is made good when there is room.
            let wanted = here - self.newest_ahead;
            let late = self.last_time + ticks(STEP_US);
            // A capture time that is far ahead is no better than one far behind.
            let soon = self.last_time
                + ticks(first.arrival.since(self.newest_arrival).max(0))
                + ticks(BEHIND_US_MAX);
            let time =
                if wanted > self.last_time + ticks(STEP_US / 2) { wanted.min(soon.max(late)) } else { late };
            self.ahead = time - wanted;
            // What was sent last stays where it is, should the next switch come before anything of this track is sent.
            let moved = time - first.timestamp;
            self.newest = Some((timestamp + offset - moved, capture));
            self.live_offset = Some((moved, clock_hz));
        } else {
            // Nothing live was sent: it starts as the first packet of any track does.
            self.live_offset = None;
        }
        self.refused = 0;
        // Mappings and numbers of the other track: nothing before this key frame is sent again, and what waited there is left.
        self.ranges.clear();
        self.join_live(first);
        Ok(())
    }

    /// Frames may be left out for a temporal layer, or another encoding taken some day: VP8's picture ids, which would jump then, are rewritten
    /// from now on.
    pub(crate) fn prepare_switches(&mut self) {
        self.picture_ids.get_or_insert_default();
    }

    /// Nothing more is sent until a key frame starts, and nothing of what waits.
    pub(crate) fn await_key_frame(&mut self) {
        self.forget_left_out();
        self.state = State::AwaitKeyFrame;
    }
}
