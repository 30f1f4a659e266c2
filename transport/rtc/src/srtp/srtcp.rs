//! SRTCP by `webrtc-srtp`, and the guard that it needs: it panics on short packets, takes packets with the E
//! bit clear without looking at their tag, and makes state for an SSRC before it knows that the packet is
//! authentic.

use bytes::Bytes;
use metrics::DropReason;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

use super::{KeyError, MasterKey, Profile, SOURCES_MAX};

/// Packets that may come this much behind the newest.
const REPLAY_WINDOW: usize = 128;
/// RTCP's header and the sender's SSRC, which are in the clear.
const HEADER_LEN: usize = 8;
/// The E bit and the 31-bit index.
const INDEX_LEN: usize = 4;
/// RFC 3711 section 9.2: "2^31 SRTCP packets" under one key at most.
const PACKETS_MAX: u32 = 1 << 31;
/// Packets of unknown SSRCs that one throw-away context tries before it is made anew: bounds the state that
/// it collects from forged ones.
const TRIALS_MAX: u32 = 64;

impl From<Profile> for ProtectionProfile {
    fn from(profile: Profile) -> ProtectionProfile {
        match profile {
            Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
            Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            Profile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        }
    }
}

/// A context of one direction, always with replay protection (without the options there is none).
pub(super) fn context(profile: Profile, keys: &MasterKey) -> Result<Context, KeyError> {
    let (rtp, rtcp) = (srtp_replay_protection(REPLAY_WINDOW), srtcp_replay_protection(REPLAY_WINDOW));
    Context::new(&keys.key, &keys.salt, profile.into(), Some(rtp), Some(rtcp)).map_err(|_| KeyError)
}

pub(super) struct RtcpSealer {
    context: Context,
    sent: u32,
}

impl RtcpSealer {
    pub(super) fn new(profile: Profile, keys: &MasterKey) -> Result<RtcpSealer, KeyError> {
        Ok(RtcpSealer { context: context(profile, keys)?, sent: 0 })
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        out.clear();
        if packet.len() < HEADER_LEN || self.sent >= PACKETS_MAX {
            return Err(DropReason::RtcpMalformed);
        }
        let sealed = self.context.encrypt_rtcp(packet).map_err(|_| DropReason::RtcpMalformed)?;
        self.sent = self.sent.saturating_add(1);
        out.extend_from_slice(&sealed);
        Ok(())
    }
}

pub(super) struct RtcpOpener {
    profile: Profile,
    keys: MasterKey,
    context: Context,
    /// SSRCs that sent an authentic packet: only these have state in `context`.
    known: Vec<u32>,
    trial: Context,
    trials: u32,
}

impl RtcpOpener {
    pub(super) fn new(profile: Profile, keys: &MasterKey) -> Result<RtcpOpener, KeyError> {
        Ok(RtcpOpener {
            profile,
            keys: keys.clone(),
            context: context(profile, keys)?,
            known: Vec::new(),
            trial: context(profile, keys)?,
            trials: 0,
        })
    }

    pub(super) fn open(&mut self, packet: &[u8]) -> Result<Bytes, DropReason> {
        let forged = DropReason::SrtcpUnauthenticated;
        let trailer = match self.profile {
            // RFC 7714 section 9.2: the tag, then the index.
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => INDEX_LEN,
            // RFC 3711 section 3.4: the index, then the tag.
            Profile::Aes128CmSha1_80 => INDEX_LEN.saturating_add(self.profile.tag_len()),
        };
        let shortest = HEADER_LEN.saturating_add(INDEX_LEN).saturating_add(self.profile.tag_len());
        if packet.len() < shortest {
            return Err(DropReason::SrtpShort);
        }
        // Nothing goes in the clear here, and the crate would take what does without a tag.
        let e_bit = packet.get(packet.len().saturating_sub(trailer)).ok_or(DropReason::SrtpShort)? & 0x80;
        if e_bit == 0 {
            return Err(forged);
        }
        let [_, _, _, _, s0, s1, s2, s3] =
            *packet.first_chunk::<HEADER_LEN>().ok_or(DropReason::SrtpShort)?;
        let ssrc = u32::from_be_bytes([s0, s1, s2, s3]);

        if !self.known.contains(&ssrc) {
            if self.known.len() >= SOURCES_MAX {
                return Err(DropReason::TooManySources);
            }
            if self.trials >= TRIALS_MAX {
                self.trial = context(self.profile, &self.keys).map_err(|_| forged)?;
                self.trials = 0;
            }
            self.trials = self.trials.saturating_add(1);
            self.trial.decrypt_rtcp(packet).map_err(|_| forged)?;
            self.known.push(ssrc);
        }
        self.context.decrypt_rtcp(packet).map_err(|error| match error {
            webrtc_srtp::Error::SrtcpSsrcDuplicated(..) => DropReason::SrtpReplayed,
            _ => forged,
        })
    }

    #[cfg(test)]
    pub(super) fn known_len(&self) -> usize {
        self.known.len()
    }
}
