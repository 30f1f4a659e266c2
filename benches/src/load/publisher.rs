//! The publisher: a thread that sends the clip by RTMP in real time, each frame stamped with its number and when it was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, BytesMut};
use media::flv::{TYPE_AUDIO, TYPE_VIDEO};
use rtmp::{Client, ClientEvent, RANDOM_LEN};

use super::clip::{Clip, FRAMES_PER_SECOND};
use super::stamp::Stamp;

/// The stream that is published.
pub const APP: &str = "live";
/// See [`APP`].
pub const STREAM: &str = "bench";

const TIMEOUT: Duration = Duration::from_secs(5);
/// FLV E.4.3.1: frame type and codec, packet type, composition time.
const VIDEO_HEADER_LEN: usize = 5;
const AAC_FRAME_SAMPLES: u64 = 1_024;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    frames: AtomicU32,
    bytes: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// What has been sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Video frames.
    pub frames: u32,
    /// Tag bodies of audio and video.
    pub bytes: u64,
}

/// A publishing thread. It ends with this value.
pub struct Publisher {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Publisher {
    /// Connects, and publishes from now on. Stamps count from `base`.
    pub fn start(clip: Clip, to: SocketAddr, base: Instant) -> Result<Publisher> {
        let connection =
            Connection::open(to).with_context(|| format!("cannot publish to rtmp://{to}/{APP}/{STREAM}"))?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let work = move || {
            if let Err(error) = publish(connection, &clip, base, &for_thread) {
                *for_thread.failure.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(format!("{error:#}"));
            }
        };
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(work)?;
        Ok(Publisher { shared, thread: Some(thread) })
    }

    /// An error when it had to stop.
    pub fn check_alive(&self) -> Result<()> {
        match &*self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!("the publisher failed: {why}"),
            None => Ok(()),
        }
    }

    /// What it has sent so far.
    pub fn sent(&self) -> Sent {
        Sent {
            frames: self.shared.frames.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn publish(mut connection: Connection, clip: &Clip, base: Instant, shared: &Shared) -> Result<()> {
    connection.send(TYPE_VIDEO, 0, &clip.video_header)?;
    if let Some(header) = &clip.audio_header {
        connection.send(TYPE_AUDIO, 0, header)?;
    }
    let start = Instant::now();
    let (mut frames, mut audio_frames) = (0_u32, 0_u64);
    let mut body = BytesMut::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let video_us = u64::from(frames) * 1_000_000 / FRAMES_PER_SECOND;
        let audio_us = audio_frames * AAC_FRAME_SAMPLES * 1_000_000 / u64::from(clip.sample_rate_hz);
        let is_audio = !clip.audio.is_empty() && audio_us < video_us;
        let due_us = if is_audio { audio_us } else { video_us };
        connection.read_until(start + Duration::from_micros(due_us))?;
        let due_ms = (due_us / 1_000) as u32;
        let len = if is_audio {
            let tag = &clip.audio[audio_frames as usize % clip.audio.len()];
            audio_frames += 1;
            connection.send(TYPE_AUDIO, due_ms, tag)?;
            tag.len()
        } else {
            let tag = &clip.video[frames as usize % clip.video.len()];
            let sei = Stamp { sent_us: base.elapsed().as_micros() as u64, frame: frames }.sei();
            body.clear();
            body.put_slice(&tag[..VIDEO_HEADER_LEN]);
            body.put_u32(sei.len() as u32);
            body.put_slice(&sei);
            body.put_slice(&tag[VIDEO_HEADER_LEN..]);
            // Before it is sent: a viewer may have it before this thread goes on.
            frames += 1;
            shared.frames.store(frames, Ordering::Relaxed);
            connection.send(TYPE_VIDEO, due_ms, &body)?;
            body.len()
        };
        shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }
    Ok(())
}

struct Connection {
    client: Client,
    stream: TcpStream,
}

impl Connection {
    fn open(to: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let client = Client::publish(&to.to_string(), APP, STREAM, &[0x5a; RANDOM_LEN]);
        let mut connection = Connection { client, stream };
        let deadline = Instant::now() + TIMEOUT;
        loop {
            connection.flush()?;
            match connection.client.poll_event() {
                Some(ClientEvent::Ready) => return Ok(connection),
                Some(other) => bail!("the node says {other:?}"),
                None => {}
            }
            ensure!(Instant::now() < deadline, "not publishing after {TIMEOUT:?}");
            connection.read(Duration::from_millis(100))?;
        }
    }

    fn send(&mut self, type_id: u8, timestamp_ms: u32, body: &[u8]) -> Result<()> {
        self.client.send_media(type_id, timestamp_ms, body);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        let output = self.client.take_output();
        self.stream.write_all(&output).context("the connection to the node broke")
    }

    /// Waits until `due`; acknowledgements and pings of the node are answered meanwhile.
    fn read_until(&mut self, due: Instant) -> Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.read(left)?;
            match self.client.poll_event() {
                None => self.flush()?,
                Some(event) => bail!("the node ended it: {event:?}"),
            }
        }
    }

    /// Reads for at most `wait`.
    fn read(&mut self, wait: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(wait))?;
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the node closed the connection"),
            Ok(count) => Ok(self.client.handle_input(&buffer[..count])?),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("the connection to the node broke"),
        }
    }
}
