//! Makes the seeds that our own writers can make, out of the two clips of ffmpeg in seeds/flv_reader. The others (the clips, an
//! ADTS file, past crashes) are files that stay as they are.

mod relay;

use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use media::amf0::{self, Value};
use media::flv::{self, Demuxer};
use media::{AudioConfig, Frame, Kind, TrackConfig, VideoConfig, h264, payload};
use rtc::sdp::Direction;
use rtc::stun::{Class, Writer};
use rtc::{rtcp, rtp};
use rtmp::{Client, Event, Limits, RANDOM_LEN, Server, chunk, encode_message};

use crate::convert::AacToOpus;
use crate::targets::rtc::PWD;
use crate::targets::shard::{AUDIO_SSRC, REPAIRED_ID, RID_ID, RTX_SSRC, VIDEO_SSRC, VIEWER_SSRCS};

/// The clips, as flv_reader takes them: a byte for the cuts, then the file.
const CLIPS: [&[u8]; 2] = [
    include_bytes!("../seeds/flv_reader/ffmpeg-baseline"),
    include_bytes!("../seeds/flv_reader/ffmpeg-b-frames"),
];

/// Writes them; gives their number.
pub fn write(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    let mut put = |target: &str, name: &str, bytes: &[u8]| {
        count += 1;
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)
    };
    for (name, bytes) in stun() {
        put("stun", name, &bytes)?;
    }
    for (name, bytes) in rtp_packets() {
        put("rtp", name, &bytes)?;
    }
    let compounds = rtcp_compounds();
    for (name, bytes) in &compounds {
        put("rtcp", name, bytes)?;
    }
    let arrivals: Vec<u8> = (0..200_u8).flat_map(|n| [n % 64, 255, n.wrapping_mul(3) / 2]).collect();
    put("twcc_recorder", "arrivals", &arrivals)?;
    put("sdp_offer", "ours", crate::targets::shard::offer(Direction::SendOnly).as_bytes())?;
    put("sdp_fragment", "trickle", FRAGMENT)?;
    for (name, bytes) in session_steps() {
        put("session", name, &bytes)?;
    }
    for (name, bytes) in shard_steps(&compounds) {
        put("shard", name, &bytes)?;
    }
    let (media, nack) = relay::datagrams();
    put("relay_datagram", "media", &media)?;
    put("relay_datagram", "nack", &nack)?;
    let led = |bytes: &[u8]| [&[bytes.len() as u8, 40][..], bytes].concat();
    put(
        "relay_hop",
        "both",
        &[led(&media), led(&[4, 20]), led(&[3, 20, 12, 3, 5, 2]), led(&media)].concat(),
    )?;
    let mut all = vec![100];
    for (name, message) in relay::messages() {
        put("relay_control", name, &[&[100][..], &message].concat())?;
        all.extend(message);
    }
    put("relay_control", "all", &all)?;
    put("relay_stream", "all", &relay::stream())?;
    for (name, bytes) in relay::flows() {
        put("relay_flow", name, &bytes)?;
    }
    for (name, bytes) in layers_steps() {
        put("layers", name, &bytes)?;
    }
    put("rtmp_handshake", "simple", &[&[5, 3][..], &[0; 3072]].concat())?;
    put("rtmp_handshake", "cut", &[&[0, 3][..], &[9; 500]].concat())?;
    put("rtmp_handshake", "encrypted", &[0, 6, 1, 2])?;
    let (published, played, answers) = rtmp_streams();
    for (name, stream) in [("publish", &published), ("play", &played)] {
        put("rtmp_chunk", name, &[&[3][..], stream].concat())?;
        put("rtmp_server", name, &[&[3, 0][..], stream].concat())?;
        put("rtmp_server", &format!("{name}-refused"), &[&[3, 6][..], stream].concat())?;
        put("rtmp_server", &format!("{name}-late"), &[&[3, 8][..], stream].concat())?;
    }
    put("rtmp_chunk", "interleaved", &[&[3][..], &interleaved()].concat())?;
    put("rtmp_client", "play", &[&[3, 0][..], &answers[1]].concat())?;
    put("rtmp_client", "publish", &[&[3, 2][..], &answers[0]].concat())?;
    for (name, bytes) in rtmp_messages(&published, &played) {
        put("rtmp_messages", name, &bytes)?;
    }
    for (name, bytes) in amf_values() {
        put("amf0", name, &bytes)?;
    }
    for (name, clip) in ["baseline", "b-frames"].into_iter().zip(CLIPS) {
        let (bodies, frames, config) = taken_apart(clip);
        put("flv_demuxer", name, &bodies)?;
        let TrackConfig::H264(config) = &*config else { continue };
        put("h264_config", &format!("{name}-record"), &config.avcc)?;
        put(
            "h264_config",
            &format!("{name}-sets"),
            &[behind_length(&config.sps), behind_length(&config.pps)].concat(),
        )?;
        let video: Vec<&Frame> = frames.iter().filter(|frame| frame.kind() == Kind::Video).collect();
        put("h264_access_unit", &format!("{name}-avcc"), &[&[4][..], &video[0].data].concat())?;
        put("h264_access_unit", &format!("{name}-annexb"), &[&[0][..], &annexb(config, video[0])].concat())?;
        let cut: [Cut; 2] = [
            |frame, out| payload::h264::packetize(frame, 300, out),
            |frame, out| payload::h264::pieces(frame, 300, 30, out),
        ];
        for (form, cut) in ["", "-pieces"].into_iter().zip(cut) {
            put("h264_packets", &format!("{name}{form}"), &packets(&video, cut))?;
        }
        if let Some(audio) = frames.iter().find(|frame| frame.kind() == Kind::Audio) {
            let TrackConfig::Aac(config) = &*audio.config else { continue };
            put("aac", "config", &config.asc)?;
            let (aac, opus) = sound(&frames, config);
            put("aac_to_opus", "sine", &aac)?;
            put("opus_to_aac", "sine", &opus)?;
        }
    }
    put("aac", "config-he", &[0x2B, 0x92, 0x08, 0x00])?;
    put("aac", "config-sbr", &[0x13, 0x90, 0x56, 0xE5, 0xA0])?;
    put("dependency", "three-layers", &[behind_length(&STRUCTURE), behind_length(&[0xfd, 0, 8])].concat())?;
    for (name, bytes) in PAYLOADS {
        put("payload", name, bytes)?;
    }
    Ok(count)
}

type Named = Vec<(&'static str, Vec<u8>)>;

fn behind_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn stun() -> Named {
    let made = |class, write: &dyn Fn(Writer<'_>)| {
        let mut out = Vec::new();
        write(Writer::new(&mut out, class, [7; 12]));
        out
    };
    let v4 = "192.0.2.1:32853".parse().expect("an address");
    let v6 = "[2001:db8::1]:32853".parse().expect("an address");
    vec![
        (
            "check",
            made(Class::Request, &|w| {
                w.username("server", "client").priority(1).controlling(2).use_candidate().finish(PWD)
            }),
        ),
        ("controlled", made(Class::Request, &|w| w.username("a", "b").controlled(9).finish(PWD))),
        ("answer-v4", made(Class::Success, &|w| w.mapped_address(v4).finish(PWD))),
        ("answer-v6", made(Class::Success, &|w| w.mapped_address(v6).finish(PWD))),
        ("error", made(Class::Error, &|w| w.error_code(487, "Role Conflict").finish(PWD))),
        ("indication", made(Class::Indication, &|w| w.finish_unauthenticated())),
    ]
}

/// A packet with our header.
fn packet(
    ssrc: u32,
    payload_type: u8,
    seq: u16,
    timestamp: u32,
    marker: bool,
    extensions: &[(u8, &[u8])],
    body: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; 256];
    let fields = rtp::Fields { marker, payload_type, sequence_number: seq, timestamp, ssrc, extensions };
    let len = rtp::write_header(&mut out, &fields);
    out.truncate(len);
    out.extend_from_slice(body);
    out
}

fn rtp_packets() -> Named {
    let mut padded = packet(7, 111, 9, 960, false, &[(1, b"0")], &[1, 2, 3, 0, 0, 3]);
    padded[0] |= 0x20;
    let mut csrc = vec![0x92, 0xE0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2];
    csrc.extend([0x10, 0x00, 0, 2, 1, 0, 2, 3, 9, 9, 9, 0, 0xAA]);
    vec![
        ("plain", packet(7, 96, 1, 90, true, &[], b"some media")),
        (
            "extensions",
            packet(7, 96, 2, 90, true, &[(3, &[1, 2, 3]), (4, b"0"), (5, &[0, 1])], b"some media"),
        ),
        ("padded", padded),
        ("csrc-two-byte", csrc),
    ]
}

fn rtcp_compounds() -> Named {
    let block = rtcp::ReportBlock {
        ssrc: VIEWER_SSRCS[1],
        fraction_lost: 12,
        cumulative_lost: -1,
        highest_seq: 70_000,
        jitter: 9,
        lsr: 0x1234_5678,
        dlsr: 65_536,
    };
    let ntp = rtcp::ntp_from_unix_us(1_700_000_000_000_000);
    let info = rtcp::SenderInfo { ssrc: VIDEO_SSRC, ntp, rtp: 90_000, packets: 10, octets: 1_000 };
    let made = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let received: Vec<(u64, i64)> =
        (0..60).filter(|n| n % 7 != 3).map(|n| (100 + n, 5_000 * n as i64 * n as i64)).collect();
    vec![
        ("sender-report", made(&|out| rtcp::sender_report(out, &info, &[block], "cname"))),
        ("receiver-report", made(&|out| rtcp::receiver_report(out, 1, &[block, block], ""))),
        ("nack", made(&|out| rtcp::nack(out, 1, VIEWER_SSRCS[1], &[1, 2, 3, 40, 41, 65_535]))),
        (
            "pli-fir",
            made(&|out| {
                rtcp::pli(out, 1, VIEWER_SSRCS[1]);
                rtcp::fir(out, 1, VIEWER_SSRCS[1], 3);
            }),
        ),
        ("remb", made(&|out| rtcp::remb(out, 1, 2_500_000, &VIEWER_SSRCS))),
        (
            "extended-reports",
            made(&|out| {
                rtcp::reference_time(out, 1, ntp);
                rtcp::delay_since_reference(out, 1, VIDEO_SSRC, 0x1234_5678, 65_536);
            }),
        ),
        ("bye", made(&|out| rtcp::bye(out, &[VIDEO_SSRC, AUDIO_SSRC]))),
        (
            "twcc",
            made(&|out| {
                rtcp::twcc::feedback_packet(out, 1, 2, 3, 100, &received);
            }),
        ),
    ]
}

const FRAGMENT: &[u8] = b"a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
a=mid:0\r\na=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1\r\n\
a=candidate:3471623853 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\na=end-of-candidates\r\n";

fn session_steps() -> Named {
    let check = stun().swap_remove(0).1;
    // A ClientHello's record header and handshake header, and an alert.
    let hello = [
        &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 1, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 28, 254, 253][..],
        &[7; 26],
    ]
    .concat();
    let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 1, 0];
    let media = packet(7, 96, 1, 90, true, &[], b"some media that is not authentic at all");
    let report =
        [0x81, 201, 0, 1, 0, 0, 0, 1, 0x80, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let mut all = Vec::new();
    for from in [0, 1] {
        for datagram in [&check[..], &hello, &alert, &media, &report, &[0x80, 200, 1, 1], &[20, 254, 253]] {
            all.push(from);
            all.extend(behind_length(datagram));
        }
        all.extend([3, 100]);
    }
    let of = |phase: u8| [&[phase][..], &all].concat();
    let changed =
        [&[1][..], &[2, 0, 30, 1, 4, 2, 0, 60, 0x80, 4, 3, 200, 4, 4, 2, 0, 14, 1, 4, 4][..]].concat();
    vec![("nothing", of(0)), ("valid", of(1)), ("half", of(2)), ("connected", of(3)), ("changed", changed)]
}

fn shard_steps(compounds: &Named) -> Named {
    let step = |op: u8, bytes: &[u8]| [&[op][..], &behind_length(bytes)].concat();
    let vp8 = |seq: u16, time: u32, key: bool| {
        let first = if key { 0x10 } else { 0x11 };
        packet(VIDEO_SSRC, 96, seq, time, true, &[(1, b"1")], &[0x10, first, 2, 0, 0x9D, 1, 0x2A, 0, 1, 0, 1])
    };
    let opus = |seq: u16| packet(AUDIO_SSRC, 111, seq, u32::from(seq) * 960, false, &[], &[0xFC, 1, 2, 3]);
    let pass = |ms: u16| [&[3][..], &ms.to_be_bytes()].concat();
    let mut media = Vec::new();
    for n in 0..6_u16 {
        media.extend(step(0, &vp8(n, u32::from(n) * 3_000, n == 0)));
        media.extend(step(0, &opus(n)));
        media.extend(pass(33));
    }
    let mut repair = step(0, &vp8(1, 0, true));
    repair.extend(step(0, &vp8(5, 3_000, false)));
    repair.extend(pass(40));
    let rtx = packet(RTX_SSRC, 97, 1, 3_000, false, &[], &[0, 2, 0x10, 0x11, 2, 0]);
    repair.extend(step(0, &rtx));
    repair.extend(pass(1_100));
    let mut reports = media.clone();
    for (_, compound) in compounds {
        reports.extend(step(1, compound));
        reports.extend(step(2, compound));
        reports.extend(pass(20));
    }
    let mut change = media.clone();
    change.extend([7, 1, 0, 6, 0]);
    change.extend(&media);
    change.extend([7, 1, 1, 7, 1, 2]);
    let mut wrap = Vec::new();
    for (seq, time) in
        [(65_530_u16, u32::MAX - 9_000), (65_535, u32::MAX), (3, 9_000), (40_000, 1 << 31), (7, 5)]
    {
        wrap.extend(step(0, &vp8(seq, time, true)));
        wrap.extend(pass(100));
    }
    let burst = |op: &[u8], bytes: &[u8]| [op, &behind_length(bytes)].concat();
    let mut many = burst(&[8, 255, 0], &vp8(0, 0, true));
    many.extend(burst(&[8, 255, 7], &opus(0)));
    many.extend(step(2, &compounds[2].1));
    many.extend(step(5, &vp8(0, 0, true)));
    many.extend(burst(&[4, 9], &[0x80, 1, 2, 3]));
    vec![
        ("media", media),
        ("repair", repair),
        ("reports", reports),
        ("change", change),
        ("wrap", wrap),
        ("many", many),
    ]
}

fn layers_steps() -> Named {
    let step = |op: u8, bytes: &[u8]| [&[op][..], &behind_length(bytes)].concat();
    let rids: [&[u8]; 3] = [b"q", b"h", b"f"];
    let vp8 = |layer: u8, n: u16, key: bool| {
        let mut payload = vec![0x90, 0xE0, 0x80, n as u8, n as u8, 0x20, u8::from(!key)];
        payload.extend([0, 0, 0x9D, 1, 0x2A, 0x40, 1, 90 << (layer / 2), layer]);
        let time = u32::from(n) * 3_000 + u32::from(layer);
        let ssrc = 0x100 + u32::from(layer);
        packet(ssrc, 96, n, time, true, &[(RID_ID, rids[usize::from(layer)])], &payload)
    };
    let pass = |ms: u16| [&[3][..], &ms.to_be_bytes()].concat();
    let frames = |from: u16, keys: u16| {
        let mut all = Vec::new();
        for n in from..from + 12 {
            for layer in 0..3 {
                all.extend(step(0, &vp8(layer, n, n % keys == 0)));
            }
            all.extend(pass(33));
        }
        all
    };
    let mut requests = frames(0, 4);
    for request in [
        &[9, 1, 0][..],
        &[9, 2, 0, 0, 1, 0x68],
        &[9, 4, 0, 1, 0, 0],
        &[9, 8],
        &[9, 0],
        &[10, 1, 0, 1, 0, 0],
        &[10, 0],
    ] {
        requests.extend(request);
        requests.extend(frames(12 + requests.len() as u16 % 7, 3));
    }
    let mut tap = [&[7, 1, 0][..], &frames(0, 2)].concat();
    tap.extend(pass(400));
    tap.extend(step(0, &vp8(0, 13, true)));
    tap.extend([&[7, 1, 2][..], &pass(300), &step(0, &vp8(1, 14, true)), &[7, 1, 1]].concat());
    let mut strange = frames(0, 5);
    strange.extend(step(0, &packet(7, 96, 1, 1, true, &[(RID_ID, b"nobody")], &[0x10, 0])));
    strange.extend(step(0, &packet(8, 97, 1, 1, true, &[(REPAIRED_ID, b"zz")], &[0, 2, 0x10, 0])));
    strange.extend(step(0, &packet(9, 97, 1, 1, true, &[(REPAIRED_ID, b"h")], &[0, 2, 0x10, 0])));
    strange.extend([6, 0]);
    strange.extend(frames(20, 3));
    vec![("requests", requests), ("tap", tap), ("strange", strange)]
}

/// What an encoder and a player say after the handshake, and what each is answered.
fn rtmp_streams() -> (Vec<u8>, Vec<u8>, [Vec<u8>; 2]) {
    let talk = |mut client: Client, media: bool| {
        let mut server = Server::new([7; RANDOM_LEN], Limits::default());
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for round in 0..8 {
            let out = client.take_output();
            server.handle_input(&out).expect("our own client");
            // The handshake: C0 and C1, then C2 with the rest behind it.
            up.extend_from_slice(match round {
                0 => &[],
                1 => &out[1536..],
                _ => &out,
            });
            while let Some(event) = server.poll_event() {
                match event {
                    Event::Publish { .. } => server.accept_publish().expect("it asked"),
                    Event::Play { .. } => server.accept_play().expect("it asked"),
                    _ => {}
                }
            }
            let out = server.take_output();
            client.handle_input(&out).expect("our own server");
            down.extend_from_slice(if round == 0 { &out[1 + 2 * 1536..] } else { &out });
            while let Some(event) = client.poll_event() {
                if let (rtmp::ClientEvent::Ready, true) = (event, media) {
                    for tag in tags(CLIPS[0]).into_iter().take(6) {
                        client.send_media(tag.type_id, tag.timestamp_ms, &tag.body);
                    }
                    client.stop();
                }
            }
        }
        (up, down)
    };
    let (published, to_publisher) =
        talk(Client::publish("localhost", "live", "x?key=1", &[1; RANDOM_LEN]), true);
    let (played, mut to_player) = talk(Client::play("localhost", "live", "x", &[1; RANDOM_LEN]), false);
    for tag in tags(CLIPS[0]).into_iter().take(4) {
        let csid = if tag.type_id == 8 { 4 } else { 6 };
        to_player.extend_from_slice(&encode_message(
            csid,
            tag.type_id,
            tag.timestamp_ms,
            1,
            &tag.body,
            rtmp::CHUNK_SIZE_OUT,
        ));
    }
    (published, played, [to_publisher, to_player])
}

/// Two messages in turns, all header types, extended times, long chunk stream ids, an abort.
fn interleaved() -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut writer = chunk::Writer::new();
    for (n, time) in [0, 20, 40, 0xFF_FFF0, 0x0100_0010, 5].into_iter().enumerate() {
        writer.write(4, 8, time, 1, &[1; 150], &mut out);
        writer.write(100, 9, time, 1, &[2; 20], &mut out);
        writer.write(400, 18, time + n as u32, 1, &[3; 300], &mut out);
    }
    let a = encode_message(5, 8, 0x0200_0000, 1, &[4; 300], 128);
    let b = encode_message(6, 9, 7, 1, &[5; 300], 128);
    let (a0, a1) = a.split_at(12 + 4 + 128);
    let (b0, b1) = b.split_at(12 + 128);
    for part in [a0, b0, a1, b1, a0] {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&encode_message(2, 2, 0, 0, &5_u32.to_be_bytes(), 128));
    out.extend_from_slice(&a);
    out.to_vec()
}

/// The streams message by message, and three ways to cost memory: unfinished messages, pings, commands with many values.
fn rtmp_messages(published: &[u8], played: &[u8]) -> Named {
    let message = |type_id: u8, csid: u8, missing: u16, times: u8, body: &[u8]| {
        let mut out = vec![type_id, csid - 2, 0, 0, 0, 0];
        out.extend(missing.to_be_bytes());
        out.push(times);
        out.extend(behind_length(body));
        out
    };
    let listed = |stream: &[u8]| {
        let mut reader = chunk::Reader::new(Limits::default().publishing);
        let mut rest = stream;
        let mut out = vec![0];
        while let Ok(Some(m)) = reader.read(&mut rest) {
            out.extend(message(m.type_id, m.csid.min(200) as u8, 0, 0, &m.body));
        }
        out
    };
    let ping = message(4, 2, 0, 255, &[0, 6, 1, 2, 3, 4]);
    let no_text = [2, 3, 232].into_iter().chain([0xFF; 1_000]);
    let no_text: Vec<u8> =
        amf0::encode(&["FCPublish".into(), 1.0.into(), Value::Null]).iter().copied().chain(no_text).collect();
    let no_text = [&[0][..], &message(20, 3, 0, 60, &no_text)].concat();
    let big_chunks = message(1, 2, 0, 0, &[0, 1, 0, 0]);
    let unfinished = [&[0][..], &big_chunks, &message(20, 70, 1, 59, &[2; 1_600])].concat();
    let list = Value::StrictArray(vec![Value::Null; 900]);
    let many = amf0::encode(&["connect".into(), 1.0.into(), list]);
    let commands = [&[0][..], &big_chunks, &message(20, 3, 0, 0, &many)].concat();
    let name = "x".repeat(1_500);
    let echo = amf0::encode(&["FCPublish".into(), 1.0.into(), Value::Null, name.as_str().into()]);
    let echoes = [&[0][..], &big_chunks, &message(20, 3, 0, 100, &echo)].concat();
    let all = [&unfinished[..], &message(20, 3, 0, 30, &echo)].concat();
    vec![
        ("publish", listed(published)),
        ("play", listed(played)),
        ("pings", [&[0][..], &ping, &ping].concat()),
        ("unfinished", unfinished),
        ("many-values", commands),
        ("echoes", echoes),
        ("unfinished-and-echoes", all),
        ("echoes-not-utf8", no_text),
    ]
}

fn amf_values() -> Named {
    let object = |pairs: &[(&str, Value)]| {
        Value::Object(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    };
    let nested = (0..10).fold(Value::Null, |inner, _| object(&[("a", inner)]));
    let metadata = Value::EcmaArray(vec![
        ("width".to_owned(), 1280.0.into()),
        ("encoder".to_owned(), "Lavf".into()),
        ("stereo".to_owned(), true.into()),
    ]);
    let list = Value::StrictArray(vec![
        Value::Undefined,
        Value::Date { unix_ms: 1.0, zone: 0 },
        Value::Reference(1),
    ]);
    let connect = object(&[("app", "live".into()), ("tcUrl", "rtmp://localhost/live".into())]);
    let encode = |values: &[Value]| amf0::encode(values).to_vec();
    vec![
        ("connect", encode(&["connect".into(), 1.0.into(), connect])),
        ("metadata", encode(&["@setDataFrame".into(), "onMetaData".into(), metadata])),
        ("nested", encode(&[nested])),
        ("list", encode(&[list, Value::LongString("long".into()), Value::Unsupported])),
    ]
}

fn tags(clip: &[u8]) -> Vec<flv::Tag> {
    let mut reader = flv::Reader::new();
    reader.push(&clip[1..]);
    std::iter::from_fn(|| reader.poll().expect("a clip of ffmpeg")).collect()
}

/// The bodies as flv_demuxer takes them, the frames, and the video's configuration.
fn taken_apart(clip: &[u8]) -> (Vec<u8>, Vec<Frame>, std::sync::Arc<TrackConfig>) {
    let (mut bodies, mut frames, mut demuxer) = (Vec::new(), Vec::new(), Demuxer::new());
    for tag in tags(clip) {
        bodies.push(tag.type_id);
        bodies.extend(tag.timestamp_ms.to_be_bytes());
        bodies.extend(behind_length(&tag.body));
        if let Some(flv::Input::Frame(frame)) =
            demuxer.push(tag.type_id, tag.timestamp_ms, tag.body).expect("a clip of ffmpeg")
        {
            frames.push(frame);
        }
    }
    let config = demuxer.config(Kind::Video).expect("a clip with video").clone();
    (bodies, frames, config)
}

/// The clip's sound as aac_to_opus takes it, and converted as opus_to_aac does.
fn sound(frames: &[Frame], config: &AudioConfig) -> (Vec<u8>, Vec<u8>) {
    let audio: Vec<&Frame> = frames.iter().filter(|frame| frame.kind() == Kind::Audio).collect();
    let mut converter = AacToOpus::new(audio[0].config.clone(), 16_000).expect("a clip of ffmpeg");
    let (mut aac, mut packets) = (behind_length(&config.asc), Vec::new());
    for frame in audio {
        aac.extend([0, 23]);
        aac.extend(behind_length(&frame.data));
        converter.push(frame, &mut packets).expect("a clip of ffmpeg");
    }
    let mut opus = Vec::new();
    for packet in packets {
        opus.extend([0, 20]);
        opus.extend(behind_length(&packet.data));
    }
    (aac, opus)
}

fn annexb(config: &VideoConfig, frame: &Frame) -> Vec<u8> {
    let nals = h264::avcc_nals(&frame.data, 4)
        .map(|nal| Bytes::copy_from_slice(nal.expect("a frame of the demuxer")));
    let mut out = Vec::new();
    for nal in [config.sps.clone(), config.pps.clone()].into_iter().chain(nals) {
        out.extend([0, 0, 0, 1]);
        out.extend_from_slice(&nal);
    }
    out
}

/// How a frame becomes packets.
type Cut = fn(&Frame, &mut Vec<payload::RtpPayload>);

/// Frames as h264_packets takes them.
fn packets(frames: &[&Frame], cut: Cut) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let mut payloads = Vec::new();
        cut(frame, &mut payloads);
        for (n, payload) in payloads.into_iter().enumerate() {
            out.push(0x20 | u8::from(payload.marker) | u8::from(payload.key_start) << 1);
            out.extend([1, if n == 0 { 10 } else { 0 }]);
            out.extend(behind_length(&payload.bytes));
        }
    }
    out
}

/// A key frame's dependency descriptor: three temporal layers, 640x360.
const STRUCTURE: [u8; 20] = [
    0xfc, 0x00, 0x07, 0x87, 0x82, 0x14, 0xea, 0xa8, 0x60, 0x41, 0x4d, 0x14, 0x10, 0x20, 0x84, 0x27, 0x02,
    0x7f, 0x01, 0x67,
];
/// The first bytes of payloads that start a key frame.
const PAYLOADS: [(&str, &[u8]); 7] = [
    ("h264-stap-a", &[0x78, 0, 4, 0x67, 0x42, 0xC0, 0x1E, 0, 2, 0x68, 0xCE]),
    ("h264-fu-a", &[0x7C, 0x85, 0x88, 0x84]),
    ("h265-ap", &[0x60, 1, 0, 3, 0x40, 1, 0xC, 0, 3, 0x42, 1, 1]),
    ("vp8", &[0x90, 0x80, 0x81, 2, 0x10, 2, 0, 0x9D, 1, 0x2A]),
    ("vp9", &[0x8A, 0x81, 2, 0x18, 0, 0x80, 0, 0x80]),
    ("av1", &[0x18, 0x0A, 0x0B, 0, 0, 0, 0x32, 1]),
    ("av1-fragment", &[0x90, 3, 0x30, 1, 2]),
];
