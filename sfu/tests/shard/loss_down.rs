//! Loss between shard and viewer: NACKs and what they are answered with.

use std::sync::atomic::Ordering;

use media::Codec;
use metrics::DropReason;

use crate::camera::{FRAME_MS, Video, negotiated};
use crate::scene::Scene;
use crate::world::{Got, Wish};

/// A viewer with RTX, or without.
fn scene(rtx: bool) -> Scene {
    Scene::of(Wish::on(0), Wish { shard: 0, medias: negotiated(&[Codec::Vp8], rtx) })
}

impl Scene {
    fn highest(&self) -> u16 {
        self.world.peers[self.viewer].video().last().unwrap().header.seq
    }

    fn nack(&mut self, seqs: &[u16]) {
        self.world.nack(self.viewer, seqs);
        self.world.run(FRAME_MS);
    }

    fn resent(&self) -> u64 {
        self.world.peers[self.viewer].stats.resent.load(Ordering::Relaxed)
    }

    fn refused(&self) -> u64 {
        self.world.drops(0, DropReason::ResendRefused)
    }

    fn copies(&self, seq: u16) -> Vec<&Got> {
        self.world.peers[self.viewer].video().into_iter().filter(|g| g.header.seq == seq).collect()
    }
}

#[test]
fn a_lost_packet_comes_again_as_rtx() {
    let mut scene = scene(true);
    let lost = [scene.highest() + 2, scene.highest() + 3];
    scene.world.peers[scene.viewer].down.drop = Box::new(move |h| lost.contains(&h.seq));
    let sent = scene.video.clone().frame(false);
    scene.frame(false);
    scene.world.peers[scene.viewer].down.drop = Box::new(|_| false);
    scene.nack(&lost);

    let peer = &scene.world.peers[scene.viewer];
    let again = peer.of_ssrc(peer.rtx_ssrc);
    assert_eq!(again.len(), 2);
    for (i, got) in again.iter().enumerate() {
        assert_eq!(got.header.payload_type, 97);
        assert_eq!(got.payload[..2], lost[i].to_be_bytes(), "the original number leads (RFC 4588)");
        assert_eq!(got.payload[2..], sent[i + 1].payload);
        assert_eq!(got.header.marker, sent[i + 1].marker);
        assert_eq!(got.header.timestamp, peer.video().last().unwrap().header.timestamp);
    }
    assert_eq!(again[1].header.seq, again[0].header.seq + 1, "RTX has numbers of its own");
    assert_eq!(scene.resent(), 2);
}

#[test]
fn without_rtx_the_same_bytes_come_again() {
    let mut scene = scene(false);
    scene.frames(3);
    let wanted = scene.highest() - 4;
    scene.nack(&[wanted]);
    let copies = scene.copies(wanted);
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].sealed, copies[1].sealed, "another text under the same number would repeat a nonce");
}

#[test]
fn a_packet_is_resent_once_a_round_trip_and_ten_times_at_most() {
    let mut scene = scene(true);
    let peer = &mut scene.world.peers[scene.viewer];
    (peer.up.delay_us, peer.down.delay_us) = (50_000, 50_000);
    scene.world.run(1_200); // a sender report comes
    scene.world.report(scene.viewer);
    scene.frames(6);
    let rtt_us = scene.world.peers[scene.viewer].stats.rtt_us.load(Ordering::Relaxed);
    assert!((99_000..=101_500).contains(&rtt_us), "{rtt_us}");

    let wanted = scene.highest();
    scene.nack(&[wanted]);
    scene.nack(&[wanted]);
    scene.frames(5);
    assert_eq!((scene.resent(), scene.refused()), (1, 1), "33 ms are less than 0.9 of 100 ms");
    for _ in 0..11 {
        scene.nack(&[wanted]);
        scene.frames(4);
    }
    assert_eq!((scene.resent(), scene.refused()), (10, 3));
}

#[test]
fn resends_have_a_budget() {
    let mut scene = scene(true);
    scene.video.packets_per_frame = 20;
    scene.frames(25);
    let (highest, sent_bytes) =
        (scene.highest(), scene.world.peers[scene.viewer].stats.bytes_out.load(Ordering::Relaxed));
    let all: Vec<u16> = (0..500).map(|back| highest - back).rev().collect();
    scene.nack(&all);
    // 30 kB to begin with, 15 % of what was sent; a packet is 214 bytes and 30 more.
    let allowed = (30_000 + sent_bytes * 15 / 100) / (214 + 30);
    assert!((allowed * 9 / 10..=allowed).contains(&scene.resent()), "{} of {allowed}", scene.resent());
    assert_eq!(scene.resent() + scene.refused(), 500);
}

#[test]
fn nothing_older_than_the_last_key_frame_is_resent() {
    let mut scene = scene(true);
    scene.frames(2);
    let old = scene.highest();
    scene.frame(true);
    scene.frames(2);
    scene.nack(&[old - 1, old]);
    assert_eq!((scene.resent(), scene.refused()), (0, 2));
    scene.nack(&[old + 1]);
    assert_eq!(scene.resent(), 1, "the key frame's first packet is");
}

#[test]
fn the_end_of_a_gop_is_resent_while_it_may_still_be_shown() {
    let mut scene = scene(true);
    let peer = &mut scene.world.peers[scene.viewer];
    (peer.up.delay_us, peer.down.delay_us) = (50_000, 50_000);
    scene.world.run(1_200);
    scene.world.report(scene.viewer);
    scene.frames(10);
    let old = scene.highest();
    scene.frames(6);
    let last = scene.highest();
    scene.frame(true);
    // With the way of what was sent and of the request, the frame before the key frame is 200 ms old, and the other one 400 ms.
    scene.frames(3);
    scene.nack(&[last]);
    scene.frames(3);
    assert_eq!((scene.resent(), scene.refused()), (1, 0), "the end of the GOP");
    scene.nack(&[old]);
    scene.frames(3);
    assert_eq!((scene.resent(), scene.refused()), (1, 1), "what an outage leaves");
}

#[test]
fn numbers_never_sent_are_refused() {
    let mut scene = scene(true);
    let first = scene.world.peers[scene.viewer].video()[0].header.seq;
    let next = scene.highest() + 1;
    scene.nack(&[first - 1, first.wrapping_sub(20_000), next, next + 1, next + 500, next + 30_000]);
    let missing = scene.world.drops(0, DropReason::ResendMissing);
    assert_eq!((scene.resent(), scene.refused() + missing), (0, 6));
    scene.frame(false);
    assert_eq!(scene.highest(), next + 2, "what comes then is not disturbed");

    // Another source's frames are in the ring, and the viewer waits for a key frame of it.
    scene.publisher = scene.world.publisher(Wish::on(0), 2);
    scene.video = Video::vp8(501, 7_000);
    scene.frames(3);
    let all: Vec<u16> = (1..100).map(|ahead| scene.highest() + ahead).collect();
    scene.nack(&all);
    assert_eq!(scene.resent(), 0);
}

#[test]
fn resends_are_right_across_the_wrap_of_the_number() {
    for rtx in [true, false] {
        let mut scene = scene(rtx);
        // Lost upstream for good: numbers get on faster than packets.
        loop {
            let left = u64::from(u16::MAX - scene.highest());
            if left < 9 {
                break;
            }
            scene.video.seq += (left - 8).min(800);
            scene.frame(true);
        }
        scene.frame(true);
        scene.frames(4);
        let highest = scene.highest();
        assert!(highest < 100, "wrapped: {highest}");
        let wanted: Vec<u16> = (0..12).map(|back| highest.wrapping_sub(back)).rev().collect();
        let before: Vec<Got> = wanted.iter().map(|seq| scene.copies(*seq)[0].clone()).collect();
        assert!(wanted.contains(&u16::MAX) && wanted.contains(&0));
        scene.nack(&wanted);
        assert_eq!(scene.resent(), 12);
        let peer = &scene.world.peers[scene.viewer];
        for (seq, first) in wanted.iter().zip(&before) {
            if rtx {
                let again = peer.of_ssrc(peer.rtx_ssrc);
                let again = again.iter().find(|g| g.payload[..2] == seq.to_be_bytes()).unwrap();
                assert_eq!(again.payload[2..], first.payload);
            } else {
                assert_eq!(scene.copies(*seq)[1].sealed, first.sealed, "number {seq}");
            }
        }
    }
}
