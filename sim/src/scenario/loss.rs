//! Paths that lose: towards a viewer, and from a publisher.

use link::{Config, Loss};

use super::{Figure, Goal, Scenario, Value, View, gate, resent_share, shown};
use crate::Sent;
use crate::offer::Features;
use crate::peer::Model;
use crate::video::Settings;
use crate::world::World;

const LOSS_5: Loss = Loss::Random { per_mille: 50 };

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "loss-5",
        about: "viewer's path: 5 % random loss both ways, RTT 100 ms; 2 Mbit/s from a browser",
        run: |seed, log| {
            let (mut figures, resent, _) = viewer(seed, log, (LOSS_5, LOSS_5), Features::default(), 99.9);
            figures.push(gate("retransmissions, % of the rest", resent, Goal::Most(8.0)));
            figures
        },
    },
    Scenario {
        name: "loss-5-plain",
        about: "the same with a viewer that knows no RTX",
        run: |seed, log| {
            let features = Features { rtx: false, ..Features::default() };
            let (mut figures, resent, _) = viewer(seed, log, (LOSS_5, LOSS_5), features, 99.9);
            figures.push(gate("retransmissions, % of the rest", resent, Goal::Most(8.0)));
            figures
        },
    },
    Scenario {
        name: "loss-10",
        about: "viewer's path: 10 % random loss towards it, RTT 100 ms",
        run: |seed, log| {
            let loss = (Loss::None, Loss::Random { per_mille: 100 });
            let (mut figures, resent, _) = viewer(seed, log, loss, Features::default(), 99.5);
            figures.push(shown("retransmissions, % of the rest", resent));
            figures
        },
    },
    Scenario {
        name: "loss-10-both-ways",
        // A request and its answer come through in 81 of 100 cases, and 400 ms have room for three: 0.6 % of frames would be too late, were it not
        // for the feedback, which says that a packet is lost when its request is lost.
        about: "the same loss both ways: of requests and feedback, too",
        run: |seed, log| {
            let loss = Loss::Random { per_mille: 100 };
            let (mut figures, resent, _) = viewer(seed, log, (loss, loss), Features::default(), 99.5);
            figures.push(shown("retransmissions, % of the rest", resent));
            figures
        },
    },
    Scenario {
        name: "loss-5-far",
        about: "viewer's path: 5 % random loss both ways, RTT 240 ms: a browser asks again before the answer can be there",
        run: far,
    },
    Scenario {
        name: "loss-5-rtmp",
        about: "viewer's path: 5 % random loss both ways, RTT 100 ms; an RTMP source with a GOP of 4 s",
        run: |seed, log| {
            let mut w = World::new(seed, 1, log);
            w.source(1, Settings { gop: 120, ..Settings::default() });
            let view = behind(&mut w, Features::default(), (LOSS_5, LOSS_5));
            let viewer = w.peers.len() - 1;
            let live = Value::Share(view.live, view.frames);
            // A browser goes on at a key frame when that is due, which leaves the frames before it one request or two.
            vec![
                gate("frames whole within 400 ms of capture, %", live, Goal::Least(99.9)),
                gate("frames played, %", Value::Share(view.played, view.frames), Goal::Least(99.9)),
                gate("retransmissions, % of the rest", resent_share(&w, viewer), Goal::Most(8.0)),
            ]
        },
    },
    Scenario {
        name: "outage",
        about: "viewers' paths carry nothing for 1.5 s, RTT 50 ms: of a browser's stream, and of an RTMP source with a GOP of 4 s",
        run: outage,
    },
    Scenario {
        name: "bursts",
        // What comes back are a few packets a second: eight of them would be most of a second without a request. 33 ms is what eight packets of
        // the stream take.
        about: "viewer's path: 2 % lost in bursts of 8 on average, and as much in fades as long on the way back, RTT 100 ms",
        run: |seed, log| {
            let towards = Loss::Bursts { per_mille: 20, mean_packets: 8 };
            let back = Loss::Fades { per_mille: 20, mean_us: 33_000 };
            let (mut figures, resent, freeze_ms) =
                viewer(seed, log, (back, towards), Features::default(), 99.5);
            figures.push(gate("longest freeze, ms", Value::Most(freeze_ms), Goal::Most(400.0)));
            figures.push(shown("retransmissions, % of the rest", resent));
            figures
        },
    },
    Scenario {
        name: "uplink-5",
        about: "publisher's path: 5 % random loss both ways, RTT 60 ms; 4 viewers, 2 shards",
        run: uplink,
    },
];

fn far(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 1, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewer = w.viewer(1, 0, Features::default());
    let loss = Loss::Random { per_mille: 50 };
    let path = Config { delay_us: 120_000, loss, ..Config::default() };
    w.path(viewer, path, path);
    w.run_s(3);
    let (from, to) = (w.now, w.now.plus_ms(20_000));
    w.run_s(22);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let view = View::of(&w, viewer, &sent, from, to);
    let oracle = &w.peers[viewer].oracle;
    let per_number = Value::Share(oracle.numbers_answered, oracle.numbers_asked);
    vec![
        // A browser gives up after a second, which is three answers: one packet in 8000 is lost four times.
        gate("frames played, %", Value::Share(view.played, view.frames), Goal::Least(98.0)),
        gate("retransmissions, % of the rest", resent_share(&w, viewer), Goal::Most(8.0)),
        shown("requests that were answered, %", per_number),
        shown("longest freeze, ms", Value::Most(view.freeze_ms())),
    ]
}

/// 30 s behind a lossy path. Gives figures, the share of retransmissions and the longest freeze.
fn viewer(
    seed: u64,
    log: bool,
    loss: (Loss, Loss),
    features: Features,
    goal: f64,
) -> (Vec<Figure>, Value, f64) {
    let mut w = World::new(seed, 1, log);
    w.publisher(1, Features::default(), Settings::default());
    let view = behind(&mut w, features, loss);
    let viewer = w.peers.len() - 1;
    let receiver = w.peers[viewer].receiver();
    let live = Value::Share(view.live, view.frames);
    let figures = vec![
        gate("frames whole within 400 ms of capture, %", live, Goal::Least(goal)),
        gate("frames played, %", Value::Share(view.played, view.frames), Goal::Least(99.9)),
        shown("freezes", Value::Most(view.freezes.len() as f64)),
        shown("key frames asked for by the viewer", Value::Most(f64::from(receiver.plis))),
    ];
    (figures, resent_share(&w, viewer), view.freeze_ms())
}

/// What a viewer has in 30 s, once its path loses: towards the node, from the node.
fn behind(w: &mut World, features: Features, (up, down): (Loss, Loss)) -> View {
    let viewer = w.viewer(1, 0, features);
    // It has its length from the start: one that gets longer is another thing.
    let path = |loss| Config { delay_us: 50_000, loss, ..Config::default() };
    w.path(viewer, path(Loss::None), path(Loss::None));
    w.run_s(2);
    w.path(viewer, path(up), path(down));
    let (from, to) = (w.now, w.now.plus_ms(30_000));
    w.run_s(32);
    View::of(w, viewer, &sent(w), from, to)
}

/// Every frame captured.
fn sent(w: &World) -> Vec<Sent> {
    let of_peers = w.peers.iter().filter_map(|p| match &p.model {
        Model::Publisher(publisher) => Some(&publisher.sent),
        _ => None,
    });
    of_peers.chain(w.sources.iter().map(|s| &s.sent)).flatten().copied().collect()
}

fn outage(seed: u64, log: bool) -> Vec<Figure> {
    let run = |rtmp: bool| {
        let mut w = World::new(seed, 1, log);
        if rtmp {
            w.source(1, Settings { gop: 120, ..Settings::default() });
        } else {
            w.publisher(1, Features::default(), Settings::default());
        }
        let viewer = w.viewer(1, 0, Features::default());
        let path = Config { delay_us: 25_000, ..Config::default() };
        w.path(viewer, path, path);
        w.run_us(3_000_000 + seed as i64 * 700_000);
        let dead = Config { outage: true, ..path };
        w.path(viewer, dead, dead);
        let from = w.now.plus_ms(-100);
        w.run_us(1_500_000);
        w.path(viewer, path, path);
        w.run_s(8);
        View::of(&w, viewer, &sent(&w), from, w.now).freeze_ms() - 1_500.0
    };
    let what = "from its end to a moving picture, RTMP source, ms";
    vec![
        gate("from its end to a moving picture, browser, ms", Value::Most(run(false)), Goal::Most(1_000.0)),
        gate(what, Value::Most(run(true)), Goal::Most(1_000.0)),
    ]
}

fn uplink(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewers: Vec<usize> = (0..4).map(|n| w.viewer(1, n % 2, Features::default())).collect();
    w.run_s(1);
    w.out_of_order();
    let path = Config { delay_us: 30_000, loss: Loss::Random { per_mille: 50 }, ..Config::default() };
    w.path(publisher, path, path);
    let (from, to) = (w.now, w.now.plus_ms(30_000));
    w.run_s(32);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let views: Vec<View> = viewers.iter().map(|v| View::of(&w, *v, &sent, from, to)).collect();
    let worst = views.iter().min_by_key(|v| v.complete).expect("viewers");
    let live = views.iter().min_by_key(|v| v.live).expect("viewers");
    vec![
        gate(
            "frames whole, of the worst viewer, %",
            Value::Share(worst.complete, worst.frames),
            Goal::Least(99.9),
        ),
        shown("within 400 ms of capture, %", Value::Share(live.live, live.frames)),
        shown("longest freeze, ms", Value::Most(views.iter().map(View::freeze_ms).fold(0.0, f64::max))),
        shown(
            "key frames asked of the publisher",
            Value::Most(f64::from(w.peers[publisher].oracle.key_frames_asked)),
        ),
    ]
}
