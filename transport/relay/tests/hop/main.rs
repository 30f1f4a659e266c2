//! Hops over links that lose and reorder, in virtual time: how late frames are, and what the repair costs.

mod cubic;
mod quic;
mod world;

use link::{Config, Loss};
use world::{Cell, Figures, percentile, run};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;

fn say(name: &str, it: &Figures) {
    println!(
        "{name}: p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms (as they came p99 {:.1}), within 400 ms {:.3} %, wire {:.4}, duplicates {:.2} %, beside {:.1}",
        it.p(50),
        it.p(95),
        it.p(99),
        it.p(100),
        percentile(&it.delays, 99),
        it.share() * 100.0,
        it.wire,
        it.duplicates * 100.0,
        it.beside_mbps,
    );
}

/// Figures of each seed, and the medians of p99 and wire.
fn runs(name: &str, cell: Cell) -> (Vec<Figures>, f64, f64) {
    let seeds = if cell.config.loss == Loss::None { 1..=1 } else { SEEDS };
    let all: Vec<Figures> = seeds.map(|seed| run(cell, seed)).collect();
    all.iter().for_each(|it| say(name, it));
    let median = |of: &dyn Fn(&Figures) -> f64| {
        let mut each: Vec<f64> = all.iter().map(of).collect();
        each.sort_by(f64::total_cmp);
        each[each.len() / 2]
    };
    let (p99, wire) = (median(&|it| it.p(99)), median(&|it| it.wire));
    println!("MEDIAN {name}: p99 {p99:.1} wire {wire:.4}");
    (all, p99, wire)
}

fn path(loss: Loss) -> Config {
    Config { delay_us: 50_000, loss, ..Config::default() }
}

fn random(per_mille: u32) -> Loss {
    Loss::Random { per_mille }
}

#[test]
fn frames_are_late_by_a_round_trip_at_two_percent_loss() {
    let (all, p99, wire) = runs("2 %", Cell::new(path(random(20))));
    assert!(all.iter().all(|it| it.share() >= 0.999));
    assert!(p99 <= 175.0 && wire <= 1.1, "{p99} {wire}");
}

#[test]
fn five_percent_loss() {
    let (all, p99, wire) = runs("5 %", Cell::new(path(random(50))));
    assert!(all.iter().all(|it| it.share() >= 0.998));
    assert!(p99 <= 275.0 && wire <= 1.107, "{p99} {wire}");
}

#[test]
fn without_loss_a_key_frame_is_late_by_a_third_of_a_frame_and_others_not_at_all() {
    let (all, p99, wire) = runs("0 %", Cell::new(path(Loss::None)));
    assert!(all.iter().all(|it| it.p(95) <= 51.0 && it.duplicates == 0.0));
    assert!(p99 <= 63.0 && wire <= 1.05, "{p99} {wire}");
}

#[test]
fn bursts() {
    let (_, p99, wire) =
        runs("2 % in bursts", Cell::new(path(Loss::Bursts { per_mille: 20, mean_packets: 8 })));
    assert!(p99 <= 175.0 && wire <= 1.08, "{p99} {wire}");
}

#[test]
fn what_is_out_of_order_is_not_asked_for() {
    let config = Config { jitter_us: 20_000, reorder: true, delay_us: 40_000, ..path(random(10)) };
    let (all, p99, wire) = runs("+-10 ms, 1 %", Cell::new(config));
    assert!(all.iter().all(|it| it.duplicates < 0.03));
    assert!(p99 <= 175.0 && wire <= 1.08, "{p99} {wire}");
}

#[test]
fn what_is_out_of_order_on_a_short_path_is_not_asked_for_either() {
    let config = Config { jitter_us: 20_000, reorder: true, delay_us: 1_000, ..path(random(10)) };
    let (all, _, wire) = runs("+-10 ms, RTT 20 ms, 1 %", Cell::new(config));
    assert!(all.iter().all(|it| it.duplicates < 0.08) && wire <= 1.1, "{wire}");
}

#[test]
fn short_and_long_paths() {
    for (delay_us, most) in [(10_000, 100.0), (100_000, 500.0)] {
        let (_, p99, _) = runs("other RTT, 2 %", Cell::new(Config { delay_us, ..path(random(20)) }));
        assert!(p99 <= most, "{p99}");
    }
}

#[test]
fn nothing_is_lost_where_a_path_becomes_narrower() {
    let config = Config { delay_us: 25_000, loss: random(50), ..Config::default() };
    let (all, ..) = runs("narrower", Cell { narrow_us: 300_000, ..Cell::new(config) });
    let lost: Vec<usize> = all.iter().map(|it| it.frames - it.delays.len()).collect();
    assert!(lost.iter().all(|lost| *lost == 0), "{lost:?}");
}

#[test]
fn three_hops_repair_at_once() {
    let config = Config { delay_us: 25_000, ..path(random(20)) };
    let (all, ..) = runs("three hops of 50 ms, 2 %", Cell { hops: 3, ..Cell::new(config) });
    assert!(all.iter().all(|it| it.p(95) <= 175.0 && it.share() >= 0.999));
}

#[test]
fn beside_a_flow_that_fills_the_queue_nearly_every_frame_comes_and_the_flow_keeps_its_share() {
    let config = Config { rate_bps: Some(15_000_000), ..path(Loss::None) };
    let cell = Cell { beside: true, budget_ms: 1_500, seconds: 40, ..Cell::new(config) };
    let (all, ..) = runs("beside TCP-Cubic", cell);
    for it in all {
        let came = it.delays.len() as f64 / it.frames as f64;
        assert!(came >= 0.995, "{came}");
        assert!(it.p(50) <= 215.0 && it.share() >= 0.85, "{} {}", it.p(50), it.share());
        assert!(it.beside_mbps >= 10.0, "{}", it.beside_mbps);
    }
}

#[test]
fn a_narrow_path_delays_key_frames_and_loses_nothing() {
    for (rate_bps, most) in [(4_600_000, 265.0), (6_000_000, 215.0)] {
        let config = Config { rate_bps: Some(rate_bps), ..path(Loss::None) };
        let (all, p99, _) = runs("narrow", Cell { seconds: 30, ..Cell::new(config) });
        assert!(p99 <= most && all.iter().all(|it| it.share() == 1.0), "{p99}");
    }
}

#[test]
fn what_is_lost_on_a_narrow_path_is_repaired_by_its_real_round_trip() {
    for (rate_bps, delay_us, most) in
        [(4_600_000, 10_000, 290.0), (4_600_000, 50_000, 420.0), (6_000_000, 10_000, 220.0)]
    {
        let config = Config { rate_bps: Some(rate_bps), delay_us, ..path(random(10)) };
        let (all, p99, _) = runs("narrow, 1 %", Cell { seconds: 30, ..Cell::new(config) });
        assert!(p99 <= most && all.iter().all(|it| it.share() >= 0.97), "{p99}");
    }
}
