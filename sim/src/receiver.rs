//! A model of a browser that plays: repair, feedback, reports, and the jitter buffer's picture.

use media::{Codec, Time};
use rtc::rtcp::{self, twcc::TwccRecorder};
use rtc::rtp::{Header, Unwrapper};

use crate::jitter::JitterBuffer;
use crate::nack::Nacks;
use crate::offer::{self, Features};
use crate::traffic::Outbox;

/// libwebrtc reports on video each second.
const REPORT_US: i64 = 1_000_000;
/// The SSRC it speaks with.
const OWN_SSRC: u32 = 1;
/// Between two requests for a key frame.
const KEY_FRAME_US: i64 = 200_000;

#[derive(Debug, Default)]
struct Stream {
    numbers: Unwrapper,
    first: Option<u64>,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// Middle of the last sender report's NTP time, and when it came.
    report: Option<(u32, Time)>,
}

/// One viewer.
#[derive(Debug)]
pub struct Receiver {
    features: Features,
    audio_ssrc: u32,
    video_ssrc: u32,
    rtx_ssrc: u32,
    video: Stream,
    audio: Stream,
    nacks: Nacks,
    twcc: TwccRecorder,
    next_report: Time,
    key_frame_asked: Time,
    wants_key_frame: bool,
    /// Its picture.
    pub buffer: JitterBuffer,
    /// Numbers asked for.
    pub nacked: u64,
    /// Key frames asked for.
    pub plis: u32,
}

impl Receiver {
    /// Connected at `now`.
    pub fn new(features: Features, audio_ssrc: u32, video_ssrc: u32, rtx_ssrc: u32, now: Time) -> Receiver {
        Receiver {
            features,
            audio_ssrc,
            video_ssrc,
            rtx_ssrc,
            video: Stream::default(),
            audio: Stream::default(),
            nacks: Nacks::default(),
            twcc: TwccRecorder::new(),
            next_report: now.plus_us(REPORT_US),
            key_frame_asked: Time(i64::MIN / 2),
            wants_key_frame: false,
            buffer: JitterBuffer::new(now),
            nacked: 0,
            plis: 0,
        }
    }

    /// A packet came. Errors: a broken picture.
    pub fn on_rtp(&mut self, packet: &[u8], now: Time, out: &mut Outbox) -> Result<(), String> {
        let header = Header::parse(packet).map_err(|error| error.to_string())?;
        if let Some(&[high, low]) = header.extension(offer::TWCC_ID).filter(|_| self.features.twcc) {
            self.twcc.on_packet(u16::from_be_bytes([high, low]), now);
        }
        let mut body = header.payload(packet);
        let (mut number, mut payload_type) = (header.sequence_number, header.payload_type);
        if header.ssrc == self.audio_ssrc {
            self.audio.received(number);
            return Ok(());
        }
        if header.ssrc == self.rtx_ssrc && self.features.rtx {
            let Some((original, rest)) = body.split_first_chunk::<2>() else { return Ok(()) };
            (number, body, payload_type) = (u16::from_be_bytes(*original), rest, payload_type - 1);
        } else if header.ssrc == self.video_ssrc {
            self.video.received(number);
        } else {
            return Err(format!("a packet of SSRC {:08x}, which nobody announced", header.ssrc));
        }
        let seq = self.video.numbers.seq(number);
        let time = self.video.numbers.timestamp(header.timestamp);
        let (ask, overflow) = self.nacks.arrived(seq, now);
        self.nack(&ask, out);
        self.wants_key_frame |= overflow;
        let codec = if payload_type == offer::VP8 { Codec::Vp8 } else { Codec::H264 };
        if let Some(key) = self.buffer.insert(seq, time, header.marker, codec, body, now)? {
            self.nacks.forget_before(key);
            self.wants_key_frame = false;
        }
        Ok(())
    }

    /// Packets of sound that came.
    pub fn sound(&self) -> u64 {
        self.audio.received
    }

    /// RTCP came.
    pub fn on_rtcp(&mut self, compound: &[u8], now: Time) {
        let parsed = rtcp::parse(compound, |event| {
            if let rtcp::Event::SenderReport { ssrc, ntp, .. } = event {
                let stream = if ssrc == self.audio_ssrc { &mut self.audio } else { &mut self.video };
                stream.report = Some((rtcp::ntp_middle(ntp), now));
            }
        });
        parsed.expect("the node sends well-formed RTCP");
    }

    fn nack(&mut self, numbers: &[u64], out: &mut Outbox) {
        if numbers.is_empty() {
            return;
        }
        self.nacked += numbers.len() as u64;
        let numbers: Vec<u16> = numbers.iter().map(|seq| *seq as u16).collect();
        rtcp::nack(out.rtcp(), OWN_SSRC, self.video_ssrc, &numbers);
    }

    /// Asks, reports and shows what is due. Errors: a broken picture.
    pub fn poll(&mut self, now: Time, out: &mut Outbox) -> Result<(), String> {
        let (ask, given_up) = self.nacks.poll(now);
        self.nack(&ask, out);
        self.wants_key_frame |= given_up | self.buffer.poll(now)?;
        if self.wants_key_frame && now.since(self.key_frame_asked) >= KEY_FRAME_US {
            self.wants_key_frame = false;
            self.key_frame_asked = now;
            self.plis += 1;
            rtcp::pli(out.rtcp(), OWN_SSRC, self.video_ssrc);
        }
        if self.features.twcc && self.twcc.deadline().is_some_and(|due| due <= now) {
            while self.twcc.deadline().is_some_and(|due| due <= now)
                && self.twcc.build(now, OWN_SSRC, self.video_ssrc, out.rtcp())
            {}
        }
        if now >= self.next_report {
            self.next_report = now.plus_us(REPORT_US);
            let streams = [(self.audio_ssrc, &mut self.audio), (self.video_ssrc, &mut self.video)];
            let blocks: Vec<_> =
                streams.into_iter().filter_map(|(ssrc, stream)| stream.block(ssrc, now)).collect();
            if !blocks.is_empty() {
                rtcp::receiver_report(out.rtcp(), OWN_SSRC, &blocks, "");
            }
        }
        Ok(())
    }

    /// When [`Receiver::poll`] is due.
    pub fn next(&self) -> Time {
        let feedback = self.twcc.deadline().filter(|_| self.features.twcc).unwrap_or(Time::MAX);
        let key_frame = match self.wants_key_frame {
            true => self.key_frame_asked.plus_us(KEY_FRAME_US),
            false => Time::MAX,
        };
        self.nacks.next().min(self.buffer.next()).min(self.next_report).min(feedback).min(key_frame)
    }
}

impl Stream {
    fn received(&mut self, number: u16) {
        let seq = self.numbers.seq(number);
        self.first.get_or_insert(seq);
        self.received += 1;
    }

    fn block(&mut self, ssrc: u32, now: Time) -> Option<rtcp::ReportBlock> {
        let (first, highest) = (self.first?, self.numbers.seq_highest()?);
        let expected = highest - first.min(highest) + 1;
        let (expected_now, received_now) =
            (expected - self.expected_before, self.received - self.received_before);
        (self.expected_before, self.received_before) = (expected, self.received);
        let lost_now = expected_now.saturating_sub(received_now);
        let (lsr, dlsr) =
            self.report.map_or((0, 0), |(lsr, at)| (lsr, (now.since(at) * 65_536 / 1_000_000) as u32));
        Some(rtcp::ReportBlock {
            ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            cumulative_lost: (expected as i64 - self.received as i64) as i32,
            highest_seq: highest as u32,
            jitter: 0,
            lsr,
            dlsr,
        })
    }
}
