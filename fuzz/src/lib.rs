//! Fuzz targets: one for each parser of outside bytes, each a function of the bytes alone.
//!
//! A target panics when a promise of the parser is broken: by itself (an overflow, an index), or by an assertion of the
//! target (what was written is not what is read back, a stranger's connection holds more than it may). They run under the
//! driver of this crate on stable Rust, and under libFuzzer on nightly; see README.md.

pub mod input;
pub mod memory;
pub mod mutate;
pub mod novelty;
pub mod run;
pub mod seeds;
pub mod targets;

// The node's converters by their files: as a dependency the node would bring its whole HTTP and runtime side along.
#[path = "../../src/convert/mod.rs"]
pub mod convert;

/// A parser to try.
#[derive(Debug)]
pub struct Target {
    /// Its name, also of its folder of seeds.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Inputs are cut at this length: what a datagram or the parser's own bound allows, or what a few chunks need.
    pub len_max: usize,
    /// Folders with more seeds, from this crate's folder: test data of the crates, not copied.
    pub seeds_elsewhere: &'static [&'static str],
}

const fn new(name: &'static str, run: fn(&[u8]), len_max: usize) -> Target {
    Target { name, run, len_max, seeds_elsewhere: &[] }
}

/// A UDP datagram's usable length, a little more than any network gives.
const DATAGRAM_LEN_MAX: usize = 2_048;

/// Every target, in the order the bytes meet them.
pub const TARGETS: &[Target] = &[
    new("stun", targets::rtc::stun, DATAGRAM_LEN_MAX),
    new("rtp", targets::rtc::rtp, DATAGRAM_LEN_MAX),
    new("rtcp", targets::rtc::rtcp, DATAGRAM_LEN_MAX),
    new("twcc_recorder", targets::rtc::twcc_recorder, DATAGRAM_LEN_MAX),
    Target {
        seeds_elsewhere: &["../transport/rtc/src/sdp/fixtures"],
        ..new("sdp_offer", targets::rtc::sdp_offer, 16 * 1024)
    },
    new("sdp_fragment", targets::rtc::sdp_fragment, 8 * 1024),
    new("session", targets::session::session, 8 * 1024),
    new("shard", targets::shard::shard, 16 * 1024),
    new("relay_datagram", targets::relay::datagram, DATAGRAM_LEN_MAX),
    new("relay_hop", targets::relay::hop, 4_096),
    new("relay_control", targets::relay::control, 8 * 1024),
    new("relay_flow", targets::relay::flow, 8 * 1024),
    new("relay_stream", targets::relay::stream, 8 * 1024),
    new("layers", targets::shard::layers, 16 * 1024),
    new("rtmp_handshake", targets::rtmp::handshake, 8 * 1024),
    new("rtmp_chunk", targets::rtmp::chunk, 32 * 1024),
    new("rtmp_server", targets::rtmp::server, 32 * 1024),
    new("rtmp_messages", targets::rtmp::messages, 8 * 1024),
    new("rtmp_client", targets::rtmp::client, 32 * 1024),
    new("amf0", targets::media::amf0, 32 * 1024),
    new("flv_reader", targets::media::flv_reader, 16 * 1024),
    new("flv_demuxer", targets::media::flv_demuxer, 16 * 1024),
    new("h264_access_unit", targets::media::h264_access_unit, 16 * 1024),
    new("h264_config", targets::media::h264_config, 8 * 1024),
    new("h264_packets", targets::media::h264_packets, 16 * 1024),
    new("payload", targets::media::payload, DATAGRAM_LEN_MAX),
    new("dependency", targets::media::dependency, DATAGRAM_LEN_MAX),
    new("aac", targets::media::aac, 8 * 1024),
    new("opus_to_aac", targets::convert::opus_to_aac, 8 * 1024),
    new("aac_to_opus", targets::convert::aac_to_opus, 8 * 1024),
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
