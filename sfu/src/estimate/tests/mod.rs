//! The estimator against a model of a link and the receiver that the node itself has.

mod differential;
mod hostile;
mod links;
mod plain;
mod reports;
mod size;
mod world;

use media::Time;
use rtc::rtcp::twcc::feedback_packet;
use rtc::rtcp::{Event, parse};

use super::Estimator;

/// Feedback that describes `received`, ascending extended numbers with arrivals in microseconds.
fn feedback(base: u64, received: &[(u64, i64)]) -> Vec<u8> {
    let mut compound = Vec::new();
    feedback_packet(&mut compound, 1, 2, 0, base, received);
    let mut fci = Vec::new();
    if !compound.is_empty() {
        parse(&compound, |event| {
            if let Event::Twcc { fci: bytes } = event {
                fci = bytes.to_vec();
            }
        })
        .unwrap();
    }
    fci
}

/// Sends and acknowledges `packets` of 1200 bytes, one each `step_us`, described by 20.
fn acknowledge(estimator: &mut Estimator, from: Time, packets: u64, step_us: i64) -> Time {
    let mut now = from;
    let mut received = Vec::new();
    let mut extended = None;
    for _ in 0..packets {
        now = now.plus_us(step_us);
        let seq = u64::from(estimator.on_sent(1200, None, now));
        let seq = extended.map_or(seq, |last: u64| last + 1);
        extended = Some(seq);
        received.push((seq, now.us() + 20_000));
        if received.len() == 20 {
            let fci = feedback(received[0].0, &received);
            estimator.on_feedback(&fci, now.plus_us(40_000), |_, _| {}).unwrap();
            received.clear();
        }
    }
    now
}
