//! The tree's Rust files, and which lines of them are tests or comments.
use std::process::Command;
use std::sync::OnceLock;
use support::root;

/// A Rust file of the tree.
pub struct Source {
    /// From the top of the checkout.
    pub path: String,
    pub text: String,
}

/// Every file git knows or would add.
pub fn tracked() -> Vec<String> {
    let mut command = Command::new("git");
    command.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
}

/// Every Rust file but the rules themselves.
pub fn sources() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    ALL.get_or_init(|| {
        let rust =
            tracked().into_iter().filter(|path| path.ends_with(".rs") && !path.starts_with("tests/tidy/"));
        // a file git still lists may be gone from the tree
        let read =
            |path: String| Some(Source { text: std::fs::read_to_string(root().join(&path)).ok()?, path });
        rust.filter_map(read).collect()
    })
}

impl Source {
    /// Lines of code that contain one of the words.
    pub fn forbid(&self, words: &[&str], why: &str) -> Vec<String> {
        self.find(self.text.lines(), words, why)
    }

    /// The same, up to the file's tests, which are last in a file (or a file of their own).
    pub fn forbid_outside_tests(&self, words: &[&str], why: &str) -> Vec<String> {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if name.contains("test") || self.path.contains("/tests/") {
            return Vec::new();
        }
        self.find(
            self.text.lines().take_while(|line| !line.trim_start().starts_with("#[cfg(test)]")),
            words,
            why,
        )
    }

    fn find<'a>(&self, lines: impl Iterator<Item = &'a str>, words: &[&str], why: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in lines.enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            found.extend(
                words.iter().filter(|word| contains(code, word)).map(|word| {
                    format!("{}:{}: `{}` {why}", self.path, number + 1, word.trim_end_matches('('))
                }),
            );
        }
        found
    }
}

/// Whether the word is there whole: `.awaits()` is no `.await`.
fn contains(code: &str, word: &str) -> bool {
    let goes_on = |it: char| it.is_alphanumeric() || it == '_';
    code.match_indices(word).any(|(at, _)| {
        let after = code[at + word.len()..].chars().next();
        !(word.ends_with(goes_on) && after.is_some_and(goes_on))
    })
}

#[test]
fn comments_and_tests_are_left_alone() {
    let text = "// no todo!() here\nfn f() { Mutex }\n#[cfg(test)]\nmod tests { Mutex }\n";
    let source = Source { path: "media/src/x.rs".into(), text: text.into() };
    assert!(source.forbid(&["todo!("], "").is_empty());
    assert!(!contains("it.awaits_key_frame()", ".await") && contains("it.await?", ".await"));
    assert_eq!(source.forbid_outside_tests(&["Mutex"], "x"), vec!["media/src/x.rs:2: `Mutex` x"]);
}
