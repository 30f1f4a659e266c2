//! `millrace-bench` as a process: whatever the scenario, the target or the server do, it ends, says what was wrong and what was reached,
//! and its exit code does not lie.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::process::Process;
use support::{Node, node, until};

/// A run of a second, on a machine that compiles at the same time.
const SOON: Duration = Duration::from_secs(30);

/// Clips are not encoded here.
fn publisher(protocol: &str) -> String {
    format!("[[publish]]\nprotocol = \"{protocol}\"\nfile = \"{}\"\n", support::clip().display())
}

fn start_as(name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-bench"));
    Process::start(name, command.args(arguments))
}

struct Bench {
    process: Process,
    json: PathBuf,
    started: Instant,
}

impl Bench {
    /// Starts `run` with a scenario, to which short times are added.
    fn run(scenario: &str, arguments: &[&str]) -> Bench {
        let name = format!("{}-{}", support::unique("bench"), std::process::id());
        let file = |end: &str| support::scratch().join(format!("{name}.{end}"));
        let (toml, json) = (file("toml"), file("json"));
        let text = format!("settle_seconds = 0.2\njoin_seconds = 1.0\npicture_seconds = 4\n{scenario}");
        std::fs::write(&toml, text).unwrap();
        let mut all = vec!["run", toml.to_str().unwrap(), "--json", json.to_str().unwrap()];
        all.extend(arguments);
        Bench { process: start_as(&name, &all), json, started: Instant::now() }
    }

    /// Starts a millrace, and a run with it.
    fn run_node(scenario: &str) -> Bench {
        Bench::run(scenario, &["--start", node::binary().to_str().unwrap()])
    }

    /// Waits until the measured time has gone on for a second.
    fn wait_measuring(&self) {
        until("measuring", SOON, || self.process.output().contains("measuring").then_some(()));
        let since = Instant::now();
        until("a second of it", SOON, || (since.elapsed() > Duration::from_secs(1)).then_some(()));
    }

    /// The child of that name.
    fn child(&self, name: &str) -> u32 {
        let wanted = |entry: std::fs::DirEntry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (own, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            (own == name && parent == self.process.id()).then_some(pid)
        };
        let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(wanted);
        found.unwrap_or_else(|| panic!("no child {name}"))
    }

    fn signal(&self, child: &str, signal: &str) {
        let pid = self.child(child);
        let status = Command::new("sh").arg("-c").arg(format!("kill -{signal} {pid}")).status();
        assert!(status.unwrap().success());
    }

    /// The end, within `limit` of now: exit code, what was printed, and the outcome.
    fn end(mut self, limit: Duration) -> End {
        let since = Instant::now();
        let status = self.process.wait(limit);
        let output = self.process.output();
        let status = status.unwrap_or_else(|| panic!("no end within {limit:?}:\n{output}"));
        let outcome = std::fs::read_to_string(&self.json).ok();
        let outcome = outcome.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
        let took = self.started.elapsed();
        End { code: status.code(), output, outcome, json: self.json.clone(), after: since.elapsed(), took }
    }
}

#[derive(Debug)]
struct End {
    code: Option<i32>,
    output: String,
    outcome: Value,
    json: PathBuf,
    after: Duration,
    took: Duration,
}

impl End {
    #[track_caller]
    fn assert_says(&self, part: &str) {
        assert!(self.output.contains(part), "{part:?} is not in:\n{}", self.output);
    }

    /// A run that failed, and whose outcome says so.
    #[track_caller]
    fn assert_failed(&self, complete: bool, part: &str) {
        assert_eq!((self.code, self.outcome["complete"].as_bool()), (Some(1), Some(complete)), "{self:?}");
        self.assert_says(part);
        let warnings = self.outcome["warnings"].to_string();
        assert!(!warnings.is_empty() && warnings != "[]", "{warnings}");
    }

    fn group(&self, name: &str) -> &Value {
        let groups = self.outcome["groups"].as_array().expect("groups");
        groups
            .iter()
            .find(|group| group["name"].as_str().is_some_and(|it| it.contains(name)))
            .expect("the group")
    }
}

/// What a verb prints and exits with that makes no run.
fn verb(arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = start_as(&support::unique("bench-verb"), arguments);
    let status = process.wait(SOON).expect("it ends");
    (status.code(), process.output())
}

/// A server whose connections are each handled by `handle`, until the test ends.
fn server(handle: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || handle(stream));
        }
    });
    address
}

/// A request's head and its body.
fn read_request(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4_096]);
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            _ => return text,
        }
    }
}

/// Watches by WHEP what somebody else publishes there.
fn whep_at(address: SocketAddr) -> String {
    format!(
        "seconds = 1\n[target]\nwhep = \"http://{address}/{{app}}/{{stream}}\"\n[[watch]]\nprotocol = \"whep\"\ncount = 3\n"
    )
}

#[test]
fn a_typo_is_told_with_its_place_before_anything_starts() {
    let end = Bench::run("[[watch]]\nprotocol = \"whep\"\nconut = 3\n", &[]).end(SOON);
    assert_eq!((end.code, &end.outcome), (Some(1), &Value::Null), "{end:?}");
    end.assert_says("conut");
    end.assert_says("line 6");
    let (code, output) = verb(&["run", "--watch", "whep:cuont=3"]);
    assert!(
        code == Some(1) && output.contains("--watch whep:cuont=3") && output.contains("cuont"),
        "{output}"
    );
    let (code, output) = verb(&["run", "no-such-scenario.toml"]);
    assert!(code == Some(1) && output.contains("cannot read no-such-scenario.toml"), "{output}");
}

#[test]
fn nobody_there_is_told_at_once_and_in_a_report() {
    let nobody = node::free_tcp();
    let scenario = format!("[target]\nrtmp = \"rtmp://{nobody}/{{app}}/{{stream}}\"\n");
    let watch = "[[watch]]\nprotocol = \"rtmp\"\ncount = 2\n";
    let html = support::scratch().join("bench-nobody.html");
    let arguments = ["--html", html.to_str().unwrap()];
    let end = Bench::run(&(scenario + &publisher("rtmp") + watch), &arguments).end(SOON);
    end.assert_failed(false, "Connection refused");
    end.assert_says(&format!("rtmp://{nobody}/live/bench"));
    end.assert_says("none of 1 clients got through");
    assert_eq!(end.group("watch")["with_picture"], 0);
    assert!(std::fs::read_to_string(html).unwrap().contains("Connection refused"));
}

#[test]
fn a_server_that_accepts_and_stays_silent_is_given_up_on() {
    let silent = server(|mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    });
    let end = Bench::run(&whep_at(silent), &[]).end(SOON);
    end.assert_failed(false, "3 failed: no answer within 1000 ms");
    assert!(end.took < Duration::from_secs(15), "{:?}", end.took);
    let rtmp = format!("[target]\nrtmp = \"rtmp://{silent}/{{app}}/{{stream}}\"\n");
    let end = Bench::run(&(rtmp.clone() + &publisher("rtmp")), &[]).end(SOON);
    end.assert_failed(false, "publishing was not accepted within 1000 ms");
    let end = Bench::run(&(rtmp + "[[watch]]\nprotocol = \"rtmp\"\n"), &[]).end(SOON);
    end.assert_failed(false, "no picture within 1000 ms");
}

#[test]
fn nonsense_for_an_answer_is_told_as_that() {
    type Handle = fn(TcpStream);
    let cases: [(&str, Handle); 5] = [
        ("the answer to POST", |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\n\r\ngarbage");
        }),
        ("the answer is no HTTP", |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(b"\x03\x00\xff garbage\r\n\r\n");
        }),
        ("was answered 404: not here", |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnot here");
        }),
        ("closed the connection within its answer", |mut stream| {
            read_request(&mut stream);
        }),
        // An answer without an end must neither fill the memory nor keep the others waiting.
        ("the answer is longer than", |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 201 Created\r\n\r\n");
            while stream.write_all(&[b'a'; 65_536]).is_ok() {}
        }),
    ];
    for (part, handle) in cases {
        let end = Bench::run(&whep_at(server(handle)), &[]).end(SOON);
        end.assert_failed(false, part);
        assert_eq!(end.group("watch")["failed"], 3, "{end:?}");
    }
}

#[test]
fn an_answer_that_lies_of_its_keys_is_no_connection() {
    let node = Node::start();
    let push = support::ffmpeg::push_clip(&node.rtmp_url("bench"));
    node.wait_live("bench");
    let real: &'static str = node.url("").leak();
    // The offer goes to a real node; of its answer every second digit of the fingerprint is another.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let request = read_request(&mut stream);
            let (head, offer) = request.split_once("\r\n\r\n").unwrap_or_default();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let headers = [("Content-Type", "application/sdp")];
            let answer = support::http::request("POST", &format!("{real}{path}"), &headers, offer.as_bytes());
            let lines = answer.unwrap().text().replace("sha-256 ", "sha-256 \n");
            let lies: Vec<String> = lines
                .split('\n')
                .map(|line| {
                    if line.matches(':').count() == 31 {
                        line.replace(['0', '4', 'A'], "5")
                    } else {
                        line.into()
                    }
                })
                .collect();
            let lies = lies.join("\n").replace("sha-256 \n", "sha-256 ");
            let _ = write!(stream, "HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{lies}", lies.len());
        }
    });
    let scenario = format!(
        "[target]\nwhep = \"http://{address}/whep/{{app}}/{{stream}}\"\n[[watch]]\nprotocol = \"whep\"\n"
    );
    let end = Bench::run(&scenario, &["--seconds", "1"]).end(SOON);
    end.assert_failed(false, "1 failed: ");
    assert_eq!(end.group("watch")["with_picture"], 0, "{end:?}");
    // The same node serves those to whom nobody lies.
    let scenario =
        format!("[target]\nwhep = \"{real}/whep/{{app}}/{{stream}}\"\n[[watch]]\nprotocol = \"whep\"\n");
    let end = Bench::run(&scenario, &["--seconds", "1"]).end(SOON);
    assert_eq!((end.code, end.group("watch")["with_picture"].as_u64()), (Some(0), Some(1)), "{end:?}");
    drop(push);
}

/// WebRTC in and out: no connection breaks when the server is gone, so nothing but a look at it can tell.
fn by_webrtc() -> String {
    format!("seconds = 20\n{}[[watch]]\nprotocol = \"whep\"\ncount = 2\n", publisher("whip"))
}

#[test]
fn a_server_that_is_killed_ends_the_run_with_what_was_reached() {
    let bench = Bench::run_node(&by_webrtc());
    bench.wait_measuring();
    bench.signal("millrace", "KILL");
    let end = bench.end(SOON);
    end.assert_failed(false, "millrace ended");
    assert!(end.after < Duration::from_secs(8), "{:?}", end.after);
    assert!(end.group("watch")["frames"].as_u64() > Some(20), "{end:?}");
    assert!(end.outcome["server"]["rss_bytes"].as_u64() > Some(1 << 20), "as it was last seen: {end:?}");
}

#[test]
fn a_server_that_stops_answering_is_told_by_the_silence() {
    let bench = Bench::run_node(&by_webrtc().replace("seconds = 20", "seconds = 6"));
    bench.wait_measuring();
    bench.signal("millrace", "STOP");
    let end = bench.end(SOON);
    end.assert_failed(true, "nothing came in the last");
    end.assert_says("no metrics");
    let delivered = end.group("watch")["delivered_percent"].as_f64().unwrap();
    assert!(delivered > 5.0 && delivered < 70.0, "{end:?}");
}

#[test]
fn a_worker_that_dies_does_not_take_the_others_counts_along() {
    let scenario = by_webrtc().replace("[[publish]]", "[harness]\nworkers = 2\n[[publish]]");
    let bench = Bench::run_node(&scenario);
    bench.wait_measuring();
    // Of the two, one or the other.
    bench.signal("millrace-bench", "KILL");
    let end = bench.end(SOON);
    end.assert_failed(false, "not everything was counted: worker");
    assert!(end.after < Duration::from_secs(8), "{:?}", end.after);
    let frames = |name: &str| end.group(name)["frames"].as_u64().unwrap();
    assert!(frames("watch") > 20, "{end:?}");
}

#[test]
fn a_good_run_is_reported_compared_and_searched() {
    let scenario = format!(
        "name = \"A & <B>\"\nseconds = 1\n{}[[watch]]\nprotocol = \"whep\"\ncount = 2\n",
        publisher("rtmp")
    );
    let end = Bench::run_node(&scenario).end(SOON);
    assert_eq!((end.code, end.outcome["complete"].as_bool()), (Some(0), Some(true)), "{end:?}");
    let json = end.json.to_str().unwrap();
    let html = support::scratch().join("bench-report.html");
    let (code, output) = verb(&["report", json, "--html", html.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{output}");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("A &amp; &lt;B&gt;") && page.contains("<svg") && !page.contains("<B>"));
    let (code, output) = verb(&["compare", json, json]);
    assert!(code == Some(0) && output.contains("delay p99 ms") && output.contains("B/A"), "{output}");

    let toml = end.json.with_extension("toml");
    let trials = end.json.with_extension("trials.json");
    let millrace = node::binary().to_str().unwrap();
    let search = ["search", toml.to_str().unwrap(), "--start", millrace, "--from", "1", "--to", "2"];
    // Others compile beside this test: what is asked here is the search, not the speed.
    let easy = ["--p99-max-ms", "5000", "--loss-max-percent", "50", "--json", trials.to_str().unwrap()];
    let (code, output) = verb(&[&search[..], &easy[..]].concat());
    assert!(code == Some(0) && output.contains("at least 2 viewers"), "{output}");
    let trials: Value = serde_json::from_str(&std::fs::read_to_string(trials).unwrap()).unwrap();
    assert_eq!(trials["trials"].as_array().map(Vec::len), Some(2));
    assert_eq!((&trials["trials"][1]["verdict"], &trials["found"]["most"]), (&"good".into(), &2.into()));
}

#[test]
fn files_that_are_no_results_are_clear_errors() {
    let corrupt = support::scratch().join("bench-corrupt.json");
    std::fs::write(&corrupt, "{\"format\": 1, \"scen").unwrap();
    let corrupt = corrupt.to_str().unwrap();
    for arguments in [
        &["compare", "no-such.json", corrupt][..],
        &["compare", corrupt, "no-such.json"],
        &["compare", corrupt],
        &["report", corrupt, "--html", "never.html"],
        &["report", "no-such.json", "--html", "never.html"],
        &["search", "--publish", "rtmp"],
        &["search", "--publish", "rtmp", "--watch", "whep", "--watch", "rtmp"],
    ] {
        let (code, output) = verb(arguments);
        assert!(code != Some(0), "{arguments:?}: {output}");
        let says = ["no-such.json", "is no result of a run", "2 more", "values", "--watch"];
        assert!(
            says.iter().any(|part| output.contains(part)) && !output.contains("panicked"),
            "{arguments:?}: {output}"
        );
    }
    assert!(!Path::new("never.html").exists());
}
