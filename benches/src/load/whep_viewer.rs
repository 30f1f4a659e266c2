//! One WHEP viewer: offer and answer by HTTP, then ICE, DTLS and SRTP from a UDP port of its own. It decrypts and counts, and sends
//! receiver reports; it shows nothing.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use benches::stamped;
use media::{Codec, Time};
use rtc::client::{Client, ClientConfig};
use rtc::dtls::{Fingerprint, Identity, Role};
use rtc::ice::Credentials;
use rtc::rtp::{Header, Unwrapper};
use rtc::sdp::{self, Answer, ClientOffer, Direction};
use rtc::{Input, rtcp};

use super::http;
use super::publisher::{APP, STREAM};
use super::stamp::Stamp;
use super::tally::Count;
use super::viewers::Clock;

/// RFC 3550 section 6.2 with the interval that browsers use for video.
const REPORT_US: i64 = 1_000_000;
const IDR: u8 = 5;
const OWN_SSRC: u32 = 1;

/// A viewer.
pub struct Viewer {
    /// For the event loop.
    pub socket: udp::Socket,
    client: Client,
    sources: Vec<Source>,
    frame: OpenFrame,
    next_report: Time,
    /// What it got.
    pub count: Count,
}

/// What receiver reports say about one SSRC.
struct Source {
    ssrc: u32,
    numbers: Unwrapper,
    next: u64,
    lost: u64,
    report: Option<(u32, Time)>,
}

/// The video frame that is coming in.
#[derive(Default)]
struct OpenFrame {
    timestamp: u32,
    stamp: Option<Stamp>,
    key: bool,
    broken: bool,
}

impl Viewer {
    /// POSTs the offer and takes the answer. The first check goes out with the first [`Viewer::handle_timeout`].
    pub fn join(
        http: SocketAddr,
        identity: &Arc<Identity>,
        base: Instant,
        now: Time,
        seed: u64,
    ) -> Result<Viewer> {
        let entropy = std::array::from_fn(|i| {
            (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 8 * 8)) as u8 ^ (i as u8).wrapping_mul(37)
        });
        let local = Credentials::from_entropy(&entropy);
        let fingerprint = identity.fingerprint().to_string();
        let offer = sdp::client_offer(&ClientOffer {
            direction: Direction::RecvOnly,
            audio: &[Codec::Opus],
            video: &[Codec::H264],
            ufrag: &local.ufrag,
            pwd: &local.pwd,
            fingerprint: fingerprint.split_once(' ').map_or("", |(_, hex)| hex),
            audio_ssrc: 0,
            video_ssrc: 0,
            video_rtx_ssrc: 0,
        });
        let response =
            http::request(http, "POST", &format!("/whep/{APP}/{STREAM}"), "application/sdp", &offer)?;
        ensure!(response.status == 201, "WHEP was answered {}: {}", response.status, response.body.trim());
        let answer = Answer::parse(&response.body).context("the WHEP answer")?;
        let server = answer.candidates.iter().find(|candidate| candidate.is_ipv4());
        let hash = answer.fingerprints.iter().find_map(|f| Fingerprint::new(&f.hash, &f.bytes).ok());
        let config = ClientConfig {
            local,
            remote: Credentials { ufrag: answer.ice.ufrag.clone(), pwd: answer.ice.pwd.clone() },
            remote_fingerprint: hash.context("the WHEP answer has no fingerprint of a known hash")?,
            identity: Arc::clone(identity),
            base,
            role: Role::Active,
            server: *server.context("the WHEP answer has no IPv4 candidate")?,
            seed,
        };
        let socket = udp::Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 20, 1 << 18)?;
        stamped::enable(&socket)?;
        Ok(Viewer {
            socket,
            client: Client::new(config, now),
            sources: Vec::new(),
            frame: OpenFrame::default(),
            next_report: now.plus_us(REPORT_US),
            count: Count::new(now.us() as u64),
        })
    }

    /// The socket may be read.
    pub fn handle_ready(&mut self, buffer: &mut [u8], out: &mut udp::SendBatch, clock: &Clock) -> Result<()> {
        loop {
            let (len, at) = match stamped::recv(&self.socket, buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let now = clock.now();
            match self.client.handle_datagram(&mut buffer[..len], now, &mut pusher(out)) {
                Ok(Input::Rtp(packet)) => {
                    take_rtp(&mut self.count, &mut self.sources, &mut self.frame, packet, clock.arrival(at));
                }
                Ok(Input::Rtcp(compound)) => self.take_rtcp(&compound, now),
                Ok(Input::Closed(reason)) => bail!("the session is over: {reason:?}"),
                Ok(Input::Nothing | Input::Connected) => {}
                // A damaged or doubled datagram: as in a browser, nothing happens.
                Err(_) => {}
            }
            self.flush(out)?;
        }
    }

    /// Checks, handshake retransmissions and reports that are due.
    pub fn handle_timeout(&mut self, out: &mut udp::SendBatch, now: Time) -> Result<()> {
        if now >= self.client.next_timeout()
            && let Some(reason) = self.client.handle_timeout(now, &mut pusher(out))
        {
            bail!("the session is over: {reason:?}");
        }
        if now >= self.next_report && self.client.is_connected() && !self.sources.is_empty() {
            self.next_report = now.plus_us(REPORT_US);
            let mut compound = Vec::new();
            let blocks: Vec<rtcp::ReportBlock> =
                self.sources.iter().map(|source| source.block(now)).collect();
            rtcp::receiver_report(&mut compound, OWN_SSRC, &blocks, "bench");
            let _ = self.client.send_rtcp(&compound, &mut pusher(out));
        }
        self.flush(out)
    }

    fn flush(&self, out: &mut udp::SendBatch) -> Result<()> {
        if !out.is_empty() {
            self.socket.send(out)?;
        }
        Ok(())
    }

    fn take_rtcp(&mut self, compound: &[u8], now: Time) {
        let sources = &mut self.sources;
        let _ = rtcp::parse(compound, |event| {
            if let rtcp::Event::SenderReport { ssrc, ntp, .. } = event
                && let Some(source) = sources.iter_mut().find(|source| source.ssrc == ssrc)
            {
                source.report = Some((rtcp::ntp_middle(ntp), now));
            }
        });
    }
}

impl Source {
    fn block(&self, now: Time) -> rtcp::ReportBlock {
        let (lsr, dlsr) = match self.report {
            Some((lsr, at)) => (lsr, (now.since(at).max(0) * 65_536 / 1_000_000) as u32),
            None => (0, 0),
        };
        rtcp::ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: 0,
            cumulative_lost: self.lost as i32,
            highest_seq: self.next.saturating_sub(1) as u32,
            jitter: 0,
            lsr,
            dlsr,
        }
    }
}

/// Into the batch; a full one drops it, and the handshake or the next report repeats it.
fn pusher(out: &mut udp::SendBatch) -> impl FnMut(SocketAddr, &[u8]) {
    |to, bytes| {
        let _ = out.push(to, bytes);
    }
}

fn take_rtp(
    count: &mut Count,
    sources: &mut Vec<Source>,
    frame: &mut OpenFrame,
    packet: &[u8],
    arrival: Time,
) {
    let Ok(header) = Header::parse(packet) else { return };
    let is_new = !sources.iter().any(|source| source.ssrc == header.ssrc);
    if is_new {
        sources.push(Source { ssrc: header.ssrc, numbers: Unwrapper::new(), next: 0, lost: 0, report: None });
    }
    let Some(source) = sources.iter_mut().find(|source| source.ssrc == header.ssrc) else { return };
    let number = source.numbers.seq(header.sequence_number);
    let gap = if is_new { 0 } else { number.saturating_sub(source.next) };
    source.next = source.next.max(number + 1);
    source.lost += gap;
    if count.is_measuring() {
        count.packets += 1;
        count.packets_lost += gap;
    }
    if Some(header.payload_type) != sdp::client_payload_type(Codec::H264) {
        return;
    }
    if header.timestamp != frame.timestamp {
        // A hole before a frame's first packet may have been that frame's too.
        *frame = OpenFrame { timestamp: header.timestamp, ..OpenFrame::default() };
    }
    frame.broken |= gap > 0;
    let payload = header.payload(packet);
    frame.stamp = frame.stamp.or_else(|| Stamp::of_payload(payload));
    frame.key |= match payload {
        [indicator, fu, ..] if indicator & 0x1f == media::payload::h264::FU_A => fu & 0x1f == IDR,
        [nal, ..] => nal & 0x1f == IDR,
        [] => false,
    };
    if header.marker && !frame.broken {
        count.frame(frame.stamp, frame.key, arrival.us() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::Frame;

    #[test]
    fn a_whole_frame_counts_and_one_with_a_hole_does_not() {
        let (mut count, mut sources, mut frame) = (Count::new(0), Vec::new(), OpenFrame::default());
        count.measure_from(0);
        let mut send = |seq: u16, timestamp: u32, marker: bool, payload: &[u8]| {
            let mut packet = vec![0; 12];
            let fields = rtc::rtp::Fields {
                marker,
                payload_type: 102,
                sequence_number: seq,
                timestamp,
                ssrc: 9,
                extensions: &[],
            };
            assert_eq!(rtc::rtp::write_header(&mut packet, &fields), 12);
            packet.extend(payload);
            take_rtp(&mut count, &mut sources, &mut frame, &packet, Time(1_000 + i64::from(timestamp)));
            (count.frames, count.packets_lost, count.first_key_us)
        };
        let sei = |frame| Stamp { sent_us: 500, frame }.sei();
        send(1, 10, false, &sei(0));
        send(2, 10, false, &[0x7c, 0x85, 0x88]);
        assert_eq!(send(3, 10, true, &[0x7c, 0x45, 0x88]), (1, 0, Some(1_010)));
        send(4, 20, false, &sei(1));
        assert_eq!(send(6, 20, true, &[0x5c, 0x41, 0x9a]), (1, 1, Some(1_010)), "packet 5 is missing");
        send(7, 30, false, &sei(2));
        assert_eq!(send(8, 30, true, &[0x41, 0x9a]), (2, 1, Some(1_010)));
        assert_eq!(count.delays_us, [510, 530]);
    }

    /// The stamp comes through the node's own packetizer.
    #[test]
    fn the_packetizer_keeps_the_stamp() {
        let stamp = Stamp { sent_us: 77, frame: 3 };
        let mut data = Vec::new();
        for nal in [stamp.sei(), [&[0x65, 0x88][..], &[7; 5_000]].concat()] {
            data.extend((nal.len() as u32).to_be_bytes());
            data.extend(nal);
        }
        let sps = [0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x47, 0xfe, 0x88];
        let config = media::VideoConfig {
            avcc: bytes::Bytes::new(),
            sps: bytes::Bytes::copy_from_slice(&sps),
            pps: bytes::Bytes::from_static(&[0x68, 0xce, 0x3c, 0x80]),
            width: 640,
            height: 480,
            fps: None,
        };
        let frame = Frame {
            config: Arc::new(media::TrackConfig::H264(config)),
            dts: Time::ZERO,
            pts: Time::ZERO,
            key: true,
            discardable: false,
            data: data.into(),
        };
        let mut payloads = Vec::new();
        media::payload::h264::packetize(&frame, media::payload::PAYLOAD_LEN_MAX, &mut payloads);
        assert!(payloads.len() >= 6);
        let found: Vec<Stamp> = payloads.iter().filter_map(|p| Stamp::of_payload(&p.bytes)).collect();
        assert_eq!(found, [stamp]);
    }
}
