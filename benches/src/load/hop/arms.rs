//! What is compared: ways to carry the stream from node 0 to the last node of a chain. A new one is a variant here and a function that
//! starts it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use media::Time;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::cluster;
use super::frames::{Assembly, Frames};
use super::path::Chain;
use super::rtmp;
use crate::load::clock::Clock;
use crate::load::peers::servers;
use crate::load::process::{Process, folder};

/// Each namespace is its own network, so ports need no choosing.
pub const RTMP_PORT: u16 = 1_935;
const SRT_PORT: u16 = 9_000;
/// From the sender to its SRT program, and from the last one to the receiver.
const FEED_PORT: u16 = 5_000;
/// How long a socket waits before its thread looks whether the run is over.
const LOOK: Duration = Duration::from_millis(20);

/// A way to carry the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// Datagrams that nobody repairs: the floor of the delay, and what the path loses.
    Udp,
    /// `millrace serve` at each node, a cluster with static peers: RTMP goes in at the first, and is played at the last.
    Millrace,
    /// RTMP by this node's protocol code, over TCP with BBR.
    RtmpBbr,
    /// The same with Cubic.
    RtmpCubic,
    /// nginx with the RTMP module at each node, which pushes to the next over TCP with BBR.
    NginxBbr,
    /// The same with Cubic.
    NginxCubic,
    /// srt-live-transmit at each node, latency 120 ms, its default.
    Srt,
    /// The same with a latency of four round trips.
    #[value(name = "srt-4rtt")]
    #[serde(rename = "srt-4rtt")]
    Srt4Rtt,
}

impl Arm {
    /// In the tables' order.
    pub const ALL: [Arm; 8] = [
        Arm::Udp,
        Arm::Millrace,
        Arm::RtmpBbr,
        Arm::RtmpCubic,
        Arm::NginxBbr,
        Arm::NginxCubic,
        Arm::Srt,
        Arm::Srt4Rtt,
    ];

    /// For tables and legends.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Udp => "UDP, no repair",
            Arm::Millrace => "Millrace",
            Arm::RtmpBbr => "RTMP, BBR",
            Arm::RtmpCubic => "RTMP, Cubic",
            Arm::NginxBbr => "nginx-rtmp, BBR",
            Arm::NginxCubic => "nginx-rtmp, Cubic",
            Arm::Srt => "SRT, 120 ms",
            Arm::Srt4Rtt => "SRT, 4 RTT",
        }
    }

    /// An error that says what is not installed.
    pub fn check(self) -> Result<()> {
        match self {
            Arm::Udp | Arm::RtmpBbr | Arm::RtmpCubic => Ok(()),
            Arm::Millrace => cluster::program().map(drop),
            Arm::NginxBbr | Arm::NginxCubic => {
                let answers = Command::new(servers::nginx()).arg("-v").stderr(Stdio::null()).status();
                answers.context("nginx is not installed; Debian's package is nginx")?;
                servers::rtmp_module().map(drop)
            }
            Arm::Srt | Arm::Srt4Rtt => {
                let answers =
                    Command::new(SRT).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
                answers.map(drop).context("srt-live-transmit is not installed; Debian's package is srt-tools")
            }
        }
    }

    /// Starts it along a chain: frames that its sender is given come to `end`.
    pub fn start(self, cell: &Cell, chain: &Chain, end: &End) -> Result<Running> {
        match self {
            Arm::Udp => start_udp(chain, end),
            Arm::Millrace => start_cluster(chain, end),
            Arm::RtmpBbr => start_rtmp(chain, "bbr", end),
            Arm::RtmpCubic => start_rtmp(chain, "cubic", end),
            Arm::NginxBbr => start_nginx(chain, "bbr", end),
            Arm::NginxCubic => start_nginx(chain, "cubic", end),
            Arm::Srt => start_srt(chain, 120, end),
            Arm::Srt4Rtt => start_srt(chain, 4 * cell.rtt_ms, end),
        }
    }
}

/// The near end of an arm.
pub trait Sender {
    /// Sends a frame.
    fn send(&mut self, number: u32, sent: Time, body: &[u8]) -> Result<()>;

    /// Waits until then, and does what the connection needs meanwhile.
    fn attend(&mut self, until: Time) -> Result<()>;
}

/// An arm at work. Its programs end with it.
pub struct Running {
    /// What frames are given to.
    pub sender: Box<dyn Sender>,
    threads: Vec<JoinHandle<Result<()>>>,
    programs: Vec<Process>,
}

impl Running {
    /// The error of what has ended already.
    pub fn check(&mut self) -> Result<()> {
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        self.programs.iter_mut().try_for_each(Process::check_alive)
    }
}

/// The far end of an arm: when each frame was there first. All of its threads have a copy.
#[derive(Clone)]
pub struct End {
    clock: Clock,
    arrived: Arc<Mutex<HashMap<u32, Time>>>,
    over: Arc<AtomicBool>,
}

impl End {
    /// Nothing has come yet. Times are those of `clock`.
    pub fn new(clock: Clock) -> End {
        End { clock, arrived: Arc::default(), over: Arc::default() }
    }

    /// A frame is there. By the time of its last read, not by the kernel's: TCP's is that of the last byte, which may have waited for a lost one
    /// before it.
    fn take(&self, number: u32) {
        let now = self.clock.now();
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_insert(now);
    }

    /// A frame's tag body is there; others are left out.
    pub fn take_tag(&self, body: &[u8]) {
        if let Some((number, _)) = Frames::read_tag(body) {
            self.take(number);
        }
    }

    /// When these frames were there; `None` when they are not.
    pub fn arrivals(&self, frames: std::ops::Range<u32>) -> Vec<Option<Time>> {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        frames.map(|number| arrived.get(&number).copied()).collect()
    }

    /// Whether any came.
    pub fn has_any(&self) -> bool {
        !self.arrived.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// When the first came.
    pub fn first(&self) -> Option<Time> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).values().min().copied()
    }

    /// The run is over: threads end.
    pub fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether threads shall end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn spawn(work: impl FnOnce() -> Result<()> + Send + 'static) -> JoinHandle<Result<()>> {
    std::thread::spawn(work)
}

/// A frame in datagrams, all at once.
struct Datagrams {
    socket: UdpSocket,
    clock: Clock,
}

impl Sender for Datagrams {
    fn send(&mut self, number: u32, sent: Time, body: &[u8]) -> Result<()> {
        for datagram in Frames::datagrams(number, sent, body) {
            // a program that does not listen yet answers by ICMP
            let _ = self.socket.send(&datagram);
        }
        Ok(())
    }

    fn attend(&mut self, until: Time) -> Result<()> {
        let left = until.since(self.clock.now());
        std::thread::sleep(Duration::from_micros(left.max(0) as u64));
        Ok(())
    }
}

/// Each datagram until the run is over.
fn receive(socket: &UdpSocket, end: &End, mut take: impl FnMut(&[u8])) -> Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut buffer = [0; 2_048];
    while !end.is_over() {
        if let Ok(len) = socket.recv(&mut buffer) {
            take(&buffer[..len]);
        }
    }
    Ok(())
}

fn receive_frames(socket: UdpSocket, end: &End) -> JoinHandle<Result<()>> {
    let (end, mut assembly) = (end.clone(), Assembly::default());
    spawn(move || {
        receive(&socket, &end, |datagram| {
            if let Some((number, _)) = assembly.push(datagram) {
                end.take(number);
            }
        })
    })
}

fn start_udp(chain: &Chain, end: &End) -> Result<Running> {
    let mut threads = vec![receive_frames(chain.datagrams(chain.hops(), FEED_PORT)?, end)];
    for node in 1..chain.hops() {
        let (socket, end) = (chain.datagrams(node, FEED_PORT)?, end.clone());
        let next = SocketAddr::from((Chain::address(node + 1), FEED_PORT));
        threads.push(spawn(move || {
            receive(&socket, &end, |datagram| {
                let _ = socket.send_to(datagram, next);
            })
        }));
    }
    let socket = chain.datagrams(0, 0)?;
    socket.connect((Chain::address(1), FEED_PORT))?;
    Ok(Running { sender: Box::new(Datagrams { socket, clock: end.clock }), threads, programs: Vec::new() })
}

/// From the far end: each node publishes to the next, which listens already.
fn start_rtmp(chain: &Chain, control: &str, end: &End) -> Result<Running> {
    let mut threads = Vec::new();
    let mut next = None;
    for node in (1..=chain.hops()).rev() {
        let (listener, end) = (chain.listen(node, RTMP_PORT)?, end.clone());
        threads.push(spawn({
            let end = end.clone();
            move || rtmp::serve(&listener, next, &end)
        }));
        let stream = chain.connect(node - 1, (Chain::address(node), RTMP_PORT).into(), Some(control))?;
        next = Some(rtmp::Publisher::start(stream, rtmp::NAME, end.clock)?);
    }
    let sender = Box::new(next.context("a chain has a link")?);
    Ok(Running { sender, threads, programs: Vec::new() })
}

fn start_cluster(chain: &Chain, end: &End) -> Result<Running> {
    let programs = cluster::start(chain)?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, RTMP_PORT));
    // What stands when its publisher begins is told of by the links that are up; the player's node waits for it.
    let sender = Box::new(rtmp::Publisher::start(chain.connect(0, local, None)?, rtmp::NAME, end.clock)?);
    let (player, far) = (chain.connect(chain.hops(), local, None)?, end.clone());
    let threads = vec![spawn(move || rtmp::play(player, rtmp::NAME, &far))];
    Ok(Running { sender, threads, programs })
}

fn start_nginx(chain: &Chain, control: &str, end: &End) -> Result<Running> {
    let module = servers::rtmp_module()?;
    let mut programs = Vec::new();
    for node in 0..=chain.hops() {
        chain.set_congestion_control(node, control)?;
        let folder = folder()?;
        let push = if node < chain.hops() {
            format!("push rtmp://{}:{RTMP_PORT}/live;", Chain::address(node + 1))
        } else {
            String::new()
        };
        let settings = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr error;\n\
             events {{ worker_connections 64; }}\n\
             rtmp {{\n access_log off;\n server {{ listen {RTMP_PORT}; application live {{ live on; {push} }} }}\n}}\n",
            module.display(),
            folder.display(),
        );
        let config = folder.join("nginx.conf");
        std::fs::write(&config, settings)?;
        let (place, config) = (folder.to_string_lossy(), config.to_string_lossy());
        programs.push(chain.run(node, &servers::nginx(), &["-p", &place, "-c", &config], folder.clone())?);
    }
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, RTMP_PORT));
    for (node, program) in programs.iter_mut().enumerate() {
        program.wait_until(|_| chain.connect(node, local, None).map(drop))?;
    }
    let (player, far) = (chain.connect(chain.hops(), local, None)?, end.clone());
    let threads = vec![spawn(move || rtmp::play(player, rtmp::NAME, &far))];
    let sender = Box::new(rtmp::Publisher::start(chain.connect(0, local, None)?, rtmp::NAME, end.clock)?);
    Ok(Running { sender, threads, programs })
}

const SRT: &str = "srt-live-transmit";

fn start_srt(chain: &Chain, latency_ms: u32, end: &End) -> Result<Running> {
    let threads = vec![receive_frames(chain.datagrams(chain.hops(), FEED_PORT)?, end)];
    let mut programs = Vec::new();
    for node in (0..=chain.hops()).rev() {
        let from = match node {
            // a key frame comes at once, and is more than the system's default holds
            0 => format!("udp://127.0.0.1:{FEED_PORT}?rcvbuf=4000000"),
            _ => format!("srt://:{SRT_PORT}?mode=listener&latency={latency_ms}"),
        };
        let to = if node == chain.hops() {
            format!("udp://127.0.0.1:{FEED_PORT}")
        } else {
            format!("srt://{}:{SRT_PORT}?mode=caller&latency={latency_ms}", Chain::address(node + 1))
        };
        programs.push(chain.run(node, Path::new(SRT), &["-quiet", &from, &to], folder()?)?);
    }
    let socket = chain.datagrams(0, 0)?;
    socket.connect((Ipv4Addr::LOCALHOST, FEED_PORT))?;
    Ok(Running { sender: Box::new(Datagrams { socket, clock: end.clock }), threads, programs })
}
