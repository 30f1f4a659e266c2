//! Clients that change their address while media flows: by an ICE restart, and without one. A second is the limit.
use std::time::{Duration, Instant};
use support::peer::{Peer, payload};
use support::sdp::Way;
use support::wait::alone;
use support::{Node, unique};

const SOUND: &[u8] = b"\xfcsound";
const LIMIT: Duration = Duration::from_secs(1);

struct Scene {
    node: Node,
    publisher: Peer,
    viewer: Peer,
}

impl Scene {
    fn set() -> Scene {
        let node = Node::start();
        let name = unique("moving");
        let publisher = Peer::connect(&node.whip_url(&name), Way::Send);
        let viewer = Peer::connect(&node.whep_url(&name), Way::Receive);
        let mut scene = Scene { node, publisher, viewer };
        assert!(scene.back_within(LIMIT).is_some(), "it flows before");
        scene
    }

    /// Sound each 10 ms until a packet comes that was sent from now on; how long that took.
    fn back_within(&mut self, limit: Duration) -> Option<Duration> {
        let (start, before) = (Instant::now(), self.viewer.rtp.len());
        while start.elapsed() < limit {
            let packet = self.publisher.sound(SOUND);
            self.publisher.send(&packet);
            self.publisher.run(Duration::from_millis(5));
            self.viewer.run(Duration::from_millis(5));
            if self.viewer.rtp.len() > before {
                return Some(start.elapsed());
            }
        }
        None
    }

    #[track_caller]
    fn is_back(&mut self, what: &str) {
        let took = self.back_within(LIMIT).unwrap_or_else(|| panic!("{what}: nothing within {LIMIT:?}"));
        println!("{what}: media is back after {} ms", took.as_millis());
        for _ in 0..20 {
            assert!(self.back_within(LIMIT).is_some(), "{what}: and it stays");
        }
        assert_eq!((self.publisher.closed, self.viewer.closed), (None, None), "{what}: a session was ended");
        assert!(self.viewer.rtp.iter().all(|packet| payload(packet) == SOUND), "{what}");
        assert_eq!(self.node.metric("millrace_peers"), 2.0, "{what}: the same two sessions");
    }
}

#[test]
fn a_viewer_that_restarts_ice_has_media_within_a_second() {
    let _lane = alone();
    let mut scene = Scene::set();
    for round in 0..3 {
        scene.viewer.moves();
        assert!(scene.back_within(Duration::from_millis(100)).is_none(), "it is elsewhere");
        scene.viewer.restart_ice(&format!("view{round}"));
        scene.is_back("a viewer's restart");
    }
    scene.node.assert_well();
}

#[test]
fn a_publisher_that_restarts_ice_is_heard_within_a_second() {
    let _lane = alone();
    let mut scene = Scene::set();
    for round in 0..3 {
        scene.publisher.moves();
        scene.publisher.restart_ice(&format!("send{round}"));
        scene.is_back("a publisher's restart");
        // It is heard from anywhere; what it is told comes to where it is once the restart is through: a report each second.
        let (start, before) = (Instant::now(), scene.publisher.rtcp);
        while scene.publisher.rtcp == before {
            assert!(start.elapsed() < 2 * LIMIT, "nothing is said to it there");
            scene.back_within(LIMIT).expect("it is heard meanwhile");
        }
    }
    scene.node.assert_well();
}

/// The path in use serves until the new one is nominated, however late the client's first check is.
#[test]
fn media_goes_on_until_the_restart_is_through() {
    let _lane = alone();
    let mut scene = Scene::set();
    let before = scene.viewer.rtp.len();
    let body = "a=ice-ufrag:late\r\na=ice-pwd:0123456789abcdef01234567\r\n";
    let headers = [("Content-Type", "application/trickle-ice-sdpfrag"), ("If-Match", "*")];
    let ordered = support::http::request("PATCH", &scene.viewer.session, &headers, body.as_bytes());
    assert_eq!(ordered.expect("an answer").status, 200);
    // longer than the client's checks are apart: they go on under the old credentials
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(scene.back_within(Duration::from_millis(200)).is_some(), "the old pair serves");
    }
    assert!(scene.viewer.rtp.len() > before + 100);
    assert_eq!(scene.node.metric("millrace_drops_total"), 0.0, "no check is refused");
    scene.viewer.moves();
    scene.viewer.restart_ice("done");
    scene.is_back("the next restart");
}

/// Without a restart (a NAT that forgot the client): the next check may be a replay, so the node asks back.
#[test]
fn a_viewer_is_followed_to_its_new_address_when_it_answers() {
    let _lane = alone();
    let mut scene = Scene::set();
    scene.viewer.moves();
    // Its client asks for consent each 2.5 s.
    let took = scene.back_within(Duration::from_millis(2_600 + 1_000)).expect("it is followed");
    println!("a viewer's next check: media is back after {} ms", took.as_millis());
    scene.is_back("a viewer's media after its check");
    scene.node.assert_well();
}

#[test]
fn a_publisher_is_heard_from_its_new_address_at_once() {
    let _lane = alone();
    let mut scene = Scene::set();
    scene.publisher.moves();
    // Before its next check, which may be 2.5 s away.
    let took = scene.back_within(Duration::from_millis(1_000)).expect("it is heard");
    println!("a publisher elsewhere: media is back after {} ms", took.as_millis());
    scene.is_back("a publisher's media before its check");
    scene.node.assert_well();
}
