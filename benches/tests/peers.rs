//! The harness against servers of others: every client that this node's own tests do not need delivers every frame. It runs the program as
//! an operator does; what is not installed is skipped, by name.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const VIEWERS: u64 = 2;

/// Runs `millrace-bench peers` with this server alone; the lines of its tables, `None` when it is not installed.
fn lines(name: &str, server: &str) -> Option<Vec<serde_json::Value>> {
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("peers-{server}.json"));
    let _ = std::fs::remove_file(&json);
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/clip/demo.flv");
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args([
            "peers",
            "--servers",
            server,
            "--viewers",
            &VIEWERS.to_string(),
            "--seconds",
            "3",
            "--rounds",
            "1",
        ])
        // Any two cores that there are.
        .args([
            "--start-core",
            "0",
            "--core",
            "0",
            "--file",
            &clip.to_string_lossy(),
            "--json",
            &json.to_string_lossy(),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if let Some(why) = said.lines().find(|line| line.contains("is left out")) {
        // Past the test harness's capture, so that a passing run shows it too.
        let _ = writeln!(std::io::stderr(), "SKIPPED peers::{name}: {why}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for line in &lines {
        assert_eq!(line["pictures"], VIEWERS as f64, "{line} {said}");
        assert_eq!(line["delivered_percent"], 100.0, "{line} {said}");
        assert!(line["p50_ms"].as_f64().unwrap() > 0.0, "{line}");
    }
    Some(lines)
}

#[test]
fn nginx_serves_rtmp_and_hls_to_our_viewers() {
    let Some(lines) = lines("nginx_serves_rtmp_and_hls_to_our_viewers", "nginx") else { return };
    let ways: Vec<&str> = lines.iter().filter_map(|line| line["watch"].as_str()).collect();
    assert_eq!(ways, ["rtmp", "hls"]);
    let delay = |line: usize| lines[line]["p50_ms"].as_f64().unwrap();
    assert!(delay(1) > 200.0 && delay(1) > delay(0), "frames of a segment wait for its end: {lines:?}");
}

#[test]
fn janus_serves_webrtc_to_our_viewers() {
    let Some(lines) = lines("janus_serves_webrtc_to_our_viewers", "janus") else { return };
    assert_eq!(lines.len(), 1);
}
