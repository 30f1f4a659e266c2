//! Key-frame requests: merged and throttled at the source and for each receiver.

use media::Time;

/// Asks a source at most once per 330 ms and twice a second on average, whoever wants it (jitsi-videobridge#2442: relayed requests once
/// went round the limit); repeats until the key frame comes.
#[derive(Debug)]
pub(crate) struct SourceThrottle {
    wanted: bool,
    /// Asked, and not answered yet.
    asked: bool,
    last: Option<Time>,
    /// When the last one came.
    came: Option<Time>,
    /// Requests saved up, in thousandths: at most two.
    tokens_milli: i64,
    refilled: Time,
}

/// Between requests, to a browser for any of its encodings: Chromium 156 does not answer one within 300 ms of another, for whichever encoding that
/// was (measured: it came with the repetition, 560 ms after the first request). 30 ms are for jitter on the way.
const SPACING_US_MIN: i64 = 330_000;
/// Until an answer comes: an encoder takes a while, and what was asked is not asked again at the next packet.
const RETRY_US: i64 = 500_000;
const TOKENS_MILLI_MAX: i64 = 2_000;
/// For viewers whose links take less than a browser sends: as often as live encoders make key frames for HLS by themselves.
const LIMITED_US: i64 = 2_000_000;

impl SourceThrottle {
    pub(crate) fn new() -> SourceThrottle {
        SourceThrottle {
            wanted: false,
            asked: false,
            last: None,
            came: None,
            tokens_milli: TOKENS_MILLI_MAX,
            refilled: Time::ZERO,
        }
    }

    /// Somebody needs a key frame.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Somebody's link takes less than the source sends: a key frame is what fits. All who watch pay for it, so it is not wanted before the last
    /// one is [`LIMITED_US`] old, and one is for all whose links are slow.
    pub(crate) fn want_when_limited(&mut self, now: Time) {
        self.wanted |= self.came.is_none_or(|came| now.since(came) >= LIMITED_US);
    }

    /// The source was asked for a key frame of another of its encodings.
    pub(crate) fn asked_beside(&mut self, now: Time) {
        self.last = Some(now);
    }

    /// A key frame starts.
    pub(crate) fn arrived(&mut self, now: Time) {
        (self.wanted, self.asked, self.came) = (false, false, Some(now));
    }

    /// Another source: it was not asked yet.
    pub(crate) fn source_changed(&mut self) {
        (self.asked, self.last) = (false, None);
    }

    /// Whether to ask the source now.
    pub(crate) fn poll(&mut self, now: Time) -> bool {
        if self.deadline().is_none_or(|due| now < due) {
            return false;
        }
        // 2 a second is 2 thousandths a millisecond.
        let earned = now.since(self.refilled).max(0) / 500;
        self.tokens_milli = self.tokens_milli.saturating_add(earned).min(TOKENS_MILLI_MAX);
        self.refilled = self.refilled.plus_us(earned * 500);
        if self.tokens_milli < 1_000 {
            return false;
        }
        self.tokens_milli -= 1_000;
        (self.asked, self.last) = (true, Some(now));
        true
    }

    /// When to poll again: while a key frame is wanted.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let spacing = if self.asked { RETRY_US } else { SPACING_US_MIN };
        self.wanted.then(|| self.last.map_or(Time::ZERO, |last| last.plus_us(spacing)))
    }
}

/// A receiver is heard three times in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct ReceiverThrottle {
    heard: [Option<Time>; 3],
}

impl ReceiverThrottle {
    /// Whether this request counts.
    pub(crate) fn allow(&mut self, now: Time) -> bool {
        let oldest = &mut self.heard[0];
        if oldest.is_some_and(|at| now.since(at) < 10_000_000) {
            return false;
        }
        *oldest = Some(now);
        self.heard.rotate_left(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_costs_the_source_two_requests_a_second() {
        let mut throttle = SourceThrottle::new();
        let mut asked = 0;
        for ms in 0..10_000 {
            throttle.want();
            asked += i32::from(throttle.poll(Time::from_ms(ms)));
        }
        assert!((20..=22).contains(&asked), "{asked}");
    }

    #[test]
    fn one_want_is_asked_at_once_and_ends_with_the_key_frame() {
        let mut throttle = SourceThrottle::new();
        throttle.want();
        assert!(throttle.poll(Time::from_ms(5)));
        throttle.arrived(Time::from_ms(5));
        assert!(!throttle.poll(Time::from_ms(5_000)));
    }

    #[test]
    fn viewers_with_slow_links_cost_a_key_frame_in_two_seconds_however_many() {
        let (mut throttle, mut asked) = (SourceThrottle::new(), Vec::new());
        for ms in 0..10_000 {
            (0..100).for_each(|_| throttle.want_when_limited(Time::from_ms(ms)));
            if throttle.poll(Time::from_ms(ms)) {
                asked.push(ms);
                throttle.arrived(Time::from_ms(ms));
            }
        }
        assert_eq!(asked, [0, 2_000, 4_000, 6_000, 8_000]);
    }

    #[test]
    fn a_receiver_is_heard_three_times_in_ten_seconds() {
        let mut throttle = ReceiverThrottle::default();
        let heard = (0..100).filter(|i| throttle.allow(Time::from_ms(i * 99))).count();
        assert_eq!(heard, 3);
        assert!(throttle.allow(Time::from_ms(10_001)));
    }
}
