//! Which packets are lost.
use media::Time;

use super::random::Random;

/// How packets are lost on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// None is.
    #[default]
    None,
    /// Each by itself.
    Random {
        /// The share lost.
        per_mille: u32,
    },
    /// In runs (Gilbert's model: a good state that loses nothing, a bad one that loses everything).
    Bursts {
        /// The share lost overall, at most `mean_packets / (mean_packets + 1)`: between two runs one packet passes at least.
        per_mille: u32,
        /// The mean length of a run, in packets, at least 1.
        mean_packets: u32,
    },
    /// By time: for a while nothing comes through, however much is sent then. Both whiles are exponential.
    Fades {
        /// The share of the time, below all of it.
        per_mille: u32,
        /// How long nothing comes through, on average, at least a microsecond.
        mean_us: u32,
    },
}

/// The draws, and the state between them.
#[derive(Clone, Debug)]
pub struct Losing {
    random: Random,
    bad: bool,
    /// With fades, when that changes.
    until: Time,
}

impl Losing {
    pub fn new(random: Random) -> Losing {
        Losing { random, bad: false, until: Time(i64::MIN) }
    }

    /// Whether the packet of `now`, which never goes back, is lost.
    pub fn loses(&mut self, loss: Loss, now: Time) -> bool {
        self.bad = match loss {
            Loss::None => false,
            Loss::Random { per_mille } => self.random.chance(per_mille.into(), 1_000),
            Loss::Bursts { per_mille, .. } if per_mille >= 1_000 => true,
            Loss::Bursts { per_mille, mean_packets } => {
                let mean = u64::from(mean_packets.max(1));
                if self.bad {
                    !self.random.chance(1, mean)
                } else {
                    // so often that runs of that length make up the share: p / (mean (1 - p))
                    self.random.chance(per_mille.into(), mean * u64::from(1_000 - per_mille))
                }
            }
            Loss::Fades { per_mille, .. } if per_mille == 0 || per_mille >= 1_000 => per_mille > 0,
            Loss::Fades { per_mille, mean_us } => {
                if self.until == Time(i64::MIN) {
                    self.until = now;
                }
                while self.until <= now {
                    self.bad = !self.bad;
                    let bad_us = f64::from(mean_us.max(1));
                    let mean_us = if self.bad {
                        bad_us
                    } else {
                        bad_us * f64::from(1_000 - per_mille) / f64::from(per_mille)
                    };
                    self.until = self.until.plus_us(self.random.exponential(mean_us).max(1));
                }
                self.bad
            }
        };
        self.bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u32 = 200_000;

    /// The share lost in per mille, and the mean length of a run. Packets are a millisecond apart.
    fn measure(loss: Loss, seed: u64) -> (f64, f64) {
        let mut losing = Losing::new(Random(seed));
        let (mut lost, mut runs, mut before) = (0_u32, 0_u32, false);
        for ms in 0..PACKETS {
            let now = losing.loses(loss, Time::from_ms(ms.into()));
            lost += u32::from(now);
            runs += u32::from(now && !before);
            before = now;
        }
        (f64::from(lost) * 1_000.0 / f64::from(PACKETS), f64::from(lost) / f64::from(runs.max(1)))
    }

    #[track_caller]
    fn assert_near(got: f64, wanted: f64) {
        assert!((got - wanted).abs() < wanted * 0.08, "{got}, not {wanted}");
    }

    #[test]
    fn random_loss_has_its_share_and_short_runs() {
        for (seed, per_mille) in [(1, 20), (2, 50), (3, 100), (4, 500)] {
            let (share, run) = measure(Loss::Random { per_mille }, seed);
            assert_near(share, f64::from(per_mille));
            // independent: a run goes on with the chance of a loss
            assert_near(run, 1_000.0 / f64::from(1_000 - per_mille));
        }
    }

    #[test]
    fn bursts_have_their_share_and_their_length() {
        for (seed, per_mille, mean_packets) in [(1, 20, 8), (2, 50, 3), (3, 100, 20), (4, 500, 1), (5, 10, 1)]
        {
            let (share, run) = measure(Loss::Bursts { per_mille, mean_packets }, seed);
            assert_near(share, f64::from(per_mille));
            assert_near(run, f64::from(mean_packets));
        }
    }

    #[test]
    fn fades_have_their_share_of_the_time_and_their_length() {
        for (seed, per_mille, mean_ms) in [(1, 20, 33), (2, 50, 200), (3, 200, 60)] {
            let loss = Loss::Fades { per_mille, mean_us: mean_ms * 1_000 };
            // in 200 s there are few of them
            let (shares, runs): (Vec<f64>, Vec<f64>) = (0..32).map(|n| measure(loss, 100 * seed + n)).unzip();
            assert_near(shares.iter().sum::<f64>() / 32.0, f64::from(per_mille));
            assert_near(runs.iter().sum::<f64>() / 32.0, f64::from(mean_ms));
        }
    }

    #[test]
    fn none_and_all_are_exact() {
        for seed in 0..20 {
            assert_eq!(measure(Loss::None, seed).0, 0.0);
            assert_eq!(measure(Loss::Random { per_mille: 0 }, seed).0, 0.0);
            assert_eq!(measure(Loss::Random { per_mille: 1_000 }, seed).0, 1_000.0);
            assert_eq!(measure(Loss::Bursts { per_mille: 0, mean_packets: 8 }, seed).0, 0.0);
            assert_eq!(measure(Loss::Bursts { per_mille: 1_000, mean_packets: 8 }, seed).0, 1_000.0);
            assert_eq!(measure(Loss::Fades { per_mille: 0, mean_us: 8 }, seed).0, 0.0);
            assert_eq!(measure(Loss::Fades { per_mille: 1_000, mean_us: 8 }, seed).0, 1_000.0);
        }
    }
}
