//! Names and ids that have one meaning everywhere.

use std::fmt;

/// Longest `app/name`, in bytes. Long enough for signed names of CDNs, short enough for a label.
pub const STREAM_NAME_LEN_MAX: usize = 200;
/// Bytes of a node's id: a label of a DNS name, for it stands in a certificate.
pub const NODE_ID_LEN_MAX: usize = 63;

/// A stream's name, `app/name`: two non-empty parts of `[A-Za-z0-9._~@+=-]`, neither starting with a dot, so that it
/// is safe as a URL path, a file name, a metric label and a log field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(std::sync::Arc<str>);

/// Why a text is not a stream name. The fault is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamNameError {
    /// Not exactly two non-empty parts.
    #[error("a stream is named APP/STREAM, two parts, neither empty")]
    Shape,
    /// Longer than [`STREAM_NAME_LEN_MAX`].
    #[error("a stream name is at most {STREAM_NAME_LEN_MAX} bytes")]
    Long,
    /// A character outside the allowed set, or a part that starts with a dot.
    #[error("a stream name has letters, digits and . _ ~ @ + = - only, and no part starts with a dot")]
    Character,
}

impl StreamName {
    /// Checks and takes `app` and `name` apart from each other.
    pub fn new(app: &str, name: &str) -> Result<StreamName, StreamNameError> {
        if app.is_empty() || name.is_empty() {
            return Err(StreamNameError::Shape);
        }
        if app.len().saturating_add(name.len()) >= STREAM_NAME_LEN_MAX {
            return Err(StreamNameError::Long);
        }
        for part in [app, name] {
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"._~@+=-".contains(&b);
            if part.starts_with('.') || !part.bytes().all(fine) {
                return Err(StreamNameError::Character);
            }
        }
        Ok(StreamName(format!("{app}/{name}").into()))
    }

    /// Parses `app/name`.
    pub fn parse(text: &str) -> Result<StreamName, StreamNameError> {
        let (app, name) = text.split_once('/').ok_or(StreamNameError::Shape)?;
        StreamName::new(app, name)
    }

    /// `app/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    pub fn app(&self) -> &str {
        self.0.split_once('/').map_or("", |(app, _)| app)
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's id: a lower-case letter, then such letters, digits and inner hyphens, so that it is a DNS name and no number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(std::sync::Arc<str>);

impl NodeId {
    /// What its text is like, for who has to write one.
    pub const FORM: &str = "a lower-case letter, then up to 62 of such letters, digits and inner hyphens";

    /// From its text; `None` when that is none.
    pub fn new(text: &str) -> Option<NodeId> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edges = text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-');
        ((1..=NODE_ID_LEN_MAX).contains(&text.len()) && edges && text.bytes().all(fine))
            .then(|| NodeId(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(StreamName::parse("live/alice").unwrap().app(), "live");
        assert_eq!(StreamName::parse("live/alice").unwrap().name(), "alice");
        for (text, why) in [
            ("live", StreamNameError::Shape),
            ("/x", StreamNameError::Shape),
            ("live/", StreamNameError::Shape),
            ("live/a/b", StreamNameError::Character),
            ("../x", StreamNameError::Character),
            ("live/..", StreamNameError::Character),
            ("live/a b", StreamNameError::Character),
            ("live/\u{202e}x", StreamNameError::Character),
        ] {
            assert_eq!(StreamName::parse(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(StreamName::new("live", &"x".repeat(200)).unwrap_err(), StreamNameError::Long);
    }
}
