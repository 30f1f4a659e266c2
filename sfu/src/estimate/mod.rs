//! Send-side bandwidth estimation of one subscriber (draft-ietf-rmcat-gcc-02 and what browsers do beyond it).
#![allow(dead_code, reason = "wired in with the pacer")]

use media::Time;

/// What is sent before anything is known.
pub(crate) const START_BPS: u64 = 1_000_000;
/// The estimate never falls below: audio and a thumbnail.
pub(crate) const MIN_BPS: u64 = 50_000;
/// Nor rises above.
pub(crate) const MAX_BPS: u64 = 100_000_000;

/// Send so many bytes at this rate, each packet marked with `id` at [`Estimator::on_sent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    pub(crate) id: u8,
    pub(crate) bps: u64,
    pub(crate) bytes: usize,
}

/// For the API.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Figures {
    pub(crate) target_bps: u64,
    pub(crate) acknowledged_bps: Option<u64>,
    pub(crate) delay_based_bps: u64,
    pub(crate) loss_based_bps: u64,
    pub(crate) rtt_us: i64,
    /// Lost share of what was sent, 0 to 1.
    pub(crate) loss: f32,
    pub(crate) state: &'static str,
}

/// The estimator of one subscriber's session.
#[derive(Debug)]
pub(crate) struct Estimator {
    next_seq: u16,
}

impl Estimator {
    pub(crate) fn new(_now: Time) -> Estimator {
        Estimator { next_seq: 0 }
    }

    /// Notes a packet of `bytes` (UDP payload) and returns the transport-wide number to write into it.
    pub(crate) fn on_sent(&mut self, _bytes: usize, _probe: Option<u8>, _now: Time) -> u16 {
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        seq
    }

    /// A transport-wide feedback.
    pub(crate) fn on_feedback(&mut self, fci: &[u8], _now: Time) -> Result<(), rtc::rtcp::Error> {
        rtc::rtcp::twcc::decode(fci, |_, _| ()).map(|_| ())
    }

    /// A receiver report: RTT, and loss for peers without feedback.
    pub(crate) fn on_report(&mut self, _fraction_lost: u8, _rtt_us: i64, _now: Time) {}

    /// A REMB.
    pub(crate) fn on_remb(&mut self, _bps: u64, _now: Time) {}

    /// The most that is wanted now (best layer of all tracks): probing stops above it.
    pub(crate) fn set_demand(&mut self, _bps: u64) {}

    /// What is due: a probe to send.
    pub(crate) fn poll(&mut self, _now: Time) -> Option<Probe> {
        None
    }

    /// When to poll again.
    pub(crate) fn next_poll(&self) -> Time {
        Time::MAX
    }

    /// What may be sent.
    pub(crate) fn target_bps(&self) -> u64 {
        START_BPS
    }

    /// Delay-based overuse now.
    pub(crate) fn congested(&self) -> bool {
        false
    }

    /// For the API.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            target_bps: START_BPS,
            acknowledged_bps: None,
            delay_based_bps: START_BPS,
            loss_based_bps: MAX_BPS,
            rtt_us: 0,
            loss: 0.0,
            state: "start",
        }
    }
}
