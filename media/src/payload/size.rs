//! The picture's size, as key frames say it in their first packet.

use super::h264::sps;
use crate::{Codec, h264};

/// Width and height that the first packet of a key frame tells: H.264's from its SPS, VP8's from the frame header, VP9's from the
/// scalability structure of its descriptor, AV1's from its sequence header. `None` for other payloads and codecs.
pub fn size(codec: Codec, payload: &[u8]) -> Option<(u32, u32)> {
    match codec {
        Codec::H264 => h264::size(sps(payload)?),
        Codec::Vp8 => vp8(payload),
        Codec::Vp9 => super::vp9::Descriptor::parse(payload)?.size(),
        Codec::Av1 => super::av1::size(payload),
        _ => None,
    }
}

fn vp8(payload: &[u8]) -> Option<(u32, u32)> {
    if !super::key_start(Codec::Vp8, payload) {
        return None;
    }
    let header = payload.get(super::vp8::Descriptor::parse(payload)?.len..)?;
    // RFC 6386 section 9.1: three bytes of frame tag, then the start code, then 14 bits of each with 2 of scaling.
    let &[_, _, _, 0x9d, 0x01, 0x2a, width0, width1, height0, height1] = header.first_chunk::<10>()? else {
        return None;
    };
    let of = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some((of(width0, width1), of(height0, height1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_key_frames() {
        let vp8 = [0x90, 0xe0, 0x81, 0x23, 7, 0x20, 0x10, 2, 0, 0x9d, 1, 0x2a, 0x80, 2, 0x68, 1];
        assert_eq!(size(Codec::Vp8, &vp8), Some((640, 360)));
        assert_eq!(size(Codec::Vp8, &vp8[..15]), None, "cut");
        // I L V, picture id of 15 bits, layer indices, N_S 1 with sizes.
        let vp9 = [0xaa, 0x81, 2, 0, 9, 0x30, 1, 0x40, 0, 0xb4, 2, 0x80, 1, 0x68];
        assert_eq!(size(Codec::Vp9, &vp9), Some((640, 360)));
        assert_eq!(size(Codec::Vp9, &vp9[..12]), None, "cut");
        let sps = [0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x1e, 0xd0, 0x0f, 0x08, 0x84, 0x6a];
        let alone = size(Codec::H264, &sps);
        assert_eq!(alone, Some((640, 480)));
        let mut stap = vec![0x78, 0, sps.len() as u8];
        stap.extend(sps);
        assert_eq!(size(Codec::H264, &stap), alone);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1] {
                size(codec, &payload);
            }
        }
    }
}
