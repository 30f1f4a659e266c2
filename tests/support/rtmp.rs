//! An RTMP client that shares no code with the node: plain handshake, AMF0 commands, chunks both ways.
use crate::flv::{self, AUDIO, SCRIPT, Tag, VIDEO};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering};
use std::time::{Duration, Instant};

/// A message as it came, with the moment it was whole.
#[derive(Debug, Clone)]
pub struct Message {
    pub at: Instant,
    pub tag: Tag,
}

const COMMAND: u8 = 20;
/// How long an answer to a command may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What we send in one chunk; far from the default 128, so both sizes are met.
const CHUNK_SIZE: usize = 60_000;

/// One connection.
pub struct Client {
    stream: TcpStream,
    messages: Receiver<Message>,
    commands: Receiver<Vec<Value>>,
    transaction: f64,
    out_chunk: usize,
}

impl Client {
    /// Handshake and `connect` to an app.
    ///
    /// # Errors
    /// When the node refuses or ends the connection, with its code.
    pub fn connect(node: SocketAddr, app: &str) -> Result<Client, String> {
        let stream = handshake(node).map_err(|error| format!("handshake: {error}"))?;
        let (message_in, messages) = channel();
        let (command_in, commands) = channel();
        let reader = stream.try_clone().map_err(|error| error.to_string())?;
        std::thread::spawn(move || {
            // ends with the connection; the closed channels say so
            let _ = read_chunks(reader, |message| {
                if message.tag.kind == COMMAND {
                    command_in.send(amf_decode(&message.tag.body)).is_ok()
                } else {
                    message_in.send(message).is_ok()
                }
            });
        });
        let mut client = Client { stream, messages, commands, transaction: 0.0, out_chunk: 128 };
        client.send(2, 0, &Tag { kind: 1, time: 0, body: (CHUNK_SIZE as u32).to_be_bytes().into() });
        client.out_chunk = CHUNK_SIZE;
        let url = format!("rtmp://{node}/{app}");
        client.call(
            0,
            "connect",
            &[json!({"app": app, "tcUrl": url, "flashVer": "FMLE/3.0", "type": "nonprivate"})],
        )?;
        Ok(client)
    }

    /// Starts to publish.
    ///
    /// # Errors
    /// The code of the refusal: `NetStream.Publish.BadName`, ...
    pub fn publish(&mut self, name: &str) -> Result<(), String> {
        self.start("publish", &[json!(null), json!(name), json!("live")], "NetStream.Publish.Start")
    }

    /// Starts to play.
    ///
    /// # Errors
    /// The code of the refusal.
    pub fn play(&mut self, name: &str) -> Result<(), String> {
        self.start("play", &[json!(null), json!(name)], "NetStream.Play.Start")
    }

    /// Sends sound, pictures or metadata on the stream; false when the connection is gone.
    pub fn media(&mut self, tag: &Tag) -> bool {
        if tag.kind == SCRIPT {
            // what an encoder sends: @setDataFrame before the FLV tag's own content
            let body = [amf_encode(&[json!("@setDataFrame")]), tag.body.clone()].concat();
            return self.send(4, 1, &Tag { body, ..tag.clone() });
        }
        self.send(if tag.kind == AUDIO { 5 } else { 6 }, 1, tag)
    }

    /// Any message on any chunk stream, whole; false when the connection is gone.
    pub fn send(&mut self, chunk_stream: u8, stream: u32, tag: &Tag) -> bool {
        let mut out = vec![chunk_stream];
        let time = tag.time.min(0xff_ffff);
        let extended = if time == 0xff_ffff { tag.time.to_be_bytes().to_vec() } else { Vec::new() };
        out.extend_from_slice(&time.to_be_bytes()[1..]);
        out.extend_from_slice(&(tag.body.len() as u32).to_be_bytes()[1..]);
        out.push(tag.kind);
        out.extend_from_slice(&stream.to_le_bytes());
        out.extend_from_slice(&extended);
        for (at, piece) in tag.body.chunks(self.out_chunk).enumerate() {
            if at > 0 {
                out.push(0xc0 | chunk_stream);
                out.extend_from_slice(&extended);
            }
            out.extend_from_slice(piece);
        }
        self.raw(&out)
    }

    /// Bytes as they are; false when the connection is gone.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next message that is no command; `None` when none came in time or the connection ended.
    pub fn next(&self, limit: Duration) -> Option<Message> {
        self.receive(limit).ok()
    }

    /// The same, and which of the two it was.
    ///
    /// # Errors
    /// None came in time, or the connection ended.
    pub fn receive(&self, limit: Duration) -> Result<Message, RecvTimeoutError> {
        self.messages.recv_timeout(limit)
    }

    /// Sound, pictures and metadata that come in the next `limit`.
    pub fn collect(&self, limit: Duration) -> Vec<Message> {
        let end = Instant::now() + limit;
        let mut found = Vec::new();
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.messages.recv_timeout(left) {
                Ok(message) if matches!(message.tag.kind, AUDIO | VIDEO | SCRIPT) => found.push(message),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        found
    }

    /// Waits for the node to end the connection; the time it took, or `None`.
    pub fn ended(&self, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < limit {
            match self.messages.recv_timeout(Duration::from_millis(50)) {
                Err(RecvTimeoutError::Disconnected) => return Some(start.elapsed()),
                Err(RecvTimeoutError::Timeout) | Ok(_) => {}
            }
        }
        None
    }

    /// `onStatus` codes and other commands that came meanwhile.
    pub fn commands(&self) -> Vec<Vec<Value>> {
        self.commands.try_iter().collect()
    }

    fn start(&mut self, verb: &str, arguments: &[Value], good: &str) -> Result<(), String> {
        self.call(0, "createStream", &[json!(null)])?;
        self.transaction += 1.0;
        self.command(1, verb, arguments);
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let command =
                self.commands.recv_timeout(left).map_err(|error| format!("{verb}: no answer: {error}"))?;
            if command.first() != Some(&json!("onStatus")) {
                continue;
            }
            let info = command.last().cloned().unwrap_or_default();
            let code = info["code"].as_str().unwrap_or_default().to_string();
            if code == good {
                return Ok(());
            }
            if info["level"] == "error" {
                return Err(format!("{code}: {}", info["description"]));
            }
        }
    }

    fn call(&mut self, stream: u32, name: &str, arguments: &[Value]) -> Result<Vec<Value>, String> {
        self.transaction += 1.0;
        self.command(stream, name, arguments);
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let command =
                self.commands.recv_timeout(left).map_err(|error| format!("{name}: no answer: {error}"))?;
            match command.first().and_then(Value::as_str) {
                Some("_result") if command.get(1) == Some(&json!(self.transaction)) => return Ok(command),
                Some("_error") => return Err(format!("{name}: {command:?}")),
                _ => {}
            }
        }
    }

    fn command(&mut self, stream: u32, name: &str, arguments: &[Value]) {
        let values = [&[json!(name), json!(self.transaction)], arguments].concat();
        self.send(3, stream, &Tag { kind: COMMAND, time: 0, body: amf_encode(&values) });
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both); // ends the reader thread too
    }
}

/// C0 to C2, the plain handshake.
///
/// # Errors
/// When the other side ends it.
pub fn handshake(node: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(node)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut hello = vec![3, 0, 0, 0, 0, 0, 0, 0, 0];
    hello.extend((0..1528_u32).map(|it| (it * 7) as u8));
    stream.write_all(&hello)?;
    let mut answer = vec![0; 1 + 1536 + 1536];
    stream.read_exact(&mut answer)?;
    if answer[0] != 3 {
        return Err(io::Error::other(format!("RTMP version {}", answer[0])));
    }
    stream.write_all(&answer[1..1537])?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

#[derive(Default, Clone)]
struct Incoming {
    time: u32,
    delta: u32,
    length: usize,
    kind: u8,
    extended: bool,
    body: Vec<u8>,
}

/// Reads messages until the connection ends or `take` says false. Answers pings and acknowledges.
fn read_chunks(mut stream: TcpStream, mut take: impl FnMut(Message) -> bool) -> io::Result<()> {
    let mut streams: HashMap<u32, Incoming> = HashMap::new();
    let mut chunk_size = 128;
    let (mut window, mut received, mut acknowledged) = (u32::MAX, 0_u32, 0_u32);
    let mut replies = stream.try_clone()?;
    loop {
        let [first] = take_bytes(&mut stream)?;
        let id = match first & 63 {
            0 => u32::from(take_bytes::<1>(&mut stream)?[0]) + 64,
            1 => u32::from(u16::from_le_bytes(take_bytes(&mut stream)?)) + 64,
            id => u32::from(id),
        };
        let it = streams.entry(id).or_default();
        let format = first >> 6;
        if format < 3 {
            let [a, b, c] = take_bytes(&mut stream)?;
            let time = u32::from_be_bytes([0, a, b, c]);
            if format < 2 {
                let [a, b, c, kind] = take_bytes(&mut stream)?;
                (it.length, it.kind) = (u32::from_be_bytes([0, a, b, c]) as usize, kind);
            }
            if format == 0 {
                take_bytes::<4>(&mut stream)?;
            }
            it.extended = time == 0xff_ffff;
            let time = if it.extended { u32::from_be_bytes(take_bytes(&mut stream)?) } else { time };
            (it.time, it.delta) = if format == 0 { (time, 0) } else { (it.time.wrapping_add(time), time) };
        } else {
            if it.extended {
                take_bytes::<4>(&mut stream)?;
            }
            if it.body.is_empty() {
                it.time = it.time.wrapping_add(it.delta);
            }
        }
        let from = it.body.len();
        let size = (it.length - from).min(chunk_size);
        it.body.resize(from + size, 0);
        stream.read_exact(&mut it.body[from..])?;
        received = received.wrapping_add(size as u32 + 12);
        if received.wrapping_sub(acknowledged) > window / 2 {
            acknowledged = received;
            control(&mut replies, 3, &received.to_be_bytes());
        }
        if it.body.len() < it.length {
            continue;
        }
        let tag = Tag { kind: it.kind, time: it.time, body: std::mem::take(&mut it.body) };
        match (tag.kind, &tag.body[..]) {
            (1, &[a, b, c, d]) => chunk_size = u32::from_be_bytes([a, b, c, d]) as usize,
            (5, &[a, b, c, d]) => window = u32::from_be_bytes([a, b, c, d]),
            (4, &[0, 6, a, b, c, d]) => control(&mut replies, 4, &[0, 7, a, b, c, d]), // ping: pong
            _ => {
                if !take(Message { at: Instant::now(), tag }) {
                    return Ok(());
                }
            }
        }
    }
}

fn control(stream: &mut TcpStream, kind: u8, body: &[u8]) {
    let head = [2, 0, 0, 0, 0, 0, body.len() as u8, kind, 0, 0, 0, 0];
    let _ = stream.write_all(&[&head, body].concat());
}

fn take_bytes<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// AMF0 of strings, numbers, booleans, nulls and objects, one after the other.
pub fn amf_encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    for value in values {
        match value {
            Value::String(it) => {
                out.push(2);
                text(&mut out, it);
            }
            Value::Bool(it) => out.extend_from_slice(&[1, u8::from(*it)]),
            Value::Object(fields) => {
                out.push(3);
                for (key, value) in fields {
                    text(&mut out, key);
                    out.extend(amf_encode(std::slice::from_ref(value)));
                }
                out.extend_from_slice(&[0, 0, 9]);
            }
            Value::Null => out.push(5),
            other => {
                out.push(0);
                out.extend_from_slice(&other.as_f64().unwrap_or_default().to_be_bytes());
            }
        }
    }
    out
}

/// The AMF0 values in `bytes`, up to the first that is broken or of another type.
pub fn amf_decode(mut bytes: &[u8]) -> Vec<Value> {
    std::iter::from_fn(|| amf_value(&mut bytes)).collect()
}

fn amf_value(bytes: &mut &[u8]) -> Option<Value> {
    let kind = *bytes.split_off_first()?;
    match kind {
        0 => Some(json!(f64::from_be_bytes(bytes.split_off(..8)?.try_into().ok()?))),
        1 => Some(json!(*bytes.split_off_first()? != 0)),
        2 => amf_text(bytes).map(Value::String),
        3 | 8 => {
            if kind == 8 {
                bytes.split_off(..4)?;
            }
            let mut fields = serde_json::Map::new();
            loop {
                let key = amf_text(bytes)?;
                if bytes.first() == Some(&9) {
                    bytes.split_off_first()?;
                    return Some(Value::Object(fields));
                }
                fields.insert(key, amf_value(bytes)?);
            }
        }
        5 | 6 => Some(Value::Null),
        _ => None,
    }
}

fn amf_text(bytes: &mut &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(bytes.split_off(..2)?.try_into().ok()?);
    bytes.split_off(..usize::from(length)).map(|it| String::from_utf8_lossy(it).into_owned())
}

/// Plays the project's clip to a node, over and over, in real time, on a thread; dropping it ends it.
pub struct Publisher {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Publisher {
    /// Publishes `live/NAME`.
    ///
    /// # Panics
    /// When the node refuses.
    #[track_caller]
    pub fn start(node: SocketAddr, name: &str) -> Publisher {
        Publisher::start_tags(node, name, flv::clip().tags)
    }

    /// The same with other tags than the clip's.
    ///
    /// # Panics
    /// When the node refuses.
    #[track_caller]
    pub fn start_tags(node: SocketAddr, name: &str, tags: Vec<Tag>) -> Publisher {
        let mut client =
            Client::connect(node, "live").unwrap_or_else(|error| panic!("publisher of {name}: {error}"));
        client.publish(name).unwrap_or_else(|error| panic!("publisher of {name}: {error}"));
        Publisher::over(client, tags)
    }

    /// The same on a connection that may publish.
    pub fn over(client: Client, tags: Vec<Tag>) -> Publisher {
        Publisher::changed(client, tags, |_| {})
    }

    /// The same, with something done to each tag before it goes.
    pub fn changed(
        mut client: Client,
        tags: Vec<Tag>,
        mut change: impl FnMut(&mut Tag) + Send + 'static,
    ) -> Publisher {
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, gone) = (stop.clone(), lost.clone());
        let thread = std::thread::spawn(move || {
            // frames are 1/30 s and 1024 samples long: a whole round is what the last one leaves
            let round = tags.iter().map(|tag| tag.time).max().unwrap_or(0) / 1000 * 1000 + 1000;
            let start = Instant::now();
            for turn in 0_u32.. {
                for tag in tags.iter().filter(|tag| turn == 0 || !(tag.is_header() || tag.kind == SCRIPT)) {
                    let time = turn * round + tag.time;
                    let due = start + Duration::from_millis(time.into());
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut tag = Tag { time, ..tag.clone() };
                    change(&mut tag);
                    if !client.media(&tag) {
                        gone.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        });
        Publisher { stop, lost, thread: Some(thread) }
    }

    /// Whether the node ended the connection.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amf_goes_round() {
        let values =
            vec![json!("connect"), json!(1.0), json!({"app": "live", "deep": {"yes": true}}), json!(null)];
        assert_eq!(amf_decode(&amf_encode(&values)), values);
    }

    #[test]
    fn a_broken_value_ends_the_list() {
        assert_eq!(amf_decode(&[5, 2, 0, 9, b'x']), vec![json!(null)]);
    }
}
