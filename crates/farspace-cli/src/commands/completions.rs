//! `farspace completions`.

use crate::cli::{self, CompletionsArgs};
use crate::output;

/// Prints the script of the shell that was named.
pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "farspace", &mut script);
    output::print_bytes(&script)
}
