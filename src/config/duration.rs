//! Durations as "30s" or "500ms" (serde `with`).

use std::fmt;
use std::time::Duration;

use serde::{Deserializer, Serializer, de};

/// Units and their milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a whole number and its unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(unit_ms)?))
}

/// Writes it in the largest unit that is exact; less than a millisecond is lost.
pub(super) fn text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let whole = UNITS.into_iter().find(|(_, unit_ms)| ms % unit_ms == 0 && (ms > 0 || *unit_ms == 1000));
    let (name, unit_ms) = whole.unwrap_or(("ms", 1));
    format!("{}{name}", ms / unit_ms)
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(r#"a duration such as "30s" or "500ms" (units: ms, s, m, h)"#)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (given, ms, written) in [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("120 s", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("0s", 0, "0s"),
        ] {
            let duration = parse(given).unwrap();
            assert_eq!(duration, Duration::from_millis(ms), "{given}");
            assert_eq!(text(duration), written);
            assert_eq!(parse(written), Some(duration));
        }
        for bad in
            ["", "30", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "9999999999999999999h", "1sx"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
