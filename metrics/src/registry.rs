//! From the counters to the text that Prometheus scrapes.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::family::{FAMILIES, Sources};
use crate::process::Process;
use crate::{NodeMetrics, ShardMetrics};

/// Everything `/metrics` shows. It holds no numbers of its own: each scrape reads the counters.
pub struct Registry {
    registry: prometheus::Registry,
}

impl Registry {
    /// Over the shards, whose places are their `shard` labels, and the control plane.
    pub fn new(shards: Vec<Arc<ShardMetrics>>, node: Arc<NodeMetrics>) -> Registry {
        let registry = prometheus::Registry::new();
        let descriptions = FAMILIES
            .iter()
            .map(|family| {
                let labels = family.labels.iter().map(|label| label.to_string()).collect();
                Desc::new(family.name.into(), family.help.into(), labels, HashMap::new())
                    .expect("the names in FAMILIES are valid: a test builds every one")
            })
            .collect();
        registry
            .register(Box::new(Reader { shards, node, descriptions }))
            .expect("the names in FAMILIES differ: a test registers them");
        Registry { registry }
    }

    /// The Prometheus registry, for collectors of others.
    pub fn inner(&self) -> &prometheus::Registry {
        &self.registry
    }

    /// The text exposition format, version 0.0.4 ([`Registry::CONTENT_TYPE`]).
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).expect(
            "writing to a string fails only for a family without a name or samples; gather leaves none",
        )
    }

    /// The media type of [`Registry::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

/// Reads all counters at scrape time.
struct Reader {
    shards: Vec<Arc<ShardMetrics>>,
    node: Arc<NodeMetrics>,
    descriptions: Vec<Desc>,
}

impl Collector for Reader {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sources = Sources { shards: &self.shards, node: &self.node, process: &Process::read() };
        FAMILIES.iter().map(|family| family.collect(&sources)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DropReason, PacketKind, Protocol, Route};

    fn render(shards: Vec<Arc<ShardMetrics>>, node: NodeMetrics) -> String {
        Registry::new(shards, Arc::new(node)).render()
    }

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let (one, two) = (Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default()));
        one.received(PacketKind::Rtp, 1200);
        two.received(PacketKind::Rtp, 100);
        two.received(PacketKind::Rtp, 100);
        two.sent(PacketKind::Stun, 88);
        two.dropped(DropReason::Duplicate);
        two.dropped_n(DropReason::Duplicate, 4);
        two.dropped_shared(DropReason::Duplicate);
        two.peers.set(3);
        two.forward_latency.observe(700);
        two.forward_latency.observe(900_000);
        let node = NodeMetrics::default();
        node.viewers.of(Protocol::HttpFlv).add(2);
        node.http_request(Route::Whip, 201);
        let text = render(vec![one, two], node);
        for line in [
            "# TYPE millrace_packets_received_total counter",
            r#"millrace_packets_received_total{shard="0",kind="rtp"} 1"#,
            r#"millrace_received_bytes_total{shard="0",kind="rtp"} 1200"#,
            r#"millrace_packets_received_total{shard="1",kind="rtp"} 2"#,
            r#"millrace_sent_bytes_total{shard="1",kind="stun"} 88"#,
            r#"millrace_drops_total{shard="1",reason="duplicate"} 6"#,
            r#"millrace_drops_total{shard="0",reason="duplicate"} 0"#,
            "# TYPE millrace_peers gauge",
            r#"millrace_peers{shard="1"} 3"#,
            r#"millrace_forward_latency_seconds_bucket{shard="1",le="0.0005"} 0"#,
            r#"millrace_forward_latency_seconds_bucket{shard="1",le="0.001"} 1"#,
            r#"millrace_forward_latency_seconds_bucket{shard="1",le="+Inf"} 2"#,
            r#"millrace_forward_latency_seconds_sum{shard="1"} 0.9007"#,
            r#"millrace_forward_latency_seconds_count{shard="1"} 2"#,
            r#"millrace_viewers{protocol="http_flv"} 2"#,
            r#"millrace_http_requests_total{route="whip",status="2xx"} 1"#,
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("millrace_build_info{version=\""));
    }

    #[test]
    fn a_node_without_shards_renders() {
        assert!(render(Vec::new(), NodeMetrics::default()).contains("millrace_streams 0"));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let shard = || Arc::new(ShardMetrics::default());
        let series =
            |shards| render(shards, NodeMetrics::default()).lines().filter(|l| !l.starts_with('#')).count();
        let (one, two) = (series(vec![shard()]), series(vec![shard(), shard()]));
        assert!(one < 300, "{one} series with one shard");
        assert!(two - one < 120, "{} series a shard", two - one);
    }
}
