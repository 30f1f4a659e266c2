//! What one viewer got, and what all of a kind got together.

use super::stamp::Stamp;

/// One viewer's count. Only frames numbered within the measured time count; they are known by their number, not by when they came.
#[derive(Clone, Debug)]
pub struct Count {
    joined_us: u64,
    /// From the start of the join to the end of the first key frame.
    pub first_key_us: Option<u64>,
    from: u32,
    until: u32,
    next: u32,
    /// Whole frames of the measured time.
    pub frames: u32,
    /// From sending to the frame's last byte here.
    pub delays_us: Vec<u32>,
    /// RTP packets; 0 for players over TCP.
    pub packets: u64,
    /// RTP numbers that never came.
    pub packets_lost: u64,
    /// Why it is over, if it is.
    pub failure: Option<String>,
}

impl Count {
    /// A viewer that joins now; no time is measured yet.
    pub fn new(now_us: u64) -> Count {
        Count {
            joined_us: now_us,
            first_key_us: None,
            from: u32::MAX,
            until: u32::MAX,
            next: 0,
            frames: 0,
            delays_us: Vec::new(),
            packets: 0,
            packets_lost: 0,
            failure: None,
        }
    }

    /// Frames from this number on are measured.
    pub fn measure_from(&mut self, frame: u32) {
        (self.from, self.next) = (frame, frame);
        (self.packets, self.packets_lost) = (0, 0);
    }

    /// Frames from this number on are not.
    pub fn measure_until(&mut self, frame: u32) {
        self.until = frame;
    }

    /// Whether RTP packets count now.
    pub fn is_measuring(&self) -> bool {
        self.from != u32::MAX && self.until == u32::MAX
    }

    /// A frame is whole. Frames come in order; one that comes again (a replayed GOP) counts once.
    pub fn frame(&mut self, stamp: Option<Stamp>, key: bool, now_us: u64) {
        if key && self.first_key_us.is_none() {
            self.first_key_us = Some(now_us.saturating_sub(self.joined_us));
        }
        let Some(stamp) = stamp else { return };
        if stamp.frame >= self.next && stamp.frame >= self.from && stamp.frame < self.until {
            self.next = stamp.frame + 1;
            self.frames += 1;
            self.delays_us.push(now_us.saturating_sub(stamp.sent_us).try_into().unwrap_or(u32::MAX));
        }
    }
}

/// All viewers of a kind.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Viewers that were started.
    pub viewers: usize,
    /// Those that got a picture.
    pub with_picture: usize,
    /// Frames of the measured time, together.
    pub frames: u64,
    /// The fewest that one viewer got.
    pub frames_least: u32,
    /// See [`Count::packets`].
    pub packets: u64,
    /// See [`Count::packets_lost`].
    pub packets_lost: u64,
    /// Sorted.
    pub delays_us: Vec<u32>,
    /// Sorted.
    pub first_keys_us: Vec<u64>,
    /// Viewers that are over, and the first one's reason.
    pub failures: (usize, Option<String>),
}

impl Tally {
    /// Adds them up.
    pub fn of<'a>(counts: impl Iterator<Item = &'a Count>) -> Tally {
        let mut tally = Tally { frames_least: u32::MAX, ..Tally::default() };
        for count in counts {
            tally.viewers += 1;
            tally.with_picture += usize::from(count.first_key_us.is_some());
            tally.frames += u64::from(count.frames);
            tally.frames_least = tally.frames_least.min(count.frames);
            tally.packets += count.packets;
            tally.packets_lost += count.packets_lost;
            tally.delays_us.extend(&count.delays_us);
            tally.first_keys_us.extend(count.first_key_us);
            if let Some(why) = &count.failure {
                tally.failures.0 += 1;
                tally.failures.1.get_or_insert_with(|| why.clone());
            }
        }
        tally.delays_us.sort_unstable();
        tally.first_keys_us.sort_unstable();
        tally
    }
}

/// The value below which `percent` of a sorted list lie; `None` of nothing.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_the_measured_time_count_and_each_once() {
        let mut count = Count::new(1_000);
        let at = |frame| Some(Stamp { sent_us: u64::from(frame) * 100, frame });
        count.frame(at(5), true, 2_000);
        assert_eq!((count.first_key_us, count.frames), (Some(1_000), 0));
        count.measure_from(10);
        for frame in [8, 9, 10, 11, 11, 10, 13] {
            count.frame(at(frame), false, u64::from(frame) * 100 + 7);
        }
        count.measure_until(14);
        count.frame(at(14), false, 9_999);
        assert_eq!((count.frames, count.delays_us.as_slice()), (3, &[7, 7, 7][..]));
        assert_eq!(Tally::of([count.clone(), Count::new(0)].iter()).frames_least, 0);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let sorted: Vec<u32> = (1..=200).collect();
        assert_eq!(
            (percentile(&sorted, 50), percentile(&sorted, 99), percentile(&sorted, 100)),
            (Some(100), Some(198), Some(200))
        );
        assert_eq!((percentile(&[3], 50), percentile::<u8>(&[], 50)), (Some(3), None));
    }
}
