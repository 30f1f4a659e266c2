//! However a session ends, the shard forgets all of it.

use media::Codec;
use sfu::{CloseReason, Command, Event, Mail, PeerId, SourceId};

use crate::camera::{FRAME_MS, Video, external};
use crate::world::{AUDIO, VIDEO, Wish, World};

fn closed(world: &World, shard: usize) -> Vec<(PeerId, CloseReason)> {
    let of = |e: &Event| if let Event::Closed(id, reason) = e { Some((*id, *reason)) } else { None };
    world.nodes[shard].events.iter().filter_map(of).collect()
}

fn assert_empty(world: &mut World) {
    world.run(50);
    for node in &world.nodes {
        let m = &node.metrics;
        assert_eq!((m.peers.get(), m.tracks.get(), m.subscribers.get()), (0, 0, 0));
    }
}

fn frames(world: &mut World, publisher: usize, video: &mut Video, count: usize) {
    for index in 0..count {
        world.send(publisher, video.frame(index == 0));
        world.run(FRAME_MS);
    }
}

#[test]
fn delete_forgets_peers_tracks_and_mirrors() {
    let mut world = World::new(2);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewers = [0, 1, 1].map(|shard| world.subscriber(Wish::on(shard)));
    frames(&mut world, publisher, &mut Video::vp8(500, 100), 10);
    let gauges = |world: &World, shard: usize| {
        let m = &world.nodes[shard].metrics;
        (m.peers.get(), m.tracks.get(), m.subscribers.get())
    };
    assert_eq!((gauges(&world, 0), gauges(&world, 1)), ((2, 2, 2), (2, 2, 4)));

    for peer in [viewers[1], viewers[2], viewers[0], publisher] {
        let (id, shard) = (world.peers[peer].id, world.peers[peer].shard);
        let unmirrored = |w: &World| w.mail.iter().filter(|(.., m)| matches!(m, Mail::Unmirror(..))).count();
        world.command(shard, Command::RemovePeer(id, CloseReason::Kicked));
        assert!(closed(&world, shard).contains(&(id, CloseReason::Kicked)));
        assert_eq!(unmirrored(&world), if peer == viewers[1] { 0 } else { 2 }, "with the last viewer there");
    }
    assert_empty(&mut world);
    // The clients were told.
    assert!(world.peers.iter().all(|p| !p.client.is_connected()));
    // What still comes is nobody's.
    world.send(publisher, []);
    world.command(0, Command::RemovePeer(PeerId(1), CloseReason::Kicked));
    assert_eq!(closed(&world, 0).len(), 2);
}

#[test]
fn who_falls_silent_is_given_up_after_thirty_seconds() {
    let mut world = World::new(2);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(1));
    frames(&mut world, publisher, &mut Video::vp8(500, 100), 3);
    world.run(3_000);
    for peer in [publisher, viewer] {
        world.peers[peer].silent = true;
    }
    world.run(26_000);
    assert!(closed(&world, 0).is_empty() && closed(&world, 1).is_empty());
    world.run(4_100);
    for (peer, shard) in [(publisher, 0), (viewer, 1)] {
        assert_eq!(closed(&world, shard), [(world.peers[peer].id, CloseReason::ConsentLost)]);
    }
    assert_empty(&mut world);
}

#[test]
fn who_does_not_connect_is_given_up_after_ten_seconds() {
    let mut world = World::new(2);
    let viewer = world.add_subscriber(Wish::on(1));
    world.peers[viewer].silent = true;
    world.run(9_990);
    assert!(closed(&world, 1).is_empty());
    world.run(50);
    assert_eq!(closed(&world, 1), [(world.peers[viewer].id, CloseReason::NotConnected)]);
    assert_empty(&mut world);
}

#[test]
fn a_client_that_says_goodbye_has_left() {
    let mut world = World::new(1);
    let viewer = world.subscriber(Wish::on(0));
    let mut bytes = Vec::new();
    let now = world.now;
    world.peers[viewer].client.close(now, &mut |_, datagram| bytes.push(datagram.to_vec()));
    let from = world.peers[viewer].address;
    for datagram in bytes {
        world.datagram(0, &datagram, from);
    }
    assert_eq!(closed(&world, 0), [(world.peers[viewer].id, CloseReason::Left)]);
    assert_empty(&mut world);
}

#[test]
fn mail_that_comes_after_the_end_of_its_source_brings_nothing_back() {
    let mut world = World::new(1);
    let mut video = Video::h264(500, 0);
    let mut mail = |world: &mut World, source: u64| {
        let packets = external(video.frame(true), Codec::H264, world.now, 0);
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(source), packets });
    };
    mail(&mut world, 1);
    world.run(30);
    assert_eq!(world.nodes[0].metrics.tracks.get(), 1);
    world.command(0, Command::EndSource(VIDEO, SourceId(1)));
    world.command(0, Command::EndSource(AUDIO, SourceId(1)));
    // Orders and mail are two queues.
    mail(&mut world, 1);
    assert_empty(&mut world);
    mail(&mut world, 2);
    world.run(30);
    assert_eq!(world.nodes[0].metrics.tracks.get(), 1, "another source may come");
}
