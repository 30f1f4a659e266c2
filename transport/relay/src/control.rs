//! Control messages of the hop, on the reliable stream of ALPN `millrace/1` that the dialling node opens: one after the other, each led by its length.
//!
//! ```text
//! message    length(varint) type(varint) body
//! HELLO      0   version(varint) node(text)
//! ANNOUNCE   2   stream(text) generation(varint) form(1) codecs(1 1) count(1) { node(text) } ... cost(varint) flags(1)
//! END        4   stream(text) generation(varint)
//! SUBSCRIBE  6   alias(varint) stream(text) generation(varint) track(1) after(varint) need(1, its top bit: reliable)
//! UNSUBSCRIBE 8  alias(varint)
//! TRACK      10  alias(varint) flags(1) codec(1) seq(8) timestamp(8) capture(8) config(length(varint) bytes)
//! KEYFRAME   12  alias(varint)
//! LAYERS     14  stream(text) generation(varint) count(1) { rid(text) flags(1) height(varint) rate(varint) count(1) { rate(varint) } ... } ...
//! DRAIN      16  within_ms(varint)
//! ASK        18  id(varint) right(1) stream(text) query(text)
//! ANSWER     20  id(varint) generation(varint) refused(text)
//! CLOCK      1   now(8)
//! METADATA   3   stream(text) generation(varint) published(length(varint) bytes)
//! ```
//!
//! Text is its length (varint) and UTF-8. A type that is not known is passed over when it is odd, and ends the connection when it is even. What follows
//! the fields of a body is passed over: later versions add there.

use bytes::{Buf, Bytes, BytesMut};
use media::{Codec, Kind, Need, NodeId, StreamName};

use crate::varint;

/// The version of this file.
pub const VERSION: u64 = 1;
/// Bytes of one message, its length not included. A codec's configuration is the longest thing there is.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Nodes that an announcement may have passed. Paths are of three hops; more is a loop.
pub const PATH_MAX: usize = 8;
/// Encodings of a picture, at most: two bits of a track's byte.
pub const ENCODINGS_MAX: usize = 4;
/// Bytes of an encoding's name.
pub const RID_LEN_MAX: usize = 255;
/// Temporal layers of an encoding, at most.
pub const TEMPORAL_LAYERS_MAX: usize = 8;
/// Bytes of what a publisher says of its stream.
pub const METADATA_LEN_MAX: usize = media::flv::METADATA_LEN_MAX;
/// Numbers of packets are below this, and times within it on either side of 0: more than any stream lives to see, and sums of them fit 64 bits.
pub const SEQ_MAX: u64 = 1 << 48;
/// See [`SEQ_MAX`]: 285 years of microseconds.
pub const TIME_MAX: i64 = 1 << 53;

const TYPE_HELLO: u64 = 0;
const TYPE_CLOCK: u64 = 1;
const TYPE_ANNOUNCE: u64 = 2;
const TYPE_METADATA: u64 = 3;
const TYPE_END: u64 = 4;
const TYPE_SUBSCRIBE: u64 = 6;
const TYPE_UNSUBSCRIBE: u64 = 8;
pub(crate) const TYPE_TRACK: u64 = 10;
const TYPE_KEYFRAME: u64 = 12;
const TYPE_LAYERS: u64 = 14;
const TYPE_DRAIN: u64 = 16;
const TYPE_ASK: u64 = 18;
const TYPE_ANSWER: u64 = 20;

const VIDEO: u8 = 1 << 7;
const DERIVED: u8 = 1 << 6;
const DERIVES: u8 = 1;
const EPOCH: u8 = 1;
/// Beside what a subscription is for.
const RELIABLE: u8 = 1 << 7;
const FLOWS: u8 = 1;
const LIVE: u8 = 1 << 1;
const PAUSED: u8 = 1 << 2;

/// What the publisher sends, and so what crosses the hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// RTP packets (WebRTC).
    Packets,
    /// Frames (RTMP), cut into packets for the hop: H.264 with its DTS offset, AAC as it is.
    Frames,
}

/// One track of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TrackId {
    /// Sound or picture.
    pub kind: Kind,
    /// Which encoding of the picture, below [`ENCODINGS_MAX`].
    pub layer: u8,
    /// Sound that was made of the publisher's: Opus of frames, AAC of packets. Asked for only where it was announced.
    pub derived: bool,
}

/// What a track is: said before its first packet, and when it changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Track {
    /// As the subscription named it.
    pub alias: u64,
    /// Changes with codec and configuration: the packets of which this is true have it in their flags.
    pub epoch: bool,
    /// Its codec.
    pub codec: Codec,
    /// A number of the track, from which the 32 bits in datagrams go on.
    pub seq: u64,
    /// A time of it, in ticks of the codec's clock, from which those go on...
    pub timestamp: i64,
    /// ...and when that was captured, in microseconds of the sender's clock.
    pub capture_us: i64,
    /// The codec's configuration, of frames (avcC, AudioSpecificConfig).
    pub config: Bytes,
}

/// What a client of an uplink wants to do with a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Right {
    /// Send it.
    Publish,
    /// Take it.
    Play,
}

/// What is measured of one encoding.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Encoding {
    /// Its name in the publisher's SDP (RID, RFC 8851), at most [`RID_LEN_MAX`] bytes.
    pub rid: String,
    /// Packets come, or would.
    pub flows: bool,
    /// None come, as nobody takes them: they come when it is chosen.
    pub paused: bool,
    /// It may be switched to.
    pub live: bool,
    /// Of the picture; 0 while unknown.
    pub height: u64,
    /// Bit/s.
    pub rate_bps: u64,
    /// Bit/s up to each of its temporal layers, at most [`TEMPORAL_LAYERS_MAX`].
    pub temporal_bps: Vec<u64>,
}

/// A control message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The first of each side.
    Hello {
        /// [`VERSION`].
        version: u64,
        /// Who says so; the certificate decides.
        node: NodeId,
    },
    /// The sender has a stream.
    Announce {
        /// Its name.
        stream: StreamName,
        /// Rises with each publisher: the content of one generation is the same everywhere.
        generation: u64,
        /// What crosses.
        form: Form,
        /// Codecs of sound and picture, as far as known.
        codecs: [Option<Codec>; 2],
        /// The nodes that it passed, the origin first and the sender last, 1 to [`PATH_MAX`].
        path: Vec<NodeId>,
        /// What that way costs, in microseconds.
        cost_us: u64,
        /// Derived sound comes that way, too. Whoever does not know of it says nothing of it.
        derives: bool,
    },
    /// The sender has it no more.
    End {
        /// Its name.
        stream: StreamName,
        /// The announced one.
        generation: u64,
    },
    /// Send a track, or hold it. Said again of the same number: it is needed for something else now.
    Subscribe {
        /// Its number in datagrams, free so far. One of another number takes its place.
        alias: u64,
        /// The stream.
        stream: StreamName,
        /// The announced generation.
        generation: u64,
        /// Which track of it.
        track: TrackId,
        /// The peer has it up to this number, below [`SEQ_MAX`]: what is after it comes, if the sender has it, else the track begins as for anybody.
        after: Option<u64>,
        /// What for.
        need: Need,
        /// All of it by a stream, for who records: late rather than with holes.
        reliable: bool,
    },
    /// Send it no more, or hold it no more.
    Unsubscribe {
        /// The subscription.
        alias: u64,
    },
    /// What a track is.
    Track(Track),
    /// Somebody needs a key frame.
    KeyFrame {
        /// The subscription.
        alias: u64,
    },
    /// What a stream's encodings are like.
    Layers {
        /// The stream.
        stream: StreamName,
        /// The announced generation.
        generation: u64,
        /// By index, at most [`ENCODINGS_MAX`].
        encodings: Vec<Encoding>,
    },
    /// What the publisher of a stream of frames says of it, for who takes it.
    Metadata {
        /// The stream.
        stream: StreamName,
        /// The announced generation.
        generation: u64,
        /// Its `onMetaData` as it sent it, at most [`METADATA_LEN_MAX`] bytes.
        published: Bytes,
    },
    /// The sender stops.
    Drain {
        /// In so many milliseconds.
        within_ms: u64,
    },
    /// A client of an uplink wants something: the node decides. What it has not allowed on a connection does not cross it.
    Ask {
        /// For the answer.
        id: u64,
        /// What.
        right: Right,
        /// The stream.
        stream: StreamName,
        /// What the client gave with the name, its token.
        query: String,
    },
    /// The decision.
    Answer {
        /// Of what was asked.
        id: u64,
        /// Of the claim that the node has for it, which the stream is published with; 0: it has none.
        generation: u64,
        /// Why not, for the client; empty: it may.
        refused: String,
    },
    /// The sender's clock, said each second: capture times are of it.
    Clock {
        /// In microseconds.
        now_us: i64,
    },
}

/// Why a message was refused. The peer wrote it, and its connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// It ends before its fields do.
    #[error("relay control message cut short")]
    Short,
    /// Longer than any is.
    #[error("relay control message of more than {MESSAGE_LEN_MAX} bytes")]
    Long,
    /// A type this version does not know and may not pass over.
    #[error("relay control message of type {0}")]
    Type(u64),
    /// A name that is no stream's or no node's.
    #[error("relay control message with a name that is none")]
    Name,
    /// A number that is out of its bounds.
    #[error("relay control message with a number out of bounds")]
    Number,
}

/// Takes the next message from what came of the stream; `None` when the rest of it has not come. The length is judged before anything is kept for it, so
/// who reads in pieces holds at most a message and a piece.
pub fn take(stream: &mut BytesMut) -> Result<Option<Message>, Error> {
    loop {
        let mut rest: &[u8] = stream;
        let Some(len) = varint::read(&mut rest) else { return Ok(None) };
        let len = usize::try_from(len).ok().filter(|len| *len <= MESSAGE_LEN_MAX).ok_or(Error::Long)?;
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let head = stream.len().saturating_sub(rest.len());
        let message = read(body);
        stream.advance(head.saturating_add(len));
        if let Some(message) = message? {
            return Ok(Some(message));
        }
    }
}

/// Reads a message without its length; `None` for one to pass over.
pub(crate) fn read(mut body: &[u8]) -> Result<Option<Message>, Error> {
    let body = &mut body;
    Ok(Some(match number(body)? {
        TYPE_HELLO => Message::Hello { version: number(body)?, node: node(body)? },
        TYPE_ANNOUNCE => {
            let (stream, generation) = (stream(body)?, number(body)?);
            let form = match byte(body)? {
                0 => Form::Packets,
                1 => Form::Frames,
                _ => return Err(Error::Number),
            };
            let codecs = [maybe_codec(body, Kind::Audio)?, maybe_codec(body, Kind::Video)?];
            let count = usize::from(byte(body)?);
            if !(1..=PATH_MAX).contains(&count) {
                return Err(Error::Number);
            }
            let path = (0..count).map(|_| node(body)).collect::<Result<_, _>>()?;
            let cost_us = number(body)?;
            let derives = body.first().is_some_and(|flags| flags & DERIVES != 0);
            Message::Announce { stream, generation, form, codecs, path, cost_us, derives }
        }
        TYPE_END => Message::End { stream: stream(body)?, generation: number(body)? },
        TYPE_SUBSCRIBE => {
            let (alias, stream, generation) = (number(body)?, stream(body)?, number(body)?);
            let track = match byte(body)? {
                at @ (0 | DERIVED) => TrackId { kind: Kind::Audio, layer: 0, derived: at == DERIVED },
                at if at & VIDEO != 0 && usize::from(at & !VIDEO) < ENCODINGS_MAX => {
                    TrackId { kind: Kind::Video, layer: at & !VIDEO, derived: false }
                }
                _ => return Err(Error::Number),
            };
            // One more than the number.
            let after = number(body)?.checked_sub(1);
            let need = byte(body)?;
            let reliable = need & RELIABLE != 0;
            let need = match need & !RELIABLE {
                0 => Need::Watched,
                1 => Need::Spare,
                2 => Need::Held,
                _ => return Err(Error::Number),
            };
            Message::Subscribe { alias, stream, generation, track, after, need, reliable }
        }
        TYPE_UNSUBSCRIBE => Message::Unsubscribe { alias: number(body)? },
        TYPE_TRACK => {
            let (alias, flags, codec) = (number(body)?, byte(body)?, byte(body)?);
            Message::Track(Track {
                alias,
                epoch: flags & EPOCH != 0,
                codec: codec_of(codec).ok_or(Error::Number)?,
                seq: Some(u64::from_be_bytes(eight(body)?))
                    .filter(|seq| *seq < SEQ_MAX)
                    .ok_or(Error::Number)?,
                timestamp: time(body)?,
                capture_us: time(body)?,
                config: Bytes::copy_from_slice(bytes(body)?),
            })
        }
        TYPE_KEYFRAME => Message::KeyFrame { alias: number(body)? },
        TYPE_LAYERS => {
            let (stream, generation, count) = (stream(body)?, number(body)?, usize::from(byte(body)?));
            if count > ENCODINGS_MAX {
                return Err(Error::Number);
            }
            let encodings = (0..count).map(|_| encoding(body)).collect::<Result<_, _>>()?;
            Message::Layers { stream, generation, encodings }
        }
        TYPE_METADATA => {
            let (stream, generation, published) = (stream(body)?, number(body)?, bytes(body)?);
            if published.len() > METADATA_LEN_MAX {
                return Err(Error::Number);
            }
            Message::Metadata { stream, generation, published: Bytes::copy_from_slice(published) }
        }
        TYPE_DRAIN => Message::Drain { within_ms: number(body)? },
        TYPE_ASK => {
            let id = number(body)?;
            let right = match byte(body)? {
                0 => Right::Publish,
                1 => Right::Play,
                _ => return Err(Error::Number),
            };
            Message::Ask { id, right, stream: stream(body)?, query: text(body)?.to_owned() }
        }
        TYPE_ANSWER => {
            Message::Answer { id: number(body)?, generation: number(body)?, refused: text(body)?.to_owned() }
        }
        TYPE_CLOCK => Message::Clock { now_us: time(body)? },
        odd if odd & 1 == 1 => return Ok(None),
        unknown => return Err(Error::Type(unknown)),
    }))
}

fn encoding(body: &mut &[u8]) -> Result<Encoding, Error> {
    let rid = text(body)?;
    if rid.len() > RID_LEN_MAX {
        return Err(Error::Name);
    }
    let (flags, height, rate_bps, count) =
        (byte(body)?, number(body)?, number(body)?, usize::from(byte(body)?));
    if count > TEMPORAL_LAYERS_MAX {
        return Err(Error::Number);
    }
    let temporal_bps = (0..count).map(|_| number(body)).collect::<Result<_, _>>()?;
    Ok(Encoding {
        rid: rid.to_owned(),
        flows: flags & FLOWS != 0,
        paused: flags & PAUSED != 0,
        live: flags & LIVE != 0,
        height,
        rate_bps,
        temporal_bps,
    })
}

fn number(body: &mut &[u8]) -> Result<u64, Error> {
    varint::read(body).ok_or(Error::Short)
}

fn byte(body: &mut &[u8]) -> Result<u8, Error> {
    let (&byte, rest) = body.split_first().ok_or(Error::Short)?;
    *body = rest;
    Ok(byte)
}

fn eight(body: &mut &[u8]) -> Result<[u8; 8], Error> {
    let (&eight, rest) = body.split_first_chunk().ok_or(Error::Short)?;
    *body = rest;
    Ok(eight)
}

fn time(body: &mut &[u8]) -> Result<i64, Error> {
    let time = i64::from_be_bytes(eight(body)?);
    (-TIME_MAX..=TIME_MAX).contains(&time).then_some(time).ok_or(Error::Number)
}

fn bytes<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let len = usize::try_from(number(body)?).map_err(|_| Error::Short)?;
    let (bytes, rest) = body.split_at_checked(len).ok_or(Error::Short)?;
    *body = rest;
    Ok(bytes)
}

fn text<'a>(body: &mut &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes(body)?).map_err(|_| Error::Name)
}

fn node(body: &mut &[u8]) -> Result<NodeId, Error> {
    NodeId::new(text(body)?).ok_or(Error::Name)
}

fn stream(body: &mut &[u8]) -> Result<StreamName, Error> {
    StreamName::parse(text(body)?).map_err(|_| Error::Name)
}

/// Codecs by their numbers less one; 0 is none.
const CODECS: [Codec; 9] = [
    Codec::H264,
    Codec::H265,
    Codec::Vp8,
    Codec::Vp9,
    Codec::Av1,
    Codec::Aac,
    Codec::Opus,
    Codec::Pcma,
    Codec::Pcmu,
];

fn codec_of(number: u8) -> Option<Codec> {
    CODECS.get(usize::from(number.checked_sub(1)?)).copied()
}

fn codec_number(codec: Option<Codec>) -> u8 {
    let at = codec.and_then(|codec| CODECS.iter().position(|c| *c == codec));
    at.map_or(0, |at| (at as u8).saturating_add(1))
}

fn maybe_codec(body: &mut &[u8], kind: Kind) -> Result<Option<Codec>, Error> {
    match byte(body)? {
        0 => Ok(None),
        number => codec_of(number).filter(|codec| codec.kind() == kind).map(Some).ok_or(Error::Number),
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::write(out, bytes.len() as u64);
    out.extend(bytes);
}

impl Message {
    /// Appends the message with its length. What is beyond a bound of this file is left out: the peer would refuse it.
    ///
    /// # Errors
    /// [`Error::Long`], for a codec's configuration that fits no message.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut body = Vec::new();
        self.write_body(&mut body);
        if body.len() > MESSAGE_LEN_MAX {
            return Err(Error::Long);
        }
        put(out, &body);
        Ok(())
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Message::Hello { version, node } => {
                varint::write(out, TYPE_HELLO);
                varint::write(out, *version);
                put(out, node.as_str().as_bytes());
            }
            Message::Announce { stream, generation, form, codecs, path, cost_us, derives } => {
                varint::write(out, TYPE_ANNOUNCE);
                put(out, stream.as_str().as_bytes());
                varint::write(out, *generation);
                out.push(u8::from(*form == Form::Frames));
                out.extend(codecs.map(codec_number));
                let path = path.get(..PATH_MAX).unwrap_or(path);
                out.push(path.len() as u8);
                for node in path {
                    put(out, node.as_str().as_bytes());
                }
                varint::write(out, *cost_us);
                out.push(if *derives { DERIVES } else { 0 });
            }
            Message::End { stream, generation } => {
                varint::write(out, TYPE_END);
                put(out, stream.as_str().as_bytes());
                varint::write(out, *generation);
            }
            Message::Subscribe { alias, stream, generation, track, after, need, reliable } => {
                varint::write(out, TYPE_SUBSCRIBE);
                varint::write(out, *alias);
                put(out, stream.as_str().as_bytes());
                varint::write(out, *generation);
                out.push(match track.kind {
                    Kind::Video => VIDEO | track.layer,
                    Kind::Audio if track.derived => DERIVED,
                    Kind::Audio => 0,
                });
                varint::write(out, after.map_or(0, |after| after.saturating_add(1)));
                let need = match need {
                    Need::Watched => 0,
                    Need::Spare => 1,
                    Need::Held => 2,
                };
                out.push(need | if *reliable { RELIABLE } else { 0 });
            }
            Message::Unsubscribe { alias } => {
                varint::write(out, TYPE_UNSUBSCRIBE);
                varint::write(out, *alias);
            }
            Message::Track(track) => {
                varint::write(out, TYPE_TRACK);
                varint::write(out, track.alias);
                out.push(if track.epoch { EPOCH } else { 0 });
                out.push(codec_number(Some(track.codec)));
                out.extend(track.seq.to_be_bytes());
                out.extend(track.timestamp.to_be_bytes());
                out.extend(track.capture_us.to_be_bytes());
                put(out, &track.config);
            }
            Message::KeyFrame { alias } => {
                varint::write(out, TYPE_KEYFRAME);
                varint::write(out, *alias);
            }
            Message::Layers { stream, generation, encodings } => {
                varint::write(out, TYPE_LAYERS);
                put(out, stream.as_str().as_bytes());
                varint::write(out, *generation);
                let encodings = encodings.get(..ENCODINGS_MAX).unwrap_or(encodings);
                out.push(encodings.len() as u8);
                for encoding in encodings {
                    put(out, encoding.rid.as_bytes());
                    let flags = [(encoding.flows, FLOWS), (encoding.live, LIVE), (encoding.paused, PAUSED)];
                    out.push(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
                    varint::write(out, encoding.height);
                    varint::write(out, encoding.rate_bps);
                    let rates = &encoding.temporal_bps;
                    let rates = rates.get(..TEMPORAL_LAYERS_MAX).unwrap_or(rates);
                    out.push(rates.len() as u8);
                    for rate in rates {
                        varint::write(out, *rate);
                    }
                }
            }
            Message::Metadata { stream, generation, published } => {
                varint::write(out, TYPE_METADATA);
                put(out, stream.as_str().as_bytes());
                varint::write(out, *generation);
                put(out, published.get(..METADATA_LEN_MAX).unwrap_or(published));
            }
            Message::Drain { within_ms } => {
                varint::write(out, TYPE_DRAIN);
                varint::write(out, *within_ms);
            }
            Message::Ask { id, right, stream, query } => {
                varint::write(out, TYPE_ASK);
                varint::write(out, *id);
                out.push(u8::from(*right == Right::Play));
                put(out, stream.as_str().as_bytes());
                put(out, query.as_bytes());
            }
            Message::Answer { id, generation, refused } => {
                varint::write(out, TYPE_ANSWER);
                varint::write(out, *id);
                varint::write(out, *generation);
                put(out, refused.as_bytes());
            }
            Message::Clock { now_us } => {
                varint::write(out, TYPE_CLOCK);
                out.extend(now_us.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
