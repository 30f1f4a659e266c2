//! Streams over several nodes: chains, two ways, and what viewers see when a node on the way dies or stops.
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::flv::{AUDIO, VIDEO};
use support::peer::{Peer, payload};
use support::process::Process;
use support::rtmp::{Client, Publisher};
use support::sdp::Way;
use support::{Node, flv, http, node, unique, until};

const LIMIT: Duration = Duration::from_secs(15);

fn links(node: &Node) -> Vec<serde_json::Value> {
    node.api("/api/v1/nodes")["nodes"]["links"].as_array().expect("links").clone()
}

#[track_caller]
fn up(node: &Node) {
    until("all links are up", LIMIT, || links(node).iter().all(|it| it["up"] == true).then_some(()));
}

fn tracks_out(node: &Node, peer: &str) -> u64 {
    let links = links(node);
    let link = links.iter().find(|it| it["node"] == peer).expect("the peer is one of them");
    link["tracks_out"].as_u64().expect("a count")
}

/// Sound each 5 ms of a publisher for a viewer, until the condition holds; the longest time between two packets.
#[track_caller]
fn gap_until(publisher: &mut Peer, viewer: &mut Peer, mut done: impl FnMut(&Peer) -> bool) -> Duration {
    let (mut nth, mut last, mut gap) = (0_u32, Instant::now(), Duration::ZERO);
    let began = Instant::now();
    while !done(viewer) {
        assert!(began.elapsed() < LIMIT, "{} packets came, none for {:?}", viewer.rtp.len(), last.elapsed());
        nth += 1;
        let packet = publisher.sound(&nth.to_be_bytes());
        publisher.send(&packet);
        publisher.run(Duration::from_millis(5));
        let before = viewer.rtp.len();
        viewer.run(Duration::from_millis(5));
        if viewer.rtp.len() > before {
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
    }
    gap
}

#[track_caller]
fn flows(publisher: &mut Peer, viewer: &mut Peer, count: usize) -> Duration {
    let want = viewer.rtp.len() + count;
    gap_until(publisher, viewer, |viewer| viewer.rtp.len() >= want)
}

#[test]
fn a_stream_crosses_three_links_and_no_fourth_one_copy_each() {
    let cluster = Cluster::linked(&["ab", "bc", "cd", "de"]);
    let mut nodes = ["a", "b", "c", "d", "e"].map(|id| cluster.start(id));
    nodes.iter().for_each(up);
    let (camera, encoder) = (unique("camera"), unique("encoder"));
    let mut publisher = Peer::connect(&nodes[0].whip_url(&camera), Way::Send);
    let _encoder = Publisher::start(nodes[0].rtmp, &encoder);
    let found = |node: &Node, name: &str| {
        http::get_for(&node.flv_url(name), Duration::from_secs(1)).ok().map(|it| it.status)
    };
    until("it is known three links on", LIMIT, || found(&nodes[3], &encoder).filter(|it| *it == 200));
    for name in [&camera, &encoder] {
        assert_eq!(found(&nodes[4], name), Some(404), "a fourth link");
    }
    // Who watches on the way takes no second copy.
    let mut last = Peer::connect(&nodes[3].whep_url(&camera), Way::Receive);
    flows(&mut publisher, &mut last, 50);
    let mut between = Peer::connect(&nodes[1].whep_url(&camera), Way::Receive);
    flows(&mut publisher, &mut between, 50);
    flows(&mut publisher, &mut last, 50);
    assert_eq!(nodes[3].stream(&camera).expect("it is there")["path"], serde_json::json!(["a", "b", "c"]));
    for (from, to) in [(0, "b"), (1, "c"), (2, "d")] {
        until(&format!("sound and picture go to {to}"), LIMIT, || {
            flows(&mut publisher, &mut last, 5);
            (tracks_out(&nodes[from], to) == 2).then_some(())
        });
    }
    // Frames as they were, and one copy of each track for FLV in the middle and at the end.
    let clip = flv::clip();
    for node in [&nodes[3], &nodes[1]] {
        let response = http::get_for(&node.flv_url(&encoder), Duration::from_secs(3)).expect("an answer");
        let flv = flv::parse(&response.body).expect("it is FLV");
        assert_eq!(flv::backwards(&flv.tags), [""; 0]);
        for kind in [AUDIO, VIDEO] {
            let bodies = |tags: &[flv::Tag]| -> Vec<Vec<u8>> {
                let frames = tags.iter().filter(|tag| tag.kind == kind && !tag.is_header());
                frames.map(|tag| tag.body.to_vec()).collect()
            };
            let (sent, got) = (bodies(&clip.tags), bodies(&flv.tags));
            assert!(got.len() > 60, "type {kind}: {} frames", got.len());
            let from =
                sent.iter().position(|it| *it == got[0]).expect("the first frame is one of the clip's");
            let same = got.iter().zip(sent.iter().cycle().skip(from)).take_while(|(got, sent)| got == sent);
            assert_eq!(same.count(), got.len(), "type {kind}");
        }
    }
    assert!(tracks_out(&nodes[0], "b") <= 4, "{}", tracks_out(&nodes[0], "b"));
    nodes.iter_mut().for_each(Node::assert_well);
}

/// `a` to `d` over `b` or `c`; which of the two it is.
fn diamond() -> (Cluster, Vec<Node>) {
    let cluster = Cluster::linked(&["ab", "ac", "bd", "cd"]);
    let nodes: Vec<Node> = ["a", "b", "c", "d"].iter().map(|id| cluster.start(id)).collect();
    nodes.iter().for_each(up);
    (cluster, nodes)
}

fn way(nodes: &[Node], name: &str) -> usize {
    let path = nodes[3].stream(name).expect("it is there")["path"].clone();
    match path[1].as_str() {
        Some("b") => 1,
        Some("c") => 2,
        _ => panic!("the way is {path}"),
    }
}

#[track_caller]
fn link(node: &Node, peer: &str) -> serde_json::Value {
    links(node).into_iter().find(|it| it["node"] == peer).expect("the peer is one of them")
}

#[test]
fn the_second_node_holds_what_is_watched_and_sends_nothing_until_it_is_asked() {
    let (_cluster, mut nodes) = diamond();
    let name = unique("held");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&nodes[3].whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 100);
    let killed = way(&nodes, &name);
    let (second, id) = (3 - killed, ["a", "b", "c", "d"][3 - killed]);
    until("sound and picture are held", LIMIT, || {
        flows(&mut publisher, &mut viewer, 5);
        let holds = link(&nodes[3], id)["held_there"] == 2 && link(&nodes[second], "d")["held_here"] == 2;
        (holds && tracks_out(&nodes[0], id) == 2).then_some(())
    });
    flows(&mut publisher, &mut viewer, 100);
    let held = link(&nodes[second], "d");
    assert_eq!((&held["tracks_out"], &held["datagrams"]["sent"]), (&0.into(), &0.into()), "{held}");
    // Who holds it has it held nowhere.
    assert_eq!(links(&nodes[second]).iter().map(|it| it["held_there"].as_u64().unwrap()).sum::<u64>(), 0);
    assert_eq!(nodes[second].metric("millrace_relay_tracks_held_here{peer=\"d\"}"), 2.0);
    let before = link(&nodes[second], "a")["datagrams"]["received"].as_u64().unwrap();
    assert!(before > 100, "{before} came to who holds it");
    // It is asked, and nothing more comes to it for that.
    nodes[killed].process.signal("KILL");
    let gap = flows(&mut publisher, &mut viewer, 200);
    assert!(gap < Duration::from_secs(1), "the viewer had nothing for {gap:?}");
    assert_eq!(way(&nodes, &name), second);
    until("it is sent, and held no more", LIMIT, || {
        flows(&mut publisher, &mut viewer, 5);
        let link = link(&nodes[second], "d");
        (link["tracks_out"] == 2 && link["held_here"] == 0).then_some(())
    });
    assert_eq!(tracks_out(&nodes[0], id), 2, "one copy");
    nodes[0].assert_well();
    nodes[3].assert_well();
}

#[test]
fn what_is_held_ends_with_the_last_viewer() {
    let (_cluster, mut nodes) = diamond();
    let name = unique("over");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewers = [1, 2, 3].map(|at| Peer::connect(&nodes[at].whep_url(&name), Way::Receive));
    for viewer in &mut viewers {
        flows(&mut publisher, viewer, 50);
    }
    let held = |nodes: &[Node]| -> u64 {
        nodes.iter().flat_map(links).map(|it| it["held_here"].as_u64().unwrap()).sum()
    };
    let taken = |nodes: &[Node]| -> u64 {
        nodes.iter().flat_map(links).map(|it| it["tracks_out"].as_u64().unwrap()).sum()
    };
    // `d`, and who does not give it to `d`: each holds it for the other.
    until("two have it held for each other", LIMIT, || {
        for viewer in &mut viewers {
            flows(&mut publisher, viewer, 2);
        }
        (held(&nodes) == 4 && taken(&nodes) == 6).then_some(())
    });
    for viewer in viewers {
        http::request("DELETE", &viewer.session, &[], b"").expect("an answer");
    }
    until("nothing is held and nothing crosses", Duration::from_secs(30), || {
        publisher.run(Duration::from_millis(50));
        (held(&nodes) == 0 && taken(&nodes) == 0).then_some(())
    });
    nodes.iter_mut().for_each(Node::assert_well);
}

#[test]
fn a_viewer_stays_when_a_node_on_the_way_is_killed() {
    let (_cluster, mut nodes) = diamond();
    let name = unique("killed");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&nodes[3].whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 100);
    let killed = way(&nodes, &name);
    nodes[killed].process.signal("KILL");
    let gap = flows(&mut publisher, &mut viewer, 200);
    assert_eq!(viewer.closed, None);
    assert_ne!(way(&nodes, &name), killed);
    assert!(gap < Duration::from_secs(1), "the viewer had nothing for {gap:?}");
    // Sound and picture, of which only sound comes.
    assert_eq!(nodes[3].metric("millrace_relay_switches_total{reason=\"lost\"}"), 1.0);
    assert_eq!(nodes[3].metric("millrace_relay_switch_gap_seconds_count"), 1.0);
    let seen = nodes[3].metric("millrace_relay_switch_gap_seconds_sum");
    assert!((gap.as_secs_f64() - seen).abs() < 0.2, "{gap:?} at the viewer, {seen} at its node");
    // Each packet once, in order, all but those of the gap.
    let heard: Vec<u32> =
        viewer.rtp.iter().map(|it| u32::from_be_bytes(payload(it).try_into().expect("a number"))).collect();
    assert!(heard[100..].is_sorted_by(|a, b| a < b || *b == 1), "{heard:?}");
    nodes[0].assert_well();
    nodes[3].assert_well();
}

#[test]
fn a_player_stays_when_a_node_on_the_way_is_killed_and_misses_no_frame() {
    let (_cluster, mut nodes) = diamond();
    let name = unique("frames");
    let _encoder = Publisher::start(nodes[0].rtmp, &name);
    let mut player = Client::connect(nodes[3].rtmp, "live").expect("a viewer connects");
    player.play(&name).expect("a viewer plays");
    let before = player.collect(Duration::from_secs(3));
    // So that a key frame falls into the time without a way: the way that is found then has to give what is before it.
    let keys: Vec<_> = before.iter().filter(|it| it.tag.is_key_frame()).collect();
    let [.., last_but_one, last] = &keys[..] else { panic!("{} key frames in 3 s", keys.len()) };
    let gop = Duration::from_millis((last.tag.time - last_but_one.tag.time).into());
    let next = (1..).map(|nth| last.at + gop * nth).find(|at| *at > Instant::now() + gop / 4).unwrap();
    let killed = way(&nodes, &name);
    std::thread::sleep(next.saturating_duration_since(Instant::now()) - Duration::from_millis(100));
    nodes[killed].process.signal("KILL");
    let after = player.collect(Duration::from_secs(3));
    for kind in [AUDIO, VIDEO] {
        let times: Vec<u32> = before
            .iter()
            .chain(&after)
            .filter(|it| it.tag.kind == kind && !it.tag.is_header())
            .map(|it| it.tag.time)
            .collect();
        let steps = times.windows(2).map(|two| two[1].wrapping_sub(two[0])).max();
        assert!(times.is_sorted() && steps <= Some(50), "type {kind}: {steps:?} in {times:?}");
        assert!(times.last().unwrap() - times[0] > 3_500, "type {kind}: {times:?}");
    }
    nodes[0].assert_well();
    nodes[3].assert_well();
}

#[test]
fn a_node_on_the_way_that_stops_is_left_before_it_is_gone() {
    let (_cluster, mut nodes) = diamond();
    let name = unique("stops");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&nodes[3].whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 100);
    let stopped = way(&nodes, &name);
    nodes[stopped].process.signal("TERM");
    let gap = flows(&mut publisher, &mut viewer, 200);
    assert!(gap < Duration::from_millis(200), "the viewer had nothing for {gap:?}");
    assert!(nodes[stopped].process.wait(Duration::from_secs(5)).is_some(), "nobody holds it");
    assert_ne!(way(&nodes, &name), stopped);
    until("both tracks have moved", LIMIT, || {
        (nodes[3].metric("millrace_relay_switches_total{reason=\"drains\"}") >= 1.0).then_some(())
    });
    let gap = flows(&mut publisher, &mut viewer, 50);
    assert!(gap < Duration::from_millis(200), "the viewer had nothing for {gap:?}");
    assert_eq!(viewer.closed, None);
    nodes[0].assert_well();
    nodes[3].assert_well();
}

#[test]
fn a_publisher_comes_back_at_another_node_and_viewers_everywhere_stay() {
    let cluster = Cluster::of(&["a", "b", "c"]);
    let mut nodes = ["a", "b", "c"].map(|id| cluster.start(id));
    nodes.iter().for_each(up);
    let name = unique("origin");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewers = [1, 2].map(|at| Peer::connect(&nodes[at].whep_url(&name), Way::Receive));
    for viewer in &mut viewers {
        flows(&mut publisher, viewer, 50);
    }
    nodes[0].process.signal("KILL");
    let mut publisher = until("another node takes it", LIMIT, || {
        let known = nodes[1].stream(&name).is_some_and(|it| it["publish"]["active"] == true);
        (!known).then(|| Peer::connect(&nodes[1].whip_url(&name), Way::Send))
    });
    for viewer in &mut viewers {
        flows(&mut publisher, viewer, 50);
        assert_eq!(viewer.closed, None);
    }
    nodes[1].assert_well();
    nodes[2].assert_well();
}

#[test]
fn what_goes_in_at_an_uplink_is_watched_behind_its_node() {
    let cluster = Cluster::linked(&["ab"]);
    cluster.certify("ca", "u", "u");
    let uplinks = ("cluster.uplinks", "[\"u\"]");
    let nodes = ["a", "b"].map(|id| cluster.start_with(id, id, &[uplinks]));
    let listen = node::free_tcp();
    let mut command = std::process::Command::new(node::binary());
    command.args(["uplink", "--listen", &listen.to_string(), "--to"]);
    command.arg(format!("a=127.0.0.1:{}", cluster.port("a"))).arg("--certs");
    command.arg(cluster.file("u", "node.pem").parent().expect("it is in a folder"));
    let uplink = Process::start(&unique("uplink"), &mut command);
    until("the uplink is there", LIMIT, || uplink.output().contains("Encoders publish to").then_some(()));
    let name = unique("up");
    let _encoder = Publisher::start(listen, &name);
    let response = until("it is watched at b", LIMIT, || {
        http::get_for(&nodes[1].flv_url(&name), Duration::from_secs(2)).ok().filter(|it| it.status == 200)
    });
    let flv = flv::parse(&response.body).expect("it is FLV");
    assert!(flv.tags.iter().filter(|tag| tag.kind == VIDEO).count() > 30);
    assert_eq!(nodes[1].stream(&name).expect("it is there")["path"], serde_json::json!(["u", "a"]));
}
