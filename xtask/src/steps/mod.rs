//! The steps of `cargo xtask test`, one file each, in their order. Their limits end what hangs; together they are more than
//! all of it takes.

mod build;
mod clippy;
mod conformance;
mod criu;
mod format;
mod kernel;
mod unit;

use crate::step::Step;
use xshell::Shell;

/// All steps.
pub(crate) fn all(shell: &Shell) -> [Step; 7] {
    [
        format::step(shell),
        clippy::step(shell),
        build::step(shell),
        unit::step(shell),
        conformance::step(shell),
        criu::step(shell),
        kernel::step(shell),
    ]
}
