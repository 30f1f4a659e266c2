//! A session and its rightful client on an in-memory wire, and a stranger who sends what he likes.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use media::Time;
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Identity, Role};
use rtc::ice::Credentials;
use rtc::session::{CONNECT_TIMEOUT_MS, Input as Came, Session, SessionConfig};
use rtc::srtp::TAG_LEN_MAX;

use crate::input::Input;
use crate::memory;
use crate::novelty::note;

/// Our certificate and the client's.
pub static IDENTITIES: LazyLock<[Arc<Identity>; 2]> =
    LazyLock::new(|| std::array::from_fn(|_| Identity::generate().expect("a certificate")));

/// Where the server is.
pub const SERVER: SocketAddr = address(1);
const CLIENT: SocketAddr = address(2);
const STRANGER: SocketAddr = address(66);

/// What one session may hold (reliability A11: 64 KiB for each handshake, and room for keys and certificates).
const SESSION_BYTES_MAX: isize = 1 << 20;

/// An address of the test network.
pub const fn address(n: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, n)), 4000)
}

/// ICE credentials by number.
pub fn credentials(n: u8) -> Credentials {
    Credentials::from_entropy(&std::array::from_fn(|i| n.wrapping_mul(41).wrapping_add(i as u8 * 5)))
}

/// The configuration of a session whose client is number `n`.
pub fn session_config(n: u8, base: Instant) -> SessionConfig {
    SessionConfig {
        local: credentials(n),
        remote: credentials(n ^ 0x80),
        remote_fingerprint: IDENTITIES[1].fingerprint().clone(),
        identity: IDENTITIES[0].clone(),
        base,
        role: Role::Passive,
        connect_timeout_ms: CONNECT_TIMEOUT_MS,
    }
}

/// That client.
pub fn client(n: u8, base: Instant, now: Time) -> Client {
    let config = ClientConfig {
        local: credentials(n ^ 0x80),
        remote: credentials(n),
        remote_fingerprint: IDENTITIES[0].fingerprint().clone(),
        identity: IDENTITIES[1].clone(),
        base,
        role: Role::Active,
        controlling: true,
        server: SERVER,
        seed: u64::from(n),
    };
    Client::new(config, now)
}

/// Byte 0: how far the client got before the rest comes (0: nothing, 1: its address is valid, 2: half a handshake, 3: connected).
/// Then steps: 0 and 1 a datagram of a stranger, from an address that is not and that is valid; 2 the client's next datagrams with one
/// byte changed; 3 time passes; 4 the client's next datagrams unchanged.
///
/// A stranger's datagrams give no media, connect nothing, end nothing, and once connected the client's media still flows.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let phase = input.u8() % 4;
    LazyLock::force(&IDENTITIES);
    let before = memory::live();
    let base = Instant::now();
    let mut world = World {
        session: Session::new(session_config(1, base), Time::ZERO),
        client: client(1, base, Time::ZERO),
        now: Time::ZERO,
        up: Vec::new(),
        seq: 0,
    };
    match phase {
        0 => {}
        1 => world.steps(1),
        2 => world.steps(3),
        _ => {
            world.steps(40);
            assert!(world.session.is_connected() && world.client.is_connected(), "an honest client connects");
        }
    }
    let connected = world.session.is_connected();
    while !input.is_empty() {
        match input.u8() % 5 {
            step @ (0 | 1) => {
                let from = if step == 0 { STRANGER } else { CLIENT };
                world.stranger(input.bytes(), from);
            }
            2 => {
                let (at, change) = (usize::from(input.u16()), input.u8());
                let up = world.client_sends();
                for mut datagram in up {
                    let at = at % datagram.len().max(1);
                    if let Some(byte) = datagram.get_mut(at) {
                        *byte ^= change;
                    }
                    world.deliver(datagram, CLIENT);
                }
            }
            3 => {
                world.now = world.now.plus_ms(i64::from(input.u8()));
                let World { session, now, .. } = &mut world;
                note(&session.handle_timeout(*now, &mut |_, _| {}));
            }
            _ => world.steps(1),
        }
        let held = memory::live() - before;
        assert!(held <= SESSION_BYTES_MAX, "a session and its client hold {held} bytes");
    }
    if connected && world.now < Time::from_ms(20_000) {
        assert!(world.session.is_connected(), "a stranger ended the session");
        world.media_flows();
    }
}

struct World {
    session: Session,
    client: Client,
    now: Time,
    /// Of the client, not delivered yet.
    up: Vec<Vec<u8>>,
    seq: u16,
}

impl World {
    /// Round trips, a few milliseconds each.
    fn steps(&mut self, count: u32) {
        for _ in 0..count {
            for datagram in self.client_sends() {
                self.deliver(datagram, CLIENT);
            }
            self.now = self.now.plus_ms(20);
            let mut down = Vec::new();
            self.session.handle_timeout(self.now, &mut |to, p| down.push((to, p.to_vec())));
            self.give_client(down);
            if self.client.is_connected() && self.session.is_connected() && self.up.is_empty() {
                return;
            }
        }
    }

    fn client_sends(&mut self) -> Vec<Vec<u8>> {
        let World { client, up, now, .. } = self;
        client.handle_timeout(*now, &mut |_, p| up.push(p.to_vec()));
        std::mem::take(up)
    }

    fn deliver(&mut self, mut datagram: Vec<u8>, from: SocketAddr) {
        let mut down = Vec::new();
        let came = self
            .session
            .handle_datagram(&mut datagram, from, self.now, &mut |to, p| down.push((to, p.to_vec())));
        note(&came.map(|_| ()));
        self.give_client(down);
    }

    fn give_client(&mut self, down: Vec<(SocketAddr, Vec<u8>)>) {
        let World { client, up, now, .. } = self;
        for (_, mut datagram) in down.into_iter().filter(|(to, _)| *to == CLIENT) {
            let _ = client.handle_datagram(&mut datagram, *now, &mut |_, p| up.push(p.to_vec()));
        }
    }

    fn stranger(&mut self, datagram: &[u8], from: SocketAddr) {
        let connected = self.session.is_connected();
        let remote = self.session.remote();
        let mut answers = 0;
        let mut buffer = datagram.to_vec();
        let came = self.session.handle_datagram(&mut buffer, from, self.now, &mut |_, _| answers += 1);
        match came {
            Ok(Came::Nothing) => note(&"nothing"),
            Err(why) => note(&why),
            Ok(Came::Closed(why)) => assert!(!connected, "a stranger closed it: {why:?}"),
            Ok(other) => panic!("a stranger's datagram gave {other:?}"),
        }
        assert_eq!(self.session.remote(), remote, "a stranger moved the media");
        assert!(from == CLIENT || answers == 0, "an answer to an address that is not valid");
        assert_eq!(self.session.is_connected(), connected, "a stranger connected or ended it");
    }

    fn media_flows(&mut self) {
        self.seq += 1;
        let mut packet =
            vec![0x80, 96, 0, self.seq as u8, 0, 0, 0, 1, 0, 0, 0, 7, b'm', b'e', b'd', b'i', b'a'];
        let len = packet.len();
        packet.resize(len + TAG_LEN_MAX, 0);
        let len = self.client.protect_rtp(&mut packet, len, 12, 0).expect("connected");
        let came = self.session.handle_datagram(&mut packet[..len], CLIENT, self.now, &mut |_, _| {});
        assert!(
            matches!(came, Ok(Came::Rtp(plain)) if plain.ends_with(b"media")),
            "the client's media stopped"
        );
    }
}
