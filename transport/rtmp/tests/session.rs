//! Server and client against each other in memory, cut into pieces, and the server against hostile clients.

use bytes::{Bytes, BytesMut};
use media::amf0::{self, Value};
use millrace_rtmp::chunk::{Message, Reader, Writer};
use millrace_rtmp::{
    CHUNK_SIZE_OUT, Client, ClientEvent, EndReason, Error, Event, Limits, PLAY_STREAM_ID, RANDOM_LEN, Server,
    csid, encode_message, message,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Both ends of a connection; bytes travel in pieces of the given sizes, taken in turn.
struct Wire {
    server: Server,
    client: Client,
    cuts: Vec<usize>,
    turn: usize,
}

impl Wire {
    fn new(client: Client, cuts: &[usize]) -> Wire {
        let server = Server::new([7; RANDOM_LEN], Limits::default());
        Wire { server, client, cuts: cuts.to_vec(), turn: 0 }
    }

    fn next_cut(&mut self) -> usize {
        self.turn += 1;
        self.cuts[self.turn % self.cuts.len()].max(1)
    }

    fn feed_server(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.next_cut().min(rest.len()));
            rest = after;
            self.server.handle_input(piece)?;
            events.extend(std::iter::from_fn(|| self.server.poll_event()));
        }
        Ok(())
    }

    fn feed_client(&mut self, bytes: &[u8], events: &mut Vec<ClientEvent>) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.next_cut().min(rest.len()));
            rest = after;
            self.client.handle_input(piece)?;
            events.extend(std::iter::from_fn(|| self.client.poll_event()));
        }
        Ok(())
    }

    /// Until both are silent.
    fn settle(&mut self) -> (Vec<Event>, Vec<ClientEvent>) {
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        loop {
            at_server.extend(std::iter::from_fn(|| self.server.poll_event()));
            let up = self.client.take_output();
            let down = self.server.take_output();
            if up.is_empty() && down.is_empty() {
                return (at_server, at_client);
            }
            self.feed_server(&up, &mut at_server).unwrap();
            self.feed_client(&down, &mut at_client).unwrap();
        }
    }
}

const RANDOM: [u8; RANDOM_LEN] = [3; RANDOM_LEN];

fn publish(cuts: &[usize]) -> Wire {
    Wire::new(Client::publish("host:1935", "live", "alice?token=x", &RANDOM), cuts)
}

fn publishing(cuts: &[usize]) -> Wire {
    let mut wire = publish(cuts);
    let (events, _) = wire.settle();
    assert_eq!(
        events,
        [
            Event::Connected { app: "live".to_owned(), tc_url: "rtmp://host:1935/live".to_owned() },
            Event::Publish { app: "live".to_owned(), name: "alice".to_owned(), query: "token=x".to_owned() },
        ]
    );
    assert!(wire.server.is_asking());
    wire.server.accept_publish().unwrap();
    assert_eq!(wire.settle().1, [ClientEvent::Ready]);
    wire
}

fn media(type_id: u8, timestamp_ms: u32, body: &[u8]) -> Event {
    Event::Media { type_id, timestamp_ms, body: Bytes::copy_from_slice(body) }
}

#[test]
fn publishes_and_ends() {
    let mut wire = publishing(&[1, 1000, 7]);
    let metadata = amf0::encode(&["onMetaData".into(), Value::EcmaArray(vec![])]);
    wire.client.send_media(18, 0, &metadata);
    wire.client.send_media(9, 40, &[9; 100_000]);
    wire.client.send_media(8, 0x0100_0000, &[8; 10]);
    wire.client.stop();
    let (events, _) = wire.settle();
    assert_eq!(
        events,
        [
            media(18, 0, &metadata),
            media(9, 40, &[9; 100_000]),
            media(8, 0x0100_0000, &[8; 10]),
            Event::Unpublish,
        ]
    );
    assert!(!wire.server.is_publishing());
}

#[test]
fn an_impatient_publisher_loses_nothing() {
    let mut wire = publish(&[100_000]);
    wire.settle();
    // It does not wait for the answer.
    wire.client.send_media(9, 1, b"sequence header");
    let (events, _) = wire.settle();
    assert_eq!(events, []);
    wire.server.accept_publish().unwrap();
    assert_eq!(wire.settle().0, [media(9, 1, b"sequence header")]);
    // One that pours on is cut off.
    let mut wire = publish(&[1000]);
    wire.settle();
    wire.client.send_media(9, 1, &[0; 70_000]);
    let bytes = wire.client.take_output();
    let poured = wire.feed_server(&bytes, &mut Vec::new());
    assert_eq!(poured, Err(Error::Flood("bytes before an answer")));
}

#[test]
fn refusals_reach_the_client() {
    let mut wire = publish(&[50]);
    wire.settle();
    wire.server.reject_publish("NetStream.Publish.BadName", "live/alice is being published");
    let rejected = |code: &str, description: &str| ClientEvent::Rejected {
        code: code.to_owned(),
        description: description.to_owned(),
    };
    assert_eq!(wire.settle().1, [rejected("NetStream.Publish.BadName", "live/alice is being published")]);
    wire.client.send_media(9, 0, b"anyway");
    assert_eq!(wire.settle().0, []);

    let mut wire = Wire::new(Client::play("host", "live", "nobody", &RANDOM), &[50]);
    wire.settle();
    wire.server.reject_play("NetStream.Play.StreamNotFound", "no such stream");
    assert_eq!(wire.settle().1, [rejected("NetStream.Play.StreamNotFound", "no such stream")]);
}

#[test]
fn plays_shared_messages_and_ends() {
    let mut wire = Wire::new(Client::play("host", "live", "alice", &RANDOM), &[1, 3000]);
    let (events, _) = wire.settle();
    let wanted = Event::Play { app: "live".to_owned(), name: "alice".to_owned(), query: String::new() };
    assert_eq!(events.last(), Some(&wanted));
    wire.server.accept_play().unwrap();
    let (_, events) = wire.settle();
    assert_eq!(events[0], ClientEvent::Ready);
    assert_eq!(events.len(), 1, "script data of no use would be a stream of its own to ffmpeg");

    let frame = vec![5; 200_000];
    let mut expected = Vec::new();
    for (csid, type_id, at) in
        [(csid::DATA, 18, 0), (csid::VIDEO, 9, 0xFF_FFFF), (csid::AUDIO, 8, 0xFFFF_FFFF), (csid::VIDEO, 9, 3)]
    {
        let shared = encode_message(csid, type_id, at, PLAY_STREAM_ID, &frame, CHUNK_SIZE_OUT);
        let mut events = Vec::new();
        wire.feed_client(&shared, &mut events).unwrap();
        expected.push(ClientEvent::Media { type_id, timestamp_ms: at, body: frame.clone().into() });
        assert_eq!(events, expected.split_off(0));
    }
    wire.server.end_play(EndReason::Unpublished);
    assert_eq!(wire.settle().1, [ClientEvent::Ended]);
    assert!(!wire.server.is_playing());
}

/// A client of raw messages.
struct Raw {
    server: Server,
    writer: Writer,
}

impl Raw {
    /// After the handshake, and after `connect` if wanted.
    fn new(connected: bool) -> Raw {
        let mut server = Server::new([7; RANDOM_LEN], Limits::default());
        server.handle_input(&[&[3][..], &[0; 2 * 1536]].concat()).unwrap();
        assert_eq!(server.take_output().len(), 1 + 2 * 1536);
        let mut raw = Raw { server, writer: Writer::new() };
        if connected {
            let object = Value::Object(vec![("app".to_owned(), "live".into())]);
            raw.command(0, &["connect".into(), 1.0.into(), object]).unwrap();
            assert!(matches!(raw.server.poll_event(), Some(Event::Connected { .. })));
            raw.server.take_output();
        }
        raw
    }

    fn publishing() -> Raw {
        let mut raw = Raw::new(true);
        raw.command(1, &["publish".into(), 5.0.into(), Value::Null, "alice".into(), "live".into()]).unwrap();
        assert!(matches!(raw.server.poll_event(), Some(Event::Publish { .. })));
        raw.server.accept_publish().unwrap();
        raw.server.take_output();
        raw
    }

    fn send(&mut self, type_id: u8, timestamp_ms: u32, stream_id: u32, body: &[u8]) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        self.writer.write(3, type_id, timestamp_ms, stream_id, body, &mut bytes);
        self.server.handle_input(&bytes)
    }

    fn command(&mut self, stream_id: u32, values: &[Value]) -> Result<(), Error> {
        self.send(message::COMMAND, 0, stream_id, &amf0::encode(values))
    }

    /// The commands in what the server answers (after `connect`).
    fn answers(&mut self) -> Vec<Vec<Value>> {
        let mut reader = Reader::new(Limits::default().publishing);
        let announce =
            encode_message(2, message::SET_CHUNK_SIZE, 0, 0, &(CHUNK_SIZE_OUT as u32).to_be_bytes(), 128);
        assert_eq!(reader.read(&mut &announce[..]), Ok(None));
        let bytes = self.server.take_output();
        let mut rest = &bytes[..];
        let mut list = Vec::new();
        while let Some(Message { type_id, body, .. }) = reader.read(&mut rest).unwrap() {
            if type_id == message::COMMAND {
                list.push(amf0::decode(&body).unwrap());
            }
        }
        list
    }
}

#[test]
fn what_obs_and_ffmpeg_ask_is_answered() {
    let mut raw = Raw::new(true);
    for (transaction, name, result) in [
        (2.0, "releaseStream", Value::Undefined),
        (3.0, "FCPublish", Value::Undefined),
        (4.0, "createStream", 1.0.into()),
        (5.0, "_checkbw", Value::Undefined),
        (6.0, "getStreamLength", 0.0.into()),
    ] {
        raw.command(0, &[name.into(), transaction.into(), Value::Null, "alice".into()]).unwrap();
        let answers = raw.answers();
        assert_eq!(answers[0], ["_result".into(), transaction.into(), Value::Null, result], "{name}");
    }
    // Not wanted or not known: silence.
    raw.command(0, &["_checkbw".into(), 0.0.into(), Value::Null]).unwrap();
    raw.command(1, &["setBufferLength".into(), 9.0.into(), Value::Null]).unwrap();
    assert_eq!(raw.answers(), Vec::<Vec<Value>>::new());
    // In AMF3 clothes.
    let body = [&[0][..], &amf0::encode(&["createStream".into(), 7.0.into(), Value::Null])].concat();
    raw.send(message::COMMAND_AMF3, 0, 0, &body).unwrap();
    assert_eq!(raw.answers()[0][1], 7.0.into());
}

#[test]
fn out_of_order_is_refused() {
    let publish = ["publish".into(), 5.0.into(), Value::Null, "alice".into()];
    assert_eq!(Raw::new(false).command(1, &publish), Err(Error::Unexpected("publish")));
    assert_eq!(Raw::publishing().command(1, &publish), Err(Error::Unexpected("publish")));
    let connect = ["connect".into(), 1.0.into(), Value::Object(vec![])];
    assert_eq!(Raw::new(true).command(0, &connect), Err(Error::Unexpected("connect")));
}

#[test]
fn publishes_again_on_the_same_connection() {
    let mut raw = Raw::publishing();
    raw.command(0, &["FCUnpublish".into(), 6.0.into(), Value::Null, "alice".into()]).unwrap();
    raw.command(0, &["deleteStream".into(), 7.0.into(), Value::Null, 1.0.into()]).unwrap();
    assert_eq!(raw.server.poll_event(), Some(Event::Unpublish));
    assert_eq!(raw.server.poll_event(), None);
    raw.send(9, 0, 1, b"late").unwrap();
    assert_eq!(raw.server.poll_event(), None);
    raw.command(1, &["publish".into(), 8.0.into(), Value::Null, "bob".into()]).unwrap();
    assert!(matches!(raw.server.poll_event(), Some(Event::Publish { name, .. }) if name == "bob"));
}

#[test]
fn aggregates_and_set_data_frame() {
    let mut raw = Raw::publishing();
    let mut body = Vec::new();
    for (type_id, at, data) in
        [(8_u8, 1000_u32, &b"a"[..]), (9, 1040, b"bc"), (99, 1041, b"?"), (8, 1050, b"d")]
    {
        body.extend_from_slice(&media::flv::tag(type_id, at, data));
    }
    raw.send(message::AGGREGATE, 70, 1, &body).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| raw.server.poll_event()).collect();
    assert_eq!(events, [media(8, 70, b"a"), media(9, 110, b"bc"), media(8, 120, b"d")]);
    assert_eq!(raw.send(message::AGGREGATE, 70, 1, &body[..11]), Err(Error::Malformed("aggregate")));

    let mut raw = Raw::publishing();
    let inner = amf0::encode(&["onMetaData".into(), Value::Null]);
    let outer = [&amf0::encode(&["@setDataFrame".into()])[..], &inner].concat();
    raw.send(message::DATA_AMF3, 0, 1, &[&[0][..], &outer].concat()).unwrap();
    raw.send(message::DATA, 0, 1, &inner).unwrap();
    assert_eq!(raw.server.poll_event(), Some(media(18, 0, &inner)));
    assert_eq!(raw.server.poll_event(), Some(media(18, 0, &inner)));
}

#[test]
fn floods_are_cut_off() {
    let until_refused = |mut raw: Raw, values: &[Value]| {
        (0..10_000).find_map(|n| raw.command(0, values).err().map(|error| (n, error))).unwrap()
    };
    let create = ["createStream".into(), 0.0.into(), Value::Null];
    assert_eq!(until_refused(Raw::new(true), &create), (16, Error::Flood("streams")));
    let other = ["_checkbw".into(), 1.0.into(), Value::Null];
    assert_eq!(until_refused(Raw::new(true), &other).1, Error::Flood("commands"));
    // A publisher that asks and never reads.
    assert_eq!(until_refused(Raw::publishing(), &other).1, Error::OutputFull);

    let mut raw = Raw::publishing();
    let mut tiny = encode_message(4, 8, 0, 1, b"x", 128).to_vec();
    tiny.extend([0xC4, b'x'].repeat(30_000));
    assert_eq!(raw.server.handle_input(&tiny), Err(Error::Flood("messages")));

    let mut raw = Raw::new(true);
    let long = ["publish".into(), 5.0.into(), Value::Null, "x".repeat(3000).as_str().into()];
    assert_eq!(raw.command(1, &long), Err(Error::TextLong));
    let mut raw = Raw::new(true);
    let bomb =
        [&amf0::encode(&["publish".into(), 5.0.into()])[..], &[0x0A, 0, 0, 0, 1].repeat(5000)].concat();
    assert_eq!(raw.send(message::COMMAND, 0, 1, &bomb), Err(Error::Amf0(amf0::Error::Depth)));
}

#[test]
fn long_messages_only_from_publishers() {
    let body = vec![0; 100_000];
    let refused = Error::MessageLong { len: 100_000, len_max: 32 * 1024 };
    assert_eq!(Raw::new(true).send(9, 0, 1, &body), Err(refused.clone()));
    let mut raw = Raw::publishing();
    raw.send(9, 0, 1, &body).unwrap();
    assert_eq!(raw.server.poll_event(), Some(media(9, 0, &body)));
    raw.command(0, &["deleteStream".into(), 0.0.into(), Value::Null, 1.0.into()]).unwrap();
    assert_eq!(raw.send(9, 0, 1, &body), Err(refused));
}

proptest! {
    #![proptest_config(ProptestConfig {
        // The default place is beside lib.rs, which an integration test has none of.
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::with_cases(64)
    })]

    #[test]
    fn any_cut_gives_the_same(
        cuts in prop::collection::vec(1usize..2000, 1..8),
        frames in prop::collection::vec((any::<bool>(), any::<u32>(), 1usize..3000), 0..8),
    ) {
        let mut wire = publishing(&cuts);
        let mut expected = Vec::new();
        for (video, at, len) in frames {
            let type_id = if video { 9 } else { 8 };
            let body = vec![len as u8; len];
            wire.client.send_media(type_id, at, &body);
            expected.push(media(type_id, at, &body));
        }
        prop_assert_eq!(wire.settle().0, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8), Just(3), Just(2), Just(20)], 0..500),
        piece in 1usize..200,
        publishing in any::<bool>(),
    ) {
        let mut raw = if publishing { Raw::publishing() } else { Raw::new(false) };
        for piece in bytes.chunks(piece) {
            if raw.server.handle_input(piece).is_err() {
                break;
            }
        }
        let mut client = Client::play("h", "a", "n", &RANDOM);
        let answer = [&[3][..], &[0; 3072], &bytes].concat();
        for piece in answer.chunks(piece * 10) {
            if client.handle_input(piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn arbitrary_commands_never_panic(
        name in prop::sample::select(vec!["connect", "publish", "play", "createStream", "FCPublish", "onStatus", "_result"]),
        arguments in prop::collection::vec(any::<u8>(), 0..60),
        connected in any::<bool>(),
    ) {
        let body = [&amf0::encode(&[name.into(), 1.0.into()])[..], &arguments].concat();
        let mut raw = Raw::new(connected);
        let _ = raw.send(message::COMMAND, 0, 0, &body);
        let _ = raw.server.accept_publish();
        let _ = raw.server.accept_play();
        raw.server.end_play(EndReason::Shutdown);
    }
}
