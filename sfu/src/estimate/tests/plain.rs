//! The estimator once more, as its sources describe it and as plainly as that goes: everything that came is kept, and each part
//! works its answer out anew from the first packet on. Of draft-ietf-rmcat-gcc-02: groups (5.2), threshold (5.4), AIMD (5.5).
//! Trendline, acknowledged rate, application-limited budget and loss-based bound are the browsers'.

use media::Time;
use rtc::rtcp::twcc::decode;

use crate::estimate::aimd::State;
use crate::estimate::inter_arrival::Delta;
use crate::estimate::trendline::Usage;
use crate::estimate::{Estimator, START_BPS};

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Nothing,
    Lost,
    Arrived,
}

struct Packet {
    sent_us: i64,
    bytes: f64,
    known: Known,
}

/// A packet that a feedback said for the first time to have arrived.
#[derive(Clone, Copy)]
struct Arrival {
    sent_us: i64,
    arrival_us: i64,
    /// When the feedback came.
    described_us: i64,
    bytes: f64,
    /// The number before it is not described.
    gap: bool,
    /// First after little was sent.
    resumed: bool,
}

/// What a feedback was the first to say, or to say otherwise.
struct Described {
    sent_us: i64,
    bytes: f64,
    /// The delay-based estimate at that time.
    estimate_bps: f64,
    late: bool,
    /// Which of the arrivals it is.
    arrival: Option<usize>,
}

#[derive(Clone, Copy)]
struct Observation {
    packets: f64,
    lost: f64,
    bps: f64,
}

/// What the arrivals say at one feedback. Rates in bit/s.
struct Seen {
    usage: Usage,
    threshold_ms: f64,
    acknowledged: Option<f64>,
    confirmed: Option<f64>,
    behind: Option<f64>,
    /// The queue, and how much of it is beyond ours.
    queue_us: (i64, i64),
}

pub(super) struct Plain {
    seen: Option<Seen>,
    pub(super) feedbacks: usize,
    packets: Vec<Packet>,
    described: Vec<Described>,
    arrivals: Vec<Arrival>,
    last_arrival_us: Option<i64>,
    /// Of what was described since the last observation: when sent, bytes, lost.
    observed: Vec<(i64, f64, bool)>,
    observations: Vec<Observation>,
    loss_bps: f64,
    loss_limits: bool,
    pub(super) rtt_us: Option<i64>,
    heard: bool,
    unanswered_us: Option<i64>,
    // AIMD
    pub(super) delay_bps: f64,
    pub(super) state: State,
    changed_us: i64,
    decreased_us: Option<i64>,
    /// What arrived at each overuse since the capacity was last forgotten; and the deviations, which are not.
    overuses: Vec<f64>,
    deviation: f64,
    fits_bps: f64,
    // budget
    left_us: f64,
    spent_us: i64,
    pub(super) limited: bool,
    idle_us: i64,
    resumed_us: Option<i64>,
    share_bps: f64,
}

impl Plain {
    pub(super) fn new() -> Plain {
        Plain {
            seen: None,
            feedbacks: 0,
            packets: Vec::new(),
            described: Vec::new(),
            arrivals: Vec::new(),
            last_arrival_us: None,
            observed: Vec::new(),
            observations: Vec::new(),
            loss_bps: START_BPS as f64,
            loss_limits: false,
            rtt_us: None,
            heard: false,
            unanswered_us: None,
            delay_bps: START_BPS as f64,
            state: State::Hold,
            changed_us: 0,
            decreased_us: None,
            overuses: Vec::new(),
            deviation: 0.4,
            fits_bps: 0.0,
            left_us: 0.0,
            spent_us: 0,
            limited: false,
            idle_us: 0,
            resumed_us: None,
            share_bps: 0.65 * START_BPS as f64,
        }
    }

    pub(super) fn target_bps(&self) -> f64 {
        let loss = if self.loss_limits { self.loss_bps } else { 100e6 };
        self.delay_bps.min(loss.max(self.fits_bps)).max(50e3)
    }

    pub(super) fn on_sent(&mut self, bytes: usize, now: Time) {
        self.spend(bytes as f64, now);
        self.unanswered_us.get_or_insert(now.us());
        self.packets.push(Packet { sent_us: now.us(), bytes: bytes as f64, known: Known::Nothing });
    }

    /// The estimator was asked what is due: little sent is seen.
    pub(super) fn on_poll(&mut self, now: Time) {
        self.spend(0.0, now);
        self.share_bps = 0.65 * self.target_bps().floor();
    }

    /// Nobody answers for a round trip and a second: half.
    pub(super) fn on_time(&mut self, now: Time) {
        let rtt_us = self.rtt_us.unwrap_or(200_000);
        if self.heard && self.unanswered_us.is_some_and(|since| now.us() >= since + rtt_us + 1_000_000) {
            self.delay_bps = (self.target_bps() as u64 / 2).max(50_000) as f64;
            (self.changed_us, self.unanswered_us) = (now.us(), Some(now.us()));
        }
    }

    /// 65 % of the estimate fills half a second's budget; what is sent empties it.
    fn spend(&mut self, bytes: f64, now: Time) {
        let us = (now.us() - self.spent_us) as f64;
        self.spent_us = now.us();
        self.left_us = (self.left_us + us - bytes * 8e6 / self.share_bps).clamp(-100e3, 500e3);
        let limited = self.left_us > 400e3 || (self.limited && self.left_us >= 250e3);
        if self.limited && !limited {
            self.resumed_us = Some(now.us());
        }
        self.limited = limited;
        if self.left_us > 0.0 {
            self.idle_us = now.us();
        }
    }

    pub(super) fn on_feedback(&mut self, fci: &[u8], now: Time) {
        let mut list = Vec::new();
        decode(fci, |seq, arrival_us| list.push((seq, arrival_us))).unwrap();
        let (mut any, mut newest) = (false, None);
        for (seq, arrival_us) in list {
            let arrival_us = arrival_us.map(|us| {
                // The receiver's clock is 24 bits of 64 ms: the moment nearest to the last.
                let wrap_us = 64_000_i64 << 24;
                let last = self.last_arrival_us.unwrap_or(us);
                let near = us + (last - us + wrap_us / 2).div_euclid(wrap_us) * wrap_us;
                self.last_arrival_us = Some(near);
                near
            });
            // The newest packet with these 16 bits.
            let newest_index = self.packets.len() - 1;
            let at = newest_index - usize::from((newest_index as u16).wrapping_sub(seq));
            let gap = at > 0 && self.packets[at - 1].known == Known::Nothing;
            let packet = &mut self.packets[at];
            let known = if arrival_us.is_some() { Known::Arrived } else { Known::Lost };
            if packet.known == Known::Arrived || packet.known == known {
                continue;
            }
            any = true;
            self.described.push(Described {
                sent_us: packet.sent_us,
                bytes: packet.bytes,
                estimate_bps: self.delay_bps.floor(),
                late: packet.known == Known::Lost,
                arrival: arrival_us.map(|_| self.arrivals.len()),
            });
            if packet.known == Known::Lost {
                // One sent before all of this observation is another's. Which of these is lost does not matter.
                if self.observed.iter().any(|o| o.0 <= packet.sent_us) {
                    self.observed.iter_mut().find(|o| o.2).into_iter().for_each(|o| o.2 = false);
                }
            } else {
                self.observed.push((packet.sent_us, packet.bytes, arrival_us.is_none()));
            }
            packet.known = known;
            let (sent_us, bytes) = (packet.sent_us, packet.bytes);
            if let Some(arrival_us) = arrival_us {
                newest = Some(sent_us);
                let resumed = self.resumed_us.take_if(|since| sent_us >= *since).is_some();
                let described_us = now.us();
                self.arrivals.push(Arrival { sent_us, arrival_us, described_us, bytes, gap, resumed });
            }
        }
        self.feedbacks += 1;
        if any {
            self.conclude(newest, now);
        }
    }

    fn conclude(&mut self, newest: Option<i64>, now: Time) {
        (self.heard, self.unanswered_us) = (true, None);
        if let Some(sent_us) = newest {
            let us = (now.us() - sent_us).clamp(0, 10_000_000);
            self.rtt_us = Some(self.rtt_us.map_or(us, |old| old - old / 8 + us / 8));
        }
        let (deltas, resets) = self.deltas();
        let (usage, threshold_ms) = usage(&deltas);
        let acknowledged = self.acknowledged_kbps(&resets).map(|kbps| (kbps * 1e3).floor());
        let confirmed = acknowledged.map(|bps| bps.min(self.sent_bps()));
        let (behind, queue_us, loss) = (self.behind_bps(&resets), self.queue_us(&resets), self.loss());
        self.seen = Some(Seen { usage, threshold_ms, acknowledged, confirmed, behind, queue_us });
        let ours = usage == Usage::Over && queue_us.1 < 10_000 && loss < 0.05;
        let short = queue_us.0 < 50_000 && loss < 0.01;
        let idle = (short || now.us() - self.idle_us < 700_000) && behind.is_none();
        let arrives = if usage == Usage::Over { behind.or(acknowledged) } else { acknowledged };
        self.aimd(if ours { Usage::Under } else { usage }, arrives, confirmed, idle, now.us());
        let fits = self.state == State::Increase && loss < 0.12;
        self.fits_bps = if fits { (confirmed.unwrap_or(0.0) * 0.9).floor() } else { 0.0 };
        if self.fits_bps > self.delay_bps {
            (self.delay_bps, self.changed_us) = (self.fits_bps, now.us());
        }
        self.observe(acknowledged);
        self.share_bps = 0.65 * self.target_bps().floor();
    }

    /// Section 5.2: groups of 5 ms by the sender, and what queued and came in one burst; what lies between their last packets. Since
    /// the clock last jumped, and at which arrivals it did.
    fn deltas(&self) -> (Vec<Delta>, Vec<usize>) {
        let (mut groups, mut deltas, mut resets) = (Vec::<Vec<Arrival>>::new(), Vec::new(), Vec::new());
        let mut backwards = 0;
        let last = |group: &[Arrival], f: fn(&Arrival) -> i64| group.iter().map(f).max().unwrap();
        for (n, packet) in self.arrivals.iter().enumerate() {
            let Some(group) = groups.last_mut() else {
                groups.push(vec![*packet]);
                continue;
            };
            let first = group[0];
            if packet.sent_us < first.sent_us {
                continue;
            }
            let sent_us = packet.sent_us - last(group, |p| p.sent_us);
            let arrival_us = packet.arrival_us - last(group, |p| p.arrival_us);
            let burst = arrival_us - sent_us < 0
                && arrival_us <= 5_000
                && packet.arrival_us - first.arrival_us < 100_000;
            if sent_us <= 0 || burst || packet.sent_us - first.sent_us <= 5_000 {
                group.push(*packet);
                continue;
            }
            if let [.., a, b] = &groups[..] {
                let arrival_us = last(b, |p| p.arrival_us) - last(a, |p| p.arrival_us);
                let sent_us = last(b, |p| p.sent_us) - last(a, |p| p.sent_us);
                let ours_us = b.last().unwrap().described_us - a.last().unwrap().described_us;
                backwards = if arrival_us < 0 { backwards + 1 } else { 0 };
                if (arrival_us - ours_us).abs() >= 3_000_000 || backwards == 3 {
                    (groups, deltas, backwards) = (Vec::new(), Vec::new(), 0);
                    resets.push(n);
                    continue;
                }
                if arrival_us >= 0 {
                    deltas.push(Delta { sent_us, arrival_us });
                }
            }
            groups.push(vec![*packet]);
        }
        (deltas, resets)
    }

    /// The browsers' acknowledged rate, kbit/s: 500 ms, then windows of 150 ms, each weighed by how far it is from what is believed.
    fn acknowledged_kbps(&self, resets: &[usize]) -> Option<f64> {
        let (mut kbps, mut variance) = (None, 50.0);
        let (mut last, mut window_us, mut bytes) = (None, 0_i64, 0.0);
        for (n, packet) in self.arrivals.iter().enumerate() {
            if kbps.is_some() && (packet.gap || packet.resumed || resets.contains(&n)) {
                (last, window_us, bytes) = (None, 0, 0.0);
            }
            if packet.resumed {
                variance = 1e9;
            }
            let whole_us = if kbps.is_some() { 150_000 } else { 500_000 };
            let step_us = (packet.arrival_us - last.unwrap_or(packet.arrival_us)).max(0);
            last = Some(packet.arrival_us.max(last.unwrap_or(packet.arrival_us)));
            window_us += step_us;
            if step_us > whole_us {
                (bytes, window_us) = (0.0, window_us % whole_us);
            }
            if window_us >= whole_us {
                let sample = bytes * 8e3 / whole_us as f64;
                (window_us, bytes) = (window_us - whole_us, 0.0);
                kbps = Some(match kbps {
                    None => {
                        variance = 50.0;
                        sample
                    }
                    Some(old) => {
                        let noise = (10.0 * f64::abs(old - sample) / f64::max(old, 1.0)).powi(2);
                        let prior = variance + 5.0;
                        variance = noise * prior / (noise + prior);
                        (noise * old + prior * sample) / (noise + prior)
                    }
                });
            }
            bytes += packet.bytes;
        }
        kbps
    }

    /// The last whole half second of sending: what of it arrived, by the sender's clock.
    fn sent_bps(&self) -> f64 {
        let (mut from, mut bytes, mut bps) = (None, 0.0, 0.0);
        for packet in &self.arrivals {
            let us = packet.sent_us - *from.get_or_insert(packet.sent_us);
            if us >= 500_000 {
                bps = (bytes * 8e6 / us as f64).floor();
                (from, bytes) = (Some(packet.sent_us), 0.0);
            }
            bytes += if us >= 0 { packet.bytes } else { 0.0 };
        }
        bps
    }

    /// The last whole 200 ms, by either clock, of what lies between packets that follow each other: the rate of arrival, where that was
    /// slower than 4/5 of the sending.
    fn behind_bps(&self, resets: &[usize]) -> Option<f64> {
        let (mut window, mut behind) = (Vec::new(), None);
        for n in 1..self.arrivals.len() {
            let (before, packet) = (self.arrivals[n - 1], self.arrivals[n]);
            if packet.gap || packet.resumed || resets.contains(&n) {
                continue;
            }
            window.push((
                packet.sent_us - before.sent_us,
                packet.arrival_us - before.arrival_us,
                packet.bytes,
            ));
            let sent_us: i64 = window.iter().map(|step| step.0).sum();
            let arrival_us: i64 = window.iter().map(|step| step.1).sum();
            if sent_us.max(arrival_us) >= 200_000 {
                let bytes: f64 = window.iter().map(|step| step.2).sum();
                let is = arrival_us > sent_us * 5 / 4;
                behind = is.then(|| (bytes * 8e6 / arrival_us.max(1) as f64).floor());
                window.clear();
            }
        }
        behind
    }

    /// How much longer the last packet's way took than the fastest of this period of 5 s and the one before, and how much more that
    /// is than it would have waited behind a queue drained at the estimate.
    fn queue_us(&self, resets: &[usize]) -> (i64, i64) {
        let (mut periods, mut queue) = (Vec::<(i64, Vec<i64>)>::new(), (0, 0));
        let (mut own_us, mut sent) = (0.0_f64, None);
        for packet in &self.described {
            let passed_us = (packet.sent_us - sent.unwrap_or(packet.sent_us)).max(0);
            if !packet.late {
                sent = Some(packet.sent_us.max(sent.unwrap_or(packet.sent_us)));
                own_us = (own_us - passed_us as f64).max(0.0) + packet.bytes * 8e6 / packet.estimate_bps;
            }
            let Some(n) = packet.arrival else { continue };
            if resets.contains(&n) {
                (periods, own_us, sent) = (Vec::new(), 0.0, None);
            }
            if periods.last().is_none_or(|(from, _)| packet.sent_us - from > 5_000_000) {
                periods.push((packet.sent_us, Vec::new()));
            }
            let took_us = self.arrivals[n].arrival_us - packet.sent_us;
            let count = periods.len();
            periods[count - 1].1.push(took_us);
            let from = periods[count - 1].0;
            let recent = periods.iter().rev().take(2).filter(|(of, _)| from - of <= 10_000_000);
            let least = recent.flat_map(|(_, all)| all).min().unwrap();
            queue.0 = took_us - least;
            queue.1 = queue.0 - own_us as i64;
            own_us = own_us.min(queue.0 as f64);
        }
        queue
    }

    /// Lost share: the last 20 observations, each worth 0.9 of the next.
    fn loss(&self) -> f64 {
        let sum =
            |f: fn(&Observation) -> f64| weighted(&self.observations).map(|(w, o)| w * f(o)).sum::<f64>();
        let packets = sum(|o| o.packets);
        if packets > 0.0 { sum(|o| o.lost) / packets } else { 0.0 }
    }

    fn observe(&mut self, acknowledged: Option<f64>) {
        let sent = || self.observed.iter().map(|o| o.0);
        let (Some(first), Some(last)) = (sent().min(), sent().max()) else { return };
        let us = (last - first) as f64;
        if us < 250e3 || self.observed.len() < 10 {
            return;
        }
        let lost = self.observed.iter().filter(|o| o.2).count() as f64;
        let bytes: f64 = self.observed.iter().map(|o| o.1).sum();
        let packets = self.observed.len() as f64;
        self.observations.push(Observation { packets, lost, bps: bytes * 8e6 / us });
        self.observed.clear();
        let old = self.loss_bps;
        let mut candidates = vec![old * 1.02, old, old * 0.95];
        candidates.extend(acknowledged.map(|bps| bps.min(old)));
        candidates.push(self.delay_bps.floor());
        let loss = self.loss();
        let mut best = (f64::NEG_INFINITY, old);
        for bps in candidates {
            let bps = bps.min(self.delay_bps.floor()).max(50e3);
            let score = self.score(bps, loss);
            if score > best.0 {
                best = (score, bps);
            }
        }
        self.loss_bps = best.1;
        self.loss_limits = self.loss_bps < self.delay_bps.floor();
    }

    /// The browsers' objective: log likelihood of what was lost were the link's rate `bps`, and a preference for more.
    fn score(&self, bps: f64, loss: f64) -> f64 {
        let queue = |o: &Observation| ((o.bps - bps) / o.bps).max(0.0);
        let seen = || weighted(&self.observations);
        let left: f64 = seen().map(|(w, o)| w * (o.lost - o.packets * queue(o))).sum();
        let base: f64 = seen().map(|(w, o)| w * o.packets * (1.0 - queue(o))).sum();
        let most = (0.05 + 75e3 / bps).min(1.0);
        let inherent = if base > 0.0 { (left / base).clamp(0.001, most) } else { 0.001 };
        let preference = (0.15 - loss) / ((0.15 - loss).abs() + 0.002);
        let bias = preference * (0.0002 * bps / 1e3 + 0.02 * (1.0 + bps / 1e3).ln());
        let of = |o: &Observation| {
            let p = (inherent + (1.0 - inherent) * queue(o)).clamp(0.001, 0.999);
            o.lost * p.ln() + (o.packets - o.lost) * (1.0 - p).ln() + o.packets * bias
        };
        seen().map(|(w, o)| w * of(o)).sum()
    }

    /// Section 5.5.
    pub(super) fn aimd(
        &mut self,
        usage: Usage,
        acknowledged: Option<f64>,
        confirmed: Option<f64>,
        idle: bool,
        now_us: i64,
    ) {
        let rtt_us = self.rtt_us.unwrap_or(200_000);
        // Mean and deviation (by the mean) of what arrived at overuse: each weighs a twentieth.
        let mean = self.overuses.iter().copied().reduce(|mean, kbps| 0.95 * mean + 0.05 * kbps);
        let spread = mean.map(|mean| 3.0 * (self.deviation * mean).sqrt());
        match usage {
            Usage::Under => self.state = State::Hold,
            Usage::Normal => {
                if self.state != State::Increase {
                    (self.state, self.changed_us) = (State::Increase, now_us);
                }
                let (Some(acknowledged), Some(confirmed)) = (acknowledged, confirmed) else {
                    return self.bound();
                };
                let above = mean.zip(spread).is_some_and(|(m, s)| acknowledged / 1e3 > m + s);
                if above {
                    self.overuses.clear();
                }
                let seconds = ((now_us - self.changed_us) as f64 / 1e6).clamp(0.0, 1.0);
                self.changed_us = now_us;
                if self.limited {
                    return self.bound();
                }
                let wanted = if self.overuses.is_empty() {
                    (self.delay_bps * 1.08_f64.powf(seconds)).max(self.delay_bps + 1e3 * seconds)
                } else {
                    // "expected_packet_size_bits / response_time": 30 frames a second, packets of 1200 bytes.
                    let frame_bits = self.delay_bps / 30.0;
                    let packet_bits = frame_bits / (frame_bits / 9600.0).ceil().max(1.0);
                    let response_s = (100_000 + rtt_us.min(2_000_000)) as f64 / 1e6;
                    self.delay_bps + (packet_bits / response_s).max(4e3) * seconds
                };
                self.delay_bps = self.delay_bps.max(wanted.min(1.2 * confirmed + 10e3));
            }
            Usage::Over => {
                self.state = State::Decrease;
                let wait_us = if idle { 1_000_000 } else { rtt_us.clamp(10_000, 200_000) };
                let waited = self.decreased_us.is_none_or(|at| now_us - at >= wait_us);
                let far = !idle && acknowledged.is_some_and(|bps| bps < self.delay_bps / 2.0);
                if !waited && !far {
                    return self.bound();
                }
                let wanted = match acknowledged {
                    None => self.delay_bps / 2.0,
                    Some(_) if idle => 0.85 * self.delay_bps,
                    Some(bps) => {
                        let kbps = bps / 1e3;
                        let wanted = match mean {
                            Some(mean) if 0.85 * bps > self.delay_bps => 0.85 * mean * 1e3,
                            _ => 0.85 * bps,
                        };
                        if mean.zip(spread).is_some_and(|(m, s)| kbps < (m - s).max(0.0)) {
                            self.overuses.clear();
                        }
                        self.overuses.push(kbps);
                        let mean =
                            self.overuses.iter().copied().reduce(|m, kbps| 0.95 * m + 0.05 * kbps).unwrap();
                        let error = (mean - kbps).powi(2) / mean.max(1.0);
                        self.deviation = (0.95 * self.deviation + 0.05 * error).clamp(0.4, 2.5);
                        wanted
                    }
                };
                self.delay_bps = self.delay_bps.min(wanted);
                (self.state, self.changed_us, self.decreased_us) = (State::Hold, now_us, Some(now_us));
            }
        }
        self.bound();
    }

    fn bound(&mut self) {
        self.delay_bps = self.delay_bps.clamp(50e3, 100e6);
    }

    /// Each part of the estimator says what it should.
    pub(super) fn compare(&self, estimator: &Estimator, what: &str) {
        let near = |part: &str, is: Option<u64>, should: Option<f64>| {
            let same = match (is, should) {
                (Some(is), Some(should)) => (is as f64 - should).abs() <= 2.0 + should * 1e-6,
                (None, None) => true,
                _ => false,
            };
            assert!(same, "{what}: {part} is {is:?}, not {should:?}");
        };
        let Some(seen) = &self.seen else { return };
        assert_eq!(estimator.trendline.usage(), seen.usage, "{what}: usage");
        let (is, should) = (estimator.trendline.threshold_ms(), seen.threshold_ms);
        assert!((is - should).abs() < 1e-6, "{what}: threshold is {is}, not {should}");
        near("acknowledged", estimator.acknowledged.bps(), seen.acknowledged);
        near("confirmed", estimator.acknowledged.confirmed_bps(), seen.confirmed);
        near("behind", estimator.acknowledged.behind_bps(), seen.behind);
        let (queue_us, beyond_us) = seen.queue_us;
        assert_eq!(estimator.queue.us(), queue_us, "{what}: queue");
        let is = estimator.queue.beyond_us();
        assert!((is - beyond_us).abs() <= 1, "{what}: the queue is {is} us beyond, not {beyond_us}");
        assert!((estimator.loss.loss() - self.loss()).abs() < 1e-9, "{what}: loss {}", self.loss());
        near(
            "loss-based",
            estimator.loss.is_limiting().then(|| estimator.loss.bps()),
            self.loss_limits.then_some(self.loss_bps),
        );
        assert_eq!(estimator.outgoing.application.is_limited(), self.limited, "{what}: application-limited");
        assert_eq!(estimator.rtt_us, self.rtt_us, "{what}: round trip");
        near("delay-based", Some(estimator.aimd.bps()), Some(self.delay_bps));
        assert_eq!(estimator.aimd.state(), self.state, "{what}: state");
        near("target", Some(estimator.target_bps()), Some(self.target_bps()));
    }
}

/// Newest first, with their weights.
fn weighted(observations: &[Observation]) -> impl Iterator<Item = (f64, &Observation)> {
    observations.iter().rev().take(20).enumerate().map(|(n, o)| (0.9_f64.powi(n as i32), o))
}

/// The usage after all of `deltas`, and the threshold, from the formulas of the draft.
pub(super) fn usage(deltas: &[Delta]) -> (Usage, f64) {
    let ms = |us: i64| us as f64 / 1000.0;
    let sums = |of: fn(&Delta) -> i64| {
        deltas.iter().scan(0, move |sum, delta| {
            *sum += of(delta);
            Some(ms(*sum))
        })
    };
    let times: Vec<f64> = sums(|d| d.arrival_us).collect();
    let delays: Vec<f64> = sums(|d| d.arrival_us - d.sent_us).collect();
    let mut smoothed = vec![0.0];
    delays.iter().for_each(|delay| smoothed.push(0.9 * smoothed[smoothed.len() - 1] + 0.1 * delay));
    let slope_at = |n: usize| {
        if n + 1 < 20 {
            return 0.0;
        }
        let points: Vec<(f64, f64)> = (n - 19..=n).map(|k| (times[k], smoothed[k + 1])).collect();
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / 20.0;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        covariance / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
    };
    let slopes: Vec<f64> = (0..deltas.len()).map(slope_at).collect();
    let scaled = |n: usize| slopes[n] * 4.0 * (n + 1).min(60) as f64;
    let mut thresholds = vec![12.5_f64];
    for n in 0..deltas.len() {
        let (threshold, m) = (thresholds[n], scaled(n).abs());
        let k = if m < threshold { 0.039 } else { 0.0087 };
        let next = (threshold + k * (m - threshold) * ms(deltas[n].arrival_us).min(100.0)).clamp(6.0, 600.0);
        thresholds.push(if m > threshold + 15.0 { threshold } else { next });
    }
    let mut usage = Usage::Normal;
    let mut run = Vec::new();
    for n in 0..deltas.len() {
        if scaled(n) <= thresholds[n] {
            run.clear();
            usage = if scaled(n) < -thresholds[n] { Usage::Under } else { Usage::Normal };
            continue;
        }
        run.push(n);
        // Time above: half of the first step of a run. After overuse was called, whole steps count.
        let restarted = n > 0 && run[0] == usize::MAX;
        let steps: f64 = run.iter().filter(|k| **k != usize::MAX).map(|k| ms(deltas[*k].sent_us)).sum();
        let first = if restarted { 0.0 } else { ms(deltas[run[0]].sent_us) / 2.0 };
        let seen = run.len() - usize::from(restarted);
        if steps - first > 10.0 && seen > 1 && slopes[n] >= if n > 0 { slopes[n - 1] } else { 0.0 } {
            usage = Usage::Over;
            run = vec![usize::MAX];
        }
    }
    (usage, thresholds[deltas.len()])
}
