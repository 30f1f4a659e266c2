//! The layers of a WHEP session (draft-murillo-whep-01, section on the layer extension): what the stream's encodings are, which one the
//! viewer gets and why, and what it asks for; and of a WHIP session which of its encodings are wanted. The session's URL is the secret, as for
//! PATCH and DELETE.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use metrics::Refusal;
use serde_json::{Map, Value, json};
use sfu::{Command, LAYERS_MAX, LayerRequest};

use super::whip::{content_type, find};
use super::{Answer, Refused, body_text};
use crate::clients::{Client, ClientKind};
use crate::media_plane::Order;
use crate::node::Node;
use crate::wishes::Deaf;

/// The link relation that a WHEP answer names this resource by.
pub const EXTENSION: &str = "urn:ietf:params:whep:ext:core:layer";
/// The link relation that a WHIP answer names [`wanted`] by: no draft has such a thing.
pub const WANTED_EXTENSION: &str = "urn:x-millrace:whip:ext:wanted";
/// Who listens without a word is heard to be there by what it is sent; and a proxy sees that something comes.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A request has nine short members at most.
const REQUEST_LEN_MAX: usize = 4 * 1024;

/// GET /session/TOKEN/layer
pub async fn show(State(node): State<Arc<Node>>, Path(token): Path<String>) -> Answer {
    let session = find(&node, &token)?;
    Ok(Json(describe(&node, &session.client)).into_response())
}

/// POST /session/TOKEN/layer: the members that are there are what the viewer wants from now on; none means the best that its path carries.
pub async fn choose(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    content_type(&headers, "application/json")?;
    let session = find(&node, &token)?;
    if session.client.kind != ClientKind::RtcPlay {
        return Err(Refused(StatusCode::CONFLICT, "only a viewer's session has a choice of layers".into()));
    }
    let text = body_text(&node, body).await?;
    if text.len() > REQUEST_LEN_MAX {
        return Err(Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has at most {REQUEST_LEN_MAX} bytes"),
        ));
    }
    let rids = node.streams.get(&session.stream).map_or(Vec::new(), |stream| stream.rids());
    let request = parse(&text, &rids).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    session
        .shard
        .order(Order::Shard(Command::RequestLayer(session.peer, request)))
        .map_err(|e| Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string()))?;
    Ok(StatusCode::OK.into_response())
}

/// GET /session/TOKEN/wanted: which of its encodings a publisher is to send, now and each time that it changes, as server-sent events. While
/// somebody listens, those that nobody takes are not wanted.
pub async fn wanted(State(node): State<Arc<Node>>, Path(token): Path<String>) -> Answer {
    let session = find(&node, &token)?;
    let none =
        || Refused(StatusCode::CONFLICT, "the session publishes no picture in several encodings".into());
    let wishes = session.wishes.as_ref().ok_or_else(none)?;
    let listener = wishes.listen().map_err(|deaf| {
        let status = match deaf {
            Deaf::TooMany => {
                node.metrics.refused.of(Refusal::TooMany).add(1);
                StatusCode::TOO_MANY_REQUESTS
            }
            Deaf::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused(status, deaf.to_string())
    })?;
    let said = futures_util::stream::unfold((listener, wishes.rids.clone()), async |(mut listener, rids)| {
        let wanted = listener.next().await?;
        let of = |(rid, active): (&String, bool)| json!({ "encodingId": rid, "active": active });
        let encodings: Vec<Value> = rids.iter().zip(wanted).map(of).collect();
        let event = Event::default().data(json!({ "encodings": encodings }).to_string());
        Some((Ok::<Event, Infallible>(event), (listener, rids)))
    });
    Ok(Sse::new(said).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response())
}

/// `encodingId`, `temporalLayerId` and `maxTemporalLayerId` are the draft's; `maxHeight`, `maxBitrate` (bit/s) and `pause` are ours. `mediaId` is
/// heard: there is one picture. A layer that is asked for and the most that is wanted are one: the path may carry less.
fn parse(text: &str, rids: &[String]) -> Result<LayerRequest, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(members) = value else { return Err("not a JSON object".into()) };
    let number = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("{name} is not a whole number")),
    };
    let layer = match members.get("encodingId") {
        None | Some(Value::Null) => None,
        Some(Value::String(rid)) => {
            let known = rids.iter().take(LAYERS_MAX).position(|r| r == rid);
            Some(known.ok_or_else(|| format!("the stream has no such encoding, but: {}", rids.join(", ")))?
                as u8)
        }
        Some(_) => return Err("encodingId is not a text".into()),
    };
    let paused = match members.get("pause") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or("pause is not true or false")?,
    };
    let temporal = [number("temporalLayerId")?, number("maxTemporalLayerId")?];
    Ok(LayerRequest {
        layer,
        temporal_max: temporal.into_iter().flatten().min().map(|n| u8::try_from(n).unwrap_or(u8::MAX)),
        height_max: number("maxHeight")?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        rate_bps_max: number("maxBitrate")?,
        paused,
    })
}

/// The encodings of a WebRTC client's stream; of a viewer's also which it gets and why.
pub fn describe(node: &Node, client: &Client) -> Value {
    let Some(peer) = &client.peer else { return Value::Null };
    let stream = node.streams.get(&client.stream);
    let rids = stream.as_ref().map_or(Vec::new(), |stream| stream.rids());
    let publisher = stream.as_ref().and_then(|s| s.publisher()).and_then(|p| node.clients.get(p.client));
    let measured = publisher.and_then(|p| p.peer.as_ref().map(|peer| peer.encodings()));
    let measured = measured.or(stream.map(|s| s.layers())).unwrap_or_default();
    let encodings: Vec<Value> = rids
        .iter()
        .zip(measured)
        .map(|(rid, layer)| {
            json!({
                "encodingId": rid, "height": layer.height, "bitrate": layer.rate_bps,
                "active": layer.flows && !layer.paused, "paused": layer.paused, "temporalLayers": layer.temporal_layers.max(1),
            })
        })
        .collect();
    let mut members = Map::new();
    if client.kind == ClientKind::RtcPlay {
        let shown = peer.layer();
        members.insert("encodingId".into(), json!(rids.get(usize::from(shown.layer))));
        members.insert("height".into(), json!(shown.height));
        let top = measured.get(usize::from(shown.layer)).map_or(0, |layer| layer.temporal_layers.max(1) - 1);
        members.insert("temporalLayerId".into(), json!(shown.temporal.unwrap_or(top)));
        members.insert("reason".into(), json!(shown.reason.as_str()));
        members.insert("switches".into(), json!(shown.switches));
    }
    members.insert("encodings".into(), Value::Array(encodings));
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let rids = ["q", "h", "f"].map(String::from);
        let of = |text: &str| parse(text, &rids);
        assert_eq!(of("{}"), Ok(LayerRequest::default()));
        assert_eq!(of(r#"{"mediaId":"1","encodingId":"h"}"#).unwrap().layer, Some(1));
        let all = of(r#"{"encodingId":null,"maxHeight":360,"maxBitrate":500000,"pause":true}"#).unwrap();
        assert_eq!((all.height_max, all.rate_bps_max, all.paused), (Some(360), Some(500_000), true));
        assert_eq!(of(r#"{"temporalLayerId":1,"maxTemporalLayerId":2}"#).unwrap().temporal_max, Some(1));
        assert_eq!(of(r#"{"maxTemporalLayerId":300}"#).unwrap().temporal_max, Some(255));
        for bad in [
            "",
            "[]",
            r#"{"encodingId":"x"}"#,
            r#"{"encodingId":1}"#,
            r#"{"maxHeight":-1}"#,
            r#"{"temporalLayerId":"1"}"#,
            r#"{"pause":1}"#,
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
