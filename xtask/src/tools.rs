//! What the interop tests, the instruction counts and the comparison with peers need beside Rust, installed when we may: root with
//! apt-get for the programs, npm for the libraries that drive the browsers. What cannot be had is said once; the tests that need it then skip
//! themselves.
use crate::run::{program, root};
use std::path::Path;

/// Programs that answer this flag, and Debian's packages of them.
type Needed<'a> = (&'a str, &'a str, &'a str);

/// What the harness is tried against and compared with, and what makes its clip.
const PEERS: [Needed<'static>; 4] = [
    ("ffmpeg", "-version", "ffmpeg"),
    ("janus", "--help", "janus"),
    ("nginx", "-v", "nginx"),
    ("srt-live-transmit", "-version", "srt-tools"),
];
const RTMP_MODULE: (&str, &str) = ("/usr/lib/nginx/modules/ngx_rtmp_module.so", "libnginx-mod-rtmp");

/// Installs the peers that are missing; says what still is.
pub fn install_peers() {
    install_packages(&missing_peers());
}

fn missing(needed: &[Needed<'static>]) -> Vec<&'static str> {
    let absent = needed.iter().filter(|(name, flag, _)| !program(name, &[flag]).answers());
    absent.map(|(_, _, package)| *package).collect()
}

fn missing_peers() -> Vec<&'static str> {
    let mut packages = missing(&PEERS);
    if !Path::new(RTMP_MODULE.0).exists() {
        packages.push(RTMP_MODULE.1);
    }
    packages
}

/// Installs what is missing for the tests; says what still is.
pub fn install() {
    let mut packages = missing(&[
        ("ffprobe", "-version", "ffmpeg"),
        ("node", "--version", "nodejs"),
        ("npm", "--version", "npm"),
        ("ip", "-Version", "iproute2"),
        ("nats-server", "--version", "nats-server"),
        ("valgrind", "--version", "valgrind"),
    ]);
    packages.extend(missing_peers());
    for (variable, place, package) in
        [("CHROMIUM", "/usr/bin/chromium", "chromium"), ("FIREFOX", "/usr/bin/firefox-esr", "firefox-esr")]
    {
        let path = std::env::var(variable).unwrap_or_else(|_| place.into());
        if !Path::new(&path).exists() {
            packages.push(package);
        }
    }
    install_packages(&packages);
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

fn install_packages(packages: &[&str]) {
    if packages.is_empty() {
        return;
    }
    if !may_install() {
        println!("missing, and not ours to install: {}", packages.join(" "));
        return;
    }
    let apt = |arguments: &[&str]| {
        program("apt-get", arguments).with("DEBIAN_FRONTEND", "noninteractive").succeeds()
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    if !apt(&["update"]) || !apt(&install) {
        println!("could not install: {}", packages.join(" "));
    }
}

fn may_install() -> bool {
    let root = program("id", &["-u"]).output().is_some_and(|id| id.trim() == "0");
    root && program("apt-get", &["--version"]).answers()
}
