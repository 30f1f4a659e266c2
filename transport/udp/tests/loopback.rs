//! The real kernel on the loopback address.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use millrace_udp::{GRO_SLOT_LEN, RecvBatch, SendBatch, Socket};

const BUFFER: usize = 4 << 20;

fn bind(address: &str) -> Socket {
    Socket::bind(address.parse().unwrap(), BUFFER, BUFFER).unwrap()
}

/// Receives until `count` datagrams came; fails after two seconds.
fn receive(socket: &Socket, batch: &mut RecvBatch, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut got = Vec::new();
    while got.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} datagrams came", got.len());
        if socket.recv(batch).unwrap() == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        got.extend(batch.iter_mut().map(|(from, bytes)| (from, bytes.to_vec())));
    }
    got
}

/// A frame of 20 packets of 1200 bytes and a short one, each with its own content.
fn frame() -> Vec<Vec<u8>> {
    (0..21_u8).map(|i| vec![i; if i < 20 { 1200 } else { 77 }]).collect()
}

fn round_trip(a: &str, b: &str, towards: impl Fn(SocketAddr) -> SocketAddr) {
    let (a, b) = (bind(a), bind(b));
    let mut send = SendBatch::new(10_000, 8);
    let mut recv = RecvBatch::new(4, 1500);
    let room = send.reserve(100).unwrap();
    room[..5].copy_from_slice(b"hello");
    send.commit(5, towards(b.local_addr()));
    assert!(send.push(towards(b.local_addr()), b"a longer one"));
    let sent = a.send(&mut send).unwrap();
    assert_eq!((sent.datagrams, sent.bytes, sent.dropped_full, sent.dropped_error), (2, 17, 0, 0));
    assert!(send.is_empty());

    let got = receive(&b, &mut recv, 2);
    assert_eq!(got[0].1, b"hello");
    assert_eq!(got[1].1, b"a longer one");
    assert!(send.push(got[0].0, b"back"));
    b.send(&mut send).unwrap();
    assert_eq!(receive(&a, &mut recv, 1)[0], (towards(b.local_addr()), b"back".to_vec()));
    assert_eq!(a.recv(&mut recv).unwrap(), 0, "nothing more waits");
    assert_eq!(recv.iter_mut().count(), 0, "and the batch is empty");
}

#[test]
fn ipv4_round_trip() {
    round_trip("127.0.0.1:0", "127.0.0.1:0", |to| to);
}

#[test]
fn ipv6_round_trip() {
    round_trip("[::1]:0", "[::1]:0", |to| to);
}

#[test]
fn an_ipv6_wildcard_serves_ipv4_peers_under_their_ipv4_address() {
    round_trip("127.0.0.1:0", "[::]:0", |to| SocketAddr::from(([127, 0, 0, 1], to.port())));
}

fn frame_arrives(gso: bool, gro: bool) {
    let (a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut recv = if gro { RecvBatch::new(4, GRO_SLOT_LEN) } else { RecvBatch::new(16, 1500) };
    if gro {
        b.enable_gro().unwrap();
    }
    assert!(a.gso_enabled(), "this kernel has GSO");
    if !gso {
        a.disable_gso();
    }
    let mut send = SendBatch::new(64 << 10, 64);
    for packet in frame() {
        assert!(send.push(b.local_addr(), &packet));
    }
    let sent = a.send(&mut send).unwrap();
    assert_eq!((sent.datagrams, sent.bytes), (21, 20 * 1200 + 77));
    assert_eq!(sent.messages, if gso { 1 } else { 21 });
    assert!(a.gso_enabled() == gso, "nothing was refused");
    let got: Vec<Vec<u8>> = receive(&b, &mut recv, 21).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(got, frame());
}

#[test]
fn a_run_is_one_message_and_arrives_as_its_datagrams() {
    frame_arrives(true, false);
}

#[test]
fn a_run_without_gso_is_many_messages() {
    frame_arrives(false, false);
}

#[test]
fn coalesced_datagrams_are_split() {
    frame_arrives(true, true);
}

#[test]
fn gro_refuses_slots_that_would_cut_runs() {
    let mut socket = bind("127.0.0.1:0");
    socket.enable_gro().unwrap();
    assert!(socket.recv(&mut RecvBatch::new(4, 1500)).is_err());
}

#[test]
fn what_is_longer_than_a_slot_is_dropped_and_counted() {
    let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut send = SendBatch::new(10_000, 8);
    for len in [100, 101, 99] {
        assert!(send.push(b.local_addr(), &vec![1; len]));
    }
    a.send(&mut send).unwrap();
    let mut recv = RecvBatch::new(8, 100);
    assert_eq!(b.recv(&mut recv).unwrap(), 3);
    assert_eq!(recv.truncated(), 1);
    let lens: Vec<usize> = recv.iter_mut().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lens, [100, 99]);
}

#[test]
fn a_refused_datagram_hurts_no_other() {
    let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let unreachable: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
    let port_zero: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut send = SendBatch::new(100_000, 100);
    for i in 0..8_u8 {
        assert!(send.push(b.local_addr(), &[i; 20]));
        // An IPv6 destination of an IPv4 socket, and a run (GSO) to a port that cannot be.
        assert!(send.push(unreachable, &[i; 20]));
        assert!(send.push(port_zero, &[i; 20]) && send.push(port_zero, &[i; 20]));
    }
    let sent = a.send(&mut send).unwrap();
    assert_eq!((sent.datagrams, sent.dropped_error, sent.dropped_full), (8, 24, 0));
    let got = receive(&b, &mut RecvBatch::new(64, 1500), 8);
    assert!((0..8_u8).zip(&got).all(|(i, (_, bytes))| bytes[..] == [i; 20]));
}

#[test]
fn a_refusal_after_a_closed_port_does_not_stop_receiving() {
    let a = bind("127.0.0.1:0");
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut send = SendBatch::new(1000, 10);
    for _ in 0..3 {
        assert!(send.push(closed, b"nobody"));
        assert_eq!(a.send(&mut send).unwrap().datagrams, 1);
    }
    let b = UdpSocket::bind("127.0.0.1:0").unwrap();
    b.send_to(b"hi", a.local_addr()).unwrap();
    assert_eq!(receive(&a, &mut RecvBatch::new(4, 100), 1)[0].1, b"hi");
}

#[test]
fn mio_tells_of_arrivals() {
    let (a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let mut poll = mio::Poll::new().unwrap();
    poll.registry().register(&mut b, mio::Token(3), mio::Interest::READABLE).unwrap();
    let mut send = SendBatch::new(100, 1);
    assert!(send.push(b.local_addr(), b"x"));
    a.send(&mut send).unwrap();
    let mut events = mio::Events::with_capacity(4);
    poll.poll(&mut events, Some(Duration::from_secs(2))).unwrap();
    assert!(events.iter().any(|e| e.token() == mio::Token(3) && e.is_readable()));
}
