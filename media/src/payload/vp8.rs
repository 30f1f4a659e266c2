//! The payload descriptor of VP8 (RFC 7741 section 4.2).

/// What a descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Descriptor {
    /// Its length in bytes.
    pub len: usize,
    /// The first packet of a frame (S with partition 0).
    pub starts_frame: bool,
    /// Where the picture id is, and whether it has 15 bits.
    pub picture_id: Option<(usize, bool)>,
    /// Where TL0PICIDX is.
    pub tl0_index: Option<usize>,
    /// Temporal layer, and whether it refers to the base layer only (Y: one may switch up to it here).
    pub temporal: Option<(u8, bool)>,
}

impl Descriptor {
    /// Reads a payload's descriptor; `None` when it is cut.
    pub fn parse(payload: &[u8]) -> Option<Descriptor> {
        // X R N S R PID
        let first = payload.first()?;
        let mut found = Descriptor { len: 1, starts_frame: first & 0x17 == 0x10, ..Descriptor::default() };
        if first & 0x80 == 0 {
            return Some(found);
        }
        // I L T K
        let extension = payload.get(1)?;
        let mut at = 2_usize;
        if extension & 0x80 != 0 {
            let long = payload.get(at)? & 0x80 != 0;
            found.picture_id = Some((at, long));
            at = at.checked_add(if long { 2 } else { 1 })?;
        }
        if extension & 0x40 != 0 {
            found.tl0_index = Some(at);
            at = at.checked_add(1)?;
        }
        if extension & 0x30 != 0 {
            let byte = payload.get(at)?;
            if extension & 0x20 != 0 {
                found.temporal = Some((byte >> 6, byte & 0x20 != 0));
            }
            at = at.checked_add(1)?;
        }
        found.len = at;
        (payload.len() >= at).then_some(found)
    }

    /// The picture id of the payload that this was read from.
    pub fn picture_id_in(&self, payload: &[u8]) -> Option<u16> {
        let (at, long) = self.picture_id?;
        let high = u16::from(payload.get(at)? & 0x7f);
        Some(if long { high << 8 | u16::from(*payload.get(at.checked_add(1)?)?) } else { high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_field() {
        let payload = [0x90, 0xe0, 0x81, 0x23, 0x07, 0x60, 0x00];
        let found = Descriptor::parse(&payload).unwrap();
        let wanted = Descriptor {
            len: 6,
            starts_frame: true,
            picture_id: Some((2, true)),
            tl0_index: Some(4),
            temporal: Some((1, true)),
        };
        assert_eq!(found, wanted);
        assert_eq!(found.picture_id_in(&payload), Some(0x123));
        assert_eq!(Descriptor::parse(&[0x10, 0]).unwrap().len, 1);
        assert_eq!(Descriptor::parse(&payload[..5]), None, "cut");
        assert!(!Descriptor::parse(&[0x11]).unwrap().starts_frame, "another partition");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..10)) {
            if let Some(found) = Descriptor::parse(&payload) {
                prop_assert!(found.len <= payload.len());
                found.picture_id_in(&payload);
            }
        }
    }
}
