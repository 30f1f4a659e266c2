//! When a publisher sends what: frames and sound in real time, counted from its start.

use media::Time;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// A video frame, by its number.
    Video(u32),
    /// A piece of sound, by its number.
    Audio(u64),
}

/// A publisher's schedule.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Time,
    fps: u32,
    /// Samples of a piece of sound, and samples a second; `None` without sound.
    audio: Option<(u64, u64)>,
    frames: u32,
    pieces: u64,
}

impl Schedule {
    /// Starts now.
    pub fn new(start: Time, fps: u32, audio: Option<(u64, u64)>) -> Schedule {
        Schedule { start, fps, audio, frames: 0, pieces: 0 }
    }

    /// Video frames given so far.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    fn video_us(&self) -> i64 {
        i64::from(self.frames) * 1_000_000 / i64::from(self.fps)
    }

    fn audio_us(&self) -> i64 {
        self.audio.map_or(i64::MAX, |(samples, hz)| {
            (u128::from(self.pieces * samples) * 1_000_000 / u128::from(hz)) as i64
        })
    }

    /// When the next is due.
    pub fn due(&self) -> Time {
        self.start.plus_us(self.video_us().min(self.audio_us()))
    }

    /// The next thing, if it is due: what, its media time in microseconds, and how late it is.
    pub fn next(&mut self, now: Time) -> Option<(Due, u64, u64)> {
        let (video, audio) = (self.video_us(), self.audio_us());
        let late = now.since(self.start.plus_us(video.min(audio)));
        if late < 0 {
            return None;
        }
        let due = if audio < video {
            self.pieces += 1;
            Due::Audio(self.pieces - 1)
        } else {
            self.frames += 1;
            Due::Video(self.frames - 1)
        };
        Some((due, video.min(audio) as u64, late as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_sound_come_in_the_order_of_their_time() {
        let mut schedule = Schedule::new(Time::from_ms(10), 25, Some((960, 48_000)));
        let mut all = Vec::new();
        for ms in 0..=90 {
            while let Some((due, at_us, late_us)) = schedule.next(Time::from_ms(ms)) {
                assert_eq!((at_us as i64, late_us), ((ms - 10) * 1_000, 0));
                all.push(due);
            }
        }
        use Due::{Audio, Video};
        assert_eq!(all, [Video(0), Audio(0), Audio(1), Video(1), Audio(2), Audio(3), Video(2), Audio(4)]);
        assert_eq!(schedule.due(), Time::from_ms(110));
        let mut mute = Schedule::new(Time::ZERO, 25, None);
        assert_eq!(mute.next(Time::from_ms(3)), Some((Video(0), 0, 3_000)));
        assert_eq!(mute.due(), Time::from_ms(40));
    }
}
