//! A viewer's link as the scenario has it: slow, or lossy.

use media::Time;

use crate::load::plan::Link;

/// What a limited link may take at once: 50 ms of it, so that a frame is not cut by the poll's own rhythm.
const BURST_MS: i64 = 50;

/// A rate that is not exceeded.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    bytes_per_s: i64,
    left: i64,
    at: Time,
}

impl Limit {
    /// `None` for no limit.
    pub fn new(kbps: u32, now: Time) -> Option<Limit> {
        (kbps > 0).then(|| {
            let bytes_per_s = i64::from(kbps) * 125;
            Limit { bytes_per_s, left: bytes_per_s * BURST_MS / 1_000, at: now }
        })
    }

    /// Bytes that may be taken now.
    pub fn room(&mut self, now: Time) -> usize {
        let earned = i128::from(now.since(self.at).max(0)) * i128::from(self.bytes_per_s) / 1_000_000;
        let most = self.bytes_per_s * BURST_MS / 1_000;
        if earned > 0 {
            self.left = (i128::from(self.left) + earned).min(i128::from(most)) as i64;
            self.at = now;
        }
        self.left.max(0) as usize
    }

    /// They were taken.
    pub fn take(&mut self, bytes: usize) {
        self.left -= bytes as i64;
    }
}

/// A datagram link that loses some by chance, and what is too much for it.
#[derive(Clone, Copy, Debug)]
pub struct BadLink {
    loss: f64,
    limit: Option<Limit>,
    random: u64,
}

impl BadLink {
    /// `seed` draws what is lost.
    pub fn new(link: Link, seed: u64, now: Time) -> BadLink {
        BadLink { loss: link.loss_percent / 100.0, limit: Limit::new(link.limit_kbps, now), random: seed }
    }

    /// Whether the next datagram, of `len` bytes, is lost.
    pub fn loses(&mut self, len: usize, now: Time) -> bool {
        if self.loss > 0.0 {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            if ((self.random >> 33) as f64) < self.loss * (1_u64 << 31) as f64 {
                return true;
            }
        }
        self.limit.as_mut().is_some_and(|limit| {
            let fits = limit.room(now) >= len;
            if fits {
                limit.take(len);
            }
            !fits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_link_loses_its_share_the_same_each_time() {
        let link = Link { loss_percent: 5.0, ..Link::default() };
        let run = || {
            let mut bad = BadLink::new(link, 7, Time::ZERO);
            (0..20_000).filter(|_| bad.loses(1_000, Time::ZERO)).count()
        };
        assert!((900..=1_100).contains(&run()), "{}", run());
        assert_eq!(run(), run());
        let mut slow = BadLink::new(Link { limit_kbps: 80, ..Link::default() }, 7, Time::ZERO);
        let lost = (0..1_000).filter(|ms| slow.loses(100, Time::from_ms(*ms))).count();
        assert!((890..=900).contains(&lost), "10 kB of 100 kB a second fit: {lost}");
        let mut good = BadLink::new(Link::default(), 7, Time::ZERO);
        assert!(!(0..1_000).any(|_| good.loses(1_500, Time::ZERO)));
    }

    #[test]
    fn a_limit_holds_over_time() {
        assert!(Limit::new(0, Time::ZERO).is_none());
        let mut limit = Limit::new(800, Time::ZERO).unwrap();
        let mut taken = 0;
        for ms in 0..=1_000 {
            let room = limit.room(Time::from_ms(ms));
            limit.take(room);
            taken += room;
        }
        assert!((100_000..=105_100).contains(&taken), "{taken}: 100 kB a second, and the first burst");
    }
}
