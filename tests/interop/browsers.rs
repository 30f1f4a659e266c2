//! Chromium publishes by WHIP and plays by WHEP.
use serde_json::{Value, json};
use std::time::Duration;
use support::browser::Browser;
use support::wait::alone;
use support::{Node, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

/// Publishes in one page, plays in another, in the codec wanted; returns the viewer's figures.
fn through(codec: &str) -> Option<Value> {
    let mut node = Node::start();
    let name = unique("browser");
    let mut browser = Browser::start();
    let can = browser.run("publisher", "capabilities", json!({}));
    let mime = format!("video/{codec}");
    if !can["send"].as_array().expect("a list").contains(&json!(mime)) {
        return None;
    }
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": codec, "width": 480, "height": 270}));
    node.wait_live(&name);
    browser.play("viewer", &node.whep_url(&name), json!({}));
    let figures = browser.until("viewer", 60, 0.001, ARRIVES);
    assert_eq!(figures["video"]["codec"], mime.as_str());
    assert_eq!(figures["audio"]["codec"], "audio/opus");
    assert_eq!(figures["size"], json!([480, 270]), "{figures:#}");
    assert_eq!(figures["states"].as_array().expect("a list").last(), Some(&json!("connected")));
    assert!(figures["video"]["freezeCount"].as_u64().is_some_and(|it| it <= 1), "{figures:#}");
    let lost = figures["video"]["packetsLost"].as_i64().unwrap_or(0);
    assert!(lost <= 2, "{lost} packets lost on loopback");
    // frames go on
    let more = figures["video"]["framesDecoded"].as_u64().expect("a number") as u32 + 45;
    browser.until("viewer", more, 0.001, Duration::from_secs(6));
    let sent = browser.run("publisher", "figures", json!({"id": "main"}));
    assert_eq!(sent["sentVideo"]["codec"], mime.as_str());
    // the node reports back to the publisher (RFC 3550 receiver reports)
    assert!(sent["remoteVideo"].is_object(), "no receiver report came: {sent:#}");
    let stream = node.stream(&name).expect("it is listed");
    assert_eq!(
        stream["video"]["codec"].as_str().map(str::to_uppercase),
        Some(codec.to_uppercase()),
        "{stream:#}"
    );
    assert_eq!(browser.run("viewer", "stop", json!({"id": "main"}))["status"], 200);
    assert_eq!(browser.run("publisher", "stop", json!({"id": "main"}))["status"], 200);
    until("the publisher is gone", Duration::from_secs(3), || {
        node.stream(&name).is_none_or(|it| it["publish"]["active"] == false).then_some(())
    });
    node.assert_well();
    Some(figures)
}

#[test]
fn h264_from_browser_to_browser() {
    need!(Browser);
    let _lane = alone();
    let figures = through("H264").expect("this Chromium sends H.264");
    assert!(
        figures["video"]["fmtp"].as_str().is_some_and(|it| it.contains("packetization-mode=1")),
        "{figures:#}"
    );
}

#[test]
fn vp8_from_browser_to_browser() {
    need!(Browser);
    let _lane = alone();
    through("VP8").expect("every Chromium sends VP8");
}

#[test]
fn vp9_from_browser_to_browser() {
    need!(Browser);
    let _lane = alone();
    through("VP9").expect("every Chromium sends VP9");
}

#[test]
fn av1_from_browser_to_browser() {
    need!(Browser);
    let _lane = alone();
    through("AV1").expect("this Chromium sends AV1");
}

#[test]
fn a_publisher_that_offers_all_codecs_is_answered_with_h264() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("preferred");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    until("pictures are sent", ARRIVES, || {
        let figures = browser.run("publisher", "figures", json!({"id": "main"}));
        (figures["sentVideo"]["framesEncoded"].as_u64() > Some(5)).then(|| {
            assert_eq!(figures["sentVideo"]["codec"], "video/H264", "{figures:#}");
        })
    });
}

/// Both sides have AES-GCM, so the SHA-1 profile, four times as dear a packet, is not taken.
#[test]
fn srtp_is_of_a_profile_we_chose() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("profile");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    let figures = browser.run("publisher", "figures", json!({"id": "main"}));
    let profile = figures["srtp"].as_str().expect("the browser names the profile");
    assert!(profile.contains("GCM"), "the dear profile was taken although the browser has GCM: {profile}");
}

#[test]
fn a_camera_is_published() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("camera");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({"source": "camera", "trickle": true}));
    let session = browser.run("publisher", "figures", json!({"id": "main"}));
    assert_eq!(session["connection"], "connected");
    browser.play("viewer", &node.whep_url(&name), json!({"trickle": true}));
    browser.until("viewer", 60, 0.0001, ARRIVES);
}

#[test]
fn trickled_candidates_are_accepted() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let mut browser = Browser::start();
    let result = browser.publish("publisher", &node.whip_url(&unique("trickle")), json!({"trickle": true}));
    assert_eq!(result["patch"], 204, "{result:#}");
    for header in ["location", "etag"] {
        assert!(result[header].is_string(), "a page of another origin cannot read {header}: {result:#}");
    }
}

#[test]
fn a_viewer_may_come_before_the_publisher() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("early");
    let mut browser = Browser::start();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    std::thread::sleep(Duration::from_secs(2));
    let before = browser.run("viewer", "figures", json!({"id": "main"}));
    assert_eq!((&before["connection"], &before["frames"]), (&json!("connected"), &json!(0)));
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    let figures = browser.until("viewer", 60, 0.001, ARRIVES);
    assert_eq!(figures["video"]["codec"], "video/H264");
}

/// The picture of a browser's stream comes within a second for one who joins late, because the node asks for a key frame.
#[test]
fn a_late_viewer_sees_a_picture_within_a_second() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("late");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": "H264"}));
    browser.play("first", &node.whep_url(&name), json!({}));
    browser.until("first", 120, 0.0, ARRIVES);
    for page in ["second", "third"] {
        std::thread::sleep(Duration::from_millis(1300));
        browser.play(page, &node.whep_url(&name), json!({}));
        let figures = browser.until(page, 10, 0.0, ARRIVES);
        let ms = |key: &str| figures["ms"][key].as_f64().expect("it happened");
        let waited = ms("firstFrame") - ms("connected");
        assert!(waited < 1000.0, "{page}: the first picture came {waited} ms after the connection");
    }
    // the first viewer was not disturbed by those who came
    let line = browser.run("first", "timeline", json!({"id": "main"}));
    assert!(line["back"] == 0 && line["gap"].as_f64().is_some_and(|it| it < 700.0), "{line}");
}

/// Two viewers of one stream, and one leaves without a word.
#[test]
fn a_viewer_that_vanishes_hurts_nobody_and_is_forgotten() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("vanished");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    for page in ["stays", "goes"] {
        browser.play(page, &node.whep_url(&name), json!({}));
        browser.until(page, 20, 0.0, ARRIVES);
    }
    let playing = |node: &Node| {
        let all = node.api("/api/v1/clients/");
        all["clients"].as_array().expect("a list").iter().filter(|it| it["publish"] == false).count()
    };
    assert_eq!(playing(&node), 2);
    browser.operation(json!({"op": "close", "page": "goes"})).expect("a page can be closed");
    until("the vanished viewer is forgotten (consent ends after 30 s)", Duration::from_secs(45), || {
        (playing(&node) == 1).then_some(())
    });
    let figures = browser.run("stays", "figures", json!({"id": "main"}));
    let more = figures["video"]["framesDecoded"].as_u64().expect("a number") as u32 + 60;
    browser.until("stays", more, 0.0, Duration::from_secs(6));
    node.assert_well();
}

/// A browser without transport-wide feedback estimates nothing but loss by itself: it is told what fits, and goes by it.
#[test]
fn a_publisher_without_transport_wide_feedback_follows_what_it_is_told() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("told");
    let mut browser = Browser::start();
    let without = json!(["transport-cc", "transport-wide-cc"]);
    let options = json!({"codec": "VP8", "without": without});
    let published = browser.publish("publisher", &node.whip_url(&name), options);
    let answer = published["answer"].as_str().expect("an answer");
    assert!(answer.contains("goog-remb") && answer.contains("abs-send-time"), "{answer}");
    assert!(!answer.contains("transport-cc"), "{answer}");
    node.wait_live(&name);
    // It begins with 300 kbit/s, which loss lets grow by 8 % a second: 480 kbit/s after 6 s. Ours begins with 1 Mbit/s.
    let told = until("the node's estimate", Duration::from_secs(6), || {
        browser.run("publisher", "uplink", json!({"id": "main"})).as_f64().filter(|bps| *bps >= 900_000.0)
    });
    println!("Chromium may send {told} bit/s");
    node.assert_well();
}
