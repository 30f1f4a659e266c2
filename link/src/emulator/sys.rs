//! The system calls that the standard library does not have.
#![allow(unsafe_code, reason = "an emulator makes devices and enters namespaces; nobody ships it")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// Makes the TUN device `name` in this thread's network namespace. Each read takes an IP packet that the kernel sends
/// through the device, each write gives it one; neither blocks. The device goes when the file is closed.
pub fn tun(name: &str) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid ifreq: an empty name, and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // the last byte stays zero
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device's name has 15 bytes at most"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(file)
}

/// Moves this thread into a network namespace, for good.
pub fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Sleeps until one of the files can be read (or its other end is gone) or `limit` has passed; which of them can be.
pub fn wait<const N: usize>(files: [BorrowedFd<'_>; N], limit: Option<Duration>) -> io::Result<[bool; N]> {
    let mut polled =
        files.map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = limit
        .map(|it| libc::timespec { tv_sec: it.as_secs() as libc::time_t, tv_nsec: it.subsec_nanos().into() });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` has N entries of open descriptors; `limit` is null or a timespec that outlives the call; no signal mask.
    match check(unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, limit, std::ptr::null()) }) {
        Ok(()) => Ok(polled.map(|it| it.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
    }
}

/// Makes this thread's sleeps end on time (50 us late is the default), and puts it before ordinary threads where that is
/// allowed: the programs under test must not hold up the path between them.
pub fn be_punctual() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is this thread; the kernel reads one sched_param.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &priority) };
}

/// SIGINT and SIGTERM as something to wait for, so that what a process made is taken down before it ends.
pub struct Interrupts(UnixStream);

/// Where the handler writes.
static CAUGHT: AtomicI32 = AtomicI32::new(-1);

extern "C" fn catch(_signal: libc::c_int) {
    // SAFETY: write is allowed in a signal handler; one byte of a live array, to a descriptor that is never closed. When the
    // socket is full, there is a signal to read already.
    unsafe { libc::write(CAUGHT.load(Ordering::Relaxed), [0_u8].as_ptr().cast(), 1) };
}

impl Interrupts {
    /// Catches both from now on, in the whole process. Programs that it starts are not affected.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn catch() -> io::Result<Interrupts> {
        let (caught, waited) = UnixStream::pair()?;
        caught.set_nonblocking(true)?;
        CAUGHT.store(caught.into_raw_fd(), Ordering::Relaxed);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the handler does nothing that a handler may not do.
            unsafe { libc::signal(signal, catch as *const () as libc::sighandler_t) };
        }
        Ok(Interrupts(waited))
    }

    /// Waits for one, at most so long; whether it came.
    ///
    /// # Errors
    /// The system call's.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let [caught] = wait([self.0.as_fd()], limit)?;
        if caught {
            (&self.0).read_exact(&mut [0])?;
        }
        Ok(caught)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
