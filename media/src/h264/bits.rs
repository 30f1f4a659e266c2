//! Reading bits: fixed fields and Exp-Golomb codes, most significant bit first.

/// A reader over bytes that gives `None` at the end, for good.
#[derive(Clone, Debug)]
pub(crate) struct BitReader<'a> {
    data: &'a [u8],
    at_bits: usize,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of `data`.
    pub(crate) const fn new(data: &'a [u8]) -> BitReader<'a> {
        BitReader { data, at_bits: 0 }
    }

    /// The next bit.
    pub(crate) fn bit(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at_bits >> 3)?;
        let shift = 7 & !(self.at_bits as u32);
        self.at_bits = self.at_bits.checked_add(1)?;
        Some(byte.checked_shr(shift)? & 1 == 1)
    }

    /// The next `count` bits as a number; `None` for more than 32.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        if count > 32 {
            return None;
        }
        let mut value = 0_u32;
        for _ in 0..count {
            value = value.wrapping_shl(1) | u32::from(self.bit()?);
        }
        Some(value)
    }

    /// An unsigned Exp-Golomb code, `ue(v)` of H.264 section 9.1.
    pub(crate) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0_u32;
        while !self.bit()? {
            zeros = zeros.checked_add(1)?;
        }
        // 32 zeros would need a 33-bit value: no field of H.264 has one.
        let base = 1_u32.checked_shl(zeros)?.checked_sub(1)?;
        base.checked_add(self.bits(zeros)?)
    }

    /// How many bits are left.
    pub(crate) fn left_bits(&self) -> usize {
        self.data.len().saturating_mul(8).saturating_sub(self.at_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exp_golomb_table() {
        // H.264 table 9-2: 1, 010, 011, 00100, 00101 are 0 to 4.
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        assert_eq!((0..5).map(|_| bits.ue().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(bits.left_bits(), 7);
        assert_eq!(bits.ue(), None, "only zeros are left");
    }

    #[test]
    fn fixed_fields_and_the_end() {
        let mut bits = BitReader::new(&[0x12, 0x34, 0x56, 0x78, 0x9A]);
        assert_eq!(bits.bits(4), Some(1));
        assert_eq!(bits.bits(32), Some(0x2345_6789));
        assert_eq!(bits.clone().bits(33), None);
        assert_eq!(bits.bits(4), Some(0xA));
        assert_eq!((bits.bit(), bits.bits(1), bits.bits(0)), (None, None, Some(0)));
    }

    proptest! {
        #[test]
        fn ue_round_trip(value in 0..u32::MAX) {
            let coded = (u128::from(value) + 1) << (63 - 2 * (u64::from(value) + 1).ilog2());
            let bytes = (coded as u64).to_be_bytes();
            prop_assert_eq!(BitReader::new(&bytes).ue(), Some(value));
        }
    }
}
