//! `millrace-link` from outside.
use link::emulator::ip;
use std::process::Command;
use std::time::Duration;
use support::process::Process;
use support::{need, unique, until};

const SOON: Duration = Duration::from_secs(20);

fn start(arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-link"));
    Process::start(&unique("link-program"), command.args(arguments))
}

/// Its exit code and what it printed.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = start(arguments);
    let status = process.wait(SOON).expect("it ends");
    (status.code(), process.output())
}

#[test]
fn it_runs_a_command_and_exits_as_that_does() {
    need!(Link);
    let (code, said) = run(&["--delay", "1ms", "--", "sh", "-c", "ip -brief address show link0; exit 7"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("10.0.0.1/24") && said.contains("a to b: 0 packets"), "{said}");
}

#[test]
fn an_interrupt_ends_it_with_its_figures_and_nothing_is_left() {
    need!(Link);
    let names = [unique("link-a"), unique("link-b")].map(|it| format!("{it}-{}", std::process::id()));
    let mut process = start(&["--a", &names[0], "--b", &names[1], "--loss", "100%", "--from", "a"]);
    until("it says where", SOON, || {
        process.output().contains(&format!("exec {} COMMAND", names[1])).then_some(())
    });
    // one packet, which is lost
    let mut send = Command::new("ip");
    send.args(["netns", "exec", &names[0], "bash", "-c", "echo x > /dev/udp/10.0.0.2/9"]);
    assert!(send.status().unwrap().success());
    process.signal("INT");
    let status = process.wait(SOON).expect("it ends");
    let said = process.output();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("a to b: 1 packets, 30 bytes; 0 delivered, 1 lost"), "{said}");
    let left = ip(&["netns", "list"]).unwrap();
    assert!(names.iter().all(|name| !left.contains(name)), "{left}");
}

#[test]
fn an_interrupt_ends_a_command_that_goes_on() {
    need!(Link);
    let mut process = start(&["--", "sh", "-c", "echo inside; exec sleep 600"]);
    until("the command runs", SOON, || process.output().contains("inside").then_some(()));
    process.signal("TERM");
    let status = process.wait(SOON).expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", process.output());
}

#[test]
fn a_planned_outage_begins_and_ends() {
    need!(Link);
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo x > /dev/udp/10.0.0.2/9; sleep 0.1; done";
    let (code, said) = run(&["--outage-at", "500ms,500ms", "--from", "a", "--", "bash", "-c", script]);
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with("a to b: 15 packets")).expect(&said);
    let out: u32 =
        line.split(" in an outage").next().and_then(|it| it.rsplit(' ').next()?.parse().ok()).unwrap();
    assert!((3..=7).contains(&out), "{line}");
}

#[test]
fn what_is_wrong_is_said() {
    need!(Link);
    let (code, said) = run(&["--delay", "50"]);
    assert!(code == Some(2) && said.contains("such as 50ms"), "{said}");
    let (code, said) = run(&["--loss", "60%", "--bursts", "1"]);
    assert!(code == Some(2) && said.contains("50.0% at most"), "{said}");
    let name = format!("{}-{}", unique("link-taken"), std::process::id());
    let taken = link::emulator::Namespace::named(&name).unwrap();
    let (code, said) = run(&["--a", &name]);
    assert!(code == Some(2) && said.contains(&format!("ip netns delete {name}")), "{said}");
    drop(taken);
    let (code, said) = run(&["--", "/no/such/program"]);
    assert!(code != Some(0) && said.contains("/no/such/program"), "{said}");
}

#[test]
fn without_root_it_says_so() {
    need!(Link);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups", "--", env!("CARGO_BIN_EXE_millrace-link")]);
    let mut process = Process::start(&unique("link-nobody"), &mut command);
    let status = process.wait(SOON).expect("it ends");
    assert!(status.code() == Some(2) && process.output().contains("need root"), "{}", process.output());
}
