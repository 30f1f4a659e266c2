//! What crosses a link, how often, and for how long; a peer that falls silent.
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::peer::{Peer, payload};
use support::sdp::{self, Way};
use support::{Node, http, unique, until};

const SOUND: &[u8] = b"\xfcsound";
const LIMIT: Duration = Duration::from_secs(10);

/// What a node's API says of its link to a peer.
fn link(node: &Node, peer: &str) -> serde_json::Value {
    let nodes = node.api("/api/v1/nodes");
    let links = nodes["nodes"]["links"].as_array().expect("links").clone();
    links.into_iter().find(|it| it["node"] == peer).expect("the peer is one of them")
}

fn up(node: &Node, peer: &str) {
    until(&format!("the link to {peer} is up"), LIMIT, || link(node, peer)["up"].as_bool().filter(|up| *up));
}

fn plis(node: &Node) -> u64 {
    let clients = node.api("/api/v1/clients");
    let clients = clients["clients"].as_array().expect("clients").clone();
    clients.iter().filter(|it| it["publish"] == true).map(|it| it["rtc"]["plis_out"].as_u64().unwrap()).sum()
}

/// A browser as far as the node can tell: a picture each 33 ms, a key frame when it is asked.
struct Camera {
    peer: Peer,
    asked: usize,
}

impl Camera {
    fn at(node: &Node, name: &str) -> Camera {
        Camera { peer: Peer::connect(&node.whip_url(name), Way::Send), asked: usize::MAX }
    }

    /// A picture and a packet of sound go.
    fn step(&mut self, viewers: &mut [Peer]) {
        let key = self.asked != self.peer.asked;
        self.asked = self.peer.asked;
        for packet in [self.peer.picture(key), self.peer.sound(SOUND)] {
            self.peer.send(&packet);
        }
        self.peer.run(Duration::from_millis(10));
        for viewer in viewers {
            viewer.run(Duration::from_millis(6));
        }
    }

    /// Until each viewer has so many pictures more.
    #[track_caller]
    fn flows(&mut self, viewers: &mut [Peer], count: usize) {
        let want: Vec<usize> = viewers.iter().map(|it| it.seen().len() + count).collect();
        until(&format!("{count} pictures arrive"), LIMIT, || {
            self.step(viewers);
            viewers.iter().zip(&want).all(|(it, want)| it.seen().len() >= *want).then_some(())
        });
    }
}

#[test]
fn pictures_cross_once_whoever_watches_and_key_frame_requests_are_merged() {
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("pictures");
    let mut camera = Camera::at(&a, &name);
    let mut viewers: Vec<Peer> = (0..3).map(|_| Peer::connect(&b.whep_url(&name), Way::Receive)).collect();
    camera.flows(&mut viewers, 30);
    for viewer in &viewers {
        assert_eq!(viewer.seen()[0][1] & 1, 0, "the first is a key frame: {:?}", viewer.seen()[0]);
        assert!(viewer.rtp.iter().filter(|it| it[1] & 0x7f == 111).all(|it| payload(it) == SOUND));
    }
    assert_eq!(b.stream(&name).expect("the stream is there")["path"], serde_json::json!(["a"]));
    assert_eq!(a.stream(&name).expect("the stream is there")["path"], serde_json::json!([]));
    let sent: usize = viewers[0].rtp.iter().map(|it| payload(it).len()).sum();
    let counted = b.stream(&name).expect("the stream is there")["recv_bytes"].as_u64().expect("a count");
    assert!(counted as usize >= sent, "{counted} bytes came in, and {sent} of them were shown");
    until("the link reports", LIMIT, || {
        camera.step(&mut viewers);
        let (out, come) = (link(&a, "b"), link(&b, "a"));
        (out["tracks_out"] == 2
            && come["tracks_in"] == 2
            && come["datagrams"]["received"].as_u64() > Some(60))
        .then_some(())
    });
    // One that came just now would be the answer.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(400) {
        camera.step(&mut viewers);
    }
    // Each asks five times within a second.
    let before = plis(&a);
    let began = Instant::now();
    for _ in 0..5 {
        for viewer in &mut viewers {
            viewer.ask_key_frame();
        }
        camera.flows(&mut viewers, 3);
    }
    until("a request arrives", LIMIT, || {
        camera.step(&mut viewers);
        (plis(&a) > before).then_some(())
    });
    let most = 2 + 2 * (began.elapsed().as_secs() + 1);
    let asked = plis(&a) - before;
    assert!(asked <= most, "{asked} requests in {:?}", began.elapsed());
    a.assert_well();
    b.assert_well();
}

#[test]
fn a_stream_lingers_after_its_last_viewer_and_then_is_gone() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("linger");
    let mut camera = Camera::at(&a, &name);
    // Who leaves and comes back sees it again, at whatever moment that is.
    for pause_ms in [0, 1_500, 3_500] {
        let mut viewers = [Peer::connect(&b.whep_url(&name), Way::Receive)];
        camera.flows(&mut viewers, 10);
        http::request("DELETE", &viewers[0].session, &[], b"").expect("an answer");
        let until = Instant::now() + Duration::from_millis(pause_ms);
        while Instant::now() < until {
            camera.step(&mut []);
        }
    }
    let mut viewers = [Peer::connect(&b.whep_url(&name), Way::Receive)];
    camera.flows(&mut viewers, 10);
    http::request("DELETE", &viewers[0].session, &[], b"").expect("an answer");
    let left = Instant::now();
    until("nothing crosses any more", 2 * LIMIT, || {
        camera.step(&mut []);
        (link(&a, "b")["tracks_out"] == 0).then_some(())
    });
    assert!(left.elapsed() > Duration::from_secs(4), "it ended {:?} after the last viewer", left.elapsed());
    until("nothing of it is left", LIMIT, || {
        camera.step(&mut []);
        (b.metric("millrace_tracks") == 0.0 && b.stream(&name).is_none()).then_some(())
    });
    b.assert_well();
}

#[test]
fn a_peer_that_falls_silent_is_noticed_and_taken_up_again() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("silent");
    let mut camera = Camera::at(&a, &name);
    let mut viewers = [Peer::connect(&b.whep_url(&name), Way::Receive)];
    camera.flows(&mut viewers, 20);
    a.process.signal("STOP");
    let stopped = Instant::now();
    until("b notices", LIMIT, || b.log().contains("nothing came of the peer").then_some(()));
    let noticed = stopped.elapsed();
    a.process.signal("CONT");
    assert!(noticed < Duration::from_secs(2), "after {noticed:?}; QUIC says so after four seconds");
    camera.flows(&mut viewers, 20);
    assert_eq!(viewers[0].closed, None);
}

#[test]
fn who_publishes_elsewhere_is_watched_when_the_own_publisher_leaves() {
    let cluster = Cluster::of(&["a", "b"]);
    let a = cluster.start_with("a", "a", &[("stream.replace_publisher", "true")]);
    let b = cluster.start("b");
    up(&b, "a");
    let name = unique("moved");
    // An encoder that lost its way to b comes back at a, and b knows later that it is gone.
    let old = Camera::at(&b, &name);
    let mut viewers = [Peer::connect(&b.whep_url(&name), Way::Receive)];
    let mut camera = Camera::at(&a, &name);
    camera.step(&mut viewers);
    http::request("DELETE", &old.peer.session, &[], b"").expect("an answer");
    camera.flows(&mut viewers, 20);
    assert_eq!(viewers[0].closed, None);
}

/// Two encodings at one node; at the other a viewer has the better one, asks for the smaller, and goes back: only what it has crosses.
#[test]
fn encodings_cross_as_they_are_watched() {
    const SIMULCAST: &str = "a=rid:q send\r\na=rid:f send\r\na=simulcast:send q;f\r\n\
        a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n";
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("encodings");
    let mut camera = Peer::connect_to(&a.whip_url(&name), &(sdp::offer(Way::Send) + SIMULCAST));
    let mut viewer = Peer::connect(&b.whep_url(&name), Way::Receive);
    let layer = viewer.session.clone() + "/layer";
    let mut nth = 0;
    let mut shows = |encoding: u8| {
        until(&format!("{} is shown, and it alone crosses", char::from(encoding)), LIMIT, || {
            for packet in camera.encodings(nth % 15 == 0) {
                camera.send(&packet);
            }
            nth += 1;
            camera.run(Duration::from_millis(10));
            viewer.run(Duration::from_millis(20));
            let shown = viewer.seen().last().and_then(|it| it.last().copied());
            // Sound is subscribed to, too.
            (shown == Some(encoding) && nth % 15 == 0 && link(&a, "b")["tracks_out"] == 2).then_some(())
        });
    };
    shows(b'f');
    let choose = |wish: &str| {
        let chosen = http::request("POST", &layer, &[("Content-Type", "application/json")], wish.as_bytes());
        assert_eq!(chosen.expect("an answer").status, 200);
    };
    choose("{\"maxHeight\": 240}");
    shows(b'q');
    choose("{\"encodingId\": \"f\"}");
    shows(b'f');
    let heard = http::get(&layer).json();
    let heights: Vec<u64> = heard["encodings"]
        .as_array()
        .expect("encodings")
        .iter()
        .filter_map(|it| it["height"].as_u64())
        .collect();
    assert_eq!(heights, [240, 480], "{heard}");
    a.assert_well();
    b.assert_well();
}
