//! Publishers in trouble: viewers go on, or resume by themselves.

use link::Config;
use media::Time;
use sfu::{CloseReason, Command, PeerId};

use super::{Figure, Goal, Scenario, Value, View, gate, shown};
use crate::Sent;
use crate::offer::Features;
use crate::video::{Picture, Settings};
use crate::world::World;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "reorder",
        about: "publisher's packets overtake each other by up to 8 ms",
        run: |seed, log| {
            let path = Config { delay_us: 20_000, jitter_us: 8_000, reorder: true, ..Config::default() };
            trouble(seed, log, 100.0, 200.0, move |w, p| {
                w.out_of_order();
                w.path(p, path, path);
            })
        },
    },
    Scenario {
        name: "duplicates",
        about: "a fifth of the publisher's packets come twice",
        run: |seed, log| {
            let path = Config { delay_us: 20_000, duplicate_per_mille: 200, ..Config::default() };
            trouble(seed, log, 100.0, 200.0, move |w, p| w.path(p, path, path))
        },
    },
    Scenario {
        name: "time-jump",
        about: "the publisher's time stamps jump by an hour, and back",
        run: |seed, log| {
            trouble(seed, log, 100.0, 200.0, |w, p| {
                let hour = 3_600 * 90_000;
                w.peers[p].publisher().jump_time(hour);
                w.at(w.now.plus_ms(3_000), move |w| w.peers[p].publisher().jump_time(hour.wrapping_neg()));
            })
        },
    },
    Scenario {
        name: "ssrc-change",
        about: "the publisher goes on under another SSRC, other numbers and time",
        run: |seed, log| trouble(seed, log, 99.0, 300.0, |w, p| w.peers[p].publisher().change_ssrc()),
    },
    Scenario {
        name: "codec-change",
        about: "H.264 becomes VP8, and H.264 again",
        run: |seed, log| {
            trouble(seed, log, 99.0, 300.0, |w, p| {
                w.peers[p].publisher().set(|s| s.picture = Picture::Vp8);
                w.at(w.now.plus_ms(3_000), move |w| {
                    w.peers[p].publisher().set(|s| s.picture = Picture::Large)
                });
            })
        },
    },
    Scenario {
        name: "resolution-change",
        about: "1080p becomes 176x144, and 1080p again",
        run: |seed, log| {
            trouble(seed, log, 100.0, 200.0, |w, p| {
                w.peers[p].publisher().set(|s| s.picture = Picture::Small);
                w.at(w.now.plus_ms(3_000), move |w| {
                    w.peers[p].publisher().set(|s| s.picture = Picture::Large)
                });
            })
        },
    },
    Scenario {
        name: "pause",
        about: "the camera is off for 2 s, the sound goes on; what follows refers to what was before",
        run: |seed, log| {
            trouble(seed, log, 100.0, 2_200.0, |w, p| {
                w.peers[p].publisher().pause(true);
                w.at(w.now.plus_ms(2_000), move |w| w.peers[p].publisher().pause(false));
            })
        },
    },
    Scenario {
        name: "replaced",
        about: "the publisher is gone, and another takes its place half a second later",
        run: replaced,
    },
];

/// 10 s with two viewers on two shards, and a publisher to which something happens after 3 s: a least share of frames, and a longest freeze.
fn trouble(
    seed: u64,
    log: bool,
    least: f64,
    freeze_ms: f64,
    what: impl FnOnce(&mut World, usize) + 'static,
) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    let publisher = w.publisher(1, Features::default(), Settings::default());
    let viewers = [w.viewer(1, 0, Features::default()), w.viewer(1, 1, Features::default())];
    w.run_s(2);
    let (from, to) = (w.now, w.now.plus_ms(10_000));
    w.at(w.now.plus_ms(3_000), move |w| {
        w.say(|| "the trouble begins".into());
        what(w, publisher);
    });
    w.run_s(12);
    let sent = std::mem::take(&mut w.peers[publisher].publisher().sent);
    let mut figures = outcome(&w, &viewers, &sent, from, to, least, freeze_ms);
    figures.push(shown(
        "key frames asked of the publisher",
        Value::Most(f64::from(w.peers[publisher].oracle.key_frames_asked)),
    ));
    figures
}

fn outcome(
    w: &World,
    viewers: &[usize],
    sent: &[Sent],
    from: Time,
    to: Time,
    least: f64,
    freeze_ms: f64,
) -> Vec<Figure> {
    let views: Vec<View> = viewers.iter().map(|v| View::of(w, *v, sent, from, to)).collect();
    let worst = views.iter().min_by_key(|v| v.played).expect("viewers");
    let freeze = views.iter().map(View::freeze_ms).fold(0.0, f64::max);
    vec![
        gate(
            "frames played, of the worst viewer, %",
            Value::Share(worst.played, worst.frames),
            Goal::Least(least),
        ),
        gate("longest freeze, ms", Value::Most(freeze), Goal::Most(freeze_ms)),
    ]
}

fn replaced(seed: u64, log: bool) -> Vec<Figure> {
    let mut w = World::new(seed, 2, log);
    let first = w.publisher(1, Features::default(), Settings::default());
    let viewers = [w.viewer(1, 0, Features::default()), w.viewer(1, 1, Features::default())];
    w.run_s(2);
    let from = w.now;
    w.run_s(3);
    w.leave(first);
    w.run_us(500_000);
    w.command(0, Command::RemovePeer(PeerId(first as u64 + 1), CloseReason::Replaced));
    let second = w.publisher(1, Features::default(), Settings::default());
    w.run_s(7);
    let mut sent = std::mem::take(&mut w.peers[first].publisher().sent);
    sent.extend(std::mem::take(&mut w.peers[second].publisher().sent));
    let to = w.now.plus_ms(-1_000);
    outcome(&w, &viewers, &sent, from, to, 97.0, 1_000.0)
}
