//! Which frames a subscriber gets when its link takes fewer than there are, beside the choice of layers: whole ones. Of a source without
//! temporal layers frames that no other refers to are left out first. Of any source all up to the next key frame are, when they are too old.

use media::{Packet, Time};
use metrics::DropReason;

/// What waits longer than this is not worth waiting for: with what is on the link it is what a receiver's jitter buffer grows to.
const QUEUE_US_MAX: i64 = 400_000;
/// Of a source with temporal layers only the base goes on when it has waited so long: the queue is gone before a key frame is needed.
const QUEUE_BASE_US: i64 = 200_000;

/// What a forwarder lets through.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Gate {
    /// All frames.
    #[default]
    Open,
    /// Those that others refer to.
    References,
    /// The next key frame.
    KeyFrame,
}

/// What the link takes, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// No less than is sent.
    Wide,
    /// What the source sends, and hardly more: a catch-up fills it.
    Full,
    /// Less than the source sends.
    Limited,
}

/// Whether a packet has waited so long that nothing goes that may be left out.
pub(crate) fn is_late(packet: &Packet, now: Time) -> bool {
    now.since(packet.arrival) > QUEUE_BASE_US
}

/// Whether all that follows can do without the frame that begins with `packet`. A key frame is where a decoder begins, whatever it says of
/// itself.
pub(crate) fn may_be_missed(packet: &Packet) -> bool {
    packet.discardable && !packet.key_start
}

impl Gate {
    /// Whether the frame that begins with `packet` is left out, and why. `newer_key`: a later key frame waits too. `limited`: the link takes
    /// less than the source sends.
    pub(crate) fn refuses(
        &mut self,
        packet: &Packet,
        newer_key: bool,
        limited: bool,
        now: Time,
    ) -> Option<DropReason> {
        let too_old = now.since(packet.arrival) > QUEUE_US_MAX;
        *self = match *self {
            _ if packet.key_start && !(too_old && newer_key) => Gate::Open,
            Gate::KeyFrame => Gate::KeyFrame,
            _ if too_old => Gate::KeyFrame,
            _ => Gate::Open,
        };
        if *self == Gate::Open && limited {
            *self = Gate::References;
        }
        match self {
            Gate::KeyFrame => Some(DropReason::CongestedToKeyFrame),
            // Which temporal layers the link takes was chosen.
            Gate::References if may_be_missed(packet) && packet.temporal.id == 0 => {
                Some(DropReason::CongestedDiscardable)
            }
            Gate::References | Gate::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use media::Temporal;

    use super::*;
    use crate::ring::tests::packet;

    #[test]
    fn references_are_kept_longer_than_the_rest_and_then_a_key_frame_is_waited_for() {
        let mut gate = Gate::Open;
        let at = Time::from_ms;
        let discardable = |ms| Packet { discardable: true, ..packet(1, ms, false) };
        assert_eq!(gate.refuses(&discardable(0), false, false, at(399)), None);
        assert_eq!(gate.refuses(&packet(1, 0, false), false, true, at(399)), None);
        assert_eq!(gate.refuses(&discardable(0), false, true, at(1)), Some(DropReason::CongestedDiscardable));
        let key = Packet { key_start: true, ..discardable(0) };
        assert_eq!(gate.refuses(&key, false, true, at(1)), None, "what follows begins with it");
        let above = Packet { temporal: Temporal::new(1, 0, 0), ..discardable(0) };
        assert_eq!(gate.refuses(&above, false, true, at(1)), None, "that is chosen elsewhere");
        let to_key_frame = Some(DropReason::CongestedToKeyFrame);
        assert_eq!(gate.refuses(&packet(1, 0, false), false, true, at(401)), to_key_frame);
        assert_eq!(
            gate.refuses(&packet(1, 401, false), false, false, at(401)),
            to_key_frame,
            "however young"
        );
        assert_eq!(
            gate.refuses(&packet(1, 0, true), true, false, at(401)),
            to_key_frame,
            "a newer one waits"
        );
        assert_eq!(gate.refuses(&packet(1, 0, true), false, false, at(401)), None, "the newest, however old");
        assert_eq!(gate, Gate::Open);
    }
}
