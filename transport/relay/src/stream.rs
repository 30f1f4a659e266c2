//! Media of one track on a QUIC stream of its own, in order and whole: what was there before somebody took it, and all of a track that is recorded.
//!
//! ```text
//! stream  alias(varint) record ...
//! record  length(varint) { media | TRACK | nothing }
//! ```
//!
//! A record is a whole media datagram ([`crate::datagram`]) of that alias, with no number of its own; or the TRACK message of [`crate::control`] without
//! its length, before the first packet and where it changes; or nothing, once: what follows is news, not what was there before.

use bytes::{Buf, Bytes, BytesMut};

use crate::control::{self, MESSAGE_LEN_MAX, Message, Track};
use crate::datagram::{self, Body, Datagram, Media, Part};
use crate::varint;

/// What a stream says next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Whose media it carries, before everything else: as the subscription named it.
    Begins(u64),
    /// What the track is from now on.
    Track(Track),
    /// A packet, or the word that there are none: its header, its frame's dependency descriptor and its payload.
    Media(Media, Bytes, Bytes),
    /// What follows is news.
    Live,
}

/// Why a stream was refused. The peer wrote it, and its connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// A record longer than any is.
    #[error("relay stream with a record of more than {MESSAGE_LEN_MAX} bytes")]
    Long,
    /// A message that is none, or that does not belong there.
    #[error("relay stream: {0}")]
    Control(#[from] control::Error),
    /// A datagram that is none.
    #[error("relay stream: {0}")]
    Datagram(#[from] datagram::Error),
    /// A record that no stream carries, or not twice, or one of another track.
    #[error("relay stream with a record that is none of its")]
    Foreign,
}

/// Reads a stream in whatever pieces it comes.
#[derive(Default, Debug)]
pub struct Reader {
    bytes: BytesMut,
    alias: Option<u64>,
    /// What comes is news.
    is_live: bool,
}

impl Reader {
    /// Nothing came yet.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// More of it came. Call [`Reader::take`] until it has no more before the next piece: then no more than a record and a piece is held.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// What it says next; `None` when the rest of it has not come.
    ///
    /// # Errors
    /// What no node of this version writes.
    pub fn take(&mut self) -> Result<Option<Record>, Error> {
        let mut rest: &[u8] = &self.bytes;
        let Some(first) = varint::read(&mut rest) else { return Ok(None) };
        let head = self.bytes.len().saturating_sub(rest.len());
        let Some(alias) = self.alias else {
            self.bytes.advance(head);
            self.alias = Some(first);
            return Ok(Some(Record::Begins(first)));
        };
        let len = usize::try_from(first).ok().filter(|len| *len <= MESSAGE_LEN_MAX).ok_or(Error::Long)?;
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let record = read(alias, body);
        self.bytes.advance(head.saturating_add(len));
        let record = record?;
        if record == Record::Live && std::mem::replace(&mut self.is_live, true) {
            return Err(Error::Foreign);
        }
        Ok(Some(record))
    }

    /// Bytes that are no whole record yet.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }
}

fn read(alias: u64, body: &[u8]) -> Result<Record, Error> {
    let Some(&kind) = body.first() else { return Ok(Record::Live) };
    if u64::from(kind) == control::TYPE_TRACK {
        return match control::read(body)? {
            Some(Message::Track(track)) if track.alias == alias => Ok(Record::Track(track)),
            _ => Err(Error::Foreign),
        };
    }
    match datagram::read(body)? {
        Datagram::Media(media, Body { descriptor, payload })
            if media.track == alias && media.part == Part::Whole =>
        {
            let [descriptor, payload] = [descriptor, payload].map(Bytes::copy_from_slice);
            Ok(Record::Media(media, descriptor, payload))
        }
        _ => Err(Error::Foreign),
    }
}

/// Appends the beginning of a stream.
pub fn write_head(out: &mut Vec<u8>, alias: u64) {
    varint::write(out, alias);
}

/// Appends a packet: its header has part, number and time of sending of none.
pub fn write_media(out: &mut Vec<u8>, media: &Media, body: Body<'_>) {
    let mut bytes =
        Vec::with_capacity(body.payload.len().saturating_add(body.descriptor.len()).saturating_add(40));
    Media { part: Part::Whole, link_seq: 0, sent: 0, ..*media }.write(body, &mut bytes);
    varint::write(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Appends what the track is.
///
/// # Errors
/// [`control::Error::Long`], for a codec's configuration that fits no message.
pub fn write_track(out: &mut Vec<u8>, track: &Track) -> Result<(), control::Error> {
    Message::Track(track.clone()).write(out)
}

/// Appends the word that what follows is news.
pub fn write_live(out: &mut Vec<u8>) {
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{Flags, PAYLOAD_LEN_MAX, left_out};
    use media::Codec;
    use proptest::prelude::*;

    fn track() -> Track {
        Track {
            alias: 300,
            epoch: true,
            codec: Codec::Aac,
            seq: 7,
            timestamp: 9,
            capture_us: 11,
            config: Bytes::from_static(&[0x11, 0x90]),
        }
    }

    fn media() -> Media {
        Media {
            flags: Flags::KEY,
            track: 300,
            age_ms: 5,
            budget_ms: 400,
            seq: 7,
            timestamp: 9,
            ..Media::default()
        }
    }

    /// A stream of each record, and what is read of it.
    fn all() -> (Vec<u8>, Vec<Record>) {
        let (mut out, none) = (Vec::new(), Bytes::new());
        write_head(&mut out, 300);
        write_track(&mut out, &track()).expect("it is short");
        let body = Body { descriptor: &[0x80, 0, 1], payload: b"payload" };
        write_media(&mut out, &Media { link_seq: 5, sent: 6, part: Part::SecondHalf, ..media() }, body);
        write_live(&mut out);
        let missing = Media { left_out: true, seq: 8, ..media() };
        write_media(&mut out, &missing, Body { descriptor: b"", payload: &left_out(3) });
        let whole = Record::Media(media(), Bytes::from_static(&[0x80, 0, 1]), Bytes::from_static(b"payload"));
        let records = vec![
            Record::Begins(300),
            Record::Track(track()),
            whole,
            Record::Live,
            Record::Media(missing, none, left_out(3)),
        ];
        (out, records)
    }

    fn read_all(reader: &mut Reader) -> Result<Vec<Record>, Error> {
        std::iter::from_fn(|| reader.take().transpose()).collect()
    }

    #[test]
    fn what_is_written_is_read_in_whatever_pieces_it_comes() {
        let (bytes, records) = all();
        for size in [1, 2, 7, bytes.len()] {
            let (mut reader, mut read) = (Reader::new(), Vec::new());
            for piece in bytes.chunks(size) {
                reader.push(piece);
                read.extend(read_all(&mut reader).expect("it is ours"));
            }
            assert_eq!((read, reader.held()), (records.clone(), 0), "in pieces of {size}");
        }
    }

    #[test]
    fn what_belongs_on_no_stream_is_refused() {
        let mut of_another = Vec::new();
        write_media(&mut of_another, &Media { track: 1, ..media() }, Body::default());
        let mut told_of_another = Vec::new();
        write_track(&mut told_of_another, &Track { alias: 1, ..track() }).expect("it is short");
        let mut long = Vec::new();
        write_media(&mut long, &media(), Body { descriptor: b"", payload: &[0; PAYLOAD_LEN_MAX + 1] });
        let mut half = Vec::new();
        Media { part: Part::FirstHalf, ..media() }.write(Body::default(), &mut half);
        half.insert(0, half.len() as u8);
        for (bad, why) in [
            (of_another, Error::Foreign),
            (told_of_another, Error::Foreign),
            (long, Error::Datagram(datagram::Error::Long)),
            (half, Error::Foreign),
            (vec![2, 4, 9], Error::Foreign),
            (vec![0, 0], Error::Foreign),
            (vec![1, 9], Error::Datagram(datagram::Error::Type(9))),
            (vec![2, 10, 1], Error::Control(control::Error::Short)),
            // Refused by its length: nothing of it is waited for.
            (vec![0x80, 1, 0, 1], Error::Long),
        ] {
            let mut reader = Reader::new();
            let mut head = Vec::new();
            write_head(&mut head, 300);
            reader.push(&head);
            reader.push(&bad);
            assert_eq!(read_all(&mut reader), Err(why), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_are_not_hoarded(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new();
            for piece in bytes.chunks(16) {
                reader.push(piece);
                if read_all(&mut reader).is_err() {
                    break;
                }
                prop_assert!(reader.held() <= MESSAGE_LEN_MAX + 8 + piece.len());
            }
        }
    }
}
