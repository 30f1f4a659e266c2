//! ffmpeg and ffprobe.
use crate::process::Process;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-y", "-loglevel", "info", "-nostats"]);
    command
}

/// Publishes the project's clip as it is, over and over, in real time.
pub fn push_clip(url: &str) -> Process {
    push(&crate::clip(), url)
}

fn push(file: &Path, url: &str) -> Process {
    let mut command = ffmpeg();
    command.args(["-re", "-stream_loop", "-1", "-i"]).arg(file).args(["-c", "copy", "-f", "flv", url]);
    Process::start(&crate::unique("push"), &mut command)
}

/// What a test picture and tone are made of.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub video: bool,
    pub audio: bool,
    /// Seconds from key frame to key frame.
    pub gop_s: u32,
    pub b_frames: u32,
}

impl Default for Source {
    fn default() -> Source {
        Source { video: true, audio: true, gop_s: 1, b_frames: 0 }
    }
}

/// A key frame each so many seconds of 30 frames, and no other.
fn key_frames_each(command: &mut Command, gop_s: u32) -> &mut Command {
    let gop = (gop_s * 30).to_string();
    command.args(["-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0"])
}

/// Publishes a test picture (640x360, 30 fps, H.264) and a tone (44.1 kHz stereo AAC) made on the way.
pub fn push_source(url: &str, source: Source) -> Process {
    let mut command = ffmpeg();
    if source.video {
        command.args(["-re", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=30"]);
    }
    if source.audio {
        command.args(["-re", "-f", "lavfi", "-i", "sine=f=440:r=44100"]);
    }
    if source.video {
        command.args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-b:v",
            "800k",
            "-threads",
            "1",
        ]);
        key_frames_each(&mut command, source.gop_s).args(["-bf", &source.b_frames.to_string()]);
    }
    if source.audio {
        command.args(["-c:a", "aac", "-b:a", "96k", "-ac", "2"]);
    }
    command.args(["-f", "flv", url]);
    Process::start(&crate::unique("push"), &mut command)
}

/// Publishes a picture (1280x720, 30 fps, H.264 of 2 Mbit/s) that carries its number, and a tone, over and over: frame `n` has bit `k` of `n` as a
/// white square of 64 pixels at x = 64 k in its top left. It is encoded first, so that publishing costs nothing. `gop_s` divides [`NUMBERED_S`].
///
/// # Panics
/// When ffmpeg fails.
#[track_caller]
pub fn push_numbered(url: &str, gop_s: u32) -> Process {
    push(&numbered(gop_s), url)
}

/// The file of [`push_numbered`], made once a run.
#[track_caller]
fn numbered(gop_s: u32) -> PathBuf {
    static MADE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = crate::scratch().join(format!("numbered-{gop_s}.flv"));
    if made.contains(&gop_s) {
        return file;
    }
    let squares: Vec<String> = (0..10)
        .map(|bit| {
            let (x, value) = (64 * bit, 1 << bit);
            format!(
                "drawbox=x={x}:y=0:w=64:h=64:color=white:t=fill:enable=gte(mod(n\\,{})\\,{value})",
                2 * value
            )
        })
        .collect();
    let black = "drawbox=x=0:y=0:w=640:h=64:color=black:t=fill";
    let picture = format!("testsrc2=s=1280x720:r=30,{black},{}", squares.join(","));
    let seconds = NUMBERED_S.to_string();
    let mut command = ffmpeg();
    command.args(["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", "sine=f=440:r=48000", "-t", &seconds]);
    command.args(["-c:v", "libx264", "-preset", "superfast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]);
    key_frames_each(&mut command, gop_s).args(["-b:v", "2M", "-maxrate", "2M", "-bufsize", "2M"]);
    command.args(["-c:a", "aac", "-b:a", "96k", "-ac", "2"]).arg(&file);
    let mut process = Process::start(&crate::unique("numbered"), &mut command);
    let status = process.wait(Duration::from_secs(60));
    assert!(status.is_some_and(|it| it.success()), "{picture}: {status:?}\n{}", process.output());
    made.push(gop_s);
    file
}

/// How long a round of [`push_numbered`] is.
pub const NUMBERED_S: u32 = 32;

/// Plays to nowhere: a viewer to stop, to freeze, or to leave alone.
pub fn view(url: &str) -> Process {
    let mut command = ffmpeg();
    command.args(["-i", url, "-c", "copy", "-f", "null", "-"]);
    Process::start(&crate::unique("view"), &mut command)
}

/// Records `seconds` of a live URL as it is sent.
///
/// # Panics
/// When ffmpeg fails, or nothing ends within the time and ten seconds.
#[track_caller]
pub fn record(url: &str, seconds: u32) -> PathBuf {
    let name = crate::unique("record");
    let file = crate::scratch().join(format!("{name}.mkv"));
    let mut command = ffmpeg();
    command
        .args(["-i", url, "-t", &seconds.to_string(), "-map", "0:v?", "-map", "0:a?", "-c", "copy"])
        .arg(&file);
    let mut process = Process::start(&name, &mut command);
    let status = process.wait(Duration::from_secs(u64::from(seconds) + 10));
    assert!(status.is_some_and(|it| it.success()), "recording {url}: {status:?}\n{}", process.output());
    file
}

/// ffprobe's view of a file or URL: `streams`, `format`, and `packets` of the first `seconds`.
///
/// # Panics
/// When ffprobe fails or takes twice the time.
#[track_caller]
pub fn probe(source: &str, seconds: u32) -> Value {
    let name = crate::unique("probe");
    let file = crate::scratch().join(format!("{name}.json"));
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "json", "-show_streams", "-show_format", "-show_packets"]);
    command.args(["-read_intervals", &format!("%+{seconds}"), "-o"]).arg(&file).arg(source);
    let mut process = Process::start(&name, &mut command);
    let status = process.wait(Duration::from_secs(u64::from(seconds) + 15));
    assert!(status.is_some_and(|it| it.success()), "ffprobe {source}: {status:?}\n{}", process.output());
    let text = std::fs::read(&file).expect("ffprobe wrote its file");
    serde_json::from_slice(&text).expect("ffprobe writes JSON")
}

/// The first stream of a kind (`video`, `audio`) in what [`probe`] says.
pub fn stream<'a>(probe: &'a Value, kind: &str) -> Option<&'a Value> {
    probe["streams"].as_array()?.iter().find(|it| it["codec_type"] == kind)
}

/// Decode times of a kind, in seconds, in the order they came.
pub fn decode_times(probe: &Value, kind: &str) -> Vec<f64> {
    let packets = probe["packets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = packets.iter().filter(|it| it["codec_type"] == kind);
    own.filter_map(|it| it["dts_time"].as_str()?.parse().ok()).collect()
}

/// Decodes a whole file and returns what a filter prints; also says what the decoder complained of.
///
/// # Panics
/// When ffmpeg fails.
#[track_caller]
pub fn filter(file: &Path, map: &str, filter: &str) -> (String, String) {
    let mut command = Command::new("ffmpeg");
    // each line in full, or repetitions of what is left out below would be lines of their own
    command.args(["-hide_banner", "-nostdin", "-v", "repeat+error", "-i"]).arg(file);
    command.args(["-map", map, if map.contains('v') { "-vf" } else { "-af" }, filter, "-f", "null", "-"]);
    let output = command.stdin(Stdio::null()).output().expect("ffmpeg runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // the writer to nowhere counts in the frame rate it guessed; it is not what is asked about
    let errors: String = errors.lines().filter(|line| !line.starts_with("[null @")).collect();
    assert!(output.status.success(), "ffmpeg {filter} of {}: {errors}", file.display());
    (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
}

/// The loudness of a file's sound in dB, mean over all.
#[track_caller]
pub fn mean_volume(file: &Path) -> f64 {
    let mut command = ffmpeg();
    command.arg("-i").arg(file).args(["-map", "0:a", "-af", "volumedetect", "-f", "null", "-"]);
    let output = command.stdin(Stdio::null()).output().expect("ffmpeg runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = text.split("mean_volume: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    found.unwrap_or_else(|| panic!("no sound in {}: {text}", file.display()))
}
