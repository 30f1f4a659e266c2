//! The two transforms of RTP, in place, with the key schedules made once.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use metrics::DropReason;

use super::{KeyError, MasterKey, Profile};

/// Labels of the derived keys (RFC 3711 section 4.3.1).
const LABEL_ENCRYPTION: u8 = 0;
const LABEL_AUTHENTICATION: u8 = 1;
const LABEL_SALT: u8 = 2;

const SHA1_KEY_LEN: usize = 20;
const SHA1_TAG_LEN: usize = 10;

/// Session keys of one direction.
pub(super) enum RtpCipher {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// On the heap: its key schedules are 1.7 kB, and most sessions have GCM.
    CmSha1(Box<CmSha1>),
}

pub(super) struct CmSha1 {
    key: EncryptingKey,
    authentication: hmac::Key,
    salt: [u8; 14],
}

impl RtpCipher {
    pub(super) fn new(profile: Profile, master: &MasterKey) -> Result<RtpCipher, KeyError> {
        if master.key.len() != profile.key_len() || master.salt.len() != profile.salt_len() {
            return Err(KeyError);
        }
        let mut key = vec![0; profile.key_len()];
        derive(master, LABEL_ENCRYPTION, &mut key)?;
        match profile {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => {
                let mut salt = [0; 12];
                derive(master, LABEL_SALT, &mut salt)?;
                RtpCipher::gcm(&key, salt)
            }
            Profile::Aes128CmSha1_80 => {
                let (mut authentication, mut salt) = ([0; SHA1_KEY_LEN], [0; 14]);
                derive(master, LABEL_AUTHENTICATION, &mut authentication)?;
                derive(master, LABEL_SALT, &mut salt)?;
                let authentication = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &authentication);
                Ok(RtpCipher::CmSha1(Box::new(CmSha1 { key: counter_key(&key)?, authentication, salt })))
            }
        }
    }

    /// AES-GCM by session key (not master key) and session salt.
    pub(super) fn gcm(key: &[u8], salt: [u8; 12]) -> Result<RtpCipher, KeyError> {
        let algorithm = if key.len() == 32 { &aead::AES_256_GCM } else { &aead::AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).map_err(|_| KeyError)?;
        Ok(RtpCipher::Gcm { key: LessSafeKey::new(key), salt })
    }

    /// Protects `packet`, whose last bytes are room for the tag.
    pub(super) fn seal(&self, packet: &mut [u8], header_len: usize, roc: u32) -> Result<(), DropReason> {
        let wrong = DropReason::RtpMalformed;
        let (ssrc, sequence) = ids(packet).ok_or(wrong)?;
        if header_len < 12 {
            return Err(wrong);
        }
        match self {
            RtpCipher::Gcm { key, salt } => {
                let (header, body) = packet.split_at_mut_checked(header_len).ok_or(wrong)?;
                let (payload, room) = body.split_last_chunk_mut::<16>().ok_or(wrong)?;
                let nonce = gcm_nonce(salt, ssrc, roc, sequence);
                // RFC 7714 section 8.1: the associated data is the whole RTP header with its extension.
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload);
                room.copy_from_slice(tag.map_err(|_| wrong)?.as_ref());
            }
            RtpCipher::CmSha1(cm) => {
                let CmSha1 { key, authentication, salt } = &**cm;
                let (covered, room) = packet.split_last_chunk_mut::<SHA1_TAG_LEN>().ok_or(wrong)?;
                let (_, payload) = covered.split_at_mut_checked(header_len).ok_or(wrong)?;
                apply_counter_mode(key, counter_iv(salt, ssrc, roc, sequence), payload).map_err(|_| wrong)?;
                room.copy_from_slice(&sha1_80(authentication, covered, roc).ok_or(wrong)?);
            }
        }
        Ok(())
    }

    /// Checks and decrypts `packet`; what is returned is without the tag.
    pub(super) fn open<'a>(
        &self,
        packet: &'a mut [u8],
        header_len: usize,
        roc: u32,
    ) -> Result<&'a mut [u8], DropReason> {
        let forged = DropReason::SrtpUnauthenticated;
        let (ssrc, sequence) = ids(packet).ok_or(DropReason::SrtpShort)?;
        match self {
            RtpCipher::Gcm { key, salt } => {
                let (header, body) = packet.split_at_mut_checked(header_len).ok_or(DropReason::SrtpShort)?;
                let nonce = gcm_nonce(salt, ssrc, roc, sequence);
                let plain = key.open_in_place(nonce, Aad::from(&*header), body).map_err(|_| forged)?;
                let len = header_len.saturating_add(plain.len());
                packet.get_mut(..len).ok_or(DropReason::SrtpShort)
            }
            RtpCipher::CmSha1(cm) => {
                let CmSha1 { key, authentication, salt } = &**cm;
                let (covered, tag) =
                    packet.split_last_chunk_mut::<SHA1_TAG_LEN>().ok_or(DropReason::SrtpShort)?;
                let made = sha1_80(authentication, covered, roc).ok_or(forged)?;
                verify_slices_are_equal(&made, tag).map_err(|_| forged)?;
                let (_, payload) = covered.split_at_mut_checked(header_len).ok_or(DropReason::SrtpShort)?;
                apply_counter_mode(key, counter_iv(salt, ssrc, roc, sequence), payload)
                    .map_err(|_| forged)?;
                Ok(covered)
            }
        }
    }
}

/// SSRC and sequence number, as they are on the wire.
fn ids(packet: &[u8]) -> Option<([u8; 4], [u8; 2])> {
    let [_, _, q0, q1, _, _, _, _, s0, s1, s2, s3] = *packet.first_chunk::<12>()?;
    Some(([s0, s1, s2, s3], [q0, q1]))
}

/// RFC 7714 section 8.1: two zero bytes, SSRC, ROC, SEQ, XOR'd with the salt.
fn gcm_nonce(salt: &[u8; 12], ssrc: [u8; 4], roc: u32, sequence: [u8; 2]) -> Nonce {
    let ([s0, s1, s2, s3], [r0, r1, r2, r3], [q0, q1]) = (ssrc, roc.to_be_bytes(), sequence);
    let mut nonce = [0, 0, s0, s1, s2, s3, r0, r1, r2, r3, q0, q1];
    xor(&mut nonce, salt);
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 3711 section 4.1.1: IV = (salt * 2^16) XOR (SSRC * 2^64) XOR (index * 2^16).
fn counter_iv(salt: &[u8; 14], ssrc: [u8; 4], roc: u32, sequence: [u8; 2]) -> [u8; 16] {
    let ([s0, s1, s2, s3], [r0, r1, r2, r3], [q0, q1]) = (ssrc, roc.to_be_bytes(), sequence);
    let mut iv = [0, 0, 0, 0, s0, s1, s2, s3, r0, r1, r2, r3, q0, q1, 0, 0];
    xor(&mut iv, salt);
    iv
}

/// RFC 3711 section 4.2: HMAC-SHA1 over the packet and the ROC, cut to 80 bits.
fn sha1_80(key: &hmac::Key, covered: &[u8], roc: u32) -> Option<[u8; SHA1_TAG_LEN]> {
    let mut context = hmac::Context::with_key(key);
    context.update(covered);
    context.update(&roc.to_be_bytes());
    context.sign().as_ref().first_chunk().copied()
}

/// RFC 3711 section 4.3: `out` is AES-CM's key stream under the master key, from the salt with the label in its
/// eighth byte; RFC 6188 for 256 bits. RFC 7714 section 11: a salt of 96 bits gets 16 zero bits behind it.
fn derive(master: &MasterKey, label: u8, out: &mut [u8]) -> Result<(), KeyError> {
    // The label is the highest byte of the 56-bit key id, which ends with the 112-bit salt; the key
    // derivation rate is 0 (RFC 5764 section 4.1.2), so the rest of the id is too.
    let mut iv = [0, 0, 0, 0, 0, 0, 0, label, 0, 0, 0, 0, 0, 0, 0, 0];
    xor(&mut iv, &master.salt);
    out.fill(0);
    apply_counter_mode(&counter_key(&master.key)?, iv, out)
}

fn counter_key(key: &[u8]) -> Result<EncryptingKey, KeyError> {
    let algorithm = if key.len() == 32 { &cipher::AES_256 } else { &cipher::AES_128 };
    let key = UnboundCipherKey::new(algorithm, key).map_err(|_| KeyError)?;
    EncryptingKey::ctr(key).map_err(|_| KeyError)
}

fn apply_counter_mode(key: &EncryptingKey, iv: [u8; 16], data: &mut [u8]) -> Result<(), KeyError> {
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    key.less_safe_encrypt(data, context).map(|_| ()).map_err(|_| KeyError)
}

/// XORs `mask` into the front of `bytes`.
fn xor(bytes: &mut [u8], mask: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3711 appendix B.3.
    #[test]
    fn rfc_3711_key_derivation() {
        let master = MasterKey {
            key: hex("e1f97a0d3e018be0d64fa32c06de4139"),
            salt: hex("0ec675ad498afeebb6960b3aabe6"),
        };
        let made = |label, len: usize| {
            let mut out = vec![1; len];
            derive(&master, label, &mut out).unwrap();
            out
        };
        assert_eq!(made(LABEL_ENCRYPTION, 16), hex("c61e7a93744f39ee10734afe3ff7a087"));
        assert_eq!(made(LABEL_SALT, 14), hex("30cbbc08863d8c85d49db34a9ae1"));
        assert_eq!(made(LABEL_AUTHENTICATION, 20), hex("cebe321f6ff7716b6fd4ab49af256a156d38baa4"));
    }

    /// RFC 3711 appendix B.2.
    #[test]
    fn rfc_3711_counter_mode() {
        let key = counter_key(&hex("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
        let salt = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd").try_into().unwrap();
        let mut stream = [0; 32];
        apply_counter_mode(&key, counter_iv(&salt, [0; 4], 0, [0; 2]), &mut stream).unwrap();
        assert_eq!(stream.to_vec(), hex("e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab"));
    }

    /// RFC 7714 section 16.1.1.
    #[test]
    fn rfc_7714_aes_128_gcm() {
        let key = hex("000102030405060708090a0b0c0d0e0f");
        let cipher = RtpCipher::gcm(&key, *b"Quid pro quo").unwrap();
        let plain =
            [hex("8040f17b8041f8d35501a0b2"), b"Gallia est omnis divisa in partes tres".to_vec()].concat();
        let mut packet = [plain.clone(), vec![0; 16]].concat();
        cipher.seal(&mut packet, 12, 0).unwrap();
        let expected = "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd5
            0d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce";
        assert_eq!(packet, hex(expected));
        assert_eq!(cipher.open(&mut packet, 12, 0).unwrap(), plain);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }
}
