//! Each scenario with the committed seeds: oracles hold at every packet, and gates are reached.

use sim::scenario::{self, SEEDS};
use sim::scoreboard;

fn reaches_its_gates(name: &str) {
    let scenario = scenario::all().find(|it| it.name == name).expect("a scenario of this name");
    let rows = scoreboard::measure(scenario, &SEEDS);
    let missed: Vec<String> = rows
        .iter()
        .filter(|row| !row.is_reached())
        .map(|row| {
            let replay = row.worst_seed().map(|seed| scenario::replay(name, seed)).unwrap_or_default();
            format!("{}\n    by seed {:?}\n    the worst again: {replay}", row.line(), row.by_seed)
        })
        .collect();
    assert!(missed.is_empty(), "{name}: {}\n{}", scenario.about, missed.join("\n"));
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            reaches_its_gates($name);
        })*

        #[test]
        fn every_scenario_is_tried_here() {
            let here = [$($name),*];
            let absent: Vec<&str> = scenario::all().map(|it| it.name).filter(|it| !here.contains(it)).collect();
            assert!(absent.is_empty(), "{absent:?}");
        }
    };
}

scenarios! {
    loss_5: "loss-5",
    loss_5_plain: "loss-5-plain",
    loss_10: "loss-10",
    loss_10_both_ways: "loss-10-both-ways",
    loss_5_far: "loss-5-far",
    loss_5_rtmp: "loss-5-rtmp",
    outage: "outage",
    bursts: "bursts",
    uplink_5: "uplink-5",
    join_rtmp: "join-rtmp",
    join_lossy: "join-lossy",
    join_narrow_4: "join-narrow-4",
    join_narrow_2_5: "join-narrow-2.5",
    join_narrow_1_2: "join-narrow-1.2",
    join_far: "join-far",
    join_storm: "join-storm",
    reorder: "reorder",
    duplicates: "duplicates",
    time_jump: "time-jump",
    ssrc_change: "ssrc-change",
    codec_change: "codec-change",
    resolution_change: "resolution-change",
    pause: "pause",
    replaced: "replaced",
    slow_one: "slow-one",
    rate_steps: "rate-steps",
    rate_steps_one: "rate-steps-one",
    rtmp_narrow: "rtmp-narrow",
    rtmp_too_narrow: "rtmp-too-narrow",
    temporal_narrow: "temporal-narrow",
    estimate_loss_2: "estimate-loss-2",
}

/// Chance, order and time come from the seed alone.
#[test]
fn a_seed_gives_the_same_run_each_time() {
    for name in ["loss-10", "join-lossy", "replaced"] {
        let scenario = scenario::all().find(|it| it.name == name).expect("a scenario of this name");
        assert_eq!(scenario.run(7, false), scenario.run(7, false), "{name}");
        assert_ne!(scenario.run(7, false), scenario.run(8, false), "{name}");
    }
}
