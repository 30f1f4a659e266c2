//! Which packets are lost.
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
}

/// The draws, and the state between them.
#[derive(Clone, Debug)]
pub struct Losing {
    random: Random,
    bad: bool,
}

impl Losing {
    pub fn new(random: Random) -> Losing {
        Losing { random, bad: false }
    }

    /// Whether the next packet is lost.
    pub fn loses(&mut self, loss: Loss) -> bool {
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
        };
        self.bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u32 = 200_000;

    /// The share lost in per mille, and the mean length of a run.
    fn measure(loss: Loss, seed: u64) -> (f64, f64) {
        let mut losing = Losing::new(Random(seed));
        let (mut lost, mut runs, mut before) = (0_u32, 0_u32, false);
        for _ in 0..PACKETS {
            let now = losing.loses(loss);
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
    fn none_and_all_are_exact() {
        for seed in 0..20 {
            assert_eq!(measure(Loss::None, seed).0, 0.0);
            assert_eq!(measure(Loss::Random { per_mille: 0 }, seed).0, 0.0);
            assert_eq!(measure(Loss::Random { per_mille: 1_000 }, seed).0, 1_000.0);
            assert_eq!(measure(Loss::Bursts { per_mille: 0, mean_packets: 8 }, seed).0, 0.0);
            assert_eq!(measure(Loss::Bursts { per_mille: 1_000, mean_packets: 8 }, seed).0, 1_000.0);
        }
    }
}
