//! The ring: a track's last packets by sequence number. It is the retransmission store, the GOP cache and every subscriber's jitter
//! buffer at once; subscribers hold positions in it, never payloads.

use std::collections::VecDeque;

use media::{Packet, Time};
use metrics::DropReason;

/// How much a ring keeps.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Packets younger than this stay, in microseconds.
    pub keep_us: i64,
    /// The last GOP stays longer, up to this many payload bytes.
    pub bytes_max: usize,
    /// Slots, holes included: a flood of tiny packets or a wild jump in numbers cannot grow the ring.
    pub slots_max: usize,
}

impl RingLimits {
    /// Video: 2 s (livekit#4460: 500 packets were too few at 480 pps and 150 ms RTT) and the last GOP up to 8 MiB, which is 16 s of 4 Mbit/s.
    pub const VIDEO: RingLimits = RingLimits { keep_us: 2_000_000, bytes_max: 8 << 20, slots_max: 16_384 };
    /// Audio: 1 s.
    pub const AUDIO: RingLimits = RingLimits { keep_us: 1_000_000, bytes_max: 1 << 20, slots_max: 1_024 };
}

/// A track's last packets. Slot `i` is the packet numbered `first + i`, or a hole where it has not come.
#[derive(Debug)]
pub struct Ring {
    slots: VecDeque<Option<Packet>>,
    first: u64,
    bytes: usize,
    key: Option<u64>,
    limits: RingLimits,
}

impl Ring {
    /// An empty ring.
    pub fn new(limits: RingLimits) -> Ring {
        Ring { slots: VecDeque::new(), first: 0, bytes: 0, key: None, limits }
    }

    /// Puts a packet in its place and lets go of what is too old.
    ///
    /// Errors: [`DropReason::Duplicate`], [`DropReason::TooOld`].
    pub fn insert(&mut self, packet: Packet, now: Time) -> Result<(), DropReason> {
        let seq = packet.seq;
        if self.slots.is_empty() {
            self.first = seq;
        }
        let Some(index) = seq.checked_sub(self.first) else { return Err(DropReason::TooOld) };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index >= self.limits.slots_max.saturating_mul(2) {
            // A jump that no loss explains: what was before has no meaning to anybody behind it.
            self.clear();
            self.first = seq;
            return self.insert(packet, now);
        }
        while self.slots.len() <= index {
            self.slots.push_back(None);
        }
        let slot = &mut self.slots[index];
        if slot.is_some() {
            return Err(DropReason::Duplicate);
        }
        self.bytes += packet.payload.len() + packet.descriptor.len();
        let (key_start, timestamp) = (packet.key_start, packet.timestamp);
        *slot = Some(packet);
        if key_start {
            // Parameter sets and the first slice both start a key frame; the frame starts at the earlier one, which may come later.
            let same_frame = self.key.and_then(|key| self.get(key)).is_some_and(|p| p.timestamp == timestamp);
            self.key = match self.key {
                Some(key) if same_frame => Some(key.min(seq)),
                Some(key) => Some(key.max(seq)),
                None => Some(seq),
            };
        }
        self.trim(now);
        Ok(())
    }

    /// The packet numbered `seq`, if it came and is still kept.
    pub fn get(&self, seq: u64) -> Option<&Packet> {
        self.slots.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)?.as_ref()
    }

    /// The newest packet's number.
    pub fn head(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first + self.slots.len() as u64 - 1)
    }

    /// The start of the newest key frame, if it is still kept.
    pub fn key(&self) -> Option<u64> {
        self.key.filter(|key| *key >= self.first)
    }

    /// Payload bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The packets from `seq` on that are there.
    pub fn from(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Packet> {
        let skip = usize::try_from(seq.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.iter().skip(skip.min(self.slots.len())).flatten()
    }

    /// Payload bytes of the packets from `seq` on.
    pub(crate) fn bytes_from(&self, seq: u64) -> usize {
        self.from(seq).map(|p| p.payload.len()).sum()
    }

    /// Whether a key frame starts at `key` and nothing is missing from there to the head.
    pub fn whole_from(&self, key: u64) -> bool {
        match key.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) if skip < self.slots.len() => self.slots.iter().skip(skip).all(Option::is_some),
            _ => false,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.bytes = 0;
        self.key = None;
    }

    fn trim(&mut self, now: Time) {
        while let Some(front) = self.slots.front() {
            let over = self.bytes > self.limits.bytes_max || self.slots.len() > self.limits.slots_max;
            let in_gop = self.key == Some(self.first);
            let aged = front.as_ref().is_none_or(|p| now.since(p.arrival) > self.limits.keep_us);
            if !(over || (aged && !in_gop)) || self.slots.len() == 1 {
                break;
            }
            if let Some(Some(packet)) = self.slots.pop_front() {
                self.bytes -= packet.payload.len() + packet.descriptor.len();
            }
            self.first += 1;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use media::{Codec, Temporal};
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn packet(seq: u64, at_ms: i64, key_start: bool) -> Packet {
        Packet {
            seq,
            timestamp: at_ms * 90,
            arrival: Time::from_ms(at_ms),
            capture: Time::from_ms(at_ms),
            codec: Codec::H264,
            marker: true,
            key_start,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: Bytes::from(vec![seq as u8; 100]),
        }
    }

    #[test]
    fn keeps_the_gop_beyond_two_seconds_and_lets_the_one_before_go() {
        let mut ring = Ring::new(RingLimits::VIDEO);
        for i in 0..300 {
            let at = i as i64 * 33;
            ring.insert(packet(i, at, i % 150 == 0), Time::from_ms(at)).unwrap();
        }
        assert_eq!(ring.key(), Some(150));
        assert!(ring.get(150).is_some(), "the last GOP stays, 5 s long");
        assert!(ring.get(149).is_none(), "the one before it does not, once 2 s are past");
        assert!(ring.whole_from(150));
    }

    #[test]
    fn a_gop_whose_start_is_gone_is_kept_no_longer_than_the_rest() {
        let mut ring = Ring::new(RingLimits { bytes_max: 30_000, ..RingLimits::VIDEO });
        for i in 0..400 {
            let at = i as i64 * 33;
            ring.insert(packet(i, at, i == 0), Time::from_ms(at)).unwrap();
        }
        assert_eq!(ring.key(), None);
        assert!(ring.get(399 - 60).is_some() && ring.get(399 - 62).is_none(), "2 s");
    }

    #[test]
    fn holes_fill_late_and_duplicates_are_refused() {
        let mut ring = Ring::new(RingLimits::VIDEO);
        ring.insert(packet(10, 0, true), Time::ZERO).unwrap();
        ring.insert(packet(12, 1, false), Time::ZERO).unwrap();
        assert!(!ring.whole_from(10));
        ring.insert(packet(11, 2, false), Time::ZERO).unwrap();
        assert!(ring.whole_from(10));
        assert_eq!(ring.insert(packet(11, 2, false), Time::ZERO), Err(DropReason::Duplicate));
        assert_eq!(ring.insert(packet(9, 2, false), Time::ZERO), Err(DropReason::TooOld));
    }

    #[test]
    fn a_key_frame_starts_at_its_first_packet_in_whatever_order_they_come() {
        for order in [[4, 5, 6], [5, 6, 4], [6, 5, 4]] {
            let mut ring = Ring::new(RingLimits::VIDEO);
            ring.insert(packet(1, 0, false), Time::ZERO).unwrap();
            for seq in order {
                ring.insert(packet(seq, 33, seq < 6), Time::ZERO).unwrap();
            }
            assert_eq!(ring.key(), Some(4), "{order:?}");
        }
    }

    proptest! {
        /// Whatever numbers come, the bounds hold, the byte count is true and each packet is found under its own number.
        #[test]
        fn bounds_hold(jumps in proptest::collection::vec(0u64..40_000, 1..300)) {
            let mut ring = Ring::new(RingLimits { keep_us: 50_000, bytes_max: 5_000, slots_max: 64 });
            for (i, jump) in jumps.iter().enumerate() {
                let seq = if jump % 3 == 0 { *jump } else { i as u64 };
                let _ = ring.insert(packet(seq, i as i64, jump % 7 == 0), Time::from_ms(i as i64));
                prop_assert!(ring.bytes() <= 5_100);
                prop_assert!(ring.slots.len() <= 129);
                let bytes: usize = ring.from(0).map(|p| p.payload.len()).sum();
                prop_assert_eq!(bytes, ring.bytes());
                for p in ring.from(0) {
                    prop_assert_eq!(ring.get(p.seq).map(|q| q.seq), Some(p.seq));
                }
            }
        }
    }
}
