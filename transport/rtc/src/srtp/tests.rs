//! Our RTP transforms against `webrtc-srtp`'s, and what hostile packets may not do.

use super::*;
use proptest::prelude::*;
use webrtc_srtp::context::Context;

const PROFILES: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::Aes128CmSha1_80];

fn keys(profile: Profile) -> Keys {
    let len = (profile.key_len() + profile.salt_len()) * 2;
    let material: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
    Keys::from_exporter(profile, &material).unwrap()
}

fn pair(profile: Profile) -> (Protect, Unprotect) {
    let keys = keys(profile);
    (Protect::new(profile, &keys.server).unwrap(), Unprotect::new(profile, &keys.server).unwrap())
}

fn oracle(profile: Profile) -> Context {
    srtcp::context(profile, &keys(profile).server).unwrap()
}

/// A header with `csrcs` CSRCs and, when `extension` is some, a one-byte extension of so many words.
fn rtp(ssrc: u32, sequence: u16, csrcs: u8, extension: Option<u16>, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut packet = vec![0x80 | csrcs, 96];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 9]);
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend((0..csrcs * 4).map(|i| i + 1));
    if let Some(words) = extension {
        packet[0] |= 0x10;
        packet.extend_from_slice(&[0xbe, 0xde]);
        packet.extend_from_slice(&words.to_be_bytes());
        // Elements of id 1 that fill the words exactly.
        packet.extend((0..words).flat_map(|_| [0x12, 7, 7, 7]));
    }
    let header_len = packet.len();
    packet.extend_from_slice(payload);
    (packet, header_len)
}

fn protect(protect: &mut Protect, packet: &[u8], header_len: usize, roc: u32) -> Vec<u8> {
    let mut buf = packet.to_vec();
    buf.resize(packet.len() + TAG_LEN_MAX, 0xee);
    let len = protect.protect_rtp(&mut buf, packet.len(), header_len, roc).unwrap();
    buf.truncate(len);
    buf
}

fn sender_report(ssrc: u32, n: u8) -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[n; 20]);
    packet
}

#[test]
fn rtp_is_the_oracles_byte_for_byte_both_ways() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let (mut theirs, mut their_open) = (oracle(profile), oracle(profile));
        for (n, len) in [0_usize, 1, 15, 16, 17, 1100].into_iter().enumerate() {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let csrcs = (n % 3) as u8;
            let extension = (n % 2 == 1).then_some(n as u16);
            let (plain, header_len) = rtp(0x1234_5678, 100 + n as u16, csrcs, extension, &payload);
            let mut sealed = protect(&mut ours, &plain, header_len, 0);
            assert_eq!(sealed.len(), plain.len() + profile.tag_len());
            assert_eq!(sealed, theirs.encrypt_rtp(&plain).unwrap(), "{profile:?} {n}");
            assert_eq!(their_open.decrypt_rtp(&sealed).unwrap(), plain, "{profile:?} {n}");
            assert_eq!(open.unprotect_rtp(&mut sealed).unwrap(), plain, "{profile:?} {n}");
        }
    }
}

#[test]
fn three_wraps_with_loss() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let mut theirs = oracle(profile);
        let (mut extended, mut seed, mut passed) = (1000_u64, 1_u64, 0);
        while extended < 3 * 65_536 + 5000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly some hundred lost in a row, sometimes almost half the number space.
            extended += if seed >> 56 == 0 { 30_000 } else { 1 + (seed >> 40) % 500 };
            let (plain, header_len) = rtp(7, extended as u16, 0, None, b"payload");
            let mut sealed = protect(&mut ours, &plain, header_len, (extended >> 16) as u32);
            assert_eq!(theirs.decrypt_rtp(&sealed).unwrap(), plain, "{profile:?} {extended}");
            assert_eq!(open.unprotect_rtp(&mut sealed).unwrap(), plain, "{profile:?} {extended}");
            passed += 1;
        }
        assert!(passed > 100);
    }
}

#[test]
fn late_packets_across_a_wrap_are_taken_once() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let mut make = |extended: u64| {
            let (plain, header_len) = rtp(7, extended as u16, 0, None, b"payload");
            protect(&mut ours, &plain, header_len, (extended >> 16) as u32)
        };
        let mut sealed: Vec<_> = [65_530, 65_534, 65_540, 65_535, 65_536, 65_533].map(&mut make).into();
        for packet in &mut sealed.clone() {
            open.unprotect_rtp(packet).unwrap();
        }
        for packet in &mut sealed {
            assert_eq!(open.unprotect_rtp(packet).unwrap_err(), DropReason::SrtpReplayed);
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_and_changes_nothing() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let (first, header_len) = rtp(7, 1, 0, Some(1), b"first");
        open.unprotect_rtp(&mut protect(&mut ours, &first, header_len, 0)).unwrap();
        let (second, header_len) = rtp(7, 2, 0, Some(1), b"second");
        let sealed = protect(&mut ours, &second, header_len, 0);
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open.unprotect_rtp(&mut bad).is_err(), "{profile:?} bit {bit}");
        }
        assert_eq!(open.sources.len(), 1, "no source for SSRCs that were never authentic");
        assert_eq!(open.unprotect_rtp(&mut sealed.clone()).unwrap(), second);
    }
}

#[test]
fn sources_are_bounded() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let mut reasons = Vec::new();
        for ssrc in 0..SOURCES_MAX as u32 + 1 {
            let (plain, header_len) = rtp(ssrc, 1, 0, None, b"x");
            reasons.push(open.unprotect_rtp(&mut protect(&mut ours, &plain, header_len, 0)).err());
        }
        assert_eq!(reasons.pop(), Some(Some(DropReason::TooManySources)));
        assert!(reasons.iter().all(Option::is_none));
        // Those that are known go on.
        let (plain, header_len) = rtp(3, 2, 0, None, b"x");
        assert!(open.unprotect_rtp(&mut protect(&mut ours, &plain, header_len, 0)).is_ok());
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let (mut ours, mut open) = pair(Profile::AeadAes128Gcm);
    let (mut packet, _) = rtp(7, 1, 0, None, b"12345678");
    let len = packet.len();
    let wrong = Err(DropReason::RtpMalformed);
    assert_eq!(ours.protect_rtp(&mut packet, len, 12, 0), wrong, "no room for the tag");
    packet.resize(len + TAG_LEN_MAX, 0);
    assert_eq!(ours.protect_rtp(&mut packet, len, 11, 0), wrong);
    assert_eq!(ours.protect_rtp(&mut packet, len, len + 1, 0), wrong);
    assert_eq!(ours.protect_rtp(&mut packet, usize::MAX, 12, 0), wrong);
    assert_eq!(open.unprotect_rtp(&mut [0x80; 27]).unwrap_err(), DropReason::SrtpShort);
    assert_eq!(open.unprotect_rtp(&mut [0x40; 40]).unwrap_err(), DropReason::RtpMalformed);
    // An extension that says it is longer than the packet.
    assert_eq!(open.unprotect_rtp(&mut [0x90; 40]).unwrap_err(), DropReason::SrtpShort);
}

#[test]
fn gcm_nonces_never_repeat() {
    // Ciphertexts of the same zeros are the key stream: equal ones would be an equal nonce. A million packets
    // in a release build take a second; here every SSRC, ROC and number that differs in one bit.
    let (mut ours, _) = pair(Profile::AeadAes128Gcm);
    let mut streams = std::collections::HashSet::new();
    let base = (0x5a5a_0000_u32, 0x00a5_0000_u32, 0x1000_u16);
    for bit in 0..80 {
        let (mut ssrc, mut roc, mut sequence) = base;
        match bit {
            0..32 => ssrc ^= 1 << bit,
            32..64 => roc ^= 1 << (bit - 32),
            _ => sequence ^= 1 << (bit - 64),
        }
        let (plain, header_len) = rtp(ssrc, sequence, 0, None, &[0; 32]);
        assert!(streams.insert(protect(&mut ours, &plain, header_len, roc)[12..44].to_vec()));
    }
}

#[test]
fn rtcp_goes_through_once() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        for n in 0..5 {
            let plain = sender_report(9, n);
            let mut sealed = Vec::new();
            ours.protect_rtcp(&plain, &mut sealed).unwrap();
            assert_eq!(open.unprotect_rtcp(&sealed).unwrap(), plain);
            assert_eq!(open.unprotect_rtcp(&sealed).unwrap_err(), DropReason::SrtpReplayed);
        }
        assert_eq!(ours.protect_rtcp(&[0x80; 7], &mut Vec::new()), Err(DropReason::RtcpMalformed));
    }
}

#[test]
fn rtcp_guard() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let mut sealed = Vec::new();
        ours.protect_rtcp(&sender_report(9, 1), &mut sealed).unwrap();
        // A clear E bit, with the tag right, wrong or absent.
        let e_byte = sealed.len() - if profile == Profile::Aes128CmSha1_80 { 14 } else { 4 };
        let mut clear = sealed.clone();
        clear[e_byte] &= 0x7f;
        assert_eq!(open.unprotect_rtcp(&clear).unwrap_err(), DropReason::SrtcpUnauthenticated);
        // Everything too short, of which the crate panics at 4 to 13 bytes.
        for len in 0..8 + 4 + profile.tag_len() {
            assert_eq!(open.unprotect_rtcp(&sealed[..len]).unwrap_err(), DropReason::SrtpShort);
        }
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let reason = open.unprotect_rtcp(&bad).unwrap_err();
            assert_eq!(reason, DropReason::SrtcpUnauthenticated, "{profile:?} bit {bit}");
        }
        assert_eq!(open.rtcp.known_len(), 0, "no state for SSRCs that were never authentic");
        assert!(open.unprotect_rtcp(&sealed).is_ok());
    }
}

#[test]
fn rtcp_sources_are_bounded() {
    for profile in PROFILES {
        let (mut ours, mut open) = pair(profile);
        let mut sealed = Vec::new();
        for ssrc in 0..SOURCES_MAX as u32 {
            ours.protect_rtcp(&sender_report(ssrc, 1), &mut sealed).unwrap();
            open.unprotect_rtcp(&sealed).unwrap();
        }
        ours.protect_rtcp(&sender_report(1000, 1), &mut sealed).unwrap();
        assert_eq!(open.unprotect_rtcp(&sealed).unwrap_err(), DropReason::TooManySources);
    }
}

#[test]
fn exporter_lengths() {
    for profile in PROFILES {
        let len = (profile.key_len() + profile.salt_len()) * 2;
        assert!(Keys::from_exporter(profile, &vec![0; len]).is_some());
        assert!(Keys::from_exporter(profile, &vec![0; len - 1]).is_none());
        assert!(Keys::from_exporter(profile, &vec![0; len + 1]).is_none());
        let other = if profile == Profile::AeadAes256Gcm { PROFILES[1] } else { PROFILES[0] };
        assert!(Protect::new(profile, &keys(other).client).is_err());
    }
}

proptest! {
    #[test]
    fn arbitrary_packets_never_panic_nor_pass(mut bytes: Vec<u8>, which in 0..3_usize, shaped: bool) {
        if let (true, Some(first)) = (shaped, bytes.first_mut()) {
            *first = 0x80 | *first & 0x3f;
        }
        let (mut ours, mut open) = pair(PROFILES[which]);
        prop_assert!(open.unprotect_rtcp(&bytes).is_err());
        let mut out = Vec::new();
        let _ = ours.protect_rtcp(&bytes, &mut out);
        prop_assert!(open.unprotect_rtp(&mut bytes).is_err());
    }
}
