//! A directory of files that has its name only when it is complete.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

use farspace_image::criu::PARENT;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat, renameat_with};
use rustix::io::Errno;

use crate::output::{fail, hidden_name};
use crate::predump::{link_target, remove_abandoned};
use crate::{Error, Result};

/// An unfinished directory, under a hidden name next to where it will be. Dropped, it is gone with all files in it.
///
/// A process that is killed leaves it, as `.NAME.PID.partial`; it is taken away when the same directory is begun again.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    /// Nothing once it has its name.
    temporary: Option<PathBuf>,
    /// Locked for as long as somebody works on it.
    _lock: File,
}

impl OutputDirectory {
    /// Begins a directory, readable by the owner alone. An empty one that has the name is replaced.
    ///
    /// # Errors
    ///
    /// The name is taken; the directory above is missing or can't be written to.
    pub fn create(path: &Path) -> Result<Self> {
        if path.file_name().is_none() {
            return Err(fail("write", path, Errno::INVAL));
        }
        match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => return Err(Error::Exists { path: path.to_owned() }),
        }
        remove_abandoned(path);
        let temporary = hidden_name(path);
        let failed = |source| Error::Output { operation: "create", path: path.to_owned(), source };
        fs::DirBuilder::new().mode(0o700).create(&temporary).map_err(failed)?;
        let lock = File::open(&temporary).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Self { path: path.to_owned(), temporary: Some(temporary), _lock: lock })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its files are until then.
    pub fn place(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.path)
    }

    /// Makes a file in it, readable by the owner alone.
    ///
    /// # Errors
    ///
    /// There is one of that name; no space.
    pub fn file(&self, name: &str) -> Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.place().join(name)).map_err(|source| Error::Output {
            operation: "create",
            path: self.path.join(name),
            source,
        })
    }

    /// Links it to the image directory that it continues, so that both can be moved together.
    ///
    /// # Errors
    ///
    /// What symlink(2) says.
    pub(crate) fn link_parent(&self, parent: &Path) -> Result<()> {
        let link = self.place().join(PARENT);
        symlink(link_target(&self.path, parent), &link).map_err(|source| Error::Output {
            operation: "create",
            path: self.path.join(PARENT),
            source,
        })
    }

    /// Removes a file from it.
    ///
    /// # Errors
    ///
    /// What unlink(2) says.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.place().join(name)).map_err(|source| Error::Output {
            operation: "remove",
            path: self.path.join(name),
            source,
        })
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    ///
    /// Something has that name by now.
    pub fn finish(mut self) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let renamed = match renameat_with(CWD, temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
            // There is one, or the file system can't tell: rename(2) replaces an empty directory, and nothing else.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => renameat(CWD, temporary, CWD, &self.path),
            other => other,
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => Error::Exists { path: self.path.clone() },
            errno => fail("name", &self.path, errno),
        })?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_dir_all(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_its_name_only_when_finished() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("images");
        let entries = || fs::read_dir(parent.path()).expect("readable").count();
        let begun = OutputDirectory::create(&path).expect("created");
        begun.file("a").expect("a file");
        assert!(begun.file("a").is_err() && !path.exists());
        drop(begun);
        assert_eq!(entries(), 0);

        fs::create_dir(&path).expect("made");
        let begun = OutputDirectory::create(&path).expect("an empty one is replaced");
        begun.file("a").expect("a file");
        begun.finish().expect("named");
        assert!(entries() == 1 && path.join("a").exists());
        assert!(matches!(OutputDirectory::create(&path), Err(Error::Exists { .. })));

        let other = parent.path().join("other");
        let begun = OutputDirectory::create(&other).expect("created");
        fs::create_dir(&other).and_then(|()| fs::write(other.join("b"), "")).expect("made meanwhile");
        assert!(matches!(begun.finish(), Err(Error::Exists { .. })));
        assert_eq!(entries(), 2);
    }
}
