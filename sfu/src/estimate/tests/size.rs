//! Memory of one subscriber.

use media::Time;

use crate::estimate::Estimator;

#[test]
fn a_subscriber_of_300_packets_a_second_has_3_kib() {
    let mut estimator = Estimator::new(Time::ZERO);
    // A minute, described 40 ms after each 20th packet.
    super::acknowledge(&mut estimator, Time::ZERO, 60 * 300, 1_000_000 / 300);
    let heard = size_of::<Estimator>() + estimator.outgoing.history.heap_bytes();
    println!("{} bytes, and {heard} with what is on the way", size_of::<Estimator>());
    assert!(heard <= 2560, "{heard}");
    // Nobody answers: bounded low.
    let mut estimator = Estimator::new(Time::ZERO);
    for n in 0..18_000 {
        estimator.on_sent(1200, None, Time(n * 3_333));
    }
    let unheard = size_of::<Estimator>() + estimator.outgoing.history.heap_bytes();
    println!("{unheard} without feedback");
    assert!(unheard <= 8192, "{unheard}");
}
