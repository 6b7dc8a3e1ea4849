//! Every crate's own tests: unit, integration and documentation.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    Step::new("test", 60, cmd!(shell, "cargo test --workspace --no-fail-fast"))
}
