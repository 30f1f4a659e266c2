//! RTMP between nodes by this node's own protocol code, one thread a connection. A node passes each message on when it has it whole.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use media::Time;
use media::flv::TYPE_VIDEO;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rtmp::{ClientEvent, Event, Limits, RANDOM_LEN};

use super::arms::{End, Sender};
use super::frames::{FPS, Frames};
use crate::load::clock::Clock;
use crate::load::http::{is_not_now, write_waiting};

/// How often a thread looks whether the run is over.
const LOOK: Duration = Duration::from_millis(20);
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READ_LEN: usize = 256 << 10;
const APP: &str = "live";
/// The stream of an arm that carries one.
pub const NAME: &str = "hop";

/// A socket with what it has not taken. That has no bound: a run is short, and what TCP holds up shall be seen late, not left out.
struct Line {
    stream: TcpStream,
    unsent: Bytes,
}

impl Line {
    fn new(stream: std::net::TcpStream, poll: &Poll, token: usize) -> Result<Line> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Line { stream, unsent: Bytes::new() })
    }

    fn write(&mut self, more: impl FnMut() -> Bytes) -> Result<()> {
        write_waiting(&mut self.stream, &mut self.unsent, more).context("an RTMP connection broke")
    }

    /// `None` when nothing waits.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("an RTMP connection was closed"),
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return Ok(None),
                Err(error) => return Err(error).context("an RTMP connection broke"),
            }
        }
    }
}

fn wait(poll: &mut Poll, events: &mut Events, time: Duration) -> Result<()> {
    match poll.poll(events, Some(time)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        result => Ok(result?),
    }
}

/// A connection that publishes.
pub struct Publisher {
    line: Line,
    client: rtmp::Client,
    poll: Poll,
    events: Events,
    clock: Clock,
    buffer: Vec<u8>,
}

impl Publisher {
    /// Publishes over a connected socket, once the other side has agreed.
    pub fn start(stream: std::net::TcpStream, name: &str, clock: Clock) -> Result<Publisher> {
        let poll = Poll::new()?;
        let host = stream.peer_addr()?.to_string();
        let mut publisher = Publisher {
            line: Line::new(stream, &poll, 0)?,
            client: rtmp::Client::publish(&host, APP, name, &[0xa5; RANDOM_LEN]),
            poll,
            events: Events::with_capacity(8),
            clock,
            buffer: vec![0; READ_LEN],
        };
        let deadline = publisher.clock.now().plus_us(READY_TIMEOUT.as_micros() as i64);
        while !publisher.work()? {
            ensure!(publisher.clock.now() < deadline, "publishing was not accepted within {READY_TIMEOUT:?}");
            wait(&mut publisher.poll, &mut publisher.events, LOOK)?;
        }
        publisher.client.send_media(TYPE_VIDEO, 0, Frames::header());
        publisher.work()?;
        Ok(publisher)
    }

    /// Writes and reads what can be; whether the server said that it may begin.
    fn work(&mut self) -> Result<bool> {
        let mut ready = false;
        self.line.write(|| self.client.take_output())?;
        while let Some(count) = self.line.read(&mut self.buffer)? {
            self.client.handle_input(&self.buffer[..count])?;
            while let Some(event) = self.client.poll_event() {
                match event {
                    ClientEvent::Ready => ready = true,
                    ClientEvent::Rejected { code, description } => {
                        bail!("the server refused: {code}: {description}")
                    }
                    ClientEvent::Ended => bail!("the server ended the stream"),
                    ClientEvent::Media { .. } => {}
                }
            }
        }
        self.line.write(|| self.client.take_output())?;
        Ok(ready)
    }

    fn pass(&mut self, type_id: u8, timestamp_ms: u32, body: &[u8]) {
        self.client.send_media(type_id, timestamp_ms, body);
    }
}

impl Sender for Publisher {
    fn send(&mut self, number: u32, _sent: Time, body: &[u8]) -> Result<()> {
        self.pass(TYPE_VIDEO, (u64::from(number) * 1_000 / u64::from(FPS)) as u32, body);
        self.work().map(drop)
    }

    fn attend(&mut self, until: Time) -> Result<()> {
        loop {
            let left = until.since(self.clock.now());
            if left <= 0 {
                return Ok(());
            }
            wait(&mut self.poll, &mut self.events, Duration::from_micros(left as u64))?;
            self.work()?;
        }
    }
}

/// A node: takes one publisher, and passes what it sends on, or notes the frames when it is the last.
pub fn serve(listener: &TcpListener, mut next: Option<Publisher>, end: &End) -> Result<()> {
    listener.set_nonblocking(true)?;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if end.is_over() => return Ok(()),
            Err(error) if is_not_now(&error) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let mut line = Line::new(stream, &poll, 0)?;
    if let Some(next) = &mut next {
        next.poll.registry().deregister(&mut next.line.stream)?;
        poll.registry().register(&mut next.line.stream, Token(1), Interest::READABLE | Interest::WRITABLE)?;
    }
    let mut server = rtmp::Server::new([0x5a; RANDOM_LEN], Limits::default());
    let mut buffer = vec![0; READ_LEN];
    while !end.is_over() {
        while let Some(count) = line.read(&mut buffer)? {
            server.handle_input(&buffer[..count])?;
            while let Some(event) = server.poll_event() {
                match event {
                    Event::Publish { .. } => server.accept_publish()?,
                    Event::Media { type_id, timestamp_ms, body } => match &mut next {
                        Some(next) => next.pass(type_id, timestamp_ms, &body),
                        None => end.take_tag(&body),
                    },
                    Event::Unpublish | Event::Stop => return Ok(()),
                    Event::Connected { .. } | Event::Play { .. } => {}
                }
            }
        }
        line.write(|| server.take_output())?;
        if let Some(next) = &mut next {
            next.work()?;
        }
        wait(&mut poll, &mut events, LOOK)?;
    }
    Ok(())
}

/// Plays from a server and notes the frames.
pub fn play(stream: std::net::TcpStream, name: &str, end: &End) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let host = stream.peer_addr()?.to_string();
    let mut line = Line::new(stream, &poll, 0)?;
    let mut client = rtmp::Client::play(&host, APP, name, &[0xa5; RANDOM_LEN]);
    let mut buffer = vec![0; READ_LEN];
    while !end.is_over() {
        line.write(|| client.take_output())?;
        while let Some(count) = line.read(&mut buffer)? {
            client.handle_input(&buffer[..count])?;
            while let Some(event) = client.poll_event() {
                match event {
                    ClientEvent::Media { type_id: TYPE_VIDEO, body, .. } => end.take_tag(&body),
                    ClientEvent::Rejected { code, description } => {
                        bail!("the server refused: {code}: {description}")
                    }
                    ClientEvent::Ended => bail!("the server ended the stream"),
                    ClientEvent::Media { .. } | ClientEvent::Ready => {}
                }
            }
        }
        line.write(|| client.take_output())?;
        wait(&mut poll, &mut events, LOOK)?;
    }
    Ok(())
}
