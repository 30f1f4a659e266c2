//! ffmpeg publishes, ffmpeg and ffprobe play.
use serde_json::Value;
use std::time::{Duration, Instant};
use support::ffmpeg::{self, Source};
use support::flv::VIDEO;
use support::rtmp::{Client, Publisher};
use support::wait::shared;
use support::{Node, need, unique};

#[track_caller]
fn assert_rising(probe: &Value, kind: &str) {
    let times = ffmpeg::decode_times(probe, kind);
    assert!(times.len() > 20, "{} {kind} packets", times.len());
    let back = times.windows(2).find(|it| it[1] <= it[0]);
    assert_eq!(back, None, "{kind}: decode times must rise");
}

#[track_caller]
fn field<'a>(probe: &'a Value, kind: &str, key: &str) -> &'a Value {
    &ffmpeg::stream(probe, kind).unwrap_or_else(|| panic!("no {kind} in {:#}", probe["streams"]))[key]
}

#[track_caller]
fn assert_codecs(probe: &Value, width: u32, height: u32) {
    assert_eq!(field(probe, "video", "codec_name"), "h264");
    assert_eq!(
        (field(probe, "video", "width"), field(probe, "video", "height")),
        (&width.into(), &height.into())
    );
    assert_eq!(field(probe, "audio", "codec_name"), "aac");
    assert_rising(probe, "video");
    assert_rising(probe, "audio");
}

/// The tests' own RTMP client against another server than ours, so that the two do not merely agree with each other.
#[test]
fn the_client_of_these_tests_publishes_to_ffmpeg() {
    need!(Ffmpeg);
    let _lane = shared();
    let (port, file) = (support::node::free_tcp(), support::scratch().join("client.mkv"));
    let url = format!("rtmp://{port}/live/own");
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-y", "-listen", "1", "-i", &url, "-t", "3", "-c", "copy"]).arg(&file);
    let mut server = support::process::Process::start("client-server", &mut command);
    std::thread::sleep(Duration::from_millis(700));
    let publisher = Publisher::start(port, "own");
    assert!(server.wait(Duration::from_secs(15)).is_some_and(|it| it.success()), "{}", server.output());
    drop(publisher);
    assert_codecs(&ffmpeg::probe(&file.to_string_lossy(), 5), 1280, 720);
}

#[test]
fn ffprobe_reads_what_ffmpeg_pushed_by_rtmp_and_by_http_flv() {
    need!(Ffmpeg);
    let _lane = shared();
    let mut node = Node::start();
    let name = unique("copy");
    let mut push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    for url in [node.rtmp_url(&name), node.flv_url(&name)] {
        let probe = ffmpeg::probe(&url, 4);
        assert_codecs(&probe, 1280, 720);
        assert_eq!(field(&probe, "audio", "sample_rate"), "48000");
        assert_eq!(field(&probe, "audio", "channels"), 2);
        let span = |kind| {
            let times = ffmpeg::decode_times(&probe, kind);
            times[times.len() - 1] - times[0]
        };
        assert!((span("video") - span("audio")).abs() < 0.5, "{url}: the tracks are of one length");
        assert!(span("video") > 3.0, "{url}: {} s", span("video"));
    }
    assert_eq!(push.ended(), None, "the publisher was ended: {}", push.output());
    node.assert_well();
}

#[test]
fn ffmpeg_own_encodings_go_through() {
    need!(Ffmpeg);
    let _lane = shared();
    let node = Node::start();
    let name = unique("encoded");
    let _push =
        ffmpeg::push_source(&node.rtmp_url(&name), Source { b_frames: 2, gop_s: 2, ..Source::default() });
    node.wait_live(&name);
    let probe = ffmpeg::probe(&node.rtmp_url(&name), 4);
    assert_codecs(&probe, 640, 360);
    assert_eq!(field(&probe, "audio", "sample_rate"), "44100");
    // B-frames: shown later than decoded, and the composition times came through
    let packets = probe["packets"].as_array().expect("packets");
    let moved =
        packets.iter().filter(|it| it["codec_type"] == "video" && it["pts_time"] != it["dts_time"]).count();
    assert!(moved > 10, "{moved} pictures with a composition time");
}

#[test]
fn sound_alone_and_pictures_alone() {
    need!(Ffmpeg);
    let _lane = shared();
    let node = Node::start();
    for (video, audio) in [(false, true), (true, false)] {
        let name = unique("single");
        let _push = ffmpeg::push_source(&node.rtmp_url(&name), Source { video, audio, ..Source::default() });
        node.wait_live(&name);
        let (kind, other) = if video { ("video", "audio") } else { ("audio", "video") };
        for url in [node.rtmp_url(&name), node.flv_url(&name)] {
            let start = Instant::now();
            let probe = ffmpeg::probe(&url, 2);
            assert!(ffmpeg::stream(&probe, other).is_none(), "{url}: {other} in a stream of {kind}");
            assert_rising(&probe, kind);
            assert!(start.elapsed() < Duration::from_secs(9), "{url}: ffprobe waited {:?}", start.elapsed());
        }
    }
}

#[test]
fn decoding_what_is_played_finds_no_error() {
    need!(Ffmpeg);
    let _lane = shared();
    let node = Node::start();
    let name = unique("decoded");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let file = ffmpeg::record(&node.rtmp_url(&name), 5);
    let (_, errors) = ffmpeg::filter(&file, "0:v:0", "null");
    assert_eq!(errors, "", "the decoder of pictures complained");
    let (_, errors) = ffmpeg::filter(&file, "0:a:0", "anull");
    assert_eq!(errors, "", "the decoder of sound complained");
    assert!(ffmpeg::mean_volume(&file) > -40.0);
}

#[test]
fn a_second_ffmpeg_is_refused() {
    need!(Ffmpeg);
    let _lane = shared();
    let node = Node::start();
    let name = unique("second");
    let mut first = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let mut second = ffmpeg::push_clip(&node.rtmp_url(&name));
    let status = second.wait(Duration::from_secs(8));
    assert!(status.is_some_and(|it| !it.success()), "the second publisher: {status:?}");
    assert_eq!(first.ended(), None, "the first publisher was ended: {}", first.output());
}

/// With four seconds from key frame to key frame, a late viewer still sees a picture within one.
#[test]
fn a_late_viewer_of_a_long_gop_starts_within_a_second() {
    need!(Ffmpeg);
    let _lane = shared();
    let node = Node::start();
    let name = unique("long-gop");
    let _push = ffmpeg::push_source(&node.rtmp_url(&name), Source { gop_s: 4, ..Source::default() });
    node.wait_live(&name);
    std::thread::sleep(Duration::from_secs(6)); // into the second GOP
    for _ in 0..3 {
        let start = Instant::now();
        let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
        viewer.play(&name).expect("a viewer plays");
        let first = std::iter::from_fn(|| viewer.next(Duration::from_secs(5)))
            .find(|it| it.tag.kind == VIDEO && !it.tag.is_header())
            .expect("a picture");
        assert!(first.tag.is_key_frame(), "the first picture needs others");
        let waited = first.at - start;
        assert!(waited < Duration::from_secs(1), "the first picture came after {waited:?}");
        std::thread::sleep(Duration::from_millis(900));
    }
}

/// A viewer that is stopped, as a laptop that sleeps, and goes on: the stream is still there.
#[test]
fn a_stopped_viewer_catches_up_and_others_do_not_notice() {
    need!(Ffmpeg);
    let _lane = shared();
    let mut node = Node::start();
    let name = unique("stopped");
    let _push = ffmpeg::push_clip(&node.rtmp_url(&name));
    node.wait_live(&name);
    let stopped = ffmpeg::view(&node.rtmp_url(&name));
    let mut good = Client::connect(node.rtmp, "live").expect("a viewer connects");
    good.play(&name).expect("a viewer plays");
    std::thread::sleep(Duration::from_secs(1));
    stopped.signal("STOP");
    let seen = good.collect(Duration::from_secs(5));
    stopped.signal("CONT");
    let pictures: Vec<_> = seen.iter().filter(|it| it.tag.kind == VIDEO && !it.tag.is_header()).collect();
    let gap = pictures.windows(2).map(|it| it[1].at - it[0].at).max().expect("pictures");
    assert!(gap < Duration::from_millis(700), "the other viewer had a gap of {gap:?}");
    node.assert_well();
}
