use ::relay::datagram::{Media, left_out};
use ::relay::stream::Record;
use bytes::Bytes;
use media::Codec;

use super::*;
use crate::relay::hub::scene::{Scene, flow, seqs, track};
use crate::relay::streams::Came;

const PICTURE: TrackKey = TrackKey::new(StreamId(7), Kind::Video);
const SOUND: TrackKey = TrackKey::new(StreamId(7), Kind::Audio);

impl Scene {
    /// A track comes by that way.
    fn take(&mut self, (link, alias): Leg, key: TrackKey) {
        let reader = Reader::default();
        let taken = Taken { key, need: Need::Watched, is_reliable: false, reader, inlet: None };
        self.hub.links.get_mut(&link).unwrap().takes.insert(alias, taken);
    }

    /// Frames are made of it, and it comes by those ways.
    fn want(&mut self, key: TrackKey, leg: Leg, next: Option<Leg>, room: usize) -> mpsc::Receiver<FromPeer> {
        for leg in [Some(leg), next].into_iter().flatten() {
            self.take(leg, key);
        }
        let (to, frames) = mpsc::channel(room);
        let want = Want {
            name: StreamName::new("live", "x").unwrap(),
            stream: Weak::new(),
            source: SourceId(1),
            generation: 1,
            home: self.hub.node.shards[0].clone(),
            shard: false,
            sink: Some(Sink { watch: 1, to, has_begun: false, after: None }),
            peers: false,
            idle: None,
            leg: Some(leg),
            next,
            next_since: Time::ZERO,
            hold: None,
            last: None,
            has_switched: false,
            cache: Cache::default(),
            after: None,
            asked: Time::ZERO,
        };
        self.hub.wants.insert(key, want);
        frames
    }

    fn came(&mut self, leg: Leg, flows: Vec<Flow>) {
        self.hub.deliver(Batch::from([(leg, flows)]), Begins::Live);
    }
}

/// What a maker of frames was told: with which number the track begins (0: it goes on), or which packets came.
fn heard(frames: &mut mpsc::Receiver<FromPeer>) -> Vec<(Option<u64>, Vec<u64>)> {
    let of = |what| match what {
        FromPeer::Track { begins, .. } => (Some(begins.unwrap_or(0)), Vec::new()),
        FromPeer::Flows(_, flows) => (None, seqs(&flows)),
    };
    std::iter::from_fn(|| frames.try_recv().ok()).map(of).collect()
}

#[tokio::test]
async fn a_stream_may_begin_with_what_does_not_come_and_not_with_a_packet() {
    let mut scene = Scene::new().await;
    let leg = (scene.a, 3);
    let _frames = scene.want(SOUND, leg, None, 8);
    let media = |seq, left_out| Media { track: 3, seq, left_out, ..Media::default() };
    let word = || Record::Media(media(4, true), Bytes::new(), left_out(2));
    let packet = |seq| Record::Media(media(seq, false), Bytes::new(), Bytes::from_static(b"sound"));
    let came = |records| Came { alias: 3, stream: 1, records, ends: false };
    let told = Record::Track(track(3, Codec::Aac, 6, false));
    scene.hub.streamed(scene.a, came(vec![word(), told, word(), packet(6)])).expect("it is no lie");
    let want = &scene.hub.wants[&SOUND];
    assert_eq!(want.cache.behind(3).map(|flows| seqs(&flows)), Some(vec![4, 6]));
    // Of a packet that is one.
    let next = Came { stream: 2, ..came(vec![packet(7)]) };
    scene.take(leg, SOUND);
    assert!(matches!(scene.hub.streamed(scene.a, next), Err(Lie::Untold)));
}

#[tokio::test]
async fn frames_are_made_where_the_way_changed_before_the_first_said_anything() {
    let mut scene = Scene::new().await;
    let (a, b, now) = ((scene.a, 0), (scene.b, 0), scene.hub.now());
    let mut frames = scene.want(PICTURE, a, Some(b), 8);
    scene.hub.told(b.0, track(0, Codec::H264, 5, false)).expect("a picture");
    let picture = |seq| flow(seq, Codec::H264, seq == 5, now);
    scene.came(b, vec![picture(5), picture(6)]);
    assert_eq!(heard(&mut frames), [(Some(5), vec![]), (None, vec![5, 6])]);
    scene.came(b, vec![picture(7)]);
    assert_eq!(heard(&mut frames), [(None, vec![7])]);
}

#[tokio::test]
async fn who_makes_frames_hears_how_what_comes_by_another_way_is_decoded() {
    let mut scene = Scene::new().await;
    let (a, b, now) = ((scene.a, 0), (scene.b, 0), scene.hub.now());
    let mut frames = scene.want(SOUND, a, Some(b), 8);
    scene.hub.told(a.0, track(0, Codec::Opus, 5, false)).expect("sound");
    scene.came(a, vec![flow(5, Codec::Opus, true, now)]);
    scene.hub.told(b.0, track(0, Codec::Aac, 6, true)).expect("sound");
    assert_eq!(heard(&mut frames), [(Some(5), vec![]), (None, vec![]), (None, vec![5])]);
    scene.came(b, vec![flow(6, Codec::Aac, true, now)]);
    assert_eq!(heard(&mut frames), [(Some(0), vec![]), (None, vec![6])]);
}

#[tokio::test]
async fn frames_are_made_where_the_next_way_was_waited_for_long_enough() {
    let mut scene = Scene::new().await;
    let (a, b) = ((scene.a, 0), (scene.b, 0));
    let mut frames = scene.want(PICTURE, a, Some(b), 8);
    scene.hub.told(b.0, track(0, Codec::H264, 5, false)).expect("a picture");
    assert!(heard(&mut frames).is_empty());
    scene.hub.end_moves(Time::ZERO.plus_us(CATCH_UP_US));
    assert_eq!(heard(&mut frames), [(Some(5), vec![]), (None, vec![])]);
}

#[tokio::test]
async fn who_has_no_room_for_the_word_of_a_new_codec_begins_again_when_it_has() {
    let mut scene = Scene::new().await;
    let (leg, now) = ((scene.a, 0), scene.hub.now());
    let mut frames = scene.want(SOUND, leg, None, 3);
    scene.hub.told(leg.0, track(0, Codec::Opus, 5, false)).expect("sound");
    scene.came(leg, vec![flow(5, Codec::Opus, true, now)]);
    // It is full.
    scene.hub.told(leg.0, track(0, Codec::Aac, 6, true)).expect("sound");
    scene.came(leg, vec![flow(6, Codec::Aac, true, now)]);
    assert_eq!(heard(&mut frames), [(Some(5), vec![]), (None, vec![]), (None, vec![5])]);
    scene.came(leg, vec![flow(7, Codec::Aac, true, now)]);
    assert_eq!(heard(&mut frames), [(Some(6), vec![]), (None, vec![6, 7])]);
    assert_eq!(scene.hub.node.metrics.queue_overflows.of(Queue::Conversion).get(), 2);
}
