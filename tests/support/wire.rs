//! A bad way for datagrams between two sockets of this machine, by the model of crate `link`: late, lost, or cut in either direction.
use link::{Config, Link};
use media::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Who sends to [`Wire::at`] reaches the far end, and its answers come back. Dropping it ends it.
pub struct Wire {
    /// Where the near end sends to.
    pub at: SocketAddr,
    links: Arc<Mutex<[Link; 2]>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// To that socket; both directions alike.
    ///
    /// # Panics
    /// When there is no port.
    pub fn to(far: SocketAddr, config: Config, seed: u64) -> Wire {
        let near = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        near.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out can be set");
        let out = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        out.set_nonblocking(true).expect("it can be set");
        let at = near.local_addr().expect("it is bound");
        let links = Arc::new(Mutex::new([Link::new(config, seed), Link::new(config, seed + 1)]));
        let ends = Arc::new(AtomicBool::new(false));
        let (of, over) = (links.clone(), ends.clone());
        let thread = std::thread::spawn(move || carry(&near, &out, far, &of, &over));
        Wire { at, links, ends, thread: Some(thread) }
    }

    /// What happens from now on to what the near end sends, and to what the far end does.
    ///
    /// # Panics
    /// When the thread did.
    pub fn set(&self, [near, far]: [Config; 2]) {
        let mut links = self.links.lock().expect("no panic");
        links[0].set(near);
        links[1].set(far);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When it arrives, in the order of sending, which way, and what.
type Flying = (i64, u64, usize, Vec<u8>);

fn carry(near: &UdpSocket, out: &UdpSocket, far: SocketAddr, links: &Mutex<[Link; 2]>, ends: &AtomicBool) {
    let base = Instant::now();
    let now = || Time(base.elapsed().as_micros() as i64);
    let mut flight: BinaryHeap<Reverse<Flying>> = BinaryHeap::new();
    let (mut back, mut order, mut bytes) = (None, 0_u64, vec![0; 65_536]);
    while !ends.load(Ordering::Relaxed) {
        for (way, socket) in [near, out].into_iter().enumerate() {
            // What is there at one time, after one wait at the near end.
            for _ in 0..64 {
                let Ok((len, from)) = socket.recv_from(&mut bytes) else { break };
                if way == 0 {
                    back = Some(from);
                }
                let mut links = links.lock().expect("no panic");
                for at in links[way].carry(len + 28, now()).times() {
                    order += 1;
                    flight.push(Reverse((at.us(), order, way, bytes[..len].to_vec())));
                }
                if way == 0 && flight.peek().is_some_and(|Reverse((at, ..))| *at <= now().us()) {
                    break;
                }
            }
        }
        while let Some(Reverse((at, ..))) = flight.peek()
            && *at <= now().us()
        {
            let Some(Reverse((_, _, way, bytes))) = flight.pop() else { break };
            match (way, back) {
                (0, _) => drop(out.send_to(&bytes, far)),
                (_, Some(back)) => drop(near.send_to(&bytes, back)),
                (_, None) => {}
            }
        }
    }
}
