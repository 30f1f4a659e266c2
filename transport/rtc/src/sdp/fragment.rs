//! Trickle ICE fragments (`application/trickle-ice-sdpfrag`, RFC 8840 section 9), the body of a WHIP or WHEP PATCH.

use std::net::SocketAddr;

use media::Kind;

use super::answer::host_candidate;
use super::{ATTRIBUTES_MAX, Credentials, Error, Section, TEXT_LEN_MAX, is_pwd, is_ufrag};

/// What a fragment says. The server is ICE-lite, so candidates are only counted: the client's checks show where it is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fragment {
    /// User name fragment of the ICE session it belongs to; another one than before asks for an ICE restart.
    pub ufrag: Option<String>,
    /// The password.
    pub pwd: Option<String>,
    /// How many candidates it brings.
    pub candidates: usize,
    /// No more will follow.
    pub end_of_candidates: bool,
}

/// Reads a fragment. Section 9.2: it is lines of SDP without the session-level ones that SDP requires.
pub fn parse_fragment(text: &str) -> Result<Fragment, Error> {
    if text.len() > TEXT_LEN_MAX {
        return Err(Error::TooLong { len: text.len() });
    }
    let mut fragment = Fragment::default();
    let mut section = Section::Session;
    let mut attributes = 0_usize;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (key, value) = match line.split_once('=') {
            Some((key, value)) if key.len() == 1 => (key, value),
            _ => return Err(Error::Syntax(format!("line {} is not key=value", index.saturating_add(1)))),
        };
        if key == "m" {
            section = match section {
                Section::Session => Section::Media(0),
                Section::Media(media) => Section::Media(media.saturating_add(1)),
            };
        }
        if key != "a" {
            continue;
        }
        attributes = attributes.saturating_add(1);
        if attributes > ATTRIBUTES_MAX {
            return Err(Error::TooManyAttributes { count: attributes });
        }
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        let broken = |name, why| Err(Error::Attribute { section, name, why });
        match name {
            "ice-ufrag" if !is_ufrag(value) => {
                return broken("ice-ufrag", "must have 4 to 256 printable characters and no colon");
            }
            "ice-pwd" if !is_pwd(value) => {
                return broken("ice-pwd", "must have 22 to 256 printable characters");
            }
            // Sections of one bundle repeat the same pair; the first counts.
            "ice-ufrag" => _ = fragment.ufrag.get_or_insert_with(|| value.to_owned()),
            "ice-pwd" => _ = fragment.pwd.get_or_insert_with(|| value.to_owned()),
            "candidate" => fragment.candidates = fragment.candidates.saturating_add(1),
            "end-of-candidates" => fragment.end_of_candidates = true,
            _ => {}
        }
    }
    Ok(fragment)
}

/// What an ICE restart is answered with (RFC 9725 section 4.3.3).
#[derive(Clone, Copy, Debug)]
pub struct RestartAnswer<'a> {
    /// Identification tag of the section that carries the bundle.
    pub mid: &'a str,
    /// What that section is.
    pub kind: Kind,
    /// Our new credentials.
    pub ice: &'a Credentials,
    /// Host candidates, UDP, the preferred first.
    pub candidates: &'a [SocketAddr],
}

/// Writes the fragment of an ICE restart.
pub fn restart_fragment(answer: &RestartAnswer<'_>) -> String {
    let RestartAnswer { mid, kind, ice, candidates } = answer;
    // RFC 8840 section 9.2: the m= line only says where what follows belongs.
    let mut text = format!(
        "a=ice-lite\r\na=group:BUNDLE {mid}\r\nm={} 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n",
        kind.as_str(),
        ice.ufrag,
        ice.pwd
    );
    for (place, address) in candidates.iter().enumerate() {
        text += &format!("a=candidate:{}\r\n", host_candidate(place, *address));
    }
    text + "a=end-of-candidates\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn example_of_rfc_9725() {
        let text = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n\
            a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
            a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1\r\n\
            a=candidate:3471623853 1 udp 2122194687 198.51.100.2 61765 typ host generation 0 ufrag EsAw network-id 2\r\n\
            a=end-of-candidates\r\n";
        assert_eq!(
            parse_fragment(text).unwrap(),
            Fragment {
                ufrag: Some("EsAw".to_owned()),
                pwd: Some("P2uYro0UCOQ4zxjKXaWCBui1".to_owned()),
                candidates: 2,
                end_of_candidates: true,
            }
        );
    }

    #[test]
    fn broken_fragments() {
        let why = |text: &str| parse_fragment(text).unwrap_err().to_string();
        assert_eq!(
            why("m=audio\r\na=ice-ufrag:x\r\n"),
            "media section 0: a=ice-ufrag must have 4 to 256 printable characters and no colon"
        );
        assert_eq!(why("a=mid:0\r\nhello\r\n"), "not a session description: line 2 is not key=value");
        assert!(why(&"a=candidate:1\r\n".repeat(5000)).contains("4097 attributes"));
        assert!(why(&"x".repeat(1 << 20)).contains("1048576 bytes"));
        assert_eq!(parse_fragment("").unwrap(), Fragment::default());
    }

    #[test]
    fn the_answer_to_a_restart_reads_back() {
        let ice = Credentials { ufrag: "EsAw".into(), pwd: "P2uYro0UCOQ4zxjKXaWCBui1".into() };
        let candidates = ["192.0.2.1:8000".parse().unwrap(), "[2001:db8::1]:8000".parse().unwrap()];
        let answer = RestartAnswer { mid: "0", kind: Kind::Audio, ice: &ice, candidates: &candidates };
        let text = restart_fragment(&answer);
        let expected = Fragment {
            ufrag: Some(ice.ufrag.clone()),
            pwd: Some(ice.pwd.clone()),
            candidates: 2,
            end_of_candidates: true,
        };
        assert_eq!(parse_fragment(&text).unwrap(), expected);
        assert!(text.contains("a=candidate:1 1 udp 2130706431 192.0.2.1 8000 typ host\r\n"), "{text}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(a=(ice-ufrag|candidate|ice-pwd)?:?)?\\PC{0,40}(\r\n)?.{0,40}") {
            let _ = parse_fragment(&text);
        }
    }
}
