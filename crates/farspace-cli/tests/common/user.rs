//! Running as somebody else.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Nobody, on Debian.
pub(crate) const NOBODY: u32 = 65_534;

/// Whether this is root; if not, says that `what` is skipped.
pub(crate) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {what} needs root");
    }
    root
}

/// Makes the command run as [`NOBODY`], without supplementary groups.
pub(crate) fn become_nobody(command: &mut Command) {
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
}

/// The command, run as nobody: a copy, for the build directory may be closed to others.
pub(crate) fn as_nobody(args: &[&str]) -> Command {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("farspace-test-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("chmod");
        let copy = directory.join("farspace");
        fs::copy(env!("CARGO_BIN_EXE_farspace"), &copy).expect("a copy of the command");
        copy
    });
    let mut command = Command::new(copy);
    command.args(args);
    become_nobody(&mut command);
    command
}
