//! SRTP and SRTCP (RFC 3711, RFC 7714). RTP is ours: in place, no allocation, the key schedule made once.
//! SRTCP, a packet or two a second, is `webrtc-srtp`'s behind the guard of [`srtcp`].
//!
//! Outgoing packets carry their rollover counter as an argument, since who numbers packets knows it; incoming
//! ones have it estimated for each SSRC (RFC 3711 section 3.3.1), and a source exists only once a packet of
//! it was authentic.

mod cipher;
mod replay;
mod srtcp;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use metrics::DropReason;

use cipher::RtpCipher;
use replay::Source;
use srtcp::{RtcpOpener, RtcpSealer};

/// Most bytes that protection adds to an RTP packet.
pub const TAG_LEN_MAX: usize = 16;
/// Sources that one peer may send. A publisher with three simulcast layers, their retransmissions and audio
/// has seven; there is room for tracks that are replaced.
pub const SOURCES_MAX: usize = 32;

/// How packets are protected (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// AEAD_AES_256_GCM
    AeadAes256Gcm,
    /// AEAD_AES_128_GCM
    AeadAes128Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80
    Aes128CmSha1_80,
}

impl Profile {
    /// Bytes that protection adds to an RTP packet.
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => 16,
            Profile::Aes128CmSha1_80 => 10,
        }
    }

    const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm => 32,
            Profile::AeadAes128Gcm | Profile::Aes128CmSha1_80 => 16,
        }
    }

    const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => 12,
            Profile::Aes128CmSha1_80 => 14,
        }
    }
}

/// Master key and master salt of one direction.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    key: Vec<u8>,
    salt: Vec<u8>,
}

/// The keys of a session: what each side encrypts with.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// What was negotiated.
    pub profile: Profile,
    /// What the DTLS client sends with.
    pub client: MasterKey,
    /// What the DTLS server sends with.
    pub server: MasterKey,
}

impl Keys {
    /// Splits what the DTLS exporter gave. `None` when its length is not the profile's.
    pub fn from_exporter(profile: Profile, material: &[u8]) -> Option<Keys> {
        // RFC 5764 section 4.2: client key, server key, client salt, server salt.
        let (client_key, rest) = material.split_at_checked(profile.key_len())?;
        let (server_key, rest) = rest.split_at_checked(profile.key_len())?;
        let (client_salt, server_salt) = rest.split_at_checked(profile.salt_len())?;
        if server_salt.len() != profile.salt_len() {
            return None;
        }
        let master = |key: &[u8], salt: &[u8]| MasterKey { key: key.to_vec(), salt: salt.to_vec() };
        Some(Keys {
            profile,
            client: master(client_key, client_salt),
            server: master(server_key, server_salt),
        })
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl std::fmt::Debug for Keys {
    /// Keys are secrets: they are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// A key that the crypto library refused: its length is not the profile's. The fault is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("SRTP key refused")]
pub struct KeyError;

/// The sending side of a session's protection.
pub struct Protect {
    profile: Profile,
    rtp: RtpCipher,
    rtcp: RtcpSealer,
}

impl Protect {
    /// Derives the session keys of one direction.
    pub fn new(profile: Profile, keys: &MasterKey) -> Result<Protect, KeyError> {
        Ok(Protect { profile, rtp: RtpCipher::new(profile, keys)?, rtcp: RtcpSealer::new(profile, keys)? })
    }

    /// What was negotiated.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Protects the RTP packet `buf[..len]` in place and returns its new length; `buf` has room for
    /// [`TAG_LEN_MAX`] bytes more. `header_len` counts CSRCs and the header extension.
    ///
    /// `roc` is the upper 32 bits of the packet's extended sequence number, counted from 0 when the SSRC
    /// began; a receiver assumes 0, so a stream's first number is best below 2^15. The caller never
    /// protects two different packets under one (SSRC, `roc`, number): that would repeat a nonce.
    ///
    /// # Errors
    /// `RtpMalformed` when the lengths do not fit the packet or the buffer.
    pub fn protect_rtp(
        &mut self,
        buf: &mut [u8],
        len: usize,
        header_len: usize,
        roc: u32,
    ) -> Result<usize, DropReason> {
        let room = len.checked_add(self.profile.tag_len()).ok_or(DropReason::RtpMalformed)?;
        let packet = buf.get_mut(..room).ok_or(DropReason::RtpMalformed)?;
        self.rtp.seal(packet, header_len, roc)?;
        Ok(room)
    }

    /// Protects a compound RTCP packet into `out`, which is cleared first.
    ///
    /// # Errors
    /// `RtcpMalformed` when it has no sender SSRC.
    pub fn protect_rtcp(&mut self, packet: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        self.rtcp.seal(packet, out)
    }
}

/// The receiving side of a session's protection.
pub struct Unprotect {
    profile: Profile,
    rtp: RtpCipher,
    rtcp: RtcpOpener,
    sources: Vec<Source>,
}

impl Unprotect {
    /// Derives the session keys of one direction.
    pub fn new(profile: Profile, keys: &MasterKey) -> Result<Unprotect, KeyError> {
        let rtcp = RtcpOpener::new(profile, keys)?;
        Ok(Unprotect { profile, rtp: RtpCipher::new(profile, keys)?, rtcp, sources: Vec::new() })
    }

    /// Checks and decrypts an SRTP packet in place; what is returned is the RTP packet. A packet that is
    /// refused changes no state, though its bytes may be overwritten.
    ///
    /// # Errors
    /// `RtpMalformed`, `SrtpShort`, `SrtpReplayed`, `TooManySources`, `SrtpUnauthenticated`, in the order of
    /// their cost.
    pub fn unprotect_rtp<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], DropReason> {
        let Header { len: header_len, ssrc, sequence } = Header::parse(datagram)?;
        let shortest = header_len.checked_add(self.profile.tag_len()).ok_or(DropReason::SrtpShort)?;
        if datagram.len() < shortest {
            return Err(DropReason::SrtpShort);
        }
        let full = self.sources.len() >= SOURCES_MAX;
        let known = self.sources.iter_mut().find(|s| s.ssrc() == ssrc);
        let index = match &known {
            Some(source) => source.index_of(sequence),
            None => u64::from(sequence),
        };
        match &known {
            // RFC 3711 section 3.3: the replay check comes before the dear one.
            Some(source) if source.is_replayed(index) => return Err(DropReason::SrtpReplayed),
            None if full => return Err(DropReason::TooManySources),
            _ => {}
        }
        let packet = self.rtp.open(datagram, header_len, (index >> 16) as u32)?;
        match known {
            Some(source) => source.accept(index),
            None => self.sources.push(Source::new(ssrc, index)),
        }
        Ok(packet)
    }

    /// Checks and decrypts an SRTCP packet; what is returned is the compound RTCP packet.
    ///
    /// # Errors
    /// `SrtpShort`, `SrtcpUnauthenticated`, `SrtpReplayed`, `TooManySources`.
    pub fn unprotect_rtcp(&mut self, datagram: &[u8]) -> Result<Bytes, DropReason> {
        self.rtcp.open(datagram)
    }
}

/// As much of an RTP header as protection needs (RFC 3550 section 5.1).
struct Header {
    len: usize,
    ssrc: u32,
    sequence: u16,
}

impl Header {
    fn parse(packet: &[u8]) -> Result<Header, DropReason> {
        let (fixed, rest) = packet.split_first_chunk::<12>().ok_or(DropReason::SrtpShort)?;
        let [first, _, q0, q1, _, _, _, _, s0, s1, s2, s3] = *fixed;
        if first >> 6 != 2 {
            return Err(DropReason::RtpMalformed);
        }
        let csrcs = usize::from(first & 0x0f).saturating_mul(4);
        let mut len = csrcs.saturating_add(12);
        if first & 0x10 != 0 {
            let (_, extension) = rest.split_at_checked(csrcs).ok_or(DropReason::SrtpShort)?;
            let [_, _, w0, w1] = *extension.first_chunk::<4>().ok_or(DropReason::SrtpShort)?;
            let words = usize::from(u16::from_be_bytes([w0, w1]));
            len = len.saturating_add(4).saturating_add(words.saturating_mul(4));
        }
        let ssrc = u32::from_be_bytes([s0, s1, s2, s3]);
        Ok(Header { len, ssrc, sequence: u16::from_be_bytes([q0, q1]) })
    }
}
