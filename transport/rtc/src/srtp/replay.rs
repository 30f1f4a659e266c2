//! One incoming source: its packet index across wraps, and what of it was already seen.

/// Packets that may come this much behind the newest. RFC 3711 section 3.3.2 asks for 64 at least; at 1000
/// packets a second (high-rate video) 1024 is a second, more than any repair takes.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
const _: () = assert!(WORDS as u64 * 64 == WINDOW);

/// An SSRC whose packets were authentic.
pub(super) struct Source {
    ssrc: u32,
    /// The highest index that was authentic: ROC and sequence number, 48 bits.
    highest: u64,
    /// Bit `index % WINDOW` is set when a packet of the window had that index.
    seen: [u64; WORDS],
}

impl Source {
    pub(super) fn new(ssrc: u32, index: u64) -> Source {
        let mut source = Source { ssrc, highest: index, seen: [0; WORDS] };
        source.set(index, true);
        source
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// RFC 3711 section 3.3.1: the index nearest to the highest one that ends with `sequence`.
    pub(super) fn index_of(&self, sequence: u16) -> u64 {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead < 0x8000 {
            return self.highest.saturating_add(u64::from(ahead));
        }
        let behind = u64::from(ahead.wrapping_neg());
        // There is nothing before index 0: then it can only be a long way ahead.
        self.highest.checked_sub(behind).unwrap_or_else(|| self.highest.saturating_add(u64::from(ahead)))
    }

    /// Whether `index` was seen, or is too old to tell.
    pub(super) fn is_replayed(&self, index: u64) -> bool {
        if index > self.highest {
            return false;
        }
        self.highest.saturating_sub(index) >= WINDOW || self.is_set(index)
    }

    /// Notes an authentic packet.
    pub(super) fn accept(&mut self, index: u64) {
        if index > self.highest {
            let first = self.highest.saturating_add(1);
            if index.saturating_sub(first) >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (first..index).for_each(|skipped| self.set(skipped, false));
            }
            self.highest = index;
        }
        self.set(index, true);
    }

    fn is_set(&self, index: u64) -> bool {
        let (word, bit) = place(index);
        self.seen.get(word).is_some_and(|w| w & bit != 0)
    }

    fn set(&mut self, index: u64, seen: bool) {
        let (word, bit) = place(index);
        if let Some(word) = self.seen.get_mut(word) {
            *word = if seen { *word | bit } else { *word & !bit };
        }
    }
}

fn place(index: u64) -> (usize, u64) {
    let bit = index % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn wraps_are_followed_both_ways() {
        let mut source = Source::new(1, 65_530);
        assert_eq!(source.index_of(3), 65_539);
        source.accept(65_539);
        assert_eq!(source.index_of(65_535), 65_535);
        assert_eq!(source.index_of(4), 65_540);
        // Nothing comes before index 0.
        assert_eq!(Source::new(1, 2).index_of(65_534), 65_534);
    }

    #[test]
    fn the_window_has_both_edges() {
        let mut source = Source::new(1, 5000);
        assert!(source.is_replayed(5000) && !source.is_replayed(4999) && !source.is_replayed(5001));
        assert!(!source.is_replayed(5000 - WINDOW + 1) && source.is_replayed(5000 - WINDOW));
        source.accept(5000 + WINDOW);
        assert!(source.is_replayed(5000) && !source.is_replayed(5001));
        source.accept(5000 + 10 * WINDOW);
        assert!(!source.is_replayed(5000 + 10 * WINDOW - 1));
    }

    proptest! {
        /// Against a set that forgets nothing.
        #[test]
        fn no_packet_is_taken_twice(steps in prop::collection::vec(-1500_i64..1500, 1..300)) {
            let mut index = 1_000_000_u64;
            let mut source = Source::new(1, index);
            let mut seen = HashSet::from([index]);
            let mut highest = index;
            for step in steps {
                index = index.saturating_add_signed(step);
                prop_assert_eq!(source.index_of(index as u16), index, "within half the number space");
                let fresh = !seen.contains(&index) && highest.saturating_sub(index) < WINDOW;
                prop_assert_eq!(!source.is_replayed(index), fresh);
                if fresh {
                    source.accept(index);
                    seen.insert(index);
                    highest = highest.max(index);
                }
                index = highest;
            }
        }
    }
}
