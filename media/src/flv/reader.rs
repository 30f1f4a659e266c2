//! An FLV byte stream taken apart into tags.

use bytes::{Buf, Bytes, BytesMut};

use super::{Error, TYPE_AUDIO, TYPE_DATA, TYPE_VIDEO};

/// Longest tag body that is taken: the same bound as for an RTMP message of a publisher.
pub const TAG_LEN_MAX: usize = 8 * 1024 * 1024;

const FILE_HEADER_LEN: usize = 9;
const TAG_HEADER_LEN: usize = 11;
/// The size of the previous tag, behind each tag and behind the file header.
const TRAILER_LEN: usize = 4;
/// File headers are 9 bytes in version 1 (E.2); a longer one is allowed for, within reason.
const DATA_OFFSET_MAX: usize = 1024;

/// One tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag {
    /// 8 audio, 9 video, 18 script data.
    pub type_id: u8,
    /// Milliseconds, wrapping.
    pub timestamp_ms: u32,
    /// What [`Demuxer::push`](super::Demuxer::push) takes.
    pub body: Bytes,
}

/// Reads tags from bytes in pieces of any size. It holds at most one unfinished tag if `poll` is called until `None`
/// after each `push`.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    header_read: bool,
}

impl Reader {
    /// At the start of a stream.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole tag, `None` when more bytes are needed. After an error the stream is lost.
    pub fn poll(&mut self) -> Result<Option<Tag>, Error> {
        if !self.header_read && !self.file_header()? {
            return Ok(None);
        }
        // E.4.1: type (8), size (24), time (24), its high bits (8), stream id (24).
        let Some([type_id, s2, s1, s0, t2, t1, t0, t3, _, _, _]) =
            self.buffer.first_chunk::<TAG_HEADER_LEN>()
        else {
            return Ok(None);
        };
        let type_id = *type_id;
        if !matches!(type_id, TYPE_AUDIO | TYPE_VIDEO | TYPE_DATA) {
            return Err(Error::TagType(type_id));
        }
        let timestamp_ms = u32::from_be_bytes([*t3, *t2, *t1, *t0]);
        let len = usize::try_from(u32::from_be_bytes([0, *s2, *s1, *s0])).unwrap_or(usize::MAX);
        if len > TAG_LEN_MAX {
            return Err(Error::Long(len));
        }
        if self.buffer.len() < TAG_HEADER_LEN.saturating_add(len).saturating_add(TRAILER_LEN) {
            return Ok(None);
        }
        self.buffer.advance(TAG_HEADER_LEN);
        let body = self.buffer.split_to(len).freeze();
        // The size of the previous tag is often wrong in the field, and nobody needs it.
        self.buffer.advance(TRAILER_LEN);
        Ok(Some(Tag { type_id, timestamp_ms, body }))
    }

    fn file_header(&mut self) -> Result<bool, Error> {
        let known = self.buffer.len().min(4);
        if self.buffer.get(..known) != b"FLV\x01".get(..known) {
            return Err(Error::NotFlv);
        }
        let Some([_, _, _, _, _, offset @ ..]) = self.buffer.first_chunk::<FILE_HEADER_LEN>() else {
            return Ok(false);
        };
        let offset = usize::try_from(u32::from_be_bytes(*offset)).unwrap_or(usize::MAX);
        if !(FILE_HEADER_LEN..=DATA_OFFSET_MAX).contains(&offset) {
            return Err(Error::NotFlv);
        }
        let whole = offset.saturating_add(TRAILER_LEN);
        if self.buffer.len() < whole {
            return Ok(false);
        }
        self.buffer.advance(whole);
        self.header_read = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flv::{file_header, tag};

    fn read_in_pieces(bytes: &[u8], piece: usize) -> Result<Vec<Tag>, Error> {
        let mut reader = Reader::new();
        let mut tags = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            reader.push(piece);
            while let Some(tag) = reader.poll()? {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    #[test]
    fn refuses_what_is_not_flv() {
        assert!(matches!(read_in_pieces(b"HTTP/1.1 404", 1), Err(Error::NotFlv)));
        assert!(matches!(read_in_pieces(b"FLV\x01\x05\xff\xff\xff\xff", 9), Err(Error::NotFlv)));
        let mut long = file_header(true, true).to_vec();
        long.extend([9, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(read_in_pieces(&long, 24), Err(Error::Long(0xFF_FFFF))));
    }

    proptest! {
        #[test]
        fn tags_survive_any_cut(
            tags in prop::collection::vec(
                (prop::sample::select(vec![TYPE_AUDIO, TYPE_VIDEO, TYPE_DATA]), any::<u32>(),
                 prop::collection::vec(any::<u8>(), 0..40)), 0..10),
            piece in 1usize..60,
        ) {
            let tags: Vec<Tag> = tags
                .into_iter()
                .map(|(type_id, timestamp_ms, body)| Tag { type_id, timestamp_ms, body: body.into() })
                .collect();
            let mut bytes = file_header(true, true).to_vec();
            for each in &tags {
                bytes.extend_from_slice(&tag(each.type_id, each.timestamp_ms, &each.body));
            }
            prop_assert_eq!(read_in_pieces(&bytes, piece).unwrap(), tags);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_in_pieces(&bytes, 7);
            let mut framed = file_header(true, true).to_vec();
            framed.extend(bytes);
            let _ = read_in_pieces(&framed, 7);
        }
    }
}
