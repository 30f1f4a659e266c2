//! Peers with keys that lie: no panic, bounded work, and nobody else is hurt. Every client here reads all that its shard sends, so a
//! stream whose numbers or keys went wrong ends the test.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use media::{Codec, Packet};
use metrics::DropReason;
use rtc::rtcp;
use sfu::{Event, Mail, SourceId, StreamId};

use crate::camera::{FRAME_MS, Rtp, Video, external, negotiated};
use crate::scene::Scene;
use crate::world::{Random, VIDEO, Wish, World, assert_contiguous};

/// An honest stream with its viewer, and beside it another.
fn scene() -> Scene {
    let publisher = Wish { shard: 0, medias: negotiated(&[Codec::Vp8], true) };
    let mut scene = Scene::of(publisher, Wish::on(0));
    scene.frames(2);
    scene
}

/// The honest viewer has all there was, and nobody was sent away.
fn assert_unhurt(scene: &mut Scene) {
    scene.assert_unhurt();
    assert!(!scene.world.nodes[0].events.iter().any(|e| matches!(e, Event::Closed(..))));
}

#[test]
fn a_storm_of_nacks_costs_its_budget() {
    let mut scene = scene();
    let liar = scene.world.subscriber(Wish::on(0));
    scene.frames(30);
    let highest = scene.world.peers[liar].video().last().unwrap().header.seq;
    for round in 0..200_u16 {
        let all: Vec<u16> =
            (0..500).map(|back| highest.wrapping_add(round).wrapping_sub(back)).rev().collect();
        scene.world.nack(liar, &all);
        if round % 10 == 0 {
            scene.frames(1);
        }
    }
    scene.frames(2);
    let stats = &scene.world.peers[liar].stats;
    assert_eq!(stats.nacks_in.load(Ordering::Relaxed), 100_000);
    let resent = stats.resent.load(Ordering::Relaxed);
    assert!((1..=250).contains(&resent), "{resent}");
    // What the budget does not repair is a lost picture, and costs what asking for key frames does.
    let asked = scene.world.peers[scene.publisher].rtcp.iter().filter(|(_, r)| is_request(r)).count();
    assert!(asked <= 3, "{asked} requests to the publisher");
    assert_unhurt(&mut scene);
}

fn is_request(r: &crate::world::Rtcp) -> bool {
    matches!(r, crate::world::Rtcp::Pli { .. } | crate::world::Rtcp::Nack { .. })
}

#[test]
fn a_storm_of_key_frame_requests_is_three_requests() {
    let mut scene = scene();
    let liar = scene.world.subscriber(Wish::on(0));
    scene.frames(3);
    for round in 0..=255 {
        scene.world.pli(liar);
        let mut fir = Vec::new();
        rtcp::fir(&mut fir, 1, scene.world.peers[liar].video_ssrc, round);
        scene.world.rtcp(liar, &fir);
        scene.world.run(2);
    }
    scene.world.run(20);
    let asked = scene.world.peers[scene.publisher].plis();
    assert!((1..=3).contains(&asked), "{asked}");
    assert_eq!(scene.world.peers[liar].stats.plis_in.load(Ordering::Relaxed), 512);
    assert_unhurt(&mut scene);
}

#[test]
fn garbage_under_the_keys() {
    let mut scene = scene();
    let liar = scene.world.subscriber(Wish::on(0));
    let mut random = Random(5);
    for round in 0..3_000 {
        let mut compound = Vec::new();
        let ssrc = [scene.world.peers[liar].video_ssrc, 500, 7][random.below(3) as usize];
        match random.below(7) {
            5 => rtcp::reference_time(&mut compound, 1, random.below(u64::MAX)),
            6 => {
                let (last, delay) = (random.below(1 << 32) as u32, random.below(1 << 32) as u32);
                rtcp::delay_since_reference(&mut compound, 1, ssrc, last, delay);
            }
            0 => rtcp::nack(&mut compound, 1, ssrc, &[random.below(65_536) as u16, 7, 9]),
            1 => rtcp::pli(&mut compound, 1, ssrc),
            2 => rtcp::remb(&mut compound, 1, random.below(1 << 50), &[ssrc]),
            3 => {
                let info = rtcp::SenderInfo {
                    ssrc,
                    ntp: random.below(u64::MAX),
                    rtp: random.below(1 << 32) as u32,
                    ..Default::default()
                };
                rtcp::sender_report(
                    &mut compound,
                    &info,
                    &[rtcp::ReportBlock { lsr: 1, ssrc, ..Default::default() }],
                    "x",
                );
            }
            _ => compound = (0..8 + random.below(60)).map(|_| random.below(256) as u8).collect(),
        }
        for _ in 0..random.below(4) {
            let at = 2 + random.below(compound.len() as u64 - 2) as usize;
            compound[at] = random.below(256) as u8;
        }
        // What the demultiplexer takes for RTCP.
        compound[0] = 0x80 | (compound[0] & 0x3f);
        compound[1] = 200 + compound[1] % 8;
        let peer = if round % 2 == 0 { liar } else { scene.publisher };
        scene.world.rtcp(peer, &compound);
        if round % 100 == 0 {
            scene.world.run(7);
        }
    }
    scene.world.run(20);
    assert!(scene.world.drops(0, DropReason::RtcpMalformed) > 100);
    assert_unhurt(&mut scene);
}

#[test]
fn a_publisher_of_everything() {
    let mut scene = scene();
    scene.world.stream = StreamId(2);
    let liar = scene.world.publisher(Wish::on(0), 2);
    let victim = scene.world.subscriber(Wish::on(0));
    let mut random = Random(6);
    let mut seqs = [40_000_u64; 24];
    for round in 0..4_000_u64 {
        let stream = random.below(24) as usize;
        // Jumps as far as the rollover counter can be told.
        seqs[stream] += if random.below(10) == 0 { 1 + random.below(32_000) } else { 1 };
        let len = [0, 0, 1, 2, 3, 30, 1_100][random.below(7) as usize];
        let packet = Rtp {
            ssrc: 9_000 + stream as u32,
            payload_type: [96, 97, 102, 103, 111, 0, 127][random.below(7) as usize],
            seq: seqs[stream],
            timestamp: random.below(1 << 32) as u32,
            marker: random.below(3) == 0,
            rid: None,
            descriptor: None,
            payload: (0..len).map(|_| random.below(256) as u8).collect(),
        };
        scene.world.send(liar, [packet]);
        if random.below(50) == 0 {
            scene.world.pli(victim);
            scene.world.nack(victim, &[random.below(65_536) as u16]);
        }
        if round % 40 == 0 {
            scene.frames(1);
        }
    }
    scene.world.run(50);
    assert!(scene.world.drops(0, DropReason::TooManySources) > 500, "16 sources are taken, no more");
    assert!(scene.world.drops(0, DropReason::NotNegotiated) > 100);
    assert!(!scene.world.peers[victim].got.is_empty(), "what could be read was passed on");
    assert!(scene.world.peers[liar].plis() <= 2 + 2 * scene.sent);
    assert_unhurt(&mut scene);
}

#[test]
fn rtx_without_a_number() {
    let mut scene = scene();
    let packet = |len: usize, seq: u64| Rtp {
        ssrc: 777,
        payload_type: 97,
        seq,
        timestamp: 0,
        marker: false,
        rid: None,
        descriptor: None,
        payload: vec![0; len],
    };
    scene.world.send(scene.publisher, [packet(0, 1), packet(1, 2), packet(0, 3)]);
    scene.world.run(20);
    assert_eq!(scene.world.drops(0, DropReason::Empty), 3);
    assert_unhurt(&mut scene);
}

#[test]
fn a_gop_without_end_is_not_kept() {
    let mut world = World::new(2);
    let mut video = Video::h264(500, 0);
    for index in 0..3_000 {
        let mut frame = video.frame(index == 0);
        frame.iter_mut().for_each(|p| p.payload.resize(1_100, 7));
        let packets: Arc<[Packet]> = external(frame, Codec::H264, world.now, 0);
        world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(1), packets });
        world.run(1);
    }
    // 9.9 MB came. Another shard that asks for all there is gets no half GOP.
    let viewer = world.subscriber(Wish::on(1));
    world.run(300);
    assert!(world.mail.iter().all(|(.., m)| !matches!(m, Mail::Mirrored { .. })), "its key frame is gone");
    assert!(world.peers[viewer].video().is_empty());
}

#[test]
fn a_check_in_another_peers_name_does_not_take_its_packets() {
    let mut scene = scene();
    let liar = scene.world.subscriber(Wish::on(0));
    let victim = scene.world.peers[scene.publisher].address;
    let mut check = scene.world.peers[liar].sent.iter().find(|d| d.first() == Some(&0)).unwrap().clone();
    let (now, node) = (scene.world.now, &mut scene.world.nodes[0]);
    node.shard.handle_datagram(&mut check, victim, now, &mut node.out);
    node.out.sent.clear(); // the answer to the check, which the victim cannot read
    assert_unhurt(&mut scene);
}

/// One whose own handshake is still to come claims the address, and takes nothing either: it cannot read what the handshake is answered.
#[test]
fn a_claim_to_another_peers_address_takes_neither_packets_nor_goodbyes() {
    let mut scene = scene();
    let liar = scene.world.add_subscriber(Wish::on(0));
    let victim = scene.world.peers[scene.viewer].address;
    let (now, mut forged) = (scene.world.now, Vec::new());
    scene.world.peers[liar].client.handle_timeout(now, &mut |_, bytes| forged.push(bytes.to_vec()));
    scene.world.peers[liar].silent = true;
    // Its check, and a record that says that it is a handshake's.
    forged.push([&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 20][..], &[1; 20]].concat());
    let node = &mut scene.world.nodes[0];
    for mut datagram in forged {
        node.shard.handle_datagram(&mut datagram, victim, now, &mut node.out);
        while node.shard.handle_handshake(now, &mut node.out) {}
        node.out.sent.clear(); // the answers, which the victim cannot read
    }
    assert_unhurt(&mut scene);
    let client = &mut scene.world.peers[scene.viewer].client;
    let mut goodbye = Vec::new();
    client.close(now, &mut |_, bytes| goodbye.push(bytes.to_vec()));
    for datagram in goodbye {
        scene.world.datagram(0, &datagram, victim);
    }
    scene.world.run(5);
    let left = |event: &Event| matches!(event, Event::Closed(_, sfu::CloseReason::Left));
    assert!(scene.world.nodes[0].events.iter().any(left), "the victim's goodbye is heard");
}

#[test]
fn who_gets_through_a_handshake_has_the_address_of_one_that_is_gone() {
    let mut scene = scene();
    let gone = scene.viewer;
    let address = scene.world.peers[gone].address;
    scene.world.peers[gone].silent = true;
    scene.world.peers[gone].address.set_port(1);
    let new = scene.world.add_subscriber(Wish::on(0));
    scene.world.peers[new].address = address;
    scene.world.run(500);
    assert!(scene.world.peers[new].client.is_connected());
    scene.frames(10);
    let got = scene.world.peers[new].video();
    assert!(got.len() >= 30, "{} packets", got.len());
    assert_contiguous(&got);
    let id = scene.world.peers[gone].id;
    let taken = |e: &Event| matches!(e, Event::Closed(who, sfu::CloseReason::AddressTaken) if *who == id);
    assert!(scene.world.nodes[0].events.iter().any(taken), "{:?}", scene.world.nodes[0].events);
}

#[test]
fn a_publisher_that_changes_its_codec_with_each_packet_is_not_followed() {
    let mut scene = scene();
    let wish = Wish { shard: 0, medias: negotiated(&[Codec::Vp8, Codec::H264], true) };
    let liar = scene.world.publisher(wish, 2);
    let told =
        |scene: &Scene| scene.world.nodes[0].events.iter().filter(|e| matches!(e, Event::Codec(..))).count();
    let before = told(&scene);
    for round in 0..30_u64 {
        for (offset, payload_type) in [(0, 96), (1, 102)] {
            let (seq, timestamp) = (round * 2 + offset, round as u32 * 3_000);
            let packet = Rtp {
                ssrc: 700,
                payload_type,
                seq,
                timestamp,
                marker: true,
                rid: None,
                descriptor: None,
                payload: vec![0x10; 50],
            };
            scene.world.send(liar, [packet]);
        }
        scene.world.run(FRAME_MS);
    }
    assert!(told(&scene) - before <= 2, "{} changes told in a second", told(&scene) - before);
}
