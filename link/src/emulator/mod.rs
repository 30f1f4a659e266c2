//! Two network namespaces with a [`Link`] in each direction between them, for real programs: kernels without netem have nothing of the
//! kind. It needs Linux, root, iproute2 and TUN devices.
//!
//! Each namespace has a TUN device; one thread carries IP packets from one to the other and never looks into them, so TCP, UDP and all
//! else fare alike. Dropping the [`Emulator`] ends what still runs inside and removes both namespaces, after a panic, too; what a killed
//! process left is removed by the next one that starts.
//!
//! ```no_run
//! use link::{Config, Loss, emulator::{Emulator, Options, Side}};
//!
//! let config = Config { delay_us: 50_000, loss: Loss::Random { per_mille: 20 }, ..Config::default() };
//! let emulator = Emulator::start(&Options { configs: [config; 2], ..Options::default() })?;
//! emulator.command(Side::A, "ping").arg(Side::B.address().to_string()).status()?;
//! emulator.set(Side::B, Config { outage: true, ..config }); // what B sends
//! println!("{:?}", emulator.figures(Side::A));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
mod carrier;
mod namespace;
mod sys;

use crate::model::{Config, Figures, Link, Random};
use carrier::Carrier;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use carrier::WAITING_MAX;
pub use namespace::{Namespace, ip};
pub use sys::Interrupts;

/// Ethernet's.
pub const MTU: usize = 1_500;
/// The device's name in each namespace.
const DEVICE: &str = "link0";
/// Packets that wait in the kernel for our thread, as for an Ethernet card: 10 ms of 100 000 a second. More are dropped there and counted
/// as `missed`.
const DEVICE_QUEUE: &str = "1000";

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making namespaces and devices is root's.
    #[error("network namespaces and TUN devices need root: run it as root, or with sudo")]
    NotRoot,
    /// The kernel has no TUN, or the container is not given it.
    #[error("/dev/net/tun: {0}: load the kernel's module (`modprobe tun`), or give the container the device")]
    NoTun(io::Error),
    /// A namespace of that name is somebody's.
    #[error("there is a network namespace {0}: choose another name, or remove it (`ip netns delete {0}`)")]
    Exists(String),
    /// iproute2 is not installed.
    #[error("cannot run `ip`: {0}: install iproute2")]
    NoIp(io::Error),
    /// `ip` failed.
    #[error("`{command}`: {said}")]
    Ip {
        /// With its arguments.
        command: String,
        /// On standard error.
        said: String,
    },
    /// Another system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One end of the path. A direction goes by the side that sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// 10.0.0.1
    A,
    /// 10.0.0.2
    B,
}

impl Side {
    /// Both of them.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// Its address, the same in every emulator: the namespaces have no other network.
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Side::A => Ipv4Addr::new(10, 0, 0, 1),
            Side::B => Ipv4Addr::new(10, 0, 0, 2),
        }
    }

    /// The one across.
    pub const fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// How an emulator starts.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What happens to packets from A, and to those from B.
    pub configs: [Config; 2],
    /// Of every chance.
    pub seed: u64,
    /// Names for the namespaces; without one, a name that no other process has.
    pub names: [Option<String>; 2],
}

/// What a direction did so far. What the link let arrive is `delivered`, `refused`, `overflow` or still on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carriage {
    /// By the model.
    pub link: Figures,
    /// Packets and copies given to the other side's kernel.
    pub delivered: u64,
    /// Not taken by the other side's kernel.
    pub refused: u64,
    /// More than [`WAITING_MAX`] were on the way.
    pub overflow: u64,
    /// Dropped by the sender's kernel because our thread did not come to read them; the link never saw these.
    pub missed: u64,
}

struct Direction {
    link: Link,
    delivered: u64,
    refused: u64,
    overflow: u64,
}

/// What the thread and its owner both use, held for no longer than one packet takes.
struct Shared([Mutex<Direction>; 2]);

impl Shared {
    fn lock(&self, from: Side) -> MutexGuard<'_, Direction> {
        self.0[from.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two namespaces and the path between them.
pub struct Emulator {
    namespaces: [Namespace; 2],
    shared: Arc<Shared>,
    /// The thread ends when this is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Makes the namespaces and carries from now on.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn start(options: &Options) -> Result<Emulator, Error> {
        let namespace = |side: Side| match &options.names[side.index()] {
            Some(name) => Namespace::named(name),
            None => Namespace::create(),
        };
        let namespaces = [namespace(Side::A)?, namespace(Side::B)?];
        let device = |side: Side| {
            // made here, where /dev/net/tun was opened, and moved
            let name = namespace::unique_name();
            let file = sys::tun(&name).map_err(Error::NoTun)?;
            let namespace = &namespaces[side.index()];
            ip(&["link", "set", &name, "netns", namespace.name(), "name", DEVICE])?;
            // no IPv6 address of its own, or the kernel sends packets that nobody asked for
            let mtu = MTU.to_string();
            namespace.ip(&[
                "link",
                "set",
                DEVICE,
                "mtu",
                &mtu,
                "txqueuelen",
                DEVICE_QUEUE,
                "addrgenmode",
                "none",
            ])?;
            namespace.ip(&["address", "add", &format!("{}/24", side.address()), "dev", DEVICE])?;
            namespace.ip(&["link", "set", DEVICE, "up"])?;
            // Firefox offers the address of its default route
            namespace.ip(&["route", "add", "default", "via", &side.other().address().to_string()])?;
            Ok::<_, Error>(file)
        };
        let devices = [device(Side::A)?, device(Side::B)?];

        let mut seeds = Random(options.seed);
        let directions = options.configs.map(|config| {
            Mutex::new(Direction {
                link: Link::new(config, seeds.draw()),
                delivered: 0,
                refused: 0,
                overflow: 0,
            })
        });
        let shared = Arc::new(Shared(directions));
        let (stop, stopped) = UnixStream::pair()?;
        let carrier = Carrier::new(devices, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("link".into()).spawn(move || {
            if let Err(error) = carrier.run(&stopped) {
                eprintln!("link: nothing passes any more: {error}");
            }
        })?;
        Ok(Emulator { namespaces, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// A side's namespace.
    pub fn namespace(&self, side: Side) -> &Namespace {
        &self.namespaces[side.index()]
    }

    /// A program to run at a side.
    pub fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace(side).command(program)
    }

    /// Another behaviour for what a side sends, from the next packet on.
    pub fn set(&self, from: Side, config: Config) {
        self.shared.lock(from).link.set(config);
    }

    /// What became of what a side sent.
    pub fn figures(&self, from: Side) -> Carriage {
        let missed = self.missed(from);
        let direction = self.shared.lock(from);
        Carriage {
            link: direction.link.figures(),
            delivered: direction.delivered,
            refused: direction.refused,
            overflow: direction.overflow,
            missed,
        }
    }

    /// The device's count of dropped packets, which the kernel shows to those inside.
    fn missed(&self, from: Side) -> u64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        dropped(&self.namespace(from).within(read).unwrap_or_default()).unwrap_or(0)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of `/proc/net/dev`: eight columns of what came in, then bytes, packets, errors and drops of what went out.
fn dropped(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(DEVICE)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_the_device_are_found() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n    \
                    lo:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n link0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(dropped(text), Some(12));
        assert_eq!(dropped("link01: 1 2 3"), None);
    }
}
