//! The server's side of one connection.

use std::collections::VecDeque;

use bytes::Bytes;
use media::amf0::{self, Value};

use crate::chunk::{self, Message};
use crate::command::{Command, Connection, object, status};
use crate::handshake::{RANDOM_LEN, ServerHandshake};
use crate::link::Link;
use crate::{Error, PLAY_STREAM_ID, message};

/// Most commands before a connection publishes or plays. Encoders send under ten.
const COMMANDS_MAX: u32 = 128;
/// Most `createStream` of a connection. Clients need one; some ask again after a refusal.
const STREAMS_MAX: u32 = 16;
/// Most events that wait to be polled. A read of 64 KiB holds a few hundred real messages; more are a flood of tiny ones.
const EVENTS_MAX: usize = 4096;
/// Most bytes kept back while a decision is awaited: one read of a socket. Encoders wait for the answer.
const WAITING_LEN_MAX: usize = 64 * 1024;
/// Most bytes of answers that wait to be taken. Whole sessions need a few KiB; more means floods of pings or commands. The buffer that
/// holds them doubles as it grows, so it may take twice this.
const OUTPUT_LEN_MAX: usize = 32 * 1024;

/// What a peer may make this process hold, before and after it was allowed to publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For strangers and players, who send commands only.
    pub before_publish: chunk::Limits,
    /// For accepted publishers.
    pub publishing: chunk::Limits,
}

impl Limits {
    /// Strangers may send commands of 32 KiB, and publishers access units as long as the H.264 reader takes.
    pub const DEFAULT: Limits = Limits {
        before_publish: chunk::Limits { message_len_max: 32 * 1024, unfinished_len_max: 96 * 1024 },
        publishing: chunk::Limits {
            message_len_max: media::h264::FRAME_LEN_MAX + 1024,
            unfinished_len_max: 8 * 1024 * 1024,
        },
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// A stranger's connection holds at most 256 KiB, 24 of them left for tables and the command being read.
const _: () = assert!(
    Limits::DEFAULT.before_publish.unfinished_len_max + WAITING_LEN_MAX + 2 * OUTPUT_LEN_MAX <= 232 * 1024
);

/// What a connection wants or brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `connect` came and was answered.
    Connected {
        /// The app without parameters.
        app: String,
        /// The URL as the client wrote it.
        tc_url: String,
    },
    /// It wants to publish: decide with [`Server::accept_publish`] or [`Server::reject_publish`]. Until then input is kept
    /// back, so stop reading the socket.
    Publish {
        /// The app, which may hold slashes.
        app: String,
        /// The stream's name.
        name: String,
        /// URL parameters from stream name, app and tcUrl, joined by `&`.
        query: String,
    },
    /// It wants to play: decide with [`Server::accept_play`] or [`Server::reject_play`].
    Play {
        /// The app, which may hold slashes.
        app: String,
        /// The stream's name.
        name: String,
        /// URL parameters from stream name, app and tcUrl, joined by `&`.
        query: String,
    },
    /// From an accepted publisher: a body for [`media::flv::Demuxer::push`].
    Media {
        /// 8 audio, 9 video, 18 script data (already without `@setDataFrame`).
        type_id: u8,
        /// Milliseconds, wrapping.
        timestamp_ms: u32,
        /// FLV tag body.
        body: Bytes,
    },
    /// The publisher ends its stream. The connection may publish again.
    Unpublish,
    /// The player has enough. The connection may play again.
    Stop,
}

/// Why a play ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The publisher is gone.
    Unpublished,
    /// This server shuts down.
    Shutdown,
    /// The player's queue stayed full.
    TooSlow,
    /// The stream has a codec that RTMP does not carry.
    Codec,
}

impl EndReason {
    /// What the player is told.
    pub const fn description(self) -> &'static str {
        match self {
            EndReason::Unpublished => "the publisher is gone",
            EndReason::Shutdown => "the server shuts down",
            EndReason::TooSlow => "the connection is too slow for the stream",
            EndReason::Codec => "the stream has a codec that RTMP does not carry",
        }
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Before `connect`.
    Handshaken,
    /// After it, or after a stream has ended.
    Connected,
    PublishAsked,
    Publishing,
    PlayAsked,
    Playing,
    /// Refused: what still comes is not looked at.
    Over,
}

/// One connection from its first byte. After an error it must be closed; after a rejection it should be, once the output is
/// written.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    handshake: Option<ServerHandshake>,
    link: Link,
    stage: Stage,
    connection: Connection,
    events: VecDeque<Event>,
    /// Input that came behind a `publish` or `play` that is not decided yet.
    waiting: Vec<u8>,
    commands: u32,
    streams: u32,
}

impl Server {
    /// `random` goes into the handshake.
    pub fn new(random: [u8; RANDOM_LEN], limits: Limits) -> Server {
        Server {
            limits,
            handshake: Some(ServerHandshake::new(random)),
            link: Link::new(limits.before_publish),
            stage: Stage::Handshaken,
            connection: Connection::default(),
            events: VecDeque::new(),
            waiting: Vec::new(),
            commands: 0,
            streams: 0,
        }
    }

    /// Takes what the socket read, at most 64 KiB at a time. Poll the events and take the output after each call.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), Error> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        if self.handshake.is_none() {
            self.link.count(input.len());
        }
        if self.is_asking() {
            return self.keep_back(input);
        }
        self.process(input)
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What to write to the socket; empty when there is nothing.
    pub fn take_output(&mut self) -> Bytes {
        self.link.take_output()
    }

    /// A `publish` or `play` waits for a decision, and input is kept back.
    pub fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::PublishAsked | Stage::PlayAsked)
    }

    /// It is accepted as a publisher.
    pub fn is_publishing(&self) -> bool {
        self.stage == Stage::Publishing
    }

    /// It is accepted as a player.
    pub fn is_playing(&self) -> bool {
        self.stage == Stage::Playing
    }

    /// The handshake and `connect` are done.
    pub fn is_connected(&self) -> bool {
        self.handshake.is_none() && self.stage != Stage::Handshaken
    }

    /// Lets the publisher begin, and reads what it sent meanwhile. Nothing happens when none asked.
    pub fn accept_publish(&mut self) -> Result<(), Error> {
        if self.stage != Stage::PublishAsked {
            return Ok(());
        }
        self.stage = Stage::Publishing;
        self.link.reader.set_limits(self.limits.publishing);
        self.link.stream_begin();
        self.on_status("status", "NetStream.Publish.Start", "publishing");
        self.process_waiting()
    }

    /// Refuses a publisher, for example with `NetStream.Publish.BadName`; also one that was accepted, whose stream then ends.
    pub fn reject_publish(&mut self, code: &str, description: &str) {
        if matches!(self.stage, Stage::PublishAsked | Stage::Publishing) {
            self.reject(code, description);
        }
    }

    /// Lets the player begin. Afterwards messages made by [`crate::encode_message`] with [`crate::CHUNK_SIZE_OUT`] may be
    /// written behind the output, on [`PLAY_STREAM_ID`].
    pub fn accept_play(&mut self) -> Result<(), Error> {
        if self.stage != Stage::PlayAsked {
            return Ok(());
        }
        self.stage = Stage::Playing;
        // RTMP 7.2.2.1: StreamBegin, Play.Reset, Play.Start. Flash's |RtmpSampleAccess and NetStream.Data.Start are left out: ffmpeg
        // shows them as a data stream of their own, which breaks `-map 0`.
        self.link.stream_begin();
        self.on_status("status", "NetStream.Play.Reset", "playing and resetting");
        self.on_status("status", "NetStream.Play.Start", "playing");
        self.process_waiting()
    }

    /// Refuses a player, for example with `NetStream.Play.StreamNotFound`.
    pub fn reject_play(&mut self, code: &str, description: &str) {
        if self.stage == Stage::PlayAsked {
            self.reject(code, description);
        }
    }

    /// Tells the player that the stream is over. Nothing happens when it does not play.
    pub fn end_play(&mut self, reason: EndReason) {
        if self.stage == Stage::Playing {
            self.stage = Stage::Connected;
            self.on_status("status", "NetStream.Play.UnpublishNotify", reason.description());
            self.link.stream_eof();
        }
    }

    fn reject(&mut self, code: &str, description: &str) {
        self.stage = Stage::Over;
        self.waiting = Vec::new();
        self.on_status("error", code, description);
    }

    fn keep_back(&mut self, input: &[u8]) -> Result<(), Error> {
        if self.waiting.len().saturating_add(input.len()) > WAITING_LEN_MAX {
            return Err(Error::Flood("bytes before an answer"));
        }
        self.waiting.extend_from_slice(input);
        Ok(())
    }

    fn process_waiting(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        self.process(&waiting)
    }

    fn process(&mut self, mut input: &[u8]) -> Result<(), Error> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.read(&mut input, &mut self.link.out)? {
                return Ok(());
            }
            self.handshake = None;
        }
        while let Some(message) = self.link.read(&mut input)? {
            self.message(message)?;
            // Within the loop: small pings and commands have answers several times their size.
            if self.link.out.len() > OUTPUT_LEN_MAX {
                return Err(Error::OutputFull);
            }
            if self.events.len() > EVENTS_MAX {
                return Err(Error::Flood("messages"));
            }
            if self.is_asking() {
                self.keep_back(input)?;
                break;
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Error> {
        match message.type_id {
            message::COMMAND => self.command(&message.body),
            // The first byte says that AMF3 may follow; up to an AVM+ marker, which is refused, it is AMF0.
            message::COMMAND_AMF3 => self.command(message.body.get(1..).unwrap_or_default()),
            _ if self.stage != Stage::Publishing => Ok(()),
            message::AUDIO | message::VIDEO => {
                self.media(message.type_id, message.timestamp_ms, message.body);
                Ok(())
            }
            message::DATA => {
                self.media(message::DATA, message.timestamp_ms, without_set_data_frame(message.body));
                Ok(())
            }
            message::DATA_AMF3 if !message.body.is_empty() => {
                self.media(
                    message::DATA,
                    message.timestamp_ms,
                    without_set_data_frame(message.body.slice(1..)),
                );
                Ok(())
            }
            message::AGGREGATE => self.aggregate(&message),
            _ => Ok(()),
        }
    }

    fn media(&mut self, type_id: u8, timestamp_ms: u32, body: Bytes) {
        if !body.is_empty() {
            self.events.push_back(Event::Media { type_id, timestamp_ms, body });
        }
    }

    /// RTMP 7.1.6: FLV tags one behind the other. Their times count from the first one's, which stands for the time of the
    /// whole message.
    fn aggregate(&mut self, message: &Message) -> Result<(), Error> {
        let mut rest = message.body.clone();
        let mut first_ms = None;
        while let Some(header) = rest.first_chunk::<11>() {
            let [type_id, l2, l1, l0, t2, t1, t0, t3, _, _, _] = *header;
            let len = usize::try_from(u32::from_be_bytes([0, l2, l1, l0])).unwrap_or(usize::MAX);
            let tag_ms = u32::from_be_bytes([t3, t2, t1, t0]);
            let offset_ms = tag_ms.wrapping_sub(*first_ms.get_or_insert(tag_ms));
            let end = len.saturating_add(11);
            if end > rest.len() {
                return Err(Error::Malformed("aggregate"));
            }
            let body = rest.slice(11..end);
            let at_ms = message.timestamp_ms.wrapping_add(offset_ms);
            match type_id {
                message::AUDIO | message::VIDEO => self.media(type_id, at_ms, body),
                message::DATA => self.media(type_id, at_ms, without_set_data_frame(body)),
                _ => {}
            }
            if self.events.len() > EVENTS_MAX {
                return Err(Error::Flood("messages"));
            }
            // The back pointer; the last one may be missing.
            rest = rest.slice(end.saturating_add(4).min(rest.len())..);
        }
        Ok(())
    }

    fn command(&mut self, body: &[u8]) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Publishing | Stage::Playing) {
            self.commands = self.commands.saturating_add(1);
            if self.commands > COMMANDS_MAX {
                return Err(Error::Flood("commands"));
            }
        }
        let command = Command::parse(body)?;
        match command.name.as_str() {
            "connect" => return self.connect(&command),
            "createStream" => return self.create_stream(&command),
            "publish" => return self.publish(&command),
            "play" => return self.play(&command),
            "releaseStream" | "_checkbw" | "FCSubscribe" => self.result(&command, Value::Undefined),
            "getStreamLength" => self.result(&command, 0.0.into()), // live: no length
            "FCPublish" => {
                self.result(&command, Value::Undefined);
                let start = status("status", "NetStream.Publish.Start", command.text(1));
                self.link.command(&["onFCPublish".into(), 0.0.into(), Value::Null, start]);
            }
            "FCUnpublish" => {
                self.result(&command, Value::Undefined);
                let end = status("status", "NetStream.Unpublish.Success", command.text(1));
                self.link.command(&["onFCUnpublish".into(), 0.0.into(), Value::Null, end]);
                self.end_of_stream();
            }
            "closeStream" | "deleteStream" => self.end_of_stream(),
            // pause, seek, receiveAudio, setBufferLength, _result of ours, and whatever a client invents: live goes on.
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command) -> Result<(), Error> {
        if self.stage != Stage::Handshaken {
            return Err(Error::Unexpected("connect"));
        }
        self.connection = Connection::parse(command)?;
        self.stage = Stage::Connected;
        self.link.announce();
        self.link.set_peer_bandwidth();
        // Clients check that a version and capabilities are there, and some that they look like Flash Media Server 3.
        let properties = object(&[
            ("fmsVer", "FMS/3,5,7,7009".into()),
            ("capabilities", 31.0.into()),
            ("mode", 1.0.into()),
            ("server", "Millrace".into()),
        ]);
        let information = object(&[
            ("level", "status".into()),
            ("code", "NetConnection.Connect.Success".into()),
            ("description", "connected".into()),
            // AMF0 whatever was asked for: RTMP 7.2.1.1 lets the server say so.
            ("objectEncoding", 0.0.into()),
        ]);
        self.link.command(&["_result".into(), command.transaction.into(), properties, information]);
        let (app, tc_url) = (self.connection.app.clone(), self.connection.tc_url.clone());
        self.events.push_back(Event::Connected { app, tc_url });
        Ok(())
    }

    fn create_stream(&mut self, command: &Command) -> Result<(), Error> {
        if self.stage == Stage::Handshaken {
            return Err(Error::Unexpected("createStream"));
        }
        self.streams = self.streams.saturating_add(1);
        if self.streams > STREAMS_MAX {
            return Err(Error::Flood("streams"));
        }
        self.result(command, f64::from(PLAY_STREAM_ID).into());
        Ok(())
    }

    fn publish(&mut self, command: &Command) -> Result<(), Error> {
        if self.stage != Stage::Connected {
            return Err(Error::Unexpected("publish"));
        }
        let target = self.connection.target(command.text(1))?;
        self.stage = Stage::PublishAsked;
        self.events.push_back(Event::Publish { app: target.app, name: target.name, query: target.query });
        Ok(())
    }

    fn play(&mut self, command: &Command) -> Result<(), Error> {
        match self.stage {
            Stage::Connected => {}
            Stage::Playing => return Ok(()), // asked again, as some players do after a seek: live goes on
            _ => return Err(Error::Unexpected("play")),
        }
        let target = self.connection.target(command.text(1))?;
        self.stage = Stage::PlayAsked;
        self.events.push_back(Event::Play { app: target.app, name: target.name, query: target.query });
        Ok(())
    }

    fn end_of_stream(&mut self) {
        let event = match self.stage {
            Stage::Publishing => Event::Unpublish,
            Stage::Playing => Event::Stop,
            _ => return,
        };
        self.stage = Stage::Connected;
        self.link.reader.set_limits(self.limits.before_publish);
        if event == Event::Unpublish {
            self.on_status("status", "NetStream.Unpublish.Success", "unpublished");
        }
        self.events.push_back(event);
    }

    /// RTMP 7.2.1.2: an answer, unless the transaction is 0, which wants none.
    fn result(&mut self, command: &Command, value: Value) {
        if command.transaction != 0.0 {
            self.link.command(&["_result".into(), command.transaction.into(), Value::Null, value]);
        }
    }

    fn on_status(&mut self, level: &str, code: &str, description: &str) {
        let information = status(level, code, description);
        self.link.stream_command(PLAY_STREAM_ID, &["onStatus".into(), 0.0.into(), Value::Null, information]);
    }
}

/// Publishers say `@setDataFrame` before their metadata: players and files get it without.
fn without_set_data_frame(body: Bytes) -> Bytes {
    let mut reader = amf0::Reader::new(&body);
    match reader.read() {
        Ok(Some(Value::String(name))) if name == "@setDataFrame" => body.slice_ref(reader.rest()),
        _ => body,
    }
}
