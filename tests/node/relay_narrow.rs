//! A browser's pictures over a link that takes less than comes: frames are left out by what they are worth, and viewers see a stream without a hole.
use link::{Config, Loss};
use std::time::{Duration, Instant};
use support::cluster::Cluster;
use support::peer::{Peer, payload};
use support::sdp::Way;
use support::{Node, unique, until};

const LIMIT: Duration = Duration::from_secs(20);
const FRAME: Duration = Duration::from_millis(33);
/// Packets of a picture: 1.35 Mbit/s, half of which nothing refers to.
const PACKETS: u16 = 5;

/// A round trip of 20 ms. What waits for the link does not overflow.
fn takes(bps: u64) -> [Config; 2] {
    let loss = Loss::None;
    let wide = Config {
        delay_us: 10_000,
        jitter_us: 0,
        reorder: false,
        loss,
        duplicate_per_mille: 0,
        rate_bps: None,
        queue_us: 5_000_000,
        outage: false,
    };
    [Config { rate_bps: Some(bps), ..wide }, wide]
}

/// Pictures for a viewer, a key frame when the node asks for one.
struct Camera {
    publisher: Peer,
    viewer: Peer,
    answered: usize,
}

impl Camera {
    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut next = Instant::now();
        while next < end {
            let key = self.publisher.asked > self.answered;
            self.answered = self.publisher.asked;
            for packet in self.publisher.layered(key, PACKETS) {
                self.publisher.send(&packet);
            }
            next += FRAME;
            self.publisher.run(Duration::from_millis(5));
            self.viewer.run(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Numbers and picture ids of what came, in order.
    fn numbers(&self) -> Vec<(u16, u16)> {
        let pictures = self.viewer.rtp.iter().filter(|packet| packet[1] & 0x7f == 96);
        let numbers = pictures.map(|packet| {
            let [_, _, high, low, ..] = payload(packet)[..] else { panic!("cut") };
            (u16::from_be_bytes([packet[2], packet[3]]), u16::from_be_bytes([high & 0x7f, low]))
        });
        let mut numbers: Vec<(u16, u16)> = numbers.collect();
        let first = numbers.first().map_or(0, |(seq, _)| *seq);
        numbers.sort_by_key(|(seq, _)| seq.wrapping_sub(first));
        numbers
    }

    /// Neither has a hole: nothing is there to ask for.
    #[track_caller]
    fn assert_no_hole(&self) {
        let numbers = self.numbers();
        for two in numbers.windows(2) {
            let (seq, id) = (two[1].0.wrapping_sub(two[0].0), two[1].1.wrapping_sub(two[0].1) & 0x7fff);
            assert!(seq == 1 && id <= 1, "{two:?} of {}", numbers.len());
        }
    }
}

fn left_out(node: &Node) -> f64 {
    node.metric("millrace_relay_packets_dropped_total{peer=\"b\",reason=\"left_out\"}")
}

#[test]
fn a_viewer_behind_a_narrow_link_sees_fewer_frames_and_no_hole() {
    let cluster = Cluster::of(&["a", "b"]).over(takes(10_000_000)[0], 5);
    let wire = cluster.wire("a", "b");
    wire.set(takes(10_000_000));
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    until("the link is up", LIMIT, || a.log().contains("relay link up peer=b").then_some(()));
    let name = unique("narrow");
    let publisher = Peer::connect(&a.whip_url(&name), Way::Send);
    let viewer = Peer::connect(&b.whep_url(&name), Way::Receive);
    let mut camera = Camera { publisher, viewer, answered: 0 };
    camera.run(Duration::from_secs(1));
    let (asked, came) = (camera.publisher.asked, camera.numbers().len());
    assert!(came > 50, "{came} packets");

    // Three quarters of it: some of those that nothing refers to are left out, in ten seconds at the latest: for so long a queue may be taken for another flow's.
    wire.set(takes(1_000_000));
    until("some packets are left out", LIMIT, || {
        camera.run(FRAME * 10);
        (left_out(&a) > 20.0).then_some(())
    });
    camera.assert_no_hole();
    println!("{} packets came, {} were left out", camera.numbers().len(), left_out(&a));

    // Too little for those that others refer to: up to a key frame, which is asked for when there is room.
    until("a key frame is asked for", LIMIT * 2, || {
        wire.set(takes(500_000));
        camera.run(Duration::from_secs(2));
        wire.set(takes(10_000_000));
        camera.run(Duration::from_secs(1));
        (camera.publisher.asked > asked).then_some(())
    });
    let before = camera.numbers().len();
    until("all frames come again", LIMIT, || {
        camera.run(FRAME);
        (camera.numbers().len() > before + 200).then_some(())
    });
    camera.assert_no_hole();
    println!("{} key frames were asked for", camera.publisher.asked - asked);
    assert!(camera.publisher.asked <= asked + 6, "{} key frames", camera.publisher.asked - asked);
    a.assert_well();
    b.assert_well();
}
