//! The publisher's 32-bit milliseconds made into one 64-bit line for both tracks.

use crate::Kind;

/// A step in either direction longer than this is a jump: the publisher's clock was set, its file was looped or it was
/// away. Players take a gap of a few seconds badly, so a jump becomes one frame step.
const JUMP_MS: i64 = 3000;

/// Steps before a track has shown its own: 30 frames a second, and 1024 samples at 44.1 kHz.
const STEP_VIDEO_MS: i64 = 33;
const STEP_AUDIO_MS: i64 = 23;

/// Longest step that is remembered as a track's own; longer ones are pauses.
const STEP_MS_MAX: i64 = 250;

/// Maps raw times to the output line.
///
/// The mapping is an offset that both tracks share, so a jump moves them alike and lip sync survives it. Tracks are
/// interleaved loosely: after one track jumped, the other still has frames from before. Hence the last two offsets
/// are kept, and a frame takes the one under which it continues its own track, or else the other track. Two tracks
/// that start at different times of day settle on one offset each by the same rule.
#[derive(Debug)]
pub(super) struct Timeline {
    raw_last: Option<u32>,
    raw_ms: i64,
    /// Newest first.
    offsets_ms: [i64; 2],
    video: Track,
    audio: Track,
}

#[derive(Debug)]
struct Track {
    last_ms: Option<i64>,
    step_ms: i64,
}

impl Track {
    fn near(&self, ms: i64) -> bool {
        self.last_ms.is_some_and(|last| ms.abs_diff(last) <= JUMP_MS.unsigned_abs())
    }

    fn next_ms(&self) -> Option<i64> {
        self.last_ms.map(|last| last.saturating_add(self.step_ms))
    }
}

/// A frame's place on the output line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    /// Output milliseconds, never less than before on this track.
    pub(super) dts_ms: i64,
    /// The publisher's time was a jump, or went back.
    pub(super) mended: bool,
}

impl Timeline {
    pub(super) fn new() -> Timeline {
        Timeline {
            raw_last: None,
            raw_ms: 0,
            offsets_ms: [0, 0],
            video: Track { last_ms: None, step_ms: STEP_VIDEO_MS },
            audio: Track { last_ms: None, step_ms: STEP_AUDIO_MS },
        }
    }

    /// Places a frame that came with the time `raw`.
    pub(super) fn place(&mut self, kind: Kind, raw: u32) -> Placed {
        // RTMP 5.3.1: times wrap after 49.7 days and are compared as signed differences.
        self.raw_ms = match self.raw_last {
            None => i64::from(raw),
            Some(last) => self.raw_ms.saturating_add(i64::from(raw.wrapping_sub(last).cast_signed())),
        };
        self.raw_last = Some(raw);

        let raw_ms = self.raw_ms;
        let offsets_ms = self.offsets_ms;
        let (own, other) = match kind {
            Kind::Video => (&mut self.video, &self.audio),
            Kind::Audio => (&mut self.audio, &self.video),
        };
        let first_of_stream = own.last_ms.is_none() && other.last_ms.is_none();
        let mut candidates = offsets_ms.iter().map(|offset| raw_ms.saturating_add(*offset));
        let found =
            candidates.clone().find(|ms| own.near(*ms)).or_else(|| candidates.find(|ms| other.near(*ms)));
        let (ms, jumped) = match found {
            Some(ms) => (ms, false),
            None if first_of_stream => (raw_ms, false),
            None => {
                let ms = own.next_ms().max(other.next_ms()).unwrap_or(raw_ms);
                let [newest, _] = offsets_ms;
                self.offsets_ms = [ms.saturating_sub(raw_ms), newest];
                (ms, true)
            }
        };
        let went_back = own.last_ms.is_some_and(|last| ms < last);
        let dts_ms = own.last_ms.map_or(ms, |last| ms.max(last));
        if let Some(last) = own.last_ms {
            let step = dts_ms.saturating_sub(last);
            if !jumped && (1..=STEP_MS_MAX).contains(&step) {
                own.step_ms = step;
            }
        }
        own.last_ms = Some(dts_ms);
        Placed { dts_ms, mended: jumped || went_back }
    }
}

#[cfg(test)]
mod tests {
    use Kind::{Audio, Video};
    use proptest::prelude::*;

    use super::*;

    fn placed(timeline: &mut Timeline, kind: Kind, raw: u32) -> i64 {
        timeline.place(kind, raw).dts_ms
    }

    #[test]
    fn wraps_after_49_days() {
        let mut t = Timeline::new();
        assert_eq!(placed(&mut t, Video, u32::MAX - 19), 4_294_967_276);
        assert_eq!(placed(&mut t, Audio, u32::MAX - 9), 4_294_967_286);
        assert_eq!(t.place(Video, 20), Placed { dts_ms: 4_294_967_316, mended: false });
        assert_eq!(t.place(Audio, 13), Placed { dts_ms: 4_294_967_309, mended: false });
    }

    #[test]
    fn a_jump_is_one_step_on_both_tracks() {
        for to in [10_000_000_u32, 90_000_000, 0, 3_000, 50_000, 57_000] {
            let mut t = Timeline::new();
            for n in 0..10 {
                placed(&mut t, Audio, 60_000 + n * 40);
                placed(&mut t, Video, 60_000 + n * 40);
            }
            assert_eq!(t.place(Video, to), Placed { dts_ms: 60_400, mended: true }, "{to}");
            // an audio frame from before the jump comes late, then audio jumps, too, and keeps its 7 ms to video
            assert_eq!(t.place(Audio, 60_390), Placed { dts_ms: 60_390, mended: false }, "{to}");
            assert_eq!(t.place(Audio, to + 7), Placed { dts_ms: 60_407, mended: false }, "{to}");
            assert_eq!(t.place(Video, to + 40), Placed { dts_ms: 60_440, mended: false }, "{to}");
        }
    }

    #[test]
    fn a_muted_track_comes_back_in_sync() {
        let mut t = Timeline::new();
        placed(&mut t, Audio, 0);
        for n in 0..1000 {
            placed(&mut t, Video, n * 40);
        }
        assert_eq!(t.place(Audio, 39_970), Placed { dts_ms: 39_970, mended: false });
    }

    #[test]
    fn tracks_on_different_clocks_settle() {
        let mut t = Timeline::new();
        let mut mended = 0;
        for n in 0..100 {
            mended += u32::from(t.place(Video, n * 40).mended);
            let audio = t.place(Audio, 3_000_000_000 + n * 40);
            mended += u32::from(audio.mended);
            assert!((audio.dts_ms - i64::from(n) * 40).abs() <= STEP_VIDEO_MS, "{n} {audio:?}");
        }
        assert_eq!(mended, 1);
    }

    #[test]
    fn small_steps_back_are_held() {
        let mut t = Timeline::new();
        placed(&mut t, Video, 1000);
        assert_eq!(t.place(Video, 990), Placed { dts_ms: 1000, mended: true });
        assert_eq!(t.place(Video, 1040), Placed { dts_ms: 1040, mended: false });
    }

    proptest! {
        #[test]
        fn never_back_and_never_far(
            raws in prop::collection::vec((any::<bool>(), prop_oneof![any::<u32>(), 0u32..10_000]), 1..200)
        ) {
            let mut t = Timeline::new();
            let mut last = [None::<i64>; 2];
            for (video, raw) in raws {
                let now = placed(&mut t, if video { Video } else { Audio }, raw);
                let newest = last.iter().flatten().max().copied();
                if let Some(own) = last[usize::from(video)] {
                    prop_assert!(now >= own);
                }
                if let Some(newest) = newest {
                    prop_assert!(now <= newest + JUMP_MS, "{now} after {newest}");
                }
                last[usize::from(video)] = Some(now);
            }
        }
    }
}
