//! Loss between publisher and shard: NACKs go out by time, what comes late is forwarded late.

use std::sync::atomic::Ordering;

use media::Time;

use crate::camera::Rtp;
use crate::scene::Scene;
use crate::world::{Rtcp, assert_contiguous};

impl Scene {
    /// Sends a frame whose middle packet is lost; gives that packet.
    fn lossy_frame(&mut self) -> Rtp {
        let mut packets = self.make(false);
        let lost = packets.remove(1);
        self.send(packets);
        lost
    }

    /// When the publisher heard a NACK for this number.
    fn nacks(&self, lost: &Rtp) -> Vec<Time> {
        let of = |r: &Rtcp| matches!(r, Rtcp::Nack { ssrc, seqs } if *ssrc == lost.ssrc && seqs == &[lost.seq as u16]);
        self.world.peers[self.publisher].rtcp.iter().filter(|(_, r)| of(r)).map(|(at, _)| *at).collect()
    }

    fn plis(&self) -> usize {
        self.world.peers[self.publisher].plis()
    }
}

#[test]
fn a_nack_goes_out_after_ten_milliseconds_then_by_the_round_trip() {
    let mut scene = Scene::new();
    let peer = &mut scene.world.peers[scene.publisher];
    (peer.up.delay_us, peer.down.delay_us) = (25_000, 25_000);
    let start = scene.world.now;
    let lost = scene.lossy_frame();
    scene.world.run(75);
    let nacks = scene.nacks(&lost);
    assert_eq!(nacks.len(), 1, "one, while the round trip is unknown");
    let waited_ms = nacks[0].since(start) / 1_000 - 50;
    assert!((10..=16).contains(&waited_ms), "{waited_ms}");

    // It is answered at once, so the round trip is known: the next loss is asked for every 1.25 of it.
    scene.send(vec![lost.clone()]);
    scene.world.run(100);
    let lost = scene.lossy_frame();
    scene.world.run(400);
    let nacks = scene.nacks(&lost);
    assert!(nacks.len() >= 4);
    for pair in nacks.windows(2) {
        let spacing_ms = pair[1].since(pair[0]) / 1_000;
        assert!((60..=100).contains(&spacing_ms), "{spacing_ms}");
    }
}

#[test]
fn a_long_round_trip_is_learned_and_costs_one_nack_a_packet() {
    let mut scene = Scene::new();
    let peer = &mut scene.world.peers[scene.publisher];
    (peer.up.delay_us, peer.down.delay_us) = (150_000, 150_000);
    for round in 0..8 {
        let lost = scene.lossy_frame();
        let mut answered = false;
        for _ in 0..900 {
            scene.world.run(1);
            if !answered && !scene.nacks(&lost).is_empty() {
                answered = true;
                scene.send(vec![lost.clone()]);
            }
        }
        if round > 0 {
            assert_eq!(scene.nacks(&lost).len(), 1, "round {round}");
        }
    }
    let rtt_us = scene.world.peers[scene.publisher].stats.rtt_us.load(Ordering::Relaxed);
    assert!((295_000..=320_000).contains(&rtt_us), "{rtt_us}");
    assert_eq!(scene.world.peers[scene.publisher].stats.lost.load(Ordering::Relaxed), 0);
}

#[test]
fn a_repaired_packet_is_forwarded_under_its_own_number() {
    let mut scene = Scene::new();
    let lost = scene.lossy_frame();
    scene.frames(2);
    scene.send(vec![lost.clone()]);
    scene.frames(1);
    let got = scene.world.peers[scene.viewer].video();
    let last_but_three = &got[got.len() - 4];
    assert_eq!(last_but_three.payload, lost.payload, "late");
    assert_eq!(last_but_three.header.timestamp, got[3].header.timestamp, "with the time of its frame");
    let mut sorted = got.clone();
    sorted.sort_by_key(|g| g.header.seq);
    assert_contiguous(&sorted);
    assert_eq!(sorted[4].payload, lost.payload, "where it belongs");
}

#[test]
fn rtx_of_the_publisher_is_taken_apart() {
    let mut scene = Scene::new();
    let lost = scene.lossy_frame();
    scene.world.run(20);
    let payload = [&(lost.seq as u16).to_be_bytes()[..], &lost.payload].concat();
    scene.send(vec![Rtp { ssrc: 777, payload_type: 97, seq: 9_000, payload, ..lost.clone() }]);
    scene.world.run(20);
    let mut got = scene.world.peers[scene.viewer].video();
    assert_eq!(got.last().unwrap().payload, lost.payload);
    assert_eq!(got.last().unwrap().header.payload_type, 96);
    got.sort_by_key(|g| g.header.seq);
    assert_contiguous(&got);
}

#[test]
fn what_does_not_come_in_a_second_is_given_up_for_a_key_frame() {
    let mut scene = Scene::new();
    assert_eq!(scene.plis(), 0);
    let lost = scene.lossy_frame();
    scene.frames(29);
    assert_eq!(scene.plis(), 0, "957 ms: still hoping");
    scene.frames(4);
    assert_eq!(scene.plis(), 1);
    assert_eq!(scene.world.peers[scene.publisher].stats.lost.load(Ordering::Relaxed), 1);
    let asked = scene.nacks(&lost).len();
    assert!((5..=10).contains(&asked), "{asked}");
    scene.frames(10);
    assert_eq!(scene.nacks(&lost).len(), asked, "given up is given up");
}

#[test]
fn a_key_frame_ends_the_asking() {
    let mut scene = Scene::new();
    let lost = scene.lossy_frame();
    let key = scene.video.frame(true);
    scene.send(key);
    scene.frames(33);
    assert_eq!((scene.nacks(&lost).len(), scene.plis()), (0, 0));
}
