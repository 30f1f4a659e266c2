//! Nodes that are far from each other, over ways that lose: what viewers miss when a node on the way is killed, stops, or is cut off.
use link::{Config, Loss};
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::peer::{Peer, payload};
use support::sdp::Way;
use support::{Node, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
/// A round trip of 50 ms, and a packet of a hundred lost each way.
const FAR: Config = Config {
    delay_us: 25_000,
    jitter_us: 0,
    reorder: false,
    loss: Loss::Random { per_mille: 10 },
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 0,
    outage: false,
};
const CUT: Config = Config { outage: true, ..FAR };
/// Of the diamond.
const LINKS: &[&str] = &["ab", "ac", "bd", "cd"];

/// `a` to `d` over `b` or `c`.
struct Diamond {
    cluster: Cluster,
    nodes: [Node; 4],
    standby: bool,
    name: String,
    publisher: Peer,
    viewer: Peer,
    nth: u32,
}

#[track_caller]
fn up(node: &Node) {
    until("all links are up", LIMIT, || {
        let nodes = node.api("/api/v1/nodes");
        nodes["nodes"]["links"].as_array().expect("links").iter().all(|it| it["up"] == true).then_some(())
    });
}

fn start(cluster: &Cluster, id: &str, standby: bool) -> Node {
    cluster.start_with(id, id, &[("cluster.standby", if standby { "true" } else { "false" })])
}

impl Diamond {
    fn start(name: &str, seed: u64) -> Diamond {
        Diamond::over(name, seed, FAR, true)
    }

    /// Whether nodes have streams held by a second one.
    fn over(name: &str, seed: u64, way: Config, standby: bool) -> Diamond {
        Diamond::on(name, Cluster::linked(LINKS).over(way, seed), standby)
    }

    fn on(name: &str, cluster: Cluster, standby: bool) -> Diamond {
        let nodes = ["a", "b", "c", "d"].map(|id| start(&cluster, id, standby));
        nodes.iter().for_each(up);
        let name = unique(name);
        let publisher = Peer::connect(&nodes[0].whip_url(&name), Way::Send);
        let viewer = Peer::connect(&nodes[3].whep_url(&name), Way::Receive);
        let mut diamond = Diamond { cluster, nodes, standby, name, publisher, viewer, nth: 0 };
        diamond.flows(100);
        diamond
    }

    /// The node on the way, by its index.
    fn way(&self) -> usize {
        let path = self.nodes[3].stream(&self.name).expect("it is there")["path"].clone();
        path[1].as_str().map(|id| usize::from(id == "c") + 1).unwrap_or_else(|| panic!("the way is {path}"))
    }

    /// Sound each 10 ms, until so many more arrived; the longest time without one.
    #[track_caller]
    fn flows(&mut self, count: usize) -> Duration {
        let want = self.viewer.rtp.len() + count;
        self.gap_until(|viewer| viewer.rtp.len() >= want)
    }

    #[track_caller]
    fn gap_until(&mut self, done: impl Fn(&Peer) -> bool) -> Duration {
        let (began, mut last, mut gap) = (Instant::now(), Instant::now(), Duration::ZERO);
        while !done(&self.viewer) {
            assert!(began.elapsed() < LIMIT, "none for {:?}", last.elapsed());
            self.nth += 1;
            let packet = self.publisher.sound(&self.nth.to_be_bytes());
            self.publisher.send(&packet);
            self.publisher.run(Duration::from_millis(4));
            let before = self.viewer.rtp.len();
            self.viewer.run(Duration::from_millis(4));
            if self.viewer.rtp.len() > before {
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
        }
        assert_eq!(self.viewer.closed, None);
        gap
    }

    /// The node starts again, and stands beside the way.
    fn start_again(&mut self, node: usize) {
        self.nodes[node] = start(&self.cluster, ["a", "b", "c", "d"][node], self.standby);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            self.flows(20);
        }
        up(&self.nodes[node]);
    }

    /// Tracks that are held for the viewer's node.
    fn held(&self) -> u64 {
        let nodes = self.nodes[3].api("/api/v1/nodes");
        let links = nodes["nodes"]["links"].as_array().expect("links");
        links.iter().map(|it| it["held_there"].as_u64().expect("a count")).sum()
    }

    /// By the viewer's numbers what was sent is in its order, and nothing between the first and the last is missing.
    fn in_order_and_whole(&self) {
        let mut heard: Vec<(u16, u32)> = self
            .viewer
            .rtp
            .iter()
            .map(|it| {
                let seq = u16::from_be_bytes([it[2], it[3]]);
                (seq, u32::from_be_bytes(payload(it).try_into().expect("a number")))
            })
            .collect();
        let first = heard[0].0;
        heard.sort_by_key(|(seq, _)| seq.wrapping_sub(first).cast_signed());
        let holes: Vec<_> = heard.windows(2).filter(|two| two[1].1 != two[0].1 + 1).collect();
        assert!(holes.is_empty(), "{holes:?}");
    }

    /// Nothing came twice.
    fn each_once(&self) {
        let mut heard: Vec<u32> = self
            .viewer
            .rtp
            .iter()
            .map(|it| u32::from_be_bytes(payload(it).try_into().expect("a number")))
            .collect();
        let count = heard.len();
        heard.sort_unstable();
        heard.dedup();
        assert!(heard.len() == count && count > 500, "{count} packets, {} of them different", heard.len());
    }
}

#[test]
fn a_node_on_the_way_is_killed_again_and_again() {
    let mut diamond = Diamond::start("far-killed", 1);
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let on_the_way = diamond.way();
        diamond.nodes[on_the_way].process.signal("KILL");
        gaps.push(diamond.flows(150));
        assert_ne!(diamond.way(), on_the_way);
        diamond.start_again(on_the_way);
    }
    println!("gaps at kill -9: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(1)), "{gaps:?}");
    diamond.each_once();
}

/// What viewers miss at three kills, in order; the second node has not taken the stream before, and holds it or does not.
fn gaps_of(standby: bool) -> Vec<Duration> {
    const FARTHER: Config = Config { delay_us: 60_000, loss: Loss::Random { per_mille: 0 }, ..FAR };
    let mut diamond = Diamond::over("far-held", 4, FARTHER, standby);
    let mut gaps = Vec::new();
    for _ in 0..3 {
        until("the second node is as it should be", LIMIT, || {
            diamond.flows(10);
            (diamond.held() == if standby { 2 } else { 0 }).then_some(())
        });
        let on_the_way = diamond.way();
        diamond.nodes[on_the_way].process.signal("KILL");
        gaps.push(diamond.flows(150));
        diamond.start_again(on_the_way);
    }
    diamond.each_once();
    gaps.sort();
    gaps
}

#[test]
fn what_is_held_comes_a_round_trip_sooner_when_a_node_is_killed() {
    let gaps = std::thread::scope(|scope| {
        [false, true]
            .map(|standby| scope.spawn(move || gaps_of(standby)))
            .map(|it| it.join().expect("no panic"))
    });
    println!("gaps at kill -9 without and with a standby: {gaps:?}");
    // A round trip of the link between the second node and the publisher's is 120 ms.
    assert!(gaps[1][1] + Duration::from_millis(30) < gaps[0][1], "cold and held: {gaps:?}");
}

#[test]
fn nodes_on_the_way_stop_one_after_the_other() {
    let mut diamond = Diamond::start("far-stops", 2);
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let on_the_way = diamond.way();
        diamond.nodes[on_the_way].process.signal("TERM");
        let mut gap = diamond.flows(100);
        while diamond.nodes[on_the_way].process.ended().is_none() {
            gap = gap.max(diamond.flows(20));
        }
        gaps.push(gap.max(diamond.flows(100)));
        assert_ne!(diamond.way(), on_the_way);
        diamond.start_again(on_the_way);
    }
    println!("gaps at SIGTERM: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(200)), "{gaps:?}");
    diamond.each_once();
}

#[test]
fn a_link_on_the_way_is_cut_and_heals() {
    let mut diamond = Diamond::start("far-cut", 3);
    let mut gaps = Vec::new();
    // From the publisher's node, towards it, and both.
    for cut in [[CUT, FAR], [FAR, CUT], [CUT, CUT]] {
        let on_the_way = ["a", "b", "c"][diamond.way()];
        diamond.cluster.wire("a", on_the_way).set(cut);
        gaps.push(diamond.flows(150));
        diamond.cluster.wire("a", on_the_way).set([FAR, FAR]);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            diamond.flows(20);
        }
        until("the link is there again", LIMIT, || {
            diamond.flows(10);
            let nodes = diamond.nodes[0].api("/api/v1/nodes");
            nodes["nodes"]["links"].as_array().expect("links").iter().all(|it| it["up"] == true).then_some(())
        });
    }
    println!("gaps at a cut: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(1)), "{gaps:?}");
    diamond.each_once();
    diamond.nodes.iter_mut().for_each(Node::assert_well);
}

/// A way that loses nothing, of so many milliseconds.
fn whole(delay_ms: i64) -> Config {
    Config { delay_us: delay_ms * 1_000, loss: Loss::Random { per_mille: 0 }, ..FAR }
}

#[test]
fn the_cheaper_way_is_taken_and_left_when_it_is_dearer_without_a_hole() {
    let cluster = Cluster::linked(LINKS).over(whole(5), 5);
    for (a, b) in [("a", "b"), ("b", "d")] {
        cluster.wire(a, b).set([whole(20), whole(20)]);
    }
    let mut diamond = Diamond::on("cheaper", cluster, true);
    // `b` may have been the first that was heard of.
    let began = Instant::now();
    while diamond.way() != 2 {
        assert!(began.elapsed() < 2 * LIMIT, "it comes by the dearer way");
        diamond.flows(20);
    }
    let better = "millrace_relay_switches_total{reason=\"better\"}";
    let before = diamond.nodes[3].metric(better);
    diamond.cluster.wire("c", "d").set([whole(150), whole(150)]);
    let mut gap = Duration::ZERO;
    let began = Instant::now();
    while diamond.way() != 1 {
        assert!(began.elapsed() < 3 * LIMIT, "it still comes by what is the dearer way now");
        gap = gap.max(diamond.flows(20));
    }
    let took = began.elapsed();
    gap = gap.max(diamond.flows(300));
    println!("left after {took:?}, longest gap {gap:?}");
    assert!(took > Duration::from_secs(10), "a way that is dearer for a moment is left: {took:?}");
    // The way itself is 145 ms longer from one moment to the next.
    assert!(gap < Duration::from_millis(600), "the viewer had nothing for {gap:?}");
    until("the sound has moved", LIMIT, || (diamond.nodes[3].metric(better) >= before + 1.0).then_some(()));
    diamond.each_once();
    diamond.in_order_and_whole();
    diamond.nodes.iter_mut().for_each(Node::assert_well);
}
