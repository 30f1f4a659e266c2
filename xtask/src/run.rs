//! Running other programs, with what they print counted on the way.
use crate::count::Count;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};

/// The top of the checkout, whatever the working directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is in the checkout")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

/// A command to run at the top of the checkout.
pub struct Run(Command);

/// Any program.
pub fn program(name: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    Run(command)
}

/// The cargo that runs us.
pub fn cargo(arguments: &[&str]) -> Run {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

impl Run {
    /// In a folder of the checkout.
    pub fn within(mut self, folder: &str) -> Run {
        self.0.current_dir(root().join(folder));
        self
    }

    /// With a variable of the environment.
    pub fn with(mut self, name: &str, value: &str) -> Run {
        self.0.env(name, value);
        self
    }

    /// Shows the command, runs it, says whether it succeeded.
    pub fn succeeds(mut self) -> bool {
        self.show();
        match self.0.status() {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("cannot run {:?}: {error}", self.0.get_program());
                false
            }
        }
    }

    /// Whether it runs and succeeds, in silence.
    pub fn answers(mut self) -> bool {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Its output, when it succeeds.
    pub fn output(mut self) -> Option<String> {
        let output = self.0.output().ok().filter(|it| it.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it, passes what it prints on, and counts the tests in that. A run that failed without a failed test
    /// (it did not compile, or was killed) counts as one failure.
    pub fn counted(mut self) -> Count {
        self.show();
        let child = self.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut count = Count::default();
        let Ok(mut child) = child else {
            eprintln!("cannot run {:?}", self.0.get_program());
            return Count { failed: 1, ..count };
        };
        let (sender, lines) = channel();
        relay(child.stdout.take().expect("piped"), sender.clone());
        relay(child.stderr.take().expect("piped"), sender);
        for line in lines {
            count.read(&String::from_utf8_lossy(&line));
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
        let good = child.wait().is_ok_and(|status| status.success());
        if !good && count.failed == 0 {
            count.failed = 1;
        }
        count
    }

    fn show(&self) {
        let words: Vec<_> = self.0.get_args().map(|it| it.to_string_lossy()).collect();
        let name = Path::new(self.0.get_program()).file_name().unwrap_or_default().to_string_lossy();
        println!("\n+ {name} {}", words.join(" "));
    }
}

/// Sends each line as it comes; the two outputs are mixed by whole lines only.
fn relay(source: impl Read + Send + 'static, lines: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if lines.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
}
