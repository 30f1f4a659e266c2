//! Frames and configurations written as FLV tag bodies and tags.

use bytes::{BufMut, Bytes, BytesMut};

use super::{TYPE_AUDIO, TYPE_VIDEO};
use crate::{Frame, Kind, TrackConfig};

// E.4.3.1: frame type in the high four bits (1 key, 2 inter), codec id 7 (AVC) in the low ones.
const VIDEO_KEY: u8 = 0x17;
const VIDEO_INTER: u8 = 0x27;
/// E.4.2.1: format 10 (AAC); the other bits are fixed for AAC: 44 kHz, 16 bit, stereo, whatever it really is.
const AUDIO_AAC: u8 = 0xAF;

const PACKET_SEQUENCE_HEADER: u8 = 0;
const PACKET_FRAME: u8 = 1;

/// Composition times are signed 24-bit (E.4.3.1).
const COMPOSITION_MS_MAX: i64 = 0x7F_FFFF;
/// Tag lengths are 24-bit (E.4.1).
const BODY_LEN_MAX: usize = 0xFF_FFFF;
const TAG_HEADER_LEN: u32 = 11;

/// The FLV file header with the first previous-tag size (E.2, E.3). Players wait for a track that the flags announce,
/// so they must be right.
pub fn file_header(has_audio: bool, has_video: bool) -> [u8; 13] {
    let flags = (u8::from(has_audio) << 2) | u8::from(has_video);
    [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// The body of the sequence header that must come before a track's first frame and whenever its configuration
/// changes; nothing for Opus, which is no track of FLV's.
pub fn sequence_header(config: &TrackConfig) -> Bytes {
    let (head, record): (&[u8], &[u8]) = match config {
        TrackConfig::H264(video) => (&[VIDEO_KEY, PACKET_SEQUENCE_HEADER, 0, 0, 0], &video.avcc),
        TrackConfig::Aac(audio) => (&[AUDIO_AAC, PACKET_SEQUENCE_HEADER], &audio.asc),
        TrackConfig::Opus => (&[], &[]),
    };
    joined(head, record)
}

/// A frame's body: 5 bytes of header and AVCC, or 2 bytes and raw AAC. It goes out under the frame's DTS in
/// milliseconds.
pub fn frame_body(frame: &Frame) -> Bytes {
    joined(&frame_head(frame), &frame.data)
}

/// The part of a frame's body before its data.
pub fn frame_head(frame: &Frame) -> Vec<u8> {
    match frame.kind() {
        Kind::Video => {
            let composition_ms = frame.pts.ms().saturating_sub(frame.dts.ms()).clamp(0, COMPOSITION_MS_MAX);
            let [_, _, _, _, _, high, middle, low] = composition_ms.to_be_bytes();
            let first = if frame.key { VIDEO_KEY } else { VIDEO_INTER };
            vec![first, PACKET_FRAME, high, middle, low]
        }
        Kind::Audio => vec![AUDIO_AAC, PACKET_FRAME],
    }
}

/// The tag and RTMP message type of a track.
pub const fn type_id(kind: Kind) -> u8 {
    match kind {
        Kind::Audio => TYPE_AUDIO,
        Kind::Video => TYPE_VIDEO,
    }
}

/// A whole tag with the previous-tag size behind it (E.4.1). A body beyond the 24-bit length is cut; no frame is so long.
pub fn tag(type_id: u8, timestamp_ms: u32, body: &[u8]) -> Bytes {
    let body = body.get(..BODY_LEN_MAX).unwrap_or(body);
    let mut out = BytesMut::with_capacity(body.len().saturating_add(15));
    put_tag_header(&mut out, type_id, timestamp_ms, body.len());
    out.put_slice(body);
    put_tag_trailer(&mut out, body.len());
    out.freeze()
}

/// The same in parts to be written one behind the other: the body is `head` and `rest`, and `rest` is shared, not copied.
pub fn tag_parts(type_id: u8, timestamp_ms: u32, head: &[u8], rest: &Bytes) -> [Bytes; 3] {
    let rest = rest.slice(..rest.len().min(BODY_LEN_MAX.saturating_sub(head.len())));
    let body_len = head.len().saturating_add(rest.len());
    let mut first = BytesMut::with_capacity(head.len().saturating_add(11));
    put_tag_header(&mut first, type_id, timestamp_ms, body_len);
    first.put_slice(head);
    let mut trailer = BytesMut::with_capacity(4);
    put_tag_trailer(&mut trailer, body_len);
    [first.freeze(), rest, trailer.freeze()]
}

fn put_tag_header(out: &mut BytesMut, type_id: u8, timestamp_ms: u32, body_len: usize) {
    let [_, size @ ..] = u32::try_from(body_len).unwrap_or(0).to_be_bytes();
    // E.4.1: the low 24 bits, then TimestampExtended with the high 8.
    let [extended, low @ ..] = timestamp_ms.to_be_bytes();
    out.put_u8(type_id);
    out.put_slice(&size);
    out.put_slice(&low);
    out.put_u8(extended);
    out.put_slice(&[0, 0, 0]);
}

/// The size of the tag, header and body.
fn put_tag_trailer(out: &mut BytesMut, body_len: usize) {
    out.put_u32(u32::try_from(body_len).unwrap_or(0).saturating_add(TAG_HEADER_LEN));
}

fn joined(head: &[u8], body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(head.len().saturating_add(body.len()));
    out.put_slice(head);
    out.put_slice(body);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(&file_header(true, true)[..9], b"FLV\x01\x05\0\0\0\x09");
        assert_eq!(file_header(true, false)[4], 4);
        assert_eq!(file_header(false, true)[4], 1);
    }

    #[test]
    fn tag_bytes() {
        let bytes = tag(TYPE_VIDEO, 0x1234_5678, b"ab");
        assert_eq!(&bytes[..], b"\x09\0\0\x02\x34\x56\x78\x12\0\0\0ab\0\0\0\x0d");
        let data = Bytes::from_static(b"cdefgh");
        let parts = tag_parts(TYPE_VIDEO, 0x1234_5678, b"ab", &data);
        assert_eq!(parts.concat(), tag(TYPE_VIDEO, 0x1234_5678, b"abcdefgh"));
        assert_eq!(parts[1].as_ptr(), data.as_ptr());
        let long = Bytes::from(vec![0; BODY_LEN_MAX]);
        let cut = tag_parts(TYPE_VIDEO, 0, b"ab", &long).concat();
        assert_eq!(cut, tag(TYPE_VIDEO, 0, &[b"ab", &long[..]].concat()));
    }
}
