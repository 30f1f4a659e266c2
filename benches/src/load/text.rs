//! An outcome for people, as text.

use std::fmt::{self, Write};

use super::outcome::{Group, Outcome};

/// Threads of the server listed.
const THREADS_LISTED: usize = 4;

/// The tables a run prints.
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a String has no error.
    let _ = write(outcome, &mut text);
    text
}

fn write(outcome: &Outcome, text: &mut String) -> fmt::Result {
    let name =
        if outcome.scenario.name.is_empty() { String::new() } else { format!("{}: ", outcome.scenario.name) };
    writeln!(text, "{name}{:.1} s measured\n", outcome.seconds)?;
    for group in outcome.groups.iter().filter(|group| group.publishes) {
        writeln!(
            text,
            "{}: {}/{} send, {} frames, {:.0} kbit/s each, frames late p99 {:.1} ms",
            group.name, group.with_picture, group.clients, group.frames, group.kbps_median, group.late_ms.p99
        )?;
    }
    let viewers: Vec<&Group> = outcome.viewers().collect();
    let width = viewers.iter().map(|group| group.name.len()).max().unwrap_or(0);
    writeln!(
        text,
        "\n{:width$} {:>11} {:>9} {:>8} {:>11} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
        "",
        "pictures",
        "delivered",
        "worst",
        "RTP packets",
        "lost",
        "p50 ms",
        "p95",
        "p99",
        "p99.9",
        "max",
        "freezes",
        "kbps min"
    )?;
    for group in &viewers {
        let delay = &group.delay_ms;
        writeln!(
            text,
            "{:width$} {:>11} {:>8.2}% {:>7.2}% {:>11} {:>8} {:>7.1} {:>7.1} {:>7.1} {:>7.1} {:>7.1} {:>8} {:>9.0}",
            group.name,
            format!("{}/{}", group.with_picture, group.clients),
            group.delivered_percent,
            group.worst_percent,
            group.packets,
            group.packets_lost,
            delay.p50,
            delay.p95,
            delay.p99,
            delay.p999,
            delay.max,
            group.freezes_ms.count,
            group.kbps_min,
        )?;
    }
    writeln!(text)?;
    for group in &viewers {
        writeln!(
            text,
            "{:width$} connected after p50 {:.1} ms, max {:.1}; first key frame p50 {:.1} ms, p95 {:.1}, max {:.1}",
            group.name,
            group.connect_ms.p50,
            group.connect_ms.max,
            group.first_key_ms.p50,
            group.first_key_ms.p95,
            group.first_key_ms.max
        )?;
        let skew = &group.skew_ms;
        if skew.count > 0 {
            writeln!(
                text,
                "{:width$} A/V skew p50 {:.1} ms, max {:.1} ({} beeps)",
                "", skew.p50, skew.max, skew.count
            )?;
        }
        let odd = [
            ("joins", group.joins),
            ("packets recovered", group.packets_recovered),
            ("reordered", group.packets_reordered),
            ("again", group.packets_again),
            ("frames again", group.frames_again),
            ("frames from before the join", group.frames_old),
            ("thrown away by its own link", group.packets_discarded),
        ];
        let odd: Vec<String> =
            odd.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {n}")).collect();
        if !odd.is_empty() {
            writeln!(text, "{:width$} {}", "", odd.join(", "))?;
        }
    }
    if let Some(server) = &outcome.server {
        let threads = server.cpu.threads.iter().take(THREADS_LISTED);
        let threads: Vec<String> = threads.map(|(name, percent)| format!("{name} {percent:.0}")).collect();
        let [voluntary, forced] = server.cpu.switches_per_second;
        writeln!(
            text,
            "\nserver: {:.1} % of a core ({}), {:.0} MiB ({:.0} before), context switches {voluntary:.0}/s + {forced:.0}/s forced",
            server.cpu.percent,
            threads.join(", "),
            mib(server.rss_bytes),
            mib(server.rss_bytes_before),
        )?;
        let dropped =
            server.metrics.iter().filter(|(name, ..)| name.contains("drop") || name.contains("overflow"));
        for (name, before, after) in dropped {
            writeln!(text, "server: {name} {}", after - before)?;
        }
    }
    writeln!(
        text,
        "harness: {:.1} % of a core (busiest worker; {:.0} in its worst second)",
        outcome.harness.worker_percent, outcome.harness.worker_percent_max
    )?;
    outcome.warnings.iter().try_for_each(|warning| writeln!(text, "{warning}"))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
