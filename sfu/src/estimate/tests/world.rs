//! A link with a rate, a queue, delay and loss; a paced source; a receiver that builds feedback with [`TwccRecorder`].

use std::collections::VecDeque;

use media::Time;
use rtc::rtcp::twcc::TwccRecorder;
use rtc::rtcp::{Event, parse};

use super::plain::Plain;
use crate::estimate::{Estimator, Probe};

const TICK_US: i64 = 1_000;
const PACKET: usize = 1200;

pub(super) struct World {
    pub(super) now: Time,
    pub(super) estimator: Estimator,
    /// Link: rate, one-way delay, what its queue holds, random loss each way in thousandths.
    pub(super) link_bps: u64,
    pub(super) delay_us: i64,
    pub(super) queue_us_max: i64,
    pub(super) loss_milli: u64,
    pub(super) feedback_loss_milli: u64,
    /// Bursts of eight lost packets on average that begin, in thousandths of an eighth of a packet.
    pub(super) burst_milli: u64,
    /// Packets that come 250 ms later than they would, in thousandths: those after them overtake.
    pub(super) overtaken_milli: u64,
    /// Feedback that comes twice, in thousandths, and how much later one may come than another: they overtake.
    pub(super) feedback_twice_milli: u64,
    pub(super) feedback_late_us: u64,
    /// The receiver's clock is not ours.
    pub(super) receiver_clock_us: i64,
    /// A plain estimator that is told the same, and its name in what it says.
    pub(super) plain: Option<Plain>,
    pub(super) name: String,
    /// The most the source sends; it sends the target otherwise.
    pub(super) source_bps: u64,
    /// A flow that does not care, through the same queue.
    pub(super) cross_bps: u64,
    burst: bool,
    seed: u64,
    free_us: f64,
    credit: f64,
    cross_credit: f64,
    probe: Option<Probe>,
    pub(super) probes: u64,
    on_the_way: VecDeque<(i64, u16)>,
    overtaken: VecDeque<(i64, u16)>,
    recorder: TwccRecorder,
    feedback: VecDeque<(i64, Vec<u8>)>,
    /// Of each packet sent since the last [`World::forget`].
    queue_us: Vec<i64>,
    targets: Vec<u64>,
    /// Our packets since then: sent, and lost.
    sent: u64,
    lost: u64,
}

impl World {
    pub(super) fn new(seed: u64, link_bps: u64) -> World {
        let mut estimator = Estimator::new(Time::ZERO);
        estimator.set_demand(10_000_000);
        World {
            now: Time::ZERO,
            estimator,
            link_bps,
            delay_us: 25_000,
            queue_us_max: 500_000,
            loss_milli: 0,
            feedback_loss_milli: 0,
            burst_milli: 0,
            overtaken_milli: 0,
            feedback_twice_milli: 0,
            feedback_late_us: 0,
            receiver_clock_us: 987_654_321,
            plain: None,
            name: String::new(),
            burst: false,
            source_bps: u64::MAX,
            cross_bps: 0,
            seed,
            free_us: 0.0,
            credit: 0.0,
            cross_credit: 0.0,
            probe: None,
            probes: 0,
            on_the_way: VecDeque::new(),
            overtaken: VecDeque::new(),
            recorder: TwccRecorder::new(),
            feedback: VecDeque::new(),
            queue_us: Vec::new(),
            targets: Vec::new(),
            sent: 0,
            lost: 0,
        }
    }

    pub(super) fn run(&mut self, seconds: i64) {
        for _ in 0..seconds * 1_000_000 / TICK_US {
            self.tick();
        }
    }

    pub(super) fn forget(&mut self) {
        self.queue_us.clear();
        self.targets.clear();
        (self.sent, self.lost) = (0, 0);
    }

    pub(super) fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    pub(super) fn queue_ms_p95(&self) -> i64 {
        let mut all = self.queue_us.clone();
        all.sort_unstable();
        all.get(all.len() * 95 / 100).copied().unwrap_or(0) / 1000
    }

    pub(super) fn mean_target_bps(&self) -> u64 {
        self.targets.iter().sum::<u64>() / self.targets.len().max(1) as u64
    }

    pub(super) fn min_target_bps(&self) -> u64 {
        self.targets.iter().copied().min().unwrap_or(0)
    }

    pub(super) fn max_target_bps(&self) -> u64 {
        self.targets.iter().copied().max().unwrap_or(0)
    }

    pub(super) fn target_bps(&self) -> u64 {
        self.estimator.target_bps()
    }

    fn tick(&mut self) {
        self.now = self.now.plus_us(TICK_US);
        while self.feedback.front().is_some_and(|(at, _)| *at <= self.now.us()) {
            let (_, compound) = self.feedback.pop_front().unwrap();
            let now = self.now;
            parse(&compound, |event| {
                if let Event::Twcc { fci } = event {
                    self.estimator.on_feedback(fci, now, |_, _| {}).unwrap();
                    if let Some(plain) = &mut self.plain {
                        plain.on_feedback(fci, now);
                        plain.compare(&self.estimator, &format!("{} at {} us", self.name, now.us()));
                    }
                }
            })
            .unwrap();
        }
        if let Some(plain) = &mut self.plain {
            plain.on_time(self.now);
        }
        if self.now >= self.estimator.next_poll() {
            if let Some(probe) = self.estimator.poll(self.now) {
                self.probes += 1;
                self.probe = Some(probe);
            }
            if let Some(plain) = &mut self.plain {
                plain.on_poll(self.now);
            }
        }
        self.send();
        self.receive();
        if let Some(plain) = &self.plain {
            let (is, should) = (self.target_bps(), plain.target_bps());
            assert!(
                (is as f64 - should).abs() < 2.0 + should * 1e-6,
                "{}: target {is}, not {should}",
                self.name
            );
        }
        self.targets.push(self.target_bps());
    }

    fn send(&mut self) {
        self.cross_credit += self.cross_bps as f64 * TICK_US as f64 / 8e6;
        while self.cross_credit >= PACKET as f64 {
            self.cross_credit -= PACKET as f64;
            self.through_link(PACKET);
        }
        let bps = self.probe.map_or(self.target_bps().min(self.source_bps), |probe| probe.bps);
        self.credit += bps as f64 * TICK_US as f64 / 8e6;
        loop {
            // Sizes as video has them: full packets and each frame's rest.
            let bytes = if self.random(10) == 0 { 100 + self.random(1000) as usize } else { PACKET };
            if self.credit < bytes as f64 {
                break;
            }
            self.credit -= bytes as f64;
            let seq = self.estimator.on_sent(bytes, self.probe.map(|probe| probe.id), self.now);
            if let Some(plain) = &mut self.plain {
                plain.on_sent(bytes, self.now);
            }
            if let Some(probe) = &mut self.probe {
                probe.bytes = probe.bytes.saturating_sub(bytes);
            }
            self.probe = self.probe.filter(|probe| probe.bytes > 0);
            // Gilbert-Elliott: a burst ends with one packet in eight.
            self.burst =
                self.burst_milli > 0 && self.random(8000) < if self.burst { 7000 } else { self.burst_milli };
            let lost = self.burst || self.random(1000) < self.loss_milli;
            self.sent += 1;
            match self.through_link(bytes).filter(|_| !lost) {
                Some(arrival_us) if self.overtaken_milli > 0 && self.random(1000) < self.overtaken_milli => {
                    self.overtaken.push_back((arrival_us + 250_000, seq));
                }
                Some(arrival_us) => self.on_the_way.push_back((arrival_us, seq)),
                None => self.lost += 1,
            }
        }
    }

    /// When it arrives; `None` when the queue is full.
    fn through_link(&mut self, bytes: usize) -> Option<i64> {
        let now_us = self.now.us() as f64;
        let waits_us = (self.free_us - now_us).max(0.0);
        if waits_us > self.queue_us_max as f64 {
            return None;
        }
        self.queue_us.push(waits_us as i64);
        self.free_us = now_us + waits_us + bytes as f64 * 8e6 / self.link_bps as f64;
        // A millisecond of jitter, without overtaking.
        let jitter_us = self.random(1000) as i64;
        let earliest = self.on_the_way.back().map_or(0, |(at, _)| *at);
        Some((self.free_us as i64 + self.delay_us + jitter_us).max(earliest))
    }

    fn receive(&mut self) {
        let receiver_now = self.now.plus_us(self.receiver_clock_us);
        let now_us = self.now.us();
        let due = |way: &mut VecDeque<(i64, u16)>| way.pop_front_if(|(at, _)| *at <= now_us);
        while let Some((at, seq)) = due(&mut self.on_the_way).or_else(|| due(&mut self.overtaken)) {
            self.recorder.on_packet(seq, Time(at).plus_us(self.receiver_clock_us));
        }
        while self.recorder.deadline().is_some_and(|due| due <= receiver_now) {
            let mut compound = Vec::new();
            if !self.recorder.build(receiver_now, 1, 2, &mut compound) {
                break;
            }
            if self.random(1000) >= self.feedback_loss_milli {
                let at_us = self.now.us() + self.delay_us + self.late_us();
                if self.feedback_twice_milli > 0 && self.random(1000) < self.feedback_twice_milli {
                    let twice_us = at_us + self.late_us();
                    self.feedback.push_back((twice_us, compound.clone()));
                }
                self.feedback.push_back((at_us, compound));
                self.feedback.make_contiguous().sort_by_key(|(at_us, _)| *at_us);
            }
        }
    }

    fn late_us(&mut self) -> i64 {
        if self.feedback_late_us > 0 { self.random(self.feedback_late_us) as i64 } else { 0 }
    }

    /// xorshift64*.
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}
