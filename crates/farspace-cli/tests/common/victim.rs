//! Starting victims, also where only this package's tests are built.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use farspace_victims::PROGRAM;
use farspace_victims::harness::{Failure, Victim};

/// Starts a victim; `None`, with a line that says why, where the machine lacks what it needs.
#[track_caller]
pub(crate) fn spawn(name: &str, args: &[&str]) -> Option<Victim> {
    spawn_with(name, args, |_| {})
}

/// As [`spawn`], with something to change in the command.
#[track_caller]
pub(crate) fn spawn_with(name: &str, args: &[&str], configure: impl FnOnce(&mut Command)) -> Option<Victim> {
    build();
    match Victim::spawn_with(name, args, configure) {
        Ok(victim) => Some(victim),
        Err(Failure::Skip(reason)) => {
            eprintln!("skipped: {name} {args:?}: {reason}");
            None
        }
        Err(failure) => panic!("{name} {args:?}: {failure}"),
    }
}

/// `cargo test -p farspace-cli` alone doesn't build the victims; `cargo test --workspace` has done so already.
fn build() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let directory =
            Path::new(env!("CARGO_BIN_EXE_farspace")).parent().expect("the program is in a directory");
        if directory.join(PROGRAM).exists() {
            return;
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "farspace-victims"]);
        if directory.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().is_ok_and(|status| status.success()), "building the victims failed");
    });
}
