//! What transport/relay reads: datagrams and control messages of another node.

use bytes::{Bytes, BytesMut};
use media::Time;
use relay::control::{MESSAGE_LEN_MAX, Message, PATH_MAX, SEQ_MAX, TIME_MAX, take};
use relay::datagram::{
    Body, Datagram, Flags, LEFT_OUT_MAX, NACK_NUMBERS_MAX, NACK_RANGES_MAX, PAYLOAD_LEN_MAX, read, write_end,
    write_nack,
};
use relay::flow::{Flow, Reader};
use relay::hop::{Class, Incoming, Outbound, Outgoing, RoundTrip};
use relay::stream::{self, Record, write_head, write_live, write_media, write_track};

use crate::input::Input;
use crate::novelty::note;

/// A datagram: what is read is within its bounds, and is read again from what is written of it.
pub fn datagram(data: &[u8]) {
    let read_back = read(data);
    note(&read_back);
    let mut out = Vec::new();
    match &read_back {
        Ok(Datagram::Media(media, body)) => {
            assert!(body.payload.len() <= PAYLOAD_LEN_MAX);
            media.write(*body, &mut out);
        }
        Ok(Datagram::Next(next, payload)) => {
            assert!(payload.len() <= PAYLOAD_LEN_MAX);
            next.write(payload, &mut out);
        }
        Ok(Datagram::End(next)) => write_end(&mut out, *next),
        Ok(Datagram::Nack(nack)) => {
            let ranges: Vec<(u64, u64)> = nack.ranges().collect();
            let numbers: u64 = ranges.iter().map(|(_, count)| count).sum();
            assert!((1..=NACK_NUMBERS_MAX).contains(&numbers) && ranges.len() <= NACK_RANGES_MAX);
            assert!(ranges.iter().all(|(first, count)| first + count <= nack.highest + 1));
            assert_eq!(write_nack(&mut out, nack.highest, &ranges), ranges.len());
        }
        Err(_) => return,
    }
    let again = read(&out);
    match (&read_back, &again) {
        (Ok(Datagram::Nack(a)), Ok(Datagram::Nack(b))) => assert!(a.ranges().eq(b.ranges())),
        (a, b) => assert_eq!(a, b),
    }
}

/// The control stream in pieces of the length that the first byte says: no more is kept than a message and a piece, and what is read is read again from
/// what is written of it.
pub fn control(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let mut stream = BytesMut::new();
    for piece in data.chunks(usize::from(piece).max(1)) {
        stream.extend_from_slice(piece);
        loop {
            let message = take(&mut stream);
            note(&message);
            match message {
                Ok(Some(message)) => {
                    if let Message::Announce { path, .. } = &message {
                        assert!((1..=PATH_MAX).contains(&path.len()));
                    }
                    let mut out = Vec::new();
                    message.write(&mut out).expect("what was read fits");
                    assert_eq!(take(&mut BytesMut::from(&out[..])), Ok(Some(message)));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(stream.len() <= MESSAGE_LEN_MAX + 8 + piece.len());
    }
}

/// A stream of media in pieces of the length that the first byte says: no more is kept than a record and a piece, and what is read is read again from
/// what is written of it.
pub fn stream(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let (mut reader, mut alias) = (stream::Reader::new(), None);
    for piece in data.chunks(usize::from(piece).max(1)) {
        reader.push(piece);
        loop {
            let record = reader.take();
            note(&record);
            let Ok(record) = record else { return };
            let Some(record) = record else { break };
            let mut out = Vec::new();
            write_head(&mut out, alias.unwrap_or(0));
            match &record {
                Record::Begins(begins) => {
                    assert!(alias.replace(*begins).is_none(), "once");
                    continue;
                }
                Record::Track(track) => write_track(&mut out, track).expect("what was read fits"),
                Record::Media(media, descriptor, payload) => {
                    assert!(payload.len() <= PAYLOAD_LEN_MAX);
                    write_media(&mut out, media, Body { descriptor, payload });
                }
                Record::Live => write_live(&mut out),
            }
            let mut again = stream::Reader::new();
            again.push(&out);
            assert!(matches!(again.take(), Ok(Some(Record::Begins(_)))));
            let again = again.take().expect("it was written");
            match (again, record) {
                // A stream's packets have no number and no time of sending.
                (Some(Record::Media(read, ..)), Record::Media(media, ..)) => {
                    assert_eq!(read, relay::datagram::Media { link_seq: 0, sent: 0, ..media });
                }
                (again, record) => assert_eq!(again, Some(record)),
            }
        }
        assert!(reader.held() <= MESSAGE_LEN_MAX + 8 + piece.len());
    }
}

/// Datagrams of a peer, one after the other, each led by its length and the time since the last: nothing is given on twice, requests are within their
/// bounds, and what the peer asks for costs no more than the packets that were sent.
pub fn hop(mut data: &[u8]) {
    let (mut incoming, mut outgoing, mut now) = (Incoming::new(), Outgoing::new(), Time::ZERO);
    let trip = RoundTrip { min_us: 20_000, smoothed_us: 25_000, deviation_us: 2_000 };
    for seq in 0..64 {
        let packet = Outbound {
            class: if seq % 5 == 0 { Class::Audio } else { Class::Video },
            track: u64::from(seq % 3),
            flags: Flags::default(),
            ingest: now,
            budget_ms: 400,
            seq,
            left_out: false,
            timestamp: seq / 4,
            dts_offset: 0,
            temporal: Default::default(),
            descriptor: Bytes::new(),
            payload: Bytes::from_static(&[0; 1_300]),
        };
        outgoing.push(packet, now);
    }
    while outgoing.poll(1_200, now).is_some() {}
    let mut asked = 0;
    while let Some((&[len, wait], rest)) = data.split_first_chunk::<2>() {
        let (datagram, rest) = rest.split_at(usize::from(len).min(rest.len()));
        data = rest;
        now = now.plus_us(i64::from(wait) * 300);
        match read(datagram) {
            Ok(Datagram::Media(media, body)) => {
                let first = incoming.on_media(media, body, trip, now).is_some();
                assert!(!first || incoming.on_media(media, body, trip, now).is_none(), "twice");
            }
            Ok(Datagram::Next(next, payload)) => {
                let first = incoming.on_next(next, payload, trip, now).is_some();
                assert!(!first || incoming.on_next(next, payload, trip, now).is_none(), "twice");
            }
            Ok(Datagram::Nack(nack)) => {
                outgoing.on_nack(&nack, trip, now);
                asked += 1;
            }
            Ok(Datagram::End(next)) => incoming.on_end(next, trip, now),
            Err(_) => {}
        }
        while incoming.released().is_some() {}
        if let Some(ask) = incoming.poll(trip, now) {
            assert!(ask.len() <= 1_200 && matches!(read(&ask), Ok(Datagram::Nack(_))));
        }
        while let Some(datagram) = outgoing.poll(1_200, now) {
            assert!(datagram.len() <= 1_200);
        }
    }
    note(&(incoming.stats(), outgoing.stats()));
    assert!(outgoing.stats().resent <= asked * 128 * 3, "each number once a round trip, and its copies");
}

/// What comes of one subscription, in any order: (0 for a piece of the control stream, else a datagram; time since the last; bytes) again and again. Packets
/// come after the word what their track is, with whole numbers and times that are within what streams live to see and end as the datagram says.
pub fn flow(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut said, mut incoming, mut reader) = (BytesMut::new(), Incoming::new(), Reader::default());
    let (mut now, mut clock_us) = (Time::ZERO, 0);
    let trip = RoundTrip { min_us: 20_000, smoothed_us: 25_000, deviation_us: 2_000 };
    while !input.is_empty() {
        let is_said = input.u8() == 0;
        now = now.plus_us(i64::from(input.u8()) * 300);
        let bytes = input.bytes();
        let mut came = Vec::new();
        if is_said {
            said.extend_from_slice(bytes);
            loop {
                match take(&mut said) {
                    Ok(Some(Message::Track(track))) => came.extend(reader.told(track)),
                    Ok(Some(Message::Clock { now_us })) => clock_us = now_us.saturating_sub(now.us()),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        } else {
            came.extend(match read(bytes) {
                Ok(Datagram::Media(media, body)) => incoming.on_media(media, body, trip, now),
                Ok(Datagram::Next(next, payload)) => incoming.on_next(next, payload, trip, now),
                _ => None,
            });
            came.extend(std::iter::from_fn(|| incoming.released()));
        }
        for arrived in came {
            let header = arrived.media;
            let read = reader.read(arrived, clock_us, now);
            note(&read);
            let Ok(read) = read else { return };
            let Some(flow) = read else { continue };
            let track = reader.track().expect("packets come after it");
            assert_eq!(flow.seq() as u32, header.seq);
            assert!(flow.seq() < SEQ_MAX && flow.end() - flow.seq() <= LEFT_OUT_MAX.into());
            let Flow::Packet(out) = flow else { continue };
            let (packet, times) = (&out.packet, -TIME_MAX..=TIME_MAX);
            assert_eq!((packet.codec, header.flags.has(Flags::EPOCH)), (track.codec, track.epoch));
            assert_eq!(packet.timestamp as u32, header.timestamp);
            assert!(times.contains(&packet.timestamp) && times.contains(&packet.capture.us()));
        }
    }
}
