//! The secure transport of one WebRTC peer: ICE-lite, DTLS and SRTP on one 5-tuple.
//!
//! What may change what: an authenticated check makes an address valid; only a valid address may speak DTLS;
//! only the certificate of the SDP's fingerprint gives keys; only a packet under the keys moves media or ends
//! the session. Everything else is dropped with a reason, gets no answer and leaves no trace.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use media::Time;
use metrics::DropReason;

use crate::dtls::{Dtls, Fingerprint, Identity, Role};
use crate::ice::{Credentials, Lite, Outcome};
use crate::secure::Channel;
use crate::srtp::Protect;
use crate::stun::{Class, Message};

/// A session that is not connected this long after it was made is closed: a half-open one costs memory. The
/// browser has its answer within one round trip, and checks and handshake take four more.
pub const CONNECT_TIMEOUT_MS: i64 = 10_000;

/// What both sides agreed on in SDP.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our ICE credentials, in our SDP.
    pub local: Credentials,
    /// The peer's, from its SDP.
    pub remote: Credentials,
    /// The peer's certificate, from its SDP.
    pub remote_fingerprint: Fingerprint,
    /// Our certificate.
    pub identity: Arc<Identity>,
    /// The instant of `Time::ZERO`.
    pub base: Instant,
    /// Who starts the DTLS handshake.
    pub role: Role,
    /// How long the session may take to connect, normally [`CONNECT_TIMEOUT_MS`].
    pub connect_timeout_ms: i64,
}

/// What an incoming datagram was.
#[derive(Debug)]
pub enum Input<'a> {
    /// Part of a check or a handshake: nothing for the caller to do.
    Nothing,
    /// Keys are ready: the peer is who the SDP says. Comes once.
    Connected,
    /// An authentic RTP packet, in the caller's buffer.
    Rtp(&'a mut [u8]),
    /// An authentic compound RTCP packet.
    Rtcp(Bytes),
    /// The session is over.
    Closed(CloseReason),
}

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer said goodbye (an authenticated close_notify).
    PeerClosed,
    /// The peer's DTLS failed (an authenticated fatal alert).
    PeerAlert,
    /// Not connected in time.
    HandshakeTimeout,
    /// Not connected in time, and who tried had not the certificate of the SDP.
    FingerprintMismatch,
    /// No check for 30 s (RFC 7675).
    ConsentExpired,
    /// [`Session::close`].
    Local,
}

/// Which protocol a datagram belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// First byte 0 to 3.
    Stun,
    /// First byte 20 to 63.
    Dtls,
    /// First byte 128 to 191.
    Rtp,
    /// As RTP, with a second byte of 192 to 223.
    Rtcp,
}

impl Protocol {
    /// By the first bytes (RFC 7983 section 7, RFC 5761 section 4).
    ///
    /// # Errors
    /// `UnknownProtocol`.
    pub fn of(datagram: &[u8]) -> Result<Protocol, DropReason> {
        match *datagram {
            [0..=3, ..] => Ok(Protocol::Stun),
            [20..=63, ..] => Ok(Protocol::Dtls),
            [128..=191, 192..=223, ..] => Ok(Protocol::Rtcp),
            [128..=191, _, ..] => Ok(Protocol::Rtp),
            _ => Err(DropReason::UnknownProtocol),
        }
    }
}

/// One peer's session.
pub struct Session {
    ice: Lite,
    channel: Channel,
    role: Role,
    connect_deadline: Time,
    /// Where the handshake's last datagram came from: where it goes on before a pair is nominated.
    dtls_peer: Option<SocketAddr>,
    closed: Option<CloseReason>,
    /// Where answers to checks are made, kept for its capacity.
    scratch: Vec<u8>,
}

impl Session {
    /// A session that waits for the peer's first check.
    pub fn new(config: SessionConfig, now: Time) -> Session {
        let SessionConfig { local, remote, remote_fingerprint, identity, base, role, connect_timeout_ms } =
            config;
        Session {
            ice: Lite::new(local, remote, now),
            channel: Channel::new(Dtls::new(identity, remote_fingerprint, role, base), role),
            role,
            connect_deadline: now.plus_ms(connect_timeout_ms),
            dtls_peer: None,
            closed: None,
            scratch: Vec::new(),
        }
    }

    /// Takes one datagram; answers go through `out`. After the session is over every datagram gives `Closed`.
    ///
    /// # Errors
    /// Why the datagram was dropped. A dropped datagram changed nothing.
    pub fn handle_datagram<'a>(
        &mut self,
        datagram: &'a mut [u8],
        from: SocketAddr,
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'a>, DropReason> {
        if let Some(reason) = self.closed {
            return Ok(Input::Closed(reason));
        }
        let protocol = Protocol::of(datagram)?;
        if protocol == Protocol::Stun {
            return self.handle_stun(datagram, from, now, out);
        }
        if !self.ice.is_valid(from) {
            return Err(DropReason::AddressNotValidated);
        }
        let input = match protocol {
            Protocol::Stun => Input::Nothing,
            Protocol::Dtls => {
                let input = self.channel.handle_dtls(datagram, now, &mut |p| out(from, p))?;
                if !self.channel.is_connected() {
                    self.dtls_peer = Some(from);
                }
                input
            }
            Protocol::Rtp => Input::Rtp(self.channel.handle_rtp(datagram)?),
            Protocol::Rtcp => Input::Rtcp(self.channel.handle_rtcp(datagram)?),
        };
        match &input {
            Input::Nothing => {}
            Input::Connected => self.ice.secure(from),
            Input::Closed(reason) => self.closed = Some(*reason),
            Input::Rtp(_) | Input::Rtcp(_) => {
                self.ice.authenticated(from);
            }
        }
        Ok(input)
    }

    /// A packet of media from an address that no check has come from: the peer's NAT may have given it another. It is taken for the peer's when it is
    /// authentic and new; nothing is sent there, and nothing else changes, before a check comes from there.
    ///
    /// # Errors
    /// Why it was dropped. A dropped packet changed nothing.
    pub fn handle_rtp_from_elsewhere<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], DropReason> {
        if self.closed.is_some() || !self.is_connected() {
            return Err(DropReason::AddressNotValidated);
        }
        self.channel.handle_rtp(packet).map(|packet| &*packet)
    }

    /// Does what is due at `now`: retransmissions, deadlines. Returns why the session is over, once it is.
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
        } else if now >= self.ice.consent_deadline() {
            // RFC 7675 section 5.1: then nothing more may be sent to the peer.
            self.closed = Some(CloseReason::ConsentExpired);
        } else if now >= self.channel.next_timeout() {
            self.poll_dtls(now, out);
        }
        self.closed
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Time {
        if self.closed.is_some() {
            return Time::MAX;
        }
        let deadline = if self.is_connected() { self.ice.consent_deadline() } else { self.connect_deadline };
        deadline.min(self.ice.consent_deadline()).min(self.channel.next_timeout())
    }

    /// Where media goes: the address that the peer nominated and, when it moved, proved to be at; before that, where the handshake ended.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.ice.nominated()
    }

    /// Whether there are keys and the session is not over.
    pub fn is_connected(&self) -> bool {
        self.closed.is_none() && self.channel.is_connected()
    }

    /// Protects the RTP packet `buf[..len]` in place for [`Session::remote`]; see [`Protect::protect_rtp`].
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
        if self.closed.is_some() {
            return Err(DropReason::NoKeys);
        }
        self.channel.protect_rtp(buf, len, header_len, roc)
    }

    /// The sending side's protection, once connected (its profile says what a packet grows by).
    pub fn protection(&self) -> Option<&Protect> {
        self.channel.protection()
    }

    /// Protects and sends a compound RTCP packet to [`Session::remote`].
    ///
    /// # Errors
    /// `NoKeys`, `RtcpMalformed`, `AddressNotValidated` when no pair is nominated.
    pub fn send_rtcp(
        &mut self,
        packet: &[u8],
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<(), DropReason> {
        if self.closed.is_some() {
            return Err(DropReason::NoKeys);
        }
        let to = self.ice.nominated().ok_or(DropReason::AddressNotValidated)?;
        out(to, self.channel.protect_rtcp(packet)?);
        Ok(())
    }

    /// The ICE user name fragments by which a datagram may ask for this session.
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        self.ice.local_ufrags()
    }

    /// New ICE credentials of both sides (ICE restart). Keys stay, and media, until a check under the new ones nominates.
    pub fn restart_ice(&mut self, local: Credentials, remote: Credentials) {
        self.ice.restart(local, remote);
    }

    /// Says goodbye to the peer (close_notify) and ends the session.
    pub fn close(&mut self, now: Time, out: &mut impl FnMut(SocketAddr, &[u8])) {
        if self.closed.is_some() {
            return;
        }
        if let Some(to) = self.ice.nominated() {
            self.channel.close(now, &mut |p| out(to, p));
        }
        self.closed = Some(CloseReason::Local);
    }

    fn handle_stun(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Time,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Result<Input<'static>, DropReason> {
        let message = Message::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        if message.class() == Class::Success {
            self.ice.handle_answer(&message, from, now)?;
            return Ok(Input::Nothing);
        }
        let outcome = self.ice.handle_request(&message, from, now, &mut self.scratch)?;
        out(from, &self.scratch);
        if let Some(to) = self.ice.check(now, &mut self.scratch) {
            out(to, &self.scratch);
        }
        if outcome == Outcome::Nominated && self.role == Role::Active && !self.channel.is_connected() {
            self.poll_dtls(now, out);
        }
        Ok(Input::Nothing)
    }

    fn poll_dtls(&mut self, now: Time, out: &mut impl FnMut(SocketAddr, &[u8])) {
        let Some(to) = self.ice.nominated().or(self.dtls_peer) else { return };
        // A timer only retransmits; what it gives is never news.
        let _ = self.channel.handle_timeout(now, &mut |p| out(to, p));
    }
}
