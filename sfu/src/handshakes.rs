//! Datagrams of handshakes that wait for their turn. One is up to 0.2 ms of work, and a storm of joins brings hundreds at once: media goes first.

use std::collections::VecDeque;
use std::net::SocketAddr;

use metrics::DropReason;

use crate::command::PeerId;

/// Of one session: a browser's flight is two to five datagrams.
const OF_ONE_MAX: u8 = 16;
/// Of all: the flights of a thousand sessions, which is as many as may be half open; 8 MiB at the very most.
const OF_ALL_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) peer: PeerId,
    pub(crate) from: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    queue: VecDeque<Waiting>,
}

impl Handshakes {
    /// `of_peer` counts what waits of this peer; whoever takes its datagram counts it down.
    ///
    /// # Errors
    /// `HandshakeBacklog`: DTLS sends a flight again that gets no answer.
    pub(crate) fn push(
        &mut self,
        peer: PeerId,
        of_peer: &mut u8,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        if *of_peer >= OF_ONE_MAX || self.queue.len() >= OF_ALL_MAX {
            return Err(DropReason::HandshakeBacklog);
        }
        *of_peer += 1;
        self.queue.push_back(Waiting { peer, from, datagram: datagram.to_vec() });
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
