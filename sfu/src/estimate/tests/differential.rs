//! Trendline and AIMD against a plain model that works everything out anew from all that came before.

use media::Time;
use proptest::prelude::*;

use crate::estimate::aimd::{Aimd, Input, State};
use crate::estimate::inter_arrival::Delta;
use crate::estimate::trendline::{Trendline, Usage};

/// The usage after all of `deltas`, and the threshold, from the formulas of the draft.
fn plain_usage(deltas: &[Delta]) -> (Usage, f64) {
    let ms = |us: i64| us as f64 / 1000.0;
    let delay_at = |n: usize| deltas[..=n].iter().map(|d| ms(d.arrival_us) - ms(d.sent_us)).sum::<f64>();
    let time_at = |n: usize| deltas[..=n].iter().map(|d| ms(d.arrival_us)).sum::<f64>();
    // Exponential smoothing as the sum it is.
    let delays: Vec<f64> = (0..deltas.len()).map(delay_at).collect();
    let smoothed_at = |n: usize| (0..=n).map(|k| 0.1 * 0.9_f64.powi((n - k) as i32) * delays[k]).sum::<f64>();
    let slope_at = |n: usize| {
        if n + 1 < 20 {
            return 0.0;
        }
        let points: Vec<(f64, f64)> = (n - 19..=n).map(|k| (time_at(k), smoothed_at(k))).collect();
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / 20.0;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        covariance / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
    };
    let slopes: Vec<f64> = (0..deltas.len()).map(slope_at).collect();
    let scaled = |n: usize| slopes[n] * 4.0 * (n + 1).min(60) as f64;
    let mut thresholds = vec![12.5_f64];
    for n in 0..deltas.len() {
        let (threshold, m) = (thresholds[n], scaled(n).abs());
        let k = if m < threshold { 0.039 } else { 0.0087 };
        let next = (threshold + k * (m - threshold) * ms(deltas[n].arrival_us).min(100.0)).clamp(6.0, 600.0);
        thresholds.push(if m > threshold + 15.0 { threshold } else { next });
    }
    let mut usage = Usage::Normal;
    let mut run = Vec::new();
    for n in 0..deltas.len() {
        if scaled(n) <= thresholds[n] {
            run.clear();
            usage = if scaled(n) < -thresholds[n] { Usage::Under } else { Usage::Normal };
            continue;
        }
        run.push(n);
        // Time above: half of the first step of a run. After overuse was called, whole steps count.
        let restarted = n > 0 && run[0] == usize::MAX;
        let steps: f64 = run.iter().filter(|k| **k != usize::MAX).map(|k| ms(deltas[*k].sent_us)).sum();
        let first = if restarted { 0.0 } else { ms(deltas[run[0]].sent_us) / 2.0 };
        let seen = run.len() - usize::from(restarted);
        if steps - first > 10.0 && seen > 1 && slopes[n] >= if n > 0 { slopes[n - 1] } else { 0.0 } {
            usage = Usage::Over;
            run = vec![usize::MAX];
        }
    }
    (usage, *thresholds.last().unwrap())
}

fn delta() -> impl Strategy<Value = Vec<Delta>> {
    // Stretches in which the queue grows, stands or drains, with noise.
    let stretch = (1_usize..40, -4_000_i64..6_000, 0_i64..3_000, 5_100_i64..40_000);
    (prop::collection::vec(stretch, 1..6), any::<u64>()).prop_map(|(stretches, seed)| {
        let mut seed = seed | 1;
        let mut all = Vec::new();
        for (groups, drift_us, noise_us, sent_us) in stretches {
            for _ in 0..groups {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let noise = (seed >> 33) as i64 % (noise_us + 1);
                all.push(Delta { sent_us, arrival_us: (sent_us + drift_us + noise).max(0) });
            }
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn trendline_is_the_plain_model(deltas in delta()) {
        let mut trendline = Trendline::default();
        for (n, delta) in deltas.iter().enumerate() {
            trendline.on_delta(*delta);
            if n % 7 == 0 || n + 1 == deltas.len() {
                let (usage, threshold) = plain_usage(&deltas[..=n]);
                prop_assert_eq!(trendline.usage(), usage, "after {}", n);
                prop_assert!((trendline.threshold_ms() - threshold).abs() < 1e-6);
            }
        }
    }

    /// AIMD before a capacity is known, where the draft gives closed forms.
    #[test]
    fn aimd_is_the_plain_model(steps in prop::collection::vec((0_u8..8, 100_000_u64..5_000_000, 20_i64..1500), 1..60)) {
        let mut aimd = Aimd::new(1_000_000, Time::ZERO);
        let (mut now, mut plain, mut since, mut holding) = (Time::ZERO, 1_000_000.0_f64, Time::ZERO, true);
        for (kind, acknowledged, ms) in steps {
            now = now.plus_us(ms * 1000);
            let usage = match kind { 0 => Usage::Over, 1 => Usage::Under, _ => Usage::Normal };
            let input = Input {
                usage, acknowledged_bps: Some(acknowledged), confirmed_bps: Some(acknowledged),
                application_limited: kind == 7, idle: false, rtt_us: 10_000,
            };
            aimd.update(input, now);
            match usage {
                Usage::Under => holding = true,
                Usage::Over => plain = plain.min(0.85 * acknowledged as f64),
                Usage::Normal => {
                    if !holding && kind != 7 {
                        let seconds = (now.since(since) as f64 / 1e6).min(1.0);
                        let grown = (plain * 1.08_f64.powf(seconds)).max(plain + 1000.0 * seconds);
                        plain = plain.max(grown.min(1.5 * acknowledged as f64 + 10_000.0));
                    }
                    (holding, since) = (false, now);
                }
            }
            plain = plain.max(50_000.0);
            prop_assert!((aimd.bps() as f64 - plain).abs() < 2.0, "{} and {}", aimd.bps(), plain);
            if usage == Usage::Over {
                prop_assert_eq!(aimd.state(), State::Hold);
                // From here on the capacity is known: begin anew.
                aimd = Aimd::new(aimd.bps(), now);
                (plain, holding, since) = (aimd.bps() as f64, true, now);
            }
        }
    }
}
