//! One RTMP player: reads as fast as it can and counts frames.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use benches::stamped;
use bytes::{Buf, Bytes};
use media::flv::TYPE_VIDEO;
use mio::net::TcpStream;
use rtmp::{Client, ClientEvent, RANDOM_LEN};

use super::publisher::{APP, STREAM};
use super::stamp::Stamp;
use super::tally::Count;
use super::viewers::Clock;

/// A player.
pub struct Player {
    /// For the event loop.
    pub stream: TcpStream,
    client: Client,
    unsent: Bytes,
    /// What it got.
    pub count: Count,
}

impl Player {
    /// Starts to connect.
    pub fn join(to: SocketAddr, now_us: u64) -> Result<Player> {
        let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to rtmp://{to}"))?;
        stamped::enable(&stream)?;
        let client = Client::play(&to.to_string(), APP, STREAM, &[0xa5; RANDOM_LEN]);
        Ok(Player { stream, client, unsent: Bytes::new(), count: Count::new(now_us) })
    }

    /// The socket may be read or written.
    pub fn handle_ready(&mut self, buffer: &mut [u8], clock: &Clock) -> Result<()> {
        self.write()?;
        loop {
            match stamped::recv(&self.stream, buffer) {
                Ok((0, _)) => bail!("the node closed the connection"),
                Ok((count, at)) => {
                    self.client.handle_input(&buffer[..count])?;
                    self.take_events(clock.arrival(at).us() as u64)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return self.write(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_events(&mut self, arrival_us: u64) -> Result<()> {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Media { type_id: TYPE_VIDEO, body, .. } => {
                    // FLV E.4.3.1: frame type 1 is a key frame, packet type 1 holds NAL units.
                    if let [first, 1, _, _, _, data @ ..] = body.as_ref() {
                        self.count.frame(Stamp::of_avcc(data), first >> 4 == 1, arrival_us);
                    }
                }
                ClientEvent::Media { .. } | ClientEvent::Ready => {}
                ClientEvent::Rejected { code, description } => {
                    bail!("the node refused: {code}: {description}")
                }
                ClientEvent::Ended => bail!("the node ended the stream"),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        loop {
            if self.unsent.is_empty() {
                self.unsent = self.client.take_output();
            }
            if self.unsent.is_empty() {
                return Ok(());
            }
            match self.stream.write(&self.unsent) {
                Ok(count) => self.unsent.advance(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_now(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_not_now(error: &io::Error) -> bool {
    // A connection that is not through yet says NotConnected.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
