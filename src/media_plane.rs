//! The media plane's threads: one mio loop a shard, around `sfu::Shard`. It owns the socket, the clock and the channels; the core owns the rest.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use media::{Packet, Time};
use metrics::{DropReason, NodeMetrics, Phase, Queue, ShardMetrics};
use mio::{Events, Interest, Poll, Token, Waker};
use sfu::{Command, Egress, Event, Mail, Shard, ShardConfig, ShardId, SourceId, TrackKey};
use tokio::sync::mpsc;

use crate::clock::Clock;

/// Orders waiting for a shard. The control plane is told when it is full and answers 503; nothing is dropped.
const ORDERS_MAX: usize = 4_096;
/// Mail waiting for a shard: each is a frame's packets of one track. Full means the shard is 100 % busy: media is dropped, counted.
const MAIL_MAX: usize = 8_192;
/// Batches of packets waiting for a conversion.
pub const TAP_MAX: usize = 512;
/// Datagrams taken by one system call, and batches before other phases have their turn.
const RECV_SLOTS: usize = 64;
const RECV_BATCHES_MAX: usize = 16;
/// Largest datagram of interest: Ethernet's 1500 and DTLS handshakes over loopback stay below.
const RECV_SLOT_LEN: usize = 2_048;
/// The first of a batch waits until the last is encrypted: 40 us. Smaller ones cut more runs in two.
const SEND_DATAGRAMS: usize = 128;
const SEND_BYTES: usize = SEND_DATAGRAMS * RECV_SLOT_LEN;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// A new session is about 5 us.
const ORDERS_A_TICK: usize = 64;
const MAIL_A_TICK: usize = 1_024;
/// What is due by time and handshakes go on in the next tick after so long: half of what a packet may wait.
const DUE_US_A_TICK: i64 = 500;
/// Panics outside a session's own datagrams end nobody, so they may repeat each tick: after so many the thread gives up, and `/livez` says so.
const PANICS_MAX: u32 = 64;

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

/// An order for a shard's thread.
#[derive(Debug)]
pub enum Order {
    /// For the core.
    Shard(Command),
    /// Tap a track into this channel, for the conversion of that fence; it takes the place of an older one's.
    Tap(TrackKey, SourceId, mpsc::Sender<Vec<Packet>>),
    /// End that conversion's tap, unless another has taken its place: an ended conversion says so when its task is dropped, which may be
    /// after the next one has begun.
    Untap(TrackKey, SourceId),
    /// End the thread when what waits is sent.
    Stop,
}

/// The way to a shard's thread.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    /// Its number.
    pub id: ShardId,
    /// Its UDP port.
    pub port: u16,
    /// Its counters.
    pub metrics: Arc<ShardMetrics>,
    node_metrics: Arc<NodeMetrics>,
    orders: SyncSender<Order>,
    mail: SyncSender<Mail>,
    waker: Arc<Waker>,
    awake: Arc<AtomicBool>,
    alive: Arc<AtomicBool>,
}

/// A shard's inbox is full: it is overloaded or gone.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the media plane is overloaded")]
pub struct Overloaded;

impl ShardHandle {
    /// Gives an order.
    pub fn order(&self, order: Order) -> Result<(), Overloaded> {
        let result = self.orders.try_send(order).map_err(|_| {
            self.node_metrics.queue_overflows.of(Queue::ShardCommands).increment();
            Overloaded
        });
        self.wake();
        result
    }

    /// Sends mail; a full box drops it, and counts that.
    pub fn mail(&self, mail: Mail) {
        match self.mail.try_send(mail) {
            Ok(()) => self.wake(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.node_metrics.queue_overflows.of(Queue::ShardMedia).increment();
                self.metrics.dropped_shared(DropReason::MailboxFull);
            }
        }
    }

    /// Whether its thread runs.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // Once a tick is enough: the thread clears the flag before it looks into its boxes.
        if !self.awake.swap(true, Ordering::AcqRel) {
            let _ = self.waker.wake();
        }
    }
}

/// Binds the sockets, from that port on (0: any), and starts the threads. `relay` gets the mail for the shard number after the last. Events come out of
/// the channel; it is unbounded because what goes in is bounded by sessions.
pub fn start(
    base: SocketAddr,
    shards: usize,
    clock: Clock,
    seed: u64,
    pacer: bool,
    relay: Option<mpsc::Sender<Mail>>,
    node_metrics: &Arc<NodeMetrics>,
) -> io::Result<(Vec<ShardHandle>, mpsc::UnboundedReceiver<Event>)> {
    let (events_in, events) = mpsc::unbounded_channel();
    let mut handles = Vec::new();
    let mut loops = Vec::new();
    for id in 0..shards {
        let port = if base.port() == 0 { 0 } else { base.port() + id as u16 };
        let at = SocketAddr::new(base.ip(), port);
        let socket = udp::Socket::bind(at, SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot listen on udp {at} (webrtc.base_port): {e}"))
        })?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let awake = Arc::new(AtomicBool::new(false));
        let (orders_in, orders) = sync_channel(ORDERS_MAX);
        let (mail_in, mail) = sync_channel(MAIL_MAX);
        let metrics = Arc::new(ShardMetrics::default());
        let port = socket.local_addr().port();
        let alive = Arc::new(AtomicBool::new(true));
        handles.push(ShardHandle {
            id,
            port,
            metrics: metrics.clone(),
            node_metrics: node_metrics.clone(),
            orders: orders_in,
            mail: mail_in,
            waker,
            awake: awake.clone(),
            alive: alive.clone(),
        });
        let config = ShardConfig {
            id,
            unix_us_at_zero: clock.unix_us_at_zero(),
            seed: seed.wrapping_add(id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            pacer,
        };
        loops.push(Loop {
            shard: Shard::new(config, metrics.clone()),
            socket,
            poll,
            orders,
            mail,
            awake,
            _alive: Alive(alive),
            clock,
            taps: HashMap::new(),
            closed_taps: Vec::new(),
            peers: Vec::new(),
            relay: relay.clone(),
            panics: 0,
            node_metrics: node_metrics.clone(),
            events: events_in.clone(),
            metrics,
        });
    }
    for (id, mut one) in loops.into_iter().enumerate() {
        one.peers = handles.clone();
        std::thread::Builder::new().name(format!("shard-{id}")).spawn(move || one.run())?;
    }
    Ok((handles, events))
}

struct Loop {
    shard: Shard,
    socket: udp::Socket,
    poll: Poll,
    orders: Receiver<Order>,
    mail: Receiver<Mail>,
    awake: Arc<AtomicBool>,
    _alive: Alive,
    clock: Clock,
    taps: HashMap<TrackKey, (SourceId, mpsc::Sender<Vec<Packet>>)>,
    /// Tracks whose tap nobody listens to any more.
    closed_taps: Vec<TrackKey>,
    /// Panics that no session could be ended for.
    panics: u32,
    peers: Vec<ShardHandle>,
    relay: Option<mpsc::Sender<Mail>>,
    events: mpsc::UnboundedSender<Event>,
    node_metrics: Arc<NodeMetrics>,
    metrics: Arc<ShardMetrics>,
}

/// Says that the thread is gone, however it went.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The send batch, sent whenever it is full, so that nothing is dropped for want of room in it.
struct Out<'a> {
    batch: &'a mut udp::SendBatch,
    socket: &'a mut udp::Socket,
    metrics: &'a ShardMetrics,
    /// Datagrams sent since it was made.
    sent: u64,
}

impl Out<'_> {
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let waiting = self.batch.len() as u64;
        match self.socket.send(self.batch) {
            Ok(sent) => {
                self.sent += sent.datagrams as u64;
                self.metrics.send_messages.add(sent.messages as u64);
                self.metrics.dropped_n(DropReason::SendBufferFull, sent.dropped_full as u64);
                self.metrics.dropped_n(DropReason::SendFailed, sent.dropped_error as u64);
            }
            Err(_) => {
                self.metrics.socket_errors.increment();
                self.metrics.dropped_n(DropReason::SendFailed, waiting);
            }
        }
    }
}

impl Egress for Out<'_> {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.batch.is_full_for(len) {
            self.flush();
        }
        self.batch.reserve(len)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.batch.commit(len, to);
    }
}

impl Loop {
    fn run(mut self) {
        let mut received = udp::RecvBatch::new(RECV_SLOTS, RECV_SLOT_LEN);
        let mut batch = udp::SendBatch::new(SEND_BYTES, SEND_DATAGRAMS);
        let mut ready = Events::with_capacity(8);
        if let Err(error) = self.poll.registry().register(&mut self.socket, SOCKET, Interest::READABLE) {
            tracing::error!(%error, "a shard cannot watch its socket");
            return;
        }
        let mut readable = true;
        loop {
            let wait = if readable { Duration::ZERO } else { self.until_due() };
            if let Err(error) = self.poll.poll(&mut ready, Some(wait))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a shard cannot wait for its socket");
                return;
            }
            readable |= ready.iter().any(|e| e.token() == SOCKET);
            // A read-modify-write: who finds the flag still set has put its order where the reads below see it.
            self.awake.swap(false, Ordering::AcqRel);
            self.metrics.ticks.increment();
            self.metrics.gso_enabled.set(u64::from(self.socket.gso_enabled()));
            let mut out =
                Out { batch: &mut batch, socket: &mut self.socket, metrics: &self.metrics, sent: 0 };
            let shard = &mut self.shard;

            // Phase 1 and 2: orders, mail.
            let now = self.clock.now();
            let mut failed = false;
            for key in self.closed_taps.drain(..) {
                failed |= !guarded(shard, now, &mut out, |shard, out| {
                    shard.handle_command(Command::Untap(key), now, out)
                });
            }
            let mut more = true;
            for _ in 0..ORDERS_A_TICK {
                let command = match self.orders.try_recv() {
                    Ok(Order::Shard(command)) => command,
                    Ok(Order::Tap(key, source, sender)) => {
                        self.taps.insert(key, (source, sender));
                        Command::Tap(key)
                    }
                    Ok(Order::Untap(key, source)) => {
                        if self.taps.get(&key).is_none_or(|(tapper, _)| *tapper != source) {
                            continue;
                        }
                        self.taps.remove(&key);
                        Command::Untap(key)
                    }
                    Ok(Order::Stop) => {
                        out.flush();
                        return;
                    }
                    Err(_) => {
                        more = false;
                        break;
                    }
                };
                failed |=
                    !guarded(shard, now, &mut out, |shard, out| shard.handle_command(command, now, out));
            }
            if more {
                self.metrics.budget_hits.of(Phase::Commands).increment();
            }
            let mut more_mail = true;
            for _ in 0..MAIL_A_TICK {
                let Ok(mail) = self.mail.try_recv() else {
                    more_mail = false;
                    break;
                };
                failed |= !guarded(shard, now, &mut out, |shard, _| shard.handle_mail(mail, now));
            }
            if more_mail {
                self.metrics.budget_hits.of(Phase::Mailbox).increment();
            }
            failed |= !guarded(shard, now, &mut out, |shard, out| shard.fan_out(now, out));

            // Phase 3: datagrams, a batch at a time, each fanned out before the next is read.
            for _ in 0..RECV_BATCHES_MAX {
                if !readable {
                    break;
                }
                let count = match out.socket.recv(&mut received) {
                    Ok(count) => count,
                    Err(error) => {
                        self.metrics.socket_errors.increment();
                        tracing::debug!(%error, "udp receive");
                        0
                    }
                };
                if count == 0 {
                    readable = false;
                    break;
                }
                self.metrics.dropped_n(DropReason::Truncated, received.truncated() as u64);
                let now = self.clock.now();
                let sent_before = out.sent;
                for (from, datagram) in received.iter_mut() {
                    // Its session ends; that is the end of the matter.
                    guarded(shard, now, &mut out, |shard, out| {
                        shard.handle_datagram(datagram, from, now, out)
                    });
                }
                failed |= !guarded(shard, now, &mut out, |shard, out| shard.fan_out(now, out));
                out.flush();
                let took_us = self.clock.now().since(now).max(0) as u64;
                self.metrics.forward_latency.observe_n(took_us, out.sent - sent_before);
            }
            if readable {
                self.metrics.budget_hits.of(Phase::Datagrams).increment();
            }

            // Phase 4: what is due, then handshakes, as much as media may wait for.
            let now = self.clock.now();
            let end = now.plus_us(DUE_US_A_TICK);
            let (mut more_due, mut more_handshakes) = (true, true);
            while more_due && self.clock.now() < end {
                failed |= !guarded(shard, now, &mut out, |shard, out| {
                    more_due = shard.handle_timeout(now, out);
                });
            }
            while more_handshakes && self.clock.now() < end {
                // As with any datagram.
                guarded(shard, now, &mut out, |shard, out| {
                    more_handshakes = shard.handle_handshake(now, out);
                });
            }
            if more_due || more_handshakes {
                self.metrics.budget_hits.of(Phase::Due).increment();
            }
            out.flush();
            self.dispatch();
            if more || more_mail {
                self.awake.store(true, Ordering::Release);
                readable = true;
            }
            self.panics += u32::from(failed);
            if self.panics > PANICS_MAX {
                tracing::error!(
                    "a shard panics again and again: its thread ends, the node should be restarted"
                );
                return;
            }
        }
    }

    fn until_due(&self) -> Duration {
        let due = self.shard.next_timeout();
        if due == Time::MAX {
            return Duration::from_secs(1);
        }
        // mio counts whole milliseconds and rounds up.
        (due - self.clock.now()).min(Duration::from_secs(1))
    }

    fn dispatch(&mut self) {
        for (to, mail) in self.shard.take_mail() {
            if let Some(peer) = self.peers.get(to) {
                self.metrics.mailbox_out.increment();
                peer.mail(mail);
            } else if let Some(relay) = &self.relay
                && relay.try_send(mail).is_err()
            {
                self.node_metrics.queue_overflows.of(Queue::ShardMedia).increment();
                self.metrics.dropped(DropReason::MailboxFull);
            }
        }
        for event in self.shard.take_events() {
            match event {
                Event::Tapped(key, packets) => {
                    let Some((_, tap)) = self.taps.get(&key) else { continue };
                    if packets.is_empty() {
                        continue;
                    }
                    match tap.try_send(packets) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            self.node_metrics.queue_overflows.of(Queue::Conversion).increment();
                            self.metrics.dropped(DropReason::MailboxFull);
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => {
                            self.taps.remove(&key);
                            self.closed_taps.push(key);
                        }
                    }
                }
                other => {
                    let _ = self.events.send(other);
                }
            }
        }
    }
}

/// Runs a part of the tick. A panic in it is counted and ends the session it worked on; the others go on. Returns whether there was none.
fn guarded(
    shard: &mut Shard,
    now: Time,
    out: &mut Out<'_>,
    work: impl FnOnce(&mut Shard, &mut Out<'_>),
) -> bool {
    if catch_unwind(AssertUnwindSafe(|| work(shard, out))).is_ok() {
        return true;
    }
    out.metrics.panics.increment();
    out.metrics.dropped(DropReason::Panicked);
    // Whoever panics again while it is ended is out of the shard's tables by then.
    if catch_unwind(AssertUnwindSafe(|| shard.end_current(now, out))).is_err() {
        out.metrics.panics.increment();
    }
    false
}
