//! RTMP: frames as messages in chunks, by both of our writers, back to equal frames.
use crate::clip::{assert_equal, demux, frames};
use bytes::{Bytes, BytesMut};
use media::{Frame, Kind, flv};
use rtmp::chunk::{Limits, Message, Reader, Writer};
use rtmp::{CHUNK_SIZE_OUT, PLAY_STREAM_ID, csid, encode_message, message};

const LIMITS: Limits = Limits { message_len_max: 8 << 20, unfinished_len_max: 16 << 20 };

/// The messages of a session: each track's configuration, then the frames.
fn messages(frames: &[Frame], offset_ms: u32) -> Vec<(u32, u8, u32, Bytes)> {
    let on = |kind: Kind| if kind == Kind::Audio { csid::AUDIO } else { csid::VIDEO };
    let mut out = Vec::new();
    for kind in [Kind::Audio, Kind::Video] {
        let first = frames.iter().find(|it| it.kind() == kind).expect("both tracks");
        out.push((on(kind), flv::type_id(kind), offset_ms, flv::sequence_header(&first.config)));
    }
    for frame in frames {
        let time = offset_ms.wrapping_add(u32::try_from(frame.dts.ms()).expect("a short clip"));
        out.push((on(frame.kind()), flv::type_id(frame.kind()), time, flv::frame_body(frame)));
    }
    out
}

/// Reads chunks in pieces that end anywhere.
fn read(bytes: &[u8], piece: usize) -> Vec<Message> {
    let mut reader = Reader::new(LIMITS);
    let mut out = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while let Some(message) = reader.read(&mut piece).expect("we wrote it") {
            out.push(message);
        }
    }
    assert_eq!(reader.unfinished_len(), 0, "nothing is left over");
    out
}

#[track_caller]
fn assert_comes_back(bytes: &[u8], piece: usize, sent: &[(u32, u8, u32, Bytes)], frames: &[Frame]) {
    let offset_ms = sent[0].2;
    let got = read(bytes, piece);
    assert_eq!(got.len(), sent.len());
    for (at, (got, (on, type_id, time, body))) in got.iter().zip(sent).enumerate() {
        assert_eq!((got.csid, got.type_id, got.timestamp_ms), (*on, *type_id, *time), "message {at}");
        assert_eq!(got.stream_id, PLAY_STREAM_ID, "message {at}");
        assert!(got.body == body, "message {at}: other bytes");
    }
    let demuxed = demux(got.into_iter().map(|it| (it.type_id, it.timestamp_ms, it.body)));
    assert_eq!(demuxed.mended, 0, "the end of 32 bits is no jump");
    // a Demuxer goes on from the publisher's own time, in 64 bits
    assert_equal(&demuxed.frames, frames, offset_ms);
}

fn announce(chunk_size: usize) -> Bytes {
    let size = u32::try_from(chunk_size).expect("it fits").to_be_bytes();
    encode_message(csid::CONTROL, message::SET_CHUNK_SIZE, 0, 0, &size, 128)
}

/// What players get: full headers, the node's chunk size.
#[test]
fn encoded_messages_come_back_as_equal_frames() {
    let frames = frames();
    // zero; the last value without the extended field, into it; over the end of 32 bits
    for offset in [0, 0x00ff_fff0, 0x0100_0000, u32::MAX - 1000] {
        let sent = messages(&frames, offset);
        let mut bytes = announce(CHUNK_SIZE_OUT).to_vec();
        for (on, type_id, time, body) in &sent {
            let message = encode_message(*on, *type_id, *time, PLAY_STREAM_ID, body, CHUNK_SIZE_OUT);
            bytes.extend_from_slice(&message);
        }
        assert_comes_back(&bytes, 1447, &sent, &frames);
    }
}

/// What an encoder sends: short headers, small chunks.
#[test]
fn written_messages_come_back_as_equal_frames() {
    let frames = frames();
    for chunk_size in [128, 4096] {
        for offset in [0, 0x00ff_fff0] {
            let sent = messages(&frames, offset);
            let mut bytes = BytesMut::from(&announce(chunk_size)[..]);
            let mut writer = Writer::new();
            writer.set_chunk_size(chunk_size);
            for (on, type_id, time, body) in &sent {
                writer.write(*on, *type_id, *time, PLAY_STREAM_ID, body, &mut bytes);
            }
            assert_comes_back(&bytes, 997, &sent, &frames);
        }
    }
}

/// Known bytes, so that a mistake made on both sides alike is seen: RTMP 1.0 section 5.3.1.
#[test]
fn chunk_headers_are_the_specification_s() {
    let body = [0xab; 130];
    let bytes = encode_message(csid::VIDEO, message::VIDEO, 0x0102_0304, 1, &body, 128);
    let head = [
        6, // fmt 0, chunk stream 6
        0xff, 0xff, 0xff, // the time is in the extended field
        0, 0, 130, // length
        9,   // video
        1, 0, 0, 0, // message stream, little endian
        1, 2, 3, 4,
    ];
    assert_eq!(bytes[..16], head);
    // fmt 3, and the extended time again
    assert_eq!(bytes[16 + 128..], [0xc6, 1, 2, 3, 4, 0xab, 0xab]);
}
