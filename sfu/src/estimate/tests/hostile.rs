//! Authenticated peers that lie.

use media::Time;
use proptest::prelude::*;
use rtc::rtcp::twcc::decode;

use crate::estimate::acknowledged::Acknowledged;
use crate::estimate::history::History;
use crate::estimate::probe::{Prober, Wish};
use crate::estimate::{Estimator, MAX_BPS, MIN_BPS, START_BPS};

#[derive(Clone, Debug)]
enum Act {
    /// Send packets of `bytes`, one each `gap_us`.
    Send {
        packets: u16,
        bytes: u16,
        gap_us: u16,
    },
    /// Describe numbers from the newest back by `back`, each `step_us` after the last, `lost` of 8 missing.
    Describe {
        back: u16,
        count: u16,
        arrival_us: i64,
        step_us: i64,
        lost: u8,
        times: u8,
    },
    Raw(Vec<u8>),
    Report(u8, i64),
    Remb(u64),
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    let arrival = prop_oneof![0_i64..10_000_000, any::<i32>().prop_map(|us| i64::from(us) * 500)];
    prop_oneof![
        4 => (1_u16..400, 0_u16..1500, 0_u16..20_000)
            .prop_map(|(packets, bytes, gap_us)| Act::Send { packets, bytes, gap_us }),
        6 => (any::<u16>().prop_map(|n| n % 600), 1_u16..170, arrival, -2_000_i64..4_000, 0_u8..4, 1_u8..4).prop_map(
            |(back, count, arrival_us, step_us, lost, times)| Act::Describe {
                back, count, arrival_us, step_us, lost, times
            }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Act::Raw),
        1 => (any::<u8>(), any::<i64>()).prop_map(|(lost, rtt)| Act::Report(lost, rtt)),
        1 => any::<u64>().prop_map(Act::Remb),
        1 => (0_i64..20_000_000).prop_map(Act::Wait),
    ]
}

/// When each packet was sent and its size, and whether it was ever acknowledged.
#[derive(Default)]
struct Sent(Vec<(i64, u64, bool)>);

impl Sent {
    fn acknowledge(&mut self, fci: &[u8]) {
        let next = self.0.len();
        let _ = decode(fci, |seq, at| {
            let back = usize::from((next as u16).wrapping_sub(seq));
            let sent = next.checked_sub(back).and_then(|n| self.0.get_mut(n));
            if let Some(sent) = sent.filter(|_| at.is_some()) {
                sent.2 = true;
            }
        });
    }

    /// The most acknowledged bytes that were sent within any half second of our clock; of all bytes for a peer that has
    /// only reports, which say nothing of bytes.
    fn most_bps(&self, all: bool) -> u64 {
        let (mut most, mut sum, mut from) = (0, 0, 0);
        let bytes = |n: usize| if all || self.0[n].2 { self.0[n].1 } else { 0 };
        for n in 0..self.0.len() {
            sum += bytes(n);
            while self.0[n].0 - self.0[from].0 > 500_000 {
                sum -= bytes(from);
                from += 1;
            }
            most = most.max(sum * 16);
        }
        most
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_lie_raises_the_estimate_beyond_what_was_acknowledged(acts in prop::collection::vec(act(), 1..120), demand in prop_oneof![0_u64..20_000_000, any::<u64>()]) {
        let mut estimator = Estimator::new(Time::ZERO);
        estimator.set_demand(demand);
        let mut now = Time::ZERO;
        let mut sent = Sent::default();
        let mut probe_bps = 0;
        for act in acts {
            match act {
                Act::Send { packets, bytes, gap_us } => {
                    for _ in 0..packets {
                        let seq = estimator.on_sent(usize::from(bytes), None, now);
                        prop_assert_eq!(seq, sent.0.len() as u16);
                        sent.0.push((now.us(), u64::from(bytes), false));
                        now = now.plus_us(i64::from(gap_us));
                    }
                }
                Act::Describe { back, count, arrival_us, step_us, lost, times } => {
                    // From 100 never sent to 500 back.
                    let base = (sent.0.len() as u64 + 65_536 + 100).saturating_sub(u64::from(back));
                    let received: Vec<_> = (0..u64::from(count))
                        .filter(|n| n % 8 >= u64::from(lost))
                        .map(|n| (base + n, arrival_us + n as i64 * step_us))
                        .collect();
                    let fci = super::feedback(base, &received);
                    sent.acknowledge(&fci);
                    for _ in 0..times {
                        let _ = estimator.on_feedback(&fci, now, |_, _| {});
                    }
                    now = now.plus_us(20_000);
                }
                Act::Raw(fci) => {
                    sent.acknowledge(&fci);
                    let _ = estimator.on_feedback(&fci, now, |_, _| {});
                }
                Act::Report(lost, rtt_us) => estimator.on_report(lost, rtt_us, now),
                Act::Remb(bps) => estimator.on_remb(bps, now),
                Act::Wait(us) => now = now.plus_us(us),
            }
            if let Some(probe) = estimator.poll(now) {
                // Paced as asked.
                probe_bps = probe_bps.max(probe.bps);
                prop_assert!(probe.bps <= demand.saturating_mul(2).min(MAX_BPS));
                for _ in 0..probe.bytes.div_ceil(1200) {
                    estimator.on_sent(1200, Some(probe.id), now);
                    sent.0.push((now.us(), 1200, false));
                    now = now.plus_us((1200 * 8_000_000 / probe.bps) as i64);
                }
            }
            let most = sent.most_bps(!estimator.outgoing.heard) * 3 / 2 + 10_000;
            let target = estimator.target_bps();
            prop_assert!(target <= most.max(START_BPS).max(probe_bps), "{} beyond {}", target, most);
            prop_assert!((MIN_BPS..=MAX_BPS).contains(&target));
            prop_assert!(estimator.outgoing.history.heap_bytes() <= 64 << 10);
            let figures = estimator.figures();
            prop_assert!((0.0..=1.0).contains(&figures.loss));
            prop_assert!(estimator.rtt_us() >= 0);
        }
    }

    /// The history against a plain list of everything sent.
    #[test]
    fn history_describes_each_packet_once(steps in prop::collection::vec((1_u16..3000, any::<u16>(), any::<bool>(), 0_i64..500_000), 1..60)) {
        let mut history = History::default();
        let mut plain: Vec<(i64, u16, u8)> = Vec::new();
        let mut now = Time::ZERO;
        for (packets, pick, arrived, us) in steps {
            for _ in 0..packets {
                let bytes = plain.len() % 1400;
                prop_assert_eq!(history.push(bytes, 0, now), plain.len() as u16);
                plain.push((now.us(), bytes as u16, 0));
            }
            now = now.plus_us(us);
            for ahead in [0, 1, 20_000] {
                prop_assert_eq!(history.describe((plain.len() + ahead) as u16, true, now), None);
            }
            let at = plain.len().saturating_sub(1 + usize::from(pick) % 4000);
            if let Some(described) = history.describe(at as u16, arrived, now) {
                let (sent_us, bytes, state) = &mut plain[at];
                prop_assert_eq!(described.sent.us(), *sent_us);
                prop_assert_eq!(described.bytes, usize::from(*bytes));
                // Never twice, and a loss only from nothing.
                prop_assert!(*state == 0 || (*state == 1 && arrived));
                prop_assert_eq!(described.late, *state == 1);
                *state = if arrived { 2 } else { 1 };
            }
        }
    }
}

/// A receiver that describes a fourteenth of what it got, squeezes its arrivals, and sets its clock before a trend shows.
#[test]
fn squeezed_arrivals_do_not_raise_the_estimate() {
    let mut estimator = Estimator::new(Time::ZERO);
    let mut now = Time::ZERO;
    let mut numbers = 65_536_u64;
    let mut arrival_us = 0;
    for cycle in 0..30 {
        arrival_us += 20_000_000;
        for group in 0..54 {
            // 800 kbit/s is sent, in groups.
            let received: Vec<_> = (0..8)
                .map(|_| {
                    estimator.on_sent(1200, None, now);
                    numbers += 1;
                    arrival_us += 5_200;
                    (numbers - 1, arrival_us)
                })
                .collect();
            // The first samples need more: slow ones.
            now = now.plus_us(if cycle == 0 { 300_000 } else { 96_000 });
            if group < 4 || cycle == 0 {
                estimator.on_feedback(&super::feedback(received[0].0, &received), now, |_, _| {}).unwrap();
            }
        }
    }
    let figures = estimator.figures();
    assert!(figures.arrives_bps > 1_500_000, "{figures:?}");
    assert!(estimator.target_bps() <= START_BPS, "{figures:?}");
}

/// Four seconds of old packets described between two new ones half a second apart: 240 kbit/s, not 2 Mbit/s.
#[test]
fn hoarded_acknowledgements_are_not_counted_into_another_time() {
    let mut acknowledged = Acknowledged::default();
    let mut arrival_us = 0;
    for round in 0..10_i64 {
        let newest = round * 5_000_000;
        let older = (1..100).map(|n| newest - 4_000_000 + n * 40_000);
        for sent_us in [newest].into_iter().chain(older).chain([newest + 500_000]) {
            acknowledged.on_packet(Time(sent_us), arrival_us, 1200);
            arrival_us += 4_000;
        }
    }
    assert!(acknowledged.bps().is_some_and(|bps| bps > 2_000_000));
    let confirmed = acknowledged.confirmed_bps().unwrap();
    assert!(confirmed <= 240_000, "{confirmed}");
}

/// A probe is worth what was sent, however fast it is said to have come.
#[test]
fn squeezed_probe_is_worth_what_was_sent() {
    let mut prober = Prober::new();
    prober.begin(Time::ZERO);
    let wish =
        Wish { estimate_bps: 500_000, demand_bps: 1_000_000, held: false, filled: false, rtt_us: 50_000 };
    let probe = prober.poll(wish, Time::ZERO).unwrap();
    assert_eq!(probe.bps, 2_000_000, "twice the demand at most");
    // Paced at half of what was asked, and said to have come at that.
    for n in 0..probe.bytes.div_ceil(1200) as i64 {
        prober.on_packet(probe.id, Time(n * 9_600), 1200, Some(n * 4_900));
    }
    let found = prober.result(500_000, Time::from_ms(100)).unwrap();
    assert!((990_000..=1_010_000).contains(&found), "{found}");
    // Fewer than 80 % arrived: nothing is known.
    let probe = prober.poll(wish, Time::from_ms(5_000)).unwrap();
    for n in 0..probe.bytes.div_ceil(1200) as i64 {
        prober.on_packet(probe.id, Time(n * 4_800), 1200, (n % 4 != 0).then_some(n * 4_800));
    }
    assert_eq!(prober.result(500_000, Time::from_ms(5_100)), None);
    assert_eq!(prober.poll(Wish { demand_bps: 500_000, ..wish }, Time::from_ms(60_000)), None, "enough");
}
