//! The handshake: the simple one of RTMP 5.2, and the "complex" one with digests that Flash Player 9 brought and most
//! encoders still begin with.

use aws_lc_rs::{constant_time, hmac};
use bytes::{BufMut, Bytes, BytesMut};

use crate::Error;

/// Random bytes that a handshake takes: C1 and S1 without time and version (RTMP 5.2.3).
pub const RANDOM_LEN: usize = 1528;

/// C1, S1, C2 and S2.
const PACKET_LEN: usize = 1536;
/// RTMP 5.2.2.
const VERSION: u8 = 3;

const DIGEST_LEN: usize = 32;
/// Where the signature of C2 and S2 begins: it closes the packet.
const SIGNED_LEN: usize = PACKET_LEN - DIGEST_LEN;

/// The keys of the complex handshake: a text that signs C1 and S1, and with this tail C2 and S2.
const KEY_TAIL: [u8; 32] = [
    0xF0, 0xEE, 0xC2, 0x4A, 0x80, 0x68, 0xBE, 0xE8, 0x2E, 0x00, 0xD0, 0xD1, 0x02, 0x9E, 0x7E, 0x57, 0x6E,
    0xEC, 0x5D, 0x2D, 0x29, 0x80, 0x6F, 0xAB, 0x93, 0xB8, 0xE6, 0x36, 0xCF, 0xEB, 0x31, 0xAE,
];
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001";
const PLAYER_KEY: &[u8] = b"Genuine Adobe Flash Player 001";

/// The version in S1 of a complex handshake: clients expect digests from 3 on.
const SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];

/// The two layouts of C1 and S1. Both have two blocks of 764 bytes after time and version, one with a Diffie-Hellman key
/// that only RTMPE uses and one with the digest; they differ in which comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Schema {
    KeyFirst,
    DigestFirst,
}

impl Schema {
    /// Where the digest stands: the first four bytes of its block add up to the offset, modulo 728.
    fn digest_at(self, packet: &[u8; PACKET_LEN]) -> usize {
        let block_at: usize = match self {
            Schema::KeyFirst => 8 + 764,
            Schema::DigestFirst => 8,
        };
        let offset_len = 4_usize;
        let offset: usize =
            packet.iter().skip(block_at).take(offset_len).map(|byte| usize::from(*byte)).sum();
        block_at.saturating_add(offset_len).saturating_add(offset % 728)
    }
}

/// The server's side. Memory: C0 and C1, 1537 bytes, until they are answered.
#[derive(Debug)]
pub struct ServerHandshake {
    random: Box<[u8; RANDOM_LEN]>,
    input: Vec<u8>,
    /// Bytes of C2 still to come; `None` before C1 is whole.
    c2_left: Option<usize>,
}

impl ServerHandshake {
    /// `random` goes into S1.
    pub fn new(random: [u8; RANDOM_LEN]) -> ServerHandshake {
        ServerHandshake { random: Box::new(random), input: Vec::new(), c2_left: None }
    }

    /// Takes bytes off the front of `input` and appends what to answer. `true` once C2 has come; the rest of the input is
    /// chunks then. C2 is not checked: nothing depends on it, and encoders fill it with what they like.
    pub fn read(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Result<bool, Error> {
        if let Some(left) = self.c2_left {
            return Ok(self.skip_c2(left, input));
        }
        let wanted = (1 + PACKET_LEN).saturating_sub(self.input.len());
        let (piece, rest) = input.split_at_checked(wanted).unwrap_or((*input, &[]));
        self.input.extend_from_slice(piece);
        *input = rest;
        match self.input.first() {
            None | Some(&VERSION) => {}
            // RTMPE and its kin.
            Some(&version @ (6 | 8 | 9)) => return Err(Error::Encrypted(version)),
            Some(&version) => return Err(Error::Version(version)),
        }
        let Some(c1) = self.input.get(1..).and_then(|c1| <&[u8; PACKET_LEN]>::try_from(c1).ok()) else {
            return Ok(false);
        };
        out.put_u8(VERSION);
        match client_digest(c1) {
            Some((schema, digest)) => {
                out.put_slice(&complex_s1(schema, &self.random));
                out.put_slice(&signed(SERVER_KEY, &digest, c1));
            }
            None => {
                // RTMP 5.2.3 and 5.2.4: time 0, zero, random; then C1 back.
                out.put_slice(&[0; 8]);
                out.put_slice(&self.random[..]);
                out.put_slice(c1);
            }
        }
        self.input = Vec::new();
        Ok(self.skip_c2(PACKET_LEN, input))
    }

    fn skip_c2(&mut self, left: usize, input: &mut &[u8]) -> bool {
        let taken = left.min(input.len());
        *input = input.get(taken..).unwrap_or_default();
        let left = left.saturating_sub(taken);
        self.c2_left = Some(left);
        left == 0
    }
}

/// The digest of a C1, if it has a valid one, and where it was found.
fn client_digest(c1: &[u8; PACKET_LEN]) -> Option<(Schema, [u8; DIGEST_LEN])> {
    [Schema::KeyFirst, Schema::DigestFirst].into_iter().find_map(|schema| {
        let at = schema.digest_at(c1);
        let found = c1.get(at..)?.first_chunk::<DIGEST_LEN>()?;
        let digest = digest_around(PLAYER_KEY, c1, at);
        constant_time::verify_slices_are_equal(found, &digest).ok()?;
        Some((schema, digest))
    })
}

/// S1 with the server's digest, in the client's layout.
fn complex_s1(schema: Schema, random: &[u8; RANDOM_LEN]) -> [u8; PACKET_LEN] {
    with_digest(schema, SERVER_VERSION, random, SERVER_KEY)
}

fn with_digest(schema: Schema, version: [u8; 4], random: &[u8; RANDOM_LEN], key: &[u8]) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    let head = [0; 4].into_iter().chain(version).chain(random.iter().copied());
    packet.iter_mut().zip(head).for_each(|(to, from)| *to = from);
    let at = schema.digest_at(&packet);
    let digest = digest_around(key, &packet, at);
    packet.iter_mut().skip(at).zip(digest).for_each(|(to, from)| *to = from);
    packet
}

/// HMAC-SHA256 over the packet without the digest itself.
fn digest_around(key: &[u8], packet: &[u8; PACKET_LEN], at: usize) -> [u8; DIGEST_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(packet.get(..at).unwrap_or_default());
    context.update(packet.get(at.saturating_add(DIGEST_LEN)..).unwrap_or_default());
    to_digest(context.sign())
}

/// S2 (or C2): 1504 bytes of anything and the signature over them, with a key made of the peer's digest. The peer's
/// own packet serves as anything, so a client that wants its C1 back finds it, too.
fn signed(key: &[u8], peer_digest: &[u8; DIGEST_LEN], echo: &[u8; PACKET_LEN]) -> Bytes {
    let whole_key = [key, &KEY_TAIL].concat();
    let session_key = sign(&whole_key, peer_digest);
    let body = echo.get(..SIGNED_LEN).unwrap_or_default();
    [body, &sign(&session_key, body)].concat().into()
}

fn sign(key: &[u8], data: &[u8]) -> [u8; DIGEST_LEN] {
    to_digest(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data))
}

fn to_digest(tag: hmac::Tag) -> [u8; DIGEST_LEN] {
    // HMAC-SHA256 has 32 bytes.
    tag.as_ref().first_chunk().copied().unwrap_or_default()
}

/// The client's side, simple handshake.
#[derive(Debug, Default)]
pub struct ClientHandshake {
    input: Vec<u8>,
}

impl ClientHandshake {
    /// Appends C0 and C1.
    pub fn start(random: &[u8; RANDOM_LEN], out: &mut BytesMut) -> ClientHandshake {
        out.put_u8(VERSION);
        out.put_slice(&[0; 8]);
        out.put_slice(random);
        ClientHandshake::default()
    }

    /// Takes bytes off the front of `input`; `true` once S0, S1 and S2 have come and C2 is appended.
    pub fn read(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Result<bool, Error> {
        let wanted = (1 + 2 * PACKET_LEN).saturating_sub(self.input.len());
        let (piece, rest) = input.split_at_checked(wanted).unwrap_or((*input, &[]));
        self.input.extend_from_slice(piece);
        *input = rest;
        match self.input.first() {
            None | Some(&VERSION) => {}
            Some(&version) => return Err(Error::Version(version)),
        }
        if piece.len() < wanted {
            return Ok(false);
        }
        // RTMP 5.2.4: C2 is S1 back.
        out.put_slice(self.input.get(1..=PACKET_LEN).unwrap_or_default());
        self.input = Vec::new();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(seed: u8) -> [u8; RANDOM_LEN] {
        let mut state = u32::from(seed) + 1;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    fn run(c0c1: &[u8], piece: usize) -> Result<Vec<u8>, Error> {
        let mut server = ServerHandshake::new(random(9));
        let mut out = BytesMut::new();
        let mut done = false;
        for mut piece in c0c1.chunks(piece) {
            done = server.read(&mut piece, &mut out)?;
            assert!(piece.is_empty() || done);
        }
        assert!(!done, "C2 has not come");
        assert_eq!(out.len(), 1 + 2 * PACKET_LEN);
        let c2 = [&[0; PACKET_LEN][..], b"chunks"].concat();
        let mut rest = &c2[..];
        assert!(server.read(&mut rest, &mut out)?);
        assert_eq!(rest, b"chunks");
        Ok(out.to_vec())
    }

    #[test]
    fn simple() {
        let mut c0c1 = vec![3, 0, 0, 0, 7, 0, 0, 0, 0];
        c0c1.extend(random(1));
        let answer = run(&c0c1, 100).unwrap();
        assert_eq!(answer[0], 3);
        assert_eq!(answer[1..9], [0; 8]);
        assert_eq!(answer[9..9 + RANDOM_LEN], random(9));
        assert_eq!(answer[1 + PACKET_LEN..], c0c1[1..]);
    }

    /// What Flash Player and ffmpeg do: send a digest, then check the server's digest and signature.
    #[test]
    fn complex_in_both_layouts() {
        for schema in [Schema::KeyFirst, Schema::DigestFirst] {
            for seed in 0..20 {
                let c1 = with_digest(schema, [10, 0, 45, 2], &random(seed), PLAYER_KEY);
                let answer = run(&[&[3][..], &c1].concat(), 1537).unwrap();
                let s1: &[u8; PACKET_LEN] = answer[1..=PACKET_LEN].try_into().unwrap();
                let s2 = &answer[1 + PACKET_LEN..];
                let at = schema.digest_at(s1);
                let digest: [u8; 32] = s1[at..at + 32].try_into().unwrap();
                assert_eq!(digest, digest_around(SERVER_KEY, s1, at));
                assert!(s1[4] >= 3);

                let c1_at = schema.digest_at(&c1);
                let server_key: Vec<u8> = [SERVER_KEY, &KEY_TAIL].concat();
                let key = sign(&server_key, &c1[c1_at..c1_at + 32]);
                assert_eq!(s2[SIGNED_LEN..], sign(&key, &s2[..SIGNED_LEN]));
            }
        }
    }

    #[test]
    fn a_broken_digest_falls_back_to_simple() {
        let mut c1 = with_digest(Schema::KeyFirst, [10, 0, 45, 2], &random(3), PLAYER_KEY);
        c1[1535] ^= 1;
        let answer = run(&[&[3][..], &c1].concat(), 1537).unwrap();
        assert_eq!(answer[1 + PACKET_LEN..], c1);
    }

    #[test]
    fn other_versions_are_refused_at_the_first_byte() {
        let refused = |byte: u8| {
            ServerHandshake::new(random(0)).read(&mut &[byte][..], &mut BytesMut::new()).unwrap_err()
        };
        assert_eq!(refused(6), Error::Encrypted(6));
        assert_eq!(refused(b'G'), Error::Version(b'G'));
        assert_eq!(refused(0x16), Error::Version(0x16)); // TLS
    }

    #[test]
    fn client_and_server() {
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        let mut client = ClientHandshake::start(&random(4), &mut to_server);
        let mut server = ServerHandshake::new(random(5));
        assert!(!server.read(&mut &to_server.split()[..], &mut to_client).unwrap());
        for piece in to_client.chunks(1000) {
            let done = client.read(&mut &piece[..], &mut to_server).unwrap();
            assert_eq!(done, !to_server.is_empty());
        }
        assert!(server.read(&mut &to_server[..], &mut to_client).unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            tail in prop::collection::vec(any::<u8>(), 0..64), fill in any::<u8>(), piece in 1usize..3000
        ) {
            let mut bytes = vec![fill; 3200];
            bytes[0] = 3;
            bytes.extend(tail);
            let mut server = ServerHandshake::new([0; RANDOM_LEN]);
            let mut out = BytesMut::new();
            for mut piece in bytes.chunks(piece) {
                if server.read(&mut piece, &mut out).unwrap() {
                    break;
                }
            }
            prop_assert_eq!(out.len(), 1 + 2 * PACKET_LEN);
        }
    }
}
