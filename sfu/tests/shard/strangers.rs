//! Datagrams of nobody: the right reason is counted, nothing is answered, nothing changes, media goes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use metrics::DropReason;
use rtc::stun::{Class, Writer};

use crate::camera::Rtp;
use crate::scene::Scene;

const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 666);

impl Scene {
    /// One datagram that must be dropped for `reason`.
    fn dropped(&mut self, datagram: &[u8], from: SocketAddr, reason: DropReason) {
        let before = self.total();
        let of_reason = self.world.drops(0, reason);
        assert_eq!(self.world.datagram(0, datagram, from), 0, "answered: {reason:?}");
        assert_eq!(self.world.drops(0, reason), of_reason + 1, "{reason:?}");
        assert_eq!(self.total(), before + 1);
    }

    fn total(&self) -> u64 {
        DropReason::ALL.iter().map(|r| self.world.drops(0, *r)).sum()
    }
}

fn rtp(scene: &mut Scene) -> Vec<u8> {
    let seq = scene.video.seq + 1;
    let packet = Rtp {
        ssrc: 500,
        payload_type: 96,
        seq,
        timestamp: 1,
        marker: true,
        rid: None,
        descriptor: None,
        payload: vec![0x10; 50],
    };
    scene.world.seal(scene.publisher, &packet)
}

/// The publisher's next SRTCP datagram, not sent.
fn rtcp(scene: &mut Scene) -> Vec<u8> {
    let mut compound = Vec::new();
    rtc::rtcp::bye(&mut compound, &[500]);
    let mut sealed = Vec::new();
    let client = &mut scene.world.peers[scene.publisher].client;
    client.send_rtcp(&compound, &mut |_, bytes| sealed = bytes.to_vec()).unwrap();
    sealed
}

#[test]
fn media_that_is_not_authentic() {
    let mut scene = Scene::new();
    let from = scene.world.peers[scene.publisher].address;
    let packet = rtp(&mut scene);
    for at in [0, packet.len() / 2, packet.len() - 1] {
        let mut wrong = packet.clone();
        wrong[at] ^= if at == 0 { 0x20 } else { 1 };
        scene.dropped(&wrong, from, DropReason::SrtpUnauthenticated);
    }
    let replayed = scene.world.peers[scene.publisher].sent.last().unwrap().clone();
    scene.dropped(&replayed, from, DropReason::SrtpReplayed);
    for len in [2, 4, 11, 12, 13, 27] {
        scene.dropped(&packet[..len], from, DropReason::SrtpShort);
    }
    scene.dropped(&[0x7f; 40], from, DropReason::UnknownProtocol);
    scene.dropped(&[], from, DropReason::UnknownProtocol);
    scene.assert_unhurt();
}

/// A publisher's source is no secret: packets in its name from elsewhere are looked at, ten a second, and change nothing.
#[test]
fn media_in_a_publishers_name_from_elsewhere() {
    let mut scene = Scene::new();
    let mut packet = rtp(&mut scene);
    packet[20] ^= 1;
    let replayed = scene.world.peers[scene.publisher].sent.last().unwrap().clone();
    scene.dropped(&replayed, STRANGER, DropReason::SrtpReplayed);
    for _ in 0..9 {
        scene.dropped(&packet, STRANGER, DropReason::SrtpUnauthenticated);
    }
    for _ in 0..20 {
        scene.dropped(&packet, STRANGER, DropReason::AddressNotValidated);
    }
    let mut nobodys = packet.clone();
    nobodys[8..12].copy_from_slice(&[9; 4]);
    scene.dropped(&nobodys, STRANGER, DropReason::AddressNotValidated);
    scene.assert_unhurt();
    scene.world.run(1_000);
    let mut packet = rtp(&mut scene);
    packet[20] ^= 1;
    scene.dropped(&packet, STRANGER, DropReason::SrtpUnauthenticated);
    let id = scene.world.peers[scene.publisher].id;
    scene.world.command(0, sfu::Command::RemovePeer(id, sfu::CloseReason::Left));
    scene.dropped(&packet, STRANGER, DropReason::AddressNotValidated);
}

#[test]
fn control_that_is_not_authentic() {
    let mut scene = Scene::new();
    let from = scene.world.peers[scene.publisher].address;
    let packet = rtcp(&mut scene);
    for len in 4..=13 {
        scene.dropped(&packet[..len], from, DropReason::SrtpShort);
    }
    let mut clear = packet.clone();
    let trailer = clear.len() - 4;
    clear[trailer] &= 0x7f;
    scene.dropped(&clear, from, DropReason::SrtcpUnauthenticated);
    let mut wrong = packet.clone();
    wrong[9] ^= 1;
    scene.dropped(&wrong, from, DropReason::SrtcpUnauthenticated);
    scene.dropped(&packet, STRANGER, DropReason::AddressNotValidated);
    // The same from another session's valid address: other keys.
    let other = scene.world.peers[scene.viewer].address;
    scene.dropped(&packet, other, DropReason::SrtcpUnauthenticated);
    scene.assert_unhurt();
}

#[test]
fn checks_that_are_forged() {
    let mut scene = Scene::new();
    let (ufrag, pwd) =
        (scene.world.peers[scene.viewer].ufrag.clone(), scene.world.peers[scene.viewer].pwd.clone());
    let check = |asked: &str, pwd: &str| {
        let mut check = Vec::new();
        let writer = Writer::new(&mut check, Class::Request, [9; 12]);
        writer.username(asked, "nobody").priority(1).controlling(1).use_candidate().finish(pwd);
        check
    };
    scene.dropped(&check("XXXXXXXX", &pwd), STRANGER, DropReason::StunUnknownUser);
    // The other side's ufrag is part of the name, and wrong here.
    scene.dropped(&check(&ufrag, &pwd), STRANGER, DropReason::StunUnknownUser);
    // A recorded check, with one bit changed, from the attacker's address.
    let is_check = |d: &&Vec<u8>| d.first() == Some(&0);
    let mut real = scene.world.peers[scene.viewer].sent.iter().find(is_check).unwrap().clone();
    let at = real.len() - 12;
    real[at] ^= 1;
    scene.dropped(&real, STRANGER, DropReason::StunUnauthenticated);
    scene.dropped(&real[..19], STRANGER, DropReason::StunMalformed);
    scene.assert_unhurt();
}

#[test]
fn a_handshake_from_an_address_that_no_check_made_valid() {
    let mut scene = Scene::new();
    let is_dtls = |d: &&Vec<u8>| matches!(d.first(), Some(20..=63));
    let hello = scene.world.peers[scene.viewer].sent.iter().find(is_dtls).unwrap().clone();
    assert_eq!((hello[0], hello[13]), (22, 1), "a ClientHello");
    scene.dropped(&hello, STRANGER, DropReason::AddressNotValidated);
    // An alert in the clear from the right address ends nothing.
    let from = scene.world.peers[scene.viewer].address;
    let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 99, 0, 2, 2, 40];
    scene.world.datagram(0, &alert, from);
    scene.assert_unhurt();
}
