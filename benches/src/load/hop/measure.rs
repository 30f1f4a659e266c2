//! One arm in one cell with one seed: what became of the stream's frames.

use std::ops::Range;

use anyhow::{Result, ensure};
use media::Time;
use serde::{Deserialize, Serialize};

use super::arms::{Arm, End, Running};
use super::beside::Beside;
use super::cell::Cell;
use super::frames::{FPS, Frames};
use super::path::{Chain, Traffic};
use crate::load::clock::Clock;

/// Until the first frame is there: connections are made, on a link that loses half.
const FIRST_FRAME_S: i64 = 40;
/// A delay is drawn at these percentiles.
pub const PERCENTILES: [f64; 21] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 85.0, 90.0, 92.0, 94.0, 95.0, 96.0, 97.0, 98.0,
    99.0, 99.5, 99.9, 100.0,
];

/// How long a run takes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// From the first frame's arrival to the first measured frame.
    pub settle_seconds: u32,
    /// Frames are measured for so long.
    pub seconds: u32,
    /// Frames that are not there so long after the last measured one, and four round trips of the whole path, count as undelivered.
    pub drain_seconds: u32,
}

/// Frames and bytes of a run. A frame that did not come is later than any that did. Delays are in milliseconds, from just before the frame is
/// given to the arm until its last byte was read; `None`: of a frame that did not come.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Frames sent in the measured time.
    pub frames: usize,
    /// Of those, in percent: not there at the end.
    pub undelivered_percent: f64,
    /// Later than 200 ms after they were sent, or undelivered.
    pub late_200_percent: f64,
    /// See `late_200_percent`.
    pub late_400_percent: f64,
    /// Delay of the frames as they came.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// See `p50_ms`.
    pub max_ms: Option<f64>,
    /// Where frames wait for those before them, but not for those that never came.
    pub in_order_p99_ms: Option<f64>,
    /// By [`PERCENTILES`].
    pub curve_ms: Vec<Option<f64>>,
    /// IP bytes in the direction of the stream over bytes of the frames, in the measured time, mean of the links.
    pub wire: f64,
    /// IP packets likewise, for each frame.
    pub packets_per_frame: f64,
    /// IP bytes the other way over bytes of the frames.
    pub wire_back: f64,
    /// How late the harness gave a frame to the arm, at most: a busy machine.
    pub sender_late_ms: f64,
    /// What the flow beside the stream got, in Mbit/s; `None` when there is none.
    pub beside_mbps: Option<f64>,
    /// Packets that the emulator lost by being late.
    pub missed: u64,
}

/// Runs it.
pub fn measure(arm: Arm, cell: &Cell, seed: u64, times: Times) -> Result<Figures> {
    let chain = Chain::start(cell, seed)?;
    let clock = Clock::since(udp::now_us());
    let end = End::new(clock);
    let result = arm.start(cell, &chain, &end).and_then(|mut running| {
        let mut beside = cell.beside.then(|| Beside::start(&chain, &end)).transpose()?;
        let result = stream(cell, &chain, clock, &end, (&mut running, beside.as_ref()), times);
        // what ended is told first: it is why frames do not come
        running.check()?;
        beside.as_mut().map_or(Ok(()), Beside::check)?;
        result
    });
    end.finish();
    result
}

/// What is being done.
enum Phase {
    /// No frame has come.
    Connecting,
    /// Frames come; from this one on they are measured.
    Settling(u32),
    /// Up to this one.
    Measuring(Range<u32>, Traffic),
    /// Until then, or until all are there.
    Draining(Range<u32>, Traffic, Time),
}

fn stream(
    cell: &Cell,
    chain: &Chain,
    clock: Clock,
    end: &End,
    (running, beside): (&mut Running, Option<&Beside>),
    times: Times,
) -> Result<Figures> {
    let mut frames = Frames::new(cell.kbps);
    let mut sent: Vec<Time> = Vec::new();
    let mut late_us = 0;
    let start = clock.now();
    let due = |number: u32| start.plus_us(i64::from(number) * 1_000_000 / i64::from(FPS));
    let drain_us = i64::from(times.drain_seconds) * 1_000_000 + (cell.path_ms() * 8_000.0) as i64;
    let (mut phase, mut beside_before, mut beside_bytes) = (Phase::Connecting, 0, None);
    let (measured, traffic) = loop {
        let number = sent.len() as u32;
        running.sender.attend(due(number))?;
        running.check()?;
        let now = clock.now();
        phase = match phase {
            Phase::Connecting if end.has_any() => Phase::Settling(number + times.settle_seconds * FPS),
            Phase::Connecting => {
                ensure!(
                    now.since(start) < FIRST_FRAME_S * 1_000_000,
                    "no frame has come after {FIRST_FRAME_S} s"
                );
                phase
            }
            Phase::Settling(first) if number >= first => {
                late_us = 0;
                beside_before = beside.map_or(0, Beside::bytes);
                Phase::Measuring(number..number + times.seconds * FPS, chain.traffic())
            }
            Phase::Measuring(measured, before) if number >= measured.end => {
                beside_bytes = beside.map(|beside| beside.bytes() - beside_before);
                Phase::Draining(measured, chain.traffic().since(before), now.plus_us(drain_us))
            }
            Phase::Draining(measured, traffic, until)
                if now >= until || end.arrivals(measured.clone()).iter().all(Option::is_some) =>
            {
                break (measured, traffic);
            }
            phase => phase,
        };
        late_us = late_us.max(now.since(due(number)));
        let now = clock.now();
        let body = frames.tag(number, now);
        running.sender.send(number, now, body)?;
        sent.push(now);
    };
    let sent = &sent[measured.start as usize..measured.end as usize];
    let bytes: usize = measured.clone().map(|number| Frames::len(cell.kbps, number)).sum();
    let mut figures = figures(sent, &end.arrivals(measured));
    let each = (bytes * chain.hops()) as f64;
    figures.wire = traffic.bytes as f64 / each;
    figures.wire_back = traffic.bytes_back as f64 / each;
    figures.packets_per_frame = traffic.packets as f64 / (sent.len() * chain.hops()) as f64;
    figures.sender_late_ms = late_us as f64 / 1e3;
    figures.beside_mbps = beside_bytes.map(|bytes| bytes as f64 * 8e-6 / f64::from(times.seconds));
    figures.missed = traffic.missed;
    Ok(figures)
}

/// Of frames that were sent then, and were there then.
pub fn figures(sent: &[Time], arrived: &[Option<Time>]) -> Figures {
    let delays = |arrived: &mut dyn Iterator<Item = Option<Time>>| -> Vec<Option<f64>> {
        let delay = |(sent, at): (&Time, Option<Time>)| at.map(|at| at.since(*sent) as f64 / 1e3);
        let mut delays: Vec<_> = sent.iter().zip(arrived).map(delay).collect();
        delays.sort_by(|a, b| later(*a, *b));
        delays
    };
    let as_they_came = delays(&mut arrived.iter().copied());
    let mut latest = Time(i64::MIN);
    let in_order = delays(&mut arrived.iter().map(|at| {
        latest = at.map_or(latest, |at| at.max(latest));
        at.map(|_| latest)
    }));
    let share = |is: &dyn Fn(f64) -> bool| {
        let count = as_they_came.iter().filter(|delay| delay.is_none_or(is)).count();
        100.0 * count as f64 / sent.len().max(1) as f64
    };
    Figures {
        frames: sent.len(),
        undelivered_percent: share(&|_| false),
        late_200_percent: share(&|delay| delay > 200.0),
        late_400_percent: share(&|delay| delay > 400.0),
        p50_ms: at(&as_they_came, 50.0),
        p95_ms: at(&as_they_came, 95.0),
        p99_ms: at(&as_they_came, 99.0),
        max_ms: at(&as_they_came, 100.0),
        in_order_p99_ms: at(&in_order, 99.0),
        curve_ms: PERCENTILES.iter().map(|percentile| at(&as_they_came, *percentile)).collect(),
        wire: 0.0,
        packets_per_frame: 0.0,
        wire_back: 0.0,
        sender_late_ms: 0.0,
        beside_mbps: None,
        missed: 0,
    }
}

/// The order of delays: those of frames that did not come are the greatest.
pub fn later(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    let number = |delay: Option<f64>| delay.unwrap_or(f64::INFINITY);
    number(a).total_cmp(&number(b))
}

/// The least that so many percent are at most.
fn at(sorted: &[Option<f64>], percentile: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * percentile / 100.0).ceil() as usize;
    *sorted.get(rank.saturating_sub(1))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_did_not_come_is_later_than_all() {
        let sent: Vec<Time> = (0..100).map(|i| Time::from_ms(i * 33)).collect();
        let mut arrived: Vec<Option<Time>> = sent.iter().map(|sent| Some(sent.plus_ms(50))).collect();
        arrived[10] = None;
        arrived[20] = Some(sent[20].plus_ms(300));
        let figures = figures(&sent, &arrived);
        assert_eq!((figures.frames, figures.undelivered_percent), (100, 1.0));
        assert_eq!((figures.late_200_percent, figures.late_400_percent), (2.0, 1.0));
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.max_ms), (Some(50.0), Some(300.0), None));
        // the eight behind frame 20 waited for it, the last of them less than a millisecond longer than usual
        assert_eq!(figures.in_order_p99_ms, Some(300.0));
        assert_eq!(figures.curve_ms.len(), PERCENTILES.len());
        assert!(figures.curve_ms.is_sorted_by(|a, b| later(*a, *b).is_le()), "{:?}", figures.curve_ms);
    }

    #[test]
    fn frames_in_order_wait_for_those_before_them() {
        let sent: Vec<Time> = (0..4).map(|i| Time::from_ms(i * 30)).collect();
        let arrived = [Some(Time::from_ms(100)), None, Some(Time::from_ms(70)), Some(Time::from_ms(95))];
        let figures = figures(&sent, &arrived);
        // 100, 100 - 60, 100 - 90 in order; 100, 10, 5 as they came
        assert_eq!((figures.p50_ms, figures.in_order_p99_ms), (Some(10.0), None));
    }
}
