//! Browsers' offers and the whole answers they get, to the letter: `answers/` holds them. A change there is a change of
//! what goes over the wire, to be read in the diff: WRITE_ANSWERS=1 writes them anew.
use media::Codec;
use rtc::sdp::{AnswerParams, Offer, PlayTracks, Role, answer};
use std::path::PathBuf;

fn params(role: Role<'_>) -> AnswerParams<'_> {
    AnswerParams {
        role,
        ufrag: "mill",
        pwd: "0123456789abcdefghijklmn",
        fingerprint: "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF",
        candidates: &CANDIDATES,
        session_id: 1234567890,
        prefer_video: &[Codec::H264],
    }
}

/// RFC 5737 and RFC 3849: addresses for documentation.
static CANDIDATES: std::sync::LazyLock<Vec<std::net::SocketAddr>> = std::sync::LazyLock::new(|| {
    ["192.0.2.7:8000", "[2001:db8::7]:8000"].iter().map(|it| it.parse().expect("an address")).collect()
});

const TRACKS: PlayTracks<'static> = PlayTracks {
    cname: "millrace",
    stream_id: "live",
    audio_ssrc: Some(1001),
    video_ssrc: Some(2002),
    video_rtx_ssrc: Some(2003),
    stereo: true,
    twcc: false,
};

#[track_caller]
fn check(client: &str, role: Role<'_>) {
    let offer = support::root().join(format!("transport/rtc/src/sdp/fixtures/{client}.sdp"));
    let offer = std::fs::read_to_string(&offer).expect("the fixture is there").replace("\r\n", "\n");
    let offer = Offer::parse(&offer.replace('\n', "\r\n")).expect("a browser's offer");
    let (text, _) = answer(&offer, &params(role)).expect("an answer");
    // kept with plain line ends, so that git and editors leave them alone
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "RFC 8866 section 5: CRLF");
    let text = text.replace("\r\n", "\n");
    let file: PathBuf = support::root().join(format!("tests/wire/answers/{client}.sdp"));
    if std::env::var_os("WRITE_ANSWERS").is_some() {
        std::fs::write(&file, &text).expect("the answer can be written");
    }
    let kept = std::fs::read_to_string(&file).expect("the answer is kept");
    let differs = text.lines().zip(kept.lines()).position(|(new, old)| new != old);
    assert_eq!(text, kept, "{client}: first difference in line {:?}", differs.map(|it| it + 1));
}

#[test]
fn chromium_publishes() {
    check("chromium-whip", Role::Publish);
}

#[test]
fn chromium_plays() {
    check("chromium-whep", Role::Play(TRACKS));
}

#[test]
fn firefox_publishes() {
    check("firefox-whip", Role::Publish);
}

#[test]
fn chromium_publishes_three_encodings() {
    check("chromium-whip-simulcast-3", Role::Publish);
}

#[test]
fn firefox_publishes_three_encodings() {
    check("firefox-whip-simulcast-3", Role::Publish);
}

#[test]
fn firefox_plays() {
    check("firefox-whep-max-bundle", Role::Play(TRACKS));
}
