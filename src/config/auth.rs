//! Shared tokens for publishing and playing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `[auth]`: `publish` or `play` without tokens leaves its side open to everybody who can reach the node.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Tokens that may publish.
    pub publish: Vec<Token>,
    /// Tokens that may play.
    pub play: Vec<Token>,
    /// Tokens that may list and end clients through the API. On a node with other tokens an empty list means nobody.
    pub api: Vec<Token>,
}

impl Auth {
    /// Whether nobody is asked for anything.
    pub fn is_open(&self) -> bool {
        self.publish.is_empty() && self.play.is_empty() && self.api.is_empty()
    }
}

/// A shared secret. It is not shown by `Debug`, so that logged settings do not tell it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Token {
        Token(text.into())
    }

    /// Its bytes, to be compared in constant time.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether it can stand in a query and in a header as it is: RFC 3986 unreserved characters, at most 256.
    pub(super) fn is_valid(&self) -> bool {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        (1..=256).contains(&self.0.len()) && self.0.bytes().all(unreserved)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let auth = Auth { publish: vec![Token::new("secret")], ..Auth::default() };
        assert!(!format!("{auth:?}").contains("secret"));
        assert!(!auth.is_open() && Auth::default().is_open());
    }

    #[test]
    fn tokens_that_a_url_would_change_are_not_valid() {
        for (text, valid) in [("aZ09-._~", true), ("", false), ("a b", false), ("a+b", false), ("a&b", false)]
        {
            assert_eq!(Token::new(text).is_valid(), valid, "{text:?}");
        }
        assert!(!Token::new("a".repeat(257)).is_valid());
    }
}
