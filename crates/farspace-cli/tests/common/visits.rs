//! Dumping a program at every level while it works, and looking at the cores.

use std::fs;
use std::path::{Path, PathBuf};

use super::debugger;
use super::dump::{LEVELS, dump};
use super::footprint::{Footprint, assert_clean};

/// Dumps a process at every level; gdb must read each core. Afterwards the process must be as before.
///
/// `at_least` is the memory that the core of the process must have.
#[track_caller]
pub(crate) fn visit(pid: i32, dir: &Path, at_least: u64) {
    let before = Footprint::of(pid);
    for level in LEVELS {
        Visited::now(pid, dir, level, at_least).inspect();
    }
    assert_clean(pid, &before);
}

/// A core that was written, and not yet looked at.
pub(crate) struct Visited {
    executable: PathBuf,
    core: PathBuf,
    threads: u64,
}

impl Visited {
    /// Dumps a process.
    #[track_caller]
    pub(crate) fn now(pid: i32, dir: &Path, level: &str, at_least: u64) -> Self {
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let core = dir.join(format!("{pid}-{level}"));
        let report = dump(pid, &core, level, &[]);
        println!("{}: {report}", executable.display());
        let bytes = report["bytes_written"].as_u64().unwrap();
        assert!(bytes >= at_least, "{level}: {bytes} bytes of at least {at_least}");
        Self { executable, core, threads: report["threads"].as_u64().unwrap() }
    }

    /// Checks that gdb reads the core, and removes it.
    #[track_caller]
    pub(crate) fn inspect(self) {
        assert_readable(&self.executable, &self.core, self.threads);
        fs::remove_file(&self.core).unwrap();
    }
}

/// Fails if gdb complains about the core, or doesn't show a frame of every thread.
#[track_caller]
fn assert_readable(executable: &Path, core: &Path, threads: u64) {
    let questions = ["info threads", "thread apply all -c bt 20", "info sharedlibrary"];
    let found = debugger::ask(executable, core, &questions);
    // Shared memory without a file can't be opened by its name; gdb says that of the kernel's cores, too.
    let is_unnamed = |line: &str| line.contains("Can't open file") && line.contains("(deleted)");
    let known = |line: &&str| is_about_symbols(line) || is_unnamed(line) && !line.contains("farspace");
    let new: Vec<_> = found.warnings().into_iter().filter(|line| !known(line)).collect();
    assert!(new.is_empty(), "{}: on opening it gdb says {new:#?}", core.display());
    let [list, frames, libraries] = &found.answers[..] else { unreachable!("one answer for each question") };
    assert_eq!(list.matches("(LWP ").count() as u64, threads, "{}: {list}", core.display());
    let shown = frames.matches("\n#0 ").count() as u64;
    assert_eq!(shown, threads, "{}: threads with a frame in {frames}", core.display());
    assert!(frames.contains("\n#1 "), "{}: no backtrace in {frames}", core.display());
    assert!(libraries.contains("libc.so"), "{}: {libraries}", core.display());
}

/// Remarks on the executable, whatever the core is.
fn is_about_symbols(line: &str) -> bool {
    line.contains("debug") || line.contains("symbol") || line.contains("auto-load")
}
