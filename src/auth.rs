//! Who may publish, play and manage: shared tokens from the settings, or everybody on an open node.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::config::Token;
use crate::node::Node;

/// What a client wants to do with a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send it.
    Publish,
    /// Take it.
    Play,
}

/// What a caller of the API wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiAction {
    /// See which streams there are: for holders of any token.
    Look,
    /// See clients and end them.
    Manage,
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
        if tokens.is_empty() { Ok(()) } else { check(&[tokens], query, authorization) }
    }

    /// The same for the API. A node without any token is open; on another, an empty `auth.api` lets nobody manage.
    pub fn admit_api(
        &self,
        action: ApiAction,
        query: &str,
        authorization: Option<&str>,
    ) -> Result<(), Denied> {
        let auth = &self.config.auth;
        match action {
            _ if auth.is_open() => Ok(()),
            ApiAction::Look => check(&[&auth.api, &auth.publish, &auth.play], query, authorization),
            ApiAction::Manage => check(&[&auth.api], query, authorization),
        }
    }
}

fn check(tokens: &[&[Token]], query: &str, authorization: Option<&str>) -> Result<(), Denied> {
    let bearer = authorization.and_then(|a| a.strip_prefix("Bearer ")).map(str::trim);
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let given = bearer.or(in_query).ok_or(Denied)?;
    // Every token is compared, in constant time each.
    let fits = tokens.iter().copied().flatten().fold(false, |fits, token| {
        fits | verify_slices_are_equal(token.as_bytes(), given.as_bytes()).is_ok()
    });
    if fits { Ok(()) } else { Err(Denied) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_from_the_query_or_the_header_and_nothing_else_does() {
        let tokens = [Token::new("one"), Token::new("two")];
        let may = |query: &str, authorization: Option<&str>| check(&[&tokens], query, authorization).is_ok();
        assert!(may("token=one", None) && may("a=b&token=two", None) && may("", Some("Bearer two")));
        for query in ["", "token=", "token=on", "token=onee", "atoken=one", "token=one%20"] {
            assert!(!may(query, None), "{query}");
        }
        assert!(!may("", Some("one")) && !may("", Some("Basic one")));
        assert!(!may("token=one", Some("Bearer wrong")), "the header is what counts when both are there");
        assert!(check(&[&[]], "token=", None).is_err(), "no token is not an empty token");
    }
}
