//! What stands in for coverage on stable Rust: targets note what a parser said, and the driver keeps inputs that made it say
//! something new. Under libFuzzer the notes are ignored.

use std::cell::RefCell;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher};

const BITS: usize = 1 << 16;

struct Map {
    seen: Vec<u64>,
    /// Since the last [`take`].
    new: bool,
}

thread_local! {
    static MAP: RefCell<Map> = const { RefCell::new(Map { seen: Vec::new(), new: false }) };
}

/// Notes an outcome: errors, kinds of messages, states. Digits are left out, so that a new length is not a new outcome.
pub fn note(what: &impl Debug) {
    if cfg!(feature = "libfuzzer") {
        return;
    }
    struct Letters(DefaultHasher, usize);
    impl std::fmt::Write for Letters {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for byte in text.bytes().filter(|byte| !byte.is_ascii_digit()) {
                self.1 += 1;
                if self.1 > 160 {
                    return Err(std::fmt::Error);
                }
                self.0.write_u8(byte);
            }
            Ok(())
        }
    }
    let mut letters = Letters(DefaultHasher::new(), 0);
    let _ = std::fmt::write(&mut letters, format_args!("{what:?}"));
    mark(letters.0.finish());
}

/// Notes a number by its magnitude: how many packets, how long.
pub fn note_count(what: &str, count: usize) {
    let mut hasher = DefaultHasher::new();
    hasher.write(what.as_bytes());
    hasher.write_u32(usize::BITS - count.leading_zeros());
    mark(hasher.finish());
}

fn mark(hash: u64) {
    if cfg!(feature = "libfuzzer") {
        return;
    }
    MAP.with_borrow_mut(|map| {
        if map.seen.is_empty() {
            map.seen = vec![0; BITS / 64];
        }
        let bit = hash as usize % BITS;
        let word = &mut map.seen[bit / 64];
        map.new |= *word & 1 << (bit % 64) == 0;
        *word |= 1 << (bit % 64);
    });
}

/// Whether anything new was noted since the last call.
pub fn take() -> bool {
    MAP.with_borrow_mut(|map| std::mem::take(&mut map.new))
}

/// Forgets everything: for the next target.
pub fn clear() {
    MAP.with_borrow_mut(|map| {
        map.seen.fill(0);
        map.new = false;
    });
}
