//! A bulk flow that shares the first link with the stream: TCP with Cubic, which sends as much as it may.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::arms::End;
use super::path::Chain;
use crate::load::http::is_not_now;

const PORT: u16 = 5_201;
/// How long a socket waits before its thread looks whether the run is over.
const LOOK: Duration = Duration::from_millis(20);

/// The flow.
pub struct Beside {
    arrived: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Beside {
    /// Starts it from node 0 to node 1, until `end` is over.
    pub fn start(chain: &Chain, end: &End) -> Result<Beside> {
        let listener = chain.listen(1, PORT)?;
        let stream = chain.connect(0, (Chain::address(1), PORT).into(), Some("cubic"))?;
        let arrived = Arc::new(AtomicU64::new(0));
        let (count, far, near) = (arrived.clone(), end.clone(), end.clone());
        let threads = vec![
            std::thread::spawn(move || read(&listener, &far, &count)),
            std::thread::spawn(move || write(stream, &near)),
        ];
        Ok(Beside { arrived, threads })
    }

    /// Bytes that arrived so far.
    pub fn bytes(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// The error of what has ended already.
    pub fn check(&mut self) -> Result<()> {
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.context("the flow beside the stream")?;
        }
        Ok(())
    }
}

fn read(listener: &TcpListener, end: &End, count: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LOOK))?;
    let mut buffer = vec![0; 256 << 10];
    while !end.is_over() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if is_short(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn write(mut stream: TcpStream, end: &End) -> Result<()> {
    stream.set_write_timeout(Some(LOOK))?;
    let chunk = vec![0xa5; 64 << 10];
    while !end.is_over() {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_short(&error) => {}
            // its reader saw the end of the run first
            Err(_) if end.is_over() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_short(error: &std::io::Error) -> bool {
    is_not_now(error) || error.kind() == ErrorKind::Interrupted || error.kind() == ErrorKind::TimedOut
}
