//! The table, and the plots.

use std::cmp::Ordering;
use std::fmt::Write;

use super::arms::Arm;
use super::cell::Cell;
use super::crowd;
use super::measure::{Figures, PERCENTILES, later};
use super::{Results, Run};
use crate::load::html::escape;
use crate::load::plot::{Line, Plot, Scale};

/// A sender so late was held up by something else on the machine, a key frame's interval by far.
const DISTURBED_MS: f64 = 15.0;

/// The median of an even number is the greater of the two in the middle.
fn median<T: Copy>(values: impl Iterator<Item = T>, order: impl Fn(T, T) -> Ordering) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| order(*a, *b));
    values.get(values.len() / 2).copied()
}

/// Of each figure by itself.
fn medians(runs: &[&Run]) -> Figures {
    let number = |of: fn(&Figures) -> f64| {
        median(runs.iter().map(|run| of(&run.figures)), |a, b| a.total_cmp(&b)).unwrap_or(0.0)
    };
    let delay = |of: &dyn Fn(&Figures) -> Option<f64>| {
        median(runs.iter().map(|run| of(&run.figures)), later).unwrap_or(None)
    };
    Figures {
        frames: runs.iter().map(|run| run.figures.frames).sum(),
        undelivered_percent: number(|it| it.undelivered_percent),
        late_200_percent: number(|it| it.late_200_percent),
        late_400_percent: number(|it| it.late_400_percent),
        p50_ms: delay(&|it| it.p50_ms),
        p95_ms: delay(&|it| it.p95_ms),
        p99_ms: delay(&|it| it.p99_ms),
        max_ms: delay(&|it| it.max_ms),
        in_order_p99_ms: delay(&|it| it.in_order_p99_ms),
        curve_ms: (0..PERCENTILES.len())
            .map(|at| delay(&|it| it.curve_ms.get(at).copied().flatten()))
            .collect(),
        wire: number(|it| it.wire),
        packets_per_frame: number(|it| it.packets_per_frame),
        wire_back: number(|it| it.wire_back),
        beside_mbps: median(runs.iter().filter_map(|run| run.figures.beside_mbps), |a, b| a.total_cmp(&b)),
        // these two speak of the machine: the worst
        sender_late_ms: runs.iter().map(|run| run.figures.sender_late_ms).fold(0.0, f64::max),
        missed: runs.iter().map(|run| run.figures.missed).sum(),
    }
}

/// A cell's runs by arm.
type Arms<'a> = Vec<(Arm, Vec<&'a Run>)>;

/// Cells in the order of their first run, each with its arms' runs, in the arms' order.
fn grouped(results: &Results) -> Vec<(Cell, Arms<'_>)> {
    let mut cells: Vec<Cell> = Vec::new();
    for run in &results.runs {
        if !cells.contains(&run.cell) {
            cells.push(run.cell);
        }
    }
    let arms = |cell: &Cell| {
        let of =
            |arm: Arm| (arm, results.runs.iter().filter(|run| run.cell == *cell && run.arm == arm).collect());
        Arm::ALL.into_iter().map(of).filter(|(_, runs): &(_, Vec<_>)| !runs.is_empty()).collect()
    };
    cells.into_iter().map(|cell| (cell, arms(&cell))).collect()
}

fn ms(delay: Option<f64>) -> String {
    delay.map_or_else(
        || "-".into(),
        |delay| if delay < 100.0 { format!("{delay:.1}") } else { format!("{delay:.0}") },
    )
}

/// Figures of a run in a line.
pub fn line(figures: &Figures) -> String {
    format!(
        "p50 {} p99 {} max {} ms, {:.2} % undelivered, wire {:.3}",
        ms(figures.p50_ms),
        ms(figures.p99_ms),
        ms(figures.max_ms),
        figures.undelivered_percent,
        figures.wire + figures.wire_back
    )
}

/// Medians, a table for each cell.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    for (cell, arms) in grouped(results) {
        // Writing to a String has no error.
        let _ = writeln!(text, "**{cell}** (path {:.0} ms)\n", cell.path_ms());
        text.push_str(
            "| carried by | p50 ms | p95 | p99 | max | in order p99 | > 200 ms % | > 400 ms % | lost % | wire | of it back | packets a frame | runs | |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for (arm, runs) in arms {
            let it = medians(&runs);
            let delays = [it.p50_ms, it.p95_ms, it.p99_ms, it.max_ms, it.in_order_p99_ms].map(ms).join(" | ");
            let _ = writeln!(
                text,
                "| {} | {delays} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.1} | {} | {} |",
                arm.name(),
                it.late_200_percent,
                it.late_400_percent,
                it.undelivered_percent,
                it.wire + it.wire_back,
                it.wire_back,
                it.packets_per_frame,
                runs.len(),
                remarks(&it)
            );
        }
        text.push('\n');
    }
    results.crowds.iter().for_each(|crowd| text.push_str(&crowd::markdown(crowd)));
    text
}

/// What a reader of a row must know.
fn remarks(it: &Figures) -> String {
    let beside =
        it.beside_mbps.map(|mbps| format!("TCP-Cubic beside it {mbps:.1} Mbit/s (in wire and packets, too)"));
    let disturbed = (it.sender_late_ms > DISTURBED_MS || it.missed > 0)
        .then(|| format!("DISTURBED: sender {:.0} ms late, {} packets missed", it.sender_late_ms, it.missed));
    beside.into_iter().chain(disturbed).collect::<Vec<_>>().join("; ")
}

/// Each run in a line, for programs. A delay of a frame that did not come is empty.
pub fn tsv(results: &Results) -> String {
    let mut text = String::from(
        "kbps\thops\trtt_ms\tloss_percent\tburst\tjitter_ms\tcapacity\tboth\tbeside\tarm\tseed\tseconds\tframes\tp50_ms\tp95_ms\t\
         p99_ms\tmax_ms\tin_order_p99_ms\tlate_200_percent\tlate_400_percent\tundelivered_percent\twire\twire_back\tpackets_per_frame\t\
         beside_mbps\tsender_late_ms\tmissed\n",
    );
    for Run { cell, arm, seed, times, figures: it } in &results.runs {
        let delay = |delay: Option<f64>| delay.map_or_else(String::new, |delay| format!("{delay:.3}"));
        let delays = [it.p50_ms, it.p95_ms, it.p99_ms, it.max_ms, it.in_order_p99_ms].map(delay).join("\t");
        // Writing to a String has no error.
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{seed}\t{}\t{}\t{delays}\t{:.3}\t{:.3}\t{:.3}\t{:.4}\t{:.4}\t{:.2}\t{}\t{:.2}\t{}",
            cell.kbps,
            cell.hops,
            cell.rtt_ms,
            cell.loss_percent,
            cell.burst,
            cell.jitter_ms,
            cell.capacity,
            cell.both,
            cell.beside,
            arm.name(),
            times.seconds,
            it.frames,
            it.late_200_percent,
            it.late_400_percent,
            it.undelivered_percent,
            it.wire + it.wire_back,
            it.wire_back,
            it.packets_per_frame,
            delay(it.beside_mbps),
            it.sender_late_ms,
            it.missed
        );
    }
    text
}

/// Files by name: of each cell the delay by percentile, of cells that differ by loss alone the p99 over that.
pub fn plots(results: &Results) -> Vec<(String, String)> {
    let cells = grouped(results);
    let mut plots = Vec::new();
    for (cell, arms) in &cells {
        let plot = Plot {
            title: format!("Frame delay: {cell}"),
            x: "percent of the frames",
            y: "at most ms",
            x_scale: Scale::Percentile,
            y_scale: Scale::Log,
            lines: arms.iter().map(|(arm, runs)| curve(*arm, &medians(runs))).collect(),
            shade: None,
        };
        plots.push((format!("delay-{}.svg", cell.slug()), plot.file(escape)));
    }
    let mut groups: Vec<(Cell, u32)> = Vec::new();
    for (cell, _) in &cells {
        let group = (cell.without_loss(), cell.burst);
        if cell.loss_percent > 0.0 && !groups.contains(&group) {
            groups.push(group);
        }
    }
    for (path, burst) in groups {
        let is_in =
            |cell: &Cell| cell.without_loss() == path && (cell.burst == burst || cell.loss_percent == 0.0);
        let within: Vec<_> = cells.iter().filter(|(cell, _)| is_in(cell)).collect();
        if within.len() < 2 {
            continue;
        }
        let line = |arm: Arm| {
            let of = |(cell, arms): &&(Cell, Arms<'_>)| {
                let (_, runs) = arms.iter().find(|(other, _)| *other == arm)?;
                Some((cell.loss_percent, medians(runs).p99_ms?))
            };
            let mut points: Vec<(f64, f64)> = within.iter().filter_map(of).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { name: arm.name().into(), colour: colour(arm), thin: false, points }
        };
        let lines: Vec<Line> =
            Arm::ALL.into_iter().map(line).filter(|line| !line.points.is_empty()).collect();
        let kind = if burst > 0 { format!("bursts of {burst}") } else { "random".into() };
        let title = Cell { loss_percent: 0.0, ..path }.to_string().replace(", loss 0 %", "");
        let plot = Plot {
            title: format!("p99 of the frame delay, {kind} loss: {title}"),
            x: "percent lost (no point: more than 1 % of the frames undelivered)",
            y: "ms",
            x_scale: Scale::Linear,
            y_scale: Scale::Log,
            lines,
            shade: None,
        };
        let name = Cell { burst, ..path }.slug().replace("-loss0", "");
        plots.push((format!("p99-{name}.svg"), plot.file(escape)));
    }
    plots
}

fn colour(arm: Arm) -> usize {
    Arm::ALL.iter().position(|it| *it == arm).unwrap_or(0)
}

fn curve(arm: Arm, figures: &Figures) -> Line {
    let points = PERCENTILES.into_iter().zip(&figures.curve_ms).filter_map(|(percentile, delay)| {
        // all frames is no place on this scale
        Some((percentile, (*delay)?)).filter(|_| percentile < 100.0)
    });
    Line { name: arm.name().into(), colour: colour(arm), thin: false, points: points.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::hop::measure::Times;

    fn run(arm: Arm, loss_percent: f64, seed: u64, p99_ms: Option<f64>) -> Run {
        let cell = Cell {
            kbps: 4_000,
            hops: 1,
            rtt_ms: 100,
            loss_percent,
            burst: 0,
            jitter_ms: 0,
            capacity: 0.0,
            both: false,
            beside: false,
        };
        let figures = Figures {
            frames: 600,
            undelivered_percent: 0.0,
            late_200_percent: 0.0,
            late_400_percent: 0.0,
            p50_ms: Some(50.0),
            p95_ms: Some(60.0),
            p99_ms,
            max_ms: None,
            in_order_p99_ms: p99_ms,
            curve_ms: PERCENTILES.iter().map(|_| Some(50.0)).collect(),
            wire: 1.05,
            packets_per_frame: 14.0,
            wire_back: 0.01,
            sender_late_ms: seed as f64,
            beside_mbps: None,
            missed: 0,
        };
        let times = Times { settle_seconds: 3, seconds: 20, drain_seconds: 2 };
        Run { cell, arm, seed, times, figures }
    }

    #[test]
    fn medians_count_what_did_not_come_as_the_latest() {
        let runs = [
            run(Arm::Udp, 2.0, 1, None),
            run(Arm::Udp, 2.0, 2, Some(9.0)),
            run(Arm::Udp, 2.0, 3, Some(70.0)),
        ];
        let of = |runs: &[Run]| medians(&runs.iter().collect::<Vec<_>>());
        assert_eq!(of(&runs).p99_ms, Some(70.0));
        assert_eq!((of(&runs).frames, of(&runs).sender_late_ms), (1_800, 3.0));
        // of two, the worse
        assert_eq!(of(&runs[..2]).p99_ms, None);
    }

    #[test]
    fn each_cell_has_a_table_and_a_plot_and_losses_one_together() {
        let runs = vec![
            run(Arm::Millrace, 0.0, 1, Some(51.0)),
            run(Arm::RtmpBbr, 2.0, 1, Some(300.0)),
            run(Arm::Millrace, 2.0, 1, Some(160.0)),
            run(Arm::Millrace, 2.0, 2, Some(170.0)),
        ];
        let results = Results { runs, crowds: Vec::new() };
        let text = markdown(&results);
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("Millrace")).collect();
        assert!(rows.len() == 2 && rows[1].contains(" 170 ") && rows[1].ends_with(" 2 |  |"), "{text}");
        assert!(text.contains("loss 2 %** (path 50 ms)"), "{text}");
        let columns = |line: &str| line.matches('|').count();
        assert!(text.lines().filter(|line| line.starts_with('|')).all(|line| columns(line) == 15), "{text}");
        let text = tsv(&results);
        assert!(text.lines().all(|line| line.split('\t').count() == 27), "{text}");
        assert_eq!(text.lines().count(), 1 + results.runs.len());
        let plots = plots(&results);
        let names: Vec<&str> = plots.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["delay-4000k-1x100ms-loss0.svg", "delay-4000k-1x100ms-loss2.svg", "p99-4000k-1x100ms.svg"]
        );
        assert!(plots[2].1.contains("RTMP, BBR") && !plots[0].1.contains("RTMP, BBR"));
    }
}
