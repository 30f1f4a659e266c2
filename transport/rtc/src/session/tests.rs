//! A session and a client on an in-memory wire, and what a stranger on that wire may not do.

use super::*;
use crate::client::{Client, ClientConfig};
use crate::srtp::TAG_LEN_MAX;
use crate::stun::{Class, Writer};
use proptest::prelude::*;
use std::sync::LazyLock;

static IDENTITIES: LazyLock<[Arc<Identity>; 3]> =
    LazyLock::new(|| std::array::from_fn(|_| Identity::generate().unwrap()));

const SERVER: SocketAddr = address(1);
const CLIENT: SocketAddr = address(2);
const MOVED: SocketAddr = address(3);
const EVIL: SocketAddr = address(66);

const fn address(n: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, n)), 4000)
}

fn credentials(n: u8) -> Credentials {
    Credentials::from_entropy(&std::array::from_fn(|i| n.wrapping_mul(41).wrapping_add(i as u8 * 5)))
}

struct World {
    session: Session,
    client: Client,
    /// Where the client is.
    at: SocketAddr,
    now: Time,
    /// What the session was told to send, and to whom.
    sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Datagrams of the client that the session has taken.
    taken: Vec<Vec<u8>>,
    sequence: u16,
}

impl World {
    fn new(session_role: Role) -> World {
        World::with(session_role, IDENTITIES[1].fingerprint().clone(), 0)
    }

    /// A session made at zero, a client made `client_ms` later.
    fn with(session_role: Role, remote_fingerprint: Fingerprint, client_ms: i64) -> World {
        let base = Instant::now();
        let config = SessionConfig {
            local: credentials(1),
            remote: credentials(2),
            remote_fingerprint,
            identity: IDENTITIES[0].clone(),
            base,
            role: session_role,
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
        };
        let role = if session_role == Role::Passive { Role::Active } else { Role::Passive };
        let client = ClientConfig {
            local: credentials(2),
            remote: credentials(1),
            remote_fingerprint: IDENTITIES[0].fingerprint().clone(),
            identity: IDENTITIES[1].clone(),
            base,
            role,
            controlling: true,
            server: SERVER,
            seed: 7,
        };
        let now = Time::from_ms(client_ms);
        World {
            session: Session::new(config, Time::ZERO),
            client: Client::new(client, now),
            at: CLIENT,
            now,
            sent: Vec::new(),
            taken: Vec::new(),
            sequence: 0,
        }
    }

    fn connected() -> World {
        let mut world = World::new(Role::Passive);
        world.run(500);
        assert!(world.session.is_connected() && world.client.is_connected());
        world.media_flows();
        world
    }

    /// Lets `ms` pass with both sides' timers, every datagram delivered.
    fn run(&mut self, ms: i64) {
        let end = self.now.plus_ms(ms);
        while self.now < end {
            let mut up = Vec::new();
            self.client.handle_timeout(self.now, &mut |_, p| up.push(p.to_vec()));
            self.session.handle_timeout(self.now, &mut |to, p| self.sent.push((to, p.to_vec())));
            self.deliver(up);
            let next = self.client.next_timeout().min(self.session.next_timeout());
            self.now = next.max(self.now.plus_ms(1)).min(end);
        }
    }

    /// Carries the client's datagrams up and everything that follows, until the wire is empty.
    fn deliver(&mut self, mut up: Vec<Vec<u8>>) {
        loop {
            for datagram in std::mem::take(&mut up) {
                self.taken.push(datagram.clone());
                let _ = self.receive(&datagram, self.at);
            }
            let down: Vec<_> = self.sent.extract_if(.., |(to, _)| *to == self.at).collect();
            for (_, mut datagram) in down {
                let _ = self.client.handle_datagram(&mut datagram, self.now, &mut |_, p| up.push(p.to_vec()));
            }
            if up.is_empty() {
                return;
            }
        }
    }

    /// The session takes one datagram.
    fn receive(&mut self, datagram: &[u8], from: SocketAddr) -> Result<Taken, DropReason> {
        let mut buffer = datagram.to_vec();
        let input = self.session.handle_datagram(&mut buffer, from, self.now, &mut |to, p| {
            self.sent.push((to, p.to_vec()));
        })?;
        Ok(match input {
            Input::Nothing => Taken::Nothing,
            Input::Connected => Taken::Connected,
            Input::Rtp(packet) => Taken::Rtp(packet.to_vec()),
            Input::Rtcp(packet) => Taken::Rtcp(packet.to_vec()),
            Input::Closed(reason) => Taken::Closed(reason),
        })
    }

    fn rtp(&mut self) -> (Vec<u8>, usize) {
        self.sequence += 1;
        let [a, b] = self.sequence.to_be_bytes();
        let mut packet = vec![0x80, 96, a, b, 0, 0, 0, 1, 0, 0, 0, 7];
        packet.extend_from_slice(b"some media");
        let len = packet.len();
        packet.resize(len + TAG_LEN_MAX, 0);
        (packet, len)
    }

    fn client_rtp(&mut self) -> Vec<u8> {
        let (mut packet, len) = self.rtp();
        let len = self.client.protect_rtp(&mut packet, len, 12, 0).unwrap();
        packet.truncate(len);
        packet
    }

    fn client_rtcp(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        self.client.send_rtcp(&RECEIVER_REPORT, &mut |_, p| sealed = p.to_vec()).unwrap();
        sealed
    }

    /// Media and RTCP go both ways, and to where the client is.
    fn media_flows(&mut self) {
        let sealed = self.client_rtp();
        assert!(matches!(self.receive(&sealed, self.at), Ok(Taken::Rtp(p)) if p.ends_with(b"some media")));
        let sealed = self.client_rtcp();
        assert_eq!(self.receive(&sealed, self.at), Ok(Taken::Rtcp(RECEIVER_REPORT.to_vec())));
        assert_eq!(self.session.remote(), Some(self.at));

        let (mut packet, len) = self.rtp();
        let plain = packet[..len].to_vec();
        let len = self.session.protect_rtp(&mut packet, len, 12, 0).unwrap();
        let mut nothing = |_: SocketAddr, _: &[u8]| ();
        let got = self.client.handle_datagram(&mut packet[..len], self.now, &mut nothing);
        assert!(matches!(got, Ok(Input::Rtp(p)) if p == plain));
        let mut report = Vec::new();
        self.session
            .send_rtcp(&RECEIVER_REPORT, &mut |to, p| {
                assert_eq!(to, self.at);
                report = p.to_vec();
            })
            .unwrap();
        let got = self.client.handle_datagram(&mut report, self.now, &mut nothing);
        assert!(matches!(got, Ok(Input::Rtcp(p)) if p[..] == RECEIVER_REPORT));
    }

    /// The session drops `datagram` from `from` for `reason`, says nothing, and media flows on.
    fn refuses(&mut self, datagram: &[u8], from: SocketAddr, reason: DropReason) {
        let before = (self.session.remote(), self.session.next_timeout());
        assert_eq!(self.receive(datagram, from), Err(reason));
        assert_eq!(self.sent, [], "a stranger gets no answer");
        assert_eq!((self.session.remote(), self.session.next_timeout()), before);
        self.media_flows();
    }

    fn check(&self, asked: &Credentials, asks: &Credentials) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new(&mut out, Class::Request, [9; 12])
            .username(&asked.ufrag, &asks.ufrag)
            .controlling(1)
            .use_candidate()
            .finish(&asked.pwd);
        out
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Taken {
    Nothing,
    Connected,
    Rtp(Vec<u8>),
    Rtcp(Vec<u8>),
    Closed(CloseReason),
}

const RECEIVER_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 5];

#[test]
fn connects_with_either_side_starting() {
    for role in [Role::Passive, Role::Active] {
        let mut world = World::new(role);
        assert_eq!(world.session.remote(), None);
        assert!(!world.session.is_connected());
        world.run(500);
        assert!(world.session.is_connected() && world.client.is_connected(), "{role:?}");
        world.media_flows();
        // Checks go on and keep consent.
        world.run(120_000);
        assert!(world.session.is_connected());
        world.media_flows();
    }
}

#[test]
fn connects_over_a_wire_that_loses_every_third_datagram() {
    let mut world = World::new(Role::Passive);
    let mut n = 0;
    while world.now < Time::from_ms(9000) && !(world.session.is_connected() && world.client.is_connected()) {
        let mut up = Vec::new();
        let mut kept = move || {
            n += 1;
            n % 3 != 0
        };
        world.client.handle_timeout(world.now, &mut |_, p| up.push(p.to_vec()));
        world.session.handle_timeout(world.now, &mut |to, p| world.sent.push((to, p.to_vec())));
        up.retain(|_| kept());
        world.sent.retain(|_| kept());
        world.deliver(up);
        world.now = world.now.plus_ms(10);
    }
    assert!(world.session.is_connected() && world.client.is_connected());
    world.media_flows();
}

#[test]
fn srtp_that_is_forged_or_replayed() {
    let mut world = World::connected();
    let good = world.client_rtp();
    let mut wrong_tag = good.clone();
    *wrong_tag.last_mut().unwrap() ^= 1;
    world.refuses(&wrong_tag, CLIENT, DropReason::SrtpUnauthenticated);
    let mut other_source = good.clone();
    other_source[11] ^= 1;
    world.refuses(&other_source, CLIENT, DropReason::SrtpUnauthenticated);
    world.refuses(&good[..20], CLIENT, DropReason::SrtpShort);
    assert!(world.receive(&good, CLIENT).is_ok());
    world.refuses(&good, CLIENT, DropReason::SrtpReplayed);
    let fresh = world.client_rtp();
    world.refuses(&fresh, EVIL, DropReason::AddressNotValidated);
}

#[test]
fn srtcp_that_is_forged_or_replayed() {
    let mut world = World::connected();
    let good = world.client_rtcp();
    let mut wrong_tag = good.clone();
    wrong_tag[9] ^= 1;
    world.refuses(&wrong_tag, CLIENT, DropReason::SrtcpUnauthenticated);
    // GCM was negotiated: the E bit is in the fourth byte from the end.
    let mut clear = good.clone();
    let e_byte = clear.len() - 4;
    clear[e_byte] &= 0x7f;
    world.refuses(&clear, CLIENT, DropReason::SrtcpUnauthenticated);
    for len in 4..=13 {
        world.refuses(&good[..len], CLIENT, DropReason::SrtpShort);
    }
    assert!(world.receive(&good, CLIENT).is_ok());
    world.refuses(&good, CLIENT, DropReason::SrtpReplayed);
    let fresh = world.client_rtcp();
    world.refuses(&fresh, EVIL, DropReason::AddressNotValidated);
}

#[test]
fn stun_that_is_forged() {
    let mut world = World::connected();
    let wrong_pwd = Credentials { pwd: credentials(3).pwd, ..credentials(1) };
    let forged = world.check(&wrong_pwd, &credentials(2));
    for from in [CLIENT, EVIL] {
        world.refuses(&forged, from, DropReason::StunUnauthenticated);
    }
    let mut bare = Vec::new();
    Writer::new(&mut bare, Class::Request, [9; 12])
        .username(&credentials(1).ufrag, &credentials(2).ufrag)
        .use_candidate()
        .finish_unauthenticated();
    world.refuses(&bare, EVIL, DropReason::StunUnauthenticated);
    let mut nameless = Vec::new();
    Writer::new(&mut nameless, Class::Request, [9; 12]).use_candidate().finish(&credentials(1).pwd);
    world.refuses(&nameless, EVIL, DropReason::StunUnauthenticated);
    for (asked, asks) in [(3, 2), (1, 3)] {
        let pwd = credentials(1).pwd;
        let named = Credentials { ufrag: credentials(asked).ufrag, pwd };
        let wrong = world.check(&named, &credentials(asks));
        world.refuses(&wrong, EVIL, DropReason::StunUnknownUser);
    }
    let mut response = Vec::new();
    Writer::new(&mut response, Class::Success, [9; 12]).finish(&credentials(1).pwd);
    world.refuses(&response, EVIL, DropReason::StunUnauthenticated);
    world.refuses(&[0, 1, 0, 0], EVIL, DropReason::StunMalformed);
    // None of them validated the address.
    let rtp = world.client_rtp();
    world.refuses(&rtp, EVIL, DropReason::AddressNotValidated);
}

#[test]
fn dtls_from_elsewhere_is_not_heard() {
    // The race for the first ClientHello: the attacker's comes before the peer's check.
    let mut world = World::new(Role::Passive);
    let (identity, expected) = (IDENTITIES[2].clone(), IDENTITIES[0].fingerprint().clone());
    let mut attacker = Dtls::new(identity, expected, Role::Active, Instant::now());
    let mut hello = Vec::new();
    attacker.handle_timeout(Time::ZERO, &mut |p| hello = p.to_vec());
    assert_eq!(world.receive(&hello, EVIL), Err(DropReason::AddressNotValidated));
    assert_eq!(world.sent, []);
    world.run(500);
    world.media_flows();
    world.refuses(&hello, EVIL, DropReason::AddressNotValidated);
    // Nor, once connected, in the peer's name.
    world.refuses(&hello, CLIENT, DropReason::DtlsRefused);
    let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0];
    world.refuses(&alert, CLIENT, DropReason::DtlsRefused);
}

#[test]
fn garbage_from_the_peers_address_does_not_end_a_handshake() {
    let mut world = World::new(Role::Passive);
    let check = world.check(&credentials(1), &credentials(2));
    assert_eq!(world.receive(&check, CLIENT), Ok(Taken::Nothing));
    let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
    let cut = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 99, 1, 1];
    for bad in [alert, cut] {
        assert_eq!(world.receive(&bad, CLIENT), Err(DropReason::DtlsRefused));
    }
    // Handshake fragments of every kind of nonsense, and a change of cipher in the middle.
    for n in 0..100 {
        let mut noise = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, n, 0, 12, 1, n, n, n, 0, 0, 0, 0, 0, n, n, n];
        let _ = world.receive(&noise, CLIENT);
        noise[0] = 20;
        let _ = world.receive(&noise, CLIENT);
    }
    assert!(!world.session.is_connected());
    world.sent.clear();
    world.run(9000);
    world.media_flows();
}

#[test]
fn keys_need_the_fingerprint() {
    let mut world = World::with(Role::Passive, IDENTITIES[2].fingerprint().clone(), 0);
    world.run(CONNECT_TIMEOUT_MS - 1);
    assert!(!world.session.is_connected() && !world.client.is_connected());
    let closed = world.session.handle_timeout(Time::from_ms(CONNECT_TIMEOUT_MS), &mut |_, _| ());
    assert_eq!(closed, Some(CloseReason::FingerprintMismatch));
    let (mut packet, len) = world.rtp();
    assert_eq!(world.session.protect_rtp(&mut packet, len, 12, 0), Err(DropReason::NoKeys));
}

#[test]
fn media_before_the_handshake_is_dropped() {
    let mut world = World::new(Role::Passive);
    let check = world.check(&credentials(1), &credentials(2));
    world.receive(&check, CLIENT).unwrap();
    world.sent.clear();
    let (packet, _) = world.rtp();
    assert_eq!(world.receive(&packet, CLIENT), Err(DropReason::NoKeys));
    assert_eq!(world.receive(&RECEIVER_REPORT, CLIENT), Err(DropReason::NoKeys));
    assert_eq!(world.session.send_rtcp(&RECEIVER_REPORT, &mut |_, _| panic!()), Err(DropReason::NoKeys));
}

#[test]
fn a_replayed_check_moves_no_media() {
    let mut world = World::connected();
    let sniffed = world.taken.iter().find(|p| Protocol::of(p) == Ok(Protocol::Stun)).unwrap().clone();
    assert_eq!(world.receive(&sniffed, EVIL), Ok(Taken::Nothing));
    assert_eq!(world.session.remote(), Some(CLIENT));
    world.sent.clear();
    // Nor does what else was sniffed.
    let media = world.client_rtp();
    world.receive(&media, CLIENT).unwrap();
    world.refuses(&media, EVIL, DropReason::SrtpReplayed);
    world.refuses(&[0x80; 60], EVIL, DropReason::SrtpUnauthenticated);
    world.run(10_000);
    world.media_flows();
}

#[test]
fn a_peer_that_moves_is_followed_by_rtcp_alone() {
    let mut world = World::connected();
    let check = world.check(&credentials(1), &credentials(2));
    world.receive(&check, MOVED).unwrap();
    assert_eq!(world.session.remote(), Some(CLIENT), "a check may be a replay");
    let report = world.client_rtcp();
    world.receive(&report, MOVED).unwrap();
    assert_eq!(world.session.remote(), Some(MOVED));
    world.at = MOVED;
    world.sent.clear();
    world.media_flows();
}

#[test]
fn silence_ends_a_session_in_time() {
    let mut world = World::new(Role::Passive);
    assert_eq!(world.session.next_timeout(), Time::from_ms(CONNECT_TIMEOUT_MS));
    let mut silent = |_: SocketAddr, _: &[u8]| panic!("nobody is there");
    let almost = Time::from_ms(CONNECT_TIMEOUT_MS - 1);
    assert_eq!(world.session.handle_timeout(almost, &mut silent), None);
    let late = Time::from_ms(CONNECT_TIMEOUT_MS);
    assert_eq!(world.session.handle_timeout(late, &mut silent), Some(CloseReason::HandshakeTimeout));
    assert_eq!(world.session.next_timeout(), Time::MAX);

    let mut world = World::connected();
    let end = world.now.plus_ms(crate::ice::CONSENT_MS + 1);
    assert_eq!(world.session.handle_timeout(end, &mut silent), Some(CloseReason::ConsentExpired));
    let check = world.check(&credentials(1), &credentials(2));
    assert_eq!(world.receive(&check, CLIENT), Ok(Taken::Closed(CloseReason::ConsentExpired)));
}

#[test]
fn goodbyes_are_authenticated() {
    let mut world = World::connected();
    let mut bye = Vec::new();
    world.client.close(world.now, &mut |_, p| bye = p.to_vec());
    assert!(!world.client.is_connected());
    let mut forged = bye.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(world.receive(&forged, CLIENT), Ok(Taken::Nothing));
    assert!(world.session.is_connected());
    assert_eq!(world.receive(&bye, EVIL), Err(DropReason::AddressNotValidated));
    assert_eq!(world.receive(&bye, CLIENT), Ok(Taken::Closed(CloseReason::PeerClosed)));
    assert!(!world.session.is_connected());

    let mut world = World::connected();
    world.session.close(world.now, &mut |to, p| world.sent.push((to, p.to_vec())));
    let (to, mut bye) = world.sent.pop().unwrap();
    assert_eq!(to, CLIENT);
    let heard = world.client.handle_datagram(&mut bye, world.now, &mut |_, _| ());
    assert!(matches!(heard, Ok(Input::Closed(CloseReason::PeerClosed))));
}

#[test]
fn protocols_are_told_by_their_first_bytes() {
    for first in 0..=255_u8 {
        for second in [0, 96, 191, 192, 223, 224] {
            let expected = match first {
                0..=3 => Ok(Protocol::Stun),
                20..=63 => Ok(Protocol::Dtls),
                128..=191 if (192..=223).contains(&second) => Ok(Protocol::Rtcp),
                128..=191 => Ok(Protocol::Rtp),
                _ => Err(DropReason::UnknownProtocol),
            };
            assert_eq!(Protocol::of(&[first, second]), expected);
        }
    }
    assert_eq!(Protocol::of(&[]), Err(DropReason::UnknownProtocol));
}

#[test]
fn an_ice_restart_keeps_media_flowing() {
    let mut world = World::connected();
    world.session.restart_ice(credentials(5), credentials(6));
    world.run(10_000);
    world.media_flows();
    world.client.restart_ice(credentials(6), credentials(5), world.now);
    world.at = MOVED;
    world.sent.clear();
    // One round trip: no packet of the client is needed, and no handshake.
    world.taken.clear();
    world.run(5);
    assert_eq!(world.session.remote(), Some(MOVED));
    world.media_flows();
    assert!(world.taken.iter().all(|d| Protocol::of(d) == Ok(Protocol::Stun)), "no handshake");
    for from in [CLIENT, MOVED, EVIL] {
        let old = world.check(&credentials(1), &credentials(2));
        world.refuses(&old, from, DropReason::StunUnknownUser);
    }
    // Consent goes on under the new ones.
    world.run(120_000);
    world.media_flows();
}

#[test]
fn who_replays_a_check_of_a_restart_gets_no_media() {
    let mut world = World::connected();
    world.session.restart_ice(credentials(5), credentials(6));
    world.client.restart_ice(credentials(6), credentials(5), world.now);
    world.at = MOVED;
    world.taken.clear();
    world.run(5);
    let sniffed = world.taken[0].clone();
    assert_eq!(world.receive(&sniffed, EVIL), Ok(Taken::Nothing));
    assert_eq!(world.session.remote(), Some(MOVED));
    world.sent.clear();
    let media = world.client_rtp();
    world.receive(&media, MOVED).unwrap();
    world.refuses(&media, EVIL, DropReason::SrtpReplayed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn arbitrary_datagrams_never_panic_nor_stop_media(
        datagrams in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..200), prop::sample::select(vec![1_u8, 22, 23, 128]), any::<bool>()),
            1..40,
        ),
        connected: bool,
        restarts: bool,
    ) {
        let mut world = if connected { World::connected() } else { World::new(Role::Passive) };
        if !connected {
            let check = world.check(&credentials(1), &credentials(2));
            world.receive(&check, CLIENT).unwrap();
        }
        if restarts {
            world.session.restart_ice(credentials(5), credentials(6));
        }
        for (mut bytes, first, stranger) in datagrams {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let got = world.receive(&bytes, if stranger { EVIL } else { CLIENT });
            prop_assert!(matches!(got, Ok(Taken::Nothing) | Err(_)), "{got:?}");
        }
        if connected {
            world.media_flows();
        }
    }

    /// Datagrams of a real handshake, damaged on the way: retransmission heals it, or it fails, but nothing
    /// panics and nothing connects to the wrong peer.
    #[test]
    fn damaged_handshakes_never_panic(damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..12)) {
        let mut world = World::new(Role::Passive);
        let mut damage = damage.into_iter();
        for _ in 0..60 {
            let mut up = Vec::new();
            world.client.handle_timeout(world.now, &mut |_, p| up.push(p.to_vec()));
            world.session.handle_timeout(world.now, &mut |to, p| world.sent.push((to, p.to_vec())));
            let mut extra = Vec::new();
            for datagram in &up {
                if let Some((at, xor)) = damage.next() {
                    let mut bad = datagram.clone();
                    let at = usize::from(at) % bad.len();
                    bad[at] ^= xor;
                    extra.push(bad);
                }
            }
            extra.extend(up);
            world.deliver(extra);
            world.now = world.now.plus_ms(50);
        }
    }
}
