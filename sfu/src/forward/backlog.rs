//! What waits in the ring for the pacer: a catch-up from the last GOP, or packets that came faster than they may go. Frames that are left
//! out take no numbers.

use media::{Codec, Packet, Time};
use metrics::DropReason;

use super::{Forwarder, OVERHEAD_MAX, State, Way};
use crate::gate::{Gate, Link, is_late, may_be_missed};
use crate::pacer::Pacer;
use crate::ranges::{IdDeltas, Range};
use crate::ring::Ring;
use crate::shard::Egress;

impl Forwarder {
    /// Sends what waits in the ring, as much as the pacer gives.
    pub(crate) fn advance<E: Egress>(
        &mut self,
        ring: &Ring,
        pacer: &mut Pacer,
        link: Link,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let (State::CatchUp { mut next, .. } | State::Live { next: Some(mut next) }) = self.state else {
            return Ok(());
        };
        for packet in ring.from(next) {
            if !pacer.has_room() {
                self.move_to(next);
                return Ok(());
            }
            if packet.fresh_source && packet.seq != next {
                // The source changed under way: what follows is another picture. It may have its key frame already.
                if !self.change_source(packet, ring) {
                    return Ok(());
                }
            }
            self.choose(packet)?;
            next = packet.seq + 1;
            let before = (self.left_out_time, self.left_out_frames);
            if let Some(why) = self.leaves_out(packet, ring, link, way.now) {
                // A cut hides what it misses.
                if self.gate != Gate::KeyFrame {
                    self.leave_open(packet.seq, before);
                }
                self.left_out = Some(packet.seq);
                if let Some(reason) = why {
                    way.metrics.dropped(reason);
                }
                continue;
            }
            self.go_on_at(packet);
            let Some((range, seq)) = self.ranges.of_track(packet.seq) else { continue };
            pacer.spend(packet.payload.len() + OVERHEAD_MAX);
            match self.send_mapped(packet, range, seq, way) {
                Ok(()) | Err(DropReason::SendBufferFull) => {}
                Err(why) => {
                    self.move_to(next);
                    return Err(why);
                }
            }
        }
        if let State::CatchUp { join: Some((first, offset)), .. } = self.state {
            self.push_join(first, offset);
        }
        // Frames are being left out: what comes goes past the gate.
        let holds = self.gate != Gate::Open || self.left_out.is_some();
        self.state = State::Live { next: holds.then_some(next) };
        Ok(())
    }

    /// Packets that wait in the ring, holes included.
    pub(crate) fn waiting(&self, ring: &Ring) -> usize {
        match (self.state, ring.head()) {
            (State::CatchUp { next, .. } | State::Live { next: Some(next) }, Some(head)) => {
                (head + 1).saturating_sub(next) as usize
            }
            _ => 0,
        }
    }

    /// The oldest packet that waits.
    pub(crate) fn oldest<'a>(&self, ring: &'a Ring) -> Option<&'a Packet> {
        match self.state {
            State::CatchUp { next, .. } | State::Live { next: Some(next) } => ring.from(next).next(),
            _ => None,
        }
    }

    /// Whether a packet that waits is left out with its frame, and for what: a catch-up shows references only.
    pub(super) fn leaves_out(
        &mut self,
        packet: &Packet,
        ring: &Ring,
        link: Link,
        now: Time,
    ) -> Option<Option<DropReason>> {
        if self.frame_time == Some(packet.timestamp) && self.left_out.is_none() {
            return None; // what began is brought to its end
        }
        let begins = self.left_out_time != Some(packet.timestamp) || self.left_out.is_none();
        let live = matches!(self.state, State::Live { .. });
        let above = packet.temporal.id > 0 && !packet.key_start;
        let late = begins && live && above && is_late(packet, now);
        if late {
            self.temporal.relieve();
        }
        let newer_key = ring.key().is_some_and(|key| key > packet.seq);
        let holds = self.gate == Gate::KeyFrame && !packet.key_start;
        let why = if !begins {
            Some(self.left_out_for)
        } else if !holds && (late || self.temporal.refuses(packet)) {
            Some(Some(DropReason::TemporalLayer))
        } else if !live && (link == Link::Wide || (link == Link::Full && !newer_key)) {
            // A catch-up is late by nature, and on its way to the live point; through a full link that of a newer key frame is nearer.
            may_be_missed(packet).then_some(None)
        } else {
            self.gate.refuses(packet, newer_key, link == Link::Limited, now).map(Some)
        };
        if begins && let Some(reason) = why {
            (self.left_out_time, self.left_out_for) = (Some(packet.timestamp), reason);
            self.left_out_frames = self.left_out_frames.wrapping_add(1);
            match reason {
                Some(DropReason::TemporalLayer) => self.sent.frames_above += 1,
                Some(_) => self.sent.frames_left_out += 1,
                None => {}
            }
        }
        why
    }

    /// What is missing before `seq` among what is left out may be of a frame that is not: its numbers stay the receiver's to miss. `before` are
    /// the time stamp of the frame that was left out before it, and how many were.
    fn leave_open(&mut self, seq: u64, before: (Option<i64>, u16)) {
        let (Some(highest), Some(last)) = (self.highest, self.ranges.last()) else { return };
        // Of a track that was entered at a key frame nothing before that is missing.
        let first = (self.left_out.unwrap_or(self.highest_in) + 1).max(last.in_first);
        if first >= seq {
            return;
        }
        self.left_out_holes = true;
        let out_first = match self.left_out {
            Some(_) if matches!(self.state, State::Live { .. }) => {
                let (left_out, frames) = before;
                // The frame that `seq` begins is behind the hole.
                let behind = self.left_out_frames.wrapping_sub(frames);
                self.left_out_frames = frames;
                let (in_first, out_first, ids) = (first, self.next_out(), self.ids_behind(last));
                self.left_out_frames = behind;
                self.ranges.push(Range { in_first, out_first, left_out, ids, ..last });
                out_first
            }
            None => highest + 1,
            // A catch-up's GOP is whole.
            Some(_) => return,
        };
        // A frame that was cut has its gap.
        self.frame_open = false;
        (self.highest, self.highest_in) = (Some(out_first + (seq - first) - 1), seq - 1);
    }

    /// The ids behind the frames that were left out: as if they had never been.
    fn ids_behind(&mut self, before: Range) -> IdDeltas {
        let frames = std::mem::take(&mut self.left_out_frames);
        if self.picture_ids.is_none() {
            // Nothing is rewritten, and what was sent so stays so.
            return before.ids;
        }
        IdDeltas { picture: before.ids.picture.wrapping_sub(frames), ..before.ids }
    }

    /// `packet` is sent next: behind frames that were left out and at the live point of a catch-up a range begins.
    pub(super) fn go_on_at(&mut self, packet: &Packet) {
        let join = match self.state {
            State::CatchUp { next, join: Some((first, offset)) } if packet.seq >= first => {
                self.state = State::CatchUp { next, join: None };
                Some((first, offset))
            }
            _ => None,
        };
        let holes = std::mem::take(&mut self.left_out_holes) || self.left_out != packet.seq.checked_sub(1);
        let Some(last) = self.left_out.take() else {
            if let Some((first, offset)) = join {
                self.push_join(first, offset);
            }
            return;
        };
        let Some(before) = self.ranges.last() else { return };
        let mut behind = self.ids_behind(before);
        if !holes && let Some(ids) = self.picture_ids.filter(|_| packet.codec == Codec::Vp8) {
            // Others were left out on the way here, next to them.
            behind.picture = behind.picture.wrapping_sub(ids.missing_before(&packet.payload, behind));
        }
        let ids = if packet.key_start { self.ids_from(packet) } else { behind };
        let time = match join {
            Some((_, offset)) => Range { time_in: 0, time_out: offset, squeeze: None, ..before },
            None => before,
        };
        // What is missing right behind them is taken for this frame's.
        let (in_first, out_first) = (last + 1, self.next_out());
        self.ranges.push(Range { in_first, out_first, left_out: self.left_out_time, ids, ..time });
        if packet.key_start && self.left_out_for == Some(DropReason::CongestedToKeyFrame) {
            // What is before it was cut.
            self.begin_at_key(out_first, packet.timestamp);
        }
    }

    /// The live point of a catch-up: the same numbering, so that a packet missing at the seam shows.
    pub(super) fn push_join(&mut self, first: u64, offset: i64) {
        let Some(before) = self.ranges.last() else { return };
        let out_first = before.out_first + (first - before.in_first);
        self.ranges.push(Range {
            out_first,
            in_first: first,
            time_in: 0,
            time_out: offset,
            squeeze: None,
            left_out: None,
            ids: before.ids,
        });
    }

    /// The source changed among what waits. Returns whether `packet` is sent next.
    pub(super) fn change_source(&mut self, packet: &Packet, ring: &Ring) -> bool {
        let live = matches!(self.state, State::Live { .. });
        if live && packet.key_start && self.choose(packet).is_ok() {
            self.join_live(packet);
            self.state = State::Live { next: Some(packet.seq) };
            return true;
        }
        self.state = State::AwaitKeyFrame;
        self.forget_left_out();
        let key = ring.key().filter(|key| *key >= packet.seq && ring.whole_from(*key));
        if let Some(key) = key {
            self.catch_up_from(ring, key);
        }
        false
    }

    pub(super) fn move_to(&mut self, at: u64) {
        match &mut self.state {
            State::CatchUp { next, .. } | State::Live { next: Some(next) } => *next = at,
            _ => {}
        }
    }

    pub(super) fn forget_left_out(&mut self) {
        (self.gate, self.left_out, self.left_out_time, self.frame_time) = (Gate::Open, None, None, None);
        self.left_out_frames = 0;
    }
}
