//! Frames as they cross links between nodes: bytes in order, in as few packets as they fill.

use bytes::{BufMut, BytesMut};

use super::{PAYLOAD_LEN_MIN, parameter_sets, put};
use crate::h264::avcc_nals;
use crate::payload::RtpPayload;
use crate::{Frame, TrackConfig};

/// Appends the packets of one frame to `out`, the marker on the last: the NAL units behind lengths of 4 bytes (AVCC), those of a key frame behind its
/// parameter sets, cut anywhere. Each is `len_max` bytes long, the first one `first_less` fewer, and the last what is left.
///
/// [`Depacketizer::of_pieces`](super::Depacketizer::of_pieces) puts them together. A fragment of RFC 6184 would begin with two bytes, and each NAL unit with
/// a packet. A frame that is not H.264 or has no NAL unit gives nothing.
pub fn pieces(frame: &Frame, len_max: usize, first_less: usize, out: &mut Vec<RtpPayload>) {
    let TrackConfig::H264(config) = &*frame.config else { return };
    if !avcc_nals(&frame.data, 4).map_while(Result::ok).any(|nal| !nal.is_empty()) {
        return;
    }
    let len_max = len_max.max(PAYLOAD_LEN_MIN);
    let mut len = len_max.saturating_sub(first_less).max(PAYLOAD_LEN_MIN);
    let mut rest = frame.data.clone();
    if frame.key {
        let sets = parameter_sets(config);
        let mut all =
            BytesMut::with_capacity(rest.len().saturating_add(2_usize.saturating_mul(config.avcc.len())));
        for set in sets.sps.iter().chain(&sets.pps) {
            all.put_u32(u32::try_from(set.len()).unwrap_or(0));
            all.put_slice(set);
        }
        all.put_slice(&rest);
        rest = all.freeze();
    }
    let first = out.len();
    while !rest.is_empty() {
        put(rest.split_to(len.min(rest.len())), out);
        len = len_max;
    }
    if let Some(payload) = out.get_mut(first) {
        payload.key_start = frame.key;
    }
    if let Some(payload) = out.last_mut() {
        payload.marker = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::h264::vectors::*;
    use crate::{Time, VideoConfig};

    /// Lengths of what a frame of NAL units of these lengths becomes, in pieces of 1000 bytes but for the first.
    fn lengths(key: bool, nals: &[usize]) -> Vec<usize> {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let config = Arc::new(TrackConfig::H264(config));
        let nals: Vec<Vec<u8>> = nals.iter().map(|len| vec![if key { 0x65 } else { 0x41 }; *len]).collect();
        let nals: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
        let frame =
            Frame { config, dts: Time::ZERO, pts: Time::ZERO, key, discardable: false, data: avcc(&nals) };
        let mut out = Vec::new();
        pieces(&frame, 1_000, 30, &mut out);
        let last = out.len().saturating_sub(1);
        for (at, payload) in out.iter().enumerate() {
            assert_eq!((payload.marker, payload.key_start), (at == last, key && at == 0), "{at}");
        }
        let head = if key {
            let [sps, pps] = [SPS_MAIN_QCIF.len(), PPS_MAIN.len()].map(|len| (len as u32).to_be_bytes());
            [&sps[..], SPS_MAIN_QCIF, &pps, PPS_MAIN].concat()
        } else {
            Vec::new()
        };
        let all: Vec<u8> = out.iter().flat_map(|payload| payload.bytes.to_vec()).collect();
        assert!(out.is_empty() || all == [&head, &frame.data[..]].concat());
        out.iter().map(|payload| payload.bytes.len()).collect()
    }

    #[test]
    fn a_frame_takes_as_few_packets_as_it_fills() {
        assert_eq!(lengths(false, &[60, 2_500]), [970, 1_000, 598]);
        assert_eq!(lengths(false, &[966]), [970]);
        assert_eq!(lengths(false, &[967, 300]), [970, 305]);
        let sets = 8 + SPS_MAIN_QCIF.len() + PPS_MAIN.len();
        assert_eq!(lengths(true, &[966]), [970, sets]);
        assert_eq!(lengths(true, &[1_966]), [970, 1_000, sets]);
        assert!(lengths(true, &[]).is_empty() && lengths(false, &[0]).is_empty());
    }
}
