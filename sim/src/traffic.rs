//! What model clients give the world to send.

use bytes::Bytes;
use rtc::client::Client;
use rtc::srtp::TAG_LEN_MAX;

use crate::offer::{MID_ID, REPAIRED_RID_ID, RID_ID, TWCC_ID, VIDEO_MID};

/// One RTP packet before protection. `seq` does not wrap: its upper bits are the rollover counter.
#[derive(Clone, Debug)]
pub struct Rtp {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Payload type.
    pub payload_type: u8,
    /// Extended sequence number.
    pub seq: u64,
    /// RTP time.
    pub timestamp: u32,
    /// Last of a frame.
    pub marker: bool,
    /// Payload.
    pub payload: Bytes,
    /// Transport-wide number.
    pub twcc: Option<u16>,
    /// It says whose it is: the encoding, and whether it is a retransmission.
    pub rid: Option<(&'static str, bool)>,
}

impl Rtp {
    /// As the client sends it.
    pub fn seal(&self, client: &mut Client) -> Vec<u8> {
        let mut buffer = vec![0; 12 + 16 + self.payload.len() + TAG_LEN_MAX];
        let twcc = self.twcc.map(u16::to_be_bytes);
        let mut extensions: Vec<(u8, &[u8])> = Vec::new();
        extensions.extend(twcc.as_ref().map(|number| (TWCC_ID, &number[..])));
        if let Some((rid, repaired)) = self.rid {
            let id = if repaired { REPAIRED_RID_ID } else { RID_ID };
            extensions.extend([(MID_ID, VIDEO_MID.as_bytes()), (id, rid.as_bytes())]);
        }
        let fields = rtc::rtp::Fields {
            marker: self.marker,
            payload_type: self.payload_type,
            sequence_number: self.seq as u16,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            extensions: &extensions,
        };
        let header_len = rtc::rtp::write_header(&mut buffer, &fields);
        let len = header_len + self.payload.len();
        buffer[header_len..len].copy_from_slice(&self.payload);
        let roc = (self.seq >> 16) as u32;
        let sealed = client.protect_rtp(&mut buffer, len, header_len, roc).expect("connected");
        buffer.truncate(sealed);
        buffer
    }
}

/// What a client wants to send now.
#[derive(Default, Debug)]
pub struct Outbox {
    /// Media, in order.
    pub rtp: Vec<Rtp>,
    /// RTCP packets, each a datagram of its own (RFC 5506).
    pub rtcp: Vec<Vec<u8>>,
}

impl Outbox {
    /// A new RTCP datagram to write to.
    pub fn rtcp(&mut self) -> &mut Vec<u8> {
        self.rtcp.push(Vec::new());
        self.rtcp.last_mut().expect("just pushed")
    }
}
