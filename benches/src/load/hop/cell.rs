//! A cell of the experiment: the stream, and what each link does to packets.

use std::fmt;

use anyhow::{Result, ensure};
use link::{Config, Loss};
use serde::{Deserialize, Serialize};

/// What waits longer for a link of limited capacity is dropped.
const QUEUE_US: i64 = 200_000;

/// A stream and its path.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The stream.
    pub kbps: u32,
    /// Links in a row, each with a node at its end; what follows is of each link.
    pub hops: usize,
    /// Round trip without queueing.
    pub rtt_ms: u32,
    /// Share of packets lost in the direction of the stream.
    pub loss_percent: f64,
    /// Mean length of a run of lost packets; 0: each is lost by itself.
    pub burst: u32,
    /// So much sooner or later than half a round trip at most, uniformly distributed, overtaking; in the direction of the stream.
    pub jitter_ms: u32,
    /// Capacity in the direction of the stream, as a multiple of its bit rate; 0: no limit.
    pub capacity: f64,
    /// Loss in the other direction, too.
    pub both: bool,
    /// A TCP-Cubic flow that takes what it gets shares the first link.
    pub beside: bool,
}

impl Cell {
    /// What makes no path.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=8).contains(&self.hops), "{self}: 1 to 8 hops");
        ensure!((100..=50_000).contains(&self.kbps), "{self}: 100 to 50000 kbit/s");
        ensure!(
            self.rtt_ms <= 2_000 && 2 * self.jitter_ms <= self.rtt_ms,
            "{self}: jitter is half the round trip at most, that 2 s"
        );
        ensure!((0.0..=50.0).contains(&self.loss_percent), "{self}: 0 to 50 % of loss");
        ensure!(
            self.capacity == 0.0 || (1.0..=100.0).contains(&self.capacity),
            "{self}: capacity is 1 to 100 times the rate"
        );
        Ok(())
    }

    /// The links' two directions: the stream's, and the other.
    pub fn configs(&self) -> [Config; 2] {
        let per_mille = (self.loss_percent * 10.0).round() as u32;
        let loss = match (per_mille, self.burst) {
            (0, _) => Loss::None,
            (_, 0) => Loss::Random { per_mille },
            (_, mean_packets) => Loss::Bursts { per_mille, mean_packets },
        };
        let back = Config {
            delay_us: i64::from(self.rtt_ms) * 500,
            loss: if self.both { loss } else { Loss::None },
            ..Config::default()
        };
        let there = Config {
            delay_us: back.delay_us - i64::from(self.jitter_ms) * 1_000,
            jitter_us: u64::from(self.jitter_ms) * 2_000,
            reorder: self.jitter_ms > 0,
            loss,
            rate_bps: (self.capacity > 0.0).then(|| (f64::from(self.kbps) * 1e3 * self.capacity) as u64),
            queue_us: QUEUE_US,
            ..back
        };
        [there, back]
    }

    /// The mean delay of a packet that meets no queue, over all links.
    pub fn path_ms(&self) -> f64 {
        f64::from(self.rtt_ms) / 2.0 * self.hops as f64
    }

    /// Everything but the share of loss, for a plot over that.
    pub fn without_loss(&self) -> Cell {
        Cell { loss_percent: 0.0, burst: 0, ..*self }
    }

    /// For a file's name.
    pub fn slug(&self) -> String {
        self.to_string().replace("kbit/s", "k").replace(", ", "-").replace([' ', '%', '+', '/'], "")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kbit/s, {} x {} ms, loss {} %", self.kbps, self.hops, self.rtt_ms, self.loss_percent)?;
        if self.burst > 0 {
            write!(f, ", bursts {}", self.burst)?;
        }
        if self.jitter_ms > 0 {
            write!(f, ", +-{} ms", self.jitter_ms)?;
        }
        if self.capacity > 0.0 {
            write!(f, ", capacity {}", self.capacity)?;
        }
        if self.both {
            write!(f, ", both ways")?;
        }
        if self.beside {
            write!(f, ", beside TCP-Cubic")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const CELL: Cell = Cell {
        kbps: 4_000,
        hops: 1,
        rtt_ms: 100,
        loss_percent: 2.0,
        burst: 0,
        jitter_ms: 0,
        capacity: 0.0,
        both: false,
        beside: false,
    };

    #[test]
    fn links_are_as_the_cell_says() {
        let [there, back] = CELL.configs();
        assert_eq!((there.delay_us, there.loss), (50_000, Loss::Random { per_mille: 20 }));
        assert_eq!(back, Config { delay_us: 50_000, ..Config::default() });
        let cell = Cell { burst: 8, jitter_ms: 10, capacity: 1.15, both: true, hops: 3, ..CELL };
        let [there, back] = cell.configs();
        assert_eq!((there.delay_us, there.jitter_us, there.reorder), (40_000, 20_000, true));
        assert_eq!((there.rate_bps, back.rate_bps), (Some(4_600_000), None));
        assert_eq!(back.loss, Loss::Bursts { per_mille: 20, mean_packets: 8 });
        assert_eq!((cell.path_ms(), CELL.path_ms()), (150.0, 50.0));
        assert_eq!(cell.slug(), "4000k-3x100ms-loss2-bursts8--10ms-capacity1.15-bothways");
    }

    #[test]
    fn nonsense_is_no_path() {
        assert!(CELL.check().is_ok());
        for cell in [
            Cell { hops: 0, ..CELL },
            Cell { jitter_ms: 51, ..CELL },
            Cell { loss_percent: 60.0, ..CELL },
            Cell { capacity: 0.5, ..CELL },
            Cell { kbps: 0, ..CELL },
        ] {
            assert!(cell.check().is_err(), "{cell}");
        }
    }
}
