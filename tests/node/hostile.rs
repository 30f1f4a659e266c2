//! Bad input on every door: nothing ends but the connection it came on.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use support::flv::{Tag, VIDEO};
use support::rtmp::{self, Client, Publisher};
use support::sdp::{Way, offer};
use support::wait::{nothing_yet, undisturbed};
use support::{Node, flv, http, unique, until};

/// A small generator with a seed, so that a failure repeats.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let step = |_| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 32) as u8
        };
        (0..count).map(step).collect()
    }
}

/// How long the other side takes to end a connection that we leave open.
fn closes_within(mut stream: TcpStream, limit: Duration) -> Option<Duration> {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out can be set");
    let mut piece = [0; 65536];
    while start.elapsed() < limit {
        match stream.read(&mut piece) {
            Ok(0) => return Some(start.elapsed()),
            Err(error) if !nothing_yet(&error) => return Some(start.elapsed()),
            _ => {}
        }
    }
    None
}

/// A viewer that must not notice what goes on beside it.
fn watch(node: &Node) -> (Publisher, Client, String) {
    let name = unique("bystander");
    let publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("a viewer plays");
    (publisher, viewer, name)
}

#[track_caller]
fn assert_unhurt(node: &mut Node, viewer: &Client, seconds: u64) {
    let _ = viewer.collect(Duration::from_millis(50)); // what was waiting
    let seen = viewer.collect(Duration::from_secs(seconds));
    let pictures = seen.iter().filter(|it| it.tag.kind == VIDEO).count() as u64;
    assert!(pictures >= seconds * 24, "the bystander saw {pictures} pictures in {seconds} s");
    node.assert_well();
}

#[test]
fn garbage_on_every_port_changes_nothing() {
    let mut node = Node::start();
    let (_publisher, viewer, _) = watch(&node);
    let mut noise = Noise(0x6d69_6c6c_7261_6365);
    for round in 0..20_usize {
        for port in [node.rtmp, node.http, node.ops] {
            let mut stream = TcpStream::connect(port).expect("the port is open");
            let _ = stream.write_all(&noise.bytes(1 << (round % 14)));
        }
        for port in &node.webrtc {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
            for size in [0, 1, 4, 13, 20, 100, 1200, 1500, 9000] {
                let mut bytes = noise.bytes(size);
                // the first byte picks the parser (RFC 7983): STUN, DTLS, RTP and RTCP in turn
                if let Some(first) = bytes.first_mut() {
                    *first = [0, 1, 20, 22, 23, 128, 129, 191][round % 8];
                }
                if let Some(second) = bytes.get_mut(1).filter(|_| round % 2 == 1) {
                    *second = 200 + (round % 8) as u8;
                }
                socket.send_to(&bytes, port).expect("a datagram can be sent");
            }
        }
    }
    assert_unhurt(&mut node, &viewer, 2);
}

/// Answers that a datagram of ours gets.
fn answers(to: SocketAddr, bytes: &[u8]) -> Vec<usize> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out can be set");
    socket.send_to(bytes, to).expect("a datagram can be sent");
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| undisturbed(|| socket.recv(&mut buffer)).ok()).collect()
}

/// RFC 5389 binding request with a user name of `ufrag` and an integrity that is none.
fn forged_binding(ufrag: &str) -> Vec<u8> {
    let user = format!("{ufrag}:t3st");
    let mut attributes = vec![0, 6, 0, user.len() as u8];
    attributes.extend(user.bytes());
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    attributes.extend([0, 0x25, 0, 0]); // USE-CANDIDATE
    attributes.extend([0, 8, 0, 20]);
    attributes.extend([0x5a; 20]); // MESSAGE-INTEGRITY
    let mut out = vec![0, 1, 0, attributes.len() as u8, 0x21, 0x12, 0xa4, 0x42];
    out.extend([7; 12]);
    out.extend(attributes);
    out
}

#[test]
fn unauthenticated_datagrams_get_no_longer_answer_and_no_session() {
    let mut node = Node::start();
    let name = unique("forged");
    let response = http::request(
        "POST",
        &node.whip_url(&name),
        &[("Content-Type", "application/sdp")],
        offer(Way::Send).as_bytes(),
    );
    let response = response.expect("an answer");
    assert_eq!(response.status, 201);
    let sdp = response.text();
    let ufrag = support::sdp::values(&sdp, "a=ice-ufrag:")[0].to_string();

    let mut hello =
        vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 1, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0, 88, 254, 253];
    hello.resize(113, 7);
    for port in node.webrtc.clone() {
        let rtp = [&[0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 3, 0xe9][..], &[0; 100]].concat();
        let rtcp = [0x80, 200, 0, 6, 0, 0, 3, 0xe9, 0, 0, 0, 0];
        for (what, bytes) in [("DTLS ClientHello", &hello[..]), ("RTP", &rtp), ("RTCP", &rtcp)] {
            assert_eq!(answers(port, bytes), [0; 0], "{what} from an address that was never validated");
        }
        let request = forged_binding(&ufrag);
        let got = answers(port, &request);
        assert!(
            got.iter().sum::<usize>() <= request.len(),
            "{} bytes were answered with {got:?}",
            request.len()
        );
    }
    // the session they were aimed at is still there
    let location = response.header("Location").expect("a Location");
    let url = if location.starts_with('/') { node.url(&location) } else { location };
    assert_eq!(http::request("DELETE", &url, &[], b"").expect("an answer").status, 200);
    node.assert_well();
}

#[test]
fn half_open_connections_die_within_ten_seconds() {
    let mut node = Node::start();
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(node.rtmp).expect("the port is open");
        stream.write_all(bytes).expect("it fits the socket");
        stream
    };
    let half = [vec![3], vec![0; 700]].concat();
    let silent = [
        ("nothing sent", connect(b"")),
        ("version only", connect(&[3])),
        ("half a handshake", connect(&half)),
        ("a handshake and no more", rtmp::handshake(node.rtmp).expect("a handshake")),
    ];
    let threads = silent.map(|(what, stream)| {
        std::thread::spawn(move || (what, closes_within(stream, Duration::from_secs(12))))
    });
    for thread in threads {
        let (what, took) = thread.join().expect("the thread ends");
        assert!(took.is_some_and(|it| it < Duration::from_secs(11)), "{what}: {took:?}");
    }
    node.assert_well();
}

/// A chunk stream may announce 16 MiB messages; a stranger does not get that memory.
#[test]
fn strangers_cost_little() {
    let mut node = Node::start();
    let before = node.process.memory();
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = rtmp::handshake(node.rtmp).expect("a handshake");
        let _ = stream.write_all(&[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]); // chunk size 2^31 - 1
        for chunk_stream in 3..63_u8 {
            // a message of 16 MiB on each chunk stream, of which some KiB come
            let _ = stream.write_all(&[chunk_stream, 0, 0, 0, 0xff, 0xff, 0xff, 20, 0, 0, 0, 0]);
            let _ = stream.write_all(&[2; 4096]);
        }
        open.push(stream);
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = node.process.memory().saturating_sub(before) >> 10;
    // 256 KiB each by the issue, and what the allocator keeps
    assert!(grown < 100 * 256 + 8192, "100 strangers cost {grown} KiB");
    drop(open);
    node.assert_well();
}

#[test]
fn broken_rtmp_ends_its_own_connection_only() {
    let mut node = Node::start();
    let (_publisher, viewer, _) = watch(&node);
    let empty_command = [3, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0];
    let mut deep = Vec::new(); // objects in objects, 10,000 deep
    for _ in 0..10_000 {
        deep.extend([3, 0, 1, b'a']);
    }
    let no_chunk_size = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let without_header = [0xc3; 200];
    for bytes in [&empty_command[..], &no_chunk_size, &without_header] {
        let mut stream = rtmp::handshake(node.rtmp).expect("a handshake");
        for _ in 0..50 {
            if stream.write_all(bytes).is_err() {
                break;
            }
        }
    }
    let mut client = Client::connect(node.rtmp, "live").expect("connects");
    for kind in [20, 18, 15, 17, 22, 1, 2, 3, 4, 5, 6, 0, 255] {
        client.send(3, 0, &Tag { kind, time: 0, body: deep.clone() });
    }
    let mut noise = Noise(77);
    for round in 0..200 {
        let Ok(mut stream) = rtmp::handshake(node.rtmp) else { continue };
        let _ = stream.write_all(&noise.bytes(50 + round * 20));
    }
    assert_unhurt(&mut node, &viewer, 2);
}

/// A publisher whose settings cannot be read is closed, the reason is logged, and nobody else notices.
#[test]
fn a_publisher_of_broken_settings_is_closed_with_a_reason() {
    let mut node = Node::start();
    let (_publisher, viewer, bystander) = watch(&node);
    let broken: [&[u8]; 4] = [
        &[0x17, 0, 0, 0, 0],                                              // no configuration at all
        &[0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x1f, 0xff, 0xe1, 0xff, 0xff], // an SPS of 65535 bytes that is not there
        &[0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x1f, 0xff, 0xff, 0, 0, 0, 0, 0, 0], // 31 empty SPS
        &[0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x1f, 0xff, 0xe1, 0, 4, 0x67, 0, 0, 0, 1, 0, 1, 0x68], // SPS and PPS of nothing
    ];
    for (at, body) in broken.iter().enumerate() {
        let name = unique("broken");
        let mut client = Client::connect(node.rtmp, "live").expect("connects");
        client.publish(&name).expect("publishes");
        client.media(&Tag { kind: VIDEO, time: 0, body: body.to_vec() });
        // frames without settings that could be used
        for time in 0..30 {
            client.media(&Tag {
                kind: VIDEO,
                time: time * 33,
                body: vec![0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88],
            });
        }
        let ended = client.ended(Duration::from_secs(5));
        assert!(ended.is_some(), "broken settings {at}: the publisher is still there");
        // the log is written by a thread of its own
        until("the log names the publisher", Duration::from_secs(5), || {
            node.log().contains(&name).then_some(())
        });
    }
    let name = unique("broken-audio");
    let mut client = Client::connect(node.rtmp, "live").expect("connects");
    client.publish(&name).expect("publishes");
    client.media(&Tag { kind: flv::AUDIO, time: 0, body: vec![0xaf, 0, 0xff] });
    assert!(
        client.ended(Duration::from_secs(5)).is_some(),
        "a broken AudioSpecificConfig: the publisher is still there"
    );
    assert!(node.stream(&bystander).is_some());
    assert_unhurt(&mut node, &viewer, 2);
}

#[test]
fn large_requests_are_refused_before_they_are_read() {
    let mut node = Node::start();
    let large = "a".repeat(1 << 20);
    let url = node.whip_url(&unique("large"));
    let sdp = http::request("POST", &url, &[("Content-Type", "application/sdp")], large.as_bytes())
        .expect("an answer");
    assert!(matches!(sdp.status, 400 | 413), "{}", sdp.status);
    let json = http::request(
        "POST",
        &node.url("/rtc/v1/play/"),
        &[("Content-Type", "application/json")],
        large.as_bytes(),
    );
    assert!(matches!(json.expect("an answer").status, 400 | 413));
    // many small lines are no less work than one large
    let lines = offer(Way::Send) + &"a=candidate:1 1 udp 1 127.0.0.1 1 typ host\r\n".repeat(2500);
    let many = http::request("POST", &url, &[("Content-Type", "application/sdp")], lines.as_bytes())
        .expect("an answer");
    assert!(many.status == 201 || (400..500).contains(&many.status), "{}", many.status);
    node.assert_well();
}

#[test]
fn a_slow_request_does_not_hold_the_door() {
    let mut node = Node::start();
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(node.http).expect("the port is open");
            stream
                .write_all(b"POST /whip/live/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100")
                .expect("it fits");
            stream
        })
        .collect();
    let start = Instant::now();
    until("the API answers", Duration::from_secs(3), || {
        (http::get(&node.url("/api/v1/versions")).status == 200).then_some(())
    });
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(slow);
    node.assert_well();
}
