//! Probes: short runs of packets above the estimate, to learn whether more fits. A first one of 3 times the start, doubled
//! while it fits; then 120 % now and then while more is wanted.

use media::Time;

use super::{MAX_BPS, START_BPS};

/// Send so many bytes at this rate. Every packet sent meanwhile, media too, is marked with `id` at
/// [`super::Estimator::on_sent`]: one left out stretches the run and makes the result too small.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    pub(crate) id: u8,
    pub(crate) bps: u64,
    pub(crate) bytes: usize,
}

/// The first probe (media notes section 1; the browsers' 3 and 6): the second follows by [`DOUBLE_PERCENT`].
const FIRST: u64 = 3;
/// A first probe, and one that follows a probe that fitted, is short: what it overshoots is twice the link.
const SHORT_US: u64 = 20_000;
/// A run shorter than this in bytes says nothing of the rate.
const BYTES_MIN: u64 = 6 * 1200;
/// Media notes section 1: 120 %, 200 kbit/s at least, for 200 ms.
const STEP_PERCENT: u64 = 120;
const STEP_BPS_MIN: u64 = 200_000;
const STEP_US: u64 = 200_000;
/// Media notes section 1: every 3 s, 1.5 times later after each that failed, up to 2 minutes.
const INTERVAL_US: i64 = 3_000_000;
const INTERVAL_US_MAX: i64 = 120_000_000;
/// When there is no need, or the queue grows: asked again soon, as demand and calm come at any time, but not so soon that
/// the timers of ten thousand idle subscribers count.
const AGAIN_US: i64 = 1_000_000;
/// Bytes of it that must have arrived.
const ARRIVED_PERCENT: u64 = 80;
/// A result of at least this share of the probe: it fitted, double it.
const DOUBLE_PERCENT: u64 = 70;
/// Received slower than this share of how it was sent: the link is full, and a little is left free.
const FULL_SHARE: f64 = 0.9;
const FREE_SHARE: f64 = 0.95;
/// Received so much faster than sent: it waited somewhere and says nothing.
const FASTER_MAX: f64 = 2.0;
/// Answers come within the round trip and this, or are not waited for.
const WAIT_US: i64 = 1_000_000;
/// The trend of the delay is that of about so much time.
const TREND_US: i64 = 300_000;
/// The estimate moved so far from what was last seen to be the most: it is another link, probe at once.
const FELL_PERCENT: u64 = 66;
const ROSE_PERCENT: u64 = 120;

/// A probe on the way, and what of it came back.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    probe: Probe,
    deadline: Time,
    described_bytes: u64,
    arrived_bytes: u64,
    /// Of the packets that arrived: first and last sent, and the last's bytes.
    sent: Option<(Time, Time, u64)>,
    /// First and last arrival, and the first's bytes.
    arrival: Option<(i64, i64, u64)>,
}

#[derive(Debug)]
pub(super) struct Prober {
    cluster: Option<Cluster>,
    /// Rate of the next one, when the last one fitted.
    double_bps: Option<u64>,
    next: Option<Time>,
    /// The next one goes out whether media fills the estimate or not.
    urgent: bool,
    interval_us: i64,
    id: u8,
    /// What fitted when the queue last grew, or the estimate when the last probe found no more.
    failed_at_bps: Option<u64>,
    /// When the last one came to its end.
    ended: Option<Time>,
}

/// What the estimator knows when a probe may be due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) estimate_bps: u64,
    pub(super) demand_bps: u64,
    /// The queue grows or loss limits: not now.
    pub(super) held: bool,
    /// Media uses the estimate up, so it tries more itself, 8 % a second: 120 % on top only makes a queue, which costs
    /// 15 % (measured on a steady link of 2 Mbit/s: mean 1.70 Mbit/s with such probes, 1.84 without).
    pub(super) filled: bool,
    pub(super) rtt_us: i64,
}

impl Prober {
    pub(super) fn new() -> Prober {
        Prober {
            cluster: None,
            double_bps: None,
            next: None,
            urgent: false,
            interval_us: INTERVAL_US,
            id: 0,
            failed_at_bps: None,
            ended: None,
        }
    }

    /// One was sent, and has not come back.
    pub(super) fn is_on_the_way(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether a probe is on the way, or its queue may still be: for a round trip and as long as the trend looks back.
    pub(super) fn is_probing(&self, now: Time, rtt_us: i64) -> bool {
        let lasts_us = rtt_us.saturating_add(TREND_US);
        self.cluster.is_some() || self.ended.is_some_and(|ended| now.since(ended) < lasts_us)
    }

    /// The first feedback came: the peer answers, so probes are of use.
    pub(super) fn begin(&mut self, now: Time) {
        (self.double_bps, self.next) = (Some(FIRST * START_BPS), Some(now));
    }

    /// The queue grew while `fits_bps` arrived: that is what the link has, if media filled it.
    pub(super) fn on_overuse(&mut self, fits_bps: Option<u64>, now: Time) {
        self.double_bps = None;
        self.failed_at_bps = fits_bps.or(self.failed_at_bps);
        self.next = self.next.map(|next| next.max(now.plus_us(INTERVAL_US)));
    }

    /// The link is another one, or was gone: what failed before says nothing.
    pub(super) fn restart(&mut self, now: Time) {
        (self.interval_us, self.failed_at_bps, self.double_bps) = (INTERVAL_US, None, None);
        self.next = self.next.map(|next| next.min(now));
        self.urgent = true;
    }

    /// After a feedback: whether the estimate has left the range of the last failure. Upwards a probe is due at once,
    /// downwards only when the queue is gone.
    pub(super) fn on_estimate(&mut self, bps: u64, now: Time) {
        let Some(failed) = self.failed_at_bps else { return };
        if bps > failed.saturating_mul(ROSE_PERCENT) / 100 {
            self.restart(now);
        } else if bps < failed.saturating_mul(FELL_PERCENT) / 100 {
            (self.interval_us, self.failed_at_bps) = (INTERVAL_US, None);
            self.next = self.next.map(|next| next.min(now.plus_us(INTERVAL_US)));
        }
    }

    pub(super) fn next_poll(&self) -> Time {
        match self.cluster {
            Some(cluster) => cluster.deadline,
            None => self.next.unwrap_or(Time::MAX),
        }
    }

    pub(super) fn poll(&mut self, wish: Wish, now: Time) -> Option<Probe> {
        if self.cluster.is_some() || self.next.is_none_or(|next| now < next) {
            return None;
        }
        let filled = wish.filled && !self.urgent && self.double_bps.is_none();
        if wish.estimate_bps >= wish.demand_bps || wish.held || filled {
            self.next = Some(now.plus_us(AGAIN_US));
            return None;
        }
        self.urgent = false;
        let limit_bps = wish.demand_bps.saturating_mul(2).min(MAX_BPS);
        let step_bps = (wish.estimate_bps.saturating_mul(STEP_PERCENT) / 100)
            .max(wish.estimate_bps.saturating_add(STEP_BPS_MIN));
        let (bps, us) = match self.double_bps.take() {
            Some(bps) if bps.min(limit_bps) > wish.estimate_bps => (bps.min(limit_bps), SHORT_US),
            _ => (step_bps.min(limit_bps), STEP_US),
        };
        let bytes = (bps.saturating_mul(us) / 8_000_000).max(BYTES_MIN);
        // 0 is no probe.
        self.id = self.id.checked_add(1).unwrap_or(1);
        let probe = Probe { id: self.id, bps, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) };
        let takes_us = i64::try_from(bytes.saturating_mul(8_000_000) / bps.max(1)).unwrap_or(i64::MAX);
        let deadline = now.plus_us(takes_us).plus_us(wish.rtt_us).plus_us(WAIT_US);
        self.cluster = Some(Cluster {
            probe,
            deadline,
            described_bytes: 0,
            arrived_bytes: 0,
            sent: None,
            arrival: None,
        });
        Some(probe)
    }

    /// A packet marked `id` was described; arrived at `arrival_us`, or `None` when it is lost.
    pub(super) fn on_packet(&mut self, id: u8, sent: Time, bytes: usize, arrival_us: Option<i64>) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.probe.id == id) else { return };
        let bytes = bytes as u64;
        cluster.described_bytes = cluster.described_bytes.saturating_add(bytes);
        let Some(at) = arrival_us else { return };
        cluster.arrived_bytes = cluster.arrived_bytes.saturating_add(bytes);
        cluster.sent = Some(match cluster.sent {
            None => (sent, sent, bytes),
            Some((first, last, _)) if sent >= last => (first.min(sent), sent, bytes),
            Some((first, last, last_bytes)) => (first.min(sent), last, last_bytes),
        });
        cluster.arrival = Some(match cluster.arrival {
            None => (at, at, bytes),
            Some((first, last, _)) if at < first => (at, last, bytes),
            Some((first, last, first_bytes)) => (first, last.max(at), first_bytes),
        });
    }

    /// The rate that a probe found, if it is valid, once all of it was described or too much time has passed.
    pub(super) fn result(&mut self, estimate_bps: u64, now: Time) -> Option<u64> {
        let complete = |cluster: &Cluster| {
            cluster.described_bytes >= cluster.probe.bytes as u64 || now >= cluster.deadline
        };
        let cluster = self.cluster.take_if(|cluster| complete(cluster))?;
        self.ended = Some(now);
        let bps = cluster.bps();
        let better = bps.filter(|bps| *bps > estimate_bps.saturating_mul(105) / 100);
        match better {
            Some(bps) if bps >= cluster.probe.bps.saturating_mul(DOUBLE_PERCENT) / 100 => {
                self.interval_us = INTERVAL_US;
                self.double_bps = Some(bps.saturating_mul(2));
                self.next = Some(now);
            }
            Some(_) => {
                self.interval_us = INTERVAL_US;
                self.next = Some(now.plus_us(self.interval_us));
            }
            None => {
                self.next = Some(now.plus_us(self.interval_us));
                self.interval_us = (self.interval_us.saturating_mul(3) / 2).min(INTERVAL_US_MAX);
                self.failed_at_bps = Some(estimate_bps);
            }
        }
        bps
    }
}

impl Cluster {
    fn bps(&self) -> Option<u64> {
        let planned = self.probe.bytes as u64;
        if self.arrived_bytes.saturating_mul(100) < planned.saturating_mul(ARRIVED_PERCENT) {
            return None;
        }
        let (first_sent, last_sent, last_bytes) = self.sent?;
        let (first_arrival, last_arrival, first_bytes) = self.arrival?;
        let send = rate(self.arrived_bytes.saturating_sub(last_bytes), last_sent.since(first_sent))?;
        let receive =
            rate(self.arrived_bytes.saturating_sub(first_bytes), last_arrival.saturating_sub(first_arrival))?;
        if receive > FASTER_MAX * send {
            return None;
        }
        let found = if receive < FULL_SHARE * send { FREE_SHARE * receive } else { receive.min(send) };
        // What it was asked to be: a pacer that sent it all at once proves no more.
        Some((found as u64).min(self.probe.bps))
    }
}

fn rate(bytes: u64, us: i64) -> Option<f64> {
    (us > 0 && us < WAIT_US).then(|| bytes as f64 * 8e6 / us as f64)
}
