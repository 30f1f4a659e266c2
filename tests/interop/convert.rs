//! Where the two sides differ: RTMP to browsers, browsers to RTMP and HTTP-FLV.
use serde_json::json;
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::ffmpeg::{self, Source};
use support::rtmp::Client;
use support::wait::alone;
use support::{Node, flv, http, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

#[test]
fn rtmp_plays_in_a_browser_with_sound() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("rtmp-in");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    // up to two seconds of it are the GOP that a viewer starts with; then two beeps are due in the next three
    let figures = browser.until("viewer", 160, 0.01, ARRIVES);
    assert_eq!(
        (&figures["video"]["codec"], &figures["audio"]["codec"]),
        (&json!("video/H264"), &json!("audio/opus"))
    );
    assert_eq!(figures["size"], json!([1280, 720]));
    assert!(figures["beeps"].as_u64() > Some(1), "the beeps are heard: {figures:#}");
    assert!(figures["ms"]["firstFrame"].as_f64().is_some_and(|it| it < 2500.0), "{}", figures["ms"]);
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    assert_eq!(line["back"], 0, "{line}");
    node.assert_well();
}

/// 44.1 kHz has to be resampled, and its frames never fit Opus's.
#[test]
fn rtmp_of_44100_hz_with_b_frames_plays_in_a_browser() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("b-frames");
    let _push = ffmpeg::push_source(&node.rtmp_url(&name), Source { b_frames: 1, ..Source::default() });
    node.wait_live(&name);
    let mut browser = Browser::start();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    let figures = browser.until("viewer", 60, 0.01, ARRIVES);
    // non-reference B-frames are dropped by default, so what is left never steps back
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    assert_eq!(line["back"], 0, "{line}");
    let concealed = figures["audio"]["concealedSamples"].as_f64().unwrap_or(0.0);
    let received = figures["audio"]["totalSamplesReceived"].as_f64().expect("a number");
    assert!(concealed < received * 0.1, "{concealed} of {received} samples were made up");
}

#[test]
fn a_browser_plays_by_rtmp_and_http_flv_with_sound() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("whip-in");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    node.wait_live(&name);
    for url in [node.rtmp_url(&name), node.flv_url(&name)] {
        let file = ffmpeg::record(&url, 6);
        let probe = ffmpeg::probe(&file.to_string_lossy(), 10);
        let video = ffmpeg::stream(&probe, "video").unwrap_or_else(|| panic!("{url}: no video"));
        let audio = ffmpeg::stream(&probe, "audio").unwrap_or_else(|| panic!("{url}: no audio"));
        assert_eq!((&video["codec_name"], &audio["codec_name"]), (&json!("h264"), &json!("aac")), "{url}");
        assert_eq!((&video["width"], &video["height"]), (&json!(640), &json!(360)), "{url}");
        for (kind, least) in [("video", 120), ("audio", 200)] {
            let times = ffmpeg::decode_times(&probe, kind);
            assert!(times.len() > least, "{url}: {} {kind} packets in 6 s", times.len());
            let gap = times.windows(2).map(|it| it[1] - it[0]).fold(0.0, f64::max);
            assert!(gap < 0.5, "{url}: a hole of {gap} s in the {kind}");
            assert!(times.windows(2).all(|it| it[1] >= it[0]), "{url}: {kind} goes back");
        }
        // a beep of 100 ms each second at -6 dB is some -19 dB on the whole; silence is -91
        let volume = ffmpeg::mean_volume(&file);
        assert!((-32.0..-10.0).contains(&volume), "{url}: {volume} dB");
        let (_, errors) = ffmpeg::filter(&file, "0:v:0", "null");
        assert_eq!(errors, "", "{url}: the decoder complained");
    }
    // onMetaData has the real numbers of the browser's stream
    let bytes = http::get_for(&node.flv_url(&name), Duration::from_secs(2)).expect("FLV plays").body;
    let flv = flv::parse(&bytes).expect("it is FLV");
    let metadata = flv.tags.iter().find(|tag| tag.kind == flv::SCRIPT).expect("metadata");
    let data = &support::rtmp::amf_decode(&metadata.body)[1];
    assert_eq!((data["width"].as_f64(), data["height"].as_f64()), (Some(640.0), Some(360.0)), "{data:#}");
    node.assert_well();
}

/// A browser sends a key frame when asked only: an RTMP viewer must not wait for the next by chance.
#[test]
fn a_late_rtmp_viewer_of_a_browser_starts_within_a_second() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("late-rtmp");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({}));
    node.wait_live(&name);
    std::thread::sleep(Duration::from_secs(6));
    for round in 0..3 {
        let start = Instant::now();
        let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
        viewer.play(&name).expect("a viewer plays");
        let first = std::iter::from_fn(|| viewer.next(Duration::from_secs(5)))
            .find(|it| it.tag.kind == flv::VIDEO && !it.tag.is_header())
            .expect("a picture");
        let waited = first.at - start;
        assert!(
            first.tag.is_key_frame() && waited < Duration::from_secs(1),
            "viewer {round}: after {waited:?}"
        );
        std::thread::sleep(Duration::from_millis(1500));
    }
}

/// VP8 cannot be carried by RTMP: that viewer is told so, and the browser's viewer goes on.
#[test]
fn a_codec_that_an_output_cannot_carry_closes_that_output_only() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("vp8-out");
    let mut browser = Browser::start();
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": "VP8"}));
    node.wait_live(&name);
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 30, 0.0, ARRIVES);
    let mut rtmp = Client::connect(node.rtmp, "live").expect("a viewer connects");
    let refused = rtmp.play(&name).is_err() || rtmp.ended(Duration::from_secs(10)).is_some();
    assert!(refused, "the RTMP viewer of a VP8 stream was kept waiting");
    let flv = http::get_for(&node.flv_url(&name), Duration::from_secs(10)).expect("an answer");
    assert!(flv.status >= 400, "{}: HTTP says why before it begins", flv.status);
    assert!(flv.text().contains("VP8"), "the reason is named: {}", flv.text());
    assert!(node.log().contains("VP8"), "the reason is in the log");
    let before = browser.run("viewer", "figures", json!({"id": "main"}))["video"]["framesDecoded"]
        .as_u64()
        .expect("a number");
    browser.until("viewer", before as u32 + 60, 0.0, Duration::from_secs(6));
    node.assert_well();
}

/// Nobody pays for what nobody watches: the conversion runs while someone takes it, and ends after.
#[test]
fn conversion_runs_only_while_it_is_taken() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("on-demand");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let made = || node.metric("millrace_conversion_frames_total{conversion=\"aac_to_opus\"}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(made(), 0.0, "nobody watches yet");
    let mut browser = Browser::start();
    for page in ["one", "two"] {
        browser.play(page, &node.whep_url(&name), json!({}));
        browser.until(page, 20, 0.001, ARRIVES);
    }
    let (before, start) = (made(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let rate = (made() - before) / start.elapsed().as_secs_f64();
    // Opus frames of 20 ms
    assert!((45.0..55.0).contains(&rate), "{rate} frames a second for two viewers: one conversion makes 50");
    for page in ["one", "two"] {
        browser.run(page, "stop", json!({"id": "main"}));
    }
    until("the conversion has ended", Duration::from_secs(15), || {
        let before = made();
        std::thread::sleep(Duration::from_millis(500));
        (made() == before).then_some(())
    });
}
