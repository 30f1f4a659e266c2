//! The client's side of one connection: publishes or plays one stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use media::amf0::Value;

use crate::chunk::{Message, Writer};
use crate::command::{Command, object};
use crate::handshake::{ClientHandshake, RANDOM_LEN};
use crate::link::{self, Link, STREAM_EOF};
use crate::server::Limits;
use crate::{CHUNK_SIZE_OUT, Error, csid, message};

// Transactions: the answers come back under these numbers.
const CONNECT: f64 = 1.0;
const RELEASE_STREAM: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE_STREAM: f64 = 4.0;
const START: f64 = 5.0;
const STOP: f64 = 6.0;

/// Events that may wait; a server that sends more in one read floods.
const EVENTS_MAX: usize = 16_384;

/// What the server said or sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// Publishing or playing has begun.
    Ready,
    /// The server refused.
    Rejected {
        /// Such as `NetStream.Publish.BadName`.
        code: String,
        /// In the server's words.
        description: String,
    },
    /// To a player: a body for [`media::flv::Demuxer::push`].
    Media {
        /// 8 audio, 9 video, 18 script data.
        type_id: u8,
        /// Milliseconds, wrapping.
        timestamp_ms: u32,
        /// FLV tag body.
        body: Bytes,
    },
    /// The stream is over.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Publish,
    Play,
}

/// One connection that publishes or plays.
#[derive(Debug)]
pub struct Client {
    role: Role,
    tc_url: String,
    app: String,
    name: String,
    handshake: Option<ClientHandshake>,
    link: Link,
    writer: Writer,
    stream_id: u32,
    ended: bool,
    events: VecDeque<ClientEvent>,
}

impl Client {
    /// Publishes `rtmp://HOST/APP/NAME`; `host` may have a port, `name` parameters. `random` goes into the handshake.
    pub fn publish(host: &str, app: &str, name: &str, random: &[u8; RANDOM_LEN]) -> Client {
        Client::new(Role::Publish, host, app, name, random)
    }

    /// Plays `rtmp://HOST/APP/NAME`.
    pub fn play(host: &str, app: &str, name: &str, random: &[u8; RANDOM_LEN]) -> Client {
        Client::new(Role::Play, host, app, name, random)
    }

    fn new(role: Role, host: &str, app: &str, name: &str, random: &[u8; RANDOM_LEN]) -> Client {
        let mut link = Link::new(Limits::default().publishing);
        let handshake = ClientHandshake::start(random, &mut link.out);
        Client {
            role,
            tc_url: format!("rtmp://{host}/{app}"),
            app: app.to_owned(),
            name: name.to_owned(),
            handshake: Some(handshake),
            link,
            writer: Writer::new(),
            stream_id: 0,
            ended: false,
            events: VecDeque::new(),
        }
    }

    /// Takes what the socket read.
    pub fn handle_input(&mut self, mut input: &[u8]) -> Result<(), Error> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.read(&mut input, &mut self.link.out)? {
                return Ok(());
            }
            self.handshake = None;
            self.connect();
        }
        self.link.count(input.len());
        while let Some(message) = self.link.read(&mut input)? {
            self.message(message)?;
            if self.events.len() > EVENTS_MAX {
                return Err(Error::Flood("messages"));
            }
        }
        Ok(())
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// What to write to the socket; empty when there is nothing.
    pub fn take_output(&mut self) -> Bytes {
        self.link.take_output()
    }

    /// Bytes that wait to be taken.
    pub fn output_len(&self) -> usize {
        self.link.out.len()
    }

    /// Sends a tag body, after [`ClientEvent::Ready`]: 8 audio, 9 video, 18 script data (`@setDataFrame` is put before it).
    pub fn send_media(&mut self, type_id: u8, timestamp_ms: u32, body: &[u8]) {
        let csid = match type_id {
            message::AUDIO => csid::AUDIO,
            message::VIDEO => csid::VIDEO,
            _ => csid::DATA,
        };
        let mut framed = BytesMut::new();
        let body = if type_id == message::DATA {
            framed.extend_from_slice(&media::amf0::encode(&["@setDataFrame".into()]));
            framed.extend_from_slice(body);
            &framed[..]
        } else {
            body
        };
        self.writer.write(csid, type_id, timestamp_ms, self.stream_id, body, &mut self.link.out);
    }

    /// Says goodbye: the publisher unpublishes, the player stops. Then the output may be written and the socket closed.
    pub fn stop(&mut self) {
        let stream_id = f64::from(self.stream_id);
        if self.role == Role::Publish {
            self.link.command(&["FCUnpublish".into(), STOP.into(), Value::Null, self.name.as_str().into()]);
        }
        self.link.command(&["deleteStream".into(), 0.0.into(), Value::Null, stream_id.into()]);
    }

    fn connect(&mut self) {
        self.link.announce();
        self.writer.set_chunk_size(CHUNK_SIZE_OUT);
        let object = object(&[
            ("app", self.app.as_str().into()),
            ("type", "nonprivate".into()),
            ("flashVer", "FMLE/3.0 (compatible; Millrace)".into()),
            ("tcUrl", self.tc_url.as_str().into()),
        ]);
        self.link.command(&["connect".into(), CONNECT.into(), object]);
    }

    fn message(&mut self, message: Message) -> Result<(), Error> {
        match message.type_id {
            message::COMMAND => self.command(&Command::parse(&message.body)?),
            message::COMMAND_AMF3 => {
                self.command(&Command::parse(message.body.get(1..).unwrap_or_default())?)
            }
            message::AUDIO | message::VIDEO | message::DATA if self.role == Role::Play => {
                let Message { type_id, timestamp_ms, body, .. } = message;
                self.events.push_back(ClientEvent::Media { type_id, timestamp_ms, body });
            }
            message::USER_CONTROL => {
                if matches!(link::user_control(&message.body), Some((STREAM_EOF, _))) {
                    self.end();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) {
        match command.name.as_str() {
            "_result" if command.transaction == CONNECT => self.create_stream(),
            "_result" if command.transaction == CREATE_STREAM => {
                let id = command.arguments.get(1).and_then(Value::as_number).unwrap_or(1.0);
                self.stream_id = id as u32;
                self.start();
            }
            // Servers may not know releaseStream and FCPublish; only these two decide.
            "_error" if command.transaction == CONNECT || command.transaction == CREATE_STREAM => {
                self.rejected(command);
            }
            "onStatus" => self.on_status(command),
            "close" => self.end(),
            _ => {}
        }
    }

    fn create_stream(&mut self) {
        if self.role == Role::Publish {
            let name = || Value::from(self.name.as_str());
            let release = ["releaseStream".into(), RELEASE_STREAM.into(), Value::Null, name()];
            let publish = ["FCPublish".into(), FC_PUBLISH.into(), Value::Null, name()];
            self.link.command(&release);
            self.link.command(&publish);
        }
        self.link.command(&["createStream".into(), CREATE_STREAM.into(), Value::Null]);
    }

    fn start(&mut self) {
        let name = Value::from(self.name.as_str());
        let values = match self.role {
            Role::Publish => ["publish".into(), START.into(), Value::Null, name, "live".into()],
            // RTMP 7.2.2.1: start -1 means live only.
            Role::Play => ["play".into(), START.into(), Value::Null, name, (-1.0).into()],
        };
        self.link.stream_command(self.stream_id, &values);
    }

    fn on_status(&mut self, command: &Command) {
        let information = command.arguments.get(1);
        let field =
            |key| information.and_then(|object| object.get(key)).and_then(Value::as_str).unwrap_or("");
        match field("code") {
            "NetStream.Publish.Start" if self.role == Role::Publish => {
                self.events.push_back(ClientEvent::Ready)
            }
            "NetStream.Play.Start" if self.role == Role::Play => self.events.push_back(ClientEvent::Ready),
            "NetStream.Play.UnpublishNotify" | "NetStream.Play.Stop" | "NetStream.Play.Complete" => {
                self.end()
            }
            _ if field("level") == "error" => self.rejected(command),
            _ => {}
        }
    }

    fn rejected(&mut self, command: &Command) {
        let information = command.arguments.get(1);
        let field = |key| {
            information.and_then(|object| object.get(key)).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        self.events
            .push_back(ClientEvent::Rejected { code: field("code"), description: field("description") });
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.events.push_back(ClientEvent::Ended);
        }
    }
}
