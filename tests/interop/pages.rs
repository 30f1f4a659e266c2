//! The pages of the node itself, in a real browser.
use serde_json::json;
use std::time::Duration;
use support::browser::Browser;
use support::wait::alone;
use support::{Node, ffmpeg, need, scratch, unique, until};

const ARRIVES: Duration = Duration::from_secs(20);

fn eval(browser: &mut Browser, page: &str, script: &str) -> serde_json::Value {
    browser
        .operation(json!({"op": "eval", "page": page, "script": script}))
        .unwrap_or_else(|error| panic!("{script}: {error}"))
}

#[track_caller]
fn goto(browser: &mut Browser, page: &str, url: &str) {
    let answer = browser.operation(json!({"op": "goto", "page": page, "url": url})).expect("the page loads");
    assert_eq!(answer["status"], 200, "{url}");
}

/// Errors on the page's console; a favicon is no error of ours.
#[track_caller]
fn assert_quiet(browser: &mut Browser, page: &str) {
    let messages = browser.operation(json!({"op": "messages", "page": page})).expect("messages");
    let bad = |it: &&serde_json::Value| !it.as_str().unwrap_or_default().contains("favicon");
    let messages: Vec<_> = messages.as_array().expect("a list").iter().filter(bad).collect();
    assert!(messages.is_empty(), "{page}: {messages:#?}");
}

#[test]
fn the_console_lists_a_live_stream_with_its_links() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("console");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    goto(&mut browser, "console", &node.url("/"));
    until("the stream is listed", ARRIVES, || {
        let text = eval(&mut browser, "console", "document.body.innerText");
        let text = text.as_str().unwrap_or_default().to_lowercase();
        (text.contains(&name) && (text.contains("h264") || text.contains("h.264")) && text.contains("aac"))
            .then_some(())
    });
    let links =
        eval(&mut browser, "console", "[...document.links].map(it => it.getAttribute('href'))").to_string();
    assert!(links.contains(&format!("/play/live/{name}")), "{links}");
    let picture = scratch().join("console.png");
    browser.operation(json!({"op": "screenshot", "page": "console", "path": picture})).expect("a screenshot");
    assert_quiet(&mut browser, "console");
}

#[test]
fn the_play_page_plays_an_rtmp_stream() {
    need!(Ffmpeg, Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("play-page");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    goto(&mut browser, "play", &node.url(&format!("/play/live/{name}")));
    until("the video plays", ARRIVES, || {
        let state = eval(
            &mut browser,
            "play",
            "(({videoWidth: w, currentTime: t}) => [w, t])(document.querySelector('video'))",
        );
        (state[0] == 1280 && state[1].as_f64() > Some(2.0)).then_some(())
    });
    let picture = scratch().join("play.png");
    browser.operation(json!({"op": "screenshot", "page": "play", "path": picture})).expect("a screenshot");
    let text = eval(&mut browser, "play", "document.body.innerText").as_str().unwrap_or_default().to_string();
    assert!(text.contains("1280") && text.contains("720"), "the live figures name the resolution: {text}");
    assert_quiet(&mut browser, "play");
}

#[test]
fn the_publish_page_publishes_a_camera() {
    need!(Browser);
    let _lane = alone();
    let node = Node::start();
    let name = unique("publish-page");
    let mut browser = Browser::start();
    goto(&mut browser, "publish", &node.url(&format!("/publish/live/{name}")));
    until("the page is there", ARRIVES, || {
        let title = eval(&mut browser, "publish", "document.title");
        title.as_str().is_some_and(|it| it.contains(&name)).then_some(())
    });
    eval(&mut browser, "publish", "document.querySelector('#start').click()");
    node.wait_live(&name);
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 40, 0.0001, ARRIVES);
    let picture = scratch().join("publish.png");
    browser.operation(json!({"op": "screenshot", "page": "publish", "path": picture})).expect("a screenshot");
    eval(&mut browser, "publish", "document.querySelector('#stop').click()");
    until("the publisher is gone", Duration::from_secs(5), || {
        node.stream(&name).is_none_or(|it| it["publish"]["active"] == false).then_some(())
    });
    assert_quiet(&mut browser, "publish");
}
