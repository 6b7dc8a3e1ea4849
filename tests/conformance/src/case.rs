//! A case of the specification as a row of a table.

use crate::needs::{self, Need, Needs};
use farspace_victims::pace;
use libtest_mimic::{Failed, Trial};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A case that takes longer hangs: the whole run ends with its name, rather than never.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a case gives.
pub(crate) type Outcome = Result<(), Failed>;

/// One case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `vmsplice_NN_what`, NN being the specification's number.
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Outcome,
    pub(crate) needs: &'static [Need],
}

impl Case {
    /// The case as something to run, or a visible skip with its reason.
    pub(crate) fn trial(self, backend: &str, needs: &Needs) -> Trial {
        let missing = self.needs.iter().find_map(|need| needs.missing(*need, backend));
        trial(self.name.to_owned(), backend, missing, self.run)
    }
}

/// Something to run under a deadline, or to skip for a reason that is shown.
pub(crate) fn trial(
    name: String,
    backend: &str,
    skip: Option<&str>,
    run: impl FnOnce() -> Outcome + Send + 'static,
) -> Trial {
    let kind = match skip {
        None => backend.to_owned(),
        Some(reason) => format!("{backend}, skipped: {reason}"),
    };
    let title = name.clone();
    Trial::test(name, move || guarded(&title, run)).with_kind(kind).with_ignored_flag(skip.is_some())
}

/// Runs the case under a deadline. A stuck thread can't be taken back: the program ends with it, and its
/// victims end with their stdin.
fn guarded(name: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    let name = name.to_owned();
    let deadline = pace::limit(DEADLINE);
    let (done, watch) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout) {
            eprintln!("\n{}: not done after {deadline:?}; giving up on the whole run", name);
            needs::give_back();
            std::process::exit(102);
        }
    });
    let outcome = run();
    drop(done);
    let _ = watchdog.join();
    outcome
}
