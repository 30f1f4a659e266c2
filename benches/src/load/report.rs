//! The figures, as a table and as JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::process::Cpu;
use super::tally::{Tally, percentile};

/// A harness that takes more of its core is what was measured.
const HARNESS_CPU_PERCENT_MAX: f64 = 90.0;
/// Others on the node's or the harness's core that take more have made the delays.
const OTHERS_PERCENT_MAX: f64 = 10.0;
/// Threads of the node listed.
const THREADS_LISTED: usize = 4;

/// One run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The measured time.
    pub seconds: f64,
    /// Video frames published in it.
    pub frames_sent: u32,
    /// Bytes of audio and video published in it.
    pub bytes_sent: u64,
    /// The node's CPU.
    pub node_cpu: Cpu,
    /// The node's memory at its end.
    pub node_rss_bytes: u64,
    /// The harness's CPU.
    pub harness_cpu_percent: f64,
    /// What other processes took of the node's and the harness's core.
    pub others_percent: [f64; 2],
    /// WHEP, RTMP.
    pub tallies: [Tally; 2],
    /// The node's own count of what it dropped.
    pub drops: Vec<String>,
}

impl Report {
    /// Whether the harness was at its limit.
    pub fn harness_was_the_limit(&self) -> bool {
        self.harness_cpu_percent > HARNESS_CPU_PERCENT_MAX
    }

    /// Whether other processes had a part in the delays.
    pub fn was_disturbed(&self) -> bool {
        self.others_percent.iter().any(|percent| *percent > OTHERS_PERCENT_MAX)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String has no error.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        let published_kbps = self.bytes_sent as f64 * 8.0 / 1_000.0 / self.seconds;
        writeln!(
            text,
            "{:.1} s measured; published {} frames, {published_kbps:.0} kbit/s\n",
            self.seconds, self.frames_sent
        )?;
        writeln!(
            text,
            "{:5} {:>9} {:>9} {:>10} {:>11} {:>9} {:>8} {:>8} {:>8} {:>11} {:>11}",
            "",
            "viewers",
            "delivered",
            "worst",
            "RTP packets",
            "lost",
            "p50 ms",
            "p99 ms",
            "max ms",
            "1st key p50",
            "1st key max"
        )?;
        for (name, tally) in ["WHEP", "RTMP"].iter().zip(&self.tallies) {
            if tally.viewers == 0 {
                continue;
            }
            let ms = |us: Option<u32>| us.map_or("-".into(), |us| format!("{:.1}", f64::from(us) / 1_000.0));
            let key_ms = |us: Option<u64>| us.map_or("-".into(), |us| format!("{:.1}", us as f64 / 1_000.0));
            let worst = 100.0 * f64::from(tally.frames_least) / f64::from(self.frames_sent.max(1));
            writeln!(
                text,
                "{name:5} {:>9} {:>8.2}% {:>9.2}% {:>11} {:>9} {:>8} {:>8} {:>8} {:>11} {:>11}",
                format!("{}/{}", tally.with_picture, tally.viewers),
                self.delivered_percent(tally),
                worst,
                tally.packets,
                tally.packets_lost,
                ms(percentile(&tally.delays_us, 50)),
                ms(percentile(&tally.delays_us, 99)),
                ms(tally.delays_us.last().copied()),
                key_ms(percentile(&tally.first_keys_us, 50)),
                key_ms(tally.first_keys_us.last().copied()),
            )?;
        }
        let threads: Vec<String> = self
            .node_cpu
            .threads
            .iter()
            .take(THREADS_LISTED)
            .map(|(name, p)| format!("{name} {p:.0}"))
            .collect();
        writeln!(
            text,
            "\nnode: {:.1} % of a core ({}), {:.0} MiB; harness: {:.1} % of its core",
            self.node_cpu.percent,
            threads.join(", "),
            self.node_rss_bytes as f64 / f64::from(1 << 20),
            self.harness_cpu_percent
        )?;
        for (name, tally) in ["WHEP", "RTMP"].iter().zip(&self.tallies) {
            if let (count @ 1.., why) = &tally.failures {
                writeln!(
                    text,
                    "{count} {name} viewers failed; the first: {}",
                    why.as_deref().unwrap_or("unknown")
                )?;
            }
        }
        for drop in &self.drops {
            writeln!(text, "node: {drop}")?;
        }
        if self.was_disturbed() {
            let [node, harness] = self.others_percent;
            writeln!(
                text,
                "DISTURBED: other processes took {node:.0} % of the node's core and {harness:.0} % of the harness's; delays are theirs too"
            )?;
        }
        if self.harness_was_the_limit() {
            writeln!(
                text,
                "THE HARNESS WAS THE LIMIT: delays and losses above are its own; use fewer viewers"
            )?;
        }
        Ok(())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let viewers = |tally: &Tally| {
            let delay = |percent| percentile(&tally.delays_us, percent);
            let first_key = |percent| percentile(&tally.first_keys_us, percent);
            json!({
                "viewers": tally.viewers,
                "with_picture": tally.with_picture,
                "failed": tally.failures.0,
                "first_failure": tally.failures.1,
                "frames": tally.frames,
                "frames_of_the_worst": if tally.viewers == 0 { 0 } else { tally.frames_least },
                "delivered_percent": self.delivered_percent(tally),
                "rtp_packets": tally.packets,
                "rtp_packets_lost": tally.packets_lost,
                "delay_us": { "p50": delay(50), "p99": delay(99), "max": delay(100) },
                "first_key_frame_us": { "p50": first_key(50), "p99": first_key(99), "max": first_key(100) },
            })
        };
        let threads: serde_json::Map<String, Value> =
            self.node_cpu.threads.iter().map(|(name, percent)| (name.clone(), json!(percent))).collect();
        json!({
            "seconds": self.seconds,
            "published": { "frames": self.frames_sent, "bytes": self.bytes_sent },
            "whep": viewers(&self.tallies[0]),
            "rtmp": viewers(&self.tallies[1]),
            "node": {
                "cpu_percent": self.node_cpu.percent,
                "cpu_percent_by_thread": threads,
                "rss_bytes": self.node_rss_bytes,
                "drops": self.drops,
            },
            "harness": { "cpu_percent": self.harness_cpu_percent, "was_the_limit": self.harness_was_the_limit() },
            "others": { "node_core_percent": self.others_percent[0], "harness_core_percent": self.others_percent[1] },
        })
    }

    /// Writes [`Report::json`] to a file.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.json());
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn delivered_percent(&self, tally: &Tally) -> f64 {
        let wanted = tally.viewers as f64 * f64::from(self.frames_sent);
        if wanted == 0.0 { 0.0 } else { 100.0 * tally.frames as f64 / wanted }
    }
}
