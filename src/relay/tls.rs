//! Who may be on a link: mutual TLS 1.3 with certificates of the cluster's authority, each of a listed peer or a node of the directory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use media::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};
use quinn_proto::RandomConnectionIdGenerator;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use super::congestion::{Factory, Window};
use super::streams::{STREAMS_MAX, UNREAD_BYTES_ALL_MAX, UNREAD_BYTES_MAX};
use crate::clock::Clock;
use crate::config::Cluster;
use crate::directory::Directory;

/// The protocol and its version.
const ALPN: &[u8] = b"millrace/1";
/// quinn sends datagrams before all streams and never reorders them: what it holds is beyond our say, so it is one burst.
pub const DATAGRAMS_OUT_BYTES: usize = 32 << 10;
/// Those that came and were not read: a second of 30 Mbit/s. The oldest is dropped by quinn, and asked for again by the hop.
const DATAGRAMS_IN_BYTES: usize = 4 << 20;
/// UDP payload of a packet over Ethernet and IPv4: looked for, and found where the path takes it.
const PACKET_LEN_MAX: u16 = 1_472;
/// quinn tries 1336 and 1404 bytes, and then the most at once: three probes. Where a path takes a little less than that it stays at one of those, which costs
/// half a percent at most.
const PACKET_LEN_STEP: u16 = 60;
const CONNECTION_ID_LEN: usize = 2;
const IDLE: Duration = Duration::from_secs(4);
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The hop repairs; to quinn a packet out of order is one until so many came after it, or packets out of order look like congestion.
const PACKET_THRESHOLD: u32 = 64;
/// And until two round trips have passed (RFC 9002 section 6.1.2 has 9/8, which 10 ms of jitter on 100 exceed).
const TIME_THRESHOLD: f32 = 2.0;
/// An acknowledgement for more packets than these, a frame's of 4 Mbit/s...
const UNACKNOWLEDGED: u32 = 15;
/// ...or after so long. RFC 9000 has one for each second packet and each that was overtaken, which the hop needs neither for repair nor for its window: 4.4 %
/// of the stream's bytes go back where packets overtake, 2.3 % where they come one by one (1 % both with this, measured by `millrace-bench hop`).
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(10);

/// This node's certificate, and whom it trusts: as TLS wants it, once for all connections.
pub struct Identity {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    peers: Peers,
    handshakes_max: usize,
}

/// Handshakes at one time where nodes are found in a directory.
const DIRECTORY_HANDSHAKES: usize = 256;

/// Which nodes may be on a link: those that the settings name, and those of the directory.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Named by the settings.
    pub listed: Arc<[NodeId]>,
    /// Those of the directory.
    pub directory: Option<Arc<Directory>>,
}

impl Peers {
    /// The peer that a certificate names.
    fn of(&self, cert: &CertificateDer<'_>) -> Option<NodeId> {
        let listed = self.listed.iter().find(|id| is_of(cert, id.as_str())).cloned();
        listed.or_else(|| {
            let directory = self.directory.as_ref()?;
            id_of(cert).filter(|id| directory.relay_of(id).is_some())
        })
    }
}

/// The node that a certificate names.
pub fn id_of(cert: &CertificateDer<'_>) -> Option<NodeId> {
    webpki::EndEntityCert::try_from(cert).ok()?.valid_dns_names().find_map(NodeId::new)
}

impl Identity {
    /// Reads the files.
    pub fn load(cluster: &Cluster, peers: Peers) -> anyhow::Result<Identity> {
        let certs = |path: &str, key: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect)
                .with_context(|| format!("cannot read certificates from {path} ({key})"))
        };
        let mut roots = RootCertStore::empty();
        for cert in certs(&cluster.ca, "cluster.ca")? {
            roots.add(cert)?;
        }
        let roots = Arc::new(roots);
        let key = PrivateKeyDer::from_pem_file(&cluster.key)
            .with_context(|| format!("cannot read a key from {} (cluster.key)", cluster.key))?;
        let chain = certs(&cluster.cert, "cluster.cert")?;
        anyhow::ensure!(
            chain.first().is_some_and(|cert| is_of(cert, &cluster.node)),
            "{} is not the certificate of cluster.node = {:?}",
            cluster.cert,
            cluster.node
        );
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let inner = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let verifier = Arc::new(PeerVerifier { inner, peers: peers.clone() });
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        (server.alpn_protocols, client.alpn_protocols) = (vec![ALPN.to_vec()], vec![ALPN.to_vec()]);
        let server = Arc::new(QuicServerConfig::try_from(server)?);
        let handshakes_max =
            if peers.directory.is_some() { DIRECTORY_HANDSHAKES } else { peers.listed.len().max(1) * 4 };
        Ok(Identity { server, handshakes_max, client: Arc::new(QuicClientConfig::try_from(client)?), peers })
    }

    /// For one connection from a peer.
    pub fn server(&self, window: Window, clock: Clock) -> ServerConfig {
        let mut config = ServerConfig::with_crypto(self.server.clone());
        config.transport_config(Arc::new(transport(window, clock)));
        config
    }

    /// For one connection to a peer.
    pub fn client(&self, window: Window, clock: Clock) -> ClientConfig {
        let mut config = ClientConfig::new(self.client.clone());
        config.transport_config(Arc::new(transport(window, clock)));
        config
    }

    /// Handshakes at one time: the peers', and a few that come back before their last connection has timed out.
    pub fn handshakes_max(&self) -> usize {
        self.handshakes_max
    }

    /// The peer that a connection's certificate names.
    pub fn peer(&self, connection: &quinn::Connection) -> Option<NodeId> {
        let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let cert = identity.first()?;
        self.peers.of(cert)
    }
}

/// Of the socket: each packet names its connection, in fewer bytes than the usual 8. A node has few, and drawn ids that are taken are drawn again.
pub fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID_LEN)));
    config
}

/// How QUIC is used on a link, at both its ends.
pub fn transport(window: Window, clock: Clock) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    // Four losses of one burst that is not of the longest packets are to quinn a path that has become narrower: at 5 % loss each half a minute. It looks
    // again at once, as packets go in halves until then.
    mtu.black_hole_cooldown(Duration::ZERO).upper_bound(PACKET_LEN_MAX).minimum_change(PACKET_LEN_STEP);
    // Draft-ietf-quic-ack-frequency: each end asks the other for it.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED))
        .max_ack_delay(Some(ACKNOWLEDGED_AFTER))
        .reordering_threshold(VarInt::from_u32(0));
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(Factory { window, clock }))
        .datagram_send_buffer_size(DATAGRAMS_OUT_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN_BYTES))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .packet_threshold(PACKET_THRESHOLD)
        .time_threshold(TIME_THRESHOLD)
        .ack_frequency_config(Some(acks))
        // The control stream, and those of media.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(UNREAD_BYTES_MAX))
        .receive_window(VarInt::from_u32(UNREAD_BYTES_ALL_MAX));
    transport
}

/// Whether a certificate names a node.
fn is_of(cert: &CertificateDer<'_>, id: &str) -> bool {
    let (Ok(cert), Ok(name)) = (ParsedCertificate::try_from(cert), ServerName::try_from(id)) else {
        return false;
    };
    verify_server_name(&cert, &name).is_ok()
}

/// A client is a listed peer, or the handshake fails: it learns nothing.
#[derive(Debug)]
struct PeerVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    peers: Peers,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.peers.of(end_entity).map(|_| verified).ok_or(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hub::scene;
    use std::time::Instant;

    #[tokio::test]
    async fn packets_one_by_one_are_acknowledged_together() {
        const SENT: u64 = 400;
        let (_endpoint, [from, to]) = scene::connection().await;
        let before = from.stats().frame_rx.acks;
        let since = Instant::now();
        for _ in 0..SENT {
            from.send_datagram(vec![7; 1_000].into()).expect("it is sent");
            tokio::time::timeout(IDLE, to.read_datagram()).await.expect("it comes").expect("it is up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let acks = from.stats().frame_rx.acks - before;
        let delays = since.elapsed().as_millis() / ACKNOWLEDGED_AFTER.as_millis();
        let most = SENT / u64::from(UNACKNOWLEDGED + 1) + delays as u64 + 5;
        assert!((1..=most).contains(&acks), "{acks} of {most} acknowledgements in {:?}", since.elapsed());
    }
}
