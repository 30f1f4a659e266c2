//! A batch of datagrams to send, and how it is cut into kernel messages.

use std::net::SocketAddr;
use std::ops::Range;

use crate::sys::SendHeaders;

/// The longest UDP payload over IPv4: 65535 - 20 (IP) - 8 (UDP).
pub const DATAGRAM_LEN_MAX: usize = 65_507;

/// The most segments of one GSO message. Linux before 6.9 takes 64 (`UDP_MAX_SEGMENTS`), later ones 128; past
/// 16 there is little to gain (2.6 against 3.1 million packets a second and core).
pub const GSO_SEGMENTS_MAX: usize = 64;

/// Datagrams back to back in one arena, sent together by [`Socket::send`](crate::Socket::send). Allocated once.
///
/// Consecutive datagrams of one length to one destination become one kernel message, and the last of them may
/// be shorter: write a frame's packets for one subscriber one after the other.
pub struct SendBatch {
    pub(crate) headers: SendHeaders,
    pub(crate) messages: Vec<Message>,
    pub(crate) arena: Box<[u8]>,
    pub(crate) datagrams: Vec<Datagram>,
    used: usize,
    reserved: usize,
    datagrams_max: usize,
}

/// One committed datagram: `len` bytes that follow its predecessor's in the arena.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) to: SocketAddr,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// What the kernel is given as one message: a datagram, or a run of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) to: SocketAddr,
    /// Where it is in the arena.
    pub(crate) bytes: Range<usize>,
    /// How many datagrams it is.
    pub(crate) datagrams: usize,
    /// The length of each but the last; `None` for a single datagram.
    pub(crate) segment_len: Option<u16>,
}

impl SendBatch {
    /// Room for `bytes_max` bytes in at most `datagrams_max` datagrams.
    pub fn new(bytes_max: usize, datagrams_max: usize) -> SendBatch {
        SendBatch {
            headers: SendHeaders::new(datagrams_max),
            messages: Vec::with_capacity(datagrams_max),
            arena: vec![0; bytes_max].into(),
            datagrams: Vec::with_capacity(datagrams_max),
            used: 0,
            reserved: 0,
            datagrams_max,
        }
    }

    /// The next `len_max` bytes of the arena, to write one datagram into; they hold old bytes, not zeros.
    /// `None` when the batch is full for it (send it, then ask again) or `len_max` exceeds
    /// [`DATAGRAM_LEN_MAX`]. A reservation that is not committed costs nothing.
    pub fn reserve(&mut self, len_max: usize) -> Option<&mut [u8]> {
        self.reserved = 0;
        if len_max > DATAGRAM_LEN_MAX || self.datagrams.len() >= self.datagrams_max {
            return None;
        }
        let end = self.used.checked_add(len_max)?;
        let room = self.arena.get_mut(self.used..end)?;
        self.reserved = len_max;
        Some(room)
    }

    /// Makes the first `len` bytes of the last reservation a datagram to `to`. A length of 0 gives the
    /// reservation up.
    ///
    /// # Panics
    /// When `len` exceeds what was reserved: the caller then wrote outside what it asked for.
    pub fn commit(&mut self, len: usize, to: SocketAddr) {
        assert!(len <= self.reserved, "committed {len} bytes of {} reserved", self.reserved);
        self.reserved = 0;
        if len > 0 {
            self.datagrams.push(Datagram { to, start: self.used, len });
            self.used += len;
        }
    }

    /// Copies a ready datagram in; `false` when the batch is full for it.
    pub fn push(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        match self.reserve(datagram.len()) {
            Some(room) => {
                room.copy_from_slice(datagram);
                self.commit(datagram.len(), to);
                true
            }
            None => false,
        }
    }

    /// Whether no further datagram of `len` bytes fits.
    pub fn is_full_for(&self, len: usize) -> bool {
        self.datagrams.len() >= self.datagrams_max || self.arena.len() - self.used < len
    }

    /// Whether no further datagram of an ordinary path (1500 bytes) fits.
    pub fn is_full(&self) -> bool {
        self.is_full_for(1500)
    }

    /// How many datagrams wait.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Forgets what was not sent.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.used = 0;
        self.reserved = 0;
    }

    /// Cuts the datagrams from `first` on into `self.messages`: into runs, save that datagrams before
    /// `plain_until` go one by one (`usize::MAX`: all do).
    pub(crate) fn cut(&mut self, first: usize, plain_until: usize) {
        self.messages.clear();
        for (i, datagram) in self.datagrams.iter().enumerate().skip(first) {
            let joined = i > plain_until && self.messages.last_mut().is_some_and(|m| m.join(datagram));
            if !joined {
                self.messages.push(Message {
                    to: datagram.to,
                    bytes: datagram.start..datagram.start + datagram.len,
                    datagrams: 1,
                    segment_len: None,
                });
            }
        }
    }
}

impl Message {
    /// Adds the datagram that follows in the arena, if the kernel can send it as one more segment.
    fn join(&mut self, next: &Datagram) -> bool {
        let len = self.bytes.len();
        let segment = self.segment_len.map_or(len, usize::from);
        let fits = self.to == next.to
            // all are of one length: a shorter one has ended the run, a longer one cannot join it
            && len == segment * self.datagrams
            && next.len <= segment
            && self.datagrams < GSO_SEGMENTS_MAX
            && len + next.len <= DATAGRAM_LEN_MAX;
        match u16::try_from(segment) {
            Ok(segment) if fits => {
                self.bytes.end += next.len;
                self.datagrams += 1;
                self.segment_len = Some(segment);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// (port, length) pairs in, (port, bytes, datagrams, segment length) out.
    fn runs(datagrams: &[(u16, usize)], plain_until: usize) -> Vec<(u16, usize, usize, Option<u16>)> {
        let mut batch = SendBatch::new(1 << 20, 1000);
        for (port, len) in datagrams {
            assert!(batch.push(address(*port), &vec![0; *len]));
        }
        batch.cut(0, plain_until);
        batch.messages.iter().map(|m| (m.to.port(), m.bytes.len(), m.datagrams, m.segment_len)).collect()
    }

    #[test]
    fn equal_lengths_to_one_destination_are_one_message_and_the_last_may_be_shorter() {
        assert_eq!(runs(&[(1, 1200), (1, 1200), (1, 300)], 0), [(1, 2700, 3, Some(1200))]);
        // Chromium's frames: s, s, then s + 1.
        let chromium = [(1, 1100), (1, 1100), (1, 1101), (1, 1101)];
        assert_eq!(runs(&chromium, 0), [(1, 2200, 2, Some(1100)), (1, 2202, 2, Some(1101))]);
        // A shorter one ends the run even before another of the first length.
        assert_eq!(
            runs(&[(1, 9), (1, 9), (1, 5), (1, 5), (1, 9)], 0),
            [(1, 23, 3, Some(9)), (1, 5, 1, None), (1, 9, 1, None)]
        );
        assert_eq!(runs(&[(1, 9), (2, 9), (1, 9)], 0), [(1, 9, 1, None), (2, 9, 1, None), (1, 9, 1, None)]);
    }

    #[test]
    fn a_run_keeps_the_kernels_limits() {
        let many = vec![(1, 100); 130];
        let lens: Vec<usize> = runs(&many, 0).iter().map(|m| m.2).collect();
        assert_eq!(lens, [64, 64, 2]);
        let long = vec![(1, 1500); 60];
        assert!(runs(&long, 0).iter().all(|m| m.1 <= DATAGRAM_LEN_MAX));
        assert_eq!(runs(&long, 0).len(), 2);
    }

    #[test]
    fn plain_datagrams_are_not_joined() {
        let three = [(1, 9), (1, 9), (1, 9)];
        assert_eq!(runs(&three, usize::MAX).len(), 3);
        // The first two one by one; the third starts afresh.
        let five = [(1, 9), (1, 9), (1, 9), (1, 9), (1, 9)];
        let cut: Vec<usize> = runs(&five, 2).iter().map(|m| m.2).collect();
        assert_eq!(cut, [1, 1, 3]);
    }

    #[test]
    fn limits_refuse_and_uncommitted_room_is_free() {
        let mut batch = SendBatch::new(3000, 3);
        assert!(batch.reserve(3001).is_none());
        assert!(batch.reserve(DATAGRAM_LEN_MAX + 1).is_none());
        assert_eq!(batch.reserve(3000).map(|b| b.len()), Some(3000));
        assert!(!batch.is_full() && batch.is_empty());
        batch.reserve(1500).unwrap()[0] = 7;
        batch.commit(1000, address(1));
        assert_eq!((batch.len(), batch.bytes(), batch.is_full()), (1, 1000, false));
        assert!(batch.push(address(1), &[1; 1000]));
        assert!(batch.is_full() && !batch.is_full_for(1000));
        assert!(batch.push(address(1), &[2; 10]));
        assert!(batch.is_full_for(1) && !batch.push(address(1), &[3]), "three datagrams are the limit");
        batch.clear();
        assert!(batch.is_empty() && batch.reserve(3000).is_some());
        batch.commit(0, address(1));
        assert!(batch.is_empty());
    }

    #[test]
    #[should_panic(expected = "committed 2 bytes of 1 reserved")]
    fn committing_more_than_reserved_is_a_bug() {
        let mut batch = SendBatch::new(10, 1);
        batch.reserve(1);
        batch.commit(2, address(1));
    }

    proptest! {
        /// Whatever is cut: the messages cover every byte and datagram once, in order, and undoing the kernel's
        /// segmentation gives the datagrams back.
        #[test]
        fn messages_are_the_datagrams(
            datagrams in prop::collection::vec((1_u16..3, prop::sample::select(vec![1_usize, 7, 1200, 1201, 40_000])), 0..150),
            first in 0_usize..20,
            plain in 0_usize..40,
        ) {
            let mut batch = SendBatch::new(8 << 20, 150);
            for (port, len) in &datagrams {
                prop_assert!(batch.push(address(*port), &vec![0; *len]));
            }
            batch.cut(first, plain);
            let mut out = Vec::new();
            let mut at = batch.datagrams.get(first).map_or(0, |d| d.start);
            for m in &batch.messages {
                prop_assert_eq!(m.bytes.start, at);
                at = m.bytes.end;
                prop_assert!(m.datagrams <= GSO_SEGMENTS_MAX && m.bytes.len() <= DATAGRAM_LEN_MAX);
                let segment = m.segment_len.map_or(m.bytes.len(), usize::from);
                let lens: Vec<usize> = m.bytes.clone().collect::<Vec<_>>().chunks(segment).map(<[usize]>::len).collect();
                prop_assert_eq!(lens.len(), m.datagrams);
                out.extend(lens.into_iter().map(|len| (m.to.port(), len)));
            }
            prop_assert_eq!(&out[..], datagrams.get(first..).unwrap_or_default());
        }
    }
}
