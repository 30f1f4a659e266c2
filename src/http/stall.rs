//! A connection whose peer must take something now and then.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::door::poll_send;

/// A connection that fails with `TimedOut` when what is written is not taken. While it is taken at once there is no timer.
#[derive(Debug)]
pub struct Stall {
    socket: TcpStream,
    limit: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// A peer that takes nothing for `limit` is given up.
    pub fn new(socket: TcpStream, limit: Duration) -> Stall {
        Stall { socket, limit, deadline: None }
    }

    fn within<R>(&mut self, context: &mut Context<'_>, written: Poll<Result<R>>) -> Poll<Result<R>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        deadline.as_mut().poll(context).map(|()| Err(Error::from(ErrorKind::TimedOut)))
    }
}

impl AsyncRead for Stall {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stall {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.within(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = poll_send(&self.socket, context, slices);
        self.within(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.within(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    /// More than the kernel's buffers hold, once they are told to be small.
    const LEN: usize = 4 << 20;

    #[tokio::test]
    async fn who_takes_nothing_is_given_up_and_who_is_slow_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let far = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (near, _) = listener.accept().await.expect("it connected");
        SockRef::from(&near).set_send_buffer_size(64 << 10).expect("a size it can have");
        SockRef::from(&far).set_recv_buffer_size(64 << 10).expect("a size it can have");
        let (mut near, mut far) = (Stall::new(near, Duration::from_secs(1)), far);
        let slow = tokio::spawn(async move {
            let mut bytes = vec![0; LEN / 4];
            for _ in 0..4 {
                sleep(Duration::from_millis(400)).await;
                far.read_exact(&mut bytes).await.expect("there is more");
            }
            far
        });
        near.write_all(&vec![0; LEN]).await.expect("it takes a quarter each 400 ms");
        let far = slow.await.expect("it took all");
        let start = Instant::now();
        let error = near.write_all(&vec![0; LEN]).await.expect_err("nobody takes it");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() >= Duration::from_secs(1));
        drop(far);
    }
}
