//! The relay's port and who has no business there: a QUIC client of our own with one certificate or another.
use bytes::BytesMut;
use media::NodeId;
use quinn::crypto::rustls::QuicClientConfig;
use relay::control::{Message, VERSION, take};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use support::cluster::Cluster;
use support::rtmp::Publisher;
use support::{Node, unique};

const LIMIT: Duration = Duration::from_secs(10);

/// A client that trusts the cluster, and shows the certificate of that folder, if any.
fn config(cluster: &Cluster, folder: Option<&str>, alpn: &[u8]) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(cluster.file("a", "ca.pem")).expect("a certificate"))
        .expect("it is one");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = match folder {
        None => tls.with_no_client_auth(),
        Some(folder) => {
            let chain =
                CertificateDer::pem_file_iter(cluster.file(folder, "node.pem")).expect("certificates");
            let chain = chain.collect::<Result<_, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(cluster.file(folder, "node.key")).expect("a key");
            tls.with_client_auth_cert(chain, key).expect("they fit")
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")))
}

/// Dials a node, says that hello, and gives what it said until it announced a stream or closed; and how that ended.
fn dial(config: quinn::ClientConfig, to: SocketAddr, hello: &str) -> (Vec<Message>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let talk = async {
        let mut endpoint =
            quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        endpoint.set_default_client_config(config);
        let mut said = Vec::new();
        let connection = match endpoint.connect(to, "a").expect("it may dial").await {
            Ok(connection) => connection,
            Err(refused) => return (said, refused.to_string()),
        };
        let listened: Result<(), Box<dyn std::error::Error>> = async {
            let (mut send, mut recv) = connection.open_bi().await?;
            let mut out = Vec::new();
            let node = NodeId::new(hello).expect("an id");
            Message::Hello { version: VERSION, node }.write(&mut out).expect("it is short");
            send.write_all(&out).await?;
            let mut stream = BytesMut::new();
            while !said.iter().any(|it| matches!(it, Message::Announce { .. })) {
                let chunk = recv.read_chunk(4096, true).await?.ok_or("the stream's end")?;
                stream.extend_from_slice(&chunk.bytes);
                while let Some(message) = take(&mut stream).expect("the node speaks well") {
                    said.push(message);
                }
            }
            Ok(())
        }
        .await;
        match listened {
            Ok(()) => (said, "announced".to_owned()),
            Err(_) => (said, connection.closed().await.to_string()),
        }
    };
    runtime.block_on(async { tokio::time::timeout(LIMIT, talk).await }).expect("it ends in time")
}

fn at(cluster: &Cluster) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], cluster.port("a")))
}

/// Nodes a and b, of which a runs and has a stream; certificates that are not b's.
fn scene() -> (Cluster, Node, Publisher) {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.authority("other");
    cluster.certify("other", "b", "forged");
    cluster.certify("ca", "c", "unlisted");
    let node = cluster.start("a");
    let name = unique("secret");
    let publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    (cluster, node, publisher)
}

#[test]
fn who_is_no_listed_peer_hears_nothing() {
    let (cluster, mut node, _publisher) = scene();
    let of = |folder: Option<&str>| config(&cluster, folder, b"millrace/1");
    for (why, folder) in [
        ("no certificate", None),
        ("of another authority", Some("forged")),
        ("of no listed node", Some("unlisted")),
    ] {
        let (said, ended) = dial(of(folder), at(&cluster), "b");
        assert_eq!(said, [], "{why}: {ended}");
        assert!(ended.contains("cryptographic handshake failed"), "{why}: {ended}");
    }
    let (said, ended) = dial(config(&cluster, Some("b"), b"millrace/0"), at(&cluster), "b");
    assert_eq!(said, [], "another version: {ended}");
    // A peer that says it is another hears no more than that it spoke to the node it dialled.
    let (said, ended) = dial(of(Some("b")), at(&cluster), "x");
    assert!(matches!(&said[..], [] | [Message::Hello { .. }]), "{said:?}");
    assert!(ended.contains("closed by peer: hello"), "{ended}");
    // And the peer itself: this client can hear.
    let (said, ended) = dial(of(Some("b")), at(&cluster), "b");
    assert_eq!(ended, "announced", "{said:?}");
    assert!(!node.log().contains("relay link up peer=c"), "{}", node.log());
    node.assert_well();
}

#[test]
fn a_forged_address_costs_a_retry_and_nothing_more() {
    let (cluster, mut node, _publisher) = scene();
    // The first datagram of a real handshake, taken on its way...
    let trap = UdpSocket::bind("127.0.0.1:0").expect("a port");
    trap.set_read_timeout(Some(LIMIT)).expect("it can be set");
    let to = trap.local_addr().expect("it has one");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let config = config(&cluster, Some("b"), b"millrace/1");
    runtime.spawn(async move {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let _ = endpoint.connect_with(config, to, "a").expect("it may dial").await;
    });
    let mut initial = [0; 2_000];
    let (len, _) = trap.recv_from(&mut initial).expect("it dials");
    runtime.shutdown_background();
    // ...comes to the node from elsewhere, many times: each is answered by a Retry (RFC 9000 section 17.2.5), shorter than itself.
    let forger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    forger.set_read_timeout(Some(LIMIT)).expect("it can be set");
    for _ in 0..200 {
        forger.send_to(&initial[..len], at(&cluster)).expect("it is sent");
        let mut answer = [0; 2_000];
        let (answered, _) = forger.recv_from(&mut answer).expect("an answer");
        assert_eq!(answer[0] & 0xf0, 0xf0, "a Retry");
        assert!(answered < len / 4, "{answered} bytes for {len}");
    }
    assert!(!node.log().contains("relay connection refused"), "{}", node.log());
    let (_, ended) = dial(self::config(&cluster, Some("b"), b"millrace/1"), at(&cluster), "b");
    assert_eq!(ended, "announced");
    node.assert_well();
}
