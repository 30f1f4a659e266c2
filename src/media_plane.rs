//! The media plane's threads: one mio loop a shard, around `sfu::Shard`. It owns the socket, the clock and the channels; the core owns the rest.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use media::{Packet, Time};
use metrics::{DropReason, ShardMetrics};
use mio::{Events, Interest, Poll, Token, Waker};
use sfu::{Command, Egress, Event, Mail, Shard, ShardConfig, ShardId, TrackKey};
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
const SEND_BYTES: usize = 512 * 1024;
const SEND_DATAGRAMS: usize = 512;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
const ORDERS_A_TICK: usize = 256;
const MAIL_A_TICK: usize = 1_024;

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

/// An order for a shard's thread.
#[derive(Debug)]
pub enum Order {
    /// For the core.
    Shard(Command),
    /// Tap a track into this channel.
    Tap(TrackKey, mpsc::Sender<Vec<Packet>>),
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
    orders: SyncSender<Order>,
    mail: SyncSender<Mail>,
    waker: Arc<Waker>,
    awake: Arc<AtomicBool>,
}

/// A shard's inbox is full: it is overloaded or gone.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the media plane is overloaded")]
pub struct Overloaded;

impl ShardHandle {
    /// Gives an order.
    pub fn order(&self, order: Order) -> Result<(), Overloaded> {
        let result = self.orders.try_send(order).map_err(|_| Overloaded);
        self.wake();
        result
    }

    /// Sends mail; a full box drops it, and counts that.
    pub fn mail(&self, mail: Mail) {
        match self.mail.try_send(mail) {
            Ok(()) => self.wake(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.dropped_shared(DropReason::MailboxFull),
        }
    }

    fn wake(&self) {
        // Once a tick is enough: the thread clears the flag before it looks into its boxes.
        if !self.awake.swap(true, Ordering::AcqRel) {
            let _ = self.waker.wake();
        }
    }
}

/// Binds the sockets and starts the threads. Events come out of the channel; it is unbounded because what goes in is bounded by sessions.
pub fn start(
    ip: IpAddr,
    base_port: u16,
    shards: usize,
    clock: Clock,
    seed: u64,
) -> io::Result<(Vec<ShardHandle>, mpsc::UnboundedReceiver<Event>)> {
    let (events_in, events) = mpsc::unbounded_channel();
    let mut handles = Vec::new();
    let mut loops = Vec::new();
    for id in 0..shards {
        let port = if base_port == 0 { 0 } else { base_port + id as u16 };
        let at = SocketAddr::new(ip, port);
        let socket = udp::Socket::bind(at, SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on udp {at} (webrtc.base_port): {e}")))?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let awake = Arc::new(AtomicBool::new(false));
        let (orders_in, orders) = sync_channel(ORDERS_MAX);
        let (mail_in, mail) = sync_channel(MAIL_MAX);
        let metrics = Arc::new(ShardMetrics::default());
        let port = socket.local_addr().port();
        handles.push(ShardHandle { id, port, metrics: metrics.clone(), orders: orders_in, mail: mail_in, waker, awake: awake.clone() });
        let config = ShardConfig {
            id,
            unix_us_at_zero: clock.unix_us_at_zero(),
            seed: seed.wrapping_add(id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        loops.push(Loop {
            shard: Shard::new(config, metrics.clone()),
            socket,
            poll,
            orders,
            mail,
            awake,
            clock,
            taps: HashMap::new(),
            peers: Vec::new(),
            events: events_in.clone(),
            metrics,
        });
    }
    for mut one in loops {
        one.peers = handles.clone();
        let id = one.peers.len();
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
    clock: Clock,
    taps: HashMap<TrackKey, mpsc::Sender<Vec<Packet>>>,
    peers: Vec<ShardHandle>,
    events: mpsc::UnboundedSender<Event>,
    metrics: Arc<ShardMetrics>,
}

/// The send batch, sent whenever it is full, so that nothing is dropped for want of room in it.
struct Out<'a> {
    batch: &'a mut udp::SendBatch,
    socket: &'a mut udp::Socket,
    metrics: &'a ShardMetrics,
}

impl Out<'_> {
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let waiting = self.batch.len() as u64;
        match self.socket.send(self.batch) {
            Ok(sent) => {
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
            self.awake.store(false, Ordering::Release);
            let mut out = Out { batch: &mut batch, socket: &mut self.socket, metrics: &self.metrics };

            // Phase 1 and 2: orders, mail.
            let now = self.clock.now();
            for _ in 0..ORDERS_A_TICK {
                match self.orders.try_recv() {
                    Ok(Order::Shard(command)) => {
                        if let Command::Untap(key) = &command {
                            self.taps.remove(key);
                        }
                        self.shard.handle_command(command, now, &mut out);
                    }
                    Ok(Order::Tap(key, sender)) => {
                        self.taps.insert(key, sender);
                        self.shard.handle_command(Command::Tap(key), now, &mut out);
                    }
                    Ok(Order::Stop) => {
                        out.flush();
                        return;
                    }
                    Err(_) => break,
                }
            }
            let mut more_mail = true;
            for _ in 0..MAIL_A_TICK {
                match self.mail.try_recv() {
                    Ok(mail) => self.shard.handle_mail(mail, now),
                    Err(_) => {
                        more_mail = false;
                        break;
                    }
                }
            }
            self.shard.fan_out(now, &mut out);

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
                let now = self.clock.now();
                for (from, datagram) in received.iter_mut() {
                    let shard = &mut self.shard;
                    let work = AssertUnwindSafe(|| shard.handle_datagram(datagram, from, now, &mut out));
                    if catch_unwind(work).is_err() {
                        self.metrics.panics.add(1);
                        self.shard.end_current(now, &mut out);
                    }
                }
                self.shard.fan_out(now, &mut out);
                out.flush();
                self.metrics.forward_latency.observe(self.clock.now().since(now).max(0) as u64);
            }

            // Phase 4: what is due.
            let now = self.clock.now();
            self.shard.handle_timeout(now, &mut out);
            self.shard.fan_out(now, &mut out);
            out.flush();
            self.dispatch();
            if more_mail {
                self.awake.store(true, Ordering::Release);
                readable = true;
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
            }
        }
        let mut gone = Vec::new();
        for event in self.shard.take_events() {
            match event {
                Event::Tapped(key, packets) => {
                    let Some(tap) = self.taps.get(&key) else { continue };
                    if packets.is_empty() {
                        continue;
                    }
                    match tap.try_send(packets) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => self.metrics.dropped(DropReason::MailboxFull),
                        Err(mpsc::error::TrySendError::Closed(_)) => gone.push(key),
                    }
                }
                other => {
                    let _ = self.events.send(other);
                }
            }
        }
        for key in gone {
            self.taps.remove(&key);
        }
    }
}
