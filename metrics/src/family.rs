//! The table of metrics: name, meaning and where the numbers come from.

use std::sync::Arc;

use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use crate::process::Process;
use crate::{
    By, Counter, Gauge, Histogram, Label, LinkMetrics, NodeMetrics, ShardMetrics, SharedCounter, SharedGauge,
};

/// What a scrape reads.
pub(crate) struct Sources<'a> {
    pub(crate) shards: &'a [Arc<ShardMetrics>],
    pub(crate) node: &'a NodeMetrics,
    pub(crate) process: &'a Process,
}

/// One metric: a row of the table.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: MetricType,
    /// Names of its labels, `shard` or `peer` first.
    pub(crate) labels: &'static [&'static str],
    read: Read,
}

/// Where its samples come from.
enum Read {
    Shard(fn(&ShardMetrics, &mut Samples)),
    Node(fn(&NodeMetrics, &mut Samples)),
    Link(fn(&LinkMetrics, &mut Samples)),
    Process(fn(&Process) -> Option<f64>),
    /// Always 1, with these label values.
    Info(&'static [&'static str]),
}

const fn shard_counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&ShardMetrics, &mut Samples),
) -> Family {
    Family { name, help, kind: MetricType::COUNTER, labels, read: Read::Shard(read) }
}

const fn shard_gauge(
    name: &'static str,
    help: &'static str,
    read: fn(&ShardMetrics, &mut Samples),
) -> Family {
    Family { name, help, kind: MetricType::GAUGE, labels: &["shard"], read: Read::Shard(read) }
}

const fn node_counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&NodeMetrics, &mut Samples),
) -> Family {
    Family { name, help, kind: MetricType::COUNTER, labels, read: Read::Node(read) }
}

const fn node_gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&NodeMetrics, &mut Samples),
) -> Family {
    Family { name, help, kind: MetricType::GAUGE, labels, read: Read::Node(read) }
}

const fn link_counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&LinkMetrics, &mut Samples),
) -> Family {
    Family { name, help, kind: MetricType::COUNTER, labels, read: Read::Link(read) }
}

const fn link_gauge(name: &'static str, help: &'static str, read: fn(&LinkMetrics, &mut Samples)) -> Family {
    Family { name, help, kind: MetricType::GAUGE, labels: PEER, read: Read::Link(read) }
}

const fn process(
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    read: fn(&Process) -> Option<f64>,
) -> Family {
    Family { name, help, kind, labels: &[], read: Read::Process(read) }
}

const SHARD: &[&str] = &["shard"];
const PEER: &[&str] = &["peer"];
const PROTOCOL: &[&str] = &["protocol"];

/// Every metric. A row here needs its row in `docs/METRICS.md`; a test compares them.
#[rustfmt::skip]
pub(crate) const FAMILIES: &[Family] = &[
    // The media plane.
    shard_counter("millrace_packets_received_total", &["shard", "kind"], "Datagrams received.", |m, s| s.by(&m.packets_in)),
    shard_counter("millrace_received_bytes_total", &["shard", "kind"], "Bytes of the datagrams received (UDP payload).", |m, s| s.by(&m.bytes_in)),
    shard_counter("millrace_packets_sent_total", &["shard", "kind"], "Datagrams sent.", |m, s| s.by(&m.packets_out)),
    shard_counter("millrace_sent_bytes_total", &["shard", "kind"], "Bytes of the datagrams sent (UDP payload).", |m, s| s.by(&m.bytes_out)),
    shard_counter("millrace_drops_total", &["shard", "reason"], "Datagrams, packets and frames dropped.", |m, s| m.each_drop(|reason, n| s.push(&[reason.label()], n as f64))),
    shard_counter("millrace_retransmissions_sent_total", SHARD, "Packets sent again to subscribers.", |m, s| s.one(&m.retransmissions_out)),
    shard_counter("millrace_retransmitted_bytes_total", SHARD, "Bytes of packets sent again to subscribers (RTP).", |m, s| s.one(&m.retransmitted_bytes_out)),
    shard_counter("millrace_probe_copies_sent_total", SHARD, "Packets sent again to probe a subscriber's bandwidth.", |m, s| s.one(&m.probe_copies_out)),
    shard_counter("millrace_encoding_pauses_total", SHARD, "Encodings of simulcast that publishers were told to pause, as nobody took them.", |m, s| s.one(&m.encoding_pauses)),
    shard_counter("millrace_nacks_received_total", SHARD, "Packets that subscribers asked for again.", |m, s| s.one(&m.nacks_in)),
    shard_counter("millrace_nacks_sent_total", SHARD, "Packets asked again of publishers.", |m, s| s.one(&m.nacks_out)),
    shard_counter("millrace_plis_received_total", SHARD, "Key frame requests of subscribers.", |m, s| s.one(&m.plis_in)),
    shard_counter("millrace_plis_sent_total", SHARD, "Key frame requests sent to publishers.", |m, s| s.one(&m.plis_out)),
    shard_counter("millrace_subscriber_frames_dropped_total", SHARD, "Video frames whose end was not sent to a subscriber.", |m, s| s.one(&m.subscriber_frames_dropped)),
    shard_counter("millrace_subscriber_freezes_total", SHARD, "Holes of more than three frame intervals in the video sent to a subscriber.", |m, s| s.one(&m.subscriber_freezes)),
    shard_counter("millrace_mailbox_received_total", SHARD, "Packets and frames taken from other threads.", |m, s| s.one(&m.mailbox_in)),
    shard_counter("millrace_mailbox_sent_total", SHARD, "Packets and frames given to other threads.", |m, s| s.one(&m.mailbox_out)),
    shard_counter("millrace_ticks_total", SHARD, "Turns of the shard's loop.", |m, s| s.one(&m.ticks)),
    shard_counter("millrace_budget_hits_total", &["shard", "phase"], "Phases of a tick that ended by their budget with work left.", |m, s| s.by(&m.budget_hits)),
    shard_counter("millrace_send_messages_total", SHARD, "Kernel messages sent; packets sent by this is the mean GSO run.", |m, s| s.one(&m.send_messages)),
    shard_counter("millrace_socket_errors_total", SHARD, "Errors of the shard's UDP socket itself.", |m, s| s.one(&m.socket_errors)),
    shard_counter("millrace_session_panics_total", SHARD, "Sessions ended by a panic of the node.", |m, s| s.one(&m.panics)),
    shard_gauge("millrace_gso_enabled", "1 while runs of packets are sent by GSO.", |m, s| s.one(&m.gso_enabled)),
    shard_gauge("millrace_peers", "WebRTC sessions.", |m, s| s.one(&m.peers)),
    shard_gauge("millrace_tracks", "Tracks received.", |m, s| s.one(&m.tracks)),
    shard_gauge("millrace_subscribers", "Subscriptions to tracks.", |m, s| s.one(&m.subscribers)),
    Family {
        name: "millrace_forward_latency_seconds",
        help: "From the receive of a packet to the end of its send, one for each packet sent.",
        kind: MetricType::HISTOGRAM,
        labels: SHARD,
        read: Read::Shard(|m, s| s.histogram(&m.forward_latency)),
    },
    // The control plane.
    node_gauge("millrace_streams", &[], "Streams that exist.", |m, s| s.one(&m.streams)),
    node_gauge("millrace_publishers", PROTOCOL, "Publishers connected.", |m, s| s.by(&m.publishers)),
    node_gauge("millrace_viewers", PROTOCOL, "Viewers connected.", |m, s| s.by(&m.viewers)),
    node_counter("millrace_publishes_total", PROTOCOL, "Publishes accepted.", |m, s| s.by(&m.publishes)),
    node_counter("millrace_plays_total", PROTOCOL, "Plays accepted.", |m, s| s.by(&m.plays)),
    node_counter("millrace_refused_total", &["reason"], "Publishes and plays refused, or ended by the node.", |m, s| s.by(&m.refused)),
    node_gauge("millrace_rtmp_connections", &["role"], "RTMP connections open.", |m, s| s.by(&m.rtmp_connections)),
    node_counter("millrace_rtmp_connections_total", &[], "RTMP connections accepted.", |m, s| s.one(&m.rtmp_connections_total)),
    node_counter("millrace_publisher_bytes_total", PROTOCOL, "Bytes from publishers over TCP.", |m, s| s.by(&m.bytes_in)),
    node_counter("millrace_viewer_bytes_total", PROTOCOL, "Bytes to viewers over TCP.", |m, s| s.by(&m.bytes_out)),
    node_counter("millrace_viewer_frames_dropped_total", PROTOCOL, "Frames that viewers missed because they fell behind.", |m, s| s.by(&m.viewer_frames_dropped)),
    node_gauge("millrace_conversions", &["conversion"], "Conversions that run.", |m, s| s.by(&m.conversions)),
    node_counter("millrace_conversions_instead_total", &["conversion"], "Conversions of sound that were begun here for a stream of another node, as no node on its way makes derived sound.", |m, s| s.by(&m.conversions_instead)),
    node_counter("millrace_conversion_frames_total", &["conversion"], "Frames that came out of a conversion.", |m, s| s.by(&m.conversion_frames)),
    node_counter("millrace_conversion_errors_total", &["conversion"], "Frames that a conversion refused.", |m, s| s.by(&m.conversion_errors)),
    node_counter("millrace_conversion_frames_dropped_total", &["conversion"], "Frames that a conversion left out by policy.", |m, s| s.by(&m.conversion_frames_dropped)),
    node_counter("millrace_http_requests_total", &["route", "status"], "HTTP requests answered.", |m, s| s.by_two(&m.http_requests)),
    node_counter("millrace_queue_overflows_total", &["queue"], "What did not fit a bounded queue.", |m, s| s.by(&m.queue_overflows)),
    node_counter("millrace_panics_total", &[], "Tasks ended by a panic of the node.", |m, s| s.one(&m.panics)),
    // The relay.
    link_gauge("millrace_relay_link_up", "1 while the node has a link to the peer.", |m, s| s.one(&m.up)),
    link_counter("millrace_relay_connections_total", PEER, "Links made to the peer.", |m, s| s.one(&m.connections)),
    link_gauge("millrace_relay_rtt_seconds", "The link's round trip, smoothed.", |m, s| s.seconds(&m.rtt_us)),
    link_gauge("millrace_relay_window_bytes", "The link's congestion window.", |m, s| s.one(&m.window_bytes)),
    link_gauge("millrace_relay_queue_seconds", "How long the picture has waited here that waits longest.", |m, s| s.seconds(&m.queue_us)),
    link_gauge("millrace_relay_path_queue_seconds", "What waits on the path: the round trip beyond its least.", |m, s| s.seconds(&m.path_queue_us)),
    link_gauge("millrace_relay_tracks_received", "Tracks that come from the peer.", |m, s| s.one(&m.tracks_in)),
    link_gauge("millrace_relay_tracks_sent", "Tracks that go to the peer.", |m, s| s.one(&m.tracks_out)),
    link_gauge("millrace_relay_tracks_held_there", "Tracks that the peer holds ready for this node.", |m, s| s.one(&m.held_there)),
    link_gauge("millrace_relay_tracks_held_here", "Tracks that this node holds ready for the peer.", |m, s| s.one(&m.held_here)),
    link_counter("millrace_relay_holds_refused_total", PEER, "Tracks that the peer wanted held here beyond what one may.", |m, s| s.one(&m.not_held)),
    link_counter("millrace_relay_sent_bytes_total", PEER, "Bytes of the datagrams sent to the peer.", |m, s| s.one(&m.sent_bytes)),
    link_counter("millrace_relay_stream_bytes_total", PEER, "Bytes of media sent to the peer by streams.", |m, s| s.one(&m.stream_bytes)),
    link_counter("millrace_relay_datagrams_total", &["peer", "event"], "Datagrams of media, by what became of them.", |m, s| s.by(&m.events)),
    link_counter("millrace_relay_packets_dropped_total", &["peer", "reason"], "Packets for the peer that were not sent.", |m, s| s.by(&m.drops)),
    node_counter("millrace_relay_switches_total", &["reason"], "Tracks that come by another way than before.", |m, s| s.by(&m.switches)),
    Family {
        name: "millrace_relay_switch_gap_seconds",
        help: "Between a track's last packet by one way and its first new one by the next.",
        kind: MetricType::HISTOGRAM,
        labels: &[],
        read: Read::Node(|m, s| s.histogram(&m.switch_gap)),
    },
    Family {
        name: "millrace_relay_age_seconds",
        help: "How old packets are when they arrive from the peer, since they came into the cluster.",
        kind: MetricType::HISTOGRAM,
        labels: PEER,
        read: Read::Link(|m, s| s.histogram(&m.age)),
    },
    // The directory.
    node_gauge("millrace_directory_connected", &[], "1 while there is a connection to the directory.", |m, s| s.one(&m.directory_connected)),
    node_counter("millrace_directory_restarts_total", &[], "Connections to the directory that ended or did not come to be.", |m, s| s.one(&m.directory_restarts)),
    node_gauge("millrace_directory_nodes", &[], "Nodes in the directory whose leases run.", |m, s| s.one(&m.directory_nodes)),
    node_gauge("millrace_directory_rubbish", &[], "Records of the directory that were no such.", |m, s| s.one(&m.directory_rubbish)),
    node_gauge("millrace_directory_claims", &[], "Streams that publishers of this node have.", |m, s| s.one(&m.claims_held)),
    node_counter("millrace_directory_events_total", &["event"], "What became of claims.", |m, s| s.by(&m.directory)),
    Family {
        name: "millrace_directory_claim_seconds",
        help: "How long publishers waited for their claim.",
        kind: MetricType::HISTOGRAM,
        labels: &[],
        read: Read::Node(|m, s| s.histogram(&m.claim_time)),
    },
    // The process.
    Family {
        name: "millrace_build_info",
        help: "The version that runs; always 1.",
        kind: MetricType::GAUGE,
        labels: &["version", "arch"],
        read: Read::Info(&[env!("CARGO_PKG_VERSION"), std::env::consts::ARCH]),
    },
    process("process_cpu_seconds_total", MetricType::COUNTER, "CPU time, user and system.", |p| p.cpu_seconds),
    process("process_resident_memory_bytes", MetricType::GAUGE, "Resident memory.", |p| p.resident_bytes),
    process("process_virtual_memory_bytes", MetricType::GAUGE, "Virtual memory.", |p| p.virtual_bytes),
    process("process_threads", MetricType::GAUGE, "Threads.", |p| p.threads),
    process("process_open_fds", MetricType::GAUGE, "Open file descriptors.", |p| p.open_fds),
    process("process_max_fds", MetricType::GAUGE, "The limit of open file descriptors.", |p| p.max_fds),
    process("process_start_time_seconds", MetricType::GAUGE, "When the process started, since 1970.", |p| p.start_time_seconds),
];

impl Family {
    /// Reads the samples of this metric.
    pub(crate) fn collect(&self, sources: &Sources<'_>) -> MetricFamily {
        let mut samples = Samples { kind: self.kind, names: self.labels, of: None, metrics: Vec::new() };
        match self.read {
            Read::Shard(read) => {
                for (i, shard) in sources.shards.iter().enumerate() {
                    samples.of = Some(i.to_string());
                    read(shard, &mut samples);
                }
            }
            Read::Node(read) => read(sources.node, &mut samples),
            Read::Link(read) => {
                for (peer, link) in &sources.node.links() {
                    samples.of = Some(peer.clone());
                    read(link, &mut samples);
                }
            }
            Read::Process(read) => {
                if let Some(value) = read(sources.process) {
                    samples.push(&[], value);
                }
            }
            Read::Info(values) => samples.push(values, 1.0),
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.into());
        family.set_help(self.help.into());
        family.set_field_type(self.kind);
        family.set_metric(samples.metrics);
        family
    }
}

/// Samples of one family, being collected.
struct Samples {
    kind: MetricType,
    names: &'static [&'static str],
    /// The value of the first label, for a shard's or a link's samples.
    of: Option<String>,
    metrics: Vec<proto::Metric>,
}

impl Samples {
    fn one(&mut self, value: &impl Value) {
        self.push(&[], value.value());
    }

    fn seconds(&mut self, us: &impl Value) {
        self.push(&[], us.value() / 1e6);
    }

    fn by<L: Label, C: Value, const N: usize>(&mut self, by: &By<L, C, N>) {
        for (label, value) in by.iter() {
            self.push(&[label.text()], value.value());
        }
    }

    fn by_two<L: Label, M: Label, C: Value, const N: usize, const O: usize>(
        &mut self,
        by: &By<L, By<M, C, O>, N>,
    ) {
        for (first, by) in by.iter() {
            for (second, value) in by.iter() {
                self.push(&[first.text(), second.text()], value.value());
            }
        }
    }

    fn push(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.labelled(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    fn histogram(&mut self, histogram: &Histogram) {
        let seconds = |us: u64| us as f64 / 1e6;
        let mut buckets = Vec::new();
        for (bound_us, count) in histogram.cumulative() {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(bound_us));
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut out = proto::Histogram::default();
        // Read after the buckets: a packet counted between must not make the total less than a bucket.
        out.set_sample_count(histogram.count());
        out.set_sample_sum(seconds(histogram.sum_us()));
        out.set_bucket(buckets);
        let mut metric = self.labelled(&[]);
        metric.set_histogram(out);
        self.metrics.push(metric);
    }

    /// A metric with its labels: the shard or the peer, if it is one's, then `labels`.
    fn labelled(&self, labels: &[&str]) -> proto::Metric {
        let values = self.of.as_deref().into_iter().chain(labels.iter().copied());
        let pairs = self.names.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value(value.into());
            pair
        });
        proto::Metric::from_label(pairs.collect())
    }
}

/// A number a sample can show.
trait Value {
    fn value(&self) -> f64;
}

macro_rules! values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn value(&self) -> f64 {
                self.get() as f64
            }
        }
    )*};
}

values!(Counter, Gauge, SharedCounter, SharedGauge);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Conversion, DropReason, PacketKind, Phase, Protocol, Queue, Refusal, Route, RtmpRole, StatusClass,
    };

    fn type_name(kind: MetricType) -> &'static str {
        match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ => "untyped",
        }
    }

    fn document() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md")).unwrap()
    }

    #[test]
    fn every_metric_has_its_row_in_the_document_and_no_other() {
        let document = document();
        for family in FAMILIES {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let start = format!("| `{}` | {} | {} |", family.name, type_name(family.kind), labels.join(", "));
            let start = start.replace("|  |", "| |");
            assert!(
                document.lines().any(|line| line.starts_with(&start)),
                "docs/METRICS.md lacks\n{start} {} |",
                family.help
            );
        }
        for row in document.lines().filter_map(|l| l.strip_prefix("| `")) {
            let name = row.split('`').next().unwrap_or_default();
            if name.starts_with("millrace_") || name.starts_with("process_") {
                assert!(
                    FAMILIES.iter().any(|f| f.name == name),
                    "docs/METRICS.md has {name}, which does not exist"
                );
            }
        }
    }

    #[test]
    fn every_label_value_is_in_the_document() {
        fn check<L: Label>(document: &str, name: &str) {
            for value in L::VALUES {
                let row = format!("| {name} | `{}` |", value.text());
                assert!(document.contains(&row), "docs/METRICS.md lacks {row}");
            }
        }
        let document = document();
        check::<PacketKind>(&document, "kind");
        check::<DropReason>(&document, "drop reason");
        check::<Phase>(&document, "phase");
        check::<Protocol>(&document, "protocol");
        check::<Refusal>(&document, "refusal reason");
        check::<RtmpRole>(&document, "role");
        check::<crate::RelayEvent>(&document, "relay event");
        check::<crate::DirectoryEvent>(&document, "directory event");
        check::<crate::RelayDrop>(&document, "relay drop reason");
        check::<crate::RelaySwitch>(&document, "relay switch reason");
        check::<Conversion>(&document, "conversion");
        check::<Route>(&document, "route");
        check::<StatusClass>(&document, "status");
        check::<Queue>(&document, "queue");
    }

    #[test]
    fn names_follow_the_conventions() {
        for family in FAMILIES {
            let counter = family.kind == MetricType::COUNTER;
            assert_eq!(family.name.ends_with("_total"), counter, "{}", family.name);
            assert!(!family.help.is_empty() && family.help.ends_with('.'), "{}", family.name);
            let shard = matches!(family.read, Read::Shard(_));
            assert_eq!(family.labels.first() == Some(&"shard"), shard, "{}", family.name);
            let link = matches!(family.read, Read::Link(_));
            assert_eq!(family.labels.first() == Some(&"peer"), link, "{}", family.name);
        }
    }

    #[test]
    fn every_sample_has_all_its_labels() {
        let shards = [Arc::new(ShardMetrics::default())];
        let node = NodeMetrics::default();
        node.link("b");
        let sources = Sources { shards: &shards, node: &node, process: &Process::read() };
        for family in FAMILIES {
            let collected = family.collect(&sources);
            assert!(!collected.get_metric().is_empty(), "{} has no samples", family.name);
            for metric in collected.get_metric() {
                assert_eq!(metric.get_label().len(), family.labels.len(), "{}", family.name);
            }
        }
    }
}
