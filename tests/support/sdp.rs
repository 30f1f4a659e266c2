//! Offers as a browser makes them, for tests of the signalling alone.

/// Which way the offerer's media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Send,
    Receive,
}

/// An offer of Opus and of video in VP8 and H.264, bundled, DTLS actpass.
pub fn offer(way: Way) -> String {
    let direction = if way == Way::Send { "sendonly" } else { "recvonly" };
    let ssrc = |ssrc: u32, track: &str| match way {
        Way::Send => vec!["a=msid:stream ".to_string() + track, format!("a=ssrc:{ssrc} cname:test")],
        Way::Receive => vec![],
    };
    let transport = [
        "c=IN IP4 0.0.0.0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=ice-ufrag:t3st",
        "a=ice-pwd:0123456789abcdef01234567",
        "a=ice-options:trickle",
        "a=fingerprint:sha-256 6B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08",
        "a=setup:actpass",
    ];
    let mut lines: Vec<String> = [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=msid-semantic: WMS",
    ]
    .map(String::from)
    .into();
    let media = |lines: &mut Vec<String>, first: &str, mid: &str, own: &[&str]| {
        lines.push(first.into());
        lines.extend(transport.map(String::from));
        lines.push(format!("a=mid:{mid}"));
        lines.push(format!("a={direction}"));
        lines.push("a=rtcp-mux".into());
        lines.extend(own.iter().map(|it| it.to_string()));
    };
    media(
        &mut lines,
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "0",
        &["a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1"],
    );
    lines.extend(ssrc(1001, "sound"));
    media(
        &mut lines,
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103",
        "1",
        &[
            "a=rtcp-rsize",
            "a=rtpmap:96 VP8/90000",
            "a=rtcp-fb:96 nack",
            "a=rtcp-fb:96 nack pli",
            "a=rtpmap:97 rtx/90000",
            "a=fmtp:97 apt=96",
            "a=rtpmap:102 H264/90000",
            "a=rtcp-fb:102 nack",
            "a=rtcp-fb:102 nack pli",
            "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            "a=rtpmap:103 rtx/90000",
            "a=fmtp:103 apt=102",
        ],
    );
    lines.extend(ssrc(2002, "picture"));
    lines.join("\r\n") + "\r\n"
}

/// Lines of an SDP that begin with `prefix`, without it.
pub fn values<'a>(sdp: &'a str, prefix: &str) -> Vec<&'a str> {
    sdp.lines().filter_map(|line| line.trim_end().strip_prefix(prefix)).collect()
}
