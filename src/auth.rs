//! Who may publish and play: shared tokens from the settings, or everybody on an open node.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::node::Node;

/// What a token permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a stream.
    Publish,
    /// Take a stream.
    Play,
}

/// The token is missing or wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not allowed: give the token as ?token=... or as an Authorization: Bearer header")]
pub struct Denied;

impl Node {
    /// Checks the token of a query (`a=b&token=T`) or of an `Authorization` header.
    pub fn admit(&self, action: Action, query: &str, authorization: Option<&str>) -> Result<(), Denied> {
        let auth = &self.config.auth;
        let tokens = match action {
            Action::Publish => &auth.publish,
            Action::Play => &auth.play,
        };
        if tokens.is_empty() {
            return Ok(());
        }
        let bearer = authorization.and_then(|a| a.strip_prefix("Bearer ")).map(str::trim);
        let in_query = query.split('&').find_map(|pair| pair.strip_prefix("token="));
        let given = bearer.or(in_query).ok_or(Denied)?;
        // Every token is compared, in constant time each.
        let fits = tokens.iter().fold(false, |fits, token| {
            fits | verify_slices_are_equal(token.as_bytes(), given.as_bytes()).is_ok()
        });
        if fits { Ok(()) } else { Err(Denied) }
    }
}
