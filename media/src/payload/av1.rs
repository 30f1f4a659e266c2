//! The picture's size out of an AV1 payload (AV1 RTP specification section 4; AV1 bitstream specification section 5.5).

use crate::h264::bits::BitReader;

/// OBUs of a packet that are looked at: the sequence header is the first.
const OBUS_MAX: usize = 4;
const SEQUENCE_HEADER: u8 = 1;

/// Width and height of the sequence header in a payload.
pub(super) fn size(payload: &[u8]) -> Option<(u32, u32)> {
    // Z Y W W N - - -
    let (aggregation, mut rest) = payload.split_first()?;
    if aggregation & 0x80 != 0 {
        return None;
    }
    let count = usize::from(aggregation >> 4 & 3);
    for index in 1..=OBUS_MAX {
        // Each OBU has its length before it, but the last of a number that is said.
        let obu = if index == count {
            std::mem::take(&mut rest)
        } else {
            let (len, after) = leb128(rest)?;
            let (obu, after) = after.split_at_checked(len)?;
            rest = after;
            obu
        };
        let (header, mut body) = obu.split_first()?;
        // F TYPE(4) X S -
        if header >> 3 & 0xf == SEQUENCE_HEADER {
            if header & 0x04 != 0 {
                body = body.get(1..)?;
            }
            if header & 0x02 != 0 {
                body = leb128(body)?.1;
            }
            return sequence_header(body);
        }
    }
    None
}

/// Section 4.10.5, as far as a packet's length needs.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

/// Section 5.5.1 `sequence_header_obu`, up to the size.
fn sequence_header(body: &[u8]) -> Option<(u32, u32)> {
    let mut bits = BitReader::new(body);
    let _profile = bits.bits(3)?;
    let _still = bits.bit()?;
    let reduced = bits.bit()?;
    if reduced {
        bits.bits(5)?;
    } else {
        operating_points(&mut bits)?;
    }
    let (width_bits, height_bits) = (bits.bits(4)?.checked_add(1)?, bits.bits(4)?.checked_add(1)?);
    Some((bits.bits(width_bits)?.checked_add(1)?, bits.bits(height_bits)?.checked_add(1)?))
}

fn operating_points(bits: &mut BitReader<'_>) -> Option<()> {
    let mut delay_bits = None;
    if bits.bit()? {
        // timing_info
        bits.bits(32)?;
        bits.bits(32)?;
        if bits.bit()? {
            bits.ue()?;
        }
        if bits.bit()? {
            // decoder_model_info
            delay_bits = Some(bits.bits(5)?.checked_add(1)?);
            bits.bits(32)?;
            bits.bits(10)?;
        }
    }
    let display_delay = bits.bit()?;
    for _ in 0..=bits.bits(5)? {
        bits.bits(12)?;
        let level = bits.bits(5)?;
        if level > 7 {
            bits.bit()?;
        }
        if let Some(delay_bits) = delay_bits
            && bits.bit()?
        {
            bits.bits(delay_bits)?;
            bits.bits(delay_bits)?;
            bits.bit()?;
        }
        if display_delay && bits.bit()? {
            bits.bits(4)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Profile 0, one operating point of level 5 (3.1), ten bits of width, nine of height.
    fn header(width: u32, height: u32) -> Vec<u8> {
        let mut all: u128 = 0;
        let fields = [
            (5, 0),
            (1, 0),
            (1, 0),
            (5, 0),
            (12, 0),
            (5, 5),
            (4, 9),
            (4, 8),
            (10, width - 1),
            (9, height - 1),
        ];
        let len: u32 = fields.iter().map(|(len, _)| len).sum();
        for (len, value) in fields {
            all = all << len | u128::from(value);
        }
        (all << (128 - len)).to_be_bytes()[..len.div_ceil(8) as usize].to_vec()
    }

    #[test]
    fn of_sequence_headers() {
        let header = header(640, 360);
        let alone = [&[0x18, 0x08][..], &header].concat();
        assert_eq!(size(&alone), Some((640, 360)));
        let len = header.len() as u8 + 1;
        let followed = [&[0x28, len, 0x08][..], &header, &[0x30, 1, 2, 3]].concat();
        assert_eq!(size(&followed), Some((640, 360)));
        let sized = [&[0x08, len + 2, 0x0e, 0x00, len - 1][..], &header, &[2, 0x30, 1]].concat();
        assert_eq!(size(&sized), Some((640, 360)), "with extension and size, and every length said");
        assert_eq!(size(&alone[..8]), None, "cut");
        assert_eq!(size(&[0x18, 0x30, 1]), None, "a frame");
        let goes_on = [&[0x90, 0x08][..], &header].concat();
        assert_eq!(size(&goes_on), None, "the end of an OBU");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..60)) {
            size(&payload);
            sequence_header(&payload);
        }
    }
}
