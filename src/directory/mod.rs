//! The directory of a cluster: which nodes there are, and which of them has which stream. Without one (a single node, or a list of peers in the settings) a
//! stream is claimed by announcing it.
//!
//! It proposes, and is never in the way of media: what runs goes on without it, and a publisher that comes meanwhile is accepted with a generation of this node's
//! own, which is claimed when the directory is back.

mod nats;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use cluster::directory::{Claim, Load, NodeRecord, Table, Verdict};
use futures_util::{StreamExt, stream};
use media::{NodeId, StreamName, Time};
use metrics::{DirectoryEvent, NodeMetrics};
use sfu::CloseReason;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::node::Node;
use nats::Stores;

/// A publisher waits so long for its claim; then it is accepted without.
const CLAIM_LIMIT: Duration = Duration::from_secs(2);
/// A node that has not seen the directory yet, and whose start is not longer ago than this, waits for it with the first publishers: without it a stream that
/// another node has would be taken for free, and that one's publisher ended later.
const FIRST_LIMIT: Duration = Duration::from_secs(5);
/// For so long where the servers are there, and the node's own last lease is not over, as after a crash.
const LEASE_LIMIT: Duration = Duration::from_secs(8);
/// Two nodes that claim at once write again, until one of them sees the other's: more is no race.
const WRITES_MAX: usize = 5;
/// A claim that could not be written is tried again after so long: one write a stream and second.
const AGAIN_US: i64 = 1_000_000;
/// Claims that are written, or given back, at one time: a node's streams are all claimed again when the directory is back, each for a round trip or two.
const WRITES_AT_ONCE: usize = 32;
/// The node stops: its record is taken out in so long, or is left to its lease.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// A stream that this node has.
#[derive(Debug)]
struct Mine {
    /// Whose it is: a later publisher of the same stream has another.
    token: u64,
    generation: u64,
    /// Of the record that says so, as it was seen; `None` while there is none.
    revision: Option<u64>,
    tried: Time,
}

/// How far a node is with the directory since its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
enum First {
    /// No server has answered.
    #[default]
    Away,
    /// Servers are there, and so is the record of an earlier start of the node.
    Waits,
    /// It was connected once.
    Connected,
}

/// The directory, as this node knows it.
#[derive(Debug)]
pub struct Directory {
    me: NodeId,
    boot: u64,
    relay: SocketAddr,
    region: String,
    clock: Clock,
    metrics: Arc<NodeMetrics>,
    table: Mutex<Table>,
    mine: Mutex<HashMap<StreamName, Mine>>,
    /// Streams that were given up here, and their claims are not yet.
    given_up: Mutex<Vec<StreamName>>,
    next_token: AtomicU64,
    /// There while it is connected.
    stores: Mutex<Option<Stores>>,
    /// How far it is since the start.
    first: watch::Sender<First>,
    began: Time,
    /// Claims are to be looked at.
    changed: Notify,
    /// Nodes came or went.
    nodes_changed: Notify,
    /// Another process runs as this node.
    is_double: AtomicBool,
    /// This node's record, as it wrote it last; it writes no more when it has left.
    record_revision: AtomicU64,
    has_left: AtomicBool,
    node: OnceLock<Weak<Node>>,
}

/// A stream that a publisher has; given back when it goes.
#[derive(Debug)]
pub struct Held {
    directory: Arc<Directory>,
    stream: StreamName,
    token: u64,
    /// What its packets and announcements have.
    pub generation: u64,
    /// The directory has it; else it was away.
    pub is_claimed: bool,
}

impl Held {
    /// Nobody has claimed it at this node since, and no other node has it.
    pub fn is_current(&self) -> bool {
        lock(&self.directory.mine).get(&self.stream).is_some_and(|mine| mine.token == self.token)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut mine = lock(&self.directory.mine);
        if mine.get(&self.stream).is_some_and(|mine| mine.token == self.token) {
            mine.remove(&self.stream);
            lock(&self.directory.given_up).push(self.stream.clone());
            self.directory.metrics.claims_held.set(i64::try_from(mine.len()).unwrap_or(i64::MAX));
            self.directory.changed.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How an attempt to write a claim ended.
enum Written {
    /// At this revision, with this generation.
    Claimed(u64, u64),
    Taken(NodeId),
    /// Nobody has it, and somebody had it who was newer.
    Outdated,
    /// The directory is away, or too slow.
    Away,
}

impl Directory {
    /// For a node whose settings name one.
    pub fn new(node: &Arc<Node>, boot: u64) -> anyhow::Result<Arc<Directory>> {
        let cluster = &node.config.cluster;
        let me = NodeId::new(&cluster.node).ok_or_else(|| anyhow::anyhow!("cluster.node is no node id"))?;
        let directory = Arc::new(Directory {
            me,
            boot,
            relay: cluster.advertised(),
            region: cluster.region.clone(),
            clock: node.clock,
            metrics: node.metrics.clone(),
            table: Mutex::default(),
            mine: Mutex::default(),
            given_up: Mutex::default(),
            next_token: AtomicU64::new(1),
            stores: Mutex::new(None),
            first: watch::Sender::default(),
            began: node.clock.now(),
            changed: Notify::new(),
            nodes_changed: Notify::new(),
            is_double: AtomicBool::new(false),
            record_revision: AtomicU64::new(0),
            has_left: AtomicBool::new(false),
            node: OnceLock::new(),
        });
        let _ = directory.node.set(Arc::downgrade(node));
        Ok(directory)
    }

    /// Starts to keep it.
    pub fn start(self: &Arc<Self>, node: &Arc<Node>) {
        node.spawn_vital("directory", nats::run(self.clone(), node.config.cluster.clone()));
    }

    /// Claims a stream for a publisher here.
    ///
    /// # Errors
    /// The node that has it, and `replace` is off.
    pub async fn claim(
        self: &Arc<Self>,
        stream: &StreamName,
        newest: u64,
        replace: bool,
    ) -> Result<Held, NodeId> {
        let began = self.clock.now();
        self.first_connected().await;
        let unix_us = self.clock.unix_us_at_zero().saturating_add(began.us()).unsigned_abs();
        let known = lock(&self.table).claim_of(stream).map_or(0, |(claim, _)| claim.generation);
        let local = unix_us.max(newest.max(known).saturating_add(1));
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        // Before it is written: what is written and nobody's here is given back. So is what was claimed for somebody who does not wait for it.
        let mut held = {
            let mut all = lock(&self.mine);
            if !replace && all.contains_key(stream) {
                self.metrics.directory.of(DirectoryEvent::Refused).increment();
                return Err(self.me.clone());
            }
            all.insert(stream.clone(), Mine { token, generation: local, revision: None, tried: began });
            self.metrics.claims_held.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
            let (directory, stream) = (self.clone(), stream.clone());
            Held { directory, stream, token, generation: local, is_claimed: false }
        };
        let stores = lock(&self.stores).clone();
        let written = match stores {
            Some(stores) => {
                // Where the servers lost what they kept, nothing says which was the last: the clock does.
                let write = self.write(&stores, stream, local.saturating_sub(1), None, replace);
                tokio::time::timeout(CLAIM_LIMIT, write).await.unwrap_or(Written::Away)
            }
            None => Written::Away,
        };
        let event = match written {
            Written::Claimed(revision, generation) => {
                if let Some(mine) = lock(&self.mine).get_mut(stream).filter(|mine| mine.token == token) {
                    (mine.revision, mine.generation) = (Some(revision), generation);
                }
                (held.generation, held.is_claimed) = (generation, true);
                DirectoryEvent::Claimed
            }
            Written::Away | Written::Outdated => DirectoryEvent::Unclaimed,
            Written::Taken(node) => {
                self.metrics.directory.of(DirectoryEvent::Refused).increment();
                return Err(node);
            }
        };
        self.metrics.directory.of(event).increment();
        self.metrics.claim_time.observe(self.clock.now().since(began).unsigned_abs());
        Ok(held)
    }

    /// When it was connected once, or it is too late to wait for that.
    async fn first_connected(&self) {
        let passed = Duration::from_micros(self.clock.now().since(self.began).unsigned_abs());
        let mut first = self.first.subscribe();
        let wait = first.wait_for(|first| *first == First::Connected);
        let _ = tokio::time::timeout(FIRST_LIMIT.saturating_sub(passed), wait).await;
        if *self.first.borrow() == First::Waits {
            let passed = passed.max(FIRST_LIMIT);
            let wait = first.wait_for(|first| *first != First::Waits);
            let _ = tokio::time::timeout(LEASE_LIMIT.saturating_sub(passed), wait).await;
        }
    }

    /// Writes a claim by compare-and-set: the next one, or that with this generation, if no other is newer.
    async fn write(
        &self,
        stores: &Stores,
        stream: &StreamName,
        newest: u64,
        own: Option<u64>,
        replace: bool,
    ) -> Written {
        for _ in 0..WRITES_MAX {
            let Ok(there) = stores.claim(stream).await else { return Written::Away };
            let (revision, generation) = {
                let (table, now) = (lock(&self.table), self.clock.now());
                match (own, &there) {
                    (Some(own), Some((claim, revision)))
                        if self.is_mine(claim) && claim.generation == own =>
                    {
                        return Written::Claimed(*revision, own);
                    }
                    (Some(own), Some((claim, _))) if !self.is_mine(claim) && claim.generation > own => {
                        return table.counts(claim, now).map_or(Written::Outdated, Written::Taken);
                    }
                    (Some(own), _) => (there.map(|(_, revision)| revision), own),
                    (None, _) => {
                        let me = (&self.me, self.boot);
                        match table.verdict(me, there.as_ref(), replace, newest, now) {
                            Verdict::Free { revision, generation } => (revision, generation),
                            Verdict::Taken(node) => return Written::Taken(node),
                        }
                    }
                }
            };
            let claim = Claim { node: self.me.to_string(), boot: self.boot, generation };
            match stores.write(stream, &claim, revision).await {
                Ok(Some(revision)) => return Written::Claimed(revision, generation),
                // Somebody else was faster.
                Ok(None) => {}
                Err(()) => return Written::Away,
            }
        }
        Written::Away
    }

    fn is_mine(&self, claim: &Claim) -> bool {
        claim.node == self.me.as_str() && claim.boot == self.boot
    }

    /// What is claimed and nobody's here is given back; what is somebody's here and not claimed is claimed. Publishers of streams that another node has newer
    /// ones of are ended.
    async fn settle(&self, stores: &Stores, all: bool) {
        let now = self.clock.now();
        let (mut again, mut lost) = (Vec::new(), Vec::<(StreamName, NodeId)>::new());
        let mut back = std::mem::take(&mut *lock(&self.given_up));
        {
            let (table, mut mine) = (lock(&self.table), lock(&self.mine));
            if all {
                back.extend(table.claims_of(&self.me, self.boot).map(|(stream, ..)| stream.clone()));
            }
            back.retain(|stream| !mine.contains_key(stream));
            for (stream, mine) in mine.iter_mut() {
                let there = table.claim_of(stream);
                mine.revision = there
                    .filter(|(claim, _)| self.is_mine(claim) && claim.generation == mine.generation)
                    .map(|(_, revision)| *revision);
                if let Some((claim, _)) = there.filter(|(claim, _)| claim.generation > mine.generation)
                    && let Some(node) = table.counts(claim, now).filter(|node| *node != self.me)
                {
                    lost.push((stream.clone(), node));
                } else if mine.revision.is_none() && now.since(mine.tried) >= AGAIN_US {
                    mine.tried = now;
                    again.push((stream.clone(), mine.generation));
                }
            }
        }
        for (stream, node) in lost {
            self.lose(&stream, Some(&node));
        }
        let give_back = |stream: StreamName| async move {
            let there = lock(&self.table).claim_of(&stream).filter(|(claim, _)| self.is_mine(claim)).cloned();
            if let Some((claim, revision)) = there {
                let _ = stores.write(&stream, &Claim::given_back(claim.generation), Some(revision)).await;
            }
        };
        stream::iter(back).for_each_concurrent(WRITES_AT_ONCE, give_back).await;
        let claim_again = |(stream, generation): (StreamName, u64)| async move {
            match self.write(stores, &stream, 0, Some(generation), true).await {
                Written::Claimed(..) => self.metrics.directory.of(DirectoryEvent::Reclaimed).increment(),
                Written::Taken(node) => self.lose(&stream, Some(&node)),
                Written::Outdated => self.lose(&stream, None),
                Written::Away => {}
            }
        };
        stream::iter(again).for_each_concurrent(WRITES_AT_ONCE, claim_again).await;
    }

    /// Another node has a newer publisher, or had one.
    fn lose(&self, stream: &StreamName, node: Option<&NodeId>) {
        if lock(&self.mine).remove(stream).is_none() {
            return;
        }
        self.metrics.directory.of(DirectoryEvent::Lost).increment();
        let node = node.map_or("", NodeId::as_str);
        tracing::warn!(%stream, node, "another node has, or had, a newer publisher of the stream: this one's is ended");
        if let Some(own) = self.node.get().and_then(Weak::upgrade) {
            own.clients
                .end_all(CloseReason::Replaced, |client| client.kind.publishes() && client.stream == *stream);
        }
    }

    /// This node's record.
    fn record(&self) -> NodeRecord {
        let mut load = Load::default();
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            let (publishers, viewers) = node.clients.count();
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            load = Load {
                publishers: count(publishers),
                viewers: count(viewers),
                draining: *node.draining.borrow(),
            };
        }
        NodeRecord {
            id: self.me.to_string(),
            boot: self.boot,
            relay: self.relay,
            region: self.region.clone(),
            load,
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The other nodes whose leases run; while the directory is away, those that are known.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        let (away, now) = (!self.is_connected(), self.clock.now());
        let table = lock(&self.table);
        let records: Vec<&NodeRecord> = if away {
            table.records().collect()
        } else {
            table.living(now).map(|(_, record)| record).collect()
        };
        records.into_iter().filter(|record| record.id != self.me.as_str()).cloned().collect()
    }

    /// Where the relay of another node is, be its lease over or not: a node that does not reach the directory is to have its links all the same.
    pub fn relay_of(&self, id: &NodeId) -> Option<SocketAddr> {
        lock(&self.table).record(id).filter(|_| *id != self.me).map(|record| record.relay)
    }

    /// The node stops: its record goes, and with it all that is claimed, so that nobody waits for its lease.
    pub async fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
        let stores = lock(&self.stores).clone();
        if let Some(stores) = stores {
            let revision = self.record_revision.load(Ordering::Relaxed);
            let _ = tokio::time::timeout(LEAVE_LIMIT, stores.take_out(&self.me, revision)).await;
        }
    }

    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        lock(&self.stores).is_some()
    }

    /// When nodes come or go.
    pub async fn changed(&self) {
        self.nodes_changed.notified().await;
    }

    /// Another process runs as this node. Who comes second ends; who is in the directory already says so once, and goes on.
    fn note_double(&self, at: SocketAddr) {
        let me = &self.me;
        let why = format!(
            "another node runs with this cluster.node, {me}, at {at}: give each its own id and certificate"
        );
        let node =
            self.node.get().and_then(Weak::upgrade).filter(|_| *self.first.borrow() != First::Connected);
        match node {
            Some(node) => node.refuse(why),
            None if !self.is_double.swap(true, Ordering::Relaxed) => tracing::error!("{why}"),
            None => {}
        }
    }
}
