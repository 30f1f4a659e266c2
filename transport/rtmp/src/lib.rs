//! RTMP 1.0 (Adobe, December 2012) without IO: bytes in, events out.
//!
//! [`Server`] is one incoming connection, [`Client`] one outgoing one. Both take what the socket read with
//! `handle_input`, give what the socket shall write with `take_output`, and say what happened with `poll_event`. They read
//! no clock and no randomness: timeouts are their owner's, random bytes an argument.
//!
//! Bodies of audio, video and data messages are FLV tag bodies; `media::flv` reads and writes them.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod chunk;
mod client;
mod command;
pub mod handshake;
mod link;
mod server;

pub use chunk::{CHUNK_SIZE_OUT, encode_message, message_parts};
pub use client::{Client, ClientEvent};
pub use handshake::RANDOM_LEN;
pub use server::{EndReason, Event, Limits, Server};

/// The message stream that `createStream` always answers with: a connection carries one stream.
pub const PLAY_STREAM_ID: u32 = 1;

/// Chunk streams by purpose, as encoders and servers in the field number them.
pub mod csid {
    /// Protocol control: fixed by RTMP 5.4.
    pub const CONTROL: u32 = 2;
    /// Commands of the connection.
    pub const COMMAND: u32 = 3;
    /// Audio of the stream.
    pub const AUDIO: u32 = 4;
    /// Commands and script data of the stream.
    pub const DATA: u32 = 5;
    /// Video of the stream.
    pub const VIDEO: u32 = 6;
}

/// RTMP message types (RTMP 5.4, 6.1, 7.1).
pub mod message {
    /// Protocol control: the sender's chunk size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Protocol control: forget a partly sent message.
    pub const ABORT: u8 = 2;
    /// Protocol control: bytes received so far.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User control: stream begin, ping and others.
    pub const USER_CONTROL: u8 = 4;
    /// Protocol control: how often to acknowledge.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Protocol control: limit of the peer's output.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Audio.
    pub const AUDIO: u8 = 8;
    /// Video.
    pub const VIDEO: u8 = 9;
    /// Script data with an AMF3 prefix.
    pub const DATA_AMF3: u8 = 15;
    /// A command with an AMF3 prefix.
    pub const COMMAND_AMF3: u8 = 17;
    /// Script data in AMF0.
    pub const DATA: u8 = 18;
    /// A command in AMF0.
    pub const COMMAND: u8 = 20;
    /// Several audio, video and data messages in one.
    pub const AGGREGATE: u8 = 22;
}

/// Why a connection cannot go on. The fault is the peer's unless a variant says otherwise; the connection must be closed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The version byte of the handshake is not 3.
    #[error("handshake version {0}: not RTMP")]
    Version(u8),
    /// The peer wants RTMPE.
    #[error("RTMPE (handshake version {0}) is not supported: use rtmp:// or rtmps://")]
    Encrypted(u8),
    /// Chunk size 0, or one with the top bit set.
    #[error("chunk size {0} is outside 1..=2147483647")]
    ChunkSize(u32),
    /// A compressed chunk header without a full one before it.
    #[error("chunk stream {csid} starts with header type {fmt}")]
    NoHeader {
        /// The chunk stream.
        csid: u32,
        /// Its header type.
        fmt: u8,
    },
    /// More than [`chunk::STREAMS_MAX`] chunk streams.
    #[error("more than {} chunk streams", chunk::STREAMS_MAX)]
    ChunkStreams,
    /// A message longer than this connection may send now.
    #[error("message of {len} bytes is longer than {len_max}")]
    MessageLong {
        /// Declared length.
        len: usize,
        /// The bound in force.
        len_max: usize,
    },
    /// Unfinished messages together hold more than this connection may now.
    #[error("unfinished messages hold more than {0} bytes")]
    Unfinished(usize),
    /// A control message or command that is shorter than its fields.
    #[error("{0} message is malformed")]
    Malformed(&'static str),
    /// A command that is not AMF0.
    #[error("command: {0}")]
    Amf0(#[from] media::amf0::Error),
    /// A command out of order: `publish` before `connect`, a second `publish`, and so on.
    #[error("command {0} is not expected now")]
    Unexpected(&'static str),
    /// More commands or streams than any client needs before it publishes or plays.
    #[error("too many {0}")]
    Flood(&'static str),
    /// App, stream name and parameters, or tcUrl, are longer than 2 KiB.
    #[error("app, stream name or parameters are too long")]
    TextLong,
    /// The peer lets answers pile up without reading them.
    #[error("the peer does not read its answers")]
    OutputFull,
}
