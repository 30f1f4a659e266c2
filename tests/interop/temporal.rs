//! Chromium publishes three temporal layers; viewers ask for fewer frames, and get them without a freeze.
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::wait::alone;
use support::{Node, need, unique};

/// A busy machine's encoder needs that long to come to its rate.
const ARRIVES: Duration = Duration::from_secs(60);
const DEPENDENCY: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
/// A quarter of the frames is the base layer's, half of them that of the lower two.
const WISHES: [(u8, f64); 3] = [(0, 0.25), (1, 0.5), (2, 1.0)];

fn pace(browser: &mut Browser, page: &str) -> Value {
    browser.run(page, "pace", json!({"id": "main", "seconds": 3}))
}

/// What a viewer decodes, as a share of what the publisher encodes meanwhile.
fn share(browser: &mut Browser) -> (f64, Value, Value) {
    let [sent, got] = browser.run_both(["publisher", "viewer"], "pace", json!({"id": "main", "seconds": 3}));
    (got["fps"].as_f64().unwrap_or(0.0) / sent["fps"].as_f64().unwrap_or(f64::MAX), sent, got)
}

/// `described`: the publisher and the viewer have the dependency descriptor.
fn through(codec: &str, described: [bool; 2]) {
    let mut node = Node::start();
    let name = unique("temporal");
    let mut browser = Browser::start();
    let options = json!({
        "codec": codec, "width": 320, "height": 180, "audio": false, "extensions": {DEPENDENCY: described[0]},
        "encodings": [{"scalabilityMode": "L1T3", "maxBitrate": 500_000}],
    });
    let published = browser.publish("publisher", &node.whip_url(&name), options);
    let wish = json!({"audio": false, "codec": codec, "extensions": {DEPENDENCY: described[1]}});
    let played = browser.play("viewer", &node.whep_url(&name), wish);
    for (session, described) in [published, played].iter().zip(described) {
        let answered = session["answer"].as_str().is_some_and(|answer| answer.contains(DEPENDENCY));
        assert_eq!(answered, described, "{session:#}");
    }
    let until = |browser: &mut Browser, wanted: f64| {
        let end = Instant::now() + ARRIVES;
        loop {
            let (share, sent, got) = share(browser);
            if (share / wanted - 1.0).abs() < 0.2 && got["plis"] == 0 {
                return (share, sent, got);
            }
            assert!(Instant::now() < end, "{share:.2} where {wanted} was wanted; {sent} {got}");
        }
    };
    let (_, sent, _) = until(&mut browser, 1.0);
    assert_eq!(sent["mode"], "L1T3", "{sent}");
    for (layer, wanted) in WISHES.into_iter().chain(WISHES.into_iter().rev()) {
        let before = browser.run("viewer", "figures", json!({"id": "main"}));
        let asked = browser.run("viewer", "layer", json!({"id": "main", "wish": {"temporalLayerId": layer}}));
        assert_eq!(asked["asked"], 200, "{asked:#}");
        let (share, sent, got) = until(&mut browser, wanted);
        println!("{codec} {described:?}: layer {layer}: {share:.2} of the frames; sent {sent}, got {got}");
        let said = browser.run("viewer", "layer", json!({"id": "main"}));
        let shown = json!([said["temporalLayerId"], said["switches"], said["height"]]);
        assert_eq!(shown, json!([layer, 0, 180]), "{said:#}");
        let after = browser.run("viewer", "figures", json!({"id": "main"}));
        let passed = |key: &str| {
            after["video"][key].as_u64().unwrap_or(0) - before["video"][key].as_u64().unwrap_or(0)
        };
        assert_eq!((passed("pliCount"), passed("freezeCount")), (0, 0), "{after:#}");
        assert_eq!(passed("keyFramesDecoded"), 0, "it goes up without a key frame: {after:#}");
    }
    node.assert_well();
}

#[test]
fn vp8_layers_are_fewer_frames() {
    need!(Browser);
    let _lane = alone();
    through("VP8", [false, false]);
}

/// What Chromium does of itself.
#[test]
fn vp8_layers_are_fewer_frames_for_a_viewer_without_descriptors() {
    need!(Browser);
    let _lane = alone();
    through("VP8", [true, false]);
}

#[test]
fn vp9_layers_are_fewer_frames() {
    need!(Browser);
    let _lane = alone();
    through("VP9", [false, false]);
}

#[test]
fn av1_layers_are_fewer_frames() {
    need!(Browser);
    let _lane = alone();
    through("AV1", [true, true]);
}

#[test]
fn av1_layers_are_fewer_frames_for_a_viewer_without_descriptors() {
    need!(Browser);
    let _lane = alone();
    through("AV1", [true, false]);
}

/// Spatial layers whose patterns are apart by a picture: no picture can be left out, and none is, whatever is asked for.
#[test]
fn layers_that_are_shifted_are_all_sent() {
    need!(Browser);
    let _lane = alone();
    for codec in ["VP9", "AV1"] {
        let mut node = Node::start();
        let name = unique("shifted");
        let mut browser = Browser::start();
        let options = json!({
            "codec": codec, "width": 640, "height": 360, "audio": false, "extensions": {DEPENDENCY: true},
            "encodings": [{"scalabilityMode": "L2T2_KEY_SHIFT", "maxBitrate": 1_000_000}],
        });
        browser.publish("publisher", &node.whip_url(&name), options);
        let wish = json!({"audio": false, "codec": codec, "extensions": {DEPENDENCY: true}});
        browser.play("viewer", &node.whep_url(&name), wish);
        let height = json!({"id": "main", "height": 360, "ms": 30_000});
        assert_eq!(browser.run("viewer", "untilHeight", height)["enough"], true);
        let mode = pace(&mut browser, "publisher")["mode"].clone();
        assert_eq!(mode, "L2T2_KEY_SHIFT");
        let all = pace(&mut browser, "viewer");
        let before = browser.run("viewer", "figures", json!({"id": "main"}));
        let asked = browser.run("viewer", "layer", json!({"id": "main", "wish": {"temporalLayerId": 0}}));
        assert_eq!(asked["asked"], 200, "{asked:#}");
        // Not of what is sent: Chromium counts the frames of both layers, or not.
        let got = pace(&mut browser, "viewer");
        println!("{codec}: {all}, then {got}");
        assert!(got["fps"].as_f64() > all["fps"].as_f64().map(|fps| fps * 0.8), "{all} {got}");
        let after = browser.run("viewer", "figures", json!({"id": "main"}));
        let passed = |key: &str| {
            after["video"][key].as_u64().unwrap_or(0) - before["video"][key].as_u64().unwrap_or(0)
        };
        assert_eq!((passed("pliCount"), passed("keyFramesDecoded")), (0, 0), "{after:#}");
        assert_eq!(after["video"]["frameHeight"], 360, "{after:#}");
        node.assert_well();
    }
}
