//! Whole conversions: a source of beeps at known times goes through, and the beeps must come out at those
//! times, measured on the output's own time stamps with an independent decode.

use std::f64::consts::TAU;
use std::sync::Arc;

use bytes::Bytes;
use media::{AudioConfig, Frame, Time, TrackConfig};
use proptest::prelude::*;

use super::*;

/// Source time of sample 0 in all tests, so that no stamp is negative by chance.
const BASE_MS: i64 = 1_000;

/// Beeps of 20 ms at 1 kHz, centred on 0.25 s, 0.75 s, 1.25 s, and so on; left and right have the same.
fn beeps(rate: u32, seconds: f64, channels: usize) -> Vec<Vec<f32>> {
    let plane: Vec<f32> = (0..(seconds * f64::from(rate)) as usize)
        .map(|i| {
            let from_centre = (i as f64 / f64::from(rate) + 0.25).rem_euclid(0.5) - 0.25 + 0.25;
            let from_centre = if from_centre > 0.25 { from_centre - 0.5 } else { from_centre };
            let window =
                if from_centre.abs() < 0.01 { (TAU * from_centre / 0.04).cos().powi(2) } else { 0.0 };
            (0.7 * window * (TAU * 1_000.0 * from_centre).sin()) as f32
        })
        .collect();
    vec![plane; channels]
}

/// Where the beep near `at` is, as the centre of its energy; `samples` start at `start` (all in seconds).
fn beep_at(samples: &[f32], rate: f64, start: f64, at: f64) -> f64 {
    let (mut energy, mut moment) = (0.0, 0.0);
    for (i, &x) in samples.iter().enumerate() {
        let t = start + i as f64 / rate;
        if (t - at).abs() < 0.06 {
            energy += f64::from(x * x);
            moment += f64::from(x * x) * t;
        }
    }
    assert!(energy > 5.0, "no beep near {at}: energy {energy}");
    moment / energy
}

fn audio(asc: &[u8], object_type: u8, sample_rate_hz: u32, channels: u8) -> Arc<TrackConfig> {
    let asc = Bytes::copy_from_slice(asc);
    Arc::new(TrackConfig::Aac(AudioConfig { asc, object_type, sample_rate_hz, channels }))
}

/// Access units as an RTMP publisher sends them: stamps in whole milliseconds, of the first sample decoded.
fn publish(planes: &[Vec<f32>], rate: u32, options: &syom::EncodeOptions) -> Vec<Frame> {
    let mut encoder = syom::Encoder::new(rate, planes.len(), options).unwrap();
    let (object_type, core_rate, unit, priming) = match (options.he, options.ps) {
        (false, _) => (2, rate, 1024, 1024),
        (true, ps) => (if ps { 29 } else { 5 }, rate / 2, 2048, 3018),
    };
    let config = audio(encoder.asc(), object_type, core_rate, planes.len() as u8);
    let mut frames = Vec::new();
    let refs: Vec<&[f32]> = planes.iter().map(|p| &p[..]).collect();
    encoder
        .feed(&refs, |unit_out| {
            let first = frames.len() as i64 * unit - priming;
            let pts = Time::from_ms((first as f64 * 1e3 / f64::from(rate)).round() as i64 + BASE_MS);
            let (config, data) = (Arc::clone(&config), Bytes::copy_from_slice(unit_out.payload));
            frames.push(Frame { config, dts: pts, pts, key: true, discardable: false, data });
            Ok(())
        })
        .unwrap();
    frames
}

fn to_opus(frames: &[Frame]) -> (Vec<OpusFrame>, AacToOpusStats) {
    let mut converter = AacToOpus::new(Arc::clone(&frames[0].config), 0).unwrap();
    let mut out = Vec::new();
    for frame in frames {
        converter.push(frame, &mut out).unwrap();
    }
    (out, converter.stats())
}

/// The left channel.
fn decode_opus(packets: &[OpusFrame]) -> Vec<f32> {
    let mut decoder = ropus::Decoder::new(48_000, ropus::Channels::Stereo).unwrap();
    let mut pcm = vec![0.0; 2 * 5_760];
    let mut out = Vec::new();
    for packet in packets {
        let samples = decoder.decode_float(&packet.data, &mut pcm, ropus::DecodeMode::Normal).unwrap();
        assert_eq!(samples as u32, packet.duration_samples);
        out.extend(pcm[..samples * 2].iter().step_by(2));
    }
    out
}

fn assert_continuous(packets: &[OpusFrame]) {
    for pair in packets.windows(2) {
        assert_eq!(pair[1].timestamp_48k - pair[0].timestamp_48k, 960);
    }
    for packet in packets {
        assert_eq!(packet.pts, Time::from_ticks(packet.timestamp_48k, 48_000));
    }
}

fn start_of(packets: &[OpusFrame]) -> f64 {
    packets[0].timestamp_48k as f64 / 48_000.0
}

fn signal_to_noise_db(signal: &[f32], heard: &[f32]) -> f64 {
    let power = |x: f32| f64::from(x) * f64::from(x);
    let noise: f64 = signal.iter().zip(heard).map(|(&s, &h)| power(s - h)).sum();
    10.0 * (signal.iter().map(|&s| power(s)).sum::<f64>() / noise.max(1e-12)).log10()
}

/// The shift in samples at which two sounds fit best, and how well.
fn best_shift(signal: &[f32], heard: &[f32], from: usize, len: usize) -> (i64, f64) {
    (-24_i64..=24)
        .map(|shift| {
            let at = (from as i64 + shift) as usize;
            (shift, signal_to_noise_db(&signal[from..from + len], &heard[at..at + len]))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap()
}

fn chord(i: usize, rate: f64) -> f32 {
    let t = i as f64 / rate;
    // A wandering chord: no shift but the true one fits.
    let wander = 1.0 + 0.3 * (TAU * 0.7 * t).sin();
    (0.2 * (TAU * 220.0 * t).sin()
        + 0.2 * wander * (TAU * 523.0 * t).sin()
        + 0.15 * (TAU * 1_370.0 * t).sin()) as f32
}

#[test]
fn aac_to_opus_keeps_time_at_every_rate_and_layout() {
    let lc = || syom::EncodeOptions::raw();
    let he = || lc().with_he(true).with_bitrate_bps(48_000);
    let he_v2 = || lc().with_he_v2(true).with_bitrate_bps(32_000);
    for (rate, channels, options, tolerance) in [
        (48_000, 2, lc(), 0.001),
        (44_100, 1, lc(), 0.001),
        (44_100, 2, lc(), 0.001),
        (22_050, 1, lc().with_bitrate_bps(48_000), 0.001),
        (48_000, 6, lc().with_bitrate_bps(256_000), 0.001),
        (48_000, 2, he(), 0.005),
        (44_100, 1, he().with_bitrate_bps(32_000), 0.005),
        (44_100, 2, he_v2(), 0.005),
    ] {
        let frames = publish(&beeps(rate, 2.5, channels), rate, &options);
        let (packets, stats) = to_opus(&frames);
        assert_eq!(stats, AacToOpusStats::default(), "{rate} Hz x{channels}");
        assert_continuous(&packets);
        let heard = decode_opus(&packets);
        for at in [1.25, 1.75, 2.25, 2.75, 3.25] {
            let off = beep_at(&heard, 48_000.0, start_of(&packets), at) - at;
            assert!(off.abs() < tolerance, "{rate} Hz x{channels}: beep at {at} is {off} s off");
        }
    }
}

#[test]
fn aac_to_opus_is_sample_exact() {
    for (rate, least_db) in [(48_000_u32, 15.0), (44_100, 15.0)] {
        let plane: Vec<f32> = (0..rate as usize * 2).map(|i| chord(i, f64::from(rate))).collect();
        let frames = publish(&[plane.clone(), plane], rate, &syom::EncodeOptions::raw());
        let (packets, _) = to_opus(&frames);
        let heard = decode_opus(&packets);
        // Sample 0 of the source is at BASE_MS, less what rounding the first stamp to a millisecond took or
        // gave.
        let exact_ms = BASE_MS as f64 - 1024.0 * 1e3 / f64::from(rate);
        let rounding = ((frames[0].pts.ms() as f64 - exact_ms) * 48.0).round() as i64;
        let lead = (BASE_MS * 48 + rounding - packets[0].timestamp_48k) as usize;
        let source: Vec<f32> = (0..90_000).map(|i| chord(i, 48_000.0)).collect();
        let (shift, db) = best_shift(&source, &heard[lead..], 24_000, 48_000);
        assert!(shift.abs() <= i64::from(rate != 48_000), "{rate} Hz: {shift} samples off");
        assert!(db > least_db, "{rate} Hz: {db:.1} dB");
    }
}

/// Stamps from frame 60 on are `shift_ms` later.
fn with_step(mut frames: Vec<Frame>, shift_ms: i64) -> Vec<Frame> {
    for frame in frames.iter_mut().skip(60) {
        frame.pts = frame.pts.plus_ms(shift_ms);
        frame.dts = frame.pts;
    }
    frames
}

#[test]
fn aac_to_opus_follows_holes_and_overlaps_of_the_source() {
    for rate in [48_000, 44_100] {
        for shift_ms in [200_i64, 900, -200, -500] {
            let frames = publish(&beeps(rate, 4.0, 2), rate, &syom::EncodeOptions::raw());
            let (packets, stats) = to_opus(&with_step(frames, shift_ms));
            assert_continuous(&packets);
            assert_eq!(stats.jumps, 0);
            let ms = (stats.silence_samples + stats.dropped_samples) as i64 / 48;
            assert!((ms - shift_ms.abs()).abs() <= 1, "{rate} Hz, {shift_ms} ms: {stats:?}");
            let heard = decode_opus(&packets);
            for at in [1.25, 2.75 + shift_ms as f64 / 1e3, 4.25 + shift_ms as f64 / 1e3] {
                let off = beep_at(&heard, 48_000.0, start_of(&packets), at) - at;
                assert!(off.abs() < 0.002, "{rate} Hz, {shift_ms} ms: beep at {at} is {off} s off");
            }
        }
    }
}

#[test]
fn aac_to_opus_jumps_over_ten_seconds_either_way() {
    for shift_ms in [10_000_i64, -10_000] {
        let frames = publish(&beeps(44_100, 4.0, 1), 44_100, &syom::EncodeOptions::raw());
        let (packets, stats) = to_opus(&with_step(frames, shift_ms));
        assert_eq!((stats.jumps, stats.silence_samples, stats.dropped_samples), (1, 0, 0));
        let jump =
            packets.windows(2).position(|p| p[1].timestamp_48k - p[0].timestamp_48k != 960).unwrap() + 1;
        let (before, after) = packets.split_at(jump);
        assert_continuous(before);
        assert_continuous(after);
        let at = 4.25 + shift_ms as f64 / 1e3;
        let off = beep_at(&decode_opus(after), 48_000.0, start_of(after), at) - at;
        assert!(off.abs() < 0.002, "{shift_ms} ms: {off} s off");
    }
}

#[test]
fn aac_to_opus_ignores_jitter_and_follows_drift() {
    // Stamps by a clock that jitters by 30 ms: not a single sample goes in or out.
    let mut frames = publish(&beeps(48_000, 3.0, 2), 48_000, &syom::EncodeOptions::raw());
    for (i, frame) in frames.iter_mut().enumerate() {
        frame.pts = frame.pts.plus_ms([0, 17, -13, 30, -4][i % 5]);
    }
    let (packets, stats) = to_opus(&frames);
    assert_continuous(&packets);
    assert_eq!(stats, AacToOpusStats::default());
    // A source that counts 2 % fast falls back by 40 ms each 2 s, and is never further off.
    for (i, frame) in frames.iter_mut().enumerate() {
        frame.pts = Time::from_ms(BASE_MS + (i as f64 * 1024.0 / 48.0 * 1.02) as i64);
    }
    let (packets, stats) = to_opus(&frames);
    assert_continuous(&packets);
    assert_eq!(stats.silence_samples / 1_920, 1, "{stats:?}");
}

#[test]
fn aac_to_opus_goes_on_through_a_change_of_format() {
    let mut frames = publish(&beeps(44_100, 2.0, 1), 44_100, &syom::EncodeOptions::raw());
    let later = publish(&beeps(48_000, 2.0, 2), 48_000, &syom::EncodeOptions::raw());
    frames.extend(later.into_iter().map(|mut frame| {
        frame.pts = frame.pts.plus_ms(2_000);
        frame
    }));
    let (packets, stats) = to_opus(&frames);
    assert_continuous(&packets);
    assert_eq!((stats.decode_failures, stats.jumps), (0, 0));
    // RFC 6716 section 3.1: bit 2 of the TOC byte is set for stereo.
    let stereo = |p: &OpusFrame| p.data[0] & 4 != 0;
    assert!(!stereo(&packets[10]) && stereo(&packets[packets.len() - 10]));
    let heard = decode_opus(&packets);
    for at in [1.75, 2.25, 3.75, 4.25] {
        let off = beep_at(&heard, 48_000.0, start_of(&packets), at) - at;
        assert!(off.abs() < 0.03, "beep at {at} is {off} s off");
    }
}

#[test]
fn aac_to_opus_replaces_broken_units_and_gives_up_on_a_broken_stream() {
    let good = publish(&beeps(48_000, 2.0, 2), 48_000, &syom::EncodeOptions::raw());
    let mut frames = good.clone();
    for i in [20, 21, 50] {
        frames[i].data = Bytes::from_static(b"\x00\xff");
    }
    frames[70].data = Bytes::new();
    let (packets, stats) = to_opus(&frames);
    assert_continuous(&packets);
    assert_eq!(stats.decode_failures, 4);
    assert_eq!(packets.len(), to_opus(&good).0.len());

    let mut converter = AacToOpus::new(Arc::clone(&good[0].config), 0).unwrap();
    let broken = Frame { data: Bytes::from_static(b"\x00\xff"), ..good[0].clone() };
    let mut out = Vec::new();
    let results: Vec<_> = (0..FAILURES_MAX).map(|_| converter.push(&broken, &mut out)).collect();
    assert!(results[..FAILURES_MAX as usize - 1].iter().all(Result::is_ok));
    assert!(matches!(results.last(), Some(Err(Error::Decode { count: FAILURES_MAX, .. }))));
}

#[test]
fn aac_to_opus_takes_stereo_that_was_announced_as_mono() {
    let frames = publish(&beeps(48_000, 2.0, 2), 48_000, &syom::EncodeOptions::raw());
    let mono = audio(&[0x11, 0x88], 2, 48_000, 1);
    let frames: Vec<Frame> =
        frames.into_iter().map(|frame| Frame { config: Arc::clone(&mono), ..frame }).collect();
    let (packets, stats) = to_opus(&frames);
    assert!(stats.decode_failures <= 3, "{stats:?}");
    let off = beep_at(&decode_opus(&packets), 48_000.0, start_of(&packets), 2.25) - 2.25;
    assert!(off.abs() < 0.002);
}

#[test]
fn a_configuration_nobody_decodes_is_refused() {
    assert!(matches!(AacToOpus::new(audio(&[], 2, 48_000, 2), 0), Err(Error::Config { object_type: 2, .. })));
    // USAC, object type 42
    let usac = audio(&[0xf9, 0x46, 0x40, 0x00], 42, 48_000, 2);
    assert!(matches!(AacToOpus::new(usac, 0), Err(Error::Config { object_type: 42, .. })));
}

/// How the sender in a test encodes.
#[derive(Clone, Copy, PartialEq)]
enum Sender {
    /// At a rate where the codec keeps the waveform (CELT).
    Music,
    /// At a rate for speech (SILK), every packet with or without the one before once more.
    Voice { fec: bool },
    /// Speech with pauses.
    Dtx,
}

/// One sender's packets: stamps are the capture time of the first sample put in, as a browser has them.
fn send(planes: &[Vec<f32>], samples: usize, sender: Sender) -> Vec<(Time, Vec<u8>)> {
    let layout = if planes.len() == 1 { ropus::Channels::Mono } else { ropus::Channels::Stereo };
    let (application, bps) = match sender {
        Sender::Music => (ropus::Application::Audio, 96_000),
        Sender::Voice { .. } | Sender::Dtx => (ropus::Application::Voip, 24_000),
    };
    let fec = sender == Sender::Voice { fec: true };
    let mut encoder = ropus::Encoder::builder(48_000, layout, application)
        .bitrate(ropus::Bitrate::Bits(bps))
        .inband_fec(if fec { ropus::InbandFec::Enabled } else { ropus::InbandFec::Disabled })
        .packet_loss_perc(if fec { 20 } else { 0 })
        .dtx(sender == Sender::Dtx)
        .build()
        .unwrap();
    let mut packets = Vec::new();
    for at in (0..=planes[0].len() - samples).step_by(samples) {
        let pcm: Vec<f32> =
            (at..at + samples).flat_map(|i| planes.iter().map(move |plane| plane[i])).collect();
        let mut buffer = [0; 4_000];
        let len = encoder.encode_float(&pcm, &mut buffer).unwrap();
        packets.push((Time::from_ticks(at as i64 + BASE_MS * 48, 48_000), buffer[..len].to_vec()));
    }
    packets
}

fn to_aac(packets: &[(Time, Vec<u8>)]) -> (Vec<Frame>, OpusToAacStats) {
    let mut converter = OpusToAac::new(0).unwrap();
    let mut out = Vec::new();
    for (pts, payload) in packets {
        converter.push(payload, *pts, &mut out).unwrap();
    }
    for pair in out.windows(2) {
        assert!(pair[0].dts < pair[1].dts);
    }
    assert!(
        out.iter().all(|frame| Arc::ptr_eq(&frame.config, &converter.config()) && frame.pts == frame.dts)
    );
    (out, converter.stats())
}

/// The left channel. symphonia decodes what syom encoded.
fn decode_aac(frames: &[Frame]) -> Vec<f32> {
    let TrackConfig::Aac(config) = &*frames[0].config else { panic!("not AAC") };
    let mut decoder = aac::Decoder::new(config).unwrap();
    let mut pcm = pcm::Pcm::new();
    let mut out = Vec::new();
    for frame in frames {
        decoder.decode(&frame.data, &mut pcm).unwrap();
        assert_eq!((pcm.rate_hz, pcm.channels, pcm.len()), (48_000, 2, 1_024));
        out.extend(pcm.samples.iter().step_by(2));
    }
    out
}

/// How far the beep near `at` is off, on the stamps of the units it is in.
fn beep_off(frames: &[Frame], at: f64) -> f64 {
    let heard = decode_aac(frames);
    let seconds = |time: Time| time.us() as f64 / 1e6;
    let unit = frames.partition_point(|frame| seconds(frame.pts) < at - 0.06).saturating_sub(1);
    beep_at(&heard[unit * 1024..], 48_000.0, seconds(frames[unit].pts), at) - at
}

#[test]
fn opus_to_aac_keeps_time_at_every_packet_length() {
    for (samples, channels) in
        [(120, 2), (240, 1), (480, 2), (960, 2), (960, 1), (1_920, 1), (2_880, 2), (5_760, 1)]
    {
        let (frames, stats) = to_aac(&send(&beeps(48_000, 2.5, channels), samples, Sender::Music));
        assert_eq!(stats, OpusToAacStats::default(), "{samples}");
        for pair in frames.windows(2) {
            let us = pair[1].pts.since(pair[0].pts);
            assert!((us - 21_333).abs() <= 2, "{us}");
        }
        for at in [1.25, 1.75, 2.25, 2.75] {
            let off = beep_off(&frames, at);
            assert!(off.abs() < 0.002, "{samples} x{channels}: beep at {at} is {off} s off");
        }
    }
}

#[test]
fn opus_to_aac_is_sample_exact() {
    let plane: Vec<f32> = (0..96_000).map(|i| chord(i, 48_000.0)).collect();
    let (frames, _) = to_aac(&send(&[plane.clone(), plane.clone()], 960, Sender::Music));
    let heard = decode_aac(&frames);
    let lead = Time(Time::from_ms(BASE_MS).since(frames[0].pts) + 10).ticks(48_000) as usize;
    let (shift, db) = best_shift(&plane, &heard[lead..], 24_000, 48_000);
    assert_eq!(shift, 0);
    assert!(db > 15.0, "{db:.1} dB");
}

#[test]
fn opus_to_aac_fills_losses() {
    let sent = send(&beeps(48_000, 4.0, 2), 960, Sender::Music);
    for (lost, concealed, silence) in
        [(20..21, 960, 0), (20..23, 2_880, 0), (20..26, 5_760, 0), (20..40, 5_760, 13_440)]
    {
        let kept: Vec<_> =
            sent.iter().enumerate().filter(|(i, _)| !lost.contains(i)).map(|(_, p)| p.clone()).collect();
        let (frames, stats) = to_aac(&kept);
        assert_eq!((stats.concealed_samples, stats.silence_samples, stats.jumps), (concealed, silence, 0));
        for at in [2.25, 4.25] {
            let off = beep_off(&frames, at);
            assert!(off.abs() < 0.002, "{lost:?}: beep at {at} is {off} s off");
        }
    }
}

#[test]
fn opus_to_aac_jumps_over_ten_seconds() {
    let mut sent = send(&beeps(48_000, 3.0, 2), 960, Sender::Music);
    for (pts, _) in sent.iter_mut().skip(80) {
        *pts = pts.plus_ms(10_000);
    }
    let (frames, stats) = to_aac(&sent);
    assert_eq!((stats.jumps, stats.silence_samples), (1, 0));
    let gap = frames.windows(2).map(|pair| pair[1].pts.since(pair[0].pts)).max().unwrap();
    assert!((9_900_000..10_050_000).contains(&gap), "{gap}");
    for at in [2.25, 13.25, 13.75] {
        let off = beep_off(&frames, at);
        assert!(off.abs() < 0.002, "beep at {at} is {off} s off");
    }
}

#[test]
fn opus_to_aac_slews_towards_a_corrected_clock() {
    // The sender report says that the sound was 100 ms older than its arrival said.
    let mut sent = send(&beeps(48_000, 6.0, 2), 960, Sender::Music);
    for (pts, _) in sent.iter_mut().skip(50) {
        *pts = pts.plus_ms(-100);
    }
    let (frames, stats) = to_aac(&sent);
    assert_eq!(stats, OpusToAacStats::default(), "no sound goes in or out");
    for pair in frames.windows(2) {
        let us = pair[1].pts.since(pair[0].pts);
        assert!((20_330..=22_336).contains(&us), "{us}");
    }
    for at in [5.15, 6.15] {
        let off = beep_off(&frames, at);
        assert!(off.abs() < 0.002, "beep at {at} is {off} s off");
    }
}

#[test]
fn opus_to_aac_never_goes_back() {
    let mut sent = send(&beeps(48_000, 4.0, 1), 960, Sender::Music);
    for (i, (pts, _)) in sent.iter_mut().enumerate() {
        *pts = match i {
            50..90 => pts.plus_ms(-10_000),
            90..120 => Time(i64::MIN),
            120..150 => Time(i64::MAX),
            _ => *pts,
        };
    }
    let mut converter = OpusToAac::new(0).unwrap();
    let mut out = Vec::new();
    for (pts, payload) in &sent {
        converter.push(payload, *pts, &mut out).unwrap();
    }
    assert!(out.windows(2).all(|pair| pair[0].dts <= pair[1].dts));
}

#[test]
fn opus_to_aac_uses_the_senders_fec() {
    // Sound begins in packet 51, which is lost: only the copy in packet 52 can tell.
    let plane: Vec<f32> = (0..72_000).map(|i| if i < 48_960 { 0.0 } else { chord(i, 48_000.0) }).collect();
    let energy = |fec: bool| {
        let mut sent = send(std::slice::from_ref(&plane), 960, Sender::Voice { fec });
        sent.remove(51);
        let (frames, stats) = to_aac(&sent);
        assert_eq!(stats.concealed_samples, 960);
        let lead = Time(Time::from_ms(BASE_MS).since(frames[0].pts) + 10).ticks(48_000) as usize;
        decode_aac(&frames)[lead + 48_960..][..960].iter().map(|x| x * x).sum::<f32>()
    };
    let (with, without) = (energy(true), energy(false));
    assert!(with > 5.0 && with > 3.0 * without, "{with} with FEC, {without} without");
}

#[test]
fn opus_to_aac_bridges_discontinuous_transmission() {
    // 2 s of sound, 3 s of nothing, 1 s of sound. What the encoder makes of a pause, packets of at most two
    // bytes, is not sent.
    let plane: Vec<f32> =
        (0..288_000).map(|i| if (96_000..240_000).contains(&i) { 0.0 } else { chord(i, 48_000.0) }).collect();
    let sent = send(&[plane], 960, Sender::Dtx);
    let last = sent.last().unwrap().0;
    let kept: Vec<_> = sent.iter().filter(|(_, payload)| payload.len() > 2).cloned().collect();
    assert!(kept.len() < sent.len() - 100, "the encoder paused: {} of {}", kept.len(), sent.len());
    let (frames, stats) = to_aac(&kept);
    assert_eq!(stats.jumps, 0);
    // As many units as the time takes, and each of them where it belongs.
    let seconds = frames.len() as f64 * 1_024.0 / 48_000.0;
    assert!((seconds - 6.0).abs() < 0.05, "{seconds}");
    assert!(last.since(frames.last().unwrap().pts).abs() < 60_000);
    let heard = decode_aac(&frames);
    let rms = |from: usize| (heard[from..from + 24_000].iter().map(|x| x * x).sum::<f32>() / 24_000.0).sqrt();
    assert!(rms(48_000) > 0.1 && rms(144_000) < 0.01 && rms(260_000) > 0.1);
}

#[test]
fn opus_to_aac_conceals_broken_packets_and_gives_up_on_a_broken_stream() {
    let mut sent = send(&beeps(48_000, 3.0, 2), 960, Sender::Music);
    for i in [30, 31, 60] {
        // RFC 6716 section 3.2.5: code 3 without a frame count
        sent[i].1 = vec![0xff];
    }
    sent[70].1.clear();
    let (frames, stats) = to_aac(&sent);
    assert_eq!((stats.decode_failures, stats.concealed_samples), (4, 4 * 960));
    assert!(beep_off(&frames, 3.25).abs() < 0.002);

    let mut converter = OpusToAac::new(0).unwrap();
    let results: Vec<_> =
        (0..FAILURES_MAX).map(|_| converter.push(&[0xff], Time::ZERO, &mut Vec::new())).collect();
    assert!(matches!(results.last(), Some(Err(Error::Decode { count: FAILURES_MAX, .. }))));
    assert_eq!(results.iter().filter(|r| r.is_err()).count(), 1);
}

#[test]
fn same_input_same_output() {
    let frames = publish(&beeps(44_100, 1.0, 2), 44_100, &syom::EncodeOptions::raw());
    assert_eq!(to_opus(&frames), to_opus(&frames));
    let sent = send(&beeps(48_000, 1.0, 2), 960, Sender::Music);
    let data = |frames: Vec<Frame>| frames.into_iter().map(|f| (f.pts, f.data)).collect::<Vec<_>>();
    assert_eq!(data(to_aac(&sent).0), data(to_aac(&sent).0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes, any times, any configuration: an error or a bounded amount of output.
    #[test]
    fn arbitrary_aac_never_panics(
        asc in prop::collection::vec(any::<u8>(), 0..8),
        units in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..600), any::<i64>()), 1..6),
        known in any::<bool>(),
    ) {
        let config = if known { audio(&[0x11, 0x90], 2, 48_000, 2) } else { audio(&asc, 2, 48_000, 2) };
        if let Ok(mut converter) = AacToOpus::new(Arc::clone(&config), 0) {
            let mut out = Vec::new();
            for (data, pts) in &units {
                let (config, data, pts) = (Arc::clone(&config), Bytes::copy_from_slice(data), Time(*pts));
                let frame = Frame { config, dts: pts, pts, key: true, discardable: false, data };
                let before = out.len();
                let _ = converter.push(&frame, &mut out);
                prop_assert!(out.len() - before < 100);
            }
        }
    }

    #[test]
    fn arbitrary_opus_never_panics(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..400), -2_000_000..2_000_000_i64), 1..10),
    ) {
        let mut converter = OpusToAac::new(0).unwrap();
        let mut out = Vec::new();
        for (payload, pts_us) in &packets {
            let before = out.len();
            let _ = converter.push(payload, Time(*pts_us), &mut out);
            prop_assert!(out.len() - before < 100);
        }
        prop_assert!(out.windows(2).all(|pair| pair[0].dts <= pair[1].dts));
    }
}
