//! When a browser asks for a packet again (libwebrtc's `NackRequester`).

use std::collections::BTreeMap;

use media::Time;

/// A receiver has no measure of its round trip without extended reports; libwebrtc then assumes this (`kDefaultRttMs`).
const RTT_US: i64 = 100_000;
/// Its list is looked through this often.
const STEP_US: i64 = 20_000;
const TRIES_MAX: u8 = 10;
const MISSING_MAX: usize = 1_000;

#[derive(Debug)]
struct Missing {
    asked: Time,
    tries: u8,
}

/// What is missing of one stream.
#[derive(Debug, Default)]
pub struct Nacks {
    missing: BTreeMap<u64, Missing>,
    highest: Option<u64>,
    next: Option<Time>,
}

impl Nacks {
    /// A packet came; gives the numbers to ask for at once, and whether there are too many.
    pub fn arrived(&mut self, seq: u64, now: Time) -> (Vec<u64>, bool) {
        let highest = *self.highest.get_or_insert(seq);
        if seq <= highest {
            self.missing.remove(&seq);
            return (Vec::new(), false);
        }
        self.highest = Some(seq);
        let gap: Vec<u64> = (highest + 1..seq).collect();
        if gap.len() + self.missing.len() > MISSING_MAX {
            self.missing.clear();
            return (Vec::new(), true);
        }
        self.missing.extend(gap.iter().map(|seq| (*seq, Missing { asked: now, tries: 1 })));
        if !self.missing.is_empty() {
            self.next.get_or_insert(now.plus_us(STEP_US));
        }
        (gap, false)
    }

    /// A key frame begins here: what was before has no use.
    pub fn forget_before(&mut self, seq: u64) {
        self.missing = self.missing.split_off(&seq);
    }

    /// The numbers to ask for again, and whether some were given up.
    pub fn poll(&mut self, now: Time) -> (Vec<u64>, bool) {
        if self.next.is_none_or(|next| now < next) {
            return (Vec::new(), false);
        }
        let before = self.missing.len();
        self.missing.retain(|_, m| m.tries < TRIES_MAX || now.since(m.asked) < RTT_US);
        let given_up = self.missing.len() < before;
        let mut ask = Vec::new();
        for (seq, m) in self.missing.iter_mut().filter(|(_, m)| now.since(m.asked) >= RTT_US) {
            (m.asked, m.tries) = (now, m.tries + 1);
            ask.push(*seq);
        }
        self.next = (!self.missing.is_empty()).then(|| now.plus_us(STEP_US));
        (ask, given_up)
    }

    /// When [`Nacks::poll`] is due.
    pub fn next(&self) -> Time {
        self.next.unwrap_or(Time::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_asked_for_at_once_then_each_round_trip_and_given_up_after_ten() {
        let mut nacks = Nacks::default();
        assert_eq!(nacks.arrived(10, Time::ZERO), (vec![], false));
        assert_eq!(nacks.arrived(13, Time::ZERO), (vec![11, 12], false));
        nacks.arrived(12, Time::from_ms(50));
        let (mut asked, mut given_up) = (Vec::new(), None);
        while nacks.next() < Time::MAX {
            let now = nacks.next();
            let (again, gave_up) = nacks.poll(now);
            asked.extend(again.iter().map(|seq| (now.ms(), *seq)));
            given_up = given_up.or(gave_up.then_some(now.ms()));
        }
        let expect: Vec<(i64, u64)> = (1..10).map(|n| (n * 100, 11)).collect();
        assert_eq!((asked, given_up), (expect, Some(1_000)));
    }

    #[test]
    fn too_much_is_not_asked_for() {
        let mut nacks = Nacks::default();
        nacks.arrived(10, Time::ZERO);
        assert_eq!(nacks.arrived(2_000, Time::ZERO), (vec![], true));
    }
}
