//! The round trip to a publisher, which reports on nothing of ours: extended reports (RFC 3611) carry our clock there, and how long ago it
//! came back. Browsers answer without having been asked in SDP.

use rtc::rtcp;

/// Clocks sent that an answer is taken for: one goes out a second, and a round trip of more is none to repair by.
const SENT_MAX: usize = 4;

/// What was asked, and what the answers gave.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    /// Middle 32 bits of the last clocks sent; 0 is none.
    sent: [u32; SENT_MAX],
    rtt_us: Option<i64>,
}

impl RoundTrip {
    /// A reference time for the publisher, to be sent now.
    pub(crate) fn ask(&mut self, ntp: u64) -> u64 {
        self.sent.rotate_right(1);
        if let Some(newest) = self.sent.first_mut() {
            *newest = rtcp::ntp_middle(ntp);
        }
        ntp
    }

    /// An answer that came at `ntp`. The round trip in microseconds, unless it answers nothing that we sent.
    pub(crate) fn answered(&mut self, ntp: u64, last: u32, delay: u32) -> Option<i64> {
        if !self.sent.contains(&last) {
            return None;
        }
        let rtt_us = rtcp::rtt_us(rtcp::ntp_middle(ntp), last, delay)?;
        self.rtt_us = Some(rtt_us);
        self.rtt_us
    }

    /// The newest one in microseconds; `None` while unknown.
    pub(crate) fn rtt_us(&self) -> Option<i64> {
        self.rtt_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ntp(ms: i64) -> u64 {
        rtcp::ntp_from_unix_us(1_700_000_000_000_000 + ms * 1_000)
    }

    #[test]
    fn only_answers_to_what_was_sent_count() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.answered(ntp(100), 0, 0), None, "nothing was sent");
        let sent = round_trip.ask(ntp(0));
        let last = rtcp::ntp_middle(sent);
        for wrong in [0, 1, last + 1, last - 1, u32::MAX] {
            assert_eq!(round_trip.answered(ntp(100), wrong, 0), None);
        }
        // A delay of more than has passed.
        assert_eq!(round_trip.answered(ntp(100), last, 1 << 20), None);
        assert_eq!(round_trip.rtt_us(), None);
        let rtt_us = round_trip.answered(ntp(100), last, 65_536 / 50).unwrap();
        assert!((79_900..=80_100).contains(&rtt_us), "{rtt_us}");
        for second in 1..=SENT_MAX as i64 {
            round_trip.ask(ntp(second * 1_000));
        }
        assert_eq!(round_trip.answered(ntp(4_100), last, 65_536 * 4), None, "too long ago");
    }
}
