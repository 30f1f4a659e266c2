use super::*;
use proptest::prelude::*;

fn media() -> Media {
    Media {
        part: Part::Whole,
        flags: Flags::KEY.with(Flags::END_OF_FRAME),
        link_seq: 70_000,
        track: 3,
        sent: 258,
        age_ms: 37,
        budget_ms: 400,
        seq: 0x0102_0304,
        timestamp: 0xa0b0_c0d0,
        dts_offset: 0,
        temporal: Temporal::default(),
        left_out: false,
        more: false,
    }
}

#[test]
fn a_temporal_layer_is_two_bytes_more() {
    let temporal = Temporal { id: 2, up_from: 1, up_to: 3 };
    let (media, mut out) = (Media { temporal, ..media() }, Vec::new());
    media.write(Body::default(), &mut out);
    assert_eq!((out[0], &out[18..]), (TEMPORAL, &[0, 0b1100_1010][..]));
    assert_eq!(read(&out), Ok(Datagram::Media(media, Body::default())));
    assert_eq!(read(&out[..19]), Err(Error::Short));
}

#[test]
fn what_announces_another_is_of_another_type() {
    let (media, mut out) = (Media { more: true, ..media() }, Vec::new());
    media.write(Body::default(), &mut out);
    assert_eq!((out[0], read(&out)), (MORE, Ok(Datagram::Media(media, Body::default()))));
    assert_eq!(read(&[TYPE_END | MORE, 0]), Err(Error::Type(TYPE_END | MORE)));
}

#[test]
fn bytes_of_a_frames_next_packet() {
    let next = Next { link_seq: 70_002, back: 2, gap: 0, sent: 10, last: true, more: false };
    let mut out = Vec::new();
    next.write(b"payload", &mut out);
    assert_eq!(out, b"\xa2\x01\x11\x72\x0apayload");
    assert_eq!(read(&out), Ok(Datagram::Next(next, b"payload")));
    for len in 0..5 {
        assert_eq!(read(&out[..len]), Err(Error::Short), "{len}");
    }
    let far = Next { back: 31, gap: -2, ..next };
    out.clear();
    far.write(b"payload", &mut out);
    assert_eq!(out, b"\xa0\x01\x11\x72\x0a\x1f\xfepayload");
    assert_eq!(read(&out), Ok(Datagram::Next(far, b"payload")));
    assert_eq!(read(&out[..6]), Err(Error::Short));
    for no in [0, 32] {
        out[5] = no;
        assert_eq!(read(&out), Err(Error::Back(no)), "itself, or one that is forgotten");
    }
    let flags = Flags::KEY.with(Flags::EPOCH).with(Flags::FRESH_SOURCE);
    let first = Media { flags, ..media() };
    let flags = Flags::EPOCH.with(Flags::END_OF_FRAME);
    let whole = Media { flags, link_seq: 70_002, sent: 266, age_ms: 39, seq: 0x0102_0306, ..first };
    assert_eq!(next.media(&first), whole);
    assert_eq!(far.media(&first), Media { seq: 0x0102_0304 + 29, ..whole });
    let again = Media { flags: first.flags.with(Flags::RETRANSMISSION), sent: 900, age_ms: 99, ..first };
    assert_eq!(next.media(&again), Media { sent: 900, age_ms: 99, ..whole });
}

#[test]
fn bytes_of_a_media_datagram() {
    let mut out = Vec::new();
    media().write(Body::default(), &mut out);
    let head = [0, 3, 1, 0x11, 0x70, 3, 1, 2, 37, 40, 1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0];
    assert_eq!(out, head);
    out.extend(b"payload");
    let body = Body { descriptor: b"", payload: b"payload" };
    assert_eq!(read(&out), Ok(Datagram::Media(media(), body)));
    let described = Body { descriptor: &[0x80, 0, 1], ..body };
    let mut out = Vec::new();
    media().write(described, &mut out);
    assert_eq!((out[1], &out[head.len()..]), (0x83, &b"\x03\x80\x00\x01payload"[..]));
    assert_eq!(read(&out), Ok(Datagram::Media(media(), described)));
    assert_eq!(read(&out[..head.len() + 3]), Err(Error::Short));
    for len in 0..head.len() {
        assert_eq!(read(&out[..len]), Err(Error::Short), "{len}");
    }
}

#[test]
fn what_does_not_fit_the_header_is_as_near_as_can_be() {
    let mut out = Vec::new();
    let far = Media { link_seq: (5 << NUMBER_BITS) + 7, age_ms: u16::MAX, budget_ms: 401, ..media() };
    far.write(Body::default(), &mut out);
    let near = Media { link_seq: 7, age_ms: AGE_MS_MAX, budget_ms: 410, ..media() };
    assert_eq!(read(&out), Ok(Datagram::Media(near, Body::default())));
    let longest = Media { budget_ms: u16::MAX, ..media() };
    out.clear();
    longest.write(Body::default(), &mut out);
    let Ok(Datagram::Media(read, _)) = read(&out) else { panic!() };
    assert_eq!(read.budget_ms, 2_550);
}

#[test]
fn a_number_is_the_one_next_to_what_is_expected() {
    let all = 1_u64 << NUMBER_BITS;
    for next in [0, 1, 5, all / 2, all - 1, all, all + 3, 5 * all - 1, 5 * all, 9 * all + all / 2] {
        for back in 0..1_000.min(next) {
            assert_eq!(whole_number((next - back) % all, next), next - back, "{back} behind {next}");
        }
        for ahead in [0, 1, 1_000, 1_000_000] {
            assert_eq!(whole_number((next + ahead) % all, next), next + ahead, "{ahead} from {next}");
        }
    }
    assert!(whole_number(u64::MAX, varint::MAX) <= varint::MAX + all);
}

#[test]
fn bytes_of_a_nack() {
    let mut out = Vec::new();
    assert_eq!(write_nack(&mut out, 1_000, &[(900, 1), (998, 3)]), 2);
    assert_eq!(out, [3, 0x43, 0xe8, 0x40, 100, 1, 2, 3]);
    let Ok(Datagram::Nack(nack)) = read(&out) else { panic!() };
    assert_eq!(nack.ranges().collect::<Vec<_>>(), [(900, 1), (998, 3)]);
}

#[test]
fn bytes_of_an_end() {
    let mut out = Vec::new();
    write_end(&mut out, 1_000);
    assert_eq!(out, [4, 0x43, 0xe8]);
    assert_eq!(read(&out), Ok(Datagram::End(1_000)));
}

#[test]
fn what_a_peer_may_not_ask_for() {
    let nack = |highest: u64, ranges: &[(u64, u64)]| {
        let mut out = vec![TYPE_NACK];
        varint::write(&mut out, highest);
        for (behind, count) in ranges {
            varint::write(&mut out, *behind);
            varint::write(&mut out, *count);
        }
        out
    };
    for bad in [
        nack(10, &[]),
        nack(10, &[(11, 1)]),
        nack(10, &[(3, 0)]),
        nack(10, &[(0, 2)]),
        nack(10, &[(5, 3), (3, 1)]),
        nack(10_000, &[(9_000, NACK_NUMBERS_MAX + 1)]),
        nack(10_000, &[(9_000, NACK_NUMBERS_MAX), (10, 1)]),
        nack(10_000, &(0..=NACK_RANGES_MAX as u64).map(|n| (5_000 - n * 2, 1)).collect::<Vec<_>>()),
        nack(u64::MAX, &[(0, u64::MAX)]),
    ] {
        assert_eq!(read(&bad), Err(Error::Nack), "{bad:?}");
    }
    assert_eq!(read(&nack(10, &[(5, 1)])[..3]), Err(Error::Short));
    let most: Vec<_> = (0..NACK_RANGES_MAX as u64).map(|n| (5_000 - n * 2, 1)).collect();
    assert!(read(&nack(10_000, &most)).is_ok());
}

#[test]
fn unknown_types_and_lengths_are_refused() {
    assert_eq!(read(&[]), Err(Error::Short));
    assert_eq!(read(&[6, 0]), Err(Error::Type(6)));
    assert_eq!(read(&[4]), Err(Error::Short));
    let mut out = Vec::new();
    media().write(Body::default(), &mut out);
    out.resize(out.len() + PAYLOAD_LEN_MAX, 0);
    assert!(read(&out).is_ok());
    out.push(0);
    assert_eq!(read(&out), Err(Error::Long));
}

#[test]
fn a_nack_writes_no_more_than_may_be_asked() {
    let ranges: Vec<(u64, u64)> = (0..200).map(|n| (n * 100, 40)).collect();
    let mut out = Vec::new();
    assert_eq!(write_nack(&mut out, 100_000, &ranges), NACK_NUMBERS_MAX as usize / 40);
    assert!(read(&out).is_ok() && out.len() < 1_100);
}

fn any_media() -> impl Strategy<Value = Media> {
    let part =
        prop_oneof![Just(Part::Whole), Just(Part::FirstHalf), Just(Part::SecondHalf), Just(Part::Header)];
    let times = (any::<u16>(), 0..=AGE_MS_MAX, any::<u8>());
    let numbers = (0..1_u64 << NUMBER_BITS, 0..=varint::MAX, times, any::<(u32, u32, u32)>());
    let layers = (0..4_u8, 0..4_u8, 0..4_u8, any::<[bool; 2]>());
    (part, 0..Flags::DTS_OFFSET, numbers, layers).prop_map(
        |(
            part,
            flags,
            (link_seq, track, (sent, age_ms, budget), rest),
            (id, up_from, up_to, [left_out, more]),
        )| {
            let (seq, timestamp, dts_offset) = rest;
            let budget_ms = u16::from(budget) * BUDGET_UNIT_MS;
            Media {
                part,
                flags: Flags(flags),
                link_seq,
                track,
                sent,
                age_ms,
                budget_ms,
                seq,
                timestamp,
                dts_offset,
                temporal: Temporal { id, up_from, up_to },
                left_out,
                more,
            }
        },
    )
}

proptest! {
    #[test]
    fn media_round_trips(
        media in any_media(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        descriptor in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let body = Body { descriptor: &descriptor, payload: &payload };
        let mut out = Vec::new();
        media.write(body, &mut out);
        prop_assert_eq!(read(&out), Ok(Datagram::Media(media, body)));
    }

    #[test]
    fn next_packets_round_trip(
        link_seq in 0..1_u64 << NUMBER_BITS,
        (back, gap, sent, [last, more]) in (1..=BACK_MAX, any::<i8>(), any::<u8>(), any::<[bool; 2]>()),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        first in any_media(),
    ) {
        let next = Next { link_seq, back, gap, sent, last, more };
        let mut out = Vec::new();
        next.write(&payload, &mut out);
        prop_assert_eq!(read(&out), Ok(Datagram::Next(next, &payload[..])));
        let media = next.media(&first);
        let seq = first.seq.wrapping_add(back.into()).wrapping_add_signed(gap.into());
        prop_assert_eq!((media.track, media.seq), (first.track, seq));
    }

    #[test]
    fn nacks_round_trip(steps in prop::collection::vec((1_u64..200, 1_u64..16), 1..60), start in 0_u64..1 << 40) {
        let mut next = start;
        let ranges: Vec<(u64, u64)> = steps.iter().map(|(gap, count)| {
            let first = next + gap;
            next = first + count;
            (first, *count)
        }).collect();
        let mut out = Vec::new();
        prop_assert_eq!(write_nack(&mut out, next, &ranges), ranges.len());
        let Ok(Datagram::Nack(nack)) = read(&out) else { panic!() };
        prop_assert_eq!(nack.ranges().collect::<Vec<_>>(), ranges);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(Datagram::Nack(nack)) = read(&bytes) {
            let asked: u64 = nack.ranges().map(|(_, count)| count).sum();
            prop_assert!(asked > 0 && asked <= NACK_NUMBERS_MAX);
        }
    }
}
