use metrics::RelayDrop;

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

#[tokio::test]
async fn what_waits_for_a_stream_too_long_or_is_too_much_is_left_out() {
    let mut scene = Scene::new().await;
    let (key, now) = (TrackKey::new(StreamId(7), Kind::Video), scene.hub.now());
    let mut picture = flow(1, Codec::H264, true, now);
    if let Flow::Packet(out) = &mut picture {
        out.packet.payload = Bytes::from(vec![7; 2_048]);
    }
    let enough = (16 << 20) / 2_048;
    for (count, waits_us, left_out) in
        [(1, 10_000_000, 0), (1, 10_000_001, 1), (enough, 0, 0), (enough + 1, 0, enough + 1)]
    {
        let dropped = |scene: &Scene| scene.hub.links[&scene.a].metrics.drops.of(RelayDrop::Behind).get();
        let before = dropped(&scene);
        let connection = scene.hub.links[&scene.a].up.connection.clone();
        let mut outlet = Outlet::open(&connection, key.kind, &scene.hub.node.metrics);
        outlet.wait(&vec![picture.clone(); count], false, now);
        let mut send = Send::new((scene.a, 0), Need::Watched, false, None);
        (send.fresh, send.outlet) = (false, Some(outlet));
        let upstream = Upstream::Feed { form: Form::Frames, comes: None };
        scene.hub.given.insert(key, Given { name: name(), upstream, to: vec![send], held: Vec::new() });
        scene.hub.waiting.insert(key);
        scene.hub.release(now.plus_us(waits_us));
        let send = &scene.hub.given[&key].to[0];
        assert_eq!((send.fresh, dropped(&scene) - before), (left_out > 0, left_out as u64), "{count}");
        assert!(left_out == 0 || send.outlet.is_none());
    }
}
