//! What clients count. A seat is one client's place in the scenario, through all its sessions; a group is all seats of one `publish`,
//! `watch` or `rooms`. Frames are known by the number and the time in their stamp, so a late frame counts for when it was sent.

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::stamp::Stamp;

/// A viewer's picture stands still when the next frame comes later than three intervals, and than one and this (W3C webrtc-stats,
/// `freezeCount`).
const FREEZE_EXTRA_US: u64 = 150_000;

/// The measured time: `from <= t < until`, in microseconds of the harness's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Window {
    /// First microsecond.
    pub from_us: u64,
    /// First one after it.
    pub until_us: u64,
}

impl Window {
    /// Not known yet: nothing is in it.
    pub const NEVER: Window = Window { from_us: u64::MAX, until_us: u64::MAX };

    fn holds(&self, us: u64) -> bool {
        (self.from_us..self.until_us).contains(&us)
    }
}

/// Counters of a group; [`Totals::add`] joins those of several workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Whole video frames, each once.
    pub frames: u64,
    /// Whole video frames that came again.
    pub frames_again: u64,
    /// Frames that had been sent before their viewer joined.
    pub frames_old: u64,
    /// Frames that carried another stream's stamp than the one asked for: the server mixed streams up.
    pub frames_foreign: u64,
    /// RTP packets that should have come, by their numbers.
    pub packets_due: u64,
    /// RTP packets that came, each once.
    pub packets: u64,
    /// RTP packets that came behind a later one.
    pub packets_reordered: u64,
    /// RTP packets that came again.
    pub packets_again: u64,
    /// RTP packets that came by retransmission, after a NACK of ours.
    pub packets_recovered: u64,
    /// Datagrams thrown away on purpose (`loss_percent`, `limit_kbps`).
    pub packets_discarded: u64,
    /// Media bytes, sound and pictures.
    pub bytes: u64,
    /// From sending a frame to its last byte at a viewer.
    pub delay: Histogram,
    /// From the start of a join to its connection: keys, accepted play, HTTP status.
    pub connect: Histogram,
    /// From the start of a join to the end of its first key frame.
    pub first_key: Histogram,
    /// Times a picture stood still.
    pub freezes: Histogram,
    /// How much later sound is presented than the picture of the same moment, by the time stamps; its size only.
    pub skew: Histogram,
    /// Sessions that began.
    pub joins: u64,
    /// Datagrams that the kernel threw away because the harness did not read in time.
    pub socket_drops: u64,
    /// How late frames were sent (publishers).
    pub late: Histogram,
}

impl Totals {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Totals) {
        self.frames += other.frames;
        self.frames_again += other.frames_again;
        self.frames_old += other.frames_old;
        self.frames_foreign += other.frames_foreign;
        self.packets_due += other.packets_due;
        self.packets += other.packets;
        self.packets_reordered += other.packets_reordered;
        self.packets_again += other.packets_again;
        self.packets_recovered += other.packets_recovered;
        self.packets_discarded += other.packets_discarded;
        self.bytes += other.bytes;
        self.joins += other.joins;
        self.socket_drops += other.socket_drops;
        self.delay.add(&other.delay);
        self.connect.add(&other.connect);
        self.first_key.add(&other.first_key);
        self.freezes.add(&other.freezes);
        self.skew.add(&other.skew);
        self.late.add(&other.late);
    }

    /// RTP packets that never came.
    pub fn packets_lost(&self) -> u64 {
        self.packets_due.saturating_sub(self.packets)
    }
}

/// What one seat got, or sent, of the measured time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeatResult {
    /// Its group.
    pub group: usize,
    /// Its stream.
    pub stream: u32,
    /// Whether it ever had a picture.
    pub picture: bool,
    /// Frames, each once.
    pub frames: u32,
    /// Media bytes.
    pub bytes: u64,
    /// See [`Span`].
    pub span: Span,
    /// Of a publisher: the numbers of the frames it sent in the measured time, first and one after the last.
    pub sent: Option<(u32, u32)>,
    /// Why it is over, if it is.
    pub failure: Option<String>,
}

/// Which frame numbers a viewer should have got: from the first of the measured time, or its own first, to where it left or the end. Sums
/// over its sessions, since only the publisher knows the numbers at both ends of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    starts: u64,
    ends: u64,
    /// Sessions that had a picture when the measured time began.
    from_begin: u32,
    /// It was there at the end, or should have been.
    to_end: bool,
}

impl Span {
    /// Frames due, when those of the measured time are numbered `first..end`.
    pub fn frames_due(&self, first: u32, end: u32) -> u64 {
        let ends = self.ends + if self.to_end { u64::from(end) } else { 0 };
        let starts = self.starts + u64::from(self.from_begin) * u64::from(first);
        ends.saturating_sub(starts)
    }
}

/// A seat's running count.
#[derive(Debug)]
pub struct Seat {
    /// Its group.
    pub group: usize,
    /// The stream it watches or sends.
    pub stream: u32,
    /// Time between its stream's frames.
    interval_us: u64,
    joined_us: u64,
    /// This session began after the measured time: nothing of it is due.
    joined_late: bool,
    connected: bool,
    /// This session's first frame of the measured time, if it has one and came into it without a picture.
    start: Option<u32>,
    /// This session had a picture before the measured time.
    picture_before: bool,
    picture: bool,
    ever_picture: bool,
    /// One more than the highest frame number of the measured time; 0: there was none.
    window_next: u32,
    /// One more than the highest frame number, and a bit for each of the 64 below it that came.
    next: u32,
    seen: u64,
    last_frame_us: Option<u64>,
    frames: u32,
    bytes: u64,
    span: Span,
    in_window: bool,
    sent: Option<(u32, u32)>,
    /// Why it is over.
    pub failure: Option<String>,
}

impl Seat {
    /// A seat that nobody has taken yet.
    pub fn new(group: usize, stream: u32, fps: u32) -> Seat {
        Seat {
            group,
            stream,
            interval_us: 1_000_000 / u64::from(fps.max(1)),
            joined_us: 0,
            joined_late: false,
            connected: false,
            start: None,
            picture_before: false,
            picture: false,
            ever_picture: false,
            window_next: 0,
            next: 0,
            seen: 0,
            last_frame_us: None,
            frames: 0,
            bytes: 0,
            span: Span::default(),
            in_window: false,
            sent: None,
            failure: None,
        }
    }

    /// Whether this session has a picture.
    pub fn has_picture(&self) -> bool {
        self.picture
    }

    /// Whether a frame of this stamp is the first of a full second of its stream.
    pub fn is_full_second(&self, stamp: Stamp) -> bool {
        stamp.stream == self.stream && u64::from(stamp.frame) % (1_000_000 / self.interval_us) == 0
    }

    /// Whether this session is connected.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// The result at the end; `ended` says that the seat had been left on purpose.
    pub fn result(&self, left: bool) -> SeatResult {
        let mut span = self.span;
        if !left {
            self.close_span(&mut span, true);
        }
        SeatResult {
            group: self.group,
            stream: self.stream,
            picture: self.ever_picture,
            frames: self.frames,
            bytes: self.bytes,
            span,
            sent: self.sent,
            failure: self.failure.clone(),
        }
    }

    fn close_span(&self, span: &mut Span, to_end: bool) {
        match self.start {
            // Its first picture came within the measured time: what was before it is time to the first picture, not loss.
            Some(first) if !self.picture_before => span.starts += u64::from(first),
            // It had one before, or none in any session.
            _ if self.picture_before || (to_end && self.window_next == 0 && !self.joined_late) => {
                span.from_begin += 1
            }
            // It came back, and waits for a picture since.
            _ if to_end && !self.joined_late => span.starts += u64::from(self.window_next),
            _ => return,
        }
        if to_end {
            span.to_end = true;
        } else {
            span.ends += u64::from(self.window_next);
        }
    }
}

/// One client's view of what it counts into.
pub struct Meter<'a> {
    /// Its seat.
    pub seat: &'a mut Seat,
    /// Its group's totals of the measured time.
    pub totals: &'a mut Totals,
    /// Its group's totals of this second.
    pub second: &'a mut Totals,
    /// The measured time.
    pub window: Window,
}

impl Meter<'_> {
    fn both(&mut self, us: u64, count: impl Fn(&mut Totals)) {
        if self.window.holds(us) {
            count(self.totals);
        }
        count(self.second);
    }

    /// A session begins.
    pub fn join(&mut self, now_us: u64) {
        let late = now_us >= self.window.until_us;
        let seat = &mut *self.seat;
        seat.joined_late = late;
        (seat.joined_us, seat.connected, seat.picture) = (now_us, false, false);
        (seat.start, seat.picture_before, seat.last_frame_us) = (None, false, None);
        (seat.next, seat.seen, seat.in_window) = (0, 0, false);
        self.both(now_us, |totals| totals.joins += 1);
    }

    /// The session is connected.
    pub fn connected(&mut self, now_us: u64) {
        if !std::mem::replace(&mut self.seat.connected, true) {
            let took = now_us.saturating_sub(self.seat.joined_us);
            // Joins before the measured time count too: most are.
            self.totals.connect.record(took);
            self.second.connect.record(took);
        }
    }

    /// The session was ended by us; another may follow.
    pub fn leave(&mut self) {
        let mut span = self.seat.span;
        if self.seat.in_window {
            self.seat.close_span(&mut span, false);
        }
        self.seat.span = span;
        (self.seat.connected, self.seat.picture) = (false, false);
    }

    /// The session is over though nobody wanted that.
    pub fn failed(&mut self, why: String) {
        (self.seat.connected, self.seat.picture) = (false, false);
        self.seat.failure.get_or_insert(why);
    }

    /// Media arrived: so many bytes of sound or picture.
    pub fn bytes(&mut self, count: usize, at_us: u64) {
        if self.window.holds(at_us) {
            self.seat.bytes += count as u64;
        }
        self.both(at_us, |totals| totals.bytes += count as u64);
    }

    /// RTP numbers moved on by `due`, and a packet came: the first of its number, or again.
    pub fn packet(&mut self, due: u64, first: bool, at_us: u64) {
        self.both(at_us, |totals| {
            totals.packets_due += due;
            totals.packets += u64::from(first);
            totals.packets_again += u64::from(!first);
            totals.packets_reordered += u64::from(first && due == 0);
        });
    }

    /// A whole video frame: one with no stamp (a foreign clip) tells only that there is a picture.
    pub fn frame(&mut self, stamp: Option<Stamp>, key: bool, at_us: u64) {
        if key && !self.seat.picture {
            let took = at_us.saturating_sub(self.seat.joined_us);
            self.totals.first_key.record(took);
            self.second.first_key.record(took);
            (self.seat.picture, self.seat.ever_picture) = (true, true);
        }
        let Some(stamp) = stamp else { return };
        if stamp.stream != self.seat.stream {
            return self.both(at_us, |totals| totals.frames_foreign += 1);
        }
        // The picture that a join begins with may be older than the join: it is neither due nor late.
        if stamp.sent_us < self.seat.joined_us {
            return self.both(at_us, |totals| totals.frames_old += 1);
        }
        let is_in = self.window.holds(stamp.sent_us);
        let seat = &mut *self.seat;
        // A publisher that started over counts from 0 again.
        if stamp.frame + 10_000 < seat.next {
            (seat.next, seat.seen) = (0, 0);
        }
        let first = match stamp.frame.checked_sub(seat.next) {
            Some(gap) => {
                seat.seen = seat.seen.checked_shl(gap + 1).unwrap_or(0) | 1;
                seat.next = stamp.frame + 1;
                true
            }
            None => {
                let back = seat.next - 1 - stamp.frame;
                let bit = 1_u64.checked_shl(back).unwrap_or(0);
                let first = bit != 0 && seat.seen & bit == 0;
                seat.seen |= bit;
                first
            }
        };
        if is_in {
            if !seat.in_window && !seat.picture_before {
                seat.start = Some(stamp.frame);
            }
            seat.in_window = true;
            seat.window_next = seat.window_next.max(stamp.frame + 1);
            seat.frames += u32::from(first);
        } else if at_us < self.window.from_us {
            seat.picture_before |= seat.picture;
        }
        let freeze = seat
            .last_frame_us
            .map(|last| at_us.saturating_sub(last))
            .filter(|gap| *gap > (3 * seat.interval_us).max(seat.interval_us + FREEZE_EXTRA_US));
        seat.last_frame_us = seat.last_frame_us.max(Some(at_us));
        let delay = at_us.saturating_sub(stamp.sent_us);
        let count = |totals: &mut Totals| {
            if first {
                totals.frames += 1;
                totals.delay.record(delay);
            } else {
                totals.frames_again += 1;
            }
            if let Some(gap) = freeze {
                totals.freezes.record(gap);
            }
        };
        if is_in {
            count(self.totals);
        }
        count(self.second);
    }

    /// A frame that came with others in one segment: between two of those the picture goes on, from the player's buffer, so it does not
    /// stand still.
    pub fn frame_of_segment(&mut self, stamp: Stamp, key: bool, at_us: u64) {
        self.seat.last_frame_us = None;
        self.frame(Some(stamp), key, at_us);
    }

    /// A publisher sent a frame, `late_us` after it was due.
    pub fn sent(&mut self, stamp: Stamp, bytes: usize, late_us: u64) {
        if self.window.holds(stamp.sent_us) {
            let first = self.seat.sent.map_or(stamp.frame, |(first, _)| first);
            self.seat.sent = Some((first, stamp.frame + 1));
            self.seat.frames += 1;
            self.seat.bytes += bytes as u64;
        }
        (self.seat.picture, self.seat.ever_picture) = (true, true);
        self.both(stamp.sent_us, |totals| {
            totals.frames += 1;
            totals.bytes += bytes as u64;
            totals.late.record(late_us);
        });
    }

    /// Sound is presented so much later than the picture of the same moment (negative: earlier).
    pub fn skew(&mut self, us: i64, at_us: u64) {
        self.both(at_us, |totals| totals.skew.record(us.unsigned_abs()));
    }

    /// Something else is counted.
    pub fn note(&mut self, at_us: u64, count: impl Fn(&mut Totals)) {
        self.both(at_us, count);
    }
}

/// Which numbers of one RTP source came: extended numbers, and a window of 128 for what comes late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    next: Option<u64>,
    seen: u128,
}

impl Numbers {
    /// Takes a number: how many are due because of it, and whether it is the first of its number.
    pub fn take(&mut self, number: u64) -> (u64, bool) {
        let Some(next) = self.next else {
            (self.next, self.seen) = (Some(number + 1), 1);
            return (1, true);
        };
        if let Some(gap) = number.checked_sub(next) {
            self.seen = u32::try_from(gap + 1).ok().and_then(|by| self.seen.checked_shl(by)).unwrap_or(0) | 1;
            self.next = Some(number + 1);
            return (gap + 1, true);
        }
        let bit =
            u32::try_from(next - 1 - number).ok().and_then(|back| 1_u128.checked_shl(back)).unwrap_or(0);
        let first = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        (0, first)
    }

    /// The highest number so far.
    pub fn highest(&self) -> Option<u64> {
        self.next.map(|next| next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        seat: Seat,
        totals: Totals,
        second: Totals,
        window: Window,
    }

    impl Bench {
        fn new() -> Bench {
            let window = Window { from_us: 1_000_000, until_us: 2_000_000 };
            Bench { seat: Seat::new(0, 7, 10), totals: Totals::default(), second: Totals::default(), window }
        }

        fn meter(&mut self) -> Meter<'_> {
            Meter {
                seat: &mut self.seat,
                totals: &mut self.totals,
                second: &mut self.second,
                window: self.window,
            }
        }

        /// Frame `n` is sent at `n` * 100 ms and takes 5 ms.
        fn frame(&mut self, n: u32, key: bool) {
            let sent_us = u64::from(n) * 100_000;
            self.meter().frame(Some(Stamp { sent_us, stream: 7, frame: n }), key, sent_us + 5_000);
        }
    }

    // Frames 10..20 are those of the measured time.
    fn due(bench: &Bench, left: bool) -> (u32, u64) {
        let result = bench.seat.result(left);
        (result.frames, result.span.frames_due(10, 20))
    }

    #[test]
    fn a_viewer_that_is_there_all_the_time_should_get_every_frame_once() {
        let mut bench = Bench::new();
        bench.meter().join(0);
        for n in [8, 9, 10, 11, 11, 12, 14, 15, 16, 13, 17, 18, 19, 20] {
            bench.frame(n, n == 8);
        }
        assert_eq!(due(&bench, false), (10, 10));
        assert_eq!(
            (bench.totals.frames, bench.totals.frames_again, bench.totals.freezes.is_empty()),
            (10, 1, true)
        );
        assert!((4.9..5.1).contains(&bench.totals.delay.summary().p50));
        assert_eq!(bench.totals.first_key.summary().count, 1);
    }

    #[test]
    fn what_is_due_begins_with_the_first_picture_and_ends_with_leaving() {
        let mut bench = Bench::new();
        bench.meter().join(1_150_000);
        (12..15).for_each(|n| bench.frame(n, n == 12));
        assert_eq!(due(&bench, false), (3, 8), "12 to 19 were due, and it is still there");
        bench.meter().leave();
        assert_eq!(due(&bench, true), (3, 3));
        bench.meter().join(1_650_000);
        (17..20).for_each(|n| bench.frame(n, n == 17));
        assert_eq!(due(&bench, false), (6, 6));
    }

    #[test]
    fn a_new_session_counts_its_own_frames_and_none_from_before_it() {
        let mut bench = Bench::new();
        bench.meter().join(0);
        (9..16).for_each(|n| bench.frame(n, n == 9));
        bench.meter().leave();
        bench.meter().join(1_550_000);
        (13..20).for_each(|n| bench.frame(n, n == 13));
        assert_eq!(
            due(&bench, false),
            (10, 10),
            "10 to 15, then 16 to 19; 13 to 15 are the new session's GOP"
        );
        assert_eq!((bench.totals.frames_again, bench.totals.frames_old), (0, 3));
        bench.meter().leave();
        bench.meter().join(2_100_000);
        assert_eq!(due(&bench, false), (10, 10), "who comes after the measured time is due nothing of it");
    }

    #[test]
    fn what_comes_again_after_coming_back_is_due_once() {
        let mut bench = Bench::new();
        bench.meter().join(0);
        (8..15).for_each(|n| bench.frame(n, n == 8));
        bench.meter().leave();
        bench.meter().join(1_450_000);
        // From the key frame on, which is from before the measured time.
        for n in 8..15 {
            let sent_us = u64::from(n) * 100_000;
            bench.meter().frame(Some(Stamp { sent_us, stream: 7, frame: n }), n == 8, 1_460_000);
        }
        assert_eq!(due(&bench, true), (5, 5), "frames 10 to 14");
        (15..20).for_each(|n| bench.frame(n, false));
        assert_eq!((due(&bench, false), bench.totals.frames_old), ((10, 10), 7));
    }

    #[test]
    fn who_leaves_or_comes_back_around_the_end_should_not_get_more_than_all() {
        let all = || {
            let mut bench = Bench::new();
            bench.meter().join(0);
            (8..22).for_each(|n| bench.frame(n, n == 8));
            bench
        };
        let mut bench = all();
        bench.meter().leave();
        assert_eq!(due(&bench, true), (10, 10), "frames 20 and 21 are not of the measured time");
        bench.meter().join(2_200_000);
        assert_eq!(due(&bench, false), (10, 10), "it waits for a picture, but too late");
        bench.frame(22, true);
        assert_eq!(due(&bench, false), (10, 10));

        let mut bench = Bench::new();
        bench.meter().join(0);
        (8..15).for_each(|n| bench.frame(n, n == 8));
        bench.meter().leave();
        bench.meter().join(1_500_000);
        assert_eq!(due(&bench, false), (5, 10), "it is back, and gets nothing more");
    }

    #[test]
    fn without_a_picture_everything_is_due() {
        let mut bench = Bench::new();
        bench.meter().join(0);
        assert_eq!(due(&bench, false), (0, 10));
        bench.frame(8, true);
        bench.meter().failed("gone".into());
        assert_eq!(due(&bench, false), (0, 10), "it had one, and lost it before");
    }

    #[test]
    fn a_gap_in_the_picture_is_a_freeze_and_foreign_frames_are_told() {
        let mut bench = Bench::new();
        bench.meter().join(0);
        [9, 10, 14].into_iter().for_each(|n| bench.frame(n, n == 9));
        let freezes = bench.totals.freezes.summary();
        assert!(freezes.count == 1 && (399.0..405.0).contains(&freezes.max), "{freezes:?}");
        bench.meter().frame(Some(Stamp { sent_us: 1_500_000, stream: 8, frame: 15 }), false, 1_500_001);
        assert_eq!((bench.totals.frames_foreign, bench.totals.frames), (1, 2));
    }

    #[test]
    fn numbers_tell_loss_from_lateness_and_repetition() {
        let mut numbers = Numbers::default();
        let taken: Vec<(u64, bool)> =
            [5, 6, 9, 8, 8, 5, 300, 9].into_iter().map(|n| numbers.take(n)).collect();
        assert_eq!(
            taken,
            [(1, true), (1, true), (3, true), (0, true), (0, false), (0, false), (291, true), (0, false)]
        );
        assert_eq!(numbers.highest(), Some(300));
    }
}
