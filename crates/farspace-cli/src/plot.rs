//! Drawings, as SVG files.

use std::path::Path;

use plotters::prelude::*;

use crate::engine::DumpOutcome;
use crate::failure::Failure;

const SIZE: (u32, u32) = (800, 500);
const REMAINING: RGBColor = RGBColor(31, 119, 180);
const DOWNTIME: RGBColor = RGBColor(214, 39, 40);

/// Draws the rounds of a dump: pages that had changed, and how long the stop would have been or was.
pub(crate) fn draw(path: &Path, outcome: &DumpOutcome) -> Result<(), Failure> {
    let mut svg = String::new();
    rounds(&mut svg, outcome).map_err(|error| failure(path, &std::io::Error::other(error)))?;
    std::fs::write(path, svg).map_err(|error| failure(path, &error))
}

fn failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::output(format!("cannot draw {}", path.display()), error)
}

fn rounds(svg: &mut String, outcome: &DumpOutcome) -> Result<(), String> {
    let last = outcome.rounds.len() + 1;
    let pages = |bytes: u64| (bytes / 4096).max(1) as f64;
    let ms = |ns: u64| (ns as f64 / 1e6).max(0.001);
    let mut remaining: Vec<_> =
        outcome.rounds.iter().map(|round| pages(round.changed_bytes)).zip(1..).collect();
    remaining.push((pages(outcome.last_bytes), last));
    let mut downtime: Vec<_> =
        outcome.rounds.iter().map(|round| ms(round.stop_estimate_ns)).zip(1..).collect();
    downtime.push((ms(outcome.stop_ns), last));
    let highest = |points: &[(f64, usize)]| points.iter().map(|point| point.0).fold(1.0, f64::max) * 2.0;

    let text = |e: DrawingAreaErrorKind<std::io::Error>| e.to_string();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let title = format!("process {}: {} rounds, then a stop", outcome.pid, outcome.rounds.len());
    let x = 0.5..last as f64 + 0.5;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .right_y_label_area_size(70)
        .build_cartesian_2d(x.clone(), (1.0..highest(&remaining)).log_scale())
        .map_err(text)?
        .set_secondary_coord(x, (0.001..highest(&downtime)).log_scale());
    chart
        .configure_mesh()
        .x_labels(last.min(20))
        .x_label_formatter(&|x| if *x as usize == last { "stop".to_owned() } else { format!("{x:.0}") })
        .x_desc("round")
        .y_desc("pages that had changed")
        .draw()
        .map_err(text)?;
    chart.configure_secondary_axes().y_desc("downtime, ms").draw().map_err(text)?;
    let points = |points: &[(f64, usize)]| -> Vec<(f64, f64)> {
        points.iter().map(|&(y, round)| (round as f64, y)).collect()
    };
    let (remaining, downtime) = (points(&remaining), points(&downtime));
    let dots = |color: RGBColor| move |&point: &(f64, f64)| Circle::new(point, 4, color.filled());
    chart
        .draw_series(LineSeries::new(remaining.iter().copied(), REMAINING.stroke_width(2)))
        .map_err(text)?
        .label("pages")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], REMAINING));
    chart.draw_series(remaining.iter().map(dots(REMAINING))).map_err(text)?;
    chart
        .draw_secondary_series(LineSeries::new(downtime.iter().copied(), DOWNTIME.stroke_width(2)))
        .map_err(text)?
        .label("downtime: estimated for each round, measured for the stop")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], DOWNTIME));
    chart.draw_secondary_series(downtime.iter().map(dots(DOWNTIME))).map_err(text)?;
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(text)?;
    area.present().map_err(text)
}

/// One service, and what its clients saw in each kind of run.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
}

/// One kind of run.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) per_s: f64,
    pub(crate) p999_ms: f64,
    pub(crate) longest_ms: f64,
}

/// One of the numbers.
type Quantity = fn(&Bar) -> f64;

/// Draws throughput and latency of services: three panels for each.
pub(crate) fn services(path: &Path, groups: &[Group]) -> Result<(), Failure> {
    let mut svg = String::new();
    panels(&mut svg, groups).map_err(|error| failure(path, &std::io::Error::other(error)))?;
    std::fs::write(path, svg).map_err(|error| failure(path, &error))
}

fn panels(svg: &mut String, groups: &[Group]) -> Result<(), String> {
    let text = |e: DrawingAreaErrorKind<std::io::Error>| e.to_string();
    let height = 260 * groups.len().max(1) as u32;
    // A freeze meets few requests: it shows in the longest latency.
    let quantities: [(&str, Quantity); 3] = [
        ("requests per second", |bar| bar.per_s),
        ("p99.9 latency, ms", |bar| bar.p999_ms),
        ("longest latency, ms", |bar| bar.longest_ms),
    ];
    let width = 380 * quantities.len() as u32;
    let area = SVGBackend::with_string(svg, (width, height)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let cells = area.split_evenly((groups.len().max(1), quantities.len()));
    for (group, cells) in groups.iter().zip(cells.chunks(quantities.len())) {
        for ((label, of), cell) in quantities.iter().zip(cells) {
            let highest = group.bars.iter().map(*of).fold(f64::MIN_POSITIVE, f64::max);
            let nr = group.bars.len();
            let mut chart = ChartBuilder::on(cell)
                .caption(format!("{}: {label}", group.name), ("sans-serif", 15))
                .margin(10)
                .x_label_area_size(24)
                .y_label_area_size(60)
                .build_cartesian_2d(0.0..nr as f64, 0.0..highest * 1.15)
                .map_err(text)?;
            chart.configure_mesh().disable_x_mesh().x_labels(0).y_labels(5).draw().map_err(text)?;
            for (bar, index) in group.bars.iter().zip(0..) {
                let (left, right) = (f64::from(index) + 0.2, f64::from(index) + 0.8);
                let color = if bar.name == "gcore" { DOWNTIME } else { REMAINING };
                let value = of(bar);
                let shapes = [Rectangle::new([(left, 0.0), (right, value)], color.filled())];
                chart.draw_series(shapes).map_err(text)?;
                let shown = format!("{}: {value:.*}", bar.name, if value < 100.0 { 2 } else { 0 });
                chart
                    .draw_series([Text::new(shown, (left, value + highest * 0.08), ("sans-serif", 12))])
                    .map_err(text)?;
            }
        }
    }
    area.present().map_err(text)
}
