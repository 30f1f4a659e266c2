//! The other end of a [`Session`](crate::Session): an ICE agent with one pair, DTLS and SRTP. It is what the tests
//! and the load harness connect with; a browser does the same and more. The server may be ICE-lite or full: its
//! checks are answered, too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use media::Time;
use metrics::DropReason;

use crate::dtls::{Dtls, Fingerprint, Identity, Role};
use crate::ice::Credentials;
use crate::secure::Channel;
use crate::session::{CONNECT_TIMEOUT_MS, CloseReason, Input, Protocol};
use crate::stun::{Class, Message, TransactionId, Writer};

/// RFC 8445 section 14.2: Ta, the pace of checks.
const CHECK_FIRST_MS: i64 = 50;
/// RFC 7675 section 5.1: consent is asked for every 4 to 6 s; browsers ask every 2.5 s.
const CHECK_LATER_MS: i64 = 2_500;
/// RFC 8445 section 5.1.2.1 for a host candidate of component 1: 126 << 24 | 65535 << 8 | 255.
const PRIORITY_HOST: u32 = 0x7eff_ffff;
/// Unanswered checks whose answer is still taken.
const CHECKS_OPEN_MAX: usize = 16;

/// What both sides agreed on in SDP.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Our ICE credentials.
    pub local: Credentials,
    /// The server's.
    pub remote: Credentials,
    /// The server's certificate.
    pub remote_fingerprint: Fingerprint,
    /// Our certificate.
    pub identity: Arc<Identity>,
    /// The instant of `Time::ZERO`.
    pub base: Instant,
    /// Who starts the DTLS handshake; [`Role::Active`] against a server that answers `passive`.
    pub role: Role,
    /// Whether we nominate. RFC 8445 section 6.1.1: who offered does, and whoever has an ICE-lite peer. It is known
    /// from the SDP, so a server that claims the same role has no conflict to solve but a bug.
    pub controlling: bool,
    /// The server's candidate.
    pub server: SocketAddr,
    /// Where transaction ids and the tie-breaker come from.
    pub seed: u64,
}

/// One client.
pub struct Client {
    config: ClientConfig,
    channel: Channel,
    random: u64,
    checks: Vec<TransactionId>,
    next_check: Time,
    /// The server answered a check: the pair is valid and, there being no other, the one in use. (A controlling
    /// agent's checks all nominate it.)
    answered: bool,
    connect_deadline: Time,
    closed: Option<CloseReason>,
    scratch: Vec<u8>,
}

impl Client {
    /// A client whose first check is due at once: call [`Client::handle_timeout`].
    pub fn new(config: ClientConfig, now: Time) -> Client {
        let (identity, expected) = (Arc::clone(&config.identity), config.remote_fingerprint.clone());
        let dtls = Dtls::new(identity, expected, config.role, config.base);
        Client {
            channel: Channel::new(dtls, config.role),
            random: config.seed,
            checks: Vec::new(),
            next_check: now,
            answered: false,
            connect_deadline: now.plus_ms(CONNECT_TIMEOUT_MS),
            closed: None,
            scratch: Vec::new(),
            config,
        }
    }

    /// Takes one datagram from the server; answers go through `out`.
    ///
    /// # Errors
    /// Why the datagram was dropped.
    pub fn handle_datagram<'a>(
        &mut self,
        datagram: &'a mut [u8],
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'a>, DropReason> {
        if let Some(reason) = self.closed {
            return Ok(Input::Closed(reason));
        }
        let server = self.config.server;
        let input = match Protocol::of(datagram)? {
            Protocol::Stun => self.handle_stun(datagram, now, out)?,
            Protocol::Dtls => self.channel.handle_dtls(datagram, now, &mut |p| out(server, p))?,
            Protocol::Rtp => Input::Rtp(self.channel.handle_rtp(datagram)?),
            Protocol::Rtcp => Input::Rtcp(self.channel.handle_rtcp(datagram)?),
        };
        if let Input::Closed(reason) = input {
            self.closed = Some(reason);
        }
        Ok(input)
    }

    /// Sends the checks and retransmissions that are due. Returns why the client is over, once it is.
    pub fn handle_timeout(
        &mut self,
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Option<CloseReason> {
        if self.closed.is_some() {
            return self.closed;
        }
        if !self.is_connected() && now >= self.connect_deadline {
            self.closed = Some(self.channel.failure());
            return self.closed;
        }
        if now >= self.next_check {
            self.send_check(out);
            self.next_check = now.plus_ms(if self.answered { CHECK_LATER_MS } else { CHECK_FIRST_MS });
        }
        if self.answered && now >= self.channel.next_timeout() {
            let server = self.config.server;
            let _ = self.channel.handle_timeout(now, &mut |p| out(server, p));
        }
        None
    }

    /// When [`Client::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Time {
        let dtls = if self.answered { self.channel.next_timeout() } else { Time::MAX };
        let deadline = if self.is_connected() { Time::MAX } else { self.connect_deadline };
        self.next_check.min(dtls).min(deadline)
    }

    /// Whether there are keys and the client is not over.
    pub fn is_connected(&self) -> bool {
        self.closed.is_none() && self.channel.is_connected()
    }

    /// Protects the RTP packet `buf[..len]` in place; see
    /// [`Protect::protect_rtp`](crate::srtp::Protect::protect_rtp).
    ///
    /// # Errors
    /// `NoKeys`, `RtpMalformed`.
    pub fn protect_rtp(
        &mut self,
        buf: &mut [u8],
        len: usize,
        header_len: usize,
        roc: u32,
    ) -> Result<usize, DropReason> {
        self.channel.protect_rtp(buf, len, header_len, roc)
    }

    /// Protects and sends a compound RTCP packet.
    ///
    /// # Errors
    /// `NoKeys`, `RtcpMalformed`.
    pub fn send_rtcp(
        &mut self,
        packet: &[u8],
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<(), DropReason> {
        out(self.config.server, self.channel.protect_rtcp(packet)?);
        Ok(())
    }

    /// New ICE credentials of both sides (ICE restart): checks begin anew, keys stay.
    pub fn restart_ice(&mut self, local: Credentials, remote: Credentials, now: Time) {
        (self.config.local, self.config.remote) = (local, remote);
        self.checks.clear();
        self.answered = false;
        self.next_check = now;
    }

    /// Says goodbye (close_notify).
    pub fn close(&mut self, now: Time, out: &mut impl FnMut(SocketAddr, &[u8])) {
        let server = self.config.server;
        self.channel.close(now, &mut |p| out(server, p));
        self.closed = self.closed.or(Some(CloseReason::Local));
    }

    fn send_check(&mut self, out: &mut impl FnMut(SocketAddr, &[u8])) {
        let [a, b, c, d, e, f, g, h] = self.next_random().to_be_bytes();
        let [i, j, k, l, ..] = self.next_random().to_be_bytes();
        let transaction = [a, b, c, d, e, f, g, h, i, j, k, l];
        if self.checks.len() >= CHECKS_OPEN_MAX {
            self.checks.remove(0);
        }
        self.checks.push(transaction);
        let check = Writer::new(&mut self.scratch, Class::Request, transaction)
            .username(&self.config.remote.ufrag, &self.config.local.ufrag)
            .priority(PRIORITY_HOST);
        let check = if self.config.controlling {
            check.controlling(self.config.seed).use_candidate()
        } else {
            check.controlled(self.config.seed)
        };
        check.finish(&self.config.remote.pwd);
        out(self.config.server, &self.scratch);
    }

    fn handle_stun(
        &mut self,
        datagram: &[u8],
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'static>, DropReason> {
        let message = Message::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        match message.class() {
            Class::Request => self.answer_check(&message, out),
            _ => self.handle_answer(&message, now, out),
        }
    }

    /// A check of a full agent, which believes in a pair only once its own check was answered. One that comes from
    /// another of the server's addresses is answered to the one in use, which is no answer to it: there is one pair.
    fn answer_check(
        &mut self,
        message: &Message<'_>,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'static>, DropReason> {
        // RFC 8445 section 7.2.2: USERNAME is the ufrag of who is asked, a colon, that of who asks.
        let name = message.username().and_then(|name| name.split_once(':'));
        let (local, remote) = (&self.config.local, &self.config.remote);
        if name != Some((local.ufrag.as_str(), remote.ufrag.as_str())) {
            return Err(DropReason::StunUnknownUser);
        }
        if !message.check_integrity(&local.pwd) {
            return Err(DropReason::StunUnauthenticated);
        }
        Writer::new(&mut self.scratch, Class::Success, *message.transaction())
            .mapped_address(self.config.server)
            .finish(&local.pwd);
        out(self.config.server, &self.scratch);
        Ok(Input::Nothing)
    }

    fn handle_answer(
        &mut self,
        message: &Message<'_>,
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'static>, DropReason> {
        let open = self.checks.iter().position(|t| t == message.transaction());
        let open = open.ok_or(DropReason::StunUnauthenticated)?;
        if message.class() != Class::Success || !message.check_integrity(&self.config.remote.pwd) {
            return Err(DropReason::StunUnauthenticated);
        }
        self.checks.remove(open);
        if !self.answered {
            self.answered = true;
            self.next_check = now.plus_ms(CHECK_LATER_MS);
            if self.config.role == Role::Active {
                let server = self.config.server;
                return self.channel.handle_timeout(now, &mut |p| out(server, p));
            }
        }
        Ok(Input::Nothing)
    }

    /// SplitMix64: transaction ids need to differ from each other, the password keeps them honest.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 4_000);

    fn credentials(n: u8) -> Credentials {
        Credentials::from_entropy(&[n; 32])
    }

    fn client(controlling: bool) -> Client {
        let identity = Identity::generate().unwrap();
        let config = ClientConfig {
            local: credentials(1),
            remote: credentials(2),
            remote_fingerprint: identity.fingerprint().clone(),
            identity,
            base: Instant::now(),
            role: Role::Active,
            controlling,
            server: SERVER,
            seed: 7,
        };
        Client::new(config, Time::ZERO)
    }

    /// A check of a full server, by these ufrags and this password, and what the client sends because of it.
    fn check(client: &mut Client, asked: u8, asks: u8, pwd: u8) -> (Option<DropReason>, Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Request, [9; 12])
            .username(&credentials(asked).ufrag, &credentials(asks).ufrag)
            .priority(PRIORITY_HOST)
            .controlling(5)
            .use_candidate()
            .finish(&credentials(pwd).pwd);
        let mut sent = Vec::new();
        let result = client.handle_datagram(&mut bytes, Time::ZERO, &mut |to, datagram| {
            assert_eq!(to, SERVER);
            sent.push(datagram.to_vec());
        });
        (result.err(), sent)
    }

    #[test]
    fn a_full_server_has_its_checks_answered() {
        let mut client = client(false);
        let (error, sent) = check(&mut client, 1, 2, 1);
        assert_eq!((error, sent.len()), (None, 1));
        let answer = Message::parse(&sent[0]).unwrap();
        assert_eq!((answer.class(), answer.transaction()), (Class::Success, &[9; 12]));
        assert_eq!(answer.mapped_address(), Some(SERVER));
        assert!(answer.check_integrity(&credentials(1).pwd));
    }

    #[test]
    fn a_strangers_check_gets_no_answer() {
        let mut client = client(false);
        for (asked, asks, pwd, reason) in [
            (3, 2, 1, DropReason::StunUnknownUser),
            (1, 3, 1, DropReason::StunUnknownUser),
            (1, 2, 2, DropReason::StunUnauthenticated),
        ] {
            assert_eq!(check(&mut client, asked, asks, pwd), (Some(reason), Vec::new()));
        }
    }

    #[test]
    fn only_the_controlling_side_nominates_and_both_take_a_valid_pair() {
        for controlling in [true, false] {
            let mut client = client(controlling);
            let mut sent = Vec::new();
            client.handle_timeout(Time::ZERO, &mut |_, datagram| sent.push(datagram.to_vec()));
            let request = Message::parse(&sent[0]).unwrap();
            assert_eq!(request.is_controlling(), controlling);
            assert_eq!(request.is_controlled(), !controlling);
            assert_eq!(request.use_candidate(), controlling);
            let mut answer = Vec::new();
            Writer::new(&mut answer, Class::Success, *request.transaction())
                .mapped_address(SERVER)
                .finish(&credentials(2).pwd);
            let mut hello = 0;
            client.handle_datagram(&mut answer, Time::ZERO, &mut |_, _| hello += 1).unwrap();
            assert!(hello > 0, "the handshake begins");
        }
    }
}
