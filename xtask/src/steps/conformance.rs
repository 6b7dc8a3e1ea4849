//! The specification's cases, against the backend of the running kernel.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    let command = cmd!(shell, "cargo run --release --quiet --package farspace-conformance -- --color never");
    Step::new("conformance", 20, command)
}
