//! Clients whose address changes: with an ICE restart, and by a NAT that forgot them. Keys stay, and media is back within a second.

use media::Time;
use metrics::DropReason;
use rtc::rtcp;

use crate::camera::FRAME_MS;
use crate::scene::Scene;
use crate::world::{Wish, World, assert_contiguous};

/// Media flows.
fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.frames(5);
    scene
}

impl Scene {
    /// The client is elsewhere from now on: nothing of its old address reaches it.
    fn moves(&mut self, peer: usize, port: u16) {
        self.world.peers[peer].address.set_port(port);
    }

    /// What browsers that only receive send each second.
    fn report(&mut self) {
        let ssrc = self.world.peers[self.viewer].video_ssrc;
        let block = rtcp::ReportBlock { ssrc, ..rtcp::ReportBlock::default() };
        let mut compound = Vec::new();
        rtcp::receiver_report(&mut compound, 1, &[block], "");
        self.world.rtcp(self.viewer, &compound);
    }

    /// Frames go on until the viewer has one that came after `since`; how long that took, in milliseconds.
    fn media_is_back(&mut self, since: Time) -> i64 {
        for _ in 0..200 {
            self.frame(false);
            let newest = self.world.peers[self.viewer].got.last().map_or(Time::ZERO, |g| g.at);
            if newest > since {
                return self.world.peers[self.viewer]
                    .got
                    .iter()
                    .find(|g| g.at > since)
                    .unwrap()
                    .at
                    .since(since)
                    / 1_000;
            }
        }
        panic!("media is not back");
    }

    /// The viewer goes on as it was: no handshake, no second session, no number twice.
    fn assert_goes_on(&mut self) {
        self.frames(10);
        let node = &self.world.nodes[0];
        let ended = node.events.iter().filter(|e| matches!(e, sfu::Event::Closed(..))).count();
        assert_eq!(ended, 0, "{:?}", node.events);
        let got = self.world.peers[self.viewer].video();
        let since: Vec<_> = got[got.len() - 30..].to_vec();
        assert_contiguous(&since);
    }
}

/// DTLS datagrams that a client has sent so far.
fn handshakes(world: &World, peer: usize) -> usize {
    world.peers[peer].sent.iter().filter(|d| matches!(d.first(), Some(20..=63))).count()
}

#[test]
fn a_viewer_that_restarts_ice_elsewhere_has_media_in_two_round_trips() {
    let mut scene = scene();
    let (viewer, since) = (scene.viewer, scene.world.now);
    let before = handshakes(&scene.world, viewer);
    scene.moves(viewer, 6_001);
    scene.world.restart_ice(viewer);
    let took_ms = scene.media_is_back(since);
    assert!(took_ms <= 20 + FRAME_MS, "{took_ms} ms");
    assert_eq!(handshakes(&scene.world, viewer), before, "the keys stay");
    scene.assert_goes_on();
}

#[test]
fn a_publisher_that_restarts_ice_elsewhere_is_heard_in_two_round_trips() {
    let mut scene = scene();
    let (publisher, since) = (scene.publisher, scene.world.now.plus_ms(5));
    let before = handshakes(&scene.world, publisher);
    scene.moves(publisher, 6_001);
    scene.world.restart_ice(publisher);
    let took_ms = scene.media_is_back(since);
    assert!(took_ms <= 30 + FRAME_MS, "{took_ms} ms");
    assert_eq!(handshakes(&scene.world, publisher), before, "the keys stay");
    // It is told what came where it is now.
    scene.world.run(1_200);
    assert!(scene.world.peers[publisher].rtcp.iter().any(|(at, _)| *at > since));
}

#[test]
fn an_ice_restart_that_comes_to_nothing_hurts_nobody() {
    let mut scene = scene();
    // The order came, its answer did not: the client knows nothing of it.
    for salt in [1, 2, 3] {
        let order = sfu::Command::RestartIce {
            peer: scene.world.peers[scene.viewer].id,
            local: rtc::ice::Credentials::from_entropy(&[salt; 32]),
            remote: rtc::ice::Credentials::from_entropy(&[salt + 10; 32]),
        };
        scene.world.command(0, order);
    }
    let frames = 40_000 / FRAME_MS as usize;
    scene.frames(frames);
    assert_eq!(
        scene.world.peers[scene.viewer].video().len(),
        (frames + 6) * 3,
        "consent goes on by the old credentials"
    );
    assert_eq!(scene.world.drops(0, DropReason::StunUnknownUser), 0);
    scene.assert_goes_on();
}

#[test]
fn old_credentials_end_with_the_first_nomination_under_the_new() {
    let mut scene = scene();
    let is_check = |d: &&Vec<u8>| d.first() == Some(&0);
    let old = scene.world.peers[scene.viewer].sent.iter().find(is_check).unwrap().clone();
    scene.world.restart_ice(scene.viewer);
    scene.frames(3);
    let address = scene.world.peers[scene.viewer].address;
    let elsewhere = std::net::SocketAddr::from(([203, 0, 113, 66], 666));
    for from in [address, elsewhere] {
        assert_eq!(scene.world.datagram(0, &old, from), 0, "no answer");
    }
    assert_eq!(scene.world.drops(0, DropReason::StunUnknownUser), 2);
    scene.assert_goes_on();
}

#[test]
fn a_check_of_a_restart_that_is_sent_again_from_elsewhere_moves_nothing() {
    let mut scene = scene();
    scene.world.restart_ice(scene.viewer);
    scene.frames(3);
    let is_check = |d: &&Vec<u8>| d.first() == Some(&0);
    let fresh = scene.world.peers[scene.viewer].sent.iter().rfind(is_check).unwrap().clone();
    let elsewhere = std::net::SocketAddr::from(([203, 0, 113, 66], 666));
    let before = scene.world.peers[scene.viewer].video().len();
    for _ in 0..30 {
        scene.world.datagram(0, &fresh, elsewhere);
        scene.frame(false);
    }
    assert_eq!(scene.world.peers[scene.viewer].video().len(), before + 90, "the stranger got none of it");
    scene.assert_goes_on();
}

#[test]
fn a_publisher_behind_a_nat_that_forgot_it_is_heard_at_once() {
    let mut scene = scene();
    let publisher = scene.publisher;
    scene.moves(publisher, 6_001);
    let since = scene.world.now;
    let told =
        |scene: &Scene| scene.world.peers[publisher].rtcp.iter().any(|(at, _)| *at > since.plus_ms(20));
    scene.frames(60);
    assert_eq!(scene.world.peers[scene.viewer].video().len(), (6 + 60) * 3, "all of it");
    assert_eq!(scene.world.drops(0, DropReason::AddressNotValidated), 0);
    assert!(!told(&scene), "nothing is sent where no check came from");
    // The client asks for consent each 2.5 s.
    scene.frames(120);
    assert!(told(&scene));
    scene.assert_goes_on();
}

/// A page that was loaded again has another session, and may have the sources it had. The one before has not timed out yet.
#[test]
fn a_publisher_that_came_back_with_its_sources_is_heard_as_well() {
    let mut scene = scene();
    scene.world.peers[scene.publisher].silent = true;
    scene.publisher = scene.world.publisher(Wish::on(0), 2);
    scene.frame(true);
    scene.frames(3);
    let before = scene.world.peers[scene.viewer].video().len();
    scene.moves(scene.publisher, 6_001);
    scene.frames(60);
    assert_eq!(scene.world.peers[scene.viewer].video().len(), before + 60 * 3, "all of it");
    assert_eq!(scene.world.drops(0, DropReason::AddressNotValidated), 0);
}

#[test]
fn a_viewer_behind_a_nat_that_forgot_it_is_followed_when_it_answers_our_check() {
    let mut scene = scene();
    scene.moves(scene.viewer, 6_001);
    let since = scene.world.now.plus_ms(10);
    // It asks for consent each 2.5 s, and answers a round trip later.
    let took_ms = scene.media_is_back(since);
    assert!(took_ms <= 2_500 + 30 + FRAME_MS, "{took_ms} ms");
    scene.assert_goes_on();
}

#[test]
fn a_viewer_behind_a_nat_that_forgot_it_is_followed_by_its_reports() {
    let mut scene = scene();
    scene.moves(scene.viewer, 6_001);
    // It does not answer checks.
    scene.world.peers[scene.viewer].deaf_to_checks = true;
    scene.frames(3_000 / FRAME_MS as usize);
    let lost_at = scene.world.now;
    assert!(
        scene.world.peers[scene.viewer].got.last().unwrap().at.since(lost_at) < -2_900_000,
        "nothing came"
    );
    scene.report();
    let took_ms = scene.media_is_back(lost_at);
    assert!(took_ms <= 10 + FRAME_MS, "{took_ms} ms after its report");
    scene.assert_goes_on();
}

/// It has missed too much to ask for it packet by packet.
#[test]
fn a_viewer_that_was_gone_for_a_while_has_a_key_frame_asked_for_where_it_is() {
    for (gone_ms, asked) in [(600, 1), (100, 0)] {
        let mut scene = Scene::of(Wish::on(0), Wish::numbered(0));
        scene.frames(30);
        let before = scene.world.peers[scene.publisher].plis();
        scene.moves(scene.viewer, 6_001);
        scene.frames(gone_ms / FRAME_MS as usize);
        assert_eq!(scene.world.peers[scene.publisher].plis(), before);
        scene.world.restart_ice(scene.viewer);
        scene.world.run(40);
        assert_eq!(scene.world.peers[scene.publisher].plis() - before, asked, "gone for {gone_ms} ms");
    }
}

/// It is the same when its report tells where it is.
#[test]
fn a_viewer_that_is_followed_by_its_report_has_a_key_frame_asked_for_as_well() {
    let mut scene = Scene::of(Wish::on(0), Wish::numbered(0));
    scene.frames(30);
    scene.moves(scene.viewer, 6_001);
    scene.world.peers[scene.viewer].deaf_to_checks = true;
    scene.frames(3_000 / FRAME_MS as usize);
    let before = scene.world.peers[scene.publisher].plis();
    scene.report();
    scene.world.run(40);
    assert_eq!(scene.world.peers[scene.publisher].plis() - before, 1);
}
