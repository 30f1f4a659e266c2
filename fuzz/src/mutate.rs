//! Mutations: the classic ones of byte fuzzers, from a seed.

/// SplitMix64: short, and good enough to mutate by.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of numbers of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }
}

/// Values that lengths and counts break at.
const INTERESTING: [u32; 22] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    127,
    128,
    255,
    256,
    1023,
    4095,
    0x7FFF,
    0x8000,
    0xFFFF,
    0xFF_FFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
];

/// A child of `parent`, with parts of `other`, of at most `len_max` bytes.
pub fn mutate(parent: &[u8], other: &[u8], len_max: usize, random: &mut Random) -> Vec<u8> {
    let mut data = parent.to_vec();
    // Mostly few changes: a parser gets far into an input that is nearly right.
    let changes = 1 << random.below(5);
    for _ in 0..1 + random.below(changes) {
        change(&mut data, other, random);
    }
    data.truncate(len_max);
    data
}

fn change(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(data.len());
    match random.below(14) {
        0 | 1 if !data.is_empty() => data[at] ^= 1 << random.below(8),
        2 if !data.is_empty() => data[at] = random.draw() as u8,
        3 if !data.is_empty() => data[at] = data[at].wrapping_add(random.below(33) as u8).wrapping_sub(16),
        4 | 5 => {
            let value = INTERESTING[random.below(INTERESTING.len())];
            let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
            let width = [1, 2, 3, 4][random.below(4)];
            let bytes = if random.below(4) == 0 { &little[..width] } else { &big[4 - width..] };
            for (to, from) in data.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        }
        // Random bytes in between.
        6 => {
            let count = 1 + random.below(16);
            let bytes: Vec<u8> = (0..count).map(|_| random.draw() as u8).collect();
            data.splice(at..at, bytes);
        }
        // A part is lost.
        7 if !data.is_empty() => {
            let count = 1 + random.below((data.len() - at).min(64));
            data.drain(at..(at + count).min(data.len()));
        }
        // The end is lost.
        8 => data.truncate(at),
        // A part comes twice, or many times.
        9 | 10 if !data.is_empty() => {
            let count = 1 + random.below((data.len() - at).min(128));
            let part = data[at..(at + count).min(data.len())].to_vec();
            let times = if random.below(8) == 0 { 1 + random.below(64) } else { 1 };
            let to = random.below(data.len() + 1);
            data.splice(to..to, part.repeat(times));
        }
        // A part of another input, over or in between.
        11 | 12 if !other.is_empty() => {
            let from = random.below(other.len());
            let count = 1 + random.below(other.len() - from);
            let part = other[from..from + count].iter().copied();
            let end = if random.below(2) == 0 { (at + count).min(data.len()) } else { at };
            data.splice(at..end, part);
        }
        // This input's head, another's tail.
        13 if !other.is_empty() => {
            data.truncate(at);
            data.extend_from_slice(&other[random.below(other.len())..]);
        }
        _ => data.push(random.draw() as u8),
    }
}
