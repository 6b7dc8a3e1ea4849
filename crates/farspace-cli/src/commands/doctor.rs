//! `farspace doctor`.

use crate::cli::ReportArgs;
use crate::doctor::{Found, Report};
use crate::table::wrap;

/// Columns of a terminal that the table fits in.
const WIDTH: usize = 100;
/// Columns before the explanation.
const INDENT: usize = 33;

/// Probes and prints. Missing capabilities are findings, not failures.
pub(crate) fn run(args: ReportArgs) -> anyhow::Result<()> {
    args.format().print(&Report::probe(), render)
}

fn render(report: &Report) -> String {
    let mut text = format!("farspace doctor: Linux {} on {}\n\n", report.kernel, report.machine);
    for capability in &report.capabilities {
        let found = match capability.found {
            Found::Yes => "yes",
            Found::Partly => "partly",
            Found::No => "no",
        };
        let mut lines = wrap(&format!("{}: {}", capability.detail, capability.meaning), WIDTH - INDENT);
        if let Some(remedy) = &capability.remedy {
            lines.extend(wrap(&format!("-> {remedy}"), WIDTH - INDENT));
        }
        for (nr, line) in lines.iter().enumerate() {
            let (name, found) = if nr == 0 { (capability.name, found) } else { ("", "") };
            text.push_str(&format!("{name:<24} {found:<7} {line}\n"));
        }
    }
    text.push('\n');
    let verdict = format!("Here, {}", report.verdict.sentence());
    text.push_str(&wrap(&verdict, WIDTH).join("\n"));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_in_a_hundred_columns() {
        let text = render(&Report::probe());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }
}
