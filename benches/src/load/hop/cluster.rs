//! Millrace at each node of a chain, as one cluster: each knows the nodes beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::arms::RTMP_PORT;
use super::path::Chain;
use crate::load::process::{Process, folder};

const RELAY_PORT: u16 = 4_443;

/// The `millrace` that was built with this program: it lies beside it.
pub fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("millrace");
    ensure!(
        program.is_file(),
        "{} is not there: build it with `cargo build --release -p millrace`",
        program.display()
    );
    Ok(program)
}

/// Starts the nodes, and waits until each has its links.
pub fn start(chain: &Chain) -> Result<Vec<Process>> {
    let program = program()?;
    let authority = tempfile::Builder::new().prefix("millrace-bench-").tempdir()?;
    let ca = certify_authority(authority.path())?;
    let mut nodes = Vec::new();
    for node in 0..=chain.hops() {
        let folder = folder()?;
        let (id, own) = (format!("n{node}"), folder.join("own"));
        certify_node(&ca, &id, &own)?;
        let config = folder.join("millrace.toml");
        std::fs::write(&config, settings(node, &peers(chain, node), &own))?;
        nodes.push(chain.run(node, &program, &["serve", "--config", &config.to_string_lossy()], folder)?);
    }
    for (node, process) in nodes.iter_mut().enumerate() {
        let links = peers(chain, node).len();
        process.wait_until(|process| {
            let up = process.log().matches("relay link up").count();
            ensure!(up >= links, "node n{node} has {up} links of {links}");
            Ok(())
        })?;
    }
    Ok(nodes)
}

/// An authority in this folder; where it is.
pub fn certify_authority(folder: &Path) -> Result<PathBuf> {
    let ca = folder.join("ca");
    certify(&["ca", "--out"], &ca)?;
    Ok(ca)
}

/// Key and certificate of a node, with the authority's, in a folder of their own.
pub fn certify_node(ca: &Path, id: &str, own: &Path) -> Result<()> {
    certify(&["node", "--ca", &ca.to_string_lossy(), "--id", id, "--out"], own)
}

fn certify(arguments: &[&str], out: &Path) -> Result<()> {
    let made = Command::new(program()?).arg("cert").args(arguments).arg(out).output()?;
    ensure!(made.status.success(), "millrace cert: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// The nodes beside it: the one before by the address of its near end of their link.
fn peers(chain: &Chain, node: usize) -> Vec<String> {
    let before = node.checked_sub(1).map(|before| (before, Chain::address_before(node)));
    let after = (node < chain.hops()).then(|| (node + 1, Chain::address(node + 1)));
    before.into_iter().chain(after).map(|(peer, at)| format!("n{peer}={at}:{RELAY_PORT}")).collect()
}

fn settings(node: usize, peers: &[String], own: &Path) -> String {
    let own = own.display();
    format!(
        "[node]\nshards = 1\n[rtmp]\nlisten = \"127.0.0.1:{RTMP_PORT}\"\n\
         [cluster]\nnode = \"n{node}\"\nlisten = \"0.0.0.0:{RELAY_PORT}\"\npeers = {peers:?}\n\
         ca = \"{own}/ca.pem\"\ncert = \"{own}/node.pem\"\nkey = \"{own}/node.key\"\n\
         [log]\nfilter = \"info\"\nformat = \"text\"\n"
    )
}
