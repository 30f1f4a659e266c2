//! A track on the link: which of its frames are taken, and what the peer is to be told of those that are not.

use super::outbound::Outbound;
use crate::datagram::{Flags, LEFT_OUT_MAX};

/// A track on the link.
#[derive(Default, Debug)]
pub(super) struct Lane {
    /// The frame that is being taken or left out: its time, and how many of its packets came.
    pub(super) frame: Option<(u32, i64)>,
    pub(super) leaves_out: bool,
    /// Nothing is taken before a key frame.
    pub(super) cut: bool,
    /// Numbers of packets that were not taken or grew too old: the first and how many. The peer is told before what is taken next.
    pub(super) missing: Option<(u32, u32)>,
    /// The newest number that was taken, and the newest key frame's time and first number.
    newest: Option<u32>,
    key: Option<(u32, u32)>,
    /// The time of the frame that is being sent.
    pub(super) sent: Option<u32>,
    /// Of those that were taken these numbers, the first and how many, do not go: a packet before them grew too old.
    dropped: (u32, u32),
}

fn is_behind(seq: u32, other: u32) -> bool {
    seq.wrapping_sub(other).cast_signed() > 0
}

impl Lane {
    /// It will be sent.
    pub(super) fn take(&mut self, packet: &Outbound) {
        self.newest = self.newest.filter(|newest| is_behind(*newest, packet.seq)).or(Some(packet.seq));
        if packet.flags.has(Flags::KEY) {
            let begun = self.key.filter(|(timestamp, _)| *timestamp == packet.timestamp);
            let first = begun.map(|(_, first)| first).filter(|first| is_behind(packet.seq, *first));
            self.key = Some((packet.timestamp, first.unwrap_or(packet.seq)));
        }
    }

    /// Whether it goes with a packet that grew too old: the word for that covers it.
    pub(super) fn drops(&self, packet: &Outbound) -> bool {
        let (first, count) = self.dropped;
        let least = u32::from(packet.left_out);
        (least..count).contains(&packet.seq.wrapping_sub(first))
    }

    /// A picture's packet grew too old, so all that waits behind it up to a key frame is of no use: how many numbers that are. Without such a key frame
    /// nothing more is taken, either.
    pub(super) fn drop_from(&mut self, seq: u32) -> u32 {
        let key = self.key.map(|(_, first)| first).filter(|first| is_behind(*first, seq));
        if key.is_none() {
            (self.cut, self.leaves_out) = (true, true);
        }
        let newest = self.newest.filter(|newest| is_behind(*newest, seq)).unwrap_or(seq);
        let count = key.unwrap_or(newest.wrapping_add(1)).wrapping_sub(seq).min(LEFT_OUT_MAX / 2);
        self.dropped = (seq, count);
        count
    }

    /// The packet does not go. What was missing before, when it does not go on with this.
    pub(super) fn miss(&mut self, seq: u32, count: u32) -> Option<(u32, u32)> {
        let before = self.missing.take();
        // One word says so many at most.
        let both = before.map_or(0, |(_, run)| run.saturating_add(count));
        let (run, apart) = match before {
            Some((first, run)) if first.wrapping_add(run) == seq && both <= LEFT_OUT_MAX => {
                ((first, both), None)
            }
            Some((first, _)) if seq.wrapping_add(count) == first && both <= LEFT_OUT_MAX => {
                ((seq, both), None)
            }
            apart => ((seq, count), apart),
        };
        self.missing = Some(run);
        apart
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use media::{Temporal, Time};

    use super::*;
    use crate::datagram::{Datagram, left_out, left_out_count, read};
    use crate::hop::{Arrived, Class, Incoming, Outgoing, Pushed, RoundTrip};

    pub(in crate::hop) fn packet(frame: u32, class: Class, flags: Flags, ingest: Time) -> Outbound {
        Outbound {
            class,
            track: if class == Class::Video { 1 } else { 2 },
            flags,
            ingest,
            budget_ms: 400,
            seq: frame,
            timestamp: frame,
            dts_offset: 0,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            payload: Bytes::from_static(&[7; 1_000]),
            left_out: false,
        }
    }

    /// Pictures that come to a link that takes none: what became of each.
    #[test]
    fn first_what_nothing_refers_to_is_left_out_and_then_all_up_to_a_key_frame() {
        let mut out = Outgoing::new();
        let mut push = |ms: i64, flags| {
            let now = Time::from_ms(ms);
            out.push(packet(ms as u32, Class::Video, flags, now), now)
        };
        assert_eq!(push(0, Flags::KEY), Pushed::Taken);
        assert_eq!(push(90, Flags::DISCARDABLE), Pushed::Taken);
        assert_eq!(push(120, Flags::DISCARDABLE), Pushed::LeftOut);
        assert_eq!(push(150, Flags::default()), Pushed::Taken);
        assert_eq!(push(310, Flags::default()), Pushed::LeftOut);
        assert_eq!(push(320, Flags::KEY), Pushed::LeftOut, "there is no room for it either");
        let now = Time::from_ms(330);
        assert_eq!(out.push(packet(330, Class::Audio, Flags::KEY, now), now), Pushed::Taken, "sound stays");
        assert!(out.is_cut(1));
        let mut sent = Vec::new();
        while let Some(datagram) = out.poll(1_200, now) {
            let Ok(Datagram::Media(media, body)) = read(&datagram) else { unreachable!("it is media") };
            sent.push((media.seq, media.left_out.then(|| left_out_count(body.payload).unwrap())));
        }
        // Sound goes first; what did not go between 90 and 150 is said before 150, and 310 when 320 does not go on with it.
        let said = [(330, None), (0, None), (90, None), (120, Some(1)), (150, None), (310, Some(1))];
        assert_eq!(sent, said);
        assert_eq!(out.push(packet(340, Class::Video, Flags::default(), now), now), Pushed::LeftOut);
        // Its first packet comes behind its second.
        assert_eq!(out.push(packet(350, Class::Video, Flags::default(), now), now), Pushed::LeftOut);
        assert_eq!(out.push(packet(350, Class::Video, Flags::KEY, now), now), Pushed::Taken);
        assert_eq!(out.push(packet(360, Class::Video, Flags::default(), now), now), Pushed::Taken);
        assert!(!out.is_cut(1));
        assert_eq!((out.stats().left_out, out.stats().overflowed), (5, 0));
    }

    #[test]
    fn a_run_of_packets_that_do_not_go_is_said_once_and_of_two_runs_each() {
        let mut out = Outgoing::new();
        let mut now = Time::ZERO;
        out.push(packet(0, Class::Video, Flags::KEY, now), now);
        now = Time::from_ms(301);
        for seq in [1, 2, 3, 7] {
            assert_eq!(out.push(packet(seq, Class::Video, Flags::default(), now), now), Pushed::LeftOut);
        }
        // What a node before left out, too.
        let word = Outbound {
            left_out: true,
            payload: left_out(5),
            ..packet(8, Class::Video, Flags::default(), now)
        };
        assert_eq!(out.push(word, now), Pushed::LeftOut);
        assert!(out.poll(1_200, now).is_some(), "the first frame");
        assert_eq!(out.push(packet(13, Class::Video, Flags::KEY, now), now), Pushed::Taken);
        let said: Vec<_> = std::iter::from_fn(|| out.poll(1_200, now))
            .map(|datagram| match read(&datagram) {
                Ok(Datagram::Media(media, body)) if media.left_out => {
                    (media.seq, left_out_count(body.payload).unwrap())
                }
                Ok(Datagram::Media(media, _)) => (media.seq, 0),
                other => unreachable!("{other:?}"),
            })
            .collect();
        assert_eq!(said, [(1, 3), (7, 6), (13, 0)]);
    }

    #[test]
    fn two_words_are_one_where_one_may_say_so_much() {
        for (seq, count, also) in
            [(30_000, LEFT_OUT_MAX, None), (30_000, LEFT_OUT_MAX - 30_000, Some(LEFT_OUT_MAX))]
        {
            let mut lane = Lane::default();
            assert_eq!(lane.miss(0, 30_000), None);
            let apart = lane.miss(seq, count);
            assert_eq!(apart, also.map_or(Some((0, 30_000)), |_| None));
            assert_eq!(lane.missing, Some(also.map_or((seq, count), |both| (0, both))));
            // And the one before the other.
            let mut lane = Lane::default();
            lane.miss(seq, count);
            let apart = lane.miss(0, 30_000);
            assert_eq!(apart, also.map_or(Some((seq, count)), |_| None));
            assert_eq!(lane.missing, Some((0, also.unwrap_or(30_000))));
        }
    }

    /// Frames of two packets, of which the link takes one each 40 ms.
    #[test]
    fn what_waits_behind_a_frame_that_grew_too_old_goes_with_it() {
        let mut out = Outgoing::new();
        let push = |out: &mut Outgoing, seq: u32, flags, ms| {
            let frame = Outbound { seq, ..packet(seq / 2, Class::Video, flags, Time::from_ms(ms)) };
            out.push(frame, Time::from_ms(ms))
        };
        let (mut incoming, trip) = (Incoming::new(), RoundTrip::default());
        let mut sent = |out: &mut Outgoing, ms: i64| {
            let now = Time::from_ms(ms);
            let datagram = out.poll(1_200, now)?;
            let came = match read(&datagram) {
                Ok(Datagram::Media(media, body)) => incoming.on_media(media, body, trip, now),
                Ok(Datagram::Next(next, payload)) => incoming.on_next(next, payload, trip, now),
                _ => unreachable!("it is media"),
            };
            let Arrived { media, payload, .. } = came.expect("none is lost");
            Some((media.seq, if media.left_out { left_out_count(&payload).unwrap() } else { 0 }))
        };
        for seq in 0..20 {
            let flags = if seq == 0 { Flags::KEY } else { Flags::default() };
            assert_eq!(push(&mut out, seq, flags, i64::from(seq / 2) * 10), Pushed::Taken);
        }
        assert_eq!([390, 399, 400].map(|ms| sent(&mut out, ms)), [Some((0, 0)), Some((1, 0)), Some((2, 0))]);
        // The second frame began in time, the third did not.
        assert_eq!([450, 451].map(|ms| sent(&mut out, ms)), [Some((3, 0)), None]);
        assert!(out.is_cut(1));
        assert_eq!((out.stats().expired, out.stats().left_out), (1, 15));
        assert_eq!(push(&mut out, 20, Flags::default(), 460), Pushed::LeftOut);
        assert_eq!([22, 23].map(|seq| push(&mut out, seq, Flags::KEY, 470)), [Pushed::Taken; 2]);
        assert_eq!(push(&mut out, 24, Flags::default(), 480), Pushed::Taken);
        assert!(!out.is_cut(1));
        let all = std::iter::from_fn(|| sent(&mut out, 480)).collect::<Vec<_>>();
        assert_eq!(all, [(4, 17), (22, 0), (23, 0), (24, 0)]);
        // Up to the key frame that waits.
        for seq in 26..30 {
            let (flags, ms) = if seq < 28 { (Flags::default(), 500) } else { (Flags::KEY, 700) };
            assert_eq!(push(&mut out, seq, flags, ms), Pushed::Taken);
        }
        let all = std::iter::from_fn(|| sent(&mut out, 901)).collect::<Vec<_>>();
        assert_eq!(all, [(26, 2), (28, 0), (29, 0)]);
        assert!(!out.is_cut(1));
    }
}
