//! Streams of media on a link: what the hub has for one is written there by a task of its own, and what peers write is read, for the hub.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use relay::stream::{self, Reader, Record};
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
/// What the hub is given of one at a time: of packets more than a piece has, but words of nothing but what the track is are short.
const RECORDS_MAX: usize = 256;
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
        while let Some(records) = take(&mut reader, &mut whose)? {
            let Some(alias) = whose else { break };
            hub.send(FromLink::Streamed(id, Came { alias, stream, records, ends: false })).await?;
        }
    }
    if let Some(alias) = whose {
        let came = Came { alias, stream, records: Vec::new(), ends: true };
        hub.send(FromLink::Streamed(id, came)).await?;
    }
    Ok(())
}

/// What a stream says next, for the hub; `None` when no whole record of it is there. Whose it is is no record of its own.
fn take(reader: &mut Reader, whose: &mut Option<u64>) -> Result<Option<Vec<Record>>, stream::Error> {
    let (mut records, mut begins) = (Vec::new(), false);
    while records.len() < RECORDS_MAX
        && let Some(record) = reader.take()?
    {
        match record {
            Record::Begins(alias) => (*whose, begins) = (Some(alias), true),
            record => records.push(record),
        }
    }
    Ok(Some(records).filter(|records| begins || !records.is_empty()))
}

#[cfg(test)]
mod tests {
    use media::Codec;
    use relay::control::Track;

    use super::*;

    #[test]
    fn the_hub_is_given_so_many_records_at_one_time() {
        let (mut bytes, config) = (Vec::new(), Bytes::new());
        stream::write_head(&mut bytes, 7);
        for seq in 0..1_000 {
            let epoch = seq % 2 == 0;
            let codec = Codec::Opus;
            let config = config.clone();
            let track = Track { alias: 7, epoch, codec, seq, timestamp: 0, capture_us: 0, config };
            stream::write_track(&mut bytes, &track).expect("it is short");
        }
        let (mut reader, mut whose) = (Reader::new(), None);
        reader.push(&bytes);
        let mut given = || take(&mut reader, &mut whose).expect("it is ours").map(|records| records.len());
        assert_eq!(
            [given(), given(), given(), given(), given()],
            [Some(256), Some(256), Some(256), Some(232), None]
        );
        assert_eq!(whose, Some(7));
        // That it begins is told though nothing follows.
        let (mut reader, mut whose) = (Reader::new(), None);
        reader.push(&[7]);
        assert_eq!(take(&mut reader, &mut whose), Ok(Some(Vec::new())));
        assert_eq!(take(&mut reader, &mut whose), Ok(None));
    }
}
