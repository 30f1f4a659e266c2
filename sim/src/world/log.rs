//! The log of one run.

use metrics::DropReason;
use rtc::rtcp;

use super::World;
use crate::peer::Model;

impl World {
    /// Writes an event to the log, when there is one.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.log {
            println!("{:>10} us  {}", self.now.us(), line());
        }
    }

    /// Writes what RTCP asks for.
    pub(super) fn say_rtcp(&self, who: &str, compound: &[u8]) {
        if !self.log {
            return;
        }
        let _ = rtcp::parse(compound, |event| match event {
            rtcp::Event::Nack { seqs, .. } => self.say(|| format!("{who} asks for {seqs:?}")),
            rtcp::Event::Pli { .. } | rtcp::Event::Fir { .. } => {
                self.say(|| format!("{who} asks for a key frame"))
            }
            _ => {}
        });
    }

    /// Says what each viewer saw, at the end of a run.
    fn say_views(&self) {
        for (peer, p) in self.peers.iter().enumerate() {
            if let Model::Receiver(receiver) = &p.model {
                let seen = &receiver.buffer.seen;
                self.say(|| {
                    format!(
                        "viewer {peer}: {} frames whole, {} played, {} numbers and {} key frames asked for, buffer {} us, {:?}, {:?}",
                        seen.complete.len(),
                        seen.played.len(),
                        receiver.nacked,
                        receiver.plis,
                        receiver.buffer.delay_us(),
                        p.oracle.bytes,
                        p.down.figures(),
                    )
                });
                for freeze in &seen.freezes {
                    self.say(|| {
                        format!("viewer {peer}: froze at {} us for {} us", freeze.from.us(), freeze.len_us)
                    });
                }
            }
        }
        for node in &self.nodes {
            let drops =
                DropReason::ALL.iter().map(|why| (why, node.metrics.drops(*why))).filter(|(_, n)| *n > 0);
            self.say(|| format!("a shard dropped {:?}", drops.collect::<Vec<_>>()));
        }
    }
}

/// A run with a log ends with what everybody saw.
impl Drop for World {
    fn drop(&mut self) {
        if self.log {
            self.say_views();
        }
    }
}
