//! VP8's picture ids and TL0PICIDX go on where the encoding changes, as numbers and time do: each encoder counts for itself, and receivers
//! take an id that jumps back for an old picture (RFC 7741 section 4.2).

use media::payload::vp8::Descriptor;

/// What is added to a track's ids, and the newest that went out.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PictureIds {
    id_delta: u16,
    tl0_delta: u8,
    id: Option<u16>,
    tl0: Option<u8>,
}

impl PictureIds {
    /// From `first` on, a key frame's first payload, ids are another encoder's.
    pub(crate) fn switch(&mut self, first: &[u8]) {
        let Some(descriptor) = Descriptor::parse(first) else { return };
        if let (Some(last), Some(id)) = (self.id, descriptor.picture_id_in(first)) {
            self.id_delta = last.wrapping_add(1).wrapping_sub(id);
        }
        if let (Some(last), Some(tl0)) = (self.tl0, descriptor.tl0_index.and_then(|at| first.get(at))) {
            self.tl0_delta = last.wrapping_add(1).wrapping_sub(*tl0);
        }
    }

    /// Writes the ids that a receiver is to see into a copy of a payload. `is_newest`: nothing later went out.
    pub(crate) fn rewrite(&mut self, payload: &mut [u8], is_newest: bool) {
        let Some(descriptor) = Descriptor::parse(payload) else { return };
        if let (Some((at, long)), Some(id)) = (descriptor.picture_id, descriptor.picture_id_in(payload)) {
            let id = id.wrapping_add(self.id_delta);
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
            *tl0 = tl0.wrapping_add(self.tl0_delta);
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
        let sent = |ids: &mut PictureIds, id, tl0, newest| {
            let mut bytes = payload(id, tl0);
            ids.rewrite(&mut bytes, newest);
            (u16::from_be_bytes([bytes[2] & 0x7f, bytes[3]]), bytes[4])
        };
        assert_eq!(sent(&mut ids, 0x7ffe, 254, true), (0x7ffe, 254));
        assert_eq!(sent(&mut ids, 0x7fff, 255, true), (0x7fff, 255));
        ids.switch(&payload(100, 7));
        assert_eq!(sent(&mut ids, 100, 7, true), (0, 0), "both wrap");
        assert_eq!(sent(&mut ids, 102, 8, true), (2, 1));
        assert_eq!(sent(&mut ids, 101, 7, false), (1, 0));
        ids.switch(&payload(5, 5));
        assert_eq!(sent(&mut ids, 5, 5, true), (3, 2));
    }

    #[test]
    fn short_ids_and_none() {
        let mut ids = PictureIds { id_delta: 3, ..PictureIds::default() };
        let mut short = [0x90, 0x80, 0x7e, 0];
        ids.rewrite(&mut short, true);
        assert_eq!(short, [0x90, 0x80, 0x01, 0]);
        let mut none = [0x10, 0];
        ids.rewrite(&mut none, true);
        assert_eq!(none, [0x10, 0]);
    }

    proptest! {
        #[test]
        fn nothing_but_ids_is_written(mut payload in prop::collection::vec(any::<u8>(), 0..12), id_delta: u16, tl0_delta: u8) {
            let before = payload.clone();
            PictureIds { id_delta, tl0_delta, ..PictureIds::default() }.rewrite(&mut payload, true);
            let (was, is) = (Descriptor::parse(&before), Descriptor::parse(&payload));
            prop_assert_eq!(was, is, "the descriptor's shape stays");
            let len = was.map_or(0, |d| d.len);
            prop_assert_eq!(&payload[len..], &before[len..]);
        }
    }
}
