//! How fast streams of media may go: what is left of a link by what is live there.
//!
//! Datagrams go before all streams inside QUIC, but not on the path: what streams put into its queue delays them. So streams have a rate of their own,
//! which rises while they use it up and the path's queue is short, and falls when there is one.

use media::Time;

use super::RoundTrip;

/// Of a new link, in bytes a second: 8 Mbit/s, or less where what the link was seen to take is less beyond what is live. Loss alone does not push it lower,
/// for what is lost by chance says nothing.
const START: u64 = 1_000_000;
/// Not below, whatever waits: a key frame of 64 kB comes in half a second.
const FLOOR: u64 = 128_000;
/// 100 Mbit/s.
const CAP: u64 = 12_500_000;
/// With nothing on the path it rises by so much a round trip...
const RISE_PERCENT: i64 = 25;
/// ...up to this share of what was too fast, and then by this; ...
const NEAR_PERCENT: u64 = 75;
const NEAR_RISE_PERCENT: i64 = 10;
/// ...by less the more waits there, and with more than this, or half a round trip, it falls by as much as that is beyond it: a lone packet is
/// acknowledged up to 25 ms late (RFC 9000 section 18.2), and a key frame of what is live waits for itself, ...
const WAITS_US: i64 = 60_000;
/// ...down to this at one time.
const LEFT_PERCENT: i64 = 50;
/// Live media that waits so long at this end waits for streams, too.
const LIVE_WAITS_US: i64 = 60_000;
/// More loss than this is no chance.
const LOSS_PERCENT: u64 = 15;
/// What was not used is saved up for so long.
const SAVED_US: i64 = 20_000;
/// What was too fast is so for so long.
const TOO_FAST_US: i64 = 2_000_000;
/// After so long without use nothing is known.
const FORGET_US: i64 = 10_000_000;

/// What is seen of the link.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Its round trip.
    pub trip: RoundTrip,
    /// What waits on the path now, in microseconds...
    pub path_us: i64,
    /// ...and how long live media waits at this end.
    pub live_us: i64,
    /// Loss lately, in percent.
    pub loss_percent: u64,
    /// What it was seen to take lately at most beyond what is live, in bytes a second; `None` while nothing is.
    pub beyond: Option<u64>,
    /// What streams need to keep up with what is new of their tracks, in bytes a second: less is no choice.
    pub needed: u64,
}

/// The rate of a link's streams.
#[derive(Clone, Debug)]
pub struct Spare {
    /// Bytes a second.
    rate: u64,
    /// Bytes that may go now; below 0: when what went was more.
    credit: i64,
    /// When it was looked at last.
    at: Option<Time>,
    /// When it may fall again, and rise again.
    falls: Time,
    rises: Time,
    /// It was used up since it rose.
    used_up: bool,
    /// What it fell from last, and when.
    too_fast: Option<(u64, Time)>,
}

impl Default for Spare {
    fn default() -> Spare {
        Spare::new()
    }
}

impl Spare {
    /// Of a new link.
    pub fn new() -> Spare {
        Spare {
            rate: START,
            credit: 0,
            at: None,
            falls: Time::ZERO,
            rises: Time::ZERO,
            used_up: false,
            too_fast: None,
        }
    }

    /// Bytes a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Time passed, and this was seen. Call it before what waits is taken.
    pub fn update(&mut self, seen: Seen, now: Time) {
        // What went since is seen a round trip later.
        let later = now.plus_us(seen.trip.smoothed_us.max(10_000));
        let passed_us = self.at.map_or(i64::MAX, |at| now.since(at));
        if passed_us > FORGET_US {
            let rate = seen.beyond.unwrap_or(START).clamp(FLOOR, START);
            *self = Spare { rate, rises: later, ..Spare::new() };
        }
        let saved = bytes_in(self.rate, SAVED_US);
        self.credit =
            self.credit.saturating_add(bytes_in(self.rate, passed_us.clamp(0, SAVED_US))).min(saved);
        self.at = Some(now);
        let least = FLOOR.max(seen.needed);
        self.rate = self.rate.max(least);
        let target_us = (seen.trip.min_us / 2).max(WAITS_US);
        let room = |waits_us: i64, target_us: i64| {
            target_us.saturating_sub(waits_us).saturating_mul(100).checked_div(target_us).unwrap_or(0)
        };
        let room = room(seen.path_us, target_us).min(room(seen.live_us, LIVE_WAITS_US));
        let loses = seen.loss_percent > LOSS_PERCENT && self.rate > START;
        if (room < 0 || loses) && now >= self.falls {
            let left = room.saturating_add(100).clamp(LEFT_PERCENT, if loses { LEFT_PERCENT } else { 100 });
            self.too_fast = Some((self.rate, now));
            self.rate = share(self.rate, left.unsigned_abs()).max(least);
            (self.falls, self.rises) = (later, later);
        } else if room > 0 && now >= self.rises && std::mem::take(&mut self.used_up) {
            let near = self.too_fast.is_some_and(|(rate, at)| {
                now.since(at) < TOO_FAST_US && self.rate > share(rate, NEAR_PERCENT)
            });
            let most = if near { NEAR_RISE_PERCENT } else { RISE_PERCENT };
            let percent = room.saturating_mul(most) / 100;
            self.rate = share(self.rate, percent.saturating_add(100).unsigned_abs()).min(CAP);
            self.rises = later;
        }
    }

    /// Whether anything may go now.
    pub fn is_open(&mut self) -> bool {
        self.used_up |= self.credit <= 0;
        self.credit > 0
    }

    /// So many bytes go.
    pub fn went(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When more may go.
    pub fn opens(&self) -> Time {
        let owed = 1_i64.saturating_sub(self.credit).max(0).unsigned_abs();
        let us = owed.saturating_mul(1_000_000).div_ceil(self.rate.max(1));
        self.at.unwrap_or(Time::ZERO).plus_us(i64::try_from(us).unwrap_or(i64::MAX))
    }
}

fn share(rate: u64, percent: u64) -> u64 {
    rate.saturating_mul(percent) / 100
}

fn bytes_in(rate: u64, us: i64) -> i64 {
    i64::try_from(rate.saturating_mul(us.unsigned_abs()) / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: RoundTrip = RoundTrip { min_us: 100_000, smoothed_us: 100_000, deviation_us: 1_000 };

    /// What went in so many milliseconds of a stream that always has more.
    fn goes(spare: &mut Spare, from_ms: i64, ms: i64, seen: impl Fn(&Spare) -> Seen) -> u64 {
        let mut bytes = 0;
        for at in from_ms..from_ms + ms {
            spare.update(seen(spare), Time::from_ms(at));
            while spare.is_open() {
                spare.went(1_200);
                bytes += 1_200;
            }
            assert!(spare.opens() > Time::from_ms(at));
        }
        bytes
    }

    #[test]
    fn it_begins_slowly_and_rises_while_nothing_waits() {
        let seen = |_: &Spare| Seen { trip: TRIP, ..Seen::default() };
        let mut spare = Spare::new();
        spare.update(Seen { beyond: Some(200_000), ..seen(&spare) }, Time::from_ms(1));
        assert_eq!(spare.rate(), 200_000);
        spare = Spare::new();
        let first = goes(&mut spare, 20_000, 100, seen);
        assert!((90_000..150_000).contains(&first), "{first} bytes at 8 Mbit/s");
        let second = goes(&mut spare, 20_100, 900, seen);
        assert!((1_500_000..8_000_000).contains(&second), "{second}");
        goes(&mut spare, 21_000, 5_000, seen);
        assert_eq!(spare.rate(), CAP);
        spare.update(seen(&spare), Time::from_ms(37_000));
        assert_eq!(spare.rate(), START, "what was long ago says nothing");
    }

    #[test]
    fn it_gives_way_to_a_queue_to_live_media_and_to_heavy_loss_but_keeps_up_with_what_is_recorded() {
        let of = |seen: Seen| {
            let mut spare = Spare::new();
            goes(&mut spare, 20_000, 5_000, |_| Seen { trip: TRIP, ..Seen::default() });
            goes(&mut spare, 25_000, 5_000, |_| Seen { trip: TRIP, ..seen });
            spare.rate()
        };
        assert_eq!(of(Seen { path_us: 120_000, ..Seen::default() }), FLOOR);
        assert_eq!(of(Seen { path_us: 30_000, ..Seen::default() }), CAP);
        assert_eq!(of(Seen { live_us: 90_000, ..Seen::default() }), FLOOR);
        let lost = of(Seen { loss_percent: 16, ..Seen::default() });
        assert!((START / 2..=START).contains(&lost), "{lost}");
        assert_eq!(of(Seen { loss_percent: 10, ..Seen::default() }), CAP);
        assert_eq!(of(Seen { path_us: 120_000, needed: 700_000, ..Seen::default() }), 700_000);
    }

    #[test]
    fn on_a_narrow_link_it_finds_what_is_left() {
        // Of 625 kB/s live media takes 200, and what is more waits on the path.
        let (mut spare, mut queue, mut late) = (Spare::new(), 0_i64, 0);
        let mut sent = std::collections::VecDeque::from(vec![0_i64; 100]);
        let mut went = 0_u64;
        for at in 20_000..40_000_i64 {
            // Seen a round trip later.
            let path_us = sent.pop_front().unwrap_or(0);
            let beyond = Some(425_000);
            spare.update(Seen { trip: TRIP, path_us, beyond, ..Seen::default() }, Time::from_ms(at));
            while spare.is_open() {
                spare.went(1_200);
                queue += 1_200;
                went += 1_200;
            }
            queue = (queue + 200 - 625).max(0);
            sent.push_back(queue * 1_000_000 / 625_000);
            late = late.max(queue * 1_000 / 625_000);
        }
        assert!(went / 20 > 300_000, "{} bytes a second", went / 20);
        assert!(late < 190, "{late} ms");
    }
}
