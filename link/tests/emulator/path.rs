//! What sockets meet on the path.
use crate::traffic::{HEADERS, Sink, assert_accounts, echo, ping, quantile, send, start, tcp, udp};
use link::emulator::{Emulator, Options, Side, WAITING_MAX};
use link::{Config, Loss};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::wait::alone;
use support::{need, until};

const MS: Duration = Duration::from_millis(1);
const WIRE: Config = Config {
    delay_us: 0,
    jitter_us: 0,
    reorder: false,
    loss: Loss::None,
    duplicate_per_mille: 0,
    rate_bps: None,
    queue_us: 200_000,
    outage: false,
};

#[test]
fn a_round_trip_is_both_delays_and_hardly_more() {
    need!(Link);
    let _lane = alone();
    let emulator = start([Config { delay_us: 30_000, ..WIRE }, Config { delay_us: 10_000, ..WIRE }]);
    let [a, b] = udp(&emulator);
    echo(&b);
    let mut trips: Vec<f64> = (0..100).map(|_| ping(&a).expect("nothing is lost")).collect();
    let (least, half, most) =
        (quantile(&mut trips, 0.0), quantile(&mut trips, 0.5), quantile(&mut trips, 0.99));
    eprintln!("40 ms of delay: round trips of {least:.3} to {most:.3} ms, median {half:.3}");
    assert!(least >= 40.0, "{least} ms is before its time");
    assert!(half < 42.0, "{half} ms");
}

#[test]
fn random_loss_is_the_models_own_and_the_same_again() {
    need!(Link);
    let _lane = alone();
    let config = Config { loss: Loss::Random { per_mille: 50 }, delay_us: 5_000, ..WIRE };
    let (first, second) = (received(config), received(config));
    let lost = 4_000 - first.len();
    assert!((150..250).contains(&lost), "{lost} of 4000 at 5 %");
    assert!(first == second, "the same seed loses other packets");
}

#[test]
fn bursts_have_their_share_and_length() {
    need!(Link);
    let _lane = alone();
    let loss = Loss::Bursts { per_mille: 100, mean_packets: 8 };
    let got = received(Config { loss, ..WIRE });
    let holes = got.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|hole| *hole > 0);
    let (runs, lost) = holes.fold((0, 0), |(runs, lost), hole| (runs + 1, lost + hole));
    let mean = f64::from(lost) / f64::from(runs);
    assert!((280..520).contains(&lost), "{lost} of 4000 at 10 %");
    assert!((5.5..10.5).contains(&mean), "runs of {mean:.1}, not 8");
}

/// The numbers that arrive of 4000 datagrams; what was sent, what came and what the emulator counted agree.
fn received(config: Config) -> Vec<u32> {
    let (count, len) = (4_000, 200);
    let emulator = start([config, WIRE]);
    let [a, b] = udp(&emulator);
    let sink = Sink::start(&b);
    send(&a, count, len, MS / 4);
    let got: Vec<u32> = sink.end().iter().map(|it| it.number).collect();
    let link = assert_accounts(&emulator, Side::A);
    assert_eq!((link.packets, link.bytes), (count.into(), u64::from(count) * (len as u64 + HEADERS)));
    assert_eq!(link.carried + link.duplicated, got.len() as u64);
    assert_eq!(assert_accounts(&emulator, Side::B).packets, 0);
    got
}

#[test]
fn copies_come_twice() {
    need!(Link);
    let _lane = alone();
    let got = received(Config { duplicate_per_mille: 100, ..WIRE });
    let copies = got.len() - 4_000;
    assert!((320..480).contains(&copies), "{copies} copies of 4000 at 10 %");
}

#[test]
fn jitter_keeps_the_order_unless_told_otherwise() {
    need!(Link);
    let _lane = alone();
    let config = Config { delay_us: 5_000, jitter_us: 20_000, ..WIRE };
    let overtaken = |got: Vec<u32>| got.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert_eq!(overtaken(received(config)), 0);
    let overtaken = overtaken(received(Config { reorder: true, ..config }));
    assert!(overtaken > 1_000, "{overtaken} of 4000, 0.25 ms apart, with 20 ms of jitter");
}

#[test]
fn tcp_fills_the_rate_and_then_the_queue() {
    need!(Link);
    let _lane = alone();
    let config = Config { delay_us: 10_000, rate_bps: Some(8_000_000), queue_us: 150_000, ..WIRE };
    let emulator = start([config; 2]);
    // the machine may prefer BBR, which leaves the queue empty; Reno is allowed everywhere
    let set = || std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
    emulator.namespace(Side::A).within(set).unwrap();
    let [mut near, mut far] = tcp(&emulator);
    let [a, b] = udp(&emulator);
    echo(&b);
    let idle = ping(&a).expect("an idle path loses nothing");
    assert!((20.0..25.0).contains(&idle), "{idle} ms");

    let sender = std::thread::spawn(move || while near.write_all(&[7; 16_384]).is_ok() {});
    let bulk = std::thread::spawn(move || {
        let (mut buffer, mut bytes) = ([0; 65_536], 0);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            bytes += far.read(&mut buffer).unwrap();
        }
        // closing it ends the sender
        bytes as f64 * 8.0 / started.elapsed().as_secs_f64()
    });
    // probes wait in the same queue; those that it drops are nobody's
    let mut trips: Vec<f64> = Vec::new();
    while !bulk.is_finished() {
        trips.extend(ping(&a));
    }
    let rate = bulk.join().unwrap();
    sender.join().unwrap();
    let (half, most) = (quantile(&mut trips, 0.5), quantile(&mut trips, 1.0));
    eprintln!(
        "TCP over 8 Mbit/s: {:.2} Mbit/s; round trips {idle:.1} ms idle, then {half:.1}, {most:.1} at most",
        rate / 1e6
    );
    assert!((6.4e6..=8.0e6).contains(&rate), "{rate:.0} bit/s");
    assert!(half > 60.0, "the queue is not used: {half} ms");
    // 20 ms, the queue, and the transmission of a packet or two
    assert!((100.0..180.0).contains(&most), "{most} ms");
    let figures = assert_accounts(&emulator, Side::A);
    assert!(figures.queue_full > 0, "TCP found no end of the queue: {figures:?}");
    assert!((145_000..=150_000).contains(&figures.queue_us_max), "{figures:?}");
}

#[test]
fn udp_above_the_rate_is_cut_to_it_and_the_rate_changes_at_once() {
    need!(Link);
    let _lane = alone();
    let config = Config { rate_bps: Some(4_000_000), queue_us: 50_000, ..WIRE };
    let emulator = start([config, WIRE]);
    let [a, b] = udp(&emulator);
    // 9.6 Mbit/s on the wire
    let pass = |count| {
        let sink = Sink::start(&b);
        send(&a, count, 1_200 - HEADERS as usize, MS);
        let got = sink.end();
        let took = got.last().unwrap().at - got[0].at;
        (got.len() - 1) as f64 * 1_200.0 * 8.0 / took.as_secs_f64()
    };
    let before = pass(2_000);
    assert!((3.9e6..4.1e6).contains(&before), "{before:.0} bit/s, not 4 Mbit/s");
    emulator.set(Side::A, Config { rate_bps: Some(1_000_000), ..config });
    let after = pass(2_000);
    assert!((0.97e6..1.03e6).contains(&after), "{after:.0} bit/s, not 1 Mbit/s");
    assert!(assert_accounts(&emulator, Side::A).queue_full > 1_000);
}

#[test]
fn after_an_outage_udp_and_tcp_go_on() {
    need!(Link);
    let _lane = alone();
    let config = Config { delay_us: 20_000, ..WIRE };
    let emulator = start([config; 2]);
    let [a, b] = udp(&emulator);
    let [mut near, mut far] = tcp(&emulator);
    near.write_all(b"before").unwrap();
    far.read_exact(&mut [0; 6]).unwrap();

    let long = Duration::from_secs(1);
    let sink = Sink::start(&b);
    let before = emulator.figures(Side::A).link.packets;
    send(&a, 50, 100, 10 * MS);
    until("all of them have entered", Duration::from_secs(5), || {
        (emulator.figures(Side::A).link.packets >= before + 50).then_some(())
    });
    for side in Side::BOTH {
        emulator.set(side, Config { outage: true, ..config });
    }
    let out = Instant::now();
    near.write_all(b"during").unwrap();
    send(&a, 50, 100, 10 * MS);
    std::thread::sleep((out + long).saturating_duration_since(Instant::now()));
    for side in Side::BOTH {
        emulator.set(side, config);
    }
    send(&a, 50, 100, 10 * MS);
    // TCP's own retransmission
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = [0; 6];
    far.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"during");

    let got = sink.end();
    assert_eq!(got.len(), 100);
    let gaps = got.windows(2).map(|pair| pair[1].at - pair[0].at);
    let longest = gaps.max().unwrap();
    assert!((980..1_200).contains(&longest.as_millis()), "{longest:?}");
    assert!(assert_accounts(&emulator, Side::A).outage >= 50);
}

#[test]
fn what_is_on_the_way_is_bounded_and_the_rest_counted() {
    need!(Link);
    let _lane = alone();
    let emulator = start([Config { delay_us: 600_000_000, ..WIRE }, WIRE]);
    let [a, _b] = udp(&emulator);
    let count = WAITING_MAX as u32 + 2_000;
    send(&a, count, 100, MS / 50);
    let figures = until("all have entered", Duration::from_secs(5), || {
        let figures = emulator.figures(Side::A);
        (figures.link.packets + figures.missed >= count.into()).then_some(figures)
    });
    assert!(figures.overflow > 0, "{figures:?}");
    assert_eq!((figures.delivered, figures.link.carried - figures.overflow), (0, WAITING_MAX as u64));
}

#[test]
fn two_emulators_do_not_meet() {
    need!(Link);
    let _lane = alone();
    let (one, two) = (start([WIRE; 2]), start([WIRE; 2]));
    let [a, b] = udp(&one);
    echo(&b);
    ping(&a).expect("nothing is lost");
    assert_eq!(two.figures(Side::A).link.packets, 0);
    let own = Emulator::start(&Options::default()).unwrap();
    assert!(own.namespace(Side::A).name() != own.namespace(Side::B).name());
}
