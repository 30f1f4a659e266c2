//! Firefox publishes by WHIP and plays by WHEP. Debian's has VP8, VP9 and AV1 and, without a download, no H.264.
use serde_json::{Value, json};
use std::time::Duration;
use support::browser::Browser;
use support::netns::Namespace;
use support::wait::alone;
use support::{Node, ffmpeg, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(20);

/// A node that Firefox's network reaches, and Firefox. Fields are dropped in order: the network is last.
struct Stage {
    firefox: Browser,
    node: Node,
    _network: Namespace,
}

impl Stage {
    fn set() -> Stage {
        let network = Namespace::create().expect("`need!` has made one");
        let node = Node::start_on(network.outside, &[]);
        Stage { firefox: Browser::start_firefox(&network), node, _network: network }
    }

    /// Publishes the fake camera by the node's own page.
    fn publish(&mut self, name: &str, codec: &str) {
        let url = self.node.url(&format!("/publish/live/{name}?auto=1&codec={codec}"));
        goto(&mut self.firefox, "publisher", &url);
        self.node.wait_live(name);
    }
}

#[track_caller]
fn goto(browser: &mut Browser, page: &str, url: &str) {
    let answer = browser.operation(json!({"op": "goto", "page": page, "url": url})).expect("the page loads");
    assert_eq!(answer["status"], 200, "{url}");
}

fn stats(browser: &mut Browser, page: &str) -> Value {
    let script = "window.millrace.stats()";
    browser.operation(json!({"op": "eval", "page": page, "script": script})).expect("the page has figures")
}

/// The player page's figures, once it shows so many frames and hears something.
#[track_caller]
fn plays(browser: &mut Browser, page: &str, frames: u64) -> Value {
    until(&format!("{page} plays {frames} frames"), ARRIVES, || {
        let now = stats(browser, page);
        let heard = now["audio"]["totalAudioEnergy"].as_f64() > Some(0.0);
        (now["video"]["framesDecoded"].as_u64() >= Some(frames) && heard).then_some(now)
    })
}

/// Both ways by the node's own pages, which are what a person uses.
fn through(codec: &str) {
    let mut stage = Stage::set();
    let name = unique("ff");
    stage.publish(&name, codec);
    let url = stage.node.url(&format!("/play/live/{name}?via=webrtc"));
    goto(&mut stage.firefox, "viewer", &url);
    let first = plays(&mut stage.firefox, "viewer", 30);
    let upper = codec.to_uppercase();
    assert_eq!((&first["via"], &first["connectionState"]), (&json!("webrtc"), &json!("connected")));
    assert_eq!(first["video"]["codec"], upper.as_str(), "{first:#}");
    assert_eq!(first["audio"]["codec"], "opus", "{first:#}");
    assert!(first["video"]["width"].as_u64() > Some(100), "{first:#}");
    let frames = first["video"]["framesDecoded"].as_u64().expect("a number");
    let then = plays(&mut stage.firefox, "viewer", frames + 45);
    for (kind, figure) in [("audio", "bytes"), ("audio", "totalAudioEnergy"), ("video", "bytes")] {
        assert!(then[kind][figure].as_f64() > first[kind][figure].as_f64(), "{kind} {figure}: {then:#}");
    }
    let lost = then["video"]["packetsLost"].as_i64().expect("a number");
    assert!(lost <= 2, "{lost} packets lost on a link without loss");
    let sent = stats(&mut stage.firefox, "publisher");
    assert_eq!(sent["video"]["codec"], upper.as_str(), "{sent:#}");
    let stream = stage.node.stream(&name).expect("it is listed");
    assert_eq!(stream["video"]["codec"].as_str().map(str::to_uppercase), Some(upper), "{stream:#}");
    // a page that is closed says good-bye by DELETE
    stage.firefox.operation(json!({"op": "close", "page": "publisher"})).expect("a page can be closed");
    until("the publisher is gone", Duration::from_secs(45), || {
        stage.node.stream(&name).is_none_or(|it| it["publish"]["active"] == false).then_some(())
    });
    stage.node.assert_well();
}

#[test]
fn vp8_from_firefox_to_firefox() {
    need!(Firefox);
    let _lane = alone();
    through("vp8");
}

#[test]
fn vp9_from_firefox_to_firefox() {
    need!(Firefox);
    let _lane = alone();
    through("vp9");
}

#[test]
fn firefox_to_chromium() {
    need!(Firefox, Browser);
    let _lane = alone();
    let mut stage = Stage::set();
    let name = unique("ff");
    stage.publish(&name, "vp8");
    let mut chromium = Browser::start();
    chromium.play("viewer", &stage.node.whep_url(&name), json!({}));
    let figures = chromium.until("viewer", 60, 0.0001, ARRIVES);
    assert_eq!(figures["video"]["codec"], "video/VP8", "{figures:#}");
    assert_eq!(figures["audio"]["codec"], "audio/opus", "{figures:#}");
    stage.node.assert_well();
}

#[test]
fn chromium_to_firefox() {
    need!(Firefox, Browser);
    let _lane = alone();
    let mut stage = Stage::set();
    let name = unique("ff");
    let mut chromium = Browser::start();
    chromium.publish("publisher", &stage.node.whip_url(&name), json!({"codec": "VP8"}));
    stage.node.wait_live(&name);
    // not by our page: an offer by another hand, trickled, from another origin
    stage.firefox.play("viewer", &stage.node.whep_url(&name), json!({"trickle": true}));
    let figures = stage.firefox.until("viewer", 60, 0.0001, ARRIVES);
    assert_eq!(figures["video"]["codec"], "video/VP8", "{figures:#}");
    assert_eq!(figures["audio"]["codec"], "audio/opus", "{figures:#}");
    assert_eq!(figures["size"], json!([640, 360]), "{figures:#}");
    assert_eq!(stage.firefox.run("viewer", "stop", json!({"id": "main"}))["status"], 200);
    stage.node.assert_well();
}

/// A browser without the stream's codec is told so at once, by name, and need not wait for a black picture.
#[test]
fn h264_is_refused_to_a_firefox_without_it_with_the_reason() {
    need!(Firefox, Ffmpeg);
    let _lane = alone();
    let mut stage = Stage::set();
    let name = unique("ff");
    let _push = ffmpeg::push_clip(&stage.node.rtmp_url(&name));
    stage.node.wait_live(&name);
    let url = stage.node.whep_url(&name);
    let refused = stage.firefox.run("viewer", "play", json!({"id": "main", "url": url}));
    let offer = refused["offer"].as_str().expect("an offer");
    assert!(offer.contains("VP8/90000") && !offer.contains("H264"), "this Firefox has H.264: {offer}");
    assert_eq!(refused["status"], 415, "{refused:#}");
    let reason = refused["answer"].as_str().expect("a reason");
    assert!(reason.contains("H264") || reason.contains("H.264"), "{reason}");
    stage.node.assert_well();
}
