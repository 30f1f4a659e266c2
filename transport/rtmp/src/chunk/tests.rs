use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{Error, message};

const LIMITS: Limits = Limits { message_len_max: 64 * 1024, unfinished_len_max: 128 * 1024 };

fn read_all(reader: &mut Reader, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Message>, Error> {
    let mut list = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = (*cuts.next().unwrap_or(&usize::MAX)).clamp(1, rest.len());
        let (mut piece, after) = rest.split_at(cut);
        rest = after;
        while let Some(message) = reader.read(&mut piece)? {
            list.push(message);
        }
        assert!(piece.is_empty());
    }
    Ok(list)
}

fn read(bytes: &[u8]) -> Result<Vec<Message>, Error> {
    read_all(&mut Reader::new(LIMITS), bytes, &[])
}

fn set_chunk_size(size: u32) -> Bytes {
    encode_message(2, message::SET_CHUNK_SIZE, 0, 0, &size.to_be_bytes(), 128)
}

#[test]
fn parts_are_the_message_and_share_its_body() {
    let body = Bytes::from((0..1000_u32).map(|n| n as u8).collect::<Vec<_>>());
    for (chunk_size, time) in
        [(128, 7), (128, 0x0123_4567), (60_000, 7), (1005, 7), (1004, 7), (5, 7), (6, EXTENDED)]
    {
        for len in [0, 1, 122, 123, 124, 1000] {
            let rest = body.slice(..len);
            let parts = message_parts(6, 9, time, 1, b"above", &rest, chunk_size);
            let whole = encode_message(6, 9, time, 1, &[b"above", &rest[..]].concat(), chunk_size);
            assert_eq!(parts.concat(), whole, "{chunk_size} {len}");
            let shared: usize =
                parts.iter().filter(|p| body.as_ptr_range().contains(&p.as_ptr())).map(Bytes::len).sum();
            assert_eq!(shared, len);
        }
    }
    let long = Bytes::from(vec![0; 0x100_0000]);
    let parts = message_parts(6, 9, 0, 1, b"above", &long, 0xFF_FFFF);
    assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), 12 + 0xFF_FFFF);
}

#[test]
fn the_examples_of_the_specification() {
    // RTMP 5.3.2.1: four audio messages on chunk stream 3, 32 bytes each, 20 ms apart, headers 0, 2, 3, 3.
    let mut bytes = vec![0x03, 0x00, 0x03, 0xE8, 0, 0, 32, 8, 0x39, 0x30, 0, 0];
    bytes.extend([1; 32]);
    bytes.extend([0x83, 0, 0, 20]);
    bytes.extend([2; 32]);
    bytes.push(0xC3);
    bytes.extend([3; 32]);
    bytes.push(0xC3);
    bytes.extend([4; 32]);
    let found = read(&bytes).unwrap();
    let times: Vec<u32> = found.iter().map(|m| m.timestamp_ms).collect();
    assert_eq!(times, [1000, 1020, 1040, 1060]);
    assert!(found.iter().all(|m| m.type_id == 8 && m.stream_id == 12345 && m.body.len() == 32));

    let mut writer = Writer::new();
    let mut written = BytesMut::new();
    for (n, message) in found.iter().enumerate() {
        writer.write(3, 8, 1000 + 20 * n as u32, 12345, &message.body, &mut written);
    }
    assert_eq!(written, bytes);

    // RTMP 5.3.2.2: a message of 307 bytes in chunks of 128, 128 and 51 bytes.
    let bytes = encode_message(4, 9, 1000, 12346, &[7; 307], 128);
    assert_eq!(bytes.len(), 12 + 128 + 1 + 128 + 1 + 51);
    assert_eq!((bytes[12 + 128], bytes[12 + 128 + 1 + 128]), (0xC4, 0xC4));
    assert_eq!(read(&bytes).unwrap()[0].body, vec![7; 307]);
}

#[test]
fn type_3_after_type_0_repeats_its_time() {
    let mut bytes = encode_message(4, 8, 23, 1, b"a", 128).to_vec();
    bytes.extend([0xC4, b'b']);
    let times: Vec<u32> = read(&bytes).unwrap().iter().map(|m| m.timestamp_ms).collect();
    assert_eq!(times, [23, 46]);
}

#[test]
fn extended_timestamps_with_and_without_repetition() {
    let body: Vec<u8> = (0..300_u16).map(|n| n as u8).collect();
    let with = encode_message(6, 9, 0x0123_4567, 1, &body, 128);
    // The same without the four bytes on the two continuations.
    let mut without = with.to_vec();
    let second = 12 + 4 + 128;
    without.drain(second + 1..second + 5);
    let third = second + 1 + 128;
    without.drain(third + 1..third + 5);
    let mut short = body.clone();
    short.truncate(258); // two bytes on the last chunk: fewer than an extended timestamp has
    let mut tight = encode_message(6, 9, 0x0123_4567, 1, &short, 128).to_vec();
    tight.drain(second + 1..second + 5);
    tight.drain(third + 1..third + 5);
    tight.extend(encode_message(4, 8, 5, 1, b"next", 128));
    for cut in [1, 2, 3, 5, 17, 1000] {
        for bytes in [&with[..], &without] {
            let found = read_all(&mut Reader::new(LIMITS), bytes, &[cut]).unwrap();
            assert_eq!(found.len(), 1, "cut {cut}");
            assert_eq!((found[0].timestamp_ms, &found[0].body[..]), (0x0123_4567, &body[..]));
        }
        let found = read_all(&mut Reader::new(LIMITS), &tight, &[cut]).unwrap();
        assert_eq!((&found[0].body[..], &found[1].body[..]), (&short[..], &b"next"[..]));
    }
}

#[test]
fn chunk_sizes() {
    for size in [1_u32, 127, 4096, 65_536, 10_000_000, 0x7FFF_FFFF] {
        let mut bytes = set_chunk_size(size).to_vec();
        let body = vec![9; 20_000];
        bytes.extend(encode_message(6, 9, 1, 1, &body, size as usize));
        let mut reader = Reader::new(LIMITS);
        assert_eq!(read_all(&mut reader, &bytes, &[1500]).unwrap()[0].body, body, "{size}");
        assert_eq!(reader.unfinished_len(), 0);
    }
    assert_eq!(read(&set_chunk_size(0)), Err(Error::ChunkSize(0)));
    assert_eq!(read(&set_chunk_size(0x8000_0000)), Err(Error::ChunkSize(0x8000_0000)));
    assert_eq!(read(&encode_message(2, 1, 0, 0, &[1], 128)), Err(Error::Malformed("chunk size")));
}

#[test]
fn interleaved_and_aborted() {
    let video = encode_message(6, 9, 10, 1, &[6; 200], 128);
    let audio = encode_message(4, 8, 11, 1, &[4; 100], 128);
    let (first, second) = video.split_at(12 + 128);
    let found = read(&[first, &audio, second].concat()).unwrap();
    assert_eq!(found.iter().map(|m| m.type_id).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(found[1].body, vec![6; 200]);

    let abort = encode_message(2, message::ABORT, 0, 0, &6_u32.to_be_bytes(), 128);
    let mut reader = Reader::new(LIMITS);
    let found = read_all(&mut reader, &[first, &abort, &audio, &video].concat(), &[]).unwrap();
    assert_eq!(found.iter().map(|m| m.type_id).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(reader.unfinished_len(), 0);

    // Given up without an abort: another full header in the middle.
    let found = read(&[first, &encode_message(6, 9, 20, 1, b"new", 128)].concat()).unwrap();
    assert_eq!((found.len(), found[0].timestamp_ms), (1, 20));
}

#[test]
fn fresh_streams() {
    // librtmp's ping answer begins a chunk stream with type 1.
    let found = read(&[0x42, 0, 0, 5, 0, 0, 2, 4, 0, 7]).unwrap();
    assert_eq!((found[0].csid, found[0].type_id, found[0].timestamp_ms), (2, 4, 5));
    assert_eq!(read(&[0xC3]), Err(Error::NoHeader { csid: 3, fmt: 3 }));
    assert_eq!(read(&[0x83, 0, 0, 0]), Err(Error::NoHeader { csid: 3, fmt: 2 }));
    // the highest chunk stream id, and an empty message
    let found = read(&encode_message(65_599, 8, 0, 1, b"", 128)).unwrap();
    assert_eq!((found[0].csid, found[0].body.len()), (65_599, 0));
}

#[test]
fn a_bomb_of_declared_lengths_allocates_nothing() {
    // 63 chunk streams begin a message of 64 KiB and send one byte of it.
    let mut reader = Reader::new(LIMITS);
    let mut bytes = set_chunk_size(1).to_vec();
    for csid in 3..3 + 63 {
        let whole = encode_message(csid, 9, 0, 1, &vec![0; 64 * 1024], 1);
        bytes.extend(&whole[..if csid < 64 { 12 } else { 13 } + 1]);
    }
    assert_eq!(read_all(&mut reader, &bytes, &[]), Ok(vec![]));
    assert!(reader.unfinished_len() <= 64 * 64, "{}", reader.unfinished_len());
    assert_eq!(read_all(&mut reader, &encode_message(5000, 9, 0, 1, b"", 1), &[]), Err(Error::ChunkStreams));
    let long = encode_message(3, 9, 0, 1, &vec![0; 64 * 1024 + 1], 128);
    assert_eq!(read(&long[..12]), Err(Error::MessageLong { len: 65_537, len_max: 65_536 }));
}

#[test]
fn unfinished_bytes_are_bounded() {
    // Messages of 64 KiB, each sent but for its last chunk.
    let mut input: Vec<u8> = set_chunk_size(60_000).to_vec();
    for csid in 3..60 {
        let whole = encode_message(csid, 9, 0, 1, &vec![0; 64 * 1024], 60_000);
        input.extend(&whole[..12 + 60_000]);
    }
    for cut in [1, 1460, 64 * 1024] {
        let mut reader = Reader::new(LIMITS);
        let read = read_all(&mut reader, &input, &[cut]);
        assert_eq!(read, Err(Error::Unfinished(LIMITS.unfinished_len_max)));
        assert!((60_000..=LIMITS.unfinished_len_max).contains(&reader.unfinished_len()));
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let csid = prop_oneof![3u32..7, 60u32..70, 315u32..325, Just(65_599)];
    let time = prop_oneof![0u32..100, 0xFF_FFF0u32..0x100_0010, any::<u32>()];
    let body = prop::collection::vec(any::<u8>(), 0..400);
    (csid, prop::sample::select(vec![8u8, 9, 18, 20]), time, 0u32..2, body).prop_map(
        |(csid, type_id, timestamp_ms, stream_id, body)| Message {
            csid,
            type_id,
            timestamp_ms,
            stream_id,
            body: body.into(),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        messages in prop::collection::vec(any_message(), 0..20),
        chunk_size in prop_oneof![1u32..10, 100u32..70_000],
        cuts in prop::collection::vec(1usize..300, 1..5),
        compressed in any::<bool>(),
    ) {
        let mut bytes = BytesMut::from(&set_chunk_size(chunk_size)[..]);
        let mut writer = Writer::new();
        writer.set_chunk_size(chunk_size as usize);
        for m in &messages {
            if compressed {
                writer.write(m.csid, m.type_id, m.timestamp_ms, m.stream_id, &m.body, &mut bytes);
            } else {
                let size = chunk_size as usize;
                bytes.extend(encode_message(m.csid, m.type_id, m.timestamp_ms, m.stream_id, &m.body, size));
            }
        }
        let mut reader = Reader::new(LIMITS);
        let found = read_all(&mut reader, &bytes, &cuts).unwrap();
        prop_assert_eq!(found, messages);
        prop_assert_eq!(reader.unfinished_len(), 0);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8), Just(0xC3), Just(0xFF)], 0..600),
        cuts in prop::collection::vec(1usize..50, 1..4),
    ) {
        let mut reader = Reader::new(LIMITS);
        let _ = read_all(&mut reader, &bytes, &cuts);
        prop_assert!(reader.unfinished_len() <= LIMITS.unfinished_len_max);
    }
}
