//! The release build: what the conformance suite and users run.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    Step::new("build", 10, cmd!(shell, "cargo build --release --workspace")).essential()
}
