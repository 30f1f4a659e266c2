//! Real nats-server processes with JetStream, one or three as a quorum, and a client of their protocol that shares no code with the node's.
use crate::node::free_tcp;
use crate::place::Place;
use crate::process::Process;
use crate::{http, unique, until};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long servers may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// One request; then the next server is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Servers of one cluster. Dropping it ends them; what they kept is deleted.
pub struct Nats {
    folder: PathBuf,
    name: String,
    /// Who may connect; `None`: everybody.
    user: Option<(String, String)>,
    servers: Vec<Server>,
}

struct Server {
    place: Place,
    process: Option<Process>,
    clients: SocketAddr,
    routes: SocketAddr,
    monitor: SocketAddr,
}

/// A key's value in a bucket, and the revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub revision: u64,
    pub value: Vec<u8>,
}

impl Entry {
    /// The value as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.value).expect("the record is JSON")
    }
}

impl Nats {
    /// One server.
    pub fn one() -> Nats {
        Nats::of(1, None)
    }

    /// One server, for who has the password. Its buckets are not read from here.
    pub fn guarded(user: &str, password: &str) -> Nats {
        Nats::of(1, Some((user.into(), password.into())))
    }

    /// Three servers: any two of them go on.
    pub fn quorum() -> Nats {
        Nats::of(3, None)
    }

    /// One server at each of these places, as a quorum where they are more than one.
    #[track_caller]
    pub fn at(places: &[Place]) -> Nats {
        let server = |place: &Place| {
            let on = |port| SocketAddr::from((place.address, port));
            Server {
                place: place.clone(),
                process: None,
                clients: on(4222),
                routes: on(6222),
                monitor: on(8222),
            }
        };
        Nats::begin_all(places.iter().map(server).collect(), None)
    }

    #[track_caller]
    fn of(count: usize, user: Option<(String, String)>) -> Nats {
        let server = |_| {
            let [clients, routes, monitor] = [(); 3].map(|()| free_tcp());
            Server { place: Place::HERE, process: None, clients, routes, monitor }
        };
        Nats::begin_all((0..count).map(server).collect(), user)
    }

    #[track_caller]
    fn begin_all(servers: Vec<Server>, user: Option<(String, String)>) -> Nats {
        let name = format!("{}-{}", unique("nats"), std::process::id());
        let mut nats = Nats { folder: crate::scratch().join(&name), name, user, servers };
        (0..nats.servers.len()).for_each(|nth| nats.begin(nth));
        nats.wait_ready();
        nats
    }

    /// `["nats://127.0.0.1:PORT", ...]`, as `cluster.nats` takes it.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(|it| format!("\"nats://{}\"", it.clients)).collect();
        format!("[{}]", urls.join(", "))
    }

    /// Kills a server (SIGKILL), and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill(&mut self, nth: usize) {
        let mut process = self.servers[nth].process.take().expect("the server runs");
        process.signal("KILL");
        assert!(process.wait(READY_LIMIT).is_some(), "{} does not end", self.server_name(nth));
    }

    /// A server stands still: who asks it waits. Until it goes on.
    pub fn pause(&self, nth: usize, on: bool) {
        if let Some(process) = &self.servers[nth].process {
            process.signal(if on { "STOP" } else { "CONT" });
        }
    }

    /// Kills all servers, and waits until they are gone.
    ///
    /// # Panics
    /// When one does not run.
    #[track_caller]
    pub fn kill_all(&mut self) {
        (0..self.servers.len()).for_each(|nth| self.kill(nth));
    }

    /// Starts one that was killed, with what it had kept, and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self, nth: usize) {
        self.begin(nth);
        self.wait_ready();
    }

    /// Starts all again that were killed.
    #[track_caller]
    pub fn restart_all(&mut self) {
        (0..self.servers.len()).for_each(|nth| self.begin(nth));
        self.wait_ready();
    }

    /// What a server that was killed had kept is gone.
    pub fn forget(&mut self, nth: usize) {
        let _ = std::fs::remove_dir_all(self.folder.join(nth.to_string()));
    }

    fn server_name(&self, nth: usize) -> String {
        format!("{}-{nth}", self.name)
    }

    fn begin(&mut self, nth: usize) {
        let name = self.server_name(nth);
        let server = &self.servers[nth];
        let mut command = Command::new("nats-server");
        let address = server.clients.ip().to_string();
        command.args(["--addr", &address, "--port", &server.clients.port().to_string()]);
        command.args(["--http_port", &server.monitor.port().to_string()]);
        command.args(["--name", &name, "--jetstream", "--store_dir"]).arg(self.folder.join(nth.to_string()));
        if let Some((user, password)) = &self.user {
            command.args(["--user", user, "--pass", password]);
        }
        if self.servers.len() > 1 {
            let routes: Vec<String> = self.servers.iter().map(|it| format!("nats://{}", it.routes)).collect();
            command.args(["--cluster_name", &self.name, "--cluster_listen"]);
            command.args([format!("nats://{}", server.routes), "--routes".into(), routes.join(",")]);
        }
        let process = server.place.within(|| Process::start(&name, &mut command));
        self.servers[nth].process = Some(process);
    }

    /// All that run serve, and agree on who leads them.
    #[track_caller]
    fn wait_ready(&mut self) {
        let count = self.servers.len();
        for server in &mut self.servers {
            let (place, monitor) = (server.place.clone(), server.monitor);
            let ask = |path: &str| {
                let url = format!("http://{monitor}/{path}");
                let response = place.within(|| http::request("GET", &url, &[], b"").ok())?;
                (response.status == 200).then(|| response.json())
            };
            let Some(process) = &mut server.process else { continue };
            until("nats-server is ready", READY_LIMIT, || {
                assert_eq!(process.ended(), None, "nats-server has ended");
                ask("healthz")?;
                let meta = ask("jsz")?["meta_cluster"].clone();
                let agreed = meta["cluster_size"] == count && meta["leader"].as_str() != Some("");
                (count == 1 || agreed && meta["leader"].is_string()).then_some(())
            });
        }
    }

    /// The server that leads a bucket's quorum.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn leader(&self, bucket: &str) -> usize {
        until(&format!("{bucket} has a leader"), READY_LIMIT, || {
            let info = self.request(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), b"").ok()?;
            let info: Value = serde_json::from_slice(&info).ok()?;
            let leader = info["cluster"]["leader"].as_str()?.to_owned();
            (0..self.servers.len()).find(|nth| self.server_name(*nth) == leader)
        })
    }

    /// A key's newest value; `None` when there is none, or it was deleted.
    ///
    /// # Panics
    /// When no server answers.
    #[track_caller]
    pub fn get(&self, bucket: &str, key: &str) -> Option<Entry> {
        let ask = json!({"last_by_subj": format!("$KV.{bucket}.{key}")}).to_string();
        let answer = until(&format!("{bucket} answers"), READY_LIMIT, || {
            let answer = self.request(&format!("$JS.API.STREAM.MSG.GET.KV_{bucket}"), ask.as_bytes()).ok()?;
            let answer: Value = serde_json::from_slice(&answer).ok()?;
            let code = answer["error"]["code"].as_u64();
            (code.is_none() || code == Some(404)).then_some(answer)
        });
        let message = answer.get("message")?;
        // A header says that it was deleted.
        if message.get("hdrs").is_some_and(|it| decode(it).windows(12).any(|it| it == b"KV-Operation")) {
            return None;
        }
        let revision = message["seq"].as_u64().expect("a sequence number");
        Some(Entry { revision, value: message.get("data").map(decode).unwrap_or_default() })
    }

    /// Writes a key, whatever is there; the revision.
    ///
    /// # Panics
    /// When the bucket does not take it.
    #[track_caller]
    pub fn put(&self, bucket: &str, key: &str, value: &[u8]) -> u64 {
        let answer = self.request(&format!("$KV.{bucket}.{key}"), value).expect("the bucket answers");
        let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{bucket} does not take {key}: {answer}"))
    }

    /// Asks the first server that answers.
    fn request(&self, subject: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let running = self.servers.iter().filter(|it| it.process.is_some());
        let mut last = io::Error::other("no server runs");
        for server in running {
            match server.place.within(|| exchange(server.clients, subject, body)) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.servers.clear();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// One request on a connection of its own.
fn exchange(server: SocketAddr, subject: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let hello = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
    write!(stream, "{hello}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n", body.len())?;
    stream.write_all(&[body, b"\r\n"].concat())?;
    let mut reader = BufReader::new(stream);
    let end = Instant::now() + ANSWER_LIMIT;
    while Instant::now() < end {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: Option<&&str>| word.and_then(|it| it.parse::<usize>().ok());
        match words.first() {
            Some(&"PING") => reader.get_mut().write_all(b"PONG\r\n")?,
            Some(&"MSG") => {
                let mut answer = vec![0; number(words.last()).ok_or(io::ErrorKind::InvalidData)?];
                reader.read_exact(&mut answer)?;
                return Ok(answer);
            }
            // With headers there is only "no responders".
            Some(&("HMSG" | "-ERR")) => return Err(io::Error::other(format!("{subject}: {line}"))),
            _ => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Base64, as JetStream's API writes bytes.
fn decode(text: &Value) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.as_str().unwrap_or_default();
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|it| *it == byte));
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", &b""[..]), ("YQ==", b"a"), ("YWI=", b"ab"), ("YWJj", b"abc"), ("+/8=", &[0xfb, 0xff])]
        {
            assert_eq!(decode(&json!(text)), bytes, "{text}");
        }
    }

    /// A bucket by hand: the quorum keeps it when its leader is killed, and takes the leader back.
    #[test]
    fn a_quorum_keeps_what_it_was_given() {
        crate::need!(Nats);
        let mut nats = Nats::quorum();
        let bucket = json!({
            "name": "KV_b", "subjects": ["$KV.b.>"], "max_msgs_per_subject": 1, "num_replicas": 3,
            "allow_rollup_hdrs": true, "discard": "new",
        });
        let made =
            nats.request("$JS.API.STREAM.CREATE.KV_b", bucket.to_string().as_bytes()).expect("an answer");
        assert!(!String::from_utf8_lossy(&made).contains("error"), "{}", String::from_utf8_lossy(&made));
        assert_eq!(nats.get("b", "key"), None);
        assert_eq!(nats.put("b", "key", b"one"), 1);
        let leader = nats.leader("b");
        nats.kill(leader);
        assert_eq!(nats.get("b", "key"), Some(Entry { revision: 1, value: b"one".into() }));
        assert_ne!(nats.leader("b"), leader);
        assert_eq!(nats.put("b", "key", b"two"), 2);
        nats.restart(leader);
        assert_eq!(nats.get("b", "key"), Some(Entry { revision: 2, value: b"two".into() }));
    }
}
