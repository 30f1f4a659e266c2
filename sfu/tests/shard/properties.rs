//! Whatever happens to a stream, what each viewer gets is one stream that makes sense.

use std::collections::HashMap;

use media::Time;
use proptest::prelude::*;
use sfu::{CloseReason, Command, Mail, SourceId};

use crate::camera::{FRAME_MS, Video, external};
use crate::world::{Got, Random, VIDEO, Wish, World, cases, times};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Frames, the first a key frame or not.
    Frames(u8, bool),
    /// A frame of which only so many packets are sent.
    Cut(u8),
    /// Another source: VP8 or H.264 by WebRTC, or H.264 by mail.
    Change(u8),
    /// Nobody sends.
    Pause(u16),
    /// Viewer asks for a key frame.
    Pli(bool),
    /// Viewer asks for numbers again, so far behind the newest.
    Nack(bool, i16),
    /// The publisher's numbers jump.
    Jump(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u8..12, any::<bool>()).prop_map(|(count, key)| Step::Frames(count, key)),
        1 => (0_u8..3).prop_map(Step::Cut),
        1 => (0_u8..3).prop_map(Step::Change),
        1 => (0_u16..700).prop_map(Step::Pause),
        1 => any::<bool>().prop_map(Step::Pli),
        3 => (any::<bool>(), -5_i16..60).prop_map(|(which, back)| Step::Nack(which, back)),
        1 => (0_u16..3_000).prop_map(Step::Jump),
    ];
    proptest::collection::vec(step, 5..60)
}

enum Source {
    Browser(usize),
    Mail(u64),
}

struct Play {
    world: World,
    source: Source,
    fence: u64,
    video: Video,
    answered: usize,
    viewers: [usize; 3],
    random: Random,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut world = World::new(2);
        world.seed(seed);
        let publisher = world.publisher(Wish::on(0), 1);
        let mut plain = Wish::on(0);
        plain.medias[1].codecs.iter_mut().for_each(|c| c.rtx_pt = None);
        let viewers = [Wish::on(0), plain, Wish::on(1)].map(|wish| world.subscriber(wish));
        for peer in &mut world.peers {
            (peer.down.jitter_us, peer.down.duplicates) = (12_000, 20);
        }
        let video = Video::vp8(500, 65_400);
        let mut play = Play {
            world,
            source: Source::Browser(publisher),
            fence: 1,
            video,
            answered: 0,
            viewers,
            random: Random(seed),
        };
        play.rough(publisher);
        play
    }

    /// The publisher's way loses, reorders and doubles.
    fn rough(&mut self, publisher: usize) {
        let up = &mut self.world.peers[publisher].up;
        (up.jitter_us, up.loss, up.duplicates) = (8_000, 20, 20);
    }

    fn frame(&mut self, mut key: bool, packets_max: usize) {
        if let Source::Browser(peer) = self.source {
            let asked = self.world.peers[peer].plis();
            key |= asked > self.answered;
            self.answered = asked;
        }
        let mut packets = self.video.frame(key);
        packets.truncate(packets_max);
        match self.source {
            Source::Browser(peer) => self.world.send(peer, packets),
            Source::Mail(source) => {
                let time = Time::from_ms(i64::from(self.video.timestamp) / 90);
                let packets = external(packets, self.video.codec, time, 0);
                self.world.mail(0, Mail::Packets { track: VIDEO, source: SourceId(source), packets });
            }
        }
        self.world.run(FRAME_MS);
    }

    fn change(&mut self, to: u8) {
        match self.source {
            Source::Browser(peer) => {
                let id = self.world.peers[peer].id;
                self.world.command(0, Command::RemovePeer(id, CloseReason::Left));
            }
            Source::Mail(source) => self.world.command(0, Command::EndSource(VIDEO, SourceId(source))),
        }
        self.fence += 1;
        let ssrc = 500 + self.fence as u32;
        let seq = self.random.below(65_536);
        self.video = if to == 0 { Video::vp8(ssrc, seq) } else { Video::h264(ssrc, seq) };
        self.video.timestamp = self.random.below(1 << 32) as u32;
        self.answered = 0;
        self.source = if to == 2 {
            self.video.timestamp %= 1 << 30;
            Source::Mail(self.fence)
        } else {
            let peer = self.world.publisher(Wish::on(0), self.fence);
            self.rough(peer);
            Source::Browser(peer)
        };
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Frames(count, key) => (0..count).for_each(|i| self.frame(key && i == 0, usize::MAX)),
            Step::Cut(packets) => self.frame(false, usize::from(packets)),
            Step::Change(to) => self.change(to),
            Step::Pause(ms) => self.world.run(i64::from(ms)),
            Step::Pli(which) => self.world.pli(self.viewers[usize::from(which)]),
            Step::Nack(which, back) => {
                let viewer = self.viewers[usize::from(which)];
                let highest = self.world.peers[viewer].video().last().map(|g| g.header.seq);
                if let Some(highest) = highest {
                    let wanted: Vec<u16> = (0..8).map(|i| highest.wrapping_add_signed(i - back)).collect();
                    self.world.nack(viewer, &wanted);
                }
            }
            Step::Jump(by) => self.video.seq += u64::from(by),
        }
    }
}

/// Which packet of which source a payload is.
fn origin(got: &Got) -> (u32, u64) {
    let at = match got.payload[..] {
        [0x78, ..] => 11,
        [0x7c, ..] => 3,
        [0x10, ..] => 2,
        _ => 1,
    };
    let number =
        |from: usize, len: usize| got.payload[from..from + len].iter().fold(0, |n, b| n << 8 | u64::from(*b));
    (number(at, 4) as u32, number(at + 4, 8))
}

/// Whether a payload can be the first of a frame.
fn starts_frame(got: &Got) -> bool {
    matches!(got.payload[..], [0x10, ..] | [0x78, ..] | [0x7c, 0x80..=0xff, ..])
}

/// A retransmission as the packet that it repeats (RFC 4588).
fn original(rtx: &Got) -> Got {
    let mut packet = rtx.clone();
    packet.header.seq = u16::from_be_bytes([rtx.payload[0], rtx.payload[1]]);
    packet.payload.drain(..2);
    packet
}

fn check(world: &World, viewer: usize) -> Result<(), TestCaseError> {
    let all = world.peers[viewer].video();
    // Fewer than 2^16 packets from below 2^15: a number names one packet.
    let mut sealed: HashMap<u16, &[u8]> = HashMap::new();
    for got in &all {
        let before = sealed.insert(got.header.seq, &got.sealed);
        prop_assert!(before.is_none_or(|b| b == got.sealed), "number {} twice, unlike", got.header.seq);
    }
    // What was resent counts as if it had been sent, under the number it says.
    let peer = &world.peers[viewer];
    let resent: Vec<Got> =
        peer.of_ssrc(peer.rtx_ssrc).into_iter().filter(|g| g.payload.len() > 2).map(original).collect();
    let mut new: Vec<&Got> = all.into_iter().chain(&resent).filter(|g| !g.payload.is_empty()).collect();
    new.sort_by_key(|g| g.header.seq);
    for pair in new.windows(2).filter(|w| w[0].header.seq == w[1].header.seq) {
        let [first, again] = [pair[0], pair[1]];
        prop_assert!(first.payload == again.payload && first.header.timestamp == again.header.timestamp);
    }
    new.dedup_by_key(|g| g.header.seq);
    let times = times(&new);
    if let Some(first) = new.first() {
        prop_assert!(starts_frame(first));
    }
    for (pair, time) in new.windows(2).zip(times.windows(2)) {
        let [before, after] = [pair[0], pair[1]];
        let step = after.header.seq - before.header.seq;
        let seqs = (before.header.seq, after.header.seq);
        prop_assert!(time[1] >= time[0], "time goes back: {:?}", seqs);
        if time[1] == time[0] {
            let (from, to) = (origin(before), origin(after));
            prop_assert_eq!((from.0, from.1 + u64::from(step)), to, "one frame, one numbering: {:?}", seqs);
            prop_assert!(!before.header.marker, "a frame goes on behind its end: {:?}", seqs);
        } else if step == 1 {
            prop_assert!(before.header.marker, "a cut frame, and no gap: {:?}", seqs);
            prop_assert!(starts_frame(after), "a frame without its start, and no gap: {:?}", seqs);
        }
    }
    Ok(())
}

/// A case connects four peers or more.
const CASES: u32 = 32;

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn each_viewer_gets_one_stream_that_makes_sense(seed in 1_u64..1_000_000, steps in steps()) {
        let mut play = Play::new(seed);
        play.frame(true, usize::MAX);
        for step in steps {
            play.step(step);
        }
        play.world.run(100);
        for viewer in play.viewers {
            check(&play.world, viewer)?;
        }
        // However it went, a good source brings every viewer back.
        play.change(2);
        play.frame(true, usize::MAX);
        (0..10).for_each(|_| play.frame(false, usize::MAX));
        for viewer in play.viewers {
            let last = play.world.peers[viewer].video();
            prop_assert!(last.iter().rev().take(30).all(|g| g.payload.is_empty() || origin(g).0 == play.video.ssrc));
            check(&play.world, viewer)?;
        }
    }
}

/// Two requests within a frame of an RTMP source: the second answer has no more room than the first left.
#[test]
fn a_gop_shown_twice_again_ends_before_the_next_frame() {
    use Step::{Change, Cut, Frames, Pli};
    let mut play = Play::new(7274);
    play.frame(true, usize::MAX);
    for step in [
        Change(2),
        Frames(5, false),
        Cut(0),
        Frames(9, false),
        Cut(0),
        Frames(1, true),
        Pli(false),
        Pli(false),
    ] {
        play.step(step);
    }
    play.step(Frames(2, false));
    play.world.run(100);
    for viewer in play.viewers {
        check(&play.world, viewer).unwrap();
    }
}
