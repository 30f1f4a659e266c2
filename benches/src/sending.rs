//! Real sends for benchmarks: sockets nobody reads, and the media plane's egress.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, bail};
use sfu::Egress;

/// As in the media plane.
pub const BATCH_BYTES: usize = 256 * 1024;
/// As in the media plane.
pub const BATCH_DATAGRAMS: usize = 128;

/// A socket for each subscriber. Their buffers are small, so that they are full after the first frames and stay so.
pub fn receivers(count: usize) -> Result<Vec<(UdpSocket, SocketAddrV4)>> {
    (0..count)
        .map(|i| {
            let socket = UdpSocket::bind("127.0.0.1:0")
                .with_context(|| format!("receiver {i}: raise the limit of open files (ulimit -n)"))?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(4_096)?;
            match socket.local_addr()? {
                SocketAddr::V4(address) => Ok((socket, address)),
                SocketAddr::V6(_) => bail!("127.0.0.1 gave an IPv6 address"),
            }
        })
        .collect()
}

/// A shard's socket.
pub fn sender() -> Result<udp::Socket> {
    Ok(udp::Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 20, 4 << 20)?)
}

/// The media plane's egress: sent whenever it is full.
pub struct Sending<'a> {
    batch: &'a mut udp::SendBatch,
    socket: &'a udp::Socket,
    /// Datagrams the kernel did not take.
    pub lost: usize,
    /// Datagrams it took.
    pub sent: usize,
}

impl Sending<'_> {
    /// Over a socket.
    pub fn new<'a>(batch: &'a mut udp::SendBatch, socket: &'a udp::Socket) -> Sending<'a> {
        Sending { batch, socket, lost: 0, sent: 0 }
    }

    /// Sends what waits.
    ///
    /// # Panics
    /// When the socket itself fails.
    pub fn flush(&mut self) {
        let sent = self.socket.send(self.batch).expect("our own socket");
        self.sent += sent.datagrams;
        self.lost += sent.dropped_full + sent.dropped_error;
    }
}

impl Egress for Sending<'_> {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.batch.is_full_for(len) {
            self.flush();
        }
        self.batch.reserve(len)
    }

    fn commit(&mut self, len: usize, to: SocketAddr) {
        self.batch.commit(len, to);
    }
}
