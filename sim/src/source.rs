//! A model of an RTMP publisher behind the node's conversion: frames by mail, a key frame each GOP, none when asked.

use std::sync::Arc;

use bytes::Bytes;
use media::{Codec, Kind, Packet, Temporal, Time};
use sfu::{Mail, SourceId, StreamId, TrackKey};

use crate::Sent;
use crate::video::{Encoder, Settings};

const AUDIO_US: i64 = 20_000;

/// One source.
#[derive(Debug)]
pub struct Source {
    stream: StreamId,
    fence: SourceId,
    encoder: Encoder,
    video_seq: u64,
    audio_seq: u64,
    next_frame: Time,
    next_audio: Time,
    /// Frames captured.
    pub sent: Vec<Sent>,
}

impl Source {
    /// Begins at `now`.
    pub fn new(
        id: u32,
        stream: StreamId,
        fence: SourceId,
        settings: Settings,
        seed: u64,
        now: Time,
    ) -> Source {
        Source {
            stream,
            fence,
            encoder: Encoder::new(id, settings, seed),
            video_seq: 0,
            audio_seq: 0,
            next_frame: now,
            next_audio: now,
            sent: Vec::new(),
        }
    }

    /// Packets of sound sent.
    pub fn sound(&self) -> u64 {
        self.audio_seq
    }

    /// When [`Source::poll`] is due.
    pub fn next(&self) -> Time {
        self.next_frame.min(self.next_audio)
    }

    /// The mail that is due.
    pub fn poll(&mut self, now: Time) -> Vec<Mail> {
        let mut mail = Vec::new();
        if now >= self.next_frame {
            self.next_frame = self.next_frame.plus_us(self.encoder.interval_us());
            let frame = self.encoder.frame(false, now);
            self.sent.push(Sent { id: frame.tag.id, capture: now, key: frame.tag.is_key() });
            let first = self.video_seq;
            self.video_seq += frame.payloads.len() as u64;
            let packet = |(seq, one): (u64, media::payload::RtpPayload)| Packet {
                seq,
                timestamp: now.ticks(90_000),
                arrival: now,
                capture: now,
                codec: frame.codec,
                marker: one.marker,
                key_start: one.key_start,
                discardable: frame.discardable,
                temporal: Temporal::default(),
                descriptor: Bytes::new(),
                fresh_source: false,
                payload: one.bytes,
            };
            mail.push(self.mail(Kind::Video, (first..).zip(frame.payloads).map(packet).collect()));
        }
        if now >= self.next_audio {
            self.next_audio = self.next_audio.plus_us(AUDIO_US);
            let packet = Packet {
                seq: self.audio_seq,
                timestamp: now.ticks(48_000),
                arrival: now,
                capture: now,
                codec: Codec::Opus,
                marker: self.audio_seq == 0,
                key_start: true,
                discardable: false,
                temporal: Temporal::default(),
                descriptor: Bytes::new(),
                fresh_source: false,
                payload: Bytes::from(vec![0xfc; 80]),
            };
            self.audio_seq += 1;
            mail.push(self.mail(Kind::Audio, Arc::new([packet])));
        }
        mail
    }

    fn mail(&self, kind: Kind, packets: Arc<[Packet]>) -> Mail {
        Mail::Packets { track: TrackKey::new(self.stream, kind), source: self.fence, packets }
    }
}
