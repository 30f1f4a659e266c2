//! What the interop tests need beside Rust, installed when we may: root with apt-get for the programs, npm for the
//! library that drives Chromium. What cannot be had is said once; the tests that need it then skip themselves.
use crate::run::{program, root};
use std::path::Path;

/// Installs what is missing; says what still is.
pub fn install() {
    let mut packages = Vec::new();
    for (name, flag, package) in [
        ("ffmpeg", "-version", "ffmpeg"),
        ("ffprobe", "-version", "ffmpeg"),
        ("node", "--version", "nodejs"),
        ("npm", "--version", "npm"),
    ] {
        if !program(name, &[flag]).answers() && !packages.contains(&package) {
            packages.push(package);
        }
    }
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    if !Path::new(&chromium).exists() {
        packages.push("chromium");
    }
    if !packages.is_empty() {
        if may_install() {
            let apt = |arguments: &[&str]| {
                program("apt-get", arguments).with("DEBIAN_FRONTEND", "noninteractive").succeeds()
            };
            let install = [&["install", "--yes", "--no-install-recommends"], &packages[..]].concat();
            if !apt(&["update"]) || !apt(&install) {
                println!("could not install: {}", packages.join(" "));
            }
        } else {
            println!("missing for the interop tests, and not ours to install: {}", packages.join(" "));
        }
    }
    // the lock file decides the version; `npm ci` is repeated when it changed
    let folder = root().join("tests/interop");
    let stamp = folder.join("node_modules/.package-lock.json");
    let age = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    let fresh = age(&stamp).is_some_and(|it| Some(it) >= age(&folder.join("package-lock.json")));
    if !fresh && program("npm", &["--version"]).answers() {
        let install = program("npm", &["ci", "--no-audit", "--no-fund"]).within("tests/interop");
        if !install.succeeds() {
            println!("could not install playwright-core: `npm ci` in tests/interop");
        }
    }
}

fn may_install() -> bool {
    let root = program("id", &["-u"]).output().is_some_and(|id| id.trim() == "0");
    root && program("apt-get", &["--version"]).answers()
}
