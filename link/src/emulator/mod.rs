//! Two network namespaces with a [`Link`] in each direction between them, for real programs: kernels without netem have nothing of the
//! kind. It needs Linux, root, iproute2 and TUN devices.
//!
//! Each namespace has a TUN device; one thread carries IP packets from one to the other and never looks into them, so TCP, UDP and all
//! else fare alike. [`Cable`] joins namespaces that are there already, in any shape. Dropping the [`Emulator`] ends what still runs inside and removes both namespaces, after a panic, too; what a killed
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
mod cable;
mod carrier;
mod namespace;
mod sys;

use crate::model::{Config, Figures, Link, Random};
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use cable::Cable;
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
    fn new(configs: [Config; 2], seed: u64) -> Shared {
        let mut seeds = Random(seed);
        Shared(configs.map(|config| {
            let link = Link::new(config, seeds.draw());
            Mutex::new(Direction { link, delivered: 0, refused: 0, overflow: 0 })
        }))
    }

    fn lock(&self, from: Side) -> MutexGuard<'_, Direction> {
        self.0[from.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two namespaces and the path between them.
pub struct Emulator {
    // ends first
    cable: Cable,
    namespaces: [Namespace; 2],
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
        let cable = Cable::lay(namespaces.each_ref().map(|it| (it, DEVICE)), options.configs, options.seed)?;
        for side in Side::BOTH {
            let namespace = &namespaces[side.index()];
            namespace.ip(&["address", "add", &format!("{}/24", side.address()), "dev", DEVICE])?;
            // Firefox offers the address of its default route
            namespace.ip(&["route", "add", "default", "via", &side.other().address().to_string()])?;
        }
        Ok(Emulator { cable, namespaces })
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
        self.cable.set(from, config);
    }

    /// What became of what a side sent.
    pub fn figures(&self, from: Side) -> Carriage {
        self.cable.figures(from)
    }
}
