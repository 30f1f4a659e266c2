//! The ICE-lite agent (RFC 8445 section 2.5): it answers checks, and sends one of its own only where a peer with keys nominates another address.
//! What it decides is which addresses may speak to a session and which one address media goes to.

use std::net::SocketAddr;

use media::Time;
use metrics::DropReason;

use crate::stun::{Class, Message, TransactionId, Writer};

/// Addresses of one peer that are remembered as valid. A browser has some candidates a network interface;
/// beyond this the one longest not heard of is forgotten.
pub const VALID_ADDRESSES_MAX: usize = 16;
/// RFC 7675 section 5.1: consent expires 30 s after the last valid check.
pub const CONSENT_MS: i64 = 30_000;

/// Between two checks of ours of one address: each is a request of the peer's, which may be sent again by others.
const CHECK_US: i64 = 100_000;
/// RFC 8445 section 5.1.2.1: of a peer-reflexive candidate (110), any local preference, component 1.
const PRIORITY: u32 = 110 << 24 | 0xffff << 8 | 255;

const UFRAG_LEN: usize = 8;
const PWD_LEN: usize = 24;

/// One side's user name fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// At least 4 characters (RFC 8839 section 5.4).
    pub ufrag: String,
    /// At least 22 characters.
    pub pwd: String,
}

impl Credentials {
    /// Credentials from 32 random bytes: a ufrag of 48 bits and a password of 144 (RFC 8445 section 5.3 asks
    /// for 24 and 128).
    pub fn from_entropy(entropy: &[u8; 32]) -> Credentials {
        // RFC 8839 section 5.4: ice-char = ALPHA / DIGIT / "+" / "/", 64 of them.
        let character = |byte: &u8| match byte & 63 {
            n @ 0..26 => char::from(b'A'.wrapping_add(n)),
            n @ 26..52 => char::from(b'a'.wrapping_add(n.wrapping_sub(26))),
            n @ 52..62 => char::from(b'0'.wrapping_add(n.wrapping_sub(52))),
            62 => '+',
            _ => '/',
        };
        Credentials {
            ufrag: entropy.iter().take(UFRAG_LEN).map(character).collect(),
            pwd: entropy.iter().skip(UFRAG_LEN).take(PWD_LEN).map(character).collect(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    /// The password is a secret: it is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// What an authenticated check did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The address is valid; media goes where it went.
    Checked,
    /// Media goes to the check's address from now on.
    Nominated,
}

/// Both sides' credentials between two restarts.
#[derive(Debug)]
struct Generation {
    local: Credentials,
    remote: Credentials,
}

/// The agent of one session.
#[derive(Debug)]
pub struct Lite {
    /// Its checks nominated what media uses.
    current: Generation,
    /// A restart's, until one of its checks nominates: a client whose new path does not come up stays on the old one.
    next: Option<Generation>,
    valid: Vec<Valid>,
    nominated: Option<SocketAddr>,
    /// No check nominated it: the handshake ended there.
    provisional: bool,
    /// Nominated by a check that may have been sniffed and sent again from elsewhere: the peer is there when a packet under the session's keys
    /// comes from there, or the answer to a check of ours.
    pending: Option<SocketAddr>,
    /// Our check: its number, where it went, and when.
    asked: Option<(u64, SocketAddr, Time)>,
    checks: u64,
    secured: bool,
    consent_until: Time,
}

#[derive(Clone, Copy, Debug)]
struct Valid {
    address: SocketAddr,
    checked_at: Time,
}

impl Lite {
    /// An agent that knows no address yet. Its consent runs from `now`.
    pub fn new(local: Credentials, remote: Credentials, now: Time) -> Lite {
        Lite {
            current: Generation { local, remote },
            next: None,
            valid: Vec::new(),
            nominated: None,
            provisional: false,
            pending: None,
            asked: None,
            checks: 0,
            secured: false,
            consent_until: now.plus_ms(CONSENT_MS),
        }
    }

    /// Takes one STUN message. An authenticated check makes `from` valid and leaves its answer in `out`;
    /// anything else changes nothing and leaves `out` empty.
    pub fn handle_request(
        &mut self,
        message: &Message,
        from: SocketAddr,
        now: Time,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, DropReason> {
        out.clear();
        if message.class() != Class::Request {
            // Keep-alive indications need no answer.
            return Err(DropReason::StunUnauthenticated);
        }
        // RFC 8445 section 7.2.2: USERNAME is "the username fragment provided by the peer", a colon, its own.
        let name = message.username().ok_or(DropReason::StunUnauthenticated)?;
        let name = name.split_once(':').ok_or(DropReason::StunUnknownUser)?;
        let named = |g: &&Generation| name == (g.local.ufrag.as_str(), g.remote.ufrag.as_str());
        let restarts = self.next.as_ref().filter(named).is_some();
        let generation = if restarts { self.next.as_ref() } else { Some(&self.current).filter(named) };
        let pwd = generation.ok_or(DropReason::StunUnknownUser)?.local.pwd.as_str();
        if !message.check_integrity(pwd) {
            return Err(DropReason::StunUnauthenticated);
        }

        if message.is_controlled() {
            // RFC 8445 section 7.3.1.1: a lite agent is controlled, so the peer has to control.
            Writer::new(out, Class::Error, *message.transaction())
                .error_code(487, "Role Conflict")
                .finish(pwd);
            return Ok(Outcome::Checked);
        }
        Writer::new(out, Class::Success, *message.transaction()).mapped_address(from).finish(pwd);
        let outcome = match message.use_candidate() {
            true if restarts => self.nominate_anew(from),
            true => self.nominate(from),
            false => Outcome::Checked,
        };
        self.remember(from, now);
        // Until it nominates, a peer consents by any pair: media goes to one that the handshake chose, not its checks.
        let chosen = self.nominated.is_some() && !self.provisional;
        if !chosen || self.nominated == Some(from) || self.pending == Some(from) {
            self.consent_until = now.plus_ms(CONSENT_MS);
        }
        Ok(outcome)
    }

    /// Our own check of where a peer with keys says that it is now, into `out`; empty when there is none to send. Without it the peer's next packet
    /// under the keys would tell, and a viewer's may be a second away. Called after each request.
    pub fn check(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        out.clear();
        let to = self.pending?;
        let lately = |(_, address, at): (u64, SocketAddr, Time)| address == to && now.since(at) < CHECK_US;
        if self.asked.is_some_and(lately) {
            return None;
        }
        self.checks = self.checks.saturating_add(1);
        self.asked = Some((self.checks, to, now));
        let Generation { local, remote } = &self.current;
        // RFC 8445 sections 7.1.1 and 7.2.2: the name that the peer goes by, its key, the priority of a peer-reflexive candidate, and a lite
        // agent's role.
        Writer::new(out, Class::Request, transaction(self.checks))
            .username(&remote.ufrag, &local.ufrag)
            .priority(PRIORITY)
            .controlled(self.checks)
            .finish(&remote.pwd);
        Some(to)
    }

    /// The answer to our check: media goes there from now on.
    pub fn handle_answer(
        &mut self,
        message: &Message,
        from: SocketAddr,
        now: Time,
    ) -> Result<Outcome, DropReason> {
        let asked = self.asked.filter(|(number, to, _)| {
            *to == from && self.pending == Some(from) && *message.transaction() == transaction(*number)
        });
        if asked.is_none() || !message.check_integrity(&self.current.remote.pwd) {
            return Err(DropReason::StunUnauthenticated);
        }
        (self.asked, self.pending, self.nominated) = (None, None, Some(from));
        self.consent_until = now.plus_ms(CONSENT_MS);
        Ok(Outcome::Nominated)
    }

    /// The user name fragments that a check may ask for: ours, and a restart's while both hold.
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        [Some(&self.current), self.next.as_ref()].into_iter().flatten().map(|g| g.local.ufrag.as_str())
    }

    /// Whether an authenticated check came from `address`: only then may it speak DTLS or SRTP.
    pub fn is_valid(&self, address: SocketAddr) -> bool {
        self.nominated == Some(address) || self.valid.iter().any(|v| v.address == address)
    }

    /// Where media goes. `None` until the peer nominates a pair, or the handshake is through.
    pub fn nominated(&self) -> Option<SocketAddr> {
        self.nominated
    }

    /// The handshake gave keys, with a datagram from `from`: from now on a new nomination waits for a packet under them. The first one does not.
    /// Until then media goes where the handshake went: Chromium nominates with its next check, 50 to 100 ms after the handshake, and a viewer waits.
    pub fn secure(&mut self, from: SocketAddr) {
        self.secured = true;
        if self.nominated.is_none() {
            (self.nominated, self.provisional) = (Some(from), true);
        }
    }

    /// A packet under the session's keys came from `address`. True when that moves media there.
    pub fn authenticated(&mut self, address: SocketAddr) -> bool {
        if self.pending != Some(address) {
            return false;
        }
        self.pending = None;
        self.nominated = Some(address);
        true
    }

    /// When consent ends unless another check comes.
    pub fn consent_deadline(&self) -> Time {
        self.consent_until
    }

    /// New credentials (ICE restart, RFC 8445 section 2.4). The old ones and their pair hold until a check under the new
    /// ones nominates; of two restarts before that the later counts.
    pub fn restart(&mut self, local: Credentials, remote: Credentials) {
        self.next = Some(Generation { local, remote });
    }

    /// The first nomination under a restart's credentials, which ends the old ones. It cannot be a check sent again, as nobody has
    /// sent one before; who sees it on the way and is faster has media go astray until the peer's next packet under the keys.
    fn nominate_anew(&mut self, from: SocketAddr) -> Outcome {
        if let Some(next) = self.next.take() {
            self.current = next;
        }
        self.pending = None;
        (self.nominated, self.provisional) = (Some(from), false);
        Outcome::Nominated
    }

    fn nominate(&mut self, from: SocketAddr) -> Outcome {
        if std::mem::take(&mut self.provisional) {
            self.nominated = Some(from);
            return Outcome::Nominated;
        }
        match self.nominated {
            Some(nominated) if nominated == from => {
                // The peer is still there: whoever nominated another address did not move it.
                self.pending = None;
                Outcome::Checked
            }
            Some(_) if self.secured => {
                self.pending = Some(from);
                Outcome::Checked
            }
            _ => {
                self.nominated = Some(from);
                Outcome::Nominated
            }
        }
    }

    fn remember(&mut self, address: SocketAddr, now: Time) {
        if let Some(known) = self.valid.iter_mut().find(|v| v.address == address) {
            known.checked_at = now;
            return;
        }
        if self.valid.len() >= VALID_ADDRESSES_MAX {
            let nominated = self.nominated;
            let oldest = self
                .valid
                .iter()
                .enumerate()
                .filter(|(_, v)| Some(v.address) != nominated)
                .min_by_key(|(_, v)| v.checked_at);
            if let Some((at, _)) = oldest {
                self.valid.swap_remove(at);
            }
        }
        self.valid.push(Valid { address, checked_at: now });
    }
}

/// Of a check. The key makes its answer the peer's, and the number one answer to one check.
fn transaction(number: u64) -> TransactionId {
    let mut id = *b"mill\0\0\0\0\0\0\0\0";
    if let Some(bytes) = id.last_chunk_mut::<8>() {
        *bytes = number.to_be_bytes();
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_ms(1000);

    fn credentials(seed: u8) -> Credentials {
        Credentials::from_entropy(&std::array::from_fn(|i| seed.wrapping_mul(31).wrapping_add(i as u8 * 7)))
    }

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    fn agent() -> Lite {
        Lite::new(credentials(1), credentials(2), NOW)
    }

    struct Check {
        asked: String,
        asks: String,
        pwd: String,
        nominate: bool,
        controlled: bool,
    }

    fn good() -> Check {
        let (l, r) = (credentials(1), credentials(2));
        Check { asked: l.ufrag, asks: r.ufrag, pwd: l.pwd, nominate: false, controlled: false }
    }

    fn nominating() -> Check {
        Check { nominate: true, ..good() }
    }

    fn send(
        lite: &mut Lite,
        check: &Check,
        from: SocketAddr,
        now: Time,
    ) -> (Result<Outcome, DropReason>, Vec<u8>) {
        let (mut bytes, mut out) = (Vec::new(), vec![1]);
        let mut w = Writer::new(&mut bytes, Class::Request, [3; 12]).username(&check.asked, &check.asks);
        w = if check.nominate { w.use_candidate() } else { w };
        w = if check.controlled { w.controlled(5) } else { w.controlling(5) };
        w.finish(&check.pwd);
        let outcome = lite.handle_request(&Message::parse(&bytes).unwrap(), from, now, &mut out);
        (outcome, out)
    }

    #[test]
    fn credentials_are_long_enough_and_from_the_alphabet() {
        let c = credentials(9);
        assert!(c.ufrag.len() >= 4 && c.pwd.len() >= 22);
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        assert!(c.ufrag.chars().chain(c.pwd.chars()).all(fine));
        assert_ne!(credentials(8).pwd, c.pwd);
        assert!(!format!("{c:?}").contains(&c.pwd));
    }

    #[test]
    fn a_check_is_answered_with_its_address() {
        let mut lite = agent();
        assert!(!lite.is_valid(address(1)));
        let (outcome, answer) = send(&mut lite, &good(), address(1), NOW);
        assert_eq!(outcome, Ok(Outcome::Checked));
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.mapped_address(), Some(address(1)));
        assert_eq!(message.transaction(), &[3; 12]);
        assert!(message.check_integrity(&credentials(1).pwd));
        assert!(lite.is_valid(address(1)));
        assert_eq!(lite.nominated(), None, "a check alone moves no media");
    }

    #[test]
    fn forged_checks_change_nothing_and_get_no_answer() {
        let wrong_pwd = Check { pwd: credentials(3).pwd, ..nominating() };
        let wrong_local = Check { asked: credentials(3).ufrag, ..nominating() };
        let wrong_remote = Check { asks: credentials(3).ufrag, ..nominating() };
        let mut lite = agent();
        for (check, reason) in [
            (wrong_pwd, DropReason::StunUnauthenticated),
            (wrong_local, DropReason::StunUnknownUser),
            (wrong_remote, DropReason::StunUnknownUser),
        ] {
            let (outcome, answer) = send(&mut lite, &check, address(1), NOW.plus_ms(5000));
            assert_eq!(outcome, Err(reason));
            assert!(answer.is_empty());
        }
        assert!(!lite.is_valid(address(1)));
        assert_eq!(lite.nominated(), None);
        assert_eq!(lite.consent_deadline(), NOW.plus_ms(CONSENT_MS));
    }

    #[test]
    fn a_peer_that_wants_to_be_controlled_is_told_so() {
        let mut lite = agent();
        let (outcome, answer) = send(&mut lite, &Check { controlled: true, ..nominating() }, address(1), NOW);
        assert_eq!(outcome, Ok(Outcome::Checked));
        assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(487));
        assert!(!lite.is_valid(address(1)));
    }

    #[test]
    fn before_keys_the_latest_nomination_wins() {
        let mut lite = agent();
        assert_eq!(send(&mut lite, &nominating(), address(1), NOW).0, Ok(Outcome::Nominated));
        assert_eq!(send(&mut lite, &nominating(), address(2), NOW).0, Ok(Outcome::Nominated));
        assert_eq!(lite.nominated(), Some(address(2)));
    }

    #[test]
    fn with_keys_a_replayed_check_moves_nothing() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        assert_eq!(send(&mut lite, &nominating(), address(66), NOW).0, Ok(Outcome::Checked));
        assert_eq!(lite.nominated(), Some(address(1)));
        // The real peer checks again: the other nomination is void, even for a later packet from there.
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        assert!(!lite.authenticated(address(66)));
        assert_eq!(lite.nominated(), Some(address(1)));
    }

    #[test]
    fn before_a_nomination_media_goes_where_the_handshake_ended() {
        let mut lite = agent();
        send(&mut lite, &good(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        assert_eq!(lite.nominated(), Some(address(1)));
        // The first nomination counts at once, the next one waits for a packet under the keys.
        assert_eq!(send(&mut lite, &nominating(), address(2), NOW).0, Ok(Outcome::Nominated));
        assert_eq!(lite.nominated(), Some(address(2)));
        assert_eq!(send(&mut lite, &nominating(), address(66), NOW).0, Ok(Outcome::Checked));
        assert_eq!(lite.nominated(), Some(address(2)));
    }

    #[test]
    fn with_keys_an_authentic_packet_moves_media() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        send(&mut lite, &nominating(), address(2), NOW).0.unwrap();
        assert!(!lite.authenticated(address(1)));
        assert!(lite.authenticated(address(2)));
        assert_eq!(lite.nominated(), Some(address(2)));
    }

    #[test]
    fn with_keys_the_answer_to_our_check_moves_media() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        let mut bytes = Vec::new();
        assert_eq!(lite.check(NOW, &mut bytes), None, "there is nothing to ask");
        send(&mut lite, &nominating(), address(2), NOW).0.unwrap();
        assert_eq!(lite.check(NOW, &mut bytes), Some(address(2)));
        let (ours, theirs) = (credentials(1), credentials(2));
        let asked = Message::parse(&bytes).unwrap();
        let name = format!("{}:{}", theirs.ufrag, ours.ufrag);
        assert_eq!((asked.username(), asked.is_controlled()), (Some(name.as_str()), true));
        assert!(asked.check_integrity(&theirs.pwd) && asked.priority().is_some());
        let answer = |transaction: TransactionId, pwd: &str| {
            let mut out = Vec::new();
            Writer::new(&mut out, Class::Success, transaction).mapped_address(address(9)).finish(pwd);
            out
        };
        let good = answer(*asked.transaction(), &theirs.pwd);
        for (wrong, from) in [
            (answer(*asked.transaction(), &ours.pwd), address(2)),
            (answer([9; 12], &theirs.pwd), address(2)),
            (good.clone(), address(66)),
        ] {
            let wrong = lite.handle_answer(&Message::parse(&wrong).unwrap(), from, NOW);
            assert_eq!(wrong, Err(DropReason::StunUnauthenticated));
        }
        assert_eq!(lite.nominated(), Some(address(1)));
        assert_eq!(lite.check(NOW.plus_ms(99), &mut bytes), None, "not with each of the peer's");
        let good = Message::parse(&good).unwrap();
        assert_eq!(lite.handle_answer(&good, address(2), NOW), Ok(Outcome::Nominated));
        assert_eq!(lite.nominated(), Some(address(2)));
        assert_eq!(lite.handle_answer(&good, address(2), NOW), Err(DropReason::StunUnauthenticated), "once");
        // The peer is back before it answers: nothing moves.
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        let later = NOW.plus_ms(200);
        assert_eq!(lite.check(later, &mut bytes), Some(address(1)));
        let asked = *Message::parse(&bytes).unwrap().transaction();
        send(&mut lite, &nominating(), address(2), later).0.unwrap();
        let late = answer(asked, &theirs.pwd);
        assert!(lite.handle_answer(&Message::parse(&late).unwrap(), address(1), later).is_err());
        assert_eq!(lite.nominated(), Some(address(2)));
    }

    #[test]
    fn valid_addresses_are_bounded_and_the_nominated_one_stays() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        for n in 2..100 {
            send(&mut lite, &good(), address(n), NOW.plus_ms(n.into())).0.unwrap();
            assert!(lite.valid.len() <= VALID_ADDRESSES_MAX);
        }
        assert!(lite.is_valid(address(1)) && lite.is_valid(address(99)) && !lite.is_valid(address(2)));
    }

    #[test]
    fn consent_lasts_from_check_to_check() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW.plus_ms(5000)).0.unwrap();
        assert_eq!(lite.consent_deadline(), NOW.plus_ms(5000 + CONSENT_MS));
        // A check from elsewhere does not keep a peer alive that has gone from its own address.
        send(&mut lite, &good(), address(66), NOW.plus_ms(9000)).0.unwrap();
        assert_eq!(lite.consent_deadline(), NOW.plus_ms(5000 + CONSENT_MS));
    }

    #[test]
    fn until_it_nominates_a_peer_consents_from_any_address() {
        let mut lite = agent();
        send(&mut lite, &good(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        let later = NOW.plus_ms(CONSENT_MS - 1_000);
        send(&mut lite, &good(), address(2), later).0.unwrap();
        assert_eq!(lite.consent_deadline(), later.plus_ms(CONSENT_MS));
        // From then on by the nominated pair alone.
        send(&mut lite, &nominating(), address(2), later).0.unwrap();
        send(&mut lite, &good(), address(1), later.plus_ms(5_000)).0.unwrap();
        assert_eq!(lite.consent_deadline(), later.plus_ms(CONSENT_MS));
    }

    fn renewed() -> Check {
        let (l, r) = (credentials(5), credentials(6));
        Check { asked: l.ufrag, asks: r.ufrag, pwd: l.pwd, ..nominating() }
    }

    #[test]
    fn a_restart_keeps_the_old_pair_until_a_new_one_is_nominated() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        lite.restart(credentials(5), credentials(6));
        // The old one goes on, consent included, and a new address is valid before it is nominated.
        let later = NOW.plus_ms(5000);
        assert_eq!(send(&mut lite, &nominating(), address(1), later).0, Ok(Outcome::Checked));
        assert_eq!(lite.consent_deadline(), later.plus_ms(CONSENT_MS));
        let plain = Check { nominate: false, ..renewed() };
        let (outcome, answer) = send(&mut lite, &plain, address(2), later);
        assert_eq!((outcome, lite.nominated()), (Ok(Outcome::Checked), Some(address(1))));
        assert!(Message::parse(&answer).unwrap().check_integrity(&credentials(5).pwd), "by the new password");
        assert_eq!(lite.local_ufrags().count(), 2);

        let (outcome, _) = send(&mut lite, &renewed(), address(2), later);
        assert_eq!((outcome, lite.nominated()), (Ok(Outcome::Nominated), Some(address(2))));
        for from in [1, 2, 66] {
            let old = send(&mut lite, &nominating(), address(from), later).0;
            assert_eq!(old, Err(DropReason::StunUnknownUser));
        }
        assert!(lite.is_valid(address(1)), "what is on its way from there is taken");
        assert_eq!(lite.local_ufrags().collect::<Vec<_>>(), [credentials(5).ufrag.as_str()]);
    }

    #[test]
    fn a_replayed_check_of_a_restart_moves_nothing() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.secure(address(1));
        lite.restart(credentials(5), credentials(6));
        let mixed = [
            (Check { pwd: credentials(1).pwd, ..renewed() }, DropReason::StunUnauthenticated),
            (Check { asks: credentials(2).ufrag, ..renewed() }, DropReason::StunUnknownUser),
            (Check { asked: credentials(1).ufrag, ..renewed() }, DropReason::StunUnknownUser),
        ];
        for (check, reason) in mixed {
            assert_eq!(send(&mut lite, &check, address(66), NOW).0, Err(reason));
        }
        send(&mut lite, &renewed(), address(2), NOW).0.unwrap();
        assert_eq!(send(&mut lite, &renewed(), address(66), NOW).0, Ok(Outcome::Checked));
        assert_eq!(lite.nominated(), Some(address(2)));
        assert!(lite.authenticated(address(66)), "as ever: a packet under the keys moves media");
    }

    #[test]
    fn of_two_restarts_the_later_counts() {
        let mut lite = agent();
        send(&mut lite, &nominating(), address(1), NOW).0.unwrap();
        lite.restart(credentials(7), credentials(8));
        lite.restart(credentials(5), credentials(6));
        let (l, r) = (credentials(7), credentials(8));
        let first = Check { asked: l.ufrag, asks: r.ufrag, pwd: l.pwd, ..nominating() };
        assert_eq!(send(&mut lite, &first, address(2), NOW).0, Err(DropReason::StunUnknownUser));
        assert_eq!(send(&mut lite, &nominating(), address(1), NOW).0, Ok(Outcome::Checked));
        assert_eq!(send(&mut lite, &renewed(), address(1), NOW).0, Ok(Outcome::Nominated));
        assert_eq!(lite.nominated(), Some(address(1)));
    }
}
