//! For peers without transport-wide feedback: loss of the receiver reports, with REMB (draft-alvestrand-rmcat-remb-03) as cap.

use media::Time;

use super::{MAX_BPS, MIN_BPS};

/// Loss below which more is tried, and above which less is sent (draft-ietf-rmcat-gcc-02 section 6): 2 % and 10 %.
const LOSS_LOW: f64 = 0.02;
const LOSS_HIGH: f64 = 0.1;
const INCREASE_PER_S: f64 = 1.08;
/// Nothing is believed beyond so much of what was sent.
const CEILING_PERCENT: u64 = 150;
/// A REMB that was not repeated (they come every second) caps no more.
const REMB_US: i64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Fallback {
    bps: u64,
    remb: Option<(u64, Time)>,
    loss: f64,
    reported: Time,
    sent_bytes: u64,
    sent_bps: u64,
}

impl Fallback {
    pub(super) fn new(bps: u64, now: Time) -> Fallback {
        Fallback { bps, remb: None, loss: 0.0, reported: now, sent_bytes: 0, sent_bps: 0 }
    }

    pub(super) fn bps(&self) -> u64 {
        self.bps
    }

    /// What the peer said last that fits.
    pub(super) fn told_bps(&self) -> Option<u64> {
        self.remb.map(|(bps, _)| bps)
    }

    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    pub(super) fn on_sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes as u64);
    }

    pub(super) fn on_report(&mut self, fraction_lost: u8, now: Time) {
        let us = now.since(self.reported);
        // Reports of one compound, or a flood: the first one counts.
        if us < 500_000 {
            return;
        }
        self.reported = now;
        self.sent_bps = self.sent_bytes.saturating_mul(8_000_000) / us.unsigned_abs();
        self.sent_bytes = 0;
        self.loss = f64::from(fraction_lost) / 256.0;
        let bps = self.bps as f64;
        if self.loss < LOSS_LOW {
            let seconds = (us as f64 / 1e6).min(5.0);
            self.raise((bps * INCREASE_PER_S.powf(seconds)) as u64, now);
        } else if self.loss > LOSS_HIGH {
            self.bps = ((bps * (1.0 - 0.5 * self.loss)) as u64).max(MIN_BPS);
        }
    }

    /// Down at once; up to what the receiver measured, as far as that much was nearly sent and nothing is lost.
    pub(super) fn on_remb(&mut self, remb_bps: u64, now: Time) {
        self.remb = Some((remb_bps, now));
        if remb_bps < self.bps {
            self.bps = remb_bps.max(MIN_BPS);
        } else if self.loss < LOSS_LOW {
            self.raise(remb_bps, now);
        }
    }

    fn raise(&mut self, bps: u64, now: Time) {
        let ceiling = self.sent_bps.saturating_mul(CEILING_PERCENT) / 100;
        let remb = self.remb.filter(|(_, at)| now.since(*at) <= REMB_US).map_or(MAX_BPS, |(bps, _)| bps);
        self.bps = self.bps.max(bps.min(ceiling).min(remb).min(MAX_BPS));
    }
}
