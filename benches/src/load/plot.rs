//! Line plots as SVG, drawn for [`super::html`]: its style sheet has their colours, so that they follow light and dark. Or as files of their own.

use std::fmt::Write;

/// Sizes in the units of the view box; the page scales it to its column.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;
/// More points than this have no room; each drawn one is then the greatest of several.
const POINTS_MAX: usize = 240;
const TICKS: f64 = 5.0;
/// Of a file's title, and of each line of its legend.
const TEXT_HEIGHT: f64 = 18.0;
/// Columns of the legend.
const KEYS: usize = 3;
/// A file's: as [`super::html`]'s, in the light.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #5a5955; } .head { font-size: 14px; font-weight: 600; fill: #1a1a19; }
.end { text-anchor: end; } .mid { text-anchor: middle; } .grid { stroke: #dddcd6; } .axis, .tick { stroke: #5a5955; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; } .line.thin { stroke-dasharray: 4 4; }
.span { fill: #e6edf7; } .value { fill: transparent; }
.c0 { stroke: #2a78d6; } .c1 { stroke: #d9541e; } .c2 { stroke: #128a60; } .c3 { stroke: #b57700; }
.c4 { stroke: #c94a86; } .c5 { stroke: #3f7d1f; } .c6 { stroke: #4a3aa7; } .c7 { stroke: #c92f2e; }
";

/// How an axis goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten.
    Log,
    /// Percentiles, by how little is above them: 0, 90, 99, 99.9, ...
    Percentile,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// Which of the style sheet's colours.
    pub colour: usize,
    /// A second line of the same thing.
    pub thin: bool,
    /// Ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The axes, with units.
    pub x: &'static str,
    /// See `x`.
    pub y: &'static str,
    /// See [`Scale`].
    pub x_scale: Scale,
    /// See [`Scale`].
    pub y_scale: Scale,
    /// What is drawn.
    pub lines: Vec<Line>,
    /// A part of x that is shaded.
    pub shade: Option<(f64, f64)>,
}

struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Axis {
        let values = values.filter(|value| value.is_finite());
        let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let (from, to) = match scale {
            Scale::Linear => {
                let least = values.fold(0.0, f64::min);
                let step = step(most.max(0.0) - least);
                ((least / step).floor() * step, ((most / step).ceil() * step).max(step))
            }
            Scale::Log => {
                let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let most = if most > 0.0 { most } else { 1.0 };
                let least = least.min(most);
                (tick_of_log(least, false), tick_of_log(most, true).max(tick_of_log(least, false) * 2.0))
            }
            Scale::Percentile => (0.0, most.clamp(90.0, 99.9999)),
        };
        Axis { scale, from, to }
    }

    /// 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let place = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(self.from).log10(),
            // What is above, in powers of ten.
            Scale::Percentile => -(1.0 - value.min(99.9999) / 100.0).log10(),
        };
        ((place(value) - place(self.from)) / (place(self.to) - place(self.from))).clamp(0.0, 1.0)
    }

    /// Values with a line, and what stands beside it.
    fn ticks(&self) -> Vec<(f64, String)> {
        let values: Vec<f64> = match self.scale {
            Scale::Linear => {
                let step = step(self.to - self.from);
                let first = (self.from / step - 1e-6).ceil();
                (0..=(TICKS as u32) * 3).map(|i| (first + f64::from(i)) * step).collect()
            }
            Scale::Log => {
                let decades = (self.to / self.from).log10();
                let parts: &[f64] = if decades <= 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let first = self.from.log10().floor() as i32;
                let powers = (first..=first + decades.ceil() as i32 + 1).map(|power| 10_f64.powi(power));
                powers.flat_map(|power| parts.iter().map(move |part| power * part)).collect()
            }
            Scale::Percentile => vec![0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999],
        };
        let near = 1e-6 * (self.to - self.from).min(self.to.abs());
        let inside = |value: &f64| *value >= self.from - near && *value <= self.to + near;
        values.into_iter().filter(inside).map(|value| (value, short(value))).collect()
    }
}

/// A round step for about [`TICKS`] of them.
fn step(range: f64) -> f64 {
    if range <= 0.0 || !range.is_finite() {
        return 1.0;
    }
    let rough = range / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * power >= rough * 0.75);
    round.unwrap_or(10.0) * power
}

/// The next 1, 2 or 5 of a power of ten, below or above.
fn tick_of_log(value: f64, above: bool) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let mut ticks = [1.0, 2.0, 5.0, 10.0].map(|part| part * power);
    if !above {
        ticks.reverse();
    }
    let beyond = |tick: &f64| if above { *tick >= value * 0.999_999 } else { *tick <= value * 1.000_001 };
    ticks.into_iter().find(beyond).unwrap_or(value)
}

/// A number with as many digits as it needs.
pub fn short(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 1e9 => return format!("{value:.1e}"),
        v if v >= 1e6 => return format!("{}M", short(value / 1e6)),
        v if v >= 1e4 => return format!("{}k", short(value / 1e3)),
        v if (90.0..100.0).contains(&v) => format!("{value:.3}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// At most [`POINTS_MAX`] points: the greatest of each stretch, at its end.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let greatest = |part: &[(f64, f64)]| part.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    points.chunks(stretch).filter_map(|part| Some((part.last()?.0, greatest(part)))).collect()
}

impl Plot {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.is_empty())
    }

    /// The drawing. Names are escaped by `escape`; `id` is its own on the page.
    pub fn svg(&self, id: &str, escape: impl Fn(&str) -> String) -> String {
        let mut svg = String::new();
        // Writing to a String has no error.
        let _ = self.draw(id, &escape, &mut svg);
        svg
    }

    /// The drawing as a file, with title and legend. Names are escaped by `escape`.
    pub fn file(&self, escape: impl Fn(&str) -> String) -> String {
        let rows = self.lines.len().div_ceil(KEYS) as f64;
        let height = HEIGHT + TEXT_HEIGHT * (rows + 2.0);
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style>"##
        );
        svg += r##"<rect width="100%" height="100%" fill="#fcfcfb"/>"##;
        svg += &format!(r#"<text class="head" x="{RIGHT}" y="{TEXT_HEIGHT}">{}</text>"#, escape(&self.title));
        let inner = self.svg("plot", &escape);
        let place = format!(r#"<svg y="{}" width="{WIDTH}" height="{HEIGHT}""#, 1.5 * TEXT_HEIGHT);
        svg += &inner.replacen("<svg", &place, 1);
        for (number, line) in self.lines.iter().enumerate() {
            let x = LEFT + (number % KEYS) as f64 * (WIDTH - LEFT - RIGHT) / KEYS as f64;
            let y = HEIGHT + TEXT_HEIGHT * ((number / KEYS) as f64 + 2.2);
            svg += &format!(
                r#"<path class="line c{}" d="M{x} {}h16"/><text x="{}" y="{y}">{}</text>"#,
                line.colour,
                y - 4.0,
                x + 22.0,
                escape(&line.name)
            );
        }
        svg + "</svg>\n"
    }

    fn draw(&self, id: &str, escape: &dyn Fn(&str) -> String, svg: &mut String) -> std::fmt::Result {
        let lines: Vec<Vec<(f64, f64)>> = self.lines.iter().map(|line| thinned(&line.points)).collect();
        let points = lines.iter().flatten();
        let x = match self.x_scale {
            // Time goes from its first to its last second, not to a round number.
            Scale::Linear => {
                let most = points.clone().map(|point| point.0).fold(1.0, f64::max);
                Axis { scale: Scale::Linear, from: 0.0, to: most }
            }
            scale => Axis::over(scale, points.clone().map(|point| point.0)),
        };
        let y = Axis::over(self.y_scale, points.map(|point| point.1));
        let at_x = |value: f64| LEFT + x.at(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value: f64| HEIGHT - BOTTOM - y.at(value) * (HEIGHT - TOP - BOTTOM);
        let (bottom, middle) = (HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2.0);
        write!(
            svg,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{}</title><desc id="{id}-d">{} over {}: "#,
            escape(&self.title),
            self.y,
            self.x
        )?;
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let most = line.points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
            write!(svg, "{}, at most {}; ", escape(&line.name), short(most))?;
        }
        write!(svg, "</desc>")?;
        if let Some((from, to)) = self.shade {
            let (from, to) = (at_x(from), at_x(to));
            write!(
                svg,
                r#"<rect class="span" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}"/>"#,
                to - from,
                bottom - TOP
            )?;
        }
        for (value, text) in y.ticks() {
            let y = at_y(value);
            write!(svg, r#"<path class="grid" d="M{LEFT} {y:.1}H{:.1}"/>"#, WIDTH - RIGHT)?;
            write!(svg, r#"<text x="{:.1}" y="{:.1}" class="end">{text}</text>"#, LEFT - 6.0, y + 4.0)?;
        }
        for (value, text) in x.ticks() {
            let x = at_x(value);
            write!(svg, r#"<path class="tick" d="M{x:.1} {bottom}v4"/>"#)?;
            write!(svg, r#"<text x="{x:.1}" y="{:.1}" class="mid">{text}</text>"#, bottom + 16.0)?;
        }
        write!(svg, r#"<path class="axis" d="M{LEFT} {bottom}H{:.1}"/>"#, WIDTH - RIGHT)?;
        write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" class="mid">{}</text>"#,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 5.0,
            self.x
        )?;
        write!(svg, r#"<text transform="translate(11 {middle}) rotate(-90)" class="mid">{}</text>"#, self.y)?;
        for (line, points) in self.lines.iter().zip(&lines) {
            let class = if line.thin { "line thin" } else { "line" };
            write!(svg, r#"<path class="{class} c{}" d=""#, line.colour)?;
            for (i, (x, y)) in points.iter().enumerate() {
                write!(svg, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, at_x(*x), at_y(*y))?;
            }
            write!(svg, r#""/>"#)?;
        }
        self.draw_values(&lines, &at_x, escape, svg)?;
        write!(svg, "</svg>")
    }

    /// A strip at each point of the first line, that tells all values there when pointed at.
    fn draw_values(
        &self,
        lines: &[Vec<(f64, f64)>],
        at_x: &dyn Fn(f64) -> f64,
        escape: &dyn Fn(&str) -> String,
        svg: &mut String,
    ) -> std::fmt::Result {
        let mut places: Vec<f64> = lines.iter().flatten().map(|point| point.0).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        for (i, place) in places.iter().enumerate() {
            let middle = |other: Option<&f64>, edge: f64| {
                other.map_or(edge, |other| f64::midpoint(at_x(*other), at_x(*place)))
            };
            let from = middle(i.checked_sub(1).and_then(|i| places.get(i)), LEFT);
            let to = middle(places.get(i + 1), WIDTH - RIGHT);
            write!(
                svg,
                r#"<rect class="value" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}"><title>{}: {}"#,
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM,
                self.x,
                short(*place)
            )?;
            for (line, points) in self.lines.iter().zip(lines) {
                if let Some((_, value)) = points.iter().find(|point| point.0 == *place) {
                    write!(svg, "&#10;{}: {}", escape(&line.name), short(*value))?;
                }
            }
            write!(svg, "</title></rect>")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_around_what_they_show() {
        let texts = |scale, values: &[f64]| -> String {
            let axis = Axis::over(scale, values.iter().copied());
            axis.ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(Scale::Linear, &[0.0, 97.0]), "0 20 40 60 80 100");
        assert_eq!(texts(Scale::Linear, &[]), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(texts(Scale::Linear, &[0.0, 0.0]), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(texts(Scale::Linear, &[-3.0, 12_000.0]), "0 5000 10k");
        assert_eq!(texts(Scale::Log, &[0.3, 70.0]), "0.2 0.5 1 2 5 10 20 50 100");
        assert_eq!(texts(Scale::Log, &[0.01, 70_000.0]), "0.01 0.1 1 10 100 1000 10k 100k");
        assert_eq!(texts(Scale::Log, &[]), "1 2");
        assert_eq!(texts(Scale::Percentile, &[50.0, 99.95]), "0 50 90 99 99.9");
    }

    #[test]
    fn many_points_are_thinned_and_odd_ones_do_no_harm() {
        let points: Vec<(f64, f64)> = (0..86_400).map(|i| (f64::from(i), f64::from(i % 1_000))).collect();
        let few = thinned(&points);
        assert!(few.len() <= POINTS_MAX && few.iter().any(|point| point.1 == 999.0), "{}", few.len());
        let line = |points| Line { name: "a".into(), colour: 0, thin: false, points };
        for points in
            [vec![], vec![(0.0, 0.0)], vec![(f64::NAN, f64::INFINITY)], vec![(1.0, 1e300), (2.0, -1.0)]]
        {
            for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
                let plot = Plot {
                    title: "T".into(),
                    x: "s",
                    y: "ms",
                    x_scale: scale,
                    y_scale: Scale::Log,
                    lines: vec![line(points.clone())],
                    shade: Some((1.0, 2.0)),
                };
                assert!(plot.svg("p", str::to_owned).ends_with("</svg>"));
                let file = plot.file(str::to_owned);
                assert_eq!((file.matches("<svg").count(), file.matches("</svg>").count()), (2, 2));
            }
        }
    }
}
