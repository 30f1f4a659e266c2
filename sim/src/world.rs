//! The world: shards, clients, the paths between them, and a clock that goes from one event to the next.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use link::{Config, Random};
use media::Time;
use metrics::{DropReason, ShardMetrics};
use rtc::session::{Input, Protocol};
use sfu::{Command, Egress, Event, Mail, Shard, ShardConfig};

use crate::UNIX_US;
use crate::peer::{Model, Peer};
use crate::source::Source;
use crate::traffic::Outbox;

mod log;
mod members;

/// IPv4 and UDP headers count on a path.
const HEADERS_LEN: usize = 28;
/// What a datagram of a handshake counts as: signatures differ in length from run to run, and a seed must give the same each time.
const HANDSHAKE_LEN: usize = 1_200;
/// Clients' addresses are here (RFC 2544), by their number plus one.
const PEERS_NET: u32 = 198 << 24 | 18 << 16;
/// Steps of one moment: more is a shard that is due again and again.
const STEPS_MAX: usize = 10_000;

/// What the node sent: as it is on the wire and, once its receiver has keys, in the clear.
pub(crate) struct Datagram {
    pub(crate) sealed: Vec<u8>,
    pub(crate) clear: OnceCell<Vec<u8>>,
}

enum Happening {
    /// A datagram of a peer reaches its shard; with it what it says in the clear, if it is RTCP.
    ToShard(usize, Vec<u8>, Option<Rc<Vec<u8>>>),
    ToPeer(usize, Rc<Datagram>),
    /// A peer's model or client is due.
    Wake(usize),
    Source(usize),
    Act(Box<dyn FnOnce(&mut World)>),
}

/// One shard and where it is.
struct Node {
    shard: Shard,
    metrics: Arc<ShardMetrics>,
    address: SocketAddr,
    events: Vec<Event>,
    out: Out,
}

/// Collects what a shard sends.
#[derive(Default)]
struct Out {
    buffer: Vec<u8>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Egress for Out {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.buffer.resize(len, 0);
        Some(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.sent.push((to, self.buffer[..len].to_vec()));
    }
}

/// Everything there is.
pub struct World {
    /// The moment.
    pub now: Time,
    /// What chance comes from.
    pub seed: u64,
    /// Clients.
    pub peers: Vec<Peer>,
    /// RTMP-like publishers.
    pub sources: Vec<Source>,
    /// Whether events are written to standard output.
    pub log: bool,
    nodes: Vec<Node>,
    queue: BTreeMap<(Time, u64), Happening>,
    queued: u64,
    random: Random,
}

impl World {
    /// Shards, and nobody to talk to them.
    pub fn new(seed: u64, shards: usize, log: bool) -> World {
        let node = |id: usize| {
            let metrics = Arc::new(ShardMetrics::default());
            let config = ShardConfig { id, unix_us_at_zero: UNIX_US, seed: seed ^ 0x5eed, pacer: true };
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8_000 + id as u16);
            let shard = Shard::new(config, metrics.clone());
            Node { shard, metrics, address, events: Vec::new(), out: Out::default() }
        };
        World {
            now: Time::ZERO,
            seed,
            peers: Vec::new(),
            sources: Vec::new(),
            log,
            nodes: (0..shards).map(node).collect(),
            queue: BTreeMap::new(),
            queued: 0,
            random: Random(seed),
        }
    }

    /// Another path in both directions.
    pub fn path(&mut self, peer: usize, up: Config, down: Config) {
        self.say(|| format!("peer {peer}: up {up:?}, down {down:?}"));
        let p = &mut self.peers[peer];
        p.up.set(up);
        p.down.set(down);
        p.oracle.path(up.delay_us + down.delay_us);
    }

    /// A publisher's path loses or reorders: what the node gets is not in order, and nor is what it sends.
    pub fn out_of_order(&mut self) {
        self.peers.iter_mut().for_each(|p| p.oracle.facts.in_order = false);
    }

    /// Does it then.
    pub fn at(&mut self, at: Time, act: impl FnOnce(&mut World) + 'static) {
        self.put(at, Happening::Act(Box::new(act)));
    }

    /// An order to a shard.
    pub fn command(&mut self, shard: usize, command: Command) {
        let node = &mut self.nodes[shard];
        node.shard.handle_command(command, self.now, &mut node.out);
        self.settle(shard);
    }

    /// Packets that a shard dropped for a reason.
    pub fn drops(&self, shard: usize, reason: DropReason) -> u64 {
        self.nodes[shard].metrics.drops(reason)
    }

    /// Lets whole seconds pass.
    pub fn run_s(&mut self, seconds: i64) {
        self.run_us(seconds * 1_000_000);
    }

    /// Lets time pass.
    pub fn run_us(&mut self, us: i64) {
        let end = self.now.plus_us(us);
        loop {
            let due = self.nodes.iter().map(|n| n.shard.next_timeout()).min().unwrap_or(Time::MAX);
            let first = self.queue.first_key_value().map_or(Time::MAX, |((at, _), _)| *at);
            let next = due.min(first).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if first <= next {
                let (_, what) = self.queue.pop_first().expect("it has a first");
                self.happen(what);
            } else {
                (0..self.nodes.len()).for_each(|shard| self.look_after(shard));
            }
        }
        self.now = end;
    }

    fn look_after(&mut self, shard: usize) {
        for _ in 0..STEPS_MAX {
            let node = &mut self.nodes[shard];
            if node.shard.next_timeout() > self.now {
                return;
            }
            while node.shard.handle_timeout(self.now, &mut node.out) {}
            while node.shard.handle_handshake(self.now, &mut node.out) {}
            self.settle(shard);
        }
        panic!("seed {}, {:?}: shard {shard} is due again and again", self.seed, self.now);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::ToShard(peer, mut datagram, clear) => {
                let p = &mut self.peers[peer];
                if let Some(compound) = clear {
                    p.oracle.heard_rtcp(&compound);
                }
                let (shard, from) = (p.shard, p.address);
                let node = &mut self.nodes[shard];
                node.shard.handle_datagram(&mut datagram, from, self.now, &mut node.out);
                self.settle(shard);
            }
            Happening::ToPeer(peer, datagram) => self.receive(peer, &datagram),
            Happening::Wake(peer) => self.poll(peer),
            Happening::Source(index) => {
                let source = &mut self.sources[index];
                let mail = source.poll(self.now);
                let next = source.next();
                for one in mail {
                    self.nodes[0].shard.handle_mail(one, self.now);
                }
                self.settle(0);
                self.put(next, Happening::Source(index));
            }
            Happening::Act(act) => act(self),
        }
    }

    fn receive(&mut self, peer: usize, datagram: &Datagram) {
        let (now, p) = (self.now, &mut self.peers[peer]);
        let mut out = Outbox::default();
        let mut raw = Vec::new();
        match (datagram.clear.get(), Protocol::of(&datagram.sealed)) {
            (Some(clear), Ok(Protocol::Rtp)) => {
                if let Model::Receiver(receiver) = &mut p.model {
                    let seen = receiver.on_rtp(clear, now, &mut out);
                    self.breach(peer, seen);
                }
            }
            (Some(clear), _) => match &mut p.model {
                Model::Receiver(receiver) => receiver.on_rtcp(clear, now),
                Model::Publisher(publisher) => publisher.on_rtcp(clear, now, &mut out),
                Model::Idle => {}
            },
            // No keys yet.
            (None, Ok(Protocol::Rtp | Protocol::Rtcp)) => {}
            (None, _) => {
                let mut bytes = datagram.sealed.clone();
                let _ = p.client.handle_datagram(&mut bytes, now, &mut |_, b| raw.push(b.to_vec()));
                for waiting in std::mem::take(&mut p.unopened) {
                    self.open(peer, &waiting);
                }
            }
        }
        self.send(peer, out, raw);
        self.arm(peer);
    }

    fn poll(&mut self, peer: usize) {
        let (now, p) = (self.now, &mut self.peers[peer]);
        if p.gone {
            return;
        }
        p.armed = Time::MAX;
        let (mut out, mut raw) = (Outbox::default(), Vec::new());
        if now >= p.client.next_timeout() {
            p.client.handle_timeout(now, &mut |_, b| raw.push(b.to_vec()));
        }
        if p.client.is_connected() {
            let polled = match &mut p.model {
                Model::Receiver(receiver) => receiver.poll(now, &mut out),
                Model::Publisher(publisher) => {
                    publisher.poll(now, &mut out);
                    Ok(())
                }
                Model::Idle => Ok(()),
            };
            self.breach(peer, polled);
        }
        self.send(peer, out, raw);
        self.arm(peer);
    }

    /// A peer has a wake-up call in the queue for when it is due next.
    fn arm(&mut self, peer: usize) {
        let due = self.peers[peer].next().max(self.now);
        if due < self.peers[peer].armed {
            self.wake(peer, due);
        }
    }

    fn wake(&mut self, peer: usize, at: Time) {
        self.peers[peer].armed = at;
        self.put(at, Happening::Wake(peer));
    }

    /// The peer is gone without a word.
    pub fn leave(&mut self, peer: usize) {
        self.say(|| format!("peer {peer} is gone"));
        self.peers[peer].gone = true;
    }

    fn send(&mut self, peer: usize, out: Outbox, raw: Vec<Vec<u8>>) {
        let p = &mut self.peers[peer];
        if p.gone {
            return;
        }
        let rtp: Vec<Vec<u8>> = out.rtp.iter().map(|rtp| rtp.seal(&mut p.client)).collect();
        raw.into_iter().chain(rtp).for_each(|bytes| self.carry_up(peer, bytes, None));
        for compound in out.rtcp.into_iter().filter(|c| !c.is_empty()) {
            self.say_rtcp(&format!("peer {peer}"), &compound);
            let mut sealed = Vec::new();
            let client = &mut self.peers[peer].client;
            client.send_rtcp(&compound, &mut |_, b| sealed = b.to_vec()).expect("connected");
            self.carry_up(peer, sealed, Some(Rc::new(compound)));
        }
    }

    fn carry_up(&mut self, peer: usize, bytes: Vec<u8>, clear: Option<Rc<Vec<u8>>>) {
        let carried = self.peers[peer].up.carry(path_len(&bytes), self.now);
        for at in carried.times() {
            self.put(at, Happening::ToShard(peer, bytes.clone(), clear.clone()));
        }
    }

    /// Fans out, and carries datagrams to paths, mail to other shards and events to whom they concern, until nothing is left.
    fn settle(&mut self, shard: usize) {
        let node = &mut self.nodes[shard];
        node.shard.fan_out(self.now, &mut node.out);
        node.events.extend(node.shard.take_events());
        let mail: Vec<(usize, Mail)> = node.shard.take_mail().collect();
        for (to, sealed) in std::mem::take(&mut node.out.sent) {
            let Some(peer) = peer_at(to).filter(|peer| !self.peers[*peer].gone) else { continue };
            let datagram = Rc::new(Datagram { sealed, clear: OnceCell::new() });
            let answered = self.peers[peer].oracle.numbers_answered;
            self.open(peer, &datagram);
            let p = &mut self.peers[peer];
            let carried = p.down.carry(path_len(&datagram.sealed), self.now);
            p.note_path(&datagram.sealed, carried, self.now);
            if let Some(number) = p.oracle.last_answer.filter(|_| p.oracle.numbers_answered > answered) {
                self.say(|| format!("the node sends {number} again to peer {peer}: {carried:?}"));
            }
            for at in carried.times() {
                self.put(at, Happening::ToPeer(peer, datagram.clone()));
            }
        }
        for (to, mail) in mail {
            self.nodes[to].shard.handle_mail(mail, self.now);
            self.settle(to);
        }
    }

    /// Shows a datagram of media or RTCP to its peer's oracle, in the order of sending: it is opened on the way out, or as soon as its receiver
    /// has the keys.
    fn open(&mut self, peer: usize, datagram: &Rc<Datagram>) {
        let protocol = Protocol::of(&datagram.sealed).expect("the node sends what can be told apart");
        if !matches!(protocol, Protocol::Rtp | Protocol::Rtcp) {
            return;
        }
        let p = &mut self.peers[peer];
        if !p.client.is_connected() {
            return p.unopened.push(datagram.clone());
        }
        let mut bytes = datagram.sealed.clone();
        let clear = match p.client.handle_datagram(&mut bytes, self.now, &mut |_, _| {}) {
            Ok(Input::Rtp(packet)) => packet.to_vec(),
            Ok(Input::Rtcp(compound)) => compound.to_vec(),
            // The same packet again, as plain retransmissions are.
            Err(DropReason::SrtpReplayed) => match p.resent(&datagram.sealed) {
                Some(clear) => clear,
                None => return self.breach(peer, Err("a number under SRTP twice, with other bytes".into())),
            },
            other => {
                return self.breach(peer, Err(format!("a datagram that its peer cannot read: {other:?}")));
            }
        };
        if protocol == Protocol::Rtcp {
            self.say_rtcp(&format!("the node, of peer {peer},"), &clear);
        }
        let p = &mut self.peers[peer];
        let seen = if protocol == Protocol::Rtp {
            p.remember(&datagram.sealed, &clear);
            let said = |count: &AtomicU64| count.load(Ordering::Relaxed);
            p.oracle.copies_said = said(&p.stats.probe_copies) + said(&p.stats.resent_unasked);
            p.oracle.sent_rtp(&clear, self.now)
        } else {
            p.oracle.sent_rtcp(&clear, self.now)
        };
        let _ = datagram.clear.set(clear);
        self.breach(peer, seen);
    }

    fn breach(&self, peer: usize, result: Result<(), String>) {
        if let Err(what) = result {
            panic!("seed {}, at {} us, peer {peer}: {what}", self.seed, self.now.us());
        }
    }

    /// Events of a shard so far.
    pub fn events(&self, shard: usize) -> &[Event] {
        &self.nodes[shard].events
    }

    fn put(&mut self, at: Time, what: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), what);
    }
}

/// Whose address it is.
fn peer_at(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => (u32::from(ip) ^ PEERS_NET).checked_sub(1).map(|index| index as usize),
        IpAddr::V6(_) => None,
    }
}

/// What a datagram takes of a path's rate.
fn path_len(datagram: &[u8]) -> usize {
    let is_handshake = matches!(Protocol::of(datagram), Ok(Protocol::Dtls));
    HEADERS_LEN + if is_handshake { HANDSHAKE_LEN } else { datagram.len() }
}
