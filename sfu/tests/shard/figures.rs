//! What a subscriber's figures say, and what they are said to say.

use std::sync::atomic::Ordering;

use metrics::DropReason;
use rtc::rtcp;

use crate::camera::{FRAME_MS, Video};
use crate::scene::Scene;
use crate::world::{Wish, World};

impl Scene {
    fn stats(&self) -> &sfu::PeerStats {
        &self.world.peers[self.viewer].stats
    }
}

fn read(figure: &std::sync::atomic::AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

#[test]
fn nacks_are_served_missed_or_refused() {
    let mut scene = Scene::new();
    scene.frames(30);
    let highest = scene.world.peers[scene.viewer].video().last().unwrap().header.seq;
    // One that is there, the same at once again, one not sent yet.
    scene.world.nack(scene.viewer, &[highest]);
    scene.world.run(12);
    scene.world.nack(scene.viewer, &[highest]);
    scene.world.nack(scene.viewer, &[highest.wrapping_add(40)]);
    scene.world.run(12);
    // One that the ring does not have: it was lost before us.
    let mut lossy = scene.video.frame(false);
    lossy.remove(1);
    scene.world.send(scene.publisher, lossy);
    scene.world.run(12);
    scene.world.nack(scene.viewer, &[highest.wrapping_add(2)]);
    scene.world.run(12);
    let stats = scene.stats();
    let nacks = [&stats.nacks_in, &stats.resent, &stats.nacks_refused, &stats.nacks_missed].map(read);
    assert_eq!(nacks, [4, 1, 2, 1]);
    let resent = scene.world.peers[scene.viewer].of_ssrc(scene.world.peers[scene.viewer].rtx_ssrc);
    assert_eq!(resent.len(), 1);
    assert_eq!(read(&stats.resent_bytes), resent[0].payload.len() as u64 + 12);
    let metrics = &scene.world.nodes[0].metrics;
    assert_eq!(metrics.retransmitted_bytes_out.get(), read(&stats.resent_bytes));
    assert_eq!(
        (scene.world.drops(0, DropReason::ResendMissing), scene.world.drops(0, DropReason::ResendRefused)),
        (1, 2)
    );
}

#[test]
fn a_pause_is_one_freeze_of_its_length() {
    let mut scene = Scene::new();
    scene.frames(60);
    assert_eq!(read(&scene.stats().freezes), 0, "a join is no freeze");
    scene.world.run(700);
    assert_eq!(read(&scene.stats().freezes), 0, "it is counted when it ends");
    scene.frames(60);
    let (freezes, freeze_us) = (read(&scene.stats().freezes), read(&scene.stats().freeze_us));
    assert_eq!(freezes, 1);
    assert!((730_000..=740_000).contains(&freeze_us), "{freeze_us}");
    assert_eq!(scene.world.nodes[0].metrics.subscriber_freezes.get(), 1);
    // One frame lost on the way to us is no freeze, five are.
    for lost in [1, 5] {
        (0..lost).for_each(|_| drop(scene.video.frame(false)));
        scene.world.run(lost * FRAME_MS);
        scene.frames(30);
    }
    assert_eq!(read(&scene.stats().freezes), 2);
}

#[test]
fn frames_that_wait_for_a_key_frame_are_dropped_ones() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let mut video = Video::vp8(500, 100);
    let viewer = world.subscriber(Wish::on(0));
    for index in 0..10 {
        // The first ones cannot be shown: their key frame was before us.
        world.send(publisher, video.frame(index == 7));
        world.run(FRAME_MS);
    }
    let stats = &world.peers[viewer].stats;
    assert_eq!(read(&stats.frames_dropped), 7);
    assert_eq!(world.nodes[0].metrics.subscriber_frames_dropped.get(), 7);
    assert_eq!(world.peers[viewer].video().len(), 9);
    assert!(stats.connected_us.load(Ordering::Relaxed) > 0);
}

#[test]
fn reported_loss_is_of_what_is_sent_and_the_worse_of_both() {
    let mut scene = Scene::new();
    let (audio, video) =
        (scene.world.peers[scene.viewer].audio_ssrc, scene.world.peers[scene.viewer].video_ssrc);
    let block = |ssrc, fraction_lost, cumulative_lost| rtcp::ReportBlock {
        ssrc,
        fraction_lost,
        cumulative_lost,
        ..rtcp::ReportBlock::default()
    };
    let blocks = [block(video, 64, 7), block(audio, 13, 2), block(99, 255, 1_000)];
    let mut compound = Vec::new();
    rtcp::receiver_report(&mut compound, 1, &blocks, "");
    scene.world.rtcp(scene.viewer, &compound);
    scene.world.run(10);
    assert_eq!((read(&scene.stats().fraction_lost), read(&scene.stats().lost)), (64, 9));
    // Duplicates make it negative.
    compound.clear();
    rtcp::receiver_report(&mut compound, 1, &[block(video, 0, -5)], "");
    scene.world.rtcp(scene.viewer, &compound);
    scene.world.run(10);
    assert_eq!((read(&scene.stats().fraction_lost), read(&scene.stats().lost)), (13, 2));
}
