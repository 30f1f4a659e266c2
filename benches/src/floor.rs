//! The floor: what the kernel takes for the same packets to the same sockets, with nothing around the system call. Headers are made
//! once; a pass over all destinations is `sendmmsg` and nothing else.
#![allow(
    unsafe_code,
    reason = "the bare system calls are what is measured; our own code is in transport/udp"
)]

use std::io;
use std::mem;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::ptr;

/// CPU time of this thread in nanoseconds: on a shared machine what others take must not count.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to, and the clock id is one that Linux knows.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this thread on one core, so that two threads are on two.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: all zeros is an empty set; CPU_SET stays within it, as it checks its bound; the kernel only reads the set, whose length is passed.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ancillary data that says UDP_SEGMENT, aligned as a cmsghdr must be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Segment([u8; 24]);

impl Segment {
    fn new(len: u16) -> Segment {
        let header =
            libc::cmsghdr { cmsg_len: 16 + 2, cmsg_level: libc::SOL_UDP, cmsg_type: libc::UDP_SEGMENT };
        let mut segment = Segment([0; 24]);
        segment.0[..8].copy_from_slice(&header.cmsg_len.to_ne_bytes());
        segment.0[8..12].copy_from_slice(&header.cmsg_level.to_ne_bytes());
        segment.0[12..16].copy_from_slice(&header.cmsg_type.to_ne_bytes());
        segment.0[16..18].copy_from_slice(&len.to_ne_bytes());
        segment
    }
}

/// Ready messages: a run of `run` datagrams to each destination, batches of which share one arena, as the real path's do.
pub struct Floor {
    arena: Box<[u8]>,
    datagram_len: usize,
    run: usize,
    batch_runs: usize,
    headers: Vec<libc::mmsghdr>,
    // What `headers` points to; boxed slices, so that nothing moves.
    _names: Box<[libc::sockaddr_in]>,
    _vectors: Box<[libc::iovec]>,
    _segment: Box<Segment>,
}

// SAFETY: its pointers lead into boxed slices of its own, which move to the other thread with it.
unsafe impl Send for Floor {}

impl Floor {
    /// `run` datagrams of `datagram_len` bytes to each of `destinations`, at most `batch_datagrams` a system call; as one GSO message a
    /// destination, or one by one.
    pub fn new(
        destinations: &[SocketAddrV4],
        datagram_len: usize,
        run: usize,
        batch_datagrams: usize,
        gso: bool,
    ) -> Floor {
        let batch_runs = (batch_datagrams / run).max(1);
        let mut arena = vec![0x80; batch_runs * run * datagram_len].into_boxed_slice();
        let mut segment = Box::new(Segment::new(datagram_len as u16));
        let per_message = if gso { run } else { 1 };
        let mut names: Box<[libc::sockaddr_in]> = destinations
            .iter()
            .map(|to| libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                sin_zero: [0; 8],
            })
            .collect();
        let base = arena.as_mut_ptr();
        let mut vectors: Box<[libc::iovec]> = (0..destinations.len() * run / per_message)
            .map(|message| {
                let slot = (message * per_message) % (batch_runs * run);
                // SAFETY: a batch starts at the arena's start and holds whole runs: slot + per_message <= batch_runs * run.
                let iov_base = unsafe { base.add(slot * datagram_len) }.cast();
                libc::iovec { iov_base, iov_len: per_message * datagram_len }
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .enumerate()
            .map(|(message, vector)| {
                // SAFETY: all zeros is a valid mmsghdr: null pointers and lengths of 0.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                let name = &mut names[message * per_message / run];
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                if gso && run > 1 {
                    header.msg_hdr.msg_control = ptr::from_mut(&mut *segment).cast();
                    header.msg_hdr.msg_controllen = mem::size_of::<Segment>();
                }
                header
            })
            .collect();
        Floor {
            arena,
            datagram_len,
            run,
            batch_runs,
            headers,
            _names: names,
            _vectors: vectors,
            _segment: segment,
        }
    }

    /// Sends all, batch by batch. `prepare` is called with each datagram's number and bytes before its batch goes.
    pub fn send(&mut self, socket: RawFd, mut prepare: impl FnMut(usize, &mut [u8])) -> io::Result<()> {
        let messages_a_run = self.headers.len() / self._names.len();
        let batch = self.batch_runs * messages_a_run;
        let mut datagram = 0;
        let datagrams = self.datagrams();
        let (arena, len, batch_datagrams) = (&mut self.arena, self.datagram_len, self.batch_runs * self.run);
        for headers in self.headers.chunks_mut(batch) {
            for bytes in arena.chunks_exact_mut(len).take(batch_datagrams.min(datagrams - datagram)) {
                prepare(datagram, bytes);
                datagram += 1;
            }
            let mut sent = 0;
            while sent < headers.len() {
                let rest = &mut headers[sent..];
                // SAFETY: `rest` is initialised messages; all they point to (arena, names, vectors, segment) lives in `self` and has not
                // moved; the kernel writes msg_len alone.
                match unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), rest.len() as u32, 0) } {
                    count @ 1.. => sent += count as usize,
                    _ => {
                        let error = io::Error::last_os_error();
                        if error.kind() != io::ErrorKind::Interrupted {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Datagrams that one [`send`](Floor::send) is.
    pub fn datagrams(&self) -> usize {
        self._names.len() * self.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn every_destination_gets_its_run() {
        let sockets: Vec<UdpSocket> = (0..7).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let to: Vec<SocketAddrV4> = sockets
            .iter()
            .map(|s| match s.local_addr().unwrap() {
                SocketAddr::V4(v4) => v4,
                SocketAddr::V6(_) => unreachable!("bound to IPv4"),
            })
            .collect();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (run, gso) in [(1, false), (3, false), (3, true)] {
            let mut floor = Floor::new(&to, 100, run, 6, gso);
            assert_eq!(floor.datagrams(), 7 * run);
            floor.send(from.as_raw_fd(), |number, bytes| bytes[0] = number as u8).unwrap();
            for (i, socket) in sockets.iter().enumerate() {
                socket.set_nonblocking(true).unwrap();
                for j in 0..run {
                    let mut buffer = [0; 200];
                    assert_eq!(socket.recv(&mut buffer).unwrap(), 100, "run {run} gso {gso}");
                    assert_eq!(usize::from(buffer[0]), i * run + j);
                }
                assert!(socket.recv(&mut [0; 200]).is_err());
            }
        }
    }

    #[test]
    fn cpu_time_passes() {
        let before = thread_cpu_ns();
        std::hint::black_box((0..100_000_u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
        assert!(thread_cpu_ns() > before);
    }
}
