//! The stages of RTMP, FLV and H.264. Frames have 8 KiB: 2 Mbit/s at 30 frames a second.

use std::hint::black_box;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use media::flv::{self, Demuxer, Input, TYPE_VIDEO};
use media::payload::PAYLOAD_LEN_MAX;
use media::payload::h264::{Depacketizer, packetize};
use media::{Codec, Frame, Packet, Temporal, Time, TrackConfig, VideoConfig};
use rtmp::chunk::Writer;
use rtmp::{
    CHUNK_SIZE_OUT, Event, Limits, PLAY_STREAM_ID, RANDOM_LEN, Server, csid, encode_message, message,
};

use super::{Workload, work};

const FRAMES: usize = 200;
const FRAME_LEN: usize = 8 * 1024;
const FRAME_MS: u32 = 33;
/// What encoders in the field set.
const CHUNK_SIZE_IN: u32 = 4_096;
/// What the node reads at a time.
const READ_LEN: usize = 16 * 1024;

/// Parameter sets of x264: baseline, 1920x1080.
const SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04,
    0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x60, 0xc9, 0x20,
];
const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

fn config() -> Arc<TrackConfig> {
    let config = VideoConfig::from_parameter_sets(Bytes::from_static(SPS), Bytes::from_static(PPS));
    Arc::new(TrackConfig::H264(config.expect("the sets are in order")))
}

/// Frame `number`: one slice, in AVCC.
fn frame(config: &Arc<TrackConfig>, key: bool, number: u32) -> Frame {
    let slice: &[u8] = if key { &[0x65, 0x88, 0x84] } else { &[0x41, 0x9a, 0x24] };
    let mut data = BytesMut::with_capacity(FRAME_LEN);
    data.put_u32(FRAME_LEN as u32 - 4);
    data.put_slice(slice);
    data.resize(FRAME_LEN, 0x5a);
    let time = Time::from_ms(i64::from(number) * i64::from(FRAME_MS));
    Frame { config: Arc::clone(config), dts: time, pts: time, key, discardable: false, data: data.freeze() }
}

/// `encode_message` of a frame's body for players.
pub(super) fn rtmp_chunk_encode() -> Box<dyn Workload> {
    let body = flv::frame_body(&frame(&config(), false, 1));
    work(
        (body, 0_u32),
        |_| (),
        |(body, now_ms), ()| {
            for _ in 0..FRAMES {
                *now_ms += FRAME_MS;
                black_box(encode_message(
                    csid::VIDEO,
                    TYPE_VIDEO,
                    *now_ms,
                    PLAY_STREAM_ID,
                    body,
                    CHUNK_SIZE_OUT,
                ));
            }
            FRAMES
        },
    )
}

/// A publisher's chunks through `Server::handle_input`, read by read, to one event a message.
pub(super) fn rtmp_chunk_decode() -> Box<dyn Workload> {
    let (server, mut writer) = (publishing(), Writer::new());
    let mut first = BytesMut::new();
    writer.write(csid::CONTROL, message::SET_CHUNK_SIZE, 0, 0, &CHUNK_SIZE_IN.to_be_bytes(), &mut first);
    writer.set_chunk_size(CHUNK_SIZE_IN as usize);
    let body = flv::frame_body(&frame(&config(), false, 1));
    work(
        (server, writer, first, 0_u32),
        move |(_, writer, first, now_ms)| {
            let mut stream = std::mem::take(first);
            for _ in 0..FRAMES {
                *now_ms += FRAME_MS;
                writer.write(csid::VIDEO, TYPE_VIDEO, *now_ms, PLAY_STREAM_ID, &body, &mut stream);
            }
            stream
        },
        |(server, ..), stream| {
            let mut messages = 0;
            for read in stream.chunks(READ_LEN) {
                server.handle_input(read).expect("an orderly publisher");
                while let Some(event) = server.poll_event() {
                    messages += usize::from(matches!(black_box(event), Event::Media { .. }));
                }
                black_box(server.take_output());
            }
            assert_eq!(messages, FRAMES);
            messages
        },
    )
}

/// A server whose client was allowed to publish.
fn publishing() -> Server {
    let random = [7; RANDOM_LEN];
    let mut client = rtmp::Client::publish("host", "live", "bench", &random);
    let mut server = Server::new(random, Limits::DEFAULT);
    while !server.is_publishing() {
        let up = client.take_output();
        server.handle_input(&up).expect("an orderly client");
        if server.is_asking() {
            server.accept_publish().expect("nothing came behind it");
        }
        while server.poll_event().is_some() {}
        let down = server.take_output();
        assert!(!up.is_empty() || !down.is_empty(), "the handshake goes on");
        client.handle_input(&down).expect("an orderly server");
    }
    server
}

/// `Demuxer::push` of a frame's body.
pub(super) fn flv_demux() -> Box<dyn Workload> {
    let config = config();
    let mut demuxer = Demuxer::new();
    demuxer.push(TYPE_VIDEO, 0, flv::sequence_header(&config)).expect("a sequence header");
    let body = flv::frame_body(&frame(&config, false, 1));
    work(
        (demuxer, 0_u32),
        move |_| vec![body.clone(); FRAMES],
        |(demuxer, now_ms), bodies| {
            for body in bodies.drain(..) {
                *now_ms += FRAME_MS;
                let input = black_box(demuxer.push(TYPE_VIDEO, *now_ms, body)).expect("a frame");
                assert!(matches!(input, Some(Input::Frame(_))));
            }
            FRAMES
        },
    )
}

/// A frame as HTTP-FLV viewers get it: `flv::frame_body`, then `flv::tag`.
pub(super) fn flv_tag() -> Box<dyn Workload> {
    work(
        frame(&config(), false, 1),
        |_| (),
        |frame, ()| {
            for i in 0..FRAMES as u32 {
                black_box(flv::tag(TYPE_VIDEO, i * FRAME_MS, &flv::frame_body(frame)));
            }
            FRAMES
        },
    )
}

/// `packetize` of frames that are not key frames.
pub(super) fn h264_packetize() -> Box<dyn Workload> {
    work(
        frame(&config(), false, 1),
        |_| (),
        |frame, ()| {
            let (mut payloads, mut packets) = (Vec::new(), 0);
            for _ in 0..FRAMES {
                payloads.clear();
                packetize(frame, PAYLOAD_LEN_MAX, &mut payloads);
                packets += black_box(&payloads).len();
            }
            packets
        },
    )
}

/// `Depacketizer::push` of packets that `packetize` made.
pub(super) fn h264_depacketize() -> Box<dyn Workload> {
    let config = config();
    let mut seq = 0;
    let mut packets = move |number: u32, out: &mut Vec<Packet>| {
        let mut payloads = Vec::new();
        packetize(&frame(&config, number == 0, number), PAYLOAD_LEN_MAX, &mut payloads);
        out.extend(payloads.into_iter().map(|payload| {
            seq += 1;
            let now = Time::from_ms(i64::from(number) * i64::from(FRAME_MS));
            Packet {
                seq,
                timestamp: now.ms() * 90,
                arrival: now,
                capture: now,
                codec: Codec::H264,
                marker: payload.marker,
                key_start: payload.key_start,
                discardable: false,
                temporal: Temporal::default(),
                descriptor: Bytes::new(),
                fresh_source: seq == 1,
                payload: payload.bytes,
            }
        }));
    };
    let mut depacketizer = Depacketizer::new();
    let mut first = Vec::new();
    packets(0, &mut first);
    let units =
        first.iter().filter(|packet| depacketizer.push(packet).expect("its packets").is_some()).count();
    assert_eq!(units, 1, "the key frame that the others need");
    work(
        (depacketizer, 1_u32),
        move |(_, number)| {
            let mut out = Vec::new();
            for _ in 0..FRAMES {
                packets(*number, &mut out);
                *number += 1;
            }
            out
        },
        |(depacketizer, _), packets| {
            let mut units = 0;
            for packet in &*packets {
                let unit = depacketizer.push(packet).expect("packets of ours");
                units += usize::from(black_box(unit).is_some());
            }
            assert_eq!(units, FRAMES);
            packets.len()
        },
    )
}
