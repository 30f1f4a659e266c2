//! Reading sockets with the kernel's time of arrival, so that a busy harness does not count as a slow node.
#![allow(unsafe_code, reason = "SO_TIMESTAMPNS and its ancillary data are not in std or socket2")]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Room for one cmsghdr with a timespec, and for one that is not asked for.
const CONTROL_LEN: usize = 64;

/// Has the kernel note when data comes (CLOCK_REALTIME).
pub fn enable(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open while it is borrowed; `on` is an int and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            ptr::from_ref(&on).cast(),
            mem::size_of_val(&on) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a datagram, or what a TCP stream has: its length, and when its last byte came in nanoseconds of the Unix epoch, if the kernel
/// says so. Does not wait.
pub fn recv(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    #[repr(align(8))]
    struct Control([u8; CONTROL_LEN]);
    let mut control = Control([0; CONTROL_LEN]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr: null pointers and lengths of 0.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN;
    // SAFETY: the header points to `vector`, which is `buffer`, and to `control`, with their lengths; all outlive the call.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // cmsg(3): length (8), level (4), type (4), then data; ours is the only kind that was asked for.
    let word =
        |at: usize| control.0[at..at + 8].first_chunk::<8>().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let kind = (i64::from(libc::SCM_TIMESTAMPNS) as u64) << 32 | libc::SOL_SOCKET as u64;
    let is_time = header.msg_controllen >= 32 && word(8) == kind;
    Ok((len, is_time.then(|| word(16) * 1_000_000_000 + word(24))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn now_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
    }

    /// The time is that of arrival, not of reading.
    fn check(receiver: &impl AsFd, mut send: impl FnMut()) {
        enable(receiver).unwrap();
        // Time stamping begins a moment after it was asked for the first time in a system.
        std::thread::sleep(Duration::from_millis(20));
        let before = now_ns();
        send();
        let after = now_ns();
        std::thread::sleep(Duration::from_millis(30));
        let mut buffer = [0; 100];
        let (len, at) = recv(receiver, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        let at = at.expect("the kernel says when");
        assert!(at >= before && at <= after + 5_000_000, "{before} {at} {after}");
        assert_eq!(recv(receiver, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn datagrams_and_streams_tell_when_they_came() {
        let (to, from) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        check(&to, || assert_eq!(from.send_to(b"hello", to.local_addr().unwrap()).unwrap(), 5));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (to, _) = listener.accept().unwrap();
        check(&to, || from.write_all(b"hello").unwrap());
    }
}
