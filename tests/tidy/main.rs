//! Rules of the tree that no compiler checks: who may import whom, what no file may contain, what must be there.
//! A break is reported as `file:line: rule`.
mod rules;
mod source;

use source::{Source, sources, tracked};
use support::root;

/// Files over [`rules::LINES_MAX`] lines that are one thing all the same, with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("sfu/src/shard.rs", "the packet path is one file, read top to bottom (design 4.1)")];

#[track_caller]
fn report(mut broken: Vec<String>) {
    broken.sort();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn each(rule: impl Fn(&Source) -> Vec<String>) {
    report(sources().iter().flat_map(rule).collect());
}

#[test]
fn crates_import_downwards_only() {
    let mut broken = Vec::new();
    for (folder, allowed) in rules::IMPORTS {
        let manifest = root().join(folder).join("Cargo.toml");
        // fuzz/ and benches/ are no members everywhere; a member without a line here is the next test's matter
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        broken.extend(rules::forbidden_imports(folder, allowed, &text));
    }
    report(broken);
}

#[test]
fn every_member_has_its_imports_named_here() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let members = text.lines().find(|line| line.starts_with("members")).expect("`members` in one line");
    let known = |member: &str| rules::IMPORTS.iter().any(|(folder, _)| *folder == member);
    let members = members.split('"').skip(1).step_by(2);
    report(
        members
            .filter(|it| !known(it))
            .map(|it| format!("{it}: no line in tests/tidy/rules.rs IMPORTS"))
            .collect(),
    );
}

#[test]
fn no_macro_that_stands_for_missing_work() {
    each(|source| source.forbid(&["todo!(", "unimplemented!(", "dbg!("], "unfinished work"));
}

#[test]
fn every_crate_says_what_it_is() {
    let roots =
        sources().iter().filter(|it| ["src/lib.rs", "src/main.rs"].iter().any(|end| it.path.ends_with(end)));
    report(
        roots.filter(|it| !it.text.starts_with("//!")).map(|it| format!("{}:1: no `//!`", it.path)).collect(),
    );
}

#[test]
fn the_core_has_no_io_no_clock_no_lock_no_await() {
    let core = |it: &Source| rules::CORE.iter().any(|folder| it.path.starts_with(folder));
    each(|source| {
        if core(source) {
            source.forbid_outside_tests(rules::NOT_IN_THE_CORE, "in a core crate")
        } else {
            vec![]
        }
    });
}

#[test]
fn unsafe_in_what_is_shipped_is_in_one_crate() {
    each(|source| {
        // programs that measure or emulate count allocations and call the kernel bare; nobody ships them
        if ["transport/udp/", "benches/", "fuzz/", "link/src/emulator/sys.rs"]
            .iter()
            .any(|folder| source.path.starts_with(folder))
        {
            return vec![];
        }
        source.forbid_outside_tests(
            &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"],
            "unsafe outside transport/udp",
        )
    });
}

#[test]
fn files_stay_readable() {
    each(|source| {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines <= rules::LINES_MAX || excused {
            return vec![];
        }
        vec![format!(
            "{}: {lines} lines, {} at most: split it, or give the reason in LONG_FILES",
            source.path,
            rules::LINES_MAX
        )]
    });
}

#[test]
fn excuses_are_still_needed() {
    let short = |path: &str| {
        sources().iter().all(|it| it.path != path || it.text.lines().count() < rules::LINES_MAX / 2)
    };
    report(
        LONG_FILES
            .iter()
            .filter(|(path, _)| short(path))
            .map(|(path, _)| format!("{path}: is short now"))
            .collect(),
    );
}

/// The tree is public: it names no package host (the clients' own settings do) and no path of a builder's machine.
#[test]
fn no_file_names_a_host_or_a_workplace() {
    let mut broken = Vec::new();
    for path in tracked() {
        // this file and its rules, the lock file (cargo writes it), and other people's code
        if path.starts_with("tests/tidy/")
            || path == "Cargo.lock"
            || path == "fuzz/Cargo.lock"
            || path.contains("/vendor/")
        {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in rules::workplace_words() {
                if line.contains(&word) {
                    broken.push(format!("{path}:{}: names {word}", number + 1));
                }
            }
        }
    }
    report(broken);
}

#[test]
fn the_documents_are_there() {
    let documents =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "deny.toml", "rust-toolchain.toml", ".ci/run"];
    let absent = documents.into_iter().filter(|path| !root().join(path).is_file());
    report(absent.map(|path| format!("{path}: is not there")).collect());
}
