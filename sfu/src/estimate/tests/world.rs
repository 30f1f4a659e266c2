//! A link with a rate, a queue, delay and loss; a paced source; a receiver that builds feedback with [`TwccRecorder`].

use std::collections::VecDeque;

use media::Time;
use rtc::rtcp::twcc::TwccRecorder;
use rtc::rtcp::{Event, parse};

use crate::estimate::{Estimator, Probe};

const TICK_US: i64 = 1_000;
const PACKET: usize = 1200;
/// The receiver's clock is not ours.
const RECEIVER_CLOCK_US: i64 = 987_654_321;

pub(super) struct World {
    pub(super) now: Time,
    pub(super) estimator: Estimator,
    /// Link: rate, one-way delay, what its queue holds, random loss each way in thousandths.
    pub(super) link_bps: u64,
    pub(super) delay_us: i64,
    pub(super) queue_us_max: i64,
    pub(super) loss_milli: u64,
    pub(super) feedback_loss_milli: u64,
    /// The most the source sends; it sends the target otherwise.
    pub(super) source_bps: u64,
    /// A flow that does not care, through the same queue.
    pub(super) cross_bps: u64,
    seed: u64,
    free_us: f64,
    credit: f64,
    cross_credit: f64,
    probe: Option<Probe>,
    pub(super) probes: u64,
    on_the_way: VecDeque<(i64, u16)>,
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
            source_bps: u64::MAX,
            cross_bps: 0,
            seed,
            free_us: 0.0,
            credit: 0.0,
            cross_credit: 0.0,
            probe: None,
            probes: 0,
            on_the_way: VecDeque::new(),
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
                }
            })
            .unwrap();
        }
        if self.now >= self.estimator.next_poll()
            && let Some(probe) = self.estimator.poll(self.now)
        {
            self.probes += 1;
            self.probe = Some(probe);
        }
        self.send();
        self.receive();
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
            if let Some(probe) = &mut self.probe {
                probe.bytes = probe.bytes.saturating_sub(bytes);
            }
            self.probe = self.probe.filter(|probe| probe.bytes > 0);
            let lost = self.random(1000) < self.loss_milli;
            self.sent += 1;
            match self.through_link(bytes).filter(|_| !lost) {
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
        let receiver_now = self.now.plus_us(RECEIVER_CLOCK_US);
        while self.on_the_way.front().is_some_and(|(at, _)| *at <= self.now.us()) {
            let (at, seq) = self.on_the_way.pop_front().unwrap();
            self.recorder.on_packet(seq, Time(at).plus_us(RECEIVER_CLOCK_US));
        }
        while self.recorder.deadline().is_some_and(|due| due <= receiver_now) {
            let mut compound = Vec::new();
            if !self.recorder.build(receiver_now, 1, 2, &mut compound) {
                break;
            }
            if self.random(1000) >= self.feedback_loss_milli {
                self.feedback.push_back((self.now.us() + self.delay_us, compound));
            }
        }
    }

    /// xorshift64*.
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}
