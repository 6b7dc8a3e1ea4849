//! A file system of its own: one that is small, or read-only.

use std::process::Command;

use crate::place::Place;

/// A directory with a tmpfs on it.
pub(crate) struct Mounted {
    /// The directory.
    pub(crate) place: Place,
}

impl Mounted {
    /// Mounts with these options; `None`, with a line that says why, where that is not allowed.
    pub(crate) fn new(options: &str) -> Option<Self> {
        let place = Place::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "farspace-test"]).arg(place.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { place }),
            failed => {
                eprintln!("skipped: mounting a tmpfs failed: {failed:?}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.place.path()).status();
    }
}
