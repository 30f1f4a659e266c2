//! QUIC below a hop, as far as it matters to one: packets are paced by the window over the round trip, and acknowledged.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use link::Link;
use media::Time;
use millrace_relay::hop::{Demand, LiveWindow, RoundTrip};

/// IP, UDP, QUIC's short header with an id of 4 bytes and a number of one, its tag, and the frame of a datagram.
pub const QUIC_LEN: usize = 28 + 1 + 4 + 1 + 16 + 3;
/// As the node sets it: what is held beyond our say.
const HELD_BYTES: usize = 32 << 10;
/// quinn's pacer: packets of a burst, and what it covers in time.
const BURST_LEN: u64 = 10 * 1_200;
const BURST_US: i64 = 2_000;
/// A packet is given up after so many round trips.
const LOST_TRIPS: i64 = 2;

/// What comes of a packet at its sender, and when: bytes, when it was sent, whether it was lost.
type Word = Reverse<(Time, u64, Time, bool)>;

/// The sending end of a connection.
pub struct Quic {
    pub window: LiveWindow,
    pub trip: RoundTrip,
    smoothed_us: i64,
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    in_flight: u64,
    tokens: u64,
    refilled: Time,
    words: BinaryHeap<Word>,
    arriving: BinaryHeap<Reverse<(Time, u64, Vec<u8>)>>,
    order: u64,
    /// What an acknowledgement takes.
    back_us: i64,
}

impl Quic {
    /// On a path with this round trip, all that is known from its handshake.
    pub fn new(trip_us: i64) -> Quic {
        let mut trip = RoundTrip::default();
        trip.measured(trip_us, trip_us, trip_us);
        Quic {
            window: LiveWindow::new(),
            trip,
            smoothed_us: trip_us,
            held: VecDeque::new(),
            held_bytes: 0,
            in_flight: 0,
            tokens: BURST_LEN,
            refilled: Time::ZERO,
            words: BinaryHeap::new(),
            arriving: BinaryHeap::new(),
            order: 0,
            back_us: trip_us / 2,
        }
    }

    pub fn set_demand(&mut self, demand: Demand) {
        self.window.set_demand(demand);
    }

    pub fn has_room(&self, size: usize) -> bool {
        self.held_bytes + size <= self.window.held(HELD_BYTES)
    }

    pub fn send(&mut self, datagram: Vec<u8>) {
        self.held_bytes += datagram.len();
        self.held.push_back(datagram);
    }

    /// Acknowledgements are heard, and what may leave goes to the link.
    pub fn step(&mut self, link: &mut Link, now: Time) {
        while let Some(&Reverse((at, bytes, sent, lost))) = self.words.peek()
            && at <= now
        {
            self.words.pop();
            self.in_flight -= bytes;
            if lost {
                self.window.on_loss(bytes, now);
                continue;
            }
            let trip_us = now.since(sent);
            self.window.on_ack(bytes, trip_us, now);
            self.smoothed_us += (trip_us - self.smoothed_us) / 8;
            self.trip.measured(trip_us, self.window.least_us(), self.smoothed_us);
        }
        let window = self.window.window();
        let per_us = window as f64 * 1.25 / self.smoothed_us as f64;
        let burst = ((window as i64 * BURST_US / self.smoothed_us) as u64).max(BURST_LEN);
        self.tokens = (self.tokens + (now.since(self.refilled) as f64 * per_us) as u64).min(burst);
        self.refilled = now;
        while let Some(datagram) = self.held.front() {
            let len = (datagram.len() + QUIC_LEN) as u64;
            if len > self.tokens || self.in_flight + len > window {
                break;
            }
            self.tokens -= len;
            self.in_flight += len;
            self.held_bytes -= datagram.len();
            let datagram = self.held.pop_front().expect("the front");
            let mut first = None;
            for at in link.carry(len as usize, now).times() {
                first.get_or_insert(at);
                self.order += 1;
                self.arriving.push(Reverse((at, self.order, datagram.clone())));
            }
            self.words.push(Reverse(match first {
                Some(at) => (at.plus_us(self.back_us), len, now, false),
                None => (now.plus_us(self.smoothed_us * LOST_TRIPS), len, now, true),
            }));
        }
    }

    /// The next datagram at the other end.
    pub fn arrived(&mut self, now: Time) -> Option<Vec<u8>> {
        self.arriving.peek().filter(|Reverse((at, ..))| *at <= now)?;
        self.arriving.pop().map(|Reverse((.., datagram))| datagram)
    }
}
