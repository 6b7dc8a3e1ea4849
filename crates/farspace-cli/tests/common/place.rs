//! Directories that outputs can, or can't, be written to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory for outputs. Whatever a failed command leaves in it is found.
pub(crate) struct Place {
    directory: TempDir,
    mounted: bool,
}

impl Place {
    /// A plain temporary directory that everybody may use.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { directory, mounted: false }
    }

    /// A file system of its own, with these mount options; `None`, with a line that says why, where that is not
    /// allowed.
    pub(crate) fn mount(options: &str) -> Option<Self> {
        let mut place = Self::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "farspace-test"]).arg(place.path());
        match mount.output() {
            Ok(output) if output.status.success() => {
                place.mounted = true;
                Some(place)
            }
            failed => {
                eprintln!("skipped: mounting a tmpfs failed: {failed:?}");
                None
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A name in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Changes the directory's permissions.
    pub(crate) fn allow(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).expect("chmod");
    }

    /// What is in it, hidden names included.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("a readable directory");
        let mut names: Vec<_> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Nothing is in it: no output, no temporary file.
    #[track_caller]
    pub(crate) fn is_empty(&self) {
        assert_eq!(self.names(), [""; 0], "left behind");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}
