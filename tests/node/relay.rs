//! Two nodes and the relay between them: what is published at one is watched at the other.
use std::time::Duration;
use support::cluster::Cluster;
use support::peer::{Peer, payload};
use support::sdp::Way;
use support::{Node, unique, until};

const SOUND: &[u8] = b"\xfcsound";
const LIMIT: Duration = Duration::from_secs(10);

fn linked(node: &Node, peer: &str) {
    until(&format!("the link to {peer} is up"), LIMIT, || {
        node.log().contains(&format!("relay link up peer={peer}")).then_some(())
    });
}

/// Sound each 10 ms until the viewer has so many packets more.
#[track_caller]
fn flows(publisher: &mut Peer, viewer: &mut Peer, count: usize) {
    let want = viewer.rtp.len() + count;
    until(&format!("{count} packets arrive"), LIMIT, || {
        let packet = publisher.sound(SOUND);
        publisher.send(&packet);
        publisher.run(Duration::from_millis(5));
        viewer.run(Duration::from_millis(5));
        (viewer.rtp.len() >= want).then_some(())
    });
}

#[test]
fn a_browser_at_one_node_is_watched_at_the_other() {
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    linked(&a, "b");
    linked(&b, "a");
    // In both directions, whoever dialled.
    for (from, to) in [(&a, &b), (&b, &a)] {
        let name = unique("relayed");
        let mut publisher = Peer::connect(from, &from.whip_url(&name), Way::Send);
        let mut viewers = [(); 2].map(|()| Peer::connect(to, &to.whep_url(&name), Way::Receive));
        for viewer in &mut viewers {
            flows(&mut publisher, viewer, 50);
            assert!(viewer.rtp.iter().all(|packet| payload(packet) == SOUND));
        }
    }
    a.assert_well();
    b.assert_well();
}

#[test]
fn a_viewer_that_came_first_is_served_when_the_stream_begins() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("later");
    let mut viewer = Peer::connect(&b, &b.whep_url(&name), Way::Receive);
    let mut publisher = Peer::connect(&a, &a.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    // The publisher leaves and comes back: the viewer's session goes on.
    support::http::request("DELETE", &publisher.session, &[], b"").expect("an answer");
    let mut publisher = Peer::connect(&a, &a.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(viewer.closed, None);
}

#[test]
fn a_node_that_comes_back_is_dialled_again_and_its_streams_are_taken() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, mut b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("again");
    let mut viewer = Peer::connect(&a, &a.whep_url(&name), Way::Receive);
    let mut publisher = Peer::connect(&b, &b.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    b.process.signal("KILL");
    assert!(b.process.wait(LIMIT).is_some());
    let b = cluster.start("b");
    let mut publisher = Peer::connect(&b, &b.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(viewer.closed, None);
}

#[test]
fn a_stranger_gets_nothing() {
    let cluster = Cluster::of(&["a", "b"]);
    // Of another authority with the right name, and of the right authority with another name.
    cluster.authority("other");
    cluster.certify("other", "b", "forged");
    let a = cluster.start("a");
    let forged = cluster.start_with("b", "forged", &[]);
    until("both refuse", LIMIT, || {
        let refused = |node: &Node| {
            node.log().contains("relay dial") || node.log().contains("relay connection refused")
        };
        (refused(&a) && refused(&forged)).then_some(())
    });
    for node in [&a, &forged] {
        assert!(!node.log().contains("relay link up"), "{}", node.log());
    }
}
