//! Key-frame requests of viewers: merged and throttled, on the source's shard and from another.

use std::sync::atomic::Ordering;

use media::Codec;
use sfu::Mail;

use crate::camera::{FRAME_MS, Video, negotiated};
use crate::world::{Wish, World, assert_contiguous};

struct Scene {
    world: World,
    publisher: usize,
    video: Video,
    answers: bool,
    answered: usize,
}

impl Scene {
    fn new(shards: usize) -> Scene {
        let mut world = World::new(shards);
        let publisher = world.publisher(Wish { shard: 0, medias: negotiated(&[Codec::Vp8], true) }, 1);
        let mut scene = Scene { world, publisher, video: Video::vp8(500, 100), answers: true, answered: 0 };
        scene.frames(1, true);
        scene
    }

    /// The publisher sends; each PLI is answered with a key frame, when it answers.
    fn frames(&mut self, count: usize, first_key: bool) {
        for index in 0..count {
            let asked = self.plis();
            let key = (first_key && index == 0) || (self.answers && asked > self.answered);
            self.answered = asked;
            let packets = self.video.frame(key);
            self.world.send(self.publisher, packets);
            self.world.run(FRAME_MS);
        }
    }

    fn plis(&self) -> usize {
        self.world.peers[self.publisher].plis()
    }
}

#[test]
fn a_receiver_is_heard_three_times_in_ten_seconds() {
    let mut scene = Scene::new(1);
    let viewer = scene.world.subscriber(Wish::on(0));
    scene.frames(10, true);
    let before = scene.plis();
    for _ in 0..12 {
        scene.world.pli(viewer);
        scene.frames(22, false);
    }
    assert_eq!(scene.plis() - before, 3, "12 in 9 s");
    assert_eq!(scene.world.peers[viewer].stats.plis_in.load(Ordering::Relaxed), 12);
    scene.frames(45, false);
    scene.world.pli(viewer);
    scene.frames(10, false);
    assert_eq!(scene.plis() - before, 4, "heard again later");
}

#[test]
fn a_source_is_asked_twice_a_second_however_many_ask() {
    let mut scene = Scene::new(2);
    let viewers: Vec<usize> = (0..8).map(|i| scene.world.subscriber(Wish::on(i % 2))).collect();
    scene.frames(10, true);
    scene.answers = false;
    let before = scene.plis();
    for round in 0..150 {
        for &viewer in &viewers {
            if round % 8 == viewer % 8 {
                scene.world.pli(viewer);
            }
        }
        scene.frames(1, false);
    }
    let asked = scene.plis() - before;
    assert!((8..=12).contains(&asked), "{asked} in 5 s");
}

#[test]
fn a_request_from_another_shard_is_relayed_once() {
    let mut scene = Scene::new(2);
    let viewers: Vec<usize> = (0..3).map(|_| scene.world.subscriber(Wish::on(1))).collect();
    scene.frames(30, true);
    let before = scene.plis();
    scene.world.mail.clear();
    for &viewer in &viewers {
        scene.world.pli(viewer);
    }
    scene.frames(20, false);
    let relayed =
        scene.world.mail.iter().filter(|(from, _, m)| *from == 1 && matches!(m, Mail::RequestKeyFrame(_)));
    assert_eq!(relayed.count(), 1);
    assert_eq!(scene.plis() - before, 1);
}

#[test]
fn a_key_frame_in_the_same_batch_leaves_nothing_to_ask() {
    let mut scene = Scene::new(2);
    // The whole GOP is too old to replay, so the viewer waits.
    scene.frames(60, false);
    let viewer = scene.world.subscriber(Wish::on(1));
    scene.frames(30, false);
    assert!(!scene.world.peers[viewer].video().is_empty(), "it asked, got a key frame and is live");
    assert_eq!(scene.plis(), 1);
}

#[test]
fn a_young_key_frame_from_elsewhere_is_shown_again_and_nobody_asked() {
    let mut scene = Scene::new(2);
    let viewers = [0, 1].map(|shard| scene.world.subscriber(Wish::on(shard)));
    scene.frames(5, true);
    let before = scene.plis();
    scene.world.mail.clear();
    let got = scene.world.peers[viewers[1]].video().len();
    scene.world.pli(viewers[1]);
    scene.frames(5, false);
    assert_eq!((scene.plis(), scene.world.mail.iter().filter(asks).count()), (before, 0));
    let video = scene.world.peers[viewers[1]].video();
    assert_contiguous(&video);
    let keys = video[got..].iter().filter(|got| got.payload[0] & 0x10 != 0 && got.payload[1] & 1 == 0);
    assert_eq!(keys.count(), 1, "the key frame once more");
    assert!((got + 25..got + 40).contains(&video.len()), "and what came behind it: {}", video.len() - got);
    // An older one is not, nor is one whose source is here.
    scene.frames(10, false);
    scene.world.pli(viewers[1]);
    scene.frames(3, false);
    assert_eq!(scene.plis(), before + 1);
    scene.frames(20, true);
    scene.frames(5, true);
    scene.world.pli(viewers[0]);
    scene.frames(3, false);
    assert_eq!(scene.plis(), before + 2);
}

fn asks((_, _, mail): &&(usize, usize, Mail)) -> bool {
    matches!(mail, Mail::RequestKeyFrame(_))
}
