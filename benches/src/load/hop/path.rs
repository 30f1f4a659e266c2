//! Nodes in a row, each in a network namespace of its own, with an emulated link from each to the next.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use link::emulator::{Cable, Namespace, Side};
use socket2::{Domain, Protocol, Socket, Type};

use super::cell::Cell;
use crate::load::process::Process;

/// A TCP handshake on a link that loses half.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

impl Traffic {
    /// What came since.
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            bytes_back: self.bytes_back - before.bytes_back,
            missed: self.missed - before.missed,
        }
    }
}

/// The nodes and links of a run. The links end with it, and so do processes at the nodes.
pub struct Chain {
    /// Link `k` is from node `k`, its side A, to node `k + 1`, its side B.
    links: Vec<Cable>,
    nodes: Vec<Namespace>,
}

/// What went into the links so far, added up.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Packets in the direction of the stream.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Bytes the other way.
    pub bytes_back: u64,
    /// Packets that the emulator itself dropped because it could not keep up.
    pub missed: u64,
}

impl Chain {
    /// Makes them.
    pub fn start(cell: &Cell, seed: u64) -> Result<Chain> {
        let nodes: Vec<Namespace> = (0..=cell.hops).map(|_| Namespace::create()).collect::<Result<_, _>>()?;
        let mut links = Vec::new();
        for (hop, ends) in nodes.windows(2).enumerate() {
            let seed = seed.wrapping_mul(1_000).wrapping_add(hop as u64);
            let ends = [(&ends[0], "next"), (&ends[1], "last")];
            links.push(Cable::lay(ends, cell.configs(), seed)?);
            for ((node, device), side) in ends.into_iter().zip(Side::BOTH) {
                node.ip(&["address", "add", &format!("{}/24", address(hop, side)), "dev", device])?;
            }
        }
        Ok(Chain { links, nodes })
    }

    /// Links.
    pub fn hops(&self) -> usize {
        self.links.len()
    }

    /// Where node `k` is, from 0, at which the stream begins.
    pub fn node(&self, node: usize) -> &Namespace {
        &self.nodes[node]
    }

    /// Node `k`, from 1, as the one before it sees it.
    pub fn address(node: usize) -> Ipv4Addr {
        address(node - 1, Side::B)
    }

    /// The node before node `k`, as node `k` sees it.
    pub fn address_before(node: usize) -> Ipv4Addr {
        address(node - 1, Side::A)
    }

    /// What went into the links so far.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for link in &self.links {
            let [there, back] = Side::BOTH.map(|side| link.figures(side));
            sum.packets += there.link.packets;
            sum.bytes += there.link.bytes;
            sum.bytes_back += back.link.bytes;
            sum.missed += there.missed + there.overflow + back.missed + back.overflow;
        }
        sum
    }

    /// A program at a node; `folder` is its own.
    pub fn run(&self, node: usize, program: &Path, arguments: &[&str], folder: PathBuf) -> Result<Process> {
        let program = program.to_string_lossy();
        let inside = ["netns", "exec", self.node(node).name(), &program];
        Process::start(Path::new("ip"), &[&inside[..], arguments].concat(), &[], folder)
    }

    /// A listener at a node.
    pub fn listen(&self, node: usize, port: u16) -> Result<TcpListener> {
        Ok(self.node(node).within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??)
    }

    /// A connection from a node, whose sending is under this congestion control; none: the system's.
    pub fn connect(&self, node: usize, to: SocketAddr, control: Option<&str>) -> Result<std::net::TcpStream> {
        self.node(node).within(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            if let Some(control) = control {
                let set = socket.set_tcp_congestion(control.as_bytes());
                set.with_context(|| {
                    format!("this kernel has no congestion control {control} (modprobe tcp_{control})")
                })?;
            }
            socket.set_tcp_nodelay(true)?;
            socket
                .connect_timeout(&to.into(), CONNECT_TIMEOUT)
                .with_context(|| format!("cannot connect to {to}"))?;
            Ok(socket.into())
        })?
    }

    /// The congestion control of what programs at a node send from now on.
    pub fn set_congestion_control(&self, node: usize, control: &str) -> Result<()> {
        let set = || std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", control);
        let set = self.node(node).within(set)?;
        set.with_context(|| {
            format!("this kernel has no congestion control {control} (modprobe tcp_{control})")
        })
    }

    /// A datagram socket at a node, with room for some key frames.
    pub fn datagrams(&self, node: usize, port: u16) -> Result<UdpSocket> {
        self.node(node).within(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_recv_buffer_size(4 << 20)?;
            socket.set_send_buffer_size(4 << 20)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            Ok(socket.into())
        })?
    }
}

/// A network for each link.
fn address(link: usize, side: Side) -> Ipv4Addr {
    let [a, b, _, d] = side.address().octets();
    Ipv4Addr::new(a, b, link as u8, d)
}
