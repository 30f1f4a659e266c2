//! A track on the link: which of its frames are taken, and what the peer is to be told of those that are not.

use super::outgoing::Outbound;
use crate::datagram::{Flags, LEFT_OUT_MAX};

/// A track on the link.
#[derive(Default, Debug)]
pub(super) struct Lane {
    /// The frame that is being taken or left out: its time, and how many of its packets came.
    pub(super) frame: Option<(u32, i64)>,
    pub(super) leaves_out: bool,
    /// Nothing is taken before a key frame.
    pub(super) cut: bool,
    /// Numbers of packets that were not taken or grew too old: the first and how many. The peer is told before what is taken next.
    pub(super) missing: Option<(u32, u32)>,
    /// The newest number that was taken, and the newest key frame's time and first number.
    newest: Option<u32>,
    key: Option<(u32, u32)>,
    /// The time of the frame that is being sent.
    pub(super) sent: Option<u32>,
    /// Of those that were taken these numbers, the first and how many, do not go: a packet before them grew too old.
    dropped: (u32, u32),
}

fn is_behind(seq: u32, other: u32) -> bool {
    seq.wrapping_sub(other).cast_signed() > 0
}

impl Lane {
    /// It will be sent.
    pub(super) fn take(&mut self, packet: &Outbound) {
        self.newest = self.newest.filter(|newest| is_behind(*newest, packet.seq)).or(Some(packet.seq));
        if packet.flags.has(Flags::KEY) {
            let begun = self.key.filter(|(timestamp, _)| *timestamp == packet.timestamp);
            let first = begun.map(|(_, first)| first).filter(|first| is_behind(packet.seq, *first));
            self.key = Some((packet.timestamp, first.unwrap_or(packet.seq)));
        }
    }

    /// Whether it goes with a packet that grew too old: the word for that covers it.
    pub(super) fn drops(&self, packet: &Outbound) -> bool {
        let (first, count) = self.dropped;
        let least = u32::from(packet.left_out);
        (least..count).contains(&packet.seq.wrapping_sub(first))
    }

    /// A picture's packet grew too old, so all that waits behind it up to a key frame is of no use: how many numbers that are. Without such a key frame
    /// nothing more is taken, either.
    pub(super) fn drop_from(&mut self, seq: u32) -> u32 {
        let key = self.key.map(|(_, first)| first).filter(|first| is_behind(*first, seq));
        if key.is_none() {
            (self.cut, self.leaves_out) = (true, true);
        }
        let newest = self.newest.filter(|newest| is_behind(*newest, seq)).unwrap_or(seq);
        let count = key.unwrap_or(newest.wrapping_add(1)).wrapping_sub(seq).min(LEFT_OUT_MAX / 2);
        self.dropped = (seq, count);
        count
    }

    /// The packet does not go. What was missing before, when it does not go on with this.
    pub(super) fn miss(&mut self, seq: u32, count: u32) -> Option<(u32, u32)> {
        let before = self.missing.take();
        let (run, apart) = match before {
            Some((first, run)) if first.wrapping_add(run) == seq && run < LEFT_OUT_MAX / 2 => {
                ((first, run.saturating_add(count)), None)
            }
            Some((first, run)) if seq.wrapping_add(count) == first && run < LEFT_OUT_MAX / 2 => {
                ((seq, run.saturating_add(count)), None)
            }
            apart => ((seq, count), apart),
        };
        self.missing = Some(run);
        apart
    }
}
