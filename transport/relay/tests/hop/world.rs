//! A stream over a chain of hops, in virtual time: the ends that nodes have, over QUIC's pacing and links that lose and reorder.

use std::collections::BTreeMap;

use bytes::Bytes;
use link::{Config, Link, Loss};
use media::Time;
use millrace_relay::datagram::{Datagram, Flags, HEADER_LEN_USUAL, read};
use millrace_relay::hop::{Arrived, Class, Demand, Incoming, Outbound, Outgoing, Pushed};

use crate::cubic::Cubic;
use crate::quic::Quic;

const STEP_US: i64 = 250;
const FRAME_US: i64 = 33_333;
/// A key frame each second, eight times any other frame.
const GOP: i64 = 30;
const KEY_FACTOR: usize = 8;
/// The first second is of connections: its frames are not counted.
const SETTLE: i64 = 30;

/// What is run.
#[derive(Clone, Copy)]
pub struct Cell {
    pub config: Config,
    pub hops: usize,
    pub kbps: usize,
    pub seconds: i64,
    /// What a QUIC packet takes of a datagram, from the start on.
    pub size_max: usize,
    /// A TCP flow shares the first link.
    pub beside: bool,
    /// What frames may be late.
    pub budget_ms: u16,
    /// Each second the first link takes packets of 1200 bytes for so long, in microseconds.
    pub narrow_us: i64,
}

impl Cell {
    pub fn new(config: Config) -> Cell {
        let (size_max, budget_ms) = (SIZE_MAX, 400);
        Cell { config, hops: 1, kbps: 4_000, seconds: 20, size_max, beside: false, budget_ms, narrow_us: 0 }
    }
}

/// What quinn says of a path of 1500 bytes.
pub const SIZE_MAX: usize = 1_418;

/// What it says of one of 1200.
const NARROW_SIZE_MAX: usize = 1_150;

struct Hop {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The peer's asks.
    answers: Outgoing,
    links: [Link; 2],
    ends: [Quic; 2],
    size_max: usize,
}

impl Hop {
    fn new(cell: &Cell, seed: u64) -> Hop {
        let config = cell.config;
        let trip_us = config.delay_us * 2 + config.jitter_us as i64;
        let back = Config { loss: Loss::None, rate_bps: None, jitter_us: 0, delay_us: trip_us / 2, ..config };
        Hop {
            outgoing: Outgoing::new(),
            incoming: Incoming::new(),
            answers: Outgoing::new(),
            links: [Link::new(config, seed), Link::new(back, seed ^ 0xffff)],
            ends: [Quic::new(trip_us), Quic::new(trip_us)],
            size_max: cell.size_max,
        }
    }

    fn step(&mut self, now: Time) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        let [there, back] = &mut self.ends;
        pump(&mut self.outgoing, there, &mut self.links[0], self.size_max, now);
        while let Some(bytes) = there.arrived(now) {
            match read(&bytes).expect("ours") {
                Datagram::Media(media, body) => {
                    arrived.extend(self.incoming.on_media(media, body, back.trip, now))
                }
                Datagram::Next(next, payload) => {
                    arrived.extend(self.incoming.on_next(next, payload, back.trip, now))
                }
                Datagram::End(next) => self.incoming.on_end(next, back.trip, now),
                Datagram::Nack(_) => unreachable!("goes the other way"),
            }
            arrived.extend(std::iter::from_fn(|| self.incoming.released()));
        }
        if let Some(ask) = self.incoming.poll(back.trip, now) {
            self.answers.ask(ask);
        }
        pump(&mut self.answers, back, &mut self.links[1], self.size_max, now);
        while let Some(bytes) = back.arrived(now) {
            let Datagram::Nack(nack) = read(&bytes).expect("ours") else { continue };
            self.outgoing.on_nack(&nack, there.trip, now);
        }
        arrived
    }
}

fn pump(outgoing: &mut Outgoing, quic: &mut Quic, link: &mut Link, size_max: usize, now: Time) {
    quic.step(link, now);
    while quic.has_room(size_max)
        && let Some(datagram) = outgoing.poll(size_max, now)
    {
        quic.send(datagram);
        quic.step(link, now);
    }
}

/// What a run gave: of the frames after the first second.
#[derive(Debug)]
pub struct Figures {
    /// Delays in ms of frames that came, as they came and in order; sorted.
    pub delays: Vec<f64>,
    pub in_order: Vec<f64>,
    pub frames: usize,
    pub within_400: usize,
    /// Bytes on the first link over those of frames.
    pub wire: f64,
    /// Of what came.
    pub duplicates: f64,
    /// What a flow beside it had, in Mbit/s.
    pub beside_mbps: f64,
}

pub fn percentile(of: &[f64], percent: usize) -> f64 {
    of[(of.len() * percent / 100).min(of.len() - 1)]
}

impl Figures {
    /// Of frames in their order.
    pub fn p(&self, percent: usize) -> f64 {
        percentile(&self.in_order, percent)
    }

    pub fn share(&self) -> f64 {
        self.within_400 as f64 / self.frames as f64
    }
}

/// A frame's bytes.
fn frame_len(kbps: usize, nth: i64) -> usize {
    let part = kbps * 125 / (GOP as usize - 1 + KEY_FACTOR);
    if nth % GOP == 0 { part * KEY_FACTOR } else { part }
}

struct Frame {
    at: Time,
    missing: usize,
    came: Option<Time>,
}

pub fn run(cell: Cell, seed: u64) -> Figures {
    let mut chain: Vec<Hop> = (0..cell.hops).map(|i| Hop::new(&cell, seed * 31 + i as u64)).collect();
    let mut beside = cell.beside.then(|| Cubic::new(cell.config.delay_us * 2));
    let mut frames: BTreeMap<u32, Frame> = BTreeMap::new();
    let (mut seq, mut nth, mut bytes) = (0_u32, 0_i64, 0);
    let (mut before, mut beside_before) = (0, 0);
    let mut key_bytes = 0;
    let (end, mut now) = (Time(cell.seconds * 1_000_000), Time::ZERO);
    while now < end.plus_us(1_500_000) {
        if now.us() >= nth * FRAME_US && now < end {
            if nth == SETTLE {
                before = chain[0].links[0].figures().bytes;
                beside_before = beside.as_ref().map_or(0, |beside| beside.arrived);
            }
            let len = frame_len(cell.kbps, nth);
            key_bytes = key_bytes.max(len as u64);
            bytes += if nth >= SETTLE { len } else { 0 };
            let missing = push(&mut chain[0].outgoing, &cell, (nth, len), &mut seq, now);
            frames.insert(nth as u32, Frame { at: now, missing, came: None });
            nth += 1;
            // As the hub does, each second.
            if nth % GOP == 1 && nth > 1 {
                let demand = Demand { bps: cell.kbps as u64 * 1_000, key_bytes };
                chain.iter_mut().for_each(|hop| hop.ends[0].set_demand(demand));
            }
        }
        let mut given: Vec<Arrived> = Vec::new();
        chain[0].size_max =
            if now.us() % 1_000_000 < cell.narrow_us { NARROW_SIZE_MAX } else { cell.size_max };
        for hop in &mut chain {
            for arrived in given.drain(..) {
                hop.outgoing.push(outbound(arrived, now), now);
            }
            given = hop.step(now);
        }
        if let Some(beside) = &mut beside
            && now < end
        {
            beside.step(&mut chain[0].links[0], now);
        }
        for Arrived { media, .. } in given.into_iter().filter(|it| !it.media.left_out) {
            let frame = frames.get_mut(&media.timestamp).expect("a frame that was sent");
            frame.missing = frame.missing.checked_sub(1).expect("each packet once");
            if frame.missing == 0 {
                frame.came = Some(now);
            }
        }
        now = now.plus_us(STEP_US);
    }
    let counted = || frames.values().skip(SETTLE as usize);
    let sorted = |mut delays: Vec<f64>| {
        delays.sort_by(f64::total_cmp);
        delays
    };
    let ms = |frame: &Frame, at: Time| at.since(frame.at) as f64 / 1_000.0;
    let delays = sorted(counted().filter_map(|frame| Some(ms(frame, frame.came?))).collect());
    let mut latest = Time::ZERO;
    let in_order = counted().filter_map(|frame| {
        latest = latest.max(frame.came?);
        Some(ms(frame, latest))
    });
    let in_order = sorted(in_order.collect());
    let seen = chain[0].incoming.stats();
    let seconds = cell.seconds as f64 - 1.0;
    Figures {
        within_400: in_order.iter().filter(|ms| **ms <= 400.0).count(),
        frames: counted().count(),
        wire: (chain[0].links[0].figures().bytes - before) as f64 / bytes as f64,
        duplicates: seen.duplicates as f64 / seen.received as f64,
        delays,
        in_order,
        beside_mbps: beside.map_or(0.0, |it| (it.arrived - beside_before) as f64 * 0.012 / seconds),
    }
}

/// A frame in packets, as a node cuts one; returns how many.
fn push(outgoing: &mut Outgoing, cell: &Cell, (nth, len): (i64, usize), seq: &mut u32, now: Time) -> usize {
    let most = cell.size_max - HEADER_LEN_USUAL - 2;
    let count = len.div_ceil(most);
    for i in 0..count {
        let mut flags = if nth % GOP == 0 { Flags::KEY } else { Flags::default() };
        if i + 1 == count {
            flags = flags.with(Flags::END_OF_FRAME);
        }
        let piece = len * (i + 1) / count - len * i / count + 2;
        let packet = Outbound {
            class: Class::Video,
            track: 1,
            flags,
            ingest: now,
            budget_ms: cell.budget_ms,
            seq: *seq,
            timestamp: nth as u32,
            dts_offset: 0,
            temporal: Default::default(),
            descriptor: Bytes::new(),
            payload: Bytes::from(vec![0; piece]),
            left_out: false,
        };
        *seq += 1;
        assert_ne!(outgoing.push(packet, now), Pushed::Overflowed);
    }
    count
}

fn outbound(Arrived { media, age_us, descriptor, payload }: Arrived, now: Time) -> Outbound {
    Outbound {
        class: Class::Video,
        track: media.track,
        flags: media.flags,
        ingest: now.plus_us(-age_us),
        budget_ms: media.budget_ms,
        seq: media.seq,
        timestamp: media.timestamp,
        dts_offset: 0,
        temporal: Default::default(),
        descriptor,
        payload,
        left_out: media.left_out,
    }
}
