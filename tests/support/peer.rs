//! A WebRTC peer with keys of its own, for what no browser does: sound to the other end, then lies in between. Its
//! ICE, DTLS and SRTP are `rtc::client`; those are tested against browsers, this is for what the *node* does.
use crate::http;
use crate::sdp::{self, Way};
use media::Time;
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Fingerprint, Identity, Role};
use rtc::ice::Credentials;
use rtc::{CloseReason, Input};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A connected WHIP or WHEP client.
pub struct Peer {
    socket: UdpSocket,
    client: Client,
    base: Instant,
    /// The session's URL.
    pub session: String,
    /// The node's address for this session.
    pub node: SocketAddr,
    /// RTP packets that came, decrypted.
    pub rtp: Vec<Vec<u8>>,
    /// Compound RTCP packets that came, decrypted.
    pub rtcp: usize,
    /// The newest sender report of each SSRC: NTP time, and the RTP time that it is (RFC 3550 section 6.4.1).
    reports: HashMap<u32, (u64, u32)>,
    /// Why it ended, once it has.
    pub closed: Option<CloseReason>,
    /// Key frames that the node asked for (PLI).
    pub asked: usize,
    sequence: u16,
    pictures: u16,
    /// Packets of pictures in layers, and pictures since the key frame.
    layered: (u16, u16),
}

impl Peer {
    /// Publishes (Opus, announced as SSRC 1001) or plays, and connects.
    ///
    /// # Panics
    /// When the node refuses or no keys come within 5 s.
    #[track_caller]
    pub fn connect(url: &str, way: Way) -> Peer {
        Peer::connect_to(url, &sdp::offer(way))
    }

    /// The same with an offer of its own.
    ///
    /// # Panics
    /// When the node refuses or no keys come within 5 s.
    #[track_caller]
    pub fn connect_to(url: &str, offer: &str) -> Peer {
        let identity = Identity::generate().expect("a certificate can be made");
        let local = Credentials { ufrag: "pEEr".into(), pwd: "peerpeerpeerpeerpeerpeer".into() };
        let mut offer = offer.replace("a=ice-ufrag:t3st", &format!("a=ice-ufrag:{}", local.ufrag));
        for (prefix, value) in
            [("a=ice-pwd:", local.pwd.clone()), ("a=fingerprint:", identity.fingerprint().to_string())]
        {
            let old = sdp::values(&offer, prefix)[0].to_string();
            offer = offer.replace(&old, &value);
        }
        let response = http::request("POST", url, &[("Content-Type", "application/sdp")], offer.as_bytes());
        let response = response.expect("an answer");
        assert_eq!(response.status, 201, "{url}: {}", response.text());
        let location = response.header("Location").expect("a Location");
        let answer = response.text();
        let value = |prefix| sdp::values(&answer, prefix)[0].to_string();
        let candidate = value("a=candidate:");
        let words: Vec<&str> = candidate.split(' ').collect();
        let server =
            format!("{}:{}", words[4], words[5]).parse().expect("a candidate has an address and a port");
        let base = Instant::now();
        let config = ClientConfig {
            local,
            remote: Credentials { ufrag: value("a=ice-ufrag:"), pwd: value("a=ice-pwd:") },
            remote_fingerprint: Fingerprint::parse(&value("a=fingerprint:")).expect("a fingerprint"),
            identity,
            base,
            role: Role::Active,
            controlling: true,
            server,
            seed: 0x5eed,
        };
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out can be set");
        let host: String = url.split_inclusive('/').take(3).collect();
        let session = match location.strip_prefix('/') {
            Some(path) => format!("{host}{path}"),
            None => location,
        };
        let mut peer = Peer {
            socket,
            client: Client::new(config, Time::ZERO),
            base,
            session,
            node: server,
            rtp: Vec::new(),
            rtcp: 0,
            reports: HashMap::new(),
            closed: None,
            asked: 0,
            sequence: 1,
            pictures: 0,
            layered: (0, 0),
        };
        let end = Instant::now() + Duration::from_secs(5);
        while !peer.client.is_connected() {
            assert!(Instant::now() < end, "{url}: no keys within 5 s");
            peer.run(Duration::from_millis(20));
        }
        peer
    }

    /// Goes elsewhere: from now on datagrams leave from another port, and nobody hears what comes to the old one.
    ///
    /// # Panics
    /// When there is no port.
    pub fn moves(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out can be set");
        self.socket = socket;
    }

    /// Restarts ICE by PATCH (RFC 9725 section 4.3.3); the answer's entity tag.
    ///
    /// # Panics
    /// When the node refuses.
    #[track_caller]
    pub fn restart_ice(&mut self, ufrag: &str) -> String {
        let local = Credentials { ufrag: ufrag.into(), pwd: "restartrestartrestartre".into() };
        let body = format!(
            "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n",
            local.ufrag, local.pwd
        );
        let headers = [("Content-Type", "application/trickle-ice-sdpfrag"), ("If-Match", "*")];
        let response = http::request("PATCH", &self.session, &headers, body.as_bytes()).expect("an answer");
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("Content-Type").as_deref(), Some("application/trickle-ice-sdpfrag"));
        let answer = response.text();
        let value = |prefix| sdp::values(&answer, prefix)[0].to_string();
        let remote = Credentials { ufrag: value("a=ice-ufrag:"), pwd: value("a=ice-pwd:") };
        let candidate = value("a=candidate:");
        assert!(
            candidate.contains(&format!(" {} typ host", self.node.port())),
            "the shard stays: {candidate}"
        );
        self.client.restart_ice(local, remote, self.now());
        response.header("ETag").expect("an ETag")
    }

    /// Lets time pass: takes what comes, sends what is due.
    pub fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            let now = self.now();
            let socket = &self.socket;
            let mut send = |to: SocketAddr, bytes: &[u8]| {
                let _ = socket.send_to(bytes, to);
            };
            self.closed = self.closed.or(self.client.handle_timeout(now, &mut send));
            let Ok(count) = socket.recv(&mut buffer) else { continue };
            match self.client.handle_datagram(&mut buffer[..count], now, &mut send) {
                Ok(Input::Rtp(packet)) => self.rtp.push(packet.to_vec()),
                Ok(Input::Rtcp(compound)) => {
                    self.rtcp += 1;
                    rtc::rtcp::parse(&compound, |event| {
                        self.asked += usize::from(matches!(event, rtc::rtcp::Event::Pli { .. }));
                    })
                    .expect("the node sends RTCP");
                    if let [_, 200, _, _, ref report @ ..] = compound[..] {
                        let word = |at: usize| {
                            u32::from_be_bytes(report[at..at + 4].try_into().expect("four bytes"))
                        };
                        let ntp = u64::from(word(4)) << 32 | u64::from(word(8));
                        self.reports.insert(word(0), (ntp, word(12)));
                    }
                }
                Ok(Input::Closed(reason)) => self.closed = Some(reason),
                Ok(Input::Nothing | Input::Connected) | Err(_) => {}
            }
        }
    }

    /// The next packet of sound, protected, not sent: 20 ms after the one before.
    pub fn sound(&mut self, payload: &[u8]) -> Vec<u8> {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut packet = vec![0x80, 111];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 960).to_be_bytes());
        packet.extend(1001_u32.to_be_bytes());
        packet.extend_from_slice(payload);
        self.protect(packet, 12)
    }

    /// The next picture, of VP8 in one packet, protected, not sent: 33 ms after the one before.
    pub fn picture(&mut self, key: bool) -> Vec<u8> {
        self.pictures += 1;
        let mut packet = vec![0x80, 0x80 | 96];
        packet.extend(self.pictures.to_be_bytes());
        packet.extend((u32::from(self.pictures) * 3_000).to_be_bytes());
        packet.extend(2002_u32.to_be_bytes());
        // RFC 7741 section 4.2: a partition begins; RFC 6386 section 9.1: a key frame of 320 by 240, or another.
        packet.extend(if key {
            &[0x10, 0x50, 0, 0, 0x9d, 1, 0x2a, 0x40, 1, 0xf0, 0][..]
        } else {
            &[0x10, 0x51, 0, 0][..]
        });
        packet.extend(self.pictures.to_be_bytes());
        self.protect(packet, 12)
    }

    /// The next picture in two encodings, `q` of 240 lines and `f` of 480, told apart by RID (extension 10, RFC 8852): the last byte says which.
    pub fn encodings(&mut self, key: bool) -> [Vec<u8>; 2] {
        self.pictures += 1;
        [(b'q', 240_u16, 3001_u32), (b'f', 480, 3002)].map(|(rid, height, ssrc)| {
            let mut packet = vec![0x90, 0x80 | 96];
            packet.extend(self.pictures.to_be_bytes());
            packet.extend((u32::from(self.pictures) * 3_000).to_be_bytes());
            packet.extend(ssrc.to_be_bytes());
            packet.extend([0xbe, 0xde, 0, 1, 0xa0, rid, 0, 0]);
            packet.extend([0x10, if key { 0x50 } else { 0x51 }, 0, 0]);
            if key {
                packet.extend([0x9d, 1, 0x2a]);
                packet.extend([height * 4 / 3, height].map(u16::to_le_bytes).concat());
            }
            packet.push(rid);
            self.protect(packet, 20)
        })
    }

    /// The next picture of VP8 in three temporal layers (0 2 1 2) and so many packets of 1100 bytes, protected, not sent: nothing refers to those of the
    /// uppermost.
    pub fn layered(&mut self, key: bool, packets: u16) -> Vec<Vec<u8>> {
        self.pictures += 1;
        self.layered.1 = if key { 0 } else { self.layered.1 + 1 };
        let (tid, tl0) = ([0, 2, 1, 2][usize::from(self.layered.1 % 4)], self.layered.1 / 4);
        let [id_high, id_low] = self.pictures.to_be_bytes();
        let packet = |nth: u16| {
            self.layered.0 += 1;
            let mut packet = vec![0x80, if nth + 1 == packets { 0x80 | 96 } else { 96 }];
            packet.extend(self.layered.0.to_be_bytes());
            packet.extend((u32::from(self.pictures) * 3_000).to_be_bytes());
            packet.extend(2002_u32.to_be_bytes());
            // RFC 7741 section 4.2: X, N and S; picture id, TL0PICIDX, TID.
            let first = 0x80 | if tid == 2 { 0x20 } else { 0 } | if nth == 0 { 0x10 } else { 0 };
            packet.extend([first, 0xe0, id_high | 0x80, id_low, tl0 as u8, tid << 6]);
            packet.extend(match (nth, key) {
                (0, true) => &[0x50, 0, 0, 0x9d, 1, 0x2a, 0x40, 1, 0xf0, 0][..],
                (0, false) => &[0x51, 0, 0],
                _ => &[],
            });
            packet.resize(1_100, nth as u8);
            packet
        };
        let packets: Vec<Vec<u8>> = (0..packets).map(packet).collect();
        packets.into_iter().map(|packet| self.protect(packet, 12)).collect()
    }

    /// The next packet of a picture of whatever codec is payload type 96, with an element of a header extension (RFC 8285 section 4.3), protected, not sent.
    pub fn piece(
        &mut self,
        (timestamp, marker): (u32, bool),
        element: Option<(u8, &[u8])>,
        payload: &[u8],
    ) -> Vec<u8> {
        self.pictures += 1;
        let extended = if element.is_some() { 0x90 } else { 0x80 };
        let mut packet = vec![extended, if marker { 0x80 | 96 } else { 96 }];
        packet.extend(self.pictures.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(2002_u32.to_be_bytes());
        if let Some((id, value)) = element {
            let words = (value.len() + 2).div_ceil(4);
            packet.extend([0x10, 0, 0, words as u8, id, value.len() as u8]);
            packet.extend_from_slice(value);
            packet.resize(16 + 4 * words, 0);
        }
        let header = packet.len();
        packet.extend_from_slice(payload);
        self.protect(packet, header)
    }

    fn protect(&mut self, mut packet: Vec<u8>, header: usize) -> Vec<u8> {
        let length = packet.len();
        packet.resize(length + 64, 0);
        let length = self.client.protect_rtp(&mut packet, length, header, 0).expect("there are keys");
        packet.truncate(length);
        packet
    }

    /// Packets of pictures that came.
    pub fn seen(&self) -> Vec<&[u8]> {
        self.rtp.iter().filter(|packet| packet[1] & 0x7f == 96).map(|packet| payload(packet)).collect()
    }

    /// When what a packet shows, or sounds, was captured, by the node's reports: in seconds of NTP. `None` before the first.
    ///
    /// # Panics
    /// When it is no RTP packet.
    pub fn captured(&self, packet: &[u8]) -> Option<f64> {
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("an RTP header"));
        let (ntp, rtp) = self.reports.get(&word(8))?;
        let ticks = word(4).wrapping_sub(*rtp).cast_signed();
        let clock_hz = if packet[1] & 0x7f == 111 { 48_000.0 } else { 90_000.0 };
        Some(*ntp as f64 / 2_f64.powi(32) + f64::from(ticks) / clock_hz)
    }

    /// Asks for a key frame (PLI, RFC 4585 section 6.3.1).
    ///
    /// # Panics
    /// When no picture came yet.
    pub fn ask_key_frame(&mut self) {
        let picture = self.rtp.iter().find(|packet| packet[1] & 0x7f == 96).expect("a picture came");
        let mut pli = vec![0x81, 206, 0, 2, 0, 0, 0, 1];
        pli.extend_from_slice(&picture[8..12]);
        let pli = self.control(&pli);
        self.send(&pli);
    }

    /// A protected compound RTCP packet, not sent.
    pub fn control(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut sent = Vec::new();
        self.client.send_rtcp(packet, &mut |_, bytes: &[u8]| sent = bytes.to_vec()).expect("there are keys");
        sent
    }

    /// Sends bytes as they are, from the address that was validated.
    pub fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.node).expect("a datagram can be sent");
    }

    fn now(&self) -> Time {
        Time(self.base.elapsed().as_micros() as i64)
    }
}

/// The payload of an RTP packet, after sources and extensions (RFC 3550 section 5.1).
pub fn payload(packet: &[u8]) -> &[u8] {
    let mut header = 12 + 4 * usize::from(packet[0] & 15);
    if packet[0] & 16 != 0 {
        header += 4 + 4 * usize::from(u16::from_be_bytes([packet[header + 2], packet[header + 3]]));
    }
    &packet[header..]
}
