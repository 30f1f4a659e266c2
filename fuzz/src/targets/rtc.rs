//! What transport/rtc reads before or without keys: STUN, RTP, RTCP and SDP.

use media::{Codec, Time};
use rtc::sdp::{Answer, AnswerParams, Offer, PlayTracks, Role, answer, parse_fragment};
use rtc::stun::{Class, Message, Writer, peek_ufrag};
use rtc::{rtcp as reports, rtp as packets};

use crate::input::Input;
use crate::novelty::{note, note_count};

/// The password of the seeds.
pub const PWD: &str = "seedseedseedseedseedseed";

/// STUN. A message that the password signs is one that our writer would sign the same.
pub fn stun(data: &[u8]) {
    let message = Message::parse(data);
    note(&message.as_ref().map(|m| (m.class(), m.username().is_some(), m.use_candidate(), m.error_code())));
    let ufrag = peek_ufrag(data);
    let Ok(message) = message else {
        assert_eq!(ufrag, None, "a ufrag out of what is no message");
        return;
    };
    let signed = message.check_integrity(PWD);
    note(&(signed, message.priority().is_some(), message.is_controlling(), message.is_controlled()));
    note(&message.mapped_address().map(|address| address.is_ipv4()));
    if let (true, Some((asked, asks))) = (signed, message.username().and_then(|name| name.split_once(':'))) {
        let mut out = Vec::new();
        Writer::new(&mut out, Class::Request, *message.transaction()).username(asked, asks).finish(PWD);
        let again = Message::parse(&out).expect("our own message");
        assert!(again.check_integrity(PWD) && again.username() == message.username());
    }
}

/// An RTP packet, read as plain and as protected; its header written again with the extension elements that we may write, and read back.
pub fn rtp(data: &[u8]) {
    let protected = packets::Header::parse_protected(data);
    let plain = packets::Header::parse(data);
    note(&plain.as_ref().map(|header| (header.marker, header.payload_len > 0)));
    let Ok(header) = plain else { return };
    let protected = protected.expect("the same header");
    assert_eq!((protected.ssrc, protected.header_len), (header.ssrc, header.header_len));
    assert!(header.header_len + header.payload_len <= data.len());
    assert_eq!(header.payload(data).len(), header.payload_len);

    let elements: Vec<(u8, &[u8])> = header.extensions().collect();
    note_count("elements", elements.len());
    for id in 0..=u8::MAX {
        let first = elements.iter().find(|(found, _)| *found == id).map(|(_, value)| *value);
        assert_eq!(header.extension(id), first);
    }
    let kept: Vec<_> =
        elements.into_iter().filter(|(id, value)| (1..=14).contains(id) && !value.is_empty()).collect();
    let fields = packets::Fields {
        marker: header.marker,
        payload_type: header.payload_type,
        sequence_number: header.sequence_number,
        timestamp: header.timestamp,
        ssrc: header.ssrc,
        extensions: &kept,
    };
    let mut out = vec![0xAA; 4_096];
    let len = packets::write_header(&mut out, &fields);
    assert!(len >= packets::HEADER_LEN_MIN);
    // A buffer too short is refused, not overrun.
    assert_eq!(packets::write_header(&mut vec![0; len - 1], &fields), 0);
    out.truncate(len);
    out.extend_from_slice(header.payload(data));
    let again = packets::Header::parse(&out).expect("our own header");
    assert_eq!(again.extensions().collect::<Vec<_>>(), kept);
    assert_eq!(again.payload(&out), header.payload(data));
    assert_eq!(
        (again.marker, again.payload_type, again.sequence_number, again.timestamp, again.ssrc),
        (header.marker, header.payload_type, header.sequence_number, header.timestamp, header.ssrc)
    );
}

/// A compound RTCP packet, and the transport-wide feedback in it.
pub fn rtcp(data: &[u8]) {
    let mut events = 0_usize;
    let result = reports::parse(data, |event| {
        events += 1;
        match event {
            reports::Event::Twcc { fci } => {
                let mut statuses = 0_u64;
                let result = reports::twcc::decode(fci, |_, _| statuses += 1);
                note(&result.map(|_| ()));
                note_count("statuses", statuses as usize);
                assert!(statuses <= reports::twcc::STATUSES_MAX + 14, "{statuses} statuses");
            }
            reports::Event::Nack { seqs, .. } => {
                note_count("nack", seqs.len());
                assert!(seqs.len() <= reports::NACK_SEQS_MAX);
                // What was asked can be asked again.
                let mut out = Vec::new();
                reports::nack(&mut out, 1, 2, seqs);
                reports::parse(&out, |_| {}).expect("our own NACK");
            }
            other => note(&std::mem::discriminant(&other)),
        }
    });
    note(&result);
    note_count("events", events);
    // The same bytes as a feedback message's body: deeper, without the frame around it.
    note(&reports::twcc::decode(data, |_, _| {}).map(|_| ()));
}

/// The recorder of arrivals: (time, number) again and again. Any order of numbers gives feedback that reads back.
pub fn twcc_recorder(data: &[u8]) {
    let mut input = Input::new(data);
    let mut recorder = reports::twcc::TwccRecorder::new();
    let mut now = Time::ZERO;
    let mut out = Vec::new();
    let mut feedbacks = 0;
    while !input.is_empty() {
        now = now.plus_us(i64::from(input.u8()) * 331);
        recorder.on_packet(input.u16(), now);
        while recorder.deadline().is_some_and(|due| due <= now) && recorder.build(now, 1, 2, &mut out) {
            let mut fed = false;
            reports::parse(&out, |event| {
                if let reports::Event::Twcc { fci } = event {
                    fed = true;
                    reports::twcc::decode(fci, |_, _| {}).expect("our own feedback");
                }
            })
            .expect("our own packet");
            assert!(fed);
            feedbacks += 1;
            out.clear();
        }
    }
    note_count("feedbacks", feedbacks);
}

/// An offer, answered as to a publisher and as to a player.
pub fn sdp_offer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Answer::parse(&text).map(|answer| note(&answer.medias.len()));
    let offer = match Offer::parse(&text) {
        Ok(offer) => offer,
        Err(why) => return note(&why),
    };
    note_count("medias", offer.medias.len());
    let play = PlayTracks {
        cname: "c",
        stream_id: "s",
        audio_ssrc: Some(1),
        video_ssrc: Some(2),
        video_rtx_ssrc: Some(3),
        stereo: true,
        twcc: true,
    };
    for role in [Role::Publish, Role::Play(play)] {
        let candidates = [
            "192.0.2.1:8000".parse().expect("an address"),
            "[2001:db8::1]:8000".parse().expect("an address"),
        ];
        let params = AnswerParams {
            role,
            ufrag: "ufrag",
            pwd: PWD,
            fingerprint: FINGERPRINT,
            candidates: &candidates,
            session_id: 1,
            prefer_video: &[Codec::H264],
        };
        match answer(&offer, &params) {
            Ok((text, negotiated)) => {
                note_count("answered", negotiated.medias.len());
                assert!(negotiated.medias.len() <= 2, "one of each kind at most");
                // Bounded by the offer: an answer is not a way to make us write a lot.
                assert!(
                    text.len() <= 16 * 1024 + 4 * data.len(),
                    "{} bytes answered with {}",
                    data.len(),
                    text.len()
                );
                let read = Answer::parse(&text).unwrap_or_else(|why| panic!("our own answer: {why}\n{text}"));
                assert_eq!(read.medias.len(), offer.medias.len(), "RFC 3264: as many sections as the offer");
            }
            Err(why) => note(&why),
        }
    }
}

/// A SHA-256 fingerprint.
pub const FINGERPRINT: &str =
    "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";

/// The body of a PATCH (trickle ICE, restart).
pub fn sdp_fragment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    note(&parse_fragment(&text));
}
