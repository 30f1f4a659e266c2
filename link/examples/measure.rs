//! What the emulator itself does to packets: how far from its time each arrives, and how many a second it carries at what cost.
//! `cargo run --release --package millrace-link --example measure` (root, TUN devices; the machine should do nothing else).
use link::Config;
use link::emulator::{Emulator, Error, Options, Side};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

fn main() -> Result<(), Error> {
    for (delay_ms, every_us) in [(0, 1_000), (20, 1_000), (50, 5_000), (50, 100)] {
        punctuality(delay_ms, Duration::from_micros(every_us))?;
    }
    for (len, per_ms) in [(100, 50), (1_200, 50), (1_200, 100), (1_200, 150), (1_200, 200)] {
        throughput(len, per_ms)?;
    }
    Ok(())
}

fn sockets(emulator: &Emulator) -> Result<[UdpSocket; 2], Error> {
    let bind = |side: Side| emulator.namespace(side).within(move || UdpSocket::bind((side.address(), 0)));
    let [a, b] = [bind(Side::A)??, bind(Side::B)??];
    a.connect(b.local_addr()?)?;
    b.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok([a, b])
}

/// From the send call to the end of the receive call, less the delay: system calls and wake-ups are in it.
fn punctuality(delay_ms: i64, every: Duration) -> Result<(), Error> {
    let config = Config { delay_us: delay_ms * 1_000, ..Config::default() };
    let emulator = Emulator::start(&Options { configs: [config; 2], ..Options::default() })?;
    let [a, b] = sockets(&emulator)?;
    let started = Instant::now();
    let receiver = std::thread::spawn(move || {
        let (mut late, mut buffer) = (Vec::new(), [0; 256]);
        while b.recv(&mut buffer).is_ok() {
            let sent_us = u64::from_be_bytes(buffer[..8].try_into().unwrap_or_default());
            late.push(started.elapsed().as_micros() as i64 - sent_us as i64 - delay_ms * 1_000);
        }
        late
    });
    let count = (Duration::from_secs(5).as_micros() / every.as_micros()) as u32;
    for number in 1..=count {
        std::thread::sleep((started + every * number).saturating_duration_since(Instant::now()));
        let mut packet = [0; 200];
        packet[..8].copy_from_slice(&(started.elapsed().as_micros() as u64).to_be_bytes());
        a.send(&packet)?;
    }
    let mut late = receiver.join().unwrap_or_default();
    late.sort_unstable();
    let at = |share: f64| late.get(((late.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "delay {delay_ms} ms, a packet each {every:?}: {} of {count}; late by {} us at least, {} p50, {} p99, {} p99.9, {} at most",
        late.len(),
        at(0.0),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}

/// One thread sends so many each millisecond, one receives; the emulator's thread is the third.
fn throughput(len: usize, per_ms: u32) -> Result<(), Error> {
    let config = Config { delay_us: 20_000, ..Config::default() };
    let emulator = Emulator::start(&Options { configs: [config; 2], ..Options::default() })?;
    let [a, b] = sockets(&emulator)?;
    let receiver = std::thread::spawn(move || {
        let (mut buffer, mut count) = ([0; 2_048], 0_u64);
        while b.recv(&mut buffer).is_ok() {
            count += 1;
        }
        count
    });
    let (packet, started, cpu) = (vec![0; len], Instant::now(), cpu_of_link());
    for ms in 0..3_000 {
        std::thread::sleep((started + Duration::from_millis(ms)).saturating_duration_since(Instant::now()));
        for _ in 0..per_ms {
            a.send(&packet)?;
        }
    }
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_of_link() - cpu);
    let received = receiver.join().unwrap_or(0);
    let figures = emulator.figures(Side::A);
    println!(
        "{len} bytes: {:.0} packets/s sent; the link's thread took {:.0} % of a core, {:.2} us each; {} missed by it, {} delivered, {received} \
         received",
        (figures.link.packets + figures.missed) as f64 / took,
        100.0 * cpu / took,
        1e6 * cpu / figures.delivered.max(1) as f64,
        figures.missed,
        figures.delivered,
    );
    Ok(())
}

/// Seconds on a core that the emulator's thread has had.
fn cpu_of_link() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read =
        |task: &std::fs::DirEntry, file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
    let own = tasks.filter(|task| read(task, "comm").trim() == "link");
    let ns = own.filter_map(|task| read(&task, "schedstat").split(' ').next()?.parse::<f64>().ok());
    ns.sum::<f64>() / 1e9
}
