use proptest::prelude::*;

use super::*;

fn written(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.write(&mut out).unwrap();
    out
}

fn name() -> impl Strategy<Value = StreamName> {
    "[a-z0-9]{1,20}/[a-zA-Z0-9_-]{1,40}".prop_map(|text| StreamName::parse(&text).unwrap())
}

fn node_id() -> impl Strategy<Value = NodeId> {
    "[a-z]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| NodeId::new(&text).unwrap())
}

fn num() -> std::ops::RangeInclusive<u64> {
    0..=varint::MAX
}

fn time() -> std::ops::RangeInclusive<i64> {
    -TIME_MAX..=TIME_MAX
}

fn track_id() -> impl Strategy<Value = TrackId> {
    prop_oneof![
        any::<bool>().prop_map(|derived| TrackId { kind: Kind::Audio, layer: 0, derived }),
        (0..ENCODINGS_MAX as u8).prop_map(|layer| TrackId { kind: Kind::Video, layer, derived: false }),
    ]
}

fn codec(kind: Kind) -> impl Strategy<Value = Option<Codec>> {
    let of: Vec<Option<Codec>> =
        CODECS.into_iter().filter(|c| c.kind() == kind).map(Some).chain([None]).collect();
    prop::sample::select(of)
}

fn encoding_info() -> impl Strategy<Value = Encoding> {
    let rates = prop::collection::vec(num(), 0..=TEMPORAL_LAYERS_MAX);
    ("[a-z0-9]{0,8}", any::<(bool, bool, bool)>(), num(), num(), rates).prop_map(
        |(rid, (flows, paused, live), height, rate_bps, temporal_bps)| Encoding {
            rid,
            flows,
            paused,
            live,
            height,
            rate_bps,
            temporal_bps,
        },
    )
}

fn need() -> impl Strategy<Value = Need> {
    prop_oneof![Just(Need::Watched), Just(Need::Spare), Just(Need::Held)]
}

fn message() -> impl Strategy<Value = Message> {
    let form = prop_oneof![Just(Form::Packets), Just(Form::Frames)];
    let codecs = (codec(Kind::Audio), codec(Kind::Video));
    let path = prop::collection::vec(node_id(), 1..=PATH_MAX);
    let track = (num(), any::<bool>(), prop::sample::select(CODECS.to_vec()), (0..SEQ_MAX, time(), time()));
    let config = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (num(), node_id()).prop_map(|(version, node)| Message::Hello { version, node }),
        (name(), num(), form, codecs, path, (num(), any::<bool>())).prop_map(
            |(stream, generation, form, codecs, path, (cost_us, derives))| {
                let codecs = codecs.into();
                Message::Announce { stream, generation, form, codecs, path, cost_us, derives }
            }
        ),
        (name(), num()).prop_map(|(stream, generation)| Message::End { stream, generation }),
        (num(), name(), num(), track_id(), prop::option::of(0..SEQ_MAX), (need(), any::<bool>())).prop_map(
            |(alias, stream, generation, track, after, (need, reliable))| Message::Subscribe {
                alias,
                stream,
                generation,
                track,
                after,
                need,
                reliable
            },
        ),
        num().prop_map(|alias| Message::Unsubscribe { alias }),
        (track, config).prop_map(|((alias, epoch, codec, (seq, timestamp, capture_us)), config)| {
            let config = config.into();
            Message::Track(Track { alias, epoch, codec, seq, timestamp, capture_us, config })
        }),
        num().prop_map(|alias| Message::KeyFrame { alias }),
        (name(), num(), prop::collection::vec(encoding_info(), 0..=ENCODINGS_MAX))
            .prop_map(|(stream, generation, encodings)| Message::Layers { stream, generation, encodings }),
        (name(), num(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(stream, generation, published)| Message::Metadata {
                stream,
                generation,
                published: published.into()
            },
        ),
        num().prop_map(|within_ms| Message::Drain { within_ms }),
        time().prop_map(|now_us| Message::Clock { now_us }),
        (num(), any::<bool>(), name(), "[ -~]{0,60}").prop_map(|(id, play, stream, query)| {
            Message::Ask { id, right: if play { Right::Play } else { Right::Publish }, stream, query }
        }),
        (num(), num(), "[ -~]{0,60}").prop_map(|(id, generation, refused)| Message::Answer {
            id,
            generation,
            refused
        }),
    ]
}

proptest! {
    #[test]
    fn messages_come_back_from_any_pieces(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1_usize..80, 1..40),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(written).collect();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        let (mut stream, mut got) = (BytesMut::new(), Vec::new());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = after;
            stream.extend_from_slice(piece);
            while let Some(message) = take(&mut stream).unwrap() {
                got.push(message);
            }
        }
        prop_assert_eq!(got, messages);
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut stream = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = take(&mut stream) {
            let mut again = BytesMut::from(&written(&message)[..]);
            prop_assert_eq!(take(&mut again), Ok(Some(message)));
        }
    }

    #[test]
    fn a_message_cut_short_is_refused(message in message(), keep in 0_usize..400) {
        let mut body = Vec::new();
        message.write_body(&mut body);
        // What follows the fields is passed over, so every byte of the body is a field's; an announcement's flags need not be there.
        let fields = body.len() - usize::from(matches!(message, Message::Announce { .. }));
        let keep = keep.min(fields - 1);
        prop_assert_eq!(read(&body[..keep]), Err(Error::Short));
    }
}

#[test]
fn what_a_peer_may_not_say() {
    let refused = |body: &[u8]| {
        let mut out = Vec::new();
        put(&mut out, body);
        take(&mut BytesMut::from(&out[..])).unwrap_err()
    };
    let announce = |form: u8, codecs: [u8; 2], count: u8| {
        let mut body = vec![2, 3, b'a', b'/', b'b', 1, form, codecs[0], codecs[1], count];
        for _ in 0..count {
            body.extend([1, b'n']);
        }
        body.push(0);
        body
    };
    assert!(read(&announce(1, [6, 1], 8)).is_ok());
    let track = |seq: u64, timestamp: i64, capture_us: i64| {
        let mut body = vec![10, 7, 0, 1];
        body.extend([seq.to_be_bytes(), timestamp.to_be_bytes(), capture_us.to_be_bytes()].concat());
        body.push(0);
        body
    };
    assert!(read(&track(SEQ_MAX - 1, TIME_MAX, -TIME_MAX)).is_ok());
    for (bad, why) in [
        (announce(2, [6, 1], 1), "form"),
        (announce(1, [1, 1], 1), "a picture's codec for sound"),
        (announce(1, [6, 10], 1), "codec"),
        (announce(1, [6, 1], 0), "no path"),
        (announce(1, [6, 1], 9), "nine nodes"),
        (vec![6, 1, 3, b'a', b'/', b'b', 1, 1], "a track that is neither"),
        (vec![6, 1, 3, b'a', b'/', b'b', 1, VIDEO | 4], "a fifth encoding"),
        (vec![14, 3, b'a', b'/', b'b', 1, 5], "five encodings"),
        (vec![14, 3, b'a', b'/', b'b', 1, 1, 0, 3, 0, 0, 9], "nine temporal layers"),
        (track(SEQ_MAX, 0, 0), "a number that no stream comes to"),
        (track(u64::MAX, 0, 0), "one that cannot be counted on"),
        (track(0, TIME_MAX + 1, 0), "a time"),
        (track(0, i64::MIN, 0), "a time before all"),
        (track(0, 0, -TIME_MAX - 1), "a capture time"),
        ([vec![1], i64::MAX.to_be_bytes().to_vec()].concat(), "a clock"),
    ] {
        assert_eq!(refused(&bad), Error::Number, "{why}");
    }
    for (bad, why) in [
        (vec![0, 1, 0], "no node"),
        (vec![0, 1, 2, b'-', b'a'], "hyphen first"),
        (vec![0, 1, 1, b'A'], "upper case"),
        (vec![0, 1, 2, b'4', b'2'], "a number, which no certificate is for"),
        (vec![0, 1, 1, 0xff], "no text"),
        (vec![4, 1, b'a', 1], "no app"),
        (vec![4, 3, b'a', b'/', b'\n', 1], "control character"),
    ] {
        assert_eq!(refused(&bad), Error::Name, "{why}");
    }
    assert_eq!(refused(&[22]), Error::Type(22));
    assert_eq!(refused(&[18, 1, 2, 3, b'a', b'/', b'b', 0]), Error::Number, "a right that is none");
    assert_eq!(refused(&[10, 1, 0, 1, 0]), Error::Short);
    assert_eq!(refused(&[0, 1, 60, b'a']), Error::Short, "text longer than the message");
    assert_eq!(refused(&[]), Error::Short);
    assert!(NodeId::new(&"n".repeat(63)).is_some() && NodeId::new(&"n".repeat(64)).is_none());
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_the_message_is_there() {
    let mut head = Vec::new();
    varint::write(&mut head, MESSAGE_LEN_MAX as u64);
    assert_eq!(take(&mut BytesMut::from(&head[..])), Ok(None));
    head.clear();
    varint::write(&mut head, MESSAGE_LEN_MAX as u64 + 1);
    assert_eq!(take(&mut BytesMut::from(&head[..])), Err(Error::Long));
    let config = Bytes::from(vec![0; MESSAGE_LEN_MAX]);
    let (codec, epoch) = (Codec::Aac, false);
    let long = Track { alias: 1, epoch, codec, seq: 0, timestamp: 0, capture_us: 0, config };
    assert_eq!(Message::Track(long).write(&mut Vec::new()), Err(Error::Long));
}

#[test]
fn unknown_odd_types_are_passed_over() {
    let mut stream = BytesMut::from(&[3, 0x7f, 0xff, 9, 1, 19][..]);
    stream.extend_from_slice(&written(&Message::KeyFrame { alias: 7 }));
    assert_eq!(take(&mut stream), Ok(Some(Message::KeyFrame { alias: 7 })));
    let mut longer = BytesMut::from(&[4, 12, 7, 1, 2][..]);
    assert_eq!(take(&mut longer), Ok(Some(Message::KeyFrame { alias: 7 })), "a later version's fields");
}
