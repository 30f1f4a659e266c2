//! Two nodes and the relay between them, with real programs at both ends.
use serde_json::json;
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::cluster::Cluster;
use support::wait::alone;
use support::{ffmpeg, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

/// A browser publishes at one node; another plays at the other, and so does ffmpeg, by FLV and RTMP.
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
    let urls = [b.flv_url(&name), b.rtmp_url(&name)];
    let probes = urls.map(|url| std::thread::spawn(move || ffmpeg::probe(&url, 4)));
    for probe in probes {
        let probe = probe.join().expect("it is probed");
        let video = ffmpeg::stream(&probe, "video").expect("a picture");
        assert_eq!((&video["codec_name"], &video["width"]), (&json!("h264"), &json!(480)), "{probe:#}");
        assert_eq!(ffmpeg::stream(&probe, "audio").expect("sound")["codec_name"], "aac");
    }
    a.assert_well();
    b.assert_well();
}

/// Chromium's layers of VP9 and AV1, one stream each, decoded at the other node; and where a viewer asks for half of the frames it gets those.
#[test]
fn a_browsers_layers_of_vp9_and_av1_cross() {
    const DEPENDENCY: &str =
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
    need!(Browser);
    let _lane = alone();
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    until("the other node has heard", ARRIVES, || a.log().contains("relay link up").then_some(()));
    let mut browser = Browser::start();
    for (codec, mode) in [("VP9", "L1T3"), ("AV1", "L1T3")] {
        let name = unique("layered");
        let options = json!({
            "codec": codec, "width": 320, "height": 180, "extensions": {DEPENDENCY: true},
            "encodings": [{"scalabilityMode": mode, "maxBitrate": 400_000}],
        });
        browser.publish("publisher", &a.whip_url(&name), options);
        a.wait_live(&name);
        let played = browser.play(
            "viewer",
            &b.whep_url(&name),
            json!({"codec": codec, "extensions": {DEPENDENCY: true}}),
        );
        assert!(played["answer"].as_str().is_some_and(|answer| answer.contains(DEPENDENCY)), "{played:#}");
        let figures = browser.until("viewer", 45, 0.001, ARRIVES);
        assert_eq!(figures["video"]["codec"], format!("video/{codec}"));
        assert_eq!(figures["size"], json!([320, 180]), "{figures:#}");
        let asked = browser.run("viewer", "layer", json!({"id": "main", "wish": {"temporalLayerId": 1}}));
        assert_eq!(asked["asked"], 200, "{asked:#}");
        let end = Instant::now() + ARRIVES;
        loop {
            let [sent, got] =
                browser.run_both(["publisher", "viewer"], "pace", json!({"id": "main", "seconds": 1}));
            let share = got["fps"].as_f64().unwrap_or(0.0) / sent["fps"].as_f64().unwrap_or(f64::MAX);
            println!("{codec} {mode}: {share:.2} of the frames; sent {sent}, got {got}");
            if (0.35..0.65).contains(&share) {
                break;
            }
            assert!(Instant::now() < end, "{share:.2} of the frames");
        }
        for page in ["viewer", "publisher"] {
            assert_eq!(browser.run(page, "stop", json!({"id": "main"}))["status"], 200);
        }
    }
    a.assert_well();
    b.assert_well();
}

/// The console of the node where it is watched says which node a stream is from, and how the link is.
#[test]
fn the_console_shows_links_and_paths() {
    need!(Browser);
    let _lane = alone();
    let cluster = Cluster::of(&["a", "b"]);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("shown");
    let _publisher = ffmpeg::push_clip(&a.rtmp_url(&name));
    until("the other node has it", ARRIVES, || b.log().contains("relay link up").then_some(()));
    let _viewer = ffmpeg::view(&b.flv_url(&name));
    let mut browser = Browser::start();
    browser.operation(json!({"op": "goto", "page": "console", "url": b.url("/")})).expect("the page loads");
    let mut text = |of: &str| {
        let script = format!("document.getElementById({of:?}).textContent");
        let text = browser.operation(json!({"op": "eval", "page": "console", "script": script}));
        text.expect("the page has it").as_str().unwrap_or("").to_owned()
    };
    until("the stream's path", ARRIVES, || text("rows").contains("from RTMP by a").then_some(()));
    until("the link", ARRIVES, || {
        let links = text("link-rows");
        (links.starts_with("aup") && links.contains(" ms") && links.contains("2 in · 0 out")).then_some(())
    });
    assert_eq!(text("links-title"), "Links of node b to others");
    let picture = support::scratch().join("console-links.png");
    let open = "document.getElementById('links-panel').open = true";
    browser.operation(json!({"op": "eval", "page": "console", "script": open})).expect("it opens");
    browser.operation(json!({"op": "screenshot", "page": "console", "path": picture})).expect("a screenshot");
}
