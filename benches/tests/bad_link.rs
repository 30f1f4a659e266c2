//! A viewer behind a bad network, with real programs on both sides of it: the node and a publisher at one end, the harness's WHEP viewers
//! at the other, the link emulator between.

use std::time::Duration;

use link::emulator::{Emulator, Options, Side};
use link::{Config, Loss};
use serde_json::Value;
use support::process::Process;
use support::{Node, need, unique};

const VIEWERS: u64 = 2;

/// The harness at a side, with a scenario of its own.
fn bench(emulator: &Emulator, side: Side, name: &str, scenario: &str, arguments: &[&str]) -> Process {
    let file = support::scratch().join(format!("{name}.toml"));
    std::fs::write(&file, scenario).unwrap();
    let mut command = emulator.command(side, env!("CARGO_BIN_EXE_millrace-bench"));
    Process::start(name, command.arg("run").arg(file).args(arguments))
}

#[test]
fn viewers_behind_a_lossy_link_get_the_stream() {
    need!(Link);
    let config = Config { delay_us: 50_000, loss: Loss::Random { per_mille: 50 }, ..Config::default() };
    let options = Options { configs: [config; 2], seed: 5, ..Options::default() };
    let emulator = Emulator::start(&options).unwrap();
    let near = emulator.namespace(Side::A);
    let node = near.within(|| Node::start_on(Side::A.address(), &[])).unwrap();

    let name = format!("{}-{}", unique("bad-link"), std::process::id());
    let clip = support::clip();
    let publish = format!(
        "seconds = 120\n[target]\nrtmp = \"rtmp://{}/{{app}}/{{stream}}\"\n\
         [[publish]]\nprotocol = \"rtmp\"\nstream = \"live/bad\"\nfile = \"{}\"\n",
        node.rtmp,
        clip.display()
    );
    let _publisher = bench(&emulator, Side::A, &format!("{name}-publish"), &publish, &[]);
    near.within(|| node.wait_live("bad")).unwrap();

    // a lost datagram of the handshake costs a second
    let watch = format!(
        "seconds = 10\njoin_seconds = 20.0\npicture_seconds = 25\n[target]\nwhep = \"http://{}/whep/{{app}}/{{stream}}\"\n\
         [[watch]]\nprotocol = \"whep\"\nstream = \"live/bad\"\ncount = {VIEWERS}\nnack = true\n",
        node.http
    );
    let json = support::scratch().join(format!("{name}.json"));
    let arguments = ["--json", json.to_str().unwrap()];
    let mut viewers = bench(&emulator, Side::B, &format!("{name}-watch"), &watch, &arguments);
    let status = viewers.wait(Duration::from_secs(60)).expect("the run ends");
    assert!(status.success(), "{}", viewers.output());

    let outcome: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let group = &outcome["groups"][0];
    let count = |field: &str| group[field].as_u64().unwrap_or_else(|| panic!("{field} of {group:#}"));
    eprintln!(
        "5 % each way, 100 ms: {} of {} packets, {} of them again, {} frames of {}; {}",
        count("packets"),
        count("packets_due"),
        count("packets_recovered"),
        count("frames"),
        count("frames_due"),
        group["freezes_ms"]
    );
    assert_eq!(count("with_picture"), VIEWERS);
    // the path was as bad as it should be, in both directions
    for side in Side::BOTH {
        let link = emulator.figures(side).link;
        let percent = 100.0 * link.lost as f64 / link.packets as f64;
        assert!((3.0..7.0).contains(&percent), "{link:?}");
    }
    // and repair made most of it good: one packet in 20 was lost, and not one in 50 stays so
    assert!(count("packets_due") > VIEWERS * 10 * 30, "{group:#}");
    assert!(count("packets_recovered") * 60 > count("packets_due"), "{group:#}");
    assert!(count("packets_lost") * 50 < count("packets_due"), "{group:#}");
}
