//! How long a viewer waits for its picture, and until that is live: Chromium joins an RTMP stream with a key frame each four seconds, at any moment.
use serde_json::{Value, json};
use support::browser::Browser;
use support::ffmpeg::NUMBERED_S;
use support::wait::alone;
use support::{Node, ffmpeg, need, unique};

const GOP_S: u32 = 4;
/// Each takes [`WATCH_MS`] and a little, so they begin anywhere in the GOP.
const JOINS: usize = 20;
const WATCH_MS: f64 = 1_700.0;
const ROUND_MS: f64 = NUMBERED_S as f64 * 1_000.0;

/// Issue: join to first decoded frame.
const PICTURE_P50_MS: f64 = 250.0;
const PICTURE_P95_MS: f64 = 500.0;
/// From the POST until each frame shown is this young at most, against those who have long been watching.
const LIVE_MS_MAX: f64 = 2_000.0;
const YOUNG_MS: f64 = 150.0;
/// Sound is at the live point from the start. Chromium opens its loudspeaker 130 ms after the first packet and makes that good, 6322 samples; a GOP of
/// sound would be 190 000.
const FAST_SAMPLES_MAX: f64 = 12_000.0;

/// One join, by its marks since the POST.
struct Join(Value);

impl Join {
    fn ms(&self, mark: &str) -> f64 {
        let at = &self.0["at"];
        let of = |mark: &str| at[mark].as_f64().unwrap_or_else(|| panic!("never {mark}: {at}"));
        of(mark) - of("posted")
    }

    /// When each frame was shown, since the POST, and how long after it was due, by its number; modulo the clip's length.
    fn frames(&self) -> Vec<(f64, f64)> {
        let posted = self.0["at"]["posted"].as_f64().expect("a time");
        let frames = self.0["frames"].as_array().expect("a list").iter();
        let number = |it: &Value| (it[0].as_f64().expect("a time"), it[1].as_f64().expect("a number"));
        frames
            .map(number)
            .map(|(at, n)| (at - posted, (at - n * 1_000.0 / 30.0).rem_euclid(ROUND_MS)))
            .collect()
    }

    /// When the last frame was shown that was not young.
    fn live_ms(&self, live: f64) -> f64 {
        let age = |due: f64| (due - live + ROUND_MS / 2.0).rem_euclid(ROUND_MS) - ROUND_MS / 2.0;
        let old = self.frames().into_iter().rev().find(|(_, due)| age(*due) > YOUNG_MS);
        old.map_or(self.ms("shown"), |(at, _)| at)
    }
}

/// Half of them are less, 19 of 20 are, and the most.
fn spread(name: &str, mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    let spread = [at(0.5), at(0.95), at(1.0)];
    println!("{name:32} p50 {:4.0}  p95 {:4.0}  max {:4.0} ms", spread[0], spread[1], spread[2]);
    spread
}

fn joins(browser: &mut Browser, page: &str, url: &str) -> Vec<Join> {
    let arguments = json!({"url": url, "watchMs": WATCH_MS});
    (0..JOINS).map(|_| Join(browser.run(page, "join", arguments.clone()))).collect()
}

fn judge(joins: &[Join]) {
    let of = |mark: &str| joins.iter().map(|it| it.ms(mark)).collect::<Vec<_>>();
    for mark in ["answered", "ice", "connected", "received", "decoded"] {
        spread(mark, of(mark));
    }
    let picture = spread("shown", of("shown"));
    let whole = joins.iter().map(|it| it.ms("shown") - it.ms("opened")).collect();
    let whole = spread("shown, from RTCPeerConnection on", whole);
    // the last frame of each join was long live: the middle of them is what live means
    let mut last: Vec<f64> = joins.iter().filter_map(|it| Some(it.frames().last()?.1)).collect();
    last.sort_by(f64::total_cmp);
    let live = last[last.len() / 2];
    let live = spread("live", joins.iter().map(|it| it.live_ms(live)).collect());
    let fast =
        |it: &Join| it.0["last"]["audio"]["removedSamplesForAcceleration"].as_f64().expect("sound came");
    let fast = joins.iter().map(fast).fold(0.0, f64::max);
    println!("samples of sound left out to catch up: {fast} at most");
    for spread in [picture, whole] {
        assert!(spread[0] < PICTURE_P50_MS && spread[1] < PICTURE_P95_MS, "{spread:?}");
    }
    assert!(live[2] < LIVE_MS_MAX.min(WATCH_MS - 200.0), "{live:?}");
    assert!(fast < FAST_SAMPLES_MAX, "{fast}");
}

/// The first viewer of a stream makes its conversion begin; later ones find it running.
#[test]
fn a_picture_comes_at_once_and_is_live_within_two_seconds() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("join");
    let _push = ffmpeg::push_numbered(&node.rtmp_url(&name), GOP_S);
    node.wait_live(&name);
    let mut browser = Browser::start();
    let url = node.whep_url(&name);
    println!("nobody else watches:");
    judge(&joins(&mut browser, "first", &url));
    browser.play("stays", &url, json!({"video": false}));
    println!("another one watches:");
    // a page of its own, as Chromium shows one frame a second of a page that is behind another
    judge(&joins(&mut browser, "beside", &url));
    node.assert_well();
}
