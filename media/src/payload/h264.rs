//! RFC 6184, packetization mode 1: frames into single NAL unit packets, STAP-A and FU-A, and back.

use bytes::{BufMut, Bytes, BytesMut};

use super::RtpPayload;
use crate::h264::{self, ParameterSets, avcc_nals, nal};
use crate::{Frame, TrackConfig, VideoConfig};

mod depacketizer;
mod pieces;

pub use depacketizer::{Counts, Depacketizer, Error, Unit};
pub use pieces::pieces;

/// RFC 6184 section 5.7.1: single-time aggregation packet.
pub const STAP_A: u8 = 24;
/// RFC 6184 section 5.8: fragmentation unit.
pub const FU_A: u8 = 28;

/// A smaller limit is raised to this: below it headers would outweigh what they carry.
pub const PAYLOAD_LEN_MIN: usize = 64;

/// FU indicator and FU header.
const FU_HEADER_LEN: usize = 2;

/// Appends the payloads of one frame to `out`, each at most `payload_len_max` bytes, the marker on the last.
///
/// A key frame is led by the parameter sets of its configuration in a STAP-A of their own, which is the one with `key_start`. A NAL unit
/// that does not fit goes into FU-A of the full length, the short one last, so that the packets of a frame form runs of one size
/// (for GSO). A frame that is not H.264 or has no NAL unit gives nothing.
pub fn packetize(frame: &Frame, payload_len_max: usize, out: &mut Vec<RtpPayload>) {
    let TrackConfig::H264(config) = &*frame.config else { return };
    let len_max = payload_len_max.max(PAYLOAD_LEN_MIN);
    let first = out.len();
    let mut nals = avcc_nals(&frame.data, 4).map_while(Result::ok).filter(|nal| !nal.is_empty()).peekable();
    if nals.peek().is_none() {
        return;
    }
    if frame.key {
        put_parameter_sets(config, len_max, out);
    }
    for nal in nals {
        put_nal(&frame.data.slice_ref(nal), len_max, out);
    }
    if let Some(payload) = out.get_mut(first) {
        payload.key_start = frame.key;
    }
    // RFC 6184 section 5.1: the marker is set "for the very last packet of the access unit"
    if let Some(payload) = out.last_mut() {
        payload.marker = true;
    }
}

/// profile_idc, constraint bits and level_idc of the SPS that a payload carries whole, alone or in a STAP-A.
pub fn profile_level_id(payload: &[u8]) -> Option<[u8; 3]> {
    sps(payload).and_then(h264::profile_level_id)
}

/// The SPS that a payload carries whole, alone or in a STAP-A.
pub(super) fn sps(payload: &[u8]) -> Option<&[u8]> {
    let (&header, aggregated) = payload.split_first()?;
    match header & 0x1f {
        nal::SPS => Some(payload),
        // RFC 6184 section 5.7.1: NAL units behind 16-bit lengths.
        STAP_A => {
            let mut nals = avcc_nals(aggregated, 2).map_while(Result::ok);
            nals.find(|unit| h264::nal_type(unit) == nal::SPS)
        }
        _ => None,
    }
}

fn put(bytes: Bytes, out: &mut Vec<RtpPayload>) {
    out.push(RtpPayload { bytes, marker: false, key_start: false });
}

fn parameter_sets(config: &VideoConfig) -> ParameterSets<'_> {
    ParameterSets::parse(&config.avcc)
        .unwrap_or_else(|_| ParameterSets { sps: vec![&config.sps], pps: vec![&config.pps] })
}

fn put_parameter_sets(config: &VideoConfig, len_max: usize, out: &mut Vec<RtpPayload>) {
    let sets = parameter_sets(config);
    let sets = || sets.sps.iter().chain(&sets.pps);
    let len = sets().fold(1_usize, |sum, set| sum.saturating_add(2).saturating_add(set.len()));
    if len > len_max {
        sets().for_each(|set| put_nal(&Bytes::copy_from_slice(set), len_max, out));
        return;
    }
    let mut stap = BytesMut::with_capacity(len);
    // RFC 6184 section 5.7: F is the OR, NRI the maximum of those of the NAL units inside
    let forbidden = sets().fold(0, |bits, set| bits | set.first().map_or(0, |header| header & 0x80));
    let nri = sets().filter_map(|set| set.first()).map(|header| header & 0x60).max().unwrap_or(0);
    stap.put_u8(forbidden | nri | STAP_A);
    for set in sets() {
        let Ok(len) = u16::try_from(set.len()) else { continue };
        stap.put_u16(len);
        stap.put_slice(set);
    }
    put(stap.freeze(), out);
}

fn put_nal(nal: &Bytes, len_max: usize, out: &mut Vec<RtpPayload>) {
    if nal.len() <= len_max {
        return put(nal.clone(), out);
    }
    let Some((header, data)) = nal.split_first() else { return };
    let pieces = data.chunks(len_max.saturating_sub(FU_HEADER_LEN).max(1));
    let pieces_len = pieces.len().saturating_mul(FU_HEADER_LEN).saturating_add(data.len());
    // one allocation for all pieces; each payload is a part of it
    let mut buffer = BytesMut::with_capacity(pieces_len);
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.enumerate() {
        // RFC 6184 section 5.8: F and NRI of the NAL unit; then S, E, R = 0 and its type
        let start = if index == 0 { 0x80 } else { 0 };
        let end = if index == last { 0x40 } else { 0 };
        buffer.put_u8((header & 0xE0) | FU_A);
        buffer.put_u8(start | end | (header & 0x1F));
        buffer.put_slice(piece);
        put(buffer.split().freeze(), out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Time;
    use crate::h264::vectors::*;
    use crate::payload::PAYLOAD_LEN_MAX;

    fn frame(key: bool, nals: &[&[u8]]) -> Frame {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let config = Arc::new(TrackConfig::H264(config));
        Frame { config, dts: Time::ZERO, pts: Time::ZERO, key, discardable: false, data: avcc(nals) }
    }

    fn payloads(frame: &Frame, len_max: usize) -> Vec<RtpPayload> {
        let mut out = Vec::new();
        packetize(frame, len_max, &mut out);
        out
    }

    #[test]
    fn the_profile_is_read_where_the_sps_is_whole() {
        let key = payloads(&frame(true, &[IDR_START]), PAYLOAD_LEN_MAX);
        let profile = Some([SPS_MAIN_QCIF[1], SPS_MAIN_QCIF[2], SPS_MAIN_QCIF[3]]);
        assert_eq!(profile_level_id(&key[0].bytes), profile);
        assert_eq!(profile_level_id(SPS_MAIN_QCIF), profile);
        for without in [&key[1].bytes[..], &[], &[STAP_A], &[STAP_A, 0, 9, 0x67], &[0x7c, 0x87, 0x42]] {
            assert_eq!(profile_level_id(without), None, "{without:02x?}");
        }
    }

    #[test]
    fn a_key_frame_is_led_by_its_parameter_sets() {
        let out = payloads(&frame(true, &[&[6, 5, 1], IDR_START]), PAYLOAD_LEN_MAX);
        let mut stap = vec![0x78, 0, SPS_MAIN_QCIF.len() as u8];
        stap.extend_from_slice(SPS_MAIN_QCIF);
        stap.extend_from_slice(&[0, PPS_MAIN.len() as u8]);
        stap.extend_from_slice(PPS_MAIN);
        let expect = [(&stap[..], false, true), (&[6, 5, 1], false, false), (IDR_START, true, false)];
        let out: Vec<_> = out.iter().map(|p| (&p.bytes[..], p.marker, p.key_start)).collect();
        assert_eq!(out, expect);
    }

    #[test]
    fn other_frames_are_not() {
        let out = payloads(&frame(false, &[P_START]), PAYLOAD_LEN_MAX);
        assert_eq!(out, [RtpPayload { bytes: bytes(P_START), marker: true, key_start: false }]);
        assert!(payloads(&frame(true, &[]), PAYLOAD_LEN_MAX).is_empty());
    }

    #[test]
    fn fragments_are_equal_and_the_short_one_is_last() {
        let mut idr = IDR_START.to_vec();
        idr.resize(1 + 98 * 3 + 5, 7);
        let out = payloads(&frame(true, &[&idr, &idr[..101], &idr[..100]]), 100);
        let lens: Vec<usize> = out.iter().map(|p| p.bytes.len()).collect();
        assert_eq!(lens, [1 + 4 + SPS_MAIN_QCIF.len() + PPS_MAIN.len(), 100, 100, 100, 7, 100, 4, 100]);
        let headers: Vec<_> = out[1..5].iter().map(|p| (p.bytes[0], p.bytes[1])).collect();
        assert_eq!(headers, [(0x7C, 0x85), (0x7C, 0x05), (0x7C, 0x05), (0x7C, 0x45)]);
        assert_eq!(
            out.iter().map(|p| p.marker).collect::<Vec<_>>(),
            [[false; 7].as_slice(), &[true]].concat()
        );
        assert_eq!(out.iter().filter(|p| p.key_start).count(), 1);
    }

    #[test]
    fn all_parameter_sets_go_out_even_when_they_do_not_fit_together() {
        let second = bytes(&[0x68, 0x5A, 0x5E, 0x06, 0x52, 0xC8]); // a PPS of another id
        let config = VideoConfig::from_parameter_set_lists(
            &[bytes(SPS_MAIN_QCIF)],
            &[bytes(PPS_MAIN), second.clone()],
        );
        let config = Arc::new(TrackConfig::H264(config.unwrap()));
        let frame = Frame { config, ..frame(true, &[IDR_START]) };
        assert!(payloads(&frame, PAYLOAD_LEN_MAX)[0].bytes.ends_with(&second));

        let long = Bytes::from([&[0x68, 0xE9][..], &[0x55; 150]].concat());
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), long).unwrap();
        let frame = Frame { config: Arc::new(TrackConfig::H264(config)), ..frame };
        let out = payloads(&frame, 100);
        let kinds: Vec<u8> = out.iter().map(|p| p.bytes[0] & 0x1F).collect();
        assert_eq!(kinds, [7, FU_A, FU_A, 5]);
        assert_eq!(out.iter().map(|p| p.key_start).collect::<Vec<_>>(), [true, false, false, false]);
    }
}
