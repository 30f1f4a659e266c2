//! Chromium publishes three encodings; viewers get the best, ask for another, and get it.
use serde_json::{Value, json};
use std::time::Duration;
use support::browser::Browser;
use support::wait::alone;
use support::{Node, need, unique, until};

/// An encoder needs a while for its third encoding, and a layer is live after 2 s.
const ARRIVES: Duration = Duration::from_secs(30);
/// From the request to a decoded picture of the other height.
const SWITCH_MS_MAX: f64 = 2000.0;

fn encodings() -> Value {
    json!([
        {"rid": "q", "scaleResolutionDownBy": 4, "maxBitrate": 150_000},
        {"rid": "h", "scaleResolutionDownBy": 2, "maxBitrate": 500_000},
        {"rid": "f", "maxBitrate": 1_500_000},
    ])
}

fn publish(browser: &mut Browser, node: &Node, name: &str, codec: &str) {
    let video = json!({"width": {"exact": 1280}, "height": {"exact": 720}});
    let options = json!({"codec": codec, "source": "camera", "video": video, "encodings": encodings()});
    let published = browser.publish("publisher", &node.whip_url(name), options);
    let answer = published["answer"].as_str().expect("an answer");
    assert!(answer.contains("a=simulcast:recv q;h;f"), "{answer}");
}

/// Waits for a picture of that height, after asking for something.
#[track_caller]
fn height(browser: &mut Browser, page: &str, wish: Value, height: u32, limit: Duration) -> Value {
    let arguments = json!({"id": "main", "wish": wish, "height": height, "ms": limit.as_millis() as u64});
    let result = browser.run(page, "untilHeight", arguments);
    assert_eq!(result["enough"], true, "no picture of height {height} in {limit:?}: {result:#}");
    result
}

fn through(codec: &str) {
    let mut node = Node::start();
    let name = unique("layers");
    let mut browser = Browser::start();
    publish(&mut browser, &node, &name, codec);
    let played = browser.play("viewer", &node.whep_url(&name), json!({}));
    assert!(played["link"].as_str().is_some_and(|it| it.contains("ext:core:layer")), "{played:#}");
    let best = height(&mut browser, "viewer", Value::Null, 720, ARRIVES);
    println!("{codec}: the best after {} ms", best["took"]);
    until("all three are measured", ARRIVES, || {
        let layers = browser.run("viewer", "layer", json!({"id": "main"}));
        let heights: Vec<_> = layers["encodings"].as_array()?.iter().map(|it| it["height"].clone()).collect();
        (heights == [180, 360, 720].map(|it| json!(it))).then_some(())
    });
    for (wish, wanted) in [
        (json!({"mediaId": "0", "encodingId": "q"}), 180),
        (json!({"encodingId": "f"}), 720),
        (json!({"maxHeight": 400}), 360),
        (json!({}), 720),
    ] {
        let result = height(&mut browser, "viewer", wish.clone(), wanted, ARRIVES);
        let took = result["took"].as_f64().expect("a number");
        println!("{codec}: {wish} -> {wanted} after {took:.0} ms");
        assert_eq!(result["asked"], 200, "{result:#}");
        assert!(took < SWITCH_MS_MAX, "{wish}: {took} ms, {:#}", result["layer"]);
        let shown = &result["layer"];
        assert_eq!(shown["height"], wanted, "{shown:#}");
    }
    // No jump back, and no freeze worth the name.
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    println!("{codec}: {line}");
    assert!(line["back"] == 0 && line["jump"].as_f64() < Some(500.0), "{line}");
    node.assert_well();
}

#[test]
fn vp8_layers_are_chosen_by_request() {
    need!(Browser);
    let _lane = alone();
    through("VP8");
}

#[test]
fn h264_layers_are_chosen_by_request() {
    need!(Browser);
    let _lane = alone();
    through("H264");
}
