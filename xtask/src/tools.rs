//! What the interop tests and the instruction counts need beside Rust, installed when we may: root with apt-get for the programs,
//! npm for the libraries that drive the browsers. What cannot be had is said once; the tests that need it then skip themselves.
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
        ("ip", "-Version", "iproute2"),
        ("valgrind", "--version", "valgrind"),
    ] {
        if !program(name, &[flag]).answers() && !packages.contains(&package) {
            packages.push(package);
        }
    }
    for (variable, place, package) in
        [("CHROMIUM", "/usr/bin/chromium", "chromium"), ("FIREFOX", "/usr/bin/firefox-esr", "firefox-esr")]
    {
        let path = std::env::var(variable).unwrap_or_else(|_| place.into());
        if !Path::new(&path).exists() {
            packages.push(package);
        }
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
            println!("missing for the tests, and not ours to install: {}", packages.join(" "));
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
            println!("could not install playwright-core and puppeteer-core: `npm ci` in tests/interop");
        }
    }
}

fn may_install() -> bool {
    let root = program("id", &["-u"]).output().is_some_and(|id| id.trim() == "0");
    root && program("apt-get", &["--version"]).answers()
}
