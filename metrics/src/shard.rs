//! What a shard counts.

use crate::{By, Counter, DropReason, Gauge, Histogram, SharedCounter};

labels! {
    /// What a datagram is. The label is the metric's `kind`.
    PacketKind {
        /// SRTP media.
        Rtp = "rtp",
        /// SRTCP feedback and reports.
        Rtcp = "rtcp",
        /// ICE checks.
        Stun = "stun",
        /// Handshakes.
        Dtls = "dtls",
    }
}

labels! {
    /// A phase of the tick, in its order. The label is the metric's `phase`.
    Phase {
        /// Commands from the control plane.
        Commands = "commands",
        /// Datagrams from the socket.
        Datagrams = "datagrams",
        /// Media from other threads.
        Mailbox = "mailbox",
        /// What is due by time, and handshakes.
        Due = "due",
    }
}

/// One shard's counters. The shard's thread writes, the scrape reads; aligned so that no two shards share a
/// cache line.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Datagrams received.
    pub packets_in: By<PacketKind, Counter, { PacketKind::COUNT }>,
    /// Their bytes (UDP payload).
    pub bytes_in: By<PacketKind, Counter, { PacketKind::COUNT }>,
    /// Datagrams sent.
    pub packets_out: By<PacketKind, Counter, { PacketKind::COUNT }>,
    /// Their bytes (UDP payload).
    pub bytes_out: By<PacketKind, Counter, { PacketKind::COUNT }>,
    /// What the shard dropped.
    drops: By<DropReason, Counter, { DropReason::COUNT }>,
    /// What others dropped on the way to it.
    drops_shared: By<DropReason, SharedCounter, { DropReason::COUNT }>,
    /// Packets sent again to subscribers (part of `packets_out`).
    pub retransmissions_out: Counter,
    /// Bytes of those (RTP, before SRTP).
    pub retransmitted_bytes_out: Counter,
    /// Packets sent again to probe a subscriber's bandwidth (part of `packets_out`, not of `retransmissions_out`).
    pub probe_copies_out: Counter,
    /// Encodings of simulcast that publishers were told to pause.
    pub encoding_pauses: Counter,
    /// Packets that subscribers asked for again.
    pub nacks_in: Counter,
    /// Packets asked again of publishers.
    pub nacks_out: Counter,
    /// Key frame requests (PLI, FIR) of subscribers.
    pub plis_in: Counter,
    /// Key frame requests sent to publishers.
    pub plis_out: Counter,
    /// Video frames whose end was not sent to a subscriber, one for each subscriber.
    pub subscriber_frames_dropped: Counter,
    /// Holes of more than three frame intervals in the video sent to a subscriber.
    pub subscriber_freezes: Counter,
    /// Packets and frames taken from other threads.
    pub mailbox_in: Counter,
    /// Packets and frames given to other threads.
    pub mailbox_out: Counter,
    /// Turns of the loop.
    pub ticks: Counter,
    /// Phases that ended by their budget, with work left.
    pub budget_hits: By<Phase, Counter, { Phase::COUNT }>,
    /// Kernel messages sent; with `packets_out` the mean run of GSO.
    pub send_messages: Counter,
    /// Errors of the socket itself.
    pub socket_errors: Counter,
    /// Sessions ended by a panic of ours.
    pub panics: Counter,
    /// 1 while runs are sent by GSO.
    pub gso_enabled: Gauge,
    /// Sessions, publishers and subscribers alike.
    pub peers: Gauge,
    /// Tracks received.
    pub tracks: Gauge,
    /// Subscriptions to tracks.
    pub subscribers: Gauge,
    /// From the receive of a packet to the end of its send, one for each packet out.
    pub forward_latency: Histogram,
}

impl ShardMetrics {
    /// Counts a datagram of `len` bytes in.
    #[inline]
    pub fn received(&self, kind: PacketKind, len: usize) {
        self.packets_in.of(kind).increment();
        self.bytes_in.of(kind).add(len as u64);
    }

    /// Counts a datagram of `len` bytes out.
    #[inline]
    pub fn sent(&self, kind: PacketKind, len: usize) {
        self.packets_out.of(kind).increment();
        self.bytes_out.of(kind).add(len as u64);
    }

    /// Counts datagrams of together `bytes` out.
    #[inline]
    pub fn sent_n(&self, kind: PacketKind, packets: usize, bytes: usize) {
        self.packets_out.of(kind).add(packets as u64);
        self.bytes_out.of(kind).add(bytes as u64);
    }

    /// Counts a drop. (Not `drop`: behind an `Arc` that name means the destructor.)
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops.of(reason).increment();
    }

    /// Counts `n` drops for one reason.
    #[inline]
    pub fn dropped_n(&self, reason: DropReason, n: u64) {
        self.drops.of(reason).add(n);
    }

    /// Counts a drop from any other thread, which found this shard's mailbox full.
    pub fn dropped_shared(&self, reason: DropReason) {
        self.drops_shared.of(reason).increment();
    }

    /// How much was dropped for one reason, by the shard and on the way to it.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.of(reason).get().wrapping_add(self.drops_shared.of(reason).get())
    }

    pub(crate) fn each_drop(&self, mut each: impl FnMut(DropReason, u64)) {
        DropReason::ALL.iter().for_each(|reason| each(*reason, self.drops(*reason)));
    }
}
