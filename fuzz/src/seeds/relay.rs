//! What nodes say to each other.

use bytes::Bytes;
use media::amf0::{self, Value};
use media::{Kind, NodeId};
use relay::control::{Encoding, Form, Message, Right, SEQ_MAX, Track, TrackId, VERSION};
use relay::datagram::{Body, Flags, Media, Next, Part, left_out, write_nack};

use super::{Named, behind_length};

pub(super) fn datagrams() -> (Vec<u8>, Vec<u8>) {
    let (mut media, mut nack) = (Vec::new(), Vec::new());
    let header = Media {
        flags: Flags::KEY,
        link_seq: 70_000,
        track: 3,
        age_ms: 9,
        dts_offset: 3_000,
        ..Media::default()
    };
    header.write(Body { descriptor: &[0x80, 0, 1], payload: &[0x65; 40] }, &mut media);
    write_nack(&mut nack, 70_000, &[(69_000, 2), (69_990, 5)]);
    (media, nack)
}

/// A message of each kind.
pub(super) fn messages() -> Named {
    let stream = || media::StreamName::new("live", "alice").expect("a name");
    let node = NodeId::new("edge-1").expect("an id");
    let (codecs, path) = ([Some(media::Codec::Opus), Some(media::Codec::H264)], vec![node.clone()]);
    let (alias, generation) = (70, 9);
    let encoding = Encoding {
        rid: "h".into(),
        flows: true,
        paused: false,
        live: true,
        height: 720,
        rate_bps: 2_000_000,
        temporal_bps: vec![1_000_000],
    };
    let announce = Message::Announce {
        stream: stream(),
        generation,
        form: Form::Packets,
        codecs,
        path,
        cost_us: 25_000,
        derives: true,
    };
    let of = TrackId { kind: Kind::Video, layer: 1, derived: false };
    let says = amf0::encode(&["onMetaData".into(), Value::Object(vec![("width".to_owned(), 1280.0.into())])]);
    let published = Bytes::from(says.to_vec());
    let messages = [
        ("hello", Message::Hello { version: VERSION, node }),
        ("announce", announce),
        (
            "subscribe",
            Message::Subscribe {
                alias,
                stream: stream(),
                generation,
                track: of,
                after: Some(70_000),
                need: media::Need::Held,
                reliable: true,
            },
        ),
        ("track", Message::Track(track(true, 1 << 33))),
        ("key_frame", Message::KeyFrame { alias }),
        ("layers", Message::Layers { stream: stream(), generation, encodings: vec![encoding; 2] }),
        ("clock", Message::Clock { now_us: 5_000_000 }),
        ("metadata", Message::Metadata { stream: stream(), generation, published }),
        ("ask", Message::Ask { id: 3, right: Right::Play, stream: stream(), query: "token=1".into() }),
        ("answer", Message::Answer { id: 3, generation: 7, refused: "no such token".into() }),
        ("unsubscribe", Message::Unsubscribe { alias }),
        ("end", Message::End { stream: stream(), generation }),
        ("drain", Message::Drain { within_ms: 5_000 }),
    ];
    messages.iter().map(|(name, message)| (*name, written(message))).collect()
}

fn written(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.write(&mut out).expect("a short message");
    out
}

fn track(epoch: bool, seq: u64) -> Track {
    Track {
        alias: 70,
        epoch,
        codec: media::Codec::H264,
        seq,
        timestamp: -5,
        capture_us: 1_000_000,
        config: Bytes::from_static(&[1, 0x42, 0xe0, 0x1f]),
    }
}

/// The word what a track is, and its packets, before it and after it, around the ends of 32 bits and of what a stream lives to see.
pub(super) fn flows() -> Named {
    let step = |op: u8, bytes: &[u8]| [&[op, 30][..], &behind_length(bytes)].concat();
    let told = |epoch, seq| step(0, &written(&Message::Track(track(epoch, seq))));
    let media = |link_seq: u64, flags: Flags, seq: u32| {
        let header = Media { link_seq, flags, seq, timestamp: seq.wrapping_mul(3_000), ..Media::default() };
        let mut out = Vec::new();
        header.write(Body { descriptor: &[], payload: &[0x65; 20] }, &mut out);
        step(1, &out)
    };
    let part = |link_seq, part, seq| {
        let mut out = Vec::new();
        Media { link_seq, part, seq, ..Media::default() }
            .write(Body { descriptor: &[], payload: &[0x65; 20] }, &mut out);
        step(1, &out)
    };
    let gone = |link_seq, seq, count| {
        let mut out = Vec::new();
        let payload = left_out(count);
        Media { link_seq, left_out: true, seq, ..Media::default() }
            .write(Body { descriptor: &[], payload: &payload }, &mut out);
        step(1, &out)
    };
    let next = |link_seq, back| {
        let mut out = Vec::new();
        Next { link_seq, back, gap: if back > 1 { 3 } else { 0 }, sent: 8, last: back > 1, more: back == 1 }
            .write(&[0x65; 20], &mut out);
        step(1, &out)
    };
    let (even, odd) = (Flags::default(), Flags::EPOCH);
    let clock = step(0, &written(&Message::Clock { now_us: 5_000_000 }));
    let early = [media(0, even, 7), media(1, even, 8), clock, told(false, 7), media(2, even, 9)].concat();
    let changed =
        [told(false, 7), media(0, even, 7), media(1, odd, 8), told(true, 8), media(2, odd, 9)].concat();
    let wraps = [told(false, u64::from(u32::MAX)), media(0, even, u32::MAX), media(1, even, 0)].concat();
    let ends = [told(false, SEQ_MAX - 2), media(0, even, u32::MAX - 1), gone(1, u32::MAX, 9)].concat();
    let ends = [ends, media(2, even, 0)].concat();
    let before = [told(false, 3), media(0, even, u32::MAX), media(1, even, 4)].concat();
    let halves =
        [told(false, 7), part(1, Part::SecondHalf, 7), part(0, Part::FirstHalf, 7), gone(2, 8, 3)].concat();
    let goes_on =
        [told(false, 7), media(0, even, 7), next(1, 1), next(2, 2), next(4, 1), next(5, 2)].concat();
    let goes_on = [goes_on, media(3, even, 10)].concat();
    vec![
        ("goes_on", goes_on),
        ("early", early),
        ("changed", changed),
        ("wraps", wraps),
        ("ends", ends),
        ("before", before),
        ("halves", halves),
    ]
}

/// A stream with a record of each kind, after the length of the pieces.
pub(super) fn stream() -> Vec<u8> {
    use relay::control::Track;
    use relay::datagram::{Body, Flags, Media, left_out};
    use relay::stream::{write_head, write_live, write_media, write_track};
    let track = Track {
        alias: 70,
        epoch: true,
        codec: media::Codec::Aac,
        seq: 5,
        timestamp: 9,
        capture_us: 11,
        config: Bytes::from_static(&[0x11, 0x90]),
    };
    let media = Media { flags: Flags::KEY, track: 70, age_ms: 9, seq: 5, timestamp: 9, ..Media::default() };
    let mut out = vec![20];
    write_head(&mut out, 70);
    write_track(&mut out, &track).expect("a short message");
    write_media(&mut out, &media, Body { descriptor: &[0x80, 0, 1], payload: &[0x65; 40] });
    write_live(&mut out);
    let missing = Media { left_out: true, seq: 6, ..media };
    write_media(&mut out, &missing, Body { descriptor: &[], payload: &left_out(3) });
    out
}
