//! Running as somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tempfile::TempDir;

/// Nobody, on Debian.
const NOBODY: u32 = 65_534;

/// Whether this is root; if not, says that `what` is skipped.
pub(crate) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {what} needs root");
    }
    root
}

/// Makes the command run as nobody, without supplementary groups.
pub(crate) fn become_nobody(command: &mut Command) {
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
}

/// Somebody who has no rights; the command is copied, for the build directory may be closed to others.
pub(crate) struct Nobody {
    directory: TempDir,
}

impl Nobody {
    /// Copies the command.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::copy(env!("CARGO_BIN_EXE_farspace"), directory.path().join("farspace")).expect("a copy");
        Self { directory }
    }

    /// `farspace ARGS`, to be run as nobody.
    pub(crate) fn farspace(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.directory.path().join("farspace"));
        command.args(args);
        become_nobody(&mut command);
        command
    }
}
