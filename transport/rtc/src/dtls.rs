//! DTLS 1.2 (RFC 6347) for the keys of SRTP (RFC 5764): the handshake is `dimpl`'s; the certificate, the
//! comparison with the SDP's fingerprint and what a stranger may not do to a handshake are ours.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use dimpl::{Output, SrtpProfile};
use media::Time;
use metrics::DropReason;

use crate::srtp::{Keys, Profile};

/// A handshake lives no longer (a session gives up earlier, see `session::CONNECT_TIMEOUT_MS`).
pub const HANDSHAKE_LIFETIME: Duration = Duration::from_secs(30);
/// Longer datagrams are refused: browsers keep to about 1400 bytes. With [`DATAGRAMS_QUEUED_MAX`] this bounds
/// what a half-open handshake holds to 60 KiB.
pub const DATAGRAM_LEN_MAX: usize = 2048;
/// Datagrams of an unfinished flight that are kept for reassembly.
const DATAGRAMS_QUEUED_MAX: usize = 30;
/// Handshakes that may fail before a session hears no more DTLS: bounds what a flood of bad ones costs (each
/// about 0.4 ms of CPU), and a peer with the wrong parameters fails once.
const RESTARTS_MAX: u32 = 16;
/// First retransmission. The default of 1 s costs every join on a lossy path a second; RFC 6347 section
/// 4.2.4.1 lets time-sensitive uses choose lower.
const FLIGHT_RTO: Duration = Duration::from_millis(200);
/// 0.2 s doubling six times is 25 s, past any session's patience.
const FLIGHT_RETRIES: usize = 6;
/// A whole record and what surrounds it: the largest thing a poll can give.
const OUTPUT_LEN_MAX: usize = (16 << 10) + 512;
/// Outputs of one poll cycle, far above a flight's: a bound on a loop driven by outside bytes.
const OUTPUTS_MAX: usize = 256;

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;

/// A SHA-512, the longest that we take.
const DIGEST_LEN_MAX: usize = 64;

/// Hashes of certificates that we compare (RFC 8122 section 5). SHA-1 and MD5 are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// `sha-256`
    Sha256,
    /// `sha-384`
    Sha384,
    /// `sha-512`
    Sha512,
}

impl Hash {
    const ALL: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

    const fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha-256",
            Hash::Sha384 => "sha-384",
            Hash::Sha512 => "sha-512",
        }
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        }
    }
}

/// A certificate's hash, as in `a=fingerprint`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    hash: Hash,
    digest: Vec<u8>,
}

/// Why a text is not a fingerprint we accept. The fault is the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FingerprintError {
    /// Not `HASH XX:XX:...`.
    #[error("a fingerprint is a hash's name, a space and hexadecimal bytes joined by colons")]
    Shape,
    /// A hash that is too weak or unknown.
    #[error("the fingerprint's hash is not sha-256, sha-384 or sha-512")]
    Hash,
    /// Not as many bytes as the hash has.
    #[error("the fingerprint has not as many bytes as its hash")]
    Length,
}

impl Fingerprint {
    /// Parses the value of `a=fingerprint`, for example `sha-256 AB:CD:...`; letters in either case.
    pub fn parse(text: &str) -> Result<Fingerprint, FingerprintError> {
        let (name, bytes) = text.trim().split_once(' ').ok_or(FingerprintError::Shape)?;
        let mut digest = Vec::with_capacity(DIGEST_LEN_MAX);
        for byte in bytes.trim().split(':') {
            if byte.len() != 2 || !byte.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(FingerprintError::Shape);
            }
            if digest.len() >= DIGEST_LEN_MAX {
                return Err(FingerprintError::Length);
            }
            digest.push(u8::from_str_radix(byte, 16).map_err(|_| FingerprintError::Shape)?);
        }
        Fingerprint::new(name, &digest)
    }

    /// From the hash's name and the digest.
    pub fn new(hash: &str, digest: &[u8]) -> Result<Fingerprint, FingerprintError> {
        // RFC 8122 section 5: the hash's name is case-insensitive.
        let hash = Hash::ALL.into_iter().find(|h| h.name().eq_ignore_ascii_case(hash));
        let hash = hash.ok_or(FingerprintError::Hash)?;
        if digest.len() != hash.algorithm().output_len() {
            return Err(FingerprintError::Length);
        }
        Ok(Fingerprint { hash, digest: digest.to_vec() })
    }

    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &[u8], hash: Hash) -> Fingerprint {
        Fingerprint { hash, digest: digest::digest(hash.algorithm(), certificate).as_ref().to_vec() }
    }

    /// Whether `certificate` (DER) is the one this is the fingerprint of, in time that tells nothing.
    pub fn matches(&self, certificate: &[u8]) -> bool {
        let actual = digest::digest(self.hash.algorithm(), certificate);
        verify_slices_are_equal(actual.as_ref(), &self.digest).is_ok()
    }
}

impl fmt::Display for Fingerprint {
    /// As in `a=fingerprint`: `sha-256 AB:CD:...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hash.name())?;
        let mut separator = ' ';
        for byte in &self.digest {
            write!(f, "{separator}{byte:02X}")?;
            separator = ':';
        }
        Ok(())
    }
}

/// Why a process has no identity. The fault is ours or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key or the certificate was not made.
    #[error("no DTLS certificate: {0}")]
    Certificate(dimpl::certificate::CertificateError),
    /// The crypto provider failed its own known answers.
    #[error("no DTLS configuration: {0}")]
    Config(dimpl::Error),
}

/// The process's certificate (ECDSA P-256, self-signed, fresh at every start) and the settings that all its
/// handshakes share.
pub struct Identity {
    certificate: dimpl::DtlsCertificate,
    config: Arc<dimpl::Config>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Makes a key and a certificate, once a process: about 0.1 ms, and takes entropy from the system.
    pub fn generate() -> Result<Arc<Identity>, IdentityError> {
        let certificate = dimpl::certificate::generate_self_signed_certificate();
        let certificate = certificate.map_err(IdentityError::Certificate)?;
        let config = dimpl::Config::builder()
            // Named, so that no other provider becomes the default by a feature somebody turns on.
            .with_crypto_provider(dimpl::crypto::aws_lc_rs::default_provider())
            .require_client_certificate(true)
            // RFC 6347 section 4.2.1: the cookie proves that the peer receives at its address. The ICE check
            // proved that already, and a cookie costs every join a round trip.
            .use_server_cookie(false)
            .flight_start_rto(FLIGHT_RTO)
            .flight_retries(FLIGHT_RETRIES)
            .handshake_timeout(HANDSHAKE_LIFETIME)
            .max_queue_rx(DATAGRAMS_QUEUED_MAX)
            .build()
            .map_err(IdentityError::Config)?;
        let fingerprint = Fingerprint::of(&certificate.certificate, Hash::Sha256);
        Ok(Arc::new(Identity { certificate, config: Arc::new(config), fingerprint }))
    }

    /// The SHA-256 fingerprint, for the SDP.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl fmt::Debug for Identity {
    /// The private key is a secret: it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Who starts the handshake (RFC 4145: `a=setup`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We wait for the ClientHello: what we answer to every `actpass` offer.
    Passive,
    /// We send it: for peers that offer `passive`.
    Active,
}

/// What the handshake led to.
#[derive(Debug)]
pub enum Event {
    /// The peer holds the certificate of the fingerprint, and these are the keys.
    Connected(Box<Keys>),
    /// An authenticated close_notify.
    Closed,
    /// An authenticated fatal alert, by its description (RFC 5246 section 7.2).
    Alert(u8),
}

/// Why a handshake failed. Each failure starts a new one until there were too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The peer's certificate is not that of the fingerprint.
    Fingerprint,
    /// The peer offered no SRTP profile of ours.
    NoProfile,
    /// Its messages do not parse, do not verify, or did not come in time.
    Handshake,
}

/// Whether a datagram begins with an encrypted record (RFC 6347 section 4.1: behind type and version, epoch 0 is what is not).
pub fn is_sealed(datagram: &[u8]) -> bool {
    datagram.get(3..5).is_some_and(|epoch| epoch != [0, 0])
}

/// One peer's DTLS endpoint.
pub struct Dtls {
    /// Made when it is first needed, as it reads the key: 20 us, which who never shakes hands does not cost.
    inner: Option<dimpl::Dtls>,
    identity: Arc<Identity>,
    expected: Fingerprint,
    role: Role,
    base: Instant,
    timeout: Time,
    verified: bool,
    connected: bool,
    /// The peer sent SRTP, so it has our last flight.
    confirmed: bool,
    restarts: u32,
    refusal: Option<Refusal>,
}

impl Dtls {
    /// An endpoint that takes only the certificate of `expected`. `base` is the instant of `Time::ZERO`.
    pub fn new(identity: Arc<Identity>, expected: Fingerprint, role: Role, base: Instant) -> Dtls {
        Dtls {
            inner: None,
            identity,
            expected,
            role,
            base,
            timeout: Time::MAX,
            verified: false,
            connected: false,
            confirmed: false,
            restarts: 0,
            refusal: None,
        }
    }

    /// Takes a datagram from an address that ICE validated; sends answers through `out`.
    pub fn handle_datagram(
        &mut self,
        datagram: &[u8],
        now: Time,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<Event>, DropReason> {
        if !self.is_open() || !self.admits(datagram) {
            return Err(DropReason::DtlsRefused);
        }
        let at = instant(self.base, now);
        // The endpoint has no clock but this call. What is due here is due by `handle_timeout` too.
        let inner = self.endpoint(at);
        let taken = inner.handle_timeout(at).and_then(|()| inner.handle_packet(datagram));
        match taken {
            Ok(()) => self.drain(now, out),
            // `dimpl` drops alerts of epoch 0 once it decrypts, so that this one is the peer's own.
            Err(dimpl::Error::SecurityError(dimpl::SecurityError::FatalAlert { description }))
                if self.connected =>
            {
                Ok(Some(Event::Alert(description)))
            }
            // After the handshake nothing but an authenticated record has an effect.
            Err(_) if self.connected => Err(DropReason::DtlsRefused),
            Err(_) => Err(self.refuse(Refusal::Handshake, now)),
        }
    }

    /// Retransmits what is due, and as the active side starts the handshake.
    pub fn handle_timeout(&mut self, now: Time, out: &mut dyn FnMut(&[u8])) -> Option<Event> {
        // Nothing is due until the endpoint says so again.
        self.timeout = Time::MAX;
        if !self.is_open() {
            return None;
        }
        let at = instant(self.base, now);
        match self.endpoint(at).handle_timeout(at) {
            Ok(()) => self.drain(now, out).ok().flatten(),
            Err(_) => {
                if !self.connected {
                    self.refuse(Refusal::Handshake, now);
                }
                None
            }
        }
    }

    /// When [`Dtls::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Time {
        self.timeout
    }

    /// Says goodbye (close_notify), once.
    pub fn close(&mut self, now: Time, out: &mut dyn FnMut(&[u8])) {
        if self.connected && self.inner.as_mut().is_some_and(|inner| inner.close().is_ok()) {
            let _ = self.drain(now, out);
        }
    }

    /// An SRTP packet of the peer was authentic: from now on DTLS in the clear is noise or a replay.
    pub fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// Why the last handshake failed, if one did.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    fn endpoint(&mut self, now: Instant) -> &mut dimpl::Dtls {
        self.inner.get_or_insert_with(|| {
            // Version 1.2: here the server's order of SRTP profiles decides, which starts with AES-GCM; in 1.3 it is
            // the client's, and Chromium's starts with AES-CM and HMAC-SHA1, four times the cost a packet.
            let (config, certificate) =
                (Arc::clone(&self.identity.config), self.identity.certificate.clone());
            let mut inner = dimpl::Dtls::new_12(config, certificate, now);
            inner.set_active(self.role == Role::Active);
            inner
        })
    }

    fn is_open(&self) -> bool {
        self.connected || self.restarts < RESTARTS_MAX
    }

    /// Cheap checks before the endpoint sees a datagram: whole records only, and of those without protection
    /// only the ones a handshake needs. An alert in the clear could end a handshake in the peer's name, and
    /// data in the clear would stay queued.
    fn admits(&self, datagram: &[u8]) -> bool {
        if datagram.len() > DATAGRAM_LEN_MAX {
            return false;
        }
        let mut rest = datagram;
        while let Some((header, after)) = rest.split_first_chunk::<13>() {
            let [kind, _, _, e0, e1, _, _, _, _, _, _, l0, l1] = *header;
            let plain = u16::from_be_bytes([e0, e1]) == 0;
            if plain && (self.confirmed || !matches!(kind, HANDSHAKE | CHANGE_CIPHER_SPEC)) {
                return false;
            }
            let Some((_, next)) = after.split_at_checked(u16::from_be_bytes([l0, l1]).into()) else {
                return false;
            };
            rest = next;
        }
        rest.is_empty() && !datagram.is_empty()
    }

    /// Polls until the endpoint has no more to give: it is consistent only then.
    fn drain(&mut self, now: Time, out: &mut dyn FnMut(&[u8])) -> Result<Option<Event>, DropReason> {
        let mut buffer = [0_u8; OUTPUT_LEN_MAX];
        let mut event = None;
        for _ in 0..OUTPUTS_MAX {
            let Some(inner) = &mut self.inner else { break };
            match inner.poll_output(&mut buffer) {
                Output::Packet(packet) => out(packet),
                Output::PeerCert(certificate) => {
                    // RFC 8122 section 6.2: "If the fingerprint does not match [...] the endpoint MUST NOT
                    // use the media stream". Before this nothing of the last flight has gone out.
                    if !self.expected.matches(certificate) {
                        return Err(self.refuse(Refusal::Fingerprint, now));
                    }
                    self.verified = true;
                }
                Output::Connected => {}
                Output::KeyingMaterial(material, profile) => {
                    let keys = profile_of(profile).and_then(|p| Keys::from_exporter(p, &material));
                    match keys {
                        Some(keys) if self.verified => {
                            self.connected = true;
                            event = Some(Event::Connected(Box::new(keys)));
                        }
                        Some(_) => return Err(self.refuse(Refusal::Fingerprint, now)),
                        None => return Err(self.refuse(Refusal::NoProfile, now)),
                    }
                }
                Output::CloseNotify if self.connected => event = Some(Event::Closed),
                // There are no data channels.
                Output::ApplicationData(_) | Output::CloseNotify => {}
                Output::BufferTooSmall { .. } => return Err(self.refuse(Refusal::Handshake, now)),
                Output::Timeout(at) => {
                    self.timeout = time(self.base, at);
                    return Ok(event);
                }
                _ => {}
            }
        }
        Err(self.refuse(Refusal::Handshake, now))
    }

    /// Gives up a handshake and waits for another, so that garbage in the peer's name costs it a retry and
    /// not the session. After the handshake it changes nothing.
    fn refuse(&mut self, refusal: Refusal, now: Time) -> DropReason {
        if !self.connected {
            self.refusal = Some(refusal);
            self.restarts = self.restarts.saturating_add(1);
            self.verified = false;
            self.inner = None;
            self.timeout = match self.role {
                Role::Active if self.is_open() => now.plus_us(FLIGHT_RTO.as_micros() as i64),
                _ => Time::MAX,
            };
        }
        DropReason::DtlsRefused
    }
}

impl fmt::Debug for Dtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dtls").field("role", &self.role).field("connected", &self.connected).finish()
    }
}

fn profile_of(profile: SrtpProfile) -> Option<Profile> {
    match profile {
        SrtpProfile::AEAD_AES_256_GCM => Some(Profile::AeadAes256Gcm),
        SrtpProfile::AEAD_AES_128_GCM => Some(Profile::AeadAes128Gcm),
        SrtpProfile::AES128_CM_SHA1_80 => Some(Profile::Aes128CmSha1_80),
        _ => None,
    }
}

fn instant(base: Instant, now: Time) -> Instant {
    let passed = Duration::from_micros(u64::try_from(now.us()).unwrap_or(0));
    base.checked_add(passed).unwrap_or(base)
}

fn time(base: Instant, at: Instant) -> Time {
    // Rounded up: a call a fraction of a microsecond early would find nothing due, and be due again.
    let ns = at.saturating_duration_since(base).as_nanos();
    Time(i64::try_from(ns.div_ceil(1000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Dtls, Dtls) {
        let (server, client) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let base = Instant::now();
        (
            Dtls::new(server.clone(), client.fingerprint().clone(), Role::Passive, base),
            Dtls::new(client, server.fingerprint().clone(), Role::Active, base),
        )
    }

    /// Carries datagrams both ways until nobody has any; what each side ended with.
    fn run(server: &mut Dtls, client: &mut Dtls, now: Time) -> (Option<Event>, Option<Event>) {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let (mut s, mut c) = (None, None);
        c = client.handle_timeout(now, &mut |p| to_server.push(p.to_vec())).or(c);
        while !to_server.is_empty() || !to_client.is_empty() {
            for p in std::mem::take(&mut to_server) {
                let event = server.handle_datagram(&p, now, &mut |p| to_client.push(p.to_vec()));
                s = event.ok().flatten().or(s);
            }
            for p in std::mem::take(&mut to_client) {
                let event = client.handle_datagram(&p, now, &mut |p| to_server.push(p.to_vec()));
                c = event.ok().flatten().or(c);
            }
        }
        (s, c)
    }

    #[test]
    fn both_sides_get_the_same_keys_and_the_strongest_profile() {
        let (mut server, mut client) = pair();
        let (Some(Event::Connected(s)), Some(Event::Connected(c))) =
            run(&mut server, &mut client, Time::from_ms(5))
        else {
            panic!("not connected");
        };
        assert_eq!(s.profile, Profile::AeadAes256Gcm);
        assert!(s.client == c.client && s.server == c.server && s.client != s.server);
    }

    #[test]
    fn a_wrong_fingerprint_gives_no_keys_and_no_last_flight() {
        let (mut server, mut client) = pair();
        server.expected = Identity::generate().unwrap().fingerprint().clone();
        let (s, c) = run(&mut server, &mut client, Time::from_ms(5));
        assert!(s.is_none() && c.is_none(), "{s:?} {c:?}");
        assert_eq!(server.refusal(), Some(Refusal::Fingerprint));
        // The right peer can still come.
        let honest = Identity::generate().unwrap();
        server.expected = honest.fingerprint().clone();
        let expected = server.identity.fingerprint().clone();
        let mut client = Dtls::new(honest, expected, Role::Active, server.base);
        let (s, c) = run(&mut server, &mut client, Time::from_ms(6));
        assert!(matches!((s, c), (Some(Event::Connected(_)), Some(Event::Connected(_)))));
    }

    #[test]
    fn a_client_refuses_the_wrong_server() {
        let (mut server, mut client) = pair();
        client.expected = Identity::generate().unwrap().fingerprint().clone();
        let (s, c) = run(&mut server, &mut client, Time::from_ms(5));
        assert!(s.is_none() && c.is_none());
        assert_eq!(client.refusal(), Some(Refusal::Fingerprint));
    }

    #[test]
    fn lost_flights_are_sent_again() {
        let (mut server, mut client) = pair();
        assert!(client.handle_timeout(Time::ZERO, &mut |_| {}).is_none(), "the ClientHello is lost");
        let due = client.next_timeout();
        assert!(due > Time::ZERO && due <= Time::from_ms(500), "{due:?}");
        let (s, c) = run(&mut server, &mut client, due);
        assert!(matches!((s, c), (Some(Event::Connected(_)), Some(Event::Connected(_)))));
    }

    #[test]
    fn clear_alerts_and_data_are_refused_at_any_time() {
        let (mut server, mut client) = pair();
        let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
        let data = [23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
        let mut hello = Vec::new();
        client.handle_timeout(Time::ZERO, &mut |p| hello = p.to_vec());
        server.handle_datagram(&hello, Time::ZERO, &mut |_| {}).unwrap();
        for bad in [alert, data] {
            assert_eq!(
                server.handle_datagram(&bad, Time::ZERO, &mut |_| {}).unwrap_err(),
                DropReason::DtlsRefused
            );
        }
        assert_eq!(server.restarts, 0, "the handshake goes on");
        let (s, _) = run(&mut server, &mut client, Time::from_ms(900));
        assert!(matches!(s, Some(Event::Connected(_))), "{s:?}");
        assert!(server.handle_datagram(&alert, Time::ZERO, &mut |_| {}).is_err());
    }

    #[test]
    fn a_flood_of_bad_handshakes_ends() {
        let (mut server, _) = pair();
        // A ClientHello that says version 0x0101.
        let mut hello =
            vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 53, 1, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 41];
        hello.extend_from_slice(&[1, 1]);
        hello.extend_from_slice(&[0; 32 + 2]);
        hello.extend_from_slice(&[0, 2, 0xc0, 0x2b, 1]);
        for _ in 0..1000 {
            assert!(server.handle_datagram(&hello, Time::ZERO, &mut |_| {}).is_err() || server.restarts == 0);
        }
        assert!(server.restarts <= RESTARTS_MAX);
    }

    #[test]
    fn goodbye_is_heard() {
        let (mut server, mut client) = pair();
        run(&mut server, &mut client, Time::from_ms(5));
        let mut bye = Vec::new();
        client.close(Time::from_ms(9), &mut |p| bye = p.to_vec());
        let mut forged = bye.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(server.handle_datagram(&forged, Time::from_ms(9), &mut |_| {}), Ok(None)));
        let event = server.handle_datagram(&bye, Time::from_ms(9), &mut |_| {});
        assert!(matches!(event, Ok(Some(Event::Closed))), "{event:?}");
    }

    #[test]
    fn fingerprints_are_read_and_written() {
        let fingerprint = Fingerprint::of(b"certificate", Hash::Sha384);
        let text = fingerprint.to_string();
        assert!(text.starts_with("sha-384 ") && text.len() == 8 + 48 * 3 - 1);
        assert_eq!(Fingerprint::parse(&text), Ok(fingerprint.clone()));
        assert_eq!(Fingerprint::parse(&text.to_lowercase()), Ok(fingerprint.clone()));
        assert!(fingerprint.matches(b"certificate") && !fingerprint.matches(b"certificatf"));
        let weak = format!("sha-1 {}", ["AB"; 20].join(":"));
        assert_eq!(Fingerprint::parse(&weak), Err(FingerprintError::Hash));
        assert_eq!(Fingerprint::parse("sha-256 AB:CD"), Err(FingerprintError::Length));
        assert_eq!(Fingerprint::parse(&format!("{text}:00")), Err(FingerprintError::Length));
        assert_eq!(Fingerprint::parse("sha-256 AB:C"), Err(FingerprintError::Shape));
        assert_eq!(Fingerprint::parse("sha-256 +A:+B"), Err(FingerprintError::Shape));
        assert_eq!(Fingerprint::parse("sha-256"), Err(FingerprintError::Shape));
    }
}
