//! A network of its own for a program that will not do with loopback: a network namespace, joined to the machine by a
//! pair of virtual Ethernet devices. It needs root and iproute2.
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace with one link to the machine. Dropping it ends what still runs inside and removes both.
pub struct Namespace {
    name: String,
    /// The machine's address on the link: where programs inside find a node.
    pub outside: Ipv4Addr,
}

/// RFC 2544 section C.2.2: 198.18.0.0/15 is for measuring, so no real network of the machine has it.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Subnets of four addresses in a /15.
const SUBNETS: u32 = 1 << 15;
/// What names of ours begin with. With a process id (7 digits) and a count, they fit a device name (15 bytes).
const PREFIX: &str = "mr";

impl Namespace {
    /// Makes one; its name is this process's alone.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn create() -> Result<Namespace, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_orphans();
        let (process, count) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let subnet = (process.wrapping_mul(8) + count) % SUBNETS;
        let address = |host: u32| Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + subnet * 4 + host);
        let (outside, inside) = (address(1), address(2));
        let name = format!("{PREFIX}{process}-{count}");
        ip(&["netns", "add", &name])?;
        // from here on, what fails is taken down again
        let network = Namespace { name: name.clone(), outside };
        ip(&["link", "add", &name, "type", "veth", "peer", "name", "v0", "netns", &name])?;
        ip(&["address", "add", &format!("{outside}/30"), "dev", &name])?;
        ip(&["link", "set", &name, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "address", "add", &format!("{inside}/30"), "dev", "v0"])?;
        ip(&["-n", &name, "link", "set", "v0", "up"])?;
        // Firefox offers the address of its default route
        ip(&["-n", &name, "route", "add", "default", "via", &outside.to_string()])?;
        Ok(network)
    }

    /// A program to run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn remove(name: &str) {
    for process in ip(&["netns", "pids", name]).unwrap_or_default().split_whitespace() {
        let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {process}")).status();
    }
    // the device goes with either end, but a namespace goes only when its last process has
    let _ = ip(&["link", "delete", name]);
    let _ = ip(&["netns", "delete", name]);
}

/// Removes what a test program that was killed left behind: ours by name, and of a process that is gone.
fn remove_orphans() {
    let list = ip(&["netns", "list"]).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if process.is_some_and(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()) {
            remove(name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("no ip (iproute2): {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`ip {}`: {}", arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
