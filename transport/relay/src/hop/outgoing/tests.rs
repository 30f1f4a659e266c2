use super::*;
use crate::datagram::{Datagram, HEADER_LEN_USUAL, read, write_nack};
use crate::hop::lane::tests::packet;

#[test]
fn what_is_too_old_takes_no_number_and_a_full_queue_keeps_sound() {
    let mut out = Outgoing::new();
    out.push(packet(1, Class::Video, Flags::KEY, Time::ZERO), Time::ZERO);
    assert_eq!(out.poll(1_200, Time::from_ms(401)), None);
    assert_eq!((out.stats().expired, out.stats().sent), (1, 0));
    let now = Time::from_ms(500);
    let taken = (0..20_000)
        .filter(|_| out.push(packet(2, Class::Video, Flags::KEY, now), now) == Pushed::Taken)
        .count();
    assert_eq!(taken, QUEUE_BYTES_MAX / 1_000);
    assert_eq!(out.push(packet(2, Class::Audio, Flags::KEY, now), now), Pushed::Taken);
    assert_eq!(out.stats().overflowed, 20_000 - taken as u64);
}

#[test]
fn what_waits_of_a_track_that_nobody_takes_any_more_does_not_go() {
    let (mut out, now) = (Outgoing::new(), Time::from_ms(1));
    for seq in 0..3 {
        out.push(packet(seq, Class::Video, Flags::KEY, now), now);
    }
    assert!(out.poll(1_200, now).is_some());
    out.forget(1);
    assert_eq!((out.poll(1_200, now), out.queue_us(Time::from_ms(9))), (None, 0));
    assert!(out.lanes.is_empty() && out.queued_bytes == 0, "{out:?}");
}

#[test]
fn a_packet_that_fits_by_a_byte_goes_whole() {
    let mut out = Outgoing::new();
    let now = Time::from_ms(1);
    let mut sent = |size_max| {
        out.push(packet(1, Class::Video, Flags::KEY, now), now);
        std::iter::from_fn(|| out.poll(size_max, now)).map(|datagram| datagram.len()).collect::<Vec<_>>()
    };
    let len = sent(1_400)[0];
    assert!(len <= 1_000 + HEADER_LEN_USUAL);
    assert_eq!(sent(len), [len]);
    assert_eq!(sent(len - 1).len(), 2);
}

#[test]
fn what_fits_the_path_no_more_is_sent_again_in_two() {
    let trip = RoundTrip { min_us: 50_000, smoothed_us: 50_000, deviation_us: 0 };
    let (mut out, mut now) = (Outgoing::new(), Time::from_ms(1));
    out.push(packet(7, Class::Video, Flags::KEY, now), now);
    assert!(out.poll(1_400, now).is_some_and(|datagram| datagram.len() > 1_000));
    let mut asked = || {
        now = now.plus_ms(60);
        let mut nack = Vec::new();
        write_nack(&mut nack, 1, &[(0, 1)]);
        let Ok(Datagram::Nack(nack)) = read(&nack) else { unreachable!("it is one") };
        out.on_nack(&nack, trip, now);
        let sent: Vec<_> = std::iter::from_fn(|| out.poll(900, now))
            .filter_map(|datagram| match read(&datagram) {
                Ok(Datagram::Media(media, body)) => {
                    assert!(datagram.len() <= 900);
                    Some((media.link_seq, media.seq, media.part, body.payload.len()))
                }
                _ => None,
            })
            .collect();
        sent
    };
    let header = (0, 7, Part::Header, 0);
    assert_eq!(asked(), [header, (1, 7, Part::FirstHalf, 500), (2, 7, Part::SecondHalf, 500)]);
    assert_eq!(asked(), [header]);
}

/// What leaves, in milliseconds and whether it is media that announces more, of frames of so many packets at 0 ms and 33 ms.
fn leaves(packets: u32) -> Vec<(i64, Option<bool>)> {
    let mut out = Outgoing::new();
    let mut all = Vec::new();
    for ms in 0..66 {
        let now = Time::from_ms(ms);
        for seq in 0..if ms % 33 == 0 { packets } else { 0 } {
            out.push(packet(seq, Class::Video, Flags::KEY, now), now);
        }
        all.extend(std::iter::from_fn(|| out.poll(1_200, now)).map(|datagram| match read(&datagram) {
            Ok(Datagram::Media(media, _)) => (ms, Some(media.more)),
            _ => (ms, None),
        }));
    }
    all
}

#[test]
fn a_frames_last_packet_is_announced_and_a_lone_one_is_told_of() {
    let (more, last) = (Some(true), Some(false));
    assert_eq!(leaves(3), [(0, more), (0, more), (0, last), (33, more), (33, more), (33, last)]);
    assert_eq!(leaves(1), [(0, last), (25, None), (33, last), (58, None)]);
}

#[test]
fn with_the_last_that_was_announced_goes_what_was_lost_behind_it() {
    let trip = RoundTrip { min_us: 50_000, smoothed_us: 50_000, deviation_us: 0 };
    let mut out = Outgoing::new();
    let send = |from: u32, ms: i64, out: &mut Outgoing| {
        let now = Time::from_ms(ms);
        for seq in from..from + 4 {
            out.push(packet(seq, Class::Video, Flags::KEY, now), now);
        }
        std::iter::from_fn(|| out.poll(1_200, now)).count()
    };
    send(0, 0, &mut out);
    send(4, 33, &mut out);
    let ask = |number: u64, ms: i64, out: &mut Outgoing| {
        let (mut nack, now) = (Vec::new(), Time::from_ms(ms));
        write_nack(&mut nack, number, &[(number, 1)]);
        let Ok(Datagram::Nack(nack)) = read(&nack) else { unreachable!("it is one") };
        let before = out.stats().resent;
        out.on_nack(&nack, trip, now);
        while out.poll(1_200, now).is_some() {}
        out.stats().resent - before
    };
    // 1, and with it 2 and 3, which left at 0 ms; what left at 33 ms may be on its way.
    assert_eq!(ask(1, 60, &mut out), 3);
    assert_eq!(ask(1, 70, &mut out), 0, "they are on their way");
    assert_eq!((ask(8, 100, &mut out), out.stats().late), (0, 0), "it has not left");
}

#[test]
fn a_frames_next_packets_say_no_more_than_which_one_they_go_on_with() {
    let (mut out, now) = (Outgoing::new(), Time::from_ms(1));
    let of = |seq: u32, flags| Outbound { timestamp: 9, ..packet(seq, Class::Video, flags, now) };
    let mut headers = |packets: Vec<Outbound>| -> Vec<usize> {
        for packet in packets {
            assert_eq!(out.push(packet, now), Pushed::Taken);
        }
        std::iter::from_fn(|| out.poll(1_400, now)).map(|datagram| datagram.len() - 1_000).collect()
    };
    let (none, last) = (Flags::default(), Flags::END_OF_FRAME);
    assert_eq!(headers(vec![of(1, Flags::KEY), of(2, none), of(3, last)]), [18, 5, 5]);
    // A frame is another one by its time; what came late of one before takes no place.
    let older = Outbound { timestamp: 8, ..of(0, none) };
    assert_eq!(headers(vec![older, of(5, none), of(6, none)]), [18, 5, 5]);
    // Of a frame with a hole the rest says so, and what comes for the hole. Sound between them has a number of the link.
    assert_eq!(headers(vec![of(8, none), of(9, none), of(7, none)]), [7, 7, 7]);
    let sound = Outbound { track: 2, ..packet(1, Class::Audio, last, now) };
    assert_eq!(headers(vec![sound, of(10, none)]), [18, 7]);
    let (older, later) = (now.plus_us(-1_000), now.plus_us(-999));
    assert_eq!(headers(vec![Outbound { ingest: older, ..of(11, none) }]), [18]);
    assert_eq!(headers(vec![Outbound { ingest: older.plus_us(999), ..of(12, none) }]), [5]);
    assert_eq!(headers(vec![of(13, Flags::EPOCH), Outbound { ingest: later, ..of(14, none) }]), [18, 18]);
    let many: Vec<u32> = (15..15 + 40).collect();
    let sizes = headers(many.into_iter().map(|seq| Outbound { ingest: later, ..of(seq, none) }).collect());
    assert_eq!(sizes.iter().filter(|size| **size == 18).count(), 1, "{sizes:?}");
    assert!(sizes[30] == 5 && sizes[31] == 18, "at most so many go on with one: {sizes:?}");
    let newer = |seq| Outbound { timestamp: 10, ..of(seq, none) };
    assert_eq!(headers(vec![newer(55), newer(56)]), [18, 5]);
    // Of a B-frame, which is shown before.
    assert_eq!(headers(vec![of(57, none), of(58, none)]), [18, 5]);
    assert_eq!(headers(vec![of(500, none)]), [18], "too far");
}

#[test]
fn a_frame_that_takes_long_to_leave_says_again_when_it_does() {
    let (mut out, start) = (Outgoing::new(), Time::from_ms(1));
    let mut header = |seq: u32, after_us: i64| {
        let now = start.plus_us(after_us);
        let of_frame = Outbound { timestamp: 9, ..packet(seq, Class::Video, Flags::default(), start) };
        out.push(of_frame, now);
        out.poll(1_400, now).map(|datagram| datagram.len() - 1_000)
    };
    // 255 quarters of a millisecond are all that the short header can say; ages from 64 ms on take two bytes.
    assert_eq!(
        [(1, 0), (2, 63_750), (3, 64_000), (4, 64_250)].map(|(seq, us)| header(seq, us)),
        [18, 5, 19, 5].map(Some)
    );
}

#[test]
fn a_peer_hears_each_tenth_of_a_second_that_there_is_one() {
    let mut out = Outgoing::new();
    assert_eq!((out.deadline(), out.poll(1_200, Time::ZERO)), (None, None));
    out.keep_alive(Time::ZERO);
    let said = (0..1_000).filter(|ms| out.poll(1_200, Time::from_ms(*ms)).is_some()).count();
    assert_eq!(said, 10);
}

#[test]
fn copies_of_repairs_do_not_lengthen_a_queue() {
    let resent = |smoothed_us: i64| {
        let trip = RoundTrip { min_us: 20_000, smoothed_us, deviation_us: 0 };
        let (mut out, mut now) = (Outgoing::new(), Time::from_ms(1));
        for seq in 0..100 {
            out.push(packet(seq, Class::Video, Flags::KEY, now), now);
        }
        while out.poll(1_400, now).is_some() {}
        now = now.plus_us(smoothed_us);
        let mut nack = Vec::new();
        write_nack(&mut nack, 100, &[(9, 1)]);
        let Ok(Datagram::Nack(nack)) = read(&nack) else { unreachable!("it is one") };
        out.on_nack(&nack, trip, now);
        for ms in 0..60 {
            while out.poll(1_400, now.plus_ms(ms)).is_some() {}
        }
        out.stats().resent
    };
    assert_eq!((resent(20_000), resent(30_000)), (2, 1));
}
