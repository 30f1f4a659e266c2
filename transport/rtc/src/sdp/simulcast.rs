//! Simulcast: which encodings of a section are taken (RFC 8853, RFC 8851).

use super::Media;

/// Encodings taken of one section. Browsers make three; more are left out of the answer, and not sent then.
pub const ENCODINGS_MAX: usize = 4;
/// The longest identifier: it must fit a one-byte header extension (RFC 8285: 16 bytes).
const RID_LEN_MAX: usize = 16;

/// The encodings that an offered section sends, in its order of preference, at most [`ENCODINGS_MAX`]: of alternatives the first, whether it
/// starts paused or not.
pub(super) fn encodings(media: &Media) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for stream in send_list(media.simulcast.as_deref().unwrap_or("")).split(';') {
        let first = stream.split(',').next().unwrap_or("").trim_start_matches('~');
        // RFC 8853 section 5.1: each is described by an a=rid of the same direction.
        let described = media.rids.iter().any(|rid| rid == first);
        let fits = (1..=RID_LEN_MAX).contains(&first.len());
        if described
            && fits
            && is_rid(first)
            && found.len() < ENCODINGS_MAX
            && !found.iter().any(|f| f == first)
        {
            found.push(first.to_owned());
        }
    }
    found
}

/// RFC 8853 section 5.1: `send LIST`, `recv LIST`, or both in either order.
fn send_list(value: &str) -> &str {
    let mut words = value.split_whitespace();
    while let Some(word) = words.next() {
        if word == "send" {
            return words.next().unwrap_or("");
        }
    }
    ""
}

/// RFC 8851 section 10.
fn is_rid(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
