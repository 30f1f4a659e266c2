//! What `deploy/` says is what the node and systemd understand.
use std::process::Command;
use support::{node, root};

#[test]
fn the_configurations_are_right_and_name_each_other() {
    for id in ["a", "b", "c"] {
        let file = root().join(format!("deploy/config/{id}.toml"));
        let output =
            Command::new(node::binary()).arg("check").arg("--config").arg(&file).output().expect("it runs");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{told}");
        let text = std::fs::read_to_string(&file).expect("it is there");
        for other in ["a", "b", "c"] {
            let named = text.contains(&format!("\"{other}=10.0.0."));
            assert_eq!(named, other != id, "{id} and {other}");
        }
    }
}

#[test]
fn the_units_are_right() {
    let verify = |unit: &str| {
        let text = std::fs::read_to_string(root().join("deploy/systemd").join(unit)).expect("it is there");
        // The program is where it is here.
        let text =
            text.replace("/usr/bin/millrace", node::binary().to_str().expect("a path of ours is UTF-8"));
        let file = support::scratch().join(unit);
        std::fs::write(&file, text).expect("it can be written");
        Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(file).output()
    };
    for unit in ["millrace.service", "millrace-uplink.service"] {
        let Ok(output) = verify(unit) else {
            return support::tools::skipped("the_units_are_right", "systemd-analyze is not there");
        };
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = told.lines().filter(|line| line.contains(unit)).collect();
        assert!(output.status.success() && ours.is_empty(), "{told}");
    }
}
