//! A timer in microseconds. An event loop's own timeout is whole milliseconds, too coarse for a pacer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::sys;

/// A one-shot timer at an absolute time of [`now_us`], as a `mio` source that becomes readable.
pub struct Timer {
    fd: OwnedFd,
    armed_us: Option<u64>,
}

/// Microseconds of the monotonic clock (`CLOCK_MONOTONIC`), the time line of [`Timer`]. Never goes back.
pub fn now_us() -> u64 {
    sys::monotonic_us()
}

impl Timer {
    /// A timer that is not armed.
    pub fn new() -> io::Result<Timer> {
        Ok(Timer { fd: sys::timer_create()?, armed_us: None })
    }

    /// Fires once at `at_us`, at once when that is past. Replaces an earlier time; the same time again costs no
    /// system call.
    pub fn arm(&mut self, at_us: u64) -> io::Result<()> {
        self.set(Some(at_us))
    }

    /// Does not fire any more.
    pub fn disarm(&mut self) -> io::Result<()> {
        self.set(None)
    }

    /// The time it will fire at.
    pub fn armed_us(&self) -> Option<u64> {
        self.armed_us
    }

    /// Takes the event: whether it fired since the last call. Call it when `mio` says readable; it is edge-triggered.
    pub fn drain(&mut self) -> io::Result<bool> {
        let fired = sys::timer_read(self.fd.as_fd())? > 0;
        if fired {
            self.armed_us = None;
        }
        Ok(fired)
    }

    fn set(&mut self, at_us: Option<u64>) -> io::Result<()> {
        if at_us != self.armed_us {
            sys::timer_set(self.fd.as_fd(), at_us)?;
            self.armed_us = at_us;
        }
        Ok(())
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Source for Timer {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::time::Duration;

    /// Waits for the timer; how many microseconds after `from_us` it fired.
    fn wait(poll: &mut Poll, timer: &mut Timer, from_us: u64) -> Option<u64> {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_millis(200))).unwrap();
        if events.is_empty() {
            return None;
        }
        assert!(timer.drain().unwrap());
        assert!(!timer.drain().unwrap(), "drained once");
        Some(now_us() - from_us)
    }

    #[test]
    fn fires_at_its_time_and_not_when_disarmed() {
        let mut poll = Poll::new().unwrap();
        let mut timer = Timer::new().unwrap();
        poll.registry().register(&mut timer, Token(0), Interest::READABLE).unwrap();
        let start = now_us();

        timer.arm(start + 2500).unwrap();
        assert_eq!(timer.armed_us(), Some(start + 2500));
        let late_us = wait(&mut poll, &mut timer, start).expect("it fired");
        assert!(late_us >= 2500, "fired after {late_us} us");
        assert_eq!(timer.armed_us(), None);

        for past in [0, 1, start] {
            timer.arm(past).unwrap();
            assert!(wait(&mut poll, &mut timer, start).is_some(), "a past time fires at once");
        }
        timer.arm(now_us() + 20_000).unwrap();
        timer.disarm().unwrap();
        assert_eq!(wait(&mut poll, &mut timer, start), None);
        timer.arm(u64::MAX).unwrap();
        assert!(!timer.drain().unwrap(), "the far future has not come");
    }
}
