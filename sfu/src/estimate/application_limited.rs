//! Whether so little is sent that the estimate cannot be seen to hold.

use media::Time;

/// Share of the estimate that counts as using it.
const USED_SHARE: f64 = 0.65;
/// The budget holds this much time, and so much debt: a source that stops is seen soon.
const WINDOW_US: f64 = 500_000.0;
const DEBT_US: f64 = 100_000.0;
/// The acknowledged rate follows what is sent within this.
const IDLE_US: i64 = 700_000;
/// Fill at which the region begins, and ends.
const BEGIN: f64 = 0.8;
const END: f64 = 0.5;

/// A budget that fills with 65 % of the estimate and that packets empty.
#[derive(Debug)]
pub(super) struct ApplicationLimited {
    /// Microseconds of sending left over, at the rate of the share.
    left_us: f64,
    /// How long a byte takes at that rate.
    byte_us: f64,
    updated: Time,
    limited: bool,
    /// When less than the share was last sent.
    idle: Time,
    /// When a region ended, until the first packet after it has arrived.
    resumed: Option<Time>,
}

impl ApplicationLimited {
    pub(super) fn new(target_bps: u64, now: Time) -> ApplicationLimited {
        let byte_us = byte_us(target_bps);
        ApplicationLimited { left_us: 0.0, byte_us, updated: now, limited: false, idle: now, resumed: None }
    }

    /// The estimate is another one.
    pub(super) fn set_target(&mut self, target_bps: u64) {
        self.byte_us = byte_us(target_bps);
    }

    pub(super) fn on_sent(&mut self, bytes: usize, now: Time) {
        let elapsed_us = now.since(self.updated).max(0) as f64;
        self.updated = now;
        let packet_us = bytes as f64 * self.byte_us;
        self.left_us = (self.left_us + elapsed_us - packet_us).clamp(-DEBT_US, WINDOW_US);
        let fill = self.left_us / WINDOW_US;
        let limited = if self.limited { fill >= END } else { fill > BEGIN };
        if self.limited && !limited {
            self.resumed = Some(now);
        }
        self.limited = limited;
        if fill > 0.0 {
            self.idle = now;
        }
    }

    /// Less than the share was sent a moment ago, region or not: what arrives is not yet what fits.
    pub(super) fn is_idle(&self, now: Time) -> bool {
        now.since(self.idle) < IDLE_US
    }

    /// Once: whether a packet sent at `sent` is the first to arrive after a region's end.
    pub(super) fn take_resumed(&mut self, sent: Time) -> bool {
        self.resumed.take_if(|resumed| sent >= *resumed).is_some()
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }
}

fn byte_us(target_bps: u64) -> f64 {
    8e6 / (USED_SHARE * target_bps.max(1) as f64)
}
