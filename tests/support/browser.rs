//! One Chromium or Firefox, driven by tests/interop/browser/driver.mjs over pipes.
use crate::netns::Namespace;
use link::emulator::{Emulator, Side};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A browser; dropping it closes it.
pub struct Browser {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// Those that came before they were asked for.
    answers: Vec<Value>,
    next: u64,
}

/// How long anything in the browser may take.
const LIMIT: Duration = Duration::from_secs(60);

impl Browser {
    /// Starts Chromium.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start() -> Browser {
        let mut command = Command::new("node");
        command.args(["browser/driver.mjs", "chromium"]).env("CHROMIUM", crate::tools::chromium());
        Browser::launch(command)
    }

    /// Starts Chromium at one end of a path.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start_at(path: &Emulator, side: Side) -> Browser {
        let mut command = path.command(side, "node");
        command.args(["browser/driver.mjs", "chromium"]).env("CHROMIUM", crate::tools::chromium());
        Browser::launch(command)
    }

    /// Starts Firefox. It takes no loopback address for WebRTC, so it runs on a network of its own.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start_firefox(network: &Namespace) -> Browser {
        let mut command = network.command("node");
        command.args(["browser/driver.mjs", "firefox"]).env("FIREFOX", crate::tools::firefox());
        Browser::launch(command)
    }

    #[track_caller]
    fn launch(mut command: Command) -> Browser {
        command.current_dir(crate::root().join("tests/interop"));
        let log = crate::scratch().join(format!("{}.log", crate::unique("browser")));
        let errors = std::fs::File::create(&log).expect("the log file can be made");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().expect("node runs");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("the output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        let mut browser = Browser { child, input, lines, answers: Vec::new(), next: 1 };
        let hello = browser.answer(0);
        assert!(hello.is_ok(), "the browser did not start ({}): {hello:?}", log.display());
        browser
    }

    /// Calls a function of client.js in a page.
    ///
    /// # Errors
    /// What it threw.
    pub fn call(&mut self, page: &str, name: &str, arguments: Value) -> Result<Value, String> {
        self.operation(json!({"op": "call", "page": page, "name": name, "args": arguments}))
    }

    /// The same, for calls that must not throw.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn run(&mut self, page: &str, name: &str, arguments: Value) -> Value {
        match self.call(page, name, arguments.clone()) {
            Ok(value) => value,
            Err(error) => panic!("{name}({arguments}): {error}"),
        }
    }

    /// The same in two pages at once: what each says.
    ///
    /// # Panics
    /// When one throws.
    #[track_caller]
    pub fn run_both(&mut self, pages: [&str; 2], name: &str, arguments: Value) -> [Value; 2] {
        let sent =
            pages.map(|page| self.send(json!({"op": "call", "page": page, "name": name, "args": arguments})));
        sent.map(|id| {
            id.and_then(|id| self.answer(id)).unwrap_or_else(|error| panic!("{name}({arguments}): {error}"))
        })
    }

    /// Publishes by WHIP and waits until it is connected.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn publish(&mut self, page: &str, url: &str, options: Value) -> Value {
        self.session(page, "publish", url, options)
    }

    /// Plays by WHEP and waits until it is connected.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn play(&mut self, page: &str, url: &str, options: Value) -> Value {
        self.session(page, "play", url, options)
    }

    #[track_caller]
    fn session(&mut self, page: &str, verb: &str, url: &str, mut options: Value) -> Value {
        options["url"] = json!(url);
        if options["id"].is_null() {
            options["id"] = json!("main");
        }
        let result = self.run(page, verb, options);
        assert_eq!(result["status"], 201, "{verb} {url}: {}", result["answer"]);
        assert_eq!(result["connection"], "connected", "{verb} {url}: {:#}", result);
        result
    }

    /// Waits until so many frames were decoded and so much sound came; the figures then.
    ///
    /// # Panics
    /// When it was not so within `limit`.
    #[track_caller]
    pub fn until(&mut self, page: &str, frames: u32, energy: f64, limit: Duration) -> Value {
        let arguments =
            json!({"id": "main", "frames": frames, "energy": energy, "ms": limit.as_millis() as u64});
        let figures = self.run(page, "until", arguments);
        assert_eq!(
            figures["enough"], true,
            "wanted {frames} frames and energy {energy} in {limit:?}: {figures:#}"
        );
        figures
    }

    /// One operation of driver.mjs.
    ///
    /// # Errors
    /// What the driver says.
    pub fn operation(&mut self, operation: Value) -> Result<Value, String> {
        let id = self.send(operation)?;
        self.answer(id)
    }

    fn send(&mut self, mut operation: Value) -> Result<u64, String> {
        let id = self.next;
        self.next += 1;
        operation["id"] = json!(id);
        let input = self.input.as_mut().ok_or("the browser is closed")?;
        writeln!(input, "{operation}").map_err(|error| format!("the driver has ended: {error}"))?;
        Ok(id)
    }

    fn answer(&mut self, id: u64) -> Result<Value, String> {
        let end = Instant::now() + LIMIT;
        let line = loop {
            if let Some(at) = self.answers.iter().position(|line| line["id"] == json!(id)) {
                break self.answers.swap_remove(at);
            }
            let left = end.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).map_err(|error| format!("no answer of the driver: {error}"))?;
            self.answers.push(line);
        };
        match line.get("error") {
            Some(error) => Err(error.as_str().unwrap_or_default().into()),
            None => Ok(line["ok"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.input = None; // the driver closes the browser when its input ends
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
