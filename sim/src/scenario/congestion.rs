//! Paths that are too narrow, and those that only seem so.

use link::{Config, Loss};

use super::{Figure, Goal, Scenario, Value, View, gate, shown};
use media::Time;

use crate::Seen;
use crate::offer::Features;
use crate::video::{FrameId, Picture, Settings};
use crate::world::World;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "slow-one",
        about: "one of 100 viewers has 100 kbit/s, the others all they need",
        run: slow_one,
    },
    Scenario {
        name: "rate-steps",
        about: "viewer's path: 4, 1 and 4 Mbit/s for 10 s each, RTT 50 ms, 1 s of queue; simulcast of 150, 500 and 1700 kbit/s",
        run: rate_steps,
    },
    Scenario {
        name: "rate-steps-one",
        about: "the same path; 2 Mbit/s from a browser, one layer: while it is narrow, a key frame each two seconds",
        run: rate_steps_one,
    },
    Scenario {
        name: "rtmp-narrow",
        about: "1.5 Mbit/s for an RTMP source of 2 Mbit/s with a GOP of 4 s; every second frame unreferenced, 40 % of the bytes between key frames",
        run: rtmp_narrow,
    },
    Scenario {
        name: "rtmp-too-narrow",
        about: "0.8 Mbit/s for the same source: less than its referenced frames need",
        run: rtmp_too_narrow,
    },
    Scenario {
        name: "temporal-narrow",
        about: "1.2 Mbit/s for a browser's VP8 of 2 Mbit/s in three temporal layers, of which two take half",
        run: temporal_narrow,
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
        let viewers: Vec<usize> = (0..100).map(|_| w.joining(1, 0, Features::default())).collect();
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
        gate("queue delay, p95, ms", Value::Percentile(95, queue), Goal::Most(200.0)),
        gate("longest freeze, ms", Value::Most(view.freeze_ms()), Goal::Most(freeze_ms)),
        shown("frames played, %", Value::Share(view.played, view.frames)),
        shown("key frames asked for by the viewer", Value::Most(f64::from(peer.receiver().plis))),
    ]
}

/// As Chromium makes them of a 720p camera, lowest first.
const SIMULCAST: [(Picture, u64); 3] =
    [(Picture::P180, 150_000), (Picture::P360, 500_000), (Picture::P720, 1_700_000)];

/// Seconds until nothing but the encoding `right` comes to the viewer, between two steps; `None` when it never does.
fn settles(seen: &Seen, right: usize, from: Time, to: Time) -> Value {
    let came = || seen.complete.iter().filter(|(_, (whole, _))| *whole >= from && *whole < to);
    let is_right = |id: &FrameId| id.encoder >> 16 == right as u32;
    if !came().any(|(id, _)| is_right(id)) {
        return Value::Nothing;
    }
    let last = came().filter(|(id, _)| !is_right(id)).map(|(_, (whole, _))| *whole).max();
    Value::Most(last.map_or(0.0, |last| last.since(from) as f64 / 1_000_000.0))
}

fn rate_steps(seed: u64, log: bool) -> Vec<Figure> {
    let settings = |(picture, bitrate_bps)| Settings { picture, bitrate_bps, ..Settings::default() };
    let mut w = World::new(seed, 1, log);
    let publisher = w.simulcast(1, Features::default(), &SIMULCAST.map(settings));
    let (from, viewer, view) = steps(&mut w, publisher);
    let seen = &w.peers[viewer].receiver().buffer.seen;
    let at = |second: i64| from.plus_ms(second * 1_000);
    let mut figures = vec![
        gate("down to the right layer, s", settles(seen, 1, at(10), at(20)), Goal::Most(2.0)),
        gate("up to the right layer, s", settles(seen, 2, at(20), at(30)), Goal::Most(10.0)),
    ];
    figures.extend(narrow(&w, viewer, &view, 500.0));
    figures
}

fn rate_steps_one(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let (_, viewer, view) = steps(&mut w, publisher);
    // A picture each two seconds: more would cost all who watch.
    let mut figures = narrow(&w, viewer, &view, 2_500.0);
    let asked = w.peers[publisher].oracle.key_frames_asked;
    figures.push(shown("key frames asked of the publisher", Value::Most(f64::from(asked))));
    figures
}

/// A viewer whose path has another rate each 10 s; when that began.
fn steps(w: &mut World, publisher: usize) -> (Time, usize, View) {
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
    (from, viewer, View::of(w, viewer, &sent, from, to))
}

fn rtmp_narrow(seed: u64, log: bool) -> Vec<Figure> {
    let (w, viewer, view) = behind_narrow(World::new(seed, 1, log), 1_500_000);
    let mut figures = narrow(&w, viewer, &view, 500.0);
    figures.push(sound(&w, viewer));
    figures
}

fn rtmp_too_narrow(seed: u64, log: bool) -> Vec<Figure> {
    let (w, viewer, view) = behind_narrow(World::new(seed, 1, log), 800_000);
    let played = &w.peers[viewer].receiver().buffer.seen.played;
    let keys = w.sources[0].sent.iter().filter(|s| s.key && s.capture >= view.from && s.capture < view.to);
    let ages_ms: Vec<f64> = keys
        .map(|s| played.get(&s.id).map_or(f64::INFINITY, |at| at.since(s.capture) as f64 / 1_000.0))
        .collect();
    let mut figures = vec![gate(
        "from a key frame's capture to its picture, worst, ms",
        Value::Most(ages_ms.iter().copied().fold(0.0, f64::max)),
        Goal::Most(1_000.0),
    )];
    // From one GOP's pictures to the next's.
    figures.extend(narrow(&w, viewer, &view, 4_500.0));
    figures.push(sound(&w, viewer));
    figures
}

/// Sound passes whatever there is no room for.
fn sound(w: &World, viewer: usize) -> Figure {
    let (came, sent) = (w.peers[viewer].receiver().sound(), w.sources[0].sound());
    gate("sound that came, %", Value::Share(came, sent), Goal::Least(99.5))
}

/// 20 s of an RTMP source behind a narrow path.
fn behind_narrow(mut w: World, rate_bps: u64) -> (World, usize, View) {
    w.source(1, Settings { gop: 120, unreferenced: true, ..Settings::default() });
    let viewer = w.viewer(1, 0, Features::default());
    w.run_s(5);
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(rate_bps), queue_us: 1_000_000, ..up };
    w.path(viewer, up, down);
    let from = w.now;
    w.run_s(20);
    let view = View::of(&w, viewer, &w.sources[0].sent, from, w.now.plus_ms(-1_500));
    (w, viewer, view)
}

fn temporal_narrow(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher =
        w.publisher(1, Features::default(), Settings { picture: Picture::Vp8Layers, ..Settings::default() });
    let viewer = w.viewer(1, 0, Features::default());
    w.run_s(5);
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(1_200_000), queue_us: 1_000_000, ..up };
    w.path(viewer, up, down);
    let from = w.now;
    w.run_s(20);
    let to = w.now.plus_ms(-1_000);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let view = View::of(&w, viewer, &sent, from, to);
    let steady = View::of(&w, viewer, &sent, from.plus_ms(3_000), to);
    vec![
        gate(
            "frames played once it has settled, %",
            Value::Share(steady.played, steady.frames),
            Goal::Least(45.0),
        ),
        gate("longest freeze, ms", Value::Most(view.freeze_ms()), Goal::Most(500.0)),
        gate(
            "key frames asked for by the viewer",
            Value::Most(f64::from(w.peers[viewer].receiver().plis)),
            Goal::Most(0.0),
        ),
        shown("queue delay, p95, ms", {
            let queue = &w.peers[viewer].queue_us;
            Value::Percentile(95, queue.iter().map(|(_, us)| *us as f64 / 1_000.0).collect())
        }),
    ]
}

fn estimate(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewer = w.viewer(1, 0, Features::default());
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(2_400_000), loss: Loss::Random { per_mille: 20 }, ..up };
    w.path(viewer, up, down);
    let from = w.now;
    w.run_s(5);
    // Each key frame is a queue for a moment, and costs 15 %: what counts is the mean.
    let (mut sum_bps, mut times) = (0, 0);
    for _ in 0..150 {
        w.run_us(100_000);
        sum_bps += w.peers[viewer].stats.estimate_bps.load(std::sync::atomic::Ordering::Relaxed);
        times += 1;
    }
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let view = View::of(&w, viewer, &sent, from, w.now.plus_ms(-1_000));
    vec![
        gate(
            "estimate, mean of 15 s, % of the path",
            Value::Share(sum_bps, times * 2_400_000),
            Goal::Least(85.0),
        ),
        shown("frames whole within 400 ms of capture, %", Value::Share(view.live, view.frames)),
    ]
}
