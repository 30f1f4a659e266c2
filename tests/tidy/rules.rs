//! The rules, as data.

/// A file of more lines is two things.
pub const LINES_MAX: usize = 700;

/// Which of our crates each folder may import: media, metrics -> transport/* -> sfu -> src, protocol crates never
/// each other. What two need moves down to media; what must know both moves up to src.
pub const IMPORTS: &[(&str, &[&str])] = &[
    ("media", &[]),
    ("metrics", &[]),
    ("transport/udp", &[]),
    ("transport/rtc", &["media", "metrics"]),
    ("transport/rtmp", &["media", "metrics"]),
    // link is for its tests: hops over paths that lose
    ("transport/relay", &["media", "link"]),
    // decisions alone: what crosses the wire for them is the relay's
    ("cluster", &["media"]),
    // the shard drives sessions, so it knows rtc; it must not know rtmp, nor touch a socket (udp)
    ("sfu", &["media", "metrics", "rtc"]),
    // a model of a path, and its emulator: knows nothing of what it carries
    ("link", &["media"]),
    // runs shards and sessions in a world of its own; nothing that is shipped imports it
    ("sim", &["media", "metrics", "rtc", "sfu", "link"]),
    // the test programs look at the node from outside; rtc has the client side of WebRTC, and wire/ checks formats
    ("tests", &["media", "rtc", "rtmp", "relay", "link"]),
    ("xtask", &[]),
    ("benches", &["media", "metrics", "udp", "rtc", "rtmp", "relay", "sfu", "link", "millrace"]),
    ("fuzz", &["media", "metrics", "udp", "rtc", "rtmp", "relay", "cluster", "sfu", "millrace"]),
];

const OURS: &[&str] =
    &["media", "metrics", "udp", "rtc", "rtmp", "relay", "cluster", "sfu", "link", "sim", "millrace"];

/// Crates where time, chance and bytes are arguments.
pub const CORE: &[&str] = &[
    "media/src/",
    "sfu/src/",
    "transport/rtc/src/",
    "transport/rtmp/src/",
    "transport/relay/src/",
    "cluster/src/",
    "link/src/model/",
];

/// What would make a core crate untestable from a seed.
pub const NOT_IN_THE_CORE: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "Mutex",
    "RwLock",
    "async fn",
    ".await",
    "std::fs",
    "println!(",
    "SystemRandom",
    "thread_rng",
];

/// Package hosts and a builder's paths. Put together here, so that this file does not name them either.
pub fn workplace_words() -> Vec<String> {
    let hosts = [
        ("crates", "io/"),
        ("registry.npmjs", "org"),
        ("static.crates", "io"),
        ("index.crates", "io"),
        ("pypi", "org"),
        ("deb.debian", "org"),
        ("npmjs", "com"),
    ];
    let mut words: Vec<String> = hosts.iter().map(|(name, end)| format!("//{name}.{end}")).collect();
    words.extend(["work", "root", "home"].iter().map(|it| format!(" /{it}/")));
    words.extend(["work", "root", "home"].iter().map(|it| format!("\"/{it}/")));
    words
}

/// Dependencies of ours in a manifest that the folder may not have.
pub fn forbidden_imports(folder: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut of_dependencies = false;
    for (number, line) in manifest.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            // dev-dependencies may look anywhere but up: tests of media do not start an sfu either
            of_dependencies = section.contains("dependencies");
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let name = name.strip_prefix("millrace-").unwrap_or(name);
        if of_dependencies && OURS.contains(&name) && !allowed.contains(&name) {
            broken.push(format!("{folder}/Cargo.toml:{}: imports {name}", number + 1));
        }
    }
    broken
}

#[test]
fn a_forbidden_import_is_seen() {
    let manifest =
        "[package]\nname = \"millrace-media\"\n[dependencies]\nbytes = \"1\"\nsfu.workspace = true\n";
    assert_eq!(forbidden_imports("media", &[], manifest), vec!["media/Cargo.toml:5: imports sfu"]);
    assert!(forbidden_imports("media", &["sfu"], manifest).is_empty());
}
