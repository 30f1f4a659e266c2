//! Send-side bandwidth estimation of one subscriber: how much fits through its link, told by the transport-wide feedback
//! that describes when each packet arrived (draft-ietf-rmcat-gcc-02, and what the browsers do beyond it).
//!
//! A packet is noted when it is sent ([`history`]). Feedback goes packet by packet through grouping ([`inter_arrival`]), the
//! trend of the delay ([`trendline`]), the rate that arrives ([`acknowledged`]), the loss ([`loss`]) and the probe it may
//! belong to ([`probe`]); then once through the delay-based estimate ([`aimd`]). The smaller of delay and loss is the
//! target. Peers without such feedback have [`fallback`]. The same parts estimate what a publisher's link takes, where it
//! cannot do so itself ([`receive`]).

mod acknowledged;
mod aimd;
mod application_limited;
mod fallback;
mod figures;
mod history;
mod inter_arrival;
mod loss;
mod probe;
mod queue;
mod receive;
#[cfg(test)]
mod tests;
mod trendline;

use media::Time;
use rtc::rtcp::{Error, twcc};

use acknowledged::Acknowledged;
use aimd::Aimd;
use application_limited::ApplicationLimited;
use fallback::Fallback;
pub use figures::{EstimateCell, EstimateFigures, EstimateState};
use history::{Described, History};
use inter_arrival::{InterArrival, Step};
use loss::LossBased;
pub(crate) use probe::Probe;
use probe::{Prober, Wish};
use queue::Queue;
pub(crate) use receive::ReceiveEstimator;
use trendline::{Trendline, Usage};

/// What is sent before anything is known: a video of medium quality; 300 kbit/s, as browsers have it, shows a new viewer
/// the lowest layer for seconds.
pub(crate) const START_BPS: u64 = 1_000_000;
/// The estimate never falls below: audio, and what feedback needs to show that the link is better again.
pub(crate) const MIN_BPS: u64 = 50_000;
/// Nor rises above: no subscriber wants more.
pub(crate) const MAX_BPS: u64 = 100_000_000;
/// Before a round trip was measured (the browsers' value).
const RTT_US: i64 = 200_000;
const RTT_US_MAX: i64 = 10_000_000;
/// Packets that nobody answers for a round trip and this: the link is gone or full, half is sent. Feedback comes every 50
/// to 250 ms, so four in a row are lost.
const SILENCE_US: i64 = 1_000_000;
/// So much of the estimate arriving is all of it, but for what is in flight.
const FILLED_PERCENT: u64 = 85;
/// The reference time of a feedback wraps: 2^24 steps of 64 ms.
const ARRIVAL_WRAP_US: i64 = 64_000 << 24;

/// Of what arrives and makes no queue so much is taken to fit: less than all, or a queue that is there would stay.
const FITS_PERCENT: u64 = 90;
/// The estimate rises no further above what arrives than this, which fills it: the draft's 1.5 times (section 5.5) took a stream of 80 % of
/// its link to 125 % of that, which nothing ever showed to fit. What is beyond, probes find.
const CEILING: f64 = 1.2;
/// A queue that is longer than ours would be on a link of the estimate's rate, by no more than this, is ours: jitter does as much.
const BEYOND_US: i64 = 10_000;
/// Where more is lost, the queue may be so short that it shows nothing.
const LOSS_OURS: f64 = 0.05;
/// A queue shorter than this is no sign that the link is full, unless it is a short one: then it loses at least so much.
const QUEUE_US_SHORT: i64 = 50_000;
const LOSS_SHORT: f64 = 0.01;
/// Where more than this share is lost, what arrives is no proof that it fits: the path may lose what is too much without a queue.
pub(crate) const LOSS_MAX: f64 = 0.12;

/// What each packet touches, side by side: with thousands of subscribers the rest is not in a cache.
#[derive(Debug)]
struct Outgoing {
    history: History,
    application: ApplicationLimited,
    /// Since when packets are on the way and no feedback came.
    unanswered: Option<Time>,
    /// A transport-wide feedback came: from then on reports and REMB are not listened to.
    heard: bool,
    /// Sent since the last report, while none came.
    unheard_bytes: usize,
}

/// Fewer say nothing about a rate; and so much is chance.
const ARRIVED_BYTES_MIN: u64 = 4_000;
const ARRIVED_JITTER_US: i64 = 5_000;

/// The packets of one feedback: those behind the first took the time since it, to be sent and, by the receiver's clock, to arrive.
#[derive(Clone, Copy, Default, Debug)]
struct Arrived {
    first: Option<(Time, i64)>,
    sent_us: i64,
    arrived_us: i64,
    bytes: u64,
}

/// At which rate a feedback's packets arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arrival {
    pub(crate) bps: u64,
    /// They took longer than to be sent: that is the link's rate.
    pub(crate) behind: bool,
}

impl Arrived {
    fn on_packet(&mut self, sent: Time, arrival_us: i64, bytes: usize) {
        let Some((first, first_us)) = self.first else {
            self.first = Some((sent, arrival_us));
            return;
        };
        self.sent_us = self.sent_us.max(sent.since(first));
        self.arrived_us = self.arrived_us.max(arrival_us.saturating_sub(first_us));
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    fn arrival(&self) -> Option<Arrival> {
        let bps = self.bytes.saturating_mul(8_000_000) / self.arrived_us.max(1).unsigned_abs();
        let behind = self.arrived_us > self.sent_us.saturating_mul(5) / 4 + ARRIVED_JITTER_US;
        (self.bytes >= ARRIVED_BYTES_MIN).then_some(Arrival { bps, behind })
    }
}

/// The estimator of one subscriber's session.
#[derive(Debug)]
pub(crate) struct Estimator {
    outgoing: Outgoing,
    inter_arrival: InterArrival,
    trendline: Trendline,
    acknowledged: Acknowledged,
    aimd: Aimd,
    loss: LossBased,
    prober: Prober,
    queue: Queue,
    fallback: Fallback,
    demand_bps: u64,
    /// What arrived lately and made no queue, while little was lost: it fits, whatever else was concluded.
    fits_bps: u64,
    reported: bool,
    /// No more than the estimate is sent at any time: no queue is a burst's.
    paced: bool,
    /// What the last feedback's packets arrived at.
    arrived: Arrived,
    /// Receiver's clock of the last packet, unwrapped.
    arrival_us: Option<i64>,
    rtt_us: Option<i64>,
    /// The estimate was halved for that, and no feedback came since.
    silent: bool,
}

impl Estimator {
    /// Begins at [`START_BPS`]; probes once feedback comes and more is wanted.
    pub(crate) fn new(now: Time) -> Estimator {
        Estimator {
            outgoing: Outgoing {
                history: History::default(),
                application: ApplicationLimited::new(START_BPS, now),
                unanswered: None,
                heard: false,
                unheard_bytes: 0,
            },
            inter_arrival: InterArrival::default(),
            trendline: Trendline::default(),
            acknowledged: Acknowledged::default(),
            aimd: Aimd::new(START_BPS, now),
            loss: LossBased::new(START_BPS),
            prober: Prober::new(),
            queue: Queue::default(),
            fallback: Fallback::new(START_BPS, now),
            demand_bps: 0,
            fits_bps: 0,
            reported: false,
            paced: false,
            arrived: Arrived::default(),
            arrival_us: None,
            rtt_us: None,
            silent: false,
        }
    }

    /// Notes a packet of `bytes`, of probe `probe` if it belongs to one, and returns the transport-wide number to write into it.
    pub(crate) fn on_sent(&mut self, bytes: usize, probe: Option<u8>, now: Time) -> u16 {
        if !self.outgoing.heard {
            self.outgoing.unheard_bytes = self.outgoing.unheard_bytes.saturating_add(bytes);
        }
        self.outgoing.application.on_sent(bytes, now);
        self.outgoing.unanswered.get_or_insert(now);
        self.outgoing.history.push(bytes, probe.unwrap_or(0), now)
    }

    /// The receiver can ask for the packet noted last by this number of its stream's.
    pub(crate) fn numbered(&mut self, number: u16) {
        self.outgoing.history.numbered(number);
    }

    /// A transport-wide feedback; `lost` is told of each packet with a number that it first says is lost, and when that was sent. On an error those packets count that it described before.
    pub(crate) fn on_feedback(
        &mut self,
        fci: &[u8],
        now: Time,
        mut lost: impl FnMut(u16, Time),
    ) -> Result<(), Error> {
        let mut described = 0_usize;
        self.arrived = Arrived::default();
        let mut newest = None;
        let read = twcc::decode(fci, |seq, arrival_us| {
            let arrival_us = arrival_us.map(|at| self.unwrap_arrival(at));
            let Some(packet) = self.outgoing.history.describe(seq, arrival_us.is_some(), now) else { return };
            described = described.saturating_add(1);
            if !packet.late {
                self.queue.on_sent(packet.sent, packet.bytes, self.aimd.bps());
            }
            self.loss.on_packet(packet.sent, packet.bytes, packet.arrived, packet.late);
            if let Some(number) = packet.number.filter(|_| !packet.arrived) {
                lost(number, packet.sent);
            }
            if packet.probe != 0 {
                self.prober.on_packet(packet.probe, packet.sent, packet.bytes, arrival_us);
            }
            if let Some(at) = arrival_us {
                newest = Some(packet.sent);
                self.on_arrival(packet, at, now);
            }
        });
        if described > 0 {
            self.outgoing.history.trim(now);
            self.after_feedback(newest, now);
        }
        read.map(|_| ())
    }

    fn on_arrival(&mut self, packet: Described, arrival_us: i64, now: Time) {
        self.arrived.on_packet(packet.sent, arrival_us, packet.bytes);
        match self.inter_arrival.on_packet(packet.sent, arrival_us, now) {
            Step::Nothing => {}
            Step::Delta(delta) => self.trendline.on_delta(delta),
            Step::Reset => {
                (self.trendline, self.queue) = (Trendline::default(), Queue::default());
                self.acknowledged.on_gap();
            }
        }
        self.queue.on_packet(packet.sent, arrival_us);
        if packet.gap {
            self.acknowledged.on_gap();
        }
        if self.outgoing.application.take_resumed(packet.sent) {
            self.acknowledged.on_change();
        }
        self.acknowledged.on_packet(packet.sent, arrival_us, packet.bytes);
    }

    fn after_feedback(&mut self, newest: Option<Time>, now: Time) {
        if !self.outgoing.heard {
            self.outgoing.heard = true;
            self.prober.begin(now);
        }
        if std::mem::take(&mut self.silent) {
            self.prober.restart(now);
        }
        self.outgoing.unanswered = None;
        // The time of a feedback is the round trip and the receiver's wait; reports, if any, know better.
        if let Some(sent) = newest.filter(|_| !self.reported) {
            self.smooth_rtt(now.since(sent));
        }
        let rtt_us = self.rtt_us();
        let usage = self.trendline.usage();
        let behind_bps = self.acknowledged.behind_bps();
        // A key frame's or a probe's queue is ours: the estimate waits until it is gone.
        let ours = usage == Usage::Over
            && !self.paced
            && self.queue.beyond_us() < BEYOND_US
            && self.loss.loss() < LOSS_OURS;
        // A probe's queue is its own, and a short one that loses nothing may be a burst's, as of a frame: what arrives is not what fits.
        let short = self.queue.us() < QUEUE_US_SHORT && self.loss.loss() < LOSS_SHORT;
        let idle = (short || self.outgoing.application.is_idle(now) || self.prober.is_probing(now, rtt_us))
            && behind_bps.is_none();
        if !self.take_probe_result(now) {
            let input = aimd::Input {
                usage: if ours { Usage::Under } else { usage },
                // What is averaged lags behind a link that was just filled, or became narrow.
                acknowledged_bps: behind_bps.filter(|_| usage == Usage::Over).or(self.acknowledged.bps()),
                confirmed_bps: self.acknowledged.confirmed_bps(),
                ceiling: CEILING,
                application_limited: self.outgoing.application.is_limited(),
                idle,
                rtt_us,
            };
            self.aimd.update(input, now);
        }
        let fits = self.aimd.state() == aimd::State::Increase && self.loss.loss() < LOSS_MAX;
        self.fits_bps = self.acknowledged.confirmed_bps().filter(|_| fits).unwrap_or(0) * FITS_PERCENT / 100;
        if self.fits_bps > self.aimd.bps() {
            self.aimd.set(self.fits_bps, now);
        }
        if usage == Usage::Over {
            self.prober.on_overuse(self.acknowledged.bps().filter(|_| !idle && !ours), now);
        }
        self.loss.update(self.aimd.bps(), self.acknowledged.bps());
        self.prober.on_estimate(self.target_bps(), now);
        self.outgoing.application.set_target(self.target_bps());
    }

    /// A probe raises the estimate, never lowers it: that is overuse's to do, which sees more than one run.
    fn take_probe_result(&mut self, now: Time) -> bool {
        let found = self.prober.result(self.aimd.bps(), now);
        let better = found.filter(|bps| *bps > self.aimd.bps() && !self.congested());
        if let Some(bps) = better {
            self.aimd.set(bps, now);
        }
        better.is_some()
    }

    /// A receiver report: RTT in microseconds, and the share lost in 1/256 for peers without feedback.
    pub(crate) fn on_report(&mut self, fraction_lost: u8, rtt_us: i64, now: Time) {
        self.reported = true;
        self.smooth_rtt(rtt_us);
        self.fallback.on_sent(std::mem::take(&mut self.outgoing.unheard_bytes));
        self.fallback.on_report(fraction_lost, now);
        self.outgoing.application.set_target(self.target_bps());
    }

    /// A REMB: what the receiver thinks fits. Only peers without transport-wide feedback are asked.
    pub(crate) fn on_remb(&mut self, bps: u64, now: Time) {
        self.fallback.on_remb(bps, now);
        self.outgoing.application.set_target(self.target_bps());
    }

    /// Whether transport-wide feedback came.
    pub(crate) fn is_heard(&self) -> bool {
        self.outgoing.heard
    }

    /// So much arrived while more was sent and waited: the link takes it.
    pub(crate) fn carries(&mut self, bps: u64, now: Time) {
        let bps = bps / 100 * FITS_PERCENT;
        if bps > self.aimd.bps() {
            self.aimd.set(bps, now);
        }
    }

    /// Whether the pacer keeps to the estimate from now on. Where it does not, a key frame goes out at once.
    pub(crate) fn set_paced(&mut self, paced: bool) {
        self.paced = paced;
    }

    /// The most that is wanted now (best layer of all tracks): no probes once the estimate is above, none of more than
    /// twice this.
    pub(crate) fn set_demand(&mut self, bps: u64) {
        self.demand_bps = bps;
    }

    /// What is due: silence is answered by sending less; a probe is returned.
    pub(crate) fn poll(&mut self, now: Time) -> Option<Probe> {
        // Nothing was sent up to now: what was last sent does not fill the estimate for ever.
        self.outgoing.application.on_sent(0, now);
        if self.silence().is_some_and(|due| now >= due) {
            self.aimd.set(self.target_bps() / 2, now);
            (self.outgoing.unanswered, self.silent) = (Some(now), true);
        }
        self.take_probe_result(now);
        let target = self.target_bps();
        self.outgoing.application.set_target(target);
        let filled = |bps: u64| bps >= target.saturating_mul(FILLED_PERCENT) / 100;
        let wish = Wish {
            estimate_bps: target,
            // A stream that is held sends nothing, and what it sent before fills nothing now.
            filled: self.acknowledged.bps().is_some_and(filled) && !self.outgoing.application.is_limited(),
            demand_bps: self.demand_bps,
            held: self.congested() || self.loss.is_limiting() || self.silent,
            rtt_us: self.rtt_us(),
        };
        self.prober.poll(wish, now)
    }

    /// When to poll again.
    pub(crate) fn next_poll(&self) -> Time {
        self.prober.next_poll().min(self.silence().unwrap_or(Time::MAX))
    }

    /// What may be sent, media and retransmissions and all.
    pub(crate) fn target_bps(&self) -> u64 {
        if !self.outgoing.heard {
            return self.fallback.bps();
        }
        self.aimd.bps().min(self.loss.bps().max(self.fits_bps)).max(MIN_BPS)
    }

    /// What the peer said itself that fits, where there is no feedback to tell by.
    pub(crate) fn told_bps(&self) -> Option<u64> {
        self.fallback.told_bps().filter(|_| !self.outgoing.heard)
    }

    /// How the last feedback's packets arrived; `None` of a few alone, or before feedback.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.arrived.arrival()
    }

    /// What waits on the link, as time, in microseconds.
    pub(crate) fn queue_us(&self) -> i64 {
        self.queue.us()
    }

    /// The queue grows now.
    pub(crate) fn congested(&self) -> bool {
        self.trendline.usage() == Usage::Over
    }

    /// Lost share of what was sent in the last seconds, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        if self.outgoing.heard { self.loss.loss() } else { self.fallback.loss() }
    }

    /// What each part thinks.
    pub(crate) fn figures(&self) -> EstimateFigures {
        EstimateFigures {
            state: self.state(),
            probing: self.prober.is_on_the_way(),
            delay_bps: if self.outgoing.heard { self.aimd.bps() } else { 0 },
            loss_bps: if self.loss.is_limiting() { self.loss.bps() } else { 0 },
            arrives_bps: self.acknowledged.bps().unwrap_or(0),
            loss: self.loss(),
        }
    }

    fn state(&self) -> EstimateState {
        match self.aimd.state() {
            _ if !self.outgoing.heard && !self.reported => EstimateState::Start,
            _ if !self.outgoing.heard => EstimateState::Reports,
            _ if self.silent => EstimateState::Silent,
            _ if self.congested() => EstimateState::Decrease,
            _ if self.loss.is_limiting() => EstimateState::Loss,
            _ if self.outgoing.application.is_limited() => EstimateState::ApplicationLimited,
            aimd::State::Decrease => EstimateState::Decrease,
            aimd::State::Hold => EstimateState::Hold,
            aimd::State::Increase => EstimateState::Increase,
        }
    }

    /// Since when packets went out that no feedback answered, at a peer that sends any.
    pub(crate) fn unanswered(&self) -> Option<Time> {
        self.outgoing.unanswered.filter(|_| self.outgoing.heard)
    }

    fn silence(&self) -> Option<Time> {
        let since = self.unanswered()?;
        Some(since.plus_us(self.rtt_us()).plus_us(SILENCE_US))
    }

    fn rtt_us(&self) -> i64 {
        self.rtt_us.unwrap_or(RTT_US)
    }

    /// RFC 6298 section 2: an eighth of the new one.
    fn smooth_rtt(&mut self, us: i64) {
        let us = us.clamp(0, RTT_US_MAX);
        self.rtt_us = Some(self.rtt_us.map_or(us, |old| old - old / 8 + us / 8));
    }

    /// The arrival nearest to the last one of those that the wrapped one may mean.
    fn unwrap_arrival(&mut self, us: i64) -> i64 {
        let at = match self.arrival_us {
            None => us,
            Some(last) => {
                let ahead = us.wrapping_sub(last).rem_euclid(ARRIVAL_WRAP_US);
                let ahead = if ahead > ARRIVAL_WRAP_US / 2 { ahead - ARRIVAL_WRAP_US } else { ahead };
                last.saturating_add(ahead)
            }
        };
        self.arrival_us = Some(at);
        at
    }
}
