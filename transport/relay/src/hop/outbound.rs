//! A packet for the link, and what its datagram says of it.

use bytes::Bytes;
use media::{Temporal, Time};

use crate::datagram::{Flags, Media, Part};

/// How urgent a packet is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Sound: little, and missed at once.
    Audio,
    /// A picture.
    Video,
}

/// A packet for the link.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// How urgent.
    pub class: Class,
    /// As the subscription named its track.
    pub track: u64,
    /// What it is; not whether it is sent again.
    pub flags: Flags,
    /// When it came into the cluster, on this node's clock.
    pub ingest: Time,
    /// How old it may get and still be of use, in milliseconds.
    pub budget_ms: u16,
    /// Its number on the track, low 32 bits.
    pub seq: u32,
    /// Its time, low 32 bits.
    pub timestamp: u32,
    /// Presentation minus decoding time.
    pub dts_offset: u32,
    /// Where its frame stands among the temporal layers.
    pub temporal: Temporal,
    /// Its frame's dependency descriptor.
    pub descriptor: Bytes,
    /// RTP payload.
    pub payload: Bytes,
    /// It is the word that packets do not come: see [`crate::datagram::left_out`].
    pub left_out: bool,
}

impl Outbound {
    /// Its header, if it leaves now: without a number.
    pub fn header(&self, now: Time) -> Media {
        let age_ms = now.since(self.ingest).max(0) / 1_000;
        Media {
            part: Part::Whole,
            flags: self.flags,
            link_seq: 0,
            track: self.track,
            sent: 0,
            age_ms: u16::try_from(age_ms).unwrap_or(u16::MAX),
            budget_ms: self.budget_ms,
            seq: self.seq,
            timestamp: self.timestamp,
            dts_offset: self.dts_offset,
            temporal: self.temporal,
            left_out: self.left_out,
            more: false,
        }
    }

    /// If all else of it is as the datagram of its frame's first packet says: how many packets further behind that it is. Ages are whole milliseconds.
    pub(super) fn goes_on_with(&self, first: &Outbound, back: u8) -> Option<i8> {
        let all =
            |it: &Outbound| (it.track, it.timestamp, it.budget_ms, it.dts_offset, it.temporal, it.left_out);
        let goes_on = all(self) == all(first)
            && self.flags.without(Flags::END_OF_FRAME) == first.flags.without(Flags::OF_THE_FIRST)
            && self.ingest.since(first.ingest).abs() < 1_000
            && self.descriptor.is_empty()
            && !self.left_out;
        let gap = self.seq.wrapping_sub(first.seq).wrapping_sub(back.into());
        goes_on.then(|| i8::try_from(gap.cast_signed()).ok()).flatten()
    }
}
