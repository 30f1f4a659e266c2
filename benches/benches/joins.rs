//! What one WHEP join costs its shard, in microseconds of CPU time by part, while others watch already; and what those cost by time alone.
//!
//! `cargo bench -p millrace-benches --bench joins [-- --viewers 0 --viewers 1000 --joins 200]`
//!
//! - order: `Command::AddPeer`, from what SDP agreed on;
//! - check: the ICE check and its answer;
//! - handshake: DTLS 1.2 from the ClientHello to the keys of SRTP;
//! - timers: what is due by time, asked for after each of these as the media plane's loop does;
//! - longest: the longest that media waits for one of them.
//!
//! Beside the shard: the offer parsed and answered, as the control plane does it. The last column is what all viewers together cost each
//! second by time alone: reports and time-outs.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use benches::floor::thread_cpu_ns;
use benches::world::{JoinCost, Nowhere, World, negotiation_ns};
use rtc::srtp::Profile;

struct Options {
    viewers: Vec<usize>,
    joins: usize,
}

fn main() -> Result<()> {
    let Some(options) = options()? else { return Ok(()) };
    println!("an offer parsed and answered: {:.1} us\n", negotiation_ns(options.joins) as f64 / 1_000.0);
    println!(
        "{:>7} | {:>8} = {:>7} + {:>7} + {:>9} + {:>7} | {:>8} | {:>14}",
        "viewers", "us/join", "order", "check", "handshake", "timers", "longest", "idle us/second"
    );
    for viewers in options.viewers {
        let addresses: Vec<SocketAddr> = (0..viewers + options.joins).map(address).collect();
        let (there, joining) = addresses.split_at(viewers);
        let mut world = World::connect(Profile::AeadAes256Gcm, there);
        // Past the first second: reports are spread as they are in the long run.
        for _ in 0..60 {
            let mut frame = world.seal(1);
            world.forward(&mut frame, &mut Nowhere::default());
            world.handle_timeout(&mut Nowhere::default());
        }
        let start = thread_cpu_ns();
        for _ in 0..30 {
            tick(&mut world);
        }
        let idle = thread_cpu_ns() - start;
        let mut costs: Vec<JoinCost> = joining.iter().map(|at| world.join(*at)).collect();
        let median = |part: fn(&JoinCost) -> u64, costs: &mut Vec<JoinCost>| {
            costs.sort_by_key(part);
            costs.get(costs.len() / 2).map_or(0.0, |c| part(c) as f64 / 1_000.0)
        };
        println!(
            "{viewers:>7} | {:>8.1} = {:>7.1} + {:>7.1} + {:>9.1} + {:>7.1} | {:>8.1} | {:>14.0}",
            median(JoinCost::total, &mut costs),
            median(|c| c.order, &mut costs),
            median(|c| c.check, &mut costs),
            median(|c| c.handshake, &mut costs),
            median(|c| c.timers, &mut costs),
            median(|c| c.longest, &mut costs),
            idle as f64 / 1_000.0,
        );
    }
    Ok(())
}

/// A thirtieth of a second without media, looked after each 5 ms.
fn tick(world: &mut World) {
    for _ in 0..7 {
        world.pass(5_000);
        world.handle_timeout(&mut Nowhere::default());
    }
}

fn address(i: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10 + (i >> 15) as u8], 5_000 + (i & 0x7fff) as u16))
}

fn options() -> Result<Option<Options>> {
    let mut options = Options { viewers: Vec::new(), joins: 200 };
    let defaults = [0, 1_000, 5_000];
    if std::env::args().len() == 1 {
        // Not `cargo bench` but `cargo test --benches`: that it runs is all that is asked.
        (options.viewers, options.joins) = (vec![5], 5);
    }
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            // `cargo bench NAME`: which of the benchmarks
            if !"joins".contains(&word) {
                return Ok(None);
            }
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--viewers" => options.viewers.push(value.parse().context("--viewers")?),
            "--joins" => options.joins = value.parse().context("--joins")?,
            other => bail!("{other}: the options are --viewers --joins"),
        }
    }
    if options.viewers.is_empty() {
        options.viewers = defaults.to_vec();
    }
    Ok(Some(options))
}
