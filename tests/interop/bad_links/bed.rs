//! A node at end A of a path, a publisher at A or B, and a viewer in Chromium across; and what all of them count while it watches.
use link::emulator::{Carriage, Emulator, Options, Side};
use link::{Config, Loss};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::process::Process;
use support::{Node, ffmpeg, unique};

/// A handshake that loses a datagram waits a second for it.
const ARRIVES: Duration = Duration::from_secs(30);
/// Between two looks at the link's queue.
const STEP: Duration = Duration::from_millis(50);
/// In so long what was lost on a path of 100 ms there and back has come again, if what is lost twice does.
const CALM: Duration = Duration::from_millis(400);
/// So many of those to a look at the picture's height.
const STEPS_A_HEIGHT: usize = 5;

/// A wire of so many milliseconds.
pub fn delay(ms: i64) -> Config {
    Config { delay_us: ms * 1_000, ..Config::default() }
}

/// The same, which loses packets one by one.
pub fn lossy(ms: i64, per_mille: u32) -> Config {
    Config { loss: Loss::Random { per_mille }, ..delay(ms) }
}

enum Publisher {
    Page(Box<Browser>),
    Push { _process: Process },
}

/// See the file's head. What is dropped last is the path: its namespaces end what still runs inside.
pub struct Bed {
    pub viewer: Browser,
    publisher: Publisher,
    node: Node,
    path: Emulator,
}

impl Bed {
    fn parts(to_b: Config, to_a: Config) -> (Emulator, Node) {
        let options = Options { configs: [to_b, to_a], seed: 5, ..Options::default() };
        let path = Emulator::start(&options).expect("`need!` has made one");
        let node = at_node(&path, || Node::start_on(Side::A.address(), &[]));
        (path, node)
    }

    /// Chromium publishes from that end and watches at the other. `seed` says which packets are lost.
    pub fn of_page(to_b: Config, to_a: Config, publisher_at: Side, options: Value) -> Bed {
        let (path, node) = Bed::parts(to_b, to_a);
        let name = unique("bad-link");
        let mut publisher = Browser::start_at(&path, publisher_at);
        let mut all = json!({"waitMs": 20_000});
        let members = all.as_object_mut().expect("an object");
        members.extend(options.as_object().expect("an object").clone());
        publisher.publish("publisher", &node.whip_url(&name), all);
        let publisher = Publisher::Page(Box::new(publisher));
        Bed::watched(path, node, publisher, publisher_at.other(), &name)
    }

    /// ffmpeg publishes 2 Mbit/s at A by RTMP, with a key frame each `gop_s`; Chromium watches at B.
    pub fn of_rtmp(to_b: Config, to_a: Config, gop_s: u32) -> Bed {
        let (path, node) = Bed::parts(to_b, to_a);
        let name = unique("bad-link");
        let process = at_node(&path, || {
            let process = ffmpeg::push_numbered(&node.rtmp_url(&name), gop_s);
            node.wait_live(&name);
            process
        });
        Bed::watched(path, node, Publisher::Push { _process: process }, Side::B, &name)
    }

    fn watched(path: Emulator, node: Node, publisher: Publisher, at: Side, name: &str) -> Bed {
        let mut viewer = Browser::start_at(&path, at);
        let start = Instant::now();
        viewer.play("viewer", &node.whep_url(name), json!({"waitMs": 20_000}));
        viewer.until("viewer", 1, 0.0, ARRIVES);
        let first = start.elapsed();
        viewer.until("viewer", 60, 0.0, ARRIVES);
        let figures = Side::BOTH.map(|from| carried(&path.figures(from)));
        println!(
            "a frame after {first:.1?}, 60 after {:.1?}; path: {}, {}",
            start.elapsed(),
            figures[0],
            figures[1]
        );
        Bed { viewer, publisher, node, path }
    }

    /// Another behaviour for what A sends.
    pub fn set_to_b(&self, config: Config) {
        self.path.set(Side::A, config);
    }

    /// The node's figures of its WebRTC clients of a kind; null where there is none.
    fn client(&self, kind: &str) -> Value {
        let node = &self.node;
        let all = at_node(&self.path, || node.api("/api/v1/clients/"));
        let mut all = all["clients"].as_array().expect("a list").iter();
        all.find(|it| it["type"] == kind).map_or(Value::Null, |it| it["rtc"].clone())
    }

    /// What the node says of its viewer.
    pub fn rtc(&self) -> Value {
        self.client("rtc-play")
    }

    /// What Chromium says of its viewer.
    pub fn page(&mut self) -> Value {
        self.viewer.run("viewer", "figures", json!({"id": "main"}))
    }

    /// What everybody has counted so far: `page` (the viewer's), `publisher` (its page), `play` and `publish` (the node's of each), and what
    /// the path carried `to_b` and `to_a`.
    fn figures(&mut self) -> Value {
        let publisher = match &mut self.publisher {
            Publisher::Page(browser) => browser.run("publisher", "figures", json!({"id": "main"})),
            Publisher::Push { .. } => Value::Null,
        };
        let carried = |from| carried(&self.path.figures(from));
        let (to_b, to_a) = (carried(Side::A), carried(Side::B));
        let (play, publish) = (self.rtc(), self.client("rtc-publish"));
        json!({"page": self.page(), "publisher": publisher, "play": play, "publish": publish, "to_b": to_b, "to_a": to_a})
    }

    /// Watches for so long.
    pub fn watch(&mut self, seconds: u64) -> Watched {
        self.watch_until(seconds, |_| false)
    }

    /// Watches for so long and a little more: at both ends nothing has been lost lately, so that no repair of a burst is half counted.
    pub fn watch_from_calm_to_calm(&mut self, seconds: u64) -> Watched {
        self.wait_for_calm();
        let start = Instant::now();
        let mut watched = self.watch(seconds);
        self.wait_for_calm();
        watched.seconds = start.elapsed().as_secs_f64();
        self.end(&mut watched);
        watched
    }

    /// Waits until the way to B has lost nothing for [`CALM`].
    fn wait_for_calm(&self) {
        let lost = || self.path.figures(Side::A).link.lost;
        let (mut at, mut before) = (Instant::now(), lost());
        support::until("a calm on the path", ARRIVES, || {
            let now = lost();
            if now != before {
                (at, before) = (Instant::now(), now);
            }
            (at.elapsed() >= CALM).then_some(())
        });
    }

    /// Watches until it is enough, for so long at most. Each second a line of what both ends say.
    pub fn watch_until(&mut self, seconds: u64, enough: impl Fn(&Watched) -> bool) -> Watched {
        let before = self.figures();
        let start = Instant::now();
        let mut watched = Watched { before, ..Watched::default() };
        for second in 1..=seconds {
            while start.elapsed() < Duration::from_secs(second) {
                std::thread::sleep(STEP);
                watched.queue_ms.push(self.path.figures(Side::A).link.queue_us / 1_000);
                if watched.queue_ms.len().is_multiple_of(STEPS_A_HEIGHT) {
                    let height = self.page()["video"]["frameHeight"].as_u64();
                    watched.heights.extend(height.map(|height| (start.elapsed().as_secs_f64(), height)));
                }
            }
            watched.seconds = start.elapsed().as_secs_f64();
            let (page, rtc) = (self.page(), self.rtc());
            println!("{}", line(second, &page, &rtc));
            watched.rtc.push(rtc);
            if enough(&watched) {
                break;
            }
        }
        self.end(&mut watched);
        watched
    }

    /// What all have counted by now is what the time ends with.
    fn end(&mut self, watched: &mut Watched) {
        watched.after = self.figures();
        let from = watched.before["page"]["frames"].clone();
        watched.line = self.viewer.run("viewer", "timeline", json!({"id": "main", "from": from}));
    }

    /// The node runs, and nothing in it panicked; and the path was the link's model and nothing else.
    pub fn assert_well(mut self) {
        for from in Side::BOTH {
            let figures = self.path.figures(from);
            let others = (figures.refused, figures.overflow, figures.missed);
            assert_eq!(others, (0, 0, 0), "what a busy machine lost from {from:?}: {figures:?}");
        }
        let (path, node) = (&self.path, &mut self.node);
        at_node(path, || node.assert_well());
    }
}

/// What happens at the node's end: sockets and programs belong there.
fn at_node<T: Send>(path: &Emulator, work: impl FnOnce() -> T + Send) -> T {
    path.namespace(Side::A).within(work).expect("a thread can enter")
}

fn carried(figures: &Carriage) -> Value {
    let link = figures.link;
    json!({"packets": link.packets, "lost": link.lost, "queue_full": link.queue_full, "delivered": figures.delivered})
}

/// getStats has no member for some figures until there is something to count.
#[track_caller]
fn figure_of(all: &Value, figure: &str) -> f64 {
    let (of, name) = figure.rsplit_once('/').expect("a path");
    let of = all.pointer(&format!("/{of}")).and_then(Value::as_object);
    let of = of.unwrap_or_else(|| panic!("no {figure} in {all:#}"));
    of.get(name).map_or(0.0, |it| it.as_f64().unwrap_or_else(|| panic!("{figure} is {it}")))
}

fn line(second: u64, page: &Value, rtc: &Value) -> String {
    let kbps = |figure: &Value| figure.as_u64().map_or("-".into(), |bps| format!("{}", bps / 1_000));
    let estimate = &rtc["estimate"];
    let mark = |name: &str| if estimate[name] == true { format!(", {name}") } else { String::new() };
    format!(
        "{second:2} s: {}p ({}); {} decoded; estimate {} kbit/s, {} (delay {}, loss {}, arrives {}, needs {}){}{}, {:.1} % lost",
        page["video"]["frameHeight"],
        rtc["layer"]["reason"].as_str().unwrap_or("-"),
        page["video"]["framesDecoded"],
        kbps(&rtc["estimate_bps"]),
        estimate["state"].as_str().unwrap_or("none"),
        kbps(&estimate["delay_bps"]),
        kbps(&estimate["loss_bps"]),
        kbps(&estimate["arrives_bps"]),
        kbps(&estimate["needs_bps"]),
        mark("limited"),
        mark("probing"),
        estimate["loss"].as_f64().unwrap_or(0.0) * 100.0,
    )
}

/// What happened while a viewer watched.
#[derive(Default)]
pub struct Watched {
    pub seconds: f64,
    before: Value,
    after: Value,
    /// What the node says of the viewer, each second.
    rtc: Vec<Value>,
    /// Milliseconds that packets from A waited for the link, each [`STEP`].
    pub queue_ms: Vec<i64>,
    /// Seconds, and the height decoded then.
    heights: Vec<(f64, u64)>,
    /// client.js `timeline` of the frames shown.
    line: Value,
}

impl Watched {
    /// A figure of [`Bed::figures`] by its path, `page/video/framesDecoded`: what it grew by.
    #[track_caller]
    pub fn grew(&self, figure: &str) -> f64 {
        figure_of(&self.after, figure) - figure_of(&self.before, figure)
    }

    /// The same as it is at the end.
    #[track_caller]
    pub fn is(&self, figure: &str) -> f64 {
        figure_of(&self.after, figure)
    }

    /// One figure of those for each of another.
    #[track_caller]
    pub fn share(&self, part: &str, whole: &str) -> f64 {
        self.grew(part) / self.grew(whole).max(1.0)
    }

    /// What the node said of the viewer, each second, where it is known.
    pub fn each_second(&self, figure: &str) -> Vec<f64> {
        let figure = format!("/{figure}");
        self.rtc.iter().filter_map(|it| it.pointer(&figure)?.as_f64()).collect()
    }

    /// The longest time from one frame shown to the next, in seconds.
    pub fn gap_s(&self) -> f64 {
        self.line["gap"].as_f64().expect("frames were shown") / 1_000.0
    }

    /// From when on the picture had this height; `None` when it has another.
    pub fn height_after(&self, height: u64) -> Option<f64> {
        let since = self.heights.iter().rposition(|it| it.1 != height).map_or(0, |at| at + 1);
        self.heights.get(since).map(|it| it.0)
    }

    /// What a viewer's picture did, in one line.
    pub fn print(&self, of: &str) {
        let video = |name: &str| self.grew(&format!("page/video/{name}"));
        println!(
            "{of}, {:.0} s: {} frames decoded, {} dropped, {} freezes of {:.2} s, longest gap {:.2} s, {} packets lost, {} sent again came, {} NACKs, {} PLIs; \
             node: {} of {} packets sent again, {} refused, {} missed, {} probe copies, {} frames left out; path: {}, {}",
            self.seconds,
            video("framesDecoded"),
            video("framesDropped"),
            video("freezeCount"),
            video("totalFreezesDuration"),
            self.gap_s(),
            video("packetsLost"),
            video("retransmittedPacketsReceived"),
            video("nackCount"),
            video("pliCount"),
            self.grew("play/resent"),
            self.grew("play/packets_out"),
            self.grew("play/nacks_refused"),
            self.grew("play/nacks_missed"),
            self.grew("play/probe_copies"),
            self.grew("play/frames_congested"),
            self.after["to_b"],
            self.after["to_a"],
        );
    }
}
