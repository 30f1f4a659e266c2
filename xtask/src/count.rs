//! Counting tests in what `cargo test` prints.
use std::fmt;

/// How many tests ended how, and the names of those that did not run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Count {
    /// Tests that came to their end, those that skipped themselves among them: the harness knows no other word.
    pub returned: u32,
    pub failed: u32,
    /// `name: why`
    pub skipped: Vec<String>,
    /// Tests marked `#[ignore]`.
    pub ignored: u32,
}

impl Count {
    /// Takes a line of output into account.
    pub fn read(&mut self, line: &str) {
        if let Some(at) = line.find("SKIPPED ") {
            self.skipped.push(line[at + "SKIPPED ".len()..].trim().to_string());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let number = |label: &str| {
            let part = result.split(['.', ';']).find_map(|part| part.trim().strip_suffix(label));
            part.and_then(|it| it.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        self.returned += number("passed");
        self.failed += number("failed");
        self.ignored += number("ignored");
    }

    /// Tests that ran and passed.
    pub fn passed(&self) -> u32 {
        self.returned.saturating_sub(self.skipped.len() as u32)
    }

    /// Adds another count to this one.
    pub fn add(&mut self, other: Count) {
        self.returned += other.returned;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped.extend(other.skipped);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped.len() as u32 + self.ignored;
        write!(out, "{} passed, {} failed, {skipped} skipped", self.passed(), self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_skips_are_not_passes() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "SKIPPED interop::pages: no /usr/bin/chromium",
            "test a ... SKIPPED b: no ffmpeg",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            count.read(line);
        }
        assert_eq!(count.to_string(), "13 passed, 2 failed, 3 skipped");
        assert_eq!(count.skipped, ["interop::pages: no /usr/bin/chromium", "b: no ffmpeg"]);
    }
}
