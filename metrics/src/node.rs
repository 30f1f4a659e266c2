//! What the control plane counts.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::{By, Histogram, SharedCounter, SharedGauge};

labels! {
    /// How a publisher or viewer is connected. The label is the metric's `protocol`.
    Protocol {
        /// RTMP.
        Rtmp = "rtmp",
        /// WHIP, WHEP and the SRS-compatible calls.
        WebRtc = "webrtc",
        /// FLV over HTTP.
        HttpFlv = "http_flv",
        /// FLV over WebSocket.
        WsFlv = "ws_flv",
    }
}

labels! {
    /// What an RTMP connection has asked for. The label is the metric's `role`.
    RtmpRole {
        /// Neither yet: handshake, connect.
        Undecided = "undecided",
        /// It publishes.
        Publisher = "publisher",
        /// It plays.
        Player = "player",
    }
}

labels! {
    /// Why a publish or play was refused or ended by us. The label is the metric's `reason`.
    Refusal {
        /// Bytes that are not the protocol.
        ProtocolError = "protocol_error",
        /// A name, SDP or parameter that is not valid.
        BadRequest = "bad_request",
        /// No token, or a wrong one.
        Unauthorized = "unauthorized",
        /// The name has a publisher.
        NameTaken = "name_taken",
        /// No such stream or session.
        NotFound = "not_found",
        /// A codec this side cannot carry.
        UnsupportedCodec = "unsupported_codec",
        /// Larger than a limit of the settings.
        TooLarge = "too_large",
        /// Too many connections or sessions.
        TooMany = "too_many",
        /// The handshake or a promised packet did not come in time.
        Timeout = "timeout",
        /// The node is draining.
        Draining = "draining",
        /// An error of ours.
        Internal = "internal",
    }
}

labels! {
    /// A conversion between the frame and the packet world. The label is the metric's `conversion`.
    Conversion {
        /// AAC decoded and encoded as Opus.
        AacToOpus = "aac_to_opus",
        /// Opus decoded and encoded as AAC.
        OpusToAac = "opus_to_aac",
        /// H.264 access units cut into RTP packets.
        FramesToPackets = "frames_to_packets",
        /// RTP packets joined into H.264 access units.
        PacketsToFrames = "packets_to_frames",
    }
}

labels! {
    /// What an HTTP request asked for. The label is the metric's `route`.
    Route {
        /// WHIP: POST, OPTIONS.
        Whip = "whip",
        /// WHEP.
        Whep = "whep",
        /// A WHIP or WHEP session: PATCH, DELETE.
        Session = "session",
        /// FLV over HTTP or WebSocket.
        Flv = "flv",
        /// The SRS-compatible WebRTC calls.
        SrsRtc = "srs_rtc",
        /// `/api/v1/...`.
        Api = "api",
        /// Pages and their assets.
        Page = "page",
        /// The operations listener.
        Ops = "ops",
        /// Anything else.
        Other = "other",
    }
}

labels! {
    /// The class of an HTTP status. The label is the metric's `status`.
    StatusClass {
        /// 100 to 199 (WebSocket).
        Informational = "1xx",
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirect = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 to 599.
        ServerError = "5xx",
    }
}

impl StatusClass {
    /// The class of a status code; what is no status counts as a server error, for only we make them.
    pub const fn of(status: u16) -> StatusClass {
        match status / 100 {
            1 => StatusClass::Informational,
            2 => StatusClass::Success,
            3 => StatusClass::Redirect,
            4 => StatusClass::ClientError,
            _ => StatusClass::ServerError,
        }
    }
}

labels! {
    /// A bounded queue of the control plane. The label is the metric's `queue`.
    Queue {
        /// Log lines waiting for the writer; full: the line is lost.
        Log = "log",
        /// Commands to a shard; full: the request is refused.
        ShardCommands = "shard_commands",
        /// Media to a shard; full: the packet is dropped.
        ShardMedia = "shard_media",
        /// Frames to a conversion; full: the frame is dropped.
        Conversion = "conversion",
        /// Handshakes of other nodes; full: the connection is refused.
        RelayHandshakes = "relay_handshakes",
        /// Datagrams of another node that wait for what its stream has before them; full: the packet is dropped.
        RelayHeld = "relay_held",
    }
}

labels! {
    /// What a link to another node counts, in datagrams of media. The label is the metric's `event`.
    RelayEvent {
        /// Sent, those sent again not included.
        Sent = "sent",
        /// Received, and of use.
        Received = "received",
        /// Received behind a later one, without having been asked for.
        Reordered = "reordered",
        /// Received a second time.
        Duplicate = "duplicate",
        /// Asked for again (NACK sent), each time counted.
        Asked = "asked",
        /// Received as they were sent again.
        Repaired = "repaired",
        /// Given up: the deadline passed, or too many were missing.
        Lost = "lost",
        /// The peer asked for them (NACK received).
        Nacked = "nacked",
        /// Sent again.
        Resent = "resent",
        /// The peer asked too late, or for what is kept no more.
        Late = "late",
        /// The peer asked again before the answer could be there.
        Refused = "refused",
    }
}

labels! {
    /// Why a packet for another node was not sent. The label is the metric's `reason`.
    RelayDrop {
        /// The link takes less than comes: nothing refers to it, or it is before the next key frame.
        LeftOut = "left_out",
        /// It grew too old in the queue.
        Expired = "expired",
        /// The queue was full.
        Overflowed = "overflowed",
        /// The path takes no datagram of its size any more: the peer asks for it and has it in two.
        TooLarge = "too_large",
        /// It waited for a stream that was too far behind: the track begins anew.
        Behind = "behind",
        /// What its track is (the codec's configuration) fits no message: the peer could not read it.
        Untold = "untold",
    }
}

labels! {
    /// What becomes of claims in the directory. The label is the metric's `event`.
    DirectoryEvent {
        /// A publisher's stream was claimed.
        Claimed = "claimed",
        /// It could not be, as the directory was away: the publisher was taken all the same.
        Unclaimed = "unclaimed",
        /// Claimed later.
        Reclaimed = "reclaimed",
        /// Another node has it: the publisher was refused.
        Refused = "refused",
        /// Another node has a newer publisher: this one's was ended.
        Lost = "lost",
    }
}

labels! {
    /// Why a track comes by another way than before. The label is the metric's `reason`.
    RelaySwitch {
        /// The link by which it came is gone.
        Lost = "lost",
        /// The peer stops.
        Drains = "drains",
        /// The other way is shorter, or costs less.
        Better = "better",
    }
}

/// What is counted of the link to one peer, over all its connections. The relay's task alone writes.
#[derive(Default, Debug)]
pub struct LinkMetrics {
    /// 1 while it is connected.
    pub up: SharedGauge,
    /// 1 once the peer said that it stops.
    pub draining: SharedGauge,
    /// Connections made.
    pub connections: SharedCounter,
    /// Round trip, smoothed, in microseconds; 0 while there is none.
    pub rtt_us: SharedGauge,
    /// The congestion window.
    pub window_bytes: SharedGauge,
    /// How long the picture waited that waits longest here, in microseconds.
    pub queue_us: SharedGauge,
    /// What waits on the path, in microseconds.
    pub path_queue_us: SharedGauge,
    /// Tracks that come.
    pub tracks_in: SharedGauge,
    /// Tracks that go.
    pub tracks_out: SharedGauge,
    /// Tracks that the peer holds for this node: they would come from there next.
    pub held_there: SharedGauge,
    /// Tracks that this node holds for the peer.
    pub held_here: SharedGauge,
    /// Tracks that it was asked to hold, and does not: there are too many.
    pub not_held: SharedCounter,
    /// Bytes of all datagrams sent.
    pub sent_bytes: SharedCounter,
    /// Bytes of media sent by streams.
    pub stream_bytes: SharedCounter,
    /// Datagrams of media.
    pub events: By<RelayEvent, SharedCounter, { RelayEvent::COUNT }>,
    /// Packets not sent.
    pub drops: By<RelayDrop, SharedCounter, { RelayDrop::COUNT }>,
    /// How old packets are when they arrive, since they came into the cluster.
    pub age: Histogram,
}

impl LinkMetrics {
    /// There is no connection any more.
    pub fn went_down(&self) {
        for gauge in [&self.up, &self.draining, &self.rtt_us, &self.window_bytes, &self.queue_us] {
            gauge.set(0);
        }
        for gauge in [&self.path_queue_us, &self.tracks_in, &self.tracks_out] {
            gauge.set(0);
        }
        for gauge in [&self.held_there, &self.held_here] {
            gauge.set(0);
        }
    }
}

/// The control plane's counters, shared by its tasks.
#[derive(Default, Debug)]
pub struct NodeMetrics {
    /// RTMP connections now.
    pub rtmp_connections: By<RtmpRole, SharedGauge, { RtmpRole::COUNT }>,
    /// RTMP connections accepted.
    pub rtmp_connections_total: SharedCounter,
    /// Publishes accepted.
    pub publishes: By<Protocol, SharedCounter, { Protocol::COUNT }>,
    /// Plays accepted.
    pub plays: By<Protocol, SharedCounter, { Protocol::COUNT }>,
    /// Publishes and plays refused, or ended by us.
    pub refused: By<Refusal, SharedCounter, { Refusal::COUNT }>,
    /// Publishers now.
    pub publishers: By<Protocol, SharedGauge, { Protocol::COUNT }>,
    /// Viewers now.
    pub viewers: By<Protocol, SharedGauge, { Protocol::COUNT }>,
    /// Streams now (with a publisher, within its grace time, or awaited by a viewer).
    pub streams: SharedGauge,
    /// Bytes from publishers over TCP.
    pub bytes_in: By<Protocol, SharedCounter, { Protocol::COUNT }>,
    /// Bytes to viewers over TCP.
    pub bytes_out: By<Protocol, SharedCounter, { Protocol::COUNT }>,
    /// Conversions that run now.
    pub conversions: By<Conversion, SharedGauge, { Conversion::COUNT }>,
    /// Those that were begun for a stream of another node, as derived sound is not to be had of it.
    pub conversions_instead: By<Conversion, SharedCounter, { Conversion::COUNT }>,
    /// Frames that came out of a conversion.
    pub conversion_frames: By<Conversion, SharedCounter, { Conversion::COUNT }>,
    /// Frames a conversion refused.
    pub conversion_errors: By<Conversion, SharedCounter, { Conversion::COUNT }>,
    /// Frames a conversion left out by policy (B-frames, before the first key frame).
    pub conversion_frames_dropped: By<Conversion, SharedCounter, { Conversion::COUNT }>,
    /// Frames that viewers missed because they fell behind.
    pub viewer_frames_dropped: By<Protocol, SharedCounter, { Protocol::COUNT }>,
    /// HTTP requests answered.
    pub http_requests: By<Route, By<StatusClass, SharedCounter, { StatusClass::COUNT }>, { Route::COUNT }>,
    /// What did not fit a queue.
    pub queue_overflows: By<Queue, SharedCounter, { Queue::COUNT }>,
    /// Tasks ended by a panic of ours.
    pub panics: SharedCounter,
    /// 1 while there is a connection to the directory.
    pub directory_connected: SharedGauge,
    /// Connections to it that ended.
    pub directory_restarts: SharedCounter,
    /// Nodes whose leases run, this one with them.
    pub directory_nodes: SharedGauge,
    /// Records that were no such.
    pub directory_rubbish: SharedGauge,
    /// Streams that this node has.
    pub claims_held: SharedGauge,
    /// What became of claims.
    pub directory: By<DirectoryEvent, SharedCounter, { DirectoryEvent::COUNT }>,
    /// How long publishers waited for theirs.
    pub claim_time: Histogram,
    /// Tracks that went over to another way from node to node.
    pub switches: By<RelaySwitch, SharedCounter, { RelaySwitch::COUNT }>,
    /// Between the last packet of a track by one way and the first new one by the next.
    pub switch_gap: Histogram,
    /// The links to other nodes, by id: as many as [`LINKS_MAX`], so the number of series is bounded.
    links: RwLock<BTreeMap<String, Arc<LinkMetrics>>>,
}

/// Links that have series of their own; those of others are counted together, as `other`.
pub const LINKS_MAX: usize = 256;

impl NodeMetrics {
    /// The links to other nodes, by their ids.
    pub fn links(&self) -> Vec<(String, Arc<LinkMetrics>)> {
        let links = self.links.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        links.iter().map(|(id, link)| (id.clone(), link.clone())).collect()
    }

    /// The link to that node.
    pub fn link(&self, id: &str) -> Arc<LinkMetrics> {
        let mut links = self.links.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let id = if links.contains_key(id) || links.len() < LINKS_MAX { id } else { "other" };
        links.entry(id.to_owned()).or_default().clone()
    }

    /// Counts an answered HTTP request.
    pub fn http_request(&self, route: Route, status: u16) {
        self.http_requests.of(route).of(StatusClass::of(status)).increment();
    }
}
