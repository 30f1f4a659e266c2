//! Chance from a seed.

/// Splitmix64: the same seed, the same draws, on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; 0 when `bound` is 0. The bias of the remainder is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or(0)
    }

    /// Yes in `of` of `among` cases.
    pub fn chance(&mut self, of: u64, among: u64) -> bool {
        self.below(among) < of
    }

    /// A time until something that may happen at any moment, of this mean.
    pub fn exponential(&mut self, mean: f64) -> i64 {
        // 53 bits, never 0
        let uniform = ((self.draw() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-uniform.ln() * mean) as i64
    }
}
