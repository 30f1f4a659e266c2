//! Chunks to messages.

use bytes::Bytes;

use super::{CHUNK_SIZE_DEFAULT, CHUNK_SIZE_MAX, EXTENDED, HEADER_LEN_MAX, STREAMS_MAX};
use crate::{Error, message};

/// One whole message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The chunk stream it came on.
    pub csid: u32,
    /// Message type, see [`crate::message`].
    pub type_id: u8,
    /// Milliseconds, wrapping.
    pub timestamp_ms: u32,
    /// Message stream.
    pub stream_id: u32,
    /// Payload.
    pub body: Bytes,
}

/// What a peer may make the reader hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest message in bytes.
    pub message_len_max: usize,
    /// Most bytes held for unfinished messages, all chunk streams together.
    pub unfinished_len_max: usize,
}

/// Reads messages out of bytes in pieces of any size.
///
/// Payload goes straight from the caller's buffer into the unfinished message; between calls the reader keeps at most
/// one chunk header beside that. A declared length allocates nothing: memory follows the bytes that came.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    chunk_size: usize,
    streams: Vec<Stream>,
    /// A header cut by the end of the input, or bytes looked at that turned out to be payload.
    carry: Carry,
    /// The chunk whose payload comes next.
    open: Option<OpenChunk>,
    unfinished_len: usize,
}

/// What a chunk stream remembers for compressed headers, and its unfinished message.
#[derive(Debug)]
struct Stream {
    csid: u32,
    /// The timestamp field of the last header: absolute after type 0, a delta after types 1 and 2.
    field: u32,
    /// That field was in the extended timestamp.
    extended: bool,
    timestamp_ms: u32,
    len: usize,
    type_id: u8,
    stream_id: u32,
    partial: Vec<u8>,
    in_message: bool,
}

#[derive(Debug, Default)]
struct Carry {
    bytes: [u8; HEADER_LEN_MAX],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct OpenChunk {
    /// Index into `streams`.
    index: usize,
    left: usize,
}

impl Reader {
    /// At the first chunk after the handshake.
    pub fn new(limits: Limits) -> Reader {
        Reader {
            limits,
            chunk_size: CHUNK_SIZE_DEFAULT,
            streams: Vec::new(),
            carry: Carry::default(),
            open: None,
            unfinished_len: 0,
        }
    }

    /// Changes the limits for what comes from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Bytes allocated for unfinished messages.
    pub fn unfinished_len(&self) -> usize {
        self.unfinished_len
    }

    /// Takes bytes off the front of `input` until a message is whole; `None` when the input is used up. Chunk size and
    /// abort messages take effect inside and are not returned. After an error the connection is lost.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            let done = match self.open {
                None if self.carry.is_empty() && input.is_empty() => return Ok(None),
                None => match self.header(input)? {
                    Some(open) => self.payload(open, input)?,
                    None => return Ok(None),
                },
                Some(open) => self.payload(open, input)?,
            };
            match done {
                Some(message) if message.type_id == message::SET_CHUNK_SIZE => {
                    self.set_chunk_size(&message.body)?
                }
                Some(message) if message.type_id == message::ABORT => self.abort(&message.body)?,
                Some(message) => return Ok(Some(message)),
                None if self.open.is_some() => return Ok(None),
                None => {}
            }
        }
    }

    /// Reads a chunk header. `None` when it is not whole: then all input went into the carry.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<OpenChunk>, Error> {
        let mut window = [0; HEADER_LEN_MAX];
        let window = self.carry.window(input, &mut window);
        let Some((header, len)) = self.parse_header(window)? else {
            self.carry.fill(input);
            return Ok(None);
        };
        self.carry.consume(len, input);
        self.start_chunk(header).map(Some)
    }

    /// RTMP 5.3.1: basic header, message header, extended timestamp. `None` when bytes are missing.
    fn parse_header(&self, bytes: &[u8]) -> Result<Option<(Header, usize)>, Error> {
        let Some((fmt, csid, rest)) = basic_header(bytes) else { return Ok(None) };
        let known = self.streams.iter().find(|stream| stream.csid == csid);
        let mut header = Header { fmt, csid, ..Header::default() };
        let mut field = known.map_or(0, |stream| stream.field);
        let rest = match (fmt, rest) {
            (3, rest) => rest,
            (2, [t2, t1, t0, rest @ ..]) => {
                field = u32::from_be_bytes([0, *t2, *t1, *t0]);
                rest
            }
            (1, [t2, t1, t0, l2, l1, l0, type_id, rest @ ..]) => {
                field = u32::from_be_bytes([0, *t2, *t1, *t0]);
                header.len = u32::from_be_bytes([0, *l2, *l1, *l0]);
                header.type_id = *type_id;
                rest
            }
            (0, [t2, t1, t0, l2, l1, l0, type_id, s0, s1, s2, s3, rest @ ..]) => {
                field = u32::from_be_bytes([0, *t2, *t1, *t0]);
                header.len = u32::from_be_bytes([0, *l2, *l1, *l0]);
                header.type_id = *type_id;
                // RTMP 5.3.1.2.1: the message stream id is the one little-endian field.
                header.stream_id = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
                rest
            }
            _ => return Ok(None),
        };
        header.field = field;
        header.extended = match (fmt, known) {
            (3, known) => known.is_some_and(|stream| stream.extended),
            _ => field == EXTENDED,
        };
        let mut rest = rest;
        if header.extended {
            let Some((extended, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            let extended = u32::from_be_bytes(*extended);
            match known {
                // RTMP 5.3.1.3: "present in Type 3 chunks when the most recent Type 0, 1, or 2 chunk ... indicated the
                // presence". Some encoders leave it out there, some repeat the absolute time: only bytes that are
                // either are taken for it, everything else is payload.
                Some(stream) if fmt == 3 => {
                    if extended == stream.field || (stream.in_message && extended == stream.timestamp_ms) {
                        rest = after;
                    }
                }
                _ => {
                    header.field = extended;
                    rest = after;
                }
            }
        }
        Ok(Some((header, bytes.len().saturating_sub(rest.len()))))
    }

    /// Applies a header to its chunk stream.
    fn start_chunk(&mut self, header: Header) -> Result<OpenChunk, Error> {
        let index = match self.streams.iter().position(|stream| stream.csid == header.csid) {
            Some(index) => index,
            // Type 1 on a fresh chunk stream is how librtmp answers pings; there is nothing to compress against in 2 and 3.
            None if header.fmt >= 2 => return Err(Error::NoHeader { csid: header.csid, fmt: header.fmt }),
            None if self.streams.len() >= STREAMS_MAX => return Err(Error::ChunkStreams),
            None => {
                self.streams.push(Stream::new(header.csid));
                self.streams.len().saturating_sub(1)
            }
        };
        let chunk_size = self.chunk_size;
        let len_max = self.limits.message_len_max;
        let stream = self.streams.get_mut(index).ok_or(Error::ChunkStreams)?;
        if stream.in_message && header.fmt != 3 {
            // A full header inside a message: some encoders repeat it on continuations. With another length or type the old
            // message was given up.
            let len = if header.fmt == 2 { stream.len } else { header.len() };
            let type_id = if header.fmt == 2 { stream.type_id } else { header.type_id };
            if len != stream.len || type_id != stream.type_id {
                self.unfinished_len = self.unfinished_len.saturating_sub(stream.drop_partial());
            }
        }
        if !stream.in_message {
            stream.start_message(&header);
            if stream.len > len_max {
                return Err(Error::MessageLong { len: stream.len, len_max });
            }
        }
        let left = stream.len.saturating_sub(stream.partial.len()).min(chunk_size);
        Ok(OpenChunk { index, left })
    }

    /// Moves payload of the open chunk; the message, when that made it whole.
    fn payload(&mut self, mut open: OpenChunk, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        let unfinished_len_max = self.limits.unfinished_len_max;
        let stream = self.streams.get_mut(open.index).ok_or(Error::ChunkStreams)?;
        while open.left > 0 {
            let source = if self.carry.is_empty() { *input } else { self.carry.bytes() };
            let (piece, _) = source.split_at_checked(open.left).unwrap_or((source, &[]));
            if piece.is_empty() {
                break;
            }
            let before = stream.partial.capacity();
            let target = stream.room_for(piece.len());
            let grown = target.saturating_sub(before);
            if self.unfinished_len.saturating_add(grown) > unfinished_len_max {
                return Err(Error::Unfinished(unfinished_len_max));
            }
            stream.partial.reserve_exact(target.saturating_sub(stream.partial.len()));
            let grown = stream.partial.capacity().saturating_sub(before);
            self.unfinished_len = self.unfinished_len.saturating_add(grown);
            stream.partial.extend_from_slice(piece);
            let taken = piece.len();
            open.left = open.left.saturating_sub(taken);
            self.carry.consume(taken, input);
        }
        self.open = (open.left > 0).then_some(open);
        if self.open.is_some() || stream.partial.len() < stream.len {
            return Ok(None);
        }
        let body = std::mem::take(&mut stream.partial);
        self.unfinished_len = self.unfinished_len.saturating_sub(body.capacity());
        stream.in_message = false;
        Ok(Some(Message {
            csid: stream.csid,
            type_id: stream.type_id,
            timestamp_ms: stream.timestamp_ms,
            stream_id: stream.stream_id,
            body: body.into(),
        }))
    }

    /// RTMP 5.4.1: the top bit must be zero, the size at least 1.
    fn set_chunk_size(&mut self, body: &[u8]) -> Result<(), Error> {
        let size = u32::from_be_bytes(*body.first_chunk().ok_or(Error::Malformed("chunk size"))?);
        if size == 0 || size > 0x7FFF_FFFF {
            return Err(Error::ChunkSize(size));
        }
        self.chunk_size = usize::try_from(size).unwrap_or(CHUNK_SIZE_MAX).min(CHUNK_SIZE_MAX);
        Ok(())
    }

    /// RTMP 5.4.2: drop what came of the message on that chunk stream.
    fn abort(&mut self, body: &[u8]) -> Result<(), Error> {
        let csid = u32::from_be_bytes(*body.first_chunk().ok_or(Error::Malformed("abort"))?);
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.csid == csid) {
            self.unfinished_len = self.unfinished_len.saturating_sub(stream.drop_partial());
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Header {
    fmt: u8,
    csid: u32,
    field: u32,
    extended: bool,
    len: u32,
    type_id: u8,
    stream_id: u32,
}

impl Header {
    fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }
}

/// RTMP 5.3.1.1: 6 bits of id, or 0 and one byte more, or 1 and two bytes more (the first one the low one).
fn basic_header(bytes: &[u8]) -> Option<(u8, u32, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let fmt = first >> 6;
    match (first & 0x3F, rest) {
        (0, [low, rest @ ..]) => Some((fmt, u32::from(*low).saturating_add(64), rest)),
        (1, [low, high, rest @ ..]) => {
            Some((fmt, u32::from(u16::from_le_bytes([*low, *high])).saturating_add(64), rest))
        }
        (0 | 1, _) => None,
        (csid, rest) => Some((fmt, u32::from(csid), rest)),
    }
}

impl Stream {
    fn new(csid: u32) -> Stream {
        Stream {
            csid,
            field: 0,
            extended: false,
            timestamp_ms: 0,
            len: 0,
            type_id: 0,
            stream_id: 0,
            partial: Vec::new(),
            in_message: false,
        }
    }

    fn start_message(&mut self, header: &Header) {
        self.in_message = true;
        self.field = header.field;
        self.extended = header.extended;
        // RTMP 5.3.1.2.4: a type 3 header that starts a message repeats the last delta, which after a type 0 header is its
        // absolute time.
        self.timestamp_ms = match header.fmt {
            0 => header.field,
            _ => self.timestamp_ms.wrapping_add(header.field),
        };
        if header.fmt <= 1 {
            self.len = header.len();
            self.type_id = header.type_id;
        }
        if header.fmt == 0 {
            self.stream_id = header.stream_id;
        }
    }

    /// The capacity for `more` bytes: at least doubled when it grows, so that one-byte pieces do not copy for ever, and
    /// never beyond the message.
    fn room_for(&self, more: usize) -> usize {
        let wanted = self.partial.len().saturating_add(more);
        let capacity = self.partial.capacity();
        if wanted <= capacity { capacity } else { capacity.saturating_mul(2).min(self.len).max(wanted) }
    }

    /// Forgets the unfinished message; how many bytes that freed.
    fn drop_partial(&mut self) -> usize {
        self.in_message = false;
        std::mem::take(&mut self.partial).capacity()
    }
}

impl Carry {
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The next bytes in order, at least a header's worth if there are so many: the input itself, or the carry and the
    /// start of the input in `scratch`.
    fn window<'a>(&self, input: &'a [u8], scratch: &'a mut [u8; HEADER_LEN_MAX]) -> &'a [u8] {
        if self.is_empty() {
            return input.get(..HEADER_LEN_MAX).unwrap_or(input);
        }
        let mut len = 0_usize;
        for (to, from) in scratch.iter_mut().zip(self.bytes().iter().chain(input)) {
            *to = *from;
            len = len.saturating_add(1);
        }
        scratch.get(..len).unwrap_or_default()
    }

    /// Takes `len` bytes off the front, its own first.
    fn consume(&mut self, len: usize, input: &mut &[u8]) {
        let own = len.min(self.len);
        self.bytes.copy_within(own..self.len, 0);
        self.len = self.len.saturating_sub(own);
        *input = input.get(len.saturating_sub(own)..).unwrap_or_default();
    }

    /// Keeps what there is of a header that is not whole: less than [`HEADER_LEN_MAX`] bytes with what it has.
    fn fill(&mut self, input: &mut &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(*input) {
            *to = *from;
            self.len = self.len.saturating_add(1);
            *input = input.get(1..).unwrap_or_default();
        }
    }
}
