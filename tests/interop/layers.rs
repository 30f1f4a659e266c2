//! Chromium publishes three encodings; viewers get the best, ask for another, and get it.
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::netns::Namespace;
use support::wait::alone;
use support::{Node, ffmpeg, need, unique, until};

/// An encoder on a busy machine needs up to half a minute and more for its third encoding, and a layer is live after 2 s.
const ARRIVES: Duration = Duration::from_secs(120);
/// One operation of the browser's driver, which has a limit of its own.
const ASKED: Duration = Duration::from_secs(30);
/// Frames that the publisher makes of the encoding, at 20 to 30 a second, from the request to a decoded picture of it. Not a time: encoders and
/// the decoder share the machine with other tests.
const SWITCH_FRAMES_MAX: u64 = 30;

fn encodings() -> Value {
    json!([
        {"rid": "q", "scaleResolutionDownBy": 4, "maxBitrate": 150_000},
        {"rid": "h", "scaleResolutionDownBy": 2, "maxBitrate": 500_000},
        {"rid": "f", "maxBitrate": 1_500_000},
    ])
}

fn publish(browser: &mut Browser, node: &Node, name: &str, codec: &str) {
    let video = json!({"width": {"exact": 1280}, "height": {"exact": 720}});
    let options = json!({"codec": codec, "source": "camera", "video": video, "encodings": encodings()});
    let published = browser.publish("publisher", &node.whip_url(name), options);
    let answer = published["answer"].as_str().expect("an answer");
    assert!(answer.contains("a=simulcast:recv q;h;f"), "{answer}");
}

/// Frames that each encoder has made, by RID.
fn encoded(browser: &mut Browser) -> BTreeMap<String, u64> {
    let encoders = browser.run("publisher", "encoders", json!({"id": "main"}));
    let of = |it: &Value| Some((it["rid"].as_str()?.to_string(), it["framesEncoded"].as_u64()?));
    encoders.as_array().expect("a list").iter().filter_map(of).collect()
}

/// Waits for a picture of that height, after asking for something.
#[track_caller]
fn height(browser: &mut Browser, page: &str, wish: Value, height: u32, limit: Duration) -> Value {
    let (end, mut wish) = (Instant::now() + limit, wish);
    loop {
        let ms = ASKED.as_millis() as u64;
        let arguments = json!({"id": "main", "wish": wish.take(), "height": height, "ms": ms});
        let result = browser.run(page, "untilHeight", arguments);
        if result["enough"] == true {
            return result;
        }
        assert!(Instant::now() < end, "no picture of height {height} in {limit:?}: {result:#}");
    }
}

fn through(codec: &str) {
    let mut node = Node::start();
    let name = unique("layers");
    let mut browser = Browser::start();
    publish(&mut browser, &node, &name, codec);
    let played = browser.play("viewer", &node.whep_url(&name), json!({}));
    assert!(played["link"].as_str().is_some_and(|it| it.contains("ext:core:layer")), "{played:#}");
    let best = height(&mut browser, "viewer", Value::Null, 720, ARRIVES);
    println!("{codec}: the best after {} ms", best["took"]);
    until("all three are measured", ARRIVES, || {
        let layers = browser.run("viewer", "layer", json!({"id": "main"}));
        let heights: Vec<_> = layers["encodings"].as_array()?.iter().map(|it| it["height"].clone()).collect();
        (heights == [180, 360, 720].map(|it| json!(it))).then_some(())
    });
    for (wish, wanted, rid) in [
        (json!({"mediaId": "0", "encodingId": "q"}), 180, "q"),
        (json!({"encodingId": "f"}), 720, "f"),
        (json!({"maxHeight": 400}), 360, "h"),
        (json!({}), 720, "f"),
    ] {
        let before = encoded(&mut browser)[rid];
        let result = height(&mut browser, "viewer", wish.clone(), wanted, ARRIVES);
        let took = result["took"].as_f64().expect("a number");
        let frames = encoded(&mut browser)[rid] - before;
        println!("{codec}: {wish} -> {wanted} after {took:.0} ms, {frames} frames");
        assert_eq!(result["asked"], 200, "{result:#}");
        let steps = &result["steps"];
        assert!(frames < SWITCH_FRAMES_MAX, "{wish}: {frames} frames, {took} ms: {steps:#}");
        let shown = &result["layer"];
        assert_eq!(shown["height"], wanted, "{shown:#}");
    }
    // No jump back, and no freeze worth the name.
    let line = browser.run("viewer", "timeline", json!({"id": "main"}));
    println!("{codec}: {line}");
    assert!(line["back"] == 0 && line["jump"].as_f64().is_some_and(|it| it < 500.0), "{line}");
    node.assert_well();
}

#[test]
fn vp8_layers_are_chosen_by_request() {
    need!(Browser);
    let _lane = alone();
    through("VP8");
}

#[test]
fn h264_layers_are_chosen_by_request() {
    need!(Browser);
    let _lane = alone();
    through("H264");
}

fn goto(browser: &mut Browser, page: &str, url: &str) {
    let answer = browser.operation(json!({"op": "goto", "page": page, "url": url})).expect("the page loads");
    assert_eq!(answer["status"], 200, "{url}");
}

fn eval(browser: &mut Browser, page: &str, script: &str) -> Value {
    browser.operation(json!({"op": "eval", "page": page, "script": script})).expect("the page has it")
}

/// The node's own pages: one publishes in three sizes, the other shows which comes and lets one choose.
fn by_the_pages(browser: &mut Browser, node: &Node, codec: &str) {
    let name = unique("layers");
    let url = node.url(&format!("/publish/live/{name}?auto=1&codec={codec}&simulcast=1"));
    goto(browser, "publisher", &url);
    node.wait_live(&name);
    goto(browser, "viewer", &node.url(&format!("/play/live/{name}?via=webrtc")));
    let decoded = |browser: &mut Browser, script: &str| eval(browser, "viewer", script).as_u64().unwrap_or(0);
    let height = "window.millrace.stats().then(it => it.video?.height ?? 0)";
    let options = "[...document.getElementById('height').options].map(it => Number(it.value))";
    let offered = until("three heights are offered", ARRIVES, || {
        let offered: Vec<u64> =
            eval(browser, "viewer", options).as_array()?.iter().filter_map(Value::as_u64).collect();
        (offered.len() == 4).then_some(offered)
    });
    let (best, least) = (offered[1], offered[3]);
    until("the best is shown", ARRIVES, || (decoded(browser, height) == best).then_some(()));
    let choose = |value: &str| {
        format!(
            "const it = document.getElementById('height'); it.value = '{value}'; it.dispatchEvent(new Event('change'))"
        )
    };
    for (value, wanted) in [(least.to_string(), least), (String::new(), best)] {
        let start = Instant::now();
        eval(browser, "viewer", &format!("{{{}}}", choose(&value)));
        until("the chosen height is shown", ARRIVES, || (decoded(browser, height) == wanted).then_some(()));
        println!("{codec} by the pages: {wanted} after {:?}", start.elapsed());
    }
    until("the page says which it is", ARRIVES, || {
        let said = eval(browser, "viewer", "document.querySelector('[data-figure=layer]').textContent");
        said.as_str()?.contains(&format!("{best}p")).then_some(())
    });
}

/// The encodings of the page's publisher: which come, and which were paused, by the node; with the bytes that it has received.
fn sent(node: &Node) -> Option<(Vec<(bool, bool)>, u64)> {
    let clients = node.api("/api/v1/clients/");
    let publisher = clients["clients"].as_array()?.iter().find(|it| it["publish"] == true)?;
    let encodings = publisher["rtc"]["layer"]["encodings"].as_array()?;
    let of = |it: &Value| (it["active"] == true, it["paused"] == true);
    Some((encodings.iter().map(of).collect(), publisher["recv_bytes"].as_u64()?))
}

/// One viewer of the least: the page is told to send no more than that. It asks for the best, and has it.
#[test]
fn the_page_pauses_what_nobody_watches() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let mut browser = Browser::start();
    let name = unique("wanted");
    goto(
        &mut browser,
        "publisher",
        &node.url(&format!("/publish/live/{name}?auto=1&codec=vp8&simulcast=1&mic=0")),
    );
    node.wait_live(&name);
    goto(&mut browser, "viewer", &node.url(&format!("/play/live/{name}?via=webrtc")));
    let height = "window.millrace.stats().then(it => it.video?.height ?? 0)";
    let shows = |browser: &mut Browser, wanted: u64| {
        until("the height is shown", ARRIVES, || {
            (eval(browser, "viewer", height).as_u64() == Some(wanted)).then_some(())
        });
    };
    let choose = |browser: &mut Browser, value: &str| {
        let script = "{const it = document.getElementById('height'); it.value = 'VALUE'; it.dispatchEvent(new Event('change'))}";
        eval(browser, "viewer", &script.replace("VALUE", value));
    };
    until("all three come", ARRIVES, || (sent(&node)?.0 == [(true, false); 3]).then_some(()));
    shows(&mut browser, 720);
    let rate = |node: &Node| {
        let (start, before) = (Instant::now(), sent(node).expect("a publisher").1);
        std::thread::sleep(Duration::from_secs(3));
        (sent(node).expect("a publisher").1 - before) as f64 * 8.0 / start.elapsed().as_secs_f64()
    };
    let all_bps = rate(&node);

    choose(&mut browser, "180");
    shows(&mut browser, 180);
    let start = Instant::now();
    until("the others do not come", ARRIVES, || {
        (sent(&node)?.0 == [(true, false), (false, true), (false, true)]).then_some(())
    });
    println!("paused {:?} after the least was shown", start.elapsed());
    let least_bps = rate(&node);
    println!("{all_bps:.0} bit/s of three encodings, {least_bps:.0} of one");
    assert!(least_bps < all_bps / 3.0, "{least_bps} of {all_bps}");
    assert_eq!(eval(&mut browser, "viewer", height), 180);

    for round in 0..2 {
        let start = Instant::now();
        choose(&mut browser, "");
        shows(&mut browser, 720);
        let took = start.elapsed();
        println!("the best {took:?} after it was asked for");
        assert!(took < Duration::from_secs(5), "round {round}: {took:?}");
        choose(&mut browser, "180");
        shows(&mut browser, 180);
        until("they stop again", ARRIVES, || (sent(&node)?.0[2] == (false, true)).then_some(()));
    }
    assert!(node.metric("millrace_encoding_pauses_total") >= 4.0);
    node.assert_well();
}

/// Frames are made of the best encoding, in one time line.
#[test]
fn rtmp_and_flv_viewers_get_the_best() {
    need!(Browser, Ffmpeg);
    let _lane = alone();
    let mut node = Node::start();
    let name = unique("layers");
    let mut browser = Browser::start();
    publish(&mut browser, &node, &name, "H264");
    browser.play("viewer", &node.whep_url(&name), json!({}));
    height(&mut browser, "viewer", Value::Null, 720, ARRIVES);
    for url in [node.flv_url(&name), node.rtmp_url(&name)] {
        let probe = ffmpeg::probe(&url, 4);
        let video = ffmpeg::stream(&probe, "video").unwrap_or_else(|| panic!("{url}: no picture: {probe:#}"));
        assert_eq!(video["height"], 720, "{url}: {video:#}");
        let times = ffmpeg::decode_times(&probe, "video");
        assert!(times.len() > 20 && times.is_sorted(), "{url}: {times:?}");
    }
    node.assert_well();
}

#[test]
fn the_pages_publish_and_choose_layers() {
    need!(Browser);
    let _lane = alone();
    let mut node = Node::start();
    let mut browser = Browser::start();
    by_the_pages(&mut browser, &node, "h264");
    node.assert_well();
}

#[test]
fn firefox_publishes_and_chooses_layers() {
    need!(Firefox);
    let _lane = alone();
    let network = Namespace::create().expect("`need!` has made one");
    let mut node = Node::start_on(network.outside, &[]);
    let mut browser = Browser::start_firefox(&network);
    by_the_pages(&mut browser, &node, "vp8");
    node.assert_well();
}
