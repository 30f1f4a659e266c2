//! What both ends of a connection do alike: count and acknowledge bytes, answer pings, send commands.

use bytes::{BufMut, Bytes, BytesMut};
use media::amf0::{self, Value};

use crate::chunk::{self, CHUNK_SIZE_DEFAULT, CHUNK_SIZE_OUT, Message, encode_message};
use crate::{Error, PLAY_STREAM_ID, csid, message};

/// The window that is asked for and, until the peer names one, kept: what Flash Media Server used, and every client knows.
const WINDOW_LEN: u32 = 2_500_000;

/// RTMP 7.1.7, user control events.
const STREAM_BEGIN: u16 = 0;
pub(crate) const STREAM_EOF: u16 = 1;
const PING_REQUEST: u16 = 6;
const PING_RESPONSE: u16 = 7;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) reader: chunk::Reader,
    pub(crate) out: BytesMut,
    chunk_size_out: usize,
    /// Modulo 2^32, as acknowledgements count (RTMP 5.4.3).
    received: u32,
    acknowledged: u32,
    window_len: u32,
}

impl Link {
    pub(crate) fn new(limits: chunk::Limits) -> Link {
        Link {
            reader: chunk::Reader::new(limits),
            out: BytesMut::new(),
            chunk_size_out: CHUNK_SIZE_DEFAULT,
            received: 0,
            acknowledged: 0,
            window_len: WINDOW_LEN,
        }
    }

    /// Counts bytes as they come off the socket; acknowledges at most once a call.
    pub(crate) fn count(&mut self, len: usize) {
        self.received = self.received.wrapping_add(len as u32);
        // RTMP 5.4.3: "after receiving bytes equal to the window size"
        if self.received.wrapping_sub(self.acknowledged) >= self.window_len {
            self.acknowledged = self.received;
            self.control(message::ACKNOWLEDGEMENT, &self.received.to_be_bytes());
        }
    }

    /// The next message that is not the link's own business.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        while let Some(message) = self.reader.read(input)? {
            match message.type_id {
                message::WINDOW_ACK_SIZE => {
                    let window =
                        message.body.first_chunk().ok_or(Error::Malformed("window acknowledgement size"))?;
                    // 0 would mean an answer to every read.
                    self.window_len = u32::from_be_bytes(*window).max(1);
                }
                message::ACKNOWLEDGEMENT | message::SET_PEER_BANDWIDTH => {}
                message::USER_CONTROL => match user_control(&message.body) {
                    Some((PING_REQUEST, time)) => self.user_control(PING_RESPONSE, time),
                    _ => return Ok(Some(message)),
                },
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    /// Tells the peer the window and, from here on, the chunk size.
    pub(crate) fn announce(&mut self) {
        self.control(message::WINDOW_ACK_SIZE, &WINDOW_LEN.to_be_bytes());
        self.set_chunk_size();
    }

    /// RTMP 5.4.5: the same window with limit type 2, dynamic.
    pub(crate) fn set_peer_bandwidth(&mut self) {
        let [a, b, c, d] = WINDOW_LEN.to_be_bytes();
        self.control(message::SET_PEER_BANDWIDTH, &[a, b, c, d, 2]);
    }

    fn set_chunk_size(&mut self) {
        let size = u32::try_from(CHUNK_SIZE_OUT).unwrap_or(u32::MAX);
        self.control(message::SET_CHUNK_SIZE, &size.to_be_bytes());
        self.chunk_size_out = CHUNK_SIZE_OUT;
    }

    pub(crate) fn stream_begin(&mut self) {
        self.user_control(STREAM_BEGIN, PLAY_STREAM_ID);
    }

    pub(crate) fn stream_eof(&mut self) {
        self.user_control(STREAM_EOF, PLAY_STREAM_ID);
    }

    fn user_control(&mut self, event: u16, value: u32) {
        let mut body = BytesMut::with_capacity(6);
        body.put_u16(event);
        body.put_u32(value);
        self.control(message::USER_CONTROL, &body);
    }

    fn control(&mut self, type_id: u8, body: &[u8]) {
        self.send(csid::CONTROL, type_id, 0, body);
    }

    /// A command of the connection, on message stream 0.
    pub(crate) fn command(&mut self, values: &[Value]) {
        self.send(csid::COMMAND, message::COMMAND, 0, &amf0::encode(values));
    }

    /// A command of the stream.
    pub(crate) fn stream_command(&mut self, stream_id: u32, values: &[Value]) {
        self.send(csid::DATA, message::COMMAND, stream_id, &amf0::encode(values));
    }

    /// Always with full headers: a player's connection also carries messages that were encoded for all players.
    fn send(&mut self, csid: u32, type_id: u8, stream_id: u32, body: &[u8]) {
        let bytes = encode_message(csid, type_id, 0, stream_id, body, self.chunk_size_out);
        self.out.extend_from_slice(&bytes);
    }

    pub(crate) fn take_output(&mut self) -> Bytes {
        // Whole: a part that is split off would keep the room of the handshake's answers for as long as the connection lives.
        std::mem::take(&mut self.out).freeze()
    }
}

/// Event type and its first value.
pub(crate) fn user_control(body: &[u8]) -> Option<(u16, u32)> {
    let (event, rest) = body.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*event), u32::from_be_bytes(*rest.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: chunk::Limits = chunk::Limits { message_len_max: 4096, unfinished_len_max: 8192 };

    fn sent(link: &mut Link) -> Vec<(u8, Vec<u8>)> {
        let mut reader = chunk::Reader::new(LIMITS);
        let bytes = link.take_output();
        let mut rest = &bytes[..];
        let mut list = Vec::new();
        while let Some(message) = reader.read(&mut rest).unwrap() {
            list.push((message.type_id, message.body.to_vec()));
        }
        list
    }

    #[test]
    fn acknowledges_by_the_peers_window_across_the_wrap() {
        let mut link = Link::new(LIMITS);
        link.received = u32::MAX - 10;
        link.acknowledged = u32::MAX - 10;
        let window = encode_message(2, message::WINDOW_ACK_SIZE, 0, 0, &1000_u32.to_be_bytes(), 128);
        assert_eq!(link.read(&mut &window[..]), Ok(None));
        link.count(999);
        assert_eq!(sent(&mut link), []);
        link.count(1);
        assert_eq!(sent(&mut link), [(message::ACKNOWLEDGEMENT, 989_u32.to_be_bytes().to_vec())]);
        link.count(999);
        assert_eq!(sent(&mut link), []);
    }

    #[test]
    fn answers_pings() {
        let mut link = Link::new(LIMITS);
        let ping = encode_message(2, message::USER_CONTROL, 0, 0, &[0, 6, 1, 2, 3, 4], 128);
        assert_eq!(link.read(&mut &ping[..]), Ok(None));
        assert_eq!(sent(&mut link), [(message::USER_CONTROL, vec![0, 7, 1, 2, 3, 4])]);
    }
}
