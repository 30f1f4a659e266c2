//! A time stamp inside the video: an SEI message (H.264 annex D, user data unregistered) at the front of each access unit. It survives
//! whatever carries the access unit, and says which frame of which stream it was and when it was sent.

/// RFC 9562 version 8: ours alone.
const UUID: [u8; 16] = *b"millrace\x8abenchm\x02";
/// NAL header, payload type 5, payload size, UUID, 16 digits of time, 8 of the number, 8 of the stream, trailing bits.
const SEI_LEN: usize = 3 + 16 + 16 + 8 + 8 + 1;
const SEI: u8 = 6;
const USER_DATA_UNREGISTERED: u8 = 5;

/// What a frame says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// When it was sent, in microseconds of the harness's clock.
    pub sent_us: u64,
    /// Which stream it is of.
    pub stream: u32,
    /// Its number, from 0.
    pub frame: u32,
}

impl Stamp {
    /// The SEI NAL unit. Digits are hexadecimal text, so that no emulation prevention is needed (H.264 section 7.4.1).
    pub fn sei(self) -> Vec<u8> {
        let mut nal = Vec::with_capacity(SEI_LEN);
        nal.extend([SEI, USER_DATA_UNREGISTERED, 16 + 16 + 8 + 8]);
        nal.extend(UUID);
        nal.extend(format!("{:016x}{:08x}{:08x}", self.sent_us, self.frame, self.stream).bytes());
        nal.push(0x80);
        nal
    }

    /// Reads a NAL unit; `None` when it is no stamp.
    pub fn of_nal(nal: &[u8]) -> Option<Stamp> {
        if nal.len() < SEI_LEN - 1
            || nal[0] & 0x1f != SEI
            || nal[1] != USER_DATA_UNREGISTERED
            || nal[3..19] != UUID
        {
            return None;
        }
        let digits = std::str::from_utf8(&nal[19..51]).ok()?;
        Some(Stamp {
            sent_us: u64::from_str_radix(&digits[..16], 16).ok()?,
            frame: u32::from_str_radix(&digits[16..24], 16).ok()?,
            stream: u32::from_str_radix(&digits[24..], 16).ok()?,
        })
    }

    /// Finds it in bytes of any format, such as a segment of fMP4 or MPEG-TS, by its UUID: the stamp and where it ends.
    pub fn find(bytes: &[u8]) -> Option<(Stamp, usize)> {
        let at = bytes.windows(UUID.len()).position(|window| window == UUID)?;
        let nal = bytes.get(at.checked_sub(3)?..)?;
        let end = (at + SEI_LEN - 3).min(bytes.len());
        Some((Stamp::of_nal(nal.get(..SEI_LEN.min(nal.len()))?)?, end))
    }

    /// Finds it in an RTP payload: it is a packet of its own, or in a STAP-A (RFC 6184 section 5.7.1).
    pub fn of_payload(payload: &[u8]) -> Option<Stamp> {
        if payload.first()? & 0x1f != media::payload::h264::STAP_A {
            return Stamp::of_nal(payload);
        }
        let mut rest = &payload[1..];
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let (nal, after) = after.split_at_checked(u16::from_be_bytes(*len).into())?;
            if let Some(stamp) = Stamp::of_nal(nal) {
                return Some(stamp);
            }
            rest = after;
        }
        None
    }

    /// Finds it in an access unit of NAL units with 4-byte lengths.
    pub fn of_avcc(data: &[u8]) -> Option<Stamp> {
        media::h264::avcc_nals(data, 4).map_while(Result::ok).find_map(Stamp::of_nal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_wherever_its_frame_goes() {
        let stamp = Stamp { sent_us: 0x0000_0300_0001_0203, stream: 3, frame: 7 };
        let sei = stamp.sei();
        assert_eq!(sei.len(), SEI_LEN);
        assert!(!sei.windows(2).any(|w| w == [0, 0]), "no start code can arise");
        assert_eq!(Stamp::of_payload(&sei), Some(stamp));
        let mut stap = vec![0x78, 0, 2, 0x67, 0x42];
        stap.extend((sei.len() as u16).to_be_bytes());
        stap.extend(&sei);
        assert_eq!(Stamp::of_payload(&stap), Some(stamp));
        let mut avcc = vec![0, 0, 0, 2, 0x41, 0x9a];
        avcc.extend((sei.len() as u32).to_be_bytes());
        avcc.extend(&sei);
        assert_eq!(Stamp::of_avcc(&avcc), Some(stamp));
        assert_eq!(Stamp::find(&avcc), Some((stamp, avcc.len())));
        assert_eq!((Stamp::find(&sei[2..]), Stamp::find(&sei[..30])), (None, None));
        assert_eq!(Stamp::of_payload(&[0x41, 0x9a]), None);
        assert_eq!(Stamp::of_payload(&sei[..20]), None);
        assert_eq!(Stamp::of_avcc(&[0, 0, 0, 9, 1]), None);
    }
}
