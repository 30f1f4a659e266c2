//! Network namespaces that go with their owner, by iproute2.
use super::{Error, sys};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What names of ours begin with. With a process id (7 digits) and a count, they fit a device's name (15 bytes), too.
const PREFIX: &str = "mr";

/// A name that no other process has, `mrPROCESS-COUNT`, for a namespace or a device.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace, with nothing but its loopback device. Dropping it ends what still runs inside, and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one under a name of its own. What killed processes left behind is removed first.
    ///
    /// # Errors
    /// No root, no `ip`, or what that said.
    pub fn create() -> Result<Namespace, Error> {
        remove_orphans();
        Namespace::named(&unique_name())
    }

    /// Makes one under this name.
    ///
    /// # Errors
    /// As for [`Namespace::create`], or there is one of that name.
    pub fn named(name: &str) -> Result<Namespace, Error> {
        if !is_root() {
            return Err(Error::NotRoot);
        }
        if path(name).exists() {
            return Err(Error::Exists(name.into()));
        }
        ip(&["netns", "add", name])?;
        // from here on, what fails is taken down again
        let namespace = Namespace { name: name.into() };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it; what that printed.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, Error> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A program to run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does something inside: on a thread of its own, whose sockets, threads and children belong to the namespace wherever
    /// they are used afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        within(&self.name, work)
    }
}

/// Likewise, for the namespace of that name.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let namespace = File::open(path(name))?;
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| sys::enter(&namespace).map(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    Ok(done?)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(name)
}

/// By the owner of the process's own directory.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

fn remove(name: &str) {
    for process in ip(&["netns", "pids", name]).unwrap_or_default().split_whitespace() {
        let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {process}")).status();
    }
    // a namespace goes only when its last process has, but a pair of devices goes with either end
    let _ = ip(&["link", "delete", name]);
    let _ = ip(&["netns", "delete", name]);
}

/// Removes what a program that was killed left behind: ours by name, and of a process that is gone.
fn remove_orphans() {
    let list = ip(&["netns", "list"]).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if owner(name).is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            remove(name);
        }
    }
}

/// The process that made the name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Runs `ip` on the machine; what it printed.
///
/// # Errors
/// No `ip`, or what it said.
pub fn ip(arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().map_err(Error::NoIp)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().into();
        return Err(Error::Ip { command: format!("ip {}", arguments.join(" ")), said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are_and_fit_a_device() {
        let name = unique_name();
        assert_eq!(owner(&name), Some(std::process::id()));
        assert!(name.len() <= 15 && name != unique_name());
        for other in ["mr12", "mrx-1", "web-1", "mr-1"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
