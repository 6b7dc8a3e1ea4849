//! `cargo xtask bench`.

use xshell::{Shell, cmd};

/// Runs the benchmark of the release build.
pub(crate) fn run(shell: &Shell, arguments: &[String]) -> anyhow::Result<bool> {
    cmd!(shell, "cargo run --release --quiet --package farspace-cli -- bench splice {arguments...}").run()?;
    Ok(true)
}
