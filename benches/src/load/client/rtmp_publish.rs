//! One RTMP publisher: the clip in real time, each frame stamped.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytes::BytesMut;
use media::Time;
use media::flv::{TYPE_AUDIO, TYPE_VIDEO};
use rtmp::ClientEvent;

use super::rtmp_play::Connection;
use super::schedule::{Due, Schedule, Sound};
use super::{Client, Io};
use crate::load::clip::{AAC_FRAME_SAMPLES, Clip};
use crate::load::http::Exchange;
use crate::load::plan::Seat;
use crate::load::stamp::Stamp;

/// Bytes that a server may leave untaken: some seconds of media. More is a server that has stopped reading.
pub const WAITING_MAX: usize = 4 << 20;

/// A publisher.
pub struct Publisher {
    connection: Connection,
    clip: Arc<Clip>,
    stream: u32,
    schedule: Option<Schedule>,
    join_deadline: Time,
    body: BytesMut,
}

impl Publisher {
    /// Starts to connect.
    pub fn start(seat: &Seat, media: usize, io: &mut Io<'_>) -> Result<Publisher> {
        Ok(Publisher {
            connection: Connection::start(&seat.url, true, 0, io)?,
            clip: Arc::clone(&io.kit.clips[media]),
            stream: seat.stream,
            schedule: None,
            join_deadline: io.join_deadline(),
            body: BytesMut::new(),
        })
    }

    fn begin(&mut self, io: &mut Io<'_>) {
        io.meter.connected(io.now_us());
        let rtmp = self.connection.rtmp();
        rtmp.send_media(TYPE_VIDEO, 0, &self.clip.video_header);
        if let Some(header) = &self.clip.audio_header {
            rtmp.send_media(TYPE_AUDIO, 0, header);
        }
        let sound = Sound {
            samples: AAC_FRAME_SAMPLES,
            hz: u64::from(self.clip.sample_rate_hz),
            delay_us: self.clip.delays_us[0],
        };
        let audio = (!self.clip.audio.is_empty()).then_some(sound);
        self.schedule = Some(Schedule::new(io.now(), self.clip.fps, audio));
        self.join_deadline = Time::MAX;
    }
}

impl Client for Publisher {
    fn ready(&mut self, _source: usize, io: &mut Io<'_>) -> Result<()> {
        self.connection.write()?;
        while self.connection.read(usize::MAX, io)?.is_some() {
            while let Some(event) = self.connection.rtmp().poll_event() {
                match event {
                    ClientEvent::Ready => self.begin(io),
                    ClientEvent::Rejected { code, description } => {
                        bail!("the server refused: {code}: {description}")
                    }
                    ClientEvent::Ended => bail!("the server ended the stream"),
                    ClientEvent::Media { .. } => {}
                }
            }
        }
        self.connection.write()
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Result<()> {
        let Some(schedule) = &mut self.schedule else {
            ensure!(
                io.now() < self.join_deadline,
                "publishing was not accepted within {} ms",
                io.kit.join_ms
            );
            return Ok(());
        };
        while let Some((due, media_us, late_us)) = schedule.next(io.now()) {
            let at_ms = (media_us / 1_000) as u32;
            match due {
                Due::Audio(piece) => {
                    let tag = &self.clip.audio[(piece % self.clip.audio.len() as u64) as usize];
                    self.connection.rtmp().send_media(TYPE_AUDIO, at_ms, tag);
                }
                Due::Video(frame) => {
                    let stamp = Stamp { sent_us: io.now_us(), stream: self.stream, frame };
                    self.clip.video_tag(frame, stamp, &mut self.body);
                    self.connection.rtmp().send_media(TYPE_VIDEO, at_ms, &self.body);
                    io.meter.sent(stamp, self.body.len(), late_us);
                }
            }
            self.connection.write()?;
        }
        let waiting = self.connection.waiting();
        ensure!(waiting <= WAITING_MAX, "the server has stopped reading: {waiting} bytes wait");
        Ok(())
    }

    fn due(&self) -> Time {
        self.schedule.map_or(self.join_deadline, |schedule| schedule.due())
    }

    fn leave(&mut self, _io: &mut Io<'_>) -> Option<Exchange> {
        self.connection.rtmp().stop();
        let _ = self.connection.write();
        None
    }
}
