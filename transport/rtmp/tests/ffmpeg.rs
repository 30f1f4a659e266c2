//! ffmpeg pushes over a real socket, and plays the stream back. Skipped by name when there is no ffmpeg.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use media::flv::{Demuxer, Input};
use media::{Frame, Kind, TrackConfig, flv};
use millrace_rtmp::{
    CHUNK_SIZE_OUT, EndReason, Event, Limits, PLAY_STREAM_ID, RANDOM_LEN, Server, csid, encode_message,
};

const PICTURES: usize = 50;
const PATIENCE: Duration = Duration::from_secs(20);

fn has_ffmpeg() -> bool {
    let found =
        Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIPPED: ffmpeg is not installed");
    }
    found
}

fn ffmpeg(arguments: &[&str]) -> Child {
    Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "warning", "-nostdin", "-y"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ffmpeg is there")
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let socket = loop {
        match listener.accept() {
            Ok((socket, _)) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "ffmpeg does not connect: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Runs a connection until `on_event` says it is enough, or the peer has gone.
fn drive(socket: &mut TcpStream, server: &mut Server, mut on_event: impl FnMut(&mut Server, Event) -> bool) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = match socket.read(&mut buffer) {
            // a read with a time-out is not restarted after a signal
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            done => done.unwrap(),
        };
        if len == 0 {
            return;
        }
        server.handle_input(&buffer[..len]).unwrap();
        let mut enough = false;
        while let Some(event) = server.poll_event() {
            enough |= on_event(server, event);
        }
        socket.write_all(&server.take_output()).unwrap();
        if enough {
            return;
        }
    }
}

fn push_and_collect(flags: &[&str]) -> (Vec<Frame>, Demuxer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtmp://{}/live/alice?token=x", listener.local_addr().unwrap());
    let source: Vec<&str> = "-f lavfi -i testsrc2=size=320x240:rate=25 \
        -f lavfi -i sine=frequency=440:sample_rate=44100 -t 2 \
        -c:v libx264 -preset veryfast -bf 2 -g 25 -pix_fmt yuv420p -c:a aac -b:a 64k"
        .split_whitespace()
        .collect();
    let child = ffmpeg(&[&source[..], flags, &["-f", "flv", &url]].concat());
    let mut socket = accept(&listener);
    let mut server = Server::new([42; RANDOM_LEN], Limits::default());
    let mut demuxer = Demuxer::new();
    let mut frames = Vec::new();
    drive(&mut socket, &mut server, |server, event| {
        match event {
            Event::Publish { app, name, query } => {
                assert_eq!((&*app, &*name, &*query), ("live", "alice", "token=x"));
                server.accept_publish().unwrap();
            }
            Event::Media { type_id, timestamp_ms, body } => {
                match demuxer.push(type_id, timestamp_ms, body).unwrap() {
                    Some(Input::Frame(frame)) => frames.push(frame),
                    Some(Input::Metadata(metadata)) => {
                        assert!(metadata.encoder.starts_with("Lavf"), "{metadata:?}");
                    }
                    Some(Input::Config(_)) | None => {}
                }
            }
            Event::Unpublish => return true,
            Event::Connected { .. } | Event::Play { .. } | Event::Stop => {}
        }
        false
    });
    drop(socket);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (frames, demuxer)
}

#[test]
fn pushes_and_plays() {
    if !has_ffmpeg() {
        return;
    }
    let (frames, demuxer) = push_and_collect(&[]);
    let of = |kind| frames.iter().filter(move |frame| frame.kind() == kind);
    assert_eq!(of(Kind::Video).count(), PICTURES);
    assert!((85..=90).contains(&of(Kind::Audio).count()), "2 s of 1024 samples at 44.1 kHz");
    assert_eq!(of(Kind::Video).filter(|frame| frame.key).count(), 2);
    assert!(of(Kind::Video).any(|frame| frame.pts > frame.dts), "B-frames");
    assert!(of(Kind::Video).zip(of(Kind::Video).skip(1)).all(|(a, b)| a.dts < b.dts));
    assert_eq!((demuxer.mended(), demuxer.skipped()), (0, 0));
    match demuxer.config(Kind::Video).map(|config| &**config) {
        Some(TrackConfig::H264(config)) => assert_eq!((config.width, config.height), (320, 240)),
        other => panic!("{other:?}"),
    }

    // An audio-only and a video-only publisher.
    assert!(push_and_collect(&["-vn"]).0.iter().all(|frame| frame.kind() == Kind::Audio));
    assert!(push_and_collect(&["-an"]).0.iter().all(|frame| frame.kind() == Kind::Video));

    plays(&frames, &demuxer);
}

/// The pushed frames, encoded for all players, read by ffmpeg as a player.
fn plays(frames: &[Frame], demuxer: &Demuxer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtmp://{}/live/alice", listener.local_addr().unwrap());
    let child = ffmpeg(&["-rw_timeout", "20000000", "-i", &url, "-c", "copy", "-f", "framecrc", "-"]);
    let mut socket = accept(&listener);
    let mut server = Server::new([42; RANDOM_LEN], Limits::default());
    drive(&mut socket, &mut server, |server, event| match event {
        Event::Play { .. } => {
            server.accept_play().unwrap();
            true
        }
        _ => false,
    });
    let mut messages: VecDeque<(u8, u32, bytes::Bytes)> = VecDeque::new();
    let metadata =
        flv::Metadata { width: 320, height: 240, has_audio: true, has_video: true, ..Default::default() };
    messages.push_back((flv::TYPE_DATA, 0, flv::metadata_body(&metadata)));
    for kind in [Kind::Video, Kind::Audio] {
        let config = demuxer.config(kind).unwrap();
        messages.push_back((flv::type_id(kind), 0, flv::sequence_header(config)));
    }
    // Times from where they need the extended field.
    let base = 0x00FF_FF00;
    for frame in frames {
        let at = u32::try_from(frame.dts.ms()).unwrap() + base;
        messages.push_back((flv::type_id(frame.kind()), at, flv::frame_body(frame)));
    }
    for (type_id, at, body) in messages {
        let csid = match type_id {
            flv::TYPE_AUDIO => csid::AUDIO,
            flv::TYPE_VIDEO => csid::VIDEO,
            _ => csid::DATA,
        };
        socket.write_all(&encode_message(csid, type_id, at, PLAY_STREAM_ID, &body, CHUNK_SIZE_OUT)).unwrap();
    }
    server.end_play(EndReason::Unpublished);
    socket.write_all(&server.take_output()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let packets = |stream: &str| text.lines().filter(|line| line.starts_with(stream)).count();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((packets("0,"), packets("1,")), (PICTURES, frames.len() - PICTURES), "{log}\n{text}");
}
