//! Whether so little is sent that the estimate cannot be seen to hold.

use media::Time;

/// Share of the estimate that counts as using it.
const USED_SHARE: f64 = 0.65;
/// The budget holds this much time.
const WINDOW_US: f64 = 500_000.0;
/// Fill at which the region begins, and ends.
const BEGIN: f64 = 0.8;
const END: f64 = 0.5;

/// A budget that fills with 65 % of the estimate and that packets empty.
#[derive(Debug)]
pub(super) struct ApplicationLimited {
    /// Microseconds of sending left over, at the rate of the share.
    left_us: f64,
    updated: Time,
    limited: bool,
}

impl ApplicationLimited {
    pub(super) fn new(now: Time) -> ApplicationLimited {
        ApplicationLimited { left_us: 0.0, updated: now, limited: false }
    }

    pub(super) fn on_sent(&mut self, bytes: usize, target_bps: u64, now: Time) {
        let elapsed_us = now.since(self.updated).max(0) as f64;
        self.updated = now;
        let packet_us = bytes as f64 * 8e6 / (USED_SHARE * target_bps.max(1) as f64);
        self.left_us = (self.left_us + elapsed_us - packet_us).clamp(-WINDOW_US, WINDOW_US);
        let fill = self.left_us / WINDOW_US;
        self.limited = if self.limited { fill >= END } else { fill > BEGIN };
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }
}
