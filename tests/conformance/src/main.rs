//! The specification's cases, one program for both backends; and visits to targets in every awkward state.
//!
//! It needs nothing but itself: it is its own victims and its own unprivileged caller, by the name under which it
//! starts itself again. FARSPACE_BACKEND=stock|native forces a backend. Filters and options are those of
//! `cargo test` (`--list`, `--ignored`, names); cases run one after another unless `--test-threads` says otherwise.

mod caller;
mod case;
mod exec;
mod needs;
mod processes;
mod timeline;
mod visits;
mod vmsplice;
mod world;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = caller::host().or_else(farspace_victims::host) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let needs = needs::Needs::probe(!arguments.list);
    if let Err(reason) = farspace::backend::check() {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    let backend = farspace::backend_name();
    if !arguments.list {
        println!("backend: {backend}, kernel: {}", needs.kernel());
    }
    let specified = vmsplice::CASES.iter().chain(exec::CASES).map(|case| case.trial(backend, &needs));
    let trials = specified.chain(visits::trials(backend)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Gives back what was reserved; an exit would not.
    drop(needs);
    conclusion.exit_code()
}
