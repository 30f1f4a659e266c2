//! A TCP flow that takes what it gets, under Cubic (RFC 9438), in the link that a hop has.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use link::Link;
use media::Time;

const SEGMENT: usize = 1_500;
/// RFC 9438 section 4.1 and 4.6.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// The flow: windows in segments.
pub struct Cubic {
    window: f64,
    slow_start_until: f64,
    highest: f64,
    /// When it came down last.
    epoch: Time,
    in_flight: u64,
    /// When it is heard of a segment, when that was sent, and whether it was lost.
    words: BinaryHeap<Reverse<(Time, Time, bool)>>,
    back_us: i64,
    trip_us: i64,
    /// Segments that arrived.
    pub arrived: u64,
}

impl Cubic {
    pub fn new(trip_us: i64) -> Cubic {
        Cubic {
            window: 10.0,
            slow_start_until: f64::INFINITY,
            highest: 0.0,
            epoch: Time::ZERO,
            in_flight: 0,
            words: BinaryHeap::new(),
            back_us: trip_us / 2,
            trip_us,
            arrived: 0,
        }
    }

    pub fn step(&mut self, link: &mut Link, now: Time) {
        while let Some(&Reverse((at, sent, lost))) = self.words.peek()
            && at <= now
        {
            self.words.pop();
            self.in_flight -= 1;
            if lost {
                // One reduction for what was in flight when it came down.
                if sent > self.epoch {
                    self.highest = self.window;
                    self.window = (self.window * BETA).max(2.0);
                    (self.slow_start_until, self.epoch) = (self.window, now);
                }
                continue;
            }
            self.arrived += 1;
            self.trip_us = now.since(sent);
            if self.window < self.slow_start_until {
                self.window += 1.0;
            } else {
                let k = (self.highest * (1.0 - BETA) / C).cbrt();
                let t = (now.since(self.epoch) + self.trip_us) as f64 / 1e6;
                let target = (C * (t - k).powi(3) + self.highest).clamp(self.window, self.window * 1.5);
                // The window of Reno, where that is larger.
                let reno =
                    self.highest * BETA + 3.0 * (1.0 - BETA) / (1.0 + BETA) * t * 1e6 / self.trip_us as f64;
                self.window = (self.window + (target - self.window) / self.window).max(reno);
            }
        }
        while (self.in_flight as f64) < self.window {
            self.in_flight += 1;
            let arrives = link.carry(SEGMENT, now).times().next();
            // Duplicate acknowledgements of what comes next tell a loss.
            self.words.push(Reverse(match arrives {
                Some(at) => (at.plus_us(self.back_us), now, false),
                None => (now.plus_us(self.trip_us), now, true),
            }));
        }
    }
}
