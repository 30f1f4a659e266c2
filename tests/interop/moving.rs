//! A browser whose network changes: ICE restarts, and a NAT that forgets it. Media is back by itself, in the same session.
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::nat::Nat;
use support::wait::alone;
use support::{Node, ffmpeg, need, unique, until};

const ARRIVES: Duration = Duration::from_secs(15);

fn frames(browser: &mut Browser) -> u32 {
    let figures = browser.run("viewer", "figures", json!({"id": "main"}));
    figures["video"]["framesDecoded"].as_u64().expect("a number") as u32
}

/// The longest time without a new frame on the viewer's screen, ms.
#[track_caller]
fn gap(browser: &mut Browser, what: &str) -> f64 {
    let now = frames(browser);
    browser.until("viewer", now + 45, 0.0, ARRIVES);
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    println!("{what}: longest time between two frames {} ms", line["gap"]);
    line["gap"].as_f64().expect("a number")
}

#[track_caller]
fn restarted(result: &Value) {
    assert_eq!(result["status"], 200, "{result:#}");
    assert!(result["etag"].is_string(), "a page of another origin reads it: {result:#}");
    println!(
        "PATCH answered after {} ms, the new pair in use after {} ms",
        result["patched"], result["took"]
    );
    assert!(result["took"].as_f64().is_some_and(|it| it < 1000.0), "{result:#}");
}

/// Publisher and viewer, and the API's ids of both.
fn scene(node: &Node, browser: &mut Browser) -> Vec<String> {
    let name = unique("moving");
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": "H264"}));
    node.wait_live(&name);
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 60, 0.001, ARRIVES);
    clients(node)
}

fn clients(node: &Node) -> Vec<String> {
    let all = node.api("/api/v1/clients/");
    let all = all["clients"].as_array().expect("a list").iter();
    all.map(|it| it["id"].as_str().expect("an id").to_string()).collect()
}

#[test]
fn an_ice_restart_of_viewer_and_publisher_is_not_seen() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let mut browser = Browser::start();
    let before = scene(&node, &mut browser);
    for page in ["viewer", "publisher", "viewer"] {
        restarted(&browser.run(page, "restart", json!({"id": "main"})));
        assert!(gap(&mut browser, page) < 1000.0, "media resumes within a second");
    }
    assert_eq!(clients(&node), before, "the same sessions");
    node.assert_well();
}

/// The network is gone, and the page restarts ICE on another.
#[test]
fn an_ice_restart_after_the_network_is_gone_brings_media_back_within_a_second() {
    need!(Browser);
    let _lane = alone();
    let (nat, mut node) = Nat::before_a_node();
    let mut browser = Browser::start();
    let before = scene(&node, &mut browser);
    for page in ["viewer", "publisher"] {
        nat.cut(&nat.clients());
        // both are cut: who restarts first is followed by the other at once
        let since = Instant::now();
        for page in ["publisher", "viewer"] {
            restarted(&browser.run(page, "restart", json!({"id": "main"})));
        }
        let gap = gap(&mut browser, page);
        println!("cut and restarted within {} ms", since.elapsed().as_millis());
        assert!(gap < 2000.0, "both restarts, one after the other, and a key frame: {gap}");
    }
    assert_eq!(clients(&node), before, "the same sessions");
    node.assert_well();
}

#[test]
fn a_viewer_whose_nat_forgets_it_is_found_by_its_check() {
    need!(Browser);
    let _lane = alone();
    let (nat, mut node) = Nat::before_a_node();
    let mut browser = Browser::start();
    let name = unique("moving");
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": "H264"}));
    node.wait_live(&name);
    let publisher = nat.clients();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 60, 0.001, ARRIVES);
    let before = clients(&node);
    let viewer: Vec<_> = nat.clients().into_iter().filter(|it| !publisher.contains(it)).collect();
    for _ in 0..5 {
        nat.forget(&viewer);
        let took = until("the node follows", Duration::from_secs(10), || {
            nat.followed_after().into_iter().find(|(it, _)| viewer.contains(it)).map(|(_, took)| took)
        });
        println!("followed {} ms after its check", took.as_millis());
        // It answers ours; its reports on the picture are 0.5 to 1.5 s apart.
        assert!(took < Duration::from_millis(400), "{took:?}");
        let now = frames(&mut browser);
        browser.until("viewer", now + 60, 0.0, ARRIVES);
    }
    gap(&mut browser, "a viewer's NAT");
    assert_eq!(clients(&node), before, "the same sessions");
    node.assert_well();
}

#[test]
fn a_publisher_whose_nat_forgets_it_is_heard_at_once() {
    need!(Browser);
    let _lane = alone();
    let (nat, mut node) = Nat::before_a_node();
    let mut browser = Browser::start();
    let name = unique("moving");
    browser.publish("publisher", &node.whip_url(&name), json!({"codec": "H264"}));
    node.wait_live(&name);
    let publisher = nat.clients();
    browser.play("viewer", &node.whep_url(&name), json!({}));
    browser.until("viewer", 60, 0.001, ARRIVES);
    nat.forget(&publisher);
    let gap = gap(&mut browser, "a publisher's NAT");
    // Its next check is up to 2.5 s away.
    assert!(gap < 1000.0, "{gap}");
    node.assert_well();
}

fn goto(browser: &mut Browser, page: &str, url: &str) {
    let answer = browser.operation(json!({"op": "goto", "page": page, "url": url})).expect("the page loads");
    assert_eq!(answer["status"], 200, "{url}");
}

fn eval(browser: &mut Browser, page: &str, script: &str) -> Value {
    browser.operation(json!({"op": "eval", "page": page, "script": script})).expect("it can be asked")
}

/// The node's own pages restart ICE by themselves.
#[test]
fn the_pages_survive_the_loss_of_their_network() {
    need!(Browser);
    let _lane = alone();
    let (nat, mut node) = Nat::before_a_node();
    let mut browser = Browser::start();
    let name = unique("moving-page");
    goto(&mut browser, "publisher", &node.url(&format!("/publish/live/{name}?auto=1&codec=h264")));
    node.wait_live(&name);
    goto(&mut browser, "viewer", &node.url(&format!("/play/live/{name}?via=webrtc")));
    let decoded = "window.millrace.stats().then((it) => it.video?.framesDecoded ?? 0)";
    let shows = |browser: &mut Browser, least: u64| {
        until(&format!("{least} frames"), Duration::from_secs(30), || {
            eval(browser, "viewer", decoded).as_u64().filter(|now| *now >= least)
        })
    };
    shows(&mut browser, 30);
    for page in ["viewer", "publisher"] {
        eval(&mut browser, page, "window.first = window.millrace.pc; 0");
    }
    let before = clients(&node);
    let since = Instant::now();
    nat.cut(&nat.clients());
    let stood = until("the picture stands", Duration::from_secs(5), || {
        let now = eval(&mut browser, "viewer", decoded).as_u64()?;
        std::thread::sleep(Duration::from_millis(300));
        (eval(&mut browser, "viewer", decoded).as_u64() == Some(now)).then_some(now)
    });
    shows(&mut browser, stood + 1);
    println!("the pages' media is back {} ms after the network was lost", since.elapsed().as_millis());
    shows(&mut browser, stood + 60);
    for page in ["viewer", "publisher"] {
        let same = eval(&mut browser, page, "window.first === window.millrace.pc");
        assert_eq!(same, true, "{page} has a session of its own still");
    }
    assert_eq!(clients(&node), before, "the same sessions");
    node.assert_well();
}

/// The longest time between two frames on a page's screen since this was asked last.
const GAP: &str = "(() => {
  const video = document.querySelector('video');
  if (!window.watched) {
    window.watched = { last: null, longest: 0 };
    const frame = (now) => {
      const { last, longest } = window.watched;
      window.watched = { last: now, longest: last === null ? 0 : Math.max(longest, now - last) };
      video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
  }
  const { longest } = window.watched;
  window.watched.longest = 0;
  return longest;
})()";
const FRAMES: &str = "window.millrace.stats().then((it) => it.video?.framesDecoded ?? 0)";

fn play_page(browser: &mut Browser, node: &Node, name: &str) {
    goto(browser, "viewer", &node.url(&format!("/play/live/{name}?via=webrtc")));
    shows(browser, 60);
    eval(browser, "viewer", &format!("window.first = window.millrace.pc; {GAP}"));
    // The first frame has none before it: what comes after it is measured.
    shows(browser, 10);
}

/// Waits until so many frames more are shown.
fn shows(browser: &mut Browser, more: u64) {
    let frames = |browser: &mut Browser| eval(browser, "viewer", FRAMES).as_u64();
    let before = frames(browser).unwrap_or(0);
    until(&format!("{more} frames more"), Duration::from_secs(30), || {
        frames(browser).filter(|now| *now >= before + more)
    });
}

/// Its checks are up to 2.5 s apart and its reports 1.5, and the page is back before the next of either: it hears that nothing comes.
#[test]
fn the_play_page_whose_nat_forgets_it_is_back_within_a_second() {
    need!(Browser);
    let _lane = alone();
    let (nat, mut node) = Nat::before_a_node();
    let name = unique("forgotten");
    let _publisher = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    play_page(&mut browser, &node, &name);
    let before = clients(&node);
    let mut gaps: Vec<f64> = (0..10)
        .map(|_| {
            nat.forget(&nat.clients());
            // A viewer is given the last GOP again three times in ten seconds, and no more.
            shows(&mut browser, 110);
            eval(&mut browser, "viewer", GAP).as_f64().expect("a number")
        })
        .collect();
    gaps.sort_by(f64::total_cmp);
    println!("longest time between two frames, of ten: {gaps:.0?} ms");
    assert!(gaps[9] < 1_000.0, "{gaps:.0?}");
    assert_eq!(eval(&mut browser, "viewer", "window.first === window.millrace.pc"), true, "the same session");
    assert_eq!(clients(&node), before, "the same clients");
    node.assert_well();
}

#[test]
fn a_publishers_pause_is_no_lost_path_to_the_play_page() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("paused");
    let publisher = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut browser = Browser::start();
    play_page(&mut browser, &node, &name);
    let names = "window.millrace.pc.localDescription.sdp.match(/a=ice-ufrag:(.*)/)[1]";
    let before = eval(&mut browser, "viewer", names);
    publisher.signal("STOP");
    let since = Instant::now();
    until("two seconds have passed", Duration::from_secs(5), || {
        (since.elapsed().as_secs() >= 2).then_some(())
    });
    publisher.signal("CONT");
    // What waited comes at once and is decoded before it is shown.
    until("the pause is over on the screen", ARRIVES, || {
        eval(&mut browser, "viewer", GAP).as_f64().filter(|gap| *gap > 1_500.0)
    });
    assert_eq!(eval(&mut browser, "viewer", names), before, "ICE was not restarted");
    node.assert_well();
}
