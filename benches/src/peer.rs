//! A WebRTC client in memory: a check, a DTLS 1.2 handshake and the SRTP keys it gives.
//!
//! `rtc::client` does that too, but always ends on the server's favourite SRTP profile. This one takes the profile to be measured: what the
//! crypto library hashes and what goes over the wire is a ClientHello that offers that profile alone, so that the handshake is a real one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dimpl::crypto::{
    Buf, CryptoProvider, HashContext, HashProvider, KeyProvider, SigningKey, aws_lc_rs::default_provider,
};
use dimpl::{CryptoError, HashAlgorithm, Output, SignatureAlgorithm};
use rtc::dtls::{Fingerprint, Hash};
use rtc::ice::Credentials;
use rtc::srtp::{Keys, Profile};
use rtc::stun::{Class, Writer};

/// The `use_srtp` extension as `dimpl` writes it: type 14, 9 bytes, 6 bytes of profiles (AES-256-GCM, AES-128-GCM, AES-CM), no MKI.
const OFFER_ALL: [u8; 13] = [0, 14, 0, 9, 0, 6, 0, 8, 0, 7, 0, 1, 0];

/// `len` bytes that serve as key material, others for each `seed`.
pub fn material(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|b| (seed * 31 + b * 7 + (seed >> 5)) as u8).collect()
}

/// The keys of a session that never was.
///
/// # Panics
/// Never: the material is as long as the profile's.
pub fn keys(profile: Profile, seed: usize) -> Keys {
    let len = match profile {
        Profile::AeadAes128Gcm => 2 * (16 + 12),
        Profile::AeadAes256Gcm => 2 * (32 + 12),
        Profile::Aes128CmSha1_80 => 2 * (16 + 14),
    };
    Keys::from_exporter(profile, &material(seed, len)).expect("the profile's length")
}

/// The number of a profile in `use_srtp` (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
const fn number(profile: Profile) -> u8 {
    match profile {
        Profile::Aes128CmSha1_80 => 1,
        Profile::AeadAes128Gcm => 7,
        Profile::AeadAes256Gcm => 8,
    }
}

/// `bytes` with each [`OFFER_ALL`] made an offer of profile `number`, thrice, so that no length changes.
fn restricted(bytes: &[u8], number: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let len = OFFER_ALL.len();
    for at in 0..bytes.len().saturating_sub(len - 1) {
        if bytes[at..at + len] == OFFER_ALL {
            bytes[at + 6..at + 12].copy_from_slice(&[0, number, 0, number, 0, number]);
        }
    }
    bytes
}

/// The part of `dimpl`'s crypto that sees the handshake's transcript, with the offer in it changed as on the wire.
#[derive(Debug)]
struct Restrict<const NUMBER: u8>;

#[derive(Debug)]
struct RestrictedHash<const NUMBER: u8>(Box<dyn HashContext>);

#[derive(Debug)]
struct RestrictedKey<const NUMBER: u8>(Box<dyn SigningKey>);

impl<const NUMBER: u8> HashProvider for Restrict<NUMBER> {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        Box::new(RestrictedHash::<NUMBER>(default_provider().hash_provider.create_hash(algorithm)))
    }
}

impl<const NUMBER: u8> HashContext for RestrictedHash<NUMBER> {
    fn update(&mut self, data: &[u8]) {
        self.0.update(&restricted(data, NUMBER));
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        self.0.clone_and_finalize(out);
    }
}

impl<const NUMBER: u8> KeyProvider for Restrict<NUMBER> {
    fn load_private_key(&self, key_der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        Ok(Box::new(RestrictedKey::<NUMBER>(default_provider().key_provider.load_private_key(key_der)?)))
    }
}

impl<const NUMBER: u8> SigningKey for RestrictedKey<NUMBER> {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        self.0.sign(&restricted(data, NUMBER), hash, out)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.0.supported_hash_algorithms()
    }
}

fn provider<const NUMBER: u8>() -> CryptoProvider {
    let mut provider = default_provider();
    (provider.hash_provider, provider.key_provider) = (&Restrict::<NUMBER>, &Restrict::<NUMBER>);
    provider
}

/// What all clients of a run share: a certificate and the profile they offer.
#[derive(Clone)]
pub struct Offerer {
    profile: Profile,
    certificate: dimpl::DtlsCertificate,
    config: Arc<dimpl::Config>,
}

impl Offerer {
    /// Makes a certificate.
    ///
    /// # Panics
    /// When the machine's crypto does not work.
    pub fn new(profile: Profile) -> Offerer {
        let provider = match profile {
            Profile::Aes128CmSha1_80 => provider::<1>(),
            Profile::AeadAes128Gcm => provider::<7>(),
            Profile::AeadAes256Gcm => provider::<8>(),
        };
        let config = dimpl::Config::builder().with_crypto_provider(provider).build();
        Offerer {
            profile,
            certificate: dimpl::certificate::generate_self_signed_certificate().expect("a certificate"),
            config: Arc::new(config.expect("a DTLS configuration")),
        }
    }

    /// The certificate's fingerprint, for the SDP.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate.certificate, Hash::Sha256)
    }
}

/// One client.
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    profile: Profile,
    dtls: dimpl::Dtls,
    keys: Option<Keys>,
}

impl Peer {
    /// A client that has sent nothing yet.
    pub fn new(offerer: &Offerer, address: SocketAddr) -> Peer {
        let (config, certificate) = (Arc::clone(&offerer.config), offerer.certificate.clone());
        let mut dtls = dimpl::Dtls::new_12(config, certificate, Instant::now());
        dtls.set_active(true);
        Peer { address, profile: offerer.profile, dtls, keys: None }
    }

    /// A check that nominates the pair.
    pub fn check(&self, local: &Credentials, remote: &Credentials) -> Vec<u8> {
        let mut check = Vec::new();
        let [a, b] = self.address.port().to_be_bytes();
        Writer::new(&mut check, Class::Request, [a, b, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
            .username(&remote.ufrag, &local.ufrag)
            .priority(1)
            .controlling(1)
            .use_candidate()
            .finish(&remote.pwd);
        check
    }

    /// The first flight.
    pub fn start(&mut self) -> Vec<Vec<u8>> {
        self.dtls.handle_timeout(Instant::now()).expect("the handshake starts");
        self.poll()
    }

    /// Takes a datagram of the handshake; gives what it answers. Whatever is not DTLS is passed over.
    pub fn receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        if !matches!(datagram.first(), Some(20..=63)) {
            return Vec::new();
        }
        self.dtls.handle_timeout(Instant::now()).expect("no handshake takes so long");
        self.dtls.handle_packet(datagram).expect("the shard's handshake is in order");
        self.poll()
    }

    /// The keys, once the handshake is through.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    fn poll(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4096];
        let mut out = Vec::new();
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => out.push(restricted(packet, number(self.profile))),
                Output::KeyingMaterial(material, _) => {
                    self.keys = Keys::from_exporter(self.profile, &material)
                }
                Output::Timeout(_) => return out,
                _ => {}
            }
        }
    }
}
