//! What crosses links of a track, as nodes hold it between two of them.

use bytes::Bytes;
use media::{Packet, Time};

/// A packet for peers.
#[derive(Clone, Debug)]
pub struct Out {
    /// In the numbering of its track at the origin.
    pub packet: Packet,
    /// Presentation minus decode time, in ticks.
    pub dts_offset: u32,
    /// The configuration of its codec: of frames of sound.
    pub config: Bytes,
    /// When it came into the cluster, on this clock.
    pub ingest: Time,
}

/// What comes of a track.
#[derive(Clone, Debug)]
pub enum Flow {
    /// A packet.
    Packet(Out),
    /// So many packets, from this number on, do not come.
    LeftOut {
        /// The first.
        seq: u64,
        /// How many.
        count: u32,
    },
}

impl Flow {
    /// Its number, or the first.
    pub fn seq(&self) -> u64 {
        match self {
            Flow::Packet(out) => out.packet.seq,
            Flow::LeftOut { seq, .. } => *seq,
        }
    }

    /// The number behind it.
    pub fn end(&self) -> u64 {
        let count = if let Flow::LeftOut { count, .. } = self { u64::from(*count) } else { 1 };
        self.seq().saturating_add(count)
    }

    /// How much earlier another came, in microseconds; `None` where one of them is no packet.
    pub fn age_of(&self, other: &Flow) -> Option<i64> {
        match (self, other) {
            (Flow::Packet(own), Flow::Packet(other)) => Some(own.packet.arrival.since(other.packet.arrival)),
            _ => None,
        }
    }

    /// Bytes of payload.
    pub fn payload_len(&self) -> usize {
        if let Flow::Packet(out) = self { out.packet.payload.len() } else { 0 }
    }

    /// A key frame begins with it.
    pub fn begins_key_frame(&self) -> bool {
        matches!(self, Flow::Packet(out) if out.packet.key_start)
    }
}
