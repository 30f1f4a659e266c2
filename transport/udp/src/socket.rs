//! A non-blocking UDP socket that receives and sends batches.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Type};

use crate::flush::{Gso, Sent, flush};
use crate::recv::{GRO_SLOT_LEN, RecvBatch};
use crate::send::SendBatch;
use crate::sys;

/// Errors of earlier datagrams that one receive passes over before it gives the event loop its turn back.
const STALE_ERRORS_MAX: usize = 16;

/// A non-blocking UDP socket. Owned by one thread (it can move to another, but not be shared); a `mio` source.
pub struct Socket {
    socket: socket2::Socket,
    local: SocketAddr,
    gro: bool,
    gso: Cell<Gso>,
}

impl Socket {
    /// Binds to `addr`; an IPv6 wildcard takes IPv4 as well. The kernel's buffers are asked for in bytes and
    /// limited by it (`net.core.rmem_max`, `wmem_max`), without an error: see [`buffers`](Socket::buffers).
    pub fn bind(addr: SocketAddr, recv_buffer: usize, send_buffer: usize) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_recv_buffer_size(recv_buffer)?;
        socket.set_send_buffer_size(send_buffer)?;
        socket.bind(&addr.into())?;
        let local = socket.local_addr()?.as_socket().ok_or_else(|| {
            io::Error::new(ErrorKind::AddrNotAvailable, "the socket has no internet address")
        })?;
        let gso = Cell::new(Gso::new(sys::gso_is_known(socket.as_fd())));
        Ok(Socket { socket, local, gro: false, gso })
    }

    /// The address it is bound to, with the port the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The receive and send buffer the kernel granted, in bytes of its own accounting (twice what was asked for,
    /// overhead included).
    pub fn buffers(&self) -> io::Result<(usize, usize)> {
        Ok((self.socket.recv_buffer_size()?, self.socket.send_buffer_size()?))
    }

    /// Lets the kernel hand several datagrams of one sender over in one slot. From then on batches must have
    /// slots of [`GRO_SLOT_LEN`] bytes.
    pub fn enable_gro(&mut self) -> io::Result<()> {
        sys::enable_gro(self.socket.as_fd())?;
        self.gro = true;
        Ok(())
    }

    /// Whether runs are sent as GSO messages: false on a kernel without it, or once it has refused them.
    pub fn gso_enabled(&self) -> bool {
        self.gso.get().on
    }

    /// Turns GSO off, for comparison.
    pub fn disable_gso(&self) {
        self.gso.set(Gso::new(false));
    }

    /// Fills `batch` with what waits. Returns how many slots were filled; 0 means that nothing waits. `mio` is
    /// edge-triggered: call until it returns 0.
    ///
    /// # Errors
    /// Only of the socket itself; what ICMP reported about earlier datagrams is passed over. `InvalidInput` when
    /// GRO is on and the slots are too short for it.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        if self.gro && batch.slot_len < GRO_SLOT_LEN {
            return Err(io::Error::new(ErrorKind::InvalidInput, "GRO needs slots of GRO_SLOT_LEN bytes"));
        }
        let RecvBatch { headers, buffer, slot_len, received } = batch;
        let mut stale = 0;
        loop {
            match headers.recv(self.socket.as_fd(), buffer, *slot_len, received) {
                Ok(()) => return Ok(received.len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if stale < STALE_ERRORS_MAX && is_about_a_datagram(&error) => stale += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the batch and empties it. What does not fit the kernel's buffers is dropped and counted, never kept:
    /// late media is worth less than the media behind it. A datagram the kernel refuses is skipped and counted.
    ///
    /// # Errors
    /// Only of the socket itself (a closed descriptor); the batch is empty then, too.
    pub fn send(&self, batch: &mut SendBatch) -> io::Result<Sent> {
        let fd = self.socket.as_fd();
        let mut gso = self.gso.get();
        let result = flush(batch, &mut gso, self.local.is_ipv6(), |messages, first| messages.send(fd, first));
        self.gso.set(gso);
        batch.clear();
        result
    }
}

/// Whether a receive error tells of a datagram sent earlier (ICMP) or an interruption, not of the socket.
fn is_about_a_datagram(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::EPROTO
        )
    )
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Source for Socket {
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
