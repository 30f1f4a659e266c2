//! The delay-based estimate: up by 8 % a second or, near the known capacity, by a packet a round trip; down to 85 % of what
//! arrives (draft-ietf-rmcat-gcc-02 section 5.5).

use media::Time;

use super::trendline::Usage;
use super::{MAX_BPS, MIN_BPS};

/// Section 5.5: eta.
const INCREASE_PER_S: f64 = 1.08;
/// Section 5.5: beta.
pub(super) const BACK_OFF: f64 = 0.85;
/// Near the capacity at least so much more a second.
const ADDITIVE_BPS_PER_S_MIN: f64 = 4_000.0;
/// The estimate rises no further above what arrives than a multiple and this (section 5.5).
const CEILING_BPS: f64 = 10_000.0;
/// The receiver's feedback and our detector answer about so much after the round trip.
const RESPONSE_US: i64 = 100_000;
/// Between decreases when little is sent.
const IDLE_WAIT_US: i64 = 1_000_000;
/// Packets that video is cut into.
const PACKET_BITS: f64 = 1200.0 * 8.0;
const FRAMES_PER_S: f64 = 30.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Hold,
    Increase,
    Decrease,
}

/// What arrives and how it goes, at one feedback.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) usage: Usage,
    pub(super) acknowledged_bps: Option<u64>,
    /// What our own clock confirms of it.
    pub(super) confirmed_bps: Option<u64>,
    /// The multiple of it that the estimate may rise to.
    pub(super) ceiling: f64,
    pub(super) application_limited: bool,
    /// Little is sent right now.
    pub(super) idle: bool,
    pub(super) rtt_us: i64,
}

#[derive(Debug)]
pub(super) struct Aimd {
    bps: f64,
    state: State,
    capacity: Capacity,
    changed: Time,
    decreased: Option<Time>,
}

impl Aimd {
    pub(super) fn new(bps: u64, now: Time) -> Aimd {
        let capacity = Capacity { kbps: None, deviation: 0.4 };
        Aimd { bps: bps as f64, state: State::Hold, capacity, changed: now, decreased: None }
    }

    pub(super) fn bps(&self) -> u64 {
        self.bps as u64
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// A probe or a fallback found another value.
    pub(super) fn set(&mut self, bps: u64, now: Time) {
        self.bps = (bps.clamp(MIN_BPS, MAX_BPS)) as f64;
        self.changed = now;
    }

    pub(super) fn update(&mut self, input: Input, now: Time) {
        self.state = match (input.usage, self.state) {
            (Usage::Over, _) => State::Decrease,
            (Usage::Under, _) => State::Hold,
            (Usage::Normal, State::Increase) => State::Increase,
            (Usage::Normal, _) => {
                self.changed = now;
                State::Increase
            }
        };
        match self.state {
            State::Increase => self.increase(input, now),
            State::Decrease => self.decrease(input, now),
            State::Hold => {}
        }
        self.bps = self.bps.clamp(MIN_BPS as f64, MAX_BPS as f64);
    }

    fn increase(&mut self, input: Input, now: Time) {
        let (Some(acknowledged), Some(confirmed)) = (input.acknowledged_bps, input.confirmed_bps) else {
            return;
        };
        if self.capacity.upper_kbps().is_some_and(|upper| acknowledged as f64 / 1000.0 > upper) {
            self.capacity.kbps = None;
        }
        let seconds = (now.since(self.changed) as f64 / 1e6).clamp(0.0, 1.0);
        self.changed = now;
        // What is not sent cannot be seen to fit: probes find out.
        if input.application_limited {
            return;
        }
        let wanted = if self.capacity.kbps.is_some() {
            self.bps + self.additive_bps_per_s(input.rtt_us) * seconds
        } else {
            (self.bps * INCREASE_PER_S.powf(seconds)).max(self.bps + 1000.0 * seconds)
        };
        // A ceiling for growth; it never takes away.
        let ceiling = input.ceiling * confirmed as f64 + CEILING_BPS;
        self.bps = wanted.min(ceiling).max(self.bps);
    }

    /// One average packet a response time (section 5.5).
    fn additive_bps_per_s(&self, rtt_us: i64) -> f64 {
        let frame_bits = self.bps / FRAMES_PER_S;
        let packet_bits = frame_bits / (frame_bits / PACKET_BITS).ceil().max(1.0);
        let response_s = rtt_us.clamp(0, 2_000_000).saturating_add(RESPONSE_US) as f64 / 1e6;
        (packet_bits / response_s).max(ADDITIVE_BPS_PER_S_MIN)
    }

    fn decrease(&mut self, input: Input, now: Time) {
        // The last decrease shows after a round trip; far below the estimate there is no time to wait for it.
        // When little is sent the queue is another flow's: less changes nothing soon.
        let wait_us = if input.idle { IDLE_WAIT_US } else { input.rtt_us.clamp(10_000, 200_000) };
        let far_below = input.acknowledged_bps.is_some_and(|bps| (bps as f64) < 0.5 * self.bps);
        let waited = self.decreased.is_none_or(|at| now.since(at) >= wait_us);
        if !waited && (!far_below || input.idle) {
            return;
        }
        let wanted = match input.acknowledged_bps {
            None => self.bps * 0.5,
            // Little arrives because little is sent: what arrives is not the capacity.
            Some(_) if input.idle => BACK_OFF * self.bps,
            Some(bps) => {
                let kbps = bps as f64 / 1000.0;
                let wanted = match self.capacity.kbps {
                    Some(capacity) if BACK_OFF * kbps * 1000.0 > self.bps => BACK_OFF * capacity * 1000.0,
                    _ => BACK_OFF * kbps * 1000.0,
                };
                if self.capacity.lower_kbps().is_some_and(|lower| kbps < lower) {
                    self.capacity.kbps = None;
                }
                self.capacity.on_overuse(kbps);
                wanted
            }
        };
        if wanted < self.bps {
            self.bps = wanted;
        }
        self.state = State::Hold;
        (self.changed, self.decreased) = (now, Some(now));
    }
}

/// What arrived when the queue began to grow: mean and deviation of the link's capacity (section 5.5: near convergence).
#[derive(Debug)]
struct Capacity {
    kbps: Option<f64>,
    /// Variance by the mean.
    deviation: f64,
}

impl Capacity {
    const WEIGHT: f64 = 0.05;

    fn on_overuse(&mut self, sample: f64) {
        let kbps = match self.kbps {
            None => sample,
            Some(kbps) => (1.0 - Self::WEIGHT) * kbps + Self::WEIGHT * sample,
        };
        let error = kbps - sample;
        let deviation = (1.0 - Self::WEIGHT) * self.deviation + Self::WEIGHT * error * error / kbps.max(1.0);
        self.deviation = deviation.clamp(0.4, 2.5);
        self.kbps = Some(kbps);
    }

    fn spread_kbps(&self, kbps: f64) -> f64 {
        3.0 * (self.deviation * kbps).sqrt()
    }

    fn upper_kbps(&self) -> Option<f64> {
        self.kbps.map(|kbps| kbps + self.spread_kbps(kbps))
    }

    fn lower_kbps(&self) -> Option<f64> {
        self.kbps.map(|kbps| (kbps - self.spread_kbps(kbps)).max(0.0))
    }
}
