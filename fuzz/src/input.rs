//! Inputs that are more than one run of bytes: a list of steps, pieces of a stream. Read so that a mutation anywhere leaves the
//! rest with a meaning: what is missing reads as zero, and a length beyond the end means the rest.

/// A cursor over an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// At the start.
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input { rest: data }
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// Bytes behind a 16-bit length.
    pub fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16());
        let (piece, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, &[]));
        self.rest = rest;
        piece
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// A stream cut as a socket cuts it: pieces of 1 to 64 bytes, then, by the seed, up to 4096.
pub fn pieces(seed: u8, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u64::from(seed);
    let mut rest = stream;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wide = if state >> 62 == 0 { 4_096 } else { 64 };
        // Seed 0 is the whole stream at once: the shortest way to reproduce most faults.
        let len = if seed == 0 { rest.len() } else { 1 + (state >> 33) as usize % wide };
        let (piece, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        rest = after;
        Some(piece)
    })
}
