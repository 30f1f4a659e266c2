//! What goes in and out of a shard besides datagrams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use media::{Codec, Kind, Packet};

use crate::allocate::{LAYERS_MAX, Layer, LayerReason, LayerRequest, Layers};
use crate::estimate::EstimateCell;
use crate::wanted::Wanted;

/// A shard's number: also its UDP port's offset from the base port.
pub type ShardId = usize;

/// A WebRTC session's id, unique in the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u64);

/// A stream's id, unique in the process; names are for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// Who feeds a stream: drawn anew for each publisher and each conversion, rising. It fences: a track takes packets of the highest
/// it has seen and refuses older ones, so two sources never mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceId(pub u64);

/// One track of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TrackKey {
    /// The stream.
    pub stream: StreamId,
    /// Audio or video.
    pub kind: Kind,
    /// Which encoding of simulcast, by its place in the publisher's SDP; 0 for everything without.
    pub layer: u8,
    /// Sound in the form that the publisher does not send. Shards have none of it: it is for nodes.
    pub derived: bool,
}

impl TrackKey {
    /// The first or only encoding.
    pub const fn new(stream: StreamId, kind: Kind) -> TrackKey {
        TrackKey { stream, kind, layer: 0, derived: false }
    }

    /// That encoding of the picture.
    pub const fn picture(stream: StreamId, layer: u8) -> TrackKey {
        TrackKey { layer, ..TrackKey::new(stream, Kind::Video) }
    }
}

/// Orders from the control plane. They are never dropped.
#[derive(Debug)]
pub enum Command {
    /// A session was negotiated; its browser's first check may arrive any moment.
    AddPeer(Box<PeerConfig>),
    /// New ICE credentials of a session (RFC 9725 section 4.3.3); its keys and its pair stay until the client nominates another.
    RestartIce {
        /// The session.
        peer: PeerId,
        /// Ours.
        local: rtc::ice::Credentials,
        /// The client's.
        remote: rtc::ice::Credentials,
    },
    /// The session ends (DELETE, kick, drain).
    RemovePeer(PeerId, CloseReason),
    /// Give the packets of a track to the control plane too ([`Event::Tapped`]), from now on; a key frame is asked for.
    Tap(TrackKey),
    /// Stop giving them.
    Untap(TrackKey),
    /// Somebody outside this shard needs a key frame of a track that lives here.
    RequestKeyFrame(TrackKey),
    /// A maker of [`Mail::Packets`] stops.
    EndSource(TrackKey, SourceId),
    /// A stream that is at home here comes from another node: its tracks are mirrored from that shard number, the relay's, while somebody takes them.
    /// `None`: it does no more.
    Relay(StreamId, Option<ShardId>),
    /// What a subscriber wants of its stream's encodings.
    RequestLayer(PeerId, LayerRequest),
    /// A publisher can hear which of its encodings are wanted ([`Event::Wanted`]), or cannot any more. Without it all are.
    HearWishes(PeerId, bool),
    /// What a subscriber's path carries, in bit/s; `u64::MAX` while nobody knows.
    Estimate(PeerId, u64),
}

/// What shards, and the relay as one more of them, tell each other, and what the control plane's packetizers send them. Media may be dropped when a mailbox is
/// full, and is counted there.
#[derive(Clone, Debug)]
pub enum Mail {
    /// Packets made outside the media plane (from RTMP), or of another node, in their source's own numbering.
    Packets {
        /// The track, at home on the receiving shard.
        track: TrackKey,
        /// Their maker.
        source: SourceId,
        /// In order.
        packets: Arc<[Packet]>,
    },
    /// So many packets of such a source, from this number on, do not come: the way here takes less, and their frames were left out.
    LeftOut {
        /// The track.
        track: TrackKey,
        /// Whose numbers they are.
        source: SourceId,
        /// The first.
        seq: u64,
        /// How many.
        count: u32,
    },
    /// Packets of a track at home on another shard, in the track's numbering.
    Mirrored {
        /// The track.
        track: TrackKey,
        /// Its source answers key-frame requests.
        answers: bool,
        /// For a [`Mail::Mirror`]: what the ring has from its key frame on. Else it is news, for all who mirror.
        backlog: bool,
        /// As the home shard's ring has them.
        packets: Arc<[Packet]>,
    },
    /// The sender has its first subscriber of a track that is at home here.
    Mirror(TrackKey, ShardId),
    /// The sender's last subscriber of the track is gone.
    Unmirror(TrackKey, ShardId),
    /// A subscriber on another shard needs a key frame.
    RequestKeyFrame(TrackKey),
    /// What a stream's encodings are like, from its home to the shards that mirror one.
    Layers {
        /// The stream.
        stream: StreamId,
        /// As measured at home.
        layers: Layers,
    },
}

/// What a shard tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// DTLS is through; media may flow.
    Connected(PeerId),
    /// The session is over and forgotten here.
    Closed(PeerId, CloseReason),
    /// A published track's first packet, or its first of another codec.
    Codec(PeerId, TrackKey, Codec),
    /// Which of its encodings a publisher is to send from now on: those that somebody takes, and all below.
    Wanted(PeerId, Wanted),
    /// Packets of a tapped track, in arrival order, once a tick.
    Tapped(TrackKey, Vec<Packet>),
}

/// Why a session ended. The text is shown in logs and the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The client sent DELETE or a DTLS close_notify.
    Left,
    /// The client ended DTLS with an alert.
    DtlsFailed,
    /// ICE and DTLS did not end in time.
    NotConnected,
    /// No authenticated consent check within 30 s (RFC 7675).
    ConsentLost,
    /// Another client got through its handshake from this one's address: this one is not there any more.
    AddressTaken,
    /// The peer's certificate is not the one its SDP announced.
    WrongFingerprint,
    /// The source's codec was not negotiated with this viewer.
    CodecNotNegotiated(Codec),
    /// The source has B-frames, and the settings say that such a stream is not given to WebRTC viewers.
    BFrames,
    /// An operator's API call.
    Kicked,
    /// The node is stopping.
    Drained,
    /// The publisher was replaced by a newer session.
    Replaced,
    /// A bug here; counted, and the others go on.
    Internal,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CloseReason::Left => f.write_str("the client left"),
            CloseReason::DtlsFailed => f.write_str("the client ended DTLS with an alert"),
            CloseReason::NotConnected => f.write_str("ICE and DTLS did not complete in time"),
            CloseReason::ConsentLost => {
                f.write_str("the client stopped answering (no consent check for 30 s)")
            }
            CloseReason::AddressTaken => f.write_str("the client's address is another's now"),
            CloseReason::WrongFingerprint => f.write_str("the DTLS certificate is not the one of the SDP"),
            CloseReason::CodecNotNegotiated(codec) => {
                write!(f, "the stream is {}, which this session did not negotiate", codec.name())
            }
            CloseReason::BFrames => f.write_str("the source has B-frames, and video.b_frames is \"refuse\""),
            CloseReason::Kicked => f.write_str("ended by the operator"),
            CloseReason::Drained => f.write_str("the node is stopping"),
            CloseReason::Replaced => f.write_str("replaced by a newer publisher"),
            CloseReason::Internal => f.write_str("internal error"),
        }
    }
}

impl From<rtc::session::CloseReason> for CloseReason {
    fn from(reason: rtc::session::CloseReason) -> CloseReason {
        use rtc::session::CloseReason as Why;
        match reason {
            Why::PeerClosed => CloseReason::Left,
            Why::PeerAlert => CloseReason::DtlsFailed,
            Why::HandshakeTimeout => CloseReason::NotConnected,
            Why::FingerprintMismatch => CloseReason::WrongFingerprint,
            Why::ConsentExpired => CloseReason::ConsentLost,
            Why::Local => CloseReason::Drained,
        }
    }
}

/// All a shard needs to serve one session.
#[derive(Debug)]
pub struct PeerConfig {
    /// Its id.
    pub id: PeerId,
    /// ICE, DTLS and SRTP.
    pub session: rtc::session::SessionConfig,
    /// What SDP agreed on.
    pub negotiated: rtc::sdp::Negotiated,
    /// Publisher or subscriber.
    pub role: PeerRole,
    /// The stream's tracks are at home on this shard.
    pub home: ShardId,
    /// Figures the API reads.
    pub stats: Arc<PeerStats>,
    /// RTCP CNAME and SSRCs towards a subscriber are drawn from here.
    pub seed: u64,
}

/// What a session does.
#[derive(Clone, Debug)]
pub enum PeerRole {
    /// Sends a stream to us.
    Publish {
        /// The stream.
        stream: StreamId,
        /// Its fence.
        source: SourceId,
    },
    /// Takes a stream from us.
    Subscribe {
        /// The stream.
        stream: StreamId,
        /// SSRC of audio.
        audio_ssrc: u32,
        /// SSRC of video.
        video_ssrc: u32,
        /// SSRC of retransmitted video (RFC 4588), used where RTX was negotiated.
        video_rtx_ssrc: u32,
    },
}

/// One session's figures: the shard writes, anybody reads.
#[derive(Default, Debug)]
pub struct PeerStats {
    /// RTP bytes received, headers included, SRTP tags not.
    pub bytes_in: AtomicU64,
    /// RTP packets received.
    pub packets_in: AtomicU64,
    /// RTP bytes sent.
    pub bytes_out: AtomicU64,
    /// RTP packets sent, retransmissions included.
    pub packets_out: AtomicU64,
    /// Retransmissions sent.
    pub resent: AtomicU64,
    /// Their bytes, RTP headers included; part of `bytes_out`.
    pub resent_bytes: AtomicU64,
    /// Sequence numbers the peer asked for again.
    pub nacks_in: AtomicU64,
    /// Of those, what was not in the ring any more, or never was.
    pub nacks_missed: AtomicU64,
    /// Of those, what the resend guard or the budget refused.
    pub nacks_refused: AtomicU64,
    /// Sequence numbers we asked the peer for again.
    pub nacks_out: AtomicU64,
    /// Packets of sound and picture that a publisher lost for good; those that a subscriber reports as lost, before their repair.
    pub lost: AtomicU64,
    /// Key frames the peer asked for.
    pub plis_in: AtomicU64,
    /// Key frames we asked the peer for.
    pub plis_out: AtomicU64,
    /// Video frames received (packets with the marker bit).
    pub frames_in: AtomicU64,
    /// Video frames of the track whose end was not sent to a subscriber: it waited for a key frame, or there was no room.
    pub frames_dropped: AtomicU64,
    /// Holes in the video sent to a subscriber of more than three frame intervals. A hole is counted when it ends.
    pub freezes: AtomicU64,
    /// Their length together, in microseconds.
    pub freeze_us: AtomicU64,
    /// When ICE and DTLS were through, in microseconds of the shard's time; 0 before.
    pub connected_us: AtomicI64,
    /// Round-trip time in microseconds; 0 while unknown.
    pub rtt_us: AtomicI64,
    /// Last reported fraction lost, of 256; of a subscriber's tracks the worse one's.
    pub fraction_lost: AtomicU64,
    /// How long the oldest packet that waits for a subscriber's pacer has been here, in microseconds, when it was last looked at.
    pub queue_us: AtomicI64,
    /// What a subscriber's link is estimated to take, in bit/s; 0 while nothing is known.
    pub estimate_bps: AtomicU64,
    /// How that comes about.
    pub estimate: EstimateCell,
    /// What a subscriber's tracks take now, in bit/s: all their frames, or the temporal layers that were chosen of one of several encodings.
    pub needs_bps: AtomicU64,
    /// The link is held to take less than that: a subscriber of a source with one encoding gets fewer frames.
    pub limited: AtomicBool,
    /// Of those `resent`, packets that nobody asked for: the subscriber's transport-wide feedback said that they are lost.
    pub resent_unasked: AtomicU64,
    /// Packets sent again to probe for bandwidth: nobody asked for them, and they are not among `resent`.
    pub probe_copies: AtomicU64,
    /// Their bytes, RTP headers included; part of `bytes_out`.
    pub probe_copy_bytes: AtomicU64,
    /// RTP bytes of padding sent: probes for bandwidth where there was nothing to send again.
    pub padding_bytes_out: AtomicU64,
    /// Frames that a subscriber did not get because its link takes fewer.
    pub frames_congested: AtomicU64,
    /// Frames of temporal layers above the one that a subscriber gets.
    pub frames_above: AtomicU64,
    /// A viewer's encoding, its height, why, and how often it changed: see [`PeerStats::layer`].
    layer: AtomicU64,
    /// A publisher's encodings: see [`PeerStats::encodings`].
    encodings: [AtomicU64; LAYERS_MAX],
}

/// Which encoding a viewer gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerShown {
    /// Its index; 0 for a source with one.
    pub layer: u8,
    /// Its height, 0 while unknown.
    pub height: u32,
    /// The uppermost of its temporal layers that is sent; `None` for all.
    pub temporal: Option<u8>,
    /// Why no other.
    pub reason: LayerReason,
    /// Changes so far.
    pub switches: u32,
}

impl PeerStats {
    /// Which encoding a viewer gets.
    pub fn layer(&self) -> LayerShown {
        let [layers, reason, height0, height1, switches @ ..] =
            self.layer.load(Ordering::Relaxed).to_be_bytes();
        LayerShown {
            layer: layers & 0xf,
            temporal: (layers >> 4).checked_sub(1),
            height: u32::from(u16::from_be_bytes([height0, height1])),
            reason: LayerReason::from_number(reason),
            switches: u32::from_be_bytes(switches),
        }
    }

    /// A publisher's encodings as they are measured, by index; their rate in whole kbit/s, and not that of each temporal layer.
    pub fn encodings(&self) -> Layers {
        self.encodings.each_ref().map(|packed| {
            let [flags, temporal_layers, height0, height1, kbps @ ..] =
                packed.load(Ordering::Relaxed).to_be_bytes();
            Layer {
                rate_bps: u64::from(u32::from_be_bytes(kbps)) * 1_000,
                height: u32::from(u16::from_be_bytes([height0, height1])),
                flows: flags & 1 != 0,
                live: flags & 2 != 0,
                paused: flags & 4 != 0,
                temporal_layers,
                temporal_bps: Default::default(),
            }
        })
    }

    pub(crate) fn set_encoding(&self, index: usize, layer: &Layer) {
        let [height0, height1] = (layer.height.min(u32::from(u16::MAX)) as u16).to_be_bytes();
        let [a, b, c, d] = ((layer.rate_bps / 1_000).min(u64::from(u32::MAX)) as u32).to_be_bytes();
        let flags = u8::from(layer.flows) | u8::from(layer.live) << 1 | u8::from(layer.paused) << 2;
        if let Some(figure) = self.encodings.get(index) {
            figure.store(
                u64::from_be_bytes([flags, layer.temporal_layers, height0, height1, a, b, c, d]),
                Ordering::Relaxed,
            );
        }
    }

    /// One figure, so that its parts belong together.
    pub(crate) fn set_layer(&self, shown: LayerShown) {
        let [height0, height1] = (shown.height.min(u32::from(u16::MAX)) as u16).to_be_bytes();
        let [a, b, c, d] = shown.switches.to_be_bytes();
        let layers = shown.layer & 0xf | shown.temporal.map_or(0, |temporal| temporal + 1) << 4;
        let packed = u64::from_be_bytes([layers, shown.reason as u8, height0, height1, a, b, c, d]);
        self.layer.store(packed, Ordering::Relaxed);
    }
}

/// Adds without a locked instruction: each figure has one writer, its shard.
pub(crate) fn bump(figure: &AtomicU64, by: u64) {
    figure.store(figure.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
