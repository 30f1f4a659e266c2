//! Paths that are too narrow, and those that only seem so. Most of it waits for estimation and pacing.

use link::{Config, Loss};

use super::{Figure, Goal, Scenario, Value, View, gate, later, shown};
use crate::offer::Features;
use crate::video::Settings;
use crate::world::World;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "slow-one",
        about: "one of 20 viewers has 100 kbit/s, the others all they need",
        run: slow_one,
    },
    Scenario {
        name: "rate-steps",
        about: "viewer's path: 4, 1 and 4 Mbit/s for 10 s each, RTT 50 ms, 1 s of queue; 2 Mbit/s from a browser, one layer",
        run: rate_steps,
    },
    Scenario {
        name: "rtmp-narrow",
        about: "1.5 Mbit/s for an RTMP source of 2 Mbit/s with a GOP of 4 s, every second frame unreferenced",
        run: rtmp_narrow,
    },
    Scenario {
        name: "estimate-loss-2",
        about: "viewer's path: 2.4 Mbit/s, 2 % random loss; 2 Mbit/s from a browser",
        run: estimate,
    },
];

fn slow_one(seed: u64, log: bool) -> Vec<Figure> {
    let run = |slow: bool| {
        let mut w = World::new(seed, 1, log && slow);
        let publisher = w.publisher(1, Features::default(), Settings::default());
        w.peers[publisher].publisher().unpaced();
        let viewers: Vec<usize> = (0..20).map(|_| w.joining(1, 0, Features::default())).collect();
        w.connect(&viewers);
        w.run_s(1);
        if slow {
            let path = Config {
                delay_us: 50_000,
                rate_bps: Some(100_000),
                queue_us: 1_000_000,
                ..Config::default()
            };
            w.path(viewers[0], path, path);
        }
        let (from, to) = (w.now, w.now.plus_ms(8_000));
        w.run_s(9);
        let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
        let asked = w.peers[publisher].oracle.key_frames_asked;
        let others = viewers[1..].iter().map(|v| View::of(&w, *v, &sent, from, to));
        let nacked: u64 = viewers[1..].iter().map(|v| w.peers[*v].receiver().nacked).sum();
        (others.collect::<Vec<View>>(), asked, nacked)
    };
    let ((others, asked, nacked), (without, ..)) = (run(true), run(false));
    let p95 = |views: &[View]| {
        let mut all: Vec<f64> = views.iter().flat_map(|v| v.latency_ms.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        all[(all.len() - 1) * 95 / 100]
    };
    let (whole, frames) = others.iter().fold((0, 0), |(a, b), v| (a + v.complete, b + v.frames));
    vec![
        gate("frames whole, of the others, %", Value::Share(whole, frames), Goal::Least(100.0)),
        gate("packets lost by the others", Value::Most(nacked as f64), Goal::Most(0.0)),
        gate(
            "more latency for the others, p95, ms",
            Value::Most((p95(&others) - p95(&without)).max(0.0)),
            Goal::Most(1.0),
        ),
        shown("key frames asked of the publisher", Value::Most(f64::from(asked))),
    ]
}

/// What a viewer on a narrow path had, once the path is narrow.
fn narrow(w: &World, viewer: usize, view: &View, freeze_ms: f64) -> Vec<Figure> {
    let peer = &w.peers[viewer];
    let queue: Vec<f64> = peer.queue_us.iter().map(|(_, us)| *us as f64 / 1_000.0).collect();
    vec![
        later("queue delay, p95, ms", Value::Percentile(95, queue), Goal::Most(200.0)),
        later("longest freeze, ms", Value::Most(view.freeze_ms()), Goal::Most(freeze_ms)),
        shown("frames played, %", Value::Share(view.played, view.frames)),
        shown("key frames asked for by the viewer", Value::Most(f64::from(peer.receiver().plis))),
    ]
}

fn rate_steps(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewer = w.viewer(1, 0, Features::default());
    w.run_s(1);
    let path = |rate: u64| Config {
        delay_us: 25_000,
        rate_bps: Some(rate),
        queue_us: 1_000_000,
        ..Config::default()
    };
    let from = w.now;
    for (second, rate) in [(0, 4_000_000), (10, 1_000_000), (20, 4_000_000)] {
        w.at(from.plus_ms(second * 1_000), move |w| {
            let up = Config { delay_us: 25_000, ..Config::default() };
            w.path(viewer, up, path(rate));
        });
    }
    w.run_s(30);
    let to = w.now.plus_ms(-1_000);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let view = View::of(&w, viewer, &sent, from, to);
    let mut figures = vec![later("time to the right layer, s", Value::Nothing, Goal::Most(2.0))];
    figures.extend(narrow(&w, viewer, &view, 500.0));
    figures
}

fn rtmp_narrow(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    w.source(1, Settings { gop: 120, unreferenced: true, ..Settings::default() });
    let viewer = w.viewer(1, 0, Features::default());
    w.run_s(5);
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(1_500_000), queue_us: 1_000_000, ..up };
    w.path(viewer, up, down);
    let from = w.now;
    w.run_s(20);
    let view = View::of(&w, viewer, &w.sources[0].sent, from, w.now.plus_ms(-1_000));
    narrow(&w, viewer, &view, 500.0)
}

fn estimate(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewer = w.viewer(1, 0, Features::default());
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(2_400_000), loss: Loss::Random { per_mille: 20 }, ..up };
    w.path(viewer, up, down);
    let from = w.now;
    w.run_s(20);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let view = View::of(&w, viewer, &sent, from, w.now.plus_ms(-1_000));
    let estimate_bps = w.peers[viewer].stats.estimate_bps.load(std::sync::atomic::Ordering::Relaxed);
    vec![
        gate("estimate, % of the path", Value::Share(estimate_bps, 2_400_000), Goal::Least(85.0)),
        shown("frames whole within 400 ms of capture, %", Value::Share(view.live, view.frames)),
    ]
}
