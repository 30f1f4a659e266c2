//! The same targets under libFuzzer, which is guided by coverage. The target's name comes in the environment, because libFuzzer
//! takes the command line; README.md has the commands.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&millrace_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("MILLRACE_FUZZ_TARGET").expect("MILLRACE_FUZZ_TARGET names the target");
    millrace_fuzz::target(&name).expect("MILLRACE_FUZZ_TARGET is the name of a target")
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
