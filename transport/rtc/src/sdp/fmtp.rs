//! Format parameters: `key=value;key=value`, and what H.264 means by them (RFC 6184 section 8.1).

/// What a missing profile-level-id means: Baseline, level 1 (RFC 6184 section 8.1).
const PROFILE_LEVEL_ID_ABSENT: [u8; 3] = [0x42, 0x00, 0x0a];

/// The value of a parameter; names compare without case.
pub(super) fn param<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// profile_idc, constraint bits and level_idc of an H.264 format.
pub(super) fn profile_level_id(fmtp: &str) -> [u8; 3] {
    let Some(text) = param(fmtp, "profile-level-id") else { return PROFILE_LEVEL_ID_ABSENT };
    match u32::from_str_radix(text, 16) {
        // `from_str_radix` takes a sign.
        Ok(number) if text.len() == 6 && !text.starts_with('+') => {
            let [_, idc, iop, level] = number.to_be_bytes();
            [idc, iop, level]
        }
        _ => PROFILE_LEVEL_ID_ABSENT,
    }
}

/// 0 single NAL units, 1 with STAP-A and FU-A, 2 interleaved.
pub(super) fn packetization_mode(fmtp: &str) -> u8 {
    param(fmtp, "packetization-mode").and_then(|mode| mode.parse().ok()).unwrap_or(0)
}

/// H.264 profiles as RFC 6184 table 5 tells them apart by profile_idc and constraint bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    Extended,
    High,
    ConstrainedHigh,
    Other(u8),
}

impl Profile {
    pub(super) fn of([idc, iop, _]: [u8; 3]) -> Profile {
        match (idc, iop) {
            (0x42, iop) if iop & 0x40 != 0 => Profile::ConstrainedBaseline,
            (0x4d, iop) if iop & 0x80 != 0 => Profile::ConstrainedBaseline,
            (0x58, iop) if iop & 0xc0 == 0xc0 => Profile::ConstrainedBaseline,
            (0x42, _) => Profile::Baseline,
            (0x58, iop) if iop & 0xc0 == 0x80 => Profile::Baseline,
            (0x4d, _) => Profile::Main,
            (0x58, _) => Profile::Extended,
            (0x64, iop) if iop & 0x0c == 0x0c => Profile::ConstrainedHigh,
            (0x64, _) => Profile::High,
            (idc, _) => Profile::Other(idc),
        }
    }

    /// 42c0, 42e0 and 4200 in practice: what every encoder called baseline makes is in both.
    pub(super) fn is_baseline(self) -> bool {
        matches!(self, Profile::ConstrainedBaseline | Profile::Baseline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let fmtp = "level-asymmetry-allowed=1; Packetization-Mode=1;profile-level-id=64001F";
        assert_eq!(param(fmtp, "packetization-mode"), Some("1"));
        assert_eq!(param(fmtp, "mode"), None);
        assert_eq!(packetization_mode(fmtp), 1);
        assert_eq!(profile_level_id(fmtp), [0x64, 0, 0x1f]);
        for broken in [
            "",
            "profile-level-id=",
            "profile-level-id=42e01",
            "profile-level-id=zzzzzz",
            "profile-level-id=+42e01",
        ] {
            assert_eq!(profile_level_id(broken), PROFILE_LEVEL_ID_ABSENT, "{broken}");
        }
    }

    #[test]
    fn profiles() {
        for (id, profile) in [
            ([0x42, 0xe0, 0x1f], Profile::ConstrainedBaseline),
            ([0x42, 0xc0, 0x1f], Profile::ConstrainedBaseline),
            ([0x4d, 0x80, 0x1f], Profile::ConstrainedBaseline),
            ([0x42, 0x00, 0x1f], Profile::Baseline),
            ([0x4d, 0x00, 0x1f], Profile::Main),
            ([0x4d, 0x40, 0x1f], Profile::Main),
            ([0x64, 0x00, 0x28], Profile::High),
            ([0x64, 0x0c, 0x28], Profile::ConstrainedHigh),
            ([0xf4, 0x00, 0x1f], Profile::Other(0xf4)),
        ] {
            assert_eq!(Profile::of(id), profile, "{id:02x?}");
        }
    }
}
