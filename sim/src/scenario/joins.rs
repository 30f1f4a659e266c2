//! Viewers that come.

use link::{Config, Loss, Random};
use media::Time;

use super::{Figure, Goal, Scenario, Value, gate, shown};
use crate::offer::Features;
use crate::video::Settings;
use crate::world::World;

/// Live is a picture no older than this, of what was captured after the join.
const LIVE_AGE_US: i64 = 250_000;

/// The same behind a narrow link, whose queue is part of it.
const NARROW_AGE_US: i64 = 1_000_000;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "join-rtmp",
        about: "10 viewers join an RTMP source with a GOP of 4 s at any moment of it, RTT 4 ms",
        run: rtmp,
    },
    Scenario {
        name: "join-lossy",
        about: "10 viewers join a browser's stream, RTT 60 ms and, behind the handshake, 5 % loss; its publisher has the same path",
        run: lossy,
    },
    Scenario {
        name: "join-narrow-4",
        about: "10 viewers behind 4 Mbit/s, RTT 50 ms and 200 ms of queue join an RTMP source of 2 Mbit/s with a GOP of 4 s",
        run: |seed, log| narrow(seed, log, 4_000_000, [Some(500.0), Some(1_500.0), Some(1.0)]),
    },
    Scenario {
        name: "join-narrow-2.5",
        about: "the same behind 2.5 Mbit/s",
        run: |seed, log| narrow(seed, log, 2_500_000, [Some(500.0), Some(2_000.0), Some(1.0)]),
    },
    Scenario {
        name: "join-narrow-1.2",
        about: "the same behind 1.2 Mbit/s: less than the source sends",
        // It has whole pictures of each GOP's beginning.
        run: |seed, log| narrow(seed, log, 1_200_000, [Some(1_500.0), Some(3_500.0), Some(3.0)]),
    },
    Scenario {
        name: "join-far",
        about: "the same behind 50 Mbit/s: nothing is narrow, but it is as far",
        run: |seed, log| narrow(seed, log, 50_000_000, [Some(500.0), Some(1_000.0), Some(0.0)]),
    },
    Scenario { name: "join-storm", about: "20 viewers join a browser's stream within a second", run: storm },
];

fn rtmp(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    w.source(1, Settings { gop: 120, ..Settings::default() });
    w.run_s(5);
    let mut random = Random(seed);
    let (mut first_ms, mut live_ms, mut age_ms) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..10 {
        w.run_us(random.below(1_300_000) as i64);
        let joined = w.now;
        let viewer = w.joining(1, n % 2, Features::default());
        w.run_s(3);
        let seen = &w.peers[viewer].receiver().buffer.seen;
        let first = seen.first_decoded.map_or(f64::INFINITY, |at| at.since(joined) as f64 / 1_000.0);
        first_ms.push(first);
        let age_us = |id, at: Time| Some(at.since(w.sources[0].sent.iter().find(|s| s.id == id)?.capture));
        let live = seen.played.iter().find(|(id, at)| {
            age_us(**id, **at).is_some_and(|age| age < LIVE_AGE_US && age < at.since(joined))
        });
        live_ms.push(live.map_or(f64::INFINITY, |(_, at)| at.since(joined) as f64 / 1_000.0));
        let last = seen.played.last_key_value().and_then(|(id, at)| age_us(*id, *at));
        age_ms.push(last.map_or(f64::INFINITY, |age| age as f64 / 1_000.0));
    }
    vec![
        gate(
            "from the first check to the first picture, p50, ms",
            Value::Percentile(50, first_ms.clone()),
            Goal::Most(250.0),
        ),
        gate(
            "from the first check to the first picture, p95, ms",
            Value::Percentile(95, first_ms),
            Goal::Most(500.0),
        ),
        gate(
            "to a picture less than 250 ms old, p95, ms",
            Value::Percentile(95, live_ms),
            Goal::Most(2_000.0),
        ),
        shown("age of the picture after 3 s, p95, ms", Value::Percentile(95, age_ms)),
    ]
}

/// Goals: first picture at p95 and a young one at p50, in milliseconds; what the path drops, in percent.
fn narrow(seed: u64, log: bool, rate_bps: u64, goals: [Option<f64>; 3]) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    w.source(1, Settings { gop: 120, ..Settings::default() });
    w.run_s(5);
    let mut random = Random(seed);
    let up = Config { delay_us: 25_000, ..Config::default() };
    let down = Config { rate_bps: Some(rate_bps), queue_us: 200_000, ..up };
    let (mut first_ms, mut live_ms, mut lost, mut packets) = (Vec::new(), Vec::new(), 0, 0);
    for n in 0..10 {
        w.run_us(random.below(4_000_000) as i64);
        let joined = w.now;
        let viewer = w.joining(1, n % 2, Features::default());
        w.path(viewer, up, down);
        w.run_s(8);
        let seen = &w.peers[viewer].receiver().buffer.seen;
        let ms = |at: Option<Time>| at.map_or(f64::INFINITY, |at| at.since(joined) as f64 / 1_000.0);
        first_ms.push(ms(seen.first_decoded));
        let age_us = |id, at: Time| Some(at.since(w.sources[0].sent.iter().find(|s| s.id == id)?.capture));
        let live = seen.played.iter().find(|(id, at)| {
            age_us(**id, **at).is_some_and(|age| age < NARROW_AGE_US && age < at.since(joined))
        });
        live_ms.push(ms(live.map(|(_, at)| *at)));
        let figures = w.peers[viewer].down.figures();
        (lost, packets) = (lost + figures.queue_full, packets + figures.packets);
    }
    let of = |what, value, goal: Option<f64>| match goal {
        Some(most) => gate(what, value, Goal::Most(most)),
        None => shown(what, value),
    };
    vec![
        shown("from the first check to the first picture, p50, ms", Value::Percentile(50, first_ms.clone())),
        of("from the first check to the first picture, p95, ms", Value::Percentile(95, first_ms), goals[0]),
        of("to a picture less than a second old, p50, ms", Value::Percentile(50, live_ms.clone()), goals[1]),
        of("packets that the path's queue dropped, %", Value::Share(lost, packets), goals[2]),
    ]
}

fn lossy(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    w.run_s(2);
    let loss = Loss::Random { per_mille: 50 };
    let path = Config { delay_us: 30_000, loss, ..Config::default() };
    w.path(publisher, path, path);
    let mut random = Random(seed);
    let (mut first_ms, mut asked_before) = (Vec::new(), 0);
    let mut most_asked = 0;
    for n in 0..10 {
        w.run_us(random.below(1_300_000) as i64);
        let joined = w.now;
        let viewer = w.joining(1, n % 2, Features::default());
        w.out_of_order();
        // The handshake's timers draw chance of their own: it must lose nothing.
        let clean = Config { loss: Loss::None, ..path };
        w.path(viewer, clean, clean);
        w.connect(&[viewer]);
        w.path(viewer, path, path);
        w.run_s(3);
        let seen = &w.peers[viewer].receiver().buffer.seen;
        first_ms.push(seen.first_decoded.map_or(f64::INFINITY, |at| at.since(joined) as f64 / 1_000.0));
        let asked = w.peers[publisher].oracle.key_frames_asked;
        most_asked = most_asked.max(asked - asked_before);
        asked_before = asked;
    }
    vec![
        gate(
            "from the first check to the first picture, p50, ms",
            Value::Percentile(50, first_ms.clone()),
            Goal::Most(800.0),
        ),
        gate(
            "from the first check to the first picture, p95, ms",
            Value::Percentile(95, first_ms),
            Goal::Most(2_000.0),
        ),
        shown("key frames asked of the publisher, join to join", Value::Most(f64::from(most_asked))),
    ]
}

fn storm(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let path = Config { delay_us: 20_000, ..Config::default() };
    w.path(publisher, path, path);
    w.run_s(3);
    let before = w.peers[publisher].oracle.key_frames_asked;
    let mut random = Random(seed);
    let mut joined = Vec::new();
    for _ in 0..20 {
        w.run_us(random.below(100_000) as i64);
        joined.push((w.now, w.joining(1, 0, Features::default())));
    }
    w.run_s(1);
    let asked = w.peers[publisher].oracle.key_frames_asked - before;
    w.run_s(2);
    let first_ms = joined.iter().map(|(at, viewer)| {
        let first = w.peers[*viewer].receiver().buffer.seen.first_decoded;
        first.map_or(f64::INFINITY, |first| first.since(*at) as f64 / 1_000.0)
    });
    vec![
        gate("key frames asked of the publisher", Value::Most(f64::from(asked)), Goal::Most(2.0)),
        shown(
            "from the first check to the first picture, p95, ms",
            Value::Percentile(95, first_ms.collect()),
        ),
    ]
}
