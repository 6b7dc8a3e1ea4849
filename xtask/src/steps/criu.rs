//! Chains of pre-dumps that Debian's CRIU finishes and restores, on Debian's kernel in QEMU.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    Step::new("criu", 20, cmd!(shell, "cargo run --package xtask --quiet -- criu"))
}
