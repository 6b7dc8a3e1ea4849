//! `cargo xtask kernel ...`: farspace's kernels, and running something on one.

mod build;

use xshell::Shell;

/// What to do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Build a kernel and print where its image, symbols and configuration are.
    Build(build::Options),
}

/// Does it; false if it has failed.
pub(crate) fn run(shell: &Shell, command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Build(options) => build::run(shell, &options),
    }
}
