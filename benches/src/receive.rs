//! Reading sockets as a load harness must: many datagrams a system call (runs that the kernel kept together included), with the kernel's
//! time of arrival, so that a busy harness does not count as a slow server, and its count of what it threw away.
#![allow(unsafe_code, reason = "recvmmsg and its ancillary data are not in std or socket2")]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Room for a timespec, a segment length and a count of drops, each with its header, and one header more.
const CONTROL_LEN: usize = 128;
/// UDP_GRO hands over at most one maximal IP packet.
const SLOT_LEN: usize = 65_535;

#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// What the kernel says beside the data.
#[derive(Clone, Copy, Default)]
struct Beside {
    arrival_ns: Option<u64>,
    segment_len: Option<usize>,
    drops: Option<u32>,
}

impl Beside {
    /// cmsg(3): length (8), level (4), type (4), then data, each message aligned to 8.
    fn read(control: &[u8]) -> Beside {
        let mut beside = Beside::default();
        let mut rest = control;
        while let Some(head) = rest.first_chunk::<16>() {
            let len = usize::from_ne_bytes([
                head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7],
            ]);
            let level = libc::c_int::from_ne_bytes([head[8], head[9], head[10], head[11]]);
            let kind = libc::c_int::from_ne_bytes([head[12], head[13], head[14], head[15]]);
            let Some(data) = rest.get(16..len) else { break };
            let word = |at: usize| {
                data.get(at..at + 8).and_then(|b| b.first_chunk()).map(|b| u64::from_ne_bytes(*b))
            };
            let half = || data.first_chunk().map(|b| u32::from_ne_bytes(*b));
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    beside.arrival_ns = word(0).zip(word(8)).map(|(s, ns)| s * 1_000_000_000 + ns);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => beside.drops = half(),
                (libc::SOL_UDP, libc::UDP_GRO) => beside.segment_len = half().map(|len| len as usize),
                _ => {}
            }
            rest = rest.get(len.next_multiple_of(8)..).unwrap_or(&[]);
        }
        beside
    }
}

fn set(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open while it is borrowed; `on` is an int and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            mem::size_of_val(&on) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel note when data comes (CLOCK_REALTIME).
pub fn enable_times(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)
}

/// Likewise for datagrams; it also keeps runs together and counts what did not fit the socket's buffer.
pub fn enable_datagrams(socket: &impl AsFd) -> io::Result<()> {
    enable_times(socket)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
    set(socket, libc::SOL_UDP, libc::UDP_GRO)
}

/// Reads what a TCP stream has: its length, and when its last byte came in nanoseconds of the Unix epoch, if the kernel says so. Does not
/// wait.
pub fn recv_stream(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
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
    let beside = Beside::read(control.0.get(..header.msg_controllen).unwrap_or(&[]));
    Ok((len, beside.arrival_ns))
}

struct Slot {
    len: usize,
    beside: Beside,
}

/// Slots for datagrams, and runs of them, that all sockets of a thread share: what was read is handled before the next read.
pub struct Receiver {
    buffer: Box<[u8]>,
    controls: Box<[Control]>,
    // What `headers` points to; neither moves.
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    slots: Vec<Slot>,
}

impl Receiver {
    /// Room for so many datagrams or runs a call.
    pub fn new(slots: usize) -> Receiver {
        let mut buffer = vec![0; slots * SLOT_LEN].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL_LEN]); slots].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = buffer
            .chunks_exact_mut(SLOT_LEN)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT_LEN })
            .collect();
        let headers = vectors
            .iter_mut()
            .zip(controls.iter_mut())
            .map(|(vector, control)| {
                // SAFETY: all zeros is a valid mmsghdr: null pointers and lengths of 0.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header
            })
            .collect();
        Receiver { buffer, controls, _vectors: vectors, headers, slots: Vec::with_capacity(slots) }
    }

    /// Reads what waits, without waiting. Returns whether all slots were filled, so that more may be there; an edge-triggered poll needs
    /// another call then. An error of the socket that is about an earlier datagram (ICMP) comes out as one.
    pub fn recv(&mut self, socket: &impl AsFd) -> io::Result<bool> {
        self.slots.clear();
        for header in &mut self.headers {
            header.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: each header points to its own slot of `buffer` and its own control, with their lengths; `self` keeps both.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) };
        };
        for (header, control) in self.headers.iter().zip(&self.controls).take(count) {
            let beside = Beside::read(control.0.get(..header.msg_hdr.msg_controllen).unwrap_or(&[]));
            self.slots.push(Slot { len: header.msg_len as usize, beside });
        }
        Ok(count == self.headers.len())
    }

    /// The datagrams of the last read, each with the kernel's time of arrival in nanoseconds of the Unix epoch.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (&mut [u8], Option<u64>)> {
        self.buffer.chunks_exact_mut(SLOT_LEN).zip(&self.slots).flat_map(|(bytes, slot)| {
            let segment = slot.beside.segment_len.filter(|len| *len > 0).unwrap_or(SLOT_LEN);
            let at = slot.beside.arrival_ns;
            bytes[..slot.len].chunks_mut(segment).map(move |datagram| (datagram, at))
        })
    }

    /// How many datagrams, or runs of them, of this socket the kernel has thrown away so far, as the last read said; `None` when it said nothing.
    pub fn drops(&self) -> Option<u32> {
        self.slots.iter().rev().find_map(|slot| slot.beside.drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn now_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
    }

    /// Time stamping begins a moment after it was asked for the first time in a system.
    fn let_it_begin() {
        std::thread::sleep(Duration::from_millis(20));
    }

    #[test]
    fn a_stream_tells_when_its_bytes_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (to, _) = listener.accept().unwrap();
        enable_times(&to).unwrap();
        let_it_begin();
        let before = now_ns();
        from.write_all(b"hello").unwrap();
        let after = now_ns();
        // The time is that of arrival, not of reading.
        std::thread::sleep(Duration::from_millis(30));
        let mut buffer = [0; 100];
        let (len, at) = recv_stream(&to, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        let at = at.expect("the kernel says when");
        assert!(at >= before && at <= after + 5_000_000, "{before} {at} {after}");
        assert_eq!(recv_stream(&to, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn runs_come_apart_and_drops_are_counted() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        enable_datagrams(&to).unwrap();
        let_it_begin();
        let from = udp::Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 16, 1 << 20).unwrap();
        let mut batch = udp::SendBatch::new(1 << 20, 512);
        let address = to.local_addr().unwrap();
        for (fill, len) in [(1, 1_000), (2, 1_000), (3, 500), (4, 70)] {
            assert!(batch.push(address, &vec![fill; len]));
        }
        from.send(&mut batch).unwrap();
        let mut receiver = Receiver::new(8);
        assert!(!receiver.recv(&to).unwrap());
        let got: Vec<(u8, usize, bool)> =
            receiver.datagrams().map(|(d, at)| (d[0], d.len(), at.is_some())).collect();
        assert_eq!(got, [(1, 1_000, true), (2, 1_000, true), (3, 500, true), (4, 70, true)]);
        assert!(!receiver.recv(&to).unwrap() && receiver.datagrams().next().is_none(), "nothing waits");

        for _ in 0..2_000 {
            assert!(batch.push(address, &[9; 1_200]) || from.send(&mut batch).is_ok());
        }
        from.send(&mut batch).unwrap();
        while receiver.recv(&to).unwrap() {}
        // The count comes with the next datagram that fits.
        assert!(batch.push(address, &[1; 10]));
        from.send(&mut batch).unwrap();
        receiver.recv(&to).unwrap();
        assert!(receiver.drops().is_some_and(|drops| drops > 0), "{:?}", receiver.drops());
    }
}
