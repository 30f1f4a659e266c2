//! A network of its own for a program that will not do with loopback: a network namespace, joined to the machine by a
//! pair of virtual Ethernet devices. It needs root and iproute2.
use link::emulator::{self, Error, ip};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace with one link to the machine. Dropping it ends what still runs inside and removes both.
pub struct Namespace {
    inside: emulator::Namespace,
    /// The machine's address on the link: where programs inside find a node.
    pub outside: Ipv4Addr,
}

/// RFC 2544 section C.2.2: 198.18.0.0/15 is for measuring, so no real network of the machine has it.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Subnets of four addresses in a /15.
const SUBNETS: u32 = 1 << 15;

impl Namespace {
    /// Makes one; its name is this process's alone.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn create() -> Result<Namespace, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let subnet = (process.wrapping_mul(8) + count) % SUBNETS;
        let address = |host: u32| Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + subnet * 4 + host);
        let (outside, inside) = (address(1), address(2));
        // from here on, what fails is taken down again
        let network = Namespace { inside: emulator::Namespace::create()?, outside };
        let namespace = &network.inside;
        // the device outside has the namespace's name, and is removed with it
        let name = namespace.name();
        ip(&["link", "add", name, "type", "veth", "peer", "name", "v0", "netns", name])?;
        ip(&["address", "add", &format!("{outside}/30"), "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        namespace.ip(&["address", "add", &format!("{inside}/30"), "dev", "v0"])?;
        namespace.ip(&["link", "set", "v0", "up"])?;
        // Firefox offers the address of its default route
        namespace.ip(&["route", "add", "default", "via", &outside.to_string()])?;
        Ok(network)
    }

    /// A program to run inside.
    pub fn command(&self, program: &str) -> Command {
        self.inside.command(program)
    }
}
