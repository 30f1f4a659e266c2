use super::*;
use crate::relay::hub::scene::{Scene, flow};

fn name() -> StreamName {
    StreamName::new("live", "x").expect("it is one")
}

#[tokio::test]
async fn who_goes_on_waits_for_what_its_publishers_node_has_behind_that() {
    let mut scene = Scene::new().await;
    let (key, now) = (TrackKey::new(StreamId(7), Kind::Video), scene.hub.now());
    let give = |scene: &mut Scene, begins, numbers: std::ops::RangeInclusive<u64>| {
        let picture = |seq| flow(seq, Codec::Vp8, seq == 50 || seq == 110, now);
        scene.hub.give(key, begins, &numbers.map(picture).collect::<Vec<_>>());
        let send = &scene.hub.given[&key].to[0];
        (send.fresh, send.outlet.is_some())
    };
    let subscribed = |scene: &mut Scene, upstream| {
        let to = vec![Send::new((scene.a, 0), Need::Watched, false, Some(100))];
        scene.hub.given.insert(key, Given { name: name(), upstream, to, held: Vec::new() });
    };
    let home = || Upstream::Home(scene.hub.node.shards[0].clone());
    let homes: Vec<Upstream> = (0..3).map(|_| home()).collect();
    let [first, second, third] = homes.try_into().expect("three of them");
    // What is live overtakes what was there.
    subscribed(&mut scene, first);
    assert_eq!(give(&mut scene, Begins::Live, 103..=103), (true, false));
    assert_eq!(give(&mut scene, Begins::Backlog, 50..=104), (false, true));
    // Nothing is missing.
    subscribed(&mut scene, second);
    assert_eq!(give(&mut scene, Begins::Live, 99..=102), (false, false));
    // A key frame needs nothing before it.
    subscribed(&mut scene, third);
    assert_eq!(give(&mut scene, Begins::Live, 103..=109), (true, false));
    assert_eq!(give(&mut scene, Begins::Live, 108..=112), (false, false));
    // Where it comes from elsewhere what was there came first: what is missing was lost.
    subscribed(&mut scene, Upstream::Feed { form: Form::Frames, comes: None });
    assert_eq!(give(&mut scene, Begins::Live, 103..=103), (false, false));
}

#[tokio::test]
async fn a_publisher_takes_the_place_of_an_uplinks_derived_sound() {
    let mut scene = Scene::new().await;
    let stream = scene.hub.node.streams.get_or_create(&name());
    let key = TrackKey { derived: true, ..TrackKey::new(stream.id, Kind::Audio) };
    scene.hub.start_feed(key, Form::Frames, true);
    assert!(scene.hub.feeds.contains_key(&stream.id));
    scene.hub.published(Ingest::Rtmp, name(), (stream.id, stream.home.clone()), SourceId(9), Some(5));
    // A feed of all that it sends begins with the first peer.
    assert!(!scene.hub.feeds.contains_key(&stream.id));
}
