//! The two calls as system calls: Linux 6.12 with them, built unless it is in the cache, booted in QEMU; then the selftests
//! and the specification's cases there, for the native backend and for the one that needs no such kernel.

use crate::step::Step;
use xshell::{Shell, cmd};

pub(super) fn step(shell: &Shell) -> Step {
    let command = cmd!(shell, "cargo run --package xtask --quiet -- kernel test --selftests --or-skip");
    Step::new("kernel", 60, command)
}
