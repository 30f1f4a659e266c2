//! What was sent and has not been described yet: number, time, size, probe.

use std::collections::VecDeque;

use media::Time;

/// Packets remembered: 100 Mbit/s of 1200 bytes for 0.8 s, 96 KiB. When full, the oldest is forgotten and its feedback
/// then counts for nothing. Far below 2^15, so that a number means one packet.
const ENTRIES_MAX: usize = 8192;
/// Until the first feedback, which many peers never send: 6 KiB, 1.7 s at 300 packets/s.
const ENTRIES_MAX_UNHEARD: usize = 512;
/// Older than this nothing is known: the deepest buffers hold some 2 s.
const AGE_US_MAX: i64 = 4_000_000;
/// Packets sent until what is too old is looked for.
const TRIM_EACH: u16 = 64;
/// So far behind the newest described packet an entry still waits to be described, or to arrive after all.
const BEHIND_US_MAX: i64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    InFlight,
    Lost,
    Arrived,
}

/// Twelve bytes: a subscriber has some 50 of them in flight, a slow one thousands.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Low 32 bits of the microseconds: unambiguous, as entries live for seconds and these wrap after 71 minutes.
    sent: u32,
    bytes: u16,
    /// What the receiver asks for it by, if `repaired`.
    number: u16,
    repaired: bool,
    /// 0 is none.
    probe: u8,
    state: State,
}

/// A packet that a feedback describes for the first time, or that arrived after it was called lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Described {
    pub(super) sent: Time,
    pub(super) bytes: usize,
    /// The receiver can ask for it by this number.
    pub(super) number: Option<u16>,
    /// 0 is none.
    pub(super) probe: u8,
    pub(super) arrived: bool,
    /// Was called lost before.
    pub(super) late: bool,
    /// The packet before it was not described: a feedback was lost.
    pub(super) gap: bool,
}

#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    /// Number of the next packet; the entries are those right before it.
    next: u16,
    last_sent: Option<Time>,
    /// When the newest described packet was sent.
    newest: Option<Time>,
}

impl History {
    pub(super) fn push(&mut self, bytes: usize, probe: u8, now: Time) -> u16 {
        // A long silence: the 32 bits of older entries would lie.
        if self.last_sent.is_some_and(|last| now.since(last) > AGE_US_MAX) {
            self.entries.clear();
        }
        self.last_sent = Some(now);
        let max = if self.newest.is_some() { ENTRIES_MAX } else { ENTRIES_MAX_UNHEARD };
        if self.entries.len() >= max {
            self.entries.pop_front();
        }
        // The other end of the entries is not in a cache.
        if self.next.is_multiple_of(TRIM_EACH) {
            self.trim(now);
        }
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let state = State::InFlight;
        self.entries.push_back(Entry {
            sent: now.us() as u32,
            bytes,
            number: 0,
            repaired: false,
            probe,
            state,
        });
        let seq = self.next;
        self.next = seq.wrapping_add(1);
        seq
    }

    /// The receiver can ask for the packet pushed last by this number.
    pub(super) fn numbered(&mut self, number: u16) {
        if let Some(entry) = self.entries.back_mut() {
            (entry.number, entry.repaired) = (number, true);
        }
    }

    /// What is new about packet `seq`; `None` for one never sent, forgotten, or described so before.
    pub(super) fn describe(&mut self, seq: u16, arrived: bool, now: Time) -> Option<Described> {
        let back = usize::from(self.next.wrapping_sub(seq));
        let at = self.entries.len().checked_sub(back)?;
        let before = at.checked_sub(1).and_then(|at| self.entries.get(at));
        let gap = before.is_some_and(|before| before.state == State::InFlight);
        let entry = self.entries.get_mut(at)?;
        let was = entry.state;
        let state = if arrived { State::Arrived } else { State::Lost };
        if was == State::Arrived || was == state {
            return None;
        }
        entry.state = state;
        let sent = time_of(entry.sent, now);
        self.newest = Some(self.newest.map_or(sent, |newest| newest.max(sent)));
        Some(Described {
            sent,
            bytes: usize::from(entry.bytes),
            number: entry.repaired.then_some(entry.number),
            probe: entry.probe,
            arrived,
            late: was == State::Lost,
            gap,
        })
    }

    /// Forgets what nobody asks for any more.
    pub(super) fn trim(&mut self, now: Time) {
        while let Some(first) = self.entries.front() {
            let sent = time_of(first.sent, now);
            let behind = self.newest.is_some_and(|newest| newest.since(sent) > BEHIND_US_MAX);
            if first.state != State::Arrived && !behind && now.since(sent) <= AGE_US_MAX {
                break;
            }
            self.entries.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }
}

/// The last time not after `now` with these low bits.
fn time_of(sent: u32, now: Time) -> Time {
    now.plus_us(-i64::from((now.us() as u32).wrapping_sub(sent)))
}
