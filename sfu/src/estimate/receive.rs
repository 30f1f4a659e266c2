//! What fits through the link of a publisher that has no transport-wide feedback to estimate by: told to it by REMB
//! (draft-alvestrand-rmcat-remb-03). By the delay, where packets say when they were sent, and by loss.

use media::Time;

use super::acknowledged::Acknowledged;
use super::aimd::{self, Aimd};
use super::fallback::Fallback;
use super::inter_arrival::{InterArrival, Step};
use super::queue::Queue;
use super::trendline::{Trendline, Usage};
use super::{FITS_PERCENT, LOSS_MAX, LOSS_SHORT, MIN_BPS, QUEUE_US_SHORT, RTT_US, START_BPS};

/// The estimate is told anew after this, as receivers do, and at once when it fell by so much.
const TELL_US: i64 = 1_000_000;
const FELL_PERCENT: u64 = 97;
/// The time of sending has 24 bits, 18 of them behind the point (draft-alvestrand-rmcat-remb-03 section 4): it wraps each 64 s.
const WRAP_TICKS: i64 = 1 << 24;
const TICKS_SHIFT: u32 = 18;

/// The estimator of one publisher's session.
#[derive(Debug)]
pub(crate) struct ReceiveEstimator {
    clock: SendClock,
    inter_arrival: InterArrival,
    trendline: Trendline,
    queue: Queue,
    acknowledged: Acknowledged,
    aimd: Aimd,
    by_loss: Fallback,
    /// What arrived lately and made no queue, while little was lost: it fits, whatever else was concluded.
    fits_bps: u64,
    /// Something arrived since the last update.
    fresh: bool,
    told: Option<(u64, Time)>,
}

/// The publisher's clock, unwrapped; it begins with ours.
#[derive(Debug, Default)]
struct SendClock {
    /// Its last time of sending, and since when it counts.
    last: Option<(i64, i64)>,
    from_us: i64,
}

impl ReceiveEstimator {
    /// Begins at [`START_BPS`].
    pub(crate) fn new(now: Time) -> ReceiveEstimator {
        ReceiveEstimator {
            clock: SendClock::default(),
            inter_arrival: InterArrival::default(),
            trendline: Trendline::default(),
            queue: Queue::default(),
            acknowledged: Acknowledged::default(),
            aimd: Aimd::new(START_BPS, now),
            by_loss: Fallback::new(START_BPS, now),
            fits_bps: 0,
            fresh: false,
            told: None,
        }
    }

    /// A packet of `bytes` came. `abs_send_time`: the extension's 24 bits, where it has it.
    pub(crate) fn on_packet(&mut self, abs_send_time: Option<u32>, bytes: usize, now: Time) {
        self.fresh = true;
        self.by_loss.on_sent(bytes);
        let arrival_us = now.us();
        // What says nothing (audio) counts as sent with what was sent last, or when it arrived: into rates, not into the trend.
        let sent = match abs_send_time {
            Some(ticks) => self.clock.unwrap(ticks, now),
            None => self.clock.last().unwrap_or(now),
        };
        if abs_send_time.is_some() {
            match self.inter_arrival.on_packet(sent, arrival_us, now) {
                Step::Nothing => {}
                Step::Delta(delta) => self.trendline.on_delta(delta),
                Step::Reset => {
                    (self.trendline, self.queue) = (Trendline::default(), Queue::default());
                    self.acknowledged.on_gap();
                }
            }
            self.queue.on_packet(sent, arrival_us);
        }
        self.acknowledged.on_packet(sent, arrival_us, bytes);
    }

    /// What of all packets of about a second was lost on the way.
    pub(crate) fn on_loss(&mut self, lost: u64, expected: u64, now: Time) {
        if let Some(fraction) = lost.saturating_mul(256).checked_div(expected) {
            self.by_loss.on_report(fraction.min(255) as u8, now);
        }
    }

    /// Takes what arrived since the last time into account; to be called each 100 ms.
    pub(crate) fn update(&mut self, rtt_us: Option<i64>, now: Time) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let usage = self.trendline.usage();
        let behind_bps = self.acknowledged.behind_bps();
        // A short queue that loses nothing may be a burst's, as of a key frame: what arrives is not what fits.
        let short = self.queue.us() < QUEUE_US_SHORT && self.by_loss.loss() < LOSS_SHORT;
        let input = aimd::Input {
            usage,
            acknowledged_bps: behind_bps.filter(|_| usage == Usage::Over).or(self.acknowledged.bps()),
            confirmed_bps: self.acknowledged.confirmed_bps(),
            // There are no probes: half as much again as what arrives is the bound (section 5.5).
            ceiling: 1.5,
            application_limited: false,
            idle: short && behind_bps.is_none(),
            rtt_us: rtt_us.unwrap_or(RTT_US),
        };
        self.aimd.update(input, now);
        let fits = self.aimd.state() == aimd::State::Increase && self.by_loss.loss() < LOSS_MAX;
        self.fits_bps = self.acknowledged.confirmed_bps().filter(|_| fits).unwrap_or(0) * FITS_PERCENT / 100;
        if self.fits_bps > self.aimd.bps() {
            self.aimd.set(self.fits_bps, now);
        }
        // Where nothing is lost the delay alone decides.
        self.by_loss.on_remb(self.aimd.bps(), now);
    }

    /// What to tell the publisher now, if anything: each second, and at once when it is less; nothing before it is known what arrives.
    pub(crate) fn tell(&mut self, now: Time) -> Option<u64> {
        let bps = self.target_bps();
        let due = self.told.is_none_or(|(told, at)| {
            now.since(at) >= TELL_US || bps < told.saturating_mul(FELL_PERCENT) / 100
        });
        let measured = self.acknowledged.confirmed_bps().is_some_and(|bps| bps > 0);
        (due && measured).then(|| {
            self.told = Some((bps, now));
            bps
        })
    }

    /// What fits, in bits a second.
    pub(crate) fn target_bps(&self) -> u64 {
        self.aimd.bps().min(self.by_loss.bps().max(self.fits_bps)).max(MIN_BPS)
    }
}

impl SendClock {
    fn unwrap(&mut self, ticks: u32, now: Time) -> Time {
        let ticks = i64::from(ticks).rem_euclid(WRAP_TICKS);
        let (ticks, first) = match self.last {
            None => {
                self.from_us = now.us();
                (ticks, ticks)
            }
            // The nearest of those that it may mean.
            Some((last, first)) => {
                let ahead = (ticks - last).rem_euclid(WRAP_TICKS);
                (last + if ahead > WRAP_TICKS / 2 { ahead - WRAP_TICKS } else { ahead }, first)
            }
        };
        self.last = Some((ticks, first));
        self.at(ticks - first)
    }

    fn last(&self) -> Option<Time> {
        self.last.map(|(ticks, first)| self.at(ticks - first))
    }

    fn at(&self, ticks: i64) -> Time {
        Time(self.from_us).plus_us((ticks * 15_625) >> (TICKS_SHIFT - 6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publisher that sends what it is told, in frames, through a link of a rate and a queue.
    struct Uplink {
        estimator: ReceiveEstimator,
        now: Time,
        rate_bps: u64,
        queue_us_max: i64,
        stamped: bool,
        free_at: Time,
        told_bps: u64,
        /// What it sends at least, and at most, whatever it is told.
        wants_bps: [u64; 2],
        queue_us: i64,
    }

    impl Uplink {
        fn new(rate_bps: u64, stamped: bool) -> Uplink {
            let now = Time::ZERO;
            Uplink {
                estimator: ReceiveEstimator::new(now),
                now,
                rate_bps,
                queue_us_max: 500_000,
                stamped,
                free_at: now,
                told_bps: 300_000,
                wants_bps: [0, u64::MAX],
                queue_us: 0,
            }
        }

        /// Frames each 33 ms; feedback each 100 ms, loss each second.
        fn run(&mut self, seconds: i64) {
            let (mut lost, mut expected) = (0, 0);
            let mut on_the_way: std::collections::VecDeque<(Time, Time, usize)> = Default::default();
            for ms in 0..seconds * 1_000 {
                self.now = self.now.plus_ms(1);
                if ms % 33 == 0 {
                    let mut left =
                        (self.told_bps.clamp(self.wants_bps[0], self.wants_bps[1]) * 33 / 8_000) as usize;
                    while left > 0 {
                        let bytes = left.min(1_200);
                        left -= bytes;
                        expected += 1;
                        let start = self.free_at.max(self.now);
                        if start.since(self.now) > self.queue_us_max {
                            lost += 1;
                            continue;
                        }
                        self.free_at = start.plus_us(bytes as i64 * 8_000_000 / self.rate_bps as i64);
                        on_the_way.push_back((self.free_at, self.now, bytes));
                    }
                }
                while let Some((at, sent, bytes)) =
                    on_the_way.front().copied().filter(|(at, ..)| *at <= self.now)
                {
                    on_the_way.pop_front();
                    self.queue_us = at.since(sent);
                    let ticks = (sent.us() << TICKS_SHIFT) / 1_000_000 + 0xff_0000; // it wraps soon
                    let stamp = self.stamped.then_some((ticks & 0xff_ffff) as u32);
                    self.estimator.on_packet(stamp, bytes, at);
                }
                if ms % 1_000 == 0 {
                    self.estimator.on_loss(lost, expected, self.now);
                    (lost, expected) = (0, 0);
                }
                if ms % 100 == 0 {
                    self.estimator.update(Some(60_000), self.now);
                    self.told_bps = self.estimator.tell(self.now).unwrap_or(self.told_bps);
                }
            }
        }
    }

    #[test]
    fn a_narrow_link_is_found_by_the_delay_and_another_rate_too() {
        let mut uplink = Uplink::new(600_000, true);
        uplink.run(15);
        assert!((400_000..=660_000).contains(&uplink.told_bps), "{}", uplink.told_bps);
        assert!(uplink.queue_us < 200_000, "{}", uplink.queue_us);
        uplink.rate_bps = 3_000_000;
        uplink.run(40);
        assert!((1_800_000..=3_300_000).contains(&uplink.told_bps), "{}", uplink.told_bps);
        uplink.rate_bps = 500_000;
        uplink.run(5);
        assert!((250_000..=550_000).contains(&uplink.told_bps), "{}", uplink.told_bps);
    }

    #[test]
    fn without_times_of_sending_loss_finds_a_narrow_link() {
        let mut uplink = Uplink::new(500_000, false);
        uplink.queue_us_max = 100_000;
        uplink.run(20);
        assert!((350_000..=600_000).contains(&uplink.told_bps), "{}", uplink.told_bps);
    }

    #[test]
    fn what_arrives_without_a_queue_fits_whatever_the_first_estimate_was() {
        for stamped in [true, false] {
            let mut uplink = Uplink::new(20_000_000, stamped);
            uplink.wants_bps = [4_000_000; 2];
            uplink.run(3);
            assert!(uplink.told_bps >= 3_300_000, "{}", uplink.told_bps);
            uplink.run(5);
            assert!(uplink.told_bps >= 4_000_000, "{}", uplink.told_bps);
        }
    }

    #[test]
    fn what_sends_little_is_not_told_that_little_fits() {
        let mut uplink = Uplink::new(3_000_000, true);
        uplink.wants_bps = [0, 100_000];
        uplink.run(30);
        assert!(uplink.told_bps >= 1_000_000, "{}", uplink.told_bps);
    }

    #[test]
    fn it_is_told_each_second_and_at_once_when_it_is_less() {
        let mut estimator = ReceiveEstimator::new(Time::ZERO);
        assert_eq!(estimator.tell(Time::ZERO), None, "nothing is known");
        (0..1_100).for_each(|ms| estimator.on_packet(None, 100, Time::from_ms(ms)));
        assert_eq!(estimator.tell(Time::from_ms(1_100)), Some(START_BPS));
        assert_eq!(estimator.tell(Time::from_ms(2_099)), None);
        assert_eq!(estimator.tell(Time::from_ms(2_100)), Some(START_BPS));
        estimator.on_loss(50, 100, Time::from_ms(2_200));
        let less = estimator.tell(Time::from_ms(2_200)).unwrap();
        assert!(less < START_BPS * 8 / 10, "{less}");
    }

    #[test]
    fn times_of_sending_wrap_and_may_be_anything() {
        let mut clock = SendClock::default();
        let at = |clock: &mut SendClock, ticks: u32| clock.unwrap(ticks, Time::from_ms(7)).us();
        assert_eq!(at(&mut clock, 0xff_ffff), 7_000);
        assert_eq!(at(&mut clock, (1 << 18) - 1), 1_007_000, "over the wrap");
        assert_eq!(at(&mut clock, 0xff_ffff), 7_000, "and back");
        let mut estimator = ReceiveEstimator::new(Time::ZERO);
        let mut random = 1_u32;
        for ms in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            estimator.on_packet(Some(random), (random >> 20) as usize, Time::from_ms(i64::from(ms / 7)));
            estimator.on_loss(u64::from(random), u64::from(random >> 3), Time::from_ms(i64::from(ms)));
            estimator.update(Some(i64::from(random)), Time::from_ms(i64::from(ms / 7)));
            assert!((MIN_BPS..=super::super::MAX_BPS).contains(&estimator.target_bps()));
        }
    }
}
