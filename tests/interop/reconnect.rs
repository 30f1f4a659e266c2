//! A publisher goes away and comes back: its viewers stay, and their output time goes on.
use serde_json::json;
use std::time::Duration;
use support::browser::Browser;
use support::flv::{AUDIO, VIDEO};
use support::rtmp::{Client, Message};
use support::wait::alone;
use support::{Node, ffmpeg, need, unique};

const ARRIVES: Duration = Duration::from_secs(15);

#[track_caller]
fn assert_goes_on(seen: &[Message], least_after: usize) {
    for kind in [AUDIO, VIDEO] {
        let track: Vec<_> = seen.iter().filter(|it| it.tag.kind == kind && !it.tag.is_header()).collect();
        let gap = (1..track.len()).max_by_key(|at| track[*at].at - track[at - 1].at).expect("frames");
        assert!(track.len() - gap > least_after, "type {kind}: {} frames after the gap", track.len() - gap);
        for pair in track.windows(2) {
            let media = i64::from(pair[1].tag.time) - i64::from(pair[0].tag.time);
            let real = (pair[1].at - pair[0].at).as_millis() as i64;
            assert!(media >= 0, "type {kind}: output time went back by {} ms", -media);
            assert!(media - real < 1000, "type {kind}: output time jumped {media} ms in {real} ms");
        }
    }
}

#[test]
fn an_rtmp_publisher_that_comes_back_keeps_a_browser_and_an_rtmp_viewer() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("back");
    let mut first = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 60, 0.001, ARRIVES);
    let mut rtmp = Client::connect(node.rtmp, "live").expect("a viewer connects");
    rtmp.play(&name).expect("a viewer plays");
    let mut seen = rtmp.collect(Duration::from_secs(2));

    first.signal("KILL"); // no farewell: the connection breaks
    first.wait(Duration::from_secs(2));
    seen.extend(rtmp.collect(Duration::from_secs(2)));
    let gone = browser.run("viewer", "figures", json!({"id": "main"}));
    let _second = ffmpeg::push_clip(&node.rtmp_url(&name));
    seen.extend(rtmp.collect(Duration::from_secs(5)));

    assert_goes_on(&seen, 60);
    let frames = gone["video"]["framesDecoded"].as_u64().expect("a number") as u32;
    let energy = gone["audio"]["totalAudioEnergy"].as_f64().expect("a number");
    let back = browser.until("viewer", frames + 60, energy + 0.001, ARRIVES);
    assert_eq!(
        back["states"].as_array().expect("a list").last(),
        Some(&json!("connected")),
        "{:#}",
        back["states"]
    );
    assert_eq!(back["video"]["ssrc"], gone["video"]["ssrc"], "the SSRC towards the viewer changed");
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    assert_eq!(line["back"], 0, "{line}");
    assert!(line["jump"].as_f64().is_some_and(|it| it < 1000.0), "{line}");
    node.assert_well();
}

#[test]
fn a_browser_publisher_that_comes_back_keeps_a_browser_and_an_rtmp_viewer() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("back");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    node.wait_live(&name);
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 60, 0.001, ARRIVES);
    let mut rtmp = Client::connect(node.rtmp, "live").expect("a viewer connects");
    rtmp.play(&name).expect("a viewer plays");
    let mut seen = rtmp.collect(Duration::from_secs(3));

    assert_eq!(browser.run("publisher", "stop", json!({"id": "main"}))["status"], 200);
    seen.extend(rtmp.collect(Duration::from_secs(2)));
    let gone = browser.run("viewer", "figures", json!({"id": "main"}));
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    seen.extend(rtmp.collect(Duration::from_secs(5)));

    assert_goes_on(&seen, 60);
    let frames = gone["video"]["framesDecoded"].as_u64().expect("a number") as u32;
    let energy = gone["audio"]["totalAudioEnergy"].as_f64().expect("a number");
    let back = browser.until("viewer", frames + 60, energy + 0.001, ARRIVES);
    assert_eq!(back["video"]["ssrc"], gone["video"]["ssrc"], "the SSRC towards the viewer changed");
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    assert_eq!(line["back"], 0, "{line}");
    assert!(line["jump"].as_f64().is_some_and(|it| it < 1000.0), "{line}");
    node.assert_well();
}
