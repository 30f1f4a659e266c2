//! One incoming RTP stream of a publisher: numbering, loss and jitter for receiver reports, and NACKs by time.

use std::collections::BTreeMap;
use std::ops::Bound;

use media::{Codec, Time};

/// First NACK this long after the gap was seen: reordering on the way is not loss (mediasoup#511 was too eager).
const FIRST_WAIT_US: i64 = 10_000;
/// Between NACKs of one packet: max(this, 1.25 RTT), at most [`SPACING_US_MAX`].
const SPACING_US_MIN: i64 = 20_000;
const SPACING_US_MAX: i64 = 400_000;
/// While no round trip has been measured: most paths answer within it, so the first answer is to the first NACK.
const SPACING_UNKNOWN_US: i64 = 100_000;
/// A packet is given up after this time or [`TRIES_MAX`]; by time and not by packet count, since 100 packets are 0.2 s at 500 pps.
const GIVE_UP_US: i64 = 1_000_000;
const TRIES_MAX: u8 = 10;
/// More missing than this is no loss to repair but a hole to jump over: forget them, ask for a key frame.
const MISSING_MAX: usize = 1_000;
/// Packets that the first slice of an H.264 or H.265 key frame may be preceded by: VPS, SPS, PPS, SEI. Each may be what is missing.
const SETS_MAX: u64 = 4;
/// Numbers per NACK message: 1000 would not fit a datagram.
const NACK_BATCH_MAX: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Missing {
    seen: Time,
    first_sent: Option<Time>,
    sent: Option<Time>,
    tries: u8,
}

/// The missing packets of one stream and when to ask for each.
#[derive(Debug, Default)]
pub(crate) struct NackGenerator {
    missing: BTreeMap<u64, Missing>,
    highest: Option<u64>,
    /// Smoothed time from a NACK to its packet: the round trip of publishers that answer no extended report.
    rtt_us: i64,
}

/// What a packet's arrival meant for repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// In order, or the first seen of its number.
    New,
    /// It filled a hole.
    Repaired,
    /// The hole before it is too large to repair.
    Hole,
}

impl NackGenerator {
    /// A packet came.
    pub(crate) fn arrived(&mut self, seq: u64, now: Time) -> Arrival {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return Arrival::New;
        };
        if seq <= highest {
            let Some(missing) = self.missing.remove(&seq) else { return Arrival::New };
            // From the first NACK: whichever was answered, the figure is not too small, and too small a one would never be mended
            // (each packet asked for twice, none a clean sample).
            if let Some(sent) = missing.first_sent {
                let sample = now.since(sent).clamp(1_000, 1_000_000);
                self.rtt_us = if self.rtt_us == 0 { sample } else { (self.rtt_us * 7 + sample) / 8 };
            }
            return Arrival::Repaired;
        }
        self.highest = Some(seq);
        let gap = seq - highest - 1;
        if gap as usize + self.missing.len() > MISSING_MAX {
            self.missing.clear();
            return Arrival::Hole;
        }
        for lost in highest + 1..seq {
            self.missing.insert(lost, Missing { seen: now, first_sent: None, sent: None, tries: 0 });
        }
        Arrival::New
    }

    /// A key frame starts at `seq`, or, where parameter sets have packets of their own, just before: nothing older is worth asking for.
    pub(crate) fn key_frame(&mut self, seq: u64, codec: Codec) {
        let sets = if matches!(codec, Codec::H264 | Codec::H265) { SETS_MAX } else { 0 };
        self.missing = self.missing.split_off(&seq.saturating_sub(sets));
    }

    /// Appends the numbers to ask for now; returns how many were given up. `measured_us` is the round trip, where it is known otherwise.
    pub(crate) fn poll(&mut self, now: Time, measured_us: Option<i64>, ask: &mut Vec<u64>) -> usize {
        let spacing = match measured_us.unwrap_or(self.rtt_us) {
            0 if measured_us.is_none() => SPACING_UNKNOWN_US,
            rtt_us => (rtt_us.min(SPACING_US_MAX) * 5 / 4).clamp(SPACING_US_MIN, SPACING_US_MAX),
        };
        let before = self.missing.len();
        let worth_waiting =
            |m: &Missing| m.tries < TRIES_MAX || m.sent.is_some_and(|sent| now.since(sent) < spacing);
        self.missing.retain(|_, m| now.since(m.seen) < GIVE_UP_US && worth_waiting(m));
        let given_up = before - self.missing.len();
        for (seq, m) in self.missing.range_mut((Bound::Unbounded::<u64>, Bound::Unbounded)) {
            if ask.len() >= NACK_BATCH_MAX {
                break;
            }
            let due = match m.sent {
                None => now.since(m.seen) >= FIRST_WAIT_US,
                Some(sent) => now.since(sent) >= spacing && m.tries < TRIES_MAX,
            };
            if due {
                m.first_sent = m.first_sent.or(Some(now));
                m.sent = Some(now);
                m.tries += 1;
                ask.push(*seq);
            }
        }
        given_up
    }

    /// Whether anything is missing.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }

    /// The measured round trip in microseconds; 0 while unknown.
    pub(crate) fn rtt_us(&self) -> i64 {
        self.rtt_us
    }
}

/// Figures of RFC 3550 section 6.4.1 for one stream.
#[derive(Debug, Default)]
pub(crate) struct Reception {
    first: Option<u64>,
    highest: u64,
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    jitter_16: i64,
    transit: Option<i64>,
    /// Middle 32 bits of the last sender report's NTP time, and when it came.
    pub(crate) last_report: Option<(u32, Time)>,
}

/// The fields of a report block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReportBlock {
    pub(crate) fraction_lost: u8,
    pub(crate) cumulative_lost: u32,
    pub(crate) highest: u32,
    pub(crate) jitter: u32,
    pub(crate) lsr: u32,
    pub(crate) dlsr: u32,
    /// Packets of this interval: how many should have come, and did not.
    pub(crate) expected: u64,
    pub(crate) lost: u64,
}

impl Reception {
    /// A packet came. `timestamp` in ticks of `clock_hz`.
    pub(crate) fn arrived(&mut self, seq: u64, timestamp: i64, clock_hz: u32, now: Time) {
        self.first.get_or_insert(seq);
        self.highest = self.highest.max(seq);
        self.received += 1;
        // RFC 3550 A.8: J += (|D| - J) / 16, kept times 16.
        let transit = now.ticks(clock_hz) - timestamp;
        if let Some(before) = self.transit {
            let d = (transit - before).abs().min(i64::from(clock_hz));
            self.jitter_16 += d - (self.jitter_16 + 8) / 16;
        }
        self.transit = Some(transit);
    }

    /// The report block for now; starts the next interval. `None` before the first packet.
    pub(crate) fn report(&mut self, now: Time) -> Option<ReportBlock> {
        let first = self.first?;
        let expected = self.highest - first.min(self.highest) + 1;
        let lost = expected.saturating_sub(self.received);
        let expected_now = expected - self.expected_prior;
        let received_now = self.received - self.received_prior;
        (self.expected_prior, self.received_prior) = (expected, self.received);
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255);
        let (lsr, dlsr) = match self.last_report {
            Some((lsr, at)) => (lsr, (now.since(at).max(0) as u64 * 65_536 / 1_000_000) as u32),
            None => (0, 0),
        };
        Some(ReportBlock {
            fraction_lost: fraction as u8,
            cumulative_lost: lost.min(0x7f_ffff) as u32,
            highest: self.highest as u32,
            jitter: (self.jitter_16 / 16).clamp(0, i64::from(u32::MAX)) as u32,
            lsr,
            dlsr,
            expected: expected_now,
            lost: lost_now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_asked_for_after_ten_milliseconds_then_by_round_trip() {
        let mut nack = NackGenerator::default();
        nack.arrived(1, Time::ZERO);
        nack.arrived(4, Time::ZERO);
        let mut ask = Vec::new();
        nack.poll(Time::from_ms(5), None, &mut ask);
        assert!(ask.is_empty());
        nack.poll(Time::from_ms(10), None, &mut ask);
        assert_eq!(ask, [2, 3]);
        assert_eq!(nack.arrived(2, Time::from_ms(60)), Arrival::Repaired);
        assert_eq!(nack.rtt_us(), 50_000);
        ask.clear();
        nack.poll(Time::from_ms(60), None, &mut ask);
        assert!(ask.is_empty(), "1.25 round trips have not passed");
        nack.poll(Time::from_ms(73), None, &mut ask);
        assert_eq!(ask, [3]);
    }

    #[test]
    fn an_answer_slower_than_the_spacing_is_learned_from() {
        let mut nack = NackGenerator::default();
        nack.arrived(1, Time::ZERO);
        nack.arrived(3, Time::ZERO);
        for ms in 0..310 {
            nack.poll(Time::from_ms(ms), None, &mut Vec::new());
        }
        nack.arrived(2, Time::from_ms(310));
        assert_eq!(
            nack.rtt_us(),
            300_000,
            "three were sent; the first is taken for the one that was answered"
        );
    }

    #[test]
    fn a_measured_round_trip_is_the_spacing_from_the_first_nack_on() {
        for (rtt_ms, spacing_ms) in [(0, 20), (10, 20), (100, 125), (300, 375), (2_000, 400)] {
            let mut nack = NackGenerator::default();
            nack.arrived(1, Time::ZERO);
            nack.arrived(3, Time::ZERO);
            let mut asked = Vec::new();
            for ms in 0..900 {
                let mut ask = Vec::new();
                nack.poll(Time::from_ms(ms), Some(rtt_ms * 1_000), &mut ask);
                asked.extend(ask.iter().map(|_| ms));
            }
            assert_eq!(asked[..2], [10, 10 + spacing_ms], "{rtt_ms} ms");
        }
    }

    #[test]
    fn a_packet_is_given_up_after_a_second() {
        let mut nack = NackGenerator::default();
        nack.arrived(1, Time::ZERO);
        nack.arrived(3, Time::ZERO);
        let (mut asked, mut given_up) = (0, 0);
        for ms in 0..2_000 {
            let mut ask = Vec::new();
            given_up += nack.poll(Time::from_ms(ms), None, &mut ask);
            asked += ask.len();
        }
        assert_eq!((given_up, asked), (1, 10));
        assert!(!nack.is_waiting());
    }

    #[test]
    fn a_huge_gap_is_a_hole_and_a_key_frame_ends_all_waiting() {
        let mut nack = NackGenerator::default();
        nack.arrived(1, Time::ZERO);
        assert_eq!(nack.arrived(5_000, Time::ZERO), Arrival::Hole);
        nack.arrived(5_010, Time::ZERO);
        nack.key_frame(5_010, Codec::Vp8);
        assert!(!nack.is_waiting());
    }

    #[test]
    fn parameter_sets_right_before_a_key_frame_are_asked_for() {
        let mut nack = NackGenerator::default();
        nack.arrived(1, Time::ZERO);
        nack.arrived(20, Time::ZERO);
        nack.key_frame(20, Codec::H264);
        let mut ask = Vec::new();
        nack.poll(Time::from_ms(20), None, &mut ask);
        assert_eq!(ask, [16, 17, 18, 19]);
    }

    #[test]
    fn report_block_counts_an_interval_and_the_whole() {
        let mut reception = Reception::default();
        for seq in (0..100).filter(|s| s % 10 != 3) {
            reception.arrived(seq, seq as i64 * 960, 48_000, Time::from_ms(seq as i64 * 20));
        }
        let block = reception.report(Time::ZERO).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost, block.highest), (25, 10, 99));
        assert_eq!(block.jitter, 0);
        for seq in 100..200 {
            reception.arrived(seq, seq as i64 * 960, 48_000, Time::from_ms(seq as i64 * 20));
        }
        let block = reception.report(Time::ZERO).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 10));
    }
}
