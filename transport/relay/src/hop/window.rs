//! How much a hop may have in flight: a window for live media, which loss alone does not close. Cubic collapses at 1 % of random loss, and QUIC
//! stacks' BBR remembers its highest rate for ever; a live stream needs its own bitrate, now, and no more.

use media::Time;

/// Until anything is known: a key frame of a stream of 4 Mbit/s.
const START_BYTES: u64 = 128_000;
/// Nothing goes below: sound and control of a few streams.
const FLOOR_BYTES: u64 = 16_000;
/// Whatever is measured: QUIC's own send window is 4 MiB.
const CAP_BYTES: u64 = 8 << 20;
/// The queue of the path is what the least round trip of the last half second is above the least of so long.
const MIN_TRIP_US: i64 = 10_000_000;
const RECENT_US: i64 = 500_000;
/// What waits there now is the same of so long.
const NOW_US: i64 = 80_000;
/// A rate is a maximum of so long.
const RATE_US: i64 = 10_000_000;
/// Loss beyond this share of a second is congestion, whatever the delay says: of a second in which there were bytes enough to tell.
const LOSS_PERCENT: u64 = 10;
const LOSS_BYTES_MIN: u64 = 60_000;
/// A path that was congested is let drain once in so long, or what always waits there would be taken for the path...
const DRAIN_EACH_US: i64 = 10_000_000;
/// ...for so long, and a round trip at least (BBR's way, draft-ietf-ccwg-bbr section 5.3.4).
const DRAIN_US: i64 = 200_000;
/// What such a path has in flight, of what it was seen to take in a round trip: the rest would wait there.
const NARROW_PERCENT: u64 = 125;
/// When the window has become this share of what it was as it began to fall...
const FALLEN_PERCENT: u64 = 60;
/// ...and no more than this share of what arrived then arrives now, though as much waits as before, the queue is another's, which takes what we leave...
const SHARED_PERCENT: u64 = 85;
/// ...and for so long delay says nothing: what is subscribed is sent, and no more.
const SHARED_US: i64 = 10_000_000;
/// A key frame is out after so long, a third of a frame's interval, on a path that was not congested lately: the pacer spreads 1.25 windows over a round trip.
const KEY_FRAME_US: u64 = 12_000;
/// The window becomes this share of itself, once a round trip, while the path is congested.
const DECREASE_PERCENT: u64 = 85;
/// What goes at once makes a queue of this where there was none...
const BURST_QUEUE_US: i64 = 60_000;
/// ...within so long of nothing waiting (ours takes half of that, TCP-Cubic's 100 ms and more)...
const BURST_RISE_US: i64 = 80_000;
/// ...of which something arrives all the time (where nothing does for so long this end stood still)...
const BURST_GAP_US: i64 = 40_000;
/// ...and which is gone again after so long, sooner than what another flow makes: the path is slower than a key frame in [`KEY_FRAME_US`]...
const BURST_US: std::ops::RangeInclusive<i64> = 100_000..=1_000_000;
/// ...and for so long...
const SLOW_US: i64 = 60_000_000;
/// ...no more than this waits there, behind which repairs would, and the rest here.
const SLOW_QUEUE_US: u64 = 40_000;
/// What QUIC holds at most, as it sends in order, is of a slow path's window this part.
const HELD_PART: u64 = 4;
/// A queue that is none of timers and pacing.
const WAITS_US: i64 = 25_000;
/// While so much of what is subscribed arrived in a second, there is no more to gain for anybody who waits.
const SATISFIED_PERCENT: u64 = 90;
/// And comes back by this share of what is needed.
const INCREASE_PERCENT: u64 = 5;
/// Or by this, where nothing was ever congested: a new link's first key frames are not late.
const START_PERCENT: u64 = 25;

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
    now_trip: Least<2>,
    /// The highest rates lately, negative, in bit/s.
    rate: Least<10>,
    /// What was delivered since, for a rate.
    round: Option<Time>,
    round_bytes: u64,
    acked: u64,
    lost: u64,
    second: Time,
    /// Loss of the last whole second, in percent...
    loss_percent: u64,
    /// ...and what arrived in it, in bit/s.
    second_bps: u64,
    /// The next step of the window.
    step: Time,
    congested: bool,
    /// When it was congested last, and when it began to drain.
    congested_at: Option<Time>,
    drain_at: Option<Time>,
    drains: bool,
    /// What arrived in the last round trip, in bit/s.
    round_bps: u64,
    /// The window as it began to fall, what arrived then, and since when.
    fall: Option<(u64, u64, Time)>,
    shared_at: Option<Time>,
    /// When something arrived last, and when nothing waited there...
    acked_at: Time,
    calm_at: Option<Time>,
    /// ...since when a burst of ours does, when one was over, and whether the path is slow by that.
    burst_since: Option<Time>,
    slow_at: Option<Time>,
    slow: bool,
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
            now_trip: Least::new(NOW_US / 2),
            rate: Least::new(RATE_US / 10),
            round: None,
            round_bytes: 0,
            acked: 0,
            lost: 0,
            second: Time::ZERO,
            loss_percent: 0,
            second_bps: 0,
            step: Time::ZERO,
            congested: false,
            congested_at: None,
            drain_at: None,
            drains: false,
            round_bps: 0,
            fall: None,
            shared_at: None,
            acked_at: Time::ZERO,
            calm_at: None,
            burst_since: None,
            slow_at: None,
            slow: false,
        }
    }

    /// What is subscribed changed.
    pub fn set_demand(&mut self, demand: Demand) {
        self.demand = demand;
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        if self.drains { (self.window / 2).max(FLOOR_BYTES) } else { self.window }
    }

    /// Bytes that may wait in QUIC, in order, for the pacer, of so many at most.
    pub fn held(&self, most: usize) -> usize {
        let part = usize::try_from(self.window() / HELD_PART).unwrap_or(most);
        if self.slow { part.min(most) } else { most }
    }

    /// What waits on the path, in microseconds.
    pub fn queue_us(&self) -> i64 {
        let (recent, least) = (self.recent_trip.get(), self.min_trip.get());
        recent.zip(least).map_or(0, |(recent, least)| recent.saturating_sub(least).max(0))
    }

    /// What waits there now, in microseconds: sooner, and less surely.
    pub fn queue_now_us(&self) -> i64 {
        let (now, least) = (self.now_trip.get(), self.min_trip.get());
        now.zip(least).map_or(0, |(now, least)| now.saturating_sub(least).max(0))
    }

    /// What it was seen to take lately at most beyond what is subscribed, in bytes a second; `None` while nothing is.
    pub fn beyond(&self) -> Option<u64> {
        let taken_bps = self.rate.get().map_or(0, i64::unsigned_abs);
        (self.demand.bps > 0).then_some(taken_bps.saturating_sub(self.demand.bps) / 8)
    }

    /// Loss of the last second or of this one, whichever is more, in percent.
    pub fn loss_percent(&self) -> u64 {
        let all = self.acked.saturating_add(self.lost);
        let percent = self.lost.saturating_mul(100).checked_div(all).filter(|_| all >= LOSS_BYTES_MIN);
        self.loss_percent.max(percent.unwrap_or(0))
    }

    /// The least round trip lately, in microseconds; 0 while unknown.
    pub fn least_us(&self) -> i64 {
        self.min_trip.get().unwrap_or(0)
    }

    /// Bytes arrived, and how long the newest of them and its acknowledgement were on the way.
    pub fn on_ack(&mut self, bytes: u64, trip_us: i64, now: Time) {
        self.min_trip.add(trip_us, now);
        self.recent_trip.add(trip_us, now);
        self.now_trip.add(trip_us, now);
        self.watch_bursts(now);
        self.acked = self.acked.saturating_add(bytes);
        self.round_bytes = self.round_bytes.saturating_add(bytes);
        let since = *self.round.get_or_insert(now);
        let passed_us = now.since(since);
        if passed_us >= trip_us.max(10_000) {
            let bps =
                self.round_bytes.saturating_mul(8_000_000).checked_div(passed_us.unsigned_abs()).unwrap_or(0);
            self.rate.add(0_i64.saturating_sub_unsigned(bps), now);
            self.round_bps = bps;
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
            let percent = self.lost.saturating_mul(100).checked_div(all);
            self.loss_percent = percent.filter(|_| all >= LOSS_BYTES_MIN).unwrap_or(0);
            let passed_us = now.since(self.second).unsigned_abs();
            self.second_bps = self.acked.saturating_mul(8_000_000).checked_div(passed_us).unwrap_or(0);
            (self.acked, self.lost, self.second) = (0, 0, now);
        }
        self.drain(now);
        if now < self.step {
            return;
        }
        let least = self.min_trip.get().unwrap_or(0);
        let queue_us = self.queue_us();
        let shared = self.is_shared(now) || self.is_satisfied();
        if self.loss_percent > LOSS_PERCENT && self.loses() {
            self.decrease(now);
        } else if queue_us > (least / 2).max(60_000) && !shared {
            self.fall(now);
        } else {
            // It grows no more with a queue of this, too: that one never leaves by itself.
            let waits = queue_us > (least / 4).max(WAITS_US) && !shared;
            self.congested &= waits;
            if waits {
                self.congested_at = Some(now);
            } else {
                self.fall = None;
            }
            let lately = self.slow_at.is_some_and(|at| now.since(at) < SLOW_US);
            self.slow = lately && queue_us < BURST_QUEUE_US;
            let aim = self.aim(now);
            if self.window < aim && !self.congested {
                let step = aim.min(self.needed(least.unsigned_abs()).max(START_BYTES));
                let percent = if self.congested_at.is_none() { START_PERCENT } else { INCREASE_PERCENT };
                let step = (step.saturating_mul(percent) / 100).max(1);
                self.window = self.window.saturating_add(step).min(aim);
            } else if self.window > aim {
                self.window = aim;
            }
            self.step = now.plus_us(least.max(10_000));
        }
    }

    /// The least round trip is one without a queue, or it is found again.
    fn drain(&mut self, now: Time) {
        let long_us = self.recent_trip.get().unwrap_or(0).max(DRAIN_US);
        if self.drains {
            self.drains = self.drain_at.is_some_and(|since| now.since(since) < long_us);
            return;
        }
        if self.is_narrow(now) && now.since(*self.drain_at.get_or_insert(now)) >= DRAIN_EACH_US {
            (self.drains, self.drain_at) = (true, Some(now));
        }
    }

    /// Gives way to a queue, until that turns out to be another's.
    fn fall(&mut self, now: Time) {
        let arrived_bps = self.round_bps.max(self.second_bps);
        let (window, bps, since) = *self.fall.get_or_insert((self.window, arrived_bps, now));
        let trip_us = self.recent_trip.get().unwrap_or(0);
        let fallen = self.window.saturating_mul(100) <= window.saturating_mul(FALLEN_PERCENT);
        if !fallen || now.since(since) < trip_us.saturating_mul(2) {
            return self.decrease(now);
        }
        if self.round_bps.saturating_mul(100) > bps.saturating_mul(SHARED_PERCENT) {
            return self.decrease(now);
        }
        (self.fall, self.shared_at, self.congested_at, self.congested) = (None, Some(now), None, false);
        (self.window, self.step) = (self.aim(now), now.plus_us(trip_us.max(10_000)));
    }

    fn is_shared(&self, now: Time) -> bool {
        self.shared_at.is_some_and(|at| now.since(at) < SHARED_US)
    }

    /// In this second, too: a burst that is over is no congestion.
    fn loses(&self) -> bool {
        self.lost.saturating_mul(100) > self.acked.saturating_add(self.lost).saturating_mul(LOSS_PERCENT)
    }

    /// What is subscribed arrives: who waits there with it waits for others.
    fn is_satisfied(&self) -> bool {
        self.second_bps.saturating_mul(100) > self.demand.bps.saturating_mul(SATISFIED_PERCENT)
    }

    /// It was congested lately: more than it takes would wait there.
    fn is_narrow(&self, now: Time) -> bool {
        !self.is_satisfied() && self.congested_at.is_some_and(|at| now.since(at) < DRAIN_EACH_US)
    }

    /// What goes at once waits there, and then nothing does: it is no other's queue.
    fn watch_bursts(&mut self, now: Time) {
        let queue_us = self.queue_now_us();
        if now.since(std::mem::replace(&mut self.acked_at, now)) > BURST_GAP_US {
            self.burst_since = None;
        }
        if queue_us < WAITS_US {
            self.calm_at = Some(now);
            if self.burst_since.take().is_some_and(|since| BURST_US.contains(&now.since(since))) {
                self.slow_at = Some(now);
            }
        } else if queue_us >= BURST_QUEUE_US && self.calm_at.is_some_and(|at| now.since(at) <= BURST_RISE_US)
        {
            self.burst_since.get_or_insert(now);
        }
    }

    /// What is enough and not too much: the demand in a round trip, its key frames, and twice what the path was seen to take.
    fn aim(&self, now: Time) -> u64 {
        let Some(least) = self.min_trip.get().map(i64::unsigned_abs) else { return self.window };
        let shared = self.is_shared(now);
        // With another's queue on the way, what arrives in a round trip of now is needed.
        let trip = if shared || self.is_satisfied() {
            self.recent_trip.get().map_or(least, i64::unsigned_abs)
        } else {
            least
        };
        let needed = self.needed(trip);
        if shared {
            return needed.clamp(FLOOR_BYTES, CAP_BYTES);
        }
        let rate_bps = self.rate.get().map_or(0, i64::unsigned_abs);
        let taken = rate_bps.saturating_mul(least) / 8_000_000;
        if self.is_narrow(now) {
            return (taken.saturating_mul(NARROW_PERCENT) / 100).clamp(FLOOR_BYTES, CAP_BYTES);
        }
        if self.slow {
            let taken = rate_bps.saturating_mul(least.saturating_add(SLOW_QUEUE_US)) / 8_000_000;
            return taken.clamp(FLOOR_BYTES, CAP_BYTES);
        }
        // QUIC's pacer has no other word for a rate. Into a queue a key frame goes slowly, or much of it is lost.
        let hurries = self.queue_us() < WAITS_US;
        let paced = self.demand.key_bytes.saturating_mul(least).saturating_mul(4) / (KEY_FRAME_US * 5);
        let paced = if hurries { paced } else { 0 };
        needed.max(paced).max(taken.saturating_mul(2)).clamp(START_BYTES.min(CAP_BYTES), CAP_BYTES)
    }

    /// In flight of what is subscribed, at most.
    fn needed(&self, trip_us: u64) -> u64 {
        let needed = self.demand.bps.saturating_mul(trip_us.saturating_add(20_000)) / 8_000_000;
        (needed.saturating_mul(3) / 2).saturating_add(self.demand.key_bytes)
    }

    fn decrease(&mut self, now: Time) {
        (self.congested, self.congested_at) = (true, Some(now));
        self.window = (self.window.saturating_mul(DECREASE_PERCENT) / 100).max(FLOOR_BYTES);
        self.step = now.plus_us(self.recent_trip.get().unwrap_or(0).max(10_000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1_200;

    /// A path of a rate and a queue without end, always asked for more than it takes, and its window.
    struct Path {
        window: LiveWindow,
        bps: u64,
        /// Bytes offered a second, in bit/s; `None`: as much as the window lets through.
        offered_bps: u64,
        trip_us: i64,
        /// Waits there of another's, whatever we do.
        others_us: i64,
        arrived: u64,
        ran_ms: i64,
        /// When the bottleneck is through with what it has.
        free: Time,
        flight: std::collections::VecDeque<(Time, Time)>,
        owed: u64,
        /// What waits at the sender.
        held: u64,
    }

    impl Path {
        fn new(bps: u64, offered_bps: u64) -> Path {
            let window = LiveWindow::new();
            let flight = std::collections::VecDeque::new();
            let (trip_us, others_us, arrived, ran_ms) = (100_000, 0, 0, 0);
            Path {
                window,
                bps,
                offered_bps,
                trip_us,
                others_us,
                arrived,
                ran_ms,
                free: Time::ZERO,
                flight,
                owed: 0,
                held: 0,
            }
        }

        /// Runs until then, in milliseconds; the longest queue at the bottleneck, in microseconds.
        fn run(&mut self, from_ms: i64, to_ms: i64) -> i64 {
            let mut longest = 0;
            for ms in from_ms..to_ms {
                let now = Time(ms * 1_000);
                while let Some((sent, arrives)) = self.flight.front().copied().filter(|(_, at)| *at <= now) {
                    self.flight.pop_front();
                    self.arrived += PACKET;
                    self.window.on_ack(PACKET, arrives.since(sent), now);
                }
                self.owed += self.offered_bps / 8_000;
                self.held = (self.held + self.owed / PACKET).min(2_000);
                self.owed %= PACKET;
                // The sender drops what is old: what it offers is never more than it has now.
                while self.held > 0 && (self.flight.len() as u64 + 1) * PACKET <= self.window.window() {
                    self.held -= 1;
                    let start = if self.free > now { self.free } else { now };
                    self.free = start.plus_us((PACKET * 8_000_000 / self.bps) as i64);
                    longest = longest.max(self.free.since(now));
                    self.flight.push_back((now, self.free.plus_us(self.trip_us + self.others_us)));
                }
            }
            self.ran_ms = to_ms;
            longest
        }
    }

    fn demand(bps: u64) -> Demand {
        Demand { bps, key_bytes: 60_000 }
    }

    #[test]
    fn a_live_stream_has_what_it_needs_and_no_queue() {
        let mut path = Path::new(20_000_000, 4_000_000);
        path.window.set_demand(demand(4_000_000));
        path.run(0, 5_000);
        let longest = path.run(5_000, 30_000);
        assert!(longest < 5_000, "{longest} us");
        assert!(!path.window.congested);
        assert!(path.window.window() >= START_BYTES);
    }

    #[test]
    fn a_path_that_is_asked_for_more_than_it_takes_keeps_a_bounded_queue_for_minutes() {
        let mut path = Path::new(4_000_000, 4_800_000);
        path.window.set_demand(demand(4_800_000));
        path.run(0, 20_000);
        let mut queues: Vec<i64> = (20..180).map(|s| path.run(s * 1_000, s * 1_000 + 1_000)).collect();
        queues.sort_unstable();
        assert!(queues[159] < 200_000 && queues[120] < 50_000, "{queues:?}");
        assert!(path.window.min_trip.get().unwrap() < 115_000, "{:?}", path.window.min_trip.get());
    }

    #[test]
    fn beside_another_that_keeps_a_queue_a_live_stream_has_what_it_needs() {
        let mut path = Path::new(15_000_000, 4_000_000);
        path.window.set_demand(demand(4_000_000));
        path.run(0, 5_000);
        let mut worst = u64::MAX;
        for others_us in [80_000, 150_000, 300_000, 120_000] {
            path.others_us = others_us;
            for _ in 0..12 {
                let (second, before) = (path.ran_ms, path.arrived);
                path.run(second, second + 1_000);
                worst = worst.min((path.arrived - before) * 8);
            }
        }
        assert!(worst > 2_300_000, "{worst} bit/s in the worst second");
        let mean = path.arrived * 8_000 / path.ran_ms as u64;
        assert!(mean > 3_800_000, "{mean} bit/s");
        // A tenth and more that is lost is too much all the same.
        path.others_us = 300_000;
        path.run(path.ran_ms, path.ran_ms + 5_000);
        let (window, now) = (path.window.window(), Time(path.ran_ms * 1_000));
        for ms in 0..3_000 {
            path.window.on_loss(PACKET, now.plus_us(ms * 1_000));
        }
        assert!(path.window.window() < window / 2, "{window} then {}", path.window.window());
    }

    #[test]
    fn chance_loss_is_none_of_its_business_and_a_tenth_and_more_is() {
        let mut window = LiveWindow::new();
        let second = |window: &mut LiveWindow, lost: u64, from: i64, packets: i64| {
            for ms in 0..packets {
                let now = Time((from * 1_000 + ms * 1_000 / packets) * 1_000);
                if ms as u64 % 100 < lost {
                    window.on_loss(PACKET, now);
                } else {
                    window.on_ack(PACKET, 100_000, now);
                }
            }
        };
        for s in 0..5 {
            second(&mut window, 5, s, 400);
        }
        assert!(window.window() >= START_BYTES && !window.congested);
        for s in 5..8 {
            second(&mut window, 15, s, 400);
        }
        assert!(window.window() < START_BYTES && window.congested, "{}", window.window());
        // A few heartbeats, one of them lost, say nothing.
        let mut idle = LiveWindow::new();
        for s in 0..5 {
            second(&mut idle, 1, s, 7);
        }
        assert!(idle.window() >= START_BYTES && !idle.congested);
    }

    /// A round trip that goes up for so long and down for as long again, from 20 ms to 200, and whether that was a burst of ours.
    fn is_slow_after(up_ms: i64, window: &mut LiveWindow, from_ms: i64) -> bool {
        for ms in 0..2 * up_ms {
            let part = ms.min(2 * up_ms - ms);
            window.on_ack(PACKET / 2, 20_000 + 180_000 * part / up_ms, Time::from_ms(from_ms + ms));
        }
        for ms in 0..300 {
            window.on_ack(PACKET / 2, 20_000, Time::from_ms(from_ms + 2 * up_ms + ms));
        }
        window.slow
    }

    #[test]
    fn what_would_wait_on_a_slow_path_waits_here() {
        let mut window = LiveWindow::new();
        window.set_demand(demand(4_000_000));
        for ms in 0..2_000 {
            window.on_ack(PACKET / 2, 20_000, Time::from_ms(ms));
        }
        let wide = window.window();
        assert!(!is_slow_after(40, &mut window, 2_000), "a stall of one end");
        assert!(!is_slow_after(2_000, &mut window, 2_380), "another flow's");
        assert!(!is_slow_after(500, &mut window, 6_680), "another flow's that gives way");
        // This end slept for 120 ms, and hears nothing new for a round trip, which is 100 ms at this one.
        let mut far = LiveWindow::new();
        far.set_demand(demand(4_000_000));
        for ms in (0..2_000).chain(2_220..4_000) {
            far.on_ack(PACKET / 2, 100_000, Time::from_ms(ms));
            if ms == 1_999 {
                far.on_ack(PACKET / 2, 220_000, Time::from_ms(2_120));
            }
        }
        assert!(!far.slow, "a stall of this end");
        assert_eq!((window.window() >= wide, window.held(1 << 20)), (true, 1 << 20));
        assert!(is_slow_after(200, &mut window, 7_980));
        // 4.8 Mbit/s in 60 ms.
        let slow = window.window();
        assert!(
            (30_000..50_000).contains(&slow) && window.held(1 << 20) as u64 == slow / HELD_PART,
            "{slow}"
        );
        assert_eq!(window.held(100), 100);
        for ms in 0..61_000 {
            window.on_ack(PACKET / 2, 20_000, Time::from_ms(8_680 + ms));
        }
        assert!(!window.slow && window.window() >= START_BYTES, "it may have become wider");
    }

    #[test]
    fn it_stays_between_its_bounds() {
        let mut window = LiveWindow::new();
        window.set_demand(demand(u64::MAX));
        for ms in 0..20_000 {
            window.on_ack(1 << 30, 100_000, Time(ms * 1_000));
        }
        assert_eq!(window.window(), CAP_BYTES);
        for ms in 20_000..40_000 {
            window.on_congestion_mark(Time(ms * 1_000));
        }
        assert_eq!(window.window(), FLOOR_BYTES);
    }
}
