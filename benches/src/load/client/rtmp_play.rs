//! One RTMP player: reads as fast as it can, or as its link allows, and counts frames.

use std::io::ErrorKind;

use anyhow::{Context, Result, bail, ensure};
use benches::receive;
use bytes::Bytes;
use media::Time;
use mio::net::TcpStream;
use rtmp::{ClientEvent, RANDOM_LEN};

use super::link::Limit;
use super::tags::Tags;
use super::{Client, Io};
use crate::load::http::{Exchange, is_not_now, write_waiting};
use crate::load::plan::{Link, Seat};
use crate::load::target::Url;

/// A slow player looks again for what it may read.
pub const LIMIT_TICK_MS: i64 = 5;

/// A connection that takes an RTMP stream.
pub struct Connection {
    stream: TcpStream,
    client: rtmp::Client,
    unsent: Bytes,
}

impl Connection {
    /// Starts to connect; the socket becomes `source` of its client.
    pub fn start(url: &Url, publishes: bool, source: usize, io: &mut Io<'_>) -> Result<Connection> {
        let mut stream =
            TcpStream::connect(url.address).with_context(|| format!("cannot connect to {url}"))?;
        stream.set_nodelay(true)?;
        receive::enable_times(&stream)?;
        io.watch(source, &mut stream)?;
        let (app, name) = url.app_and_stream()?;
        let make = if publishes { rtmp::Client::publish } else { rtmp::Client::play };
        let client = make(&url.authority, app, name, &[0xa5; RANDOM_LEN]);
        Ok(Connection { stream, client, unsent: Bytes::new() })
    }

    /// The protocol.
    pub fn rtmp(&mut self) -> &mut rtmp::Client {
        &mut self.client
    }

    /// Writes what waits; what the socket does not take is kept.
    pub fn write(&mut self) -> Result<()> {
        let more = || self.client.take_output();
        write_waiting(&mut self.stream, &mut self.unsent, more).context("the connection broke")
    }

    /// Bytes that the server has not taken yet.
    pub fn waiting(&self) -> usize {
        self.unsent.len() + self.client.output_len()
    }

    /// Reads once, at most `max` bytes: how many, and when they came. `None` when nothing waits.
    pub fn read(&mut self, max: usize, io: &mut Io<'_>) -> Result<Option<(usize, Time)>> {
        loop {
            let room = max.min(io.kit.buffer.len());
            match receive::recv_stream(&self.stream, &mut io.kit.buffer[..room]) {
                Ok((0, _)) => bail!("the server closed the connection"),
                Ok((count, at)) => {
                    self.client.handle_input(&io.kit.buffer[..count])?;
                    return Ok(Some((count, io.kit.clock.arrival(at))));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return Ok(None),
                Err(error) => return Err(error).context("the connection broke"),
            }
        }
    }
}

/// A player.
pub struct Player {
    connection: Connection,
    limit: Option<Limit>,
    tags: Tags,
    /// More may wait than the link allowed to read; it is looked for then.
    unread: Option<Time>,
    join_deadline: Time,
}

impl Player {
    /// Starts to connect.
    pub fn start(seat: &Seat, link: Link, io: &mut Io<'_>) -> Result<Player> {
        let now = io.now();
        Ok(Player {
            connection: Connection::start(&seat.url, false, 0, io)?,
            limit: Limit::new(link.limit_kbps, now),
            tags: Tags::new(link.listens),
            unread: None,
            join_deadline: io.join_deadline(),
        })
    }

    fn read(&mut self, io: &mut Io<'_>) -> Result<()> {
        loop {
            let now = io.now();
            let room = self.limit.as_mut().map_or(usize::MAX, |limit| limit.room(now));
            if room == 0 {
                self.unread = Some(now.plus_ms(LIMIT_TICK_MS));
                return Ok(());
            }
            let Some((count, at)) = self.connection.read(room, io)? else {
                self.unread = None;
                return self.connection.write();
            };
            if let Some(limit) = &mut self.limit {
                limit.take(count);
            }
            self.take_events(at.us().max(0) as u64, io)?;
        }
    }

    fn take_events(&mut self, at_us: u64, io: &mut Io<'_>) -> Result<()> {
        while let Some(event) = self.connection.client.poll_event() {
            match event {
                ClientEvent::Media { type_id, timestamp_ms, body } => {
                    self.join_deadline = Time::MAX;
                    self.tags.take(type_id, timestamp_ms, &body, at_us, &mut io.meter);
                }
                ClientEvent::Ready => io.meter.connected(at_us),
                ClientEvent::Rejected { code, description } => {
                    bail!("the server refused: {code}: {description}")
                }
                ClientEvent::Ended => bail!("the server ended the stream"),
            }
        }
        Ok(())
    }
}

impl Client for Player {
    fn ready(&mut self, _source: usize, io: &mut Io<'_>) -> Result<()> {
        self.connection.write()?;
        self.read(io)
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        ensure!(io.now() < self.join_deadline, "no picture within {} ms", io.kit.join_ms);
        self.read(io)
    }

    fn due(&self) -> Time {
        self.unread.unwrap_or(self.join_deadline)
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        self.connection.client.stop();
        let _ = self.connection.write();
        None
    }
}
