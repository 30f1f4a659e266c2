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

/// Sound that goes with the frames.
#[derive(Clone, Copy, Debug)]
pub struct Sound {
    /// Samples of a piece.
    pub samples: u64,
    /// Samples a second.
    pub hz: u64,
    /// It is sent so much earlier than it would be without its encoder's delay.
    pub delay_us: i64,
}

impl Sound {
    fn at_us(&self, piece: u64) -> i64 {
        (u128::from(piece * self.samples) * 1_000_000 / u128::from(self.hz)) as i64 - self.delay_us
    }
}

/// A publisher's schedule.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Time,
    fps: u32,
    audio: Option<Sound>,
    frames: u32,
    pieces: u64,
}

impl Schedule {
    /// Starts now.
    pub fn new(start: Time, fps: u32, audio: Option<Sound>) -> Schedule {
        // What a delayed encoder put before the start is left out.
        let pieces = audio.map_or(0, |sound| (0..).find(|piece| sound.at_us(*piece) >= 0).unwrap_or(0));
        Schedule { start, fps, audio, frames: 0, pieces }
    }

    /// Video frames given so far.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    fn video_us(&self) -> i64 {
        i64::from(self.frames) * 1_000_000 / i64::from(self.fps)
    }

    fn audio_us(&self) -> i64 {
        self.audio.map_or(i64::MAX, |sound| sound.at_us(self.pieces))
    }

    /// The clocks of frames (90 kHz) and sound at a moment, for sender reports.
    pub fn clocks(&self, now: Time) -> [u32; 2] {
        let passed = now.since(self.start);
        let ticks = |us: i64, hz: u64| (i128::from(us) * i128::from(hz) / 1_000_000) as u32;
        let sound = self.audio.map_or(0, |sound| ticks(passed + sound.delay_us, sound.hz));
        [ticks(passed, 90_000), sound]
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
    fn delayed_sound_is_sent_earlier() {
        let sound = Sound { samples: 960, hz: 48_000, delay_us: 25_000 };
        let mut schedule = Schedule::new(Time::ZERO, 25, Some(sound));
        let all: Vec<(Due, u64)> = std::iter::from_fn(|| schedule.next(Time::from_ms(40)))
            .map(|(due, at_us, _)| (due, at_us))
            .collect();
        use Due::{Audio, Video};
        assert_eq!(all, [(Video(0), 0), (Audio(2), 15_000), (Audio(3), 35_000), (Video(1), 40_000)]);
        assert_eq!(schedule.clocks(Time::from_ms(15)), [1_350, 1_920], "piece 2 begins at 1920");
    }

    #[test]
    fn frames_and_sound_come_in_the_order_of_their_time() {
        let sound = Sound { samples: 960, hz: 48_000, delay_us: 0 };
        let mut schedule = Schedule::new(Time::from_ms(10), 25, Some(sound));
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
