//! A stream of media between nodes, byte by byte: nodes of different builds speak it, so a change here is a change of the protocol's version.
use bytes::Bytes;
use media::Codec;
use relay::control::Track;
use relay::datagram::{Body, Flags, Media, left_out};
use relay::stream::{Reader, Record, write_head, write_live, write_media, write_track};

#[test]
fn records_are_these_bytes() {
    let track = Track {
        alias: 7,
        epoch: false,
        codec: Codec::Aac,
        seq: 258,
        timestamp: -1,
        capture_us: 3,
        config: Bytes::from_static(b"cfg"),
    };
    let media = Media {
        flags: Flags::KEY.with(Flags::END_OF_FRAME),
        track: 7,
        age_ms: 9,
        budget_ms: 1_500,
        seq: 259,
        timestamp: 1_024,
        ..Media::default()
    };
    let missing = Media { flags: Flags::default(), left_out: true, seq: 260, ..media };
    let mut out = Vec::new();
    write_head(&mut out, 7);
    write_track(&mut out, &track).expect("it is short");
    write_media(&mut out, &media, Body { descriptor: b"", payload: b"sound" });
    write_live(&mut out);
    write_media(&mut out, &missing, Body { descriptor: b"", payload: &left_out(2) });
    let want = [
        &b"\x07"[..],
        b"\x20\x0a\x07\x00\x06\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x03\x03cfg",
        b"\x17\x00\x03\0\0\0\x07\0\0\x09\x96\0\0\x01\x03\0\0\x04\0sound",
        b"\x00",
        b"\x16\x20\x00\0\0\0\x07\0\0\x09\x96\0\0\x01\x04\0\0\x04\0\0\0\0\x02",
    ];
    assert_eq!(out, want.concat());
    let mut reader = Reader::new();
    reader.push(&out);
    let read: Vec<Record> = std::iter::from_fn(|| reader.take().expect("it is ours")).collect();
    let said = [
        Record::Begins(7),
        Record::Track(track),
        Record::Media(media, Bytes::new(), Bytes::from_static(b"sound")),
        Record::Live,
        Record::Media(missing, Bytes::new(), left_out(2)),
    ];
    assert_eq!(read, said);
}
