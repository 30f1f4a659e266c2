//! What goes to a viewer and when: frames spread, sound first, retransmissions next.

use media::Time;

use crate::camera::FRAME_MS;
use crate::source::Source;
use crate::world::{Got, Wish, World, assert_contiguous};

/// Milliseconds after `from` at which packets came, the link's 5 ms taken off.
fn ms_after(got: &[&Got], from: Time) -> Vec<i64> {
    got.iter().map(|g| g.at.since(from.plus_ms(5)) / 1_000).collect()
}

fn runs(ms: &[i64]) -> Vec<(i64, usize)> {
    ms.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
}

#[test]
fn a_large_frame_is_spread_in_runs_and_a_small_one_does_not_wait() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut source = Source::new(8);
    source.frame(&mut world);
    world.run(FRAME_MS);
    let seen = world.peers[viewer].video().len();
    let start = world.now;
    source.frame(&mut world);
    world.run(FRAME_MS);
    assert_eq!(runs(&ms_after(&world.peers[viewer].video()[seen..], start)), [(0, 8)]);

    for (packets, spread) in [(11, vec![10, 1]), (24, vec![10, 10, 4]), (160, vec![20; 8])] {
        source.video.packets_per_frame = packets;
        let (seen, start) = (world.peers[viewer].video().len(), world.now);
        source.frame(&mut world);
        world.run(FRAME_MS);
        let got = world.peers[viewer].video();
        let want: Vec<_> = (0..).zip(spread).collect();
        assert_eq!(runs(&ms_after(&got[seen..], start)), want, "{packets} packets");
        assert_contiguous(&got);
    }
}

#[test]
fn sound_passes_and_retransmissions_go_before_new_pictures() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut source = Source::new(4);
    source.frame(&mut world);
    source.sound(&mut world);
    world.run(FRAME_MS);
    let lost: Vec<u16> = world.peers[viewer].video().iter().map(|g| g.header.seq).collect();
    world.nack(viewer, &lost);
    world.run(4);
    // The NACK is there in a millisecond; a frame of four slices is under way.
    let seen = world.peers[viewer].got.len();
    source.video.packets_per_frame = 40;
    source.frame(&mut world);
    world.run(3);
    source.sound(&mut world);
    world.run(20);
    let peer = &world.peers[viewer];
    let order: Vec<u32> = peer.got[seen..].iter().map(|g| g.header.ssrc).collect();
    let place = |ssrc: u32| order.iter().position(|s| *s == ssrc).unwrap();
    let resent = order.iter().filter(|s| **s == peer.rtx_ssrc).count();
    assert_eq!((resent, order.len()), (5, 40 + 5 + 1));
    assert_eq!(place(peer.rtx_ssrc), 10, "behind the slice that was out already: {order:?}");
    assert_eq!(order[10..15], [peer.rtx_ssrc; 5], "before the frame's rest");
    assert!((25..45).contains(&place(peer.audio_ssrc)), "sound waits for nobody: {order:?}");
}

#[test]
fn when_the_budget_is_short_the_oldest_are_not_sent_again() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut source = Source::new(8);
    for _ in 0..20 {
        source.frame(&mut world);
        world.run(FRAME_MS);
    }
    let all: Vec<u16> = world.peers[viewer].video().iter().map(|g| g.header.seq).collect();
    world.nack(viewer, &all);
    world.run(FRAME_MS);
    let peer = &world.peers[viewer];
    let again: Vec<u16> = peer
        .of_ssrc(peer.rtx_ssrc)
        .iter()
        .map(|g| u16::from_be_bytes([g.payload[0], g.payload[1]]))
        .collect();
    // 30 kB and 15 % of 161 packets of 1100 bytes.
    assert!((40..60).contains(&again.len()), "{}", again.len());
    assert_eq!(again, all[all.len() - again.len()..], "the newest, in order");
}
