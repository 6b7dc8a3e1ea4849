//! Rows and what is computed from samples.

use serde::Serialize;

use crate::doctor;
use crate::table::{Align, render};

/// What a row's numbers are, and whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// 10^9 bytes per second; more is better.
    #[serde(rename = "GB/s")]
    GbPerS,
    /// Milliseconds; less is better.
    #[serde(rename = "ms")]
    Ms,
    /// Mebibytes; less is better.
    #[serde(rename = "MiB")]
    MiB,
    /// Nanoseconds for each call or round trip; less is better.
    #[serde(rename = "ns")]
    Ns,
    /// Requests per second; more is better.
    #[serde(rename = "1/s")]
    PerS,
    /// A number of things.
    #[serde(rename = "")]
    Count,
}

impl Unit {
    fn more_is_better(self) -> bool {
        matches!(self, Self::GbPerS | Self::PerS)
    }

    fn name(self) -> &'static str {
        match self {
            Self::GbPerS => "GB/s",
            Self::Ms => "ms",
            Self::MiB => "MiB",
            Self::Ns => "ns",
            Self::PerS => "1/s",
            Self::Count => "",
        }
    }
}

/// One measured quantity.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    name: String,
    unit: Unit,
    best: f64,
    median: f64,
    n: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<String>,
    /// Median over the pairs of the run; above 1 is better than the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// All rows of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report of this machine.
    pub(super) fn new() -> Self {
        Self { machine: doctor::machine(), kernel: doctor::kernel_release(), rows: Vec::new() }
    }

    /// True as long as nothing has been added.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row without a baseline; nothing for no samples.
    pub(super) fn add(&mut self, name: impl Into<String>, unit: Unit, samples: &[f64]) {
        if samples.is_empty() {
            return;
        }
        let pick = if unit.more_is_better() { f64::max } else { f64::min };
        self.rows.push(Row {
            name: name.into(),
            unit,
            best: samples.iter().copied().reduce(pick).unwrap_or_default(),
            median: median(samples),
            n: samples.len(),
            baseline: None,
            ratio: None,
        });
    }

    /// Adds ours and its baseline, from pairs (ours, theirs).
    pub(super) fn add_pairs(&mut self, ours: &str, theirs: &str, unit: Unit, pairs: &[(f64, f64)]) {
        let samples: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        self.add(theirs, unit, &samples);
        self.add_against(ours, theirs, unit, pairs);
    }

    /// Adds ours only, from pairs (ours, theirs): the baseline has a row already, or is computed from rows.
    pub(super) fn add_against(&mut self, ours: &str, theirs: &str, unit: Unit, pairs: &[(f64, f64)]) {
        let samples: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        self.add(ours, unit, &samples);
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|(ours, theirs)| if unit.more_is_better() { ours / theirs } else { theirs / ours })
            .collect();
        if let (Some(row), false) = (self.rows.last_mut(), pairs.is_empty()) {
            row.baseline = Some(theirs.to_owned());
            row.ratio = Some(median(&ratios));
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let header = [
            ("name", Align::Left),
            ("median", Align::Right),
            ("best", Align::Right),
            ("unit", Align::Left),
            ("n", Align::Right),
            ("ratio", Align::Right),
            ("baseline", Align::Left),
        ];
        let rows: Vec<_> = self.rows.iter().map(cells).collect();
        format!("Linux {} on {}\n\n{}", self.kernel, self.machine, render(&header, &rows))
    }
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.name.clone(),
        format!("{:.3}", row.median),
        format!("{:.3}", row.best),
        row.unit.name().to_owned(),
        row.n.to_string(),
        row.ratio.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default(),
        row.baseline.clone().unwrap_or_default(),
    ]
}

/// The median; the mean of the middle two for an even number, 0 for none.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_above_one_for_the_better() {
        let mut report = Report::new();
        report.add_pairs("a", "b", Unit::GbPerS, &[(4.0, 2.0), (9.0, 3.0), (4.0, 1.0)]);
        report.add_pairs("c", "d", Unit::Ms, &[(1.0, 2.0)]);
        assert_eq!(report.rows[1].ratio, Some(3.0));
        assert_eq!(report.rows[3].ratio, Some(2.0));
        assert_eq!((report.rows[1].best, report.rows[1].median), (9.0, 4.0));
        assert_eq!(report.rows[0].ratio, None);
    }

    #[test]
    fn nanoseconds_are_better_when_fewer() {
        let mut report = Report::new();
        report.add_against("a", "b + c", Unit::Ns, &[(100.0, 300.0), (200.0, 300.0), (100.0, 500.0)]);
        assert_eq!(report.rows.len(), 1);
        assert_eq!((report.rows[0].best, report.rows[0].ratio), (100.0, Some(3.0)));
        assert_eq!(report.rows[0].baseline.as_deref(), Some("b + c"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
    }
}
