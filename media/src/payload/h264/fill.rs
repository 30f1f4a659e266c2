//! Frames into as few packets as they fill, between nodes: what is short has none for itself.

use bytes::{BufMut, BytesMut};

use super::put;
use crate::h264::nal_ref_idc;
use crate::payload::RtpPayload;

/// A packet of several payloads of RFC 6184, each behind its length in 16 bits: as a STAP-A, but of fragments, too. RFC 6184 leaves the number undefined
/// (section 5.2); it is of use between nodes alone, and no browser is sent it.
pub(super) const FILLED: u8 = 30;
/// Header and lengths.
const HEADER_LEN: usize = 1;
const LENGTH_LEN: usize = 2;
/// A NAL unit in fragments begins in the packet before where that has so much room: less would cost more in headers than it saves.
const ROOM_MIN: usize = 128;

/// A frame's packets of at most so many bytes: those that are full, and the one that is being filled.
pub(super) struct Filling {
    len_max: usize,
    packets: Vec<RtpPayload>,
    together: Vec<RtpPayload>,
    /// Of the one that is being filled, 0 when nothing is in it.
    len: usize,
}

impl Filling {
    pub(super) fn new(len_max: usize) -> Filling {
        Filling { len_max, packets: Vec::new(), together: Vec::new(), len: 0 }
    }

    /// Takes the payloads that are next. How long the first fragment of a NAL unit behind them is to be, if that needs some.
    pub(super) fn take(&mut self, payloads: impl Iterator<Item = RtpPayload>) -> usize {
        for payload in payloads {
            let len = LENGTH_LEN.saturating_add(payload.bytes.len());
            if self.len.saturating_add(len) > self.len_max {
                self.finish();
            }
            self.len = self.len.max(HEADER_LEN).saturating_add(len);
            self.together.push(payload);
        }
        let room = self.len_max.saturating_sub(self.len.saturating_add(LENGTH_LEN));
        if self.len > 0 && room >= ROOM_MIN { room } else { self.len_max }
    }

    /// Gives the frame's packets.
    pub(super) fn end(mut self, out: &mut Vec<RtpPayload>) {
        self.finish();
        out.append(&mut self.packets);
    }

    fn finish(&mut self) {
        let len = std::mem::take(&mut self.len);
        if self.together.len() < 2 {
            return self.packets.append(&mut self.together);
        }
        // As RFC 6184 section 5.7 has it of a STAP-A: NRI is the maximum.
        let nri = self.together.iter().map(|one| nal_ref_idc(&one.bytes)).max().unwrap_or(0);
        let mut packet = BytesMut::with_capacity(len);
        packet.put_u8((nri << 5) | FILLED);
        for one in self.together.drain(..) {
            packet.put_u16(u16::try_from(one.bytes.len()).unwrap_or(0));
            packet.put_slice(&one.bytes);
        }
        put(packet.freeze(), &mut self.packets);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::h264::vectors::*;
    use crate::payload::h264::{fill, packetize};
    use crate::{Frame, Time, TrackConfig, VideoConfig};

    /// Lengths of what a frame of NAL units of these lengths becomes.
    fn lengths(key: bool, nals: &[usize], len_max: usize) -> [Vec<usize>; 2] {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let config = Arc::new(TrackConfig::H264(config));
        let nals: Vec<Vec<u8>> = nals.iter().map(|len| vec![if key { 0x65 } else { 0x41 }; *len]).collect();
        let nals: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
        let frame =
            Frame { config, dts: Time::ZERO, pts: Time::ZERO, key, discardable: false, data: avcc(&nals) };
        [packetize, fill].map(|cut| {
            let mut out = Vec::new();
            cut(&frame, len_max, &mut out);
            let last = out.len() - 1;
            for (at, payload) in out.iter().enumerate() {
                assert_eq!((payload.marker, payload.key_start), (at == last, key && at == 0), "{at}");
            }
            out.iter().map(|payload| payload.bytes.len()).collect()
        })
    }

    #[test]
    fn a_frame_takes_no_more_packets_than_it_fills() {
        // What is short goes with what follows, of which it is as if it were the first part.
        let [alone, filled] = lengths(false, &[60, 2_500], 1_000);
        assert_eq!((alone, filled), (vec![60, 1_000, 1_000, 505], vec![1_000, 1_000, 570]));
        // So does a slice's end, and one that fits what it leaves.
        let [alone, filled] = lengths(false, &[1_300, 1_300, 200], 1_000);
        assert_eq!((alone, filled), (vec![1_000, 303, 1_000, 303, 200], vec![1_000, 1_000, 816]));
        // One alone is as it always was.
        let [alone, filled] = lengths(false, &[2_500], 1_000);
        assert_eq!(alone, filled);
        // Too little room to begin in.
        assert_eq!(lengths(false, &[868, 1_100], 1_000), [vec![868, 1_000, 103], vec![868, 1_000, 103]]);
        assert_eq!(lengths(false, &[867, 1_100], 1_000)[1], [1_000, 975]);
        // Parameter sets are the first.
        let [alone, filled] = lengths(true, &[900], 1_000);
        assert_eq!((alone.len(), filled.len()), (2, 1));
    }
}
