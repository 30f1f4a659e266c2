//! VP8's picture ids and TL0PICIDX go on where the encoding changes and where frames are left out, as numbers and time do: each encoder counts
//! for itself, receivers take an id that jumps back for an old picture (RFC 7741 section 4.2), and browsers wait for the picture of an id that is
//! missing before they show a temporal layer above the base.

use media::payload::vp8::Descriptor;

use crate::ranges::IdDeltas;

/// The newest that went out.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PictureIds {
    id: Option<u16>,
    tl0: Option<u8>,
}

impl PictureIds {
    /// From `first` on, a key frame's first payload, ids may be another encoder's: what makes them go on.
    pub(crate) fn deltas(self, first: &[u8]) -> IdDeltas {
        let Some(descriptor) = Descriptor::parse(first) else { return IdDeltas::default() };
        let next = |last: u16, of: u16| last.wrapping_add(1).wrapping_sub(of);
        let picture = self.id.zip(descriptor.picture_id_in(first)).map_or(0, |(last, id)| next(last, id));
        let tl0 = self.tl0.zip(descriptor.tl0_index.and_then(|at| first.get(at)));
        let tl0 = tl0.map_or(0, |(last, tl0)| next(last.into(), (*tl0).into()) as u8);
        IdDeltas { picture, tl0, frame: 0 }
    }

    /// How many pictures are missing between the newest that went out and the one that begins with this payload; 0 where it begins none, or is no newer.
    pub(crate) fn missing_before(self, payload: &[u8], deltas: IdDeltas) -> u16 {
        let Some(descriptor) = Descriptor::parse(payload).filter(|descriptor| descriptor.starts_frame) else {
            return 0;
        };
        let mask = if descriptor.picture_id.is_some_and(|(_, long)| long) { 0x7fff } else { 0x7f };
        let missing = self.id.zip(descriptor.picture_id_in(payload)).map_or(0, |(last, id)| {
            id.wrapping_add(deltas.picture).wrapping_sub(last).wrapping_sub(1) & mask
        });
        if missing > mask / 2 { 0 } else { missing }
    }

    /// Writes the ids that a receiver is to see into a copy of a payload. `is_newest`: nothing later went out.
    pub(crate) fn rewrite(&mut self, payload: &mut [u8], deltas: IdDeltas, is_newest: bool) {
        let Some(descriptor) = Descriptor::parse(payload) else { return };
        if let (Some((at, long)), Some(id)) = (descriptor.picture_id, descriptor.picture_id_in(payload)) {
            let id = id.wrapping_add(deltas.picture);
            if is_newest {
                self.id = Some(id);
            }
            let [high, low] = id.to_be_bytes();
            match payload.get_mut(at..) {
                Some([first, second, ..]) if long => (*first, *second) = (high | 0x80, low),
                Some([first, ..]) => *first = low & 0x7f,
                _ => {}
            }
        }
        if let Some(tl0) = descriptor.tl0_index.and_then(|at| payload.get_mut(at)) {
            *tl0 = tl0.wrapping_add(deltas.tl0);
            if is_newest {
                self.tl0 = Some(*tl0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(id: u16, tl0: u8) -> [u8; 7] {
        let [high, low] = id.to_be_bytes();
        [0x90, 0xe0, high | 0x80, low, tl0, 0x20, 0]
    }

    #[test]
    fn ids_go_on_through_a_switch_and_a_resend_has_those_it_had() {
        let mut ids = PictureIds::default();
        let sent = |ids: &mut PictureIds, deltas, id, tl0, newest| {
            let mut bytes = payload(id, tl0);
            ids.rewrite(&mut bytes, deltas, newest);
            (u16::from_be_bytes([bytes[2] & 0x7f, bytes[3]]), bytes[4])
        };
        let none = ids.deltas(&payload(0x7ffe, 254));
        assert_eq!(sent(&mut ids, none, 0x7ffe, 254, true), (0x7ffe, 254));
        assert_eq!(sent(&mut ids, none, 0x7fff, 255, true), (0x7fff, 255));
        let switched = ids.deltas(&payload(100, 7));
        assert_eq!(sent(&mut ids, switched, 100, 7, true), (0, 0), "both wrap");
        assert_eq!(sent(&mut ids, switched, 102, 8, true), (2, 1));
        assert_eq!(sent(&mut ids, switched, 101, 7, false), (1, 0));
        let again = ids.deltas(&payload(5, 5));
        assert_eq!(sent(&mut ids, again, 5, 5, true), (3, 2));
        assert_eq!(sent(&mut ids, switched, 101, 7, false), (1, 0), "what was sent before");
    }

    #[test]
    fn pictures_that_are_missing_are_counted() {
        let (mut ids, deltas) = (PictureIds::default(), IdDeltas { picture: 3, ..IdDeltas::default() });
        assert_eq!(ids.missing_before(&payload(7, 0), deltas), 0, "nothing went out yet");
        ids.rewrite(&mut payload(0x7ffa, 0), deltas, true);
        let missing = |id| ids.missing_before(&payload(id, 0), deltas);
        assert_eq!([0x7ffb, 0x7ffd, 1].map(missing), [0, 2, 6]);
        assert_eq!([0x7ffa, 0x7ff0].map(missing), [0, 0], "no newer");
        let mut goes_on = payload(1, 0);
        goes_on[0] = 0x80;
        assert_eq!(ids.missing_before(&goes_on, deltas), 0);
    }

    #[test]
    fn short_ids_and_none() {
        let (mut ids, deltas) = (PictureIds::default(), IdDeltas { picture: 3, ..IdDeltas::default() });
        let mut short = [0x90, 0x80, 0x7e, 0];
        ids.rewrite(&mut short, deltas, true);
        assert_eq!(short, [0x90, 0x80, 0x01, 0]);
        let mut none = [0x10, 0];
        ids.rewrite(&mut none, deltas, true);
        assert_eq!(none, [0x10, 0]);
    }

    proptest! {
        #[test]
        fn nothing_but_ids_is_written(mut payload in prop::collection::vec(any::<u8>(), 0..12), picture: u16, tl0: u8) {
            let before = payload.clone();
            PictureIds::default().rewrite(&mut payload, IdDeltas { picture, tl0, frame: 0 }, true);
            let (was, is) = (Descriptor::parse(&before), Descriptor::parse(&payload));
            prop_assert_eq!(was, is, "the descriptor's shape stays");
            let len = was.map_or(0, |d| d.len);
            prop_assert_eq!(&payload[len..], &before[len..]);
        }
    }
}
