//! A subscriber's pacer: how much may leave now, and the retransmissions that wait. It knows positions and sizes, never payloads.
//!
//! Sound passes. Then come retransmissions, then video, then probes. While the link takes what the source sends, a frame is only spread;
//! a limit makes it a bucket of bytes.

use std::collections::VecDeque;

use media::Time;

use crate::wheel::TICK_US;

/// A frame is spread over so long, and half of a frame's interval at most: at line rate last miles lose (livekit#4724: 0.44 % against
/// 0.007 % paced).
const SPREAD_US: i64 = 8_000;
/// Packets that go at once when nothing waits: a frame as small as a TCP flight (RFC 6928) needs no spreading.
const AT_ONCE: usize = 10;
/// A slice has so many at least: a run costs a packet half of what it does alone (GSO; `fan_out` bench), and a key frame of a small picture is
/// out in 2 ms.
const SLICE_MIN: usize = 10;
/// Under a limit a slice is due no sooner, so that it is more than a packet at 5 Mbit/s and more.
const STEP_US: i64 = 4 * TICK_US;
/// The bucket saves up so much time: of a tick that came late.
const SAVED_US_MAX: i64 = 20_000;
/// Retransmissions that wait: twice what the budget of an ordinary stream has.
pub(crate) const REPAIRS_MAX: usize = 256;

/// A packet to send again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Repair {
    /// The subscriber's number.
    pub(crate) out_seq: u64,
    /// Index of its forwarder.
    pub(crate) forwarder: u8,
    /// Taken from the budget, in bytes.
    pub(crate) cost: u16,
    /// The receiver asked for it; else its feedback said that it is lost.
    pub(crate) asked: bool,
}

/// What is due for one subscriber.
#[derive(Debug)]
pub(crate) struct Pacer {
    on: bool,
    /// In the shard's wheel.
    pub(crate) scheduled: bool,
    pub(crate) repairs: VecDeque<Repair>,
    limit_bps: Option<u64>,
    /// Bytes that may go under the limit; a packet may overdraw it.
    credit: i64,
    refilled: Time,
    /// The tick under way, packets that went in it, and how many may.
    tick: i64,
    gone: usize,
    allowed: usize,
    /// What waits is to be out by then.
    spread_end: Time,
    probe: Option<Probing>,
}

/// A probe under way: what is sent meanwhile counts, and copies and padding make up the rest.
#[derive(Debug)]
struct Probing {
    id: u8,
    bps: u64,
    /// Bytes to go.
    left: i64,
    /// Bytes that are due by now.
    credit: i64,
    refilled: Time,
}

impl Pacer {
    pub(crate) fn new(on: bool) -> Pacer {
        Pacer {
            on,
            scheduled: false,
            repairs: VecDeque::new(),
            limit_bps: None,
            credit: 0,
            refilled: Time::ZERO,
            tick: 0,
            gone: 0,
            allowed: 0,
            spread_end: Time::ZERO,
            probe: None,
        }
    }

    /// Whether so many packets may go at once, when nothing waits.
    pub(crate) fn pass(&mut self, packets: usize, now: Time) -> bool {
        if self.limit_bps.is_some() {
            return false;
        }
        self.enter(now);
        if self.on && self.gone + packets > AT_ONCE {
            return false;
        }
        true
    }

    /// Something begins to wait: it is spread from now on, over half of `interval_us` at most.
    pub(crate) fn begin(&mut self, interval_us: i64, now: Time) {
        if self.spread_end <= now {
            let window = if interval_us > 0 { SPREAD_US.min(interval_us / 2) } else { SPREAD_US };
            self.spread_end = now.plus_us(window);
        }
    }

    /// A slice: of `waiting` packets so many that the rest is out in time, or what the limit has earned.
    pub(crate) fn open(&mut self, waiting: usize, now: Time) {
        self.enter(now);
        if let Some(probe) = &mut self.probe {
            let passed_us = now.since(probe.refilled).clamp(0, SAVED_US_MAX);
            probe.credit += (probe.bps as i128 * i128::from(passed_us) / 8_000_000) as i64;
            probe.refilled = now;
        }
        if let Some(limit_bps) = self.limit_bps {
            let limit_bps = limit_bps.max(self.probe.as_ref().map_or(0, |probe| probe.bps));
            let earned = |us: i64| (limit_bps as i128 * i128::from(us) / 8_000_000) as i64;
            if self.credit <= earned(STEP_US) {
                self.credit += earned(now.since(self.refilled).clamp(0, SAVED_US_MAX));
            }
            self.refilled = now;
        } else if self.on {
            let ticks = (self.spread_end.since(now) / TICK_US).max(1) as usize;
            self.allowed = waiting.div_ceil(ticks).max(SLICE_MIN);
        } else {
            self.allowed = usize::MAX;
        }
    }

    fn enter(&mut self, now: Time) {
        let tick = now.us() / TICK_US;
        if self.tick != tick {
            (self.tick, self.gone) = (tick, 0);
        }
    }

    /// Whether one more packet may go.
    pub(crate) fn has_room(&self) -> bool {
        match self.limit_bps {
            Some(_) => self.credit > 0,
            None => self.gone < self.allowed,
        }
    }

    /// A packet went, whether there was room or not.
    pub(crate) fn spend(&mut self, bytes: usize) {
        if self.limit_bps.is_some() {
            self.credit = self.credit.saturating_sub(bytes as i64);
        }
        self.probed(bytes);
    }

    /// A packet of the probe's own went: a probe goes beyond the limit, and media does not pay for that.
    pub(crate) fn probed(&mut self, bytes: usize) {
        self.gone += 1;
        if let Some(probe) = &mut self.probe {
            probe.left -= bytes as i64;
            probe.credit -= bytes as i64;
            if probe.left <= 0 {
                self.probe = None;
            }
        }
    }

    /// No more than `bps` from now on; `None`: what waits is only spread.
    pub(crate) fn limit(&mut self, bps: Option<u64>, now: Time) {
        if self.limit_bps.is_none() {
            (self.credit, self.refilled) = (0, now);
        }
        self.limit_bps = bps;
    }

    /// Whether it does anything.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// So many bytes may go at once although there is a limit.
    pub(crate) fn grant(&mut self, bytes: usize) {
        self.credit = self.credit.max(bytes as i64);
    }

    /// `bytes` are to be sent at `bps`, to see what comes of it.
    pub(crate) fn start_probe(&mut self, id: u8, bps: u64, bytes: usize, now: Time) {
        // The first packet goes with the first slice.
        self.probe = Some(Probing { id, bps, left: bytes as i64, credit: 1, refilled: now });
    }

    /// The probe that what is sent now belongs to.
    pub(crate) fn probe(&self) -> Option<u8> {
        self.probe.as_ref().map(|probe| probe.id)
    }

    /// Whether the probe wants for a packet that no media is there for.
    pub(crate) fn wants_more(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.credit > 0)
    }

    /// There is nothing to probe with.
    pub(crate) fn end_probe(&mut self) {
        self.probe = None;
    }

    /// When there is room again.
    pub(crate) fn due(&self, now: Time) -> Time {
        match self.limit_bps {
            Some(limit_bps) if self.probe.is_none() => {
                let owed_us = (-self.credit).max(0).saturating_mul(8_000_000) / (limit_bps.max(1) as i64);
                now.plus_us(owed_us.max(STEP_US))
            }
            _ => now.plus_us(TICK_US),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: i64) -> Time {
        Time(1_000_000 + us)
    }

    /// Whether so many go at once; then they do.
    fn passes(pacer: &mut Pacer, packets: usize, us: i64) -> bool {
        let passes = pacer.pass(packets, at(us));
        (0..if passes { packets } else { 0 }).for_each(|_| pacer.spend(1_200));
        passes
    }

    /// Packets in the slice that begins at `us`, of `waiting`.
    fn slice(pacer: &mut Pacer, waiting: usize, us: i64) -> usize {
        pacer.open(waiting, at(us));
        let mut sent = 0;
        while sent < waiting && pacer.has_room() {
            pacer.spend(1_200);
            sent += 1;
        }
        sent
    }

    /// The slices of `waiting` packets, a tick apart.
    fn slices(pacer: &mut Pacer, mut waiting: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for us in (0..100_000).step_by(TICK_US as usize) {
            let sent = slice(pacer, waiting, us);
            all.push(sent);
            waiting -= sent;
            if waiting == 0 {
                break;
            }
        }
        all
    }

    #[test]
    fn a_small_frame_goes_at_once_and_a_large_one_in_runs_over_eight_milliseconds() {
        let mut pacer = Pacer::new(true);
        assert!(passes(&mut pacer, 10, 0));
        assert!(!passes(&mut pacer, 1, 900), "ten in a tick");
        assert!(passes(&mut pacer, 10, 1_000));

        let mut pacer = Pacer::new(true);
        assert!(!pacer.pass(20, at(0)));
        pacer.begin(33_333, at(0));
        assert_eq!(slices(&mut pacer, 25), [10, 10, 5], "runs, not single packets");
        let mut pacer = Pacer::new(true);
        pacer.begin(33_333, at(0));
        assert_eq!(slices(&mut pacer, 161), [21, 20, 20, 20, 20, 20, 20, 20]);
        let mut pacer = Pacer::new(true);
        pacer.begin(8_333, at(0));
        assert_eq!(slices(&mut pacer, 161), [41, 40, 40, 40], "120 frames a second: half an interval");
        let mut off = Pacer::new(false);
        assert!(off.pass(1_000, at(0)));
        assert_eq!(slices(&mut off, 1_000), [1_000]);
    }

    #[test]
    fn a_tick_that_comes_late_is_made_up_for() {
        let mut pacer = Pacer::new(true);
        pacer.begin(33_333, at(0));
        assert_eq!(slice(&mut pacer, 160, 0), 20);
        assert_eq!(slice(&mut pacer, 140, 4_000), 35);
        assert_eq!(slice(&mut pacer, 105, 9_000), 105, "the time is over");
    }

    #[test]
    fn what_went_at_once_counts_in_its_tick() {
        let mut pacer = Pacer::new(true);
        assert!(passes(&mut pacer, 6, 0));
        pacer.begin(33_333, at(100));
        assert_eq!(slice(&mut pacer, 20, 100), 4);
        assert_eq!(slice(&mut pacer, 16, 1_000), 10);
    }

    #[test]
    fn a_limit_is_kept_and_saves_little_up() {
        let mut pacer = Pacer::new(true);
        pacer.limit(Some(1_000_000), at(0));
        assert!(!pacer.pass(1, at(0)));
        let (mut sent, mut us) = (0, 0);
        while us < 1_000_000 {
            sent += slice(&mut pacer, 10, us);
            us = pacer.due(at(us)).since(at(0));
        }
        // 125000 bytes are 104 packets.
        assert!((103..=106).contains(&sent), "{sent}");
        assert!(slice(&mut pacer, 1_000, 60_000_000) <= 4, "a minute of silence is not a minute's credit");

        let mut pacer = Pacer::new(true);
        pacer.limit(Some(10_000_000), at(0));
        pacer.grant(64 * 1_024);
        assert_eq!(slice(&mut pacer, 1_000, 0), 55, "65536 bytes at once");
        assert!((3..=6).contains(&slice(&mut pacer, 1_000, 4_000)), "5000 bytes in 4 ms");
        pacer.limit(None, at(5_000));
        pacer.begin(0, at(5_000));
        assert_eq!(slice(&mut pacer, 100, 6_000), 15);
    }
}
