//! A node as the hub drives it: what `Paths` says is done, with one track a stream, whose packets are numbers.

use std::collections::{BTreeMap, VecDeque};

use media::{Need, NodeId, StreamName, Time};
use millrace_cluster::paths::{Action, LinkId, Offer, Paths};

/// A generation and a number in it: what is sent of a stream.
pub type Packet = (u64, u64);

/// A way that is left stays so long at most.
const CATCH_UP_US: i64 = 2_000_000;
/// What no peer takes any more is taken so much longer.
pub const LINGER_US: i64 = 1_000_000;

/// What crosses a link. Streams are numbers.
#[derive(Clone, Debug)]
pub enum Message {
    Announce(usize, Offer<u8>),
    End(usize, u64),
    Subscribe { stream: usize, alias: u64, generation: u64, after: Packet, need: Need },
    Unsubscribe { stream: usize, alias: u64 },
    Drain,
    Packet { stream: usize, alias: u64, packet: Packet },
}

/// A subscription at a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    pub link: LinkId,
    alias: u64,
    generation: u64,
}

#[derive(Default)]
pub struct Local {
    pub newest: Packet,
    pub leg: Option<Leg>,
    /// The way before, until that one has caught up.
    old: Option<(Leg, Time)>,
    /// Whom it is sent to: alias and generation.
    pub sends: BTreeMap<LinkId, (u64, u64)>,
    /// Who holds it here, and by which alias.
    pub held: BTreeMap<LinkId, u64>,
    /// Where it is held for this node.
    pub hold: Option<Leg>,
    pub publishes: Option<u64>,
    pub is_watched: bool,
    /// When the last packet came, and the longest gap between two.
    pub last: Option<Time>,
    pub gap_us: i64,
}

/// What a node saw that must never be.
pub type Broken = Vec<String>;

pub struct Node {
    pub id: NodeId,
    pub paths: Paths<u8>,
    pub is_up: bool,
    pub drains: bool,
    /// Standbys are asked to hold what they are for.
    pub holds: bool,
    pub streams: Vec<Local>,
    names: Vec<StreamName>,
    next_alias: u64,
    /// What is to be sent.
    pub out: Vec<(LinkId, Message)>,
    /// Who takes a stream no more, to be said later.
    pub lingers: VecDeque<(Time, LinkId, usize)>,
    /// Announcements and ends that it sent, and switches.
    pub said: u64,
    pub switches: u64,
    pub broken: Broken,
}

pub fn stream_name(stream: usize) -> StreamName {
    StreamName::new("live", &stream.to_string()).unwrap()
}

impl Node {
    pub fn new(index: usize, streams: usize) -> Node {
        let id = NodeId::new(&format!("n{index}")).unwrap();
        Node {
            paths: Paths::new(id.clone()),
            id,
            is_up: true,
            drains: false,
            holds: true,
            streams: (0..streams).map(|_| Local::default()).collect(),
            names: (0..streams).map(stream_name).collect(),
            next_alias: 0,
            out: Vec::new(),
            lingers: VecDeque::new(),
            said: 0,
            switches: 0,
            broken: Broken::new(),
        }
    }

    /// It is killed: nothing is left but who wants to watch.
    pub fn kill(&mut self) {
        self.is_up = false;
        self.drains = false;
        self.paths = Paths::new(self.id.clone());
        for local in &mut self.streams {
            *local = Local { is_watched: local.is_watched, ..Local::default() };
        }
        self.out.clear();
        self.lingers.clear();
    }

    pub fn come_back(&mut self) {
        self.is_up = true;
        for (local, name) in self.streams.iter().zip(&self.names) {
            self.paths.wanted(name, local.is_watched.then_some(Need::Watched));
        }
    }

    pub fn watch(&mut self, stream: usize, is_watched: bool) {
        self.streams[stream].is_watched = is_watched;
        self.streams[stream].last = None;
        if self.is_up {
            self.paths.wanted(&self.names[stream], is_watched.then_some(Need::Watched));
        }
    }

    pub fn publish(&mut self, stream: usize, generation: u64) {
        self.streams[stream].publishes = Some(generation);
        self.paths.published(&self.names[stream], generation, 0);
    }

    pub fn leave(&mut self, stream: usize) {
        self.streams[stream].publishes = None;
        self.paths.left(&self.names[stream]);
    }

    /// The link is down: nothing comes or goes by it.
    pub fn link_down(&mut self, link: LinkId) {
        self.paths.link_down(link);
        for local in &mut self.streams {
            local.leg = local.leg.filter(|leg| leg.link != link);
            local.old = local.old.filter(|(leg, _)| leg.link != link);
            local.hold = local.hold.filter(|leg| leg.link != link);
            local.sends.remove(&link);
            local.held.remove(&link);
        }
    }

    pub fn receive(&mut self, link: LinkId, message: Message, now: Time) {
        match message {
            Message::Announce(stream, offer) => self.paths.offered(link, &self.names[stream], offer),
            Message::End(stream, generation) => self.paths.ended(link, &self.names[stream], generation),
            Message::Drain => self.paths.link_drains(link),
            Message::Subscribe { stream, alias, generation, after, need } => {
                if !self.paths.gives(link, &self.names[stream], generation, need) {
                    return;
                }
                let local = &mut self.streams[stream];
                if need == Need::Held {
                    local.held.insert(link, alias);
                    if local.sends.contains_key(&link) {
                        self.broken
                            .push(format!("{}: {stream} is held by {link:?}, which takes it", self.id));
                    }
                    return;
                }
                local.held.remove(&link);
                if local.sends.get(&link) == Some(&(alias, generation)) {
                    return;
                }
                if local.sends.insert(link, (alias, generation)).is_some() {
                    self.broken.push(format!("{}: two copies of {stream} to {link:?}", self.id));
                }
                // What it missed, out of what is kept: the newest stands for all.
                if local.newest.0 == generation && local.newest > after {
                    let packet = local.newest;
                    self.out.push((link, Message::Packet { stream, alias, packet }));
                }
            }
            Message::Unsubscribe { stream, alias } => {
                let local = &mut self.streams[stream];
                if local.sends.get(&link).is_some_and(|(has, _)| *has == alias) {
                    local.sends.remove(&link);
                    self.lingers.push_back((now.plus_us(LINGER_US), link, stream));
                } else if local.held.get(&link) == Some(&alias) {
                    local.held.remove(&link);
                    self.lingers.push_back((now.plus_us(LINGER_US), link, stream));
                }
            }
            Message::Packet { stream, alias, packet } => {
                let local = &self.streams[stream];
                let is = |leg: &Leg| (leg.link, leg.alias, leg.generation) == (link, alias, packet.0);
                let by_leg = local.leg.as_ref().is_some_and(is);
                if by_leg && packet >= local.newest {
                    self.caught_up(stream);
                }
                if by_leg || self.streams[stream].old.is_some_and(|(leg, _)| is(&leg)) {
                    self.has(stream, packet, now);
                }
            }
        }
    }

    /// A packet that is new here goes on to who takes it.
    pub fn has(&mut self, stream: usize, packet: Packet, now: Time) {
        let local = &mut self.streams[stream];
        if packet <= local.newest {
            return;
        }
        local.newest = packet;
        if local.is_watched {
            let gap_us = local.last.map_or(0, |last| now.since(last));
            (local.last, local.gap_us) = (Some(now), local.gap_us.max(gap_us));
        }
        for (link, (alias, generation)) in &local.sends {
            if *generation == packet.0 {
                self.out.push((*link, Message::Packet { stream, alias: *alias, packet }));
            }
        }
    }

    fn caught_up(&mut self, stream: usize) {
        if let Some((old, _)) = self.streams[stream].old.take() {
            self.out.push((old.link, Message::Unsubscribe { stream, alias: old.alias }));
        }
    }

    /// What is due by time.
    pub fn tick(&mut self, now: Time) {
        while let Some((_, link, stream)) = self.lingers.pop_front_if(|(at, ..)| *at <= now) {
            let local = &self.streams[stream];
            if !local.sends.contains_key(&link) && !local.held.contains_key(&link) {
                self.paths.gives_no_more(link, &self.names[stream]);
            }
        }
        for stream in 0..self.streams.len() {
            if self.streams[stream].old.is_some_and(|(_, since)| now.since(since) >= CATCH_UP_US) {
                self.caught_up(stream);
            }
        }
    }

    /// Does what is to be done.
    pub fn pump(&mut self, now: Time) {
        while let Some(action) = self.paths.poll(now) {
            let number = |name: &StreamName| name.name().parse::<usize>().unwrap();
            match action {
                Action::Announce { link, stream, offer } => {
                    self.said += 1;
                    self.out.push((link, Message::Announce(number(&stream), offer)));
                }
                Action::End { link, stream, generation } => {
                    self.said += 1;
                    let stream = number(&stream);
                    self.streams[stream].sends.remove(&link);
                    self.streams[stream].held.remove(&link);
                    self.out.push((link, Message::End(stream, generation)));
                }
                Action::Take { stream, link, generation } => {
                    if self.streams[number(&stream)].leg.is_some() {
                        self.broken.push(format!("{}: takes {stream} twice", self.id));
                    }
                    self.go_to(number(&stream), link, generation, None);
                }
                Action::Switch { stream, to, generation, make_before_break, .. } => {
                    self.switches += 1;
                    let keep = make_before_break.then_some(now);
                    self.go_to(number(&stream), to, generation, keep);
                }
                Action::Leave { stream, .. } | Action::Lost { stream } => {
                    let stream = number(&stream);
                    self.caught_up(stream);
                    if let Some(leg) = self.streams[stream].leg.take() {
                        self.out.push((leg.link, Message::Unsubscribe { stream, alias: leg.alias }));
                    }
                }
                Action::Fenced { stream, .. } => {
                    self.streams[number(&stream)].publishes = None;
                    self.paths.left(&stream);
                }
                Action::Need { stream, link, need } => {
                    let stream = number(&stream);
                    if let Some(Leg { alias, generation, .. }) = self.streams[stream].leg {
                        let after = self.streams[stream].newest;
                        let again = Message::Subscribe { stream, alias, generation, after, need };
                        self.out.push((link, again));
                    }
                }
                // What is decided is done below.
                Action::Hold { .. } | Action::Unhold { .. } => {}
            }
        }
        let count = if self.holds { self.streams.len() } else { 0 };
        (0..count).for_each(|stream| self.hold(stream));
    }

    /// The standby holds it, unless it is still taken by that link.
    fn hold(&mut self, stream: usize) {
        let local = &self.streams[stream];
        let legs = local.leg.into_iter().chain(local.old.map(|(leg, _)| leg));
        let generation = local.leg.map_or(0, |leg| leg.generation);
        let standby = self.paths.standby(&self.names[stream]);
        let mut legs = legs;
        let standby = standby.filter(|standby| legs.all(|leg| leg.link != *standby));
        let is = |hold: &Leg| Some(hold.link) == standby && hold.generation == generation;
        if local.hold.as_ref().is_some_and(is) {
            return;
        }
        // Also where the stream is taken by that link now: that may have been refused.
        if let Some(Leg { link, alias, .. }) = self.streams[stream].hold.take() {
            self.out.push((link, Message::Unsubscribe { stream, alias }));
        }
        let Some(link) = standby else { return };
        let alias = self.next_alias;
        self.next_alias += 1;
        self.streams[stream].hold = Some(Leg { link, alias, generation });
        let held =
            Message::Subscribe { stream, alias, generation, after: Packet::default(), need: Need::Held };
        self.out.push((link, held));
    }

    fn go_to(&mut self, stream: usize, link: LinkId, generation: u64, keep: Option<Time>) {
        let local = &mut self.streams[stream];
        if local.leg.is_some_and(|leg| leg.generation > generation) || local.newest.0 > generation {
            self.broken.push(format!("{}: {stream} goes back to generation {generation}", self.id));
        }
        let old = local.old.take().map(|(leg, _)| leg);
        let was = local.leg.take();
        let mut over: Vec<Leg> = Vec::new();
        let back = old.filter(|old| (old.link, old.generation) == (link, generation) && keep.is_some());
        over.extend(old.filter(|_| back.is_none()));
        match (was, keep) {
            (Some(was), Some(now)) => local.old = Some((was, now)),
            (was, _) => over.extend(was),
        }
        for leg in over {
            self.out.push((leg.link, Message::Unsubscribe { stream, alias: leg.alias }));
        }
        let alias = self.next_alias;
        local.leg = back.or(Some(Leg { link, alias, generation }));
        if back.is_none() {
            self.next_alias += 1;
            let (after, need) = (local.newest, self.paths.need(&self.names[stream]));
            self.out.push((link, Message::Subscribe { stream, alias, generation, after, need }));
        }
    }
}
