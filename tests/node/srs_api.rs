//! The surface that tools written for SRS use.
use serde_json::{Value, json};
use std::time::Duration;
use support::rtmp::{Client, Publisher};
use support::sdp::{Way, offer, values};
use support::{Node, http, unique, until};

fn clients(node: &Node, name: &str) -> Vec<Value> {
    let all = node.api("/api/v1/clients/");
    assert_eq!(all["code"], 0);
    let all = all["clients"].as_array().expect("`clients` is a list").clone();
    all.into_iter()
        .filter(|it| it["name"] == name || it["url"].as_str().is_some_and(|url| url.ends_with(name)))
        .collect()
}

fn delete(node: &Node, client: &Value) -> http::Response {
    let id = client["id"].as_str().map_or_else(|| client["id"].to_string(), String::from);
    http::request("DELETE", &node.url(&format!("/api/v1/clients/{id}")), &[], b"").expect("an answer")
}

#[test]
fn versions_say_a_version() {
    let node = Node::start();
    for path in ["/api/v1/versions", "/api/v1/versions/"] {
        let answer = node.api(path);
        assert_eq!(answer["code"], 0, "{answer}");
        assert!(answer["server"].is_string(), "{answer}");
        let version = answer["data"]["version"].as_str().expect("data.version");
        let numbers: Vec<u64> = version.split(['.', '-']).take(3).filter_map(|it| it.parse().ok()).collect();
        let own = ["major", "minor", "revision"].map(|key| answer["data"][key].as_u64().expect(key));
        assert_eq!(numbers, own, "{answer}");
    }
}

#[test]
fn streams_are_listed_with_their_tracks() {
    let node = Node::start();
    let name = unique("listed");
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    std::thread::sleep(Duration::from_secs(2));
    for path in ["/api/v1/streams", "/api/v1/streams/"] {
        let all = node.api(path);
        assert_eq!(all["code"], 0);
        let stream = all["streams"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|it| it["name"] == *name)
            .expect("ours")
            .clone();
        assert_eq!(stream["app"], "live");
        assert_eq!(stream["publish"]["active"], true);
        assert_eq!(
            (&stream["video"]["codec"], &stream["audio"]["codec"]),
            (&json!("H264"), &json!("AAC")),
            "{stream:#}"
        );
        assert_eq!((&stream["video"]["width"], &stream["video"]["height"]), (&json!(1280), &json!(720)));
        assert_eq!(stream["audio"]["sample_rate"], 48000);
        assert_eq!(stream["audio"]["channel"], 2);
        assert!(stream["recv_bytes"].as_u64().is_some_and(|it| it > 50_000), "{stream:#}");
        assert!(stream["clients"].as_u64().is_some_and(|it| it >= 1), "{stream:#}");
    }
}

#[test]
fn clients_are_listed_and_can_be_ended() {
    let mut node = Node::start();
    let name = unique("kicked");
    let publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("a viewer plays");

    let all = until("publisher and viewer are listed", Duration::from_secs(3), || {
        Some(clients(&node, &name)).filter(|it| it.len() == 2)
    });
    let (publishing, playing): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|it| it["publish"] == true);
    assert_eq!((publishing.len(), playing.len()), (1, 1), "{all:#?}");
    assert_eq!(publishing[0]["ip"], "127.0.0.1");

    let answer = delete(&node, playing[0]);
    assert_eq!((answer.status, &answer.json()["code"]), (200, &json!(0)), "{}", answer.text());
    assert!(viewer.ended(Duration::from_secs(3)).is_some(), "the viewer was to be ended");
    assert!(!publisher.is_lost(), "the publisher was not");

    delete(&node, publishing[0]);
    until("the publisher is ended", Duration::from_secs(3), || publisher.is_lost().then_some(()));
    until("nobody is listed", Duration::from_secs(3), || clients(&node, &name).is_empty().then_some(()));

    let unknown =
        http::request("DELETE", &node.url("/api/v1/clients/does-not-exist"), &[], b"").expect("an answer");
    assert!(unknown.status == 404 || unknown.json()["code"] != 0, "{}: {}", unknown.status, unknown.text());
    node.assert_well();
}

#[test]
fn publish_and_play_by_json() {
    let mut node = Node::start();
    let name = unique("json");
    for (path, way, direction) in
        [("/rtc/v1/publish/", Way::Send, "a=recvonly"), ("/rtc/v1/play/", Way::Receive, "a=sendonly")]
    {
        let url = node.url(path);
        let body = json!({"api": url, "tid": "2b45a06", "streamurl": format!("webrtc://127.0.0.1/live/{name}"),
            "clientip": null, "sdp": offer(way)});
        let headers = [("Content-Type", "application/json")];
        let response = http::request("POST", &url, &headers, body.to_string().as_bytes()).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        let answer = response.json();
        assert_eq!(answer["code"], 0, "{path}: {answer}");
        for key in ["server", "service", "pid", "sdp", "sessionid"] {
            assert!(answer[key].is_string(), "{path}: no {key} in {answer}");
        }
        let sdp = answer["sdp"].as_str().expect("it is text");
        assert_eq!(values(sdp, direction).len(), 2, "{path}: {sdp}");
        assert!(!values(sdp, "a=candidate:").is_empty() && sdp.contains("a=ice-lite"), "{path}: {sdp}");
    }
    // SRS answers 200 with a code of its own, or an HTTP status: not 0 either way
    let url = node.url("/rtc/v1/play/");
    for body in [
        "",
        "{}",
        "{\"sdp\":1}",
        "[1,2",
        "{\"streamurl\":\"webrtc://127.0.0.1/live/x\",\"sdp\":\"nonsense\"}",
    ] {
        let headers = [("Content-Type", "application/json")];
        let response = http::request("POST", &url, &headers, body.as_bytes()).expect("an answer");
        let good = response.status == 200 && response.json()["code"] == 0;
        assert!(!good, "{body}: {}", response.text());
        assert!(response.status < 500, "{body}: {}", response.status);
    }
    node.assert_well();
}

#[test]
fn whip_and_whep_by_srs_paths() {
    let node = Node::start();
    let name = unique("srs-paths");
    for (path, way) in [("whip", Way::Send), ("whep", Way::Receive)] {
        let url = node.url(&format!("/rtc/v1/{path}/?app=live&stream={name}"));
        let response =
            http::request("POST", &url, &[("Content-Type", "application/sdp")], offer(way).as_bytes());
        let response = response.expect("an answer");
        assert_eq!(response.status, 201, "{url}: {}", response.text());
        assert!(response.header("Location").is_some());
    }
}

/// Who may look and who may end clients: `auth.api` manages, any token looks, none does neither.
#[test]
fn the_api_asks_for_tokens() {
    let tokens = [
        ("auth.publish", "[\"let-me-publish\"]"),
        ("auth.play", "[\"let-me-play\"]"),
        ("auth.api", "[\"let-me-manage\", \"me-too\"]"),
    ];
    let mut node = Node::start_with(&tokens);
    let name = unique("managed");
    let publisher = Publisher::start(node.rtmp, &format!("{name}?token=let-me-publish"));
    let ask = |method: &str, path: &str, token: Option<&str>| {
        let bearer = token.map(|it| format!("Bearer {it}"));
        let headers: Vec<_> = bearer.iter().map(|it| ("Authorization", it.as_str())).collect();
        let by_header = http::request(method, &node.url(path), &headers, b"").expect("an answer");
        if let (Some(token), "GET") = (token, method) {
            // players and old tools have only a URL
            let url = node.url(&format!("{path}?token={token}"));
            assert_eq!(http::get(&url).status, by_header.status, "{path} with {token} in the query");
        }
        by_header
    };
    for (token, look, manage) in [
        (None, 401, 401),
        (Some("wrong"), 401, 401),
        (Some("let-me-managE"), 401, 401),
        (Some("let-me-publish"), 200, 401),
        (Some("let-me-play"), 200, 401),
        (Some("let-me-manage"), 200, 200),
        (Some("me-too"), 200, 200),
    ] {
        assert_eq!(ask("GET", "/api/v1/streams/", token).status, look, "streams with {token:?}");
        let clients = ask("GET", "/api/v1/clients/", token);
        assert_eq!(clients.status, manage, "clients with {token:?}");
        // a refusal tells nothing of what there is
        assert_eq!(clients.text().contains(&name), manage == 200, "{token:?}: {}", clients.text());
    }
    let own = |all: &Value| {
        let all = all["clients"].as_array().expect("a list");
        let found = all.iter().find(|it| it["name"] == name.as_str() && it["publish"] == true);
        found.map(|it| it["id"].as_str().map_or_else(|| it["id"].to_string(), String::from))
    };
    let id = until("the publisher is listed", Duration::from_secs(5), || {
        own(&ask("GET", "/api/v1/clients/", Some("let-me-manage")).json())
    });
    let path = format!("/api/v1/clients/{id}");
    for token in [None, Some("wrong"), Some("let-me-publish"), Some("let-me-play")] {
        assert_eq!(ask("DELETE", &path, token).status, 401, "DELETE with {token:?}");
    }
    assert!(!publisher.is_lost(), "a refused DELETE ended the publisher");
    assert_eq!(ask("DELETE", &path, Some("me-too")).status, 200);
    until("the publisher is ended", Duration::from_secs(5), || publisher.is_lost().then_some(()));
    node.assert_well();
}
