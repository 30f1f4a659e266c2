//! FLV: the file, taken apart and put together again, is the file.
use crate::clip::{Demuxed, assert_equal, demux, frames, tags};
use media::flv::{self, TYPE_AUDIO, TYPE_DATA, TYPE_VIDEO};
use media::{Kind, TrackConfig};

#[test]
fn the_clip_is_what_it_says() {
    let Demuxed { frames, configs, mended, skipped } =
        demux(tags().into_iter().map(|tag| (tag.type_id, tag.timestamp_ms, tag.body)));
    assert_eq!((mended, skipped, configs.len()), (0, 0, 2));
    for config in &configs {
        match &**config {
            TrackConfig::H264(video) => assert_eq!((video.width, video.height), (1280, 720)),
            TrackConfig::Aac(audio) => {
                assert_eq!((audio.object_type, audio.sample_rate_hz, audio.channels), (2, 48_000, 2));
            }
            TrackConfig::Opus => panic!("FLV has no Opus"),
        }
    }
    let count = |kind: Kind| frames.iter().filter(|it| it.kind() == kind).count();
    let seconds = count(Kind::Video) / 30;
    assert!(seconds >= 5 && count(Kind::Video) % 30 == 0, "{} pictures", count(Kind::Video));
    assert!(count(Kind::Audio).abs_diff(seconds * 48_000 / 1024) <= 2, "{} of sound", count(Kind::Audio));
    let keys = frames.iter().filter(|it| it.kind() == Kind::Video && it.key).count();
    assert_eq!(keys, seconds, "a key frame a second");
}

/// Reader, Demuxer and mux know each byte of a media tag: nothing is lost, made up, or put elsewhere.
#[test]
fn tags_to_frames_to_tags_are_the_same_bytes() {
    let tags = tags();
    let first = tags.iter().filter(|tag| tag.type_id != TYPE_DATA).map(|tag| tag.timestamp_ms).min();
    assert_eq!(first, Some(0), "the clip begins at zero");
    let demuxed = demux(tags.iter().map(|tag| (tag.type_id, tag.timestamp_ms, tag.body.clone())));
    let mut made: Vec<(u8, u32, bytes::Bytes)> = demuxed
        .configs
        .iter()
        .map(|config| (flv::type_id(config.codec().kind()), 0, flv::sequence_header(config)))
        .collect();
    made.extend(demuxed.frames.iter().map(|frame| {
        let time = u32::try_from(frame.dts.ms()).expect("a short clip");
        (flv::type_id(frame.kind()), time, flv::frame_body(frame))
    }));
    // an end of sequence is no frame and need not come again
    let is_end = |tag: &&flv::Tag| tag.type_id == TYPE_VIDEO && tag.body.get(1) == Some(&2);
    for kind in [TYPE_AUDIO, TYPE_VIDEO] {
        let read: Vec<_> = tags.iter().filter(|tag| tag.type_id == kind && !is_end(tag)).collect();
        let written: Vec<_> = made.iter().filter(|(type_id, ..)| *type_id == kind).collect();
        assert_eq!(read.len(), written.len(), "type {kind}");
        for (at, (read, (type_id, time, body))) in read.iter().zip(&written).enumerate() {
            assert_eq!(read.timestamp_ms, *time, "type {kind}, tag {at}");
            assert!(read.body == body, "type {kind}, tag {at}: other bytes");
            let again = flv::tag(*type_id, *time, body);
            assert!(again[11..again.len() - 4] == read.body[..], "type {kind}, tag {at}: other bytes");
        }
    }
}

/// Beyond 24 bits of milliseconds, where a tag's fourth byte of time is used.
const HIGH_MS: u32 = 0x0200_0000;

/// What the node sends is read by this test's own parser, which shares no line with the node's.
#[test]
fn what_we_write_another_parser_reads() {
    let frames = frames();
    let mut file = flv::file_header(true, true).to_vec();
    let time = |dts_ms: i64| HIGH_MS + u32::try_from(dts_ms).expect("a short clip");
    for frame in &frames {
        let tag = flv::tag(flv::type_id(frame.kind()), time(frame.dts.ms()), &flv::frame_body(frame));
        file.extend_from_slice(&tag);
    }
    let parsed = support::flv::parse(&file).expect("it is FLV");
    assert_eq!((parsed.flags, parsed.tags.len()), (5, frames.len()));
    for (tag, frame) in parsed.tags.iter().zip(&frames) {
        assert_eq!((tag.kind, tag.time), (flv::type_id(frame.kind()), time(frame.dts.ms())));
        let head = if frame.kind() == Kind::Video { 5 } else { 2 };
        assert!(tag.body[head..] == frame.data[..], "at {} ms: other bytes", tag.time);
        assert_eq!(tag.is_key_frame(), frame.kind() == Kind::Video && frame.key);
    }
}

/// And the other way about: what another writer wrote, ours reads.
#[test]
fn what_another_writer_writes_we_read() {
    let file = support::scratch().join(format!("{}.flv", support::unique("wire")));
    let mut tags = support::flv::clip().tags;
    for tag in tags.iter_mut().filter(|tag| !tag.is_header()) {
        tag.time += HIGH_MS;
    }
    support::flv::save(&file, &tags);
    let bytes = std::fs::read(&file).expect("it was just written");
    let mut reader = flv::Reader::new();
    reader.push(&bytes);
    let all: Vec<_> = std::iter::from_fn(|| reader.poll().expect("it is FLV"))
        .map(|tag| (tag.type_id, tag.timestamp_ms, tag.body))
        .collect();
    assert_equal(&demux(all).frames, &frames(), HIGH_MS);
}
