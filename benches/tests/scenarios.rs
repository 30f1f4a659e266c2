//! The harness against a real node (`NODE_UNDER_TEST`, as `cargo xtask test` sets it): what it reports is what the scenario must give.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Runs a scenario against a node started for it; the outcome's JSON. `None` when there is no node to test.
fn run(name: &str, scenario: &str) -> Option<Value> {
    let Some(node) = std::env::var_os("NODE_UNDER_TEST") else {
        println!(
            "SKIPPED scenarios::{name}: NODE_UNDER_TEST names no node; `cargo xtask test` builds and names one"
        );
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (folder.path().join("scenario.toml"), folder.path().join("outcome.json"));
    std::fs::write(&file, scenario).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .arg("run")
        .arg(&file)
        .arg("--start")
        .arg(PathBuf::from(node))
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    println!("{out}");
    Some(serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap())
}

fn number(group: &Value, path: &str) -> f64 {
    let value = path.split('.').fold(group, |value, key| &value[key]);
    value.as_f64().unwrap_or_else(|| panic!("no {path} in {group}"))
}

/// Small pictures: the node under test is a debug build, on a machine that runs other tests.
const MEDIA: &str = "kbps = 300\nsize = \"320x180\"\ngop = 15\n";

#[test]
fn every_protocol_gets_every_frame() {
    let publish =
        |protocol| format!("[[publish]]\nprotocol = \"{protocol}\"\nstream = \"live/{protocol}\"\n{MEDIA}");
    let watch = |protocol, stream| {
        format!("[[watch]]\nprotocol = \"{protocol}\"\nstream = \"live/{stream}\"\ncount = 2\n")
    };
    let mut scenario = "seconds = 4\n[harness]\nworkers = 2\n".to_owned();
    for source in ["rtmp", "whip"] {
        scenario += &publish(source);
        scenario += &["whep", "rtmp"].map(|protocol| watch(protocol, source)).concat();
    }
    let Some(outcome) = run("every_protocol_gets_every_frame", &scenario) else { return };
    let groups = outcome["groups"].as_array().unwrap();
    let (publishers, viewers): (Vec<&Value>, Vec<&Value>) =
        groups.iter().partition(|group| group["publishes"] == true);
    assert_eq!((publishers.len(), viewers.len()), (2, 4));
    for group in publishers {
        assert!((115.0..=125.0).contains(&number(group, "frames")), "{group}");
    }
    for group in viewers {
        assert_eq!(number(group, "with_picture"), 2.0, "{group}");
        assert_eq!(
            (number(group, "delivered_percent"), number(group, "worst_percent")),
            (100.0, 100.0),
            "{group}"
        );
        assert_eq!((number(group, "packets_lost"), number(group, "frames_foreign")), (0.0, 0.0), "{group}");
        assert!(number(group, "delay_ms.p50") > 0.0 && number(group, "delay_ms.p50") < 500.0, "{group}");
        assert!(number(group, "skew_ms.count") >= 2.0 && number(group, "skew_ms.p50") < 40.0, "{group}");
        assert!(number(group, "kbps_min") > 300.0, "{group}");
    }
    assert!(number(&outcome["server"], "cpu.percent") > 0.0 && number(&outcome["server"], "rss_bytes") > 1e6);
    let metrics = outcome["server"]["metrics"].as_array().unwrap();
    assert!(metrics.iter().any(|sample| sample[0].as_str().unwrap().contains("packets")), "{metrics:?}");
    assert!(
        outcome["timeline"].as_array().unwrap().iter().filter(|second| second["measured"] == true).count()
            >= 3
    );
}

#[test]
fn rooms_churn_storms_and_bad_links_are_what_they_say() {
    let scenario = format!(
        "seconds = 5\n[[rooms]]\ncount = 1\nmembers = 3\n{MEDIA}\n[[publish]]\nprotocol = \"rtmp\"\n{MEDIA}\n\
         [[watch]]\nprotocol = \"whep\"\ncount = 2\n\
         [[watch]]\nprotocol = \"whep\"\ncount = 4\nchurn_per_second = 4\n\
         [[watch]]\nprotocol = \"rtmp\"\ncount = 3\nstorm_at = [1]\n\
         [[watch]]\nprotocol = \"whep\"\ncount = 2\nloss_percent = 5\nnack = true\n"
    );
    let Some(outcome) = run("rooms_churn_storms_and_bad_links_are_what_they_say", &scenario) else { return };
    let viewers: Vec<&Value> =
        outcome["groups"].as_array().unwrap().iter().filter(|group| group["publishes"] == false).collect();
    let [room, steady, churn, storm, lossy] = viewers[..] else { panic!("{viewers:?}") };
    assert_eq!(number(room, "clients"), 6.0, "three members watch two each");
    for group in [room, steady, churn, storm] {
        assert_eq!(
            (number(group, "delivered_percent"), number(group, "packets_lost")),
            (100.0, 0.0),
            "{group}"
        );
    }
    assert!((15.0..=25.0).contains(&number(churn, "joins")), "{churn}");
    assert_eq!(number(storm, "joins"), 3.0, "{storm}");
    assert!(number(lossy, "packets_discarded") > 0.0 && number(lossy, "packets_recovered") > 0.0, "{lossy}");
    assert!(number(lossy, "delivered_percent") > 90.0, "{lossy}");
    assert_eq!(number(steady, "packets_discarded"), 0.0);
}

#[test]
fn the_scenarios_that_come_with_it_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7);
    for file in files {
        let output =
            Command::new(env!("CARGO_BIN_EXE_millrace-bench")).args(["check"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}
