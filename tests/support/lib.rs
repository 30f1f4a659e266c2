//! What the test programs share: a node on free ports, an RTMP and an HTTP client of their own (a test that used
//! the node's parsers would share their mistakes), ffmpeg, a browser, and the meters for flash and beep.
#![allow(missing_docs, reason = "fields of test tools say it by their names")]
pub mod analyse;
pub mod browser;
pub mod cluster;
pub mod ffmpeg;
pub mod flv;
pub mod http;
pub mod nat;
pub mod nats;
pub mod netns;
pub mod node;
pub mod peer;
pub mod place;
pub mod process;
pub mod rtmp;
pub mod sdp;
pub mod tools;
pub mod wait;
pub mod websocket;
pub mod wire;

pub use node::Node;
pub use wait::until;

use std::path::{Path, PathBuf};

/// The top of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the checkout")
}

/// A folder for logs and recordings, kept after the run to look at.
pub fn scratch() -> PathBuf {
    let folder = root().join("tests/interop/out");
    std::fs::create_dir_all(&folder).expect("tests/interop/out can be made");
    folder
}

/// The clip the project ships: 1280x720, 30 fps, a key frame a second; H.264 baseline and AAC-LC 48 kHz stereo;
/// a flash in the top left and a beep, both 100 ms long, at each whole second.
pub fn clip() -> PathBuf {
    root().join("web/clip/demo.flv")
}

/// `name-1`, `name-2`, ...: a name no other test of this process uses.
pub fn unique(name: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
