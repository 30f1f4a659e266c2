//! Tag bodies made into frames.

use std::sync::Arc;

use bytes::Bytes;

use super::timeline::Timeline;
use super::{Error, Metadata, TYPE_AUDIO, TYPE_DATA, TYPE_VIDEO};
use crate::h264::{self, AccessUnit, ParameterSets};
use crate::{AudioConfig, Frame, Kind, Time, TrackConfig, VideoConfig};

/// Composition times beyond this are nonsense: sixteen reference frames at the slowest usable rate need less.
const COMPOSITION_MS_MAX: i64 = 10_000;

/// What a tag body turned out to be.
#[derive(Clone, Debug)]
pub enum Input {
    /// A frame of either track.
    Frame(Frame),
    /// `onMetaData`: what the publisher says about itself, not more.
    Metadata(Metadata),
    /// A track got its first or a different configuration; see [`Demuxer::config`].
    Config(Kind),
}

/// Turns one publisher's tag bodies into frames of H.264 and AAC.
///
/// Time comes out as 64-bit, shared by both tracks: it never goes back within a track, and a jump of the publisher's
/// clock of more than 3 s becomes one frame step on both tracks alike.
#[derive(Debug)]
pub struct Demuxer {
    timeline: Timeline,
    video: Option<Arc<TrackConfig>>,
    audio: Option<Arc<TrackConfig>>,
    /// Bytes of a NAL length in what the publisher sends; the frames have 4.
    length_size: u8,
    mended: u64,
    skipped: u64,
}

impl Default for Demuxer {
    fn default() -> Demuxer {
        Demuxer::new()
    }
}

impl Demuxer {
    /// For a publisher that has sent nothing yet.
    pub fn new() -> Demuxer {
        Demuxer { timeline: Timeline::new(), video: None, audio: None, length_size: 4, mended: 0, skipped: 0 }
    }

    /// The current configuration of a track, `None` before its sequence header.
    pub fn config(&self, kind: Kind) -> Option<&Arc<TrackConfig>> {
        match kind {
            Kind::Video => self.video.as_ref(),
            Kind::Audio => self.audio.as_ref(),
        }
    }

    /// How many frames came with a time that had to be mended: a jump, a step back, or a presentation time before the
    /// decode time.
    pub fn mended(&self) -> u64 {
        self.mended
    }

    /// How many bodies were left out: frames before their sequence header, and what is neither frame nor configuration.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes one tag or RTMP message. `None` when there is nothing to pass on: a repeated configuration, the end of a
    /// sequence, a frame before its sequence header. An error means the publisher cannot be understood.
    pub fn push(&mut self, type_id: u8, timestamp_ms: u32, body: Bytes) -> Result<Option<Input>, Error> {
        let input = match type_id {
            // Some encoders send empty messages as a sign of life.
            _ if body.is_empty() => return Ok(None),
            TYPE_AUDIO => self.audio(timestamp_ms, &body)?,
            TYPE_VIDEO => self.video(timestamp_ms, &body)?,
            TYPE_DATA => match Metadata::parse(&body) {
                Some(metadata) => {
                    if metadata.published.is_empty() {
                        // Too long to be passed on.
                        self.skipped = self.skipped.saturating_add(1);
                    }
                    return Ok(Some(Input::Metadata(metadata)));
                }
                None => None,
            },
            other => return Err(Error::TagType(other)),
        };
        Ok(input)
    }

    fn video(&mut self, timestamp_ms: u32, body: &Bytes) -> Result<Option<Input>, Error> {
        let Some(first) = body.first() else { return Ok(None) };
        // Enhanced RTMP: the top bit says that a FourCC follows.
        if first & 0x80 != 0 {
            return Err(enhanced("video", body));
        }
        // E.4.3.1: CodecID in the low four bits.
        match first & 0x0F {
            7 => {}
            2 => return Err(unsupported("Sorenson H.263 video (FLV codec id 2)")),
            3 | 6 => return Err(unsupported("Screen video (FLV codec id 3 or 6)")),
            4 | 5 => return Err(unsupported("VP6 video (FLV codec id 4 or 5)")),
            12 => return Err(unsupported("HEVC video (FLV codec id 12)")),
            13 => return Err(unsupported("AV1 video (FLV codec id 13)")),
            other => return Err(Error::UnsupportedCodec { what: format!("video of FLV codec id {other}") }),
        }
        // E.4.3.1: frame type 5 is a command of a seeking server, no picture.
        if first >> 4 == 5 {
            return Ok(self.skip());
        }
        let Some([_, packet_type, c2, c1, c0]) = body.first_chunk::<5>() else {
            return Err(Error::Truncated("video"));
        };
        let rest = body.slice(5..);
        match packet_type {
            0 => {
                let length_size = h264::avcc_length_size(&rest)?;
                let config = VideoConfig::from_avcc(rest)?;
                self.length_size = length_size;
                Ok(take_config(&mut self.video, TrackConfig::H264(config))
                    .then_some(Input::Config(Kind::Video)))
            }
            1 => {
                // A signed 24-bit number, moved up to take its sign along.
                let composition_ms = i32::from_be_bytes([*c2, *c1, *c0, 0]) >> 8;
                self.picture(timestamp_ms, i64::from(composition_ms), rest)
            }
            2 => Ok(None), // end of sequence; another header and more frames may follow
            other => Err(Error::PacketType { kind: "AVC", packet_type: *other }),
        }
    }

    fn picture(
        &mut self,
        timestamp_ms: u32,
        composition_ms: i64,
        body: Bytes,
    ) -> Result<Option<Input>, Error> {
        let unit = h264::access_unit_from_avcc(body, self.length_size)?;
        self.in_band_parameter_sets(&unit)?;
        let Some(config) = self.video.clone().filter(|_| !unit.data.is_empty()) else {
            return Ok(self.skip());
        };
        let placed = self.timeline.place(Kind::Video, timestamp_ms);
        // The composition time counts from the decode time, wherever that was moved to.
        let sane = (0..=COMPOSITION_MS_MAX).contains(&composition_ms);
        let pts_ms = if sane { placed.dts_ms.saturating_add(composition_ms) } else { placed.dts_ms };
        self.count_mended(placed.mended || !sane);
        Ok(Some(Input::Frame(Frame {
            config,
            dts: Time::from_ms(placed.dts_ms),
            pts: Time::from_ms(pts_ms),
            key: unit.key,
            discardable: unit.discardable,
            data: unit.data,
        })))
    }

    /// Encoders that change resolution may send the new parameter sets inside a frame, and some never send a sequence
    /// header at all.
    fn in_band_parameter_sets(&mut self, unit: &AccessUnit) -> Result<(), Error> {
        if unit.sps.is_none() && unit.pps.is_none() {
            return Ok(());
        }
        let current = match self.video.as_deref() {
            Some(TrackConfig::H264(config)) => Some(config),
            _ => None,
        };
        let known = match current {
            Some(config) => ParameterSets::parse(&config.avcc)?,
            None => ParameterSets::default(),
        };
        let is_known =
            |list: &[&[u8]], set: &Option<Bytes>| set.as_ref().is_none_or(|set| list.contains(&&set[..]));
        if is_known(&known.sps, &unit.sps) && is_known(&known.pps, &unit.pps) {
            return Ok(());
        }
        let sps = unit.sps.clone().or_else(|| current.map(|config| config.sps.clone()));
        let pps = unit.pps.clone().or_else(|| current.map(|config| config.pps.clone()));
        if let (Some(sps), Some(pps)) = (sps, pps) {
            let config = VideoConfig::from_parameter_sets(sps, pps)?;
            take_config(&mut self.video, TrackConfig::H264(config));
        }
        Ok(())
    }

    fn audio(&mut self, timestamp_ms: u32, body: &Bytes) -> Result<Option<Input>, Error> {
        let Some(first) = body.first() else { return Ok(None) };
        // E.4.2.1: SoundFormat in the high four bits.
        match first >> 4 {
            10 => {}
            9 => return Err(enhanced("audio", body)),
            0 | 3 => return Err(unsupported("PCM audio (FLV sound format 0 or 3)")),
            1 => return Err(unsupported("ADPCM audio (FLV sound format 1)")),
            2 | 14 => return Err(unsupported("MP3 audio (FLV sound format 2 or 14)")),
            4..=6 => return Err(unsupported("Nellymoser audio (FLV sound format 4 to 6)")),
            7 | 8 => return Err(unsupported("G.711 audio (FLV sound format 7 or 8)")),
            11 => return Err(unsupported("Speex audio (FLV sound format 11)")),
            13 => return Err(unsupported("Opus audio (FLV sound format 13)")),
            other => {
                return Err(Error::UnsupportedCodec { what: format!("audio of FLV sound format {other}") });
            }
        }
        let Some([_, packet_type]) = body.first_chunk::<2>() else {
            return Err(Error::Truncated("audio"));
        };
        let rest = body.slice(2..);
        match packet_type {
            0 => {
                // A copy: the configuration outlives the message it came in.
                let config = AudioConfig::from_asc(Bytes::copy_from_slice(&rest))?;
                Ok(take_config(&mut self.audio, TrackConfig::Aac(config))
                    .then_some(Input::Config(Kind::Audio)))
            }
            1 => {
                let Some(config) = self.audio.clone().filter(|_| !rest.is_empty()) else {
                    return Ok(self.skip());
                };
                let placed = self.timeline.place(Kind::Audio, timestamp_ms);
                self.count_mended(placed.mended);
                let time = Time::from_ms(placed.dts_ms);
                let frame = Frame { config, dts: time, pts: time, key: true, discardable: false, data: rest };
                Ok(Some(Input::Frame(frame)))
            }
            other => Err(Error::PacketType { kind: "AAC", packet_type: *other }),
        }
    }

    fn skip(&mut self) -> Option<Input> {
        self.skipped = self.skipped.saturating_add(1);
        None
    }

    fn count_mended(&mut self, mended: bool) {
        self.mended = self.mended.saturating_add(u64::from(mended));
    }
}

/// Puts a configuration in place; whether it differs from the one before. Publishers repeat theirs, and frames must go on
/// pointing at the same one then.
fn take_config(slot: &mut Option<Arc<TrackConfig>>, config: TrackConfig) -> bool {
    let changed = slot.as_deref() != Some(&config);
    if changed {
        *slot = Some(Arc::new(config));
    }
    changed
}

fn unsupported(what: &str) -> Error {
    Error::UnsupportedCodec { what: what.to_owned() }
}

fn enhanced(kind: &str, body: &[u8]) -> Error {
    let name = body.get(1..5).unwrap_or_default();
    let name: String =
        name.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '?' }).collect();
    Error::UnsupportedCodec { what: format!("Enhanced RTMP {kind} with FourCC \"{name}\"") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flv::{frame_body, metadata_body, sequence_header};
    use crate::h264::vectors::*;

    const ASC: &[u8] = &[0x12, 0x10]; // AAC-LC, 44.1 kHz, stereo

    fn video_config(sps: &[u8], pps: &[u8]) -> TrackConfig {
        TrackConfig::H264(VideoConfig::from_parameter_sets(bytes(sps), bytes(pps)).unwrap())
    }

    fn audio_config() -> TrackConfig {
        TrackConfig::Aac(AudioConfig::from_asc(bytes(ASC)).unwrap())
    }

    fn video_body(key: bool, composition_ms: i32, data: &[u8]) -> Bytes {
        let [_, c2, c1, c0] = composition_ms.to_be_bytes();
        let mut body = vec![if key { 0x17 } else { 0x27 }, 1, c2, c1, c0];
        body.extend_from_slice(data);
        body.into()
    }

    fn started() -> Demuxer {
        let mut demuxer = Demuxer::new();
        let header = sequence_header(&video_config(SPS_MAIN_QCIF, PPS_MAIN));
        assert!(matches!(demuxer.push(9, 0, header), Ok(Some(Input::Config(Kind::Video)))));
        assert!(matches!(
            demuxer.push(8, 0, sequence_header(&audio_config())),
            Ok(Some(Input::Config(Kind::Audio)))
        ));
        demuxer
    }

    fn frame(input: Result<Option<Input>, Error>) -> Frame {
        match input {
            Ok(Some(Input::Frame(frame))) => frame,
            other => panic!("no frame: {other:?}"),
        }
    }

    #[test]
    fn frames_round_trip() {
        let mut demuxer = started();
        let body = video_body(true, 80, &avcc(&[IDR_START]));
        let video = frame(demuxer.push(9, 40, body.clone()));
        assert_eq!((video.dts, video.pts), (Time::from_ms(40), Time::from_ms(120)));
        assert!(video.key && !video.discardable);
        assert_eq!(frame_body(&video), body);
        let inter = frame(demuxer.push(9, 80, video_body(false, 0, &avcc(&[B_START]))));
        assert!(!inter.key && inter.discardable);
        assert!(Arc::ptr_eq(&inter.config, &video.config));
        let body = Bytes::from_static(&[0xAF, 1, 0x21, 0x10]);
        let audio = frame(demuxer.push(8, 46, body.clone()));
        assert_eq!(frame_body(&audio), body);
        assert_eq!((demuxer.mended(), demuxer.skipped()), (0, 0));
    }

    #[test]
    fn configuration() {
        let mut demuxer = started();
        let before = demuxer.config(Kind::Video).unwrap().clone();
        // repeated: nothing changes
        assert!(matches!(demuxer.push(9, 0, sequence_header(&before)), Ok(None)));
        assert!(Arc::ptr_eq(&before, demuxer.config(Kind::Video).unwrap()));
        // repeated in a frame: the same
        let same = video_body(true, 0, &avcc(&[SPS_MAIN_QCIF, PPS_MAIN, IDR_START]));
        assert!(Arc::ptr_eq(&before, &frame(demuxer.push(9, 0, same)).config));
        // others in a frame
        let other = video_body(true, 0, &avcc(&[SPS_BASELINE_1080P, PPS_BASELINE, IDR_START]));
        let changed = frame(demuxer.push(9, 40, other));
        assert_eq!(*changed.config, video_config(SPS_BASELINE_1080P, PPS_BASELINE));
        assert_eq!(changed.data, avcc(&[IDR_START]));
        // end of sequence
        assert!(matches!(demuxer.push(9, 80, Bytes::from_static(&[0x17, 2, 0, 0, 0])), Ok(None)));
    }

    #[test]
    fn two_byte_lengths_become_four() {
        let mut header = sequence_header(&video_config(SPS_MAIN_QCIF, PPS_MAIN)).to_vec();
        header[5 + 4] = 0xFD;
        let mut demuxer = Demuxer::new();
        demuxer.push(9, 0, header.into()).unwrap();
        let mut data = vec![0, IDR_START.len() as u8];
        data.extend_from_slice(IDR_START);
        assert_eq!(frame(demuxer.push(9, 0, video_body(true, 0, &data))).data, avcc(&[IDR_START]));
    }

    #[test]
    fn frames_before_their_header_are_skipped() {
        let mut demuxer = Demuxer::new();
        assert!(matches!(demuxer.push(9, 0, video_body(true, 0, &avcc(&[IDR_START]))), Ok(None)));
        assert!(matches!(demuxer.push(8, 0, Bytes::from_static(&[0xAF, 1, 0])), Ok(None)));
        assert_eq!(demuxer.skipped(), 2);
        // unless the frame carries its parameter sets
        let whole = video_body(true, 0, &avcc(&[SPS_MAIN_QCIF, PPS_MAIN, IDR_START]));
        assert!(frame(demuxer.push(9, 0, whole)).key);
    }

    #[test]
    fn composition_times_are_mended() {
        let mut demuxer = started();
        for (n, composition_ms) in [-1, -8_388_608, 8_388_607].into_iter().enumerate() {
            let at = 40 * (n as u32 + 1);
            let frame = frame(demuxer.push(9, at, video_body(false, composition_ms, &avcc(&[P_START]))));
            assert_eq!((frame.dts, frame.pts), (Time::from_ms(at.into()), Time::from_ms(at.into())));
        }
        assert_eq!(demuxer.mended(), 3);
    }

    #[test]
    fn unsupported_codecs_say_their_name() {
        for (type_id, body, word) in [
            (9, &[0x22, 0][..], "Sorenson"),
            (9, &[0x1C, 0, 0, 0, 0], "HEVC"),
            (9, &[0x90, b'h', b'v', b'c', b'1'], "hvc1"),
            (9, &[0x90], "Enhanced"),
            (8, &[0x2F, 0], "MP3"),
            (8, &[0x90, b'O', b'p', b'u', b's'], "Opus"),
        ] {
            let error = Demuxer::new().push(type_id, 0, bytes(body)).unwrap_err();
            assert!(matches!(error, Error::UnsupportedCodec { .. }));
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(matches!(Demuxer::new().push(9, 0, bytes(&[0x17])), Err(Error::Truncated(_))));
        assert!(matches!(Demuxer::new().push(22, 0, bytes(&[0])), Err(Error::TagType(22))));
    }

    #[test]
    fn metadata_passes() {
        let metadata = Metadata { width: 64, height: 48, has_video: true, ..Metadata::default() };
        let body = metadata_body(&metadata);
        let input = Demuxer::new().push(18, 0, body.clone()).unwrap();
        assert!(
            matches!(input, Some(Input::Metadata(found)) if found == Metadata { published: body, ..metadata })
        );
        assert!(matches!(Demuxer::new().push(18, 0, bytes(b"\x02\x00\x02hi")), Ok(None)));
    }

    proptest! {
        #[test]
        fn times_never_go_back(
            tags in prop::collection::vec((any::<bool>(), any::<u32>(), any::<i32>()), 1..60)
        ) {
            let mut demuxer = started();
            let mut last = [Time::ZERO; 2];
            for (video, at, composition_ms) in tags {
                let frame = frame(if video {
                    demuxer.push(9, at, video_body(false, composition_ms, &avcc(&[P_START])))
                } else {
                    demuxer.push(8, at, Bytes::from_static(&[0xAF, 1, 0]))
                });
                prop_assert!(frame.dts >= last[usize::from(video)] && frame.pts >= frame.dts);
                last[usize::from(video)] = frame.dts;
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bodies in prop::collection::vec(
                (prop::sample::select(vec![8u8, 9, 18, 1]), any::<u32>(), prop::sample::select(vec![0x17u8, 0x27, 0xAF, 0x90, 2]),
                 0u8..3, prop::collection::vec(any::<u8>(), 0..60)), 0..8)
        ) {
            let mut demuxer = started();
            for (type_id, at, first, second, rest) in bodies {
                let mut body = vec![first, second];
                body.extend(rest);
                let _ = demuxer.push(type_id, at, body.into());
            }
        }
    }
}
