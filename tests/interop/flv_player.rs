//! mpegts.js in Chromium: the play page's second way, and what brings a viewer there.
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::ffmpeg::Source;
use support::wait::alone;
use support::{Node, ffmpeg, need, scratch, unique, until};

/// Beyond the page's own six seconds of hope for WebRTC.
const ARRIVES: Duration = Duration::from_secs(25);

fn eval(browser: &mut Browser, script: &str) -> Value {
    browser
        .operation(json!({"op": "eval", "page": "viewer", "script": script}))
        .unwrap_or_else(|error| panic!("{script}: {error}"))
}

#[track_caller]
fn goto(browser: &mut Browser, url: &str) {
    let answer =
        browser.operation(json!({"op": "goto", "page": "viewer", "url": url})).expect("the page loads");
    assert_eq!(answer["status"], 200, "{url}");
}

/// The page's figures, once it plays FLV, with sound, and has decoded so many frames.
#[track_caller]
fn plays(browser: &mut Browser, frames: u64) -> Value {
    until(&format!("FLV plays {frames} frames"), ARRIVES, || {
        let now = eval(browser, "window.millrace.stats()");
        let decoded = now["video"]["framesDecoded"].as_u64() >= Some(frames);
        (now["via"] == "flv" && decoded && now["audio"]["bytes"].as_u64() > Some(0)).then_some(now)
    })
}

fn notice(browser: &mut Browser) -> String {
    eval(browser, "document.querySelector('#notice').innerText").as_str().unwrap_or_default().into()
}

#[test]
fn the_play_page_plays_flv_when_asked() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("via-flv");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    goto(&mut browser, &node.url(&format!("/play/live/{name}?via=flv")));
    let first = plays(&mut browser, 30);
    assert_eq!((&first["video"]["codec"], &first["audio"]["codec"]), (&json!("H264"), &json!("AAC")));
    assert_eq!((&first["video"]["width"], &first["video"]["height"]), (&json!(1280), &json!(720)));
    let frames = first["video"]["framesDecoded"].as_u64().expect("a number");
    let then = plays(&mut browser, frames + 90);
    assert!(then["audio"]["bytes"].as_u64() > first["audio"]["bytes"].as_u64(), "the sound goes on");
    // it stays near live (the page's own bound is 1.2 s; a busy machine may be caught catching up)
    assert!(then["buffered"].as_f64().is_some_and(|it| it < 3.0), "{then:#}");
    assert_eq!(notice(&mut browser), "", "nothing went wrong, nothing is said");
    let picture = scratch().join("play-flv.png");
    browser.operation(json!({"op": "screenshot", "page": "viewer", "path": picture})).expect("a screenshot");
    let messages = browser.operation(json!({"op": "messages", "page": "viewer"})).expect("messages");
    assert_eq!(messages, json!([]));
    node.assert_well();
}

#[test]
fn the_play_page_falls_back_to_flv_when_whep_is_refused() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start_with(&[("video.b_frames", "\"refuse\"")]);
    let name = unique("refused");
    let _push = ffmpeg::push_source(&node.rtmp_url(&name), Source { b_frames: 2, ..Source::default() });
    node.wait_live(&name);
    let mut browser = Browser::start();
    let url = node.url(&format!("/play/live/{name}"));
    // The first viewer's conversion is what finds the B-frames: that viewer is let go after its answer, ...
    goto(&mut browser, &url);
    plays(&mut browser, 60);
    // ... and whoever comes after it is told so instead of an answer.
    goto(&mut browser, &url);
    let start = Instant::now();
    plays(&mut browser, 30);
    assert!(start.elapsed() < Duration::from_secs(6), "it waited for a picture that was refused");
    let said = notice(&mut browser);
    assert!(said.contains("FLV") && said.contains("B-frames"), "the reason is shown: {said:?}");
    node.assert_well();
}

/// A firewall that eats UDP: the offer is answered, and nothing ever comes.
#[test]
fn the_play_page_falls_back_to_flv_when_udp_is_blocked() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    // RFC 5737: 192.0.2.0/24 is for documentation, so nobody answers there
    let mut node = Node::start_with(&[("node.public_ips", "[\"192.0.2.1\"]")]);
    let name = unique("blocked");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    goto(&mut browser, &node.url(&format!("/play/live/{name}")));
    plays(&mut browser, 60);
    let said = notice(&mut browser);
    assert!(said.contains("FLV"), "the change is shown: {said:?}");
    node.assert_well();
}

#[test]
fn mpegts_js_plays_flv_over_websocket() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("ws-flv");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    // any page of the node will do: its policy must let such a player run
    goto(&mut browser, &node.url("/"));
    let url = node.flv_url(&name).replace("http://", "ws://");
    let play = format!(
        "(async () => {{
          const script = Object.assign(document.createElement('script'), {{ src: '/assets/vendor/mpegts.js' }});
          await new Promise((resolve, reject) => {{
            Object.assign(script, {{ onload: resolve, onerror: () => reject(new Error('not loaded')) }});
            document.head.append(script);
          }});
          const video = Object.assign(document.createElement('video'), {{ muted: true, autoplay: true }});
          document.body.prepend(video);
          const player = mpegts.createPlayer({{ type: 'flv', isLive: true, url: '{url}' }});
          window.trouble = [];
          player.on(mpegts.Events.ERROR, (...all) => window.trouble.push(all.slice(0, 2).join(' ')));
          player.attachMediaElement(video);
          player.load();
          await player.play();
          return mpegts.version;
        }})()"
    );
    eval(&mut browser, &play);
    until("60 frames over the WebSocket", ARRIVES, || {
        let state = eval(
            &mut browser,
            "(it => [it.getVideoPlaybackQuality().totalVideoFrames, it.webkitAudioDecodedByteCount, window.trouble])
             (document.querySelector('video'))",
        );
        assert_eq!(state[2], json!([]), "the player complained");
        (state[0].as_u64() > Some(60) && state[1].as_u64() > Some(0)).then_some(())
    });
    node.assert_well();
}
