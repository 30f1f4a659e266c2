//! Nothing stays behind, however it ends.
use crate::traffic::start;
use link::Config;
use link::emulator::{Emulator, Side, ip};
use std::process::Command;
use std::time::Duration;
use support::process::Process;
use support::{need, unique, until};

fn namespaces() -> Vec<String> {
    let list = ip(&["netns", "list"]).unwrap();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

fn names(emulator: &Emulator) -> [String; 2] {
    Side::BOTH.map(|side| emulator.namespace(side).name().to_string())
}

#[track_caller]
fn assert_gone(names: &[String]) {
    let there = namespaces();
    assert!(names.iter().all(|name| !there.contains(name)), "{names:?} of {there:?}");
}

fn runs(process: u32) -> bool {
    // a zombie waits for its parent, and runs no more
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn dropping_it_ends_what_runs_inside_and_removes_it() {
    need!(Link);
    let emulator = start([Config::default(); 2]);
    let names = names(&emulator);
    assert!(names.iter().all(|name| namespaces().contains(name)));
    let mut child = emulator.command(Side::B, "sleep").arg("600").spawn().unwrap();
    until("the program has entered", Duration::from_secs(5), || {
        ip(&["netns", "pids", &names[1]]).unwrap().contains(&child.id().to_string()).then_some(())
    });
    drop(emulator);
    assert_gone(&names);
    let status = until("it is killed", Duration::from_secs(5), || child.try_wait().unwrap());
    assert!(!status.success());
}

#[test]
fn a_panic_leaves_nothing() {
    need!(Link);
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let emulator = start([Config::default(); 2]);
        sender.send(names(&emulator)).unwrap();
        // as a test that fails while its emulator lives
        assert_eq!(emulator.figures(Side::A).link.packets, 1, "this panic is part of the test");
    });
    assert!(panicked.join().is_err());
    assert_gone(&receiver.recv().unwrap());
}

#[test]
fn what_a_killed_program_left_is_removed_by_the_next() {
    need!(Link);
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-link"));
    let mut killed = Process::start(&unique("link-killed"), command.args(["--", "sleep", "600"]));
    let prefix = format!("mr{}-", killed.id());
    let own = || -> Vec<String> { namespaces().into_iter().filter(|it| it.starts_with(&prefix)).collect() };
    let inside = until("its program runs", Duration::from_secs(10), || {
        let pids =
            own().iter().map(|name| ip(&["netns", "pids", name]).unwrap_or_default()).collect::<String>();
        pids.trim().parse::<u32>().ok().filter(|id| {
            std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "sleep")
        })
    });
    killed.signal("KILL");
    killed.wait(Duration::from_secs(5)).expect("it is killed");
    // it could do nothing about these
    assert_eq!(own().len(), 2);
    assert!(runs(inside));
    drop(start([Config::default(); 2]));
    assert_gone(&own());
    assert_eq!(own(), Vec::<String>::new());
    until("what ran inside is ended", Duration::from_secs(5), || (!runs(inside)).then_some(()));
}
