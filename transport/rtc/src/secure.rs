//! DTLS and the SRTP keys it gives: what a session and a client have in common once ICE has said that an
//! address may speak.

use bytes::Bytes;
use media::Time;
use metrics::DropReason;

use crate::dtls::{Dtls, Event, Refusal, Role};
use crate::session::{CloseReason, Input};
use crate::srtp::{Keys, Protect, Unprotect};

/// The secured half of a session.
pub(crate) struct Channel {
    dtls: Dtls,
    role: Role,
    srtp: Option<Srtp>,
    /// Where SRTCP is made, kept for its capacity.
    scratch: Vec<u8>,
}

struct Srtp {
    protect: Protect,
    unprotect: Unprotect,
}

impl Channel {
    pub(crate) fn new(dtls: Dtls, role: Role) -> Channel {
        Channel { dtls, role, srtp: None, scratch: Vec::new() }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Why the handshake did not end, as far as is known.
    pub(crate) fn failure(&self) -> CloseReason {
        match self.dtls.refusal() {
            Some(Refusal::Fingerprint) => CloseReason::FingerprintMismatch,
            _ => CloseReason::HandshakeTimeout,
        }
    }

    pub(crate) fn handle_dtls(
        &mut self,
        datagram: &[u8],
        now: Time,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<Input<'static>, DropReason> {
        let event = self.dtls.handle_datagram(datagram, now, out)?;
        self.apply(event)
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Time,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<Input<'static>, DropReason> {
        let event = self.dtls.handle_timeout(now, out);
        self.apply(event)
    }

    pub(crate) fn next_timeout(&self) -> Time {
        self.dtls.next_timeout()
    }

    pub(crate) fn handle_rtp<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], DropReason> {
        let srtp = self.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let packet = srtp.unprotect.unprotect_rtp(datagram)?;
        self.dtls.confirm();
        Ok(packet)
    }

    pub(crate) fn handle_rtcp(&mut self, datagram: &[u8]) -> Result<Bytes, DropReason> {
        let srtp = self.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let packet = srtp.unprotect.unprotect_rtcp(datagram)?;
        self.dtls.confirm();
        Ok(packet)
    }

    pub(crate) fn protect_rtp(
        &mut self,
        buf: &mut [u8],
        len: usize,
        header_len: usize,
        roc: u32,
    ) -> Result<usize, DropReason> {
        self.srtp.as_mut().ok_or(DropReason::NoKeys)?.protect.protect_rtp(buf, len, header_len, roc)
    }

    pub(crate) fn protect_rtcp(&mut self, packet: &[u8]) -> Result<&[u8], DropReason> {
        let srtp = self.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        srtp.protect.protect_rtcp(packet, &mut self.scratch)?;
        Ok(&self.scratch)
    }

    pub(crate) fn protection(&self) -> Option<&Protect> {
        self.srtp.as_ref().map(|srtp| &srtp.protect)
    }

    pub(crate) fn close(&mut self, now: Time, out: &mut dyn FnMut(&[u8])) {
        self.dtls.close(now, out);
        self.srtp = None;
    }

    fn apply(&mut self, event: Option<Event>) -> Result<Input<'static>, DropReason> {
        match event {
            None => Ok(Input::Nothing),
            Some(Event::Connected(keys)) => {
                self.srtp = Some(Srtp::new(&keys, self.role).ok_or(DropReason::DtlsRefused)?);
                Ok(Input::Connected)
            }
            Some(Event::Closed) => Ok(Input::Closed(CloseReason::PeerClosed)),
            Some(Event::Alert(_)) => Ok(Input::Closed(CloseReason::PeerAlert)),
        }
    }
}

impl Srtp {
    fn new(keys: &Keys, role: Role) -> Option<Srtp> {
        let (ours, theirs) = match role {
            Role::Passive => (&keys.server, &keys.client),
            Role::Active => (&keys.client, &keys.server),
        };
        Some(Srtp {
            protect: Protect::new(keys.profile, ours).ok()?,
            unprotect: Unprotect::new(keys.profile, theirs).ok()?,
        })
    }
}
