//! For tests: a hub of a node without a relay, and two links of it, which are both ends of one connection.

use std::sync::Arc;

use ::relay::control::{Message, Track};
use ::relay::flow::{Flow, Out};
use bytes::Bytes;
use cluster::paths::Paths;
use media::{Codec, NodeId, Packet, Time};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::mpsc;

use super::ask::Asked;
use super::{FromLink, Handle, Hub, Node, Up};
use crate::clock::Clock;
use crate::config::Config;
use crate::relay::congestion::Window;
use crate::relay::tls;

pub(super) struct Scene {
    pub(super) hub: Hub,
    /// The links.
    pub(super) a: usize,
    pub(super) b: usize,
    _said: [mpsc::Receiver<Message>; 2],
    _fed: mpsc::Receiver<FromLink>,
    _endpoint: Endpoint,
}

impl Scene {
    pub(super) async fn new() -> Scene {
        let mut config = Config::default();
        (config.node.shards, config.webrtc.base_port) = (1, 0);
        let node = Node::start(config).expect("it needs nothing");
        let (handle, _) = Handle::new(node.shards.len());
        let (to_me, fed) = mpsc::channel(64);
        let mut hub = Hub {
            node,
            handle,
            links: Default::default(),
            published: Default::default(),
            given: Default::default(),
            waiting: Default::default(),
            feeds: Default::default(),
            wants: Default::default(),
            recorded: Default::default(),
            paths: Paths::new(id("me")),
            layers: Default::default(),
            asks: Asked::default(),
            to_me,
            second: Time::ZERO,
            looked: Time::ZERO,
        };
        let (endpoint, ends) = connection().await;
        let mut link = |peer: &str, connection: Connection| {
            let (stable, (control, said)) = (connection.stable_id(), mpsc::channel(64));
            hub.up(Up { peer: id(peer), connection, window: Window::default(), control });
            (stable, said)
        };
        let [a, b] = ends;
        let ((a, of_a), (b, of_b)) = (link("a", a), link("b", b));
        Scene { hub, a, b, _said: [of_a, of_b], _fed: fed, _endpoint: endpoint }
    }
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("it is one")
}

/// Both ends of a connection of an endpoint with itself, as between nodes but for whom it trusts.
pub(in crate::relay) async fn connection() -> (Endpoint, [Connection; 2]) {
    let made = rcgen::generate_simple_self_signed(["peer".to_owned()]).expect("a certificate");
    let (cert, key) = (made.cert.der().clone(), PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).expect("it is one");
    let mut server = ServerConfig::with_single_cert(vec![cert], key.into()).expect("they fit");
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("roots");
    let transport = || Arc::new(tls::transport(Window::default(), Clock::start()));
    server.transport_config(transport());
    client.transport_config(transport());
    let endpoint = Endpoint::server(server, ([127, 0, 0, 1], 0).into()).expect("a port");
    let at = endpoint.local_addr().expect("it has one");
    let dialled = async { endpoint.connect_with(client, at, "peer").expect("it may dial").await };
    let taken = async { endpoint.accept().await.expect("it is dialled").await };
    let (dialled, taken) = tokio::join!(dialled, taken);
    (endpoint.clone(), [dialled, taken].map(|end| end.expect("a connection")))
}

/// What a track is.
pub(super) fn track(alias: u64, codec: Codec, seq: u64, epoch: bool) -> Track {
    Track { alias, epoch, codec, seq, timestamp: 0, capture_us: 0, config: config(codec) }
}

fn config(codec: Codec) -> Bytes {
    Bytes::from_static(if codec == Codec::Aac { &[0x11, 0x90] } else { b"" })
}

/// A packet that came then.
pub(super) fn flow(seq: u64, codec: Codec, key_start: bool, at: Time) -> Flow {
    let packet = Packet {
        seq,
        timestamp: 0,
        arrival: at,
        capture: Time::ZERO,
        codec,
        marker: true,
        key_start,
        discardable: false,
        temporal: Default::default(),
        descriptor: Bytes::new(),
        fresh_source: false,
        payload: Bytes::from_static(&[7; 100]),
    };
    Flow::Packet(Out { packet, dts_offset: 0, config: config(codec), ingest: at })
}

pub(super) fn seqs(flows: &[Flow]) -> Vec<u64> {
    flows.iter().map(Flow::seq).collect()
}
