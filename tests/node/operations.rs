//! Start, health, metrics, drain, settings.
use std::process::Command;
use std::time::{Duration, Instant};
use support::rtmp::{Client, Publisher};
use support::sdp::{Way, offer};
use support::{Node, http, node, scratch, unique};

#[test]
fn health_and_readiness_answer() {
    let node = Node::start();
    for path in ["/livez", "/readyz", "/metrics"] {
        let response = http::get(&format!("http://{}{path}", node.ops));
        assert_eq!(response.status, 200, "{path}");
    }
    let metrics = http::get(&format!("http://{}/metrics", node.ops));
    assert!(
        metrics.header("Content-Type").is_some_and(|it| it.starts_with("text/plain")),
        "{:?}",
        metrics.headers
    );
    // the public port does not tell strangers how busy the node is
    assert_eq!(http::get(&node.url("/metrics")).status, 404);
}

#[test]
fn the_pages_are_there() {
    let node = Node::start();
    for path in ["/", "/play/live/any", "/publish/live/any"] {
        let response = http::get(&node.url(path));
        assert_eq!(response.status, 200, "{path}");
        assert!(response.header("Content-Type").is_some_and(|it| it.starts_with("text/html")), "{path}");
    }
    assert_eq!(http::get(&node.url("/no/such/page/at/all")).status, 404);
}

#[test]
fn metrics_have_as_many_series_for_five_streams_as_for_one() {
    let node = Node::start();
    let name = unique("labelled");
    let first = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    http::get_for(&node.flv_url(&name), Duration::from_secs(1)).expect("FLV plays");
    let before = node.metrics();
    let more: Vec<(String, Publisher)> = (0..4)
        .map(|_| {
            let name = unique("labelled");
            let publisher = Publisher::start(node.rtmp, &name);
            node.wait_live(&name);
            (name, publisher)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let after = node.metrics();
    let new: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert!(new.is_empty(), "series that four more streams made: {new:?}");
    for (name, _) in &more {
        assert!(!after.keys().any(|key| key.contains(name.as_str())), "a label names the stream {name}");
    }
    assert!(
        node.metric("millrace_streams") >= 5.0,
        "millrace_streams counts {}",
        node.metric("millrace_streams")
    );
    drop(first);
}

#[test]
fn sigterm_drains_within_the_deadline_and_ends_well() {
    let mut node = Node::start_with(&[("node.drain_deadline", "\"2s\"")]);
    let name = unique("drained");
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("an RTMP viewer connects");
    viewer.play(&name).expect("an RTMP viewer plays");

    let start = Instant::now();
    node.process.signal("TERM");
    let mut refused = false;
    while node.process.ended().is_none() && start.elapsed() < Duration::from_secs(6) {
        // while it drains it is alive but not ready: a load balancer sends nobody new
        if let Ok(ready) = http::request("GET", &format!("http://{}/readyz", node.ops), &[], b"") {
            refused |= ready.status == 503;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = node.process.wait(Duration::from_secs(1));
    assert!(status.is_some_and(|it| it.success()), "{status:?} after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "2 s were set, it took {:?}", start.elapsed());
    assert!(refused, "/readyz never said 503 while the node drained");
    assert!(viewer.ended(Duration::from_secs(1)).is_some(), "the viewer's connection outlived the node");
}

/// A connection from before the drain may not start something new either; what runs goes on to the deadline.
#[test]
fn while_it_drains_nobody_new_is_taken_and_nobody_is_thrown_out() {
    let mut node = Node::start_with(&[("node.drain_deadline", "\"6s\"")]);
    let name = unique("draining");
    let publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("an RTMP viewer connects");
    viewer.play(&name).expect("an RTMP viewer plays");
    // connected before, and yet to say what they want
    let connect = || Client::connect(node.rtmp, "live").expect("a client connects");
    let (mut late_publisher, mut late_viewer) = (connect(), connect());
    let mut kept = http::KeptAlive::connect(&node.url("/")).expect("HTTP connects");
    assert_eq!(kept.request("GET", "/api/v1/versions", "", "").expect("an answer"), 200);

    node.process.signal("TERM");
    support::until("the node drains", Duration::from_secs(3), || {
        let ready = http::request("GET", &format!("http://{}/readyz", node.ops), &[], b"").ok()?;
        (ready.status == 503).then_some(())
    });
    let started = Instant::now();
    for refusal in [late_publisher.publish(&unique("new")), late_viewer.play(&name)] {
        let refusal = refusal.expect_err("taken while the node drains");
        assert!(refusal.contains("stopping"), "the reason is told: {refusal}");
    }
    assert!(
        Client::connect(node.rtmp, "live").is_err(),
        "an RTMP connection was taken while the node drains"
    );
    assert!(http::request("GET", &node.url("/"), &[], b"").is_err(), "an HTTP connection was taken");
    for (path, way) in [("whip", Way::Send), ("whep", Way::Receive)] {
        // a connection that the node has closed meanwhile is as good a no
        let status = kept.request("POST", &format!("/{path}/live/new"), "application/sdp", &offer(way));
        assert!(status.as_ref().map_or(true, |it| *it == 503), "{path}: {status:?}");
    }
    let seen = viewer.collect(Duration::from_secs(1)).len();
    assert!(started.elapsed() < Duration::from_secs(5), "the deadline was not near");
    assert!(seen > 40 && !publisher.is_lost(), "who was there was thrown out before the deadline: {seen}");
    let status = node.process.wait(Duration::from_secs(8));
    assert!(status.is_some_and(|it| it.success()), "{status:?}");
}

#[test]
fn an_idle_node_ends_at_once() {
    let mut node = Node::start();
    let start = Instant::now();
    assert!(node.terminate(Duration::from_secs(5)).is_some_and(|it| it.success()));
    assert!(start.elapsed() < Duration::from_secs(3), "nobody was there, it took {:?}", start.elapsed());
}

fn check(settings: &str) -> (bool, String) {
    let file = scratch().join(format!("{}.toml", unique("check")));
    std::fs::write(&file, settings).expect("a settings file can be written");
    let output =
        Command::new(node::binary()).arg("check").arg("--config").arg(&file).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn check_accepts_good_settings() {
    let (good, text) = check("[rtmp]\nlisten = \"127.0.0.1:1935\"\n[stream]\npublisher_grace = \"5s\"\n");
    assert!(good, "{text}");
    let (good, text) = check("");
    assert!(good, "no settings are good settings: {text}");
}

#[test]
fn check_refuses_an_unknown_key_with_its_line() {
    let (good, text) = check("[rtmp]\nlisten = \"127.0.0.1:1935\"\n\n[stream]\npublisher_grase = \"5s\"\n");
    assert!(!good, "{text}");
    assert!(
        text.contains("publisher_grase") && text.contains(":5"),
        "the key and its line are named: {text}"
    );
}

#[test]
fn check_refuses_a_value_of_the_wrong_kind_with_its_line() {
    let (good, text) = check("[rtmp]\nlisten = 1935\n");
    assert!(!good && text.contains(":2"), "{text}");
}

#[test]
fn a_public_address_without_authentication_is_refused_and_the_way_out_is_named() {
    let settings = "[http]\nlisten = \"0.0.0.0:0\"\n";
    let (good, text) = check(settings);
    assert!(!good && text.contains("allow_open"), "{text}");
    let (good, text) = check(&format!("[node]\nallow_open = true\n{settings}"));
    assert!(good, "{text}");
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_too() {
    let file = scratch().join(format!("{}.toml", unique("check")));
    std::fs::write(&file, "[node]\nname = \"from-the-file\"\n").expect("a settings file can be written");
    let run = |variable: &str, value: &str| {
        let mut command = Command::new(node::binary());
        let output =
            command.arg("check").arg("--config").arg(&file).env(variable, value).output().expect("it runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (good, text) = run("MILLRACE_NODE__NAME", "from-outside");
    assert!(good && text.contains("from-outside"), "{text}");
    let (good, text) = run("MILLRACE_NODE__NAMES", "x");
    assert!(!good && text.contains("MILLRACE_NODE__NAMES"), "{text}");
}

#[test]
fn a_taken_port_is_named_and_the_node_ends() {
    let node = Node::start();
    let file = scratch().join(format!("{}.toml", unique("taken")));
    std::fs::write(&file, format!("[rtmp]\nlisten = \"{}\"\n", node.rtmp))
        .expect("a settings file can be written");
    let mut command = Command::new(node::binary());
    command.arg("serve").arg("--config").arg(file);
    let free = |it: std::net::SocketAddr| it.to_string();
    command
        .env("MILLRACE_HTTP__LISTEN", free(node::free_tcp()))
        .env("MILLRACE_OPS__LISTEN", free(node::free_tcp()));
    command.env("MILLRACE_WEBRTC__BASE_PORT", "0");
    let mut second = support::process::Process::start(&unique("second"), &mut command);
    let status = second.wait(Duration::from_secs(10));
    assert!(status.is_some_and(|it| !it.success()), "{status:?}");
    assert!(second.output().contains(&node.rtmp.to_string()), "{}", second.output());
}

/// The clip goes round without a seam: times rise, and no hole is heard or seen where it begins again.
#[test]
fn demo_plays_a_clip_to_itself_over_and_over() {
    let [rtmp, http_port, ops] = [(); 3].map(|()| node::free_tcp());
    let mut command = Command::new(node::binary());
    command.arg("demo");
    for (name, value) in [("RTMP__LISTEN", rtmp), ("HTTP__LISTEN", http_port), ("OPS__LISTEN", ops)] {
        command.env(format!("MILLRACE_{name}"), value.to_string());
    }
    command.env("MILLRACE_WEBRTC__BASE_PORT", "0");
    let mut demo = support::process::Process::start(&unique("demo"), &mut command);
    let page = format!("http://{http_port}/play/live/demo");
    support::until("the page to open is printed", Duration::from_secs(10), || {
        demo.output().contains(&page).then_some(())
    });
    assert_eq!(http::get(&page).status, 200);
    let url = format!("http://{http_port}/live/demo.flv");
    let flv = support::until("the demo plays", Duration::from_secs(30), || {
        let response = http::get_for(&url, Duration::from_secs(13)).ok()?;
        support::flv::parse(&response.body).ok().filter(|it| it.tags.len() > 100)
    });
    assert_eq!(support::flv::backwards(&flv.tags), [""; 0]);
    for kind in [support::flv::AUDIO, support::flv::VIDEO] {
        let times: Vec<u32> =
            flv.tags.iter().filter(|it| it.kind == kind && !it.is_header()).map(|it| it.time).collect();
        let hole = times.windows(2).map(|it| it[1] - it[0]).max().expect("frames");
        assert!(hole < 60, "type {kind}: a hole of {hole} ms");
        assert!(times[times.len() - 1] - times[0] > 11_000, "type {kind}: {} frames in 13 s", times.len());
    }
    assert!(demo.stop(Duration::from_secs(13)).is_some_and(|it| it.success()), "{}", demo.output());
}
