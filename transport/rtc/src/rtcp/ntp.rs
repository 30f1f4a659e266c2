//! NTP time (RFC 5905 short and long form), as sender reports carry it.

/// Seconds from 1900 to 1970.
const UNIX_EPOCH_S: i64 = 2_208_988_800;
/// A round trip longer than this is a lie or a peer's stale report.
const RTT_US_MAX: i64 = 30_000_000;

/// 32.32 fixed point seconds since 1900, of microseconds since 1970; modulo 2^32 seconds (the era ends in 2036).
pub fn ntp_from_unix_us(unix_us: i64) -> u64 {
    let seconds = unix_us.div_euclid(1_000_000).wrapping_add(UNIX_EPOCH_S) as u32;
    let micros = unix_us.rem_euclid(1_000_000) as u64;
    // Rounded up: cutting down in the way back gives the same microsecond.
    let fraction = (micros << 32).div_ceil(1_000_000);
    u64::from(seconds) << 32 | fraction
}

/// Microseconds since 1970, the other way round. A time before 1968 is read as of the era that starts in 2036.
pub fn unix_us_from_ntp(ntp: u64) -> i64 {
    let seconds = (ntp >> 32) as i64;
    let era = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    let micros = (ntp & 0xffff_ffff).saturating_mul(1_000_000) >> 32;
    seconds.wrapping_add(era).wrapping_sub(UNIX_EPOCH_S).wrapping_mul(1_000_000).wrapping_add(micros as i64)
}

/// The middle 32 bits: 16.16 fixed point seconds, the form of LSR (RFC 3550 section 6.4.1).
pub fn ntp_middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// Round-trip time in microseconds from a report block that arrived at `now_middle` ([`ntp_middle`] of the clock that
/// stamped our sender reports). `None` when the receiver had no sender report yet, or when the figure is absurd.
pub fn rtt_us(now_middle: u32, lsr: u32, dlsr: u32) -> Option<i64> {
    if lsr == 0 {
        return None;
    }
    // RFC 3550 section 6.4.1: "the round-trip propagation delay A - LSR - DLSR". Clock grain may make it just negative.
    let units = i64::from(now_middle.wrapping_sub(lsr).wrapping_sub(dlsr) as i32);
    let rtt_us = units.saturating_mul(1_000_000) >> 16;
    match rtt_us {
        0..=RTT_US_MAX => Some(rtt_us),
        -10_000..0 => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        assert_eq!(ntp_from_unix_us(0), 2_208_988_800 << 32);
        assert_eq!(ntp_from_unix_us(500_000), 2_208_988_800 << 32 | 0x8000_0000);
        assert_eq!(ntp_from_unix_us(-1_000_000), 2_208_988_799 << 32);
        assert_eq!(ntp_middle(0x1234_5678_9abc_def0), 0x5678_9abc);
    }

    #[test]
    fn round_trip_of_rfc_3550() {
        // The example of RFC 3550 figure 2: RTT 6.125 s.
        assert_eq!(rtt_us(0xb710_8000, 0xb705_2000, 0x0005_4000), Some(6_125_000));
        assert_eq!(rtt_us(0xb710_8000, 0, 0x0005_4000), None);
        assert_eq!(rtt_us(0, 0x4000_0000, 0), None);
        assert_eq!(rtt_us(0x1_0000, 0x1_0000, 1), Some(0));
        assert_eq!(rtt_us(0x0000_8000, 0xffff_8000, 0), Some(1_000_000));
    }

    proptest! {
        #[test]
        fn unix_times_round_trip(us in 0_i64..4_000_000_000_000_000) {
            prop_assert_eq!(unix_us_from_ntp(ntp_from_unix_us(us)), us);
        }

        #[test]
        fn hostile_times_do_not_overflow(ntp: u64, us: i64, middle: u32, lsr: u32, dlsr: u32) {
            let _ = unix_us_from_ntp(ntp);
            let _ = ntp_from_unix_us(us);
            if let Some(rtt) = rtt_us(middle, lsr, dlsr) {
                prop_assert!((0..=RTT_US_MAX).contains(&rtt));
            }
        }
    }
}
