//! The dependency descriptor, a header extension that says of frames of any codec which layers they are of and who needs them
//! (AV1 RTP specification, appendix A).
//!
//! Key frames bring the structure: templates that all frames refer to. Of them is read what choosing layers takes.

use super::Temporal;
use crate::h264::bits::BitReader;

/// Appendix A.8: "MaxTemplates" and the most decode targets.
const TEMPLATES_MAX: usize = 64;
/// Appendix A.8.2: "MaxTemporalId" and "MaxSpatialId".
const TEMPORAL_ID_MAX: u8 = 7;
const SPATIAL_ID_MAX: u8 = 3;
/// "Decode Target Indication": a frame is not of the target; from it on the target can be decoded.
const NOT_PRESENT: u64 = 0;
const SWITCH: u64 = 2;

/// Where the frame number is in a descriptor.
const FRAME_NUMBER: std::ops::Range<usize> = 1..3;

/// One encoding's descriptors: what its last key frame said of the others.
#[derive(Clone, Default, Debug)]
pub struct Descriptors {
    structure: Option<Structure>,
}

#[derive(Clone, Debug)]
struct Structure {
    /// The packet that brought it.
    seq: u64,
    first_template: u8,
    templates: Vec<Template>,
    /// Of each decode target the uppermost layers, spatial and temporal; none of a target without frames.
    targets: Vec<Option<(u8, u8)>>,
}

#[derive(Clone, Copy, Debug)]
struct Template {
    spatial: u8,
    temporal: u8,
    /// Two bits for each decode target, the first lowest.
    indications: u64,
}

impl Descriptors {
    /// What the descriptor of the packet with the extended number `seq` says of its frame's temporal layer; `None` when it is cut or refers to a
    /// structure that is not known.
    pub fn read(&mut self, descriptor: &[u8], seq: u64) -> Option<Temporal> {
        let mut bits = BitReader::new(descriptor);
        let _starts_and_ends = bits.bits(2)?;
        let template = bits.bits(6)? as u8;
        let _frame_number = bits.bits(16)?;
        let mut flags = [false; 5];
        if bits.left_bits() > 0 {
            for flag in &mut flags {
                *flag = bits.bit()?;
            }
        }
        let [has_structure, has_active_targets, has_indications, ..] = flags;
        if has_structure {
            let structure = Structure::read(&mut bits, seq)?;
            // What is sent again may be of a key frame before the last. Frame numbers do not tell: they wrap, and encoders begin anew.
            if self.structure.as_ref().is_none_or(|before| seq >= before.seq) {
                self.structure = Some(structure);
            }
        }
        let structure = self.structure.as_ref()?;
        if has_active_targets {
            bits.bits(structure.decode_targets())?;
        }
        let index = template.wrapping_sub(structure.first_template) & 0x3f;
        let mut found = *structure.templates.get(usize::from(index))?;
        if has_indications {
            found.indications = indications(&mut bits, structure.decode_targets())?;
        }
        Some(structure.temporal(&found))
    }
}

impl Structure {
    /// Appendix A.8.2 `template_dependency_structure`.
    fn read(bits: &mut BitReader<'_>, seq: u64) -> Option<Structure> {
        let first_template = bits.bits(6)? as u8;
        let decode_targets = bits.bits(5)?.checked_add(1)?;
        let mut templates = Vec::new();
        let (mut spatial, mut temporal) = (0_u8, 0_u8);
        loop {
            if templates.len() == TEMPLATES_MAX {
                return None;
            }
            templates.push(Template { spatial, temporal, indications: 0 });
            match bits.bits(2)? {
                0 => {}
                1 => temporal = temporal.checked_add(1).filter(|id| *id <= TEMPORAL_ID_MAX)?,
                2 => {
                    spatial = spatial.checked_add(1).filter(|id| *id <= SPATIAL_ID_MAX)?;
                    temporal = 0;
                }
                _ => break,
            }
        }
        for template in &mut templates {
            template.indications = indications(bits, decode_targets)?;
        }
        // Frame differences: a bit before each says that it is there.
        for _ in &templates {
            while bits.bit()? {
                bits.bits(4)?;
            }
        }
        let chains = non_symmetric(bits, decode_targets.checked_add(1)?)?;
        if chains > 0 {
            for _ in 0..decode_targets {
                non_symmetric(bits, chains)?;
            }
            for _ in 0..chains.checked_mul(u32::try_from(templates.len()).ok()?)? {
                bits.bits(4)?;
            }
        }
        if bits.bit()? {
            for _ in 0..=spatial {
                bits.bits(32)?;
            }
        }
        let uppermost = |target| {
            let present = || templates.iter().filter(|t| t.indication(target) != NOT_PRESENT);
            Some((present().map(|t| t.spatial).max()?, present().map(|t| t.temporal).max()?))
        };
        let targets = (0..decode_targets).map(uppermost).collect();
        Some(Structure { seq, first_template, templates, targets })
    }

    /// At most 32.
    fn decode_targets(&self) -> u32 {
        self.targets.len() as u32
    }

    /// A switch to a target is one for who gets the frame: who has its layer. Of each temporal layer that target counts which has the least of the
    /// picture beside the frame: those with more wait for frames of layers of their own, and these follow the same pattern.
    fn temporal(&self, of: &Template) -> Temporal {
        let mut found: [Option<(u8, bool)>; TEMPORAL_ID_MAX as usize + 1] = Default::default();
        for (target, uppermost) in (0..).zip(&self.targets) {
            let (Some((spatial, temporal)), indication) = (*uppermost, of.indication(target)) else {
                continue;
            };
            if let Some(place) = found.get_mut(usize::from(temporal))
                && indication != NOT_PRESENT
                && place.is_none_or(|(before, _)| spatial < before)
            {
                *place = Some((spatial, indication == SWITCH));
            }
        }
        let up_to =
            found.iter().rposition(|target| target.is_some_and(|(_, switches)| switches)).unwrap_or(0);
        match u8::try_from(up_to) {
            Ok(up_to) if up_to > of.temporal => Temporal::new(of.temporal, of.temporal, up_to),
            _ => Temporal::new(of.temporal, 0, 0),
        }
    }
}

impl Template {
    fn indication(&self, target: u32) -> u64 {
        self.indications.checked_shr(target.saturating_mul(2)).unwrap_or(0) & 3
    }
}

/// At most 32 targets, so that two bits of each are 64.
fn indications(bits: &mut BitReader<'_>, decode_targets: u32) -> Option<u64> {
    let mut all = 0;
    for target in 0..decode_targets {
        all |= u64::from(bits.bits(2)?).checked_shl(target.checked_mul(2)?)?;
    }
    Some(all)
}

/// Appendix A.8.1 `ns(n)`: a number below `n`, the smaller ones in a bit less.
fn non_symmetric(bits: &mut BitReader<'_>, n: u32) -> Option<u32> {
    let width = n.checked_ilog2()?.checked_add(1)?;
    let short = 1_u32.checked_shl(width)?.checked_sub(n)?;
    let value = bits.bits(width.checked_sub(1)?)?;
    if value < short {
        return Some(value);
    }
    (value << 1).checked_sub(short)?.checked_add(bits.bits(1)?)
}

/// The frame number in a descriptor.
pub fn frame_number(descriptor: &[u8]) -> Option<u16> {
    let &[high, low] = descriptor.get(FRAME_NUMBER)? else { return None };
    Some(u16::from_be_bytes([high, low]))
}

/// Writes another frame number into a descriptor.
pub fn set_frame_number(descriptor: &mut [u8], number: u16) {
    if let Some(place) = descriptor.get_mut(FRAME_NUMBER) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes fields as the specification has them: (bits, value).
    fn written(fields: &[(u32, u32)]) -> Vec<u8> {
        let bits: Vec<bool> =
            fields.iter().flat_map(|(len, v)| (0..*len).rev().map(move |at| v >> at & 1 == 1)).collect();
        bits.chunks(8)
            .map(|byte| byte.iter().enumerate().fold(0, |n, (at, bit)| n | u8::from(*bit) << (7 - at)))
            .collect()
    }

    /// Template, frame number; flags: structure, active targets, indications, differences, chains.
    fn head(template: u32, number: u32, flags: u32) -> Vec<(u32, u32)> {
        vec![(2, 3), (6, template), (16, number), (5, flags)]
    }

    /// Three temporal layers as browsers write them: templates of layers 0, 0, 1, 2, 2; targets of 30, 15 and 7.5 frames last to first.
    fn three_layers() -> Vec<(u32, u32)> {
        let mut fields = vec![(6, 60), (5, 2)];
        fields.extend([(2, 0), (2, 1), (2, 1), (2, 0), (2, 3)]);
        let [absent, discardable, switch] = [0, 1, 2];
        for indications in [
            [switch; 3],
            [switch; 3],
            [absent, discardable, switch],
            [absent, absent, discardable],
            [absent, absent, discardable],
        ] {
            fields.extend(indications.map(|indication| (2, indication)));
        }
        // Differences: none, 4, 2, 1, 1.
        fields.push((1, 0));
        for difference in [4, 2, 1, 1] {
            fields.extend([(1, 1), (4, difference - 1), (1, 0)]);
        }
        // One chain of 0 to 3: ns(4) of 1 in two bits; it protects all three: ns(1) has no bits. Then its differences.
        fields.push((2, 1));
        fields.extend([(4, 0), (4, 4), (4, 2), (4, 1), (4, 3)]);
        // Resolutions: 640 and 360, less one.
        fields.extend([(1, 1), (16, 639), (16, 359)]);
        fields
    }

    fn with_structure(template: u32, number: u32) -> Vec<u8> {
        written(&[head(template, number, 0b10000), three_layers()].concat())
    }

    /// One template, of id 5, and one target.
    fn one_layer(number: u32) -> Vec<u8> {
        let structure = vec![(6, 5), (5, 0), (2, 3), (2, 2), (1, 0), (1, 0), (1, 0)];
        written(&[head(5, number, 0b10000), structure].concat())
    }

    /// Two spatial and two temporal layers, as libwebrtc writes them: `key` for L2T2_KEY, where only the key frame's layers refer to each other.
    fn two_by_two(key: bool) -> Vec<u8> {
        let [absent, discardable, switch, required] = [0, 1, 2, 3];
        let (between, late) = if key { (absent, absent) } else { (required, required) };
        // Targets S0T0, S0T1, S1T0, S1T1; templates from 0 on: S0's key frame, S0T0, S0T1, S1 of the key frame, S1T0, S1T1.
        let mut fields = vec![(6, 0), (5, 3), (2, 0), (2, 1), (2, 2), (2, 0), (2, 1), (2, 3)];
        for indications in [
            [switch; 4],
            [switch, switch, between, between],
            [absent, discardable, absent, late],
            [absent, absent, switch, switch],
            [absent, absent, switch, switch],
            [absent, absent, absent, discardable],
        ] {
            fields.extend(indications.map(|indication| (2, indication)));
        }
        // No differences, no chains, no sizes.
        fields.extend([(1, 0); 6]);
        fields.extend([(2, 0), (1, 0)]);
        written(&[head(0, 1, 0b10000), fields].concat())
    }

    /// Spatial layers have a temporal pattern: where a picture's first frame says that its own layer may go up, the picture does.
    #[test]
    fn a_picture_goes_up_where_its_base_does() {
        for key in [false, true] {
            let mut descriptors = Descriptors::default();
            assert_eq!(descriptors.read(&two_by_two(key), 1), Some(Temporal::new(0, 0, 1)));
            let mut of = |template| descriptors.read(&written(&[(2, 3), (6, template), (16, 2)]), 2);
            assert_eq!(of(1), Some(Temporal::new(0, 0, 1)), "S0T0, {key}");
            assert_eq!(of(2), Some(Temporal::new(1, 0, 0)));
            assert_eq!(of(4), Some(Temporal::new(0, 0, 1)), "S1T0, {key}");
            assert_eq!(of(5), Some(Temporal::new(1, 0, 0)));
        }
    }

    #[test]
    fn layers_and_switches_of_three_layers() {
        let mut descriptors = Descriptors::default();
        assert_eq!(descriptors.read(&written(&[(2, 3), (6, 61), (16, 9)]), 1), None, "no structure yet");
        let key = with_structure(60, 0xfffe);
        assert!(key.len() > 16, "longer than a one-byte element: {}", key.len());
        assert_eq!(descriptors.read(&key, 2), Some(Temporal::new(0, 0, 2)));
        let mut of = |template: u32| descriptors.read(&written(&[(2, 3), (6, template), (16, 1)]), 3);
        assert_eq!(of(61), Some(Temporal::new(0, 0, 2)), "any base frame is one to go up at");
        assert_eq!(of(62), Some(Temporal::new(1, 1, 2)));
        assert_eq!(of(63), Some(Temporal::new(2, 0, 0)));
        assert_eq!(of(0), Some(Temporal::new(2, 0, 0)), "template ids wrap");
        assert_eq!(of(1), None, "no such template");
        // A frame's own indications: not one to go up at after all. Before them the active targets.
        let own = [head(61, 2, 0b01100), vec![(3, 0b111), (2, 3), (2, 3), (2, 3)]].concat();
        assert_eq!(descriptors.read(&written(&own), 4), Some(Temporal::new(0, 0, 0)));
    }

    #[test]
    fn a_structure_is_replaced_by_a_newer_one_and_kept_where_one_is_cut() {
        let mut descriptors = Descriptors::default();
        descriptors.read(&with_structure(60, 10), 10).unwrap();
        let mut cut = one_layer(20);
        cut.pop();
        assert_eq!(descriptors.read(&cut, 20), None);
        assert_eq!(descriptors.read(&with_structure(60, 10)[..19], 10), None);
        let delta = |template| written(&[(2, 3), (6, template), (16, 21)]);
        assert_eq!(descriptors.read(&delta(62), 21).map(|t| t.id), Some(1));
        assert_eq!(descriptors.read(&one_layer(20), 20), Some(Temporal::default()));
        assert_eq!(descriptors.read(&delta(62), 21), None);
        descriptors.read(&with_structure(60, 10), 10);
        assert_eq!(descriptors.read(&delta(5), 21), Some(Temporal::default()), "the older one came late");
    }

    #[test]
    fn a_structure_is_newer_by_its_packet_whatever_its_frame_number() {
        let delta = |template| written(&[(2, 3), (6, template), (16, 21)]);
        // After half of all frame numbers, and where an encoder begins anew.
        for (before, after) in [(0, 0x8001), (0x7000, 3)] {
            let mut descriptors = Descriptors::default();
            descriptors.read(&with_structure(60, before), 10).unwrap();
            assert_eq!(descriptors.read(&one_layer(after), 20), Some(Temporal::default()));
            assert_eq!(descriptors.read(&delta(5), 21), Some(Temporal::default()), "{before} {after}");
        }
    }

    #[test]
    fn frame_numbers_are_written_in_place() {
        let mut descriptor = with_structure(60, 0x1234);
        assert_eq!(frame_number(&descriptor), Some(0x1234));
        let before = descriptor.clone();
        set_frame_number(&mut descriptor, 0xabcd);
        assert_eq!(frame_number(&descriptor), Some(0xabcd));
        set_frame_number(&mut descriptor, 0x1234);
        assert_eq!(descriptor, before);
        assert_eq!(frame_number(&[0, 1]), None);
        set_frame_number(&mut [0, 1], 7);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..4), flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..4)) {
            let mut descriptors = Descriptors::default();
            let mut nearly = with_structure(60, 1);
            for (at, with) in flips {
                if let Some(byte) = nearly.get_mut(at) {
                    *byte ^= with;
                }
            }
            for descriptor in std::iter::once(nearly).chain(all) {
                if let Some(found) = descriptors.read(&descriptor, 1) {
                    prop_assert!(usize::from(found.id.max(found.up_to)) < super::super::TEMPORAL_LAYERS_MAX);
                }
                if let Some(structure) = &descriptors.structure {
                    prop_assert!(structure.templates.len() <= TEMPLATES_MAX && structure.targets.len() <= 32);
                }
            }
        }
    }
}
