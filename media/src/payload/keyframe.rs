//! Whether a payload begins a key frame, and whether its frame can be dropped: without state, from its first bytes.

use super::vp8::Descriptor;
use super::vp9;
use crate::h264::{self, SliceStart};
use crate::{Codec, Kind};

/// Whether this payload is where a decoder can start: the first packet of a key frame, or any audio packet.
///
/// H.264 and H.265 frames may begin with parameter sets in packets of their own; those count, and so does the first slice that
/// follows them. Of several packets with one timestamp the first that is true is the start.
pub fn key_start(codec: Codec, payload: &[u8]) -> bool {
    let found = match codec {
        Codec::H264 => Some(h264_key_start(payload)),
        Codec::H265 => h265_key_start(payload),
        Codec::Vp8 => vp8_key_start(payload),
        Codec::Vp9 => vp9::Descriptor::parse(payload).map(|descriptor| descriptor.starts_key_frame()),
        // AV1 RTP specification section 4.4: Z Y W W N - - -; "N: MUST be set to 1 if the packet is the first packet of a coded
        // video sequence"
        Codec::Av1 => payload.first().map(|header| header & 0x08 != 0),
        Codec::Aac | Codec::Opus | Codec::Pcma | Codec::Pcmu => Some(true),
    };
    found.unwrap_or(false)
}

/// Whether no other frame refers to this payload's frame, as far as its format tells: H.264 slices with nal_ref_idc 0, VP8
/// with the N bit. False for all others, and always for audio.
pub fn discardable(codec: Codec, payload: &[u8]) -> bool {
    match (codec.kind(), codec) {
        (Kind::Audio, _) => false,
        (_, Codec::H264) => h264_discardable(payload),
        // RFC 7741 section 4.2: "N: Non-reference frame. When set to 1, the frame can be discarded without affecting any
        // other future or past frames."
        (_, Codec::Vp8) => payload.first().is_some_and(|descriptor| descriptor & 0x20 != 0),
        _ => false,
    }
}

/// RFC 6184 section 5.7.1: STAP-A, a header byte and then NAL units with 16-bit sizes. Ends at the first that is cut.
fn sized_nals(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (nal, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        rest = after;
        Some(nal)
    })
}

fn h264_key_start(payload: &[u8]) -> bool {
    let starts = |nal: &[u8]| match h264::nal_type(nal) {
        h264::nal::SPS => true,
        h264::nal::IDR => SliceStart::parse(nal).is_some_and(|slice| slice.first_mb == 0),
        _ => false,
    };
    match (h264::nal_type(payload), payload) {
        (super::h264::STAP_A, [_, rest @ ..]) => sized_nals(rest).any(starts),
        // FU header S E R type; first_mb_in_slice is 0 when the first bit of the slice is 1
        (super::h264::FU_A, [_, header, slice, ..]) => {
            header & 0x80 != 0
                && (header & 0x1F == h264::nal::SPS || (header & 0x1F == h264::nal::IDR && slice & 0x80 != 0))
        }
        _ => starts(payload),
    }
}

fn h264_discardable(payload: &[u8]) -> bool {
    let slice = |nal: &[u8]| h264::nal::is_picture(h264::nal_type(nal));
    let unreferenced = h264::nal_ref_idc(payload) == 0;
    match (h264::nal_type(payload), payload) {
        (super::h264::STAP_A, [_, rest @ ..]) => {
            let mut slices = sized_nals(rest).filter(|nal| slice(nal)).peekable();
            slices.peek().is_some() && slices.all(|nal| h264::nal_ref_idc(nal) == 0)
        }
        (super::h264::FU_A, [_, header, ..]) => unreferenced && h264::nal::is_picture(header & 0x1F),
        _ => unreferenced && slice(payload),
    }
}

/// RFC 7798 section 1.1.4: types 16 to 21 are pictures one can start at (BLA, IDR, CRA), 32 VPS, 33 SPS.
fn h265_key_start(payload: &[u8]) -> Option<bool> {
    let kind = |header: u8| (header >> 1) & 0x3F;
    // first_slice_segment_in_pic_flag is the first bit after the header of two bytes
    let starts = |kind: u8, slice: Option<&u8>| match kind {
        16..=21 => slice.is_some_and(|byte| byte & 0x80 != 0),
        32 | 33 => true,
        _ => false,
    };
    let (header, rest) = payload.split_first_chunk::<2>()?;
    Some(match kind(header[0]) {
        // section 4.4.2: aggregation packet, without DONL as sprop-max-don-diff is 0 over WebRTC
        48 => sized_nals(rest).any(|nal| nal.first().is_some_and(|header| starts(kind(*header), nal.get(2)))),
        // section 4.4.3: fragmentation unit, S E and 6 bits of type
        49 => {
            let fu = rest.first()?;
            fu & 0x80 != 0 && starts(fu & 0x3F, rest.get(1))
        }
        single => starts(single, rest.first()),
    })
}

/// RFC 7741 sections 4.2 and 4.3.
fn vp8_key_start(payload: &[u8]) -> Option<bool> {
    let descriptor = Descriptor::parse(payload)?;
    if !descriptor.starts_frame {
        return Some(false);
    }
    // section 4.3: "P: Inverse key frame flag. When set to 0, the current frame is a key frame."
    Some(payload.get(descriptor.len)? & 0x01 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn h264() {
        let key = |payload: &[u8]| key_start(Codec::H264, payload);
        assert!(key(&[0x67, 0x42, 0, 30]), "SPS");
        assert!(key(&[0x65, 0x88, 0x84]), "IDR");
        assert!(!key(&[0x65, 0x58, 0x84]), "second slice of an IDR");
        assert!(!key(&[0x41, 0x9A, 0x24]), "P");
        assert!(!key(&[0x68, 0xCE]), "PPS");
        assert!(key(&[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xCE]), "STAP-A with SPS");
        assert!(key(&[0x78, 0, 1, 0x06, 0, 3, 0x65, 0x88, 0x84]), "STAP-A with IDR");
        assert!(!key(&[0x78, 0, 1, 0x06, 0, 9, 0x67]), "cut");
        assert!(key(&[0x7C, 0x85, 0x88]), "FU-A start of IDR");
        assert!(!key(&[0x7C, 0x05, 0x88]), "FU-A middle of IDR");
        assert!(!key(&[0x7C, 0x81, 0x9A]), "FU-A start of P");

        let drop = |payload: &[u8]| discardable(Codec::H264, payload);
        assert!(drop(&[0x01, 0x9E]) && drop(&[0x1C, 0x81]) && drop(&[0x18, 0, 1, 0x06, 0, 1, 0x01]));
        assert!(!drop(&[0x41, 0x9E]) && !drop(&[0x5C, 0x81]) && !drop(&[0x18, 0, 1, 0x06]));
        assert!(!drop(&[0x06, 5]), "SEI has nal_ref_idc 0 in frames that are referred to");
    }

    #[test]
    fn h265() {
        let key = |payload: &[u8]| key_start(Codec::H265, payload);
        assert!(key(&[0x40, 1, 0]) && key(&[0x42, 1, 0]), "VPS, SPS");
        assert!(key(&[0x26, 1, 0x80]) && key(&[0x28, 1, 0x80]) && key(&[0x2A, 1, 0x80]), "IDR, IDR, CRA");
        assert!(!key(&[0x26, 1, 0x00]), "second slice");
        assert!(!key(&[0x02, 1, 0x80]) && !key(&[0x44, 1, 0]), "trailing picture, PPS");
        assert!(key(&[0x60, 1, 0, 3, 0x4E, 1, 5, 0, 3, 0x40, 1, 0]), "AP with VPS");
        assert!(key(&[0x62, 1, 0x93, 0x80]), "FU start of IDR_W_RADL");
        assert!(!key(&[0x62, 1, 0x13, 0x80]) && !key(&[0x62, 1, 0x81, 0x80]), "FU middle, FU start of a P");
    }

    #[test]
    fn vp8() {
        let key = |payload: &[u8]| key_start(Codec::Vp8, payload);
        assert!(key(&[0x10, 0x00]));
        assert!(!key(&[0x10, 0x01]), "P bit");
        assert!(!key(&[0x00, 0x00]) && !key(&[0x11, 0x00]), "not the start, not the first partition");
        assert!(key(&[0x90, 0x80, 0x81, 0x23, 0x00]), "15-bit picture id");
        assert!(key(&[0x90, 0xE0, 0x01, 0x02, 0x03, 0x00]), "picture id, TL0PICIDX, TID");
        assert!(!key(&[0x90, 0xE0, 0x00, 0x00]), "cut");
        assert!(discardable(Codec::Vp8, &[0x30]) && !discardable(Codec::Vp8, &[0x10]));
    }

    #[test]
    fn vp9_and_av1() {
        let key = |payload: &[u8]| key_start(Codec::Vp9, payload);
        assert!(key(&[0x08, 0]) && key(&[0x8C, 0x12]));
        assert!(!key(&[0x48, 0]) && !key(&[0x04, 0]), "inter-predicted, not the start");
        assert!(key(&[0xA8, 0x81, 0x02, 0x00]) && !key(&[0xA8, 0x81, 0x02, 0x02]), "spatial layers 0 and 1");
        assert!(key_start(Codec::Av1, &[0x18, 0x0A]) && !key_start(Codec::Av1, &[0x10]));
        assert!(key_start(Codec::Opus, &[]) && !discardable(Codec::Opus, &[0]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Aac, Codec::Pcmu] {
                key_start(codec, &payload);
                discardable(codec, &payload);
            }
        }
    }
}
