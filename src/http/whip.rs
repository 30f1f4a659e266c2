//! WHIP (RFC 9725) and WHEP: an offer in, an answer and a session URL out. The session itself lives on its shard.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use media::{Codec, Kind, StreamName};
use metrics::{Protocol, Refusal};
use rtc::dtls;
use rtc::ice;
use rtc::sdp::{self, AnswerParams, Offer, PlayTracks};
use rtc::session::SessionConfig;
use sfu::{CloseReason, Command, PeerConfig, PeerId, PeerRole, PeerStats};

use super::{Answer, From, Refused, admit, body_text, layer};
use crate::auth::Action;
use crate::clients::{ClientKind, Entry};
use crate::media_plane::{Order, ShardHandle};
use crate::node::{IceSession, Node, RtcSession};
use crate::stream::{Ingest, PublishError, Watch};
use crate::wishes::Wishes;

const SDP_TYPE: &str = "application/sdp";
const FRAGMENT_TYPE: &str = "application/trickle-ice-sdpfrag";

/// POST /whip/APP/STREAM
pub async fn publish(
    State(node): State<Arc<Node>>,
    from: From,
    Path((app, stream)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    created(&node, from.0.ip(), Action::Publish, (&app, &stream), query.as_deref(), &headers, body).await
}

/// POST /whep/APP/STREAM
pub async fn play(
    State(node): State<Arc<Node>>,
    from: From,
    Path((app, stream)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    created(&node, from.0.ip(), Action::Play, (&app, &stream), query.as_deref(), &headers, body).await
}

/// The POST of both, also for SRS's paths: 201, the answer, and where the session is.
pub async fn created(
    node: &Arc<Node>,
    ip: IpAddr,
    action: Action,
    name: (&str, &str),
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    content_type(headers, SDP_TYPE)?;
    admit(node, action, query.unwrap_or(""), headers)?;
    let offer = body_text(node, body).await?;
    let session = negotiate(node, ip, action, name, &offer).await?;
    let location = format!("/session/{}", session.token);
    let extension = match action {
        Action::Play => Some(("layer", layer::EXTENSION)),
        Action::Publish => session.is_simulcast.then_some(("wanted", layer::WANTED_EXTENSION)),
    };
    let extension = extension.map(|(path, relation)| format!("<{location}/{path}>; rel=\"{relation}\""));
    let headers = [
        (header::CONTENT_TYPE, SDP_TYPE.to_owned()),
        (header::LOCATION, location),
        (header::ETAG, session.etag),
        // RFC 9725 4.3.2: says that PATCH is understood.
        (header::HeaderName::from_static("accept-patch"), FRAGMENT_TYPE.to_owned()),
    ];
    let mut response = (StatusCode::CREATED, headers, session.answer).into_response();
    if let Some(Ok(link)) = extension.map(|link| HeaderValue::from_str(&link)) {
        response.headers_mut().append(header::LINK, link);
    }
    for server in &node.config.webrtc.ice_servers {
        // RFC 9725 4.6.
        if let Ok(link) = HeaderValue::from_str(&format!("<{server}>; rel=\"ice-server\"")) {
            response.headers_mut().append(header::LINK, link);
        }
    }
    Ok(response)
}

/// A session that was made.
pub struct Made {
    /// The answer.
    pub answer: String,
    /// The unguessable part of its URL.
    pub token: String,
    /// Its ICE session's entity tag.
    pub etag: String,
    /// It publishes several encodings.
    pub is_simulcast: bool,
}

/// Offer to answer: the session is on its shard before this returns, so the browser's first check finds it.
pub async fn negotiate(
    node: &Arc<Node>,
    ip: IpAddr,
    action: Action,
    (app, stream): (&str, &str),
    offer: &str,
) -> Result<Made, Refused> {
    let refuse = |refusal: Refusal, status: StatusCode, why: String| {
        node.metrics.refused.of(refusal).add(1);
        tracing::info!(app, stream, %ip, why, "session refused");
        Refused(status, why)
    };
    let bad = |why: String| refuse(Refusal::BadRequest, StatusCode::BAD_REQUEST, why);
    if *node.draining.borrow() {
        return Err(refuse(
            Refusal::Draining,
            StatusCode::SERVICE_UNAVAILABLE,
            "the node is stopping".into(),
        ));
    }
    if node.sessions.len() >= node.config.webrtc.sessions_max {
        let why = "the node has as many sessions as webrtc.sessions_max allows".into();
        return Err(refuse(Refusal::TooMany, StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let name = StreamName::new(app, stream).map_err(|e| bad(e.to_string()))?;
    let offer = Offer::parse(offer).map_err(|e| bad(e.to_string()))?;
    let taken = |e: PublishError| refuse(Refusal::NameTaken, StatusCode::CONFLICT, e.to_string());
    let claim = match action {
        Action::Publish => node.claim(&name).await.map_err(taken)?,
        Action::Play => None,
    };
    let stream = node.streams.get_or_create(&name);

    let shard = match action {
        Action::Publish => stream.home.clone(),
        Action::Play => node.streams.shared().homes.of_viewer(&stream.home),
    };
    let local = ice::Credentials::from_entropy(&node.random_bytes());
    let fingerprint = node.identity.fingerprint().to_string();
    let fingerprint = fingerprint.split_once(' ').map_or(fingerprint.as_str(), |(_, bytes)| bytes);
    let candidates = candidates(node, &shard);
    let id = node.streams.shared().draw_id();
    let seed = u64::from_le_bytes(node.random_bytes());
    let [audio_ssrc, video_ssrc, video_rtx_ssrc] = ssrcs(seed);
    let [_, video_codec] = stream.codecs();
    let play_first = [video_codec.unwrap_or(Codec::H264)];
    let publish_first: &[Codec] = if node.config.webrtc.prefer_h264 { &[Codec::H264] } else { &[] };
    let cname = format!("millrace-{}", stream.id.0);
    let (role, prefer_video): (sdp::Role<'_>, &[Codec]) = match action {
        Action::Publish => (sdp::Role::Publish, publish_first),
        Action::Play => {
            let tracks = PlayTracks {
                cname: &cname,
                stream_id: &cname,
                audio_ssrc: Some(audio_ssrc),
                video_ssrc: Some(video_ssrc),
                video_rtx_ssrc: Some(video_rtx_ssrc),
                stereo: true,
                twcc: node.config.webrtc.pacer,
            };
            (sdp::Role::Play(tracks), &play_first)
        }
    };
    let params = AnswerParams {
        role,
        ufrag: &local.ufrag,
        pwd: &local.pwd,
        fingerprint,
        candidates: &candidates,
        session_id: seed,
        prefer_video,
    };
    let (answer, negotiated) = sdp::answer(&offer, &params).map_err(|e| bad(e.to_string()))?;
    let remote = ice::Credentials { ufrag: negotiated.ice.ufrag.clone(), pwd: negotiated.ice.pwd.clone() };
    let remote_ufrag = remote.ufrag.clone();
    // The first fingerprint of a hash that we take; SHA-1 alone is refused (RFC 8122 section 5 has better ones).
    let remote_fingerprint = negotiated
        .fingerprints
        .iter()
        .find_map(|f| dtls::Fingerprint::new(&f.hash, &f.bytes).ok())
        .ok_or_else(|| {
            bad("a=fingerprint has no hash that is accepted: sha-256, sha-384 or sha-512".into())
        })?;

    // Better said now than by ending the session at its first packet. A source of AAC is given as Opus.
    let lacks = |codec: Codec| {
        let codec = if codec == Codec::Aac { Codec::Opus } else { codec };
        negotiated.media(codec.kind()).is_some_and(|m| m.for_codec(codec, None).is_none()).then_some(codec)
    };
    if action == Action::Play
        && let Some(why) = stream.packets_refused()
    {
        return Err(refuse(Refusal::UnsupportedCodec, StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    if action == Action::Play
        && let Some(codec) = stream.codecs().into_iter().flatten().find_map(lacks)
    {
        let why = format!("the stream is {}, which the offer does not have", codec.name());
        return Err(refuse(Refusal::UnsupportedCodec, StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }

    let client_kind = if action == Action::Publish { ClientKind::RtcPublish } else { ClientKind::RtcPlay };
    let rids = match action {
        Action::Publish => negotiated.media(Kind::Video).map_or(Vec::new(), |m| m.rids.clone()),
        Action::Play => Vec::new(),
    };
    let is_simulcast = rids.len() > 1;
    let (publishing, watching, role) = match action {
        Action::Publish => {
            let guard = stream.publish(id, Ingest::Whip, claim).map_err(taken)?;
            let source = guard.source;
            stream.set_rids(source, rids.clone());
            (Some(guard), None, PeerRole::Publish { stream: stream.id, source })
        }
        Action::Play => {
            let guard = stream.watch(Watch::Whep, false);
            let role = PeerRole::Subscribe { stream: stream.id, audio_ssrc, video_ssrc, video_rtx_ssrc };
            (None, Some(guard), role)
        }
    };
    let peer = PeerId(id);
    let stats = Arc::new(PeerStats::default());
    let token = node.random_text::<16>();
    let etag = new_etag(node);
    let carrier = negotiated.medias.first().map_or((Kind::Audio, String::new()), |m| (m.kind, m.mid.clone()));
    let entry = Entry { id, kind: client_kind, ip, stream: name.clone(), since: node.clock.now() };
    let client = node.clients.add_peer(entry, peer, shard.clone(), stats.clone());
    let session = RtcSession {
        peer,
        shard: shard.clone(),
        token: token.clone(),
        ice: Mutex::new(IceSession { etag: etag.clone(), remote_ufrag }),
        carrier,
        stream: name,
        client,
        publishing,
        watching,
        wishes: is_simulcast.then(|| Wishes::new(rids, peer, shard.clone())),
        connected: AtomicBool::new(false),
    };
    node.add_session(session);
    let config = PeerConfig {
        id: peer,
        session: SessionConfig {
            local,
            remote,
            remote_fingerprint,
            identity: node.identity.clone(),
            base: node.clock.base(),
            role: dtls::Role::Passive,
            connect_timeout_ms: i64::try_from(node.config.webrtc.connect_timeout.as_millis())
                .unwrap_or(i64::MAX),
        },
        negotiated,
        role,
        home: stream.home.id,
        stats,
        seed,
    };
    if shard.order(Order::Shard(Command::AddPeer(Box::new(config)))).is_err() {
        node.forget_session(peer);
        let why = "the media plane is overloaded".into();
        return Err(refuse(Refusal::Internal, StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let counter = if action == Action::Publish { &node.metrics.publishes } else { &node.metrics.plays };
    counter.of(Protocol::WebRtc).add(1);
    tracing::info!(client = id, stream = %stream.name, %ip, shard = shard.id, kind = client_kind.srs(), "session");
    Ok(Made { answer, token, etag, is_simulcast })
}

/// PATCH /session/TOKEN: trickled candidates are taken and need no answer, as the node waits to be checked (ICE-lite); new credentials
/// are an ICE restart (RFC 9725 4.3.3), answered with ours.
pub async fn patch(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    content_type(&headers, FRAGMENT_TYPE)?;
    let session = find(&node, &token)?;
    let text = body_text(&node, body).await?;
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let fragment = sdp::parse_fragment(&text).map_err(|e| bad(e.to_string()))?;

    let mut ice = session.ice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let tags = headers.get_all(header::IF_MATCH).iter().map(|v| v.as_bytes()).collect::<Vec<_>>();
    if !tags.is_empty() && !tags.iter().any(|tags| matches(tags, &ice.etag)) {
        // RFC 9725 4.3.1.
        return Err(Refused(
            StatusCode::PRECONDITION_FAILED,
            "If-Match is not this session's entity tag".into(),
        ));
    }
    let Some(ufrag) = fragment.ufrag.filter(|ufrag| *ufrag != ice.remote_ufrag) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    if tags.is_empty() {
        // RFC 9725 4.3.3: a restart says "*". Candidates that come late, of a session before the last restart, look the same but for that.
        return Err(Refused(
            StatusCode::PRECONDITION_REQUIRED,
            "an ICE restart needs If-Match: * (RFC 9725 section 4.3.3)".into(),
        ));
    }
    let pwd = fragment.pwd.ok_or_else(|| bad("an ICE restart needs a=ice-pwd".into()))?;
    let local = ice::Credentials::from_entropy(&node.random_bytes());
    let candidates = candidates(&node, &session.shard);
    let answer = sdp::restart_fragment(&sdp::RestartAnswer {
        mid: &session.carrier.1,
        kind: session.carrier.0,
        ice: &sdp::Credentials { ufrag: local.ufrag.clone(), pwd: local.pwd.clone() },
        candidates: &candidates,
    });
    let remote = ice::Credentials { ufrag: ufrag.clone(), pwd };
    // In the shard's queue before the answer goes out; on an error the session is as it was.
    let order = Order::Shard(Command::RestartIce { peer: session.peer, local, remote });
    session.shard.order(order).map_err(|e| Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string()))?;
    *ice = IceSession { etag: new_etag(&node), remote_ufrag: ufrag };
    tracing::info!(client = session.client.id, stream = %session.stream, "ice restart");
    let headers = [(header::CONTENT_TYPE, FRAGMENT_TYPE), (header::ETAG, ice.etag.as_str())];
    Ok((StatusCode::OK, headers, answer).into_response())
}

/// DELETE /session/TOKEN
pub async fn delete(State(node): State<Arc<Node>>, Path(token): Path<String>) -> Answer {
    let session = find(&node, &token)?;
    session
        .client
        .end(CloseReason::Left)
        .map_err(|e| Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string()))?;
    // The name is free for the next publisher as soon as the answer is read.
    node.forget_session(session.peer);
    Ok(StatusCode::OK.into_response())
}

/// GET /session/TOKEN has no meaning (RFC 9725 4.2).
pub async fn look() -> Answer {
    let mut response =
        Refused(StatusCode::METHOD_NOT_ALLOWED, "a session takes PATCH and DELETE".into()).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("PATCH, DELETE, OPTIONS"));
    Ok(response)
}

/// RFC 9110 13.1.1: `*`, or a list of entity tags, of which one must be ours.
fn matches(wanted: &[u8], etag: &str) -> bool {
    wanted == b"*" || wanted.split(|b| *b == b',').any(|tag| tag.trim_ascii() == etag.as_bytes())
}

fn new_etag(node: &Node) -> String {
    format!("\"{}\"", node.random_text::<8>())
}

/// Where a session of this shard is reached.
fn candidates(node: &Node, shard: &ShardHandle) -> Vec<SocketAddr> {
    node.candidate_ips.iter().map(|ip| SocketAddr::new(*ip, shard.port)).collect()
}

pub fn find(node: &Node, token: &str) -> Result<Arc<RtcSession>, Refused> {
    let gone = || Refused(StatusCode::NOT_FOUND, "no such session; it may have ended".into());
    node.sessions.get(token).map(|s| s.clone()).ok_or_else(gone)
}

pub fn content_type(headers: &HeaderMap, wanted: &str) -> Result<(), Refused> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Refused(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("the content type must be {wanted}, not {given:?}"),
    ))
}

fn ssrcs(seed: u64) -> [u32; 3] {
    // Three different, non-zero numbers from one seed.
    let base = (seed as u32 & 0x3fff_ffff) << 2 | 1;
    [base, base + 1, base + 2]
}
