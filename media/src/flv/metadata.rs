//! `onMetaData`: what players read before the first frame (E.5).

use bytes::Bytes;

use crate::amf0::{self, Value};

/// FLV codec ids of H.264 and AAC.
const VIDEO_CODEC_ID: f64 = 7.0;
const AUDIO_CODEC_ID: f64 = 10.0;
/// Longest encoder name that is kept: it is shown in the API.
const ENCODER_LEN_MAX: usize = 128;

/// What is known about a stream. A zero or an empty text means unknown, and is not written: some players take a zero
/// bitrate for a missing track and then show no picture.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Metadata {
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
    /// Pictures a second.
    pub fps: f64,
    /// Video bitrate in kbit/s.
    pub video_kbps: f64,
    /// Audio bitrate in kbit/s.
    pub audio_kbps: f64,
    /// Audio sampling rate in Hz.
    pub audio_sample_rate_hz: u32,
    /// 1 mono, 2 stereo.
    pub audio_channels: u8,
    /// The program that encoded it.
    pub encoder: String,
    /// There is an AAC track.
    pub has_audio: bool,
    /// There is an H.264 track.
    pub has_video: bool,
}

impl Metadata {
    /// From the body of a script data message; `None` for anything but `onMetaData` with its object.
    pub(super) fn parse(body: &[u8]) -> Option<Metadata> {
        let mut reader = amf0::Reader::new(body);
        let mut name = reader.read().ok()??;
        if name.as_str() == Some("@setDataFrame") {
            name = reader.read().ok()??;
        }
        if name.as_str() != Some("onMetaData") {
            return None;
        }
        let object = reader.read().ok()??;
        object.properties()?;
        let number = |key| {
            object.get(key).and_then(Value::as_number).filter(|n| (0.0..1e9).contains(n)).unwrap_or(0.0)
        };
        // A codec is named by its FLV id, or by a FourCC text as librtmp's encoders write it.
        let has = |key| object.get(key).is_some_and(|id| !matches!(id, Value::Number(0.0) | Value::Null));
        let channels = match object.get("audiochannels").or_else(|| object.get("stereo")) {
            Some(Value::Number(channels)) => *channels as u8,
            Some(Value::Boolean(stereo)) => 1_u8.saturating_add(u8::from(*stereo)),
            _ => 0,
        };
        let encoder = object.get("encoder").and_then(Value::as_str).unwrap_or("");
        Some(Metadata {
            width: number("width") as u32,
            height: number("height") as u32,
            fps: number("framerate"),
            video_kbps: number("videodatarate"),
            audio_kbps: number("audiodatarate"),
            audio_sample_rate_hz: number("audiosamplerate") as u32,
            audio_channels: channels,
            encoder: encoder.chars().filter(|c| !c.is_control()).take(ENCODER_LEN_MAX).collect(),
            has_audio: has("audiocodecid"),
            has_video: has("videocodecid"),
        })
    }
}

/// The body of the `onMetaData` script data message, without `@setDataFrame`.
pub fn metadata_body(metadata: &Metadata) -> Bytes {
    let mut list: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| list.push((key.to_owned(), value));
    if metadata.has_video {
        put("width", f64::from(metadata.width).into());
        put("height", f64::from(metadata.height).into());
        put("framerate", metadata.fps.into());
        put("videocodecid", VIDEO_CODEC_ID.into());
        put("videodatarate", metadata.video_kbps.into());
    }
    if metadata.has_audio {
        put("audiocodecid", AUDIO_CODEC_ID.into());
        put("audiodatarate", metadata.audio_kbps.into());
        put("audiosamplerate", f64::from(metadata.audio_sample_rate_hz).into());
        put("audiosamplesize", 16.0.into());
        if metadata.audio_channels > 0 {
            put("audiochannels", f64::from(metadata.audio_channels).into());
            put("stereo", (metadata.audio_channels > 1).into());
        }
    }
    if !metadata.encoder.is_empty() {
        put("encoder", metadata.encoder.as_str().into());
    }
    put("server", "Millrace".into());
    list.retain(|(_, value)| value.as_number() != Some(0.0));
    amf0::encode(&[Value::from("onMetaData"), Value::EcmaArray(list)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Metadata {
        Metadata {
            width: 1280,
            height: 720,
            fps: 29.97,
            video_kbps: 2000.0,
            audio_kbps: 128.0,
            audio_sample_rate_hz: 44_100,
            audio_channels: 2,
            encoder: "Lavf60".to_owned(),
            has_audio: true,
            has_video: true,
        }
    }

    #[test]
    fn round_trip_and_no_zeros() {
        let full = example();
        assert_eq!(Metadata::parse(&metadata_body(&full)), Some(full.clone()));
        let video_only = Metadata {
            has_audio: false,
            audio_kbps: 0.0,
            audio_sample_rate_hz: 0,
            audio_channels: 0,
            video_kbps: 0.0,
            ..full
        };
        let body = metadata_body(&video_only);
        assert_eq!(Metadata::parse(&body), Some(video_only));
        let values = amf0::decode(&body).unwrap();
        assert_eq!(values[1].get("videodatarate"), None);
        assert_eq!(values[1].get("audiocodecid"), None);
        assert_eq!(values[1].get("server").and_then(Value::as_str), Some("Millrace"));
    }

    #[test]
    fn hostile_numbers_are_unknown() {
        let body = amf0::encode(&[
            "onMetaData".into(),
            Value::Object(vec![
                ("width".to_owned(), f64::NAN.into()),
                ("height".to_owned(), f64::INFINITY.into()),
                ("framerate".to_owned(), (-1.0).into()),
                ("audiochannels".to_owned(), 1e300.into()),
            ]),
        ]);
        let metadata = Metadata::parse(&body).unwrap();
        assert_eq!((metadata.width, metadata.height, metadata.fps), (0, 0, 0.0));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut body = amf0::encode(&["onMetaData".into()]).to_vec();
            body.extend(tail);
            let _ = Metadata::parse(&body);
        }
    }
}
