//! A bad path between two namespaces that are there already.
use super::carrier::Carrier;
use super::namespace::{Namespace, ip, unique_name, within};
use super::{Carriage, DEVICE_QUEUE, Error, MTU, Shared, Side, sys};
use crate::model::Config;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A TUN device in each of two namespaces, and a thread that carries packets from one to the other. Dropping it removes both devices.
pub struct Cable {
    ends: [End; 2],
    shared: Arc<Shared>,
    /// The thread ends when this is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

struct End {
    namespace: String,
    device: String,
}

impl Cable {
    /// From a device of the first namespace, side A, to one of the second. Both are up and have no address; `configs` are what happens to packets from
    /// either.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn lay(ends: [(&Namespace, &str); 2], configs: [Config; 2], seed: u64) -> Result<Cable, Error> {
        let device = |(namespace, device): (&Namespace, &str)| {
            // made here, where /dev/net/tun was opened, and moved
            let name = unique_name();
            let file = sys::tun(&name).map_err(Error::NoTun)?;
            ip(&["link", "set", &name, "netns", namespace.name(), "name", device])?;
            // no IPv6 address of its own, or the kernel sends packets that nobody asked for
            let mtu = MTU.to_string();
            let how = ["mtu", &mtu, "txqueuelen", DEVICE_QUEUE, "addrgenmode", "none"];
            namespace.ip(&[&["link", "set", device], &how[..]].concat())?;
            namespace.ip(&["link", "set", device, "up"])?;
            Ok::<_, Error>(file)
        };
        let devices = [device(ends[0])?, device(ends[1])?];
        let shared = Arc::new(Shared::new(configs, seed));
        let (stop, stopped) = UnixStream::pair()?;
        let carrier = Carrier::new(devices, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("link".into()).spawn(move || {
            if let Err(error) = carrier.run(&stopped) {
                eprintln!("link: nothing passes any more: {error}");
            }
        })?;
        let ends = ends.map(|(of, device)| End { namespace: of.name().into(), device: device.into() });
        Ok(Cable { ends, shared, stop: Some(stop), thread: Some(thread) })
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
        let end = &self.ends[from.index()];
        dropped(&within(&end.namespace, read).unwrap_or_default(), &end.device).unwrap_or(0)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of `/proc/net/dev`: eight columns of what came in, then bytes, packets, errors and drops of what went out.
fn dropped(text: &str, device: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_the_device_are_found() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n    \
                    lo:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n link0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(dropped(text, "link0"), Some(12));
        assert_eq!(dropped("link01: 1 2 3", "link0"), None);
    }
}
