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
