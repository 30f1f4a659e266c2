//! Many streams on one link: whether control waits for them, and what a gigabit of them costs in CPU, beside as many of quinn's own datagrams.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use media::Time;
use serde::{Deserialize, Serialize};

use super::arms::{End, RTMP_PORT, Sender};
use super::cell::Cell;
use super::frames::{FPS, Frames, GOP};
use super::measure::{self, Figures};
use super::path::Chain;
use super::quinn_floor::{self, Floor, Load};
use super::{cluster, rtmp};
use crate::load::clock::Clock;
use crate::load::http;
use crate::load::process::Process;

/// The link that all share.
const LINK: Cell = Cell {
    kbps: 2_000,
    hops: 1,
    rtt_ms: 50,
    loss_percent: 1.0,
    burst: 0,
    jitter_ms: 0,
    capacity: 0.0,
    both: false,
    beside: false,
};
/// From the last stream's begin to the first frame that is measured.
const SETTLE_S: i64 = 4;
const DRAIN: Duration = Duration::from_secs(2);
/// New streams, one after the other; each may take so long.
const PROBES: u32 = 10;
const PROBE_LIMIT_S: i64 = 10;
/// Until a player's wish is at its node.
const WISH: Duration = Duration::from_millis(200);
const OPS_PORT: u16 = 9_464;
/// IPv4, UDP, and QUIC's short header, packet number and tag, with the frame around a datagram.
const AROUND_DATAGRAM: usize = 20 + 8 + 1 + 4 + 3 + 16 + 3;

/// What was seen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Crowd {
    /// Streams, each of this rate.
    pub streams: u32,
    /// See `streams`.
    pub kbps: u32,
    /// For so long.
    pub seconds: u32,
    /// From a new stream's beginning at one node to its first frame at a player of the other, with nothing else on the link: announcement,
    /// subscription and frame cross it one after the other.
    pub begin_idle_ms: Vec<f64>,
    /// The same beside all streams.
    pub begin_ms: Vec<f64>,
    /// Times that the link was lost and made again beside them.
    pub links_lost: u64,
    /// Frames of all streams.
    pub figures: Figures,
    /// CPU seconds of the sending and the receiving node for each gigabit of the streams: RTMP in, relay, RTMP out.
    pub node_cpu: [f64; 2],
    /// quinn's, for as many datagrams of as many bytes on such a link: no repair, no frames.
    pub floor: Floor,
}

/// A stream's near end, and its far one.
struct Stream {
    publisher: rtmp::Publisher,
    end: End,
    sent: Vec<Time>,
}

/// Measures it, once.
pub fn measure(streams: u32, seconds: u32) -> Result<Crowd> {
    let chain = Chain::start(&LINK, 1)?;
    let clock = Clock::since(udp::now_us());
    let nodes = cluster::start(&chain)?;
    let begin_idle_ms = probe(&chain, clock, "idle")?;
    let mut all = Vec::new();
    for number in 0..streams {
        all.push(Stream::start(&chain, clock, &format!("crowd{number}"))?);
    }
    let run = send(&chain, clock, &nodes, &mut all, seconds);
    std::thread::sleep(DRAIN);
    let run = run?;
    let (mut sent, mut arrived, mut bytes) = (Vec::new(), Vec::new(), 0);
    for Stream { end, sent: all, .. } in &all {
        let is_in = |time: &Time| run.measured.contains(time);
        let first = all.iter().position(is_in).unwrap_or(all.len());
        let last = all.iter().rposition(is_in).map_or(first, |last| last + 1);
        sent.extend_from_slice(&all[first..last]);
        arrived.extend(end.arrivals(first as u32..last as u32));
        bytes += (first..last).map(|number| Frames::len(LINK.kbps, number as u32)).sum::<usize>();
        end.finish();
    }
    let mut figures = measure::figures(&sent, &arrived);
    figures.wire = run.traffic.bytes as f64 / bytes as f64;
    figures.wire_back = run.traffic.bytes_back as f64 / bytes as f64;
    figures.packets_per_frame = run.traffic.packets as f64 / sent.len() as f64;
    figures.missed = run.traffic.missed;
    figures.sender_late_ms = run.late_us as f64 / 1e3;
    drop((all, nodes, chain));
    let gigabits = bytes as f64 * 8e-9;
    let packet_len = run.traffic.bytes as usize / run.traffic.packets.max(1) as usize;
    let load = Load {
        per_second: (run.traffic.packets / u64::from(seconds)) as u32,
        len: packet_len.saturating_sub(AROUND_DATAGRAM),
        seconds,
        gigabits,
    };
    Ok(Crowd {
        streams,
        kbps: LINK.kbps,
        seconds,
        begin_idle_ms,
        begin_ms: run.begin_ms,
        links_lost: run.links_lost,
        figures,
        node_cpu: run.cpu_seconds.map(|seconds| seconds / gigabits),
        floor: quinn_floor::measure(&Chain::start(&LINK, 2)?, load)?,
    })
}

/// What was measured while all sent.
struct Sent {
    measured: std::ops::Range<Time>,
    traffic: super::path::Traffic,
    begin_ms: Vec<f64>,
    links_lost: u64,
    cpu_seconds: [f64; 2],
    late_us: i64,
}

/// All streams, each a frame in turn; their key frames are spread over the second between two of them.
fn send(
    chain: &Chain,
    clock: Clock,
    nodes: &[Process],
    streams: &mut [Stream],
    seconds: u32,
) -> Result<Sent> {
    let mut frames = Frames::new(LINK.kbps);
    let count = streams.len() as u64;
    let start = clock.now();
    // the last begins a second after the first
    let first = start.plus_us((1 + SETTLE_S) * 1_000_000);
    let last = first.plus_us(i64::from(seconds) * 1_000_000);
    let cpu = || -> Result<[f64; 2]> { Ok([nodes[0].cpu_seconds()?, nodes[1].cpu_seconds()?]) };
    let (mut before, mut after, mut late_us) = (None, None, 0);
    std::thread::scope(|scope| {
        let probes = scope.spawn(move || {
            std::thread::sleep(Duration::from_micros(first.since(clock.now()).max(0) as u64));
            let links = links(chain)?;
            let begin_ms = probe(chain, clock, "beside")?;
            anyhow::Ok((begin_ms, links))
        });
        for turn in 0_u64.. {
            let (slot, at) = (turn / count, turn % count);
            let due = start.plus_us((turn * 1_000_000 / (count * u64::from(FPS))) as i64);
            let stream = &mut streams[at as usize];
            stream.publisher.attend(due)?;
            let now = clock.now();
            if before.is_none() && now >= first {
                before = Some((chain.traffic(), cpu()?));
            }
            if now >= first && now < last {
                late_us = late_us.max(now.since(due));
            }
            if after.is_none() && now >= last {
                after = Some((chain.traffic(), cpu()?));
            }
            if after.is_some() && probes.is_finished() {
                break;
            }
            let Some(number) = slot.checked_sub(at * u64::from(GOP) / count) else { continue };
            let body = frames.tag(number as u32, now);
            stream.publisher.send(number as u32, now, body)?;
            stream.sent.push(now);
        }
        let (begin_ms, links_before) =
            probes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (traffic_before, cpu_before) = before.context("the run had a begin")?;
        let (traffic, cpu) = after.context("the run had an end")?;
        Ok(Sent {
            measured: first..last,
            traffic: traffic.since(traffic_before),
            begin_ms,
            links_lost: links(chain)?.saturating_sub(links_before),
            cpu_seconds: [cpu[0] - cpu_before[0], cpu[1] - cpu_before[1]],
            late_us,
        })
    })
}

impl Stream {
    /// Its player waits before its publisher begins.
    fn start(chain: &Chain, clock: Clock, name: &str) -> Result<Stream> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, RTMP_PORT));
        let end = End::new(clock);
        let (player, far, its) = (chain.connect(1, local, None)?, end.clone(), name.to_owned());
        // what it fails with is seen in the frames that do not come
        std::thread::spawn(move || rtmp::play(player, &its, &far));
        let publisher = rtmp::Publisher::start(chain.connect(0, local, None)?, name, clock)?;
        Ok(Stream { publisher, end, sent: Vec::new() })
    }
}

/// How long new streams take to be there, one after the other, in milliseconds.
fn probe(chain: &Chain, clock: Clock, kind: &str) -> Result<Vec<f64>> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, RTMP_PORT));
    let mut frames = Frames::new(100);
    let mut took_ms = Vec::new();
    for probe in 0..PROBES {
        let (name, end) = (format!("{kind}{probe}"), End::new(clock));
        let (player, far, its) = (chain.connect(1, local, None)?, end.clone(), name.clone());
        let player = std::thread::spawn(move || rtmp::play(player, &its, &far));
        std::thread::sleep(WISH);
        let socket = chain.connect(0, local, None)?;
        let began = clock.now();
        let mut publisher = rtmp::Publisher::start(socket, &name, clock)?;
        for number in 0.. {
            let now = clock.now();
            ensure!(now.since(began) < PROBE_LIMIT_S * 1_000_000, "stream {name} did not come");
            if end.has_any() {
                break;
            }
            publisher.send(number, now, frames.tag(number, now))?;
            publisher.attend(now.plus_us(1_000_000 / i64::from(FPS)))?;
        }
        let first = end.first().context("a frame came")?;
        took_ms.push(first.since(began) as f64 / 1e3);
        end.finish();
        player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    took_ms.sort_by(f64::total_cmp);
    Ok(took_ms)
}

/// How often the first node has made the link so far.
fn links(chain: &Chain) -> Result<u64> {
    let ops = SocketAddr::from((Ipv4Addr::LOCALHOST, OPS_PORT));
    let metrics =
        chain.node(0).within(|| http::request(&http::url_of(ops, "/metrics"), "GET", &[], ""))??.body;
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("millrace_relay_connections_total{peer=\"n1\"} "));
    Ok(line.context("the node has no such metric")?.trim().parse()?)
}

/// For people.
pub fn markdown(crowd: &Crowd) -> String {
    let mut text = String::new();
    let Crowd { streams, kbps, seconds, figures: it, floor, .. } = crowd;
    let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    let most = |sorted: &[f64]| sorted.last().copied().unwrap_or(f64::NAN);
    let delay = |delay: Option<f64>| delay.map_or_else(|| "-".into(), |delay| format!("{delay:.1}"));
    let sum = |two: [f64; 2]| two[0] + two[1];
    // Writing to a String has no error.
    let _ = write!(
        text,
        "**{streams} streams of {kbps} kbit/s on one link, RTT {} ms, loss {} %, {seconds} s**\n\n\
         | what | value |\n| --- | --- |\n\
         | frame delay p50/p95/p99/max ms | {}/{}/{}/{} |\n\
         | > 400 ms, not come, % | {:.3}, {:.3} |\n\
         | wire, packets a frame | {:.3}, {:.1} |\n\
         | a new stream is there after, p50/max ms, alone on the link | {:.0}/{:.0} |\n\
         | the same beside all | {:.0}/{:.0} |\n\
         | links lost | {} |\n\
         | CPU seconds a gigabit, sending and receiving node (with RTMP in and out) | {:.2} + {:.2} |\n\
         | quinn's own for as many datagrams of {} bytes, {:.1} % of which came | {:.2} + {:.2} |\n\
         | node over quinn | {:.2} |\n",
        LINK.rtt_ms,
        LINK.loss_percent,
        delay(it.p50_ms),
        delay(it.p95_ms),
        delay(it.p99_ms),
        delay(it.max_ms),
        it.late_400_percent,
        it.undelivered_percent,
        it.wire + it.wire_back,
        it.packets_per_frame,
        median(&crowd.begin_idle_ms),
        most(&crowd.begin_idle_ms),
        median(&crowd.begin_ms),
        most(&crowd.begin_ms),
        crowd.links_lost,
        crowd.node_cpu[0],
        crowd.node_cpu[1],
        floor.len,
        floor.arrived_percent,
        floor.cpu_per_gigabit[0],
        floor.cpu_per_gigabit[1],
        sum(crowd.node_cpu) / sum(floor.cpu_per_gigabit),
    );
    if it.missed > 0 {
        let _ = writeln!(text, "\nDISTURBED: the emulator missed {} packets.", it.missed);
    }
    text.push('\n');
    text
}
