//! What crosses links of a track, as nodes hold it between two of them, and how it is read from what comes of a subscription.

use bytes::Bytes;
use media::{Packet, Time};

use crate::control::{SEQ_MAX, TIME_MAX, Track};
use crate::datagram::{Flags, left_out_count};
use crate::hop::Arrived;

/// Datagrams of a track that come before the word what it is, or before the end of its stream: two round trips of one of 20 Mbit/s. Of more, the later are
/// left out.
pub const EARLY_MAX: usize = 4_096;

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

    /// Bytes of payload.
    pub fn payload_len(&self) -> usize {
        if let Flow::Packet(out) = self { out.packet.payload.len() } else { 0 }
    }

    /// A key frame begins with it.
    pub fn begins_key_frame(&self) -> bool {
        matches!(self, Flow::Packet(out) if out.packet.key_start)
    }
}

/// A track's number or time ran out of what streams live to see: the peer that says so is no peer of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a packet's number or time out of bounds")]
pub struct OutOfBounds;

/// Reads what comes of a subscription: the word what its track is goes another way than its packets, whose numbers and times are 32 bits of the track's.
#[derive(Debug, Default)]
pub struct Reader {
    /// What the track is, once told.
    track: Option<Track>,
    /// The newest number and time, from which the 32 bits in datagrams go on.
    newest: (u64, i64),
    /// What came in datagrams before the word what it is, or while they are held.
    early: Vec<Arrived>,
    holds: bool,
    overflows: u64,
}

impl Reader {
    /// What the track is, as far as told.
    pub fn track(&self) -> Option<&Track> {
        self.track.as_ref()
    }

    /// What the track is from now on. What came before that word is to be read again, in this order.
    pub fn told(&mut self, track: Track) -> Vec<Arrived> {
        self.told_in_order(track);
        std::mem::take(&mut self.early)
    }

    /// The same by a stream, of which nothing came before.
    pub fn told_in_order(&mut self, track: Track) {
        if self.track.as_ref().map(|before| before.epoch) != Some(track.epoch) {
            self.newest = (track.seq, track.timestamp);
        }
        self.track = Some(track);
    }

    /// Datagrams are held from now on: what a stream has is before them.
    pub fn hold(&mut self) {
        self.holds = true;
    }

    /// The stream is over. What came in datagrams meanwhile is to be read again, in this order.
    pub fn release(&mut self) -> Vec<Arrived> {
        self.holds = false;
        std::mem::take(&mut self.early)
    }

    /// How many were left out since the last call.
    pub fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows)
    }

    /// What its track is was said. Not of a codec that the word of is on its way.
    pub fn is_told(&self, arrived: &Arrived) -> bool {
        let epoch = arrived.media.flags.has(Flags::EPOCH);
        self.track.as_ref().is_some_and(|track| track.epoch == epoch || arrived.media.left_out)
    }

    /// What came in a datagram, as it was at the peer, whose clock is so much ahead of this one; `None` while it is not known what its track is or its stream
    /// is not over, or when it is from before the track's first number.
    ///
    /// # Errors
    /// [`OutOfBounds`], and the connection ends.
    pub fn read(&mut self, arrived: Arrived, clock_us: i64, now: Time) -> Result<Option<Flow>, OutOfBounds> {
        if !self.holds && self.is_told(&arrived) {
            return self.read_in_order(arrived, clock_us, now);
        }
        if self.early.len() < EARLY_MAX {
            self.early.push(arrived);
        } else {
            self.overflows = self.overflows.saturating_add(1);
        }
        Ok(None)
    }

    /// The same of a stream, which has said what its track is.
    ///
    /// # Errors
    /// [`OutOfBounds`], and the connection ends.
    pub fn read_in_order(
        &mut self,
        arrived: Arrived,
        clock_us: i64,
        now: Time,
    ) -> Result<Option<Flow>, OutOfBounds> {
        let header = arrived.media;
        let Some(track) = &self.track else { return Ok(None) };
        let (seq, timestamp) = self.newest;
        // 32 bits, from the newest on.
        let Some(seq) = seq.checked_add_signed(header.seq.wrapping_sub(seq as u32).cast_signed().into())
        else {
            return Ok(None);
        };
        if seq >= SEQ_MAX {
            return Err(OutOfBounds);
        }
        if header.left_out {
            let count = left_out_count(&arrived.payload).map_err(|_| OutOfBounds)?;
            return Ok(Some(Flow::LeftOut { seq, count }));
        }
        let ticks = header.timestamp.wrapping_sub(timestamp as u32).cast_signed();
        let timestamp = timestamp.saturating_add(ticks.into());
        if timestamp.unsigned_abs() > TIME_MAX.unsigned_abs() {
            return Err(OutOfBounds);
        }
        if seq > self.newest.0 {
            self.newest = (seq, timestamp);
        }
        let codec = track.codec;
        let passed = Time::from_ticks(timestamp.saturating_sub(track.timestamp), codec.clock_hz()).us();
        let capture = track.capture_us.saturating_add(passed).saturating_add(clock_us);
        let packet = Packet {
            seq,
            timestamp,
            arrival: now,
            capture: Time(capture.clamp(-TIME_MAX, TIME_MAX)),
            codec,
            marker: header.flags.has(Flags::END_OF_FRAME),
            key_start: header.flags.has(Flags::KEY),
            discardable: header.flags.has(Flags::DISCARDABLE),
            temporal: header.temporal,
            descriptor: arrived.descriptor,
            fresh_source: header.flags.has(Flags::FRESH_SOURCE),
            payload: arrived.payload,
        };
        let (config, ingest) = (track.config.clone(), now.plus_us(arrived.age_us.saturating_neg()));
        Ok(Some(Flow::Packet(Out { packet, dts_offset: header.dts_offset, config, ingest })))
    }
}
