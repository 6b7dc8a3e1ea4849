//! The format that rustfmt.toml describes.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    Step::new("format", 2, cmd!(shell, "cargo fmt --all --check"))
}
