//! The plain way: one publisher, viewers on its shard and on another.

use media::Codec;
use sfu::{Event, Mail};

use crate::camera::{Audio, FRAME_MS, Video, negotiated};
use crate::world::{AUDIO, VIDEO, Wish, World, assert_contiguous, times};

#[test]
fn every_packet_reaches_viewers_on_both_shards() {
    let mut world = World::new(2);
    let publisher = world.publisher(Wish::on(0), 1);
    // The third takes VP8 under another payload type.
    let mut other = Wish::on(1);
    other.medias[1].codecs[0].pt = 120;
    let viewers = [Wish::on(0), Wish::on(0), other].map(|wish| world.subscriber(wish));

    // The publisher's numbers wrap on the way.
    let mut video = Video::vp8(500, 65_500);
    let mut audio = Audio { ssrc: 501, seq: 65_530, timestamp: u32::MAX - 5_000 };
    let (mut sent_video, mut sent_audio) = (Vec::new(), Vec::new());
    for frame in 0..40 {
        let packets = video.frame(frame == 0);
        sent_video.extend(packets.clone());
        world.send(publisher, packets);
        let packet = audio.packet();
        sent_audio.push(packet.clone());
        world.send(publisher, [packet]);
        world.run(FRAME_MS);
    }
    world.run(50);

    for (viewer, payload_type) in viewers.into_iter().zip([96, 96, 120]) {
        let peer = &world.peers[viewer];
        for (ssrc, payload_type, sent) in
            [(peer.video_ssrc, payload_type, &sent_video), (peer.audio_ssrc, 111, &sent_audio)]
        {
            let got = peer.of_ssrc(ssrc);
            assert_eq!(got.len(), sent.len());
            assert_contiguous(&got);
            let times = times(&got);
            for (i, (got, packet)) in got.iter().zip(sent).enumerate() {
                assert_eq!(got.payload, packet.payload);
                assert_eq!(got.header.marker, packet.marker);
                assert_eq!(got.header.payload_type, payload_type);
                assert_eq!(times[i] - times[0], i64::from(packet.timestamp.wrapping_sub(sent[0].timestamp)));
            }
        }
        assert_eq!(peer.got.len(), sent_video.len() + sent_audio.len(), "nothing under another SSRC");
    }
    let numbers = viewers.map(|v| world.peers[v].video()[0].header.seq);
    assert!(
        numbers[0] != numbers[1] && numbers[1] != numbers[2],
        "each viewer has numbers of its own: {numbers:?}"
    );
    assert!(
        world.nodes[0].events.iter().any(|e| matches!(e, Event::Codec(_, key, Codec::Vp8) if *key == VIDEO))
    );
    assert!(
        world.nodes[0].events.iter().any(|e| matches!(e, Event::Codec(_, key, Codec::Opus) if *key == AUDIO))
    );
    let mirrors =
        world.mail.iter().filter(|(from, to, m)| (*from, *to) == (1, 0) && matches!(m, Mail::Mirror(..)));
    assert_eq!(mirrors.count(), 2, "one for each track, whatever the number of viewers");
}

#[test]
fn a_packet_that_overtakes_another_keeps_its_number() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish::on(0), 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    world.send(publisher, video.frame(true));
    let mut packets = video.frame(false);
    packets.swap(0, 1);
    world.send(publisher, packets.clone());
    world.run(20);
    let got = world.peers[viewer].video();
    let first = got[0].header.seq;
    let late: Vec<_> = got[3..].iter().map(|g| (g.header.seq - first, g.payload.clone())).collect();
    assert_eq!(
        late,
        [(4, packets[0].payload.clone()), (3, packets[1].payload.clone()), (5, packets[2].payload.clone())]
    );
}

#[test]
fn padding_keeps_its_number_so_that_nobody_takes_it_for_loss() {
    let mut world = World::new(1);
    let publisher = world.publisher(Wish { shard: 0, medias: negotiated(&[Codec::Vp8], true) }, 1);
    let viewer = world.subscriber(Wish::on(0));
    let mut video = Video::vp8(500, 100);
    world.send(publisher, video.frame(true));
    let mut padding = video.frame(false).remove(0);
    (padding.payload, padding.marker) = (Vec::new(), false);
    video.seq = padding.seq + 1;
    world.send(publisher, [padding.clone()]);
    world.send(publisher, video.frame(false));
    world.run(20);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 7);
    assert!(got[3].payload.is_empty());
    assert_contiguous(&got);

    // Padding cuts no frame: the next source follows without a gap.
    padding.seq = video.seq;
    world.send(publisher, [padding]);
    world.run(20);
    let next = world.publisher(Wish::on(0), 2);
    world.send(next, Video::vp8(501, 100).frame(true));
    world.run(20);
    let got = world.peers[viewer].video();
    assert_eq!(got.len(), 11);
    assert_contiguous(&got);
}
