use futures_util::FutureExt;
use media::AudioConfig;

use super::*;

const LIMITS: LogLimits = LogLimits {
    bytes_max: 1_000_000,
    gop_us_max: 20_000_000,
    lag_us_max: 3_000_000,
    lag_bytes_max: 400_000,
    merge_us: 0,
};

fn video() -> Arc<TrackConfig> {
    Arc::new(TrackConfig::H264(media::VideoConfig {
        avcc: Bytes::new(),
        sps: Bytes::new(),
        pps: Bytes::new(),
        width: 640,
        height: 360,
        fps: None,
    }))
}

fn audio() -> Arc<TrackConfig> {
    let asc = Bytes::from_static(&[0x11, 0x90]);
    Arc::new(TrackConfig::Aac(AudioConfig { asc, object_type: 2, sample_rate_hz: 48_000, channels: 2 }))
}

fn frame(config: &Arc<TrackConfig>, ms: i64, key: bool) -> Frame {
    let (dts, pts) = (Time::from_ms(ms), Time::from_ms(ms));
    Frame { config: config.clone(), dts, pts, key, discardable: false, data: Bytes::from(vec![0; 1000]) }
}

fn entries(read: Option<Read>) -> Vec<Arc<Entry>> {
    match read {
        Some(Read::Entries(entries)) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_viewer_starts_at_the_newest_key_frame() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = video();
    for i in 0..70 {
        log.push(SourceId(1), frame(&config, i * 33, i % 30 == 0), Time::from_ms(i * 33));
    }
    let first = entries(log.reader().poll()).remove(0);
    assert!(first.frame.key);
    assert_eq!(first.frame.dts, Time::from_ms(60 * 33));
}

#[test]
fn players_hear_what_the_publisher_says_when_it_says_something_else() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let (config, said) = (video(), |text: &'static [u8]| Bytes::from_static(text));
    assert!(log.publish_metadata(SourceId(1), said(b"north")));
    assert!(!log.publish_metadata(SourceId(1), said(b"north")), "no news");
    assert!(!log.publish_metadata(SourceId(0), said(b"old")), "nobody of this stream");
    log.push(SourceId(1), frame(&config, 0, true), Time::ZERO);
    let (mut reader, mut headers) = (log.reader(), Headers::new(&log.metadata()));
    assert_eq!(log.metadata().published, said(b"north"));
    let first = entries(reader.poll()).remove(0);
    let before = headers.before(&first);
    assert!(before.sequence_header.is_some() && !before.metadata, "it was told at the beginning");
    assert!(log.publish_metadata(SourceId(1), said(b"south")));
    for (at, told) in [(33, true), (66, false)] {
        log.push(SourceId(1), frame(&config, at, false), Time::from_ms(at));
        let next = entries(reader.poll()).remove(0);
        let before = headers.before(&next);
        assert_eq!((before.metadata, before.sequence_header), (told, None), "at {at} ms");
    }
    log.begin(SourceId(2));
    assert_eq!(log.metadata().published, Bytes::new(), "another publisher has said nothing yet");
}

#[test]
fn a_reader_knows_the_pictures_that_are_there() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let (video, audio) = (video(), audio());
    for i in 0..70 {
        log.push(SourceId(1), frame(&video, i * 33, i % 30 == 0), Time::from_ms(i * 33));
        log.push(SourceId(1), frame(&audio, i * 33, true), Time::from_ms(i * 33));
    }
    let mut reader = log.prompt_reader(Takes::All);
    log.push(SourceId(1), frame(&video, 2_310, false), Time::from_ms(2_310));
    assert_eq!(reader.catch_up_picture_bytes(), 10_000, "of frames 60 to 69, not of the one after them");
    entries(reader.poll());
    assert_eq!(reader.catch_up_picture_bytes(), 0);
}

#[test]
fn time_goes_on_when_the_publisher_comes_back() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = video();
    log.push(SourceId(1), frame(&config, 5_000, true), Time::from_ms(100));
    let mut reader = log.reader();
    assert_eq!(entries(reader.poll())[0].frame.dts, Time::ZERO);
    log.begin(SourceId(2));
    log.push(SourceId(2), frame(&config, 900_000, true), Time::from_ms(4_100));
    assert!(
        !log.push(SourceId(1), frame(&config, 5_033, false), Time::from_ms(4_200)),
        "the old source is fenced"
    );
    assert_eq!(entries(reader.poll())[0].frame.dts, Time::from_ms(4_000));
}

#[test]
fn a_viewer_that_falls_behind_is_moved_to_the_newest_key_frame_and_counted() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = video();
    log.push(SourceId(1), frame(&config, 0, true), Time::ZERO);
    let mut reader = log.reader();
    assert_eq!(entries(reader.poll()).len(), 1);
    for i in 1..200 {
        log.push(SourceId(1), frame(&config, i * 33, i % 30 == 0), Time::from_ms(i * 33));
    }
    let next = entries(reader.poll());
    assert!(next[0].frame.key);
    assert_eq!(next[0].frame.dts, Time::from_ms(180 * 33));
    assert_eq!(reader.take_dropped(), 179);
}

#[test]
fn a_new_source_starts_with_a_key_frame_for_those_who_watched_the_old_one() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = video();
    log.push(SourceId(1), frame(&config, 0, true), Time::ZERO);
    let mut reader = log.reader();
    assert_eq!(entries(reader.poll()).len(), 1);
    log.push(SourceId(1), frame(&config, 33, false), Time::from_ms(33));
    assert_eq!(entries(reader.poll()).len(), 1);
    let mut late = log.reader();
    log.begin(SourceId(2));
    assert!(reader.poll().is_none() && late.poll().is_none(), "what the old source left is gone");
    log.push(SourceId(2), frame(&config, 0, false), Time::from_ms(500));
    assert!(reader.poll().is_none(), "it refers to a picture that nobody has");
    log.push(SourceId(2), frame(&config, 33, true), Time::from_ms(533));
    let next = entries(reader.poll());
    assert_eq!((next.len(), next[0].frame.key), (1, true));
    assert_eq!(entries(late.poll()).len(), 1);
}

#[test]
fn a_gop_longer_than_the_lag_is_given_whole_to_a_new_viewer() {
    let log = Arc::new(FrameLog::new(LogLimits { lag_bytes_max: 50_000, ..LIMITS }));
    log.begin(SourceId(1));
    let config = video();
    for i in 0..240 {
        log.push(SourceId(1), frame(&config, i * 33, i == 0), Time::from_ms(i * 33));
    }
    let mut reader = log.reader();
    let mut given = 0;
    while given < 240 {
        let batch = entries(reader.poll());
        assert_eq!(batch[0].frame.dts, Time::from_ms(given * 33));
        given += batch.len() as i64;
    }
    assert_eq!(reader.take_dropped(), 0);
}

#[test]
fn time_on_the_wire_never_starts_below_zero() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    log.push(SourceId(1), frame(&video(), 1_000, true), Time::ZERO);
    log.push(SourceId(1), frame(&audio(), 960, true), Time::ZERO);
    let given = entries(log.reader().poll());
    assert_eq!(given.iter().map(|e| wire_ms(e.frame.dts)).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn one_endless_gop_stays_within_the_bound() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = video();
    for i in 0..5_000 {
        log.push(SourceId(1), frame(&config, i * 33, i == 0), Time::from_ms(i));
    }
    assert!(log.lock().bytes <= LIMITS.bytes_max);
    assert!(log.key_arrival().is_none(), "the cut GOP is nothing to start from");
}

/// What a reader is woken with now: each frame's kind and time; `None` when it sleeps.
fn woken(reader: &mut Reader) -> Option<Vec<(Kind, i64)>> {
    match reader.next().now_or_never()? {
        Read::Entries(entries) => Some(entries.iter().map(|e| (e.frame.kind(), e.frame.dts.ms())).collect()),
        Read::Ended(why) => panic!("{why:?}"),
    }
}

#[test]
fn sound_goes_with_the_next_picture_in_the_order_it_came() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let (pictures, sound) = (video(), audio());
    let push = |config, ms, key| log.push(SourceId(1), frame(config, ms, key), Time::from_ms(ms));
    push(&pictures, 0, true);
    let (mut viewer, mut prompt) = (log.reader(), log.prompt_reader(Takes::All));
    assert_eq!(woken(&mut viewer), Some(vec![(Kind::Video, 0)]));
    assert_eq!(woken(&mut prompt), Some(vec![(Kind::Video, 0)]));
    push(&sound, 5, true);
    assert_eq!(woken(&mut prompt), Some(vec![(Kind::Audio, 5)]), "a conversion has it at once");
    push(&sound, 26, true);
    assert_eq!(woken(&mut viewer), None, "a viewer is not woken for it");
    push(&pictures, 33, false);
    let all = vec![(Kind::Audio, 5), (Kind::Audio, 26), (Kind::Video, 33)];
    assert_eq!(woken(&mut viewer), Some(all));
    assert_eq!(woken(&mut viewer), None);
    let mut late = log.reader();
    push(&sound, 47, true);
    let first = woken(&mut late).expect("a new viewer waits for no picture");
    assert_eq!((first[0], first.len()), ((Kind::Video, 0), 5));
}

#[test]
fn sound_without_pictures_is_held_for_a_moment_only() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let (pictures, sound) = (video(), audio());
    log.push(SourceId(1), frame(&pictures, 0, true), Time::ZERO);
    let mut viewer = log.reader();
    assert_eq!(woken(&mut viewer).map(|w| w.len()), Some(1));
    // The camera stopped. AAC of 44.1 kHz: 23 ms a frame.
    let mut given = 0;
    for i in 1..=99 {
        log.push(SourceId(1), frame(&sound, i * 23, true), Time::from_ms(i * 23));
        given += woken(&mut viewer).map_or(0, |w| w.len() as i64);
        assert!(i - given <= 2, "{} frames wait after the {i}th", i - given);
    }
    assert_eq!(given, 99);
}

#[test]
fn merged_pictures_go_together_and_a_pause_ends_the_wait() {
    let log = Arc::new(FrameLog::new(LogLimits { merge_us: 100_000, ..LIMITS }));
    log.begin(SourceId(1));
    let config = video();
    let push = |n: i64| log.push(SourceId(1), frame(&config, n * 40, n == 0), Time::from_ms(n * 40));
    push(0);
    let mut viewer = log.reader();
    assert_eq!(woken(&mut viewer).map(|w| w.len()), Some(1), "a new viewer does not wait");
    let given: Vec<_> =
        (1..=9).map(|n| push(n).then(|| woken(&mut viewer)).flatten().map_or(0, |w| w.len())).collect();
    assert_eq!(given, [0, 0, 3, 0, 0, 0, 4, 0, 0]);
    log.flush_late(Time::from_ms(9 * 40));
    assert_eq!(woken(&mut viewer), None);
    log.flush_late(Time::from_ms(9 * 40 + 100));
    assert_eq!(woken(&mut viewer).map(|w| w.len()), Some(2));
}

/// 30 pictures and 47 sound frames a second: the pictures go two by two wherever the sound is between them.
#[test]
fn sound_does_not_split_merged_pictures() {
    let log = Arc::new(FrameLog::new(LogLimits { merge_us: 24_000, ..LIMITS }));
    log.begin(SourceId(1));
    let (pictures, sound) = (video(), audio());
    let push = |config, us: i64, key| {
        log.push(SourceId(1), frame(config, us / 1000, key), Time::ZERO.plus_us(us));
    };
    push(&pictures, 0, true);
    let mut viewer = log.reader();
    assert_eq!(woken(&mut viewer).map(|w| w.len()), Some(1));
    let (mut next_picture, mut next_sound, mut writes) = (33_333, 5_000, Vec::new());
    while next_picture < 2_000_000 {
        if next_sound < next_picture {
            push(&sound, next_sound, true);
            next_sound += 21_333;
        } else {
            push(&pictures, next_picture, false);
            next_picture += 33_333;
        }
        let all = woken(&mut viewer).unwrap_or_default();
        writes.extend((!all.is_empty()).then(|| all.iter().filter(|(kind, _)| *kind == Kind::Video).count()));
    }
    assert_eq!(writes[1..], vec![2; writes.len() - 1], "the first had its picture before it began to wait");
    assert!(writes.len() >= 29, "{}", writes.len());
}

#[test]
fn what_waits_for_a_picture_is_not_lost_when_the_publisher_leaves() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let (pictures, sound) = (video(), audio());
    log.push(SourceId(1), frame(&pictures, 0, true), Time::ZERO);
    let (mut viewer, mut other) = (log.reader(), log.reader());
    assert!(woken(&mut viewer).is_some() && woken(&mut other).is_some());
    log.push(SourceId(1), frame(&sound, 5, true), Time::from_ms(5));
    log.flush();
    assert_eq!(woken(&mut viewer), Some(vec![(Kind::Audio, 5)]));
    log.push(SourceId(1), frame(&sound, 26, true), Time::from_ms(26));
    log.end(Ended::Over);
    assert_eq!(woken(&mut viewer), Some(vec![(Kind::Audio, 26)]));
    assert!(matches!(viewer.next().now_or_never(), Some(Read::Ended(Ended::Over))));
    assert_eq!(woken(&mut other).map(|w| w.len()), Some(2));
}

#[test]
fn audio_alone_starts_at_once() {
    let log = Arc::new(FrameLog::new(LIMITS));
    log.begin(SourceId(1));
    let config = audio();
    let mut reader = log.reader();
    for ms in [0, 21, 43] {
        log.push(SourceId(1), frame(&config, ms, true), Time::from_ms(ms));
        assert_eq!(woken(&mut reader), Some(vec![(Kind::Audio, ms)]));
    }
    log.end(Ended::Over);
    assert!(matches!(reader.poll(), Some(Read::Ended(Ended::Over))));
}
