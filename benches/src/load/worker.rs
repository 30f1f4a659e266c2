//! A worker process: takes orders from its standard input, drives its seats, and says each second what they got.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use media::Time;
use mio::Waker;

use super::client::Kit;
use super::clip::Clip;
use super::clock::Clock;
use super::engine::{Engine, WAKE};
use super::plan::{Begin, Order, Said, Second};
use super::process;

/// Goodbyes have so long to go out.
const GOODBYE: Duration = Duration::from_millis(500);

/// Runs until its coordinator says so, or is gone.
pub fn run() -> Result<()> {
    if let Err(error) = work() {
        say(&Said::Broken(format!("{error:#}")))?;
    }
    Ok(())
}

fn work() -> Result<()> {
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first)?;
    let Order::Begin(begin) = serde_json::from_str(&first).context("the first order")? else {
        bail!("the first order does not begin");
    };
    if let Some(core) = begin.core {
        process::pin_self(core)?;
    }
    let mut engine = prepare(&begin)?;
    let orders = listen(Waker::new(engine.registry(), WAKE)?);
    let mut next_second = 1;
    let mut cpu_before = process::own_cpu_seconds()?;
    loop {
        loop {
            match orders.try_recv() {
                Ok(Order::Begin(_)) => bail!("a second begin"),
                Ok(Order::Phase(phase, at_us)) => engine.begin_phase(phase, Time(at_us as i64)),
                Ok(Order::Measure(window)) => engine.measure(window),
                Ok(Order::Finish) => {
                    let finished = engine.finish();
                    engine.run(GOODBYE)?;
                    return say(&Said::Finished(finished));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let due = Time(next_second * 1_000_000);
        engine.run(due - engine.now())?;
        let now = engine.now();
        if now >= due {
            let at = now.us() / 1_000_000;
            let cpu = process::own_cpu_seconds()?;
            let passed = (at + 1 - next_second).max(1) as f64;
            let cpu_percent = (cpu - cpu_before) * 100.0 / passed;
            (cpu_before, next_second) = (cpu, at + 1);
            say(&Said::Second(Second { at: at as u64, groups: engine.second(), cpu_percent }))?;
        }
    }
}

fn prepare(begin: &Begin) -> Result<Engine> {
    let clips: Vec<Arc<Clip>> =
        begin.medias.iter().map(|media| Clip::load(media).map(Arc::new)).collect::<Result<_>>()?;
    Engine::new(begin, Kit::new(Clock::since(begin.epoch_us), clips, begin.seed, begin.join_ms)?)
}

fn say(said: &Said) -> Result<()> {
    let mut line = serde_json::to_string(said)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(line.as_bytes()).and_then(|()| out.flush())?)
}

/// Orders as they come, each with a wake-up. The channel's end is the coordinator's.
fn listen(waker: Waker) -> Receiver<Order> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Some(order) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { break };
            if sender.send(order).is_err() {
                break;
            }
            let _ = waker.wake();
        }
        drop(sender);
        let _ = waker.wake();
    });
    receiver
}
