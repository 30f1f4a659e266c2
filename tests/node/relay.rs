//! Two nodes and the relay between them: what is published at one is watched at the other.
use std::time::Duration;
use support::cluster::Cluster;
use support::flv::{AUDIO, Flv, Tag, VIDEO};
use support::peer::{Peer, payload};
use support::rtmp::{Client, Publisher};
use support::sdp::Way;
use support::{Node, flv, http, unique, until};

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
        let mut publisher = Peer::connect(&from.whip_url(&name), Way::Send);
        let mut viewers = [(); 2].map(|()| Peer::connect(&to.whep_url(&name), Way::Receive));
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
    let mut viewer = Peer::connect(&b.whep_url(&name), Way::Receive);
    let mut publisher = Peer::connect(&a.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    // The publisher leaves and comes back: the viewer's session goes on.
    http::request("DELETE", &publisher.session, &[], b"").expect("an answer");
    let mut publisher = Peer::connect(&a.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(viewer.closed, None);
}

#[test]
fn a_node_that_comes_back_is_dialled_again_and_its_streams_are_taken() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, mut b) = (cluster.start("a"), cluster.start("b"));
    let name = unique("again");
    let mut viewer = Peer::connect(&a.whep_url(&name), Way::Receive);
    let mut publisher = Peer::connect(&b.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    b.process.signal("KILL");
    assert!(b.process.wait(LIMIT).is_some());
    let b = cluster.start("b");
    let mut publisher = Peer::connect(&b.whip_url(&name), Way::Send);
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(viewer.closed, None);
}

/// `/live/NAME.flv` at a node that is told of the stream: what came within the limit.
#[track_caller]
fn record(node: &Node, name: &str, limit: Duration) -> Flv {
    let response = until("the stream is known there", LIMIT, || {
        http::get_for(&node.flv_url(name), limit).ok().filter(|it| it.status == 200)
    });
    flv::parse(&response.body).expect("it is FLV")
}

#[test]
fn an_rtmp_publishers_frames_cross_untouched() {
    let cluster = Cluster::of(&["a", "b"]);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    linked(&b, "a");
    let name = unique("frames");
    let clip = flv::clip();
    let _publisher = Publisher::start(a.rtmp, &name);
    a.wait_live(&name);
    let flv = record(&b, &name, Duration::from_secs(3));
    assert_eq!(flv::backwards(&flv.tags), [""; 0]);
    for kind in [AUDIO, VIDEO] {
        let bodies = |tags: &[Tag]| -> Vec<Vec<u8>> {
            let frames = tags.iter().filter(|tag| tag.kind == kind && !tag.is_header());
            frames.map(|tag| tag.body.to_vec()).collect()
        };
        let (sent, got) = (bodies(&clip.tags), bodies(&flv.tags));
        assert!(got.len() > 60, "type {kind}: {} frames", got.len());
        let from = sent.iter().position(|it| *it == got[0]).expect("the first frame is one of the clip's");
        let same =
            got.iter().zip(sent.iter().cycle().skip(from)).take_while(|(got, sent)| got == sent).count();
        assert_eq!(same, got.len(), "type {kind}: frame {same} differs");
    }
    a.assert_well();
    b.assert_well();
}

#[test]
fn an_rtmp_publisher_is_watched_by_webrtc_and_rtmp_elsewhere() {
    let cluster = Cluster::of(&["a", "b"]);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    linked(&b, "a");
    let name = unique("derived");
    // The one came before the publisher, as did the other.
    let mut player = Client::connect(b.rtmp, "live").expect("a viewer connects");
    player.play(&name).expect("a viewer plays");
    let mut viewer = Peer::connect(&b.whep_url(&name), Way::Receive);
    let _publisher = Publisher::start(a.rtmp, &name);
    until("picture and sound arrive", LIMIT, || {
        viewer.run(Duration::from_millis(50));
        (viewer.rtp.len() > 300).then_some(())
    });
    let mut kinds: Vec<u8> = viewer.rtp.iter().map(|packet| packet[1] & 0x7f).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 2, "a payload type each: {kinds:?}");
    let seen = player.collect(Duration::from_secs(2));
    for kind in [AUDIO, VIDEO] {
        let count = seen.iter().filter(|it| it.tag.kind == kind).count();
        assert!(count > 45, "type {kind}: {count} messages");
    }
}
