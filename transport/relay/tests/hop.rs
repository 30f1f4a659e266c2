//! Hops over links that lose and reorder, in virtual time: how late frames are, and what the repair costs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use link::{Config, Link, Loss};
use media::Time;
use millrace_relay::datagram::{Datagram, Flags, read};
use millrace_relay::hop::{Arrived, Class, Incoming, Outbound, Outgoing, Pushed, RoundTrip};

const STEP_US: i64 = 250;
const FRAME_US: i64 = 33_333;
const PACKET_LEN: usize = 1_100;
/// 4 Mbit/s: a key frame of 102 packets each two seconds, eight times any other frame.
const KEY_PACKETS: u32 = 102;
const PACKETS: u32 = 13;
const GOP: i64 = 60;
const BUDGET_MS: u16 = 400;

/// Bytes on their way, by when they arrive.
#[derive(Default)]
struct Flight {
    heap: BinaryHeap<Reverse<(Time, u64, Vec<u8>)>>,
    order: u64,
}

impl Flight {
    fn carry(&mut self, link: &mut Link, bytes: Vec<u8>, now: Time) {
        // What QUIC and UDP add.
        for at in link.carry(bytes.len() + 28 + 25, now).times() {
            self.order += 1;
            self.heap.push(Reverse((at, self.order, bytes.clone())));
        }
    }

    fn arrived(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.heap.peek().is_none_or(|Reverse((at, ..))| *at > now) {
            return None;
        }
        self.heap.pop().map(|Reverse((_, _, bytes))| bytes)
    }
}

struct Hop {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The peer's asks.
    answers: Outgoing,
    links: [Link; 2],
    flights: [Flight; 2],
    trip: RoundTrip,
}

impl Hop {
    fn new(config: Config, seed: u64) -> Hop {
        let trip = (config.delay_us * 2) + config.jitter_us as i64;
        let back = Config { loss: Loss::None, ..config };
        Hop {
            outgoing: Outgoing::new(),
            incoming: Incoming::new(),
            answers: Outgoing::new(),
            links: [Link::new(config, seed), Link::new(back, seed ^ 0xffff)],
            flights: Default::default(),
            trip: RoundTrip {
                min_us: config.delay_us * 2,
                smoothed_us: trip,
                deviation_us: config.jitter_us as i64 / 4,
            },
        }
    }

    fn step(&mut self, now: Time) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        while let Some(bytes) = self.outgoing.poll(1_400, now) {
            self.flights[0].carry(&mut self.links[0], bytes, now);
        }
        while let Some(bytes) = self.flights[0].arrived(now) {
            match read(&bytes).expect("ours") {
                Datagram::Media(media, body) => {
                    arrived.extend(self.incoming.on_media(media, body, self.trip, now))
                }
                Datagram::End(next) => self.incoming.on_end(next, self.trip, now),
                Datagram::Nack(_) => unreachable!("goes the other way"),
            }
        }
        if let Some(ask) = self.incoming.poll(self.trip, now) {
            self.answers.ask(ask);
        }
        while let Some(bytes) = self.answers.poll(1_400, now) {
            self.flights[1].carry(&mut self.links[1], bytes, now);
        }
        while let Some(bytes) = self.flights[1].arrived(now) {
            let Datagram::Nack(nack) = read(&bytes).expect("ours") else { continue };
            self.outgoing.on_nack(&nack, self.trip, now);
        }
        arrived
    }
}

/// What a run gave.
#[derive(Debug)]
struct Figures {
    /// Delays of whole frames in ms, sorted.
    delays: Vec<f64>,
    frames: usize,
    within_400: usize,
    /// Bytes on the first link, against those of the packets alone.
    overhead: f64,
    duplicates: f64,
}

impl Figures {
    fn percentile(&self, percent: usize) -> f64 {
        self.delays[(self.delays.len() - 1) * percent / 100]
    }

    fn share(&self) -> f64 {
        self.within_400 as f64 / self.frames as f64
    }
}

fn run(hops: usize, config: Config, seed: u64, seconds: i64) -> Figures {
    let mut chain: Vec<Hop> = (0..hops).map(|i| Hop::new(config, seed * 31 + i as u64)).collect();
    let mut frames: BTreeMap<u32, (Time, u32)> = BTreeMap::new();
    let (mut seq, mut nth, mut delays, mut media_bytes) = (0_u32, 0_i64, Vec::new(), 0_u64);
    let (end, mut now) = (Time(seconds * 1_000_000), Time::ZERO);
    while now < end.plus_us(1_500_000) {
        if now.us() >= nth * FRAME_US && now < end {
            let key = nth % GOP == 0;
            let count = if key { KEY_PACKETS } else { PACKETS };
            frames.insert(nth as u32, (now, count));
            for i in 0..count {
                let mut flags = if key { Flags::KEY } else { Flags::default() };
                if i + 1 == count {
                    flags = flags.with(Flags::END_OF_FRAME);
                }
                media_bytes += PACKET_LEN as u64 + 28 + 25 + 19;
                let packet = Outbound {
                    class: Class::Video,
                    track: 1,
                    flags,
                    ingest: now,
                    budget_ms: BUDGET_MS,
                    seq,
                    timestamp: nth as u32,
                    dts_offset: 0,
                    temporal: Default::default(),
                    descriptor: Bytes::new(),
                    payload: Bytes::from(vec![0; PACKET_LEN]),
                    left_out: false,
                };
                assert_eq!(chain[0].outgoing.push(packet, now), Pushed::Taken);
                seq += 1;
            }
            nth += 1;
        }
        let mut given: Vec<Arrived> = Vec::new();
        for hop in &mut chain {
            for Arrived { media, age_us, descriptor, payload } in given.drain(..) {
                let packet = Outbound {
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
                };
                hop.outgoing.push(packet, now);
            }
            given = hop.step(now);
        }
        for Arrived { media, .. } in given {
            let (at, left) = frames.get_mut(&media.timestamp).expect("a frame that was sent");
            *left = left.checked_sub(1).expect("each packet once");
            if *left == 0 {
                delays.push(now.since(*at) as f64 / 1_000.0);
            }
        }
        now = now.plus_us(STEP_US);
    }
    delays.sort_by(f64::total_cmp);
    let within_400 = delays.iter().filter(|ms| **ms <= 400.0).count();
    let (out, seen) = (chain[0].outgoing.stats(), chain[0].incoming.stats());
    println!("{out:?}\n{seen:?}");
    Figures {
        within_400,
        frames: frames.len(),
        overhead: chain[0].links[0].figures().bytes as f64 / media_bytes as f64,
        duplicates: seen.duplicates as f64 / seen.received as f64,
        delays,
    }
}

fn say(name: &str, it: &Figures) {
    println!(
        "{name}: p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms, within 400 ms {:.3} %, bytes {:.3}x, duplicates {:.2} %",
        it.percentile(50),
        it.percentile(95),
        it.percentile(99),
        it.delays.last().unwrap(),
        it.share() * 100.0,
        it.overhead,
        it.duplicates * 100.0,
    );
}

fn path(loss: Loss) -> Config {
    Config { delay_us: 50_000, loss, ..Config::default() }
}

#[test]
fn frames_are_late_by_a_round_trip_at_two_percent_loss() {
    for seed in 1..=3 {
        let it = run(1, path(Loss::Random { per_mille: 20 }), seed, 40);
        say("2 %", &it);
        assert!(it.percentile(99) <= 175.0 && it.share() >= 0.999 && it.overhead <= 1.1);
    }
}

#[test]
fn five_percent_loss() {
    for seed in 1..=3 {
        let it = run(1, path(Loss::Random { per_mille: 50 }), seed, 40);
        say("5 %", &it);
        assert!(it.percentile(99) <= 280.0 && it.share() >= 0.999 && it.overhead <= 1.1);
    }
}

#[test]
fn no_loss_costs_nothing() {
    let it = run(1, path(Loss::None), 1, 20);
    say("0 %", &it);
    assert!(it.percentile(99) <= 51.0 && it.overhead <= 1.01 && it.duplicates == 0.0);
}

#[test]
fn bursts() {
    for seed in 1..=3 {
        let it = run(1, path(Loss::Bursts { per_mille: 20, mean_packets: 8 }), seed, 40);
        say("2 % in bursts", &it);
        assert!(it.percentile(99) <= 280.0 && it.share() >= 0.998 && it.overhead <= 1.1);
    }
}

#[test]
fn what_is_out_of_order_is_not_asked_for() {
    for seed in 1..=3 {
        let config = Config {
            jitter_us: 20_000,
            reorder: true,
            delay_us: 40_000,
            ..path(Loss::Random { per_mille: 10 })
        };
        let it = run(1, config, seed, 40);
        say("+-10 ms, 1 %", &it);
        assert!(it.percentile(99) <= 175.0 && it.duplicates < 0.08 && it.overhead <= 1.1);
    }
}

#[test]
fn three_hops_repair_at_once() {
    for seed in 1..=3 {
        let config = Config { delay_us: 25_000, ..path(Loss::Random { per_mille: 20 }) };
        let it = run(3, config, seed, 40);
        say("three hops of 50 ms, 2 %", &it);
        assert!(it.percentile(95) <= 175.0 && it.share() >= 0.999);
    }
}
