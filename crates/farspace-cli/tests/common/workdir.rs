//! A directory for dumps.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary directory in memory, or on a disk if memory has no room; removed when dropped.
pub(crate) struct Workdir(TempDir);

impl Workdir {
    /// Makes one that has room for so many bytes.
    ///
    /// # Panics
    ///
    /// There is no such room.
    pub(crate) fn with_room(bytes: u64) -> Self {
        let candidates = [PathBuf::from("/dev/shm"), std::env::temp_dir(), PathBuf::from("/var/tmp")];
        let parent = candidates.iter().find(|dir| room(dir) > bytes).unwrap_or_else(|| {
            panic!("this test needs {} MiB of room in one of {candidates:?}", bytes >> 20);
        });
        Self(tempfile::Builder::new().prefix("dump-test-").tempdir_in(parent).unwrap())
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// What may be written to the file system of a directory; a file system in memory can promise more than there is.
fn room(dir: &Path) -> u64 {
    let Ok(stat) = rustix::fs::statvfs(dir) else { return 0 };
    let disk = stat.f_bavail * stat.f_frsize;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    disk.min(available.unwrap_or(0) * 1024)
}
