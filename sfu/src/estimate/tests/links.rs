//! What the estimate does on one kind of link each.

use super::world::World;

const SEEDS: [u64; 3] = [11, 4242, 987_654_321];

fn at_least(world: &World, bps: u64, share_percent: u64) {
    let target = world.target_bps();
    assert!(target * 100 >= bps * share_percent, "{target} of {bps} bit/s, {:?}", world.estimator.figures());
}

#[test]
fn steady_link_is_found_and_held() {
    for seed in SEEDS {
        let mut world = World::new(seed, 2_000_000);
        world.run(10);
        println!("steady {seed}: after 10 s {}", world.target_bps());
        at_least(&world, 2_000_000, 85);
        world.forget();
        world.run(60);
        let (mean, least, p95) = (world.mean_target_bps(), world.min_target_bps(), world.queue_ms_p95());
        println!(
            "steady {seed}: mean {mean} min {least} max {} queue p95 {p95} ms, {} probes",
            world.max_target_bps(),
            world.probes
        );
        assert!(mean >= 1_700_000, "mean {mean}");
        assert!(least >= 1_300_000, "min {least}");
        assert!(p95 < 200, "queue p95 {p95} ms");
    }
}

#[test]
fn steps_down_and_up_are_followed() {
    for seed in SEEDS {
        let mut world = World::new(seed, 1_000_000);
        world.run(15);
        at_least(&world, 1_000_000, 75);
        world.link_bps = 500_000;
        world.run(3);
        let after = world.target_bps();
        println!("step {seed}: 3 s after 1 -> 0.5: {after}");
        assert!(after <= 550_000, "{after}");
        world.forget();
        world.run(12);
        println!(
            "step {seed}: at 0.5: mean {} queue p95 {} ms",
            world.mean_target_bps(),
            world.queue_ms_p95()
        );
        assert!(world.mean_target_bps() >= 350_000, "{}", world.mean_target_bps());
        assert!(world.queue_ms_p95() < 300, "{} ms", world.queue_ms_p95());
        world.link_bps = 2_000_000;
        world.run(10);
        println!("step {seed}: 10 s after 0.5 -> 2: {}", world.target_bps());
        at_least(&world, 2_000_000, 85);
    }
}

#[test]
fn random_loss_costs_nothing() {
    for (seed, loss_milli) in SEEDS.into_iter().flat_map(|seed| [(seed, 20), (seed, 50)]) {
        let mut world = World::new(seed, 2_000_000);
        world.loss_milli = loss_milli;
        world.run(15);
        world.forget();
        world.run(60);
        let (mean, least) = (world.mean_target_bps(), world.min_target_bps());
        println!("loss {seed} {loss_milli}: mean {mean} min {least} p95 {} ms", world.queue_ms_p95());
        assert!(mean >= 1_700_000, "{mean} at {loss_milli} in 1000");
    }
}

#[test]
fn loss_of_a_short_queue_is_backed_off_from() {
    for seed in SEEDS {
        // A policer: 10 ms of queue, whose delay is within the noise. The link falls to 60 %.
        let mut world = World::new(seed, 2_000_000);
        world.queue_us_max = 10_000;
        world.run(15);
        world.link_bps = 1_200_000;
        world.run(5);
        world.forget();
        world.run(30);
        let (mean, loss) = (world.mean_target_bps(), world.loss());
        println!("policer {seed}: mean {mean} max {} loss {loss:.3}", world.max_target_bps());
        assert!((800_000..=1_300_000).contains(&mean), "{mean}");
        assert!(loss < 0.1, "{loss}");
    }
}

#[test]
fn deep_buffer_is_not_filled() {
    for seed in SEEDS {
        let mut world = World::new(seed, 1_500_000);
        world.queue_us_max = 2_000_000;
        world.run(60);
        println!("deep {seed}: mean {} p95 {} ms", world.mean_target_bps(), world.queue_ms_p95());
        assert!(world.queue_ms_p95() < 250, "{} ms", world.queue_ms_p95());
        assert!(world.mean_target_bps() >= 1_100_000);
    }
}

#[test]
fn competing_flow_keeps_its_part() {
    for seed in SEEDS {
        let mut world = World::new(seed, 3_000_000);
        world.run(15);
        world.cross_bps = 1_500_000;
        world.run(10);
        world.forget();
        world.run(30);
        println!("competing {seed}: mean {} p95 {} ms", world.mean_target_bps(), world.queue_ms_p95());
        assert!((1_000_000..=1_600_000).contains(&world.mean_target_bps()), "{}", world.mean_target_bps());
        assert!(world.queue_ms_p95() < 250, "{} ms", world.queue_ms_p95());
    }
}

#[test]
fn application_limited_source_neither_raises_nor_loses_the_estimate() {
    for seed in SEEDS {
        let mut world = World::new(seed, 2_000_000);
        world.run(10);
        world.source_bps = 400_000;
        world.forget();
        world.run(60);
        println!(
            "limited {seed}: min {} max {} at end {}",
            world.min_target_bps(),
            world.max_target_bps(),
            world.target_bps()
        );
        assert!(world.min_target_bps() >= 1_300_000, "{}", world.min_target_bps());
        assert!(world.max_target_bps() <= 2_600_000, "{}", world.max_target_bps());
        world.source_bps = u64::MAX;
        world.forget();
        world.run(20);
        println!(
            "limited {seed}: full again: min {} mean {} p95 {}",
            world.min_target_bps(),
            world.mean_target_bps(),
            world.queue_ms_p95()
        );
        assert!(world.min_target_bps() >= 1_200_000, "{}", world.min_target_bps());
        assert!(world.queue_ms_p95() < 250);
    }
}

#[test]
fn lost_feedback_is_survived() {
    for seed in SEEDS {
        let mut world = World::new(seed, 2_000_000);
        world.feedback_loss_milli = 300;
        world.run(20);
        world.forget();
        world.run(40);
        println!("feedback {seed}: mean {} p95 {} ms", world.mean_target_bps(), world.queue_ms_p95());
        assert!(world.mean_target_bps() >= 1_500_000, "{}", world.mean_target_bps());
        assert!(world.queue_ms_p95() < 250);
        // None at all: half every second or so, and back when it comes again.
        world.feedback_loss_milli = 1000;
        world.run(5);
        assert!(world.target_bps() <= 500_000, "{}", world.target_bps());
        world.feedback_loss_milli = 0;
        world.run(15);
        at_least(&world, 2_000_000, 75);
    }
}

#[test]
fn room_for_a_higher_layer_is_found_by_probes() {
    for seed in SEEDS {
        // A layer of 450 kbit/s on 600 kbit/s, for a viewer who would take 2 Mbit/s; then the link gets better.
        let mut world = World::new(seed, 600_000);
        world.estimator.set_demand(2_000_000);
        world.source_bps = 450_000;
        world.run(20);
        let before = world.target_bps();
        world.link_bps = 4_000_000;
        world.run(10);
        println!("layer {seed}: {before}, 10 s later {} after {} probes", world.target_bps(), world.probes);
        assert!(before <= 750_000, "{before}");
        at_least(&world, 2_000_000, 100);
        // Enough: no more probes, and none above twice the demand.
        let probes = world.probes;
        world.run(20);
        assert_eq!(world.probes, probes);
        assert!(world.target_bps() <= 4_000_000, "{}", world.target_bps());
    }
}
