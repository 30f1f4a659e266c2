//! The HTTP door: WHIP and WHEP, FLV, the API, pages. Plain HTTP/1.1; a proxy in front brings TLS.

mod api;
mod flv;
mod layer;
mod pages;
mod srs;
mod stall;
mod whip;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::{Refusal, Route};
use tokio::net::TcpListener;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::auth::Action;
use crate::door::Door;
use crate::node::Node;
use stall::Stall;

/// A request's head, and then its body, must be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Who takes nothing of an answer, or of a stream, for so long is given up.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// Connections at once; a viewer of FLV holds one.
const CONNECTIONS_MAX: usize = 20_000;

/// An answer that is not what was asked for: its status, and a text that says what is wrong.
#[derive(Debug)]
pub struct Refused(pub StatusCode, pub String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1 + "\n").into_response();
        if self.0 == StatusCode::UNAUTHORIZED {
            // RFC 9110 15.5.2: a 401 says how to authenticate.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.0 == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

type Answer = Result<Response, Refused>;

/// Serves until the node drains, then lets requests under way end.
pub async fn serve(node: Arc<Node>, app: Router, listener: TcpListener) {
    let mut door = Door::new(&node, listener, CONNECTIONS_MAX);
    while let Some((socket, from, slot)) = door.next().await {
        let app = app.clone();
        crate::task::spawn(node.metrics.clone(), async move {
            let _slot = slot;
            let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(ConnectInfo(from));
                let app = app.clone();
                async move { tower::ServiceExt::oneshot(app, request.map(Body::new)).await }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(
                    TokioIo::new(Stall::new(socket, WRITE_STALL)),
                    TowerToHyperService::new(service),
                )
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%from, %error, "http connection");
            }
        });
    }
}

/// Every route. A mistake in them panics here, before the node says that it serves.
pub fn router(node: Arc<Node>) -> Router {
    let body_max = node.config.http.request_body_bytes_max;
    Router::new()
        .route("/whip/{app}/{stream}", post(whip::publish))
        .route("/whep/{app}/{stream}", post(whip::play))
        .route("/session/{token}", get(whip::look).patch(whip::patch).delete(whip::delete))
        .route("/session/{token}/layer", get(layer::show).post(layer::choose))
        .route("/session/{token}/wanted", get(layer::wanted))
        .route("/rtc/v1/whip", post(srs::whip))
        .route("/rtc/v1/whip/", post(srs::whip))
        .route("/rtc/v1/whep", post(srs::whep))
        .route("/rtc/v1/whep/", post(srs::whep))
        .route("/rtc/v1/whip-play", post(srs::whep))
        .route("/rtc/v1/whip-play/", post(srs::whep))
        .route("/rtc/v1/publish", post(srs::publish))
        .route("/rtc/v1/publish/", post(srs::publish))
        .route("/rtc/v1/play", post(srs::play))
        .route("/rtc/v1/play/", post(srs::play))
        .route("/api/v1/versions", get(api::versions))
        .route("/api/v1/versions/", get(api::versions))
        .route("/api/v1/streams", get(api::streams))
        .route("/api/v1/streams/", get(api::streams))
        .route("/api/v1/streams/{id}", get(api::stream))
        .route("/api/v1/nodes", get(api::nodes))
        .route("/api/v1/nodes/", get(api::nodes))
        .route("/api/v1/clients", get(api::clients))
        .route("/api/v1/clients/", get(api::clients))
        .route("/api/v1/clients/{id}", get(api::client).delete(api::kick))
        .route("/", get(pages::console))
        .route("/play/{app}/{stream}", get(pages::play))
        .route("/publish/{app}/{stream}", get(pages::publish))
        .route("/assets/{*name}", get(pages::asset))
        .route("/favicon.ico", get(pages::icon))
        .route("/{app}/{file}", get(flv::get))
        .layer(cors(&node))
        .layer(middleware::from_fn(accept_post))
        .layer(middleware::from_fn_with_state(node.clone(), count))
        .layer(DefaultBodyLimit::max(body_max))
        .with_state(node)
}

fn cors(node: &Node) -> CorsLayer {
    let origins = &node.config.http.cors_origins;
    let origin = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    // RFC 9725 4.9: Location, ETag, Link and Accept-Patch must be readable by scripts of other origins.
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH])
        .expose_headers([
            header::LOCATION,
            header::ETAG,
            header::LINK,
            HeaderName::from_static("accept-patch"),
        ])
        .max_age(Duration::from_secs(3600))
}

/// OPTIONS of a WHIP or WHEP endpoint says what POST takes (RFC 9725 4.9 and the Accept-Post field of LDP 7.1); the CORS layer answers it.
async fn accept_post(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let takes_sdp = ["/whip/", "/whep/", "/rtc/v1/wh"].iter().any(|start| path.starts_with(start));
    let options = takes_sdp && request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if options {
        response
            .headers_mut()
            .insert(HeaderName::from_static("accept-post"), HeaderValue::from_static("application/sdp"));
    }
    response
}

async fn count(
    State(node): State<Arc<Node>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = match path.as_ref().map_or("", |p| p.as_str()) {
        p if p.starts_with("/whip") => Route::Whip,
        p if p.starts_with("/whep") => Route::Whep,
        p if p.starts_with("/session") => Route::Session,
        p if p.starts_with("/rtc/v1/") => Route::SrsRtc,
        p if p.starts_with("/api/") => Route::Api,
        "/{app}/{file}" => Route::Flv,
        "" => Route::Other,
        _ => Route::Page,
    };
    let response = next.run(request).await;
    node.metrics.http_request(route, response.status().as_u16());
    response
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

/// Whether a request may publish or play; a refusal is counted.
fn admit(node: &Node, action: Action, query: &str, headers: &HeaderMap) -> Result<(), Refused> {
    node.admit(action, query, authorization(headers)).map_err(|denied| {
        node.metrics.refused.of(Refusal::Unauthorized).add(1);
        Refused(StatusCode::UNAUTHORIZED, denied.to_string())
    })
}

/// A whole body, within its time; its size is bounded by the settings.
async fn body_text(node: &Node, body: Body) -> Result<String, Refused> {
    let max = node.config.http.request_body_bytes_max;
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, max)).await;
    let bytes: Bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            node.metrics.refused.of(Refusal::TooLarge).add(1);
            return Err(Refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {max} bytes, or broke off"),
            ));
        }
        Err(_) => return Err(Refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time".into())),
    };
    String::from_utf8(bytes.into())
        .map_err(|_| Refused(StatusCode::BAD_REQUEST, "the body is not UTF-8 text".into()))
}

/// Where a client is.
pub type From = ConnectInfo<SocketAddr>;
