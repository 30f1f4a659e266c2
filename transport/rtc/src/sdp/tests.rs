//! Offers of real clients against the answers they get, hostile descriptions, and the client's half.
//!
//! `fixtures/chromium-*` are what Chromium 156 wrote (addresses replaced by an mDNS name, or left out), `firefox-whip-simulcast-3` what Firefox 140 did, `janus-*` what Janus 1.1.2
//! did; the others are written by hand in the shape of the program in their name.

use media::{Codec, Kind};
use proptest::prelude::*;

use super::*;

const CHROMIUM_WHIP: &str = include_str!("fixtures/chromium-whip.sdp");
const CHROMIUM_SIMULCAST: &str = include_str!("fixtures/chromium-whip-simulcast.sdp");
const CHROMIUM_SIMULCAST_3: &str = include_str!("fixtures/chromium-whip-simulcast-3.sdp");
const FIREFOX_SIMULCAST_3: &str = include_str!("fixtures/firefox-whip-simulcast-3.sdp");
const CHROMIUM_WHEP: &str = include_str!("fixtures/chromium-whep.sdp");
const CHROMIUM_DATA: &str = include_str!("fixtures/chromium-whep-datachannel.sdp");
const FIREFOX_WHIP: &str = include_str!("fixtures/firefox-whip.sdp");
const FIREFOX_WHEP: &str = include_str!("fixtures/firefox-whep-max-bundle.sdp");
const OBS: &str = include_str!("fixtures/obs-whip.sdp");
const FFMPEG: &str = include_str!("fixtures/ffmpeg-whip.sdp");
const GSTREAMER: &str = include_str!("fixtures/gstreamer-whip.sdp");
const JANUS: &str = include_str!("fixtures/janus-streaming.sdp");

const PWD: &str = "0123456789abcdefghijklmn";
const FINGERPRINT: &str =
    "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";
const TRACKS: PlayTracks<'static> = PlayTracks {
    cname: "millrace",
    stream_id: "live",
    audio_ssrc: Some(11),
    video_ssrc: Some(22),
    video_rtx_ssrc: Some(23),
    stereo: false,
    twcc: false,
};

fn params<'a>(role: Role<'a>, prefer_video: &'a [Codec]) -> AnswerParams<'a> {
    static CANDIDATES: std::sync::LazyLock<Vec<std::net::SocketAddr>> = std::sync::LazyLock::new(|| {
        ["192.0.2.7:8000", "[2001:db8::7]:8000"].iter().map(|text| text.parse().unwrap()).collect()
    });
    AnswerParams {
        role,
        ufrag: "srvA",
        pwd: PWD,
        fingerprint: FINGERPRINT,
        candidates: &CANDIDATES,
        session_id: u64::MAX,
        prefer_video,
    }
}

fn publish(text: &str, prefer: &[Codec]) -> (String, Negotiated) {
    checked_answer(text, &params(Role::Publish, prefer))
}

fn play(text: &str, prefer: &[Codec]) -> (String, Negotiated) {
    checked_answer(text, &params(Role::Play(TRACKS), prefer))
}

/// Answers, and checks what holds for every answer.
fn checked_answer(text: &str, params: &AnswerParams<'_>) -> (String, Negotiated) {
    let offer = Offer::parse(text).unwrap();
    let (text, negotiated) = answer(&offer, params).unwrap();
    assert!(text.ends_with("\r\n") && !text.replace("\r\n", "").contains(['\r', '\n']));
    let parsed = Answer::parse(&text).unwrap();
    assert!(parsed.ice_lite);
    assert_eq!(parsed.setup, Some(Setup::Passive));
    assert_eq!((parsed.ice.ufrag.as_str(), parsed.ice.pwd.as_str()), ("srvA", PWD));
    assert_eq!(parsed.candidates, params.candidates);
    let shape = |medias: &[Media]| -> Vec<_> {
        medias.iter().map(|media| (media.kind_text.clone(), media.mid.clone())).collect()
    };
    assert_eq!(shape(&parsed.medias), shape(&offer.medias));
    let accepted: Vec<usize> = negotiated.medias.iter().map(|media| media.index).collect();
    for (index, media) in parsed.medias.iter().enumerate() {
        assert_eq!(!media.is_rejected(), accepted.contains(&index), "section {index}");
    }
    for media in &negotiated.medias {
        // Payload types are the offer's, and in the order answered.
        let offered = &offer.medias[media.index].codecs;
        let answered: Vec<u8> = parsed.medias[media.index].codecs.iter().map(|codec| codec.pt).collect();
        assert_eq!(answered, media.codecs.iter().map(|codec| codec.pt).collect::<Vec<_>>());
        for codec in &media.codecs {
            let same = offered.iter().find(|offered| offered.pt == codec.pt).unwrap();
            assert_eq!((same.codec, same.rtx_pt), (Some(codec.codec), codec.rtx_pt));
        }
    }
    (text, negotiated)
}

/// The lines of the section with this index; 0 is the session.
fn lines(text: &str, section: usize) -> Vec<&str> {
    let mut sections = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with("m=") {
            sections.push(Vec::new());
        }
        sections.last_mut().unwrap().push(line);
    }
    sections.swap_remove(section)
}

fn pts(negotiated: &Negotiated, kind: Kind) -> Vec<u8> {
    negotiated.media(kind).unwrap().codecs.iter().map(|codec| codec.pt).collect()
}

#[test]
fn chromium_publishes_h264_first() {
    let (text, negotiated) = publish(CHROMIUM_WHIP, &[Codec::H264]);
    assert_eq!(
        lines(&text, 0),
        [
            "v=0",
            "o=- 9223372036854775807 1 IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
            "a=group:BUNDLE 0 1",
            "a=ice-lite",
            "a=msid-semantic: WMS *",
        ]
    );
    assert_eq!(
        lines(&text, 1).join("\n"),
        format!(
            "m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8\nc=IN IP4 0.0.0.0\na=mid:0\na=ice-ufrag:srvA\na=ice-pwd:{PWD}\n\
             a=fingerprint:sha-256 {FINGERPRINT}\na=setup:passive\n\
             a=candidate:1 1 udp 2130706431 192.0.2.7 8000 typ host\n\
             a=candidate:2 1 udp 2130706175 2001:db8::7 8000 typ host\na=end-of-candidates\n\
             a=extmap:4 {EXTENSION_MID}\na=extmap:3 {EXTENSION_TWCC}\na=recvonly\na=rtcp-mux\na=rtcp-rsize\n\
             a=rtpmap:111 opus/48000/2\na=fmtp:111 minptime=10;useinbandfec=1\na=rtcp-fb:111 transport-cc\n\
             a=rtpmap:0 PCMU/8000\na=rtpmap:8 PCMA/8000"
        )
    );
    let video = lines(&text, 2);
    // 42e0, then 4200, then main, all in mode 1; then the others as offered, each followed by its RTX.
    assert_eq!(video[0], "m=video 9 UDP/TLS/RTP/SAVPF 108 109 102 103 116 117 96 97 45 46 98 99");
    let of_108: Vec<&&str> =
        video.iter().filter(|line| line.contains(":108 ") || line.contains(":109 ")).collect();
    assert_eq!(
        of_108,
        [
            &"a=rtpmap:108 H264/90000",
            &"a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            &"a=rtcp-fb:108 transport-cc",
            &"a=rtcp-fb:108 ccm fir",
            &"a=rtcp-fb:108 nack",
            &"a=rtcp-fb:108 nack pli",
            &"a=rtpmap:109 rtx/90000",
            &"a=fmtp:109 apt=108",
        ]
    );
    assert!(!text.contains("goog-remb") && !text.contains("a=ssrc") && !text.contains("abs-send-time"));

    assert_eq!(negotiated.ice.ufrag.len(), 4);
    assert_eq!(
        (negotiated.fingerprints[0].hash.as_str(), negotiated.fingerprints[0].bytes.len()),
        ("sha-256", 32)
    );
    let media = negotiated.media(Kind::Video).unwrap();
    assert_eq!((media.mid_ext_id, media.twcc_ext_id), (Some(4), Some(3)));
    assert_eq!(media.ssrcs, [679_458_516, 197_658_764]);
    assert_eq!(media.rtx_of, [(679_458_516, 197_658_764)]);
    assert_eq!(media.by_pt(108).unwrap().profile_level_id, Some([0x42, 0xe0, 0x1f]));
    assert_eq!(media.by_rtx_pt(109).unwrap().pt, 108);
    assert!(media.by_pt(109).is_none() && media.by_rtx_pt(96).is_none());
}

#[test]
fn a_publisher_without_transport_wide_feedback_is_told_what_fits() {
    let older = CHROMIUM_WHIP.replace("transport-cc", "x-none");
    let (text, negotiated) = publish(&older, &[]);
    let media = negotiated.media(Kind::Video).unwrap();
    assert!(media.remb && media.twcc_ext_id.is_none());
    assert!(text.contains("a=rtcp-fb:96 goog-remb\r\n"));
    let id = media.abs_send_time_ext_id.expect("it is offered");
    assert!(lines(&text, 2).contains(&format!("a=extmap:{id} {EXTENSION_ABS_SEND_TIME}").as_str()));
    let audio = negotiated.media(Kind::Audio).unwrap();
    assert!(!audio.remb && audio.abs_send_time_ext_id.is_none(), "it did not offer REMB");

    let oldest = older.replace("goog-remb", "x-none");
    let (text, negotiated) = publish(&oldest, &[]);
    let media = negotiated.media(Kind::Video).unwrap();
    assert!(!media.remb && media.abs_send_time_ext_id.is_none());
    assert!(!text.contains("goog-remb") && !text.contains("abs-send-time"));
}

#[test]
fn without_a_preference_the_offer_decides() {
    let (_, negotiated) = publish(CHROMIUM_WHIP, &[]);
    assert_eq!(pts(&negotiated, Kind::Video), [96, 102, 108, 116, 45, 98]);
    let (_, negotiated) = publish(CHROMIUM_WHIP, &[Codec::Av1, Codec::Vp9]);
    assert_eq!(pts(&negotiated, Kind::Video), [45, 98, 96, 102, 108, 116]);
}

#[test]
fn chromium_plays() {
    let (text, negotiated) = play(CHROMIUM_WHEP, &[Codec::Vp8]);
    let video = lines(&text, 2);
    assert!(video[0].starts_with("m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99 102 103 108 109 "), "{}", video[0]);
    assert!(video.contains(&"a=sendonly"));
    let tail = &video[video.len() - 6..];
    assert_eq!(
        tail,
        [
            "a=msid:live video",
            "a=ssrc-group:FID 22 23",
            "a=ssrc:22 cname:millrace",
            "a=ssrc:22 msid:live video",
            "a=ssrc:23 cname:millrace",
            "a=ssrc:23 msid:live video",
        ]
    );
    let audio = lines(&text, 1);
    assert_eq!(
        audio[audio.len() - 3..],
        ["a=msid:live audio", "a=ssrc:11 cname:millrace", "a=ssrc:11 msid:live audio"]
    );
    assert!(audio.contains(&"a=fmtp:111 minptime=10;useinbandfec=1"));
    assert!(!text.contains("transport-cc") && !text.contains(EXTENSION_TWCC));
    let media = negotiated.media(Kind::Video).unwrap();
    assert_eq!((media.mid_ext_id, media.twcc_ext_id), (Some(4), None));
    for codec in [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1] {
        assert!(media.for_codec(codec, None).is_some_and(|format| format.rtx_pt.is_some()), "{codec:?}");
    }
    assert!(media.for_codec(Codec::H265, None).is_none());

    let tracks = PlayTracks { twcc: true, stereo: true, ..TRACKS };
    let (text, negotiated) = checked_answer(CHROMIUM_WHEP, &params(Role::Play(tracks), &[]));
    assert!(text.contains("a=fmtp:111 minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1\r\n"));
    assert_eq!(negotiated.media(Kind::Video).unwrap().twcc_ext_id, Some(3));
    assert!(text.contains("a=rtcp-fb:96 transport-cc\r\n"));
    assert!(!text.contains("goog-remb"), "one way to estimate is enough");

    let older = CHROMIUM_WHEP.replace("transport-cc", "x-none");
    let (text, negotiated) = checked_answer(&older, &params(Role::Play(tracks), &[]));
    assert_eq!(negotiated.media(Kind::Video).unwrap().twcc_ext_id, None);
    assert!(text.contains("a=rtcp-fb:96 goog-remb\r\n"));
    let (text, _) = checked_answer(&older, &params(Role::Play(TRACKS), &[]));
    assert!(!text.contains("goog-remb"), "nobody listens");
}

#[test]
fn the_format_for_a_source() {
    let (_, negotiated) = play(CHROMIUM_WHEP, &[Codec::H264]);
    let media = negotiated.media(Kind::Video).unwrap();
    let pt = |id| media.for_codec(Codec::H264, id).unwrap().pt;
    assert_eq!(pt(None), 108);
    assert_eq!(pt(Some([0x42, 0xe0, 0x1f])), 108);
    // Level does not matter, constraint bits do: 42c0 is constrained baseline as 42e0.
    assert_eq!(pt(Some([0x42, 0xc0, 0x28])), 108);
    assert_eq!(pt(Some([0x42, 0x00, 0x1e])), 102);
    assert_eq!(pt(Some([0x4d, 0x40, 0x1f])), 116);
    // High is not offered: any baseline.
    assert_eq!(pt(Some([0x64, 0x00, 0x28])), 108);
    let (_, negotiated) = play(FIREFOX_WHEP, &[]);
    let media = negotiated.media(Kind::Video).unwrap();
    assert_eq!(media.for_codec(Codec::H264, Some([0x64, 0, 0x28])).unwrap().pt, 126);
}

#[test]
fn only_packetization_mode_0_is_better_than_nothing() {
    let text = CHROMIUM_WHIP.replace("packetization-mode=1;", "");
    let (_, negotiated) = publish(&text, &[Codec::H264]);
    let media = negotiated.media(Kind::Video).unwrap();
    assert_eq!(media.codecs[0].codec, Codec::H264);
    assert!(media.codecs.iter().all(|codec| codec.packetization_mode == 0));
}

#[test]
fn data_channels_and_second_sections_are_rejected() {
    let (text, negotiated) = play(CHROMIUM_DATA, &[]);
    assert!(text.contains("a=group:BUNDLE 0 1\r\n"));
    assert_eq!(
        lines(&text, 3),
        ["m=application 0 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:2", "a=inactive"]
    );
    assert_eq!(negotiated.rejected, [(2, "section 2 (application): neither audio nor video".to_owned())]);

    let second = CHROMIUM_WHIP.split_once("m=video").unwrap().1.replace("a=mid:1", "a=mid:cam2");
    let two = format!("{CHROMIUM_WHIP}m=video{second}").replace("BUNDLE 0 1", "BUNDLE 0 1 cam2");
    let (text, negotiated) = publish(&two, &[]);
    assert!(lines(&text, 3)[0].starts_with("m=video 0 UDP/TLS/RTP/SAVPF 96 97 "));
    assert_eq!(negotiated.rejected[0].1, "section 2 (video): a session has one video section");
}

#[test]
fn simulcast_of_browsers_is_answered() {
    for (text, rids, ids) in [
        (CHROMIUM_SIMULCAST, "h;l", (10, 11)),
        (CHROMIUM_SIMULCAST_3, "q;h;f", (10, 11)),
        (FIREFOX_SIMULCAST_3, "q;h;f", (9, 10)),
    ] {
        let (answer, negotiated) = publish(text, &[Codec::H264]);
        let video = negotiated.media(Kind::Video).unwrap();
        assert_eq!(video.rids.join(";"), rids);
        assert_eq!((video.rid_ext_id, video.repaired_rid_ext_id), (Some(ids.0), Some(ids.1)));
        assert!(answer.contains(&format!("a=simulcast:recv {rids}\r\n")), "{answer}");
        for rid in &video.rids {
            assert!(answer.contains(&format!("a=rid:{rid} recv\r\n")), "{answer}");
        }
        assert!(answer.contains(&format!("a=extmap:{} {EXTENSION_RID}\r\n", ids.0)));
        assert!(answer.contains(&format!("a=extmap:{} {EXTENSION_REPAIRED_RID}\r\n", ids.1)));
        assert!(negotiated.media(Kind::Audio).unwrap().rids.is_empty());
    }
    let (answer, _) = publish(CHROMIUM_WHIP, &[]);
    assert!(!answer.contains("simulcast") && !answer.contains("rid:") && !answer.contains(EXTENSION_RID));
}

#[test]
fn dependency_descriptors_need_elements_of_both_lengths() {
    for (text, id) in [(CHROMIUM_SIMULCAST, 12), (FIREFOX_SIMULCAST_3, 8)] {
        let (answer, negotiated) = publish(text, &[]);
        assert_eq!(negotiated.media(Kind::Video).unwrap().dependency_ext_id, Some(id));
        assert_eq!(negotiated.media(Kind::Audio).unwrap().dependency_ext_id, None);
        assert!(answer.contains(&format!("a=extmap:{id} {EXTENSION_DEPENDENCY}\r\na=extmap")), "{answer}");
        assert_eq!(answer.matches("a=extmap-allow-mixed\r\n").count(), 1);
        let (answer, negotiated) = publish(&text.replace("a=extmap-allow-mixed\r\n", ""), &[]);
        assert_eq!(negotiated.media(Kind::Video).unwrap().dependency_ext_id, None);
        assert!(!answer.contains("dependency") && !answer.contains("mixed"));
    }
    assert!(!publish(CHROMIUM_WHIP, &[]).0.contains("mixed"), "not offered");
}

#[test]
fn dependency_descriptors_go_to_viewers_that_offer_them() {
    let offered = |extension: &str| {
        let (audio, video) = CHROMIUM_WHEP.split_once("m=video").unwrap();
        let line = format!("a=mid:1\r\na=extmap:{extension} {EXTENSION_DEPENDENCY}\r\n");
        let video = video.replacen("a=mid:1\r\n", &line, 1);
        assert!(video.contains(EXTENSION_DEPENDENCY));
        format!("{audio}m=video{video}")
    };
    let agreed = |text: &str| {
        let (answer, negotiated) = play(text, &[]);
        let id = negotiated.media(Kind::Video).unwrap().dependency_ext_id;
        assert_eq!(negotiated.media(Kind::Audio).unwrap().dependency_ext_id, None);
        // The answer says what was agreed, in the section of the video, and that elements of both lengths come.
        let line = id.map(|id| format!("a=extmap:{id} {EXTENSION_DEPENDENCY}"));
        assert_eq!(answer.matches(EXTENSION_DEPENDENCY).count(), usize::from(id.is_some()), "{answer}");
        assert_eq!(answer.matches("a=extmap-allow-mixed\r\n").count(), usize::from(id.is_some()));
        let lines = lines(&answer, 2);
        assert!(
            line.is_none_or(|line| lines.contains(&line.as_str()) && lines.contains(&"a=extmap-allow-mixed"))
        );
        id
    };
    assert_eq!(agreed(CHROMIUM_WHEP), None, "not offered");
    assert_eq!(agreed(&offered("12")), Some(12));
    assert_eq!(agreed(&offered("12/recvonly")), Some(12));
    assert_eq!(agreed(&offered("12/sendonly")), None, "it would send them");
    assert_eq!(agreed(&offered("12").replace("a=extmap-allow-mixed\r\n", "")), None);
    // On the level of the section it does as well.
    let moved = offered("12").replace("a=extmap-allow-mixed\r\n", "");
    assert_eq!(agreed(&moved.replacen("a=mid:1", "a=extmap-allow-mixed\r\na=mid:1", 1)), Some(12));
    assert_eq!(agreed(&offered("16")), None, "one-byte elements have no such id");
}

#[test]
fn simulcast_that_cannot_be_taken() {
    let with = |simulcast: &str| {
        let text = CHROMIUM_SIMULCAST_3.replace("a=simulcast:send q;h;f", simulcast);
        publish(&text, &[]).1.media(Kind::Video).unwrap().rids.join(";")
    };
    assert_eq!(with("a=simulcast:recv x send ~q,h;f"), "q;f", "the first alternative, paused or not");
    assert_eq!(with("a=simulcast:send q;unknown;f;f"), "q;f");
    assert_eq!(with("a=simulcast:recv q;h;f"), "");
    assert_eq!(with("a=simulcast:send"), "");
    let many = ["a=rid:1 send", "a=rid:2 send", "a=rid:3 send", "a=simulcast:send 1;2;3;q;h;f"].join("\r\n");
    assert_eq!(with(&many), "1;2;3;q", "at most four");
    let long = format!("a=rid:{0} send\r\na=simulcast:send {0};q", "x".repeat(17));
    assert_eq!(with(&long), "q");
    // Without the header extension nothing says which encoding a packet is of.
    let without = CHROMIUM_SIMULCAST_3.replace("sdes:rtp-stream-id", "sdes:other");
    let (answer, negotiated) = publish(&without, &[]);
    assert!(negotiated.media(Kind::Video).unwrap().rids.is_empty() && !answer.contains("simulcast"));
}

#[test]
fn firefox() {
    let (text, negotiated) = publish(FIREFOX_WHIP, &[Codec::H264]);
    assert_eq!(pts(&negotiated, Kind::Video), [126, 120, 121]);
    assert_eq!(pts(&negotiated, Kind::Audio), [109, 0, 8]);
    assert!(text.contains("a=fmtp:109 minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1\r\n"));
    assert_eq!(negotiated.ice.ufrag, "7f3c2a1b");
    // The fingerprint stands on session level.
    assert_eq!(negotiated.fingerprints[0].bytes.len(), 32);
    assert_eq!(negotiated.media(Kind::Video).unwrap().twcc_ext_id, Some(7));
    assert_eq!(negotiated.media(Kind::Audio).unwrap().twcc_ext_id, None);

    // max-bundle: the video has port 0 and bundle-only, without a transport of its own. That is no rejection.
    let (text, negotiated) = play(FIREFOX_WHEP, &[]);
    assert_eq!(negotiated.medias.len(), 2);
    assert!(lines(&text, 2)[0].starts_with("m=video 9 "));
}

#[test]
fn the_bundles_transport_is_found_wherever_it_stands() {
    // The section that carries it is one we reject.
    let text = FIREFOX_WHEP.replace("UDP/TLS/RTP/SAVPF 109 9 0 8 101", "UDP/TLS/RTP/SAVPF 9 101");
    let (text, negotiated) = play(&text, &[]);
    assert_eq!(negotiated.medias.len(), 1);
    assert_eq!(
        negotiated.rejected[0].1,
        "section 0 (audio): no codec in common, offered: G722, telephone-event"
    );
    assert_eq!(negotiated.ice.ufrag, "7f3c2a1b");
    assert!(text.contains("a=group:BUNDLE 1\r\n"));
    assert!(lines(&text, 2).iter().any(|line| line.starts_with("a=candidate:")));
}

#[test]
fn encoders_that_are_not_browsers() {
    let (text, negotiated) = publish(OBS, &[Codec::H264]);
    assert_eq!((pts(&negotiated, Kind::Audio), pts(&negotiated, Kind::Video)), (vec![111], vec![96]));
    assert_eq!(negotiated.ice.ufrag, "kL3s");
    assert!(text.contains("a=fmtp:111 minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1\r\n"));
    assert!(!text.contains("rtcp-rsize"));
    assert_eq!(negotiated.media(Kind::Video).unwrap().by_pt(96).unwrap().rtx_pt, Some(97));

    let (_, negotiated) = publish(FFMPEG, &[Codec::H264]);
    let video = negotiated.media(Kind::Video).unwrap();
    assert_eq!(video.codecs[0].profile_level_id, Some([0x64, 0, 0x1f]));
    assert!(video.codecs[0].nack && !video.codecs[0].pli);
    assert_eq!((video.mid_ext_id, video.twcc_ext_id), (None, None));

    let (text, negotiated) = publish(GSTREAMER, &[]);
    assert!(text.contains("a=group:BUNDLE video0 audio1\r\n"));
    assert_eq!(negotiated.medias[0].kind, Kind::Video);
    assert_eq!(negotiated.media(Kind::Audio).unwrap().codecs[0].codec, Codec::Opus);
    assert!(lines(&text, 1).iter().any(|line| line.starts_with("a=candidate:")));
    assert!(!lines(&text, 2).iter().any(|line| line.starts_with("a=candidate:")));
}

#[test]
fn a_single_section_needs_no_bundle() {
    let audio = OBS.split("m=video").next().unwrap().replace("a=group:BUNDLE 0 1\r\n", "");
    let (text, negotiated) = publish(&audio, &[]);
    assert_eq!(negotiated.medias.len(), 1);
    assert!(!text.contains("BUNDLE"));
    let (_, negotiated) = publish(&OBS.replace("a=group:BUNDLE 0 1\r\n", ""), &[]);
    assert_eq!(
        negotiated.rejected[0].1,
        "section 1 (video): it is not bundled with the first accepted section"
    );
}

#[test]
fn what_cannot_be_answered_says_why() {
    let refused = |text: &str, role: Role<'_>| match Offer::parse(text)
        .and_then(|offer| answer(&offer, &params(role, &[])))
    {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    let published = |text: &str| refused(text, Role::Publish);
    assert_eq!(
        published(CHROMIUM_WHEP),
        "no media section can be accepted: section 0 (audio): the client does not send; section 1 (video): the client does not send"
    );
    assert!(refused(CHROMIUM_WHIP, Role::Play(TRACKS)).contains("the client does not receive"));
    let silent = PlayTracks { audio_ssrc: None, video_ssrc: None, ..TRACKS };
    assert!(refused(CHROMIUM_WHEP, Role::Play(silent)).contains("there is no audio to play"));
    assert!(
        published(&OBS.replace("a=ice-ufrag:kL3s\r\n", ""))
            .starts_with("media section 0: a=ice-ufrag or a=ice-pwd is missing")
    );
    assert!(
        published(&OBS.replace("a=fingerprint", "a=x"))
            .starts_with("media section 0: a=fingerprint is missing")
    );
    assert_eq!(
        published(&OBS.replace("a=setup:actpass", "a=setup:passive")),
        "media section 0: a=setup:passive does not let the server be the passive side of DTLS"
    );
    assert!(published(&OBS.replace("s=-", "s=-\r\na=ice-lite")).contains("ICE-lite"));
    assert!(published(&OBS.replace("a=rtcp-mux\r\n", "")).contains("a=rtcp-mux is missing"));
    assert!(published(&OBS.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")).contains("not RTP over DTLS"));
    assert!(
        published(&OBS.replace("a=mid:1", "a=mid:0")).contains("media section 1: a=mid:0 is already taken")
    );
    assert!(published(&OBS.replace("a=mid:1\r\n", "")).contains("media section 1: a=mid is missing"));
}

#[test]
fn hostile_descriptions() {
    let why = |text: &str| Offer::parse(text).unwrap_err().to_string();
    assert_eq!(why(&"a".repeat(1 << 20)), "the description has 1048576 bytes, more than 131072");
    let medias = format!("v=0\r\n{}", "m=a 9 x 0\r\n".repeat(10_000));
    assert_eq!(why(&medias), "the description has 10000 media sections, more than 64");
    assert_eq!(
        why(&format!("v=0\r\n{}", "a=x\r\n".repeat(5000))),
        "the description has 5000 attributes, more than 4096"
    );
    assert_eq!(
        why("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"),
        "the description has no media section"
    );
    assert!(why("").starts_with("not a session description"));
    assert!(why("v=0\r\nhello\r\n").contains("line 2"));
    assert!(why(&OBS.replace("m=audio 9", "m=audio 99999")).contains("line 13"));
    assert!(Offer::parse(&format!("v={}", "9".repeat(100_000))).unwrap_err().to_string().len() < 300);
    for (from, to, part) in [
        ("SAVPF 111", "SAVPF 300", "media section 0: a=rtpmap has a payload type above 127"),
        ("opus/48000/2", "opus/48000/300", "a=rtpmap has an absurd channel count"),
        ("opus/48000/2", "opus/99999999999", "a=rtpmap has no clock rate"),
        ("ssrc:1873401266 cname", "ssrc:99999999999 cname", "a=ssrc is not a number of 32 bits"),
        ("a=ice-ufrag:kL3s", "a=ice-ufrag:k:L3s", "session level: a=ice-ufrag"),
        ("a=ice-pwd:v7c", "a=ice-pwd:short\r\na=x:", "session level: a=ice-pwd"),
        ("a=setup:actpass", "a=setup:both", "session level: a=setup"),
        ("a=fingerprint:sha-256 ", "a=fingerprint:sha-256 zz:", "session level: a=fingerprint"),
        ("a=fingerprint:sha-256 ", "a=fingerprint:sha-256 +F:", "session level: a=fingerprint"),
        ("a=mid:0", "a=mid:0\r\na=extmap:0 urn:x", "a=extmap is not an id"),
        ("a=mid:0", "a=mid:12345678901234567", "a=mid must have 1 to 16"),
    ] {
        let message = why(&OBS.replace(from, to));
        assert!(message.contains(part), "{to}: {message}");
    }
    let sources: String = (0..100).map(|ssrc| format!("a=ssrc:{ssrc} cname:x\r\n")).collect();
    assert!(
        why(&OBS.replace("a=mid:1\r\n", &format!("a=mid:1\r\n{sources}"))).contains("more than 64 sources")
    );
}

#[test]
fn lines_cannot_be_smuggled_into_an_answer() {
    // A line feed ends a line, a bare CR or NUL is refused: nothing that is copied into the answer has any of them.
    assert!(Offer::parse(&OBS.replace("stereo=1", "stereo=1\ra=candidate:1")).is_err());
    assert!(Offer::parse(&OBS.replace("profile-level-id=42e01f", "profile-level-id=42e01f\0")).is_err());
}

#[test]
fn a_client_of_ours_gets_through() {
    let (audio, video) = ([Codec::Opus], [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H265]);
    let client = ClientOffer {
        direction: Direction::SendOnly,
        audio: &audio,
        video: &video,
        ufrag: "clnt",
        pwd: PWD,
        fingerprint: FINGERPRINT,
        audio_ssrc: 1,
        video_ssrc: 2,
        video_rtx_ssrc: 3,
    };
    let (text, negotiated) = publish(&client_offer(&client), &[Codec::H264]);
    let media = negotiated.media(Kind::Video).unwrap();
    assert_eq!(media.rtx_of, [(2, 3)]);
    for codec in video {
        assert_eq!(media.for_codec(codec, None).map(|format| format.pt), client_payload_type(codec));
    }
    assert!(Answer::parse(&text).unwrap().media(Kind::Audio).unwrap().codecs[0].codec == Some(Codec::Opus));

    let viewer = ClientOffer { direction: Direction::RecvOnly, ..client };
    let (text, _) = play(&client_offer(&viewer), &[Codec::H264]);
    let parsed = Answer::parse(&text).unwrap();
    assert_eq!(parsed.media(Kind::Video).unwrap().ssrcs, [22, 23]);
    assert_eq!(parsed.media(Kind::Video).unwrap().rtx_of, [(22, 23)]);
    assert_eq!(parsed.media(Kind::Audio).unwrap().ssrcs, [11]);
    assert_eq!(parsed.fingerprints[0].bytes.len(), 32);
    assert_eq!(client_payload_type(Codec::Aac), None);
    let audio_only = client_offer(&ClientOffer { video: &[], ..client });
    assert_eq!(Offer::parse(&audio_only).unwrap().medias.len(), 1);
}

#[test]
fn a_client_of_ours_takes_what_a_server_offers() {
    let offer = Answer::parse(JANUS).unwrap();
    assert_eq!(offer.candidates[0], "192.0.2.2:52229".parse().unwrap());
    assert!(!offer.ice_lite);
    let client = ClientAnswer {
        ufrag: "clnt",
        pwd: PWD,
        fingerprint: FINGERPRINT,
        candidate: "192.0.2.9:5000".parse().unwrap(),
    };
    let parsed = Answer::parse(&client_answer(&offer, &client)).unwrap();
    assert_eq!((parsed.setup, parsed.ice.ufrag.as_str()), (Some(Setup::Active), "clnt"));
    assert_eq!(parsed.candidates, [client.candidate]);
    let video = parsed.media(Kind::Video).unwrap();
    assert_eq!((video.mid.as_str(), video.direction, video.codecs.len()), ("v", Direction::RecvOnly, 1));
    assert_eq!((video.codecs[0].pt, video.codecs[0].rtx_pt, video.codecs[0].nack), (96, Some(97), true));
    assert_eq!(video.codecs[0].fmtp, "profile-level-id=42e01f;packetization-mode=1");
    let audio = parsed.media(Kind::Audio).unwrap();
    assert_eq!((audio.mid.as_str(), audio.codecs[0].pt, audio.codecs[0].channels), ("a", 111, 2));

    let other = JANUS.replace("opus/48000/2", "G722/8000");
    let parsed = Answer::parse(&client_answer(&Answer::parse(&other).unwrap(), &client)).unwrap();
    assert!(parsed.media(Kind::Audio).is_none() && parsed.media(Kind::Video).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A real offer with lines dropped, doubled, swapped and bytes changed: an error or an answer that parses.
    #[test]
    fn mangled_offers_never_panic(
        which in 0_usize..11,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, any::<prop::sample::Index>(), "[ -~]{0,3}"), 0..6),
        playing: bool,
    ) {
        let all = [CHROMIUM_WHIP, CHROMIUM_SIMULCAST, CHROMIUM_WHEP, CHROMIUM_DATA, FIREFOX_WHIP, FIREFOX_WHEP, OBS, FFMPEG, GSTREAMER, CHROMIUM_SIMULCAST_3, FIREFOX_SIMULCAST_3];
        let mut lines: Vec<String> = all[which].lines().map(str::to_owned).collect();
        for (line, edit, at, text) in edits {
            let line = line.index(lines.len());
            match edit {
                0 => drop(lines.remove(line)),
                1 => lines.insert(line, lines[line].clone()),
                2 => {
                    let other = at.index(lines.len());
                    lines.swap(line, other);
                }
                _ => {
                    let at = at.index(lines[line].len() + 1);
                    lines[line].insert_str(at, &text);
                }
            }
        }
        if let Ok(offer) = Offer::parse(&lines.join("\r\n")) {
            let role = if playing { Role::Play(TRACKS) } else { Role::Publish };
            if let Ok((text, negotiated)) = answer(&offer, &params(role, &[Codec::H264])) {
                prop_assert!(!negotiated.medias.is_empty());
                prop_assert!(Answer::parse(&text).is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(lines in prop::collection::vec("[a-z]=\\PC{0,30}|a=(rtpmap|fmtp|rtcp-fb|ssrc|ssrc-group|extmap|candidate|fingerprint|rid|group):[ -~]{0,20}|m=video 9 RTP/SAVPF [0-9 ]{1,8}", 0..12)) {
        let _ = Offer::parse(&format!("v=0\r\n{}", lines.join("\r\n")));
        let _ = Offer::parse(&lines.join("\n"));
        let _ = Answer::parse(&format!("v=0\r\n{}", lines.join("\r\n")));
    }
}
