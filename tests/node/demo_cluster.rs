//! `millrace demo --cluster`: three nodes that a person can try, and kill.
use std::process::Command;
use std::time::Duration;
use support::flv::{AUDIO, VIDEO};
use support::peer::Peer;
use support::process::Process;
use support::sdp::{self, Way};
use support::{flv, http, node, unique, until};

const READY: Duration = Duration::from_secs(30);
const ARRIVES: Duration = Duration::from_secs(15);

struct Demo {
    process: Process,
    /// `http://...` of each node, and its process.
    nodes: Vec<(String, u32)>,
}

fn start() -> Demo {
    let mut command = Command::new(node::binary());
    command.args(["demo", "--cluster"]);
    let mut process = Process::start(&unique("demo-cluster"), &mut command);
    until("three pages are printed", READY, || {
        assert_eq!(process.ended(), None, "{}", process.output());
        process.output().contains("Ctrl-C ends all three").then_some(())
    });
    let output = process.output();
    let between =
        |line: &str, from: &str, to: &str| Some(line.split_once(from)?.1.split_once(to)?.0.to_owned());
    let urls = output.lines().filter_map(|it| between(it, "watch    ", "/play/live/demo"));
    let pids = output.lines().filter_map(|it| between(it, "(process ", ")")?.parse().ok());
    let nodes: Vec<(String, u32)> = urls.zip(pids).collect();
    assert_eq!(nodes.len(), 3, "{output}");
    Demo { process, nodes }
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[track_caller]
fn all_end(demo: &Demo) {
    for (_, pid) in &demo.nodes {
        until(&format!("process {pid} ends"), Duration::from_secs(10), || (!alive(*pid)).then_some(()));
    }
}

#[test]
fn a_clip_that_goes_in_at_one_node_is_watched_at_the_others_and_all_end() {
    let mut demo = start();
    for (base, _) in &demo.nodes {
        assert_eq!(http::get(&format!("{base}/play/live/demo")).status, 200);
        assert_eq!(http::get(&format!("{base}/")).status, 200);
    }
    for (base, _) in &demo.nodes[1..] {
        let response = until("FLV of the clip", ARRIVES, || {
            http::get_for(&format!("{base}/live/demo.flv"), Duration::from_secs(3))
                .ok()
                .filter(|it| it.status == 200)
        });
        let flv = flv::parse(&response.body).expect("it is FLV");
        assert_eq!(flv::backwards(&flv.tags), [""; 0]);
        for kind in [AUDIO, VIDEO] {
            let count = flv.tags.iter().filter(|it| it.kind == kind && !it.is_header()).count();
            assert!(count > 45, "{base}: {count} frames of type {kind}");
        }
        // Whose link to the first came later than the one to the other takes it by that one, for ten seconds.
        until("it comes from the first by one link", Duration::from_secs(30), || {
            let streams: serde_json::Value = http::get(&format!("{base}/api/v1/streams/")).json();
            (streams["streams"][0]["path"] == serde_json::json!(["a"])).then_some(())
        });
    }
    // WebRTC at the third.
    let base = demo.nodes[2].0.clone();
    let offered = format!("{base}/whep/live/demo");
    let mut viewer = Peer::connect_to(&offered, &sdp::offer(Way::Receive));
    until("picture and sound", ARRIVES, || {
        viewer.run(Duration::from_millis(50));
        (viewer.rtp.len() > 200).then_some(())
    });
    let folder = std::env::temp_dir().join(format!("millrace-demo-{}", demo.process.id()));
    assert!(folder.exists());
    let ended = demo.process.stop(Duration::from_secs(10));
    assert!(ended.is_some_and(|it| it.success()), "{}", demo.process.output());
    all_end(&demo);
    assert!(!folder.exists(), "keys are left behind");
}

#[test]
fn a_node_that_dies_is_told_of_and_the_others_go_on() {
    let mut demo = start();
    let (_, pid) = demo.nodes[1];
    let killed = Command::new("sh").arg("-c").arg(format!("kill -KILL {pid}")).status().expect("it runs");
    assert!(killed.success());
    until("it is told", ARRIVES, || {
        demo.process.output().contains("node b has died, signal: 9").then_some(())
    });
    let url = format!("{}/live/demo.flv", demo.nodes[2].0);
    until("the third goes on", ARRIVES, || {
        let response = http::get_for(&url, Duration::from_secs(2)).ok()?;
        flv::parse(&response.body).ok().filter(|it| it.tags.len() > 60)
    });
    // However it ends, the nodes end with it.
    demo.process.signal("KILL");
    assert!(demo.process.wait(Duration::from_secs(5)).is_some());
    all_end(&demo);
    let _ =
        std::fs::remove_dir_all(std::env::temp_dir().join(format!("millrace-demo-{}", demo.process.id())));
}
