//! A NAT between a browser and the node, which may forget its clients and lose their network: datagrams come to 127.0.0.2, and go to
//! the node from one port of 127.0.0.1 for each client.
use crate::Node;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where clients find the node; the node says so by `node.public_ips`.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A client, and the port that it has towards the node.
struct Mapping {
    client: SocketAddr,
    to: usize,
    socket: UdpSocket,
    cut: bool,
    /// When its first check left by this port, and when the first media or report came to it.
    checked: Option<Instant>,
    reached: Option<Instant>,
}

/// The running NAT; dropping it ends it.
pub struct Nat {
    mappings: Arc<Mutex<Vec<Mapping>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Nat {
    /// A node that clients reach through a NAT only.
    pub fn before_a_node() -> (Nat, Node) {
        let node = Node::start_with(&[("node.public_ips", &format!("[\"{OUTSIDE}\"]"))]);
        let doors: Vec<(UdpSocket, SocketAddr)> =
            node.webrtc.iter().map(|at| (bound((OUTSIDE, at.port()).into()), *at)).collect();
        let (mappings, stop): (Arc<Mutex<Vec<Mapping>>>, Arc<AtomicBool>) = Default::default();
        let (of_thread, stopped) = (mappings.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if !carry(&doors, &mut of_thread.lock().expect("nobody panics with it")) {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        });
        (Nat { mappings, stop, thread: Some(thread) }, node)
    }

    /// Clients seen so far, by their own address.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.mappings.lock().expect("nobody panics with it").iter().map(|m| m.client).collect()
    }

    /// For each client that was checked and reached by the port it has now: how long the node took to follow it.
    pub fn followed_after(&self) -> Vec<(SocketAddr, Duration)> {
        let mappings = self.mappings.lock().expect("nobody panics with it");
        let took = |m: &Mapping| Some((m.client, m.reached?.duration_since(m.checked?)));
        mappings.iter().filter_map(took).collect()
    }

    /// Forgets these clients: their next datagram leaves from another port, and what comes to the old one is lost.
    pub fn forget(&self, clients: &[SocketAddr]) {
        self.mappings.lock().expect("nobody panics with it").retain(|m| !clients.contains(&m.client));
    }

    /// The network that these clients are on is gone: nothing passes from or to their addresses.
    pub fn cut(&self, clients: &[SocketAddr]) {
        let mut mappings = self.mappings.lock().expect("nobody panics with it");
        mappings.iter_mut().filter(|m| clients.contains(&m.client)).for_each(|m| m.cut = true);
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn bound(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("a UDP port");
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    socket
}

/// What is there, both ways; whether there was anything.
fn carry(doors: &[(UdpSocket, SocketAddr)], mappings: &mut Vec<Mapping>) -> bool {
    let mut buffer = [0; 2048];
    let mut any = false;
    for (to, (door, node)) in doors.iter().enumerate() {
        while let Ok((len, client)) = door.recv_from(&mut buffer) {
            any = true;
            let at = mappings.iter().position(|m| m.client == client && m.to == to);
            let at = at.unwrap_or_else(|| {
                let socket = bound((Ipv4Addr::LOCALHOST, 0).into());
                socket.connect(node).expect("a UDP socket connects at once");
                mappings.push(Mapping { client, to, socket, cut: false, checked: None, reached: None });
                mappings.len() - 1
            });
            if matches!(buffer[0], 0..=3) {
                mappings[at].checked.get_or_insert_with(Instant::now);
            }
            if !mappings[at].cut {
                let _ = mappings[at].socket.send(&buffer[..len]);
            }
        }
    }
    for mapping in mappings {
        while let Ok(len) = mapping.socket.recv(&mut buffer) {
            any = true;
            if matches!(buffer[0], 128..=191) {
                mapping.reached.get_or_insert_with(Instant::now);
            }
            if !mapping.cut {
                let _ = doors[mapping.to].0.send_to(&buffer[..len], mapping.client);
            }
        }
    }
    any
}
