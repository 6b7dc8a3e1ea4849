//! The multi-call victim: `farspace-victim NAME ARGS...`.

use std::process::ExitCode;

fn main() -> ExitCode {
    farspace_victims::run(&std::env::args().skip(1).collect::<Vec<_>>())
}
