//! Ways from node to node that `millrace-bench hop` compares: over a link that loses nothing each delivers every frame whole, about as late as
//! the path is long. It runs the program as an operator does; what is not installed is skipped, by name.

use std::path::Path;
use std::process::{Command, Stdio};

use support::need;
use support::node::binary;
use support::tools::skipped;

/// A link's delay one way, and what its round trip is.
const PATH_MS: f64 = 25.0;
const RTT_MS: f64 = 2.0 * PATH_MS;

/// Runs an arm for a few seconds; the figures of its run, `None` when it is not installed.
fn figures(arm: &str) -> Option<serde_json::Value> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hop-{arm}"));
    let _ = std::fs::remove_dir_all(&out);
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(["hop", "--arms", arm, "--kbps", "1000", "--loss", "0", "--rtt", &RTT_MS.to_string()])
        .args(["--seeds", "1", "--seconds", "2", "--settle-seconds", "1", "--out", &out.to_string_lossy()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if let Some(why) = said.lines().find(|line| line.contains("cannot be run")) {
        skipped(&format!("hop::{arm}"), why);
        return None;
    }
    assert!(output.status.success(), "{said}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let results: serde_json::Value = serde_json::from_str(&read("hop.json")).unwrap();
    // a table for people, one for programs, and a plot
    assert!(read("hop.md").contains("| carried by |"), "{said}");
    assert_eq!(read("hop.tsv").lines().count(), 2, "{said}");
    assert!(read("delay-1000k-1x50ms-loss0.svg").contains("</svg>"), "{said}");
    Some(results["runs"][0]["figures"].clone())
}

/// Every frame is there, in the median not before the path allows it and not much later; no more bytes cross than frames and headers.
fn check(arm: &str, held_ms: f64) {
    let Some(figures) = figures(arm) else { return };
    let number =
        |field: &str| figures[field].as_f64().unwrap_or_else(|| panic!("{arm}: {field} of {figures}"));
    assert_eq!((number("frames"), number("undelivered_percent")), (60.0, 0.0), "{arm}: {figures}");
    let (least, most) = (PATH_MS + held_ms, PATH_MS + held_ms + 200.0);
    assert!((least - 5.0..most).contains(&number("p50_ms")), "{arm}: {least} to {most} ms: {figures}");
    // the machine may be busy, and what is sent twice for that is no failure
    assert!((1.02..1.5).contains(&number("wire")), "{arm}: {figures}");
}

#[test]
fn every_way_delivers_whole_frames() {
    need!(Link);
    binary();
    check("udp", 0.0);
    check("millrace", 0.0);
    check("rtmp-bbr", 0.0);
    // Nagle's algorithm is on in it, and holds a frame's end back until the next frame comes
    check("nginx-bbr", 0.0);
    // it gives a packet when its latency is over, not before
    check("srt-4rtt", 4.0 * RTT_MS);
}
