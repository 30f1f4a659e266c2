//! A peer: one WebRTC session on its shard, publisher or subscriber. It turns plaintext RTP into a track's packets, and RTCP
//! into work for forwarders; the shard decides the order of things.

mod reports;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use media::payload::Pictures;
use media::payload::dependency::Descriptors;
use media::{Codec, Kind, Temporal, Time, payload};
use metrics::{DropReason, PacketKind, ShardMetrics};
use rtc::rtcp;
use rtc::rtp;
use rtc::sdp::NegotiatedMedia;
use rtc::session::{Protocol, Session};

use crate::command::{PeerId, PeerStats, SourceId, bump};
use crate::estimate::ReceiveEstimator;
use crate::forward::Forwarder;
use crate::gaps::Gaps;
use crate::key_frame::ReceiverThrottle;
use crate::layers::LayerChoice;
use crate::receive::{Arrival, NackGenerator, Reception};
use crate::round_trip::RoundTrip;
use crate::sending::Sending;
use crate::shard::Egress;
use crate::track::Incoming;

/// Distinct SSRCs one publisher may send: two media with RTX, and some that changed on the way.
const STREAMS_MAX: usize = 16;
/// Receiver reports and sender reports (RFC 3550 6.2 would allow 5 s; 1 s keeps round trips and lip sync fresh).
const REPORT_US: i64 = 1_000_000;
/// An answer to our clock is compared with one that came no longer ago: the clock's 16 bits of seconds go round in 18 hours. No report takes so long.
const ANSWERED_US: i64 = 600_000_000;
/// Transport-wide feedback to publishers: mediasoup's 100 ms, the slow end of what GCC wants.
const FEEDBACK_US: i64 = 100_000;

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) session: Session,
    /// Names by which its checks find it; two while an ICE restart is under way.
    pub(crate) ufrags: Vec<String>,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Datagrams of its handshake that wait for their turn.
    pub(crate) handshakes_waiting: u8,
    /// When the first of them came.
    pub(crate) handshake_began: Option<Time>,
    pub(crate) forgeries: Forgeries,
    pub(crate) stats: Arc<PeerStats>,
    pub(crate) role: Role,
}

/// Packets in a peer's name that were not its own cost a decryption each: so many a second are tried.
const FORGERIES_MAX: u8 = 10;

/// What came in a peer's name from addresses that are not its own.
#[derive(Default, Debug)]
pub(crate) struct Forgeries {
    since: Time,
    failed: u8,
}

impl Forgeries {
    /// Whether one more is looked at.
    pub(crate) fn allow(&mut self, now: Time) -> bool {
        if now.since(self.since) >= 1_000_000 {
            (self.since, self.failed) = (now, 0);
        }
        self.failed < FORGERIES_MAX
    }

    /// It was not the peer's.
    pub(crate) fn failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }
}

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most are subscribers, and a box would be one more line of cache for each of their packets"
)]
pub(crate) enum Role {
    Publish(Publisher),
    Subscribe(Subscriber),
}

#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) source: SourceId,
    pub(crate) medias: Vec<Published>,
    streams: Vec<Stream>,
    twcc: Option<(u8, rtcp::twcc::TwccRecorder)>,
    /// What fits, for publishers that cannot estimate it, and the id of the times of sending.
    remb: Option<Box<(Option<u8>, ReceiveEstimator)>>,
    /// The publisher's NTP clock minus ours, fixed by its first report: one for audio and video, so they stay together.
    ntp_offset_us: Option<i64>,
    next_feedback: Time,
    next_report: Time,
    own_ssrc: u32,
    round_trip: RoundTrip,
    unix_us_at_zero: i64,
    ask: Vec<u64>,
}

/// One negotiated m-line of a publisher.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) media: NegotiatedMedia,
    /// One, or one for each RID of simulcast, in their order.
    pub(crate) encodings: Vec<Encoding>,
}

/// One encoding of an m-line: a track of its own.
#[derive(Debug)]
pub(crate) struct Encoding {
    /// Its track's slot.
    pub(crate) track: usize,
    /// The codec its last packet had, and since when.
    pub(crate) codec: Option<(Codec, Time)>,
    receive: Option<Receive>,
}

#[derive(Debug)]
struct Receive {
    ssrc: u32,
    numbers: rtp::Unwrapper,
    descriptors: Descriptors,
    pictures: Pictures,
    reception: Reception,
    nack: NackGenerator,
}

/// What an SSRC carries.
#[derive(Clone, Copy, Debug)]
struct Stream {
    ssrc: u32,
    media: usize,
    encoding: usize,
    rtx: bool,
    /// An authentic packet named it.
    heard: bool,
}

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) forwarders: Vec<Subscribed>,
    pub(crate) cname: String,
    pub(crate) rtt_us: i64,
    /// The newest of our clocks that it has answered (middle 32 bits), and when.
    answered: Option<(u32, Time)>,
    /// The last reference time it sent, for our next report: whose, its middle 32 bits, and when it came.
    reference_time: Option<(u32, u32, Time)>,
    /// How many packets had been sent when that was last looked at.
    looked_packets: u64,
    pub(crate) sending: Sending,
    pub(crate) gaps: Gaps,
    pub(crate) layers: LayerChoice,
}

/// A forwarder and the slot of its track.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) track: usize,
    /// The track of another encoding, from its next key frame on.
    pub(crate) next: Option<usize>,
    /// Nothing is sent, by request or for want of room.
    pub(crate) paused: bool,
    /// How often it went over to another track.
    pub(crate) switches: u32,
    pub(crate) forwarder: Forwarder,
    pub(crate) throttle: ReceiverThrottle,
    /// As the subscriber reported last.
    fraction_lost: u8,
    lost: i32,
}

/// What a publisher's RTP packet was.
pub(crate) struct Received {
    /// Index of its m-line.
    pub(crate) media: usize,
    /// Index of its encoding there.
    pub(crate) encoding: usize,
    pub(crate) incoming: Incoming,
    /// It is the first of this source.
    pub(crate) first_of: Option<u32>,
    /// The stream began anew with it: another SSRC, or a hole before it that is too large to be loss.
    pub(crate) restarted: bool,
}

impl Publisher {
    pub(crate) fn new(
        source: SourceId,
        medias: Vec<Published>,
        own_ssrc: u32,
        unix_us_at_zero: i64,
        now: Time,
    ) -> Publisher {
        let mut streams = Vec::new();
        // With simulcast packets say their encoding; the SDP does not say which source is which.
        for (index, published) in medias.iter().enumerate().filter(|(_, m)| m.media.rids.is_empty()) {
            let rtx = |ssrc: u32| published.media.rtx_of.iter().any(|(_, rtx)| *rtx == ssrc);
            for &ssrc in &published.media.ssrcs {
                if streams.len() < STREAMS_MAX {
                    streams.push(Stream { ssrc, media: index, encoding: 0, rtx: rtx(ssrc), heard: false });
                }
            }
        }
        let twcc_id = medias.iter().find_map(|m| m.media.twcc_ext_id);
        let remb = medias.iter().find(|m| m.media.remb && twcc_id.is_none());
        let remb = remb.map(|m| Box::new((m.media.abs_send_time_ext_id, ReceiveEstimator::new(now))));
        Publisher {
            source,
            medias,
            streams,
            twcc: twcc_id.map(|id| (id, rtcp::twcc::TwccRecorder::new())),
            remb,
            ntp_offset_us: None,
            next_feedback: Time::ZERO,
            next_report: Time::ZERO,
            own_ssrc,
            round_trip: RoundTrip::default(),
            unix_us_at_zero,
            ask: Vec::new(),
        }
    }

    /// An authenticated RTP packet. `copy` puts its payload and descriptor where they are shared.
    pub(crate) fn on_rtp(
        &mut self,
        packet: &[u8],
        now: Time,
        stats: &PeerStats,
        mut copy: impl FnMut(&[u8]) -> Bytes,
    ) -> Result<Received, DropReason> {
        let header = rtp::Header::parse(packet).map_err(|_| DropReason::RtpMalformed)?;
        bump(&stats.packets_in, 1);
        bump(&stats.bytes_in, packet.len() as u64);
        if let Some((id, recorder)) = &mut self.twcc
            && let Some(&[high, low]) = header.extension(*id)
        {
            recorder.on_packet(u16::from_be_bytes([high, low]), now);
        }
        if let Some(remb) = &mut self.remb {
            let sent = remb.0.and_then(|id| header.extension(id));
            let ticks = sent.and_then(|sent| <[u8; 3]>::try_from(sent).ok());
            let ticks = ticks.map(|[high, middle, low]| u32::from_be_bytes([0, high, middle, low]));
            remb.1.on_packet(ticks, packet.len(), now);
        }
        let stream = self.stream_of(&header)?;
        let Published { media, encodings } = &mut self.medias[stream.media];
        let encoding = &mut encodings[stream.encoding];
        let mut body = header.payload(packet);
        let (mut payload_type, mut sequence_number) = (header.payload_type, header.sequence_number);
        if stream.rtx {
            // RFC 4588 section 4: the original sequence number leads the payload; padding alone is a probe.
            let Some((original, rest)) = body.split_first_chunk::<2>() else { return Err(DropReason::Empty) };
            let primary = media.by_rtx_pt(payload_type);
            payload_type = primary.ok_or(DropReason::NotNegotiated)?.pt;
            sequence_number = u16::from_be_bytes(*original);
            body = rest;
        }
        let codec = media.by_pt(payload_type).ok_or(DropReason::NotNegotiated)?.codec;

        let primary_ssrc =
            if stream.rtx { encoding.receive.as_ref().map(|r| r.ssrc) } else { Some(header.ssrc) };
        let ssrc = primary_ssrc.ok_or(DropReason::NotNegotiated)?;
        let replaced = encoding.receive.as_ref().is_some_and(|r| r.ssrc != ssrc);
        let receive = match &mut encoding.receive {
            Some(receive) if receive.ssrc == ssrc => receive,
            other => other.insert(Receive {
                ssrc,
                numbers: rtp::Unwrapper::new(),
                descriptors: Descriptors::default(),
                pictures: Pictures::default(),
                reception: Reception::default(),
                nack: NackGenerator::default(),
            }),
        };
        let seq = receive.numbers.seq(sequence_number);
        let timestamp = receive.numbers.timestamp(header.timestamp);
        let arrival = receive.nack.arrived(seq, now);
        if !stream.rtx {
            receive.reception.arrived(seq, timestamp, codec.clock_hz(), now);
        }
        // A packet of padding alone goes on, empty: its number would otherwise be a loss to everybody behind us.
        let key_start = payload::key_start(codec, body);
        if key_start && codec.kind() == Kind::Video {
            receive.nack.key_frame(seq, codec);
        }
        if header.marker && codec.kind() == Kind::Video && arrival == Arrival::New {
            bump(&stats.frames_in, 1);
        }
        let descriptor = media.dependency_ext_id.and_then(|id| header.extension(id)).unwrap_or(&[]);
        let described = if descriptor.is_empty() { None } else { receive.descriptors.read(descriptor, seq) };
        let temporal = match body {
            [] => Temporal::default(),
            _ => receive.pictures.layer(timestamp, Temporal::of(codec, body, described)),
        };
        Ok(Received {
            media: stream.media,
            encoding: stream.encoding,
            first_of: (!stream.heard).then_some(header.ssrc),
            restarted: replaced || arrival == Arrival::Hole,
            incoming: Incoming {
                seq,
                timestamp,
                codec,
                marker: header.marker,
                capture: None,
                key_start,
                discardable: payload::discardable(codec, body),
                temporal,
                descriptor: copy(descriptor),
                fresh_source: false,
                payload: copy(body),
            },
        })
    }

    /// Which m-line and encoding an SSRC belongs to: announced in SDP, or learned from MID or the payload type (RFC 8843 9.2), and
    /// from RID (RFC 8852 section 3).
    fn stream_of(&mut self, header: &rtp::Header<'_>) -> Result<Stream, DropReason> {
        if let Some(stream) = self.streams.iter_mut().find(|s| s.ssrc == header.ssrc) {
            let found = *stream;
            stream.heard = true;
            return Ok(found);
        }
        let by_mid = |m: &Published| {
            m.media.mid_ext_id.and_then(|id| header.extension(id)) == Some(m.media.mid.as_bytes())
        };
        let by_type = |m: &Published| {
            m.media.by_pt(header.payload_type).or_else(|| m.media.by_rtx_pt(header.payload_type)).is_some()
        };
        let media = self.medias.iter().position(by_mid).or_else(|| self.medias.iter().position(by_type));
        let media = media.ok_or(DropReason::NotNegotiated)?;
        if self.streams.len() >= STREAMS_MAX {
            return Err(DropReason::TooManySources);
        }
        let negotiated = &self.medias[media].media;
        let rtx = negotiated.by_rtx_pt(header.payload_type).is_some();
        let encoding = match negotiated.rids.as_slice() {
            [] => 0,
            rids => {
                let id = if rtx { negotiated.repaired_rid_ext_id } else { negotiated.rid_ext_id };
                let said = id.and_then(|id| header.extension(id)).ok_or(DropReason::NotNegotiated)?;
                let known = rids.iter().position(|rid| rid.as_bytes() == said);
                known.ok_or(DropReason::NotNegotiated)?
            }
        };
        let stream = Stream { ssrc: header.ssrc, media, encoding, rtx, heard: false };
        self.streams.push(Stream { heard: true, ..stream });
        Ok(stream)
    }

    /// A sender report. Gives the track, the extended RTP time and the capture time on our line.
    pub(crate) fn on_sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp: u32,
        now: Time,
    ) -> Option<(usize, i64, Time)> {
        let mut encodings = self.medias.iter_mut().flat_map(|m| m.encodings.iter_mut());
        let encoding = encodings.find(|e| e.receive.as_ref().is_some_and(|r| r.ssrc == ssrc))?;
        let (track, receive) = (encoding.track, encoding.receive.as_mut()?);
        receive.reception.last_report = Some(((ntp >> 16) as u32, now));
        if ntp == 0 {
            return None; // RFC 3550 6.4.1: no wall clock
        }
        // On a copy: what a report says must not move what packets are counted by.
        let timestamp = { receive.numbers }.timestamp(rtp);
        let ntp_us = rtcp::unix_us_from_ntp(ntp);
        let offset = *self.ntp_offset_us.get_or_insert(ntp_us - now.us());
        let capture = Time(ntp_us - offset);
        // A report that is wildly off (the publisher's clock was set) starts a new line rather than throw lips off by minutes.
        if capture.since(now).abs() > 5_000_000 {
            self.ntp_offset_us = Some(ntp_us - now.us());
            return Some((track, timestamp, now));
        }
        Some((track, timestamp, capture))
    }

    /// The publisher says how long ago our clock came to it.
    pub(crate) fn on_delay_since_reference(
        &mut self,
        about_ssrc: u32,
        last: u32,
        delay: u32,
        unix_us: i64,
        stats: &PeerStats,
    ) {
        if about_ssrc == self.own_ssrc
            && let Some(rtt_us) = self.round_trip.answered(rtcp::ntp_from_unix_us(unix_us), last, delay)
        {
            stats.rtt_us.store(rtt_us.max(1), Ordering::Relaxed); // 0 is unknown
        }
    }

    /// NACKs, feedback and reports that are due. `gave_up` is told of video tracks whose repair was given up.
    pub(crate) fn poll<E: Egress>(
        &mut self,
        session: &mut Session,
        stats: &PeerStats,
        metrics: &ShardMetrics,
        now: Time,
        out: &mut E,
        mut gave_up: impl FnMut(usize),
    ) {
        let mut compound = Vec::new();
        let send = |compound: &mut Vec<u8>, session: &mut Session, out: &mut E| {
            // Each is a packet of its own (RFC 5506): together they might not fit a datagram. No nominated pair, nobody to tell.
            if !compound.is_empty() {
                let _ = session.send_rtcp(compound, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes));
                compound.clear();
            }
        };
        for (media, encoding) in
            self.medias.iter_mut().flat_map(|m| m.encodings.iter_mut().map(|e| (&m.media, e)))
        {
            let Some(receive) = &mut encoding.receive else { continue };
            if !receive.nack.is_waiting() {
                continue;
            }
            let nackable = media
                .codecs
                .iter()
                .any(|c| encoding.codec.is_some_and(|(codec, _)| codec == c.codec) && c.nack);
            self.ask.clear();
            let measured_us = self.round_trip.rtt_us();
            let lost = receive.nack.poll(now, measured_us, &mut self.ask);
            bump(&stats.lost, lost as u64);
            if lost > 0 && media.kind == Kind::Video {
                gave_up(encoding.track);
            }
            if measured_us.is_none() && receive.nack.rtt_us() > 0 {
                stats.rtt_us.store(receive.nack.rtt_us(), Ordering::Relaxed);
            }
            if nackable && !self.ask.is_empty() {
                bump(&stats.nacks_out, self.ask.len() as u64);
                metrics.nacks_out.add(self.ask.len() as u64);
                let numbers: Vec<u16> = self.ask.iter().map(|s| *s as u16).collect();
                rtcp::nack(&mut compound, self.own_ssrc, receive.ssrc, &numbers);
                send(&mut compound, session, out);
            }
        }
        if now >= self.next_feedback {
            self.next_feedback = now.plus_us(FEEDBACK_US);
            let media_ssrc = self.encodings().find_map(|e| e.receive.as_ref()).map(|r| r.ssrc);
            if let (Some((_, recorder)), Some(ssrc)) = (&mut self.twcc, media_ssrc) {
                while recorder.deadline().is_some_and(|due| due <= now)
                    && recorder.build(now, self.own_ssrc, ssrc, &mut compound)
                {
                    send(&mut compound, session, out);
                }
            }
            self.tell_what_fits(now, &mut compound);
            send(&mut compound, session, out);
        }
        if now >= self.next_report {
            self.next_report = now.plus_us(REPORT_US);
            let (mut lost, mut expected) = (0, 0);
            let blocks: Vec<rtcp::ReportBlock> = self
                .medias
                .iter_mut()
                .flat_map(|m| m.encodings.iter_mut())
                .filter_map(|e| e.receive.as_mut())
                .filter_map(|r| {
                    let b = r.reception.report(now)?;
                    (lost, expected) = (lost + b.lost, expected + b.expected);
                    Some(rtcp::ReportBlock {
                        ssrc: r.ssrc,
                        fraction_lost: b.fraction_lost,
                        cumulative_lost: b.cumulative_lost as i32,
                        highest_seq: b.highest,
                        jitter: b.jitter,
                        lsr: b.lsr,
                        dlsr: b.dlsr,
                    })
                })
                .collect();
            if let Some(remb) = &mut self.remb {
                remb.1.on_loss(lost, expected, now);
            }
            if !blocks.is_empty() {
                rtcp::receiver_report(&mut compound, self.own_ssrc, &blocks, "");
                let ntp = self.round_trip.ask(rtcp::ntp_from_unix_us(self.unix_us_at_zero + now.us()));
                rtcp::reference_time(&mut compound, self.own_ssrc, ntp);
                send(&mut compound, session, out);
            }
        }
    }

    /// A REMB, where the publisher waits for one.
    fn tell_what_fits(&mut self, now: Time, compound: &mut Vec<u8>) {
        let ssrcs: Vec<u32> = match &self.remb {
            Some(_) => self.encodings().filter_map(|e| e.receive.as_ref()).map(|r| r.ssrc).collect(),
            None => return,
        };
        let Some(remb) = self.remb.as_mut().filter(|_| !ssrcs.is_empty()) else { return };
        remb.1.update(self.round_trip.rtt_us(), now);
        if let Some(bps) = remb.1.tell(now) {
            rtcp::remb(compound, self.own_ssrc, bps, &ssrcs);
        }
    }

    /// Its sources, as far as they are known.
    pub(crate) fn ssrcs(&self) -> impl Iterator<Item = u32> {
        self.streams.iter().map(|stream| stream.ssrc)
    }

    /// Every encoding of every m-line.
    pub(crate) fn encodings(&self) -> impl Iterator<Item = &Encoding> {
        self.medias.iter().flat_map(|m| &m.encodings)
    }

    /// Asks for a key frame of the encoding that feeds `track`.
    pub(crate) fn request_key_frame<E: Egress>(
        &mut self,
        track: usize,
        session: &mut Session,
        stats: &PeerStats,
        metrics: &ShardMetrics,
        out: &mut E,
    ) {
        let encoding = self.encodings().find(|e| e.track == track);
        let Some(receive) = encoding.and_then(|e| e.receive.as_ref()) else { return };
        let mut message = Vec::new();
        rtcp::pli(&mut message, self.own_ssrc, receive.ssrc);
        bump(&stats.plis_out, 1);
        metrics.plis_out.increment();
        let _ = session.send_rtcp(&message, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes));
    }

    /// When [`Publisher::poll`] is due after it was called at `now`.
    pub(crate) fn next_poll(&self, now: Time) -> Time {
        if self.is_busy() { now } else { self.next_feedback.min(self.next_report) }
    }

    /// Whether a NACK may be due at any moment.
    pub(crate) fn is_busy(&self) -> bool {
        self.encodings().any(|e| e.receive.as_ref().is_some_and(|r| r.nack.is_waiting()))
    }
}

impl Published {
    /// `tracks` are the slots of its encodings, in their order.
    pub(crate) fn new(media: NegotiatedMedia, tracks: impl Iterator<Item = usize>) -> Published {
        let encodings = tracks.map(|track| Encoding { track, codec: None, receive: None }).collect();
        Published { media, encodings }
    }
}

impl Subscribed {
    pub(crate) fn new(track: usize, forwarder: Forwarder) -> Subscribed {
        let throttle = ReceiverThrottle::default();
        Subscribed {
            track,
            next: None,
            paused: false,
            switches: 0,
            forwarder,
            throttle,
            fraction_lost: 0,
            lost: 0,
        }
    }
}

impl Subscriber {
    pub(crate) fn new(forwarders: Vec<Subscribed>, cname: String, sending: Sending) -> Subscriber {
        let (layers, gaps) = (LayerChoice::new(), Gaps::default());
        Subscriber {
            forwarders,
            cname,
            rtt_us: 0,
            answered: None,
            reference_time: None,
            looked_packets: 0,
            sending,
            gaps,
            layers,
        }
    }
}

/// A whole datagram that is not media into the batch; dropped (and counted by the batch) when there is no room.
pub(crate) fn push<E: Egress>(out: &mut E, metrics: &ShardMetrics, to: SocketAddr, bytes: &[u8]) {
    metrics.sent(packet_kind(Protocol::of(bytes)), bytes.len());
    if let Some(buffer) = out.reserve(bytes.len()) {
        buffer[..bytes.len()].copy_from_slice(bytes);
        out.commit(bytes.len(), to);
    }
}

/// What a datagram counts as. What is none of the four is ours to make and never is.
pub(crate) fn packet_kind(protocol: Result<Protocol, DropReason>) -> PacketKind {
    match protocol {
        Ok(Protocol::Rtp) => PacketKind::Rtp,
        Ok(Protocol::Rtcp) => PacketKind::Rtcp,
        Ok(Protocol::Dtls) => PacketKind::Dtls,
        Ok(Protocol::Stun) | Err(_) => PacketKind::Stun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_after_a_long_silence_count() {
        let sending = Sending::new(false, false, Time::ZERO);
        let mut subscriber = Subscriber::new(Vec::new(), String::new(), sending);
        let hours = |hours: u32| (hours * 3_600) << 16;
        assert!(subscriber.is_newest(hours(1), Time::ZERO));
        assert!(!subscriber.is_newest(hours(1) - 1, Time::from_ms(1_000)), "it came late");
        assert!(
            subscriber.is_newest(hours(11), Time::from_ms(10 * 3_600_000)),
            "behind, as the clock goes round"
        );
        assert!(!subscriber.is_newest(hours(11) - 1, Time::from_ms(10 * 3_600_000)));
    }
}
