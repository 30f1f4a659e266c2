//! Chromium behind a bad network: the link emulator between it and the node. What its getStats says, and the node's own figures.
//! Bounds are on shares and counts; those on time leave room for a machine that others use, too.
mod bed;

use bed::{Bed, Watched, delay, lossy};
use link::emulator::Side;
use link::{Config, Loss};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::wait::alone;
use support::{need, until};

/// An encoder on a busy machine needs so long to come to its rate, or to its third encoding.
const ARRIVES: Duration = Duration::from_secs(120);
/// A page publishes this much, of noise: what it cannot say with less.
const PAGE_BPS: f64 = 2_000_000.0;

/// Of the RTMP source, in seconds.
const GOP_S: u32 = 4;

/// One picture of [`PAGE_BPS`], without sound, which is not repaired and would be among the lost.
fn noise(codec: &str) -> Value {
    json!({"codec": codec, "noise": true, "audio": false, "bitrate": PAGE_BPS})
}

/// Waits until the publisher sends what it was asked to.
fn wait_for_rate(bed: &Bed) {
    until("the encoder is at its rate", ARRIVES, || {
        bed.rtc()["estimate"]["needs_bps"].as_f64().filter(|bps| *bps > 0.75 * PAGE_BPS)
    });
}

/// What the viewer got of what the publisher's page encoded meanwhile.
fn decoded_share(watched: &Watched) -> f64 {
    watched.share("page/video/framesDecoded", "publisher/sentVideo/framesSent")
}

fn is_between(what: &str, value: f64, least: f64, most: f64) {
    assert!((least..=most).contains(&value), "{what}: {value:.4}, not {least} to {most}");
}

/// The viewer's round trip, by its own checks and by the node's clocks.
fn round_trip_is(watched: &Watched, ms: f64) {
    is_between("the page's round trip", watched.is("page/rtt") * 1_000.0, ms, 3.0 * ms);
    is_between("the node's round trip", watched.is("play/rtt_ms"), ms, 3.0 * ms);
}

/// What the path lost came again, and the picture went on.
fn picture_goes_on(bed: &mut Bed, watched: &Watched, repaired_most: f64) {
    let lost = watched.grew("page/video/packetsLost");
    let again = watched.grew("page/video/retransmittedPacketsReceived") - watched.grew("play/probe_copies");
    // a packet may be on the way at either end of the time, and one that is asked for twice comes twice
    is_between("repaired, of what was lost", again / lost, 0.85, repaired_most);
    is_between(
        "missed, of what was asked for",
        watched.share("play/nacks_missed", "play/nacks_in"),
        0.0,
        0.02,
    );
    is_between("sent again, of all", watched.share("play/resent", "play/packets_out"), 0.0, 0.08);
    is_between("decoded, of all frames", decoded_share(watched), 0.95, 1.05);
    is_between("dropped frames", watched.grew("page/video/framesDropped"), 0.0, 10.0);
    is_between("key frames asked for", watched.grew("page/video/pliCount"), 0.0, 2.0);
    // What is lost twice comes after two round trips, and Chromium's buffer holds about one: that is a short freeze.
    is_between("the longest gap", watched.gap_s(), 0.0, 1.5);
    is_between(
        "frozen, of the time",
        watched.grew("page/video/totalFreezesDuration") / watched.seconds,
        0.0,
        0.25,
    );
    // Loss by chance is no lack of bandwidth.
    is_between("frames left out", watched.grew("play/frames_congested"), 0.0, 0.0);
    let least = watched.each_second("estimate_bps").into_iter().fold(f64::INFINITY, f64::min);
    is_between("the least estimate", least, PAGE_BPS, f64::INFINITY);
    assert_eq!(bed.page()["connection"], "connected");
}

#[test]
fn a_viewer_on_a_path_that_loses_five_percent() {
    need!(Link, Browser);
    let _lane = alone();
    let mut bed = Bed::of_page(lossy(50, 50), lossy(50, 50), Side::A, noise("H264"));
    wait_for_rate(&bed);
    let watched = bed.watch(10);
    watched.print("5 % loss each way, 100 ms");
    round_trip_is(&watched, 100.0);
    is_between("lost on the path", watched.share("to_b/lost", "to_b/packets"), 0.035, 0.065);
    assert!(watched.grew("to_a/lost") >= 3.0, "feedback is lost as well");
    picture_goes_on(&mut bed, &watched, 1.3);
    bed.assert_well();
}

#[test]
fn a_viewer_on_a_path_that_loses_in_bursts() {
    need!(Link, Browser);
    let _lane = alone();
    let bursts = Config { loss: Loss::Bursts { per_mille: 20, mean_packets: 8 }, ..delay(50) };
    let mut bed = Bed::of_page(bursts, delay(50), Side::A, noise("VP8"));
    wait_for_rate(&bed);
    let watched = bed.watch_from_calm_to_calm(10);
    watched.print("bursts of 8, 2 % in all, 100 ms");
    round_trip_is(&watched, 100.0);
    is_between("lost on the path", watched.share("to_b/lost", "to_b/packets"), 0.005, 0.05);
    // Half a dozen bursts: Chromium asks again after a round trip, and when that crosses the answer the whole burst comes twice.
    picture_goes_on(&mut bed, &watched, 1.7);
    bed.assert_well();
}

/// The estimate of a path by what Chromium says in its feedback: what is lost by chance, without a queue, is no sign of a narrow one.
#[test]
fn chance_loss_costs_a_viewer_no_estimate() {
    need!(Link, Browser, Ffmpeg);
    let _lane = alone();
    let mut bed = Bed::of_rtmp(lossy(25, 20), delay(25), GOP_S);
    // Probes go up to twice what the source sends. What delay allows is the measure: loss is in the estimate from its first second.
    let before = until("delay allows well above the source's rate", ARRIVES, || {
        let estimate = &bed.rtc()["estimate"];
        let needs_bps = estimate["needs_bps"].as_f64()?;
        estimate["delay_bps"].as_f64().filter(|bps| *bps > 1.5 * needs_bps)
    });
    let watched = bed.watch(10);
    watched.print("2 % loss, 50 ms");
    round_trip_is(&watched, 50.0);
    is_between("lost on the path", watched.share("to_b/lost", "to_b/packets"), 0.01, 0.035);
    assert_eq!(watched.grew("to_b/queue_full"), 0.0);
    let least = watched.each_second("estimate_bps").into_iter().fold(f64::INFINITY, f64::min);
    println!("estimate: delay allowed {before} bit/s before, {least} at least");
    is_between("the least estimate, of that before", least / before, 0.85, 2.0);
    for bps in watched.each_second("estimate/loss_bps") {
        is_between("what loss allows, of the estimate before", bps / before, 0.85, f64::INFINITY);
    }
    is_between("frames left out", watched.grew("play/frames_congested"), 0.0, 0.0);
    is_between("decoded a second", watched.grew("page/video/framesDecoded") / watched.seconds, 20.0, 40.0);
    bed.assert_well();
}

/// One encoding, of RTMP, and nothing in it that others do without: between key frames it is all or nothing.
#[test]
fn a_narrow_path_costs_a_viewer_of_rtmp_frames_and_no_sound() {
    need!(Link, Browser, Ffmpeg);
    let _lane = alone();
    let mut bed = Bed::of_rtmp(delay(20), delay(20), GOP_S);
    bed.set_to_b(Config { rate_bps: Some(1_200_000), queue_us: 500_000, ..delay(20) });
    until("the path is seen to be narrow", ARRIVES, || {
        bed.rtc()["estimate"]["limited"].as_bool().filter(|limited| *limited)
    });
    let watched = bed.watch(12);
    watched.print("2 Mbit/s of RTMP on 1.2 Mbit/s");
    let frames = watched.seconds * 30.0;
    is_between("left out, of all frames", watched.grew("play/frames_congested") / frames, 0.2, 0.95);
    is_between("decoded, of all frames", watched.grew("page/video/framesDecoded") / frames, 0.05, 0.8);
    is_between("dropped frames", watched.grew("page/video/framesDropped"), 0.0, 10.0);
    // Three GOPs, and each of them is begun.
    is_between("key frames decoded", watched.grew("page/video/keyFramesDecoded"), 2.0, 6.0);
    // 50 packets a second
    let sound = watched.grew("page/audio/packetsReceived") / (watched.seconds * 50.0);
    is_between("sound received", sound, 0.9, 1.1);
    let lost = watched.grew("page/audio/packetsLost");
    is_between("sound lost", lost / (watched.seconds * 50.0), 0.0, 0.03);
    let concealed = watched.share("page/audio/concealedSamples", "page/audio/totalSamplesReceived");
    println!(
        "sound: {:.1} % received, {lost} packets lost, {:.1} % concealed",
        sound * 100.0,
        concealed * 100.0
    );
    is_between("sound concealed", concealed, 0.0, 0.1);
    bed.assert_well();
}

#[test]
fn a_publisher_whose_uplink_loses_five_percent() {
    need!(Link, Browser);
    let _lane = alone();
    let mut bed = Bed::of_page(delay(30), lossy(30, 50), Side::B, noise("VP8"));
    let watched = bed.watch(10);
    watched.print("5 % loss of a publisher, 60 ms");
    let rtt_ms = watched.is("publish/rtt_ms");
    is_between("the publisher's round trip", rtt_ms, 60.0, 180.0);
    is_between("lost on the path", watched.share("to_a/lost", "to_a/packets"), 0.03, 0.07);
    let [packets, asked, lost] =
        ["packets_in", "nacks_out", "lost"].map(|name| watched.grew(&format!("publish/{name}")));
    println!("{packets} packets came, {asked} asked for again, {lost} lost for good; {rtt_ms} ms");
    is_between("asked for again, of all", asked / packets, 0.025, 0.1);
    is_between("lost for good, of all", lost / packets, 0.0, 0.001);
    is_between("decoded, of all frames", decoded_share(&watched), 0.95, 1.05);
    is_between("key frames asked for", watched.grew("publish/plis_out"), 0.0, 1.0);
    is_between("the longest gap", watched.gap_s(), 0.0, 1.5);
    bed.assert_well();
}

/// A queue that a viewer notices.
const QUEUE_MS: i64 = 200;

/// Noise of 960x540 in three encodings: a path of 4 Mbit/s takes the best, one of 1 Mbit/s the middle one.
fn encodings() -> Value {
    json!({"codec": "VP8", "width": 960, "height": 540, "noise": true, "encodings": [
        {"rid": "q", "scaleResolutionDownBy": 4, "maxBitrate": 150_000},
        {"rid": "h", "scaleResolutionDownBy": 2, "maxBitrate": 500_000},
        {"rid": "f", "maxBitrate": PAGE_BPS},
    ]})
}

#[test]
fn a_path_that_narrows_and_widens_changes_the_layer() {
    need!(Link, Browser);
    let _lane = alone();
    let down = |bps: u64| Config { rate_bps: Some(bps), queue_us: 500_000, ..delay(20) };
    let mut bed = Bed::of_page(down(4_000_000), delay(20), Side::A, encodings());
    let mut settled = None;
    until("the best has come to stay, and is more than the narrow path takes", ARRIVES, || {
        let rtc = bed.rtc();
        let full = rtc["estimate"]["needs_bps"].as_f64() > Some(0.75 * PAGE_BPS);
        let best = full && rtc["layer"]["reason"] == "best" && bed.page()["video"]["frameHeight"] == 540;
        let since = *settled.get_or_insert_with(Instant::now);
        settled = settled.filter(|_| best);
        (best && since.elapsed() > Duration::from_secs(3)).then_some(())
    });
    let mut queue_ms: Vec<i64> = Vec::new();
    // A machine that others use needs longer: to see that, and to decode it.
    for (bps, height, seconds, goal_s, most_s) in
        [(1_000_000, 270, 7, 2, 5.0), (4_000_000, 540, 30, 10, 25.0)]
    {
        bed.set_to_b(down(bps));
        let there = |watched: &Watched| {
            watched.height_after(height).is_some_and(|at| bps > 1_000_000 && watched.seconds > at + 2.0)
        };
        let watched = bed.watch_until(seconds, there);
        watched.print(&format!("{bps} bit/s"));
        let took = watched.height_after(height).unwrap_or(f64::INFINITY);
        println!("height {height} after {took:.1} s; the goal is {goal_s} s");
        is_between("seconds to the right layer", took, 0.0, most_s);
        is_between("the longest gap", watched.gap_s(), 0.0, 2.0);
        queue_ms.extend(&watched.queue_ms);
    }
    // Milliseconds of the path's queue, looked at 20 times a second.
    queue_ms.sort_unstable();
    let long_s = queue_ms.iter().filter(|ms| **ms > QUEUE_MS).count() as f64 * 0.05;
    let most_ms = queue_ms[queue_ms.len() - 1];
    println!(
        "the path's queue: p95 {} ms, {most_ms} at most, over {QUEUE_MS} for {long_s:.1} s",
        queue_ms[queue_ms.len() * 95 / 100]
    );
    is_between("seconds with a long queue", long_s, 0.0, 2.0);
    bed.assert_well();
}
