//! Temporal layers as payload formats mark them: VP8 and VP9, in every packet.

use super::vp8;
use super::vp9::{Descriptor, Layer};
use crate::Codec;

/// Temporal layers that are told apart; what a source has beyond them counts as the uppermost. VP8 has no more (RFC 7741 section 4.2), and
/// browsers send three.
pub const TEMPORAL_LAYERS_MAX: usize = 4;
/// The uppermost.
const ID_MAX: u8 = TEMPORAL_LAYERS_MAX as u8 - 1;

/// Where a packet's frame stands among the temporal layers of its encoding: it refers to frames of its own layer and those below. All zero
/// without layers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Temporal {
    /// Its layer; 0 is the base.
    pub id: u8,
    /// Who got the layers up to `up_from` so far can have those up to `up_to` from this frame on; 0 and 0: not here.
    pub up_from: u8,
    /// See `up_from`.
    pub up_to: u8,
}

impl Temporal {
    /// What a payload says of its frame, and where it does not, what its dependency descriptor does (`described`).
    ///
    /// VP8's own word is the better one: libwebrtc describes every frame of an encoder that describes none as one to go up at. VP9's descriptor
    /// may know of such frames that the bit in the payload does not tell, and the bit of some that the descriptor does not.
    pub fn of(codec: Codec, payload: &[u8], described: Option<Temporal>) -> Temporal {
        let said = match codec {
            Codec::Vp8 => of_vp8(payload),
            Codec::Vp9 => of_vp9(payload),
            _ => None,
        };
        match (said, described) {
            (Some(said), Some(described)) if codec == Codec::Vp9 && described.up_to > said.up_to => described,
            (said, described) => said.or(described).unwrap_or_default(),
        }
    }

    /// With layers beyond the uppermost counted as that.
    pub fn new(id: u8, up_from: u8, up_to: u8) -> Temporal {
        Temporal { id: id.min(ID_MAX), up_from: up_from.min(ID_MAX), up_to: up_to.min(ID_MAX) }
    }
}

/// Whether an encoding's pictures are each of one temporal layer. With spatial layers they need not be: in `L2T2_KEY_SHIFT` the upper frame of a
/// picture is of the base where the lower one is not. Then no picture can be left out whole, and there is one layer.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pictures {
    /// Time stamp and layer of the newest, and whether a frame of it, and of the one before, is of another.
    newest: Option<(i64, u8)>,
    is_mixed: bool,
    was_mixed: bool,
    /// Two in a row were: for good.
    are_mixed: bool,
}

impl Pictures {
    /// What a packet's frame counts as that says `of_frame`. Padding is of no frame.
    pub fn layer(&mut self, timestamp: i64, of_frame: Temporal) -> Temporal {
        match self.newest {
            Some((newest, id)) if newest == timestamp => {
                self.is_mixed |= id != of_frame.id;
                self.are_mixed |= self.is_mixed && self.was_mixed;
            }
            Some((newest, _)) if newest > timestamp => {}
            _ => {
                self.was_mixed = std::mem::take(&mut self.is_mixed);
                self.newest = Some((timestamp, of_frame.id));
            }
        }
        if self.are_mixed { Temporal::default() } else { of_frame }
    }
}

/// RFC 7741 section 4.2: "Y: 1 layer sync bit ... indicates that the current frame depends only on the base layer". Frames of its layer that
/// follow may refer to it and to the layers below.
fn of_vp8(payload: &[u8]) -> Option<Temporal> {
    let (id, sync) = vp8::Descriptor::parse(payload)?.temporal?;
    Some(match id.checked_sub(1).filter(|_| sync) {
        Some(below) => Temporal::new(id, below, id),
        None => Temporal::new(id, 0, 0),
    })
}

/// RFC 9628 section 4.2: the bit says it of all layers above.
fn of_vp9(payload: &[u8]) -> Option<Temporal> {
    let Layer { temporal, switches_up, .. } = Descriptor::parse(payload)?.layer?;
    Some(if switches_up { Temporal::new(temporal, temporal, ID_MAX) } else { Temporal::new(temporal, 0, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vp8_says_its_layer_and_where_one_may_go_up() {
        let of = |layer: u8| Temporal::of(Codec::Vp8, &[0x90, 0xe0, 0x81, 0x23, 7, layer, 0], None);
        assert_eq!(of(0x00), Temporal::default());
        assert_eq!(of(0x20), Temporal::default(), "a base frame with the bit refers to no less than others");
        assert_eq!(of(0x40), Temporal::new(1, 0, 0));
        assert_eq!(of(0x60), Temporal::new(1, 0, 1));
        assert_eq!(of(0xa0), Temporal::new(2, 1, 2));
        assert_eq!(Temporal::of(Codec::Vp8, &[0x10, 0], None), Temporal::default(), "no layers");
        assert_eq!(Temporal::of(Codec::Vp8, &[0x90, 0x20], None), Temporal::default(), "cut");
    }

    #[test]
    fn pictures_of_frames_of_different_layers_have_one() {
        let of = |id| Temporal::new(id, 0, 0);
        let (mut shifted, mut plain) = (Pictures::default(), Pictures::default());
        for (picture, [lower, upper]) in [[0, 0], [1, 0], [0, 1], [1, 0]].into_iter().enumerate() {
            let at = picture as i64 * 3_000;
            for id in [lower, lower, upper] {
                let known = picture > 2 || (picture == 2 && id == upper);
                assert_eq!(shifted.layer(at, of(id)), of(if known { 0 } else { id }), "{picture}");
                assert_eq!(plain.layer(at, of(lower)), of(lower));
            }
        }
        // One alone is an error of somebody's: a structure that came late.
        let mut once = Pictures::default();
        let layers =
            [(0, 0), (3_000, 1), (3_000, 0), (6_000, 1), (6_000, 1), (9_000, 2), (9_000, 1), (12_000, 1)];
        layers.iter().for_each(|(at, id)| assert_eq!(once.layer(*at, of(*id)), of(*id)));
    }

    #[test]
    fn vp9_says_its_layer_and_where_one_may_go_up() {
        let of = |layer: u8| Temporal::of(Codec::Vp9, &[0xa8, 0x81, 0x02, layer], None);
        assert_eq!(of(0x00), Temporal::default());
        assert_eq!(of(0x40), Temporal::new(2, 0, 0));
        assert_eq!(of(0x30), Temporal::new(1, 1, 3));
        assert_eq!(of(0xf0).id, 3, "the uppermost that is told apart");
        assert_eq!(Temporal::of(Codec::Vp9, &[0x88, 0x12, 0xff], None), Temporal::default(), "no layers");
    }

    #[test]
    fn the_payload_is_heard_before_the_descriptor() {
        let up = Temporal::new(0, 0, 2);
        let described = Some(up);
        let vp8 = |extension| Temporal::of(Codec::Vp8, &[0x90, extension, 0x81, 0x23, 7, 0, 0], described);
        assert_eq!(vp8(0xe0), Temporal::default(), "a base frame");
        assert_eq!(vp8(0xc0), up, "without layers of its own");
        let vp9 = |layer, described| Temporal::of(Codec::Vp9, &[0xa8, 0x81, 0x02, layer], described);
        assert_eq!(vp9(0, described), up);
        assert_eq!(vp9(0x10, Some(Temporal::default())), Temporal::new(0, 0, 3));
        assert_eq!(vp9(0x20, Some(Temporal::default())), Temporal::new(1, 0, 0));
        assert_eq!(Temporal::of(Codec::H264, &[0x41], described), up);
        assert_eq!(Temporal::of(Codec::Av1, &[0x10], None), Temporal::default());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..10)) {
            for codec in [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H264] {
                let found = Temporal::of(codec, &payload, None);
                prop_assert!(usize::from(found.id.max(found.up_from).max(found.up_to)) < TEMPORAL_LAYERS_MAX);
            }
        }
    }
}
