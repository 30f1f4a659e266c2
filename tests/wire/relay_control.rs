//! The hop's control messages, byte by byte: nodes of different builds speak them, so a change here is a change of the protocol's version.
use bytes::{Bytes, BytesMut};
use media::{Codec, Kind, Need, NodeId, StreamName};
use relay::control::{Encoding, Error, Form, Message, Right, Track, TrackId, VERSION, take};

#[track_caller]
fn check(message: Message, want: &[u8]) {
    let mut out = Vec::new();
    message.write(&mut out).expect("it fits");
    assert_eq!(out, want, "{message:?}");
    let mut stream = BytesMut::from(want);
    assert_eq!(take(&mut stream), Ok(Some(message)));
    assert!(stream.is_empty());
}

#[test]
fn messages_are_these_bytes() {
    let stream = || StreamName::new("a", "b").expect("a name");
    let node = |id| NodeId::new(id).expect("an id");
    check(Message::Hello { version: VERSION, node: node("n-1") }, b"\x06\x00\x01\x03n-1");
    check(
        Message::Announce {
            stream: stream(),
            generation: 300,
            form: Form::Frames,
            codecs: [Some(Codec::Aac), None],
            path: vec![node("x"), node("y")],
            cost_us: 300,
            derives: true,
        },
        b"\x12\x02\x03a/b\x41\x2c\x01\x06\x00\x02\x01x\x01y\x41\x2c\x01",
    );
    check(Message::End { stream: stream(), generation: 5 }, b"\x06\x04\x03a/b\x05");
    for (track, byte, after, need, reliable) in [
        ((Kind::Audio, 0, false), 0, None, Need::Watched, true),
        ((Kind::Audio, 0, true), 0x40, Some(1), Need::Watched, false),
        ((Kind::Video, 0, false), 0x80, Some(0), Need::Spare, true),
        ((Kind::Video, 2, false), 0x82, Some(62), Need::Held, false),
    ] {
        let track = TrackId { kind: track.0, layer: track.1, derived: track.2 };
        let subscribe =
            Message::Subscribe { alias: 7, stream: stream(), generation: 5, track, after, need, reliable };
        let need = [Need::Watched, Need::Spare, Need::Held].iter().position(|it| *it == need).unwrap() as u8;
        let need = need | if reliable { 0x80 } else { 0 };
        let fields = [byte, after.map_or(0, |after| after as u8 + 1), need];
        check(subscribe, &[&b"\x0a\x06\x07\x03a/b\x05"[..], &fields].concat());
    }
    let wrong = take(&mut BytesMut::from(&b"\x0a\x06\x07\x03a/b\x05\0\0\x03"[..]));
    assert_eq!(wrong, Err(Error::Number), "what it is for");
    check(Message::Unsubscribe { alias: 7 }, b"\x02\x08\x07");
    check(
        Message::Track(Track {
            alias: 7,
            epoch: true,
            codec: Codec::H264,
            seq: 258,
            timestamp: -1,
            capture_us: 3,
            config: Bytes::from_static(b"cfg"),
        }),
        b"\x20\x0a\x07\x01\x01\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x03\x03cfg",
    );
    check(Message::KeyFrame { alias: 7 }, b"\x02\x0c\x07");
    let encodings = vec![
        Encoding::default(),
        Encoding {
            rid: "h".into(),
            flows: true,
            paused: false,
            live: true,
            height: 360,
            rate_bps: 60,
            temporal_bps: vec![30, 60],
        },
    ];
    check(
        Message::Layers { stream: stream(), generation: 5, encodings },
        b"\x15\x0e\x03a/b\x05\x02\0\0\0\0\0\x01h\x03\x41\x68\x3c\x02\x1e\x3c",
    );
    let published = Bytes::from_static(b"said");
    check(Message::Metadata { stream: stream(), generation: 5, published }, b"\x0b\x03\x03a/b\x05\x04said");
    check(Message::Drain { within_ms: 9 }, b"\x02\x10\x09");
    for (right, byte) in [(Right::Publish, 0), (Right::Play, 1)] {
        check(
            Message::Ask { id: 3, right, stream: stream(), query: "t=1".into() },
            &[&b"\x0b\x12\x03"[..], &[byte], b"\x03a/b\x03t=1"].concat(),
        );
    }
    check(Message::Answer { id: 3, generation: 0, refused: "no".into() }, b"\x06\x14\x03\0\x02no");
    check(Message::Answer { id: 3, generation: 7, refused: String::new() }, b"\x04\x14\x03\x07\0");
    check(Message::Clock { now_us: 5 }, b"\x09\x01\0\0\0\0\0\0\0\x05");
}
