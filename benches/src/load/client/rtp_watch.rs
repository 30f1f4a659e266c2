//! A WebRTC viewer behind its signalling: ICE, DTLS and SRTP from a UDP port of its own. It decrypts, counts, reports, and asks again for
//! what is missing if it is told to; it shows nothing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use benches::receive;
use media::{Kind, Time};
use metrics::DropReason;
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Fingerprint, Role};
use rtc::ice::Credentials;
use rtc::rtp::{Header, Unwrapper};
use rtc::sdp::{self, Answer, Setup};
use rtc::{Input, rtcp};

use super::Io;
use super::link::BadLink;
use super::rtp_frames::{Frames, Packet};
use crate::load::beep::{Ear, Skew};
use crate::load::plan::Link;
use crate::load::stamp::Stamp;
use crate::load::tally::{Meter, Numbers};

/// RFC 3550 section 6.2 with the interval that browsers use for video.
const REPORT_US: i64 = 1_000_000;
const OWN_SSRC: u32 = 1;
const IDR: u8 = 5;
/// Half a second of a viewer's 4 Mbit/s: the harness has its turn by then, or is the limit and says so.
const RECV_BUFFER: usize = 1 << 18;
/// Reordering is waited for so long, then a number is asked for.
const NACK_FIRST_US: i64 = 10_000;
/// And again each so often.
const NACK_AGAIN_US: i64 = 40_000;
const NACK_TRIES: u8 = 10;
const MISSING_MAX: usize = 256;
/// A viewer whose first frames need earlier ones asks for a key frame, as a browser does, and again each so often.
const PLI_AGAIN_MS: i64 = 300;

/// Credentials and seeds of a session, drawn anew.
pub fn credentials(io: &mut Io<'_>) -> Credentials {
    let words: [u64; 4] = std::array::from_fn(|_| io.kit.random());
    let mut entropy = [0; 32];
    for (to, word) in entropy.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    Credentials::from_entropy(&entropy)
}

/// The certificate's SHA-256 as SDP writes it.
pub fn fingerprint(io: &Io<'_>) -> String {
    let text = io.kit.identity.fingerprint().to_string();
    text.split_once(' ').map_or(String::new(), |(_, hex)| hex.to_owned())
}

/// Which payload types are what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayloadTypes {
    /// H.264.
    pub video: Vec<u8>,
    /// Retransmissions, and of what.
    pub rtx: Vec<(u8, u8)>,
}

impl PayloadTypes {
    /// As `rtc::sdp::client_offer` offers H.264.
    pub fn offered() -> PayloadTypes {
        let video = sdp::client_payload_type(media::Codec::H264).unwrap_or(102);
        PayloadTypes { video: vec![video], rtx: vec![(video + 1, video)] }
    }

    /// As a server offers it, and [`sdp::client_answer`] takes it.
    pub fn of_offer(offer: &Answer) -> PayloadTypes {
        let h264 = offer.media(Kind::Video).and_then(|media| sdp::client_takes(media));
        h264.map_or_else(PayloadTypes::default, |format| PayloadTypes {
            video: vec![format.pt],
            rtx: format.rtx_pt.map(|rtx| (rtx, format.pt)).into_iter().collect(),
        })
    }
}

/// Whose offer it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offered {
    /// WHIP, WHEP.
    ByUs,
    /// Janus.
    ByServer,
}

/// A connected pair of ports: the transport that watching and publishing share.
pub struct Transport {
    /// For the event loop.
    pub socket: udp::Socket,
    /// ICE, DTLS, SRTP.
    pub client: Client,
    /// Where media goes.
    pub server: SocketAddr,
}

impl Transport {
    /// From what the server said, be it an answer to us or an offer; the first check goes out with the first time-out. The socket becomes
    /// `source` of its client.
    pub fn new(
        answer: &Answer,
        offered: Offered,
        host: IpAddr,
        local: Credentials,
        source: usize,
        io: &mut Io<'_>,
    ) -> Result<Transport> {
        let hash = answer.fingerprints.iter().find_map(|f| Fingerprint::new(&f.hash, &f.bytes).ok());
        // The way that signalling took is known to work.
        let mut candidates =
            answer.candidates.iter().filter(|candidate| candidate.is_ipv4() == host.is_ipv4());
        let server =
            candidates.clone().find(|candidate| candidate.ip() == host).or_else(|| candidates.next());
        let server = *server
            .with_context(|| format!("the server's SDP has no UDP candidate that {host} can reach"))?;
        let config = ClientConfig {
            local,
            remote: Credentials { ufrag: answer.ice.ufrag.clone(), pwd: answer.ice.pwd.clone() },
            remote_fingerprint: hash.context("the server's SDP has no fingerprint of a known hash")?,
            identity: Arc::clone(&io.kit.identity),
            base: io.kit.clock.base,
            // RFC 8842 section 5.3: who offers leaves the choice to who answers.
            role: match (offered, answer.setup) {
                (Offered::ByUs, Some(Setup::Active)) => Role::Passive,
                _ => Role::Active,
            },
            controlling: offered == Offered::ByUs || answer.ice_lite,
            server,
            seed: io.kit.random(),
        };
        let mut socket = udp::Socket::bind(SocketAddr::new(way_to(server)?, 0), RECV_BUFFER, 1 << 18)?;
        receive::enable_datagrams(&socket)?;
        io.watch_reading(source, &mut socket)?;
        Ok(Transport { socket, client: Client::new(config, io.now()), server })
    }

    /// What is due of ICE and DTLS.
    pub fn handle_timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        let now = io.now();
        if now >= self.client.next_timeout()
            && let Some(reason) = self.client.handle_timeout(now, &mut pusher(&mut io.kit.out))
        {
            bail!("the session is over: {reason:?}");
        }
        self.flush(io)
    }

    /// Sends what waits in the shared batch.
    pub fn flush(&self, io: &mut Io<'_>) -> Result<()> {
        if !io.kit.out.is_empty() {
            self.socket.send(&mut io.kit.out)?;
        }
        Ok(())
    }

    /// Says close_notify.
    pub fn close(&mut self, io: &mut Io<'_>) {
        self.client.close(io.now(), &mut pusher(&mut io.kit.out));
        let _ = self.flush(io);
    }
}

/// The address that datagrams to `server` leave from.
pub fn way_to(server: SocketAddr) -> Result<IpAddr> {
    let any = if server.is_ipv4() { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(server).with_context(|| format!("no way to {server}"))?;
    Ok(probe.local_addr()?.ip())
}

/// Into the batch; a full one drops it, and the handshake or the next report repeats it.
pub fn pusher(out: &mut udp::SendBatch) -> impl FnMut(SocketAddr, &[u8]) {
    |to, bytes| {
        let _ = out.push(to, bytes);
    }
}

/// What receiver reports say about one SSRC, and what is missing of it.
struct Source {
    ssrc: u32,
    is_video: bool,
    unwrapper: Unwrapper,
    numbers: Numbers,
    lost: i64,
    report: Option<Report>,
    missing: Vec<Missing>,
}

/// A sender report.
#[derive(Clone, Copy)]
struct Report {
    ntp: u64,
    rtp: u32,
    came: Time,
}

struct Missing {
    number: u64,
    ask_at: Time,
    tries: u8,
}

/// What came out of the packets.
struct Received {
    types: PayloadTypes,
    sources: Vec<Source>,
    frames: Frames,
    nack: bool,
    /// Hears the sound, if this viewer listens.
    ear: Option<Ear>,
    skew: Skew,
    /// A frame of this source came and no key frame before it.
    keyless: Option<u32>,
}

/// A viewer.
pub struct Watching {
    transport: Transport,
    received: Received,
    bad: BadLink,
    next_report: Time,
    next_ask: Time,
    next_pli: Time,
    socket_drops: u32,
}

impl Watching {
    /// A viewer whose transport has yet to connect.
    pub fn new(transport: Transport, types: PayloadTypes, link: Link, io: &mut Io<'_>) -> Watching {
        let now = io.now();
        Watching {
            transport,
            received: Received {
                types,
                sources: Vec::new(),
                frames: Frames::new(),
                nack: link.nack,
                ear: link.listens.then(|| Ear::opus().ok()).flatten(),
                skew: Skew::default(),
                keyless: None,
            },
            bad: BadLink::new(link, io.kit.random(), now),
            next_report: now.plus_us(REPORT_US),
            next_ask: Time::MAX,
            next_pli: Time::ZERO,
            socket_drops: 0,
        }
    }

    /// Whether keys are there.
    pub fn is_connected(&self) -> bool {
        self.transport.client.is_connected()
    }

    /// When [`Watching::handle_timeout`] is due.
    pub fn due(&self) -> Time {
        self.transport.client.next_timeout().min(self.next_report).min(self.next_ask)
    }

    /// The socket may be read.
    pub fn handle_ready(&mut self, io: &mut Io<'_>) -> Result<()> {
        loop {
            let more = io.kit.receiver.recv(&self.transport.socket);
            let more = match more {
                Ok(more) => more,
                // ICMP's word about an earlier datagram of ours.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => true,
                Err(error) => return Err(error).context("the socket broke"),
            };
            let now = io.now();
            let mut rtcp = Vec::new();
            for (datagram, at) in io.kit.receiver.datagrams() {
                let at = io.kit.clock.arrival(at);
                let at_us = at.us().max(0) as u64;
                if self.bad.loses(datagram.len(), now) {
                    io.meter.note(at_us, |totals| totals.packets_discarded += 1);
                    continue;
                }
                let input =
                    self.transport.client.handle_datagram(datagram, now, &mut pusher(&mut io.kit.out));
                match input {
                    Ok(Input::Rtp(packet)) => self.received.rtp(packet, at_us, now, &mut io.meter),
                    Ok(Input::Rtcp(compound)) => rtcp.push(compound),
                    Ok(Input::Closed(reason)) => bail!("the session is over: {reason:?}"),
                    Ok(Input::Connected) => io.meter.connected(at_us),
                    Err(DropReason::SrtpReplayed) => io.meter.note(at_us, |totals| totals.packets_again += 1),
                    // A damaged datagram: as in a browser, nothing happens.
                    Ok(Input::Nothing) | Err(_) => {}
                }
            }
            if let Some(drops) = io.kit.receiver.drops() {
                let new = drops.wrapping_sub(std::mem::replace(&mut self.socket_drops, drops));
                io.meter.note(now.us().max(0) as u64, |totals| totals.socket_drops += u64::from(new));
            }
            rtcp.iter().for_each(|compound| self.received.rtcp(compound, now));
            if self.received.nack {
                self.next_ask = self.received.next_ask();
            }
            if let Some(ssrc) = self.received.keyless.take()
                && now >= self.next_pli
            {
                self.next_pli = now.plus_ms(PLI_AGAIN_MS);
                let mut compound = Vec::new();
                rtcp::receiver_report(&mut compound, OWN_SSRC, &[], "bench");
                rtcp::pli(&mut compound, OWN_SSRC, ssrc);
                let _ = self.transport.client.send_rtcp(&compound, &mut pusher(&mut io.kit.out));
            }
            self.transport.flush(io)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Checks, handshake retransmissions, requests and reports that are due.
    pub fn handle_timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        self.transport.handle_timeout(io)?;
        let now = io.now();
        let mut compound = Vec::new();
        if now >= self.next_report {
            self.next_report = now.plus_us(REPORT_US);
            if self.is_connected() && !self.received.sources.is_empty() {
                let blocks: Vec<rtcp::ReportBlock> =
                    self.received.sources.iter().map(|source| source.block(now)).collect();
                rtcp::receiver_report(&mut compound, OWN_SSRC, &blocks, "bench");
            }
        }
        if now >= self.next_ask {
            if compound.is_empty() {
                rtcp::receiver_report(&mut compound, OWN_SSRC, &[], "bench");
            }
            self.received.ask(now, &mut compound);
            self.next_ask = self.received.next_ask();
        }
        if !compound.is_empty() {
            let _ = self.transport.client.send_rtcp(&compound, &mut pusher(&mut io.kit.out));
        }
        self.transport.flush(io)
    }

    /// Says goodbye.
    pub fn close(&mut self, io: &mut Io<'_>) {
        self.transport.close(io);
    }
}

impl Received {
    /// Appends requests for what is missing and due.
    fn ask(&mut self, now: Time, compound: &mut Vec<u8>) {
        for source in &mut self.sources {
            let mut numbers = Vec::new();
            source.missing.retain_mut(|missing| {
                if now >= missing.ask_at {
                    numbers.push(missing.number as u16);
                    missing.tries += 1;
                    missing.ask_at = now.plus_us(NACK_AGAIN_US);
                }
                missing.tries < NACK_TRIES
            });
            rtcp::nack(compound, OWN_SSRC, source.ssrc, &numbers);
        }
    }

    fn next_ask(&self) -> Time {
        let asks = self.sources.iter().flat_map(|source| &source.missing).map(|missing| missing.ask_at);
        asks.min().unwrap_or(Time::MAX)
    }

    fn rtcp(&mut self, compound: &[u8], now: Time) {
        let sources = &mut self.sources;
        let _ = rtcp::parse(compound, |event| {
            if let rtcp::Event::SenderReport { ssrc, ntp, rtp, .. } = event
                && let Some(source) = sources.iter_mut().find(|source| source.ssrc == ssrc)
            {
                source.report = Some(Report { ntp, rtp, came: now });
            }
        });
    }

    fn rtp(&mut self, packet: &[u8], at_us: u64, now: Time, meter: &mut Meter<'_>) {
        let Ok(header) = Header::parse(packet) else { return };
        let payload = header.payload(packet);
        if let Some((_, of)) = self.types.rtx.iter().find(|(rtx, _)| *rtx == header.payload_type) {
            return self.retransmission(self.types.video.contains(of), &header, payload, at_us, meter);
        }
        let is_video = self.types.video.contains(&header.payload_type);
        let place = self.sources.iter().position(|source| source.ssrc == header.ssrc).unwrap_or_else(|| {
            self.sources.push(Source::new(header.ssrc, is_video));
            self.sources.len() - 1
        });
        let source = &mut self.sources[place];
        let number = source.unwrapper.seq(header.sequence_number);
        let (due, first) = source.numbers.take(number);
        meter.packet(due, first, at_us);
        source.lost += due as i64 - i64::from(first);
        if self.nack {
            let room = MISSING_MAX.saturating_sub(source.missing.len());
            let ask_at = now.plus_us(NACK_FIRST_US);
            let missing = (number + 1 - due.min(number)..number).rev().take(room);
            source.missing.extend(missing.map(|number| Missing { number, ask_at, tries: 0 }));
            source.missing.retain(|missing| missing.number != number);
        }
        if first {
            self.payload(number, &header, payload, is_video, at_us, meter);
        }
    }

    /// RFC 4588 section 4: the original number goes before the payload. A packet without one is padding, for probing.
    fn retransmission(
        &mut self,
        is_video: bool,
        header: &Header<'_>,
        payload: &[u8],
        at_us: u64,
        meter: &mut Meter<'_>,
    ) {
        let Some((number, payload)) = payload.split_first_chunk::<2>() else { return };
        let Some(source) = self.sources.iter_mut().find(|source| source.is_video == is_video) else { return };
        let Some(highest) = source.numbers.highest() else { return };
        let back = (highest as u16).wrapping_sub(u16::from_be_bytes(*number)) as i16;
        let Some(number) = highest.checked_add_signed(-i64::from(back)) else { return };
        let (due, first) = source.numbers.take(number);
        meter.packet(due, first, at_us);
        meter.note(at_us, |totals| totals.packets_recovered += u64::from(first));
        source.missing.retain(|missing| missing.number != number);
        source.lost -= i64::from(first);
        if first {
            self.payload(number, header, payload, is_video, at_us, meter);
        }
    }

    fn payload(
        &mut self,
        number: u64,
        header: &Header<'_>,
        payload: &[u8],
        is_video: bool,
        at_us: u64,
        meter: &mut Meter<'_>,
    ) {
        meter.bytes(payload.len(), at_us);
        let wall_us =
            || self.sources.iter().find(|source| source.is_video == is_video)?.wall_us(header.timestamp);
        if !is_video {
            if let Some(ear) = &mut self.ear
                && let Some(beep) = ear.hear(payload, wall_us().unwrap_or(0))
                && let Some(skew) = self.skew.beep(beep)
            {
                meter.skew(skew, at_us);
            }
            return;
        }
        // RFC 6184 section 5.4: of a fragment, the unit's type is in the second byte.
        let key = match payload {
            [indicator, fu, ..] if indicator & 0x1f == media::payload::h264::FU_A => fu & 0x1f == IDR,
            [indicator, rest @ ..] if indicator & 0x1f == media::payload::h264::STAP_A => {
                media::h264::avcc_nals(rest, 2)
                    .map_while(Result::ok)
                    .any(|nal| nal.first().is_some_and(|n| n & 0x1f == IDR))
            }
            [nal, ..] => nal & 0x1f == IDR,
            [] => false,
        };
        let packet = Packet {
            number,
            timestamp: header.timestamp,
            marker: header.marker,
            key,
            stamp: Stamp::of_payload(payload),
        };
        for (stamp, key) in self.frames.take(packet).into_iter().flatten() {
            meter.frame(stamp, key, at_us);
            if self.ear.is_some()
                && stamp.is_some_and(|stamp| meter.seat.is_full_second(stamp))
                && let Some(at) = wall_us()
                && let Some(skew) = self.skew.frame(at)
            {
                meter.skew(skew, at_us);
            }
            if !meter.seat.has_picture() {
                self.keyless = Some(header.ssrc);
            }
        }
    }
}

impl Source {
    fn new(ssrc: u32, is_video: bool) -> Source {
        Source {
            ssrc,
            is_video,
            unwrapper: Unwrapper::new(),
            numbers: Numbers::default(),
            lost: 0,
            report: None,
            missing: Vec::new(),
        }
    }

    /// The sender's wall clock at an RTP time, in microseconds of a line of its own; `None` before the first report.
    fn wall_us(&self, timestamp: u32) -> Option<i64> {
        let Report { ntp, rtp, .. } = self.report?;
        let clock_hz = if self.is_video { 90_000 } else { 48_000 };
        let passed = i64::from(timestamp.wrapping_sub(rtp) as i32) * 1_000_000 / clock_hz;
        Some(((u128::from(ntp) * 1_000_000) >> 32) as i64 + passed)
    }

    fn block(&self, now: Time) -> rtcp::ReportBlock {
        let (lsr, dlsr) = match self.report {
            Some(Report { ntp, came, .. }) => {
                (rtcp::ntp_middle(ntp), (now.since(came).max(0) * 65_536 / 1_000_000) as u32)
            }
            None => (0, 0),
        };
        rtcp::ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: 0,
            cumulative_lost: self.lost.clamp(0, 0x7f_ffff) as i32,
            highest_seq: self.numbers.highest().unwrap_or(0) as u32,
            jitter: 0,
            lsr,
            dlsr,
        }
    }
}
