//! Cores of the same process by gcore, and readelf's view of ours.

use std::path::{Path, PathBuf};

use super::programs;

/// Dumps a process with gdb's gcore; returns the core's path.
#[track_caller]
pub(crate) fn gcore(pid: i32, prefix: &Path, more: &[&str]) -> PathBuf {
    programs::output(programs::command("gcore", "gdb").args(more).arg("-o").arg(prefix).arg(pid.to_string()));
    PathBuf::from(format!("{}.{pid}", prefix.display()))
}

/// Checks that readelf has nothing to say against a core.
///
/// # Panics
///
/// It has.
#[track_caller]
pub(crate) fn assert_readelf_accepts(core: &Path) {
    for option in ["-aW", "-nW"] {
        let mut command = programs::command("readelf", "binutils");
        let output = command.arg(option).arg(core).output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "readelf {option}: {}\n{errors}", output.status);
        let complains = |line: &&str| line.contains("Warning") || line.contains("Error");
        let complaints = text.lines().filter(complains).chain(errors.lines());
        // Said of every core with PN_XNUM, the kernel's own included: section 0 holds the number of segments.
        let known =
            |line: &&str| line.contains("[ 0]: Unexpected value (") && line.ends_with(") in info field.");
        let new: Vec<_> = complaints.filter(|line| !line.is_empty() && !known(line)).collect();
        assert!(new.is_empty(), "readelf {option}: {new:#?}");
        assert!(text.contains("NT_PRSTATUS") && text.contains("NT_X86_XSTATE"), "readelf {option}: no notes");
    }
}
