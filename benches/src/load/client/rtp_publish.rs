//! The clip as RTP packets: what WHIP publishers send under SRTP and Janus' mount points take plain.

use std::sync::Arc;

use media::payload::{PAYLOAD_LEN_MAX, RtpPayload, h264};
use media::{Codec, Time};
use rtc::rtcp::{self, SenderInfo};
use rtc::rtp::{Fields, HEADER_LEN_MIN, write_header};
use rtc::sdp;

use super::Io;
use super::schedule::{Due, Schedule, Sound};
use crate::load::clip::Clip;
use crate::load::stamp::Stamp;

/// RFC 7587: Opus counts 48 kHz; a packet of ours holds 20 ms.
const OPUS_HZ: u64 = 48_000;
const OPUS_SAMPLES: u64 = 960;
const VIDEO_HZ: u64 = 90_000;
/// Sender reports go out so often.
pub const REPORT_MS: i64 = 1_000;
/// A key frame is made at most this often, however often it is asked for.
pub const KEY_FRAME_MS: i64 = 300;

/// One outgoing RTP source.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its SSRC.
    pub ssrc: u32,
    payload_type: u8,
    next: u64,
    timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Payload bytes sent.
    pub octets: u32,
}

impl Line {
    fn new(ssrc: u32, codec: Codec) -> Line {
        let payload_type = sdp::client_payload_type(codec).unwrap_or(96);
        // RFC 3711 section 3.3.1: below 2^15, so that early loss is not taken for a wrap.
        Line { ssrc, payload_type, next: u64::from(ssrc & 0x7fff), timestamp: 0, packets: 0, octets: 0 }
    }
}

/// A compound of sender reports of these lines (indices of [`Packets::lines`]), if they have sent; empty when none has.
pub fn sender_reports(packets: &Packets, lines: std::ops::Range<usize>, io: &Io<'_>) -> Vec<u8> {
    let mut compound = Vec::new();
    let now = io.now();
    let ntp = rtcp::ntp_from_unix_us(io.kit.clock.unix_us(now));
    let all = packets.lines.iter().zip(packets.schedule.clocks(now));
    for (line, rtp) in all.skip(lines.start).take(lines.len()).filter(|(line, _)| line.packets > 0) {
        let Line { ssrc, packets, octets, .. } = *line;
        rtcp::sender_report(&mut compound, &SenderInfo { ssrc, ntp, rtp, packets, octets }, &[], "bench");
    }
    compound
}

/// A packet that is due.
pub struct Outgoing<'a> {
    /// Header and payload.
    pub bytes: &'a [u8],
    /// Rollover counter, for SRTP.
    pub roc: u32,
    /// It is video.
    pub is_video: bool,
}

/// Makes packets in real time.
pub struct Packets {
    clip: Arc<Clip>,
    stream: u32,
    schedule: Schedule,
    /// Frame numbers go on; the clip's place jumps to a key frame when one is asked for.
    skipped: u32,
    /// Video, audio.
    pub lines: [Line; 2],
    payloads: Vec<RtpPayload>,
    packet: Vec<u8>,
}

impl Packets {
    /// Starts now.
    pub fn new(clip: Arc<Clip>, stream: u32, ssrcs: [u32; 2], now: Time) -> Packets {
        let sound = Sound { samples: OPUS_SAMPLES, hz: OPUS_HZ, delay_us: clip.delays_us[1] };
        let audio = (!clip.opus.is_empty()).then_some(sound);
        Packets {
            stream,
            schedule: Schedule::new(now, clip.fps, audio),
            skipped: 0,
            lines: [Line::new(ssrcs[0], Codec::H264), Line::new(ssrcs[1], Codec::Opus)],
            payloads: Vec::new(),
            packet: Vec::new(),
            clip,
        }
    }

    /// When the next is due.
    pub fn due(&self) -> Time {
        self.schedule.due()
    }

    /// The next frame is a key frame.
    pub fn skip_to_key_frame(&mut self) {
        let next = self.schedule.frames() + self.skipped;
        let ahead = (0..self.clip.video.len() as u32).find(|ahead| self.clip.is_key(next + ahead));
        self.skipped += ahead.unwrap_or(0);
    }

    /// Gives all packets that are due to `send`.
    pub fn poll(&mut self, io: &mut Io<'_>, send: &mut dyn FnMut(&mut Io<'_>, Outgoing<'_>)) {
        while let Some((due, _, late_us)) = self.schedule.next(io.now()) {
            match due {
                Due::Video(frame) => {
                    let stamp = Stamp { sent_us: io.now_us(), stream: self.stream, frame };
                    let access_unit = self.clip.frame(frame + self.skipped, stamp);
                    self.payloads.clear();
                    h264::packetize(&access_unit, PAYLOAD_LEN_MAX, &mut self.payloads);
                    self.lines[0].timestamp = (u64::from(frame) * VIDEO_HZ / u64::from(self.clip.fps)) as u32;
                    for i in 0..self.payloads.len() {
                        let payload = self.payloads[i].clone();
                        self.send(0, &payload, io, send);
                    }
                    io.meter.sent(stamp, access_unit.data.len(), late_us);
                }
                Due::Audio(piece) => {
                    let bytes = self.clip.opus[(piece % self.clip.opus.len() as u64) as usize].clone();
                    self.lines[1].timestamp = (piece * OPUS_SAMPLES) as u32;
                    self.send(1, &RtpPayload { bytes, marker: piece == 0, key_start: false }, io, send);
                }
            }
        }
    }

    fn send(
        &mut self,
        line: usize,
        payload: &RtpPayload,
        io: &mut Io<'_>,
        send: &mut dyn FnMut(&mut Io<'_>, Outgoing<'_>),
    ) {
        let is_video = line == 0;
        let line = &mut self.lines[line];
        let number = line.next;
        line.next += 1;
        (line.packets, line.octets) =
            (line.packets.wrapping_add(1), line.octets.wrapping_add(payload.bytes.len() as u32));
        let fields = Fields {
            marker: payload.marker,
            payload_type: line.payload_type,
            sequence_number: number as u16,
            timestamp: line.timestamp,
            ssrc: line.ssrc,
            extensions: &[],
        };
        self.packet.clear();
        self.packet.resize(HEADER_LEN_MIN, 0);
        write_header(&mut self.packet, &fields);
        self.packet.extend_from_slice(&payload.bytes);
        send(io, Outgoing { bytes: &self.packet, roc: (number >> 16) as u32, is_video });
    }
}
