//! Waiting with a deadline, and who may run at the same time.
use std::io::{self, ErrorKind};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Asks again every 20 ms until there is an answer.
///
/// # Panics
/// When `limit` has passed: `what` says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A read with a time-out to its end: the kernel does not restart these after a signal, and a child that ends while another thread starts a
/// program interrupts them, with no handler anywhere.
pub fn undisturbed<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A read with a time-out ended before anything came, for those who read again in a loop: by the time-out, or as [`undisturbed`] tells.
pub fn nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Tests that measure time, or run a browser, run alone: two browsers on two cores measure each other.
static MACHINE: RwLock<()> = RwLock::new(());

/// Nothing else of this program runs while the guard lives.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// May run beside others of its kind.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}
