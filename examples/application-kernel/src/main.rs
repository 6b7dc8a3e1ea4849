//! An application kernel: runs a Linux program in a space of its own and answers its system calls and page faults.
//!
//! `cargo run --release -p application-kernel -- --stats busybox sha256sum FILE`
//!
//! It shows what farspace-exec gives and what is left to its user. The program is unmodified (static or dynamic, one
//! process, one thread); everything it sees of the world goes through one table of functions:
//!
//! | file | what |
//! |---|---|
//! | `kernel` | events in, answers out; the table |
//! | `loader`, `stack` | the ELF file, and what a program finds on its stack |
//! | `memory`, `mappings` | the address space, filled as it is used; mmap and its relatives |
//! | `descriptors`, `paths` | which host file a number or a name stands for |
//! | `files`, `tree`, `metadata` | contents, directories, attributes |
//! | `process`, `signals`, `time` | the rest |
//! | `layout` | structures as the guest reads them |
//!
//! Not for hostile programs as it is: `--root` confines names, but nothing bounds the memory or the time taken.

#![forbid(unsafe_code)]

mod descriptors;
mod files;
mod kernel;
mod layout;
mod loader;
mod mappings;
mod memory;
mod metadata;
mod paths;
mod process;
mod signals;
mod stack;
mod time;
mod tree;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use farspace_exec::Engine;

use crate::kernel::{Ending, Kernel};

/// Runs a Linux program and answers its system calls here.
#[derive(Debug, Parser)]
struct Options {
    /// The directory that is / for the program.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Tell at the end, on stderr, what the program has asked for and how long it took.
    #[arg(long)]
    stats: bool,
    /// The program, as seen from the root; looked for in $PATH.
    program: OsString,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(Ending::Exited(code)) => ExitCode::from(code),
        Ok(Ending::Killed(signal)) => {
            eprintln!("application-kernel: the program was ended by signal {signal}");
            // What a shell says of such a program.
            ExitCode::from((128 + signal) as u8)
        }
        Err(error) => {
            eprintln!("application-kernel: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<Ending> {
    let engine = Engine::new()?;
    let space = engine.space()?;
    let mut kernel = Kernel::new(space, &options.root).context("cannot set up the program's world")?;
    let arguments = std::iter::once(&options.program).chain(&options.arguments);
    loader::execute(&mut kernel, &options.program, arguments)
        .with_context(|| format!("cannot run {}", options.program.display()))?;
    let start = Instant::now();
    let ending = kernel.run();
    kernel.tell_unknown();
    if options.stats {
        kernel.tell_statistics(start.elapsed());
    }
    Ok(ending?)
}
