//! Encodings that nobody takes: paused at a publisher that hears it, and back when they are chosen.

use media::Codec;
use sfu::{CloseReason, Command, Event, LayerReason};

use crate::camera::FRAME_MS;
use crate::simulcast::{ANY, LOW, SSRC, Stage, cameras, check, simulcast};
use crate::world::{VIDEO, Wish};

/// What the publisher was told last, where it hears that.
fn wanted(stage: &Stage) -> Option<[bool; 3]> {
    let told = stage.world.nodes[0].events.iter().rev();
    told.filter_map(|event| match event {
        Event::Wanted(_, [q, h, f, _]) => Some([*q, *h, *f]),
        _ => None,
    })
    .next()
}

impl Stage {
    /// Frames, from a publisher that does what it is told, `late_ms` after it was.
    fn obeys(&mut self, ms: i64, late_ms: i64) {
        for _ in 0..ms / FRAME_MS {
            self.told.push_back(wanted(self).unwrap_or([true; 3]).map(|wanted| !wanted));
            if self.told.len() as i64 > late_ms / FRAME_MS {
                let stopped = self.told.pop_front().unwrap();
                // An encoder that begins again begins with a key frame.
                (0..3).for_each(|layer| self.begins[layer] |= self.stopped[layer] && !stopped[layer]);
                self.stopped = stopped;
            }
            self.frame();
        }
    }

    fn hears(&mut self, hears: bool) {
        let id = self.world.peers[self.publisher].id;
        self.world.command(0, Command::HearWishes(id, hears));
    }

    fn paused(&self) -> [bool; 3] {
        let [q, h, f, _] = self.world.peers[self.publisher].stats.encodings();
        [q, h, f].map(|layer| layer.paused)
    }
}

#[test]
fn encodings_above_all_that_is_taken_are_paused_and_come_back_when_they_are_chosen() {
    let mut stage = Stage::new(2, Codec::Vp8);
    stage.hears(true);
    let viewers = [0, 1].map(|shard| stage.world.subscriber(Wish::on(shard)));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), None, "what is below is there for who needs it");
    viewers.iter().for_each(|viewer| stage.ask(*viewer, LOW));
    stage.obeys(4_000, 100);
    assert_eq!(wanted(&stage), None, "not at once");
    stage.obeys(3_000, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true, false, false]), [false, true, true]));
    let figures = stage.world.peers[stage.publisher].stats.encodings();
    assert!(figures[2].height == 720 && figures[2].rate_bps > 250_000, "{figures:?}");
    let before = stage.world.peers[stage.publisher].plis();
    stage.obeys(20_000, 100);
    assert_eq!(stage.world.peers[stage.publisher].plis(), before, "nobody asks for what is not wanted");
    // From either shard.
    for viewer in viewers {
        let came = stage.world.now;
        stage.ask(viewer, ANY);
        while stage.shown(viewer) != 2 {
            stage.obeys(FRAME_MS, 330);
            assert!(stage.world.now.since(came) < 700_000, "the best is there soon after it was asked for");
        }
        assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
        stage.obeys(4_000, 100);
        assert_eq!((stage.shown(viewer), stage.says(viewer).reason), (2, LayerReason::Best), "and stays");
        stage.ask(viewer, LOW);
        stage.obeys(9_000, 100);
        assert_eq!((stage.shown(viewer), wanted(&stage)), (0, Some([true, false, false])));
    }
    assert_eq!(stage.world.nodes[0].metrics.encoding_pauses.get(), 6);
    for viewer in viewers {
        check(&stage.world, viewer).unwrap();
    }
}

/// Not on the word of somebody who is not there: nobody waits for what does not come.
#[test]
fn a_publisher_that_does_not_resume_leaves_nobody_without_a_picture() {
    let mut stage = Stage::new(1, Codec::Vp8);
    stage.hears(true);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.run(3_000);
    stage.ask(viewer, LOW);
    stage.obeys(9_000, 100);
    assert_eq!(stage.paused(), [false, true, true]);
    stage.ask(viewer, ANY);
    let before = stage.world.peers[viewer].video().len();
    stage.run(4_950);
    assert_eq!(stage.world.peers[viewer].video().len() - before, 150, "what it has goes on");
    assert_eq!(stage.paused(), [false, true, true], "it is waited for");
    stage.run(1_000);
    let says = stage.says(viewer);
    assert_eq!((stage.paused(), says.layer, says.reason), ([false; 3], 0, LayerReason::Starved));
    stage.obeys(3_000, 100);
    assert_eq!(stage.shown(viewer), 2, "when it comes after all");
    // Nobody listens any more: all that there is is sent.
    stage.ask(viewer, LOW);
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    stage.hears(false);
    stage.obeys(990, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true; 3]));
    check(&stage.world, viewer).unwrap();
}

#[test]
fn who_has_no_way_to_hear_it_and_who_comes_next_are_told_nothing() {
    let mut stage = Stage::new(1, Codec::Vp8);
    let viewer = stage.world.subscriber(Wish::on(0));
    stage.ask(viewer, LOW);
    stage.run(12_000);
    assert_eq!(wanted(&stage), None);
    stage.hears(true);
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    let id = stage.world.peers[stage.publisher].id;
    stage.world.command(0, Command::RemovePeer(id, CloseReason::Left));
    stage.world.nodes[0].events.clear();
    stage.publisher = stage.world.publisher(simulcast(0), 2);
    (stage.cameras, stage.stopped, stage.frames) = (cameras(Codec::Vp8, SSRC), [false; 3], 0);
    stage.answered = [0; 3];
    stage.run(9_000);
    assert_eq!((wanted(&stage), stage.paused()), (None, [false; 3]));
    stage.ask(viewer, ANY);
    stage.until(viewer, 2, 500);
    // A tap takes the best, whoever watches.
    stage.hears(true);
    stage.ask(viewer, LOW);
    stage.world.command(0, Command::Tap(VIDEO));
    stage.run(9_000);
    assert_eq!(wanted(&stage), None);
    stage.world.command(0, Command::Untap(VIDEO));
    stage.obeys(9_000, 100);
    assert_eq!(wanted(&stage), Some([true, false, false]));
    stage.world.command(0, Command::Tap(VIDEO));
    stage.obeys(2_000, 100);
    assert_eq!((wanted(&stage), stage.paused()), (Some([true; 3]), [false; 3]));
}
