//! Who records at another node has every frame, over whatever link; and who watches there does not notice.
use crate::relay_frames::{Viewer, assert_whole, pictures, up};
use link::{Config, Loss};
use std::time::Duration;
use support::cluster::Cluster;
use support::flv::{Tag, VIDEO};
use support::rtmp::{Client, Message, Publisher};
use support::{Node, flv, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
/// A round trip of 100 ms, and a packet of ten lost each way.
const BAD: Config = Config {
    delay_us: 50_000,
    jitter_us: 0,
    reorder: false,
    loss: Loss::Random { per_mille: 100 },
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 0,
    outage: false,
};

fn player(node: &Node, name: &str) -> Client {
    let mut player = Client::connect(node.rtmp, "live").expect("a player connects");
    player.play(name).expect("it plays");
    player
}

fn by_streams(node: &Node) -> f64 {
    node.metric("millrace_relay_stream_bytes_total")
}

fn by_datagrams(node: &Node) -> f64 {
    let metrics = node.metrics();
    let sent = |key: &&String| key.starts_with("millrace_relay_datagrams_total") && key.contains("\"sent\"");
    metrics.keys().filter(sent).map(|key| metrics[key]).sum()
}

/// Frames that are missing between the first that came and the last, by their times.
fn missing(tags: &[Tag]) -> usize {
    let times: Vec<u32> = pictures(tags).map(|tag| tag.time).collect();
    let frames = f64::from(times[times.len() - 1] - times[0]) * 30.0 / 1_000.0;
    (frames.round() as usize + 1).saturating_sub(times.len())
}

/// And that takes less than half of what comes for a while: who only watches misses some of it.
#[test]
fn who_records_over_a_link_that_loses_a_tenth_has_every_frame() {
    let cluster = Cluster::of(&["a", "b"]).over(BAD, 7);
    let wire = cluster.wire("a", "b");
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let (name, beside) = (unique("recorded"), unique("live"));
    let tags = flv::clip().tags;
    let recorder = player(&b, &format!("{name}?reliable=1"));
    let live = player(&b, &beside);
    let _publishers = [&name, &beside].map(|name| Publisher::start(a.rtmp, name));
    let mut viewer = Viewer::at(&b, &name);
    viewer.goes_on(150);
    wire.set([Config { rate_bps: Some(600_000), queue_us: 500_000, ..BAD }, BAD]);
    let mut watched = live.collect(Duration::from_secs(4));
    wire.set([BAD; 2]);
    viewer.goes_on(450);
    watched.extend(live.collect(Duration::from_millis(100)));
    let of = |messages: Vec<Message>| -> Vec<Tag> { messages.into_iter().map(|it| it.tag).collect() };
    let (recorded, live) = (of(recorder.collect(Duration::from_millis(100))), of(watched));
    println!(
        "recorded {} pictures, {} missing; of the live one beside {} missing of {}",
        pictures(&recorded).count(),
        missing(&recorded),
        missing(&live),
        pictures(&live).count()
    );
    assert!(missing(&live) > 0, "the link took all");
    assert_whole(&tags, &recorded, 600);
    // Who only watches has the same copy.
    assert_whole(&tags, &viewer.tags(), 600);
    assert_eq!(b.metric("millrace_relay_packets_dropped_total"), 0.0);
    a.assert_well();
    b.assert_well();
}

/// Two links on: the way up to the publisher's node is as the recorder needs it, and as before when it has left.
#[test]
fn who_records_changes_the_way_for_as_long_as_it_records_and_nobody_notices() {
    let cluster =
        Cluster::linked(&["ab", "bc"]).over(Config { delay_us: 10_000, loss: Loss::None, ..BAD }, 3);
    let (a, b, mut c) = (cluster.start("a"), cluster.start("b"), cluster.start("c"));
    for (node, peer) in [(&b, "a"), (&c, "b")] {
        up(node, peer);
    }
    let name = unique("changes");
    let _publisher = Publisher::start(a.rtmp, &name);
    let mut viewers = [&b, &c].map(|node| Viewer::at(node, &name));
    viewers.iter_mut().for_each(|viewer| viewer.goes_on(30));
    // So much went one way and the other while so many pictures came.
    let mut sent = |pictures: usize| {
        let of = |node: &Node| (by_streams(node), by_datagrams(node));
        let before = [of(&a), of(&b)];
        viewers.iter_mut().for_each(|viewer| viewer.goes_on(pictures));
        let now = [of(&a), of(&b)];
        [0, 1].map(|at| (now[at].0 - before[at].0, now[at].1 - before[at].1))
    };
    let live = sent(60);
    assert!(live.iter().all(|of| of.0 == 0.0 && of.1 > 100.0), "{live:?}");
    let recorder = player(&c, &format!("{name}?reliable=1"));
    sent(15);
    let recorded = sent(60);
    assert!(recorded.iter().all(|of| of.0 > 50_000.0 && of.1 == 0.0), "{recorded:?}");
    let tags: Vec<Tag> = recorder.collect(Duration::from_millis(50)).into_iter().map(|it| it.tag).collect();
    drop(recorder);
    until("its way is as before", LIMIT, || {
        let now = sent(15);
        now.iter().all(|of| of.0 == 0.0 && of.1 > 20.0).then_some(())
    });
    println!("live {live:?}, recorded {recorded:?}");
    let published = flv::clip().tags;
    assert_whole(&published, &tags, 60);
    for viewer in &mut viewers {
        assert_whole(&published, &viewer.tags(), 150);
    }
    c.assert_well();
}

/// The publisher sends more than the link takes: what waits for a recorder has a bound, is counted, and it goes on with a key frame.
#[test]
#[ignore = "takes a minute: the bound is ten seconds of what waits"]
fn a_recorder_that_is_too_far_behind_goes_on_at_a_key_frame() {
    let narrow = Config { rate_bps: Some(500_000), queue_us: 200_000, loss: Loss::None, ..BAD };
    let cluster = Cluster::of(&["a", "b"]).over(narrow, 7);
    let (mut a, b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("behind");
    let recorder = player(&b, &format!("{name}?reliable=1"));
    let _publisher = Publisher::start(a.rtmp, &name);
    until("what waits is too much", Duration::from_secs(60), || {
        (a.metric("millrace_relay_packets_dropped_total") > 0.0).then_some(())
    });
    recorder.collect(Duration::from_secs(1));
    let next = recorder.collect(Duration::from_secs(12));
    let first = next.iter().map(|it| &it.tag).find(|tag| tag.kind == VIDEO && tag.is_key_frame());
    assert!(first.is_some(), "{} messages", next.len());
    println!(
        "{:?}",
        a.metrics().iter().filter(|(key, _)| key.contains("relay_packets_dropped")).collect::<Vec<_>>()
    );
    a.assert_well();
}
