//! What `deploy/` says is what the node, systemd and nats-server understand.
use link::emulator::Namespace;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use support::process::Process;
use support::{http, node, root, unique, until};

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
        // That one is a package of the system; whether it is here is not asked.
        let text = text.replace("/usr/sbin/nats-server", "/bin/true");
        let file = support::scratch().join(unit);
        std::fs::write(&file, text).expect("it can be written");
        Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(file).output()
    };
    for unit in ["millrace.service", "millrace-uplink.service", "millrace-nats.service"] {
        let Ok(output) = verify(unit) else {
            return support::tools::skipped("the_units_are_right", "systemd-analyze is not there");
        };
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = told.lines().filter(|line| line.contains(unit)).collect();
        assert!(output.status.success() && ours.is_empty(), "{told}");
    }
}

/// Three servers with the file as it is, but for who listens where: the addresses are those of one machine here.
#[test]
fn the_nats_servers_are_a_quorum_for_who_has_the_password() {
    support::need!(Nats, Link);
    let machine = Namespace::create().expect("`need!` has made one");
    let text = std::fs::read_to_string(root().join("deploy/nats/nats.conf")).expect("it is there");
    let servers = ["a", "b", "c"].map(|name| {
        let own = format!("10.0.0.1{}", 1 + "abc".find(name).expect("one of them"));
        machine.ip(&["address", "add", &format!("{own}/24"), "dev", "lo"]).expect("an address");
        let run = unique(&format!("deployed-nats-{name}-{}", std::process::id()));
        let kept = support::scratch().join(&run);
        let text = text.replace("0.0.0.0", &own).replace("127.0.0.1", &own);
        let text = text.replace("/var/lib/millrace-nats", kept.to_str().expect("a path of ours is UTF-8"));
        let file = support::scratch().join(format!("{run}.conf"));
        std::fs::write(&file, text).expect("it can be written");
        let mut command = machine.command("nats-server");
        (own, Process::start(&run, command.arg("-c").arg(file).env("NATS_NAME", name)), kept)
    });
    let state = |own: &str| {
        let url = format!("http://{own}:8222/jsz");
        machine
            .within(|| http::request("GET", &url, &[], b""))
            .expect("the namespace")
            .ok()
            .map(|it| it.json())
    };
    for (own, ..) in &servers {
        until(&format!("{own} is one of three"), Duration::from_secs(20), || {
            let meta = state(own)?["meta_cluster"].clone();
            let leader = meta["leader"].as_str().is_some_and(|it| ["a", "b", "c"].contains(&it));
            (leader && meta["cluster_size"] == 3).then_some(())
        });
    }
    for (user, answer) in
        [(r#""user":"millrace","pass":"change-me""#, "PONG"), (r#""user":"millrace""#, "-ERR")]
    {
        let said = machine.within(|| said_to(&servers[0].0, user)).expect("the namespace");
        assert!(said.contains(answer), "{user}: {said}");
    }
    for (_, process, kept) in servers {
        drop(process);
        let _ = std::fs::remove_dir_all(kept);
    }
}

/// What a server answers to who says that.
fn said_to(server: &str, user: &str) -> String {
    let mut stream = TcpStream::connect((server, 4222)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes it");
    write!(stream, "CONNECT {{\"verbose\":false,{user}}}\r\nPING\r\n").expect("it is heard");
    let lines = BufReader::new(stream).lines().map_while(Result::ok).skip(1);
    lines.take(1).collect()
}
