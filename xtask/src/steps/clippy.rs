//! The workspace's lints; none is tolerated.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    Step::new("clippy", 10, cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings"))
}
