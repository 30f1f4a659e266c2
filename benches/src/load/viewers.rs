//! All viewers in one event loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use media::Time;
use mio::{Events, Interest, Poll, Token};
use rtc::dtls::Identity;

use super::rtmp_player::Player;
use super::tally::{Count, Tally};
use super::whep_viewer::Viewer;

/// WHEP viewers' timers are looked at this often: ICE's pace is 50 ms.
const TICK: Duration = Duration::from_millis(10);
const READ_LEN: usize = 256 * 1024;

/// How a viewer watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// WebRTC.
    Whep,
    /// RTMP over TCP.
    Rtmp,
}

/// The harness's clock: microseconds from its start, by the monotonic clock, and by the kernel's times of arrival.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Time zero.
    pub base: Instant,
    unix_ns: u64,
}

impl Clock {
    /// Time zero is now.
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { base: Instant::now(), unix_ns: unix.as_nanos() as u64 }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.base.elapsed().as_micros() as i64)
    }

    /// When data came, by the kernel; now, if it does not say.
    pub fn arrival(&self, unix_ns: Option<u64>) -> Time {
        unix_ns.map_or_else(|| self.now(), |ns| Time(ns.saturating_sub(self.unix_ns) as i64 / 1_000))
    }
}

enum One {
    Whep(Box<Viewer>),
    Rtmp(Box<Player>),
    /// It never came to be.
    Failed(Kind, Count),
}

/// The viewers.
pub struct Viewers {
    clock: Clock,
    http: SocketAddr,
    rtmp: SocketAddr,
    identity: Arc<Identity>,
    poll: Poll,
    events: Events,
    all: Vec<One>,
    next_tick: Instant,
    out: udp::SendBatch,
    buffer: Vec<u8>,
}

impl Viewers {
    /// Nobody yet.
    pub fn new(clock: Clock, http: SocketAddr, rtmp: SocketAddr) -> Result<Viewers> {
        Ok(Viewers {
            clock,
            http,
            rtmp,
            identity: Identity::generate()?,
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            all: Vec::new(),
            next_tick: clock.base,
            out: udp::SendBatch::new(1 << 16, 64),
            buffer: vec![0; READ_LEN],
        })
    }

    /// Starts one more. A viewer that the node refuses is counted, not an error.
    pub fn join(&mut self, kind: Kind) -> Result<()> {
        let now = self.clock.now();
        let token = Token(self.all.len());
        let made = match kind {
            Kind::Whep => Viewer::join(self.http, &self.identity, self.clock.base, now, token.0 as u64 + 1)
                .map(|viewer| One::Whep(Box::new(viewer))),
            Kind::Rtmp => Player::join(self.rtmp, now.us() as u64).map(|player| One::Rtmp(Box::new(player))),
        };
        let mut one = made.unwrap_or_else(|error| {
            let mut count = Count::new(now.us() as u64);
            count.failure = Some(format!("{error:#}"));
            One::Failed(kind, count)
        });
        let registry = self.poll.registry();
        match &mut one {
            One::Whep(viewer) => registry.register(&mut viewer.socket, token, Interest::READABLE)?,
            One::Rtmp(player) => {
                registry.register(&mut player.stream, token, Interest::READABLE | Interest::WRITABLE)?;
            }
            One::Failed(..) => {}
        }
        self.all.push(one);
        Ok(())
    }

    /// Drives all for so long.
    pub fn drive(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let at = Instant::now();
            if at >= self.next_tick {
                self.next_tick = at + TICK;
                self.tick();
            }
            if at >= end {
                return Ok(());
            }
            let wait = end.min(self.next_tick).saturating_duration_since(at);
            match self.poll.poll(&mut self.events, Some(wait)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(error).context("cannot wait for the viewers' sockets");
                }
                _ => {}
            }
            let clock = self.clock;
            for event in &self.events {
                let Some(one) = self.all.get_mut(event.token().0) else { continue };
                let result = match one {
                    One::Whep(viewer) if viewer.count.failure.is_none() => {
                        viewer.handle_ready(&mut self.buffer, &mut self.out, &clock)
                    }
                    One::Rtmp(player) if player.count.failure.is_none() => {
                        player.handle_ready(&mut self.buffer, &clock)
                    }
                    _ => Ok(()),
                };
                note(one, result);
            }
        }
    }

    /// Viewers that have no key frame yet and may still get one, or failed.
    pub fn without_picture(&self) -> usize {
        self.all.iter().filter(|one| one.count().first_key_us.is_none()).count()
    }

    /// Why the first viewer that failed did.
    pub fn first_failure(&self) -> Option<String> {
        self.all.iter().find_map(|one| one.count().failure.clone())
    }

    /// Frames from this number on are measured.
    pub fn measure_from(&mut self, frame: u32) {
        self.all.iter_mut().for_each(|one| one.count_mut().measure_from(frame));
    }

    /// Frames from this number on are not.
    pub fn measure_until(&mut self, frame: u32) {
        self.all.iter_mut().for_each(|one| one.count_mut().measure_until(frame));
    }

    /// What those of a kind got.
    pub fn tally(&self, kind: Kind) -> Tally {
        Tally::of(self.all.iter().filter(|one| one.kind() == kind).map(One::count))
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        for one in &mut self.all {
            if let One::Whep(viewer) = one
                && viewer.count.failure.is_none()
            {
                let result = viewer.handle_timeout(&mut self.out, now);
                note(one, result);
            }
        }
    }
}

impl One {
    fn kind(&self) -> Kind {
        match self {
            One::Whep(_) => Kind::Whep,
            One::Rtmp(_) => Kind::Rtmp,
            One::Failed(kind, _) => *kind,
        }
    }

    fn count(&self) -> &Count {
        match self {
            One::Whep(viewer) => &viewer.count,
            One::Rtmp(player) => &player.count,
            One::Failed(_, count) => count,
        }
    }

    fn count_mut(&mut self) -> &mut Count {
        match self {
            One::Whep(viewer) => &mut viewer.count,
            One::Rtmp(player) => &mut player.count,
            One::Failed(_, count) => count,
        }
    }
}

fn note(one: &mut One, result: Result<()>) {
    if let Err(error) = result {
        one.count_mut().failure = Some(format!("{error:#}"));
    }
}
