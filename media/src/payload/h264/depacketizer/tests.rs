use proptest::prelude::*;

use super::*;
use crate::Frame;
use crate::h264::vectors::*;
use crate::payload::Temporal;
use crate::payload::h264::{packetize, pieces};

/// A track whose packets the test lays out by hand.
struct Track {
    seq: u64,
    depacketizer: Depacketizer,
}

impl Track {
    fn new() -> Track {
        Track { seq: 1000, depacketizer: Depacketizer::new() }
    }

    fn packet(&mut self, timestamp: i64, marker: bool, payload: &[u8]) -> Packet {
        self.seq += 1;
        Packet {
            seq: self.seq,
            timestamp,
            arrival: Time::ZERO,
            capture: Time(timestamp * 7),
            codec: Codec::H264,
            marker,
            key_start: false,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
            payload: bytes(payload),
        }
    }

    fn push(&mut self, timestamp: i64, marker: bool, payload: &[u8]) -> Result<Option<Unit>, Error> {
        let packet = self.packet(timestamp, marker, payload);
        self.depacketizer.push(&packet)
    }

    fn lose(&mut self, packets: u64) {
        self.seq += packets;
    }

    /// Sends parameter sets and an IDR; gives the frame.
    fn key_frame(&mut self, timestamp: i64) -> Unit {
        assert!(self.push(timestamp, false, &stap(&[SPS_MAIN_QCIF, PPS_MAIN])).unwrap().is_none());
        self.push(timestamp, true, IDR_START).unwrap().expect("a key frame")
    }
}

fn stap(nals: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![0x78];
    for nal in nals {
        payload.extend_from_slice(&(nal.len() as u16).to_be_bytes());
        payload.extend_from_slice(nal);
    }
    payload
}

#[test]
fn key_frame_with_stap_a() {
    let mut track = Track::new();
    assert!(track.depacketizer.needs_key_frame());
    let unit = track.key_frame(3000);
    assert_eq!((unit.timestamp, unit.capture, unit.key, unit.discardable), (3000, Time(21_000), true, false));
    assert_eq!(unit.data, avcc(&[IDR_START]));
    let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
    assert_eq!(*unit.config.unwrap(), TrackConfig::H264(config));
    assert!(!track.depacketizer.needs_key_frame());
    assert!(track.key_frame(6000).config.is_none(), "the same sets again are no news");
}

#[test]
fn bare_parameter_sets_with_a_timestamp_of_their_own() {
    for (sets_at, marker) in [(3000, false), (3000, true), (2999, false), (2999, true)] {
        let mut track = Track::new();
        track.push(sets_at, marker, SPS_MAIN_QCIF).unwrap();
        track.push(sets_at, marker, PPS_MAIN).unwrap();
        let unit = track.push(3000, true, IDR_START).unwrap().expect("a key frame");
        assert!(unit.config.is_some() && unit.key);
        assert_eq!(track.depacketizer.counts(), Counts { units: 1, ..Counts::default() });
    }
}

#[test]
fn a_new_resolution_is_a_new_configuration() {
    let mut track = Track::new();
    track.key_frame(0);
    track.push(3000, false, &stap(&[SPS_BASELINE_1080P, PPS_BASELINE])).unwrap();
    let unit = track.push(3000, true, IDR_START).unwrap().unwrap();
    let Some(TrackConfig::H264(config)) = unit.config.as_deref() else { panic!("no configuration") };
    assert_eq!((config.width, config.height), (1920, 1080));
    assert_eq!(config.pps, PPS_BASELINE);
}

#[test]
fn parameter_sets_from_sdp() {
    let mut track = Track::new();
    assert!(track.push(0, true, IDR_START).unwrap().is_none(), "nobody could decode it");
    assert!(track.depacketizer.needs_key_frame());
    track.depacketizer.parameter_set(SPS_MAIN_QCIF).unwrap();
    track.depacketizer.parameter_set(PPS_MAIN).unwrap();
    assert!(track.push(3000, true, IDR_START).unwrap().unwrap().config.is_some());
    assert_eq!(track.depacketizer.parameter_set(IDR_START), Err(Error::ParameterSet));
}

#[test]
fn the_timestamp_ends_a_frame_without_marker() {
    let mut track = Track::new();
    track.key_frame(0);
    assert!(track.push(3000, false, P_START).unwrap().is_none());
    let unit = track.push(6000, true, B_START).unwrap().unwrap();
    assert_eq!(unit.timestamp, 3000);
    let unit = track.depacketizer.poll().expect("ended by its marker");
    assert_eq!((unit.timestamp, unit.discardable), (6000, true));
    assert!(track.depacketizer.poll().is_none());
}

#[test]
fn empty_payloads_are_padding() {
    let mut track = Track::new();
    track.key_frame(0);
    assert!(track.push(0, false, &[]).unwrap().is_none());
    assert!(track.push(3000, false, &[]).unwrap().is_none());
    assert!(track.push(3000, false, P_START).unwrap().is_none());
    assert!(track.push(4500, true, &[]).unwrap().is_none(), "does not end another frame");
    assert!(track.push(3000, true, &[]).unwrap().is_some(), "ends its own");
}

#[test]
fn a_lost_reference_drops_until_the_next_idr() {
    let mut track = Track::new();
    track.key_frame(0);
    track.lose(1);
    assert!(track.push(6000, true, P_START).unwrap().is_none());
    assert!(track.depacketizer.needs_key_frame());
    assert!(track.push(9000, true, P_START).unwrap().is_none());
    assert_eq!(track.depacketizer.counts(), Counts { units: 1, waiting: 2, ..Counts::default() });
    track.key_frame(12_000);
    assert!(!track.depacketizer.needs_key_frame());
}

#[test]
fn an_idr_without_its_first_slice_is_none() {
    let second_slice = &[0x65, 0x58, 0x84, 0x21];
    let mut track = Track::new();
    track.key_frame(0);
    track.lose(1);
    assert!(track.push(3000, true, second_slice).unwrap().is_none());
    assert!(track.depacketizer.needs_key_frame());
    // and with all its slices it is one
    assert!(track.push(6000, false, IDR_START).unwrap().is_none());
    assert_eq!(track.push(6000, true, second_slice).unwrap().unwrap().data, avcc(&[IDR_START, second_slice]));
}

#[test]
fn a_gap_inside_a_discardable_frame_hurts_only_it() {
    let mut track = Track::new();
    track.key_frame(0);
    assert!(track.push(3000, false, &[0x1C, 0x81, 0x9E, 1]).unwrap().is_none());
    track.lose(1);
    assert!(track.push(3000, true, &[0x1C, 0x41, 2, 3]).unwrap().is_none());
    assert!(!track.depacketizer.needs_key_frame());
    assert!(track.push(6000, true, P_START).unwrap().is_some());
    assert_eq!(track.depacketizer.counts(), Counts { units: 2, broken: 1, ..Counts::default() });
    // the same with a reference frame
    track.push(9000, false, &[0x5C, 0x81, 0x9A, 1]).unwrap();
    track.lose(1);
    assert!(track.push(9000, true, &[0x5C, 0x41, 2, 3]).unwrap().is_none());
    assert!(track.depacketizer.needs_key_frame());
}

#[test]
fn a_fresh_source_brings_its_own_parameter_sets() {
    let mut track = Track::new();
    track.key_frame(0);
    let fresh = Packet { fresh_source: true, ..track.packet(3000, true, P_START) };
    assert!(track.depacketizer.push(&fresh).unwrap().is_none());
    assert!(track.depacketizer.needs_key_frame());
    assert!(track.key_frame(6000).config.is_some());
}

#[test]
fn duplicates_are_late() {
    let mut track = Track::new();
    track.key_frame(0);
    let packet = track.packet(3000, true, P_START);
    assert!(track.depacketizer.push(&packet).unwrap().is_some());
    assert!(track.depacketizer.push(&packet).unwrap().is_none());
    assert_eq!(track.depacketizer.counts().late, 1);
}

#[test]
fn refused_payloads_break_their_frame_only() {
    for (payload, error) in [
        (&[0x79, 0, 1][..], Error::Kind(25)),
        (&[0x7A], Error::Kind(26)),
        (&[0x7D, 0x85, 0, 1], Error::Kind(29)),
        (&[0x7E, 0, 2, 0x41, 0x9A], Error::Kind(30)),
        (&[0x60], Error::Kind(0)),
        (&[0x78, 0], Error::Truncated("STAP-A size")),
        (&[0x78, 0, 9, 0x41], Error::Truncated("STAP-A NAL unit")),
        (&[0x7C], Error::Truncated("FU header")),
        (&[0x5C, 0x01, 9], Error::Fragment),
        (&[0x68], Error::ParameterSet),
    ] {
        let mut track = Track::new();
        track.key_frame(0);
        assert_eq!(track.push(3000, true, payload).unwrap_err(), error);
        assert!(track.depacketizer.needs_key_frame());
        assert!(track.push(6000, true, P_START).unwrap().is_none());
        track.key_frame(9000);
    }
    let mut track = Track::new();
    track.push(0, false, &stap(&[&SPS_MAIN_QCIF[..8], PPS_MAIN])).unwrap();
    assert!(matches!(track.push(0, true, IDR_START), Err(Error::H264(h264::Error::Sps(_)))));
    assert!(track.depacketizer.needs_key_frame());
}

#[test]
fn fragments_that_do_not_belong_together() {
    for second in [&[0x5C, 0x81, 9][..], &[0x5C, 0x45, 9], &[0x3C, 0x41, 9], P_START] {
        let mut track = Track::new();
        track.key_frame(0);
        track.push(3000, false, &[0x5C, 0x81, 0x9A, 1]).unwrap();
        assert_eq!(track.push(3000, true, second).unwrap_err(), Error::Fragment);
    }
    // the end never comes
    let mut track = Track::new();
    track.key_frame(0);
    assert!(track.push(3000, true, &[0x5C, 0x81, 0x9A, 1]).unwrap().is_none());
    assert_eq!(track.depacketizer.counts().broken, 1);
}

#[test]
fn a_frame_is_bounded() {
    let mut track = Track::new();
    track.key_frame(0);
    let mut piece = vec![7; 60_000];
    piece[..3].copy_from_slice(&[0x5C, 0x81, 0x9A]);
    track.push(3000, false, &piece).unwrap();
    piece[1] = 0x01;
    let error = (0..100).find_map(|_| track.push(3000, false, &piece).err());
    assert_eq!(error, Some(Error::H264(h264::Error::FrameLong)));
    let held = track.depacketizer.frame.as_ref().map_or(0, |frame| frame.data.capacity());
    assert!(held <= 2 * FRAME_LEN_MAX);
}

/// What comes of four frames in pieces of 64 bytes, without those: an IDR, two that others refer to, and between them one that none does.
fn of_pieces(lost: &[u64]) -> (Vec<i64>, Result<(), Error>) {
    let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
    let config = Arc::new(TrackConfig::H264(config));
    let frames = [(true, false), (false, false), (false, true), (false, false)];
    let frames = frames.iter().enumerate().map(|(at, (key, b))| frame(&config, at, *key, *b, &[100, 20]));
    let (mut depacketizer, mut seq, mut came, mut errors) =
        (Depacketizer::of_pieces(), 0, Vec::new(), Ok(()));
    for frame in frames {
        let mut payloads = Vec::new();
        pieces(&frame, 64, 0, &mut payloads);
        for payload in payloads {
            seq += 1;
            let packet = payload.packet(&frame, seq, frame.pts);
            if !lost.contains(&seq) {
                match depacketizer.push(&packet) {
                    Ok(unit) => came.extend(unit.into_iter().map(|unit| unit.timestamp / 3_600)),
                    Err(why) => errors = Err(why),
                }
            }
        }
    }
    (came, errors)
}

#[test]
fn pieces_that_are_missing_hurt_their_frame_and_what_refers_to_it() {
    // Three packets each: the IDR's are 1 to 3.
    assert_eq!(of_pieces(&[]), (vec![0, 1, 2, 3], Ok(())));
    for (lost, left) in [
        (&[1][..], &[][..]),
        (&[2], &[]),
        (&[5], &[0]),
        (&[8], &[0, 1, 3]),
        (&[9], &[0, 1]),
        (&[7], &[0, 1]),
        (&[4, 6], &[0]),
        (&[12], &[0, 1, 2]),
    ] {
        assert_eq!(of_pieces(lost), (left.to_vec(), Ok(())), "without {lost:?}");
    }
}

#[test]
fn pieces_that_are_no_frame_are_refused() {
    let mut track = Track::new();
    track.depacketizer = Depacketizer::of_pieces();
    let whole = [&avcc(&[SPS_MAIN_QCIF, PPS_MAIN])[..], &avcc(&[IDR_START])].concat();
    assert!(track.push(3_000, true, &whole).unwrap().is_some_and(|unit| unit.key && unit.config.is_some()));
    let long = [&avcc(&[P_START])[..], &[0, 0, 0, 9, 0x41]].concat();
    assert_eq!(track.push(6_000, true, &long).unwrap_err(), Error::Truncated("NAL unit"));
    assert!(track.depacketizer.needs_key_frame());
    let piece = vec![7; 60_000];
    let error = (0..200).find_map(|_| track.push(9_000, false, &piece).err());
    assert_eq!(error, Some(Error::H264(h264::Error::FrameLong)));
}

/// A frame of slices whose lengths are given: IDR or P, or a B that no frame refers to.
fn frame(config: &Arc<TrackConfig>, index: usize, key: bool, discardable: bool, slices: &[usize]) -> Frame {
    let mut nals = Vec::new();
    for (number, len) in slices.iter().enumerate() {
        let header = if key {
            0x65
        } else if discardable {
            0x01
        } else {
            0x41
        };
        // first_mb_in_slice 0, then 1
        let first = if number == 0 { 0x9A } else { 0x4D };
        let body = (0..*len).map(|at| (at * 31 + index * 7 + number) as u8 | 1);
        nals.push([header, first].into_iter().chain(body).collect::<Vec<u8>>());
    }
    let nals: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
    let time = Time::from_ms(index as i64 * 40);
    let discardable = discardable && !key;
    Frame { config: config.clone(), dts: time, pts: time, key, discardable, data: avcc(&nals) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Frames through packets, some of which are lost: without loss all frames come back; with loss only whole ones, and
    /// each with all that it refers to.
    #[test]
    fn packetize_and_back(
        shapes in prop::collection::vec(
            (0_u8..8, any::<bool>(), prop::collection::vec(0_usize..700, 1..4)), 1..30),
        len_max in 64_usize..400,
        lost in prop::collection::vec(0_usize..200, 0..6),
        in_pieces in any::<bool>(),
    ) {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let config = Arc::new(TrackConfig::H264(config));
        let frames: Vec<Frame> = shapes
            .iter()
            .enumerate()
            .map(|(index, (kind, b, slices))| frame(&config, index, index == 0 || *kind == 0, *b, slices))
            .collect();

        let mut depacketizer = if in_pieces { Depacketizer::of_pieces() } else { Depacketizer::new() };
        let mut units = Vec::new();
        let mut frames_hurt = std::collections::BTreeSet::new();
        let mut seq = 0;
        for (index, frame) in frames.iter().enumerate() {
            let mut payloads = Vec::new();
            if in_pieces {
                pieces(frame, len_max, 30, &mut payloads);
            } else {
                packetize(frame, len_max, &mut payloads);
            }
            prop_assert_eq!(payloads.iter().filter(|payload| payload.marker).count(), 1);
            for payload in payloads {
                prop_assert!(payload.bytes.len() <= len_max);
                let key_start = in_pieces || crate::payload::key_start(Codec::H264, &payload.bytes);
                prop_assert!(key_start || !payload.key_start);
                seq += 1;
                if lost.contains(&seq) {
                    frames_hurt.insert(index);
                    continue;
                }
                let packet = payload.packet(frame, seq as u64, frame.pts);
                units.extend(depacketizer.push(&packet).unwrap());
                units.extend(depacketizer.poll());
            }
        }

        let mut decoded = vec![false; frames.len()];
        for unit in &units {
            let index = frames.iter().position(|frame| frame.pts.ticks(90_000) == unit.timestamp).unwrap();
            let frame = &frames[index];
            prop_assert_eq!(&unit.data, &frame.data, "frame {} is not what was sent", index);
            prop_assert_eq!((unit.key, unit.discardable), (frame.key, frame.discardable));
            let key_at = frames[..=index].iter().rposition(|frame| frame.key).unwrap();
            let references = (key_at..index).filter(|at| !frames[*at].discardable);
            prop_assert!(references.clone().all(|at| decoded[at]), "frame {} lacks a reference", index);
            decoded[index] = true;
        }
        if frames_hurt.is_empty() {
            prop_assert_eq!(units.len(), frames.len());
            prop_assert!(units[0].config.is_some() && units[1..].iter().all(|unit| unit.config.is_none()));
        }
        // a whole key frame after whole parameter sets is never dropped
        for (index, frame) in frames.iter().enumerate() {
            prop_assert!(!frame.key || frames_hurt.contains(&index) || decoded[index], "key frame {}", index);
        }
    }

    #[test]
    fn arbitrary_packets_never_panic(
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..30), 0_u8..32, 0_u64..4, 0_i64..4, any::<bool>(), 0_u8..20), 0..60),
        in_pieces in any::<bool>(),
    ) {
        let mut depacketizer = if in_pieces { Depacketizer::of_pieces() } else { Depacketizer::new() };
        let mut track = Track::new();
        depacketizer.parameter_set(SPS_MAIN_QCIF).unwrap();
        depacketizer.parameter_set(PPS_MAIN).unwrap();
        for (mut payload, kind, skip, timestamp, marker, fresh) in packets {
            if let Some(header) = payload.first_mut() {
                *header = (*header & 0xE0) | kind;
            }
            track.seq = (track.seq + skip).saturating_sub(1);
            let packet = Packet { fresh_source: fresh == 0, ..track.packet(timestamp, marker, &payload) };
            let _ = depacketizer.push(&packet);
            prop_assert!(depacketizer.ready.len() <= 2);
        }
    }
}
