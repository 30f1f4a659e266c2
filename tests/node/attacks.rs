//! Lies between two honest WebRTC peers: what is not authentic changes nothing and ends nothing.
use std::net::UdpSocket;
use std::time::Duration;
use support::peer::{Peer, payload};
use support::sdp::Way;
use support::wait::undisturbed;
use support::{Node, unique};

const TRUE: &[u8] = b"\xfctrue sound";
const FALSE: &[u8] = b"\xfcfalse sound";

fn two(node: &Node) -> (Peer, Peer) {
    let name = unique("attacked");
    let publisher = Peer::connect(&node.whip_url(&name), Way::Send);
    let viewer = Peer::connect(&node.whep_url(&name), Way::Receive);
    (publisher, viewer)
}

/// Sends true sound for a while; how much of it came.
fn talk(publisher: &mut Peer, viewer: &mut Peer, packets: usize) -> usize {
    let before = viewer.rtp.len();
    for _ in 0..packets {
        let packet = publisher.sound(TRUE);
        publisher.send(&packet);
        publisher.run(Duration::from_millis(10));
        viewer.run(Duration::from_millis(10));
    }
    viewer.run(Duration::from_millis(100));
    viewer.rtp[before..].iter().filter(|packet| payload(packet) == TRUE).count()
}

#[track_caller]
fn assert_flows(publisher: &mut Peer, viewer: &mut Peer, what: &str) {
    let came = talk(publisher, viewer, 20);
    assert!(came >= 19, "{what}: {came} of 20 packets came");
    assert_eq!((publisher.closed, viewer.closed), (None, None), "{what}: a session was ended");
    let false_ones = viewer.rtp.iter().filter(|packet| payload(packet) != TRUE).count();
    assert_eq!(false_ones, 0, "{what}: false sound came through");
}

#[test]
fn a_wrong_srtp_tag_changes_nothing() {
    let mut node = Node::start();
    let (mut publisher, mut viewer) = two(&node);
    assert_flows(&mut publisher, &mut viewer, "before");
    let dropped = node.metric("millrace_drops_total");
    for bit in 0..8 {
        let mut packet = publisher.sound(FALSE);
        let last = packet.len() - 1;
        packet[last] ^= 1 << bit;
        publisher.send(&packet);
        // a number far ahead must not move the window either
        packet[2] ^= 0x40;
        publisher.send(&packet);
        // nor another source
        packet[11] ^= 1;
        publisher.send(&packet);
    }
    assert_flows(&mut publisher, &mut viewer, "after wrong tags");
    let now = node.metric("millrace_drops_total");
    assert!(now >= dropped + 24.0, "24 lies, {} counted", now - dropped);
    node.assert_well();
}

#[test]
fn a_replayed_packet_is_not_forwarded_twice() {
    let mut node = Node::start();
    let (mut publisher, mut viewer) = two(&node);
    assert_flows(&mut publisher, &mut viewer, "before");
    let packet = publisher.sound(TRUE);
    let before = viewer.rtp.len();
    for _ in 0..10 {
        publisher.send(&packet);
    }
    viewer.run(Duration::from_millis(300));
    assert_eq!(viewer.rtp.len() - before, 1, "one packet sent ten times");
    assert_flows(&mut publisher, &mut viewer, "after");
    node.assert_well();
}

#[test]
fn srtcp_without_the_encryption_bit_changes_nothing() {
    let mut node = Node::start();
    let (mut publisher, mut viewer) = two(&node);
    assert_flows(&mut publisher, &mut viewer, "before");
    // BYE of our own source: believed, it would end the track
    let bye = [0x81, 203, 0, 1, 0, 0, 3, 0xe9];
    let mut packet = publisher.control(&bye);
    // RFC 3711 section 3.4, RFC 7714 section 9: E and the index are the last word (before a CM profile's tag)
    for at in [packet.len() - 4, packet.len().saturating_sub(14)] {
        let mut cleared = packet.clone();
        cleared[at] &= 0x7f;
        publisher.send(&cleared);
    }
    // in the clear altogether, with an index of any kind and a tag of nothing
    for extra in [4, 8, 14, 20] {
        packet = [&bye[..], &vec![0; extra]].concat();
        publisher.send(&packet);
        viewer.send(&packet);
    }
    assert_flows(&mut publisher, &mut viewer, "after SRTCP in the clear");
    node.assert_well();
}

#[test]
fn short_srtcp_changes_nothing() {
    let mut node = Node::start();
    let (mut publisher, mut viewer) = two(&node);
    assert_flows(&mut publisher, &mut viewer, "before");
    for length in 2..=28 {
        for kind in 200..=207 {
            let mut packet = vec![0x80, kind, 0, 1, 0, 0, 3, 0xe9];
            packet.resize(length, 0xff);
            publisher.send(&packet);
            viewer.send(&packet);
        }
    }
    assert_flows(&mut publisher, &mut viewer, "after short SRTCP");
    node.assert_well();
}

#[test]
fn strangers_do_not_take_a_session_over() {
    let mut node = Node::start();
    let (mut publisher, mut viewer) = two(&node);
    assert_flows(&mut publisher, &mut viewer, "before");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
    // what was really sent, seen by someone on the way and sent from elsewhere
    let seen = publisher.sound(TRUE);
    let mut hello =
        vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 1, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0, 88, 254, 253];
    hello.resize(113, 7);
    let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 0];
    for _ in 0..20 {
        for bytes in [&seen[..], &hello, &alert] {
            stranger.send_to(bytes, publisher.node).expect("a datagram can be sent");
            stranger.send_to(bytes, viewer.node).expect("a datagram can be sent");
        }
    }
    // the same alert from the right address, but with no keys: RFC 6347 section 4.1.2.7, silently discarded
    publisher.send(&alert);
    viewer.send(&alert);
    assert_flows(&mut publisher, &mut viewer, "after a stranger's datagrams");
    stranger.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
    assert!(undisturbed(|| stranger.recv(&mut [0; 2048])).is_err(), "the stranger was answered");
    node.assert_well();
}
