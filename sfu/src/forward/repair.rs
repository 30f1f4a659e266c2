//! What is sent besides what is new: answers to NACKs, within a guard and a budget, and what probes are made of.

use media::Time;
use metrics::DropReason;

use super::write::{Body, Header};
use super::{Forwarder, OVERHEAD_MAX, Way};
use crate::pacer::Repair;
use crate::ring::Ring;
use crate::shard::Egress;

/// Resend guard's table: one slot a number, by the low bits. 1024 is 2 s at 500 pps.
const RESENT_SLOTS: usize = 1_024;
/// A packet goes out again at most this often: as often as browsers ask. With 3 (LiveKit, JVB) a path that loses 10 % lost a packet for good every
/// half minute, and with it the picture up to the next key frame.
const COPIES_MAX: u8 = 10;
/// Resends may be this share of what is sent, counted in bytes over about a second, with a floor for sparse streams.
pub(super) const RESEND_SHARE_PERCENT: u64 = 15;
pub(super) const RESEND_FLOOR_BYTES: i64 = 30_000;
/// With the copies in the table: one more waits to be sent.
const WAITS: u8 = 0x80;
/// What is older than the last key frame is no use once the receiver shows that. Until then the end of the GOP is repaired: packets no older than
/// reordering and three requests take, and 400 ms, after which no live viewer waits for them. An outage leaves older ones.
const REORDERED_US: i64 = 50_000;
const GRACE_RTT_PERCENT: i64 = 350;
const GRACE_US_MAX: i64 = 400_000;
/// Without a report yet, a resend is repeated no sooner.
const RTT_UNKNOWN_US: i64 = 50_000;
/// A probe sends nothing again that is older: its picture was shown or given up.
const PROBE_AGE_US_MAX: i64 = 1_000_000;
/// A packet of padding: as much as its count can say (RFC 3550 section 5.1), the count in the last byte.
const PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    padding[254] = 255;
    padding
};

/// A number that was sent again, or waits to be: eight bytes, as each viewer that was probed has the table.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Resent {
    /// When, in milliseconds; 0 for not yet.
    at_ms: u32,
    /// The number, without what says the slot. (The table knows 2^26 numbers apart: a day.)
    high: u16,
    /// How often, and [`WAITS`].
    copies: u8,
}

/// Which slot a number has, and how it is known there.
fn slot_of(out_seq: u64) -> (usize, u16) {
    (out_seq as usize % RESENT_SLOTS, (out_seq / RESENT_SLOTS as u64) as u16)
}

impl Forwarder {
    /// A NACK for one number, or a feedback that says that its packet of the time `lost` is lost: what is to be sent again, when the guard
    /// allows it. Its cost is taken from the budget, which may be short then.
    pub(crate) fn repair_for(
        &mut self,
        asked: u16,
        lost: Option<Time>,
        ring: &Ring,
        rtt_us: i64,
        now: Time,
        index: u8,
    ) -> Result<Repair, DropReason> {
        let highest = self.highest.ok_or(DropReason::ResendMissing)?;
        // The number nearest to the highest sent, by signed 16-bit difference.
        let back = (highest as u16).wrapping_sub(asked) as i16;
        let out_seq = highest.checked_add_signed(-i64::from(back)).ok_or(DropReason::ResendMissing)?;
        if out_seq > highest || out_seq < self.before_key.unwrap_or(self.key_out) {
            return Err(DropReason::ResendRefused);
        }
        let (_, seq) = self.ranges.of_subscriber(out_seq).ok_or(DropReason::ResendMissing)?;
        let packet = ring.get(seq).ok_or(DropReason::ResendMissing)?;
        let grace_us = (rtt_us * GRACE_RTT_PERCENT / 100 + REORDERED_US).min(GRACE_US_MAX);
        if out_seq < self.key_out && now.since(packet.arrival) > grace_us {
            return Err(DropReason::ResendRefused);
        }
        if self.choice.is_some_and(|c| c.rtx_payload_type.is_none() && c.twcc.is_some()) {
            return Err(DropReason::ResendRefused); // another header under the same number would repeat a nonce
        }

        if !self.may_resend(out_seq, rtt_us, now) {
            return Err(DropReason::ResendRefused);
        }
        let slot = &mut self.resent[slot_of(out_seq).0];
        // Another copy is under way that nothing is known of.
        if lost.is_some_and(|sent| slot.at_ms != 0 && (slot.at_ms.wrapping_sub(sent.ms() as u32) as i32) > 0)
        {
            return Err(DropReason::ResendRefused);
        }
        if slot.copies >= COPIES_MAX {
            return Err(DropReason::ResendRefused);
        }
        let cost = packet.payload.len() + OVERHEAD_MAX;
        slot.copies = (slot.copies + 1) | WAITS;
        self.budget -= cost as i64;
        Ok(Repair { out_seq, forwarder: index, cost: cost as u16, asked: lost.is_none() })
    }

    /// The guard: nothing goes again that waits to, or that did within a round trip. From here on the table's slot is the number's.
    fn may_resend(&mut self, out_seq: u64, rtt_us: i64, now: Time) -> bool {
        if self.resent.is_empty() {
            self.resent = vec![Resent::default(); RESENT_SLOTS];
        }
        let (at, high) = slot_of(out_seq);
        let slot = &mut self.resent[at];
        if slot.high != high {
            *slot = Resent { high, ..Resent::default() };
        }
        let guard_us = if rtt_us > 0 { rtt_us * 9 / 10 } else { RTT_UNKNOWN_US };
        let since_us = i64::from((now.ms() as u32).wrapping_sub(slot.at_ms)) * 1_000;
        slot.copies & WAITS == 0 && (slot.at_ms == 0 || since_us >= guard_us)
    }

    /// Whether more retransmissions wait than the budget has.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget < 0
    }

    /// A retransmission is not sent after all: it is no copy, and its bytes are another's.
    pub(crate) fn give_up(&mut self, repair: Repair) {
        self.budget += i64::from(repair.cost);
        let (at, high) = slot_of(repair.out_seq);
        if let Some(slot) = self.resent.get_mut(at).filter(|slot| slot.high == high) {
            (slot.at_ms, slot.copies) = (0, (slot.copies & !WAITS).saturating_sub(1));
        }
    }

    /// Sends a packet again.
    pub(crate) fn repair<E: Egress>(
        &mut self,
        repair: Repair,
        ring: &Ring,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let bytes = self.send_again(repair.out_seq, ring, way)?;
        self.sent.resent += 1;
        self.sent.resent_unasked += u64::from(!repair.asked);
        self.sent.resent_bytes += bytes;
        Ok(())
    }

    /// Sends a number again; returns its bytes on the wire.
    fn send_again<E: Egress>(
        &mut self,
        out_seq: u64,
        ring: &Ring,
        way: &mut Way<'_, E>,
    ) -> Result<u64, DropReason> {
        let (at, high) = slot_of(out_seq);
        if let Some(slot) = self.resent.get_mut(at).filter(|slot| slot.high == high) {
            (slot.at_ms, slot.copies) = (way.now.ms() as u32, slot.copies & !WAITS);
        }
        let (range, seq) = self.ranges.of_subscriber(out_seq).ok_or(DropReason::ResendMissing)?;
        let packet = ring.get(seq).ok_or(DropReason::ResendMissing)?;
        let choice = self.choice.filter(|c| c.codec == packet.codec).ok_or(DropReason::ResendMissing)?;
        let time = range.out_time(packet.timestamp) as u32;
        let header = match choice.rtx_payload_type {
            Some(payload_type) => {
                let (seq, ssrc) = (self.rtx_seq, self.rtx_ssrc);
                self.rtx_seq += 1;
                Header { seq, time, payload_type, ssrc, original: Some(out_seq as u16) }
            }
            // Same number, same bytes: under SRTP the same ciphertext again.
            None => {
                let (payload_type, ssrc) = (choice.payload_type, self.ssrc);
                Header { seq: out_seq, time, payload_type, ssrc, original: None }
            }
        };
        let before = self.sent.wire_bytes;
        self.write(packet, range, header, way)?;
        Ok(self.sent.wire_bytes - before)
    }

    /// Sends a packet of the probe under way, whose bytes on the wire it returns; 0 when it cannot now. With RTX it is one sent before, the newest
    /// first, which may be what the receiver lacks; padding when there is none.
    pub(crate) fn probe<E: Egress>(
        &mut self,
        ring: &Ring,
        rtt_us: i64,
        way: &mut Way<'_, E>,
    ) -> Result<usize, DropReason> {
        let Some(out_seq) = self.next_copy(ring, rtt_us, way) else { return self.pad(way) };
        let bytes = self.send_again(out_seq, ring, way)?;
        self.sent.probe_copies += 1;
        self.sent.probe_copy_bytes += bytes;
        Ok(bytes as usize)
    }

    /// The newest number that the probe under way has not been at and that may go again.
    fn next_copy<E>(&mut self, ring: &Ring, rtt_us: i64, way: &Way<'_, E>) -> Option<u64> {
        self.choice?.rtx_payload_type?;
        let (probe, highest) = (way.probe?, self.highest?);
        let mut next = self.probed.filter(|(of, _)| *of == probe).map_or(highest, |(_, next)| next);
        let mut found = None;
        // Nothing before the last key frame is sent again, and nothing whose slot of the table is another's now.
        let oldest = self.key_out.max(1).max((highest + 1).saturating_sub(RESENT_SLOTS as u64));
        while found.is_none() && next >= oldest {
            let packet = self.ranges.of_subscriber(next).and_then(|(range, seq)| {
                ring.get(seq).filter(|p| !p.payload.is_empty() && range.left_out != Some(p.timestamp))
            });
            if packet.is_some_and(|p| way.now.since(p.arrival) > PROBE_AGE_US_MAX) {
                next = 0;
                break;
            }
            if packet.is_some() && self.may_resend(next, rtt_us, way.now) {
                found = Some(next);
            }
            next -= 1;
        }
        self.probed = Some((probe, next));
        found
    }

    /// Sends a packet of padding: in a stream of its own with RTX, which no decoder sees; else between frames, with a number of theirs.
    fn pad<E: Egress>(&mut self, way: &mut Way<'_, E>) -> Result<usize, DropReason> {
        let (Some(choice), Some(highest)) = (self.choice, self.highest) else { return Ok(0) };
        let time = self.last_time as u32;
        let header = match choice.rtx_payload_type {
            Some(payload_type) => {
                let seq = self.rtx_seq;
                self.rtx_seq += 1;
                Header { seq, time, payload_type, ssrc: self.rtx_ssrc, original: None }
            }
            None if self.frame_open || choice.twcc.is_none() => return Ok(0),
            None => {
                let (seq, payload_type) = (highest + 1, choice.payload_type);
                self.ranges.pad(seq, self.highest_in + 1);
                self.highest = Some(seq);
                Header { seq, time, payload_type, ssrc: self.ssrc, original: None }
            }
        };
        let before = self.sent.wire_bytes;
        self.write_out(Body { payload: &PADDING, padding: true, ..Body::default() }, header, way)?;
        let bytes = self.sent.wire_bytes - before;
        self.sent.padding_bytes += bytes;
        Ok(bytes as usize)
    }
}
