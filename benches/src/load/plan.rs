//! From a scenario to seats: who connects where, and when. Also what a coordinator and its workers say to each other.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::scenario::{Media, Protocol, Scenario};
use super::tally::{SeatResult, Totals, Window};
use super::target::Url;

/// A coordinator to a worker, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The first line.
    Begin(Box<Begin>),
    /// Seats of this phase start, counted from this microsecond of the run's clock.
    Phase(u8, u64),
    /// The measured time.
    Measure(Window),
    /// Leave, and say what was counted.
    Finish,
}

/// A worker to its coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// Each second.
    Second(Second),
    /// The last line.
    Finished(Finished),
    /// It cannot go on.
    Broken(String),
}

/// What a worker does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Begin {
    /// The run's begin, in microseconds after boot.
    pub epoch_us: u64,
    /// See [`Scenario::seed`].
    pub seed: u64,
    /// See [`Scenario::join_seconds`], in milliseconds.
    pub join_ms: i64,
    /// The core to stay on.
    pub core: Option<usize>,
    /// Clips that publishers send, by index.
    pub medias: Vec<Media>,
    /// All groups of the run.
    pub groups: Vec<Group>,
    /// This worker's seats.
    pub seats: Vec<Seat>,
}

/// Seats of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// For reports.
    pub name: String,
    /// How they speak.
    pub protocol: Protocol,
    /// They send.
    pub publishes: bool,
    /// Where its first seat goes.
    pub url: String,
    /// Seats in all workers.
    pub seats: usize,
    /// This worker's share of [`super::scenario::Watch::churn_per_second`].
    pub churn_per_second: f64,
    /// See [`super::scenario::Watch::storm_at`].
    pub storm_at: Vec<f64>,
}

/// One client's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// Its number in the run.
    pub id: u32,
    /// Index of its group.
    pub group: usize,
    /// The stream it sends or watches, as stamps name it.
    pub stream: u32,
    /// Frames a second of that stream.
    pub fps: u32,
    /// 0: publishers, 1: relays, 2: viewers.
    pub phase: u8,
    /// When it joins, in microseconds after its phase begins.
    pub at_us: u64,
    /// What it does.
    pub role: Role,
    /// Where.
    pub url: Url,
    /// `Authorization: Bearer`.
    pub token: Option<String>,
}

/// What a seat does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Sends this clip (index of [`Begin::medias`]).
    Publish(Protocol, usize),
    /// Watches.
    Watch(Protocol, Link),
    /// Plays here and publishes there.
    Relay(Url),
}

/// A viewer's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Percent thrown away.
    pub loss_percent: f64,
    /// Whether it asks again.
    pub nack: bool,
    /// 0: no limit.
    pub limit_kbps: u32,
    /// It decodes the sound, to tell the A/V skew: the first viewer of a group.
    pub listens: bool,
}

/// A second of one worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run's begin.
    pub at: u64,
    /// By group.
    pub groups: Vec<GroupSecond>,
    /// Percent of a core the worker used in it.
    pub cpu_percent: f64,
}

/// A group's second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GroupSecond {
    /// Seats that are connected now.
    pub connected: usize,
    /// Seats that have a picture now; publishers that send.
    pub picture: usize,
    /// Seats that are over.
    pub failed: usize,
    /// What was counted in it.
    pub totals: Totals,
}

/// All a worker counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Finished {
    /// By group, of the measured time.
    pub groups: Vec<Totals>,
    /// Its seats.
    pub seats: Vec<SeatResult>,
    /// Joins that failed and were tried again, with their reasons (churn and storms).
    pub retried: Vec<(usize, String, u64)>,
}

/// Publishers start first, viewers last.
pub const PHASES: u8 = 3;
const PUBLISHERS: u8 = 0;
const RELAYS: u8 = 1;
const VIEWERS: u8 = 2;

/// The parts of a scenario, dealt out to `workers` workers.
pub fn plan(scenario: &Scenario, epoch_us: u64) -> Result<Vec<Begin>> {
    let mut plan =
        Plan { scenario, groups: Vec::new(), medias: Vec::new(), streams: Vec::new(), seats: Vec::new() };
    for publish in &scenario.publish {
        let media = plan.media(&publish.media);
        let role = Role::Publish(publish.protocol, media);
        let group =
            plan.group(format!("publish {} {}", publish.protocol, publish.stream), publish.protocol, true);
        for i in 0..publish.count {
            let name = if publish.count == 1 {
                publish.stream.clone()
            } else {
                format!("{}{}", publish.stream, i + 1)
            };
            let stream = plan.stream(name, &publish.stream, publish.media.fps);
            plan.seat(group, stream, PUBLISHERS, i as f64 / publish.per_second, role.clone(), false)?;
        }
    }
    for relay in &scenario.relay {
        let group = plan.group(format!("relay RTMP {}", relay.stream), Protocol::Rtmp, false);
        for stream in plan.streams_of(&relay.stream) {
            let to = scenario.target.url(Protocol::Rtmp, true, &plan.streams[stream].name)?;
            plan.seat(group, stream, RELAYS, 0.0, Role::Relay(to), false)?;
        }
    }
    for rooms in &scenario.rooms {
        let media = plan.media(&rooms.media);
        let publish = plan.group(format!("rooms WHIP, {} members", rooms.members), Protocol::Whip, true);
        let watch = plan.group(format!("rooms WHEP, {} members", rooms.members), Protocol::Whep, false);
        for room in 1..=rooms.count {
            let members: Vec<usize> = (1..=rooms.members)
                .map(|member| plan.stream(format!("room{room}/member{member}"), "", rooms.media.fps))
                .collect();
            for (i, stream) in members.iter().enumerate() {
                let at = ((room - 1) * rooms.members + i) as f64 / rooms.per_second;
                let role = Role::Publish(Protocol::Whip, media);
                plan.seat(publish, *stream, PUBLISHERS, at, role, false)?;
                for other in members.iter().filter(|other| *other != stream) {
                    let first = room == 1 && i == 0;
                    let role = Role::Watch(Protocol::Whep, Link { listens: first, ..Link::default() });
                    plan.seat(watch, *other, VIEWERS, at, role, true)?;
                }
            }
        }
    }
    for watch in &scenario.watch {
        let group = plan.group(format!("watch {} {}", watch.protocol, watch.stream), watch.protocol, false);
        plan.groups[group].churn_per_second = watch.churn_per_second / scenario.harness.workers as f64;
        plan.groups[group].storm_at.clone_from(&watch.storm_at);
        let mut streams = plan.streams_of(&watch.stream);
        if streams.is_empty() {
            // Somebody else publishes: nothing is known of its frames.
            streams = vec![plan.stream(watch.stream.clone(), &watch.stream, 30)];
        }
        for i in 0..watch.count {
            let (loss_percent, nack, limit_kbps) = (watch.loss_percent, watch.nack, watch.limit_kbps);
            let link = Link { loss_percent, nack, limit_kbps, listens: i == 0 };
            let role = Role::Watch(watch.protocol, link);
            plan.seat(group, streams[i % streams.len()], VIEWERS, i as f64 / watch.per_second, role, true)?;
        }
    }
    let workers = scenario.harness.workers;
    let mut dealt: Vec<Begin> = (0..workers)
        .map(|worker| Begin {
            epoch_us,
            seed: scenario.seed.wrapping_add(worker as u64),
            join_ms: (scenario.join_seconds * 1e3) as i64,
            core: scenario.harness.cores.get(worker % scenario.harness.cores.len().max(1)).copied(),
            medias: plan.medias.clone(),
            groups: plan.groups.clone(),
            seats: Vec::new(),
        })
        .collect();
    for (i, seat) in plan.seats.into_iter().enumerate() {
        dealt[i % workers].seats.push(seat);
    }
    Ok(dealt)
}

struct Stream {
    name: String,
    of: String,
    fps: u32,
}

struct Plan<'a> {
    scenario: &'a Scenario,
    groups: Vec<Group>,
    medias: Vec<Media>,
    streams: Vec<Stream>,
    seats: Vec<Seat>,
}

impl Plan<'_> {
    fn media(&mut self, media: &Media) -> usize {
        self.medias.iter().position(|known| known == media).unwrap_or_else(|| {
            self.medias.push(media.clone());
            self.medias.len() - 1
        })
    }

    /// Names are told apart: `NAME`, `NAME (2)`, ...
    fn group(&mut self, name: String, protocol: Protocol, publishes: bool) -> usize {
        let alike = |group: &&Group| group.name == name || group.name.starts_with(&format!("{name} ("));
        let name = match self.groups.iter().filter(alike).count() {
            0 => name,
            others => format!("{name} ({})", others + 1),
        };
        self.groups.push(Group {
            name,
            protocol,
            publishes,
            url: String::new(),
            seats: 0,
            churn_per_second: 0.0,
            storm_at: Vec::new(),
        });
        self.groups.len() - 1
    }

    fn stream(&mut self, name: String, of: &str, fps: u32) -> usize {
        self.streams.push(Stream { name, of: of.to_owned(), fps });
        self.streams.len() - 1
    }

    fn streams_of(&self, of: &str) -> Vec<usize> {
        (0..self.streams.len()).filter(|stream| self.streams[*stream].of == of).collect()
    }

    fn seat(
        &mut self,
        group: usize,
        stream: usize,
        phase: u8,
        at_s: f64,
        role: Role,
        playing: bool,
    ) -> Result<()> {
        let target = &self.scenario.target;
        let known = &self.streams[stream];
        let protocol = match role {
            Role::Publish(protocol, _) | Role::Watch(protocol, _) => protocol,
            Role::Relay(_) => Protocol::Rtmp,
        };
        let url =
            target.url(protocol, playing, &known.name).with_context(|| self.groups[group].name.clone())?;
        if self.groups[group].seats == 0 {
            self.groups[group].url = url.to_string();
        }
        self.groups[group].seats += 1;
        // Publishers' frames are spread over a frame's time by the golden ratio: sent all at once they would measure queues of their own.
        let phase_s =
            if playing { 0.0 } else { (self.seats.len() as f64 * 0.618_034).fract() / f64::from(known.fps) };
        let at_s = at_s + phase_s;
        self.seats.push(Seat {
            id: self.seats.len() as u32,
            group,
            stream: stream as u32,
            fps: known.fps,
            phase,
            at_us: (at_s * 1e6) as u64,
            role,
            url,
            token: target.token.clone(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_are_spread_over_streams_and_workers() {
        let mut scenario = Scenario::default();
        scenario.harness.workers = 2;
        scenario.add_publish("rtmp:count=2").unwrap();
        scenario.add_watch("whep:count=4,churn_per_second=3").unwrap();
        scenario.check().unwrap();
        let parts = plan(&scenario, 5).unwrap();
        assert_eq!(parts.iter().map(|part| part.seats.len()).collect::<Vec<_>>(), [3, 3]);
        let viewers: Vec<&Seat> =
            parts.iter().flat_map(|part| &part.seats).filter(|seat| seat.phase == 2).collect();
        assert_eq!(viewers.iter().filter(|seat| seat.stream == 0).count(), 2);
        assert!(viewers.iter().any(|seat| seat.url.path == "/whep/live/bench2"));
        assert_eq!((parts[0].groups[1].churn_per_second, parts[0].groups[1].seats), (1.5, 4));
        scenario.add_watch("whep:nack=true").unwrap();
        assert_eq!(plan(&scenario, 5).unwrap()[0].groups[2].name, "watch WHEP live/bench (2)");
    }

    #[test]
    fn a_room_is_everybody_with_everybody() {
        let scenario: Scenario = toml::from_str("[[rooms]]\ncount = 2\nmembers = 3\n").unwrap();
        scenario.check().unwrap();
        let parts = plan(&scenario, 0).unwrap();
        let (publish, watch): (Vec<&Seat>, Vec<&Seat>) =
            parts[0].seats.iter().partition(|seat| seat.phase == 0);
        assert_eq!((publish.len(), watch.len(), scenario.clients()), (6, 12, 18));
        assert_eq!(watch.iter().filter(|seat| seat.url.path == "/whep/room2/member3").count(), 2);
    }
}
