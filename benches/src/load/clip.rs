//! What is published: frames of an FLV file, looped without a seam.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use media::flv::{Reader, TYPE_AUDIO, TYPE_VIDEO};

/// Encoding the clip takes a few seconds; ffmpeg is told to stop, should it hang.
const FFMPEG_TIMEOUT_S: &str = "120";

/// A clip's tag bodies.
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
}

/// Video frames a second. The clip's own are 30; times are counted, not copied, so that the loop has no seam.
pub const FRAMES_PER_SECOND: u64 = 30;

/// Reads `path`, or has ffmpeg make ten seconds of 720p30 at 2 Mbit/s with a tone (once; it is kept in the folder for temporary files).
pub fn load(path: Option<&Path>) -> Result<Clip> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => made()?,
    };
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is no clip to publish", path.display()))
}

fn made() -> Result<PathBuf> {
    let path = std::env::temp_dir().join("millrace-bench-720p30-2m.flv");
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("ffmpeg makes the clip: {}", path.display());
    let part = path.with_extension(format!("{}.part", std::process::id()));
    // The noise keeps the encoder at its bit rate: the test picture alone is too easy.
    let picture = "testsrc2=size=1280x720:rate=30,noise=alls=10:allf=t";
    let output = Command::new("timeout")
        .args([FFMPEG_TIMEOUT_S, "ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", picture])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "10"])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-profile:v", "main", "-pix_fmt", "yuv420p"])
        .args([
            "-b:v",
            "2M",
            "-maxrate",
            "2M",
            "-bufsize",
            "1M",
            "-g",
            "30",
            "-keyint_min",
            "30",
            "-sc_threshold",
            "0",
            "-bf",
            "0",
        ])
        .args(["-c:a", "aac", "-b:a", "128k", "-ac", "2", "-f", "flv"])
        .arg(&part)
        .output();
    let output =
        output.context("cannot run `timeout ffmpeg`: install ffmpeg, or give an FLV file with --clip")?;
    if !output.status.success() {
        let _ = std::fs::remove_file(&part);
        bail!(
            "ffmpeg did not make the clip ({}; is it installed? --clip takes an FLV file instead): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    std::fs::rename(&part, &path)?;
    Ok(path)
}

fn parse(bytes: &[u8]) -> Result<Clip> {
    let mut reader = Reader::new();
    reader.push(bytes);
    let mut clip = Clip {
        video_header: Bytes::new(),
        audio_header: None,
        video: Vec::new(),
        audio: Vec::new(),
        sample_rate_hz: 48_000,
    };
    while let Some(tag) = reader.poll()? {
        match (tag.type_id, tag.body.as_ref()) {
            // FLV E.4.3.1: codec 7 is AVC; packet type 0 is the sequence header, 1 NAL units, 2 the end
            (TYPE_VIDEO, [first, 0, ..]) if first & 0x0f == 7 => clip.video_header = tag.body,
            (TYPE_VIDEO, [first, 1, rest @ ..]) if first & 0x0f == 7 => {
                ensure!(
                    rest.get(..3) == Some(&[0, 0, 0]),
                    "it has B-frames, which WebRTC viewers cannot be sent"
                );
                clip.video.push(tag.body);
            }
            (TYPE_VIDEO, [first, 2, ..]) if first & 0x0f == 7 => {}
            // E.4.2.1: format 10 is AAC
            (TYPE_AUDIO, [first, 0, ..]) if first >> 4 == 10 => {
                let config = media::AudioConfig::from_asc(tag.body.slice(2..))?;
                clip.sample_rate_hz = config.sample_rate_hz;
                clip.audio_header = Some(tag.body);
            }
            (TYPE_AUDIO, [first, 1, ..]) if first >> 4 == 10 => clip.audio.push(tag.body),
            (TYPE_VIDEO | TYPE_AUDIO, _) => bail!("it is not H.264 and AAC"),
            _ => {}
        }
    }
    ensure!(!clip.video_header.is_empty() && !clip.video.is_empty(), "it has no video");
    ensure!(clip.video[0][0] >> 4 == 1, "its first frame is no key frame");
    Ok(clip)
}
