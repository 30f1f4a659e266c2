//! The pages, embedded in the binary.

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline: names of streams are outside text.
const POLICY: &str = "default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self' ws: wss:; \
                      style-src 'self'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'";

/// GET /
pub async fn console() -> Response {
    page(include_str!("../../web/console.html"))
}

/// GET /play/APP/STREAM
pub async fn play() -> Response {
    page(include_str!("../../web/play.html"))
}

/// GET /publish/APP/STREAM
pub async fn publish() -> Response {
    page(include_str!("../../web/publish.html"))
}

/// GET /favicon.ico
pub async fn icon() -> Response {
    asset(Path("icon.svg".into())).await
}

/// GET /assets/NAME
pub async fn asset(Path(name): Path<String>) -> Response {
    macro_rules! assets {
        ($($name:literal => $mime:literal,)*) => {
            match name.as_str() {
                $($name => ($mime, &include_bytes!(concat!("../../web/assets/", $name))[..]),)*
                _ => return (StatusCode::NOT_FOUND, "no such file\n").into_response(),
            }
        };
    }
    let (mime, bytes) = assets! {
        "style.css" => "text/css; charset=utf-8",
        "console.js" => "text/javascript; charset=utf-8",
        "play.js" => "text/javascript; charset=utf-8",
        "publish.js" => "text/javascript; charset=utf-8",
        "flv.js" => "text/javascript; charset=utf-8",
        "page.js" => "text/javascript; charset=utf-8",
        "signal.js" => "text/javascript; charset=utf-8",
        "stats.js" => "text/javascript; charset=utf-8",
        "whep.js" => "text/javascript; charset=utf-8",
        "whip.js" => "text/javascript; charset=utf-8",
        "icon.svg" => "image/svg+xml",
        "vendor/mpegts.js" => "text/javascript; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, mime),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, bytes).into_response()
}

fn page(html: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("referrer-policy"), "same-origin"),
    ];
    (headers, html).into_response()
}
