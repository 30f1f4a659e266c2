//! One browser that sends VP8, and one that watches it.

use crate::camera::{FRAME_MS, Rtp, Video};
use crate::world::{Wish, World, assert_contiguous};

pub struct Scene {
    pub world: World,
    pub publisher: usize,
    pub viewer: usize,
    pub video: Video,
    /// Frames that were sent.
    pub sent: usize,
}

impl Scene {
    /// The viewer has got one key frame.
    pub fn new() -> Scene {
        Scene::of(Wish::on(0), Wish::on(0))
    }

    pub fn of(publisher: Wish, viewer: Wish) -> Scene {
        let mut world = World::new(1);
        let publisher = world.publisher(publisher, 1);
        let viewer = world.subscriber(viewer);
        let mut scene = Scene { world, publisher, viewer, video: Video::vp8(500, 100), sent: 0 };
        scene.frame(true);
        scene
    }

    /// The next frame, before it is sent.
    pub fn make(&mut self, key: bool) -> Vec<Rtp> {
        self.sent += 1;
        self.video.frame(key)
    }

    pub fn send(&mut self, packets: Vec<Rtp>) {
        self.world.send(self.publisher, packets);
    }

    pub fn frame(&mut self, key: bool) {
        let packets = self.make(key);
        self.send(packets);
        self.world.run(FRAME_MS);
    }

    pub fn frames(&mut self, count: usize) {
        (0..count).for_each(|_| self.frame(false));
    }

    /// The viewer has all there was, and gets what comes.
    pub fn assert_unhurt(&mut self) {
        self.frames(3);
        let got = self.world.peers[self.viewer].video();
        assert_eq!(got.len(), self.sent * 3);
        assert_contiguous(&got);
    }
}
