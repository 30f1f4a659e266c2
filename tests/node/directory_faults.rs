//! The directory in NATS when something is wrong: nodes that stop, are there twice, start alone or are no nodes; servers that are away from the start.
use crate::directory::{claim, nodes, publish_at, record};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::nats::Nats;
use support::peer::{Peer, payload};
use support::rtmp::{Client, Publisher};
use support::sdp::{self, Way};
use support::{Node, http, unique, until};

const LIMIT: Duration = Duration::from_secs(20);

fn start(cluster: &Cluster, id: &str, nats: &Nats, more: &[(&str, &str)]) -> Node {
    start_as(cluster, (id, id), &nats.urls(), more)
}

fn start_as(cluster: &Cluster, (id, folder): (&str, &str), urls: &str, more: &[(&str, &str)]) -> Node {
    let own = [("cluster.directory", "\"nats\""), ("cluster.nats", urls)];
    cluster.start_with(id, folder, &own.iter().chain(more).copied().collect::<Vec<_>>())
}

/// Tries to publish; the connection, or why not.
fn publish(node: &Node, name: &str) -> Result<Client, String> {
    publish_at(node.rtmp, name)
}

/// A packet of this sound each 5 ms, until the condition holds.
#[track_caller]
fn plays(publisher: &mut Peer, sound: &[u8], viewer: &mut Peer, mut done: impl FnMut(&Peer) -> bool) {
    until("what is published is heard", LIMIT, || {
        let packet = publisher.sound(sound);
        publisher.send(&packet);
        publisher.run(Duration::from_millis(3));
        viewer.run(Duration::from_millis(3));
        done(viewer).then_some(())
    });
}

/// Each publisher's packets are told from the one's before by their generation, wherever either was.
#[test]
fn generations_rise_from_publisher_to_publisher() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let name = unique("rises");
    let mut last = 0;
    for nth in 0..6 {
        let _encoder = until("it is free", LIMIT, || publish(&all[nth % 2], &name).ok());
        let generation =
            claim(&nats, &name).expect("it is claimed")["generation"].as_u64().expect("a number");
        assert!(generation > last, "publisher {nth}: {generation} after {last}");
        last = generation;
    }
    until("it is given back", LIMIT, || claim(&nats, &name).is_none().then_some(()));
    assert_eq!(record(&nats, &name).expect("how new it was")["generation"], last);
    // One that was newer than any clock says came and went.
    let newer = last + 3_600_000_000;
    let left = serde_json::json!({ "node": "", "boot": 0, "generation": newer });
    nats.put("millrace_streams", &format!("live/{name}"), left.to_string().as_bytes());
    let _encoder = until("it is free", LIMIT, || publish(&all[0], &name).ok());
    assert_eq!(claim(&nats, &name).expect("it is claimed")["generation"], newer + 1);
    all.iter_mut().for_each(Node::assert_well);
}

/// A node that did not hear of it: nobody who did would take its older one.
#[test]
fn a_publisher_is_ended_when_a_newer_one_was_elsewhere_and_left() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a"]);
    let mut node = start(&cluster, "a", &nats, &[]);
    nodes(&node, 1.0);
    let name = unique("outdated");
    let encoder = Publisher::start(node.rtmp, &name);
    let generation = until("it is claimed", LIMIT, || claim(&nats, &name))["generation"].as_u64();
    let left = serde_json::json!({ "node": "", "boot": 0, "generation": generation.expect("a number") + 1 });
    nats.put("millrace_streams", &format!("live/{name}"), left.to_string().as_bytes());
    until("its publisher is ended", LIMIT, || encoder.is_lost().then_some(()));
    let _next = until("the next one is taken", LIMIT, || publish(&node, &name).ok());
    let next = until("it is claimed", LIMIT, || claim(&nats, &name))["generation"].as_u64();
    assert!(next > generation.map(|it| it + 1), "{next:?} after {generation:?}");
    node.assert_well();
}

/// It stands still longer than its lease, and comes to again: two nodes have the name then, and one of them only in its own mind.
#[test]
fn a_node_that_slept_past_its_lease_ends_its_publisher() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b", "c"]);
    let mut all = ["a", "b", "c"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 3.0));
    let name = unique("slept");
    let (old, new): (&[u8], &[u8]) = (b"\xfcold", b"\xfcnew");
    let mut sleeper = Peer::connect(&all[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&all[2].whep_url(&name), Way::Receive);
    plays(&mut sleeper, old, &mut viewer, |it| it.rtp.len() > 20);
    all[0].process.signal("STOP");
    let encoder = until("its lease is over", LIMIT, || publish(&all[1], &name).ok());
    drop(encoder);
    let mut publisher = until("and b has it", LIMIT, || {
        claim(&nats, &name).is_none().then(|| Peer::connect(&all[1].whip_url(&name), Way::Send))
    });
    plays(&mut publisher, new, &mut viewer, |it| it.rtp.iter().any(|it| payload(it) == new));
    all[0].process.signal("CONT");
    plays(&mut publisher, new, &mut viewer, |_| {
        let packet = sleeper.sound(old);
        sleeper.send(&packet);
        sleeper.run(Duration::from_millis(3));
        sleeper.closed.is_some()
    });
    let count = viewer.rtp.len();
    plays(&mut publisher, new, &mut viewer, |it| it.rtp.len() > count + 50);
    // One after the other, and nothing of the one in between the other's.
    let sounds: Vec<&[u8]> = viewer.rtp.iter().map(|it| payload(it)).collect();
    let first = sounds.iter().position(|it| *it == new).expect("it was heard");
    assert!(sounds[first..].iter().all(|it| *it == new), "the old publisher was heard again");
    assert_eq!(
        (viewer.closed, claim(&nats, &name).expect("it is claimed")["node"].as_str()),
        (None, Some("b"))
    );
    all.iter_mut().for_each(Node::assert_well);
}

/// No node knows another: both take a publisher of the same name. When the servers come one of the two is left.
#[test]
fn of_two_that_began_apart_without_the_directory_one_is_left_with_it() {
    support::need!(Nats);
    let mut nats = Nats::one();
    nats.kill(0);
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    let name = unique("apart");
    let began = Instant::now();
    let encoders = [Publisher::start(all[0].rtmp, &name), Publisher::start(all[1].rtmp, &name)];
    // Both wait for the directory until 5 s after their nodes began, at the same time.
    assert!(began.elapsed() < Duration::from_secs(8), "published after {:?}", began.elapsed());
    all.iter().for_each(|node| drop(node.wait_live(&name)));
    nats.restart(0);
    all.iter().for_each(|node| nodes(node, 2.0));
    until("the older one's is ended", LIMIT, || encoders[0].is_lost().then_some(()));
    // The one that is left is what both give.
    until("a gives b's", LIMIT, || (all[0].stream(&name)?["path"] == serde_json::json!(["b"])).then_some(()));
    let flv = http::get_for(&all[0].flv_url(&name), Duration::from_secs(1)).expect("an answer");
    assert_eq!(flv.status, 200);
    assert!(!encoders[1].is_lost(), "the newer one's was ended");
    assert_eq!(claim(&nats, &name).expect("it is claimed")["node"], "b");
    all.iter_mut().for_each(Node::assert_well);
}

/// Without the directory the nodes still tell each other what they have.
#[test]
fn a_name_that_is_seen_elsewhere_is_taken_with_and_without_the_directory() {
    support::need!(Nats);
    let mut nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let a = start(&cluster, "a", &nats, &[]);
    let name = unique("seen");
    let encoder = Publisher::start(a.rtmp, &name);
    until("it is claimed", LIMIT, || claim(&nats, &name));
    // The first thing that a node does: it has not read the directory yet.
    let b = start(&cluster, "b", &nats, &[]);
    let why = publish(&b, &name).err().expect("it has a publisher");
    assert!(why.contains("at node a"), "{why}");
    nodes(&b, 2.0);
    until("b knows it", LIMIT, || {
        b.stream(&name).or_else(|| {
            http::get_for(&b.flv_url(&name), Duration::from_millis(200))
                .ok()
                .filter(|it| it.status == 200)?;
            Some(serde_json::Value::Null)
        })
    });
    nats.kill(0);
    until("b notices", LIMIT, || (b.metric("millrace_directory_connected") == 0.0).then_some(()));
    assert!(publish(&b, &name).is_err(), "it has a publisher, which b knows");
    assert!(publish(&b, &unique("free")).is_ok());
    nats.restart(0);
    nodes(&b, 2.0);
    assert!(publish(&b, &name).is_err(), "it has a publisher");
    assert!(!encoder.is_lost());
}

#[test]
fn of_two_processes_with_one_id_the_second_ends_and_says_why() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let port = support::node::free_udp();
    let elsewhere = format!("\"127.0.0.1:{port}\"");
    let mut double = start(&cluster, "a", &nats, &[("cluster.listen", &elsewhere)]);
    let ended = double.process.wait(LIMIT).expect("it ends by itself");
    assert!(!ended.success(), "{ended}");
    assert!(double.process.output().contains("another node runs with this cluster.node, a, at"));
    let record = nats.get("millrace_nodes", "a").expect("a lives").json();
    assert_eq!(record["relay"], format!("127.0.0.1:{}", cluster.port("a")));
    let name = unique("first");
    let _encoder = Publisher::start(all[0].rtmp, &name);
    assert_eq!(claim(&nats, &name).expect("it is claimed")["boot"], record["boot"]);
    assert_eq!(record["boot"], nats.get("millrace_nodes", "a").expect("a lives").json()["boot"]);
    all.iter_mut().for_each(Node::assert_well);
}

/// After a clean end nobody waits for its lease, after another one it waits for its own; either way it is taken for nobody else.
#[test]
fn a_node_that_ends_comes_back_as_itself() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut b = start(&cluster, "b", &nats, &[]);
    let mut a = start(&cluster, "a", &nats, &[]);
    nodes(&b, 2.0);
    let ended = a.terminate(LIMIT).expect("it ends");
    assert!(ended.success(), "{ended}");
    assert!(nats.get("millrace_nodes", "a").is_none(), "its record is there");
    let since = Instant::now();
    let mut a = start(&cluster, "a", &nats, &[]);
    nodes(&a, 2.0);
    assert!(since.elapsed() < Duration::from_secs(4), "it waited for {:?}", since.elapsed());
    a.process.signal("KILL");
    a.process.wait(LIMIT).expect("it ends");
    let mut a = start(&cluster, "a", &nats, &[]);
    nodes(&a, 2.0);
    a.assert_well();
    b.assert_well();
}

/// The servers do not answer meanwhile, so that all come while none has its claim; and one goes away before it has.
#[test]
fn of_those_that_come_at_once_to_one_node_one_has_the_name() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let (name, left) = (unique("once"), unique("left"));
    nats.pause(0, true);
    let gone = TcpStream::connect(all[0].http).and_then(|mut http| {
        let offer = sdp::offer(Way::Send);
        let head = format!(
            "POST /whip/live/{left} HTTP/1.1\r\nHost: a\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
            offer.len()
        );
        http.write_all(format!("{head}{offer}").as_bytes())?;
        std::thread::sleep(Duration::from_millis(300));
        http.shutdown(Shutdown::Both)
    });
    gone.expect("it is sent");
    let came: Vec<_> = std::thread::scope(|scope| {
        let come: Vec<_> = (0..4).map(|_| scope.spawn(|| publish(&all[0], &name))).collect();
        come.into_iter().map(|it| it.join().expect("no panic")).collect()
    });
    let (has, refused): (Vec<_>, Vec<_>) = came.into_iter().partition(Result::is_ok);
    assert_eq!((has.len(), refused.len()), (1, 3));
    nats.pause(0, false);
    let claimed = until("it is claimed", LIMIT, || claim(&nats, &name));
    assert_eq!(claimed["node"], "a");
    let why = publish(&all[1], &name).err().expect("it has a publisher");
    assert!(why.contains("at node a"), "{why}");
    assert!(!all[0].log().contains(&left), "it had a session");
    let _other = publish(&all[1], &left).expect("nobody has it");
    all.iter_mut().for_each(Node::assert_well);
}

/// It has not seen the directory yet, and nobody has told it of the stream.
#[test]
fn a_publisher_that_comes_before_the_directory_is_known_ends_no_other() {
    support::need!(Nats);
    let mut nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut a = start(&cluster, "a", &nats, &[]);
    nodes(&a, 1.0);
    let name = unique("older");
    let encoder = Publisher::start(a.rtmp, &name);
    until("it is claimed", LIMIT, || claim(&nats, &name));
    let generation = claim(&nats, &name).expect("it is claimed")["generation"].clone();
    nats.kill(0);
    let mut b = start(&cluster, "b", &nats, &[]);
    let why = std::thread::scope(|scope| {
        let late = scope.spawn(|| publish(&b, &name).err());
        nats.restart(0);
        late.join().expect("no panic")
    });
    let why = why.expect("it has a publisher");
    assert!(why.contains("at node a"), "{why}");
    nodes(&b, 2.0);
    assert_eq!(claim(&nats, &name).expect("it is claimed")["generation"], generation);
    assert!(!encoder.is_lost());
    a.assert_well();
    b.assert_well();
}

/// It may write into the directory, and has a certificate, but of another authority.
#[test]
fn a_node_of_another_authority_gets_nothing_by_writing_itself_into_the_directory() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b", "m"]);
    cluster.authority("other");
    cluster.certify("other", "m", "stranger");
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    let mut stranger = start_as(&cluster, ("m", "stranger"), &nats.urls(), &[]);
    all.iter().for_each(|node| nodes(node, 3.0));
    let name = unique("private");
    let _encoder = Publisher::start(all[0].rtmp, &name);
    until("b has it", LIMIT, || {
        let flv = http::get_for(&all[1].flv_url(&name), Duration::from_secs(1)).ok()?;
        (flv.status == 200).then_some(())
    });
    until("it was tried", LIMIT, || {
        stranger
            .log()
            .contains("no link to a")
            .then_some(())
            .or_else(|| all[0].log().contains("no link to m").then_some(()))
    });
    assert_ne!(
        http::get_for(&stranger.flv_url(&name), Duration::from_secs(1)).expect("an answer").status,
        200
    );
    for node in &all {
        let api = node.api("/api/v1/nodes");
        let up: BTreeSet<&str> = api["nodes"]["links"]
            .as_array()
            .expect("links")
            .iter()
            .filter(|it| it["up"] == true)
            .filter_map(|it| it["node"].as_str())
            .collect();
        assert!(!up.contains("m") && up.len() == 1, "{up:?}");
    }
    stranger.assert_well();
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn a_password_that_is_wrong_is_told_of_and_not_told() {
    support::need!(Nats);
    let nats = Nats::guarded("us:er", "r@ght/%");
    let cluster = Cluster::unlisted(&["a", "b"]);
    let urls = |password: &str| nats.urls().replace("nats://", &format!("nats://us%3Aer:{password}@"));
    let right = start_as(&cluster, ("a", "a"), &urls("r%40ght%2f%25"), &[]);
    nodes(&right, 1.0);
    let mut wrong = start_as(&cluster, ("b", "b"), &urls("wr0ng"), &[]);
    until("it says so", LIMIT, || wrong.log().contains("the directory is away").then_some(()));
    let _encoder = publish(&wrong, &unique("local")).expect("it is taken without");
    assert!(
        !wrong.log().contains("wr0ng") && !right.log().contains("r@ght") || right.log().contains("r%40ght"),
        "a password is in the log"
    );
    assert_eq!(right.metric("millrace_directory_nodes"), 1.0);
    wrong.assert_well();
}
