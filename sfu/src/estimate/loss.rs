//! The loss-based bound: of a few candidate bandwidths the one that explains best what was lost at which rate. Loss that does
//! not change with the rate belongs to the link (radio) and costs nothing; loss that goes away at a lower rate is a queue.
//!
//! A bounded form of the browsers' second loss-based estimator (LossBasedBweV2). Left out: Newton's method for the inherent
//! loss (the moment estimate below has a closed form and the same limits), its instant upper bound (75 kbit/s divided by
//! the loss above 5 %: it halves fast links for a second of bad radio, and the candidates walk down there anyway, at 5 % an
//! observation), the holding and padding states (probes are held off by [`LossBased::is_limiting`]).

use media::Time;

use super::{MAX_BPS, MIN_BPS};

/// Observations kept: 5 s and more.
const OBSERVATIONS: usize = 20;
/// One lasts at least so long.
const OBSERVATION_US: i64 = 250_000;
/// And has so many packets: of fewer, one lost is no share.
const OBSERVATION_PACKETS: u32 = 10;
/// Weight of an observation against the next newer one.
const FADE: f64 = 0.9;
/// Loss that a link may have of itself: at least this (no logarithm of 0), at most 5 % and 75 kbit/s of the bandwidth.
const INHERENT_MIN: f64 = 0.001;
const INHERENT_OFFSET: f64 = 0.05;
const INHERENT_BALANCE_BPS: f64 = 75_000.0;
/// What is tried around the current bound.
const FACTORS: [f64; 3] = [1.02, 1.0, 0.95];
/// Per packet, what a higher bandwidth is preferred by: a part that grows with it and one with its logarithm, in kbit/s.
const BIAS: f64 = 0.0002;
const LOG_BIAS: f64 = 0.02;
/// At this loss the preference turns round, over a range of so much.
const BIAS_LOSS: f64 = 0.15;
const BIAS_LOSS_RANGE: f64 = 0.002;

#[derive(Clone, Copy, Default, Debug)]
struct Observation {
    packets: u32,
    lost: u32,
    /// Rate it was sent at.
    bps: f32,
}

/// What is being observed.
#[derive(Clone, Copy, Default, Debug)]
struct Partial {
    packets: u32,
    lost: u32,
    bytes: u64,
    first: Option<Time>,
    last: Option<Time>,
}

#[derive(Debug)]
pub(super) struct LossBased {
    observations: [Observation; OBSERVATIONS],
    /// Newest observation.
    at: usize,
    partial: Partial,
    bps: f64,
    /// Of the last observation: a lower rate than delay allows explains it better.
    limiting: bool,
    loss: f64,
}

impl LossBased {
    pub(super) fn new(bps: u64) -> LossBased {
        let bps = bps as f64;
        LossBased {
            observations: [Observation::default(); OBSERVATIONS],
            at: 0,
            partial: Partial::default(),
            bps,
            limiting: false,
            loss: 0.0,
        }
    }

    /// A packet was described; `late` is one that was called lost before and came after all.
    pub(super) fn on_packet(&mut self, sent: Time, bytes: usize, arrived: bool, late: bool) {
        let partial = &mut self.partial;
        if late {
            // One of an observation that is closed stays lost there, and takes no other's place here.
            if partial.first.is_some_and(|first| sent >= first) {
                partial.lost = partial.lost.saturating_sub(1);
            }
            return;
        }
        partial.packets = partial.packets.saturating_add(1);
        partial.lost = partial.lost.saturating_add(u32::from(!arrived));
        partial.bytes = partial.bytes.saturating_add(bytes as u64);
        partial.first = Some(partial.first.map_or(sent, |first| first.min(sent)));
        partial.last = Some(partial.last.map_or(sent, |last| last.max(sent)));
    }

    /// After a feedback: closes an observation that lasted long enough and chooses the bound anew.
    pub(super) fn update(&mut self, delay_based_bps: u64, acknowledged_bps: Option<u64>) {
        let Partial { packets, lost, bytes, first: Some(first), last: Some(last) } = self.partial else {
            return;
        };
        let us = last.since(first);
        if us < OBSERVATION_US || packets < OBSERVATION_PACKETS {
            return;
        }
        self.partial = Partial::default();
        self.at = (self.at + 1) % OBSERVATIONS;
        if let Some(place) = self.observations.get_mut(self.at) {
            *place = Observation { packets, lost, bps: (bytes as f64 * 8e6 / us as f64) as f32 };
        }
        self.loss = self.average_loss();
        let delay_based = delay_based_bps as f64;
        self.bps = self.best(delay_based, acknowledged_bps);
        self.limiting = self.bps < delay_based;
    }

    /// What may be sent as far as loss says.
    pub(super) fn bps(&self) -> u64 {
        if self.is_limiting() { self.bps as u64 } else { MAX_BPS }
    }

    /// Loss, not delay, limits.
    pub(super) fn is_limiting(&self) -> bool {
        self.limiting
    }

    /// Lost share of the last seconds.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// Newest first, with their weights.
    fn weighted(&self) -> impl Iterator<Item = (f64, Observation)> + '_ {
        let (newer, older) = self.observations.split_at((self.at + 1).min(OBSERVATIONS));
        newer.iter().rev().chain(older.iter().rev()).scan(1.0, |weight, observation| {
            let now = *weight;
            *weight *= FADE;
            Some((now, *observation))
        })
    }

    fn average_loss(&self) -> f64 {
        let (lost, packets) = self.weighted().fold((0.0, 0.0), |(lost, packets), (weight, seen)| {
            (lost + weight * f64::from(seen.lost), packets + weight * f64::from(seen.packets))
        });
        if packets > 0.0 { lost / packets } else { 0.0 }
    }

    fn best(&self, delay_based: f64, acknowledged_bps: Option<u64>) -> f64 {
        // What arrived is a way down, all at once; the delay-based estimate the way up.
        let down = acknowledged_bps.map(|bps| (bps as f64).min(self.bps));
        let around = FACTORS.iter().map(|factor| self.bps * factor);
        let mut best = (f64::NEG_INFINITY, self.bps);
        for bps in around.chain(down).chain([delay_based]) {
            let bps = bps.min(delay_based).max(MIN_BPS as f64);
            let score = self.score(bps);
            if score > best.0 {
                best = (score, bps);
            }
        }
        best.1
    }

    /// Logarithm of the likelihood of what was seen, were the bandwidth `bps`, and the preference for more.
    fn score(&self, bps: f64) -> f64 {
        let inherent = self.inherent(bps);
        let turn = BIAS_LOSS - self.loss;
        let preference = turn / (turn.abs() + BIAS_LOSS_RANGE);
        let kbps = bps / 1000.0;
        let bias = preference * (BIAS * kbps + LOG_BIAS * kbps.ln_1p());
        self.weighted()
            .map(|(weight, seen)| {
                let queue = queue_loss(f64::from(seen.bps), bps);
                let share = (inherent + (1.0 - inherent) * queue).clamp(INHERENT_MIN, 1.0 - INHERENT_MIN);
                let lost = f64::from(seen.lost);
                let packets = f64::from(seen.packets);
                weight * (lost * share.ln() + (packets - lost) * (1.0 - share).ln() + packets * bias)
            })
            .sum()
    }

    /// What is left of the loss when a queue at `bps` has taken its part.
    fn inherent(&self, bps: f64) -> f64 {
        let (left, base) = self.weighted().fold((0.0, 0.0), |(left, base), (weight, seen)| {
            let packets = f64::from(seen.packets);
            let queue = queue_loss(f64::from(seen.bps), bps);
            (
                left + weight * (f64::from(seen.lost) - packets * queue),
                base + weight * packets * (1.0 - queue),
            )
        });
        let max = (INHERENT_OFFSET + INHERENT_BALANCE_BPS / bps).min(1.0);
        if base > 0.0 { (left / base).clamp(INHERENT_MIN, max) } else { INHERENT_MIN }
    }
}

/// Share that does not fit.
fn queue_loss(sent_bps: f64, bps: f64) -> f64 {
    if sent_bps > bps { (sent_bps - bps) / sent_bps } else { 0.0 }
}
