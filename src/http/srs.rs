//! The WebRTC calls of SRS, so that its players, publishers and load tools drive this node unchanged.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::whip::{created, negotiate};
use super::{Answer, From, Refused, admit, body_text};
use crate::auth::Action;
use crate::node::Node;

/// POST /rtc/v1/whip/?app=APP&stream=STREAM
pub async fn whip(
    State(node): State<Arc<Node>>,
    from: From,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    by_query(&node, from, Action::Publish, query, headers, body).await
}

/// POST /rtc/v1/whep/?app=APP&stream=STREAM
pub async fn whep(
    State(node): State<Arc<Node>>,
    from: From,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    by_query(&node, from, Action::Play, query, headers, body).await
}

async fn by_query(
    node: &Arc<Node>,
    from: From,
    action: Action,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let query = query.unwrap_or_default();
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let (Some(app), Some(stream)) = (value("app"), value("stream")) else {
        return Err(Refused(StatusCode::BAD_REQUEST, "the URL needs ?app=APP&stream=STREAM".into()));
    };
    created(node, from.0.ip(), action, (app, stream), Some(&query), &headers, body).await
}

/// What SRS's clients send.
#[derive(Deserialize)]
struct Call {
    streamurl: String,
    sdp: String,
}

/// What they get.
#[derive(Serialize)]
struct Reply {
    code: u32,
    server: String,
    service: String,
    pid: String,
    sdp: String,
    sessionid: String,
}

/// POST /rtc/v1/publish/
pub async fn publish(State(node): State<Arc<Node>>, from: From, headers: HeaderMap, body: Body) -> Answer {
    call(&node, from, Action::Publish, headers, body).await
}

/// POST /rtc/v1/play/
pub async fn play(State(node): State<Arc<Node>>, from: From, headers: HeaderMap, body: Body) -> Answer {
    call(&node, from, Action::Play, headers, body).await
}

async fn call(node: &Arc<Node>, from: From, action: Action, headers: HeaderMap, body: Body) -> Answer {
    let text = body_text(node, body).await?;
    let call: Call = serde_json::from_str(&text).map_err(|e| {
        Refused(StatusCode::BAD_REQUEST, format!("the body must be JSON with streamurl and sdp: {e}"))
    })?;
    let ((app, stream), query) = split_url(&call.streamurl).ok_or_else(|| {
        Refused(StatusCode::BAD_REQUEST, "streamurl must be webrtc://HOST/APP/STREAM".into())
    })?;
    admit(node, action, query, &headers)?;
    let made = negotiate(node, from.0.ip(), action, (app, stream), &call.sdp).await?;
    let reply = Reply {
        code: 0,
        server: format!("vid-{}", node.config.node.name),
        service: "millrace".into(),
        pid: std::process::id().to_string(),
        sdp: made.answer,
        sessionid: made.token,
    };
    Ok(Json(reply).into_response())
}

/// `webrtc://host[:port]/app/stream[?query]` to app, stream and query.
fn split_url(url: &str) -> Option<((&str, &str), &str)> {
    let (_, rest) = url.split_once("://")?;
    let (_, path) = rest.split_once('/')?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Some((path.split_once('/')?, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_urls() {
        assert_eq!(split_url("webrtc://h/live/a?token=x"), Some((("live", "a"), "token=x")));
        assert_eq!(split_url("webrtc://h:8000/live/a"), Some((("live", "a"), "")));
        for bad in ["", "live/a", "webrtc://h", "webrtc://h/live"] {
            assert_eq!(split_url(bad), None, "{bad}");
        }
    }
}
