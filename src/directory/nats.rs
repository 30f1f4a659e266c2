//! The directory in NATS: two buckets of JetStream's key-value store, one of nodes with a maximum age, one of claims.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store, UpdateErrorKind, Watch};
use async_nats::jetstream::{self, Context, stream};
use cluster::directory::{Claim, HEARTBEAT_US, LEASE_US, NodeRecord, key_of};
use futures_util::{StreamExt, future};
use media::{NodeId, StreamName};
use tokio::sync::Notify;

use super::{Directory, First, lock};
use crate::config::Cluster;

/// Buckets.
const NODES: &str = "millrace_nodes";
const STREAMS: &str = "millrace_streams";
/// One request to the servers.
const REQUEST_LIMIT: Duration = Duration::from_millis(1_500);
/// What is claimed is known after so long, where the bucket does not say that this was all: it is empty.
const HISTORY_LIMIT: Duration = Duration::from_secs(2);
/// A watch that is not there is asked for again after so long, so often.
const WATCH_AGAIN: Duration = Duration::from_millis(400);
const WATCHES_MAX: u32 = 5;
/// Connected to again after so long, and a part of it more by chance: not all nodes at once.
const AGAIN: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_micros(HEARTBEAT_US as u64);
const LEASE: Duration = Duration::from_micros(LEASE_US as u64);

/// Both buckets.
#[derive(Clone, Debug)]
pub(super) struct Stores {
    nodes: Store,
    streams: Store,
}

impl Stores {
    /// A claim and its revision, from the servers and not from what is known here.
    pub(super) async fn claim(&self, stream: &StreamName) -> Result<Option<(Claim, u64)>, ()> {
        let entry = self.streams.entry(key_of(stream));
        let entry = tokio::time::timeout(REQUEST_LIMIT, entry).await.map_err(drop)?.map_err(drop)?;
        // What is no claim is nobody's: it is written over.
        Ok(entry.map(|entry| {
            let is_there = entry.operation == Operation::Put;
            let claim = Claim::read(&entry.value).ok().filter(|_| is_there);
            let claim = claim.unwrap_or_else(|| Claim::given_back(0));
            (claim, entry.revision)
        }))
    }

    /// Writes a claim in the place of that revision: its own; `None` when another is there by now.
    pub(super) async fn write(
        &self,
        stream: &StreamName,
        claim: &Claim,
        revision: Option<u64>,
    ) -> Result<Option<u64>, ()> {
        let (key, bytes) = (key_of(stream), claim.write().into());
        let write = async {
            match revision {
                None => match self.streams.create(key, bytes).await {
                    Ok(revision) => Ok(Some(revision)),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
                    Err(_) => Err(()),
                },
                Some(revision) => match self.streams.update(key, bytes, revision).await {
                    Ok(revision) => Ok(Some(revision)),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
                    Err(_) => Err(()),
                },
            }
        };
        tokio::time::timeout(REQUEST_LIMIT, write).await.map_err(drop)?
    }

    /// A node's record is taken out, if it is still that.
    pub(super) async fn take_out(&self, node: &NodeId, revision: u64) -> Result<(), ()> {
        self.nodes.delete_expect_revision(node.as_str(), Some(revision)).await.map_err(drop)
    }
}

/// Runs for ever.
pub(super) async fn run(directory: Arc<Directory>, cluster: Cluster) {
    let mut told = String::new();
    loop {
        let error = match session(&directory, &cluster).await {
            Ok(never) => match never {},
            Err(error) => format!("{error:#}"),
        };
        *lock(&directory.stores) = None;
        directory.metrics.directory_connected.set(0);
        directory.metrics.directory_restarts.increment();
        // The same again is no news.
        if told != error {
            tracing::warn!(
                error,
                "the directory is away; what runs goes on, publishers are taken without a claim"
            );
            told = error;
        }
        let part = u32::try_from(directory.boot % 500).unwrap_or(0);
        tokio::time::sleep(AGAIN + Duration::from_millis(part.into())).await;
    }
}

async fn connect(cluster: &Cluster) -> anyhow::Result<Context> {
    let mut options = ConnectOptions::new()
        .name(format!("millrace {}", cluster.node))
        .connection_timeout(REQUEST_LIMIT)
        .ping_interval(HEARTBEAT)
        // Each server once; when none is there this end connects anew.
        .max_reconnects(cluster.nats.len())
        .request_timeout(Some(REQUEST_LIMIT));
    if !cluster.nats_creds.is_empty() {
        let creds = std::fs::read_to_string(&cluster.nats_creds).map_err(|error| {
            anyhow::anyhow!("cannot read {} (cluster.nats_creds): {error}", cluster.nats_creds)
        })?;
        options = options.credentials(&creds)?;
    }
    // The client itself leaves these in the address.
    let servers = cluster.nats.iter().filter_map(|server| server.parse::<async_nats::ServerAddr>().ok());
    let user = servers.filter_map(|it| Some((decoded(it.username()?), decoded(it.password()?)))).next();
    if let Some((user, password)) = user {
        options = options.user_and_password(user, password);
    }
    let client = tokio::time::timeout(3 * REQUEST_LIMIT, options.connect(cluster.nats.clone())).await??;
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST_LIMIT);
    Ok(context)
}

/// Text of an address without its percent signs (RFC 3986 section 2.1); one that begins nothing stands for itself.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or(&[]);
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn bucket(context: &Context, name: &str, replicas: usize, max_age: Duration) -> anyhow::Result<Store> {
    if let Ok(store) = context.get_key_value(name).await {
        return Ok(store);
    }
    // What the client's own call for a bucket makes; that asks for the account as well, and cannot read what servers before 2.10 say of it.
    let config = stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_age,
        num_replicas: replicas,
        max_message_size: cluster::directory::RECORD_LEN_MAX as i32,
        allow_rollup: true,
        allow_direct: true,
        deny_delete: true,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    context.create_stream(config).await?;
    Ok(context.get_key_value(name).await?)
}

/// All that a bucket has, and what changes.
///
/// Of three servers one may be dead, and servers before 2.10 place a watch at a dead one as well, and never answer: who gets no answer asks again at once, and
/// takes what is there first.
async fn begin_watch(store: &Store) -> anyhow::Result<Watch> {
    let tries = (0..WATCHES_MAX).map(|nth| {
        Box::pin(async move {
            tokio::time::sleep(nth * WATCH_AGAIN).await;
            store.watch_with_history(">").await
        })
    });
    Ok(future::select_ok(tries).await?.0)
}

/// While the servers are there.
async fn session(directory: &Directory, cluster: &Cluster) -> anyhow::Result<Infallible> {
    let context = connect(cluster).await?;
    let stores = Stores {
        nodes: bucket(&context, NODES, cluster.nats_replicas, LEASE).await?,
        streams: bucket(&context, STREAMS, cluster.nats_replicas, Duration::ZERO).await?,
    };
    let mut nodes = begin_watch(&stores.nodes).await?;
    let streams = begin_watch(&stores.streams).await?;
    // Who lives is known when this node's own record comes by: before that the claims of others would count for nothing.
    let first = first_record(directory, &stores).await?;
    tokio::time::timeout(LEASE, async {
        while !take_node(directory, &next(nodes.next().await)?, first) {}
        anyhow::Ok(())
    })
    .await??;
    {
        let mut table = lock(&directory.table);
        table.forget_claims();
        // Who was there when it went away may be as late in coming back.
        table.renew(directory.clock.now());
    }
    *lock(&directory.stores) = Some(stores.clone());
    directory.first.send_replace(First::Connected);
    directory.metrics.directory_connected.set(1);
    tracing::info!(servers = cluster.nats.len(), "directory connected");
    let known = Notify::new();
    tokio::select! {
        ended = watch(directory, &stores, (nodes, streams), first, &known) => ended,
        never = keep_claims(directory, &stores, &known) => match never {},
    }
}

/// Keeps this node's record, and hears of all others and of claims.
async fn watch(
    directory: &Directory,
    stores: &Stores,
    (mut nodes, mut streams): (Watch, Watch),
    first: u64,
    known: &Notify,
) -> anyhow::Result<Infallible> {
    let mut heartbeat = heartbeat();
    let mut echoed = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                // A watch whose server died says nothing, not even that.
                anyhow::ensure!(echoed.elapsed() < LEASE, "its watch gives nothing");
                put_record(directory, stores).await?;
                lock(&directory.table).prune(directory.clock.now());
            }
            entry = nodes.next() => {
                if take_node(directory, &next(entry)?, first) {
                    echoed = tokio::time::Instant::now();
                }
            }
            entry = streams.next() => {
                let entry = next(entry)?;
                take_claim(directory, &entry);
                // No more come at once.
                if entry.delta == 0 {
                    known.notify_one();
                    directory.changed.notify_one();
                }
            }
        }
    }
}

/// Keeps the claims, beside that: however long it takes, the record lives and the watches are heard.
async fn keep_claims(directory: &Directory, stores: &Stores, known: &Notify) -> Infallible {
    let _ = tokio::time::timeout(HISTORY_LIMIT, known.notified()).await;
    let mut heartbeat = heartbeat();
    loop {
        let all = tokio::select! {
            _ = heartbeat.tick() => true,
            () = directory.changed.notified() => false,
        };
        directory.settle(stores, all).await;
    }
}

fn heartbeat() -> tokio::time::Interval {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    heartbeat
}

async fn put_record(directory: &Directory, stores: &Stores) -> anyhow::Result<()> {
    if !directory.has_left.load(Ordering::Relaxed) {
        let put = stores.nodes.put(directory.me.as_str(), directory.record().write().into());
        let revision = tokio::time::timeout(REQUEST_LIMIT, put).await??;
        directory.record_revision.store(revision, Ordering::Relaxed);
    }
    Ok(())
}

fn next<E: std::error::Error + Send + Sync + 'static>(
    entry: Option<Result<Entry, E>>,
) -> anyhow::Result<Entry> {
    Ok(entry.ok_or_else(|| anyhow::anyhow!("its watch ended"))??)
}

/// Writes this node's record, and gives its revision. That of an earlier start has to be gone: its claims count as long.
async fn first_record(directory: &Directory, stores: &Stores) -> anyhow::Result<u64> {
    let (mut seen, mut news) = (None, 0);
    loop {
        let entry = stores.nodes.entry(directory.me.as_str());
        let entry = tokio::time::timeout(REQUEST_LIMIT, entry).await??;
        let there = entry.filter(|entry| entry.operation == Operation::Put).and_then(|entry| {
            Some((NodeRecord::read(directory.me.as_str(), &entry.value).ok()?, entry.revision))
        });
        let Some((record, revision)) = there.filter(|(record, _)| record.boot != directory.boot) else {
            put_record(directory, stores).await?;
            return Ok(directory.record_revision.load(Ordering::Relaxed));
        };
        directory
            .first
            .send_if_modified(|first| std::mem::replace(first, (*first).max(First::Waits)) == First::Away);
        // A server may have been behind with the last that the earlier one wrote: what came twice was written since.
        news += i32::from(seen.is_some_and(|seen| seen < revision));
        // One that stops is waited for: the new one takes its place.
        if news > 1 && !record.load.draining {
            directory.note_double(record.relay);
            anyhow::bail!("another node runs as {}", directory.me);
        }
        seen = seen.max(Some(revision));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A node's record came or went; whether it is this node's own, as of that revision or later: the first that this start of it wrote.
fn take_node(directory: &Directory, entry: &Entry, first: u64) -> bool {
    let now = directory.clock.now();
    let mut table = lock(&directory.table);
    let known = table.living(now).count();
    let own = entry.key == directory.me.as_str() && entry.revision >= first;
    match entry.operation {
        Operation::Put => {
            if let Ok(record) = table.node(&entry.key, &entry.value, now)
                && own
                && record.boot != directory.boot
            {
                directory.note_double(record.relay);
            }
        }
        Operation::Delete | Operation::Purge => table.node_gone(&entry.key),
    }
    let count = table.living(now).count();
    directory.metrics.directory_nodes.set(i64::try_from(count).unwrap_or(i64::MAX));
    directory.metrics.directory_rubbish.set(i64::try_from(table.refused()).unwrap_or(i64::MAX));
    drop(table);
    if count != known {
        directory.nodes_changed.notify_one();
    }
    own
}

fn take_claim(directory: &Directory, entry: &Entry) {
    let mut table = lock(&directory.table);
    match entry.operation {
        Operation::Put => {
            let _ = table.claim(&entry.key, &entry.value, entry.revision);
        }
        Operation::Delete | Operation::Purge => table.claim_gone(&entry.key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_any_password() {
        for (text, password) in [
            ("plain", "plain"),
            ("p%40ss%3a%2Fw%25", "p@ss:/w%"),
            ("%c3%a9", "\u{e9}"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%+1", "%zz%+1"),
            ("%ff", "\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(decoded(text), password, "{text}");
        }
        let server: async_nats::ServerAddr = "nats://us%40r:p%40ss%2Fw%3A@127.0.0.1:4222".parse().unwrap();
        assert_eq!(server.username().map(decoded).as_deref(), Some("us@r"));
        assert_eq!(server.password().map(decoded).as_deref(), Some("p@ss/w:"));
    }
}
