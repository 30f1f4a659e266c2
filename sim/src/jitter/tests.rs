//! The viewer's model against frames of the model encoder.

use super::*;
use crate::video::{Encoded, Encoder, Settings};

const FRAME_US: i64 = 33_333;

/// Frames at 30 a second, from a number on, each at its capture time.
struct Stream {
    encoder: Encoder,
    buffer: JitterBuffer,
    seq: u64,
    frames: i64,
}

impl Stream {
    fn new(settings: Settings) -> Stream {
        let buffer = JitterBuffer::new(Time::ZERO);
        Stream { encoder: Encoder::new(1, settings, 1), buffer, seq: 100_000, frames: 0 }
    }

    /// The next frame and the number that it begins with.
    fn frame(&mut self, key: bool) -> (u64, Encoded) {
        let frame = self.encoder.frame(key, Time(self.frames * FRAME_US));
        let first = self.seq;
        self.frames += 1;
        self.seq += frame.payloads.len() as u64;
        (first, frame)
    }

    /// All of it, but for some places, arrives so late.
    fn arrives(
        &mut self,
        (first, frame): &(u64, Encoded),
        late_us: i64,
        but: &[usize],
    ) -> Result<(), String> {
        let at = frame.tag.capture.plus_us(late_us);
        self.buffer.poll(at)?;
        for (index, one) in frame.payloads.iter().enumerate().filter(|(index, _)| !but.contains(index)) {
            let (seq, time) = (first + index as u64, frame.tag.capture.ticks(90_000));
            self.buffer.insert(seq, time, one.marker, frame.codec, &one.bytes, at)?;
        }
        Ok(())
    }

    fn live(&mut self, frames: usize) {
        for _ in 0..frames {
            let frame = self.frame(false);
            self.arrives(&frame, 20_000, &[]).unwrap();
        }
    }

    fn until(&mut self, us: i64) -> bool {
        self.buffer.poll(Time(us)).unwrap()
    }
}

#[test]
fn frames_that_come_in_time_are_shown_evenly() {
    let mut stream = Stream::new(Settings::default());
    stream.live(60);
    stream.until(3_000_000);
    let seen = &stream.buffer.seen;
    assert_eq!((seen.complete.len(), seen.played.len(), seen.freezes.len()), (60, 60, 0));
    let shown: Vec<Time> = seen.played.values().copied().collect();
    let uneven = shown.windows(2).filter(|w| (w[1].since(w[0]) - FRAME_US).abs() > 50).count();
    assert_eq!(uneven, 0);
    assert_eq!(seen.first_decoded, Some(Time(20_000)));
}

#[test]
fn a_frame_that_is_repaired_late_is_a_freeze_and_then_the_delay_is_larger() {
    let mut stream = Stream::new(Settings::default());
    stream.live(30);
    let (held, delay_us) = (stream.frame(false), stream.buffer.delay_us());
    stream.arrives(&held, 20_000, &[1]).unwrap();
    stream.live(15);
    stream.arrives(&held, 520_000, &[]).unwrap();
    stream.live(30);
    stream.until(4_000_000);
    let seen = &stream.buffer.seen;
    assert_eq!((seen.played.len(), seen.freezes.len()), (76, 1));
    assert!((450_000..600_000).contains(&seen.freezes[0].len_us), "{:?}", seen.freezes);
    assert!(stream.buffer.delay_us() >= delay_us);
}

#[test]
fn what_refers_to_a_lost_frame_waits_for_a_key_frame() {
    let mut stream = Stream::new(Settings::default());
    stream.live(30);
    let lost = stream.frame(false);
    stream.arrives(&lost, 20_000, &[0]).unwrap();
    stream.live(10);
    assert_eq!(stream.buffer.seen.played.len(), 30, "whole, but nothing to refer to");
    assert!(!stream.until(3_900_000) && stream.until(4_100_000), "after 3 s a key frame is asked for");
    let key = stream.frame(true);
    stream.arrives(&key, 4_000_000, &[]).unwrap();
    stream.until(9_000_000);
    assert_eq!(stream.buffer.seen.played.len(), 31);
}

#[test]
fn a_key_frame_without_parameter_sets_is_no_picture() {
    let mut stream = Stream::new(Settings::default());
    let (first, frame) = stream.frame(true);
    stream.arrives(&(first, frame.clone()), 0, &[0]).unwrap();
    assert_eq!(stream.buffer.seen.first_decoded, None);
    stream.arrives(&(first, frame), 10_000, &[]).unwrap();
    assert_eq!(stream.buffer.seen.first_decoded, Some(Time(10_000)));
}

#[test]
fn numbers_that_go_on_over_a_missing_reference_are_a_broken_picture() {
    let mut stream = Stream::new(Settings { unreferenced: true, ..Settings::default() });
    stream.live(4);
    // One that no other refers to may be left out by who numbers anew; one that others refer to may not.
    let (gap, _) = stream.frame(false);
    let (_, unreferenced) = stream.frame(false);
    assert!(unreferenced.discardable);
    stream.seq = gap;
    let next = stream.frame(false);
    assert!(stream.arrives(&next, 20_000, &[]).unwrap_err().contains("broken picture"));

    let mut stream = Stream::new(Settings { unreferenced: true, ..Settings::default() });
    stream.live(3);
    let (gap, unreferenced) = stream.frame(false);
    assert!(unreferenced.discardable);
    stream.seq = gap;
    stream.live(4);
    stream.until(1_000_000);
    assert_eq!(stream.buffer.seen.played.len(), 7);
}
