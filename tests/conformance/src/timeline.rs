//! What the `timeline` victim reports, and what it means: was the target stopped?

use crate::case::Outcome;
use farspace_victims::harness::Victim;
use libtest_mimic::Failed;
use std::time::Duration;

/// The gaps since the last reset.
#[derive(Debug)]
pub(crate) struct Gaps {
    longest: Duration,
    stops: u64,
}

/// Asks the victim.
pub(crate) fn gaps(victim: &mut Victim) -> Result<Gaps, Failed> {
    let report = victim.command("report")?;
    let value = |key: &str| {
        let word = report.split_whitespace().find_map(|word| word.strip_prefix(key));
        word.and_then(|n| n.parse::<u64>().ok()).ok_or_else(|| format!("no {key} in {report:?}"))
    };
    Ok(Gaps { longest: Duration::from_nanos(value("net_ns=")?), stops: value("stops=")? })
}

/// Compares a period of `calls` calls with an idle one of the same length.
pub(crate) fn expect_undisturbed(idle: &Gaps, busy: &Gaps, calls: u64) -> Outcome {
    eprintln!("{calls} calls; idle before: {idle:?}; during: {busy:?}");
    // Were each call a stop, there would be as many stops as calls; a few are the machine's own.
    if busy.stops > calls / 20 + 3 * idle.stops + 50 {
        return Err(
            format!("{} possible stops in {calls} calls, {} while idle", busy.stops, idle.stops).into()
        );
    }
    if busy.longest > Duration::from_millis(20).max(3 * idle.longest) {
        return Err(
            format!("the target did not run for {:?} ({:?} while idle)", busy.longest, idle.longest).into()
        );
    }
    Ok(())
}
