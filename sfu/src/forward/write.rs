//! One packet onto the wire: its header and extensions, the ids that its codec counts frames by, and encryption.

use media::payload::dependency;
use media::{Codec, Kind, Packet};
use metrics::DropReason;
use rtc::rtp;

use super::{Forwarder, OVERHEAD_MAX, Way};
use crate::ranges::{IdDeltas, Range};
use crate::shard::Egress;

/// What a dependency descriptor costs besides its bytes: ids and lengths of two-byte elements, and padding.
const DESCRIPTOR_OVERHEAD_MAX: usize = 8;

/// What a packet has besides its numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct Body<'a> {
    pub(super) payload: &'a [u8],
    pub(super) descriptor: &'a [u8],
    pub(super) marker: bool,
    pub(super) ids: IdDeltas,
    /// The payload is padding.
    pub(super) padding: bool,
}

/// Its numbers.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) seq: u64,
    pub(super) time: u32,
    pub(super) payload_type: u8,
    pub(super) ssrc: u32,
    pub(super) original: Option<u16>,
}

impl Forwarder {
    pub(super) fn write<E: Egress>(
        &mut self,
        packet: &Packet,
        range: Range,
        header: Header,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        // Late, and of a frame that was left out: its number is all that is wanted.
        let empty = range.left_out == Some(packet.timestamp);
        if empty {
            return self.write_out(Body::default(), header, way);
        }
        let (payload, descriptor) = (&packet.payload[..], &packet.descriptor[..]);
        let body = Body { payload, descriptor, marker: packet.marker, ids: range.ids, padding: false };
        self.write_out(body, header, way)
    }

    pub(super) fn write_out<E: Egress>(
        &mut self,
        body: Body<'_>,
        header: Header,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let Body { payload, marker, ids, padding, .. } = body;
        let descriptor = self.choice.and_then(|c| c.descriptor).filter(|_| !body.descriptor.is_empty());
        let descriptor_len = body.descriptor.len();
        let room = descriptor.map_or(0, |_| descriptor_len + DESCRIPTOR_OVERHEAD_MAX);
        let bytes = payload.len() + OVERHEAD_MAX + room;
        let buffer = way.out.reserve(bytes).ok_or(DropReason::SendBufferFull)?;
        let number;
        let mut elements: [(u8, &[u8]); 2] = [(0, &[]); 2];
        let mut count = 0;
        if let Some(id) = descriptor {
            elements[0] = (id, body.descriptor);
            count = 1;
        }
        match (self.choice.and_then(|c| c.twcc), &mut way.estimator) {
            (None, Some(estimator)) if !way.numbered => {
                estimator.on_sent(bytes, way.probe, way.now);
            }
            (Some(id), Some(estimator)) => {
                number = estimator.on_sent(bytes, way.probe, way.now).to_be_bytes();
                if self.media.kind == Kind::Video && !padding {
                    estimator.numbered(header.original.unwrap_or(header.seq as u16));
                }
                elements[count] = (id, &number);
                count += 1;
            }
            _ => {}
        }
        let header_len = rtp::write_header(
            buffer,
            &rtp::Fields {
                marker,
                payload_type: header.payload_type,
                sequence_number: header.seq as u16,
                timestamp: header.time,
                ssrc: header.ssrc,
                extensions: &elements[..count],
            },
        );
        let is_newest = header.original.is_none() && self.highest == Some(header.seq);
        if let Some(number) = descriptor.and_then(|_| dependency::frame_number(body.descriptor)) {
            let (at, number) = (rtp::first_element_at(descriptor_len), number.wrapping_add(ids.frame));
            dependency::set_frame_number(&mut buffer[at..at + descriptor_len], number);
            self.frame_number = if is_newest { Some(number) } else { self.frame_number };
        }
        if padding {
            buffer[0] |= 0x20; // RFC 3550 section 5.1: P
        }
        let mut len = header_len;
        if let Some(original) = header.original {
            // RFC 4588 section 4: the original sequence number leads the payload.
            buffer[len..len + 2].copy_from_slice(&original.to_be_bytes());
            len += 2;
        }
        let copied = &mut buffer[len..len + payload.len()];
        copied.copy_from_slice(payload);
        let vp8 = self.choice.is_some_and(|c| c.codec == Codec::Vp8) && !padding;
        if let Some(newest) = self.picture_ids.as_mut().filter(|_| vp8) {
            newest.rewrite(copied, ids, is_newest);
        }
        len += payload.len();
        let sealed = way.session.protect_rtp(buffer, len, header_len, (header.seq >> 16) as u32)?;
        way.out.commit(sealed, way.to);
        self.sent.packets += 1;
        self.sent.payload_bytes += (len - header_len) as u64;
        self.sent.wire_bytes += len as u64;
        Ok(())
    }
}
