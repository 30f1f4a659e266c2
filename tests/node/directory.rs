//! The directory in NATS, with real servers: nodes find each other, a stream has one publisher in the cluster, and what runs does not need the directory.
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::nats::Nats;
use support::peer::Peer;
use support::rtmp::{Client, Publisher};
use support::sdp::{self, Way};
use support::{Node, http, unique, until};

const SOUND: &[u8] = b"\xfcsound";
const LIMIT: Duration = Duration::from_secs(20);

fn start(cluster: &Cluster, id: &str, servers: &Nats, more: &[(&str, &str)]) -> Node {
    let urls = servers.urls();
    let replicas = urls.split(',').count().to_string();
    let own = [
        ("cluster.directory", "\"nats\""),
        ("cluster.nats", urls.as_str()),
        ("cluster.nats_replicas", replicas.as_str()),
        ("cluster.region", "\"here\""),
    ];
    cluster.start_with(id, id, &own.iter().chain(more).copied().collect::<Vec<_>>())
}

#[track_caller]
pub fn nodes(node: &Node, count: f64) {
    until(&format!("{count} nodes are known"), LIMIT, || {
        (node.metric("millrace_directory_nodes") == count).then_some(())
    });
}

/// Tries to publish; the connection, or why not.
pub fn publish_at(at: SocketAddr, name: &str) -> Result<Client, String> {
    let mut encoder = Client::connect(at, "live")?;
    encoder.publish(name).map(|()| encoder)
}

/// What the directory has of it, be it a claim or one that was given back.
pub fn record(nats: &Nats, name: &str) -> Option<serde_json::Value> {
    nats.get("millrace_streams", &format!("live/{name}")).map(|it| it.json())
}

pub fn claim(nats: &Nats, name: &str) -> Option<serde_json::Value> {
    record(nats, name).filter(|it| it["node"] != "")
}

fn event(node: &Node, event: &str) -> f64 {
    node.metric(&format!("millrace_directory_events_total{{event=\"{event}\"}}"))
}

#[track_caller]
fn flows(publisher: &mut Peer, viewer: &mut Peer, count: usize) -> Duration {
    let want = viewer.rtp.len() + count;
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    until(&format!("{count} packets arrive"), LIMIT, || {
        let packet = publisher.sound(SOUND);
        publisher.send(&packet);
        publisher.run(Duration::from_millis(5));
        let before = viewer.rtp.len();
        viewer.run(Duration::from_millis(5));
        if viewer.rtp.len() > before {
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
        (viewer.rtp.len() >= want).then_some(())
    });
    gap
}

/// What WHIP answers.
fn whip(node: &Node, name: &str) -> (u16, String) {
    let offer = sdp::offer(Way::Send);
    let type_ = [("Content-Type", "application/sdp")];
    let answer = http::request("POST", &node.whip_url(name), &type_, offer.as_bytes()).expect("an answer");
    (answer.status, answer.text())
}

#[test]
fn nodes_find_each_other_and_a_stream_has_one_publisher() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b", "c"]);
    let mut all = ["a", "b", "c"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 3.0));
    let told = all[0].api("/api/v1/nodes")["nodes"]["directory"].clone();
    assert_eq!((&told["connected"], &told["nodes"][1]["id"]), (&true.into(), &"c".into()), "{told}");
    assert_eq!(
        (&told["nodes"][0]["region"], &told["nodes"][0]["load"]["viewers"]),
        (&"here".into(), &0.into())
    );
    let name = unique("found");
    let mut publisher = until("a has it", LIMIT, || Some(Peer::connect(&all[0].whip_url(&name), Way::Send)));
    let mut viewers = [1, 2].map(|at| Peer::connect(&all[at].whep_url(&name), Way::Receive));
    for viewer in &mut viewers {
        flows(&mut publisher, viewer, 50);
    }
    // Neither WebRTC nor RTMP has it at another node.
    let (status, why) = whip(&all[1], &name);
    assert_eq!((status, why.contains("at node a")), (409, true), "{why}");
    let mut encoder = Client::connect(all[2].rtmp, "live").expect("it connects");
    let why = encoder.publish(&name).expect_err("it has a publisher");
    assert!(why.contains("at node a"), "{why}");
    assert_eq!((event(&all[0], "claimed"), event(&all[1], "refused")), (1.0, 1.0));
    // Given back: anybody may.
    http::request("DELETE", &publisher.session, &[], b"").expect("an answer");
    let mut publisher = until("b may", LIMIT, || {
        let (status, _) = whip(&all[1], &name);
        (status == 201).then(|| {
            let clients = all[1].api("/api/v1/clients");
            let client =
                clients["clients"].as_array().unwrap().iter().find(|it| it["publish"] == true).unwrap();
            let id = client["id"].as_str().unwrap().to_owned();
            http::request("DELETE", &all[1].url(&format!("/api/v1/clients/{id}")), &[], b"")
                .expect("an answer");
        })?;
        Some(Peer::connect(&all[2].whip_url(&unique("other")), Way::Send))
    });
    publisher.run(Duration::from_millis(20));
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn of_two_that_claim_at_once_one_has_it() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    for _ in 0..10 {
        let name = unique("race");
        let answers: Vec<u16> = std::thread::scope(|scope| {
            let tries = [&all[0], &all[1]].map(|node| scope.spawn(|| whip(node, &name).0));
            tries.map(|it| it.join().expect("no panic")).into()
        });
        let mut sorted = answers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [201, 409], "{answers:?}");
    }
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn a_dead_nodes_streams_are_free_after_its_lease_and_it_comes_back_as_itself() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let (mut a, b) = (start(&cluster, "a", &nats, &[]), start(&cluster, "b", &nats, &[]));
    nodes(&b, 2.0);
    let name = unique("lease");
    let mut publisher = Peer::connect(&a.whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&b.whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(whip(&b, &name).0, 409);
    a.process.signal("KILL");
    assert!(a.process.wait(LIMIT).is_some());
    let killed = Instant::now();
    let mut publisher = until("b may have it", LIMIT, || {
        // A lease of six seconds, of which up to two had passed.
        std::panic::catch_unwind(|| Peer::connect(&b.whip_url(&name), Way::Send)).ok()
    });
    assert!(killed.elapsed() > Duration::from_secs(3), "after {:?}", killed.elapsed());
    flows(&mut publisher, &mut viewer, 20);
    assert_eq!(viewer.closed, None, "its session went on");
    let a = start(&cluster, "a", &nats, &[]);
    nodes(&a, 2.0);
    let mut behind = Peer::connect(&a.whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut behind, 20);
}

#[test]
fn a_new_publisher_takes_over_from_one_at_another_node_where_it_may() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b", "c"]);
    let replace = [("stream.replace_publisher", "true")];
    let mut all = ["a", "b", "c"].map(|id| start(&cluster, id, &nats, &replace));
    all.iter().for_each(|node| nodes(node, 3.0));
    let name = unique("over");
    let mut old = Peer::connect(&all[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&all[2].whep_url(&name), Way::Receive);
    flows(&mut old, &mut viewer, 20);
    let mut publisher = Peer::connect(&all[1].whip_url(&name), Way::Send);
    until("the old one is ended", LIMIT, || {
        old.run(Duration::from_millis(20));
        old.closed
    });
    flows(&mut publisher, &mut viewer, 50);
    assert_eq!((event(&all[0], "lost"), viewer.closed), (1.0, None));
    assert_eq!(all[2].stream(&name).expect("it is there")["path"][0], "b");
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn without_the_directory_what_runs_goes_on_and_after_it_all_is_as_before() {
    support::need!(Nats);
    let mut nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let name = unique("runs");
    let mut publisher = Peer::connect(&all[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&all[1].whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 50);
    nats.kill(0);
    until("both notice", LIMIT, || {
        flows(&mut publisher, &mut viewer, 10);
        all.iter().all(|node| node.metric("millrace_directory_connected") == 0.0).then_some(())
    });
    // Longer than a lease.
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(8) {
        let gap = flows(&mut publisher, &mut viewer, 50);
        assert!(gap < Duration::from_millis(500), "nothing for {gap:?}");
    }
    // A publisher that comes meanwhile is taken, and watched elsewhere.
    let meanwhile = unique("meanwhile");
    let _encoder = Publisher::start(all[1].rtmp, &meanwhile);
    until("a has it", LIMIT, || {
        let flv = http::get_for(&all[0].flv_url(&meanwhile), Duration::from_secs(1)).ok()?;
        (flv.status == 200).then_some(())
    });
    assert_eq!(event(&all[1], "unclaimed"), 1.0);
    // The servers lost everything.
    nats.forget(0);
    nats.restart(0);
    all.iter().for_each(|node| nodes(node, 2.0));
    until("the claims are there again", LIMIT, || {
        flows(&mut publisher, &mut viewer, 10);
        all.iter().all(|node| event(node, "reclaimed") >= 1.0).then_some(())
    });
    assert_eq!(whip(&all[1], &name).0, 409);
    assert_eq!(whip(&all[0], &meanwhile).0, 409);
    assert_eq!(viewer.closed, None);
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn one_of_three_servers_may_die() {
    support::need!(Nats);
    let mut nats = Nats::quorum();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let name = unique("first");
    let _first = Peer::connect(&all[0].whip_url(&name), Way::Send);
    for dead in 0..3 {
        nats.kill(dead);
        // Claims are written again, however the servers stand.
        until("a claim is written", LIMIT, || {
            let before = event(&all[1], "claimed");
            let (status, _) = whip(&all[1], &unique("more"));
            (status == 201 && event(&all[1], "claimed") > before).then_some(())
        });
        until("the first one's is still known", LIMIT, || (whip(&all[1], &name).0 == 409).then_some(()));
        nats.restart(dead);
    }
    all.iter_mut().for_each(Node::assert_well);
}

#[test]
fn rubbish_in_the_directory_hurts_nobody() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let name = unique("good");
    let mut publisher = Peer::connect(&all[0].whip_url(&name), Way::Send);
    let mut viewer = Peer::connect(&all[1].whep_url(&name), Way::Receive);
    flows(&mut publisher, &mut viewer, 20);
    // A node that is none listens there: whoever it is shows no certificate.
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
    let at = stranger.local_addr().expect("it is bound");
    let record = |id: &str| format!("{{\"id\":\"{id}\",\"boot\":1,\"relay\":\"{at}\"}}");
    nats.put("millrace_nodes", "x", record("x").as_bytes());
    nats.put("millrace_nodes", "y", record("x").as_bytes());
    nats.put("millrace_nodes", "z", b"{\"id\":");
    nats.put("millrace_nodes", "w", &[b'['; 3_000]);
    let wanted = unique("wanted");
    let stolen = "{\"node\":\"x\",\"boot\":1,\"generation\":1}";
    nats.put("millrace_streams", &format!("live/{wanted}"), stolen.as_bytes());
    let broken = unique("broken");
    nats.put("millrace_streams", &format!("live/{broken}"), b"no claim");
    nats.put("millrace_streams", "nothing", b"{}");
    until("it is seen", LIMIT, || {
        flows(&mut publisher, &mut viewer, 5);
        (all[1].metric("millrace_directory_rubbish") >= 5.0).then_some(())
    });
    // Whoever may write there may also claim: for as long as its record lives, and no longer.
    assert_eq!(whip(&all[0], &wanted).0, 409);
    assert_eq!(whip(&all[0], &broken).0, 201, "what is no claim is nobody's");
    until("the stranger's lease is over", LIMIT, || {
        flows(&mut publisher, &mut viewer, 5);
        (whip(&all[0], &wanted).0 == 201).then_some(())
    });
    let links = all[0].api("/api/v1/nodes")["nodes"]["links"].to_string();
    assert!(!links.contains("\"x\""), "{links}");
    all.iter_mut().for_each(Node::assert_well);
}

/// An uplink is no node of the directory: the node that it leads to claims for it.
#[test]
fn what_goes_in_at_an_uplink_is_claimed_by_its_node() {
    support::need!(Nats);
    let nats = Nats::one();
    let cluster = Cluster::unlisted(&["a", "b"]);
    cluster.certify("ca", "u", "u");
    let mut all = ["a", "b"].map(|id| start(&cluster, id, &nats, &[("cluster.uplinks", "[\"u\"]")]));
    all.iter().for_each(|node| nodes(node, 2.0));
    let (uplink, listen) = cluster.uplink("u", &format!("a=127.0.0.1:{}", cluster.port("a")));
    until("the uplink is there", LIMIT, || uplink.output().contains("Encoders publish to").then_some(()));
    let (first, second) = (unique("first"), unique("second"));
    let encoder = Publisher::start(listen, &first);
    let claimed = until("it is claimed", LIMIT, || claim(&nats, &first));
    assert_eq!(claimed["node"], "a");
    let why = publish_at(all[1].rtmp, &first).err().expect("it has a publisher");
    assert!(why.contains("at node a"), "{why}");
    let _other = Publisher::start(all[1].rtmp, &second);
    until("it is claimed", LIMIT, || claim(&nats, &second));
    let why = publish_at(listen, &second).err().expect("it has a publisher");
    assert!(why.contains("at node b"), "{why}");
    assert!(!encoder.is_lost());
    drop(encoder);
    // It would be taken at once if it were nobody's, and after ten seconds if it were only forgotten.
    let since = Instant::now();
    let _next = until("the name is free", LIMIT, || publish_at(all[1].rtmp, &first).ok());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(claim(&nats, &first).expect("it is claimed")["node"], "b");
    all.iter_mut().for_each(Node::assert_well);
}
