//! What the estimator thinks, for who runs the node.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the estimate does now, and why it is not higher.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EstimateState {
    /// Nothing was heard of the peer.
    #[default]
    Start,
    /// The peer gives no transport-wide feedback: by its receiver reports and REMB.
    Reports,
    /// No feedback came for a second and more: half of it.
    Silent,
    /// The queue grows: down to less than what arrives.
    Decrease,
    /// Loss that goes away at a lower rate.
    Loss,
    /// So little is sent that more cannot be seen to fit: probes find out.
    ApplicationLimited,
    /// The queue drains: it waits.
    Hold,
    /// Up.
    Increase,
}

impl EstimateState {
    const ALL: [EstimateState; 8] = [
        EstimateState::Start,
        EstimateState::Reports,
        EstimateState::Silent,
        EstimateState::Decrease,
        EstimateState::Loss,
        EstimateState::ApplicationLimited,
        EstimateState::Hold,
        EstimateState::Increase,
    ];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            EstimateState::Start => "start",
            EstimateState::Reports => "reports",
            EstimateState::Silent => "silent",
            EstimateState::Decrease => "decrease",
            EstimateState::Loss => "loss",
            EstimateState::ApplicationLimited => "application_limited",
            EstimateState::Hold => "hold",
            EstimateState::Increase => "increase",
        }
    }

    fn from_number(number: u8) -> EstimateState {
        EstimateState::ALL.into_iter().find(|it| *it as u8 == number).unwrap_or_default()
    }
}

/// What each part of the estimator thinks. Rates in bit/s.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct EstimateFigures {
    /// What it does.
    pub state: EstimateState,
    /// A bandwidth probe is on the way.
    pub probing: bool,
    /// What the delay allows; 0 while nothing was heard.
    pub delay_bps: u64,
    /// What loss allows; 0 while it does not limit.
    pub loss_bps: u64,
    /// What arrives, by the receiver's clock; 0 while unknown.
    pub arrives_bps: u64,
    /// Lost share of what was sent in the last seconds, 0 to 1.
    pub loss: f64,
}

/// The same for other threads to read: each figure by itself.
#[derive(Debug, Default)]
pub struct EstimateCell {
    /// State, probing, and the loss in millionths.
    packed: AtomicU64,
    rates: [AtomicU64; 3],
}

impl EstimateCell {
    pub(crate) fn store(&self, figures: &EstimateFigures) {
        let [a, b, c, d] = ((figures.loss.clamp(0.0, 1.0) * 1e6) as u32).to_be_bytes();
        let packed = u64::from_be_bytes([figures.state as u8, figures.probing.into(), 0, 0, a, b, c, d]);
        self.packed.store(packed, Ordering::Relaxed);
        for (rate, bps) in self.rates.iter().zip([figures.delay_bps, figures.loss_bps, figures.arrives_bps]) {
            rate.store(bps, Ordering::Relaxed);
        }
    }

    /// What was stored last.
    pub fn load(&self) -> EstimateFigures {
        let [state, probing, _, _, loss @ ..] = self.packed.load(Ordering::Relaxed).to_be_bytes();
        let [delay_bps, loss_bps, arrives_bps] = self.rates.each_ref().map(|it| it.load(Ordering::Relaxed));
        EstimateFigures {
            state: EstimateState::from_number(state),
            probing: probing != 0,
            delay_bps,
            loss_bps,
            arrives_bps,
            loss: f64::from(u32::from_be_bytes(loss)) / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read() {
        let cell = EstimateCell::default();
        assert_eq!(cell.load(), EstimateFigures::default());
        for state in EstimateState::ALL {
            let (delay_bps, loss_bps, arrives_bps) = (1, 2, u64::MAX);
            let probing = state == EstimateState::Loss;
            let figures = EstimateFigures { state, probing, delay_bps, loss_bps, arrives_bps, loss: 0.25 };
            cell.store(&figures);
            assert_eq!(cell.load(), figures);
        }
    }
}
