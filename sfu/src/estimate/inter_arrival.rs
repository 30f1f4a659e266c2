//! Packets sent together are one group; the delay gradient is taken between groups (draft-ietf-rmcat-gcc-02 section 5.2).

use media::Time;

/// Packets sent within this of a group's first belong to it (section 5.2: burst time).
const BURST_US: i64 = 5_000;
/// A group of packets that queued and arrived back to back is cut here.
const BURST_US_MAX: i64 = 100_000;
/// The receiver's clock went this much differently from ours: it was set, or the peer lies. Begin anew.
const CLOCK_JUMP_US: i64 = 3_000_000;
/// So many groups in a row that arrived before their predecessor: the receiver's clock went back.
const REORDERED_MAX: u8 = 3;

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent_us: i64,
    last_sent_us: i64,
    first_arrival_us: i64,
    last_arrival_us: i64,
    /// Our clock when its last packet was described.
    described_us: i64,
}

/// What lies between two groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Delta {
    pub(super) sent_us: i64,
    pub(super) arrival_us: i64,
}

pub(super) enum Step {
    /// The group goes on, or the packet is of no use.
    Nothing,
    Delta(Delta),
    /// The clock jumped: forget the trend.
    Reset,
}

#[derive(Debug, Default)]
pub(super) struct InterArrival {
    previous: Option<Group>,
    current: Option<Group>,
    reordered: u8,
}

impl InterArrival {
    /// Packets come in the order they were sent; `now` is when the feedback came.
    pub(super) fn on_packet(&mut self, sent: Time, arrival_us: i64, now: Time) -> Step {
        let packet = Group {
            first_sent_us: sent.us(),
            last_sent_us: sent.us(),
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
            described_us: now.us(),
        };
        let Some(current) = &mut self.current else {
            self.current = Some(packet);
            return Step::Nothing;
        };
        if packet.first_sent_us < current.first_sent_us {
            return Step::Nothing;
        }
        if current.takes(&packet) {
            current.last_sent_us = current.last_sent_us.max(packet.last_sent_us);
            current.last_arrival_us = current.last_arrival_us.max(arrival_us);
            current.described_us = packet.described_us;
            return Step::Nothing;
        }
        let done = *current;
        self.current = Some(packet);
        let Some(previous) = self.previous.replace(done) else { return Step::Nothing };
        let delta = Delta {
            sent_us: done.last_sent_us.saturating_sub(previous.last_sent_us),
            arrival_us: done.last_arrival_us.saturating_sub(previous.last_arrival_us),
        };
        let ours_us = done.described_us.saturating_sub(previous.described_us);
        if delta.arrival_us.saturating_sub(ours_us).abs() >= CLOCK_JUMP_US {
            *self = InterArrival::default();
            return Step::Reset;
        }
        if delta.arrival_us < 0 {
            self.reordered = self.reordered.saturating_add(1);
            if self.reordered >= REORDERED_MAX {
                *self = InterArrival::default();
                return Step::Reset;
            }
            return Step::Nothing;
        }
        self.reordered = 0;
        Step::Delta(delta)
    }
}

impl Group {
    fn takes(&self, packet: &Group) -> bool {
        let sent_us = packet.last_sent_us.saturating_sub(self.last_sent_us);
        let arrival_us = packet.last_arrival_us.saturating_sub(self.last_arrival_us);
        // Arrived closer together than sent, within the burst time: they waited in one queue, where the distance says nothing.
        let queued = arrival_us < sent_us
            && arrival_us <= BURST_US
            && packet.last_arrival_us.saturating_sub(self.first_arrival_us) < BURST_US_MAX;
        sent_us <= 0 || queued || packet.last_sent_us.saturating_sub(self.first_sent_us) <= BURST_US
    }
}
