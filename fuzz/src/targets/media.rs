//! What media/src reads: AMF0, FLV, H.264, AAC and RTP payloads.

use std::sync::Arc;

use bytes::Bytes;
use media::flv::{self, Demuxer};
use media::payload::h264::Depacketizer;
use media::{
    AudioConfig, Codec, Frame, Packet, Temporal, Time, TrackConfig, VideoConfig, aac as aac_format,
    amf0 as amf,
};
use media::{h264, payload as payloads};

use crate::input::{Input, pieces};
use crate::memory;
use crate::novelty::{note, note_count};

/// AMF0: whatever was read is written in a form that reads back to the same bytes, and is no larger in memory than its bound says.
pub fn amf0(data: &[u8]) {
    let before = memory::live();
    let result = amf::decode(data);
    let held = memory::live() - before;
    // 1024 values of up to 56 bytes, vectors doubled; text at most three times its bytes (a replacement character for each).
    assert!(held <= 256 * 1024 + 4 * data.len() as isize, "{} bytes hold {held}", data.len());
    note(&result);
    if let Ok(values) = result {
        note_count("values", values.len());
        let written = amf::encode(&values);
        let again = amf::decode(&written).expect("what was written is read");
        assert_eq!(amf::encode(&again), written);
    }
    let _ = flv::Demuxer::new().push(flv::TYPE_DATA, 0, Bytes::copy_from_slice(data));
}

/// FLV in pieces of any size, its tags into the demuxer: as from a file or an HTTP body.
pub fn flv_reader(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.u8();
    let (mut reader, mut demuxer) = (flv::Reader::new(), Demuxer::new());
    for piece in pieces(seed, input.rest()) {
        reader.push(piece);
        loop {
            match reader.poll() {
                Ok(Some(tag)) => note(&demuxer.push(tag.type_id, tag.timestamp_ms, tag.body).map(|_| ())),
                Ok(None) => break,
                Err(why) => return note(&why),
            }
        }
    }
}

/// Tag bodies as RTMP brings them: (type, time, length, body), again and again. Frames come out in order, and can be written and
/// read again.
pub fn flv_demuxer(data: &[u8]) {
    let mut input = Input::new(data);
    let mut demuxer = Demuxer::new();
    let mut last = [None::<Time>; 2];
    let mut payloads_out = Vec::new();
    while !input.rest().is_empty() {
        let (type_id, timestamp_ms) = (input.u8(), input.u32());
        let body = Bytes::copy_from_slice(input.bytes());
        match demuxer.push(type_id, timestamp_ms, body) {
            Ok(Some(flv::Input::Frame(frame))) => {
                assert!(frame.pts >= frame.dts);
                let last = &mut last[frame.kind() as usize];
                assert!(last.is_none_or(|last| frame.dts >= last), "time goes back");
                *last = Some(frame.dts);
                note(&(frame.kind(), frame.key, frame.discardable));
                write_again(&frame, &mut payloads_out);
            }
            Ok(Some(flv::Input::Config(kind))) => {
                let config = demuxer.config(kind).expect("announced");
                let mut other = Demuxer::new();
                let header = flv::sequence_header(config);
                let read = other.push(flv::type_id(kind), 0, header).expect("our own sequence header");
                assert!(matches!(read, Some(flv::Input::Config(k)) if k == kind));
                assert_eq!(other.config(kind), Some(config));
                note(&kind);
            }
            other => note(&other),
        }
    }
    note_count("mended", demuxer.mended() as usize);
    note_count("skipped", demuxer.skipped() as usize);
}

/// A frame as a tag and as RTP payloads.
fn write_again(frame: &Frame, out: &mut Vec<payloads::RtpPayload>) {
    let body = flv::frame_body(frame);
    let tag = flv::tag(flv::type_id(frame.kind()), frame.dts.ms() as u32, &body);
    assert_eq!(tag.len(), body.len() + 15);
    out.clear();
    payloads::h264::packetize(frame, payloads::PAYLOAD_LEN_MAX, out);
    assert!(out.iter().all(|p| p.bytes.len() <= payloads::PAYLOAD_LEN_MAX));
    note_count("payloads", out.len());
}

/// One access unit, in AVCC of each length size and as Annex B.
pub fn h264_access_unit(data: &[u8]) {
    let mut input = Input::new(data);
    let length_size = input.u8() % 5;
    let body = Bytes::copy_from_slice(input.rest());
    let from_avcc = h264::access_unit_from_avcc(body.clone(), length_size);
    note(&from_avcc.as_ref().map(|unit| (unit.key, unit.discardable, unit.bframe)));
    if let Ok(unit) = from_avcc {
        let again = h264::access_unit_from_avcc(unit.data.clone(), 4).expect("our own AVCC");
        assert_eq!((again.data, again.key, again.discardable), (unit.data, unit.key, unit.discardable));
    }
    let mut nals = 0;
    for nal in h264::annexb_nals(&body) {
        nals += 1;
        note(&h264::SliceStart::parse(nal).map(|s| (s.is_b(), s.first_mb == 0)));
        let _ = (h264::nal_ref_idc(nal), h264::nal::parameter_set_id(nal), h264::profile_level_id(nal));
    }
    note_count("nals", nals);
    let from_annexb = h264::access_unit_from_nals(h264::annexb_nals(&body).map(|nal| body.slice_ref(nal)));
    note(&from_annexb.map(|unit| (unit.key, unit.discardable, unit.sps.is_some())));
}

/// Decoder configurations: the input as an avcC record, as an SPS, and as (SPS, PPS) behind lengths.
pub fn h264_config(data: &[u8]) {
    let record = Bytes::copy_from_slice(data);
    let from_avcc = VideoConfig::from_avcc(record.clone());
    note(&from_avcc.as_ref().map(|_| ()));
    if let Ok(config) = from_avcc {
        assert!(config.width > 0 && config.height > 0);
        let again = VideoConfig::from_avcc(config.avcc.clone()).expect("our own record");
        assert_eq!(again, config);
    }
    note(&h264::ParameterSets::parse(data).map(|sets| (sets.sps.len(), sets.pps.len())));
    let mut input = Input::new(data);
    let sps = Bytes::copy_from_slice(input.bytes());
    let pps = Bytes::copy_from_slice(input.bytes());
    match VideoConfig::from_parameter_sets(sps, pps) {
        Ok(config) => {
            let again = VideoConfig::from_avcc(config.avcc.clone()).expect("our own record");
            assert_eq!(again, config);
            note(&config.fps.is_some());
        }
        Err(why) => note(&why),
    }
}

/// RTP packets of an H.264 track: (flags, number, time, payload) again and again, through the reorder buffer into the depacketizer.
/// Frames that come out can be read, and packetized and put together again. As packets of a browser's and as pieces of another node's.
pub fn h264_packets(data: &[u8]) {
    let mut input = Input::new(data);
    let mut reorder = payloads::Reorder::new(60_000, 64);
    let mut makers =
        [Depacketizer::new(), Depacketizer::of_pieces()].map(|depacketizer| (depacketizer, None));
    let (mut seq, mut timestamp, mut now) = (1_u64 << 16, 1_i64 << 32, Time::ZERO);
    while !input.is_empty() {
        let flags = input.u8();
        seq = seq.saturating_add_signed(i64::from(input.u8().cast_signed()));
        timestamp = timestamp.saturating_add(i64::from(input.u8().cast_signed()) * 900);
        now = now.plus_ms(i64::from(flags >> 4));
        reorder.push(Packet {
            seq,
            timestamp,
            arrival: now,
            capture: now,
            codec: Codec::H264,
            marker: flags & 1 != 0,
            key_start: flags & 2 != 0,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: flags & 0xC == 0xC,
            payload: Bytes::copy_from_slice(input.bytes()),
        });
        while let Some(packet) = reorder.pop(now) {
            for (depacketizer, config) in &mut makers {
                let mut next = depacketizer.push(&packet);
                let said = |unit: &payloads::h264::Unit| (unit.key, unit.discardable, unit.config.is_some());
                note(&next.as_ref().map(|unit| unit.as_ref().map(said)));
                while let Ok(Some(unit)) = next {
                    *config = unit.config.clone().or(config.take());
                    let config = config.clone().expect("the first frame comes with a configuration");
                    packetize_again(unit, config);
                    next = Ok(depacketizer.poll());
                }
            }
        }
    }
    let _ =
        (makers.each_ref().map(|(depacketizer, _)| depacketizer.needs_key_frame()), reorder.next_deadline());
    note_count("late", reorder.counts().late as usize);
}

fn packetize_again(unit: payloads::h264::Unit, config: Arc<TrackConfig>) {
    let frame = Frame {
        config,
        dts: Time::ZERO,
        pts: Time::ZERO,
        key: unit.key,
        discardable: unit.discardable,
        data: unit.data,
    };
    check_again(&frame, payloads::h264::packetize, Depacketizer::new());
    let pieces =
        |frame: &Frame, len_max: usize, out: &mut Vec<_>| payloads::h264::pieces(frame, len_max, 30, out);
    check_again(&frame, pieces, Depacketizer::of_pieces());
}

fn check_again(
    frame: &Frame,
    cut: impl Fn(&Frame, usize, &mut Vec<payloads::RtpPayload>),
    mut again: Depacketizer,
) {
    let mut out = Vec::new();
    cut(frame, 200, &mut out);
    let count = out.len();
    for (index, payload) in out.into_iter().enumerate() {
        let packet = Packet {
            seq: 1 + index as u64,
            timestamp: 0,
            arrival: Time::ZERO,
            capture: Time::ZERO,
            codec: Codec::H264,
            marker: payload.marker,
            key_start: payload.key_start,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: payload.bytes,
        };
        let got = again.push(&packet).expect("our own packets");
        if let (Some(got), true) = (got, frame.key) {
            assert_eq!(index + 1, count, "whole before its last packet");
            assert_eq!(got.data, frame.data);
        }
    }
}

/// The first look at a payload of every codec.
pub fn payload(data: &[u8]) {
    const CODECS: [Codec; 9] = [
        Codec::H264,
        Codec::H265,
        Codec::Vp8,
        Codec::Vp9,
        Codec::Av1,
        Codec::Aac,
        Codec::Opus,
        Codec::Pcma,
        Codec::Pcmu,
    ];
    for codec in CODECS {
        note(&(codec, payloads::key_start(codec, data), payloads::discardable(codec, data)));
        note(&(Temporal::of(codec, data, None), payloads::size(codec, data)));
    }
}

/// Dependency descriptors of one encoding, one after another, each behind its length.
pub fn dependency(data: &[u8]) {
    let mut descriptors = payloads::dependency::Descriptors::default();
    let mut input = Input::new(data);
    let mut seq = 1 << 16;
    while !input.is_empty() {
        let mut descriptor = input.bytes().to_vec();
        // Now and then one comes late.
        seq = if descriptor.len() % 5 == 4 { seq - 3 } else { seq + 1 };
        let found = descriptors.read(&descriptor, seq);
        note(&found);
        let Some(number) = payloads::dependency::frame_number(&descriptor) else {
            assert_eq!(found, None, "a layer out of what is cut");
            continue;
        };
        payloads::dependency::set_frame_number(&mut descriptor, number.wrapping_add(1));
        assert_eq!(payloads::dependency::frame_number(&descriptor), Some(number.wrapping_add(1)));
    }
}

/// AudioSpecificConfig and ADTS.
pub fn aac(data: &[u8]) {
    let config = AudioConfig::from_asc(Bytes::copy_from_slice(data));
    note(&config);
    if let Ok(config) = config {
        assert!((4_000..=192_000).contains(&config.sample_rate_hz) && (1..=8).contains(&config.channels));
    }
    let mut len = 0;
    for frame in aac_format::adts_frames(data) {
        note(&frame.as_ref().map(|frame| (frame.sample_rate_hz, frame.channels)));
        len += frame.map_or(0, |frame| frame.data.len());
    }
    assert!(len <= data.len());
}
