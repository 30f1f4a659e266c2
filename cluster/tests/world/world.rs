//! Nodes, links of random delay that fail and come back, publishers that move, viewers: one seed, one history.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use media::Time;
use millrace_cluster::paths::{Figures, LinkId};

use crate::chance::Chance;
use crate::node::{Message, Node, stream_name};

/// Links from a publisher's node to a viewer's, at most.
const HOPS_MAX: usize = 3;
/// A peer of which nothing came for three round trips, or this, is gone (the hub's `SILENCE_US_MIN`).
const SILENCE_US_MIN: i64 = 300_000;
/// The hub looks so often who is silent.
const LOOK_US: i64 = 50_000;
/// A link that could be there is dialled so often.
const DIAL_US: i64 = 500_000;
const SECOND_US: i64 = 1_000_000;

/// Two nodes that may be joined.
pub struct Edge {
    pub ends: [usize; 2],
    pub delay_us: i64,
    loss_ppm: u64,
    /// The path carries packets.
    pub is_whole: bool,
    /// The connection that is there or was last, and whether it still carries anything.
    link: LinkId,
    is_alive: bool,
    /// Which end thinks that it is up.
    pub is_up: [bool; 2],
    /// Nothing overtakes: when the newest arrives, to each end.
    arrives: [Time; 2],
}

#[derive(Debug)]
enum Event {
    Arrive { edge: usize, link: LinkId, end: usize, message: Message },
    Silent { edge: usize, link: LinkId, end: usize },
    Dial { edge: usize },
    Second,
    Packet { stream: usize },
    Wake { node: usize },
    Heal(Vec<usize>),
    Revive(usize),
    Die(usize),
    LeaveOld { node: usize, stream: usize, generation: u64 },
}

/// In order of time, and of what was first.
struct Due(Time, u64, Event);
impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How long something lasted that messages on their way put right.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lasting {
    since: Option<Time>,
    pub times: u64,
    pub longest_us: i64,
}

impl Lasting {
    fn look(&mut self, is: bool, now: Time) {
        if is && self.since.is_none() {
            self.since = Some(now);
            self.times += 1;
        }
        if let Some(since) = self.since {
            self.longest_us = self.longest_us.max(now.since(since));
        }
        if !is {
            self.since = None;
        }
    }
}

pub struct World {
    pub chance: Chance,
    pub now: Time,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
    /// By node: its edges.
    of_node: Vec<Vec<usize>>,
    events: BinaryHeap<Reverse<Due>>,
    count: u64,
    next_link: u64,
    /// By stream: the newest generation, and the number of the newest packet of any.
    pub generations: Vec<u64>,
    numbers: Vec<u64>,
    pub packet_us: i64,
    /// Round trips are measured a little differently each second.
    pub is_noisy: bool,
    /// Each moment is looked at: too much for a thousand nodes.
    pub is_looked_at: bool,
    wakes: Vec<Option<Time>>,
    pub loops: Lasting,
    pub long: Lasting,
    /// Viewers that were looked at.
    pub served: u64,
    /// Of everything that happened.
    pub digest: u64,
}

impl World {
    pub fn new(seed: u64, nodes: usize, streams: usize) -> World {
        let mut chance = Chance::new(seed);
        let mut pairs: Vec<[usize; 2]> = (1..nodes).map(|node| [chance.below(node), node]).collect();
        for _ in 0..nodes + chance.below(nodes) {
            let (a, b) = (chance.below(nodes), chance.below(nodes));
            let pair = [a.min(b), a.max(b)];
            if a != b && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        World::joined(chance, nodes, streams, &pairs)
    }

    pub fn joined(mut chance: Chance, nodes: usize, streams: usize, pairs: &[[usize; 2]]) -> World {
        let mut of_node = vec![Vec::new(); nodes];
        let mut edges = Vec::new();
        for ends in pairs {
            ends.iter().for_each(|node| of_node[*node].push(edges.len()));
            edges.push(Edge {
                ends: *ends,
                delay_us: chance.between(500, 80_000),
                loss_ppm: 0,
                is_whole: true,
                link: LinkId(0),
                is_alive: false,
                is_up: [false; 2],
                arrives: [Time::ZERO; 2],
            });
        }
        let mut world = World {
            chance,
            now: Time::ZERO,
            nodes: (0..nodes).map(|index| Node::new(index, streams)).collect(),
            edges,
            of_node,
            events: BinaryHeap::new(),
            count: 0,
            next_link: 1,
            generations: vec![0; streams],
            numbers: vec![0; streams],
            packet_us: 100_000,
            is_noisy: true,
            is_looked_at: true,
            wakes: vec![None; nodes],
            loops: Lasting::default(),
            long: Lasting::default(),
            served: 0,
            digest: 0,
        };
        for edge in 0..world.edges.len() {
            let first_us = world.chance.between(0, DIAL_US);
            world.at(first_us, Event::Dial { edge });
        }
        (0..streams).for_each(|stream| world.at(0, Event::Packet { stream }));
        world.at(0, Event::Second);
        world
    }

    fn at(&mut self, in_us: i64, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Due(self.now.plus_us(in_us), self.count, event)));
    }

    /// Everything up to then.
    pub fn run_until(&mut self, until: Time) {
        while let Some(Reverse(Due(at, ..))) = self.events.peek()
            && *at <= until
            && let Some(Reverse(Due(at, _, event))) = self.events.pop()
        {
            self.now = at;
            self.happens(event);
        }
        self.now = until;
    }

    pub fn run(&mut self, us: i64) {
        self.run_until(self.now.plus_us(us));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrive { edge, link, end, message } => self.arrive(edge, link, end, message),
            Event::Silent { edge, link, end } => self.silent(edge, link, end),
            Event::Dial { edge } => self.dial(edge),
            Event::Second => self.second(),
            Event::Packet { stream } => self.packet(stream),
            Event::Wake { node } => {
                self.wakes[node] = None;
                self.pump(node);
            }
            Event::Heal(edges) => edges.into_iter().for_each(|edge| self.edges[edge].is_whole = true),
            Event::Revive(node) if !self.nodes[node].is_up => {
                self.nodes[node].come_back();
                self.pump(node);
            }
            Event::Revive(_) => {}
            Event::Die(node) => self.die(node),
            Event::LeaveOld { node, stream, generation } => {
                if self.nodes[node].streams[stream].publishes == Some(generation) {
                    self.nodes[node].leave(stream);
                    self.pump(node);
                }
            }
        }
    }

    fn arrive(&mut self, edge: usize, link: LinkId, end: usize, message: Message) {
        let it = &self.edges[edge];
        let node = it.ends[end];
        if it.link != link || !it.is_alive || !it.is_up[end] || !self.nodes[node].is_up {
            return;
        }
        self.digest = self.digest.rotate_left(5) ^ (self.now.us() as u64) ^ (node as u64) << 40;
        self.nodes[node].receive(link, message, self.now);
        self.pump(node);
    }

    fn silent(&mut self, edge: usize, link: LinkId, end: usize) {
        let it = &mut self.edges[edge];
        if it.link == link && it.is_up[end] {
            it.is_up[end] = false;
            let node = it.ends[end];
            if self.nodes[node].is_up {
                self.nodes[node].link_down(link);
                self.pump(node);
            }
        }
    }

    fn dial(&mut self, edge: usize) {
        self.at(DIAL_US, Event::Dial { edge });
        let it = &self.edges[edge];
        if !it.is_whole || it.is_alive || it.ends.iter().any(|node| !self.nodes[*node].is_up) {
            return;
        }
        let (old, ends, was_up) = (it.link, it.ends, it.is_up);
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let it = &mut self.edges[edge];
        (it.link, it.is_alive, it.is_up, it.arrives) = (link, true, [true; 2], [self.now; 2]);
        for end in 0..2 {
            let peer = self.nodes[ends[1 - end]].id.clone();
            let drains = self.nodes[ends[1 - end]].drains;
            let node = &mut self.nodes[ends[end]];
            if was_up[end] {
                node.link_down(old);
            }
            node.paths.link_up(link, peer);
            if drains {
                node.paths.link_drains(link);
            }
        }
        self.figures(edge);
        ends.iter().for_each(|node| self.pump(*node));
    }

    fn figures(&mut self, edge: usize) {
        let rtt_us = self.edges[edge].delay_us * 2;
        let noise = self.chance.between(-rtt_us / 100, rtt_us / 100 + 1) * i64::from(self.is_noisy);
        let it = &self.edges[edge];
        let figures = Figures {
            rtt_us: (rtt_us + noise) as u64,
            queue_us: noise.unsigned_abs(),
            packets: 1_000_000,
            lost: it.loss_ppm,
            ..Figures::default()
        };
        for end in 0..2 {
            if it.is_up[end] && self.nodes[it.ends[end]].is_up {
                self.nodes[it.ends[end]].paths.link_figures(it.link, figures);
            }
        }
    }

    fn second(&mut self) {
        self.at(SECOND_US, Event::Second);
        (0..self.edges.len()).for_each(|edge| self.figures(edge));
        (0..self.nodes.len()).for_each(|node| self.pump(node));
    }

    fn packet(&mut self, stream: usize) {
        self.at(self.packet_us, Event::Packet { stream });
        self.numbers[stream] += 1;
        let number = self.numbers[stream];
        for node in 0..self.nodes.len() {
            if let Some(generation) = self.nodes[node].streams[stream].publishes {
                self.nodes[node].has(stream, (generation, number), self.now);
                self.pump(node);
            }
        }
    }

    /// A node does what it has to, and what it says sets out.
    fn pump(&mut self, node: usize) {
        let now = self.now;
        let it = &mut self.nodes[node];
        if !it.is_up {
            return;
        }
        it.tick(now);
        it.pump(now);
        let mut changes = false;
        for (link, message) in std::mem::take(&mut it.out) {
            changes |= !matches!(message, Message::Packet { .. });
            self.send(node, link, message);
        }
        let it = &self.nodes[node];
        let wake = it.lingers.front().map(|(at, ..)| *at).into_iter().chain(it.paths.deadline()).min();
        if let Some(wake) = wake.filter(|wake| self.wakes[node].is_none_or(|has| *wake < has)) {
            self.wakes[node] = Some(wake);
            self.at(wake.since(now).max(0), Event::Wake { node });
        }
        if changes && self.is_looked_at {
            self.look();
        }
    }

    fn send(&mut self, node: usize, link: LinkId, message: Message) {
        let edge = self.of_node[node].iter().copied().find(|edge| self.edges[*edge].link == link);
        let Some(edge) = edge else { return };
        let jitter = self.chance.between(0, self.edges[edge].delay_us / 4 + 1);
        let it = &mut self.edges[edge];
        if !it.is_alive || !it.is_whole {
            return;
        }
        let end = usize::from(it.ends[0] == node);
        let at = self.now.plus_us(it.delay_us + jitter).max(it.arrives[end]);
        it.arrives[end] = at;
        self.at(at.since(self.now), Event::Arrive { edge, link, end, message });
    }

    /// The connection carries nothing any more; its ends see that after a while.
    fn cut(&mut self, edge: usize) {
        let it = &mut self.edges[edge];
        if !std::mem::replace(&mut it.is_alive, false) {
            return;
        }
        let (link, silence_us) = (it.link, (it.delay_us * 6).max(SILENCE_US_MIN));
        for end in 0..2 {
            let look_us = self.chance.between(0, LOOK_US);
            self.at(silence_us + look_us, Event::Silent { edge, link, end });
        }
    }

    pub fn break_edge(&mut self, edge: usize) {
        self.edges[edge].is_whole = false;
        self.cut(edge);
    }

    pub fn die(&mut self, node: usize) {
        self.nodes[node].kill();
        for edge in self.of_node[node].clone() {
            self.cut(edge);
            let it = &mut self.edges[edge];
            let end = usize::from(it.ends[1] == node);
            it.is_up[end] = false;
        }
    }

    pub fn publish(&mut self, node: usize, stream: usize) {
        self.generations[stream] += 1;
        self.nodes[node].publish(stream, self.generations[stream]);
        self.pump(node);
    }

    pub fn watch(&mut self, node: usize, stream: usize, is_watched: bool) {
        self.nodes[node].watch(stream, is_watched);
        self.pump(node);
    }

    /// The publisher is at another node now; the one before notices at once, later, or when it is told.
    pub fn move_publisher(&mut self, stream: usize) {
        let node = self.chance.below(self.nodes.len());
        if !self.nodes[node].is_up {
            return;
        }
        for old in 0..self.nodes.len() {
            if let Some(generation) = self.nodes[old].streams[stream].publishes.filter(|_| old != node) {
                let in_us = self.chance.between(0, 3_000_000);
                self.at(in_us, Event::LeaveOld { node: old, stream, generation });
            }
        }
        self.publish(node, stream);
    }

    /// Something goes wrong, or somebody comes or goes.
    pub fn fault(&mut self) {
        let back_us = self.chance.between(200_000, 5_000_000);
        let node = self.chance.below(self.nodes.len());
        let edge = self.chance.below(self.edges.len());
        let stream = self.chance.below(self.generations.len());
        match self.chance.below(16) {
            0 | 1 => {
                self.die(node);
                self.at(back_us, Event::Revive(node));
            }
            2..=4 => {
                self.break_edge(edge);
                self.at(back_us, Event::Heal(vec![edge]));
            }
            5 => {
                let side: Vec<bool> = self.nodes.iter().map(|_| self.chance.one_in(2)).collect();
                let crosses = |edge: &usize| {
                    let [a, b] = self.edges[*edge].ends;
                    side[a] != side[b] && self.edges[*edge].is_whole
                };
                let cut: Vec<usize> = (0..self.edges.len()).filter(crosses).collect();
                cut.iter().for_each(|edge| self.break_edge(*edge));
                self.at(back_us, Event::Heal(cut));
            }
            6 | 7 => {
                if self.nodes[node].is_up && !self.nodes[node].drains {
                    self.nodes[node].drains = true;
                    for edge in self.of_node[node].clone() {
                        self.send(node, self.edges[edge].link, Message::Drain);
                    }
                    self.at(back_us, Event::Die(node));
                    self.at(back_us + 1_000_000, Event::Revive(node));
                }
            }
            8..=10 => self.move_publisher(stream),
            11 => {
                if self.nodes[node].streams[stream].publishes.is_some() {
                    self.nodes[node].leave(stream);
                    self.pump(node);
                }
            }
            12 => self.edges[edge].loss_ppm = self.chance.between(0, 100_000) as u64,
            _ => {
                let is_watched = self.nodes[node].streams[stream].is_watched;
                self.watch(node, stream, !is_watched);
            }
        }
    }

    /// From whom a node takes a stream that is sent by it.
    pub fn taken_from(&self, node: usize, stream: usize) -> Option<usize> {
        let leg = self.nodes[node].streams[stream].leg?;
        let parent = self.peer(node, leg.link)?;
        self.nodes[parent].streams[stream].sends.contains_key(&leg.link).then_some(parent)
    }

    /// What must not be at any moment, and what must not last.
    fn look(&mut self) {
        let (mut loops, mut long) = (false, false);
        for stream in 0..self.generations.len() {
            for node in 0..self.nodes.len() {
                let name = stream_name(stream);
                let paths = &self.nodes[node].paths;
                let passed = paths.parent(&name).and(paths.best(&name)).map_or(0, |(_, it)| it.path.len());
                if passed > HOPS_MAX {
                    self.nodes[node].broken.push(format!("n{node}: {stream} by {passed} links"));
                }
                let (mut at, mut hops) = (node, 0);
                while let Some(parent) = self.taken_from(at, stream) {
                    (at, hops) = (parent, hops + 1);
                    if at == node || hops > self.nodes.len() {
                        loops = true;
                        break;
                    }
                }
                long |= hops > HOPS_MAX && at != node;
            }
        }
        self.loops.look(loops, self.now);
        self.long.look(long, self.now);
    }

    /// Links from there to each node, over what is up; `None`: more than may be.
    pub fn distances(&self, from: usize) -> Vec<Option<usize>> {
        let mut distances = vec![None; self.nodes.len()];
        distances[from] = Some(0);
        for hops in 0..HOPS_MAX {
            for edge in self.edges.iter().filter(|edge| edge.is_alive) {
                for [a, b] in [edge.ends, [edge.ends[1], edge.ends[0]]] {
                    if distances[a] == Some(hops) && distances[b].is_none() {
                        distances[b] = Some(hops + 1);
                    }
                }
            }
        }
        distances
    }

    /// Viewers that do not have the newest generation though they could.
    pub fn unserved(&mut self) -> Vec<String> {
        let mut unserved = Vec::new();
        let mut served = 0;
        for (stream, generation) in self.generations.iter().enumerate() {
            let at = |node: &Node| node.is_up && node.streams[stream].publishes == Some(*generation);
            let Some(origin) = self.nodes.iter().position(at) else { continue };
            for (node, distance) in self.distances(origin).into_iter().enumerate() {
                let local = &self.nodes[node].streams[stream];
                if !self.nodes[node].is_up || !local.is_watched || distance.is_none() {
                    continue;
                }
                served += 1;
                let (has, number) = local.newest;
                // Three links of 80 ms with their jitter, and a packet.
                if has != *generation || number + 5 < self.numbers[stream] {
                    let newest = self.numbers[stream];
                    let origin = format!("n{origin} has {generation}:{newest}");
                    unserved
                        .push(format!("n{node} at {distance:?} has {has}:{number} of {stream}, {origin}"));
                }
            }
        }
        self.served += served;
        unserved
    }

    /// The other end of a node's link.
    fn peer(&self, node: usize, link: LinkId) -> Option<usize> {
        let edge = self.of_node[node].iter().find(|edge| self.edges[**edge].link == link)?;
        let [a, b] = self.edges[*edge].ends;
        Some(if a == node { b } else { a })
    }

    /// It publishes the stream, or takes it.
    pub fn has(&self, node: usize, stream: usize) -> bool {
        let it = &self.nodes[node].streams[stream];
        it.leg.is_some() || it.publishes.is_some()
    }

    /// The node that a node's stream would come from next.
    pub fn standby_of(&self, node: usize, stream: usize) -> Option<usize> {
        self.peer(node, self.nodes[node].paths.standby(&stream_name(stream))?)
    }

    /// In the calm: standbys that do not have the stream, and nodes that take or hold one that nobody watches.
    pub fn unready(&self) -> (u64, Vec<String>) {
        let (mut ready, mut wrong) = (0, Vec::new());
        for stream in 0..self.generations.len() {
            let watched = self.nodes.iter().any(|node| node.is_up && node.streams[stream].is_watched);
            for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_up) {
                let local = &node.streams[stream];
                if !watched && (local.leg.is_some() || local.hold.is_some()) {
                    wrong.push(format!("n{at} takes {stream}, which nobody watches"));
                }
                let Some(link) = node.paths.standby(&stream_name(stream)) else { continue };
                let Some(peer) = self.peer(at, link) else { continue };
                if !self.nodes[peer].streams[stream].held.contains_key(&link) || !self.has(peer, stream) {
                    wrong.push(format!("n{at} has n{peer} hold {stream}, which does not have it"));
                }
                ready += 1;
            }
        }
        (ready, wrong)
    }

    pub fn broken(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|node| node.broken.clone()).collect()
    }

    pub fn said(&self) -> u64 {
        self.nodes.iter().map(|node| node.said).sum()
    }
}
