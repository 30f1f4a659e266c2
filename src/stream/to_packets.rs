//! Frames to packets: what an RTMP publisher sends, made ready for WebRTC. H.264 is cut into RTP payloads, Opus, which was made of the AAC, is one packet a
//! frame. It is one more reader of the frame log, started with the first WebRTC viewer and ended with the last.

use std::sync::Arc;

use media::payload;
use media::{Codec, Frame, Kind, Packet, Temporal, Time};
use metrics::Conversion;
use sfu::{Command, Mail, RingLimits, SourceId, TrackKey};

use super::Stream;
use super::conversions::Counted;
use super::log::{Entry, Read, Takes};
use crate::config::BFrames;
use crate::media_plane::Order;

/// Runs until it is aborted or the log ends. `fence` is this conversion's source.
pub async fn run(stream: Arc<Stream>, fence: SourceId) {
    let mut converter = Converter::new(stream.clone(), fence);
    // Each frame at once: an Opus frame lasts 20 ms, and browsers want them evenly spaced.
    let _counted = Counted::new(&stream.shared().metrics, Conversion::FramesToPackets);
    let mut reader = stream.log.prompt_reader(Takes::Packets);
    let mut start = Start::new(reader.catch_up_picture_bytes());
    loop {
        // The GOP that is there already goes as one mail, so that who waits for it is shown it as one. The longest, 7500 packets, takes its shard 1.4 ms.
        let past = reader.is_catching_up();
        match reader.next().await {
            Read::Entries(entries) => {
                let mut left_out = 0;
                for entry in &entries {
                    match start.takes(&entry.frame, past) {
                        true => converter.convert(entry),
                        false => left_out += u64::from(entry.frame.kind() == Kind::Video),
                    }
                }
                if !reader.is_catching_up() {
                    converter.flush();
                }
                let dropped = &stream.shared().metrics.conversion_frames_dropped;
                dropped.of(Conversion::FramesToPackets).add(reader.take_dropped() + left_out);
                tokio::task::yield_now().await;
            }
            Read::Ended(_) => return,
        }
    }
}

/// A ring that is given more than this at once has let go of the key frame when the last of it is in. The 64th part is for what packets add.
const GOP_BYTES_MAX: usize = RingLimits::VIDEO.bytes_max / 64 * 63;

/// What a conversion takes of the GOP that is there when it begins.
struct Start {
    /// More than a ring keeps: nobody could be shown it.
    too_long: bool,
    /// Pictures are left out up to the next key frame.
    leaves_out: bool,
}

impl Start {
    /// For a GOP of so many bytes so far.
    fn new(bytes: usize) -> Start {
        Start { too_long: bytes > GOP_BYTES_MAX, leaves_out: false }
    }

    /// Whether a frame is converted; `past`: it was there before. Sound that is past is not: it would hold the pictures up.
    fn takes(&mut self, frame: &Frame, past: bool) -> bool {
        if frame.kind() == Kind::Audio {
            return !past;
        }
        if frame.key {
            self.leaves_out = std::mem::take(&mut self.too_long);
        }
        !self.leaves_out
    }
}

struct Converter {
    stream: Arc<Stream>,
    fence: SourceId,
    /// Capture minus decode time of the first frame: one for audio and video, so that sender reports keep lips in step.
    base_us: Option<i64>,
    video_seq: u64,
    audio_seq: u64,
    reorders: bool,
    payloads: Vec<payload::RtpPayload>,
    video: Vec<Packet>,
    audio: Vec<Packet>,
}

impl Converter {
    fn new(stream: Arc<Stream>, fence: SourceId) -> Converter {
        Converter {
            stream,
            fence,
            base_us: None,
            video_seq: 0,
            audio_seq: 0,
            reorders: false,
            payloads: Vec::new(),
            video: Vec::new(),
            audio: Vec::new(),
        }
    }

    fn convert(&mut self, entry: &Entry) {
        self.base_us.get_or_insert(entry.captured.since(entry.frame.dts));
        match entry.frame.kind() {
            Kind::Video => self.convert_video(&entry.frame),
            Kind::Audio => self.send_audio(&entry.frame),
        }
    }

    fn capture(&self, time: Time) -> Time {
        time.plus_us(self.base_us.unwrap_or(0))
    }

    fn convert_video(&mut self, frame: &Frame) {
        self.reorders |= frame.pts > frame.dts;
        if self.reorders {
            match self.stream.shared().convert.b_frames {
                BFrames::Drop if frame.discardable => {
                    self.stream
                        .shared()
                        .metrics
                        .conversion_frames_dropped
                        .of(Conversion::FramesToPackets)
                        .add(1);
                    return;
                }
                BFrames::Refuse => return,
                _ => {}
            }
        }
        self.payloads.clear();
        payload::h264::packetize(frame, payload::PAYLOAD_LEN_MAX, &mut self.payloads);
        let capture = self.capture(frame.pts);
        for one in self.payloads.drain(..) {
            self.video.push(one.packet(frame, self.video_seq, capture));
            self.video_seq += 1;
        }
        self.stream.shared().metrics.conversion_frames.of(Conversion::FramesToPackets).add(1);
    }

    fn send_audio(&mut self, frame: &Frame) {
        let capture = self.capture(frame.pts);
        self.audio.push(Packet {
            seq: self.audio_seq,
            timestamp: frame.pts.ticks(Codec::Opus.clock_hz()),
            arrival: capture,
            capture,
            codec: Codec::Opus,
            marker: self.audio_seq == 0,
            key_start: true,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: bytes::Bytes::new(),
            fresh_source: false,
            payload: frame.data.clone(),
        });
        self.audio_seq += 1;
    }

    fn flush(&mut self) {
        let stream = &self.stream;
        for (kind, packets) in [(Kind::Video, &mut self.video), (Kind::Audio, &mut self.audio)] {
            if packets.is_empty() {
                continue;
            }
            let track = TrackKey::new(stream.id, kind);
            let packets: Arc<[Packet]> = std::mem::take(packets).into();
            stream.home.mail(Mail::Packets { track, source: self.fence, packets });
        }
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        for kind in [Kind::Video, Kind::Audio] {
            let track = TrackKey::new(self.stream.id, kind);
            let _ = self.stream.home.order(Order::Shard(Command::EndSource(track, self.fence)));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::{AudioConfig, TrackConfig, VideoConfig};

    use super::*;

    fn frame(sound: bool, key: bool) -> Frame {
        let none = Bytes::new;
        let config = match sound {
            true => TrackConfig::Aac(AudioConfig {
                asc: none(),
                object_type: 2,
                sample_rate_hz: 48_000,
                channels: 2,
            }),
            false => {
                let (width, height, fps) = (640, 360, None);
                TrackConfig::H264(VideoConfig { avcc: none(), sps: none(), pps: none(), width, height, fps })
            }
        };
        let (dts, pts) = (Time::ZERO, Time::ZERO);
        Frame { config: Arc::new(config), dts, pts, key, discardable: false, data: none() }
    }

    /// What is taken of a GOP of so many bytes that is there, of what follows, and of the next GOP: key frame, sound, picture of each.
    fn taken(bytes: usize) -> [[bool; 3]; 3] {
        let mut start = Start::new(bytes);
        [(true, true), (false, false), (true, false)].map(|(key, past)| {
            [frame(false, key), frame(true, true), frame(false, false)].map(|it| start.takes(&it, past))
        })
    }

    #[test]
    fn the_gop_that_is_there_is_taken_without_its_sound() {
        assert_eq!(taken(GOP_BYTES_MAX), [[true, false, true], [true; 3], [true; 3]]);
    }

    #[test]
    fn of_a_gop_that_no_ring_keeps_no_picture_is_taken() {
        assert_eq!(taken(GOP_BYTES_MAX + 1), [[false; 3], [false, true, false], [true; 3]]);
    }
}
