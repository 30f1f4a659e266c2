//! SRS's JSON signalling from a real page, and what the API says of real clients.
use serde_json::json;
use std::time::Duration;
use support::browser::Browser;
use support::wait::alone;
use support::{Node, ffmpeg, http, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

#[test]
fn a_page_written_for_srs_publishes_and_plays() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("srs");
    let mut browser = Browser::start();
    let srs = || json!({"srs": format!("webrtc://127.0.0.1/live/{name}")});
    browser.publish("publisher", &node.url("/rtc/v1/publish/"), srs());
    node.wait_live(&name);
    browser.play("viewer", &node.url("/rtc/v1/play/"), srs());
    browser.until("viewer", 40, 0.001, ARRIVES);
}

#[test]
fn whip_and_whep_by_srs_paths() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("srs-whip");
    let mut browser = Browser::start();
    let url = |verb: &str| node.url(&format!("/rtc/v1/{verb}/?app=live&stream={name}"));
    browser.publish("publisher", &url("whip"), json!({}));
    browser.play("viewer", &url("whep"), json!({}));
    browser.until("viewer", 40, 0.001, ARRIVES);
    assert_eq!(browser.run("viewer", "stop", json!({"id": "main"}))["status"], 200);
}

#[test]
fn real_clients_are_listed_by_kind_and_can_be_ended() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("kinds");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut viewer = ffmpeg::view(&node.rtmp_url(&name));
    let _flv = ffmpeg::view(&node.flv_url(&name));
    let mut browser = Browser::start();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 20, 0.0, ARRIVES);
    let all = || node.api("/api/v1/clients/")["clients"].as_array().expect("a list").clone();
    let kinds = until("four clients are listed", ARRIVES, || Some(all()).filter(|it| it.len() == 4));
    let of = |kind: &str| {
        kinds.iter().find(|it| it["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:#?}"))
    };
    for kind in ["fmle-publish", "rtmp-play", "flv-play", "rtc-play"] {
        assert!(of(kind)["alive"].is_number(), "{kind}");
    }
    for kind in ["rtc-play", "rtmp-play"] {
        let id = of(kind)["id"].as_str().map_or_else(|| of(kind)["id"].to_string(), String::from);
        let answer = http::request("DELETE", &node.url(&format!("/api/v1/clients/{id}")), &[], b"")
            .expect("an answer");
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
    }
    assert!(viewer.wait(ARRIVES).is_some(), "ffmpeg still plays");
    until("two are left", ARRIVES, || (all().len() == 2).then_some(()));
    std::thread::sleep(Duration::from_secs(1)); // what was in its jitter buffer
    let before = browser.run("viewer", "figures", json!({"id": "main"}))["video"]["framesDecoded"].clone();
    std::thread::sleep(Duration::from_secs(1));
    let after = browser.run("viewer", "figures", json!({"id": "main"}))["video"]["framesDecoded"].clone();
    assert_eq!(before, after, "the ended viewer still gets pictures");
    node.assert_well();
}

/// A viewer's round trip is in its receiver reports; a publisher's in its answers to extended reports (RFC 3611), which no SDP asked for.
#[test]
fn the_round_trips_of_real_browsers_are_known() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("round-trips");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 40, 0.001, ARRIVES);
    for kind in ["rtc-publish", "rtc-play"] {
        let figures = until(&format!("the round trip of {kind}"), ARRIVES, || {
            let all = node.api("/api/v1/clients/");
            let all = all["clients"].as_array().expect("a list");
            let found = all.iter().find(|it| it["type"] == kind).expect("it is listed").clone();
            found["rtc"]["rtt_ms"].is_number().then_some(found)
        });
        let rtc = &figures["rtc"];
        assert!(rtc["rtt_ms"].as_f64().is_some_and(|ms| (0.0..500.0).contains(&ms)), "on loopback: {rtc:#}");
        assert_eq!((&rtc["nacks_out"], &rtc["lost"]), (&json!(0), &json!(0)), "not by a repair: {rtc:#}");
        println!("{kind}: {rtc:#}");
    }
    node.assert_well();
}
