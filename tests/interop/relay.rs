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
