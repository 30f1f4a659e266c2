//! What transport/rtmp reads: handshake, chunks, commands, from strangers and from accepted publishers.

use bytes::BytesMut;
use media::flv::Demuxer;
use rtmp::chunk::{self, Reader};
use rtmp::handshake::{ClientHandshake, ServerHandshake};
use rtmp::{Client, Event, Limits, RANDOM_LEN, Server};

use crate::input::{Input, pieces};
use crate::memory;
use crate::novelty::{note, note_count};

/// What a connection that has not been allowed to publish may cost (issue: an unauthenticated RTMP connection costs at most 256 KiB).
const STRANGER_BYTES_MAX: isize = 256 * 1024;

/// What the node reads from a socket at once (src/rtmp_server.rs): answers are taken after each read, so it bounds them too.
const READ_BYTES: usize = 64 * 1024;

/// Both ends of the handshake.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.u8();
    let mut server = ServerHandshake::new([seed; RANDOM_LEN]);
    let mut out = BytesMut::new();
    for mut piece in pieces(seed, input.rest()) {
        match server.read(&mut piece, &mut out) {
            Ok(false) => assert!(piece.is_empty(), "bytes left without an end"),
            other => {
                note(&other);
                break;
            }
        }
    }
    assert!(out.len() <= 1 + 2 * 1536);
    let mut out = BytesMut::new();
    let mut client = ClientHandshake::start(&[seed; RANDOM_LEN], &mut out);
    for mut piece in pieces(seed, input.rest()) {
        match client.read(&mut piece, &mut out) {
            Ok(false) => assert!(piece.is_empty(), "bytes left without an end"),
            other => {
                note(&other);
                break;
            }
        }
    }
}

/// Chunks to messages. However the stream is cut, the same messages come out, and no more memory is held than came in or is allowed.
pub fn chunk(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.u8();
    let limits = Limits::default().before_publish;
    let read = |seed: u8, stream: &[u8]| {
        let mut reader = Reader::new(limits);
        let mut messages = Vec::new();
        let mut came = 0_usize;
        for mut piece in pieces(seed, stream) {
            came += piece.len();
            loop {
                match reader.read(&mut piece) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(why) => return (messages, Some(why)),
                }
            }
            assert!(piece.is_empty());
            let held = reader.unfinished_len();
            assert!(held <= limits.unfinished_len_max && held <= 2 * came, "{came} bytes hold {held}");
        }
        (messages, None)
    };
    let (whole, whole_error) = read(0, input.rest());
    let (cut, cut_error) = read(seed, input.rest());
    note(&whole_error);
    note_count("messages", whole.len());
    whole.iter().for_each(|message| note(&(message.type_id, message.body.len().ilog2_or_zero())));
    assert_eq!(whole, cut, "the cut changed the messages");
    // A bound may be met or not by how capacity grew; other errors are the same.
    let bound = |error: &Option<rtmp::Error>| matches!(error, Some(rtmp::Error::Unfinished(_)));
    if !bound(&whole_error) && !bound(&cut_error) {
        assert_eq!(whole_error, cut_error, "the cut changed the error");
    }
}

trait Magnitude {
    fn ilog2_or_zero(self) -> u32;
}

impl Magnitude for usize {
    fn ilog2_or_zero(self) -> u32 {
        self.checked_ilog2().unwrap_or(0)
    }
}

/// A whole server connection. Byte 0: cuts. Byte 1: bit 0 the handshake is in the input (else it is done for it), bit 1 publishers are
/// refused, bit 2 players are refused, bit 3 decisions come one read later.
pub fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let (seed, flags) = (input.u8(), input.u8());
    let mut host = Host::new(flags);
    if flags & 1 == 0 && !host.shake_hands() {
        return;
    }
    for piece in pieces(seed, input.rest()) {
        if !host.take(piece) {
            break;
        }
    }
}

/// The same connection, with input made of whole messages: (type, chunk stream, time, missing, times, body) again and again, each
/// `times` times, its last `missing` bytes not sent, so that many unfinished and many equal messages need few bytes. Byte 0: flags as
/// above.
pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let mut host = Host::new(input.u8());
    if !host.shake_hands() {
        return;
    }
    while !input.is_empty() {
        let (type_id, csid) = (input.u8(), 2 + u32::from(input.u8()));
        let (timestamp_ms, missing, times) = (input.u32(), usize::from(input.u16()), input.u8());
        let body = input.bytes();
        let missing = missing.min(body.len());
        let mut sent = BytesMut::new();
        for n in 0..=u32::from(times) {
            // The header of an unfinished one would be its continuation on the same chunk stream.
            if missing > 0 {
                let part = rtmp::encode_message(csid + n, type_id, timestamp_ms, 1, body, host.chunk_size);
                sent.extend_from_slice(&part[..part.len() - missing]);
            } else {
                // With short headers: seven bytes for a ping.
                host.writer.write(csid, type_id, timestamp_ms, 1, body, &mut sent);
            }
        }
        if let (1, [a, b, c, d, ..]) = (type_id, body) {
            host.chunk_size = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).clamp(1, 0xFF_FFFF);
            host.writer.set_chunk_size(host.chunk_size);
        }
        if !host.take(&sent) {
            return;
        }
    }
}

/// What src/rtmp_server.rs does around a [`Server`].
struct Host {
    server: Server,
    demuxer: Demuxer,
    flags: u8,
    chunk_size: usize,
    /// What the connection holds: the sum of what its steps allocated and freed, without what this target has.
    held: isize,
    /// It was a publisher once: its larger limits hold until it is gone.
    published: bool,
    /// The decision awaited is about publishing.
    asks_to_publish: bool,
    writer: chunk::Writer,
}

impl Host {
    fn new(flags: u8) -> Host {
        note(&flags); // its table is allocated at the first note: before the measure
        let before = memory::live();
        let server = Server::new([7; RANDOM_LEN], Limits::default());
        Host {
            server,
            demuxer: Demuxer::new(),
            flags,
            chunk_size: chunk::CHUNK_SIZE_DEFAULT,
            held: memory::live() - before,
            published: false,
            asks_to_publish: false,
            writer: chunk::Writer::new(),
        }
    }

    fn shake_hands(&mut self) -> bool {
        let mut hello = vec![0; 1 + 2 * 1536];
        hello[0] = 3;
        self.take(&hello)
    }

    /// Bytes that came, as many reads as they need; whether the connection goes on.
    fn take(&mut self, bytes: &[u8]) -> bool {
        bytes.chunks(READ_BYTES).all(|piece| self.read(piece))
    }

    /// One read of the socket.
    fn read(&mut self, piece: &[u8]) -> bool {
        let late = self.flags & 8 != 0;
        if late && !self.decide() {
            return false;
        }
        let result = self.measured(|server| server.handle_input(piece));
        if let Err(why) = result {
            note(&why);
            return false;
        }
        let before = memory::live();
        let mut events = 0;
        while let Some(event) = self.server.poll_event() {
            events += 1;
            if let Event::Media { type_id, timestamp_ms, body } = event {
                assert!(self.server.is_publishing() || self.published, "media of a stranger");
                note(&self.demuxer.push(type_id, timestamp_ms, body).map(|_| ()));
            } else {
                note(&std::mem::discriminant(&event));
                self.asks_to_publish = matches!(event, Event::Publish { .. });
            }
        }
        note_count("events", events);
        note_count("output", self.server.take_output().len());
        self.held += memory::live() - before;
        late || self.decide()
    }

    fn decide(&mut self) -> bool {
        if !self.server.is_asking() {
            return true;
        }
        let result = match (self.flags & 2 != 0, self.flags & 4 != 0) {
            (true, true) => {
                self.server.reject_publish("NetStream.Publish.BadName", "no");
                self.server.reject_play("NetStream.Play.StreamNotFound", "no");
                Ok(())
            }
            (true, false) => {
                self.server.reject_publish("NetStream.Publish.BadName", "no");
                self.measured(Server::accept_play)
            }
            (false, reject_play) => {
                // What came behind `publish` is read inside, with a publisher's limits, and may end with `deleteStream`.
                let before = self.server.is_publishing();
                self.published |= self.asks_to_publish;
                let result = self.measured(Server::accept_publish);
                assert!(
                    before || !self.server.is_publishing() || self.published,
                    "a publisher that nobody asked about"
                );
                if reject_play {
                    self.server.reject_play("NetStream.Play.StreamNotFound", "no");
                }
                result.and_then(|()| self.measured(Server::accept_play))
            }
        };
        note(&(result.is_ok(), self.server.is_publishing(), self.server.is_playing()));
        result.is_ok()
    }

    /// Runs a step, and holds a stranger to its bound: at the end of the step, and at its worst moment.
    fn measured<T>(&mut self, step: impl FnOnce(&mut Server) -> T) -> T {
        memory::reset_peak();
        let before = memory::live();
        let result = step(&mut self.server);
        let peak = self.held + memory::peak() - before;
        self.held += memory::live() - before;
        let live = self.held;
        note_count("live", live.max(0) as usize);
        if !self.published && !self.server.is_publishing() {
            assert!(live <= STRANGER_BYTES_MAX, "a stranger's connection holds {live} bytes");
            assert!(peak <= STRANGER_BYTES_MAX, "a stranger's connection held {peak} bytes for a moment");
        }
        result
    }
}

/// The client's side. Byte 0: cuts. Byte 1: bit 0 the handshake is in the input, bit 1 it publishes.
pub fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let (seed, flags) = (input.u8(), input.u8());
    let mut client = if flags & 2 != 0 {
        Client::publish("localhost", "live", "x", &[1; RANDOM_LEN])
    } else {
        Client::play("localhost", "live", "x", &[1; RANDOM_LEN])
    };
    if flags & 1 == 0 {
        let mut hello = vec![0; 1 + 2 * 1536];
        hello[0] = 3;
        client.handle_input(&hello).expect("a handshake");
    }
    for piece in pieces(seed, input.rest()) {
        if let Err(why) = client.handle_input(piece) {
            return note(&why);
        }
        while let Some(event) = client.poll_event() {
            note(&std::mem::discriminant(&event));
        }
        client.send_media(9, 0, &[0x17, 1, 0, 0, 0]);
        let _ = client.take_output();
    }
    client.stop();
}
