//! WHIP (RFC 9725) and WHEP as HTTP: statuses and headers.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::http::{self, Response};
use support::peer::Peer;
use support::sdp::{Way, offer, values};
use support::{Node, unique, until};

const SDP: (&str, &str) = ("Content-Type", "application/sdp");
const FRAGMENT: (&str, &str) = ("Content-Type", "application/trickle-ice-sdpfrag");

fn post(url: &str, offer: &str) -> Response {
    http::request("POST", url, &[SDP], offer.as_bytes()).expect("an answer")
}

fn session_url(node: &Node, response: &Response) -> String {
    let location = response.header("Location").expect("RFC 9725 section 4.2: a Location");
    if location.starts_with("http://") { location } else { node.url(&location) }
}

fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Response {
    http::request(method, url, headers, body.as_bytes()).expect("an answer")
}

#[test]
fn post_answers_201_with_all_that_the_client_needs() {
    let node = Node::start();
    let name = unique("posted");
    for (way, url, direction) in
        [(Way::Send, node.whip_url(&name), "a=recvonly"), (Way::Receive, node.whep_url(&name), "a=sendonly")]
    {
        let response = post(&url, &offer(way));
        assert_eq!(response.status, 201, "{url}: {}", response.text());
        assert_eq!(response.header("Content-Type").as_deref(), Some("application/sdp"));
        // RFC 9725 section 4.3.1.1: an entity tag that identifies the ICE session, quoted and strong
        let etag = response.header("ETag").expect("an ETag");
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "{etag}");
        let session = session_url(&node, &response);
        assert!(session.rsplit('/').next().is_some_and(|it| it.len() >= 16), "nobody guesses {session}");

        let sdp = response.text();
        assert_eq!(values(&sdp, direction).len(), 2, "{sdp}");
        assert_eq!(values(&sdp, "a=group:BUNDLE"), [" 0 1"], "{sdp}");
        assert!(sdp.contains("a=ice-lite"), "{sdp}");
        assert!(values(&sdp, "a=setup:").iter().all(|it| *it == "passive"), "{sdp}");
        assert_eq!(values(&sdp, "a=rtcp-mux").len(), 2, "{sdp}");
        assert!(values(&sdp, "a=fingerprint:").iter().any(|it| it.starts_with("sha-256 ")), "{sdp}");
        let candidates = values(&sdp, "a=candidate:");
        let port = |line: &&str| line.split(' ').nth(5).and_then(|it| it.parse::<u16>().ok());
        let ports: Vec<u16> = candidates.iter().filter_map(port).collect();
        assert!(!ports.is_empty(), "{sdp}");
        let own = |port: &u16| node.webrtc.iter().any(|it| it.port() == *port);
        assert!(ports.iter().all(own), "candidates {ports:?}, the shards have {:?}", node.webrtc);
    }
}

#[test]
fn h264_is_answered_first_to_a_publisher_that_offers_it() {
    let node = Node::start();
    let response = post(&node.whip_url(&unique("first")), &offer(Way::Send));
    let sdp = response.text();
    let video = values(&sdp, "m=video ")[0];
    let first = video.split(' ').nth(2).expect("a payload type");
    assert_eq!(values(&sdp, &format!("a=rtpmap:{first} ")), ["H264/90000"], "{sdp}");
    assert_eq!(first, "102", "the payload type is the offer's");

    let node = Node::start_with(&[("webrtc.prefer_h264", "false")]);
    let sdp = post(&node.whip_url(&unique("second")), &offer(Way::Send)).text();
    assert_eq!(values(&sdp, "m=video ")[0].split(' ').nth(2), Some("96"), "the offer's order is kept: {sdp}");
}

#[test]
fn every_part_is_readable_across_origins() {
    let node = Node::start();
    let url = node.whip_url(&unique("cors"));
    let origin = ("Origin", "https://elsewhere.example");
    let asked = [
        origin,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,authorization"),
    ];
    let preflight = send("OPTIONS", &url, &asked, "");
    assert!(matches!(preflight.status, 200 | 204), "{}", preflight.status);
    let allowed = preflight.header("Access-Control-Allow-Methods").expect("methods").to_uppercase();
    for method in ["POST", "PATCH", "DELETE"] {
        assert!(allowed.contains(method) || allowed == "*", "{method} is not in {allowed}");
    }
    let headers = preflight.header("Access-Control-Allow-Headers").expect("headers").to_lowercase();
    for header in ["content-type", "authorization"] {
        assert!(headers.contains(header), "{header} is not in {headers}");
    }

    // RFC 9725 section 4.2: OPTIONS says what may be posted
    let options = send("OPTIONS", &url, &[], "");
    assert!(matches!(options.status, 200 | 204), "{}", options.status);
    assert_eq!(options.header("Accept-Post").as_deref(), Some("application/sdp"), "{:?}", options.headers);

    let response = send("POST", &url, &[SDP, origin], &offer(Way::Send));
    assert_eq!(response.status, 201);
    assert!(response.header("Access-Control-Allow-Origin").is_some());
    let exposed = response.header("Access-Control-Expose-Headers").unwrap_or_default().to_lowercase();
    for header in ["location", "etag", "link"] {
        assert!(exposed.contains(header) || exposed == "*", "{header} is not in {exposed:?}");
    }
}

#[test]
fn a_session_is_patched_and_deleted() {
    let node = Node::start();
    let response = post(&node.whip_url(&unique("patched")), &offer(Way::Send));
    let (url, etag) = (session_url(&node, &response), response.header("ETag").expect("an ETag"));
    let fragment = "a=ice-ufrag:t3st\r\na=ice-pwd:0123456789abcdef01234567\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
        a=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\na=end-of-candidates\r\n";
    // RFC 9725 section 4.3.1.2: a trickled candidate is accepted without content
    let patched = send("PATCH", &url, &[FRAGMENT, ("If-Match", &etag)], fragment);
    assert_eq!(patched.status, 204, "{}", patched.text());
    // RFC 9725 section 4.3.1.1: another entity tag is another ICE session
    assert_eq!(send("PATCH", &url, &[FRAGMENT, ("If-Match", "\"another\"")], fragment).status, 412);
    assert_eq!(send("PATCH", &url, &[("Content-Type", "text/plain"), ("If-Match", &etag)], "x").status, 415);
    assert_eq!(send("PATCH", &url, &[FRAGMENT, ("If-Match", &etag)], "nonsense").status, 400);

    assert_eq!(send("DELETE", &url, &[], "").status, 200);
    assert_eq!(send("DELETE", &url, &[], "").status, 404, "it is gone");
    assert_eq!(send("PATCH", &url, &[FRAGMENT, ("If-Match", &etag)], fragment).status, 404);
}

/// docs/PROTOCOLS.md: clients of the drafts send no If-Match; `*` is RFC 9110's any. Neither names another session.
#[test]
fn a_patch_needs_no_entity_tag_but_the_session_s_own_name() {
    let mut node = Node::start();
    let response = post(&node.whep_url(&unique("untagged")), &offer(Way::Receive));
    let url = session_url(&node, &response);
    let fragment = |ufrag: &str| {
        format!(
            "a=ice-ufrag:{ufrag}\r\na=ice-pwd:0123456789abcdef01234567\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
             a=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\n"
        )
    };
    for tag in [&[][..], &[("If-Match", "*")]] {
        let headers = [&[FRAGMENT], tag].concat();
        assert_eq!(send("PATCH", &url, &headers, &fragment("t3st")).status, 204, "{tag:?}");
    }
    // what nobody was given, nobody finds
    let nobody = node.url("/session/00000000000000000000000000000000");
    assert_eq!(send("PATCH", &nobody, &[FRAGMENT], &fragment("t3st")).status, 404);
    assert_eq!(send("DELETE", &url, &[], "").status, 200);
    node.assert_well();
}

/// RFC 9725 section 4.3.3, and RFC 9110 section 13.1.1 on what If-Match may say.
#[test]
fn a_patch_with_new_credentials_restarts_ice() {
    let mut node = Node::start();
    let response = post(&node.whep_url(&unique("restarted")), &offer(Way::Receive));
    let (url, first) = (session_url(&node, &response), response.header("ETag").expect("an ETag"));
    let before = response.text();
    let fragment = |ufrag: &str| {
        format!(
            "a=ice-ufrag:{ufrag}\r\na=ice-pwd:0123456789abcdef01234567\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
        )
    };
    let patch = |tags: &[&str], body: &str| {
        let mut headers = vec![FRAGMENT];
        headers.extend(tags.iter().map(|tag| ("If-Match", *tag)));
        send("PATCH", &url, &headers, body)
    };
    // what must not restart changes nothing
    assert_eq!(patch(&[], &fragment("other")).status, 428, "RFC 6585 section 3");
    assert_eq!(patch(&["\"another\""], &fragment("other")).status, 412);
    assert_eq!(patch(&["another, \"one\"", "\"two\""], &fragment("other")).status, 412);
    let no_password = fragment("other").replace("a=ice-pwd:0123456789abcdef01234567\r\n", "");
    assert_eq!(patch(&["*"], &no_password).status, 400);
    assert_eq!(patch(&["*"], "a=ice-ufrag:o\r\n").status, 400);
    assert_eq!(patch(&[&first], &fragment("t3st")).status, 204, "the first ICE session still is");

    let restarted = patch(&["*"], &fragment("other"));
    assert_eq!(restarted.status, 200, "{}", restarted.text());
    assert_eq!(restarted.header("Content-Type").as_deref(), Some(FRAGMENT.1));
    let second = restarted.header("ETag").expect("RFC 9725 section 4.3.3: the new ICE session's tag");
    let answer = restarted.text();
    for (name, least) in [("a=ice-ufrag:", 4), ("a=ice-pwd:", 22)] {
        let (old, new) = (values(&before, name)[0], values(&answer, name)[0]);
        assert!(old != new && new.len() >= least, "{name} {old} {new}");
    }
    assert_eq!(values(&answer, "a=candidate:"), values(&before, "a=candidate:"), "the shard is the same");
    assert!(answer.contains("a=mid:0\r\n") && answer.contains("a=ice-lite"), "{answer}");
    assert_ne!(first, second);
    // candidates of the session before come too late, and those of the new one do not
    assert_eq!(patch(&[&first], &fragment("t3st")).status, 412);
    assert_eq!(patch(&[&second], &fragment("other")).status, 204);
    // by the right tag as well as by `*`, in a list too
    assert_eq!(patch(&[&format!("\"x\", {second}")], &fragment("third")).status, 200);
    assert_eq!(patch(&[&second], &fragment("fourth")).status, 412);
    // a stranger has no URL to restart by
    let nobody = node.url("/session/00000000000000000000000000000000");
    let headers = [FRAGMENT, ("If-Match", "*")];
    assert_eq!(send("PATCH", &nobody, &headers, &fragment("other")).status, 404);
    assert_eq!(send("DELETE", &url, &[], "").status, 200);
    assert_eq!(patch(&["*"], &fragment("fifth")).status, 404);
    node.assert_well();
}

#[test]
fn a_deleted_publisher_leaves_the_name_free() {
    let node = Node::start();
    let url = node.whip_url(&unique("freed"));
    let first = post(&url, &offer(Way::Send));
    assert_eq!(first.status, 201);
    let second = post(&url, &offer(Way::Send));
    assert_eq!(second.status, 409, "a second publisher conflicts: {}", second.text());
    assert_eq!(send("DELETE", &session_url(&node, &first), &[], "").status, 200);
    until("the name is free", Duration::from_secs(3), || {
        (post(&url, &offer(Way::Send)).status == 201).then_some(())
    });
}

#[test]
fn what_is_no_offer_is_refused() {
    let mut node = Node::start();
    let url = node.whip_url(&unique("refused"));
    assert_eq!(send("POST", &url, &[("Content-Type", "application/json")], "{}").status, 415);
    let good = offer(Way::Send);
    let no_fingerprint: String =
        good.lines().filter(|it| !it.contains("fingerprint")).map(|it| format!("{it}\r\n")).collect();
    let no_ice: String =
        good.lines().filter(|it| !it.contains("ice-")).map(|it| format!("{it}\r\n")).collect();
    let truncated = &good[..good.len() / 2];
    let unknown = good.replace("VP8", "XYZ").replace("H264", "ABC").replace("opus", "nope");
    let bad = [
        ("empty", ""),
        ("text", "hello"),
        ("no fingerprint", &no_fingerprint),
        ("no ICE", &no_ice),
        ("truncated line", truncated),
        ("no codec of ours", &unknown),
        ("only a session", "v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\n"),
    ];
    for (what, body) in bad {
        let response = post(&url, body);
        assert!((400..500).contains(&response.status), "{what}: {} {}", response.status, response.text());
        assert!(!response.body.is_empty(), "{what}: the reason is said");
    }
    for method in ["GET", "PUT", "HEAD"] {
        let status = send(method, &url, &[], "").status;
        // RFC 9725 section 4.2: reserved for future use
        assert_eq!(status, 405, "{method}");
    }
    assert_eq!(post(&url, &good).status, 201, "a good offer still works");
    node.assert_well();
}

/// An offer that nobody follows up holds its name for a while only.
#[test]
fn an_offer_without_a_handshake_dies() {
    let node = Node::start_with(&[("webrtc.connect_timeout", "\"1s\"")]);
    let url = node.whip_url(&unique("silent"));
    assert_eq!(post(&url, &offer(Way::Send)).status, 201);
    until("the silent session is gone", Duration::from_secs(16), || {
        (post(&url, &offer(Way::Send)).status == 201).then_some(())
    });
}

/// A room is the streams of one app, each watched by all others: on one shard, whichever, so that no packet crosses threads; and rooms are spread.
#[test]
fn a_room_stays_on_one_shard_and_rooms_are_spread() {
    let mut node = Node::start();
    let url = |way: &str, room: usize, member: usize| node.url(&format!("/{way}/room{room}/member{member}"));
    let members = 0..4;
    let mut ports = Vec::new();
    for room in 0..2 {
        let mut publishers: Vec<Peer> =
            members.clone().map(|member| Peer::connect(&url("whip", room, member), Way::Send)).collect();
        let mut viewers: Vec<Peer> = members
            .clone()
            .flat_map(|viewer| members.clone().filter(move |member| *member != viewer))
            .map(|member| Peer::connect(&url("whep", room, member), Way::Receive))
            .collect();
        for _ in 0..3 {
            for publisher in &mut publishers {
                let sound = publisher.sound(b"hello");
                publisher.send(&sound);
            }
        }
        until("everybody hears everybody", Duration::from_secs(5), || {
            viewers.iter_mut().for_each(|viewer| viewer.run(Duration::from_millis(10)));
            viewers.iter().all(|viewer| viewer.rtp.len() == 3).then_some(())
        });
        ports.push(publishers[0].node.port());
        assert!(publishers.iter().chain(&viewers).all(|peer| peer.node.port() == ports[room]));
    }
    assert_ne!(ports[0], ports[1], "rooms are spread");
    assert_eq!(node.metric("millrace_mailbox_sent_total"), 0.0);
    node.assert_well();
}

const SIMULCAST: &str = "a=rid:q send\r\na=rid:f send\r\na=simulcast:send q;f\r\n\
    a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n";

/// A publisher of several encodings hears which are wanted; so many listeners, and no longer than the session.
#[test]
fn a_publisher_listens_for_which_of_its_encodings_are_wanted() {
    let mut node = Node::start();
    let name = unique("wanted");
    let published = post(&node.whip_url(&name), &(offer(Way::Send) + SIMULCAST));
    assert_eq!(published.status, 201, "{}", published.text());
    let session = session_url(&node, &published);
    let link = published.header("Link").expect("a Link");
    let path = link.strip_prefix('<').and_then(|it| it.split_once('>')).expect("a target").0.to_owned();
    assert!(link.ends_with("rel=\"urn:x-millrace:whip:ext:wanted\""), "{link}");
    let url = node.url(&path);
    assert_eq!(url, session.clone() + "/wanted");

    let heard = http::get_for(&url, Duration::from_millis(500)).expect("events");
    assert_eq!((heard.status, heard.header("Content-Type").as_deref()), (200, Some("text/event-stream")));
    let said = heard.text();
    let data = said.strip_prefix("data: ").unwrap_or_else(|| panic!("no event: {said}")).trim_end();
    let said: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let all = serde_json::json!([{"encodingId": "q", "active": true}, {"encodingId": "f", "active": true}]);
    assert_eq!(said["encodings"], all);

    // Four at once; another when one of them has gone.
    let listeners: Vec<TcpStream> = (0..4).map(|_| listener(&node, &path)).collect();
    assert_eq!(http::get(&url).status, 429);
    drop(listeners);
    until("their places are free", Duration::from_secs(15), || {
        let status = http::get_for(&url, Duration::from_millis(100)).expect("an answer").status;
        (status == 200).then_some(())
    });

    let plain = post(&node.whip_url(&unique("plain")), &offer(Way::Send));
    assert!(plain.header("Link").is_none(), "there is nothing to choose");
    assert_eq!(http::get(&(session_url(&node, &plain) + "/wanted")).status, 409);
    let played = post(&node.whep_url(&name), &offer(Way::Receive));
    assert_eq!(http::get(&(session_url(&node, &played) + "/wanted")).status, 409);
    assert_eq!(http::get(&node.url("/session/0123456789abcdef/wanted")).status, 404);

    let mut last = listener(&node, &path);
    assert_eq!(send("DELETE", &session, &[], "").status, 200);
    last.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    let mut rest = Vec::new();
    last.read_to_end(&mut rest).expect("it ends with the session");
    assert_eq!(http::get(&url).status, 404);
    node.assert_well();
}

/// Listens, and has heard the first event.
fn listener(node: &Node, path: &str) -> TcpStream {
    let host = node.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut stream = TcpStream::connect(&host).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it takes it");
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !heard.windows(6).any(|it| it == b"data: ") {
        stream.read_exact(&mut byte).expect("an event");
        heard.push(byte[0]);
        assert!(heard.len() < 4_096, "{}", String::from_utf8_lossy(&heard));
    }
    stream
}

/// The layer extension of WHEP: named by a Link, asked by the session's URL alone, checked before it reaches the media plane.
#[test]
fn layers_are_asked_for_by_the_session_url() {
    const JSON: (&str, &str) = ("Content-Type", "application/json");
    let mut node = Node::start();
    let name = unique("layer");
    let published = post(&node.whip_url(&name), &(offer(Way::Send) + SIMULCAST));
    assert_eq!(published.status, 201, "{}", published.text());
    assert!(published.text().contains("a=simulcast:recv q;f"), "{}", published.text());
    let played = post(&node.whep_url(&name), &offer(Way::Receive));
    let link = played.header("Link").expect("a Link");
    let path = link.strip_prefix('<').and_then(|it| it.split_once('>')).expect("a target").0.to_owned();
    assert!(link.ends_with("rel=\"urn:ietf:params:whep:ext:core:layer\""), "{link}");
    assert!(!played.text().contains("simulcast"), "one encoding goes to a viewer: {}", played.text());
    let url = node.url(&path);
    assert_eq!(url, session_url(&node, &played) + "/layer");

    let shown = http::get(&url).json();
    assert_eq!(shown["encodings"][1]["encodingId"], "f", "{shown:#}");
    assert_eq!(shown["encodings"][1]["active"], false, "{shown:#}");
    let ask = |headers: &[(&str, &str)], body: &str| send("POST", &url, headers, body).status;
    assert_eq!(ask(&[JSON], r#"{"mediaId":"1","encodingId":"f"}"#), 200);
    assert_eq!(ask(&[JSON], r#"{"maxHeight":360,"maxBitrate":500000,"pause":true}"#), 200);
    assert_eq!(ask(&[JSON], "{}"), 200);
    assert_eq!(ask(&[JSON], r#"{"encodingId":"h"}"#), 400, "no such encoding");
    assert_eq!(ask(&[JSON], "[1]"), 400);
    assert_eq!(ask(&[JSON], &format!("{{\"x\":\"{}\"}}", "y".repeat(5_000))), 413);
    assert_eq!(ask(&[("Content-Type", "text/plain")], "{}"), 415);
    assert_eq!(send("POST", &node.url("/session/0123456789abcdef/layer"), &[JSON], "{}").status, 404);
    let of_publisher = session_url(&node, &published) + "/layer";
    assert_eq!(send("POST", &of_publisher, &[JSON], "{}").status, 409);
    // A flood of requests is as many small orders.
    for _ in 0..100 {
        assert!(matches!(ask(&[JSON], r#"{"encodingId":"q"}"#), 200 | 503));
    }
    // The orders are on their way.
    until("the viewer is listed with what was asked last", Duration::from_secs(5), || {
        let clients = node.api("/api/v1/clients/");
        let viewer = clients["clients"].as_array()?.iter().find(|it| it["publish"] == false)?;
        let layer = &viewer["rtc"]["layer"];
        (layer["encodingId"] == "q" && layer["reason"] == "only").then_some(())
    });
    assert_eq!(send("DELETE", &session_url(&node, &played), &[], "").status, 200);
    assert_eq!(ask(&[JSON], "{}"), 404, "the session is over");
    node.assert_well();
}
