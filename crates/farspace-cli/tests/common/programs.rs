//! Finding programs of the machine, and waiting for them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Debian keeps postgres's programs in a directory for each version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Where a program is.
///
/// # Panics
///
/// It isn't there: says which package has it.
pub(crate) fn find(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir(POSTGRES).into_iter().flatten().flatten().map(|e| e.path().join("bin")).collect();
    versions.sort();
    // The newest version's first: its client programs fit its server.
    let directories = versions.into_iter().rev().chain(std::env::split_paths(&path));
    directories.map(|directory| directory.join(name)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("this test needs {name}: apt-get install {package} (cargo xtask test does that by itself)")
    })
}

/// A command that runs a program, without input.
pub(crate) fn command(name: &str, package: &str) -> Command {
    let mut command = Command::new(find(name, package));
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; returns what it printed on stdout.
///
/// # Panics
///
/// It fails.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Waits until something is so.
///
/// # Panics
///
/// It isn't so within a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A source file of tests/programs.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}
