//! Streams of media on a link: what the hub has for one is written there by a task of its own, and what peers write is read, for the hub.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use relay::stream::{Reader, Record};
use tokio::sync::mpsc;

use super::link::FromLink;

/// Pieces that the hub has given and QUIC has not taken: of packets, two bursts.
pub const PIECES_MAX: usize = 64;
/// Streams that a peer may have open: a track each that somebody begins to take, or records. More wait, and are none after [`super::hub`]'s bound.
pub const STREAMS_MAX: u32 = 512;
/// What a peer may write of one before it is read: behind that the hub sees how far behind it is.
pub const UNREAD_BYTES_MAX: u32 = 1 << 20;
/// The same of all streams.
pub const UNREAD_BYTES_ALL_MAX: u32 = 16 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 32 << 10;

/// What the hub has for a stream.
#[derive(Debug)]
pub enum Piece {
    /// Records.
    Bytes(Bytes),
    /// That was all.
    End,
}

/// What comes of a stream.
#[derive(Debug)]
pub struct Came {
    /// Whose media it is, as the subscription named it.
    pub alias: u64,
    /// Streams of a connection are counted.
    pub stream: u64,
    /// What it says; none at its beginning, and at its end.
    pub records: Vec<Record>,
    /// It is over.
    pub ends: bool,
}

/// A stream of which nothing is left to send when it is dropped half written.
struct Writes(Option<SendStream>);

impl Drop for Writes {
    fn drop(&mut self) {
        if let Some(mut stream) = self.0.take() {
            let _ = stream.reset(VarInt::from_u32(0));
        }
    }
}

/// Writes a stream: streams of higher priority go first.
pub async fn write(connection: Connection, priority: i32, mut pieces: mpsc::Receiver<Piece>) {
    let Ok(stream) = connection.open_uni().await else { return };
    let _ = stream.set_priority(priority);
    let mut writes = Writes(Some(stream));
    while let (Some(piece), Some(stream)) = (pieces.recv().await, writes.0.as_mut()) {
        match piece {
            Piece::Bytes(bytes) => {
                if stream.write_chunk(bytes).await.is_err() {
                    return;
                }
            }
            Piece::End => {
                let _ = stream.finish();
                writes.0 = None;
            }
        }
    }
}

/// Reads all streams of a peer. An error ends the connection.
pub async fn read(id: usize, connection: &Connection, hub: &mpsc::Sender<FromLink>) -> anyhow::Result<()> {
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => streams.push(read_one(id, stream?, hub)),
            Some(read) = streams.next() => read?,
        }
    }
}

async fn read_one(id: usize, mut recv: RecvStream, hub: &mpsc::Sender<FromLink>) -> anyhow::Result<()> {
    let (stream, mut reader, mut whose) = (recv.id().index(), Reader::new(), None);
    loop {
        let chunk = match recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) | Err(ReadError::Reset(_)) => break,
            Err(error) => return Err(error.into()),
        };
        reader.push(&chunk.bytes);
        let mut records = Vec::new();
        while let Some(record) = reader.take()? {
            match record {
                Record::Begins(alias) => whose = Some(alias),
                record => records.push(record),
            }
        }
        if let Some(alias) = whose {
            hub.send(FromLink::Streamed(id, Came { alias, stream, records, ends: false })).await?;
        }
    }
    if let Some(alias) = whose {
        let came = Came { alias, stream, records: Vec::new(), ends: true };
        hub.send(FromLink::Streamed(id, came)).await?;
    }
    Ok(())
}
