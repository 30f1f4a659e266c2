//! Each rule is broken once.

use media::payload;

use super::*;
use crate::video::{Encoder, Settings};

const FACTS: Facts =
    Facts { audio_ssrc: 1, video_ssrc: 2, rtx_ssrc: 3, rtx: true, in_order: true, rtt_us: 100_000 };
const RTX: u8 = offer::H264 + 1;

fn rtp(ssrc: u32, payload_type: u8, seq: u16, timestamp: u32, marker: bool, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 12];
    let fields =
        rtc::rtp::Fields { marker, payload_type, sequence_number: seq, timestamp, ssrc, extensions: &[] };
    rtc::rtp::write_header(&mut packet, &fields);
    packet.extend_from_slice(body);
    packet
}

fn video(seq: u16, timestamp: u32, marker: bool) -> Vec<u8> {
    rtp(2, offer::H264, seq, timestamp, marker, &[&[0x41, 0x9a][..], &[seq as u8; 1_000]].concat())
}

fn resent(seq: u16, original: &[u8]) -> Vec<u8> {
    let header = Header::parse(original).unwrap();
    let body = [&header.sequence_number.to_be_bytes(), header.payload(original)].concat();
    rtp(3, RTX, seq, header.timestamp, header.marker, &body)
}

/// An oracle that has seen frames of two packets, numbered from 100.
fn seen(frames: u16) -> Oracle {
    let mut oracle = Oracle::new(FACTS);
    for frame in 0..frames {
        for part in 0..2 {
            let packet = video(100 + frame * 2 + part, u32::from(frame) * 3_000, part == 1);
            oracle.sent_rtp(&packet, Time::from_ms(i64::from(frame) * 33)).unwrap();
        }
    }
    oracle
}

#[track_caller]
fn breaks(result: Result<(), Breach>, words: &str) {
    let breach = result.expect_err(words);
    assert!(breach.contains(words), "{breach}");
}

fn asks(oracle: &mut Oracle, seqs: &[u16]) {
    let mut compound = Vec::new();
    rtcp::nack(&mut compound, 1, 2, seqs);
    oracle.heard_rtcp(&compound);
}

#[test]
fn numbers() {
    let now = Time::from_ms(500);
    breaks(seen(5).sent_rtp(&video(103, 3_000, true), now), "twice");
    breaks(seen(5).sent_rtp(&video(103, 3_001, true), now), "twice");
    breaks(seen(5).sent_rtp(&video(99, 0, true), now), "behind");
    breaks(seen(5).sent_rtp(&rtp(9, offer::H264, 1, 0, true, &[0x41]), now), "not told of");
    seen(5).sent_rtp(&video(112, 15_000, true), now).unwrap();
    let mut audio = seen(0);
    audio.sent_rtp(&rtp(1, offer::OPUS, 7, 960, false, &[1]), now).unwrap();
    breaks(audio.sent_rtp(&rtp(1, offer::OPUS, 7, 960, false, &[1]), now), "twice");
}

#[test]
fn time() {
    let now = Time::from_ms(500);
    breaks(seen(5).sent_rtp(&video(110, 11_999, true), now), "time back by 1");
    let mut filled = seen(5);
    filled.facts.in_order = false;
    filled.sent_rtp(&video(112, 18_000, true), now).unwrap();
    breaks(filled.sent_rtp(&video(111, 18_001, true), now), "time back by 1");
}

#[test]
fn frames() {
    let now = Time::from_ms(500);
    let mut cut = seen(5);
    cut.sent_rtp(&video(110, 15_000, false), now).unwrap();
    breaks(cut.sent_rtp(&video(111, 18_000, true), now), "cut");
    let mut cut = seen(5);
    cut.sent_rtp(&video(110, 15_000, false), now).unwrap();
    cut.sent_rtp(&video(112, 18_000, true), now).unwrap();
    cut.facts.in_order = false;
    breaks(cut.sent_rtp(&video(111, 18_000, false), now), "cut");
    breaks(seen(5).sent_rtp(&video(110, 12_000, true), now), "goes on with a frame");
}

#[test]
fn key_frames_have_their_parameter_sets() {
    let key = Encoder::new(1, Settings::default(), 1).frame(true, Time::ZERO).payloads;
    let send = |oracle: &mut Oracle, skip: usize| {
        let packets = (1..).zip(&key).skip(skip);
        packets
            .map(|(seq, p)| rtp(2, offer::H264, seq, 3_000, p.marker, &p.bytes))
            .try_for_each(|packet| oracle.sent_rtp(&packet, Time::ZERO))
    };
    send(&mut seen(0), 0).unwrap();
    breaks(send(&mut seen(0), 1), "without parameter sets");

    let mut late = seen(0);
    late.facts.in_order = false;
    send(&mut late, 1).unwrap();
    let next = rtp(2, offer::H264, 1_000, 300_000, true, &[0x41, 0x9a]);
    breaks(late.sent_rtp(&next, Time::from_ms(2_000)), "never got its parameter sets");

    let mut mended = seen(0);
    mended.facts.in_order = false;
    send(&mut mended, 1).unwrap();
    mended.sent_rtp(&rtp(2, offer::H264, 1, 3_000, false, &key[0].bytes), Time::ZERO).unwrap();
    mended.sent_rtp(&next, Time::from_ms(2_000)).unwrap();
    assert_eq!(key[0].bytes[0] & 0x1f, payload::h264::STAP_A);
}

#[test]
fn resends() {
    let now = Time::from_ms(500);
    let packet = video(103, 3_000, true);
    breaks(seen(5).sent_rtp(&resent(1, &packet), now), "without being asked for");

    let mut oracle = seen(5);
    asks(&mut oracle, &[103]);
    breaks(oracle.sent_rtp(&resent(1, &video(103, 3_000, false)), now), "other bytes");
    breaks(oracle.sent_rtp(&resent(2, &video(200, 3_000, true)), now), "neither sent nor asked for");

    let mut oracle = seen(5);
    asks(&mut oracle, &[103]);
    oracle.sent_rtp(&resent(1, &packet), now).unwrap();
    asks(&mut oracle, &[103]);
    breaks(oracle.sent_rtp(&resent(2, &packet), now.plus_ms(40)), "within a round trip");
    asks(&mut oracle, &[103]);
    oracle.sent_rtp(&resent(3, &packet), now.plus_ms(90)).unwrap();
    breaks(oracle.sent_rtp(&resent(3, &packet), now.plus_ms(300)), "RTX number");

    let mut plain = seen(5);
    plain.facts.rtx = false;
    asks(&mut plain, &[103]);
    plain.sent_rtp(&packet, now).unwrap();
    asks(&mut plain, &[103]);
    breaks(plain.sent_rtp(&packet, now.plus_ms(10)), "within a round trip");
}

#[test]
fn copies_of_probes() {
    let now = Time::from_ms(500);
    let packet = |seq: u16| video(seq, u32::from(seq - 100) / 2 * 3_000, seq % 2 == 1);
    let mut oracle = seen(5);
    oracle.copies_said = 1;
    oracle.sent_rtp(&resent(1, &packet(103)), now).unwrap();
    let copied = oracle.bytes.copies;
    assert!(copied > 1_000 && oracle.bytes.resent == 0 && oracle.numbers_answered == 0);
    // An answer so soon is one copy too many; a second copy is one that the node does not own up to.
    asks(&mut oracle, &[103]);
    breaks(oracle.sent_rtp(&resent(2, &packet(103)), now.plus_ms(40)), "within a round trip");
    breaks(oracle.sent_rtp(&resent(3, &packet(104)), now), "without being asked for");
    let mut plain = seen(5);
    (plain.facts.rtx, plain.copies_said) = (false, 1);
    breaks(plain.sent_rtp(&packet(103), now), "without being asked for");
}

#[test]
fn resends_have_a_budget() {
    let mut oracle = seen(50);
    let all: Vec<u16> = (100..200).collect();
    asks(&mut oracle, &all);
    // 30 kB and 15 % of 100 kB.
    let results: Vec<_> = all
        .iter()
        .map(|seq| {
            let original = video(*seq, u32::from(*seq / 2 - 50) * 3_000, seq % 2 == 1);
            oracle.sent_rtp(&resent(*seq, &original), Time::from_ms(2_000))
        })
        .collect();
    assert_eq!(results.iter().position(Result::is_err), Some(44));
    breaks(results[44].clone(), "beyond their budget");
}

#[test]
fn key_frame_requests() {
    let mut pli = Vec::new();
    rtcp::pli(&mut pli, 1, 5);
    let ask = |at_ms: &[i64]| {
        let mut oracle = Oracle::new(FACTS);
        at_ms.iter().try_for_each(|ms| oracle.sent_rtcp(&pli, Time::from_ms(*ms)))
    };
    ask(&[0, 330, 660, 1_100, 1_500]).unwrap();
    breaks(ask(&[0, 329]), "within 330 ms");
    breaks(ask(&[0, 330, 660, 990, 1_320, 1_650, 1_980]), "more than twice a second");
}
