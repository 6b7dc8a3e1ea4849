//! `cargo xtask kernel shell`.

use super::guest;
use xshell::Shell;

/// Boots to a shell.
pub(super) fn run(shell: &Shell, machine: &guest::Machine) -> anyhow::Result<bool> {
    machine.vm(shell, "shell")?.shell()?;
    Ok(true)
}
