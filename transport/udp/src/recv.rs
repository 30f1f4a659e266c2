//! A batch of received datagrams.

use std::iter::Zip;
use std::net::SocketAddr;
use std::slice;

use crate::sys::RecvHeaders;

/// The least slot length with GRO on: the kernel coalesces up to one maximal IP packet.
pub const GRO_SLOT_LEN: usize = 65_535;

/// Slots of equal length that one `recvmmsg` fills. Allocated once.
pub struct RecvBatch {
    pub(crate) headers: RecvHeaders,
    pub(crate) buffer: Box<[u8]>,
    pub(crate) slot_len: usize,
    pub(crate) received: Vec<Slot>,
}

/// What one slot holds.
pub(crate) struct Slot {
    /// `None`: cut by the slot's length, or from no address we know; to be dropped.
    pub(crate) from: Option<SocketAddr>,
    pub(crate) len: usize,
    /// The length of each datagram in the slot (the last may be shorter); huge when it is a single one.
    pub(crate) segment_len: usize,
}

impl RecvBatch {
    /// `slots` datagrams (with GRO: runs of datagrams) of at most `slot_len` bytes a call. A slot length of 1500
    /// takes every packet of an ordinary path; with GRO it must be [`GRO_SLOT_LEN`]. Both are at least 1.
    pub fn new(slots: usize, slot_len: usize) -> RecvBatch {
        let (slots, slot_len) = (slots.max(1), slot_len.max(1));
        RecvBatch {
            headers: RecvHeaders::new(slots),
            buffer: vec![0; slots * slot_len].into(),
            slot_len,
            received: Vec::with_capacity(slots),
        }
    }

    /// The datagrams of the last [`recv`](crate::Socket::recv), in order of arrival, each with its sender. An
    /// IPv4 peer of an IPv6 socket appears under its IPv4 address. Truncated datagrams are left out.
    pub fn iter_mut(&mut self) -> Datagrams<'_> {
        let slots = self.buffer.chunks_exact_mut(self.slot_len).zip(&self.received);
        Datagrams { slots, current: None }
    }

    /// How many datagrams of the last receive were dropped because they were longer than a slot.
    pub fn truncated(&self) -> usize {
        self.received.iter().filter(|slot| slot.from.is_none()).count()
    }

    /// Whether every slot was filled, so that more is likely to wait.
    pub fn is_full(&self) -> bool {
        self.received.len() * self.slot_len == self.buffer.len()
    }
}

/// The iterator of [`RecvBatch::iter_mut`].
pub struct Datagrams<'a> {
    slots: Zip<slice::ChunksExactMut<'a, u8>, slice::Iter<'a, Slot>>,
    /// What is left of a slot that held a run.
    current: Option<(SocketAddr, &'a mut [u8], usize)>,
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = (SocketAddr, &'a mut [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((from, run, segment_len)) = self.current.take() {
                if run.len() <= segment_len {
                    return Some((from, run));
                }
                let (datagram, rest) = run.split_at_mut(segment_len);
                self.current = Some((from, rest, segment_len));
                return Some((from, datagram));
            }
            let (bytes, slot) = self.slots.next()?;
            if let Some(from) = slot.from {
                let (run, _) = bytes.split_at_mut(slot.len);
                self.current = Some((from, run, slot.segment_len));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_split_and_truncated_slots_left_out() {
        let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let mut batch = RecvBatch::new(4, 10);
        for (i, byte) in batch.buffer.iter_mut().enumerate() {
            *byte = i as u8;
        }
        batch.received.push(Slot { from: Some(from), len: 10, segment_len: 4 });
        batch.received.push(Slot { from: None, len: 10, segment_len: usize::MAX });
        batch.received.push(Slot { from: Some(from), len: 0, segment_len: usize::MAX });
        batch.received.push(Slot { from: Some(from), len: 8, segment_len: 4 });
        let got: Vec<Vec<u8>> = batch.iter_mut().map(|(_, d)| d.to_vec()).collect();
        let want: [&[u8]; 6] =
            [&[0, 1, 2, 3], &[4, 5, 6, 7], &[8, 9], &[], &[30, 31, 32, 33], &[34, 35, 36, 37]];
        assert_eq!(got, want);
        assert_eq!(batch.truncated(), 1);
        assert!(batch.is_full());
    }
}
