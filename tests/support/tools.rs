//! Which outside programs are here. A test that lacks one says so by name and is counted as skipped, by the line
//! `SKIPPED name: why` on standard error, which `cargo xtask test` counts.
use crate::netns::Namespace;
use link::emulator::{Emulator, Options};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An outside program a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `ffmpeg` and `ffprobe`.
    Ffmpeg,
    /// Chromium, Node.js, and playwright-core in tests/interop/node_modules.
    Browser,
    /// Firefox, Node.js, puppeteer-core, and the right to make a network namespace for it.
    Firefox,
    /// TUN devices, and the right to make them and network namespaces.
    Link,
    /// `nats-server`.
    Nats,
}

impl Tool {
    /// What of it is not here; `None` when all is.
    pub fn missing(self) -> Option<String> {
        let mut absent: Vec<String> = Vec::new();
        match self {
            Tool::Ffmpeg => {
                absent.extend(
                    ["ffmpeg", "ffprobe"]
                        .iter()
                        .filter(|it| !runs(it, "-version"))
                        .map(|it| format!("no {it}")),
                );
            }
            Tool::Browser => absent.extend(no_browser(&chromium(), "CHROMIUM", "playwright-core")),
            Tool::Firefox => {
                absent.extend(no_browser(&firefox(), "FIREFOX", "puppeteer-core"));
                absent.extend(Namespace::create().err().map(|error| error.to_string()));
            }
            Tool::Nats if !runs("nats-server", "--version") => absent.push("no nats-server".into()),
            Tool::Nats => {}
            Tool::Link => absent.extend(Emulator::start(&Options::default()).err().map(|it| it.to_string())),
        }
        (!absent.is_empty()).then(|| absent.join(", "))
    }
}

/// Where Chromium is: `$CHROMIUM`, or Debian's place.
pub fn chromium() -> PathBuf {
    std::env::var_os("CHROMIUM").map_or_else(|| Path::new("/usr/bin/chromium").into(), PathBuf::from)
}

/// Where Firefox is: `$FIREFOX`, or Debian's place.
pub fn firefox() -> PathBuf {
    std::env::var_os("FIREFOX").map_or_else(|| Path::new("/usr/bin/firefox-esr").into(), PathBuf::from)
}

fn no_browser(program: &Path, variable: &str, library: &str) -> Vec<String> {
    let mut absent = Vec::new();
    if !program.exists() {
        absent.push(format!("no {} (or set {variable})", program.display()));
    }
    if !runs("node", "--version") {
        absent.push("no node".into());
    }
    if !crate::root().join("tests/interop/node_modules").join(library).exists() {
        absent.push(format!("no {library} (`npm ci` in tests/interop)"));
    }
    absent
}

fn runs(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Says that a test did not run. Written past the test harness's capture, so that a passing run shows it too.
pub fn skipped(name: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// Returns from the test, counted as skipped, unless every tool named is here: `need!(Ffmpeg, Browser)`.
#[macro_export]
macro_rules! need {
    ($($tool:ident),+) => {
        fn here() {}
        for tool in [$($crate::tools::Tool::$tool),+] {
            if let Some(why) = tool.missing() {
                let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
                $crate::tools::skipped(name, &why);
                return;
            }
        }
    };
}
