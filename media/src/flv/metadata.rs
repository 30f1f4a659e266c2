//! `onMetaData`: what players read before the first frame (E.5).

use bytes::Bytes;

use crate::amf0::{self, Value};

/// FLV codec ids of H.264 and AAC.
const VIDEO_CODEC_ID: f64 = 7.0;
const AUDIO_CODEC_ID: f64 = 10.0;
/// Longest encoder name that is kept: it is shown in the API.
const ENCODER_LEN_MAX: usize = 128;
/// Longest body whose own properties are passed on. The largest that encoders send have 2 KiB; each player and each node is sent it.
pub const METADATA_LEN_MAX: usize = 8 * 1024;

/// Properties that the publisher knows better.
const RATES: [&str; 3] = ["framerate", "videodatarate", "audiodatarate"];
/// Properties that are told of the tracks that players get, and of no other.
const TRACKS: [&str; 11] = [
    "width",
    "height",
    "framerate",
    "videocodecid",
    "videodatarate",
    "audiocodecid",
    "audiodatarate",
    "audiosamplerate",
    "audiosamplesize",
    "audiochannels",
    "stereo",
];

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
    /// The publisher's own `onMetaData`, of at most [`METADATA_LEN_MAX`] bytes: players are told what it says beside what is known here.
    pub published: Bytes,
}

impl Metadata {
    /// From the body of a script data message; `None` for anything but `onMetaData` with its object.
    pub(super) fn parse(body: &Bytes) -> Option<Metadata> {
        let mut reader = amf0::Reader::new(body);
        let (mut name, mut own) = (reader.read().ok()??, 0);
        if name.as_str() == Some("@setDataFrame") {
            own = body.len().saturating_sub(reader.rest().len());
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
            published: Some(body.slice(own..))
                .filter(|own| own.len() <= METADATA_LEN_MAX)
                .unwrap_or_default(),
        })
    }
}

/// What a publisher said that is passed on: not of a file's length, and not what is unknown.
fn own_properties(published: &Bytes) -> Vec<(String, Value)> {
    let mut reader = amf0::Reader::new(published);
    let (name, object) = (reader.read(), reader.read());
    let (Ok(Some(name)), Ok(Some(Value::Object(list) | Value::EcmaArray(list)))) = (name, object) else {
        return Vec::new();
    };
    let is_passed = |(key, _): &(String, Value)| !matches!(key.as_str(), "duration" | "filesize" | "server");
    if name.as_str() == Some("onMetaData") {
        list.into_iter().filter(is_passed).collect()
    } else {
        Vec::new()
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
    let count = list.len();
    for (key, value) in own_properties(&metadata.published) {
        match list.iter_mut().take(count).find(|(known, _)| *known == key) {
            // Rates are what the encoder aims at; what was measured swings about that. The rest is what the tracks are.
            Some((_, known)) if RATES.contains(&key.as_str()) => {
                if value.as_number().is_some_and(|rate| rate > 0.0) {
                    *known = value;
                }
            }
            Some(_) => {}
            // Of a track that is not there, or not as it was published.
            None if TRACKS.contains(&key.as_str()) => {}
            None => list.push((key, value)),
        }
    }
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
            published: Bytes::new(),
        }
    }

    #[test]
    fn what_a_publisher_says_is_passed_on_beside_what_is_known() {
        let own = |list: &[(&str, Value)]| {
            let list = list.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            amf0::encode(&["@setDataFrame".into(), "onMetaData".into(), Value::EcmaArray(list)])
        };
        let told = |body: &Bytes| {
            let published = Metadata::parse(body).unwrap().published;
            let body = metadata_body(&Metadata { published, has_audio: false, ..example() });
            amf0::decode(&body).unwrap().remove(1)
        };
        let camera = Value::Object(vec![("nr".to_owned(), 0.0.into())]);
        let said = told(&own(&[
            ("camera", camera.clone()),
            ("width", 1.0.into()),
            ("framerate", 25.0.into()),
            ("videodatarate", 0.0.into()),
            ("audiocodecid", "mp4a".into()),
            ("duration", 0.0.into()),
            ("server", "another".into()),
        ]));
        assert_eq!(said.get("camera"), Some(&camera));
        for (key, number) in [("width", 1280.0), ("framerate", 25.0), ("videodatarate", 2000.0)] {
            assert_eq!(said.get(key).and_then(Value::as_number), Some(number), "{key}");
        }
        assert_eq!((said.get("audiocodecid"), said.get("duration")), (None, None));
        assert_eq!(said.get("server").and_then(Value::as_str), Some("Millrace"));
        let long = "x".repeat(METADATA_LEN_MAX);
        assert_eq!(told(&own(&[("camera", long.as_str().into())])).get("camera"), None);
    }

    #[test]
    fn round_trip_and_no_zeros() {
        let full = example();
        let parsed =
            |body: &Bytes| Metadata::parse(body).map(|it| Metadata { published: Bytes::new(), ..it });
        assert_eq!(parsed(&metadata_body(&full)), Some(full.clone()));
        let video_only = Metadata {
            has_audio: false,
            audio_kbps: 0.0,
            audio_sample_rate_hz: 0,
            audio_channels: 0,
            video_kbps: 0.0,
            ..full
        };
        let body = metadata_body(&video_only);
        assert_eq!(parsed(&body), Some(video_only));
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
            let _ = Metadata::parse(&body.into());
        }
    }
}
