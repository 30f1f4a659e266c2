//! The clip as the media crate reads it.
use media::flv::{Demuxer, Input, Reader, Tag};
use media::{Frame, Time, TrackConfig};
use std::sync::Arc;

/// All tags of the file.
pub fn tags() -> Vec<Tag> {
    let bytes = std::fs::read(support::clip()).expect("the clip is there");
    let mut reader = Reader::new();
    let mut tags = Vec::new();
    // as it comes from a socket: in pieces that end anywhere
    for piece in bytes.chunks(1399) {
        reader.push(piece);
        while let Some(tag) = reader.poll().expect("the clip is FLV") {
            tags.push(tag);
        }
    }
    tags
}

/// What a demuxer makes of tags.
#[derive(Default)]
pub struct Demuxed {
    pub frames: Vec<Frame>,
    /// Each new configuration, in order.
    pub configs: Vec<Arc<TrackConfig>>,
    pub mended: u64,
    pub skipped: u64,
}

/// Demuxes tags, or RTMP messages: `(type, milliseconds, body)`.
pub fn demux(all: impl IntoIterator<Item = (u8, u32, bytes::Bytes)>) -> Demuxed {
    let mut demuxer = Demuxer::new();
    let mut out = Demuxed::default();
    for (type_id, time, body) in all {
        match demuxer.push(type_id, time, body).expect("the clip is understood") {
            Some(Input::Frame(frame)) => out.frames.push(frame),
            Some(Input::Config(kind)) => {
                out.configs.push(demuxer.config(kind).expect("it was just announced").clone());
            }
            Some(Input::Metadata(_)) | None => {}
        }
    }
    (out.mended, out.skipped) = (demuxer.mended(), demuxer.skipped());
    out
}

/// The clip's frames, both tracks, in the order of the file.
pub fn frames() -> Vec<Frame> {
    demux(tags().into_iter().map(|tag| (tag.type_id, tag.timestamp_ms, tag.body))).frames
}

/// Frames are equal one by one, `later_ms` apart in time. A difference is named, not printed: frames are long.
#[track_caller]
pub fn assert_equal(got: &[Frame], want: &[Frame], later_ms: u32) {
    assert_eq!(got.len(), want.len(), "frames");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let what = |it: &Frame| (it.kind(), it.dts, it.pts, it.key, it.discardable);
        let shift = |time: Time| time.plus_ms(later_ms.into());
        let want = Frame { dts: shift(want.dts), pts: shift(want.pts), ..want.clone() };
        assert_eq!(what(got), what(&want), "frame {at}");
        assert!(got.data == want.data, "frame {at}: {} bytes, not {}", got.data.len(), want.data.len());
        assert!(got.config == want.config, "frame {at}: another configuration");
    }
}
