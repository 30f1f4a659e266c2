//! What the TCP doors share: accepting within a bound, until the node drains, and sending.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::{NodeMetrics, Refusal};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::node::Node;

/// The kernel gives a connection up whose peer takes nothing, or answers nothing, for so long; it sees what we have handed over already.
const TCP_STALL: Duration = Duration::from_secs(20);
/// The kernel's part of a player's queue: 20 Mbit/s at 100 ms.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Slices of a system call: enough for a batch of frames that is worth one.
const SLICES_MAX: usize = 64;

/// A listener with its bound.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
    metrics: Arc<NodeMetrics>,
}

impl Door {
    /// At most `connections_max` at once; more are closed at once, and counted.
    pub fn new(node: &Node, listener: TcpListener, connections_max: usize) -> Door {
        let slots = Arc::new(Semaphore::new(connections_max));
        Door { listener, slots, draining: node.draining.subscribe(), metrics: node.metrics.clone() }
    }

    /// The next connection, which holds its slot while the permit lives; `None` once the node drains.
    pub async fn next(&mut self) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = self.draining.wait_for(|d| *d) => return None,
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "tcp accept");
                    tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: not a busy loop
                    continue;
                }
            };
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                self.metrics.refused.of(Refusal::TooMany).add(1);
                continue;
            };
            // A socket that refuses one of these serves as well, only less so.
            let _ = socket.set_nodelay(true);
            let options = SockRef::from(&socket);
            let _ = options.set_tcp_user_timeout(Some(TCP_STALL));
            let _ = options.set_send_buffer_size(SEND_BUFFER_BYTES);
            return Some((socket, from, slot));
        }
    }
}

/// Sends what the kernel takes, by one sendmsg: writev, which std has, costs a tenth more, as it goes through the file layer.
pub fn poll_send(
    socket: &TcpStream,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<std::io::Result<usize>> {
    let some = slices.get(..SLICES_MAX).unwrap_or(slices);
    loop {
        ready!(socket.poll_write_ready(context))?;
        match socket.try_io(Interest::WRITABLE, || SockRef::from(socket).send_vectored(some)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}
