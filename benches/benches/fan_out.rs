//! The packet path's cost: one publisher, 1000 subscribers, packets of 1200 bytes, in nanoseconds of CPU time per packet out.
//!
//! `cargo bench -p millrace-benches --bench fan_out [-- --profile gcm128 --burst 5 --rounds 9 --subscribers 1000]`
//! `... -- --perf 10 --profile gcm128 --burst 5`: only the whole path, for so many seconds, to look at with a profiler.
//!
//! Each round measures, one after the other and in turns from either end:
//! - whole: decrypt, ring, fan-out, rewrite, encrypt, send, through `sfu::Shard` into `udp::Socket`;
//! - no send: the same into an egress that forgets;
//! - encrypt: `Protect::protect_rtp` alone, with a key for each subscriber;
//! - send: `udp::Socket::send` alone;
//! - floor: `sendmmsg` alone, with ready headers (bursts as GSO runs);
//! - floor + GCM: the same with AES-GCM in place before it, straight from the crypto library.
//!
//! Rewrite is what is left of "no send" without encrypt. Receivers do not read, so that the kernel's part ends at their full buffers.

use std::hint::black_box;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use benches::floor::{Floor, thread_cpu_ns};
use benches::peer::{keys, material};
use benches::sending::{BATCH_BYTES, BATCH_DATAGRAMS, Sending, receivers, sender};
use benches::world::{Forgetting, HEADER_LEN, PACKET_LEN, PACKET_OUT_LEN, World};
use rtc::srtp::{Profile, Protect};

/// Packets out per measure and round: long against the clock's call, short against a neighbour's compiler.
const PACKETS_A_MEASURE: usize = 40_000;
const GCM_TAG_LEN: usize = 16;

struct Options {
    profiles: Vec<Profile>,
    bursts: Vec<usize>,
    rounds: usize,
    subscribers: usize,
    perf_s: Option<u64>,
}

fn main() -> Result<()> {
    let options = options()?;
    let sockets = receivers(options.subscribers)?;
    let to: Vec<SocketAddrV4> = sockets.iter().map(|(_, address)| *address).collect();
    if let Some(seconds) = options.perf_s {
        return spin(&to, options.profiles[0], options.bursts[0], seconds);
    }
    println!(
        "{} subscribers, packets of {PACKET_LEN} bytes; ns of CPU per packet out, median of {} rounds (least)\n",
        to.len(),
        options.rounds - 1
    );
    println!(
        "{:8} {:>5} | {:>13} = {:>7} + {:>7} + {:>7} | {:>13} {:>13} | {:>6} {:>6}",
        "profile", "burst", "whole", "rewrite", "encrypt", "send", "floor", "floor+GCM", "/floor", "/f+GCM"
    );
    for &profile in &options.profiles {
        for &burst in &options.bursts {
            Bench::new(profile, burst, &to)?.run(options.rounds)?;
        }
    }
    Ok(())
}

fn options() -> Result<Options> {
    let all = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmSha1_80];
    let mut options =
        Options { profiles: all.to_vec(), bursts: vec![1, 5], rounds: 8, subscribers: 1_000, perf_s: None };
    if std::env::args().len() == 1 {
        // Not `cargo bench` but `cargo test --benches`: that it runs is all that is asked.
        (options.rounds, options.subscribers) = (2, 20);
    }
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            // `cargo bench NAME`: which of the benchmarks
            if !"fan_out".contains(&word) {
                std::process::exit(0);
            }
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--profile" => match all.into_iter().find(|profile| name(*profile) == value) {
                Some(profile) => options.profiles = vec![profile],
                None => bail!("--profile is gcm128, gcm256 or cm80, not {value}"),
            },
            "--burst" => options.bursts = vec![value.parse().context("--burst")?],
            "--rounds" => options.rounds = value.parse().context("--rounds")?,
            "--subscribers" => options.subscribers = value.parse().context("--subscribers")?,
            "--perf" => options.perf_s = Some(value.parse().context("--perf")?),
            other => bail!("{other}: the options are --profile --burst --rounds --subscribers --perf"),
        }
    }
    ensure!(options.rounds >= 2, "--rounds: the first is dropped, so at least 2");
    ensure!(options.bursts.iter().all(|burst| (1..=40).contains(burst)), "--burst: 1 to 40");
    ensure!((1..=16_000).contains(&options.subscribers), "--subscribers: 1 to 16000");
    Ok(options)
}

fn name(profile: Profile) -> &'static str {
    match profile {
        Profile::AeadAes128Gcm => "gcm128",
        Profile::AeadAes256Gcm => "gcm256",
        Profile::Aes128CmSha1_80 => "cm80",
    }
}

struct Bench {
    profile: Profile,
    burst: usize,
    frames: usize,
    world: World,
    socket: udp::Socket,
    batch: udp::SendBatch,
    forgetting: Forgetting,
    protects: Vec<Protect>,
    gcm: Vec<LessSafeKey>,
    nonce: u64,
    to: Vec<SocketAddrV4>,
    floor: Floor,
}

const MEASURES: usize = 6;
type Measure = fn(&mut Bench) -> Result<f64>;

impl Bench {
    fn new(profile: Profile, burst: usize, to: &[SocketAddrV4]) -> Result<Bench> {
        let addresses: Vec<SocketAddr> = to.iter().copied().map(SocketAddr::V4).collect();
        let world = World::connect(profile, &addresses);
        let protects = (0..to.len())
            .map(|i| Ok(Protect::new(profile, &keys(profile, i).server)?))
            .collect::<Result<_>>()?;
        let (algorithm, key_len) =
            if profile == Profile::AeadAes256Gcm { (&AES_256_GCM, 32) } else { (&AES_128_GCM, 16) };
        let gcm = (0..to.len())
            .map(|i| {
                Ok(LessSafeKey::new(UnboundKey::new(algorithm, &material(i, key_len)).ok().context("key")?))
            })
            .collect::<Result<_>>()?;
        let datagram_len = PACKET_OUT_LEN + profile.tag_len();
        Ok(Bench {
            profile,
            burst,
            frames: (PACKETS_A_MEASURE / to.len() / burst).max(1),
            world,
            socket: sender()?,
            batch: udp::SendBatch::new(BATCH_BYTES, BATCH_DATAGRAMS),
            forgetting: Forgetting::new(BATCH_BYTES),
            protects,
            gcm,
            nonce: 0,
            to: to.to_vec(),
            floor: Floor::new(to, datagram_len, burst, BATCH_DATAGRAMS, burst > 1),
        })
    }

    fn run(mut self, rounds: usize) -> Result<()> {
        let measures: [Measure; MEASURES] =
            [Bench::whole, Bench::floor, Bench::no_send, Bench::floor_gcm, Bench::encrypt, Bench::send];
        let mut figures: [Vec<f64>; MEASURES] = Default::default();
        for round in 0..rounds {
            for step in 0..MEASURES {
                let at = if round % 2 == 0 { step } else { MEASURES - 1 - step };
                let figure = measures[at](&mut self)?;
                if round > 0 {
                    figures[at].push(figure);
                }
            }
        }
        for one in &mut figures {
            one.sort_by(f64::total_cmp);
        }
        let [whole, floor, no_send, floor_gcm, encrypt, send] = figures;
        let median = |of: &[f64]| of[of.len() / 2];
        let both = |of: &[f64]| format!("{:.0} ({:.0})", median(of), of[0]);
        println!(
            "{:8} {:>5} | {:>13} = {:>7.0} + {:>7.0} + {:>7.0} | {:>13} {:>13} | {:>6.2} {:>6.2}",
            name(self.profile),
            self.burst,
            both(&whole),
            median(&no_send) - median(&encrypt),
            median(&encrypt),
            median(&send),
            both(&floor),
            both(&floor_gcm),
            median(&whole) / median(&floor),
            median(&whole) / median(&floor_gcm),
        );
        Ok(())
    }

    fn packets(&self) -> usize {
        self.frames * self.burst * self.to.len()
    }

    fn whole(&mut self) -> Result<f64> {
        let mut frames: Vec<_> = (0..self.frames).map(|_| self.world.seal(self.burst)).collect();
        let mut out = Sending::new(&mut self.batch, &self.socket);
        let start = thread_cpu_ns();
        for frame in &mut frames {
            self.world.forward(frame, &mut out);
            out.flush();
        }
        let ns = thread_cpu_ns() - start;
        let (sent, lost) = (out.sent, out.lost);
        ensure!(
            sent == self.packets() && lost == 0,
            "sent {sent} of {} packets, {lost} lost",
            self.packets()
        );
        Ok(ns as f64 / sent as f64)
    }

    fn no_send(&mut self) -> Result<f64> {
        let mut frames: Vec<_> = (0..self.frames).map(|_| self.world.seal(self.burst)).collect();
        self.forgetting.packets = 0;
        let start = thread_cpu_ns();
        for frame in &mut frames {
            self.world.forward(frame, &mut self.forgetting);
        }
        let ns = thread_cpu_ns() - start;
        let made = self.forgetting.packets;
        ensure!(made == self.packets(), "made {made} of {} packets", self.packets());
        Ok(ns as f64 / made as f64)
    }

    fn encrypt(&mut self) -> Result<f64> {
        let slot_len = PACKET_LEN + GCM_TAG_LEN;
        for slot in self.forgetting.arena.chunks_exact_mut(slot_len) {
            slot[..HEADER_LEN].copy_from_slice(&[0x80, 102, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7]);
        }
        let slots = self.forgetting.arena.len() / slot_len;
        let mut slot = 0;
        let start = thread_cpu_ns();
        for _ in 0..self.frames {
            for protect in &mut self.protects {
                for _ in 0..self.burst {
                    let packet = &mut self.forgetting.arena[slot * slot_len..(slot + 1) * slot_len];
                    let len = protect.protect_rtp(packet, PACKET_LEN, HEADER_LEN, 0);
                    black_box(len.expect("a well-formed packet"));
                    slot = if slot + 1 == slots { 0 } else { slot + 1 };
                }
            }
        }
        Ok((thread_cpu_ns() - start) as f64 / self.packets() as f64)
    }

    fn send(&mut self) -> Result<f64> {
        let datagram = vec![0x80; PACKET_OUT_LEN + self.profile.tag_len()];
        let runs: Vec<SocketAddrV4> = (0..self.frames).flat_map(|_| self.to.iter().copied()).collect();
        let mut ns = 0;
        let mut sent = 0;
        for chunk in runs.chunks(BATCH_DATAGRAMS / self.burst) {
            for &to in chunk {
                for _ in 0..self.burst {
                    ensure!(self.batch.push(to.into(), &datagram), "a batch holds {BATCH_DATAGRAMS} packets");
                }
            }
            let start = thread_cpu_ns();
            let result = self.socket.send(&mut self.batch)?;
            ns += thread_cpu_ns() - start;
            sent += result.datagrams;
        }
        ensure!(sent == self.packets(), "sent {sent} of {} packets", self.packets());
        Ok(ns as f64 / sent as f64)
    }

    fn floor(&mut self) -> Result<f64> {
        let socket = self.socket.as_fd().as_raw_fd();
        let start = thread_cpu_ns();
        for _ in 0..self.frames {
            self.floor.send(socket, |_, _| ())?;
        }
        Ok((thread_cpu_ns() - start) as f64 / self.packets() as f64)
    }

    fn floor_gcm(&mut self) -> Result<f64> {
        let socket = self.socket.as_fd().as_raw_fd();
        let (gcm, burst, nonce) = (&self.gcm, self.burst, &mut self.nonce);
        let start = thread_cpu_ns();
        for _ in 0..self.frames {
            self.floor.send(socket, |number, datagram| {
                *nonce += 1;
                let mut iv = [0; 12];
                iv[..8].copy_from_slice(&nonce.to_le_bytes());
                let (header, body) = datagram.split_at_mut(HEADER_LEN);
                let (payload, tag_room) = body.split_at_mut(PACKET_OUT_LEN - HEADER_LEN);
                let key = &gcm[number / burst];
                let tag = key.seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(iv),
                    Aad::from(&*header),
                    payload,
                );
                let tag = tag.expect("the payload is not too long");
                let room = tag_room.len();
                tag_room.copy_from_slice(&tag.as_ref()[..room]);
            })?;
        }
        Ok((thread_cpu_ns() - start) as f64 / self.packets() as f64)
    }
}

/// The whole path for `seconds`, for a profiler.
fn spin(to: &[SocketAddrV4], profile: Profile, burst: usize, seconds: u64) -> Result<()> {
    let mut bench = Bench::new(profile, burst, to)?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut figures = Vec::new();
    while std::time::Instant::now() < end {
        figures.push(bench.whole()?);
    }
    figures.sort_by(f64::total_cmp);
    println!("{} burst {burst}: {:.0} ns per packet out", name(profile), figures[figures.len() / 2]);
    Ok(())
}
