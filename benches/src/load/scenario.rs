//! What a run does: a scenario file (TOML), or the same from the command line. Everything is checked before anything is started.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::target::Target;

/// Clients of one scenario: a typo must not become a fork bomb.
const CLIENTS_MAX: usize = 100_000;
/// The longest run, in seconds: a day.
const SECONDS_MAX: u64 = 86_400;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Shown in reports.
    pub name: String,
    /// How long is measured, once all viewers have a picture.
    pub seconds: u64,
    /// Between the last first picture and the measured time, for queues of the start to drain.
    pub settle_seconds: f64,
    /// All viewers shall have a picture so long after the last was started; measuring begins then with those who have one.
    pub picture_seconds: u64,
    /// A client that is not connected, or has no picture, so long after its join is given up on.
    pub join_seconds: f64,
    /// Draws ICE credentials, lost packets and who leaves.
    pub seed: u64,
    /// Where clients go.
    pub target: Target,
    /// Where they run.
    pub harness: Harness,
    /// Who sends.
    pub publish: Vec<Publish>,
    /// Who watches.
    pub watch: Vec<Watch>,
    /// Meetings, each of which publishes and watches.
    pub rooms: Vec<Rooms>,
    /// Streams carried from one server to another.
    pub relay: Vec<Relay>,
}

/// The processes that drive the clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Harness {
    /// Worker processes; clients are dealt out among them.
    pub workers: usize,
    /// The cores they are pinned to, in turn; none: not pinned.
    pub cores: Vec<usize>,
}

/// How media is sent or taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RTMP, published or played.
    Rtmp,
    /// WebRTC, published by WHIP.
    Whip,
    /// WebRTC, watched by WHEP.
    Whep,
    /// FLV over HTTP.
    Flv,
    /// HLS: MPEG-TS or fMP4 segments.
    Hls,
    /// Janus' streaming plugin: plain RTP in, WebRTC out.
    Janus,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Rtmp => "RTMP",
            Protocol::Whip => "WHIP",
            Protocol::Whep => "WHEP",
            Protocol::Flv => "FLV",
            Protocol::Hls => "HLS",
            Protocol::Janus => "Janus",
        })
    }
}

/// Publishers of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// `rtmp`, `whip` or `janus`.
    pub protocol: Protocol,
    /// How many, each with a stream of its own.
    #[serde(default = "one")]
    pub count: usize,
    /// Their streams: `APP/NAME` for one, `APP/NAME1`, `APP/NAME2`, ... for several.
    #[serde(default = "stream")]
    pub stream: String,
    /// Joins a second, at the start.
    #[serde(default = "publishers_per_second")]
    pub per_second: f64,
    /// What they send.
    #[serde(flatten)]
    pub media: Media,
}

/// What is published.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Media {
    /// An FLV file of H.264 without B-frames and AAC; without one ffmpeg makes a clip of what follows.
    pub file: Option<PathBuf>,
    /// Video bit rate.
    pub kbps: u32,
    /// `WIDTHxHEIGHT`.
    pub size: String,
    /// Frames a second.
    pub fps: u32,
    /// Frames from one key frame to the next.
    pub gop: u32,
    /// Whether there is sound.
    pub audio: bool,
}

/// Viewers of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// `whep`, `rtmp`, `flv`, `hls` or `janus`.
    pub protocol: Protocol,
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// The `stream` of the publishers they watch, spread evenly.
    #[serde(default = "stream")]
    pub stream: String,
    /// Joins a second, at the start.
    #[serde(default = "viewers_per_second")]
    pub per_second: f64,
    /// Viewers that leave and come back each second, once all are there.
    #[serde(default)]
    pub churn_per_second: f64,
    /// All are cut off and come back at once, so many seconds into the measured time.
    #[serde(default)]
    pub storm_at: Vec<f64>,
    /// Received packets that are thrown away, in percent (WebRTC only).
    #[serde(default)]
    pub loss_percent: f64,
    /// Whether what is missing is asked for again (WebRTC only).
    #[serde(default)]
    pub nack: bool,
    /// A slow link: what comes faster is left unread (TCP) or thrown away (WebRTC). 0: no limit.
    #[serde(default)]
    pub limit_kbps: u32,
}

/// Meetings: `count` of them, of `members` each, who publish by WHIP and watch all others by WHEP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rooms {
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// Members of each; its streams are `roomN/memberM`.
    #[serde(default = "members")]
    pub members: usize,
    /// Joins a second, at the start.
    #[serde(default = "viewers_per_second")]
    pub per_second: f64,
    /// What each sends.
    #[serde(flatten)]
    pub media: Media,
}

/// A hop over TCP as RTMP has it: plays at the publishers' server, publishes at the viewers' (`target.watch_host`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// The `stream` of the publishers whose streams are carried.
    #[serde(default = "stream")]
    pub stream: String,
}

fn one() -> usize {
    1
}
fn members() -> usize {
    4
}
fn stream() -> String {
    "live/bench".into()
}
fn publishers_per_second() -> f64 {
    50.0
}
fn viewers_per_second() -> f64 {
    100.0
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            name: String::new(),
            seconds: 20,
            settle_seconds: 2.0,
            picture_seconds: 20,
            join_seconds: 15.0,
            seed: 1,
            target: Target::default(),
            harness: Harness::default(),
            publish: Vec::new(),
            watch: Vec::new(),
            rooms: Vec::new(),
            relay: Vec::new(),
        }
    }
}

impl Default for Harness {
    fn default() -> Harness {
        Harness { workers: 1, cores: Vec::new() }
    }
}

impl Default for Media {
    fn default() -> Media {
        Media { file: None, kbps: 2_000, size: "1280x720".into(), fps: 30, gop: 30, audio: true }
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with the line, as the TOML parser says it.
    pub fn load(path: &Path) -> Result<Scenario> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut scenario: Scenario =
            toml::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))?;
        if scenario.name.is_empty() {
            scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        Ok(scenario)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=SECONDS_MAX).contains(&self.seconds),
            "seconds: 1 to {SECONDS_MAX}, not {}",
            self.seconds
        );
        ensure!((0.0..=3_600.0).contains(&self.settle_seconds), "settle_seconds: 0 to 3600");
        ensure!((1..=3_600).contains(&self.picture_seconds), "picture_seconds: 1 to 3600");
        ensure!((0.1..=3_600.0).contains(&self.join_seconds), "join_seconds: 0.1 to 3600");
        ensure!((1..=64).contains(&self.harness.workers), "harness.workers: 1 to 64");
        ensure!(
            !self.publish.is_empty() || !self.rooms.is_empty() || !self.watch.is_empty(),
            "nothing to do: give a scenario file, or --publish and --watch (such as --publish rtmp --watch whep:count=100)"
        );
        ensure!(self.clients() <= CLIENTS_MAX, "{} clients: at most {CLIENTS_MAX}", self.clients());
        for publish in &self.publish {
            let at = format!("publish {}", publish.stream);
            ensure!(
                matches!(publish.protocol, Protocol::Rtmp | Protocol::Whip | Protocol::Janus),
                "{at}: nobody publishes by {}; protocol is rtmp, whip or janus",
                publish.protocol
            );
            check_stream(&publish.stream).context(at.clone())?;
            check_rate(publish.per_second, "per_second").context(at.clone())?;
            publish.media.check().context(at)?;
        }
        for watch in &self.watch {
            watch.check().with_context(|| format!("watch {} by {}", watch.stream, watch.protocol))?;
            let known = self.publish.iter().any(|publish| publish.stream == watch.stream);
            ensure!(
                known || self.publish.is_empty(),
                "watch {}: no publish has that stream; there are {}",
                watch.stream,
                self.publish.iter().map(|publish| publish.stream.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        for rooms in &self.rooms {
            ensure!(rooms.count >= 1 && rooms.members >= 2, "rooms: count is at least 1, members at least 2");
            check_rate(rooms.per_second, "per_second").context("rooms")?;
            rooms.media.check().context("rooms")?;
        }
        for relay in &self.relay {
            ensure!(
                self.publish.iter().any(|publish| publish.stream == relay.stream),
                "relay {}: no publish has that stream",
                relay.stream
            );
            ensure!(self.target.watch_host.is_some(), "relay: target.watch_host says where to");
        }
        Ok(())
    }

    /// Connections it makes, at one time.
    pub fn clients(&self) -> usize {
        let rooms: usize = self.rooms.iter().map(|rooms| rooms.count * rooms.members * rooms.members).sum();
        self.publish.iter().map(|publish| publish.count).sum::<usize>()
            + self.watch.iter().map(|watch| watch.count).sum::<usize>()
            + rooms
    }

    /// Adds publishers as `--publish` names them: `PROTOCOL[:KEY=VALUE,...]`.
    pub fn add_publish(&mut self, text: &str) -> Result<()> {
        let publish = short(text).with_context(|| format!("--publish {text}"))?;
        self.publish.push(publish);
        Ok(())
    }

    /// Adds viewers as `--watch` names them.
    pub fn add_watch(&mut self, text: &str) -> Result<()> {
        let watch = short(text).with_context(|| format!("--watch {text}"))?;
        self.watch.push(watch);
        Ok(())
    }
}

/// `whep:count=100,nack=true` is `protocol = "whep"`, `count = 100`, `nack = true`: the command line knows what a file knows.
fn short<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T> {
    let (protocol, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut table = toml::Table::new();
    table.insert("protocol".into(), protocol.into());
    for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            bail!("{pair} is no KEY=VALUE");
        };
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"))
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| value.into());
        table.insert(key.trim().into(), parsed);
    }
    Ok(table.try_into()?)
}

/// `APP/NAME`, in letters that need no escape in a URL.
fn check_stream(stream: &str) -> Result<()> {
    let good = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let parts: Vec<&str> = stream.split('/').collect();
    ensure!(
        parts.len() == 2 && parts.iter().all(|part| good(part)),
        "stream is APP/NAME in letters, digits, - _ ., not {stream}"
    );
    Ok(())
}

fn check_rate(rate: f64, what: &str) -> Result<()> {
    ensure!(rate > 0.0 && rate <= 10_000.0, "{what}: above 0, at most 10000, not {rate}");
    Ok(())
}

impl Media {
    fn check(&self) -> Result<()> {
        ensure!((50..=100_000).contains(&self.kbps), "kbps: 50 to 100000, not {}", self.kbps);
        ensure!((1..=240).contains(&self.fps), "fps: 1 to 240, not {}", self.fps);
        ensure!((1..=3_600).contains(&self.gop), "gop: 1 to 3600 frames, not {}", self.gop);
        let size: Vec<Option<u32>> = self.size.split('x').map(|side| side.parse().ok()).collect();
        let good =
            |side: &Option<u32>| side.is_some_and(|side| (16..=8_192).contains(&side) && side % 2 == 0);
        ensure!(
            size.len() == 2 && size.iter().all(good),
            "size is WIDTHxHEIGHT, both even and 16 to 8192, not {}",
            self.size
        );
        if let Some(file) = &self.file {
            ensure!(file.is_file(), "file: {} is not there", file.display());
        }
        Ok(())
    }
}

impl Watch {
    fn check(&self) -> Result<()> {
        ensure!(
            self.protocol != Protocol::Whip,
            "nobody watches by WHIP; protocol is whep, rtmp, flv, hls or janus"
        );
        check_stream(&self.stream)?;
        check_rate(self.per_second, "per_second")?;
        let webrtc = matches!(self.protocol, Protocol::Whep | Protocol::Janus);
        ensure!((0.0..=90.0).contains(&self.loss_percent), "loss_percent: 0 to 90");
        ensure!(webrtc || self.loss_percent == 0.0, "loss_percent is for WebRTC: TCP loses nothing");
        ensure!(webrtc || !self.nack, "nack is for WebRTC");
        ensure!((0.0..=10_000.0).contains(&self.churn_per_second), "churn_per_second: 0 to 10000");
        ensure!(self.storm_at.iter().all(|at| (0.0..=86_400.0).contains(at)), "storm_at: seconds from 0");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(scenario: &Scenario) -> String {
        scenario.check().err().map_or(String::new(), |error| format!("{error:#}"))
    }

    #[test]
    fn a_file_and_the_command_line_say_the_same() {
        let file: Scenario = toml::from_str(
            "seconds = 5\n[[publish]]\nprotocol = \"whip\"\ncount = 2\nkbps = 600\n\
             [[watch]]\nprotocol = \"whep\"\ncount = 10\nloss_percent = 2.5\nnack = true\nstorm_at = [1, 3.5]\n",
        )
        .unwrap();
        let mut line = Scenario { seconds: 5, ..Scenario::default() };
        line.add_publish("whip:count=2,kbps=600").unwrap();
        line.add_watch("whep:count=10,loss_percent=2.5,nack=true").unwrap();
        line.watch[0].storm_at = vec![1.0, 3.5];
        assert_eq!(toml::to_string(&file).unwrap(), toml::to_string(&line).unwrap());
        assert_eq!(whole(&file), "");
        assert_eq!(file.clients(), 12);
        let with_file: Publish = short("rtmp:file=/tmp/a.flv,stream=live/x").unwrap();
        assert_eq!((with_file.media.file, with_file.stream.as_str()), (Some("/tmp/a.flv".into()), "live/x"));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let typo = toml::from_str::<Scenario>("[[watch]]\nprotocol = \"whep\"\nconut = 3\n").unwrap_err();
        assert!(typo.to_string().contains("conut") && typo.to_string().contains("line 3"), "{typo}");
        let mut scenario = Scenario::default();
        assert!(format!("{:#}", scenario.add_watch("wep").unwrap_err()).contains("wep"));
        assert!(format!("{:#}", scenario.add_watch("whep:count").unwrap_err()).contains("KEY=VALUE"));
        assert!(whole(&scenario).contains("nothing to do"));
        for (text, part) in [
            ("whip:stream=alice", "APP/NAME"),
            ("flv", "nobody publishes by FLV"),
            ("rtmp:kbps=1", "kbps"),
            ("rtmp:size=7x7", "size"),
            ("rtmp:file=/no/such", "/no/such"),
        ] {
            let mut scenario = Scenario::default();
            scenario.add_publish(text).unwrap();
            assert!(whole(&scenario).contains(part), "{text}: {}", whole(&scenario));
        }
        let mut scenario = Scenario::default();
        scenario.add_publish("rtmp").unwrap();
        scenario.add_watch("rtmp:loss_percent=1").unwrap();
        assert!(whole(&scenario).contains("TCP loses nothing"));
        scenario.watch[0] = short("whep:stream=live/other").unwrap();
        assert!(whole(&scenario).contains("live/other") && whole(&scenario).contains("live/bench"));
    }
}
