//! quinn's own datagrams from one thread to another over a link, with nothing done to them: what a relay over quinn cannot be cheaper than.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::floor::thread_cpu_ns;
use bytes::Bytes;
use quinn::congestion::BbrConfig;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::pem::PemObject;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::cluster;
use super::path::Chain;

const PORT: u16 = 4_443;
const NAME: &str = "floor";
/// Before the measured time: quinn has found the path's size and rate.
const SETTLE: Duration = Duration::from_secs(2);
/// Datagrams are given in so many bursts a second.
const TICKS_PER_SECOND: u64 = 1_000;
/// Some round trips of the link's rate: none shall be thrown away before it is sent.
const BUFFER_BYTES: usize = 4 << 20;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Datagrams a second.
    pub per_second: u32,
    /// Bytes of each.
    pub len: usize,
    /// Measured for so long.
    pub seconds: u32,
    /// Of the streams that they stand for, in that time.
    pub gigabits: f64,
}

/// What it took.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Floor {
    /// Bytes of a datagram.
    pub len: usize,
    /// Of those sent; the link loses some.
    pub arrived_percent: f64,
    /// CPU seconds of the sending and the receiving thread, for each gigabit of the streams that the datagrams stand for.
    pub cpu_per_gigabit: [f64; 2],
}

/// Measures it.
pub fn measure(chain: &Chain, load: Load) -> Result<Floor> {
    let authority = tempfile::Builder::new().prefix("millrace-bench-").tempdir()?;
    let (ca, own) = (cluster::certify_authority(authority.path())?, authority.path().join("own"));
    cluster::certify_node(&ca, NAME, &own)?;
    let (near, far) = (chain.datagrams(0, PORT)?, chain.datagrams(1, PORT)?);
    let to = SocketAddr::from((Chain::address(1), PORT));
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| on_one_thread(receive(far, &own, load)));
        let sender = scope.spawn(|| on_one_thread(send(near, to, &own, load)));
        let joined = [sender, receiver]
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let [sent, received] = joined;
        anyhow::Ok((sent?, received?))
    })?;
    let cpu = |measure: Measure| measure.cpu_ns as f64 * 1e-9 / load.gigabits;
    Ok(Floor {
        len: load.len,
        arrived_percent: 100.0 * received.datagrams as f64 / sent.datagrams.max(1) as f64,
        cpu_per_gigabit: [cpu(sent), cpu(received)],
    })
}

/// What a thread did in the measured time.
#[derive(Clone, Copy, Debug)]
struct Measure {
    datagrams: u64,
    cpu_ns: u64,
}

/// All of quinn's work of one end is done by this thread.
fn on_one_thread(work: impl Future<Output = Result<Measure>>) -> Result<Measure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The most that quinn finds on a link of 1500 bytes, by its defaults.
const UDP_LEN: u16 = 1_452;

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .datagram_send_buffer_size(BUFFER_BYTES)
        .datagram_receive_buffer_size(Some(BUFFER_BYTES))
        // what the link takes: datagrams are as long from the first on, and stay so whatever is lost
        .min_mtu(UDP_LEN)
        // Cubic, its default, takes a link that loses one in a hundred for a full one
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    Arc::new(transport)
}

async fn receive(socket: UdpSocket, own: &Path, load: Load) -> Result<Measure> {
    let certificates =
        CertificateDer::pem_file_iter(own.join("node.pem"))?.collect::<std::result::Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(own.join("node.key"))?;
    let mut config = ServerConfig::with_single_cert(certificates, key)?;
    config.transport_config(transport());
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    let connection = endpoint.accept().await.context("no connection")?.await?;
    let (mut before, mut datagrams) = (None, 0);
    let begin = tokio::time::Instant::now() + SETTLE;
    let end = begin + Duration::from_secs(load.seconds.into());
    loop {
        let _ = connection.read_datagram().await?;
        let now = tokio::time::Instant::now();
        if now >= end {
            break;
        }
        if now >= begin {
            before.get_or_insert_with(thread_cpu_ns);
            datagrams += 1;
        }
    }
    let cpu_ns = thread_cpu_ns() - before.context("no datagram came")?;
    connection.close(0_u32.into(), &[]);
    endpoint.wait_idle().await;
    Ok(Measure { datagrams, cpu_ns })
}

async fn send(socket: UdpSocket, to: SocketAddr, own: &Path, load: Load) -> Result<Measure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(own.join("ca.pem"))? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport());
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
    let connection = endpoint.connect_with(config, to, NAME)?.await?;
    let body = Bytes::from(vec![0xa5; load.len]);
    let ticks = TICKS_PER_SECOND * (SETTLE.as_secs() + u64::from(load.seconds));
    let mut interval = tokio::time::interval(Duration::from_micros(1_000_000 / TICKS_PER_SECOND));
    interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let due = |tick: u64| tick * u64::from(load.per_second) / TICKS_PER_SECOND;
    let mut measure = Measure { datagrams: 0, cpu_ns: thread_cpu_ns() };
    for tick in 0..ticks {
        interval.tick().await;
        if tick == TICKS_PER_SECOND * SETTLE.as_secs() {
            measure = Measure { datagrams: 0, cpu_ns: thread_cpu_ns() };
        }
        for _ in due(tick)..due(tick + 1) {
            connection.send_datagram(body.clone())?;
            measure.datagrams += 1;
        }
    }
    measure.cpu_ns = thread_cpu_ns() - measure.cpu_ns;
    // the receiver ends the connection when its time is over; until then it must hear something
    while connection.close_reason().is_none() {
        interval.tick().await;
        let _ = connection.send_datagram(body.clone());
    }
    Ok(measure)
}
