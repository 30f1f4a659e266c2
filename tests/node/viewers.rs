//! What an RTMP and an HTTP-FLV viewer get, byte by byte.
use std::time::{Duration, Instant};
use support::flv::{AUDIO, Flv, SCRIPT, VIDEO};
use support::rtmp::{Client, Publisher, amf_decode};
use support::{Node, flv, http, unique, websocket};

fn record(node: &Node, name: &str, limit: Duration) -> Flv {
    let response = http::get_for(&node.flv_url(name), limit).expect("FLV plays");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("Content-Type").as_deref(), Some("video/x-flv"));
    flv::parse(&response.body).expect("it is FLV")
}

fn assert_metadata(body: &[u8]) {
    let values = amf_decode(body);
    assert_eq!(values.first(), Some(&serde_json::json!("onMetaData")));
    let data = &values[1];
    let number =
        |key: &str| data[key].as_f64().unwrap_or_else(|| panic!("onMetaData has no {key}: {data:#}"));
    assert_eq!((number("width"), number("height")), (1280.0, 720.0));
    assert_eq!((number("videocodecid"), number("audiocodecid")), (7.0, 10.0));
    assert_eq!(number("audiosamplerate"), 48000.0);
    assert_eq!(data["stereo"], true);
    assert!((number("framerate") - 30.0).abs() < 1.5, "framerate {}", number("framerate"));
    // a zero leaves some players without a picture (media notes, section 4)
    assert!(number("videodatarate") > 0.0 && number("audiodatarate") > 0.0, "{data:#}");
}

#[test]
fn flv_begins_with_metadata_settings_and_a_key_frame_and_never_goes_back() {
    let node = Node::start();
    let name = unique("flv");
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    std::thread::sleep(Duration::from_millis(2500)); // into the middle of a GOP
    let flv = record(&node, &name, Duration::from_secs(3));
    assert_eq!(flv.flags, 5, "both tracks are announced");
    assert_eq!(flv.tags[0].kind, SCRIPT, "metadata comes first");
    assert_metadata(&flv.tags[0].body);
    let video: Vec<_> = flv.tags.iter().filter(|tag| tag.kind == VIDEO).collect();
    let audio: Vec<_> = flv.tags.iter().filter(|tag| tag.kind == AUDIO).collect();
    assert!(video[0].is_header() && audio[0].is_header(), "settings come before frames");
    assert!(video[1].is_key_frame(), "the first picture needs no other");
    // 3 s live and up to 1 s of GOP
    assert!((85..=130).contains(&video.len()), "{} pictures in 3 s", video.len());
    assert!((130..=200).contains(&audio.len()), "{} sound frames in 3 s", audio.len());
    assert_eq!(flv::backwards(&flv.tags), [""; 0]);
}

#[test]
fn flv_over_websocket_is_the_same_stream() {
    let node = Node::start();
    let name = unique("websocket");
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let bytes = websocket::get_for(&node.flv_url(&name), Duration::from_secs(2)).expect("it is upgraded");
    let flv = flv::parse(&bytes).expect("it is FLV");
    assert_eq!(flv.flags, 5);
    assert!(flv.tags.iter().filter(|tag| tag.kind == VIDEO).count() > 45, "{} tags", flv.tags.len());
    assert_eq!(flv::backwards(&flv.tags), [""; 0]);
}

#[test]
fn a_late_rtmp_viewer_starts_at_once_on_a_key_frame() {
    let node = Node::start();
    let name = unique("late");
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    std::thread::sleep(Duration::from_millis(2700));
    let start = Instant::now();
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("a viewer plays");
    let seen = viewer.collect(Duration::from_secs(2));
    // other data messages (|RtmpSampleAccess) may come before
    let named = |body: &[u8]| amf_decode(body).first() == Some(&serde_json::json!("onMetaData"));
    let meta = seen.iter().find(|it| it.tag.kind == SCRIPT && named(&it.tag.body)).expect("metadata");
    assert_metadata(&meta.tag.body);
    let first = seen.iter().position(|it| it.tag.kind == VIDEO && !it.tag.is_header()).expect("a picture");
    assert!(seen[first].tag.is_key_frame());
    let waited = seen[first].at - start;
    assert!(waited < Duration::from_millis(500), "the first picture came after {waited:?}");
    let tags: Vec<_> = seen.into_iter().map(|it| it.tag).collect();
    assert_eq!(flv::backwards(&tags), [""; 0]);
}

/// What goes out is what came in: the same H.264 and AAC bytes, in the same order.
#[test]
fn frames_go_through_untouched() {
    let node = Node::start();
    let name = unique("untouched");
    let clip = flv::clip();
    let _publisher = Publisher::start(node.rtmp, &name);
    node.wait_live(&name);
    let flv = record(&node, &name, Duration::from_secs(3));
    for kind in [AUDIO, VIDEO] {
        let sent: Vec<_> = clip
            .tags
            .iter()
            .filter(|tag| tag.kind == kind && !tag.is_header())
            .map(|tag| &tag.body)
            .collect();
        let got: Vec<_> =
            flv.tags.iter().filter(|tag| tag.kind == kind && !tag.is_header()).map(|tag| &tag.body).collect();
        assert!(got.len() > 60, "type {kind}: {} frames", got.len());
        let from = sent.iter().position(|it| *it == got[0]).expect("the first frame is one of the clip's");
        let same =
            got.iter().zip(sent.iter().cycle().skip(from)).take_while(|(got, sent)| got == sent).count();
        assert_eq!(same, got.len(), "type {kind}: frame {same} differs");
    }
}

#[test]
fn one_track_alone_is_announced_as_one_and_does_not_wait() {
    let node = Node::start();
    for (kind, flag) in [(AUDIO, 4), (VIDEO, 1)] {
        let name = unique("alone");
        let tags = flv::clip().tags.into_iter().filter(|tag| tag.kind == kind).collect();
        let _publisher = Publisher::start_tags(node.rtmp, &name, tags);
        node.wait_live(&name);
        let start = Instant::now();
        let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
        viewer.play(&name).expect("a viewer plays");
        let seen = viewer.collect(Duration::from_secs(3));
        let first = seen.iter().find(|it| it.tag.kind == kind && !it.tag.is_header());
        let first = first.unwrap_or_else(|| panic!("type {kind}: nothing came"));
        assert!(first.at - start < Duration::from_millis(1500), "type {kind}: after {:?}", first.at - start);
        assert!(
            seen.iter().all(|it| it.tag.kind == kind || it.tag.kind == SCRIPT),
            "type {kind}: another track came"
        );
        // nothing waits for frames of a track that is not there
        let times: Vec<_> = seen.iter().filter(|it| !it.tag.is_header()).map(|it| it.at).collect();
        let gap = times.windows(2).map(|it| it[1] - it[0]).max().expect("frames");
        assert!(times.len() > 50 && gap < Duration::from_millis(300), "{} frames, gap {gap:?}", times.len());
        let flv = record(&node, &name, Duration::from_secs(2));
        assert_eq!(flv.flags, flag, "type {kind}");
    }
}

#[test]
fn a_viewer_may_come_before_the_publisher() {
    let node = Node::start();
    let name = unique("early");
    let mut viewer = Client::connect(node.rtmp, "live").expect("a viewer connects");
    viewer.play(&name).expect("play of a stream that is not there waits");
    std::thread::sleep(Duration::from_millis(700));
    let _publisher = Publisher::start(node.rtmp, &name);
    let seen = viewer.collect(Duration::from_secs(3));
    assert!(seen.iter().filter(|it| it.tag.kind == VIDEO).count() > 30, "{} messages", seen.len());
}
