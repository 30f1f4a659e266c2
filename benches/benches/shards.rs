//! Two shards against one: the viewers of one stream on one thread, then half of them each on two, the second fed by the first one's mail.
//!
//! `cargo bench -p millrace-benches --bench shards [-- --viewers 1000 --burst 5 --rounds 9]`
//!
//! Packets per second of wall time, with real sends to sockets nobody reads, so that no receiver is the limit. Beside it the floor in the same
//! rounds: bare `sendmmsg` of the same packets on one thread and on two. Virtual cores may be two threads of one real core: then the floor does
//! not double either, and nothing can.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use benches::floor::{Floor, pin, thread_cpu_ns};
use benches::sending::{BATCH_BYTES, BATCH_DATAGRAMS, Sending, receivers, sender};
use benches::world::{Mirror, PACKET_OUT_LEN, Posted, SealedFrame, World};
use rtc::srtp::Profile;

const PROFILE: Profile = Profile::AeadAes256Gcm;
/// Packets out per measure and round.
const PACKETS_A_MEASURE: usize = 100_000;

struct Options {
    viewers: usize,
    burst: usize,
    rounds: usize,
}

/// What a thread does once all are ready.
type Work<'a> = Box<dyn FnOnce(&udp::Socket) -> Result<Done> + Send + 'a>;

/// What one thread did.
struct Done {
    cpu_ns: u64,
    sent: usize,
}

fn main() -> Result<()> {
    let Some(options) = options()? else { return Ok(()) };
    let Options { viewers, burst, rounds } = options;
    let sockets = receivers(viewers)?;
    let to: Vec<SocketAddrV4> = sockets.iter().map(|(_, address)| *address).collect();
    let addresses: Vec<SocketAddr> = to.iter().copied().map(SocketAddr::V4).collect();
    let (near, far) = addresses.split_at(viewers / 2);
    let (near_v4, far_v4) = to.split_at(viewers / 2);
    let frames = (PACKETS_A_MEASURE / viewers / burst).max(1);

    let mut alone = World::connect(PROFILE, &addresses);
    let mut home = World::connect(PROFILE, near);
    let mut mirror = Mirror::connect(PROFILE, far);
    mirror.take_mail().for_each(|mail| home.handle_mail(mail));
    let expected = frames * burst * viewers;
    let len = PACKET_OUT_LEN + PROFILE.tag_len();
    let floor = |to: &[SocketAddrV4]| Floor::new(to, len, burst, BATCH_DATAGRAMS, burst > 1);
    let (mut floor_all, mut floor_near, mut floor_far) = (floor(&to), floor(near_v4), floor(far_v4));

    let mut figures: [Vec<f64>; 4] = Default::default();
    let mut cpu: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        let sealed = seal(&mut alone, frames, burst);
        let (one, cpu_one) =
            race(vec![Box::new(|socket| forward(&mut alone, sealed, None, socket))], expected)?;
        let sealed = seal(&mut home, frames, burst);
        let (post, posted) = channel();
        let (two, cpu_two) = race(
            vec![
                Box::new(|socket| forward(&mut home, sealed, Some(post), socket)),
                Box::new(|socket| receive(&mut mirror, posted, socket)),
            ],
            expected,
        )?;
        let (floor_one, _) = race(vec![Box::new(|socket| flood(&mut floor_all, frames, socket))], expected)?;
        let (floor_two, _) = race(
            vec![
                Box::new(|socket| flood(&mut floor_near, frames, socket)),
                Box::new(|socket| flood(&mut floor_far, frames, socket)),
            ],
            expected,
        )?;
        if round > 0 {
            for (all, one) in figures.iter_mut().zip([one, two, floor_one, floor_two]) {
                all.push(one);
            }
            for (all, one) in cpu.iter_mut().zip(cpu_one.into_iter().chain(cpu_two)) {
                all.push(one);
            }
        }
    }
    let ratio =
        |a: usize, b: usize| median(figures[a].iter().zip(&figures[b]).map(|(two, one)| two / one).collect());
    let (shards_ratio, floor_ratio) = (ratio(1, 0), ratio(3, 2));
    let [one, two, floor_one, floor_two] = figures.map(median);
    let [cpu_one, cpu_home, cpu_mirror] = cpu.map(median);
    println!("{viewers} viewers, bursts of {burst}; medians of {} rounds", rounds - 1);
    println!("{:9} {:>14} {:>14} {:>9}", "", "1 thread", "2 threads", "ratio");
    for (name, one, two, ratio) in
        [("shards", one, two, shards_ratio), ("the floor", floor_one, floor_two, floor_ratio)]
    {
        println!("{name:9} {:>8.0} kpps {:>9.0} kpps {ratio:>9.2}", one / 1_000.0, two / 1_000.0);
    }
    println!(
        "CPU per packet out: one shard {cpu_one:.0} ns; of two the home {cpu_home:.0} ns, the mirror {cpu_mirror:.0} ns"
    );
    println!("mail between shards: 1 packet for {} out", viewers);
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(0.0)
}

fn seal(world: &mut World, frames: usize, burst: usize) -> Vec<SealedFrame> {
    (0..frames).map(|_| world.seal(burst)).collect()
}

/// Runs each on a thread and a core of its own. Packets per second of all, and the CPU time of each for a packet it sent. A share of
/// `expected` that is not sent makes it no measure: a pacer that is not driven, or viewers that wait for something.
fn race(work: Vec<Work>, expected: usize) -> Result<(f64, Vec<f64>)> {
    let start = &Barrier::new(work.len());
    let sockets = work.iter().map(|_| sender()).collect::<Result<Vec<_>>>()?;
    let done = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (core, (work, socket)) in work.into_iter().zip(sockets).enumerate() {
            threads.push(scope.spawn(move || {
                let pinned = pin(core);
                start.wait();
                pinned?;
                let began = Instant::now();
                let done = work(&socket)?;
                Ok((began, done, Instant::now()))
            }));
        }
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    // By the threads' own clock readings: this thread may not get a core until one of them is through.
    let began = done.iter().map(|(began, ..)| *began).min().context("nothing ran")?;
    let ended = done.iter().map(|(.., ended)| *ended).max().context("nothing ran")?;
    let seconds = (ended - began).as_secs_f64();
    let done: Vec<Done> = done.into_iter().map(|(_, done, _)| done).collect();
    let sent: usize = done.iter().map(|one| one.sent).sum();
    ensure!(sent * 100 >= expected * 99, "{sent} of {expected} packets were sent: the rest waits in a shard");
    let each = done.iter().map(|one| one.cpu_ns as f64 / one.sent.max(1) as f64);
    Ok((sent as f64 / seconds, each.collect()))
}

/// The home shard's thread: datagrams in, packets out, mail to the other.
fn forward(
    world: &mut World,
    sealed: Vec<SealedFrame>,
    post: Option<Sender<Posted>>,
    socket: &udp::Socket,
) -> Result<Done> {
    let mut batch = udp::SendBatch::new(BATCH_BYTES, BATCH_DATAGRAMS);
    let mut out = Sending::new(&mut batch, socket);
    let begun = thread_cpu_ns();
    for mut frame in sealed {
        world.forward(&mut frame, &mut out);
        out.flush();
        for mail in world.take_mail(frame.at) {
            if let Some(post) = &post {
                post.send(mail).context("the other shard is gone")?;
            }
        }
    }
    done(begun, &out)
}

/// The other shard's thread: mail in, packets out, until the home is through.
fn receive(mirror: &mut Mirror, posted: Receiver<Posted>, socket: &udp::Socket) -> Result<Done> {
    let mut batch = udp::SendBatch::new(BATCH_BYTES, BATCH_DATAGRAMS);
    let mut out = Sending::new(&mut batch, socket);
    let begun = thread_cpu_ns();
    for mail in posted {
        mirror.forward(mail, &mut out);
        out.flush();
    }
    done(begun, &out)
}

fn done(begun: u64, out: &Sending) -> Result<Done> {
    ensure!(out.lost == 0, "the kernel refused {} packets", out.lost);
    Ok(Done { cpu_ns: thread_cpu_ns() - begun, sent: out.sent })
}

fn flood(floor: &mut Floor, frames: usize, socket: &udp::Socket) -> Result<Done> {
    let begun = thread_cpu_ns();
    for _ in 0..frames {
        floor.send(socket.as_fd().as_raw_fd(), |_, _| ())?;
    }
    Ok(Done { cpu_ns: thread_cpu_ns() - begun, sent: frames * floor.datagrams() })
}

fn options() -> Result<Option<Options>> {
    let mut options = Options { viewers: 1_000, burst: 5, rounds: 9 };
    if std::env::args().len() == 1 {
        // Not `cargo bench` but `cargo test --benches`: that it runs is all that is asked.
        options = Options { viewers: 20, burst: 2, rounds: 2 };
    }
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            // `cargo bench NAME`: which of the benchmarks
            if !"shards".contains(&word) {
                return Ok(None);
            }
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--viewers" => options.viewers = value.parse().context("--viewers")?,
            "--burst" => options.burst = value.parse().context("--burst")?,
            "--rounds" => options.rounds = value.parse().context("--rounds")?,
            other => bail!("{other}: the options are --viewers --burst --rounds"),
        }
    }
    ensure!(options.rounds >= 2, "--rounds: the first is dropped, so at least 2");
    // The pacer sends so many at once; the rest would wait for its wheel, which is not what is measured here.
    ensure!((1..=10).contains(&options.burst), "--burst: 1 to 10");
    ensure!((2..=16_000).contains(&options.viewers), "--viewers: 2 to 16000");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "two shards need two cores, and there is one");
    Ok(Some(options))
}
