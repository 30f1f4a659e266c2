//! A model of a browser that publishes: frames paced out as libwebrtc's pacer does, audio, sender reports; NACKs answered, key frames made when
//! asked for. It does not adapt its rate.

use std::collections::VecDeque;

use link::Random;
use media::Time;
use rtc::rtcp;

use crate::offer::{self, Features};
use crate::traffic::{Outbox, Rtp};
use crate::video::{Encoder, Settings};
use crate::{Sent, UNIX_US};

/// libwebrtc sends at up to 2.5 times the target rate (`kDefaultPaceMultiplier`).
const PACE_PERCENT: u64 = 250;
/// From capture to the first packet of an ordinary frame, and of a key frame.
const ENCODE_US: i64 = 8_000;
const ENCODE_KEY_US: i64 = 25_000;
/// Packets kept for NACKs: libwebrtc's history is 600 at least.
const HISTORY_MAX: usize = 1_200;
/// A packet is sent again no sooner: libwebrtc's guard is its round trip.
const RESEND_US_MIN: i64 = 20_000;
const AUDIO_US: i64 = 20_000;
const REPORT_US: i64 = 1_000_000;

/// One encoding: an encoder and its RTP stream. A simulcast publisher has several.
#[derive(Debug)]
struct Encoding {
    ssrc: u32,
    rtx_ssrc: u32,
    encoder: Encoder,
    seq: u64,
    rtx_seq: u64,
    /// Added to time stamps.
    offset: u32,
    key_wanted: bool,
    newest_timestamp: u32,
    history: VecDeque<(Rtp, Time)>,
    packets: u32,
    octets: u32,
    /// Its packets say which it is: with simulcast, until a report shows that the node knows.
    rid: Option<&'static str>,
}

/// One publisher.
#[derive(Debug)]
pub struct Publisher {
    features: Features,
    encodings: Vec<Encoding>,
    audio_ssrc: u32,
    audio_seq: u64,
    /// Packets that wait for the pacer, and when the next may leave.
    queue: VecDeque<(Time, usize, Rtp)>,
    paced: Time,
    /// See [`Publisher::unpaced`].
    pace_percent: u64,
    next_frame: Time,
    next_audio: Time,
    next_report: Time,
    paused: bool,
    twcc_seq: u16,
    random: Random,
    /// Frames captured.
    pub sent: Vec<Sent>,
    /// Key frames asked for by the node.
    pub key_frames_asked: u32,
}

impl Publisher {
    /// Begins to capture at `now`. `id` tells its frames and SSRCs from other publishers'. Several `settings` are simulcast.
    pub fn new(id: u32, features: Features, settings: &[Settings], seed: u64, now: Time) -> Publisher {
        let mut random = Random(seed);
        let mut encoding = |(index, one): (usize, &Settings)| Encoding {
            ssrc: 0x5000_0000 | id << 8 | (2 * index as u32 + 1),
            rtx_ssrc: 0x5000_0000 | id << 8 | (2 * index as u32 + 2),
            encoder: Encoder::new((index as u32) << 16 | id, *one, random.draw()),
            seq: random.below(0x7fff) + 1,
            rtx_seq: random.below(0x7fff) + 1,
            offset: random.draw() as u32,
            key_wanted: true,
            newest_timestamp: 0,
            history: VecDeque::new(),
            packets: 0,
            octets: 0,
            rid: offer::RIDS.get(index).copied().filter(|_| settings.len() > 1),
        };
        Publisher {
            features,
            encodings: settings.iter().enumerate().map(&mut encoding).collect(),
            audio_ssrc: 0x5000_0000 | id << 8,
            audio_seq: random.below(0x7fff) + 1,
            queue: VecDeque::new(),
            paced: now,
            pace_percent: PACE_PERCENT,
            next_frame: now.plus_us(random.below(33_000) as i64),
            next_audio: now,
            next_report: now.plus_ms(100),
            paused: false,
            twcc_seq: 0,
            random,
            sent: Vec::new(),
            key_frames_asked: 0,
        }
    }

    /// Each frame leaves at once: then a key frame, which others asked for, delays nothing behind it.
    pub fn unpaced(&mut self) {
        self.pace_percent = 1_000_000;
    }

    /// Stops or resumes the camera; the sound goes on.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The time stamps of the video go on elsewhere.
    pub fn jump_time(&mut self, ticks: u32) {
        for encoding in &mut self.encodings {
            encoding.offset = encoding.offset.wrapping_add(ticks);
        }
    }

    /// The video goes on under another SSRC, with other numbers and a key frame.
    pub fn change_ssrc(&mut self) {
        for encoding in &mut self.encodings {
            encoding.ssrc += 16;
            encoding.rtx_ssrc += 16;
            encoding.seq = self.random.below(0x7fff) + 1;
            encoding.rtx_seq = self.random.below(0x7fff) + 1;
            encoding.offset = self.random.draw() as u32;
            encoding.key_wanted = true;
            encoding.history.clear();
            (encoding.packets, encoding.octets) = (0, 0);
        }
    }

    /// Another picture from the next frame on.
    pub fn set(&mut self, change: impl Fn(&mut Settings)) {
        self.encodings.iter_mut().for_each(|e| change(&mut e.encoder.settings));
    }

    /// When [`Publisher::poll`] is due.
    pub fn next(&self) -> Time {
        let paced = self.queue.front().map_or(Time::MAX, |(at, ..)| (*at).max(self.paced));
        paced.min(self.next_frame).min(self.next_audio).min(self.next_report)
    }

    /// Captures, sends and reports what is due.
    pub fn poll(&mut self, now: Time, out: &mut Outbox) {
        if now >= self.next_frame {
            self.capture(now);
        }
        if now >= self.next_audio {
            self.next_audio = self.next_audio.plus_us(AUDIO_US);
            let seq = self.audio_seq;
            self.audio_seq += 1;
            let mut payload = vec![0xfc];
            payload.resize(80, seq as u8);
            let timestamp = now.ticks(48_000) as u32;
            let rtp = Rtp {
                ssrc: self.audio_ssrc,
                payload_type: offer::OPUS,
                seq,
                timestamp,
                marker: false,
                payload: payload.into(),
                twcc: None,
                rid: None,
            };
            self.put(rtp, out);
        }
        let bitrate_bps: u64 = self.encodings.iter().map(|e| e.encoder.settings.bitrate_bps).sum();
        while self.queue.front().is_some_and(|(at, ..)| (*at).max(self.paced) <= now) {
            let Some((_, encoding, rtp)) = self.queue.pop_front() else { break };
            let e = &mut self.encodings[encoding];
            let rate = bitrate_bps * self.pace_percent / 100;
            self.paced = now.plus_us((rtp.payload.len() as u64 * 8_000_000 / rate) as i64);
            e.packets = e.packets.wrapping_add(1);
            e.octets = e.octets.wrapping_add(rtp.payload.len() as u32);
            e.history.push_back((rtp.clone(), Time(i64::MIN / 2)));
            if e.history.len() > HISTORY_MAX {
                e.history.pop_front();
            }
            self.put(rtp, out);
        }
        if now >= self.next_report {
            self.next_report = now.plus_us(REPORT_US);
            self.report(now, out);
        }
    }

    fn capture(&mut self, now: Time) {
        let interval = self.encodings[0].encoder.interval_us();
        self.next_frame = self.next_frame.plus_us(interval);
        if self.paused {
            return;
        }
        for (index, e) in self.encodings.iter_mut().enumerate() {
            let key = std::mem::take(&mut e.key_wanted);
            let frame = e.encoder.frame(key, now);
            self.sent.push(Sent { id: frame.tag.id, capture: now, key: frame.tag.is_key() });
            let ready = now.plus_us(if frame.tag.is_key() { ENCODE_KEY_US } else { ENCODE_US });
            let timestamp = (now.ticks(90_000) as u32).wrapping_add(e.offset);
            e.newest_timestamp = timestamp;
            for one in frame.payloads {
                let rtp = Rtp {
                    ssrc: e.ssrc,
                    payload_type: offer::payload_type(frame.codec),
                    seq: e.seq,
                    timestamp,
                    marker: one.marker,
                    payload: one.bytes,
                    twcc: None,
                    rid: e.rid.map(|rid| (rid, false)),
                };
                e.seq += 1;
                self.queue.push_back((ready, index, rtp));
            }
        }
    }

    fn report(&mut self, now: Time, out: &mut Outbox) {
        let ntp = rtcp::ntp_from_unix_us(UNIX_US + now.us());
        for e in self.encodings.iter().filter(|e| e.packets > 0) {
            let rtp = (now.ticks(90_000) as u32).wrapping_add(e.offset);
            let info = rtcp::SenderInfo { ssrc: e.ssrc, ntp, rtp, packets: e.packets, octets: e.octets };
            rtcp::sender_report(out.rtcp(), &info, &[], "publisher");
        }
        let info = rtcp::SenderInfo {
            ssrc: self.audio_ssrc,
            ntp,
            rtp: now.ticks(48_000) as u32,
            packets: self.audio_seq as u32,
            octets: 0,
        };
        rtcp::sender_report(out.rtcp(), &info, &[], "publisher");
    }

    /// What the node says.
    pub fn on_rtcp(&mut self, compound: &[u8], now: Time, out: &mut Outbox) {
        let mut asked = Vec::new();
        let parsed = rtcp::parse(compound, |event| match event {
            rtcp::Event::Nack { ssrc, seqs } => asked.extend(seqs.iter().map(|seq| (ssrc, *seq))),
            rtcp::Event::Pli { ssrc } | rtcp::Event::Fir { ssrc, .. } => {
                self.key_frames_asked += 1;
                self.encodings.iter_mut().filter(|e| e.ssrc == ssrc).for_each(|e| e.key_wanted = true);
            }
            rtcp::Event::Report { about_ssrc, .. } => {
                self.encodings.iter_mut().filter(|e| e.ssrc == about_ssrc).for_each(|e| e.rid = None);
            }
            _ => {}
        });
        parsed.expect("the node sends well-formed RTCP");
        for (ssrc, seq) in asked {
            self.resend(ssrc, seq, now, out);
        }
    }

    fn resend(&mut self, ssrc: u32, seq: u16, now: Time, out: &mut Outbox) {
        let Some(e) = self.encodings.iter_mut().find(|e| e.ssrc == ssrc) else { return };
        let Some((rtp, last)) = e.history.iter_mut().rev().find(|(rtp, _)| rtp.seq as u16 == seq) else {
            return;
        };
        if now.since(*last) < RESEND_US_MIN {
            return;
        }
        *last = now;
        let mut again = rtp.clone();
        if self.features.rtx {
            again.payload = [&seq.to_be_bytes(), &rtp.payload[..]].concat().into();
            again.payload_type += 1;
            again.ssrc = e.rtx_ssrc;
            again.seq = e.rtx_seq;
            again.rid = again.rid.map(|(rid, _)| (rid, true));
            e.rtx_seq += 1;
        }
        self.put(again, out);
    }

    /// Retransmissions and sound pass the pacer.
    fn put(&mut self, mut rtp: Rtp, out: &mut Outbox) {
        if self.features.twcc {
            rtp.twcc = Some(self.twcc_seq);
            self.twcc_seq = self.twcc_seq.wrapping_add(1);
        }
        out.rtp.push(rtp);
    }
}
