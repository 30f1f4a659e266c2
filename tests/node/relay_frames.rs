//! An RTMP publisher's frames over a link that loses: all of them, in order, with both their times; and viewers that outlive the publisher's node.
use link::{Config, Loss};
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::flv::{AUDIO, SCRIPT, Tag, VIDEO};
use support::peer::{Peer, payload};
use support::rtmp::{Client, Publisher, amf_decode, amf_encode};
use support::sdp::Way;
use support::{Node, flv, http, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
/// A round trip of 50 ms, and a packet of twenty lost each way.
const BAD: Config = Config {
    delay_us: 25_000,
    jitter_us: 0,
    reorder: false,
    loss: Loss::Random { per_mille: 50 },
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 0,
    outage: false,
};

pub fn up(node: &Node, peer: &str) {
    until(&format!("the link to {peer} is up"), LIMIT, || {
        let nodes = node.api("/api/v1/nodes");
        let links = nodes["nodes"]["links"].as_array().expect("links");
        links.iter().any(|it| it["node"] == peer && it["up"] == true).then_some(())
    });
}

/// The clip as if it had B-frames: of four pictures the second is shown last, the others as soon as they may be.
fn with_b_frames(mut tags: Vec<Tag>) -> Vec<Tag> {
    let times: Vec<u32> = pictures(&tags).map(|tag| tag.time).collect();
    let pictures = tags.iter_mut().filter(|tag| tag.kind == VIDEO && !tag.is_header());
    for (nth, tag) in pictures.enumerate() {
        let shown = nth / 4 * 4 + [1, 4, 2, 3][nth % 4];
        let step = times[1] - times[0];
        let at = times.get(shown).copied().unwrap_or_else(|| times[nth] + (shown - nth) as u32 * step);
        tag.body[2..5].copy_from_slice(&(at - times[nth]).to_be_bytes()[1..]);
    }
    tags
}

pub fn pictures(tags: &[Tag]) -> impl Iterator<Item = &Tag> {
    tags.iter().filter(|tag| tag.kind == VIDEO && !tag.is_header())
}

/// Asserts that of each kind what came is what was published, round after round, from some frame on with none left out; and that their times are apart as
/// they were.
#[track_caller]
pub fn assert_whole(published: &[Tag], came: &[Tag], least: usize) {
    let round = published.iter().map(|tag| tag.time).max().expect("tags") / 1000 * 1000 + 1000;
    let first = came.iter().find(|tag| !tag.is_header()).expect("a frame").time;
    let mut lines = HashSet::new();
    for kind in [AUDIO, VIDEO] {
        let of = |tags: &[Tag]| -> Vec<Tag> {
            tags.iter().filter(|tag| tag.kind == kind && !tag.is_header()).cloned().collect()
        };
        let (sent, got) = (of(published), of(came));
        assert!(got.len() >= least, "type {kind}: {} frames", got.len());
        // Silence is the same each time: of the places where it may begin the one from which most is as it was published.
        let alike = |from: usize| {
            got.iter()
                .zip(sent.iter().cycle().skip(from))
                .take_while(|(got, sent)| got.body == sent.body)
                .count()
        };
        let from = (0..sent.len()).max_by_key(|from| alike(*from)).expect("frames were published");
        assert_eq!(alike(from), got.len(), "type {kind}: the frame behind those is another");
        for (nth, got) in got.iter().enumerate() {
            let (turn, at) = ((from + nth) / sent.len(), (from + nth) % sent.len());
            let due = i64::from(turn as u32 * round + sent[at].time);
            lines.insert(i64::from(got.time - first) - due);
        }
    }
    assert_eq!(lines.len(), 1, "sound and pictures are apart as they were: {lines:?}");
}

struct Pieces(Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.send(piece.to_vec()).map_err(io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An FLV viewer on one connection: what comes of it, as tags.
pub struct Viewer {
    pieces: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Viewer {
    pub fn at(node: &Node, name: &str) -> Viewer {
        let url = node.flv_url(name);
        until("the stream is known there", LIMIT, || {
            http::get_for(&url, Duration::from_secs(1)).ok().filter(|it| it.status == 200)
        });
        let (to, pieces) = channel();
        std::thread::spawn(move || http::follow(&url, &mut Pieces(to)));
        Viewer { pieces, bytes: Vec::new() }
    }

    /// All that came so far.
    #[track_caller]
    pub fn tags(&mut self) -> Vec<Tag> {
        loop {
            match self.pieces.try_recv() {
                Ok(piece) => self.bytes.extend(piece),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => panic!("the node ended the viewer's connection"),
            }
        }
        if self.bytes.len() < 13 { Vec::new() } else { flv::parse(&self.bytes).expect("it is FLV").tags }
    }

    /// Waits for so many pictures more.
    #[track_caller]
    pub fn goes_on(&mut self, count: usize) {
        let want = pictures(&self.tags()).count() + count;
        until(&format!("{count} pictures arrive"), LIMIT, || {
            (pictures(&self.tags()).count() >= want).then_some(())
        });
    }
}

#[test]
fn every_frame_crosses_a_link_that_loses_with_both_its_times() {
    let cluster = Cluster::of(&["a", "b"]).over(BAD, 7);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("whole");
    let tags = with_b_frames(flv::clip().tags);
    let later = pictures(&tags).filter(|tag| tag.body[2..5] != [0, 0, 0]).count();
    assert!(later * 2 >= pictures(&tags).count() - 1, "half of the pictures are shown later than decoded");
    let mut player = Client::connect(b.rtmp, "live").expect("a player connects");
    player.play(&name).expect("it plays");
    let _publisher = Publisher::start_tags(a.rtmp, &name, tags.clone());
    let mut viewer = Viewer::at(&b, &name);
    viewer.goes_on(360);
    assert_whole(&tags, &viewer.tags(), 360);
    let played = player.collect(Duration::from_millis(100));
    let played: Vec<Tag> = played.into_iter().map(|message| message.tag).collect();
    assert_whole(&tags, &played, 360);
    let nodes = b.api("/api/v1/nodes");
    println!("{}", nodes["nodes"]["links"][0]["datagrams"]);
    // What came is counted where it came, too: of frames alone, so it is a little less.
    let [of_a, of_b] = [&a, &b].map(|node| {
        let stream = node.stream(&name).expect("the stream is there");
        (
            stream["recv_bytes"].as_u64().expect("a count") as f64,
            stream["kbps"]["recv_30s"].as_f64().expect("a rate"),
        )
    });
    assert!((0.6..1.1).contains(&(of_b.0 / of_a.0)), "{of_b:?} of {of_a:?} bytes");
    assert!((0.6..1.5).contains(&(of_b.1 / of_a.1)), "{of_b:?} of {of_a:?} kbit/s");
    a.assert_well();
    b.assert_well();
}

/// The publisher's node is killed, and the publisher comes back: there, when it is started again, or at the viewers'.
#[test]
fn viewers_of_frames_outlive_the_publishers_node() {
    let cluster = Cluster::of(&["a", "b", "c"]);
    let (mut a, mut b, c) = (cluster.start("a"), cluster.start("b"), cluster.start("c"));
    for (node, peer) in [(&b, "a"), (&b, "c")] {
        up(node, peer);
    }
    let name = unique("outlives");
    let mut publisher = Publisher::start(a.rtmp, &name);
    let mut viewer = Viewer::at(&b, &name);
    let mut browser = Peer::connect(&b.whep_url(&name), Way::Receive);
    viewer.goes_on(30);
    for back in ["a", "c", "b"] {
        if back == "c" {
            // The publisher alone is gone.
            drop(publisher);
        } else {
            a.process.signal("KILL");
            assert!(a.process.wait(LIMIT).is_some());
            drop(publisher);
            a = cluster.start("a");
        }
        let node = match back {
            "a" => &a,
            "b" => &b,
            _ => &c,
        };
        up(&b, "a");
        let left = Instant::now();
        publisher = until(&format!("{back} takes the publisher"), LIMIT, || {
            let mut client = Client::connect(node.rtmp, "live").ok()?;
            client.publish(&name).ok()?;
            Some(Publisher::over(client, flv::clip().tags))
        });
        viewer.goes_on(60);
        println!("back at {back}: 60 pictures {:?} after", left.elapsed());
        let before = browser.rtp.len();
        until("the browser's goes on, too", LIMIT, || {
            browser.run(Duration::from_millis(20));
            (browser.rtp.len() > before + 100).then_some(())
        });
    }
    assert_eq!(browser.closed, None);
    assert_eq!(flv::backwards(&viewer.tags()), [""; 0]);
    drop(publisher);
    b.assert_well();
}

/// The clip with what its publisher says of it: at first, and from the sixth second on.
fn with_metadata(first: &str, then: &str) -> Vec<Tag> {
    let says = |time: u32, camera: &str| {
        let said =
            serde_json::json!({"camera": camera, "width": 3, "framerate": 29.5, "deep": {"yes": true}});
        Tag { kind: SCRIPT, time, body: amf_encode(&[serde_json::json!("onMetaData"), said]) }
    };
    let mut tags = flv::clip().tags;
    tags.retain(|tag| tag.kind != SCRIPT);
    let sixth = tags.iter().position(|tag| tag.time >= 6_000).expect("it is longer");
    tags.insert(sixth, says(6_000, then));
    tags.insert(0, says(0, first));
    tags
}

#[test]
fn what_a_publisher_says_of_its_stream_is_told_to_players_two_links_on() {
    let cluster = Cluster::linked(&["ab", "bc"]);
    let (a, b, mut c) = (cluster.start("a"), cluster.start("b"), cluster.start("c"));
    for (node, peer) in [(&b, "a"), (&c, "b")] {
        up(node, peer);
    }
    let name = unique("said");
    let mut player = Client::connect(b.rtmp, "live").expect("a player connects");
    player.play(&name).expect("it plays");
    let _publisher = Publisher::start_tags(a.rtmp, &name, with_metadata("north", "south"));
    let mut viewers = [&a, &b, &c].map(|node| Viewer::at(node, &name));
    let cameras = |tags: &[Tag]| -> Vec<serde_json::Value> {
        let told = tags.iter().filter(|tag| tag.kind == SCRIPT).map(|tag| amf_decode(&tag.body).remove(1));
        // A stream of what was there may overtake the word on the control stream: that is told as soon as it comes.
        let is_without = |told: &serde_json::Value| told["camera"].is_null();
        let mut told = told.peekable();
        let _ = told.next_if(is_without);
        told.inspect(|told| {
            assert_eq!((&told["width"], &told["framerate"]), (&1280.0.into(), &29.5.into()), "{told}");
            assert_eq!(told["deep"], serde_json::json!({"yes": true}));
        })
        .map(|told| told["camera"].clone())
        .collect()
    };
    for viewer in &mut viewers {
        until("the change is told", LIMIT, || {
            cameras(&viewer.tags()).contains(&"south".into()).then_some(())
        });
        // Two tracks of one configuration each: that was all.
        assert_eq!(cameras(&viewer.tags()), ["north", "south"]);
    }
    let played: Vec<Tag> = player.collect(Duration::from_millis(100)).into_iter().map(|it| it.tag).collect();
    assert_eq!(cameras(&played), ["north", "south"]);
    // Who comes later hears what was said last.
    let mut late = Viewer::at(&c, &name);
    late.goes_on(1);
    assert_eq!(cameras(&late.tags()), ["south"]);
    c.assert_well();
}

/// Browsers put sound and picture of several streams together by when they were captured: at a node far off that is when it was at the publisher's.
#[test]
fn frames_were_captured_when_they_came_into_the_cluster() {
    let far = Config { delay_us: 100_000, loss: Loss::None, ..BAD };
    let cluster = Cluster::of(&["a", "b"]).over(far, 3);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    up(&b, "a");
    let name = unique("captured");
    let _publisher = Publisher::start(a.rtmp, &name);
    a.wait_live(&name);
    let mut viewers = [&a, &b].map(|node| Peer::connect(&node.whep_url(&name), Way::Receive));
    // The GOP that a viewer begins with is shown faster than it was captured: what comes behind it counts.
    let live = |viewers: &mut [Peer; 2], packets: usize| {
        until(&format!("{packets} packets come"), LIMIT, || {
            for viewer in &mut *viewers {
                viewer.run(Duration::from_millis(50));
                viewer.rtp.retain(|packet| packet[1] & 0x7f == 102);
            }
            viewers.iter().all(|viewer| viewer.rtp.len() > packets).then_some(())
        });
    };
    live(&mut viewers, 400);
    viewers.iter_mut().for_each(|viewer| viewer.rtp.clear());
    live(&mut viewers, 200);
    let [here, there] = viewers.each_ref().map(|viewer| -> HashMap<&[u8], f64> {
        // Small pictures, and parameter sets, are alike.
        let packets = viewer.rtp.iter().filter(|packet| payload(packet).len() > 300);
        packets.map(|packet| (payload(packet), viewer.captured(packet).expect("it was reported"))).collect()
    });
    let apart: Vec<f64> = there.iter().filter_map(|(payload, at)| Some(at - here.get(payload)?)).collect();
    assert!(apart.len() > 50, "{} packets came to both", apart.len());
    let (least, most) =
        apart.iter().fold((f64::MAX, f64::MIN), |(least, most), it| (least.min(*it), most.max(*it)));
    println!("captured {least:.3} to {most:.3} s apart");
    assert!(-0.05 < least && most < 0.05, "captured {least} to {most} s apart; the way takes 0.1 s");
}
