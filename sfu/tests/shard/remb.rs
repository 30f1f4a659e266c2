//! Publishers that cannot estimate what fits through their link are told.

use media::Time;

use crate::camera::{FRAME_MS, Video};
use crate::world::{Peer, Rtcp, Wish, World};

/// What a publisher was told last.
fn told(peer: &Peer) -> Option<u64> {
    peer.rtcp.iter().rev().find_map(|(_, r)| match r {
        Rtcp::Remb { bps } => Some(*bps),
        _ => None,
    })
}

/// Frames as large as the publisher was told, 300 kbit/s at first.
fn publish(world: &mut World, publisher: usize, video: &mut Video, seconds: i64) {
    for _ in 0..seconds * 1_000 / FRAME_MS {
        let bps = told(&world.peers[publisher]).unwrap_or(300_000);
        video.packets_per_frame = (bps * FRAME_MS as u64 / 8_000 / 230).max(1) as usize;
        let packets = video.frame(video.seq == 100);
        world.send(publisher, packets);
        world.run(FRAME_MS);
    }
}

#[test]
fn a_publisher_that_says_when_it_sent_is_told_what_its_link_takes() {
    is_told_what_its_link_takes(true);
}

/// By loss alone.
#[test]
fn a_publisher_that_says_nothing_is_told_what_its_link_takes() {
    is_told_what_its_link_takes(false);
}

fn is_told_what_its_link_takes(times: bool) {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::told(0, times), 1);
    let viewer = world.subscriber(Wish::on(0));
    let up = &mut world.peers[publisher].up;
    (up.rate_bps, up.queue_us_max) = (Some(700_000), if times { 500_000 } else { 100_000 });
    let mut video = Video::vp8(500, 100);
    publish(&mut world, publisher, &mut video, 20);
    let bps = told(&world.peers[publisher]).expect("it is told");
    assert!((450_000..=800_000).contains(&bps), "times {times}: {bps}");
    // It goes on with another rate.
    world.peers[publisher].up.rate_bps = Some(2_000_000);
    publish(&mut world, publisher, &mut video, 20);
    let bps = told(&world.peers[publisher]).expect("it is told");
    assert!((1_000_000..=2_300_000).contains(&bps), "times {times}: {bps}");
    assert!(!world.peers[viewer].video().is_empty());
    // Each second, and when it is less.
    let rembs: Vec<Time> = world.peers[publisher]
        .rtcp
        .iter()
        .filter(|(_, r)| matches!(r, Rtcp::Remb { .. }))
        .map(|(at, _)| *at)
        .collect();
    let far = rembs.windows(2).map(|w| w[1].since(w[0])).max();
    assert!(far <= Some(1_150_000), "{far:?}");
    assert!((38..100).contains(&rembs.len()), "{}", rembs.len());
}

#[test]
fn a_publisher_that_estimates_by_itself_is_told_nothing() {
    let mut numbered = Wish::told(0, true);
    numbered.medias.iter_mut().for_each(|m| m.twcc_ext_id = Some(5));
    for wish in [numbered, Wish::on(0)] {
        let mut world = World::new(1);
        let publisher = world.publisher(wish, 1);
        publish(&mut world, publisher, &mut Video::vp8(500, 100), 3);
        assert_eq!(told(&world.peers[publisher]), None);
        assert!(world.peers[publisher].count(|r| matches!(r, Rtcp::Report { .. })) > 0);
    }
}
