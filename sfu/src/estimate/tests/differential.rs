//! The estimator against a plain model that works everything out anew from all that came before: as a whole, after each feedback
//! of a generated trace; trendline and AIMD alone with inputs that no trace has.

use media::Time;
use proptest::prelude::*;

use super::plain::{self, Plain};
use super::world::World;
use crate::estimate::START_BPS;
use crate::estimate::aimd::{Aimd, Input};
use crate::estimate::inter_arrival::Delta;
use crate::estimate::trendline::{Trendline, Usage};

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
                let (usage, threshold) = plain::usage(&deltas[..=n]);
                prop_assert_eq!(trendline.usage(), usage, "after {}", n);
                prop_assert!((trendline.threshold_ms() - threshold).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn aimd_is_the_plain_model(steps in prop::collection::vec((0_u8..12, 900_000_u64..1_300_000, any::<bool>(), 20_i64..1500), 1..80)) {
        let mut aimd = Aimd::new(START_BPS, Time::ZERO);
        let mut plain = Plain::new();
        let (mut now, rtt_us) = (Time::ZERO, 10_000);
        plain.rtt_us = Some(rtt_us);
        for (kind, arrives, idle, ms) in steps {
            now = now.plus_us(ms * 1000);
            let usage = match kind { 0..5 => Usage::Over, 5 => Usage::Under, _ => Usage::Normal };
            plain.limited = kind == 6;
            // Mostly what a link of a megabit would say; now and then another one.
            let arrives = match kind { 7 => arrives * 3, 8 => arrives / 4, _ => arrives };
            let (acknowledged_bps, confirmed_bps) = (Some(arrives).filter(|_| kind != 9), Some(arrives / 2 * 2));
            aimd.update(Input {
                usage, acknowledged_bps, confirmed_bps, ceiling: 1.2, application_limited: plain.limited, idle, rtt_us,
            }, now);
            let f = |bps: Option<u64>| bps.map(|bps| bps as f64);
            plain.aimd(usage, f(acknowledged_bps), f(confirmed_bps), idle, now.us());
            prop_assert!((aimd.bps() as f64 - plain.delay_bps).abs() < 2.0, "{} and {}", aimd.bps(), plain.delay_bps);
            prop_assert_eq!(aimd.state(), plain.state);
        }
    }
}

/// What is so for two seconds, and then for two, twice.
struct Trace {
    name: &'static str,
    one: fn(&mut World),
    other: fn(&mut World),
}

const TRACES: [Trace; 11] = [
    Trace { name: "steady", one: |_| {}, other: |_| {} },
    Trace { name: "swings", one: |w| w.link_bps = 400_000, other: |w| w.link_bps = 3_000_000 },
    Trace { name: "falls", one: |_| {}, other: |w| w.link_bps = w.link_bps * 2 / 5 },
    Trace { name: "random loss", one: |w| w.loss_milli = 50, other: |w| w.loss_milli = 150 },
    Trace { name: "bursts", one: |w| w.burst_milli = 30, other: |w| w.queue_us_max = 10_000 },
    Trace { name: "cross traffic", one: |w| w.cross_bps = 0, other: |w| w.cross_bps = 1_200_000 },
    Trace { name: "little sent", one: |w| w.source_bps = 300_000, other: |w| w.source_bps = u64::MAX },
    Trace {
        name: "little sent, cross traffic",
        one: |w| (w.source_bps, w.cross_bps) = (500_000, 0),
        other: |w| w.cross_bps = 1_800_000,
    },
    Trace {
        name: "lost feedback",
        one: |w| w.feedback_loss_milli = 500,
        other: |w| w.feedback_loss_milli = 1000,
    },
    Trace { name: "clock set", one: |_| {}, other: |w| w.receiver_clock_us += 10_000_000 },
    Trace {
        name: "disorder",
        one: |w| (w.feedback_late_us, w.feedback_twice_milli, w.overtaken_milli) = (150_000, 300, 0),
        other: |w| (w.overtaken_milli, w.feedback_loss_milli) = (60, 200),
    },
];

#[test]
fn the_estimator_is_the_plain_model_after_each_feedback_of_each_trace() {
    for trace in TRACES {
        for seed in [1, 20_251] {
            let mut world = World::new(seed, 2_000_000);
            (world.plain, world.name) = (Some(Plain::new()), format!("{}, seed {seed}", trace.name));
            // No probes: what they find is tested beside them.
            world.estimator.set_demand(0);
            for set in [trace.one, trace.other, trace.one, trace.other] {
                set(&mut world);
                world.run(2);
            }
            let feedbacks = world.plain.as_ref().map_or(0, |plain| plain.feedbacks);
            assert!(feedbacks > 10, "{}: {feedbacks}", world.name);
        }
    }
}
