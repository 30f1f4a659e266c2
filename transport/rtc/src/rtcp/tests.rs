//! Builders against the parser, and the parser against hostile bytes.

use proptest::prelude::*;

use super::*;

/// Events without borrows, to compare.
fn events(compound: &[u8]) -> (Vec<String>, Result<(), Error>) {
    let mut all = Vec::new();
    let result = parse(compound, |event| all.push(format!("{event:?}")));
    (all, result)
}

fn nacked(compound: &[u8]) -> Vec<u16> {
    let mut all = Vec::new();
    parse(compound, |event| {
        if let Event::Nack { seqs, .. } = event {
            all.extend(seqs);
        }
    })
    .unwrap();
    all
}

#[test]
fn a_full_compound() {
    let mut out = Vec::new();
    let info = SenderInfo { ssrc: 1, ntp: 0x1234_5678_9abc_def0, rtp: 90_000, packets: 5, octets: 6000 };
    let block = ReportBlock {
        ssrc: 9,
        fraction_lost: 128,
        cumulative_lost: -2,
        highest_seq: 0x1_0007,
        jitter: 33,
        lsr: 0x5678_9abc,
        dlsr: 0x8000,
    };
    sender_report(&mut out, &info, &[block], "millrace");
    nack(&mut out, 1, 9, &[65_534, 65_535, 3, 20]);
    pli(&mut out, 1, 9);
    fir(&mut out, 1, 9, 4);
    remb(&mut out, 1, 2_500_000, &[9, 10]);
    bye(&mut out, &[1, 2]);
    let mut all = Vec::new();
    let mut seqs: Vec<u16> = Vec::new();
    parse(&out, |event| match event {
        Event::Nack { ssrc, seqs: found } => {
            assert_eq!(ssrc, 9);
            seqs.extend(found);
        }
        Event::SenderReport { ssrc, ntp, rtp, packets, octets } => {
            assert_eq!(SenderInfo { ssrc, ntp, rtp, packets, octets }, info);
        }
        other => all.push(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!(seqs, [65_534, 65_535, 3, 20]);
    assert_eq!(
        all,
        [
            "Report { from_ssrc: 1, about_ssrc: 9, fraction_lost: 128, cumulative_lost: -2, highest_seq: 65543, \
             jitter: 33, lsr: 1450744508, dlsr: 32768 }",
            "Pli { ssrc: 9 }",
            "Fir { ssrc: 9, seq: 4 }",
            "Remb { bitrate_bps: 2500000, ssrc_count: 2 }",
            "Bye { ssrc: 1 }",
            "Bye { ssrc: 2 }",
        ]
    );
    // The crate reads the whole compound too, SDES included.
    let types: Vec<u8> =
        rtcp_types::Compound::parse(&out).unwrap().map(|packet| packet.unwrap().type_()).collect();
    assert_eq!(types, [200, 202, 205, 206, 206, 206, 203]);
}

#[test]
fn nack_bytes_of_rfc_4585() {
    let mut out = Vec::new();
    nack(&mut out, 0x0101_0101, 0x0202_0202, &[100, 101, 116, 117]);
    // PID 100 with bits for 101 and 116; 117 needs its own entry.
    assert_eq!(out, [0x81, 205, 0, 4, 1, 1, 1, 1, 2, 2, 2, 2, 0, 100, 0x80, 0x01, 0, 117, 0, 0]);
    let mut none = Vec::new();
    nack(&mut none, 1, 2, &[]);
    assert!(none.is_empty());
}

#[test]
fn more_blocks_than_one_report_takes() {
    let blocks: Vec<ReportBlock> =
        (0..70).map(|ssrc| ReportBlock { ssrc, ..ReportBlock::default() }).collect();
    for sender in [true, false] {
        let mut out = Vec::new();
        match sender {
            true => sender_report(&mut out, &SenderInfo::default(), &blocks, "x"),
            false => receiver_report(&mut out, 1, &blocks, "x"),
        }
        let mut about = Vec::new();
        parse(&out, |event| {
            if let Event::Report { about_ssrc, .. } = event {
                about.push(about_ssrc);
            }
        })
        .unwrap();
        assert_eq!(about, (0..70).collect::<Vec<u32>>());
    }
    let mut empty = Vec::new();
    receiver_report(&mut empty, 7, &[], "");
    assert_eq!(empty, [0x80, 201, 0, 1, 0, 0, 0, 7]);
}

#[test]
fn padding_is_not_feedback() {
    // A NACK for 7 with four bytes of padding: the crate alone would also report 0 and 3.
    let padded = [0xa1, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 7, 0, 0, 0, 0, 0, 4];
    assert_eq!(nacked(&padded), [7]);
    for count in [0, 3, 24, 255] {
        let mut broken = padded;
        broken[19] = count;
        assert_eq!(events(&broken).1, Err(Error::Padding { at: 0 }), "{count}");
    }
}

#[test]
fn nack_is_bounded_in_a_compound() {
    let all_lost = [0xff; 4].repeat(60);
    let mut out = Vec::new();
    for _ in 0..3 {
        build::feedback(&mut out, TRANSPORT_FEEDBACK, FORMAT_NACK, 1, 2, |out| out.extend(&all_lost));
    }
    assert_eq!(nacked(&out).len(), NACK_SEQS_MAX);
    let many: Vec<u16> = (0..1000).collect();
    let mut out = Vec::new();
    nack(&mut out, 1, 2, &many);
    assert_eq!(nacked(&out), many[..NACK_SEQS_MAX]);
}

#[test]
fn broken_compounds_keep_what_came_before() {
    let mut out = Vec::new();
    pli(&mut out, 1, 9);
    let cases: [(&[u8], Error); 5] = [
        (&[0x80], Error::Truncated { at: 12 }),
        (&[0x80, 201, 0, 9, 0, 0, 0, 1], Error::Truncated { at: 12 }),
        (&[0x40, 201, 0, 1, 0, 0, 0, 1], Error::Broken { at: 12, packet_type: 201 }),
        (&[0x81, 201, 0, 1, 0, 0, 0, 1], Error::Broken { at: 12, packet_type: 201 }),
        (&[0x84, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0], Error::Broken { at: 12, packet_type: 206 }),
    ];
    for (tail, error) in cases {
        let mut compound = out.clone();
        compound.extend(tail);
        assert_eq!(events(&compound), (vec!["Pli { ssrc: 9 }".to_owned()], Err(error)), "{tail:?}");
    }
    assert_eq!(events(&[]).1, Err(Error::Truncated { at: 0 }));
    // Unknown packet types and formats are skipped.
    let mut unknown = vec![0x80, 207, 0, 1, 0, 0, 0, 1, 0x9e, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    unknown.extend(&out);
    assert_eq!(events(&unknown), (vec!["Pli { ssrc: 9 }".to_owned()], Ok(())));
}

#[test]
fn remb_numbers() {
    for (bps, read) in [(0, 0), (262_143, 262_143), (10_000_001, 10_000_000), (u64::MAX, 0x3_ffff << 46)] {
        let mut out = Vec::new();
        remb(&mut out, 1, bps, &[3]);
        let mut got = None;
        parse(&out, |event| {
            if let Event::Remb { bitrate_bps, .. } = event {
                got = Some(bitrate_bps);
            }
        })
        .unwrap();
        let got = got.unwrap();
        assert!(got <= bps && bps - got <= bps >> 17, "{bps} {got}");
        if bps != 10_000_001 {
            assert_eq!(got, read);
        }
    }
    // An exponent that shifts everything out is "no limit", not zero.
    let mut absurd = Vec::new();
    build::feedback(&mut absurd, PAYLOAD_FEEDBACK, FORMAT_REMB, 1, 0, |out| {
        out.extend(*b"REMB\x00\xff\xff\xff")
    });
    assert_eq!(events(&absurd).0, [format!("Remb {{ bitrate_bps: {}, ssrc_count: 0 }}", u64::MAX)]);
}

proptest! {
    #[test]
    fn nacks_round_trip(start: u16, steps in prop::collection::vec(1_u16..60, 0..300)) {
        let mut seq = start;
        let seqs: Vec<u16> = steps.iter().map(|step| { seq = seq.wrapping_add(*step); seq }).collect();
        let mut out = Vec::new();
        nack(&mut out, 1, 2, &seqs);
        if !seqs.is_empty() {
            prop_assert_eq!(nacked(&out), seqs);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        packets in prop::collection::vec((0_u8..64, 199_u8..208, prop::collection::vec(any::<u8>(), 0..12)), 1..4),
        tail in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut compound = Vec::new();
        for (low, packet_type, words) in packets {
            compound.extend([0x80 | low, packet_type, 0, words.len() as u8]);
            compound.extend(words.iter().flat_map(|byte| [*byte, 0, byte.wrapping_mul(7), 4]));
        }
        let _ = parse(&compound, |event| { let _ = format!("{event:?}"); });
        compound.extend(&tail);
        let _ = parse(&compound, |_| ());
        let _ = parse(&tail, |_| ());
    }
}

/// Of Chromium: nine deltas of a byte each, and one byte of padding up to the word.
#[test]
fn feedback_of_chromium_is_padded_to_the_word() {
    let bytes = b"\xaf\xcd\0\x07\0\0\0\x01Fm\xc0\xb1\0N\0\t\x06\xd5\x10\x01 \tZ\n\0\0G@\0\0\x14\x01";
    let mut arrived = Vec::new();
    parse(bytes, |event| match event {
        Event::Twcc { fci } => {
            twcc::decode(fci, |seq, at| arrived.push((seq, at.is_some()))).unwrap();
        }
        other => panic!("{other:?}"),
    })
    .unwrap();
    assert_eq!(arrived, (0x4e..0x57).map(|seq| (seq, true)).collect::<Vec<_>>());
    // As much as the packet has, and nothing, are no padding.
    for count in [0, 29, 255] {
        let mut broken = bytes.to_vec();
        broken[31] = count;
        assert!(matches!(parse(&broken, |_| ()), Err(Error::Padding { at: 0 })), "{count}");
    }
}
