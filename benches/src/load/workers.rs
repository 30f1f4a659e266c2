//! The coordinator's hold on its worker processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan::{Begin, Finished, Order, Said, Second};

/// What workers count at the end is there by then.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

struct Worker {
    child: Child,
    orders: ChildStdin,
}

/// All workers of a run. They end with this value.
pub struct Workers {
    all: Vec<Worker>,
    said: Receiver<(usize, Result<Said, String>)>,
}

impl Workers {
    /// Starts one for each part of the plan.
    pub fn start(parts: Vec<Begin>) -> Result<Workers> {
        let program = std::env::current_exe().context("this program's own path")?;
        let (sender, said) = channel();
        let mut all = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {} worker", program.display()))?;
            let (orders, lines) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(lines).lines() {
                    let said = line.map_err(|error| error.to_string()).and_then(|line| {
                        serde_json::from_str(&line).map_err(|error| format!("{error} in {line:.200}"))
                    });
                    if sender.send((i, said)).is_err() {
                        return;
                    }
                }
                let _ = sender.send((i, Err("it ended".into())));
            });
            let mut worker = Worker { child, orders };
            worker.order(&Order::Begin(Box::new(part)))?;
            all.push(worker);
        }
        Ok(Workers { all, said })
    }

    /// Tells all.
    pub fn order(&mut self, order: &Order) -> Result<()> {
        self.all.iter_mut().try_for_each(|worker| worker.order(order))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.all.iter().map(|worker| worker.child.id()).collect()
    }

    /// The next second of one of them, if it comes in time.
    pub fn second(&mut self, wait: Duration) -> Result<Option<(usize, Second)>> {
        match self.said.recv_timeout(wait) {
            Ok((i, Ok(Said::Second(second)))) => Ok(Some((i, second))),
            Ok((_, Ok(Said::Finished(_)))) => bail!("a worker finished before it was told to"),
            Ok((i, Ok(Said::Broken(why)))) => bail!("worker {i} cannot go on: {why}"),
            Ok((i, Err(why))) => bail!("worker {i}: {why}"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("all workers are gone"),
        }
    }

    /// Has them leave, and takes what they counted; also, who could not say it.
    pub fn finish(&mut self) -> (Vec<Finished>, Vec<String>) {
        let (mut finished, mut missing) = (Vec::new(), Vec::new());
        let mut waiting: Vec<bool> =
            self.all.iter_mut().map(|worker| worker.order(&Order::Finish).is_ok()).collect();
        for (i, _) in waiting.iter().enumerate().filter(|(_, listens)| !**listens) {
            missing.push(format!("worker {i} is gone"));
        }
        let deadline = Instant::now() + FINISH_TIMEOUT;
        while waiting.contains(&true) {
            let left = deadline.saturating_duration_since(Instant::now());
            let (i, said) = match self.said.recv_timeout(left) {
                Ok((_, Ok(Said::Second(_)))) => continue,
                Ok(said) => said,
                Err(_) => {
                    missing
                        .push(format!("workers have not said what they counted within {FINISH_TIMEOUT:?}"));
                    break;
                }
            };
            if !std::mem::replace(&mut waiting[i], false) {
                continue;
            }
            match said {
                Ok(Said::Finished(one)) => finished.push(one),
                Ok(Said::Broken(why)) | Err(why) => missing.push(format!("worker {i}: {why}")),
                Ok(Said::Second(_)) => {}
            }
        }
        (finished, missing)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.all {
            // One that has finished is gone already.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

impl Worker {
    fn order(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).context("a worker does not listen any more")
    }
}
