//! How long who begins to watch at another node waits, and what it costs who watches already.
use link::{Config, Loss};
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::flv::{Tag, VIDEO};
use support::rtmp::{Client, Message, Publisher};
use support::{Node, flv, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
/// A round trip of 100 ms.
const FAR: Config = Config {
    delay_us: 50_000,
    jitter_us: 0,
    reorder: false,
    loss: Loss::None,
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 0,
    outage: false,
};

fn up(node: &Node, peer: &str) {
    until(&format!("the link to {peer} is up"), LIMIT, || {
        let nodes = node.api("/api/v1/nodes");
        let links = nodes["nodes"]["links"].as_array().expect("links");
        links.iter().any(|it| it["node"] == peer && it["up"] == true).then_some(())
    });
}

/// The clip with so many times its bytes in each picture's last slice, and a key frame each four seconds instead of each one.
fn heavy(times: usize) -> Vec<Tag> {
    let mut tags = flv::clip().tags;
    for tag in tags.iter_mut().filter(|tag| tag.kind == VIDEO && !tag.is_header()) {
        let is_key = tag.time % 4_000 == 0;
        if !is_key {
            tag.body[0] = 0x27;
        }
        let (mut at, mut last, mut len) = (5, 5, 0);
        while let Some(&[a, b, c, d, nal]) = tag.body[at..].first_chunk() {
            if nal & 0x1f == 5 && !is_key {
                tag.body[at + 4] = (nal & 0xe0) | 1;
            }
            (last, len) = (at, u32::from_be_bytes([a, b, c, d]));
            at += 4 + len as usize;
        }
        let more = tag.body.len() * (times - 1);
        tag.body.extend(vec![0xff; more]);
        tag.body[last..last + 4].copy_from_slice(&(len + more as u32).to_be_bytes());
    }
    tags
}

/// Until so long after a publisher's start: there is nearly all of its GOP then.
fn wait_until(start: Instant, millis: u64) {
    std::thread::sleep((start + Duration::from_millis(millis)).saturating_duration_since(Instant::now()));
}

/// When pictures came, and their times, in milliseconds since `start`.
fn pictures(messages: &[Message], start: Instant) -> Vec<(f64, f64)> {
    let of = messages.iter().filter(|it| it.tag.kind == VIDEO && !it.tag.is_header());
    of.map(|it| (it.at.duration_since(start).as_secs_f64() * 1e3, f64::from(it.tag.time))).collect()
}

/// By how much each came later than the one that was least late.
fn late(pictures: &[(f64, f64)]) -> Vec<f64> {
    let least = pictures.iter().map(|(at, time)| at - time).fold(f64::MAX, f64::min);
    pictures.iter().map(|(at, time)| at - time - least).collect()
}

/// Somebody begins to play, and for so long takes what comes.
fn play(node: &Node, name: &str, lasts: Duration) -> (Instant, Vec<Message>) {
    let mut player = Client::connect(node.rtmp, "live").expect("a player connects");
    let start = Instant::now();
    player.play(name).expect("it plays");
    (start, player.collect(lasts))
}

/// When the first picture came, and from when on none was later than a repair takes, if that is so.
fn joined(pictures: &[(f64, f64)]) -> (f64, f64) {
    let late = late(pictures);
    let live = late.iter().rposition(|late| *late > 250.0).map_or(0, |last| last + 1);
    (pictures[0].0, pictures.get(live).map_or(f64::MAX, |(at, _)| *at))
}

#[test]
fn who_begins_to_watch_far_away_has_what_was_there_by_a_stream_and_is_live_by_datagrams() {
    let cluster = Cluster::of(&["a", "b"]).over(FAR, 7);
    let (mut a, b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let names = [unique("joined"), unique("joined")];
    let _publishers = names.each_ref().map(|name| Publisher::start_tags(a.rtmp, name, heavy(5)));
    let began = Instant::now();
    names.iter().for_each(|name| drop(a.wait_live(name)));
    let all = [0_u64, 1].map(|nth| {
        // Of four seconds at 4 Mbit/s there are nearly all.
        wait_until(began, 3_600 + 4_000 * nth);
        let (start, came) = play(&b, &names[nth as usize], Duration::from_millis(3_800));
        joined(&pictures(&came, start))
    });
    let by_streams = || a.metric("millrace_relay_stream_bytes_total");
    let bytes = by_streams();
    println!("first picture and live after, ms: {all:.0?}; {bytes} bytes went by streams");
    assert!(bytes > 2_500_000.0, "{bytes} bytes by streams");
    // Both have caught up: what is new of them goes by datagrams alone.
    let mut player = Client::connect(b.rtmp, "live").expect("a player connects");
    player.play(&names[1]).expect("it plays");
    until("nothing goes by streams any more", LIMIT, || {
        let before = by_streams();
        let came = pictures(&player.collect(Duration::from_millis(1_500)), began).len();
        (came >= 20 && by_streams() == before).then_some(())
    });
    a.assert_well();
}

#[test]
#[ignore = "measures: it wants the machine for itself"]
fn who_begins_to_watch_over_a_narrow_link_does_not_hold_up_who_watches() {
    // 1.6 Mbit/s that somebody watches, 2.5 that somebody joins: less is left than twice that.
    let narrow = Config { rate_bps: Some(6_000_000), queue_us: 300_000, ..FAR };
    let cluster = Cluster::of(&["a", "b"]).over(narrow, 7);
    let (a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let (watched, join) = (unique("watched"), unique("join"));
    let _watched = Publisher::start_tags(a.rtmp, &watched, heavy(2));
    let _joined = Publisher::start_tags(a.rtmp, &join, heavy(3));
    let published = Instant::now();
    let mut player = Client::connect(b.rtmp, "live").expect("a player connects");
    player.play(&watched).expect("it plays");
    let start = Instant::now();
    let mut line = pictures(&player.collect(Duration::from_secs(3)), start);
    wait_until(published, 6_200);
    line.extend(pictures(&player.collect(Duration::from_millis(10)), start));
    line.drain(..line.len() / 2);
    let steady = line.len();
    let (began, came) = play(&b, &join, Duration::from_secs(6));
    line.extend(pictures(&player.collect(Duration::from_millis(100)), start));
    let late = late(&line);
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let (usual, worst) = (most(&late[..steady]), most(&late[steady..]));
    let over = late[steady..].iter().filter(|late| **late > usual + 50.0).count();
    let missing = line.windows(2).filter(|two| two[1].1 - two[0].1 > 40.0).count();
    let (first, live) = joined(&pictures(&came, began));
    println!(
        "late at most {usual:.0} ms, while another joins {worst:.0}, {over} of {} pictures by 50 ms more than usual, {missing} holes; that one has a picture after {first:.0} ms and is live after {live:.0}",
        late.len() - steady
    );
    assert_eq!(missing, 0, "pictures were left out for who joined");
    assert!(worst < 1_000.0, "{worst} ms late while another joins, {usual} before");
    b.assert_well();
}
