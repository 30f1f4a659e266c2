//! Nodes that know each other: certificates of one authority, a list of peers.
use crate::node::{binary, free_tcp, free_udp};
use crate::process::Process;
use crate::wire::Wire;
use crate::{Node, unique};
use link::Config;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// A cluster's authority and addresses; nodes are started from it.
pub struct Cluster {
    folder: PathBuf,
    nodes: Vec<(String, u16)>,
    /// Who is told of whom; `None`: all of all.
    links: Option<Vec<(String, String)>>,
    /// Bad ways, by who dials and who is dialled.
    wires: Vec<(String, String, Wire)>,
}

impl Cluster {
    /// With a certificate for each of these ids.
    ///
    /// # Panics
    /// When `millrace cert` fails.
    #[track_caller]
    pub fn of(ids: &[&str]) -> Cluster {
        let folder = crate::scratch().join(format!("{}-{}", unique("cluster"), std::process::id()));
        let nodes = ids.iter().map(|id| (id.to_string(), free_udp())).collect();
        let cluster = Cluster { folder, nodes, links: None, wires: Vec::new() };
        cluster.authority("ca");
        for id in ids {
            cluster.certify("ca", id, id);
        }
        cluster
    }

    /// The same where only these know each other: `ab` is a link from `a` to `b`.
    #[track_caller]
    pub fn linked(links: &[&str]) -> Cluster {
        let mut ids: Vec<&str> = links.iter().flat_map(|link| [&link[..1], &link[1..]]).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut cluster = Cluster::of(&ids);
        let links = links.iter().map(|link| (link[..1].to_owned(), link[1..].to_owned()));
        cluster.links = Some(links.collect());
        cluster
    }

    /// The same where no settings name another node.
    #[track_caller]
    pub fn unlisted(ids: &[&str]) -> Cluster {
        Cluster { links: Some(Vec::new()), ..Cluster::of(ids) }
    }

    /// Every link is such a way from now on, for nodes that start later.
    pub fn over(mut self, config: Config, seed: u64) -> Cluster {
        let pairs =
            self.nodes.iter().flat_map(|(a, _)| self.nodes.iter().map(move |(b, port)| (a, b, *port)));
        let pairs = pairs.filter(|(a, b, _)| a < b && self.knows(a, b));
        let wire = |(nth, (a, b, port)): (usize, (&String, &String, u16))| {
            let far = SocketAddr::from(([127, 0, 0, 1], port));
            (a.clone(), b.clone(), Wire::to(far, config, seed + 10 * nth as u64))
        };
        self.wires = pairs.enumerate().map(wire).collect();
        self
    }

    /// The way between two nodes, of which the first is first by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn wire(&self, a: &str, b: &str) -> &Wire {
        &self.wires.iter().find(|(of, to, _)| (of.as_str(), to.as_str()) == (a, b)).expect("a way").2
    }

    fn knows(&self, id: &str, other: &str) -> bool {
        let is = |(from, to): &(String, String)| (from == id && to == other) || (from == other && to == id);
        id != other && self.links.as_ref().is_none_or(|links| links.iter().any(is))
    }

    /// Makes an authority.
    #[track_caller]
    pub fn authority(&self, ca: &str) {
        self.cert(&["ca", "--out", self.path(ca)]);
    }

    /// Makes a certificate of an authority, in a folder of its own.
    #[track_caller]
    pub fn certify(&self, ca: &str, id: &str, folder: &str) {
        self.cert(&["node", "--ca", self.path(ca), "--id", id, "--out", self.path(folder)]);
    }

    /// A file of one of these folders.
    pub fn file(&self, folder: &str, name: &str) -> PathBuf {
        self.folder.join(folder).join(name)
    }

    fn path(&self, name: &str) -> &'static str {
        let path = self.folder.join(name);
        path.to_str().expect("a path of ours is UTF-8").to_owned().leak()
    }

    #[track_caller]
    fn cert(&self, arguments: &[&str]) {
        let made = Command::new(binary()).arg("cert").args(arguments).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Where a node's relay listens.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn port(&self, id: &str) -> u16 {
        self.nodes.iter().find(|(it, _)| it == id).expect("a node of the cluster").1
    }

    /// Starts an uplink with the certificate in that folder, to `ID=HOST:PORT`; and where encoders publish to it.
    #[track_caller]
    pub fn uplink(&self, folder: &str, to: &str) -> (Process, SocketAddr) {
        let listen = free_tcp();
        let mut command = Command::new(binary());
        command.args(["uplink", "--listen", &listen.to_string(), "--to", to, "--certs", self.path(folder)]);
        (Process::start(&unique("uplink"), &mut command), listen)
    }

    /// Starts a node with its own certificate.
    #[track_caller]
    pub fn start(&self, id: &str) -> Node {
        self.start_with(id, id, &[])
    }

    /// Starts a node with the certificate in that folder.
    #[track_caller]
    pub fn start_with(&self, id: &str, folder: &str, settings: &[(&str, &str)]) -> Node {
        let peers: Vec<String> = self
            .nodes
            .iter()
            .filter(|(it, _)| self.knows(id, it))
            .map(|(it, port)| {
                let wire = self.wires.iter().find(|(from, to, _)| from == id && to == it);
                let port = wire.map_or(*port, |(_, _, wire)| wire.at.port());
                format!("\"{it}=127.0.0.1:{port}\"")
            })
            .collect();
        let file = |name: &str| format!("\"{}\"", self.file(folder, name).display());
        let own = [
            ("cluster.node", format!("\"{id}\"")),
            ("cluster.listen", format!("\"127.0.0.1:{}\"", self.port(id))),
            ("cluster.peers", format!("[{}]", peers.join(", "))),
            ("cluster.ca", file("ca.pem")),
            ("cluster.cert", file("node.pem")),
            ("cluster.key", file("node.key")),
        ];
        let own = own.iter().map(|(key, value)| (*key, value.as_str()));
        Node::start_with(&own.chain(settings.iter().copied()).collect::<Vec<_>>())
    }
}
