//! The stream: 30 frames a second, all of a size but for a key frame each second, eight times as large; each says its number and when it was
//! sent. As the body of an FLV tag, or cut into datagrams.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use media::Time;

use crate::load::stamp::Stamp;

/// Frames a second.
pub const FPS: u32 = 30;
/// Frames from a key frame to the next.
pub const GOP: u32 = 30;
/// A key frame is so many times as large as others.
const KEY_FACTOR: u32 = 8;
/// AVCDecoderConfigurationRecord of x264's main profile at 1280x720, as an FLV tag body (E.4.3.1).
const HEADER: [u8; 43] = [
    0x17, 0, 0, 0, 0, 1, 0x4d, 0x40, 0x1f, 0xff, 0xe1, 0, 0x17, 0x67, 0x4d, 0x40, 0x1f, 0xda, 0x01, 0x40,
    0x16, 0xec, 0x04, 0x40, 0, 0, 3, 0, 0x40, 0, 0, 0x0f, 3, 0xc6, 0x0c, 0xa8, 1, 0, 4, 0x68, 0xef, 0x3c,
    0x80,
];
/// Frame, time, fragment and their count.
const FRAGMENT_HEADER_LEN: usize = 4 + 8 + 2 + 2;
/// Seven packets of MPEG-TS, which is what SRT and UDP carry at most.
pub const DATAGRAM_LEN: usize = 1_316;

/// The stream's frames.
pub struct Frames {
    kbps: u32,
    body: BytesMut,
    /// What pictures are made of: no byte is 0, so that no start code is in it.
    noise: Vec<u8>,
}

impl Frames {
    /// At this rate.
    pub fn new(kbps: u32) -> Frames {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut byte = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as u8 | 1
        };
        let noise = (0..Frames::len(kbps, 0)).map(|_| byte()).collect();
        Frames { kbps, body: BytesMut::new(), noise }
    }

    /// The codec's settings as a tag body.
    pub fn header() -> &'static [u8] {
        &HEADER
    }

    /// Bytes of a frame's tag body.
    pub fn len(kbps: u32, number: u32) -> usize {
        let gop_bytes = u64::from(kbps) * 125 * u64::from(GOP) / u64::from(FPS);
        let part = gop_bytes / u64::from(GOP - 1 + KEY_FACTOR);
        (if is_key(number) { part * u64::from(KEY_FACTOR) } else { part }) as usize
    }

    /// A frame's tag body.
    pub fn tag(&mut self, number: u32, sent: Time) -> &[u8] {
        let len = Frames::len(self.kbps, number);
        let body = &mut self.body;
        body.clear();
        body.put_slice(&[if is_key(number) { 0x17 } else { 0x27 }, 1, 0, 0, 0]);
        let sei = Stamp { sent_us: sent.us().max(0) as u64, stream: 0, frame: number }.sei();
        body.put_u32(sei.len() as u32);
        body.put_slice(&sei);
        let nal_len = len.saturating_sub(body.len() + 4).max(3);
        body.put_u32(nal_len as u32);
        // a slice of an IDR picture (H.264 7.3.3: first macroblock 0, type I), or of one that is predicted (type P)
        body.put_slice(if is_key(number) { &[0x65, 0x88] } else { &[0x41, 0x9a] });
        body.put_slice(&self.noise[..nal_len - 2]);
        body
    }

    /// Number and time of sending of a tag body; `None` when it is no frame.
    pub fn read_tag(body: &[u8]) -> Option<(u32, Time)> {
        let stamp = Stamp::of_avcc(body.get(5..).filter(|_| body[1] == 1)?)?;
        Some((stamp.frame, Time(stamp.sent_us as i64)))
    }

    /// A frame's tag body in datagrams.
    pub fn datagrams(number: u32, sent: Time, body: &[u8]) -> impl Iterator<Item = Bytes> {
        let chunks = body.chunks(DATAGRAM_LEN - FRAGMENT_HEADER_LEN);
        let count = chunks.len() as u16;
        chunks.enumerate().map(move |(at, chunk)| {
            let mut datagram = BytesMut::with_capacity(DATAGRAM_LEN);
            datagram.put_u32(number);
            datagram.put_i64(sent.us());
            datagram.put_u16(at as u16);
            datagram.put_u16(count);
            datagram.put_slice(chunk);
            datagram.freeze()
        })
    }
}

/// Whether a frame begins a second.
pub fn is_key(number: u32) -> bool {
    number.is_multiple_of(GOP)
}

/// Frames from datagrams.
#[derive(Default)]
pub struct Assembly {
    open: HashMap<u32, Vec<bool>>,
}

impl Assembly {
    /// Takes a datagram; number and time of sending of the frame that it completes.
    pub fn push(&mut self, datagram: &[u8]) -> Option<(u32, Time)> {
        let (head, _) = datagram.split_first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let number = u32::from_be_bytes(*head.first_chunk()?);
        let sent = Time(i64::from_be_bytes(*head[4..].first_chunk()?));
        let [at, count] = [12, 14].map(|at| usize::from(u16::from_be_bytes([head[at], head[at + 1]])));
        let parts = self.open.entry(number).or_insert_with(|| vec![false; count]);
        let was = std::mem::replace(parts.get_mut(at)?, true);
        (!was && parts.iter().all(|part| *part)).then_some((number, sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_the_rate_and_its_key_frame_is_eight_times_the_others() {
        for kbps in [2_000, 4_000] {
            let mut frames = Frames::new(kbps);
            let lens: Vec<usize> = (0..30).map(|number| frames.tag(number, Time::ZERO).len()).collect();
            let sum: usize = lens.iter().sum();
            assert!((kbps as usize * 125).abs_diff(sum) < 100, "{sum}");
            assert!(lens[0] == 8 * lens[1] && lens[1..].iter().all(|len| *len == lens[1]), "{lens:?}");
        }
    }

    #[test]
    fn a_node_reads_it_as_h264() {
        let mut demuxer = media::flv::Demuxer::new();
        demuxer.push(media::flv::TYPE_VIDEO, 0, Bytes::from_static(Frames::header())).unwrap();
        let mut frames = Frames::new(4_000);
        for number in [0, 1, 30] {
            let tag = Bytes::copy_from_slice(frames.tag(number, Time(5)));
            let input = demuxer.push(media::flv::TYPE_VIDEO, 0, tag).unwrap();
            let Some(media::flv::Input::Frame(frame)) = input else { panic!("{input:?}") };
            assert_eq!(frame.key, number != 1);
        }
    }

    #[test]
    fn frames_say_who_they_are_both_ways() {
        let mut frames = Frames::new(4_000);
        let sent = Time(123_456);
        let body = frames.tag(60, sent);
        assert_eq!(Frames::read_tag(body), Some((60, sent)));
        assert_eq!(Frames::read_tag(Frames::header()), None);
        let mut datagrams: Vec<Bytes> = Frames::datagrams(60, sent, body).collect();
        assert_eq!(
            datagrams.iter().map(Bytes::len).sum::<usize>(),
            body.len() + datagrams.len() * FRAGMENT_HEADER_LEN
        );
        // any order, one twice
        datagrams.reverse();
        datagrams.insert(0, datagrams[3].clone());
        let mut assembly = Assembly::default();
        let done: Vec<_> = datagrams.iter().map(|datagram| assembly.push(datagram)).collect();
        assert!(done[..done.len() - 1].iter().all(Option::is_none));
        assert_eq!(done.last(), Some(&Some((60, sent))));
        assert_eq!(assembly.push(&datagrams[5]), None);
        assert!([0, 3, 15].iter().all(|len| assembly.push(&datagrams[0][..*len]).is_none()));
    }
}
