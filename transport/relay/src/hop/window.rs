//! How much a hop may have in flight: a window for live media, which loss alone does not close. Cubic collapses at 1 % of random loss, and QUIC
//! stacks' BBR remembers its highest rate for ever; a live stream needs its own bitrate, now, and no more.

use media::Time;

/// Until anything is known: a key frame of a stream of 4 Mbit/s.
const START_BYTES: u64 = 128_000;
/// Nothing goes below: sound and control of a few streams.
const FLOOR_BYTES: u64 = 16_000;
/// Whatever is measured: QUIC's own send window is 4 MiB.
const CAP_BYTES: u64 = 8 << 20;
/// The queue of the path is what the least round trip of the last second is above the least of so long.
const MIN_TRIP_US: i64 = 10_000_000;
const RECENT_US: i64 = 1_000_000;
/// A rate is a maximum of so long.
const RATE_US: i64 = 10_000_000;
/// Loss beyond this share of a second is congestion, whatever the delay says.
const LOSS_PERCENT: u64 = 10;
/// The window becomes this share of itself, once a round trip, while the path is congested.
const DECREASE_PERCENT: u64 = 85;
/// And comes back by this share of its aim.
const INCREASE_PERCENT: u64 = 5;

/// What the subscriptions of a link need.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Demand {
    /// All their bitrates, in bit/s.
    pub bps: u64,
    /// The largest key frame, in bytes.
    pub key_bytes: u64,
}

/// The least of a span of time, `N` parts of so many microseconds.
#[derive(Clone, Copy, Debug)]
struct Least<const N: usize> {
    parts: [i64; N],
    part_us: i64,
    began: Time,
}

impl<const N: usize> Least<N> {
    const fn new(part_us: i64) -> Least<N> {
        Least { parts: [i64::MAX; N], part_us, began: Time::ZERO }
    }

    fn add(&mut self, value: i64, now: Time) {
        while now.since(self.began) >= self.part_us {
            // After a long silence what was before says nothing.
            let parts = now.since(self.began).checked_div(self.part_us).unwrap_or(0);
            if parts > N as i64 {
                self.parts = [i64::MAX; N];
                self.began = now;
                break;
            }
            self.parts.rotate_right(1);
            if let Some(first) = self.parts.first_mut() {
                *first = i64::MAX;
            }
            self.began = self.began.plus_us(self.part_us);
        }
        if let Some(first) = self.parts.first_mut() {
            *first = (*first).min(value);
        }
    }

    fn get(&self) -> Option<i64> {
        self.parts.iter().copied().min().filter(|least| *least < i64::MAX)
    }
}

/// The window of a link.
#[derive(Clone, Debug)]
pub struct LiveWindow {
    demand: Demand,
    window: u64,
    min_trip: Least<10>,
    recent_trip: Least<4>,
    /// The highest rates lately, negative, in bit/s.
    rate: Least<10>,
    /// What was delivered since, for a rate.
    round: Option<Time>,
    round_bytes: u64,
    acked: u64,
    lost: u64,
    second: Time,
    /// Loss of the last whole second, in percent.
    loss_percent: u64,
    /// The next step of the window.
    step: Time,
    congested: bool,
}

impl Default for LiveWindow {
    fn default() -> LiveWindow {
        LiveWindow::new()
    }
}

impl LiveWindow {
    /// Of a new link.
    pub fn new() -> LiveWindow {
        LiveWindow {
            demand: Demand::default(),
            window: START_BYTES,
            min_trip: Least::new(MIN_TRIP_US / 10),
            recent_trip: Least::new(RECENT_US / 4),
            rate: Least::new(RATE_US / 10),
            round: None,
            round_bytes: 0,
            acked: 0,
            lost: 0,
            second: Time::ZERO,
            loss_percent: 0,
            step: Time::ZERO,
            congested: false,
        }
    }

    /// What is subscribed changed.
    pub fn set_demand(&mut self, demand: Demand) {
        self.demand = demand;
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Whether the path takes less than is sent.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// The least round trip of the last seconds, in microseconds.
    pub fn min_trip_us(&self) -> Option<i64> {
        self.min_trip.get()
    }

    /// What waits on the path, in microseconds.
    pub fn queue_us(&self) -> i64 {
        let (recent, least) = (self.recent_trip.get(), self.min_trip.get());
        recent.zip(least).map_or(0, |(recent, least)| recent.saturating_sub(least).max(0))
    }

    /// Bytes arrived, and how long the newest of them and its acknowledgement were on the way.
    pub fn on_ack(&mut self, bytes: u64, trip_us: i64, now: Time) {
        self.min_trip.add(trip_us, now);
        self.recent_trip.add(trip_us, now);
        self.acked = self.acked.saturating_add(bytes);
        self.round_bytes = self.round_bytes.saturating_add(bytes);
        let since = *self.round.get_or_insert(now);
        let passed_us = now.since(since);
        if passed_us >= trip_us.max(10_000) {
            let bps =
                self.round_bytes.saturating_mul(8_000_000).checked_div(passed_us.unsigned_abs()).unwrap_or(0);
            self.rate.add(0_i64.saturating_sub_unsigned(bps), now);
            (self.round, self.round_bytes) = (Some(now), 0);
        }
        self.update(now);
    }

    /// Bytes were lost.
    pub fn on_loss(&mut self, bytes: u64, now: Time) {
        self.lost = self.lost.saturating_add(bytes);
        self.update(now);
    }

    /// The path said so (ECN-CE).
    pub fn on_congestion_mark(&mut self, now: Time) {
        if now >= self.step {
            self.decrease(now);
        }
    }

    fn update(&mut self, now: Time) {
        if now.since(self.second) >= 1_000_000 {
            let all = self.acked.saturating_add(self.lost);
            self.loss_percent = self.lost.saturating_mul(100).checked_div(all).unwrap_or(0);
            (self.acked, self.lost, self.second) = (0, 0, now);
        }
        if now < self.step {
            return;
        }
        let least = self.min_trip.get().unwrap_or(0);
        let queue_us = self.queue_us();
        if queue_us > (least / 2).max(60_000) || self.loss_percent > LOSS_PERCENT {
            self.decrease(now);
        } else {
            self.congested &= queue_us > (least / 4).max(25_000);
            let aim = self.aim();
            if self.window < aim && !self.congested {
                self.window =
                    self.window.saturating_add((aim.saturating_mul(INCREASE_PERCENT) / 100).max(1)).min(aim);
            } else if self.window > aim {
                self.window = aim;
            }
            self.step = now.plus_us(least.max(10_000));
        }
    }

    /// What is enough and not too much: the demand in a round trip, its key frames, and twice what the path was seen to take.
    fn aim(&self) -> u64 {
        let Some(least) = self.min_trip.get().map(i64::unsigned_abs) else { return self.window };
        let needed = self.demand.bps.saturating_mul(least.saturating_add(20_000)) / 8_000_000;
        let needed = needed.saturating_mul(3) / 2;
        let needed = needed.saturating_add(self.demand.key_bytes);
        let rate_bps = self.rate.get().map_or(0, i64::unsigned_abs);
        let taken = (rate_bps.saturating_mul(least) / 8_000_000).saturating_mul(2);
        needed.max(taken).clamp(START_BYTES.min(CAP_BYTES), CAP_BYTES)
    }

    fn decrease(&mut self, now: Time) {
        self.congested = true;
        self.window = (self.window.saturating_mul(DECREASE_PERCENT) / 100).max(FLOOR_BYTES);
        self.step = now.plus_us(self.recent_trip.get().unwrap_or(0).max(10_000));
    }
}
