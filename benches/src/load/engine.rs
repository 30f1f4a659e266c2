//! A worker's event loop: all its seats, who joins when, who leaves, and what was counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use anyhow::{Context, Result};
use media::Time;
use mio::{Events, Poll, Registry, Token};

use super::client::{self, Client, Io, Kit, SOURCES};
use super::http::Exchange;
use super::plan::{Begin, Finished, Group, GroupSecond, Seat};
use super::tally::{self, Meter, Totals, Window};

/// The token of the waker; seats have those below.
pub const WAKE: Token = Token(usize::MAX);
/// A seat whose join failed tries again after this, where the scenario has joins all the time (churn, storms).
const RETRY_MS: i64 = 500;
/// A goodbye takes no longer.
const ERRAND_MS: i64 = 5_000;
/// Goodbyes under way; one more is dropped (the server's own time-out ends that session).
const ERRANDS_MAX: usize = 256;
/// The answer to a goodbye is not read further than this at a time.
const ERRAND_READ_LEN: usize = 64 * 1024;
/// Reasons for failed joins that are told apart.
const REASONS_MAX: usize = 16;

struct Place {
    plan: Seat,
    tally: tally::Seat,
    client: Option<Box<dyn Client>>,
    /// When the client, or a join, is due.
    due: Time,
    /// The session that tokens of this seat mean: events of an earlier one may still be in the list.
    left: bool,
}

struct Counted {
    totals: Totals,
    second: Totals,
    next_leave: Time,
    storms: Vec<Time>,
}

/// The event loop.
pub struct Engine {
    poll: Poll,
    events: Events,
    kit: Kit,
    groups: Vec<Group>,
    counted: Vec<Counted>,
    places: Vec<Place>,
    /// When which seat is due; what a seat no longer is due at is passed over.
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    errands: Vec<(Exchange, Time)>,
    window: Window,
    retried: Vec<(usize, String, u64)>,
    finishing: bool,
}

impl Engine {
    /// Nobody has joined yet.
    pub fn new(begin: &Begin, kit: Kit) -> Result<Engine> {
        let places = begin.seats.iter().map(|seat| Place {
            plan: seat.clone(),
            tally: tally::Seat::new(seat.group, seat.stream, seat.fps),
            client: None,
            due: Time::MAX,
            left: false,
        });
        let counted = begin.groups.iter().map(|_| Counted {
            totals: Totals::default(),
            second: Totals::default(),
            next_leave: Time::MAX,
            storms: Vec::new(),
        });
        Ok(Engine {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            kit,
            groups: begin.groups.clone(),
            counted: counted.collect(),
            places: places.collect(),
            timers: BinaryHeap::new(),
            errands: Vec::new(),
            window: Window::NEVER,
            retried: Vec::new(),
            finishing: false,
        })
    }

    /// For a waker.
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.kit.clock.now()
    }

    /// The seats of a phase join, counted from `at`.
    pub fn begin_phase(&mut self, phase: u8, at: Time) {
        for place in 0..self.places.len() {
            if self.places[place].plan.phase == phase {
                let due = at.plus_us(self.places[place].plan.at_us as i64);
                self.set_due(place, due);
            }
        }
    }

    /// What is measured; churn and storms begin with it.
    pub fn measure(&mut self, window: Window) {
        self.window = window;
        let from = Time(window.from_us as i64);
        for (group, counted) in self.groups.iter().zip(&mut self.counted) {
            if group.churn_per_second > 0.0 {
                counted.next_leave = from;
            }
            counted.storms = group.storm_at.iter().map(|at| from.plus_us((at * 1e6) as i64)).collect();
        }
    }

    /// Runs for at most so long; returns early when woken.
    pub fn run(&mut self, time: Duration) -> Result<()> {
        let end = self.now() + time;
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut woken = false;
        while !woken {
            let now = self.now();
            self.run_due(now);
            self.run_scripts(now);
            if now >= end {
                break;
            }
            let next = self.timers.peek().map_or(Time::MAX, |Reverse((at, _))| *at).min(self.next_script());
            let wait = next.min(end) - self.now();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(error).context("cannot wait for the clients' sockets");
                }
                _ => {}
            }
            for event in &events {
                let token = event.token();
                woken |= token == WAKE;
                if token == WAKE {
                    continue;
                }
                let (place, source) = (token.0 / SOURCES, token.0 % SOURCES);
                if place < self.places.len() {
                    self.with_client(place, |client, io| client.ready(source, io));
                } else {
                    self.run_errand(token.0 - self.places.len() * SOURCES);
                }
            }
        }
        self.events = events;
        Ok(())
    }

    /// What was counted since the last call, and where seats are now.
    pub fn second(&mut self) -> Vec<GroupSecond> {
        let mut seconds: Vec<GroupSecond> = self
            .counted
            .iter_mut()
            .map(|counted| GroupSecond {
                totals: std::mem::take(&mut counted.second),
                ..GroupSecond::default()
            })
            .collect();
        for place in &self.places {
            let second = &mut seconds[place.plan.group];
            second.connected += usize::from(place.tally.is_connected());
            second.picture += usize::from(place.tally.has_picture());
            second.failed += usize::from(place.tally.failure.is_some());
        }
        seconds
    }

    /// Ends all sessions, and says what was counted.
    pub fn finish(&mut self) -> Finished {
        let seats = self.places.iter().map(|place| place.tally.result(place.left)).collect();
        let groups = self.counted.iter_mut().map(|counted| std::mem::take(&mut counted.totals)).collect();
        self.finishing = true;
        for place in 0..self.places.len() {
            self.end(place, true);
        }
        Finished { groups, seats, retried: std::mem::take(&mut self.retried) }
    }

    fn set_due(&mut self, place: usize, due: Time) {
        if self.places[place].due != due {
            self.places[place].due = due;
            if due != Time::MAX {
                self.timers.push(Reverse((due, place)));
            }
        }
    }

    fn run_due(&mut self, now: Time) {
        while let Some(Reverse((at, place))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if self.places[place].due != at {
                continue;
            }
            self.places[place].due = Time::MAX;
            if self.places[place].client.is_some() {
                self.with_client(place, |client, io| client.timeout(io));
            } else if self.places[place].tally.failure.is_none() {
                self.join(place);
            }
        }
    }

    fn join(&mut self, place: usize) {
        self.places[place].left = false;
        let started = {
            let plan = self.places[place].plan.clone();
            let (_, mut io) = self.parts(place);
            client::start(&plan, &mut io)
        };
        match started {
            Ok(client) => {
                let due = client.due();
                self.places[place].client = Some(client);
                self.set_due(place, due);
            }
            Err(error) => self.fail(place, &error),
        }
    }

    /// A seat's client, and what it is called with.
    fn parts(&mut self, place: usize) -> (&mut Option<Box<dyn Client>>, Io<'_>) {
        let token = place * SOURCES;
        let place = &mut self.places[place];
        let counted = &mut self.counted[place.plan.group];
        let meter = Meter {
            seat: &mut place.tally,
            totals: &mut counted.totals,
            second: &mut counted.second,
            window: self.window,
        };
        (&mut place.client, Io { kit: &mut self.kit, meter, registry: self.poll.registry(), token })
    }

    fn with_client(&mut self, place: usize, work: impl FnOnce(&mut dyn Client, &mut Io<'_>) -> Result<()>) {
        let (client, mut io) = self.parts(place);
        let Some(client) = client else { return };
        let result = work(client.as_mut(), &mut io);
        // A client that fails in the middle of a batch takes it along.
        io.kit.out.clear();
        let due = client.due();
        match result {
            Ok(()) => self.set_due(place, due),
            Err(error) => self.fail(place, &error),
        }
    }

    fn fail(&mut self, place: usize, error: &anyhow::Error) {
        self.places[place].client = None;
        self.places[place].due = Time::MAX;
        let why = format!("{error:#}");
        let group = self.places[place].plan.group;
        let joins_go_on =
            self.groups[group].churn_per_second > 0.0 || !self.groups[group].storm_at.is_empty();
        if joins_go_on && !self.finishing {
            self.parts(place).1.meter.leave();
            let known = self.retried.iter().position(|(of, known, _)| *of == group && *known == why);
            match known {
                Some(known) => self.retried[known].2 += 1,
                None if self.retried.len() < REASONS_MAX => self.retried.push((group, why, 1)),
                None => {}
            }
            let again = self.now().plus_ms(RETRY_MS);
            self.set_due(place, again);
        } else {
            self.parts(place).1.meter.failed(why);
        }
    }

    /// Ends a seat's session; with or without saying so.
    fn end(&mut self, place: usize, politely: bool) {
        let (client, mut io) = self.parts(place);
        let Some(mut client) = client.take() else { return };
        io.meter.leave();
        let errand = if politely { client.leave(&mut io) } else { None };
        drop(client);
        self.places[place].left = true;
        self.places[place].due = Time::MAX;
        if let Some(mut errand) = errand
            && self.errands.len() < ERRANDS_MAX
        {
            let token = Token(self.places.len() * SOURCES + self.errands.len());
            let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
            if self.poll.registry().register(&mut errand.stream, token, interest).is_ok() {
                self.errands.push((errand, self.now().plus_ms(ERRAND_MS)));
            }
        }
    }

    fn run_errand(&mut self, at: usize) {
        if let Some((errand, _)) = self.errands.get_mut(at) {
            // Nobody waits for its answer.
            let _ = errand.ready(&mut self.kit.buffer, ERRAND_READ_LEN, &mut |_, _| ());
        }
    }

    fn next_script(&self) -> Time {
        let times =
            self.counted.iter().flat_map(|counted| counted.storms.iter().chain([&counted.next_leave]));
        times.min().copied().unwrap_or(Time::MAX)
    }

    /// Churn, storms, and goodbyes that took too long.
    fn run_scripts(&mut self, now: Time) {
        // From the end only: the tokens of those before it stay true.
        while self.errands.last().is_some_and(|(errand, until)| errand.response.is_done() || now >= *until) {
            self.errands.pop();
        }
        for group in 0..self.groups.len() {
            if now.us() as u64 >= self.window.until_us {
                self.counted[group].next_leave = Time::MAX;
            }
            while now >= self.counted[group].next_leave {
                let every_us = (1e6 / self.groups[group].churn_per_second) as i64;
                self.counted[group].next_leave = self.counted[group].next_leave.plus_us(every_us.max(1));
                if let Some(place) = self.somebody(group) {
                    self.end(place, true);
                    self.set_due(place, now);
                }
            }
            let due = self.counted[group].storms.iter().position(|at| now >= *at);
            if let Some(due) = due {
                self.counted[group].storms.remove(due);
                for place in 0..self.places.len() {
                    if self.places[place].plan.group == group && self.places[place].client.is_some() {
                        self.end(place, false);
                        self.set_due(place, now);
                    }
                }
            }
        }
    }

    /// A seat of a group that has a picture.
    fn somebody(&mut self, group: usize) -> Option<usize> {
        let start = (self.kit.random() % self.places.len().max(1) as u64) as usize;
        let (before, after) = self.places.split_at(start);
        let wanted = |place: &Place| place.plan.group == group && place.tally.has_picture();
        let found = after.iter().position(wanted).map(|at| start + at);
        found.or_else(|| before.iter().position(wanted))
    }
}
