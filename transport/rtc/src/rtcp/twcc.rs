//! Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1): when each packet of a
//! publisher arrived, for the bandwidth estimator at its end.

use media::Time;
use rtcp_types::prelude::FciParser;
use rtcp_types::{Twcc, TwccPacketStatus};

use super::build::feedback;
use super::{Error, FORMAT_TWCC, TRANSPORT_FEEDBACK};
use crate::rtp::Unwrapper;

/// Deltas count in units of 250 us.
const DELTA_US: i64 = 250;
/// The reference time counts in units of 64 ms, 24 bits signed.
const REFERENCE_US: i64 = 64_000;
/// A run-length chunk has 13 bits for the length.
const RUN_LEN_MAX: u64 = 0x1fff;
/// Packets one feedback describes. 2^14 at one feedback every 50 ms is 300,000 packets/s; more is a hostile peer that
/// wants us to count.
pub const STATUSES_MAX: u64 = 1 << 14;
/// Received packets one feedback of ours describes: each costs at worst 2 bytes of delta and, alone between gaps, two
/// chunks of 2 bytes, which keeps the packet under 1100 bytes, below any path's MTU with SRTCP's additions.
const RECEIVED_MAX: usize = 175;
/// Packets a recorder holds. Full in the 50 ms between feedbacks means 40,000 packets/s from one publisher; the newest
/// are then left out, which the sender takes for loss and slows down.
const RECORDED_MAX: usize = 2048;
/// Media notes section 1: transport feedback every 50-100 ms. The lower end, as timers fire late, never early.
const INTERVAL_US: i64 = 50_000;

/// The header of a decoded feedback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feedback {
    /// Sequence number of the first packet described.
    pub base_seq: u16,
    /// Counts this receiver's feedbacks modulo 256: a gap is a lost feedback.
    pub count: u8,
}

/// Reads a feedback's FCI and gives `f` each packet's sequence number and when it arrived, in microseconds on the receiver's
/// own clock (it wraps after 12 days), or `None` when it had not arrived. On an error those before it have been given.
pub fn decode(fci: &[u8], mut f: impl FnMut(u16, Option<i64>)) -> Result<Feedback, Error> {
    let twcc = <Twcc<'_> as FciParser>::parse(fci).map_err(|_| Error::Twcc("shorter than its header"))?;
    let statuses = match fci.get(2..4) {
        Some(&[high, low]) => u64::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    if statuses > STATUSES_MAX {
        return Err(Error::Twcc("describes too many packets"));
    }
    let reference = (twcc.reference_time() << 8) as i32 >> 8;
    let mut at_us = i64::from(reference).saturating_mul(REFERENCE_US);
    let mut given = 0_u64;
    for packet in twcc.packets() {
        let (seq, status) = packet.map_err(|_| Error::Twcc("deltas cut short or a reserved status"))?;
        given = given.saturating_add(1);
        match status {
            TwccPacketStatus::NotReceived => f(seq, None),
            TwccPacketStatus::Received { delta } => {
                at_us = at_us.saturating_add(i64::from(delta).saturating_mul(DELTA_US));
                f(seq, Some(at_us));
            }
        }
    }
    if given < statuses {
        return Err(Error::Twcc("chunks cut short"));
    }
    Ok(Feedback { base_seq: twcc.base_sequence_number(), count: twcc.feedback_packet_count() })
}

/// Appends one feedback that begins at `base` and describes as many of `received` as fit, and returns how many that
/// were. `received` holds extended sequence numbers and arrival times in microseconds, ascending by number, each once,
/// none below `base`. Fits: 175 packets, steps of 8 s between arrivals, 2^14 numbers. Nothing is appended for none.
pub fn feedback_packet(
    out: &mut Vec<u8>,
    sender_ssrc: u32,
    media_ssrc: u32,
    feedback_count: u8,
    base: u64,
    received: &[(u64, i64)],
) -> usize {
    let Some(&(first, first_us)) = received.first() else { return 0 };
    // A gap wider than a feedback can describe: begin at what there is, the sender knows what it sent before.
    let base = if first.saturating_sub(base) < STATUSES_MAX { base.min(first) } else { first };
    let reference = first_us.div_euclid(REFERENCE_US);
    let mut at = reference.saturating_mul(REFERENCE_US / DELTA_US);
    let mut next = base;
    let mut chunks = Chunks::default();
    let mut deltas = Vec::new();
    let mut described = 0_usize;
    for &(seq, arrival_us) in received.iter().take(RECEIVED_MAX) {
        // Rounding each time, not each delta, keeps errors from adding up.
        let ticks = arrival_us.div_euclid(DELTA_US);
        let Ok(delta) = i16::try_from(ticks.saturating_sub(at)) else { break };
        let Some(missing) = seq.checked_sub(next) else { break };
        if seq.saturating_sub(base) >= STATUSES_MAX {
            break;
        }
        chunks.push_run(Status::NotReceived, missing);
        match u8::try_from(delta) {
            Ok(small) => {
                chunks.push_run(Status::SmallDelta, 1);
                deltas.push(small);
            }
            Err(_) => {
                chunks.push_run(Status::LargeDelta, 1);
                deltas.extend(delta.to_be_bytes());
            }
        }
        at = ticks;
        next = seq.saturating_add(1);
        described = described.saturating_add(1);
    }
    let [_, reference0, reference1, reference2] = (reference as u32).to_be_bytes();
    let status_count = next.saturating_sub(base) as u16;
    feedback(out, TRANSPORT_FEEDBACK, FORMAT_TWCC, sender_ssrc, media_ssrc, |out| {
        out.extend((base as u16).to_be_bytes());
        out.extend(status_count.to_be_bytes());
        out.extend([reference0, reference1, reference2, feedback_count]);
        chunks.write(out);
        out.extend(&deltas);
    });
    described
}

/// Two-bit packet status symbols (draft section 3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    NotReceived = 0,
    SmallDelta = 1,
    LargeDelta = 2,
}

/// Statuses as runs; cut into chunks when written.
#[derive(Default)]
struct Chunks {
    runs: Vec<(Status, u64)>,
}

impl Chunks {
    fn push_run(&mut self, status: Status, len: u64) {
        match self.runs.last_mut() {
            _ if len == 0 => {}
            Some((last, last_len)) if *last == status => *last_len = last_len.saturating_add(len),
            _ => self.runs.push((status, len)),
        }
    }

    /// A run of 7 or more becomes a run-length chunk (draft section 3.1.3); shorter ones share a two-bit status vector
    /// of 7 (section 3.1.4). One-bit vectors would save bytes only on loss, and cost a case.
    fn write(mut self, out: &mut Vec<u8>) {
        self.runs.reverse();
        while let Some((status, len)) = self.runs.pop() {
            if len >= 7 {
                let now = len.min(RUN_LEN_MAX);
                out.extend(((status as u16) << 13 | now as u16).to_be_bytes());
                self.put_back(status, len.saturating_sub(now));
                continue;
            }
            self.put_back(status, len);
            let mut chunk = 0_u16;
            for _ in 0..7 {
                // Symbols after the last packet are not looked at: the status count says where it ends.
                let symbol = match self.runs.pop() {
                    Some((status, len)) => {
                        self.put_back(status, len.saturating_sub(1));
                        status
                    }
                    None => Status::NotReceived,
                };
                chunk = chunk << 2 | symbol as u16;
            }
            out.extend((0b11 << 14 | chunk).to_be_bytes());
        }
    }

    fn put_back(&mut self, status: Status, len: u64) {
        if len > 0 {
            self.runs.push((status, len));
        }
    }
}

/// Notes when the packets of one transport arrive and makes feedback of it. Bounded; allocates once.
#[derive(Clone, Debug)]
pub struct TwccRecorder {
    unwrapper: Unwrapper,
    /// Extended number and arrival in microseconds, in order of arrival.
    recorded: Vec<(u64, i64)>,
    /// The number after the last one described: what is missing from here on is reported missing.
    next: Option<u64>,
    feedback_count: u8,
    built: Time,
}

impl Default for TwccRecorder {
    fn default() -> TwccRecorder {
        TwccRecorder::new()
    }
}

impl TwccRecorder {
    /// A recorder that has seen nothing.
    pub fn new() -> TwccRecorder {
        TwccRecorder {
            unwrapper: Unwrapper::new(),
            recorded: Vec::with_capacity(RECORDED_MAX),
            next: None,
            feedback_count: 0,
            built: Time(i64::MIN / 2),
        }
    }

    /// Notes an authenticated packet by the number in its transport-wide extension. When full, the packet is left out.
    pub fn on_packet(&mut self, seq: u16, arrival: Time) {
        let seq = self.unwrapper.seq(seq);
        if self.recorded.len() < RECORDED_MAX {
            self.recorded.push((seq, arrival.us()));
        }
    }

    /// When [`TwccRecorder::build`] is due: 50 ms after the last one, `None` while there is nothing to say.
    pub fn deadline(&self) -> Option<Time> {
        (!self.recorded.is_empty()).then(|| self.built.plus_us(INTERVAL_US))
    }

    /// Appends one feedback packet of at most 1100 bytes and returns true, or false when there is nothing to say. What did
    /// not fit (a burst, a jump in numbers or time) stays and keeps [`TwccRecorder::deadline`] in the past: call again.
    /// Whether it is due is the caller's to ask.
    pub fn build(&mut self, now: Time, sender_ssrc: u32, media_ssrc: u32, out: &mut Vec<u8>) -> bool {
        self.recorded.sort_unstable();
        // A number that came twice: the first arrival counts.
        self.recorded.dedup_by_key(|(seq, _)| *seq);
        let Some(&(first, _)) = self.recorded.first() else { return false };
        // A late packet lies below `next`: its feedback begins at it. Numbers said to be lost again there were described
        // before, and the sender has forgotten those that had arrived.
        let base = self.next.map_or(first, |next| next.min(first));
        let count = self.feedback_count;
        let described = feedback_packet(out, sender_ssrc, media_ssrc, count, base, &self.recorded).max(1);
        self.feedback_count = count.wrapping_add(1);
        if let Some((last, _)) = self.recorded.drain(..described.min(self.recorded.len())).next_back() {
            self.next = Some(self.next.unwrap_or(0).max(last.saturating_add(1)));
        }
        if self.recorded.is_empty() {
            self.built = now;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the one packet in `out` says, by our decoder, and checked against the crate's own reading of the packet.
    fn said(out: &[u8]) -> (Feedback, Vec<(u16, Option<i64>)>) {
        assert!(out.len() <= 1100, "{} bytes", out.len());
        let mut all = Vec::new();
        let mut header = None;
        crate::rtcp::parse(out, |event| match event {
            crate::rtcp::Event::Twcc { fci } => {
                header = Some(decode(fci, |seq, at| all.push((seq, at))).unwrap());
            }
            other => panic!("{other:?}"),
        })
        .unwrap();
        (header.unwrap(), all)
    }

    #[test]
    fn bytes_of_a_small_feedback() {
        let mut out = Vec::new();
        let received = [(65_541, 64_000), (65_542, 64_250), (65_544, 65_000)];
        assert_eq!(feedback_packet(&mut out, 1, 2, 7, 65_541, &received), 3);
        assert_eq!(out[..4], [0x8f, 205, 0, 6]);
        assert_eq!(out[12..20], [0, 5, 0, 4, 0, 0, 1, 7]);
        // Two-bit vector: received, received, lost, received; then deltas of 0, 1 and 3 quarter milliseconds.
        assert_eq!(out[20..25], [0b1101_0100, 0b0100_0000, 0, 1, 3]);
        assert_eq!(out.len(), 28);
    }

    #[test]
    fn recorder_reports_the_gap_between_feedbacks() {
        let mut recorder = TwccRecorder::new();
        let mut out = Vec::new();
        assert_eq!(recorder.deadline(), None);
        assert!(!recorder.build(Time::ZERO, 1, 2, &mut out));
        recorder.on_packet(65_534, Time::from_ms(100));
        recorder.on_packet(65_535, Time::from_ms(101));
        assert!(recorder.deadline().unwrap() < Time::ZERO);
        assert!(recorder.build(Time::from_ms(110), 1, 2, &mut out));
        recorder.on_packet(1, Time::from_ms(120));
        assert_eq!(recorder.deadline(), Some(Time::from_ms(160)));
        out.clear();
        assert!(recorder.build(Time::from_ms(160), 1, 2, &mut out));
        let (header, all) = said(&out);
        assert_eq!(header, Feedback { base_seq: 0, count: 1 });
        assert_eq!(all, [(0, None), (1, Some(120_000))]);
        // The lost one comes late: described alone, and the next feedback goes on after number 1.
        recorder.on_packet(0, Time::from_ms(170));
        recorder.on_packet(2, Time::from_ms(130));
        out.clear();
        assert!(recorder.build(Time::from_ms(220), 1, 2, &mut out));
        assert_eq!(said(&out).1, [(0, Some(170_000)), (1, None), (2, Some(130_000))]);
        assert_eq!(recorder.deadline(), None);
    }

    #[test]
    fn bursts_are_cut_and_bounded() {
        let mut recorder = TwccRecorder::new();
        for n in 0..5_000_u32 {
            // Every eighth packet only: the dearest pattern of chunks.
            recorder.on_packet((n * 8) as u16, Time(i64::from(n) * 70_000));
        }
        let mut described = 0;
        let mut out = Vec::new();
        while recorder.build(Time::ZERO, 1, 2, &mut out) {
            described += said(&out).1.iter().filter(|(_, at)| at.is_some()).count();
            out.clear();
        }
        assert_eq!(described, RECORDED_MAX);
    }

    #[test]
    fn hostile_feedback() {
        // Nine bytes that claim 65,535 packets in runs.
        let long = [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff, 0x1f, 0xff];
        assert_eq!(decode(&long, |_, _| ()), Err(Error::Twcc("describes too many packets")));
        let short = [0, 0, 0, 20, 0, 0, 0, 0, 0xc0, 0];
        assert_eq!(decode(&short, |_, _| ()), Err(Error::Twcc("chunks cut short")));
        let no_delta = [0, 0, 0, 1, 0, 0, 0, 0, 0x20, 1];
        assert!(matches!(decode(&no_delta, |_, _| ()), Err(Error::Twcc(_))));
    }

    proptest! {
        #[test]
        fn feedback_round_trips(steps in prop::collection::vec((1_u64..40, -9_000_i64..70_000), 1..150), start in 0_i64..1_000_000_000_000) {
            let (mut seq, mut at_us) = (70_000, start);
            let received: Vec<(u64, i64)> = steps
                .iter()
                .map(|&(ahead, us)| {
                    (seq, at_us) = (seq + ahead, at_us + us);
                    (seq, at_us)
                })
                .collect();
            let mut out = Vec::new();
            prop_assert_eq!(feedback_packet(&mut out, 1, 2, 0, received[0].0, &received), received.len());
            let (_, all) = said(&out);
            let got: Vec<_> = all.iter().filter_map(|(seq, at)| at.map(|at| (*seq, at))).collect();
            prop_assert_eq!(got.len(), received.len());
            for (&(seq, at), &(want_seq, want_at)) in got.iter().zip(&received) {
                prop_assert_eq!(seq, want_seq as u16);
                // The reference has 24 bits of 64 ms; below that, a quarter of a millisecond.
                let error = (want_at - at).rem_euclid(REFERENCE_US << 24);
                prop_assert!(error < DELTA_US, "{}", error);
            }
        }

        #[test]
        fn arbitrary_feedback_never_panics(fci in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut given = 0;
            let _ = decode(&fci, |_, _| given += 1);
            prop_assert!(given <= STATUSES_MAX);
        }
    }
}
