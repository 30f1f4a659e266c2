//! Clients: each is one session of one seat, driven by its worker's event loop. It does no more than a player must to be served as one,
//! and counts what it gets.

use std::sync::Arc;

use anyhow::Result;
use benches::receive::Receiver;
use media::Time;
use mio::event::Source;
use mio::{Interest, Registry, Token};
use rtc::dtls::Identity;

use super::clip::Clip;
use super::clock::Clock;
use super::http::Exchange;
use super::plan::{Role, Seat};
use super::scenario::Protocol;
use super::tally::Meter;

mod flv;
mod hls;
mod janus;
mod link;
mod relay;
mod rtmp_play;
mod rtmp_publish;
mod rtp_frames;
mod rtp_publish;
mod rtp_watch;
mod schedule;
mod tags;
mod whep;
mod whip;

/// Sockets that one client may have, for the event loop's tokens.
pub const SOURCES: usize = 4;
const READ_LEN: usize = 256 * 1024;
const RECV_SLOTS: usize = 16;

/// One session.
pub trait Client {
    /// One of its sockets is ready. An error ends the session.
    fn ready(&mut self, source: usize, io: &mut Io<'_>) -> Result<()>;
    /// What was due is due.
    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()>;
    /// When that is next.
    fn due(&self) -> Time;
    /// Says goodbye as its protocol has it; a request that must still be sent is returned.
    fn leave(&mut self, io: &mut Io<'_>) -> Option<Exchange>;
}

/// What all clients of a worker share.
pub struct Kit {
    /// The time.
    pub clock: Clock,
    /// For reading datagrams.
    pub receiver: Receiver,
    /// For sending them; empty between calls.
    pub out: udp::SendBatch,
    /// For reading streams.
    pub buffer: Vec<u8>,
    /// One certificate for all: what a server checks is its fingerprint.
    pub identity: Arc<Identity>,
    /// By index of `Begin::medias`.
    pub clips: Vec<Arc<Clip>>,
    /// A server that has not answered so long after a join is given up on.
    pub join_ms: i64,
    random: u64,
}

impl Kit {
    /// Loads what there is to load.
    pub fn new(clock: Clock, clips: Vec<Arc<Clip>>, seed: u64, join_ms: i64) -> Result<Kit> {
        Ok(Kit {
            clock,
            receiver: Receiver::new(RECV_SLOTS),
            out: udp::SendBatch::new(1 << 18, 256),
            buffer: vec![0; READ_LEN],
            identity: Identity::generate()?,
            clips,
            join_ms,
            random: seed,
        })
    }

    /// SplitMix64: repeatable, and different for each client.
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What a client is given with each call.
pub struct Io<'a> {
    /// Shared things.
    pub kit: &'a mut Kit,
    /// What it counts into.
    pub meter: Meter<'a>,
    /// For its sockets.
    pub registry: &'a Registry,
    /// The first of its tokens.
    pub token: usize,
}

impl Io<'_> {
    /// The time.
    pub fn now(&self) -> Time {
        self.kit.clock.now()
    }

    /// The same in microseconds of the run.
    pub fn now_us(&self) -> u64 {
        self.now().us().max(0) as u64
    }

    /// When a join that begins now is given up on.
    pub fn join_deadline(&self) -> Time {
        self.now().plus_ms(self.kit.join_ms)
    }

    /// Has the event loop watch a socket under this number.
    pub fn watch(&self, source: usize, socket: &mut impl Source) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(self.registry.register(socket, Token(self.token + source), interest)?)
    }

    /// The same for a socket that is only read from: a datagram socket can always be written.
    pub fn watch_reading(&self, source: usize, socket: &mut impl Source) -> Result<()> {
        Ok(self.registry.register(socket, Token(self.token + source), Interest::READABLE)?)
    }
}

/// Starts a session of a seat.
pub fn start(seat: &Seat, io: &mut Io<'_>) -> Result<Box<dyn Client>> {
    io.meter.join(io.now_us());
    Ok(match &seat.role {
        Role::Publish(Protocol::Rtmp, media) => Box::new(rtmp_publish::Publisher::start(seat, *media, io)?),
        Role::Publish(Protocol::Janus, media) => Box::new(janus::Publisher::start(seat, *media, io)?),
        Role::Publish(_, media) => Box::new(whip::Publisher::start(seat, *media, io)?),
        Role::Watch(Protocol::Rtmp, link) => Box::new(rtmp_play::Player::start(seat, *link, io)?),
        Role::Watch(Protocol::Flv, link) => Box::new(flv::Viewer::start(seat, *link, io)?),
        Role::Watch(Protocol::Hls, link) => Box::new(hls::Viewer::start(seat, *link, io)?),
        Role::Watch(Protocol::Janus, link) => Box::new(janus::Viewer::start(seat, *link, io)?),
        Role::Watch(_, link) => Box::new(whep::Viewer::start(seat, *link, io)?),
        Role::Relay(to) => Box::new(relay::Relay::start(seat, to, io)?),
    })
}
