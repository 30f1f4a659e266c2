//! A cluster whose nodes are far from each other: real nodes and nats-servers, each pair in a network namespace of its own, over links with a round trip of
//! 40 ms that lose a packet of a hundred each way. What viewers miss when something of that is killed, stops, is cut off or sleeps; and that they
//! are never shown two publishers mixed, nor one that was replaced.
//!
//! `CLUSTER_RUNS` repeats what is measured (once without), `CLUSTER_NATS_AWAY` is for how many seconds the servers are away (10: their lease is 6).
mod watch;

use link::{Config, Loss};
use std::time::{Duration, Instant};
use support::place::World;
use support::rtmp::Publisher;
use support::{unique, until, wait};
use watch::{Viewer, publish};

const LIMIT: Duration = Duration::from_secs(30);
const FAR: Config = Config {
    delay_us: 20_000,
    jitter_us: 0,
    reorder: false,
    loss: Loss::Random { per_mille: 10 },
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 0,
    outage: false,
};
const CUT: Config = Config { outage: true, ..FAR };
/// Each has a link to each.
const THREE: [&str; 3] = ["ab", "ac", "bc"];
/// And one more has what `a` publishes through `b` or `c`.
const BETWEEN: [&str; 5] = ["ab", "ac", "bc", "bd", "cd"];
/// What a viewer may miss when a node on the way is killed, or takes its leave.
const KILLED_GAP_MAX: Duration = Duration::from_secs(1);
const DRAINED_GAP_MAX: Duration = Duration::from_millis(200);
/// And when nothing happens: what a lost packet costs that is asked for again twice.
const QUIET_GAP_MAX: Duration = Duration::from_millis(300);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |it| it.parse().expect("a number"))
}

/// A stream of `a`'s and who watches it.
struct Scene {
    world: World,
    name: String,
    encoder: Option<Publisher>,
    viewers: Vec<(char, Viewer)>,
}

impl Scene {
    /// These links, with servers of the directory at the first three nodes.
    #[track_caller]
    fn start(name: &str, links: &[&str]) -> Scene {
        let links: Vec<(&str, Config)> = links.iter().map(|link| (*link, FAR)).collect();
        let world = World::start(&links, "abc", &[]);
        let mut scene = Scene { world, name: unique(name), encoder: None, viewers: Vec::new() };
        scene.encoder = Some(scene.publish('a', 1));
        scene
    }

    /// Another publisher takes its place at a node, as soon as that takes it; how long after that viewers at these nodes see it.
    #[track_caller]
    fn replace(&mut self, at: char, source: u8, viewers: &str) -> (Publisher, Vec<Duration>) {
        let publisher = self.publish(at, source);
        let since = Instant::now();
        let begun = until(&format!("viewers at {viewers} see publisher {source}"), LIMIT, || {
            self.at(viewers).map(|viewer| viewer.begun_after(since, source)).collect()
        });
        (publisher, begun)
    }

    fn try_publish(&mut self, at: char, source: u8) -> Result<Publisher, String> {
        let rtmp = self.world.node(at).rtmp;
        publish(self.world.place(at), rtmp, &self.name, source)
    }

    /// Publishes as soon as the node takes it.
    #[track_caller]
    fn publish(&mut self, at: char, source: u8) -> Publisher {
        until(&format!("{at} takes publisher {source}"), LIMIT, || self.try_publish(at, source).ok())
    }

    /// Two viewers, by RTMP and by WebRTC, that see something.
    #[track_caller]
    fn watch(&mut self, at: char) {
        let (rtmp, url) = (self.world.node(at).rtmp, self.world.node(at).whep_url(&self.name));
        let place = self.world.place(at);
        let viewers = [
            Viewer::rtmp(place, rtmp, &self.name, &format!("RTMP viewer at {at}")),
            Viewer::webrtc(place, &url, &format!("WebRTC viewer at {at}")),
        ];
        until(&format!("viewers at {at} see it"), LIMIT, || {
            viewers.iter().all(|it| it.count() > 60).then_some(())
        });
        self.viewers.extend(viewers.map(|it| (at, it)));
    }

    fn at(&self, at: &str) -> impl Iterator<Item = &Viewer> {
        self.viewers.iter().filter(move |(it, _)| at.contains(*it)).map(|(_, viewer)| viewer)
    }

    /// What viewers at these nodes miss from then on, until each has seen so many more pictures of a publisher.
    #[track_caller]
    fn gaps(&self, at: &str, since: Instant, source: u8, count: usize) -> Vec<Duration> {
        let of = |viewer: &Viewer| viewer.count_of(source);
        let before: Vec<usize> = self.at(at).map(of).collect();
        until(&format!("viewers at {at} see publisher {source}"), LIMIT, || {
            self.at(at).zip(&before).all(|(viewer, before)| of(viewer) >= before + count).then_some(())
        });
        self.at(at).map(|viewer| viewer.gap_since(since)).collect()
    }

    /// The nodes that a node has the stream through.
    fn path(&mut self, at: char) -> Vec<String> {
        let name = self.name.clone();
        let stream = self.world.ask(at, move |node| node.stream(&name));
        let path = stream.and_then(|it| it["path"].as_array().cloned()).unwrap_or_default();
        path.iter().filter_map(|it| it.as_str().map(String::from)).collect()
    }

    #[track_caller]
    fn wait_path(&mut self, at: char, want: &[&str]) {
        until(&format!("{at} has it through {want:?}"), LIMIT, || (self.path(at) == want).then_some(()));
    }

    /// The node through which `d` has it.
    #[track_caller]
    fn between(&mut self) -> char {
        let path = until("d has it through one of the two", LIMIT, || {
            Some(self.path('d')).filter(|path| path.len() == 2 && path[0] == "a")
        });
        path[1].chars().next().expect("an id")
    }

    /// Drains a node that has no viewers, and starts it again; what viewers at others missed.
    #[track_caller]
    fn drain(&mut self, at: char, others: &str, source: u8) -> Vec<Duration> {
        let since = Instant::now();
        self.world.node(at).process.signal("TERM");
        let ended = until("it ends", LIMIT, || self.world.node(at).process.ended());
        assert!(ended.success(), "{at}: {ended}");
        let gaps = self.gaps(others, since, source, 60);
        self.world.start_node(at, &[]);
        self.world.wait_linked(at);
        gaps
    }

    /// Who publishes it, and its generation, as the directory has it.
    fn claim(&self) -> (String, u64) {
        let claim = self.world.nats.get("millrace_streams", &format!("live/{}", self.name));
        let claim = claim.expect("it is claimed").json();
        (claim["node"].as_str().unwrap_or_default().into(), claim["generation"].as_u64().unwrap_or(0))
    }

    /// Nobody was sent away, and all saw what was right.
    #[track_caller]
    fn check(&mut self) -> Vec<usize> {
        let ended: Vec<char> =
            self.viewers.iter().filter(|(_, it)| it.is_ended()).map(|(at, _)| *at).collect();
        assert!(ended.is_empty(), "viewers at {ended:?} were ended");
        self.viewers.iter().map(|(_, viewer)| viewer.check()).collect()
    }
}

/// The measured ones, with what a twentieth of them is above.
fn told(what: &str, gaps: &[Duration]) {
    let mut sorted = gaps.to_vec();
    sorted.sort_unstable();
    let at = |part: usize| sorted[(sorted.len() * part).div_ceil(100).saturating_sub(1)];
    println!(
        "{what}: {} gaps, median {:?}, p95 {:?}, longest {:?}: {gaps:?}",
        gaps.len(),
        at(50),
        at(95),
        at(100)
    );
}

#[test]
fn a_node_between_is_killed() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("between", &BETWEEN);
    scene.watch('d');
    let mut gaps = Vec::new();
    for _ in 0..number("CLUSTER_RUNS", 1) {
        let between = scene.between();
        let since = Instant::now();
        scene.world.kill(between);
        gaps.extend(scene.gaps("d", since, 1, 60));
        assert_ne!(scene.between(), between);
        scene.world.start_node(between, &[]);
        scene.world.wait_linked(between);
    }
    told("a node between is killed", &gaps);
    assert!(gaps.iter().all(|gap| *gap <= KILLED_GAP_MAX), "{gaps:?}");
    scene.check();
    scene.world.assert_well();
}

/// The publisher comes back at another node once the name is free, and viewers everywhere keep their sessions.
#[test]
fn the_origin_is_killed() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("origin", &THREE);
    scene.watch('b');
    scene.watch('c');
    let (mut gaps, mut origin) = (Vec::new(), 'a');
    for run in 0..number("CLUSTER_RUNS", 1) as u8 {
        let (next, source) = (if origin == 'a' { 'b' } else { 'a' }, run + 2);
        scene.world.kill(origin);
        scene.viewers.retain(|(at, _)| *at != origin);
        let (encoder, begun) = scene.replace(next, source, "abc");
        scene.encoder = Some(encoder);
        gaps.extend(begun);
        scene.world.start_node(origin, &[]);
        scene.world.wait_linked(origin);
        scene.watch(origin);
        origin = next;
        scene.viewers.retain(|(at, _)| *at != origin);
    }
    told("the origin is killed, and its publisher is back", &gaps);
    assert!(gaps.iter().all(|gap| *gap <= KILLED_GAP_MAX), "{gaps:?}");
    scene.check();
    scene.world.assert_well();
}

#[test]
fn the_servers_of_the_directory_are_away() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("away", &THREE);
    "abc".chars().for_each(|at| scene.watch(at));
    let before = scene.claim();
    let (since, away) = (Instant::now(), Duration::from_secs(number("CLUSTER_NATS_AWAY", 10)));
    scene.world.nats.kill_all();
    // Another one is published meanwhile, and is seen there and elsewhere.
    let running = std::mem::replace(&mut scene.name, unique("meanwhile"));
    let first = std::mem::take(&mut scene.viewers);
    let other = scene.publish('c', 2);
    "cb".chars().for_each(|at| scene.watch(at));
    while since.elapsed() < away {
        std::thread::sleep(Duration::from_millis(100));
        assert!(first.iter().chain(&scene.viewers).all(|(_, it)| !it.is_ended()), "a viewer was ended");
        assert!(!other.is_lost() && !scene.encoder.as_ref().is_some_and(Publisher::is_lost));
    }
    scene.world.nats.restart_all();
    "abc".chars().for_each(|at| scene.world.wait_linked(at));
    until("it is claimed", LIMIT, || {
        let key = format!("live/{}", scene.name);
        scene.world.nats.get("millrace_streams", &key).filter(|it| it.json()["node"] == "c")
    });
    let second = std::mem::replace(&mut scene.viewers, first);
    scene.name = running;
    assert_eq!(scene.claim(), before);
    let gaps = scene.gaps("abc", since, 1, 30);
    told(&format!("the servers are away for {away:?}"), &gaps);
    let missing = scene.check();
    println!("pictures missing: {missing:?}");
    assert!(gaps.iter().all(|gap| *gap <= QUIET_GAP_MAX), "{gaps:?}");
    for (_, viewer) in &second {
        viewer.check();
    }
    scene.world.assert_well();
}

/// Both sides have a publisher of the name; when the network heals one is left, the newer.
#[test]
fn the_network_is_parted_and_heals() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("parted", &THREE);
    "abc".chars().for_each(|at| scene.watch(at));
    let (_, generation) = scene.claim();
    let since = Instant::now();
    ["ab", "ac"].iter().for_each(|link| scene.world.set(link, CUT));
    let (newer, gaps) = scene.replace('b', 2, "bc");
    told("a publisher is there on the other side", &gaps);
    assert!(gaps.iter().all(|gap| *gap <= KILLED_GAP_MAX), "{gaps:?}");
    let apart = scene.gaps("a", since, 1, 30);
    told("on the side of the publisher that was there", &apart);
    assert!(apart.iter().all(|gap| *gap <= QUIET_GAP_MAX), "{apart:?}");
    ["ab", "ac"].iter().for_each(|link| scene.world.set(link, FAR));
    let older = scene.encoder.take().expect("it publishes");
    until("the older publisher is ended", LIMIT, || older.is_lost().then_some(()));
    scene.gaps("abc", Instant::now(), 2, 60);
    scene.wait_path('a', &["b"]);
    scene.wait_path('c', &["b"]);
    let (node, newest) = scene.claim();
    assert!(node == "b" && newest > generation, "{node} has generation {newest} after {generation}");
    assert!(!newer.is_lost());
    "abc".chars().for_each(|at| scene.world.wait_linked(at));
    scene.check();
    scene.world.assert_well();
}

/// Its name has another publisher when it wakes up: what it has of the old one goes to nobody.
#[test]
fn the_origin_sleeps_past_its_lease() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("slept", &THREE);
    "abc".chars().for_each(|at| scene.watch(at));
    scene.world.node('a').process.signal("STOP");
    let (newer, gaps) = scene.replace('b', 2, "bc");
    told("the origin sleeps, and its publisher is back", &gaps);
    assert!(gaps.iter().all(|gap| *gap <= KILLED_GAP_MAX), "{gaps:?}");
    scene.world.node('a').process.signal("CONT");
    let older = scene.encoder.take().expect("it publishes");
    until("the older publisher is ended", LIMIT, || older.is_lost().then_some(()));
    let gaps = scene.gaps("bc", Instant::now(), 2, 60);
    assert!(gaps.iter().all(|gap| *gap <= QUIET_GAP_MAX), "{gaps:?}");
    scene.gaps("a", Instant::now(), 2, 30);
    assert!(!newer.is_lost());
    scene.check();
    scene.world.assert_well();
}

/// One after the other stops (SIGTERM) and starts again: both nodes between, then the origin, which the publisher has left by then.
#[test]
fn each_node_is_drained_in_turn() {
    support::need!(Link, Nats);
    let _lane = wait::alone();
    let mut scene = Scene::start("rolling", &BETWEEN);
    scene.watch('d');
    let (mut drained, mut moved) = (Vec::new(), Vec::new());
    for run in 0..number("CLUSTER_RUNS", 1) as u8 {
        let source = 2 * run + 1;
        for _ in 0..2 {
            let between = scene.between();
            drained.extend(scene.drain(between, "d", source));
            assert_ne!(scene.between(), between);
        }
        drop(scene.encoder.take());
        let (encoder, begun) = scene.replace('b', source + 1, "d");
        moved.extend(begun);
        scene.gaps("d", Instant::now(), source + 1, 30);
        drained.extend(scene.drain('a', "d", source + 1));
        drop(encoder);
        let (encoder, begun) = scene.replace('a', source + 2, "d");
        scene.encoder = Some(encoder);
        moved.extend(begun);
        scene.gaps("d", Instant::now(), source + 2, 30);
    }
    told("a node is drained", &drained);
    told("the publisher goes to another node", &moved);
    assert!(drained.iter().all(|gap| *gap <= DRAINED_GAP_MAX), "{drained:?}");
    assert!(moved.iter().all(|gap| *gap <= KILLED_GAP_MAX), "{moved:?}");
    scene.check();
    scene.world.assert_well();
}
