//! What is published: frames of an FLV file, looped without a seam.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use media::flv::{Demuxer, Input, Reader, TYPE_AUDIO, TYPE_VIDEO};
use media::{Frame, TrackConfig};

use super::beep::Ear;
use super::scenario::Media;
use super::stamp::Stamp;

/// Encoding the clip takes a few seconds; ffmpeg is told to stop, should it hang.
const FFMPEG_TIMEOUT_S: &str = "300";
/// 16 s are 750 AAC frames of 1024 samples at 48 kHz: sound and picture loop together.
const SECONDS: &str = "16";
/// Samples of an AAC unit.
pub const AAC_FRAME_SAMPLES: u64 = 1_024;
/// FLV E.4.3.1: frame type and codec, packet type, composition time.
const VIDEO_HEADER_LEN: usize = 5;

/// A clip.
#[derive(Clone, Debug)]
pub struct Clip {
    /// AVCDecoderConfigurationRecord, as a tag body.
    pub video_header: Bytes,
    /// AudioSpecificConfig, as a tag body.
    pub audio_header: Option<Bytes>,
    /// One tag body a frame, in order.
    pub video: Vec<Bytes>,
    /// One tag body each 1024 samples.
    pub audio: Vec<Bytes>,
    /// Audio's sampling rate.
    pub sample_rate_hz: u32,
    /// The same beeps as Opus, one packet each 20 ms; none when the clip has no sound.
    pub opus: Vec<Bytes>,
    /// How long before its frame's second a beep begins when sound starts with the picture, in microseconds: encoders delay. AAC, Opus.
    pub delays_us: [i64; 2],
    /// Frames a second. Times are counted, not copied, so that the loop has no seam.
    pub fps: u32,
    /// For packets: the video's parameter sets.
    config: Arc<TrackConfig>,
}

impl Clip {
    /// Reads the file that `media` names, or the one that [`path`] made for it.
    pub fn load(media: &Media) -> Result<Clip> {
        let path = path(media)?;
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse(&bytes, media.fps).with_context(|| format!("{} is no clip to publish", path.display()))
    }

    /// A frame's tag body with a stamp in it.
    pub fn video_tag(&self, number: u32, stamp: Stamp, body: &mut BytesMut) {
        let tag = &self.video[number as usize % self.video.len()];
        body.clear();
        body.put_slice(&tag[..VIDEO_HEADER_LEN]);
        put_stamped(body, stamp, &tag[VIDEO_HEADER_LEN..]);
    }

    /// The same as an access unit for packetizing.
    pub fn frame(&self, number: u32, stamp: Stamp) -> Frame {
        let tag = &self.video[number as usize % self.video.len()];
        let mut data = BytesMut::with_capacity(tag.len() + 64);
        put_stamped(&mut data, stamp, &tag[VIDEO_HEADER_LEN..]);
        let time = media::Time(i64::from(number) * 1_000_000 / i64::from(self.fps));
        let (key, config) = (self.is_key(number), Arc::clone(&self.config));
        Frame { config, dts: time, pts: time, key, discardable: false, data: data.freeze() }
    }

    /// Whether a frame is a key frame.
    pub fn is_key(&self, number: u32) -> bool {
        self.video[number as usize % self.video.len()][0] >> 4 == 1
    }
}

/// The stamp, then the access unit, both behind 4-byte lengths.
fn put_stamped(to: &mut BytesMut, stamp: Stamp, access_unit: &[u8]) {
    let sei = stamp.sei();
    to.put_u32(sei.len() as u32);
    to.put_slice(&sei);
    to.put_slice(access_unit);
}

/// The file of a clip. Without one of its own, ffmpeg makes it once: test picture with noise, and a beep of 0.1 s at each full second; it
/// is kept in the folder for temporary files.
pub fn path(media: &Media) -> Result<PathBuf> {
    if let Some(file) = &media.file {
        return Ok(file.clone());
    }
    let Media { kbps, size, fps, gop, audio, .. } = media;
    let sound = if *audio { "" } else { "-mute" };
    let path = std::env::temp_dir().join(format!("millrace-bench-{size}-{fps}-{kbps}k-{gop}{sound}.flv"));
    if !path.is_file() {
        make(media, &path)?;
    }
    Ok(path)
}

fn make(media: &Media, path: &Path) -> Result<()> {
    let Media { kbps, size, fps, gop, audio, .. } = media;
    eprintln!("ffmpeg makes the clip: {}", path.display());
    let part = path.with_extension(format!("{}.part", std::process::id()));
    // The noise keeps the encoder at its bit rate: the test picture alone is too easy.
    let picture = format!("testsrc2=size={size}:rate={fps},noise=alls=10:allf=t");
    let mut command = Command::new("timeout");
    command.args([
        FFMPEG_TIMEOUT_S,
        "ffmpeg",
        "-nostdin",
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        &picture,
    ]);
    if *audio {
        let beep = "aevalsrc='if(lt(mod(t,1),0.1),0.5*sin(2*PI*1000*t),0)':c=stereo:s=48000";
        command.args(["-f", "lavfi", "-i", beep, "-c:a", "aac", "-b:a", "128k", "-ac", "2"]);
    }
    let (rate, buffer, gop) = (format!("{kbps}k"), format!("{}k", kbps / 2), gop.to_string());
    command
        .args([
            "-t",
            SECONDS,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-profile:v",
            "main",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &buffer, "-g", &gop, "-keyint_min", &gop])
        .args(["-sc_threshold", "0", "-bf", "0", "-f", "flv"])
        .arg(&part);
    let output = command
        .output()
        .context("cannot run `timeout ffmpeg`: install ffmpeg, or name an FLV file (file=PATH) to publish")?;
    if !output.status.success() {
        let _ = std::fs::remove_file(&part);
        bail!(
            "ffmpeg did not make the clip ({}; is it installed? file=PATH takes an FLV file instead): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    std::fs::rename(&part, path)?;
    Ok(())
}

/// A second of Opus: a beep of 0.1 s, and silence. It loops without a seam, since silence is at both ends.
fn beeps() -> Result<Vec<Bytes>> {
    const RATE_HZ: u32 = 48_000;
    const SAMPLES: usize = 960;
    let mut encoder = ropus::Encoder::builder(RATE_HZ, ropus::Channels::Stereo, ropus::Application::Audio)
        .bitrate(ropus::Bitrate::Bits(96_000))
        .build()?;
    let mut out = [0; 1_500];
    let mut piece = |piece: usize, encoder: &mut ropus::Encoder| -> Result<Bytes> {
        let sample = |at: usize| {
            let seconds = at as f32 / RATE_HZ as f32;
            if seconds < 0.1 { 0.5 * (std::f32::consts::TAU * 1_000.0 * seconds).sin() } else { 0.0 }
        };
        let pcm: Vec<f32> = (0..SAMPLES).flat_map(|i| [sample(piece * SAMPLES + i); 2]).collect();
        let len = encoder.encode_float(&pcm, &mut out)?;
        Ok(Bytes::copy_from_slice(&out[..len]))
    };
    // The first second is for the encoder to settle.
    (0..50).try_for_each(|i| piece(i, &mut encoder).map(drop))?;
    (0..50).map(|i| piece(i, &mut encoder)).collect()
}

/// When the clip's own beeps begin, past a full second; 0 for a file without.
fn aac_delay_us(header: Option<&Bytes>, audio: &[Bytes], sample_rate_hz: u32) -> Result<i64> {
    let Some(asc) = header.map(|header| header.slice(2..)) else { return Ok(0) };
    let mut ear = Ear::aac(&asc)?;
    let at = |piece: usize| (piece as i64 * 1_024_000_000) / i64::from(sample_rate_hz);
    let heard = audio.iter().enumerate().find_map(|(piece, tag)| ear.hear(tag.get(2..)?, at(piece)));
    Ok(heard.map_or(0, past_the_second))
}

fn opus_delay_us(opus: &[Bytes]) -> Result<i64> {
    let mut ear = Ear::opus()?;
    let twice = opus.iter().chain(opus).enumerate();
    Ok(twice
        .map(|(piece, packet)| (piece as i64 * 20_000, packet))
        .find_map(|(at, packet)| ear.hear(packet, at))
        .map_or(0, past_the_second))
}

/// An encoder's delay is some 10 ms; what is further off a full second is no beep of ours.
fn past_the_second(us: i64) -> i64 {
    Some(us.rem_euclid(1_000_000)).filter(|past| *past < 100_000).unwrap_or(0)
}

fn parse(bytes: &[u8], fps: u32) -> Result<Clip> {
    let mut reader = Reader::new();
    reader.push(bytes);
    let mut demuxer = Demuxer::new();
    let (mut config, mut video_header, mut audio_header) = (None, Bytes::new(), None);
    let (mut video, mut audio, mut sample_rate_hz) = (Vec::new(), Vec::new(), 48_000);
    while let Some(tag) = reader.poll()? {
        if config.is_none()
            && let Some(Input::Frame(frame)) =
                demuxer.push(tag.type_id, tag.timestamp_ms, tag.body.clone())?
            && matches!(*frame.config, TrackConfig::H264(_))
        {
            config = Some(frame.config);
        }
        match (tag.type_id, tag.body.as_ref()) {
            // FLV E.4.3.1: codec 7 is AVC; packet type 0 is the sequence header, 1 NAL units, 2 the end
            (TYPE_VIDEO, [first, 0, ..]) if first & 0x0f == 7 => video_header = tag.body,
            (TYPE_VIDEO, [first, 1, rest @ ..]) if first & 0x0f == 7 => {
                ensure!(
                    rest.get(..3) == Some(&[0, 0, 0]),
                    "it has B-frames, which WebRTC viewers cannot be sent"
                );
                video.push(tag.body);
            }
            (TYPE_VIDEO, [first, 2, ..]) if first & 0x0f == 7 => {}
            // E.4.2.1: format 10 is AAC
            (TYPE_AUDIO, [first, 0, ..]) if first >> 4 == 10 => {
                sample_rate_hz = media::AudioConfig::from_asc(tag.body.slice(2..))?.sample_rate_hz;
                audio_header = Some(tag.body);
            }
            (TYPE_AUDIO, [first, 1, ..]) if first >> 4 == 10 => audio.push(tag.body),
            (TYPE_VIDEO | TYPE_AUDIO, _) => bail!("it is not H.264 and AAC"),
            _ => {}
        }
    }
    let config = config.filter(|_| !video_header.is_empty()).context("it has no video")?;
    ensure!(video.first().is_some_and(|tag: &Bytes| tag[0] >> 4 == 1), "its first frame is no key frame");
    // The encoder adds a piece or two at the end: without them sound and picture loop together.
    let pieces = video.len() as u64 * u64::from(sample_rate_hz) / (u64::from(fps) * AAC_FRAME_SAMPLES);
    audio.truncate(usize::try_from(pieces)?);
    let opus = if audio.is_empty() { Vec::new() } else { beeps()? };
    let delays_us = [aac_delay_us(audio_header.as_ref(), &audio, sample_rate_hz)?, opus_delay_us(&opus)?];
    Ok(Clip { video_header, audio_header, video, audio, sample_rate_hz, opus, delays_us, fps, config })
}
