//! Temporal layers: frames above the layer that a subscriber is to get are left out, whole. Down at the next frame, up where the source says
//! that a decoder can follow.

use media::Packet;

/// All layers.
const ALL: u8 = u8::MAX;

/// Which temporal layers pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct TemporalGate {
    /// The uppermost that is wanted, and that passes.
    wanted: u8,
    passes: u8,
    /// The uppermost there ever was: layers that pause come back, and then refer to frames from before.
    top: u8,
}

impl TemporalGate {
    pub(super) fn new() -> TemporalGate {
        TemporalGate { wanted: ALL, passes: ALL, top: 0 }
    }

    /// Those up to `limit` from now on, of those up to `top` that there are; `None`: all.
    pub(super) fn limit(&mut self, limit: Option<u8>, top: u8) {
        self.top = self.top.max(top);
        self.wanted = limit.filter(|limit| *limit < self.top).unwrap_or(ALL);
        self.passes = self.passes.min(self.wanted);
    }

    /// The uppermost that passes; `None`: all.
    pub(super) fn passes(&self) -> Option<u8> {
        (self.passes != ALL).then_some(self.passes)
    }

    /// Whether less passes than is wanted, until the source says that a decoder can follow.
    pub(super) fn lags(&self) -> bool {
        self.passes < self.wanted.min(self.top)
    }

    /// Nothing above the base passes, up to where one may go up again.
    pub(super) fn relieve(&mut self) {
        self.passes = 0;
    }

    /// Whether the frame that begins with `packet` is left out.
    pub(super) fn refuses(&mut self, packet: &Packet) -> bool {
        let temporal = packet.temporal;
        self.top = self.top.max(temporal.id);
        if packet.key_start {
            self.pass(self.wanted);
            return false; // whatever it says of its layer
        }
        if temporal.up_to > self.passes && temporal.up_from <= self.passes {
            self.pass(temporal.up_to.min(self.wanted));
        }
        temporal.id > self.passes
    }

    fn pass(&mut self, up_to: u8) {
        self.passes = if self.wanted == ALL && up_to >= self.top { ALL } else { up_to };
    }
}

#[cfg(test)]
mod tests {
    use media::Temporal;

    use super::*;
    use crate::ring::tests::packet;

    fn passes(gate: &mut TemporalGate, temporal: Temporal) -> bool {
        !gate.refuses(&Packet { temporal, ..packet(1, 0, false) })
    }

    #[test]
    fn down_at_once_and_up_layer_by_layer_where_one_may() {
        let mut gate = TemporalGate::new();
        let of = Temporal::new;
        assert!(passes(&mut gate, of(2, 0, 0)));
        gate.limit(Some(0), 2);
        assert!(
            passes(&mut gate, of(0, 0, 0)) && !passes(&mut gate, of(1, 0, 1)),
            "not beyond what is wanted"
        );
        gate.limit(None, 2);
        assert!(!passes(&mut gate, of(1, 0, 0)) && !passes(&mut gate, of(2, 1, 2)), "not over a layer");
        assert!(passes(&mut gate, of(1, 0, 1)) && gate.passes() == Some(1));
        assert!(!passes(&mut gate, of(2, 0, 0)) && passes(&mut gate, of(2, 1, 2)));
        assert_eq!(gate.passes(), None, "all there is");
    }

    #[test]
    fn several_at_once_and_all_at_a_key_frame() {
        let mut gate = TemporalGate::new();
        gate.limit(Some(0), 2);
        gate.limit(Some(1), 2);
        assert!(passes(&mut gate, Temporal::new(0, 0, 3)) && gate.passes() == Some(1));
        gate.limit(Some(0), 2);
        gate.limit(None, 2);
        assert!(!gate.refuses(&packet(1, 0, true)) && gate.passes().is_none());
    }

    #[test]
    fn a_pause_of_the_upper_layers_opens_nothing() {
        let mut gate = TemporalGate::new();
        let of = Temporal::new;
        gate.limit(Some(0), 2);
        gate.limit(None, 0);
        assert!(!passes(&mut gate, of(1, 0, 0)) && !passes(&mut gate, of(2, 0, 0)), "they refer to nothing");
        assert!(passes(&mut gate, of(1, 0, 1)) && !passes(&mut gate, of(2, 0, 0)), "as far as it says");
        assert!(!gate.refuses(&packet(1, 0, true)) && gate.passes().is_none());
        // What it learns of what it leaves out.
        let mut gate = TemporalGate::new();
        gate.limit(Some(0), 1);
        assert!(!passes(&mut gate, of(2, 0, 0)));
        gate.limit(None, 1);
        assert!(passes(&mut gate, of(1, 0, 1)) && !passes(&mut gate, of(2, 0, 0)));
    }
}
