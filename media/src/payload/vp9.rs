//! The payload descriptor of VP9 (RFC 9628 section 4.2).

/// What a descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor<'a> {
    /// I P L F B E V Z
    flags: u8,
    pub(super) layer: Option<Layer>,
    /// Behind the layer.
    rest: &'a [u8],
}

/// The layer of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layer {
    pub(super) temporal: u8,
    pub(super) spatial: u8,
    /// U: "subsequent higher temporal layer pictures will not depend on any picture before the current picture (in coding order) with
    /// temporal-layer ID greater than TID".
    pub(super) switches_up: bool,
}

impl<'a> Descriptor<'a> {
    /// Reads a payload's descriptor up to its layer; `None` when it is cut before.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Descriptor<'a>> {
        let (&flags, mut rest) = payload.split_first()?;
        if flags & 0x80 != 0 {
            rest = rest.get(if rest.first()? & 0x80 != 0 { 2 } else { 1 }..)?; // picture id, 7 or 15 bits
        }
        let mut layer = None;
        if flags & 0x20 != 0 {
            // TID U SID D
            let (byte, behind) = rest.split_first()?;
            layer =
                Some(Layer { temporal: byte >> 5, spatial: byte >> 1 & 7, switches_up: byte & 0x10 != 0 });
            rest = behind;
        }
        Some(Descriptor { flags, layer, rest })
    }

    /// The first packet of a frame of the lowest spatial layer that refers to no frame before.
    pub(super) fn starts_key_frame(&self) -> bool {
        // Higher spatial layers of a key frame are not inter-predicted either, but need the base.
        let is_base = self.layer.is_none_or(|layer| layer.spatial == 0);
        self.has(0x08) && !self.has(0x40) && is_base
    }

    /// The size that the scalability structure says (section 4.2.1): the largest of the spatial layers is the last.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        if !self.has(0x02) {
            return None;
        }
        let (mut rest, flexible) = (self.rest, self.has(0x10));
        if self.layer.is_some() && !flexible {
            rest = rest.get(1..)?; // TL0PICIDX
        }
        if flexible && self.has(0x40) {
            // P_DIFF: up to three bytes, the last with its N bit clear.
            let more = rest.iter().take(3).position(|byte| byte & 1 == 0)?;
            rest = rest.get(more.checked_add(1)?..)?;
        }
        let (structure, rest) = rest.split_first()?;
        if structure & 0x10 == 0 {
            return None;
        }
        let last = usize::from(structure >> 5).checked_mul(4)?;
        let &[width0, width1, height0, height1] = rest.get(last..)?.first_chunk::<4>()?;
        let of = |high, low| u32::from(u16::from_be_bytes([high, low]));
        Some((of(width0, width1), of(height0, height1)))
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
