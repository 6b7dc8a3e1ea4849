//! Measures entries in turns: what disturbs the machine for a moment disturbs all of them alike.

use std::time::Duration;

use anyhow::Context as _;

use super::super::report::{Report, Unit};
use super::super::skip;
use super::entry::{Entry, Round};
use crate::interrupt;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Rounds of each entry.
    rounds: usize,
    /// How long one round is to take.
    round_time: Duration,
}

/// For figures.
pub(super) const FULL: Scale = Scale { rounds: 31, round_time: Duration::from_millis(10) };
/// For a trial.
pub(super) const QUICK: Scale = Scale { rounds: 3, round_time: Duration::from_millis(5) };

/// An entry whose rounds take longer has fewer of them: so many at least, then until it has had this long.
const FEWEST_ROUNDS: usize = 5;
const ENOUGH: Duration = Duration::from_secs(3);
/// Bounds of the number of calls in a round.
const MIN_CALLS: u32 = 16;
const MAX_CALLS: u32 = 1 << 24;
/// Trial rounds.
const CALIBRATIONS: u32 = 8;

/// An entry that has been set up.
struct Subject<'a> {
    entry: &'a Entry,
    round: Round,
    nr_calls: u32,
    /// One for each round, in nanoseconds per call.
    samples: Vec<f64>,
    spent: Duration,
}

/// Sets up all entries, measures them in turns and adds a row for each; what can't be set up is a named skip.
pub(super) fn measure(entries: &[&Entry], scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut subjects = Vec::new();
    for entry in entries {
        interrupt::check()?;
        match (entry.start)() {
            Ok(round) => subjects.push(Subject {
                entry,
                round,
                nr_calls: MIN_CALLS,
                samples: Vec::new(),
                spent: Duration::ZERO,
            }),
            Err(error) => skip(entry.name, &format!("{error:#}")),
        }
    }
    for subject in &mut subjects {
        subject.calibrate(scale.round_time)?;
    }
    for turn in 0..scale.rounds {
        // Who comes after whom alternates.
        if turn % 2 == 0 {
            subjects.iter_mut().try_for_each(Subject::sample)?;
        } else {
            subjects.iter_mut().rev().try_for_each(Subject::sample)?;
        }
    }
    for subject in &subjects {
        add(subject, &subjects, report);
    }
    Ok(())
}

impl Subject<'_> {
    /// Chooses the number of calls so that a round takes about `round_time`.
    fn calibrate(&mut self, round_time: Duration) -> anyhow::Result<()> {
        // Again and again: few calls take longer, each for itself, and what is new is slow at first.
        for _ in 0..CALIBRATIONS {
            let took = self.run()?;
            let fitting = f64::from(self.nr_calls) * round_time.as_secs_f64() / took.as_secs_f64().max(1e-9);
            self.nr_calls =
                (fitting as u32).clamp(MIN_CALLS, MAX_CALLS.min(self.nr_calls.saturating_mul(16)));
        }
        Ok(())
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        if self.samples.len() >= FEWEST_ROUNDS && self.spent > ENOUGH {
            return Ok(());
        }
        let took = self.run()?;
        self.spent += took;
        self.samples.push(took.as_secs_f64() * 1e9 / f64::from(self.nr_calls));
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Duration> {
        interrupt::check()?;
        (self.round)(self.nr_calls).with_context(|| format!("measure {}", self.entry.name))
    }
}

/// The row of `subject`, with a ratio if everything that it is compared with was measured.
fn add(subject: &Subject<'_>, all: &[Subject<'_>], report: &mut Report) {
    let Entry { name, against, .. } = subject.entry;
    let find = |name: &&str| all.iter().find(|other| other.entry.name == *name);
    let theirs: Option<Vec<_>> = against.iter().map(find).collect();
    match theirs.filter(|theirs| !theirs.is_empty()) {
        None => report.add(*name, Unit::Ns, &subject.samples),
        Some(theirs) => {
            // The rounds of one turn; one of them may have had fewer.
            let sum = |turn: usize| theirs.iter().map(|other| other.samples.get(turn)).sum::<Option<f64>>();
            let pairs: Vec<_> = subject
                .samples
                .iter()
                .enumerate()
                .filter_map(|(turn, ours)| Some((*ours, sum(turn)?)))
                .collect();
            report.add_against(name, &against.join(" + "), Unit::Ns, &pairs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many nanoseconds per call, without taking them.
    fn constant<const NS: u64>() -> anyhow::Result<Round> {
        Ok(Box::new(|nr_calls| Ok(Duration::from_nanos(NS) * nr_calls)))
    }

    const A: Entry = Entry::baseline("a", constant::<100>);
    const B: Entry = Entry::baseline("b", constant::<300>);
    const GONE: Entry = Entry::baseline("gone", || anyhow::bail!("it is never there"));

    fn rows(entries: &[&Entry]) -> serde_json::Value {
        let mut report = Report::new();
        measure(entries, QUICK, &mut report).unwrap();
        serde_json::to_value(&report).unwrap()["rows"].take()
    }

    #[test]
    fn sums_are_baselines() {
        let ours = Entry { name: "ours", against: &["a", "b"], start: constant::<200> };
        let rows = rows(&[&A, &B, &ours]);
        assert_eq!(rows[2]["baseline"], "a + b");
        assert!((rows[2]["ratio"].as_f64().unwrap() - 2.0).abs() < 1e-6, "{rows}");
        assert!((rows[0]["median"].as_f64().unwrap() - 100.0).abs() < 1e-6, "{rows}");
        assert_eq!((&rows[0]["n"], rows[0].get("ratio")), (&3.into(), None));
    }

    #[test]
    fn a_row_outlives_its_baseline() {
        let ours = Entry { name: "ours", against: &["gone"], start: constant::<200> };
        let rows = rows(&[&GONE, &ours]);
        assert_eq!(rows.as_array().unwrap().len(), 1);
        assert_eq!((&rows[0]["name"], rows[0].get("baseline")), (&"ours".into(), None));
    }
}
