use super::*;

const LEN: usize = 1_200;

/// Gives `count` packets, one each `every_us`; what became of each, with when it was given.
fn give(link: &mut Link, count: i64, every_us: i64, from: Time) -> Vec<(Time, Carried)> {
    (0..count)
        .map(|index| {
            let now = from.plus_us(index * every_us);
            (now, link.carry(LEN, now))
        })
        .collect()
}

fn arrivals(given: &[(Time, Carried)]) -> Vec<Time> {
    given.iter().flat_map(|(_, carried)| carried.times()).collect()
}

#[test]
fn a_perfect_wire_delays_and_nothing_else() {
    let mut link = Link::new(Config { delay_us: 50_000, ..Config::default() }, 1);
    for (now, carried) in give(&mut link, 1_000, 100, Time::ZERO) {
        assert_eq!(carried, Carried::Once(now.plus_us(50_000)));
    }
    let bytes = 1_000 * LEN as u64;
    let figures =
        Figures { packets: 1_000, bytes, carried: 1_000, carried_bytes: bytes, ..Figures::default() };
    assert_eq!(link.figures(), figures);
}

#[test]
fn the_same_seed_is_the_same_path_and_another_is_not() {
    let config = Config {
        jitter_us: 10_000,
        reorder: true,
        loss: Loss::Bursts { per_mille: 50, mean_packets: 4 },
        duplicate_per_mille: 10,
        rate_bps: Some(5_000_000),
        ..Config::default()
    };
    let run = |seed| give(&mut Link::new(config, seed), 5_000, 2_000, Time::ZERO);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn the_same_packets_are_lost_whatever_else_is_set() {
    let lost = |config: Config| -> Vec<bool> {
        let config = Config { loss: Loss::Random { per_mille: 100 }, ..config };
        let given = give(&mut Link::new(config, 3), 2_000, 10_000, Time::ZERO);
        given.iter().map(|(_, carried)| *carried == Carried::Lost(Lost::Loss)).collect()
    };
    let rich =
        Config { jitter_us: 5_000, duplicate_per_mille: 100, rate_bps: Some(2_000_000), ..Config::default() };
    assert_eq!(lost(Config::default()), lost(rich));
}

#[test]
fn the_rate_is_kept_to_the_bit() {
    // 97 bytes at 100 Mbit/s are 7.76 us: rounded down each time, the rate would be 111 Mbit/s
    for (rate, len, count) in
        [(100_000_000, 97, 100_000_u64), (1_000_000, 1_200, 1_000), (3_333_333, 1_333, 5_000)]
    {
        let config = Config { rate_bps: Some(rate), queue_us: i64::MAX, ..Config::default() };
        let mut link = Link::new(config, 1);
        let last = (0..count).flat_map(|_| link.carry(len, Time::ZERO).times()).last().unwrap();
        let wanted_us = count as i128 * len as i128 * 8_000_000 / i128::from(rate);
        assert_eq!(i128::from(last.us()), wanted_us, "{rate} bit/s");
    }
}

#[test]
fn an_idle_transmitter_saves_nothing_up() {
    let mut link = Link::new(Config { rate_bps: Some(9_600_000), ..Config::default() }, 1);
    assert_eq!(link.carry(LEN, Time::ZERO), Carried::Once(Time(1_000)));
    let late = Time::from_ms(5_000);
    let times = arrivals(&[(late, link.carry(LEN, late)), (late, link.carry(LEN, late))]);
    assert_eq!(times, [late.plus_us(1_000), late.plus_us(2_000)]);
}

#[test]
fn the_queue_is_bounded_in_time_and_drops_its_tail() {
    // twice the rate for 10 s
    let config = Config { rate_bps: Some(1_200_000), queue_us: 200_000, ..Config::default() };
    let mut link = Link::new(config, 1);
    let given = give(&mut link, 2_500, 4_000, Time::ZERO);
    let figures = link.figures();
    let send_us = 8_000;
    let longest = given.iter().flat_map(|(now, it)| it.times().map(|at| at.since(*now))).max().unwrap();
    assert!((200_000 - send_us..=200_000 + send_us).contains(&longest), "{longest} us");
    assert_eq!(figures.queue_us_max, longest - send_us);
    assert_eq!(figures.packets, figures.carried + figures.queue_full);
    // what passes is the rate: 10 s of it and what is queued
    let carried_ms = figures.carried as i64 * send_us / 1_000;
    assert!((10_000..=10_220).contains(&carried_ms), "{carried_ms} ms of packets");
}

#[test]
fn a_queue_of_no_length_takes_a_packet_when_idle_only() {
    let mut link = Link::new(Config { rate_bps: Some(9_600_000), queue_us: 0, ..Config::default() }, 1);
    assert_eq!(link.carry(LEN, Time(0)), Carried::Once(Time(1_000)));
    assert_eq!(link.carry(LEN, Time(999)), Carried::Lost(Lost::Queue));
    assert_eq!(link.carry(LEN, Time(1_000)), Carried::Once(Time(2_000)));
}

#[test]
fn jitter_is_uniform_and_keeps_the_order() {
    let config = Config { delay_us: 20_000, jitter_us: 10_000, ..Config::default() };
    // far apart, nothing holds anything back
    let given = give(&mut Link::new(config, 5), 20_000, 20_000, Time::ZERO);
    let extra: Vec<i64> =
        given.iter().flat_map(|(now, it)| it.times().map(|at| at.since(*now) - 20_000)).collect();
    assert!(extra.iter().all(|us| (0..=10_000).contains(us)));
    assert!(extra.iter().min() < Some(&50) && extra.iter().max() > Some(&9_950));
    let mean = extra.iter().sum::<i64>() / extra.len() as i64;
    assert!((4_900..=5_100).contains(&mean), "mean {mean} us");

    let mut close = Link::new(config, 5);
    let times = arrivals(&give(&mut close, 20_000, 500, Time::ZERO));
    assert!(times.is_sorted());
    assert_eq!(close.figures().reordered, 0);
}

#[test]
fn with_reorder_packets_overtake_and_are_counted() {
    let config = Config { delay_us: 20_000, jitter_us: 10_000, reorder: true, ..Config::default() };
    let mut link = Link::new(config, 5);
    let times = arrivals(&give(&mut link, 20_000, 500, Time::ZERO));
    let mut latest = Time::ZERO;
    let overtaken = times.iter().filter(|&&at| {
        let late = at < latest;
        latest = latest.max(at);
        late
    });
    let overtaken = overtaken.count() as u64;
    assert!(overtaken > 10_000, "{overtaken}");
    assert_eq!(link.figures().reordered, overtaken);
}

#[test]
fn copies_have_their_share_and_come_no_earlier() {
    let config = Config { jitter_us: 5_000, duplicate_per_mille: 50, ..Config::default() };
    let mut link = Link::new(config, 9);
    let given = give(&mut link, 20_000, 1_000, Time::ZERO);
    let twice =
        given.iter().filter(|(_, it)| matches!(it, Carried::Twice(first, second) if first <= second)).count();
    assert!((900..=1_100).contains(&twice), "{twice}");
    let figures = link.figures();
    assert_eq!((figures.duplicated, figures.carried), (twice as u64, 20_000));
}

#[test]
fn an_outage_swallows_what_comes_in_and_ends() {
    let config = Config { delay_us: 100_000, ..Config::default() };
    let mut link = Link::new(config, 1);
    let before = link.carry(LEN, Time::ZERO);
    link.set(Config { outage: true, ..config });
    assert!(arrivals(&give(&mut link, 100, 10_000, Time(1_000))).is_empty());
    link.set(config);
    let after = link.carry(LEN, Time::from_ms(1_100));
    assert_eq!((before, after), (Carried::Once(Time(100_000)), Carried::Once(Time::from_ms(1_200))));
    assert_eq!((link.figures().outage, link.figures().carried), (100, 2));
}

#[test]
fn a_change_leaves_what_is_on_the_way_and_its_order() {
    let slow = Config { delay_us: 50_000, rate_bps: Some(960_000), ..Config::default() };
    let mut link = Link::new(slow, 1);
    let before = arrivals(&give(&mut link, 5, 0, Time::ZERO));
    assert_eq!(before.last(), Some(&Time(100_000)));
    // ten times the rate and less delay: not past what is queued
    link.set(Config { delay_us: 0, rate_bps: Some(9_600_000), ..slow });
    let after = arrivals(&give(&mut link, 600, 1_100, Time::ZERO));
    assert!(after.is_sorted() && after[0] >= before[4]);
    // and from then on the new rate holds
    assert_eq!(after[599], Time(599 * 1_100 + 1_000));
}
