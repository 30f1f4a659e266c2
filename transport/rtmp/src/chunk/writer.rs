//! Messages to chunks.

use bytes::{BufMut, Bytes, BytesMut};

use super::{CHUNK_SIZE_DEFAULT, EXTENDED, HEADER_LEN_MAX, STREAMS_MAX};

/// RTMP 5.3.1.2: lengths are 24-bit.
const LEN_MAX: usize = 0xFF_FFFF;

/// Writes one message with a full header, independent of what was written before, so that all players share the bytes.
///
/// `chunk_size` is what the receiver was told ([`super::CHUNK_SIZE_OUT`] for players of [`crate::Server`]). The extended
/// timestamp is repeated on each continuation, as RTMP 5.3.1.3 says. A body beyond 16 MiB - 1 is cut; no frame is so long.
pub fn encode_message(
    csid: u32,
    type_id: u8,
    timestamp_ms: u32,
    message_stream_id: u32,
    body: &[u8],
    chunk_size: usize,
) -> Bytes {
    let chunks = body.len().checked_div(chunk_size.max(1)).unwrap_or(0).saturating_add(1);
    let mut out = BytesMut::with_capacity(body.len().saturating_add(chunks.saturating_mul(HEADER_LEN_MAX)));
    let header =
        Header { fmt: 0, csid, field: timestamp_ms, len: body.len(), type_id, stream_id: message_stream_id };
    put_message(&mut out, &header, body, chunk_size);
    out.freeze()
}

/// What [`encode_message`] writes, in parts to be written one behind the other: the body is shared, not copied. It consists of `head`, which
/// fits one chunk, and `rest`.
pub fn message_parts(
    csid: u32,
    type_id: u8,
    timestamp_ms: u32,
    message_stream_id: u32,
    head: &[u8],
    rest: &Bytes,
    chunk_size: usize,
) -> Vec<Bytes> {
    let rest = rest.slice(..rest.len().min(LEN_MAX.saturating_sub(head.len())));
    let len = head.len().saturating_add(rest.len());
    let header = Header { fmt: 0, csid, field: timestamp_ms, len, type_id, stream_id: message_stream_id };
    let mut first = BytesMut::with_capacity(HEADER_LEN_MAX.saturating_add(head.len()));
    put_header(&mut first, &header);
    first.put_slice(head);
    let mut parts = vec![first.freeze()];
    let (mut at, mut room) = (0_usize, chunk_size.saturating_sub(head.len()));
    while at < rest.len() {
        let end = at.saturating_add(room).min(rest.len());
        parts.push(rest.slice(at..end));
        (at, room) = (end, chunk_size.max(1));
        if at < rest.len() {
            let mut next = BytesMut::new();
            put_continuation(&mut next, &header);
            parts.push(next.freeze());
        }
    }
    parts
}

/// Writes messages one after the other with headers as short as RTMP allows, as encoders do.
#[derive(Debug)]
pub struct Writer {
    chunk_size: usize,
    last: Vec<Last>,
}

#[derive(Debug)]
struct Last {
    csid: u32,
    field: u32,
    timestamp_ms: u32,
    len: usize,
    type_id: u8,
    stream_id: u32,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    /// At the first chunk after the handshake.
    pub fn new() -> Writer {
        Writer { chunk_size: CHUNK_SIZE_DEFAULT, last: Vec::new() }
    }

    /// The chunk size from now on. The caller writes the message that announces it first.
    pub fn set_chunk_size(&mut self, chunk_size: usize) {
        self.chunk_size = chunk_size.max(1);
    }

    /// Appends one message.
    pub fn write(
        &mut self,
        csid: u32,
        type_id: u8,
        timestamp_ms: u32,
        stream_id: u32,
        body: &[u8],
        out: &mut BytesMut,
    ) {
        let now = |field| Last { csid, field, timestamp_ms, len: body.len(), type_id, stream_id };
        let full = self.last.len() >= STREAMS_MAX;
        let last = self.last.iter_mut().find(|last| last.csid == csid);
        let delta = last.as_ref().map_or(0, |last| timestamp_ms.wrapping_sub(last.timestamp_ms));
        let (fmt, field) = match &last {
            // A delta is unsigned: going back needs a full header.
            Some(last) if last.stream_id == stream_id && delta.cast_signed() >= 0 => {
                let same = last.len == body.len() && last.type_id == type_id;
                let fmt = match (same, last.field == delta) {
                    (true, true) => 3,
                    (true, false) => 2,
                    (false, _) => 1,
                };
                (fmt, delta)
            }
            _ => (0, timestamp_ms),
        };
        match last {
            Some(last) => *last = now(field),
            // Beyond the reader's bound each message has its full header, and nothing is remembered.
            None if full => {}
            None => self.last.push(now(field)),
        }
        put_message(
            out,
            &Header { fmt, csid, field, len: body.len(), type_id, stream_id },
            body,
            self.chunk_size,
        );
    }
}

struct Header {
    fmt: u8,
    csid: u32,
    field: u32,
    len: usize,
    type_id: u8,
    stream_id: u32,
}

fn put_message(out: &mut BytesMut, header: &Header, body: &[u8], chunk_size: usize) {
    let body = body.get(..LEN_MAX).unwrap_or(body);
    put_header(out, header);
    let mut pieces = body.chunks(chunk_size.max(1));
    out.put_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        put_continuation(out, header);
        out.put_slice(piece);
    }
}

fn put_header(out: &mut BytesMut, header: &Header) {
    put_basic(out, header.fmt, header.csid);
    let [_, field @ ..] = header.field.min(EXTENDED).to_be_bytes();
    let [_, len @ ..] = u32::try_from(header.len.min(LEN_MAX)).unwrap_or(0).to_be_bytes();
    if header.fmt <= 2 {
        out.put_slice(&field);
    }
    if header.fmt <= 1 {
        out.put_slice(&len);
        out.put_u8(header.type_id);
    }
    if header.fmt == 0 {
        out.put_u32_le(header.stream_id);
    }
    put_extended(out, header);
}

/// RTMP 5.3.1.2.4: type 3, for the chunks of a message behind its first.
fn put_continuation(out: &mut BytesMut, header: &Header) {
    put_basic(out, 3, header.csid);
    put_extended(out, header);
}

fn put_extended(out: &mut BytesMut, header: &Header) {
    if header.field >= EXTENDED {
        out.put_u32(header.field);
    }
}

/// RTMP 5.3.1.1: ids 2 to 63 in one byte, to 319 in two, to 65599 in three.
fn put_basic(out: &mut BytesMut, fmt: u8, csid: u32) {
    let high = fmt << 6;
    let above = csid.saturating_sub(64);
    match (csid, u8::try_from(above)) {
        (0..64, _) => out.put_u8(high | (csid as u8 & 0x3F)),
        (_, Ok(byte)) => out.put_slice(&[high, byte]),
        _ => {
            out.put_u8(high | 1);
            out.put_u16_le(u16::try_from(above).unwrap_or(u16::MAX));
        }
    }
}
