//! Sound in the other form is made once for the whole cluster, where the stream is published, and crosses as a track of its own.
use std::collections::HashMap;
use std::time::Duration;
use support::cluster::Cluster;
use support::flv::{AUDIO, Tag, VIDEO};
use support::peer::{Peer, payload};
use support::rtmp::{Client, Publisher};
use support::sdp::Way;
use support::{Node, flv, http, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
const OPUS: u8 = 111;
const H264: u8 = 102;
/// 20 ms of silence in Opus.
const SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];

#[track_caller]
fn up(node: &Node) {
    until("all links are up", LIMIT, || {
        let nodes = node.api("/api/v1/nodes");
        nodes["nodes"]["links"].as_array().expect("links").iter().all(|it| it["up"] == true).then_some(())
    });
}

/// How many conversions run at each node, of those of sound.
fn conversions(nodes: &[Node], way: &str) -> Vec<f64> {
    nodes.iter().map(|node| node.metric(&format!("millrace_conversions{{conversion=\"{way}\"}}"))).collect()
}

fn tracks_in(node: &Node) -> u64 {
    let nodes = node.api("/api/v1/nodes");
    let links = nodes["nodes"]["links"].as_array().expect("links");
    links.iter().map(|link| link["tracks_in"].as_u64().expect("a count")).sum()
}

fn of(viewer: &Peer, kind: u8) -> impl Iterator<Item = &[u8]> {
    viewer.rtp.iter().filter(move |packet| packet[1] & 0x7f == kind).map(Vec::as_slice)
}

/// Waits until so many packets of sound more came to each.
#[track_caller]
fn hear(viewers: &mut [Peer], count: usize) {
    let want: Vec<usize> = viewers.iter().map(|viewer| of(viewer, OPUS).count() + count).collect();
    until(&format!("{count} packets of sound more come to all"), LIMIT, || {
        viewers.iter_mut().for_each(|viewer| viewer.run(Duration::from_millis(20)));
        viewers.iter().zip(&want).all(|(viewer, want)| of(viewer, OPUS).count() >= *want).then_some(())
    });
}

/// They say so, and are gone at once.
fn leave(viewers: impl IntoIterator<Item = Peer>) {
    for viewer in viewers {
        let gone = http::request("DELETE", &viewer.session, &[], b"").expect("an answer");
        assert_eq!(gone.status, 200, "{}", gone.text());
    }
}

/// How much later the same was captured by the one than by the other, in seconds: the median of those packets.
fn apart(viewers: [&Peer; 2], kind: u8) -> f64 {
    // Silence, small pictures and parameter sets are alike.
    let long = if kind == OPUS { 60 } else { 300 };
    let [one, other] = viewers.map(|viewer| -> HashMap<&[u8], f64> {
        let packets = of(viewer, kind).filter(|packet| payload(packet).len() > long);
        packets.filter_map(|packet| Some((payload(packet), viewer.captured(packet)?))).collect()
    });
    let mut apart: Vec<f64> = other.iter().filter_map(|(payload, at)| Some(at - one.get(payload)?)).collect();
    assert!(apart.len() > 20, "{} packets of type {kind} came to both", apart.len());
    apart.sort_by(f64::total_cmp);
    apart[apart.len() / 2]
}

/// How far sound and picture of the second came apart against the first.
#[track_caller]
fn assert_in_step(viewers: [&Peer; 2]) {
    let [sound, picture] = [OPUS, H264].map(|kind| apart(viewers, kind));
    println!("captured apart: sound {sound:.4} s, picture {picture:.4} s");
    assert!((sound - picture).abs() < 0.01, "sound is {sound} s apart, the picture {picture} s");
}

#[test]
fn opus_of_an_rtmp_stream_is_made_once_where_it_is_published() {
    let cluster = Cluster::linked(&["ab", "bc"]);
    let mut nodes: Vec<Node> = ["a", "b", "c"].iter().map(|id| cluster.start(id)).collect();
    nodes.iter().for_each(up);
    let name = unique("opus-once");
    let publisher = Publisher::start(nodes[0].rtmp, &name);
    nodes[0].wait_live(&name);
    let mut viewers: Vec<Peer> =
        [1, 2, 0].map(|at: usize| Peer::connect(&nodes[at].whep_url(&name), Way::Receive)).into();
    hear(&mut viewers, 50);
    assert_eq!(conversions(&nodes, "aac_to_opus"), [1.0, 0.0, 0.0]);
    assert_eq!(tracks_in(&nodes[1]), 2, "the picture and Opus, no AAC");
    assert_eq!(tracks_in(&nodes[2]), 2);
    // Reports have come, and the GOP that a viewer begins with is behind: the same packets, captured when they are at the publisher's node.
    viewers.iter_mut().for_each(|viewer| viewer.rtp.clear());
    hear(&mut viewers, 200);
    for at in [0, 1] {
        assert_in_step([&viewers[2], &viewers[at]]);
    }
    // Who takes frames has AAC beside it, while it takes them.
    let mut player = Client::connect(nodes[1].rtmp, "live").expect("a player connects");
    player.play(&name).expect("it plays");
    let played = player.collect(Duration::from_secs(2));
    for kind in [AUDIO, VIDEO] {
        let frames = played.iter().filter(|it| it.tag.kind == kind && !it.tag.is_header()).count();
        assert!(frames > 40, "{frames} frames of type {kind}");
    }
    assert_eq!((tracks_in(&nodes[1]), tracks_in(&nodes[2])), (3, 2));
    drop(player);
    until("AAC is taken no more", LIMIT, || (tracks_in(&nodes[1]) == 2).then_some(()));
    // The publisher is back, by another connection: another generation.
    drop(publisher);
    let _publisher = until("the publisher is back", LIMIT, || {
        let mut client = Client::connect(nodes[0].rtmp, "live").ok()?;
        client.publish(&name).ok()?;
        Some(Publisher::over(client, flv::clip().tags))
    });
    hear(&mut viewers, 100);
    viewers.iter_mut().for_each(|viewer| viewer.rtp.clear());
    hear(&mut viewers, 200);
    for at in [0, 1] {
        assert_in_step([&viewers[2], &viewers[at]]);
    }
    assert_eq!(conversions(&nodes, "aac_to_opus"), [1.0, 0.0, 0.0]);
    // The viewer there is gone; those elsewhere hold it.
    leave(viewers.pop());
    hear(&mut viewers, 50);
    assert_eq!(conversions(&nodes, "aac_to_opus"), [1.0, 0.0, 0.0]);
    leave(viewers);
    until("the conversion ends with the last who takes it", LIMIT, || {
        (conversions(&nodes, "aac_to_opus") == [0.0; 3]).then_some(())
    });
    let instead = "millrace_conversions_instead_total{conversion=\"aac_to_opus\"}";
    assert!(nodes.iter().all(|node| node.metric(instead) == 0.0));
    nodes.iter_mut().for_each(Node::assert_well);
}

/// An RTMP player, and what came of sound.
struct Player {
    client: Client,
    sound: Vec<Tag>,
}

impl Player {
    #[track_caller]
    fn of(node: &Node, name: &str) -> Player {
        let mut client = Client::connect(node.rtmp, "live").expect("a player connects");
        client.play(name).expect("it plays");
        Player { client, sound: Vec::new() }
    }

    fn take(&mut self) {
        let tags = self.client.collect(Duration::from_millis(1)).into_iter().map(|it| it.tag);
        self.sound.extend(tags.filter(|tag| tag.kind == AUDIO && !tag.is_header()));
    }
}

/// Sound of a publisher, until so many frames more came of it to each player in AAC. From the first on none is missing: of 1024 samples at 48 kHz.
#[track_caller]
fn listen(publisher: &mut Peer, players: &mut [Player], count: usize) {
    let want: Vec<usize> = players.iter().map(|player| player.sound.len() + count).collect();
    until(&format!("{count} frames of AAC more come to all"), LIMIT, || {
        let packet = publisher.sound(&SILENCE);
        publisher.send(&packet);
        publisher.run(Duration::from_millis(20));
        players.iter_mut().for_each(Player::take);
        players.iter().zip(&want).all(|(player, want)| player.sound.len() >= *want).then_some(())
    });
    for player in players {
        assert!(player.sound.iter().all(|tag| tag.body[0] >> 4 == 10), "it is AAC");
        let steps = player.sound.windows(2).map(|pair| pair[1].time - pair[0].time);
        assert!(steps.clone().all(|step| (18..=25).contains(&step)), "{:?}", steps.collect::<Vec<_>>());
    }
}

#[test]
fn aac_of_a_browsers_stream_is_made_once_where_it_is_published() {
    let cluster = Cluster::linked(&["ab", "bc"]);
    let mut nodes: Vec<Node> = ["a", "b", "c"].iter().map(|id| cluster.start(id)).collect();
    nodes.iter().for_each(up);
    let name = unique("aac-once");
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut viewer = vec![Peer::connect(&nodes[2].whep_url(&name), Way::Receive)];
    let mut players: Vec<Player> = [1, 2].map(|at: usize| Player::of(&nodes[at], &name)).into();
    listen(&mut publisher, &mut players, 20);
    listen(&mut publisher, &mut players, 100);
    assert_eq!(conversions(&nodes, "opus_to_aac"), [1.0, 0.0, 0.0]);
    // And Opus as it is for who takes packets.
    viewer[0].run(Duration::from_millis(10));
    assert!(of(&viewer[0], OPUS).count() > 100, "{}", of(&viewer[0], OPUS).count());
    // A player where it is published is one more who takes it, and its pictures disturb nobody's sound.
    players.push(Player::of(&nodes[0], &name));
    listen(&mut publisher, &mut players, 60);
    assert_eq!(conversions(&nodes, "opus_to_aac"), [1.0, 0.0, 0.0]);
    drop(players);
    until("the conversion ends with the last who takes it", LIMIT, || {
        listen(&mut publisher, &mut [], 0);
        (conversions(&nodes, "opus_to_aac") == [0.0; 3]).then_some(())
    });
    leave(viewer);
    let instead = "millrace_conversions_instead_total{conversion=\"opus_to_aac\"}";
    assert!(nodes.iter().all(|node| node.metric(instead) == 0.0));
    nodes.iter_mut().for_each(Node::assert_well);
}

/// Which of the two in the middle is on the way to the last of a diamond.
fn way(nodes: &[Node], name: &str) -> usize {
    match nodes[3].stream(name).expect("it is there")["path"][1].as_str() {
        Some("b") => 1,
        Some("c") => 2,
        other => panic!("the way is {other:?}"),
    }
}

fn diamond() -> Vec<Node> {
    let cluster = Cluster::linked(&["ab", "ac", "bd", "cd"]);
    let nodes: Vec<Node> = ["a", "b", "c", "d"].iter().map(|id| cluster.start(id)).collect();
    nodes.iter().for_each(up);
    nodes
}

/// Asserts that the stream comes by another way than that of the killed node, which is taken out, and is converted once.
#[track_caller]
fn assert_other_way(mut nodes: Vec<Node>, name: &str, killed: usize, conversion: &str) {
    assert_ne!(way(&nodes, name), killed);
    nodes.remove(killed);
    assert_eq!(conversions(&nodes, conversion), [1.0, 0.0, 0.0]);
    nodes.iter_mut().for_each(Node::assert_well);
}

#[test]
fn opus_that_is_made_elsewhere_goes_on_by_another_way_with_nothing_lost() {
    let (nodes, name) = (diamond(), unique("opus-goes-on"));
    let _encoder = Publisher::start(nodes[0].rtmp, &name);
    nodes[0].wait_live(&name);
    let mut viewers = [Peer::connect(&nodes[3].whep_url(&name), Way::Receive)];
    hear(&mut viewers, 50);
    viewers[0].rtp.clear();
    let killed = way(&nodes, &name);
    nodes[killed].process.signal("KILL");
    hear(&mut viewers, 150);
    let time = |packet: &[u8]| u32::from_be_bytes(packet[4..8].try_into().expect("an RTP header"));
    let times: Vec<u32> = of(&viewers[0], OPUS).map(time).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 960), "{times:?}");
    assert_other_way(nodes, &name, killed, "aac_to_opus");
}

#[test]
fn aac_that_is_made_elsewhere_goes_on_by_another_way_with_nothing_lost() {
    let (nodes, name) = (diamond(), unique("aac-goes-on"));
    let mut publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
    let mut players = [Player::of(&nodes[3], &name)];
    listen(&mut publisher, &mut players, 20);
    let killed = way(&nodes, &name);
    nodes[killed].process.signal("KILL");
    listen(&mut publisher, &mut players, 120);
    assert_other_way(nodes, &name, killed, "opus_to_aac");
}

/// An uplink converts nothing, beside an encoder and before a narrow link: its node does, for all.
#[test]
fn sound_from_an_uplink_is_converted_at_its_node() {
    let cluster = Cluster::linked(&["ab", "bc"]);
    cluster.certify("ca", "u", "u");
    let uplinks = [("cluster.uplinks", "[\"u\"]")];
    let mut nodes = vec![cluster.start_with("a", "a", &uplinks), cluster.start("b"), cluster.start("c")];
    nodes[1..].iter().for_each(up);
    let (process, listen) = cluster.uplink("u", &format!("a=127.0.0.1:{}", cluster.port("a")));
    until("the uplink says where to publish", LIMIT, || {
        process.output().contains("Encoders publish to").then_some(())
    });
    let name = unique("uplinked");
    let _publisher = Publisher::start(listen, &name);
    // Taken elsewhere first, so that what begins at its node later is not the stream's beginning.
    until("the stream is known at the last", LIMIT, || {
        let seen = http::get_for(&nodes[2].flv_url(&name), Duration::from_secs(3)).ok()?;
        (seen.status == 200).then_some(())
    });
    // At first nobody at its node.
    let mut viewers: Vec<Peer> =
        [1, 2].map(|at: usize| Peer::connect(&nodes[at].whep_url(&name), Way::Receive)).into();
    hear(&mut viewers, 50);
    viewers.push(Peer::connect(&nodes[0].whep_url(&name), Way::Receive));
    hear(&mut viewers, 50);
    assert_eq!(conversions(&nodes, "aac_to_opus"), [1.0, 0.0, 0.0]);
    until("two tracks cross each link", LIMIT, || {
        nodes.iter().all(|node| tracks_in(node) == 2).then_some(())
    });
    viewers.iter_mut().for_each(|viewer| viewer.rtp.clear());
    hear(&mut viewers, 200);
    for at in [0, 1] {
        assert_in_step([&viewers[2], &viewers[at]]);
    }
    leave(viewers);
    until("the conversion ends with the last who takes it", LIMIT, || {
        (conversions(&nodes, "aac_to_opus") == [0.0; 3]).then_some(())
    });
    let instead = "millrace_conversions_instead_total{conversion=\"aac_to_opus\"}";
    assert!(nodes.iter().all(|node| node.metric(instead) == 0.0));
    nodes.iter_mut().for_each(Node::assert_well);
}
