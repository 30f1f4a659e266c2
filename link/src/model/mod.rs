//! The model of one direction of a path: a queue before a transmitter, then a wire that delays, loses and doubles.
mod loss;
mod random;

use loss::Losing;
use media::Time;

pub use loss::Loss;
pub use random::Random;

/// What one direction does to packets. The default is a perfect wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What each packet takes on the wire.
    pub delay_us: i64,
    /// Up to so much more, uniformly distributed.
    pub jitter_us: u64,
    /// Whether jitter lets a packet overtake. If not, one that is delayed holds back those behind it.
    pub reorder: bool,
    /// What the wire loses; it took its time at the transmitter.
    pub loss: Loss,
    /// The share of packets that arrive twice.
    pub duplicate_per_mille: u32,
    /// What the transmitter sends, in bits a second; without it, everything at once.
    pub rate_bps: Option<u64>,
    /// A packet that would wait longer for the transmitter is dropped. Of no effect without a rate.
    pub queue_us: i64,
    /// Nothing gets in. What is on the way arrives.
    pub outage: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            delay_us: 0,
            jitter_us: 0,
            reorder: false,
            loss: Loss::None,
            duplicate_per_mille: 0,
            rate_bps: None,
            queue_us: 200_000,
            outage: false,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// It arrives then.
    Once(Time),
    /// It arrives, and again; the first is not the later.
    Twice(Time, Time),
    /// It does not arrive.
    Lost(Lost),
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// By the chances of [`Config::loss`].
    Loss,
    /// The queue was full.
    Queue,
    /// During [`Config::outage`].
    Outage,
}

impl Carried {
    /// When it arrives: none, one or two times.
    pub fn times(self) -> impl Iterator<Item = Time> {
        let (first, second) = match self {
            Carried::Once(time) => (Some(time), None),
            Carried::Twice(first, second) => (Some(first), Some(second)),
            Carried::Lost(_) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// What a link was given and what it did. `packets` is the sum of `carried` and the three that were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Packets given to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that arrive, a doubled one once.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
    /// [`Lost::Loss`]
    pub lost: u64,
    /// [`Lost::Queue`]
    pub queue_full: u64,
    /// [`Lost::Outage`]
    pub outage: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Arrivals (copies too) before that of a packet given earlier.
    pub reordered: u64,
    /// The longest wait for the transmitter.
    pub queue_us_max: i64,
    /// The wait of the packet that was taken last.
    pub queue_us: i64,
}

/// One direction of a path. It says when each packet arrives; to hold it until then is the caller's part.
#[derive(Clone, Debug)]
pub struct Link {
    config: Config,
    /// Each kind of chance has draws of its own: the same packets are lost whether there is jitter or not.
    losing: Losing,
    jitter: Random,
    doubling: Random,
    /// When the transmitter is done with what it has.
    free: Time,
    /// The part of a microsecond beyond `free`, in 1/rate: without it 1000 small packets at 100 Mbit/s are 1 % too fast.
    rest: u64,
    /// The latest arrival so far.
    latest: Time,
    figures: Figures,
}

impl Link {
    /// A link without packets in it.
    pub fn new(config: Config, seed: u64) -> Link {
        let mut seeds = Random(seed);
        let mut stream = || Random(seeds.draw());
        Link {
            config,
            losing: Losing::new(stream()),
            jitter: stream(),
            doubling: stream(),
            free: Time(i64::MIN),
            rest: 0,
            latest: Time(i64::MIN),
            figures: Figures::default(),
        }
    }

    /// Another behaviour from the next packet on. Those before keep the times that they were given, and hold up those behind them.
    pub fn set(&mut self, config: Config) {
        if self.config.rate_bps != config.rate_bps {
            self.rest = 0;
        }
        self.config = config;
    }

    /// How it behaves now.
    pub fn config(&self) -> Config {
        self.config
    }

    /// A packet of `len` bytes enters at `now`, which never goes back.
    pub fn carry(&mut self, len: usize, now: Time) -> Carried {
        let len = len as u64;
        self.figures.packets += 1;
        self.figures.bytes += len;
        let sent = match self.send(len, now) {
            Ok(sent) => sent,
            Err(lost) => {
                match lost {
                    Lost::Loss => self.figures.lost += 1,
                    Lost::Queue => self.figures.queue_full += 1,
                    Lost::Outage => self.figures.outage += 1,
                }
                return Carried::Lost(lost);
            }
        };
        self.figures.carried += 1;
        self.figures.carried_bytes += len;
        let first = self.arrival(sent);
        if !self.doubling.chance(self.config.duplicate_per_mille.into(), 1_000) {
            return Carried::Once(first);
        }
        self.figures.duplicated += 1;
        let second = self.arrival(sent);
        Carried::Twice(first.min(second), first.max(second))
    }

    /// Its counters so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// When the packet has left the transmitter, unless it is lost.
    fn send(&mut self, len: u64, now: Time) -> Result<Time, Lost> {
        if self.config.outage {
            return Err(Lost::Outage);
        }
        if now > self.free {
            (self.free, self.rest) = (now, 0);
        }
        if let Some(rate) = self.config.rate_bps {
            let wait_us = self.free.since(now);
            if wait_us > self.config.queue_us {
                return Err(Lost::Queue);
            }
            self.figures.queue_us = wait_us;
            self.figures.queue_us_max = self.figures.queue_us_max.max(wait_us);
            let rate = rate.max(1);
            let micros = len.saturating_mul(8_000_000).saturating_add(self.rest);
            self.free = self.free.plus_us(i64::try_from(micros / rate).unwrap_or(i64::MAX));
            self.rest = micros % rate;
        }
        if self.losing.loses(self.config.loss, now) { Err(Lost::Loss) } else { Ok(self.free) }
    }

    /// When one copy that left at `sent` arrives.
    fn arrival(&mut self, sent: Time) -> Time {
        let jitter_us = self.jitter.below(self.config.jitter_us.saturating_add(1));
        let mut time =
            sent.plus_us(self.config.delay_us).plus_us(i64::try_from(jitter_us).unwrap_or(i64::MAX));
        if time < self.latest {
            if self.config.reorder {
                self.figures.reordered += 1;
            } else {
                time = self.latest;
            }
        }
        self.latest = self.latest.max(time);
        time
    }
}

#[cfg(test)]
mod tests;
