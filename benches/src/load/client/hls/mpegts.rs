//! As much of an MPEG transport stream (ISO 13818-1) as it takes to find stamps: the video's payload in one piece.

const PACKET_LEN: usize = 188;
const SYNC: u8 = 0x47;
const PAT_PID: u16 = 0;
const PAT: u8 = 0;
const PMT: u8 = 2;
/// Table 2-34: H.264.
const H264: u8 = 0x1b;

/// Whether a segment looks like one.
pub fn is_mpegts(segment: &[u8]) -> bool {
    segment.first() == Some(&SYNC) && segment.get(PACKET_LEN).is_none_or(|byte| *byte == SYNC)
}

/// The payloads of the H.264 track, one behind the other, PES headers included. Empty when there is none.
pub fn video(segment: &[u8]) -> Vec<u8> {
    let (mut pmt_pid, mut video_pid, mut video) = (None, None, Vec::new());
    for packet in segment.chunks_exact(PACKET_LEN) {
        let Some((pid, is_start, payload)) = payload(packet) else { continue };
        if video_pid == Some(pid) {
            video.extend_from_slice(payload);
        } else if pid == PAT_PID && is_start {
            pmt_pid = section(payload, PAT).and_then(program).or(pmt_pid);
        } else if pmt_pid == Some(pid) && is_start {
            video_pid = section(payload, PMT).and_then(h264).or(video_pid);
        }
    }
    video
}

/// Section 2.4.3.2: PID, whether a unit starts in it, payload.
fn payload(packet: &[u8]) -> Option<(u16, bool, &[u8])> {
    let [SYNC, high, low, control, rest @ ..] = packet else { return None };
    let pid = u16::from_be_bytes([high & 0x1f, *low]);
    let rest = match control >> 4 & 3 {
        1 => rest,
        // Section 2.4.3.4: the adaptation field's length is its first byte.
        3 => {
            let (len, rest) = rest.split_first()?;
            rest.get(usize::from(*len)..)?
        }
        _ => return None,
    };
    Some((pid, high & 0x40 != 0, rest))
}

/// Section 2.4.4: a table that fits one packet, from behind its fixed header to before its CRC.
fn section(payload: &[u8], table: u8) -> Option<&[u8]> {
    let (pointer, rest) = payload.split_first()?;
    let section = rest.get(usize::from(*pointer)..)?;
    let [id, high, low, ..] = *section else { return None };
    let len = usize::from(u16::from_be_bytes([high & 0x0f, low]));
    (id == table).then_some(())?;
    section.get(8..(3 + len).checked_sub(4)?)
}

/// Section 2.4.4.3: the PID of the first program's map; program 0 is the network's table.
fn program(pat: &[u8]) -> Option<u16> {
    let program = pat.chunks_exact(4).find(|entry| entry[..2] != [0, 0])?;
    Some(u16::from_be_bytes([program[2] & 0x1f, program[3]]))
}

/// Section 2.4.4.8: the PID of the first H.264 track.
fn h264(pmt: &[u8]) -> Option<u16> {
    let [_, _, high, low, rest @ ..] = pmt else { return None };
    let mut rest = rest.get(usize::from(u16::from_be_bytes([high & 0x0f, *low]))..)?;
    while let [kind, pid_high, pid_low, len_high, len_low, after @ ..] = rest {
        if *kind == H264 {
            return Some(u16::from_be_bytes([pid_high & 0x1f, *pid_low]));
        }
        rest = after.get(usize::from(u16::from_be_bytes([len_high & 0x0f, *len_low]))..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::stamp::Stamp;

    /// A packet with this payload, filled up with an adaptation field.
    fn packet(pid: u16, start: bool, payload: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let fill = PACKET_LEN - 4 - payload.len();
        let mut packet = vec![SYNC, high | u8::from(start) << 6, low, if fill > 0 { 0x30 } else { 0x10 }];
        if fill > 0 {
            packet.push(fill as u8 - 1);
            packet.resize(4 + fill, 0xff);
        }
        packet.extend_from_slice(payload);
        packet
    }

    fn tables() -> Vec<u8> {
        // Program 1 has its map at 0x1000; that lists AAC at 0x101 with a descriptor, and H.264 at 0x100.
        let pat = [0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0x00, 1, 2, 3, 4];
        let pmt = [
            0, 2, 0xb0, 25, 0, 1, 0xc1, 0, 0, 0xe1, 0, 0xf0, 0, 0x0f, 0xe1, 1, 0xf0, 2, 7, 7, 0x1b, 0xe1, 0,
            0xf0, 0, 1, 2, 3, 4,
        ];
        [packet(0, true, &pat), packet(0x1000, true, &pmt)].concat()
    }

    #[test]
    fn stamps_are_found_across_packets() {
        let stamps = [7, 8].map(|frame| Stamp { sent_us: 5, stream: 1, frame });
        let mut segment = tables();
        for stamp in stamps {
            let unit = [&[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 0, 0, 0, 1][..], &stamp.sei(), &[9; 100]].concat();
            let (first, rest) = unit.split_at(40);
            segment.extend(packet(0x100, true, first));
            segment.extend(packet(0x101, true, &[1; 184]));
            segment.extend(packet(0x100, false, rest));
        }
        assert!(is_mpegts(&segment));
        assert!(Stamp::find(&segment).is_none(), "each is cut in two");
        let video = video(&segment);
        let (first, end) = Stamp::find(&video).unwrap();
        let (second, _) = Stamp::find(&video[end..]).unwrap();
        assert_eq!([first, second], stamps);
    }

    #[test]
    fn broken_streams_have_no_video() {
        let good = [tables(), packet(0x100, true, &[1; 50])].concat();
        assert_eq!(video(&good).len(), 50);
        assert!(!is_mpegts(b"\0\0\0\x18ftyp") && !is_mpegts(b""));
        for len in 0..good.len() {
            let _ = video(&good[..len]);
        }
        for at in 0..2 * PACKET_LEN {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = video(&bad);
        }
    }
}
