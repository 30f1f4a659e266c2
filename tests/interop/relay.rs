//! Two nodes and the relay between them, with real programs at both ends.
use serde_json::json;
use std::time::Duration;
use support::browser::Browser;
use support::cluster::Cluster;
use support::wait::alone;
use support::{ffmpeg, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

/// A browser publishes at one node; another plays at the other, and so does ffmpeg, by FLV.
#[test]
fn a_browsers_picture_and_sound_cross() {
    need!(Browser);
    let _lane = alone();
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("crossing");
    let mut browser = Browser::start();
    browser.publish("publisher", &a.whip_url(&name), json!({"codec": "H264", "width": 480, "height": 270}));
    until("the other node has heard", ARRIVES, || a.log().contains("relay link up").then_some(()));
    a.wait_live(&name);
    browser.play("viewer", &b.whep_url(&name), json!({}));
    let figures = browser.until("viewer", 60, 0.001, ARRIVES);
    assert_eq!(figures["video"]["codec"], "video/H264");
    assert_eq!(figures["size"], json!([480, 270]), "{figures:#}");
    let lost = figures["video"]["packetsLost"].as_i64().unwrap_or(0);
    assert!(lost <= 2, "{lost} packets lost on loopback");
    let more = figures["video"]["framesDecoded"].as_u64().expect("a number") as u32 + 45;
    browser.until("viewer", more, 0.001, Duration::from_secs(6));
    let probe = ffmpeg::probe(&b.flv_url(&name), 4);
    let video = ffmpeg::stream(&probe, "video").expect("a picture");
    assert_eq!((&video["codec_name"], &video["width"]), (&json!("h264"), &json!(480)), "{probe:#}");
    assert_eq!(ffmpeg::stream(&probe, "audio").expect("sound")["codec_name"], "aac");
    a.assert_well();
    b.assert_well();
}

/// A browser publishes in three encodings; at the other node a viewer has the best, asks for the least, and goes back: only what it has crosses.
#[test]
fn simulcast_crosses_as_it_is_watched() {
    need!(Browser);
    let _lane = alone();
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("encodings");
    let mut browser = Browser::start();
    let goto = |browser: &mut Browser, page: &str, url: &str| {
        let answer =
            browser.operation(json!({"op": "goto", "page": page, "url": url})).expect("the page loads");
        assert_eq!(answer["status"], 200, "{url}");
    };
    let eval = |browser: &mut Browser, script: &str| {
        browser.operation(json!({"op": "eval", "page": "viewer", "script": script})).expect("the page has it")
    };
    until("the other node has heard", ARRIVES, || a.log().contains("relay link up").then_some(()));
    let page = format!("/publish/live/{name}?auto=1&codec=vp8&simulcast=1&mic=0");
    goto(&mut browser, "publisher", &a.url(&page));
    a.wait_live(&name);
    goto(&mut browser, "viewer", &b.url(&format!("/play/live/{name}?via=webrtc")));
    let height = "window.millrace.stats().then(it => it.video?.height ?? 0)";
    let options = "[...document.getElementById('height').options].map(it => Number(it.value))";
    let offered = until("three heights are offered", ARRIVES, || {
        let offered: Vec<u64> =
            eval(&mut browser, options).as_array()?.iter().filter_map(|it| it.as_u64()).collect();
        (offered.len() == 4).then_some(offered)
    });
    let (best, least) = (offered[1], offered[3]);
    let shows = |browser: &mut Browser, wanted: u64| {
        until(&format!("{wanted} is shown"), ARRIVES, || (eval(browser, height) == wanted).then_some(()));
    };
    shows(&mut browser, best);
    for (value, wanted) in [(least.to_string(), least), (String::new(), best)] {
        let script = "{const it = document.getElementById('height'); it.value = 'VALUE'; it.dispatchEvent(new Event('change'))}";
        eval(&mut browser, &script.replace("VALUE", &value));
        shows(&mut browser, wanted);
        until("one encoding crosses", ARRIVES, || {
            let nodes = a.api("/api/v1/nodes");
            (nodes["nodes"]["links"][0]["tracks_out"] == 1).then_some(())
        });
    }
    a.assert_well();
    b.assert_well();
}
