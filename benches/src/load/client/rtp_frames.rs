//! Which video frames are whole, from packets in any order: no depacketizer, but numbers, time stamps and markers.

use crate::load::stamp::Stamp;

/// Packets remembered: 2 s of 2 Mbit/s. A retransmission comes within that, or never.
const SLOTS: usize = 512;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// One more than the packet's extended number; 0 for none.
    number: u64,
    timestamp: u32,
    marker: bool,
    key: bool,
    told: bool,
    stamp: Option<Stamp>,
}

/// What is known of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Extended sequence number.
    pub number: u64,
    /// RTP time.
    pub timestamp: u32,
    /// Last of its frame.
    pub marker: bool,
    /// Of a key frame.
    pub key: bool,
    /// The stamp it carries.
    pub stamp: Option<Stamp>,
}

/// Puts frames together.
pub struct Frames {
    slots: Box<[Slot; SLOTS]>,
    /// The first number that came: what was before it is not missing.
    first: Option<u64>,
}

impl Frames {
    /// Nothing yet.
    pub fn new() -> Frames {
        Frames { slots: Box::new([Slot::default(); SLOTS]), first: None }
    }

    /// Takes a packet. The frames that it makes whole: its own, and the next one, if all that was missing of that was where it begins.
    /// Of each its stamp, and whether it is a key frame.
    pub fn take(&mut self, packet: Packet) -> [Option<(Option<Stamp>, bool)>; 2] {
        self.first.get_or_insert(packet.number);
        let Packet { number, timestamp, marker, key, stamp } = packet;
        let slot = &mut self.slots[number as usize % SLOTS];
        if slot.number > number {
            return [None; 2]; // it, or one much later, is there already
        }
        *slot = Slot { number: number + 1, timestamp, marker, key, told: false, stamp };
        // In order, only the marker ends anything; one that was missing may.
        let is_newest = self.slot(number + 1).is_none();
        if is_newest && !marker {
            return [None; 2];
        }
        [self.whole_with(number), if marker { self.whole_with(number + 1) } else { None }]
    }

    /// The frame that a packet is of, if it is whole and was not told before.
    fn whole_with(&mut self, number: u64) -> Option<(Option<Stamp>, bool)> {
        let timestamp = self.slot(number)?.timestamp;
        let mut last = number;
        while !self.slot(last)?.marker {
            last += 1;
            self.slot(last).filter(|slot| slot.timestamp == timestamp)?;
        }
        let (mut begin, mut stamp, mut key) = (last, None, false);
        loop {
            let slot = self.slot(begin)?;
            stamp = slot.stamp.or(stamp);
            key |= slot.key;
            if self.first == Some(begin) {
                break;
            }
            // What is before a frame must be known to be another's.
            let before = self.slot(begin.checked_sub(1)?)?;
            if before.timestamp != timestamp || before.marker {
                break;
            }
            begin -= 1;
        }
        let end = &mut self.slots[last as usize % SLOTS];
        if std::mem::replace(&mut end.told, true) { None } else { Some((stamp, key)) }
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        Some(&self.slots[number as usize % SLOTS]).filter(|slot| slot.number == number + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of three packets: number 30 is the first of time 10, and so on.
    fn packet(number: u64) -> Packet {
        let stamp =
            number.is_multiple_of(3).then_some(Stamp { sent_us: 1, stream: 0, frame: (number / 3) as u32 });
        Packet {
            number,
            timestamp: (number / 3) as u32,
            marker: number % 3 == 2,
            key: number / 3 == 10,
            stamp,
        }
    }

    fn whole(numbers: &[u64]) -> Vec<(u32, bool)> {
        let mut frames = Frames::new();
        let taken = numbers.iter().flat_map(|number| frames.take(packet(*number))).flatten();
        taken.map(|(stamp, key)| (stamp.map_or(u32::MAX, |stamp| stamp.frame), key)).collect()
    }

    #[test]
    fn whole_frames_are_told_once_and_in_any_order() {
        assert_eq!(whole(&[30, 31, 32, 33, 34, 35]), [(10, true), (11, false)]);
        assert_eq!(whole(&[30, 31, 33, 34, 35, 32]), [(10, true), (11, false)]);
        assert_eq!(whole(&[30, 32, 31, 31, 32]), [(10, true)]);
        assert_eq!(whole(&[30, 31, 32, 34, 35, 36, 37, 38, 33]), [(10, true), (12, false), (11, false)]);
        assert_eq!(whole(&[30, 31, 36, 37, 38, 33, 34, 35, 32]), [(12, false), (10, true), (11, false)]);
    }

    #[test]
    fn a_frame_with_a_hole_is_not_whole() {
        assert_eq!(whole(&[30, 32, 33, 34, 35]), [(11, false)]);
        assert_eq!(whole(&[30, 31, 32, 34, 35, 36, 37, 38]), [(10, true), (12, false)]);
        assert_eq!(
            whole(&[31, 32, 33, 34, 35]),
            [(u32::MAX, true), (11, false)],
            "what was before the first is not known"
        );
    }
}
