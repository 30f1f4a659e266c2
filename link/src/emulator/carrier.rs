//! The thread that carries packets from one device to the other.
use super::{Shared, Side, sys};
use crate::model::Carried;
use media::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// What a direction may hold: 48 MB of full packets, a second of 390 Mbit/s. Without a rate nothing else bounds it. More is
/// dropped and counted as `overflow`.
pub const WAITING_MAX: usize = 32_768;
/// Packets read from a device before what is due goes out.
const BATCH: usize = 64;
/// More than the devices' MTU.
const PACKET_LEN_MAX: usize = 2_048;

/// A packet on its way.
struct Waiting {
    due: Time,
    /// The order of equals.
    number: u64,
    packet: Box<[u8]>,
}

impl Waiting {
    fn key(&self) -> (Time, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Both devices, and what is between them.
pub struct Carrier {
    started: Instant,
    shared: Arc<Shared>,
    devices: [File; 2],
    /// By the side that sent it, the next one on top.
    waiting: [BinaryHeap<Reverse<Waiting>>; 2],
    numbers: u64,
    buffer: Box<[u8]>,
}

impl Carrier {
    pub fn new(devices: [File; 2], shared: Arc<Shared>) -> Carrier {
        Carrier {
            started: Instant::now(),
            shared,
            devices,
            waiting: Default::default(),
            numbers: 0,
            buffer: vec![0; PACKET_LEN_MAX].into(),
        }
    }

    /// Carries until the other end of `stop` is gone.
    ///
    /// # Errors
    /// A device is gone.
    pub fn run(mut self, stop: &UnixStream) -> io::Result<()> {
        sys::be_punctual();
        loop {
            let limit = self.next_due().map(|due| due - self.now());
            let [a, b] = &self.devices;
            let [a, b, stopped] = sys::wait([a.as_fd(), b.as_fd(), stop.as_fd()], limit)?;
            if stopped {
                return Ok(());
            }
            for (side, readable) in [(Side::A, a), (Side::B, b)] {
                if readable {
                    self.take_in(side)?;
                }
                self.give_out(Side::A);
                self.give_out(Side::B);
            }
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    fn next_due(&self) -> Option<Time> {
        self.waiting.iter().filter_map(|it| it.peek()).map(|Reverse(it)| it.due).min()
    }

    /// What a side sends.
    fn take_in(&mut self, from: Side) -> io::Result<()> {
        for _ in 0..BATCH {
            let len = match (&self.devices[from.index()]).read(&mut self.buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let now = self.now();
            let mut direction = self.shared.lock(from);
            let carried: Carried = direction.link.carry(len, now);
            for due in carried.times() {
                let waiting = &mut self.waiting[from.index()];
                if waiting.len() >= WAITING_MAX {
                    direction.overflow += 1;
                    continue;
                }
                self.numbers += 1;
                waiting.push(Reverse(Waiting {
                    due,
                    number: self.numbers,
                    packet: self.buffer[..len].into(),
                }));
            }
        }
        Ok(())
    }

    /// What has arrived from a side goes to the other one.
    fn give_out(&mut self, from: Side) {
        let now = self.now();
        while let Some(Reverse(next)) = self.waiting[from.index()].peek()
            && next.due <= now
        {
            let written = (&self.devices[from.other().index()]).write(&next.packet);
            let mut direction = self.shared.lock(from);
            match written {
                Ok(_) => direction.delivered += 1,
                Err(_) => direction.refused += 1,
            }
            self.waiting[from.index()].pop();
        }
    }
}
