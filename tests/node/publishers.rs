//! Who may publish what, and what a publisher's coming back means to viewers.
use std::time::Duration;
use support::flv::{AUDIO, VIDEO};
use support::rtmp::{Client, Publisher};
use support::{Node, flv, http, unique, until};

#[test]
fn a_second_publisher_of_a_live_name_is_refused_and_the_first_goes_on() {
    let mut node = Node::start();
    let name = unique("taken");
    let first = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut second = Client::connect(node.rtmp, "live").expect("connect is not publish");
    let refusal = second.publish(&name).expect_err("the name is taken");
    assert!(refusal.contains("NetStream.Publish.BadName"), "{refusal}");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!first.is_lost(), "the first publisher was thrown out");
    node.assert_well();
}

#[test]
fn a_name_is_free_again_when_its_publisher_has_left() {
    let node = Node::start();
    let name = unique("again");
    for _ in 0..3 {
        let publisher = Publisher::start(node.rtmp, &name);
        node.wait_live(&name);
        drop(publisher);
        until("the publisher is gone", Duration::from_secs(5), || {
            node.stream(&name).is_none_or(|it| it["publish"]["active"] == false).then_some(())
        });
    }
}

#[test]
fn wrong_names_are_refused() {
    let mut node = Node::start();
    for name in ["", "a/b/c", "../../etc/passwd", "sp ace", "new\nline", "\u{0}", &"x".repeat(1000)] {
        let mut client = Client::connect(node.rtmp, "live").expect("connect is not publish");
        let refusal = client.publish(name).expect_err(&format!("{name:?} is no name"));
        assert!(!refusal.contains("no answer"), "{name:?}: {refusal}");
    }
    for path in ["/whip/live/sp%20ace", "/whip/live/..%2F..%2Fpasswd", "/whip/live/a%00b"] {
        let offer = support::sdp::offer(support::sdp::Way::Send);
        let sdp = [("Content-Type", "application/sdp")];
        let response = http::request("POST", &node.url(path), &sdp, offer.as_bytes()).expect("an answer");
        assert!((400..500).contains(&response.status), "{path}: {}", response.status);
    }
    node.assert_well();
}

/// Times go on, within a second of what really passed, for a viewer that stays while its publisher comes back.
#[test]
fn a_publisher_that_comes_back_keeps_its_rtmp_viewer() {
    let mut node = Node::start();
    let name = unique("back");
    let first = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("a viewer plays");
    let mut seen = viewer.collect(Duration::from_secs(3));
    drop(first);
    seen.extend(viewer.collect(Duration::from_secs(2)));
    let _second = Publisher::start(node.rtmp, &name);
    seen.extend(viewer.collect(Duration::from_secs(4)));

    for kind in [AUDIO, VIDEO] {
        let track: Vec<_> = seen.iter().filter(|it| it.tag.kind == kind && !it.tag.is_header()).collect();
        let gap = track.windows(2).map(|it| it[1].at - it[0].at).max().expect("frames");
        assert!(
            gap > Duration::from_millis(1500),
            "type {kind}: the publisher was away, the gap was {gap:?}"
        );
        let after = track.windows(2).position(|it| it[1].at - it[0].at == gap).expect("the gap is there") + 1;
        assert!(
            track.len() > after + 30,
            "type {kind}: {} frames after the publisher came back",
            track.len() - after
        );
        for pair in track.windows(2) {
            let [media, real] = [
                i64::from(pair[1].tag.time) - i64::from(pair[0].tag.time),
                (pair[1].at - pair[0].at).as_millis() as i64,
            ];
            assert!(media >= 0, "type {kind}: output time went back by {} ms", -media);
            assert!(media - real < 1000, "type {kind}: output time jumped {media} ms in {real} ms");
        }
        // and over the whole: neither the gap nor the new publisher's own clock is lost or counted twice
        let (first, last) = (track[0], track[track.len() - 1]);
        let media = i64::from(last.tag.time) - i64::from(first.tag.time);
        let real = (last.at - first.at).as_millis() as i64;
        // the first second came at once, from the GOP cache
        assert!((media - real).abs() < 2200, "type {kind}: {media} ms of output in {real} ms");
    }
    let picture = seen.iter().position(|it| it.tag.is_key_frame()).expect("a key frame");
    assert!(
        seen[..picture].iter().any(|it| it.tag.kind == VIDEO && it.tag.is_header()),
        "settings come first"
    );
    node.assert_well();
}

#[test]
fn viewers_are_let_go_when_the_publisher_stays_away() {
    let node = Node::start_with(&[("stream.publisher_grace", "\"1s\"")]);
    let name = unique("away");
    let publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("a viewer plays");
    drop(publisher);
    let ended = viewer.ended(Duration::from_secs(6));
    assert!(ended.is_some_and(|it| it > Duration::from_millis(500)), "after 1 s of grace, not {ended:?}");
}

#[test]
fn tokens_are_asked_for() {
    let node =
        Node::start_with(&[("auth.publish", "[\"let-me-publish\"]"), ("auth.play", "[\"let-me-play\"]")]);
    let name = unique("guarded");
    for query in ["", "?token=wrong", "?token=let-me-play"] {
        let mut client = Client::connect(node.rtmp, "live").expect("connect is not publish");
        assert!(client.publish(&format!("{name}{query}")).is_err(), "published with {query:?}");
    }
    let _publisher = Publisher::start(node.rtmp, &format!("{name}?token=let-me-publish"));
    until("FLV plays with the token", Duration::from_secs(5), || {
        let url = format!("{}?token=let-me-play", node.flv_url(&name));
        let response = http::get_for(&url, Duration::from_secs(1)).ok()?;
        (response.status == 200 && flv::parse(&response.body).is_ok_and(|it| it.tags.len() > 10))
            .then_some(())
    });
    let refused = http::get_for(&node.flv_url(&name), Duration::from_secs(1)).expect("an answer");
    assert!(matches!(refused.status, 401 | 403), "{}", refused.status);
    let mut viewer = Client::connect(node.rtmp, "live").expect("connect is not play");
    assert!(viewer.play(&name).is_err(), "played without a token");
    for (way, url) in
        [(support::sdp::Way::Send, node.whip_url(&name)), (support::sdp::Way::Receive, node.whep_url(&name))]
    {
        let sdp = [("Content-Type", "application/sdp"), ("Authorization", "Bearer wrong")];
        let response =
            http::request("POST", &url, &sdp, support::sdp::offer(way).as_bytes()).expect("an answer");
        assert!(matches!(response.status, 401 | 403), "{url}: {}", response.status);
    }
}
