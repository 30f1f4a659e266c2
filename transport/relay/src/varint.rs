//! Variable-length integers of QUIC (RFC 9000 section 16): 1, 2, 4 or 8 bytes, by the first two bits.

/// The largest value.
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `value` in as few bytes as it fits in; one above [`MAX`] is written as `MAX`.
pub fn write(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend((value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend((value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend((value.min(MAX) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Takes one from the front of `bytes`; `None` when it is cut.
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (value, rest) = match first >> 6 {
        0 => (u64::from(first), bytes.get(1..)?),
        1 => {
            let (head, rest) = bytes.split_first_chunk::<2>()?;
            (u64::from(u16::from_be_bytes(*head) & 0x3fff), rest)
        }
        2 => {
            let (head, rest) = bytes.split_first_chunk::<4>()?;
            (u64::from(u32::from_be_bytes(*head) & 0x3fff_ffff), rest)
        }
        _ => {
            let (head, rest) = bytes.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*head) & MAX, rest)
        }
    };
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_rfc_9000_appendix_a() {
        let samples: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in samples {
            let mut rest = bytes;
            assert_eq!((read(&mut rest), rest.len()), (Some(value), 0));
            let mut out = Vec::new();
            write(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(read(&mut &bytes[..bytes.len() - 1]), None, "cut");
        }
        assert_eq!(read(&mut &[0x40, 0x25][..]), Some(37), "longer than needed is allowed");
    }
}
