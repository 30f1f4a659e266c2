//! The chunk stream (RTMP 5.3): messages cut into chunks, several messages interleaved.

mod reader;
mod writer;

pub use reader::{Limits, Message, Reader};
pub use writer::{Writer, encode_message, message_parts};

/// Largest chunk size that is honoured for receiving: messages have 24-bit lengths (RTMP 5.3.1), so a larger one never
/// makes a difference. Nothing is allocated by it.
pub const CHUNK_SIZE_MAX: usize = 0xFF_FFFF;

/// Chunk size before either side sets one (RTMP 5.4.1).
pub const CHUNK_SIZE_DEFAULT: usize = 128;

/// The chunk size this server sends with: above nearly every frame, so a frame is one header and one run of bytes; below
/// 65536, which some old clients take for the largest possible.
pub const CHUNK_SIZE_OUT: usize = 60_000;

/// Most chunk streams of a connection. Encoders use three to six; ids go up to 65599, and each costs a table entry.
pub const STREAMS_MAX: usize = 64;

/// Longest chunk header: basic header 3, message header 11, extended timestamp 4.
const HEADER_LEN_MAX: usize = 18;

/// Times from this value on go into the extended timestamp (RTMP 5.3.1.3).
const EXTENDED: u32 = 0xFF_FFFF;

#[cfg(test)]
mod tests;
