//! Where a program runs: on this machine, or in a network namespace of its own with links to others.
use crate::cluster::Cluster;
use crate::nats::Nats;
use crate::{Node, until};
use link::Config;
use link::emulator::{Cable, Namespace, Side};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// A place, and its address for programs at others.
#[derive(Clone)]
pub struct Place {
    namespace: Option<Arc<Namespace>>,
    pub address: Ipv4Addr,
}

impl Place {
    /// This machine.
    pub const HERE: Place = Place { namespace: None, address: Ipv4Addr::LOCALHOST };

    /// Does something there: sockets, threads and programs that it makes stay there.
    ///
    /// # Panics
    /// When `work` does.
    #[track_caller]
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.namespace {
            Some(namespace) => namespace.within(work).expect("the namespace is there"),
            None => work(),
        }
    }
}

/// Places with a node and a nats-server each, which are one cluster. Clients of a node are where it is. Dropping it ends everything there.
pub struct World {
    links: Vec<(char, char, Cable)>,
    nodes: Vec<Option<Node>>,
    pub nats: Nats,
    cluster: Cluster,
    places: Vec<(char, Place)>,
}

const LIMIT: Duration = Duration::from_secs(40);

impl World {
    /// Places by their letters, the links between them (`ab`), and the nodes that have a nats-server beside them. All nodes have started and know
    /// each other.
    ///
    /// # Panics
    /// When they do not, or a place cannot be made.
    #[track_caller]
    pub fn start(links: &[(&str, Config)], with_nats: &str, settings: &[(&str, &str)]) -> World {
        let mut letters: Vec<char> = links.iter().flat_map(|(link, _)| link.chars()).collect();
        letters.sort_unstable();
        letters.dedup();
        let place = |(nth, letter): (usize, &char)| {
            let namespace = Namespace::create().expect("a namespace can be made");
            let address = Ipv4Addr::new(10, 1, 0, nth as u8 + 1);
            let own = format!("{address}/32");
            namespace.ip(&["address", "add", &own, "dev", "lo"]).expect("it takes an address");
            (*letter, Place { namespace: Some(Arc::new(namespace)), address })
        };
        let places: Vec<(char, Place)> = letters.iter().enumerate().map(place).collect();
        let of = |letter: char| &places.iter().find(|(it, _)| *it == letter).expect("a place").1;
        let lay = |(nth, (link, config)): (usize, &(&str, Config))| {
            let ends: Vec<char> = link.chars().collect();
            let [a, b] = [of(ends[0]), of(ends[1])];
            let names = [format!("to-{}", ends[1]), format!("to-{}", ends[0])];
            let [near, far] = [a, b].map(|it| it.namespace.as_deref().expect("it has one"));
            let cable = Cable::lay([(near, &names[0]), (far, &names[1])], [*config; 2], nth as u64);
            for (from, to, device) in [(a, b, &names[0]), (b, a, &names[1])] {
                let [from_at, to_at] = [from, to].map(|it| it.address.to_string());
                let route = ["route", "add", &to_at, "dev", device, "src", &from_at];
                from.namespace.as_deref().expect("it has one").ip(&route).expect("it takes a route");
            }
            (ends[0], ends[1], cable.expect("a link can be laid"))
        };
        let links = links.iter().enumerate().map(lay).collect();
        let nats = Nats::at(&with_nats.chars().map(|it| of(it).clone()).collect::<Vec<_>>());
        let ids: Vec<String> = letters.iter().map(char::to_string).collect();
        let cluster = Cluster::unlisted(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        let nodes = letters.iter().map(|_| None).collect();
        let mut world = World { links, nodes, nats, cluster, places };
        for letter in &letters {
            world.start_node(*letter, settings);
        }
        for letter in &letters {
            world.wait_linked(*letter);
        }
        world
    }

    /// A place.
    ///
    /// # Panics
    /// When there is none of that letter.
    #[track_caller]
    pub fn place(&self, at: char) -> &Place {
        &self.places.iter().find(|(it, _)| *it == at).expect("a place").1
    }

    /// The node at a place.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn node(&mut self, at: char) -> &mut Node {
        self.slot(at).as_mut().expect("its node runs")
    }

    /// Asks the node at a place.
    ///
    /// # Panics
    /// When it does not run, or `ask` does.
    #[track_caller]
    pub fn ask<T: Send>(&mut self, at: char, ask: impl FnOnce(&mut Node) -> T + Send) -> T {
        let place = self.place(at).clone();
        let node = self.node(at);
        place.within(|| ask(node))
    }

    /// Starts the node at a place, the one before it has ended.
    #[track_caller]
    pub fn start_node(&mut self, at: char, settings: &[(&str, &str)]) {
        let place = self.place(at).clone();
        let id = at.to_string();
        let urls = self.nats.urls();
        let replicas = urls.split(',').count().to_string();
        let listen = format!("\"{}:4443\"", place.address);
        let own = [
            ("cluster.directory", "\"nats\""),
            ("cluster.nats", urls.as_str()),
            ("cluster.nats_replicas", replicas.as_str()),
            ("cluster.listen", listen.as_str()),
        ];
        let all: Vec<(&str, &str)> = own.iter().chain(settings).copied().collect();
        let node = place.within(|| self.cluster.start_with(&id, &id, &all));
        *self.slot(at) = Some(node);
    }

    /// Waits until the node at a place has its links, and is in the directory.
    #[track_caller]
    pub fn wait_linked(&mut self, at: char) {
        let want = self.links.iter().filter(|(a, b, _)| *a == at || *b == at).count();
        let all = self.places.len();
        until(&format!("{at} has its links"), LIMIT, || {
            self.ask(at, |node| {
                let nodes = node.api("/api/v1/nodes");
                let up = nodes["nodes"]["links"].as_array()?.iter().filter(|it| it["up"] == true).count();
                (up == want && node.metric("millrace_directory_nodes") == all as f64).then_some(())
            })
        });
    }

    /// Ends a node (SIGKILL), and forgets it.
    #[track_caller]
    pub fn kill(&mut self, at: char) {
        let mut node = self.slot(at).take().expect("its node runs");
        node.process.signal("KILL");
        assert!(node.process.wait(LIMIT).is_some(), "{at} does not end");
    }

    /// Another behaviour of the link between two places, both ways.
    #[track_caller]
    pub fn set(&self, link: &str, config: Config) {
        let ends: Vec<char> = link.chars().collect();
        let found = self.links.iter().find(|(a, b, _)| [*a, *b] == ends[..]).expect("a link");
        Side::BOTH.into_iter().for_each(|side| found.2.set(side, config));
    }

    /// All nodes run and none has panicked.
    #[track_caller]
    pub fn assert_well(&mut self) {
        for at in self.places.iter().map(|(at, _)| *at).collect::<Vec<_>>() {
            self.ask(at, Node::assert_well);
        }
    }

    fn slot(&mut self, at: char) -> &mut Option<Node> {
        let nth = self.places.iter().position(|(it, _)| *it == at).expect("a place");
        &mut self.nodes[nth]
    }
}
