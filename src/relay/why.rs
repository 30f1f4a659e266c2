//! Why a link does not come up, for who can do something about it.

use media::NodeId;
use quinn::ConnectionError;

use crate::config::Cluster;

/// QUIC says a TLS alert as 0x100 and its number (RFC 9001 section 4.8).
const ALERT: std::ops::Range<u64> = 0x100..0x200;
/// RFC 8446 section 6: `unknown_ca`.
const UNKNOWN_CA: u64 = 0x100 + 48;

/// What is wrong, and whether trying again is of no use: who is there refuses, or is not who it should be.
#[derive(Clone, Debug)]
pub struct Why {
    /// For people: what, where, what to do.
    pub text: String,
    /// Certificates do not fit.
    pub certificates: bool,
}

/// Of an attempt to dial.
pub fn why(error: &anyhow::Error, peer: &NodeId, at: std::net::SocketAddr, own: &Cluster) -> Why {
    let Cluster { node, ca, cert, .. } = own;
    let (advice, certificates) = match error.chain().find_map(|one| one.downcast_ref::<ConnectionError>()) {
        // What this end found.
        Some(ConnectionError::TransportError(found)) if ALERT.contains(&u64::from(found.code)) => {
            let advice = if found.reason.contains("not valid for name") {
                format!("who answers there is not {peer:?}: write the id that it has in `cluster.node`", peer = peer.as_str())
            } else {
                format!("its certificate is not one of the authority in {ca}: take `ca.pem` of the node's own cluster")
            };
            (advice, true)
        }
        // What the other end found.
        Some(ConnectionError::ConnectionClosed(closed)) if ALERT.contains(&u64::from(closed.error_code)) => {
            let advice = if u64::from(closed.error_code) == UNKNOWN_CA {
                format!("it does not know the authority that signed {cert}: make one with its own, `millrace cert node --ca FOLDER --id {node} --out FOLDER`")
            } else {
                format!("it refuses {cert}: see that {node:?} is in its `cluster.uplinks` (of a node: `cluster.peers`), and that the cluster's authority signed it")
            };
            (advice, true)
        }
        Some(ConnectionError::TimedOut) | None => {
            ("nothing answers there: see that it runs, that the address is its `cluster.listen`, and that UDP passes".into(), false)
        }
        Some(_) => ("it is tried again".into(), false),
    };
    Why { text: format!("no link to {peer} at {at}: {advice} ({error:#})"), certificates }
}
