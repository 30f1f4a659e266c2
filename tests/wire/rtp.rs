//! RFC 6184: the clip's access units through packets of two sizes, back to equal access units and the same
//! configuration.
use crate::clip::frames;
use bytes::Bytes;
use media::h264::avcc_nals;
use media::payload::PAYLOAD_LEN_MAX;
use media::payload::h264::{Depacketizer, FU_A, STAP_A, Unit, packetize};
use media::{Codec, Frame, Kind, Packet, Temporal, Time, TrackConfig};

fn video() -> Vec<Frame> {
    frames().into_iter().filter(|frame| frame.kind() == Kind::Video).collect()
}

/// Packets as a shard would have them in its ring.
fn packets(frames: &[Frame], payload_len_max: usize) -> Vec<Packet> {
    let mut out: Vec<Packet> = Vec::new();
    for frame in frames {
        let mut payloads = Vec::new();
        packetize(frame, payload_len_max, &mut payloads);
        assert!(payloads.iter().all(|it| it.bytes.len() <= payload_len_max), "a packet is too long");
        let marked: Vec<bool> = payloads.iter().map(|it| it.marker).collect();
        // RFC 6184 section 5.1: the marker is on the last packet of the access unit, and there only
        assert_eq!(marked.iter().position(|it| *it), Some(marked.len() - 1));
        assert_eq!(payloads.iter().any(|it| it.key_start), frame.key, "key frames are known by a packet");
        for payload in payloads {
            out.push(Packet {
                seq: 65_500 + out.len() as u64, // over the end of 16 bits
                timestamp: frame.pts.ticks(90_000),
                arrival: frame.dts,
                capture: frame.pts,
                codec: Codec::H264,
                marker: payload.marker,
                key_start: payload.key_start,
                discardable: frame.discardable,
                temporal: Temporal::default(),
                descriptor: Bytes::new(),
                fresh_source: out.is_empty(),
                payload: payload.bytes,
            });
        }
    }
    out
}

fn depacketize(packets: &[Packet]) -> Vec<Unit> {
    let mut depacketizer = Depacketizer::new();
    let mut out: Vec<Unit> = Vec::new();
    for packet in packets {
        out.extend(depacketizer.push(packet).expect("we made it"));
    }
    out.extend(std::iter::from_fn(|| depacketizer.poll()));
    assert_eq!((depacketizer.counts().broken, depacketizer.counts().waiting), (0, 0));
    out
}

#[test]
fn access_units_come_back_equal_with_their_configuration() {
    let frames = video();
    // ours, and so small that nearly all is fragments
    for payload_len_max in [PAYLOAD_LEN_MAX, 100] {
        let units = depacketize(&packets(&frames, payload_len_max));
        assert_eq!(units.len(), frames.len());
        for (at, (unit, frame)) in units.iter().zip(&frames).enumerate() {
            assert!(unit.data == frame.data, "access unit {at}: other bytes");
            assert_eq!((unit.key, unit.discardable), (frame.key, frame.discardable), "access unit {at}");
            assert_eq!((unit.timestamp, unit.capture), (frame.pts.ticks(90_000), frame.pts));
            // parameter sets come in band before each key frame, and are news once
            assert_eq!(unit.config.is_some(), at == 0, "access unit {at}");
        }
        let (Some(TrackConfig::H264(got)), TrackConfig::H264(want)) =
            (units[0].config.as_deref(), &*frames[0].config)
        else {
            panic!("H.264 has a configuration of H.264");
        };
        assert_eq!((&got.sps, &got.pps), (&want.sps, &want.pps));
        assert_eq!((got.width, got.height), (1280, 720));
        // made anew from the sets, and yet the record the encoder wrote
        assert_eq!(got.avcc, want.avcc);
    }
}

/// The same packets by a reading of RFC 6184 that shares no line with the depacketizer's.
#[test]
fn packets_hold_the_nal_units_of_the_access_unit() {
    let frames = video();
    let TrackConfig::H264(config) = &*frames[0].config else { panic!("video is H.264") };
    for frame in frames.iter().take(65) {
        let mut got: Vec<Vec<u8>> = Vec::new();
        for packet in packets(std::slice::from_ref(frame), PAYLOAD_LEN_MAX) {
            let payload: Bytes = packet.payload;
            match payload[0] & 31 {
                STAP_A => {
                    let mut rest = &payload[1..];
                    while let Some((length, after)) = rest.split_first_chunk() {
                        let (nal, after) = after.split_at(u16::from_be_bytes(*length).into());
                        got.push(nal.to_vec());
                        rest = after;
                    }
                }
                FU_A => {
                    let (indicator, header) = (payload[0], payload[1]);
                    if header & 0x80 != 0 {
                        got.push(vec![(indicator & 0xe0) | (header & 31)]);
                    }
                    got.last_mut().expect("a start came first").extend_from_slice(&payload[2..]);
                }
                _ => got.push(payload.to_vec()),
            }
        }
        let mut want: Vec<Vec<u8>> = Vec::new();
        if frame.key {
            // what a decoder needs comes with each frame it can start at
            want.extend([config.sps.to_vec(), config.pps.to_vec()]);
        }
        want.extend(avcc_nals(&frame.data, 4).map(|nal| nal.expect("the clip is AVCC").to_vec()));
        assert!(got == want, "{} NAL units at {:?}, not {}", got.len(), frame.pts, want.len());
    }
}

/// A packet lost in the middle costs its own frame and what refers to it, and nothing after the next key frame.
#[test]
fn a_lost_packet_costs_up_to_the_next_key_frame() {
    let frames = video();
    let mut all = packets(&frames, PAYLOAD_LEN_MAX);
    let lost = all.iter().position(|it| it.capture > Time::from_ms(1500) && !it.marker).expect("a fragment");
    let at = all.remove(lost).capture;
    let mut depacketizer = Depacketizer::new();
    let units: Vec<Unit> =
        all.iter().filter_map(|packet| depacketizer.push(packet).expect("they are whole")).collect();
    let next_key = frames.iter().find(|it| it.key && it.pts > at).expect("a key frame a second").pts;
    let expected: Vec<Time> =
        frames.iter().map(|it| it.pts).filter(|pts| *pts < at || *pts >= next_key).collect();
    assert_eq!(units.iter().map(|it| it.capture).collect::<Vec<_>>(), expected);
}
