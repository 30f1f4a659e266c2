//! Peers without transport-wide feedback.

use media::Time;

use crate::estimate::{EstimateState, Estimator, MIN_BPS, START_BPS};

/// A second of sending at `bps`, with its report.
fn second(estimator: &mut Estimator, now: Time, bps: u64, fraction_lost: u8) -> Time {
    for _ in 0..10 {
        estimator.on_sent((bps / 80) as usize, None, now);
    }
    let now = now.plus_us(1_000_000);
    estimator.on_report(fraction_lost, 50_000, now);
    now
}

#[test]
fn reports_raise_hold_and_lower() {
    let mut estimator = Estimator::new(Time::ZERO);
    let mut now = Time::ZERO;
    for _ in 0..10 {
        let target = estimator.target_bps();
        now = second(&mut estimator, now, target, 0);
    }
    let raised = estimator.target_bps();
    assert!((2_000_000..2_300_000).contains(&raised), "{raised}");
    now = second(&mut estimator, now, raised, 13);
    assert_eq!(estimator.target_bps(), raised, "5 % holds");
    now = second(&mut estimator, now, raised, 128);
    assert_eq!(estimator.target_bps(), raised * 3 / 4, "half is lost");
    // Little sent: no growth beyond 1.5 times that.
    let held = estimator.target_bps();
    for _ in 0..60 {
        now = second(&mut estimator, now, 100_000, 0);
    }
    assert_eq!(estimator.target_bps(), held);
    assert_eq!(estimator.figures().state, EstimateState::Reports);
}

#[test]
fn remb_caps_and_raises_what_was_sent() {
    let mut estimator = Estimator::new(Time::ZERO);
    estimator.on_remb(300_000, Time::ZERO);
    assert_eq!(estimator.target_bps(), 300_000);
    let now = second(&mut estimator, Time::ZERO, 300_000, 0);
    assert_eq!(estimator.target_bps(), 300_000, "still capped");
    estimator.on_remb(u64::MAX, now);
    assert_eq!(estimator.target_bps(), 450_000, "1.5 times what was sent");
    estimator.on_remb(0, now);
    assert_eq!(estimator.target_bps(), MIN_BPS);
}

#[test]
fn feedback_ends_the_fallback() {
    let mut estimator = Estimator::new(Time::ZERO);
    let now = super::acknowledge(&mut estimator, Time::ZERO, 100, 9_600);
    let target = estimator.target_bps();
    assert!(target >= START_BPS * 9 / 10, "{target}");
    estimator.on_remb(60_000, now);
    estimator.on_report(255, 50_000, now);
    assert_eq!(estimator.target_bps(), target);
    assert!(estimator.rtt_us.is_some_and(|us| us > 0));
}
