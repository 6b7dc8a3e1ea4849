//! A file that has its name only when it is complete.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use farspace::Extent;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, linkat, open, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::{Error, Result};

/// Readable by the owner alone: a core holds secrets.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An unfinished output file. Dropped, it is gone.
///
/// Without a name at all where the file system can do that (O_TMPFILE), so that not even a killed dump leaves
/// something; under a hidden name in the same directory elsewhere.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    temporary: Option<PathBuf>,
    overwrite: bool,
    has_name: bool,
}

impl Output {
    /// Begins an output in the directory of `path`.
    ///
    /// # Errors
    ///
    /// It exists and isn't to be overwritten; the directory is missing or can't be written to.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        if path.file_name().is_none() || path.is_dir() {
            return Err(fail("write", path, Errno::ISDIR));
        }
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: path.to_owned() });
        }
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, MODE) {
            Ok(file) => {
                let (file, path) = (file.into(), path.to_owned());
                Ok(Self { file, path, temporary: None, overwrite, has_name: false })
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let temporary = hidden_name(path);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = openat(CWD, &temporary, flags, MODE).map_err(|e| fail("create", path, e))?;
                let (file, path, temporary) = (file.into(), path.to_owned(), Some(temporary));
                Ok(Self { file, path, temporary, overwrite, has_name: false })
            }
            Err(errno) => Err(fail("create", path, errno)),
        }
    }

    /// A file that has its name, in a directory that has not. `path` is where it will be.
    pub(crate) fn part(file: File, path: PathBuf) -> Self {
        Self { file, path, temporary: None, overwrite: false, has_name: true }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, to splice into.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Makes the file at least this long.
    pub(crate) fn extend(&self, len_bytes: u64) -> Result<()> {
        let len = self.file.metadata().map_err(|e| self.error("look at", e))?.len();
        if len < len_bytes {
            self.file.set_len(len_bytes).map_err(|e| self.error("write", e))?;
        }
        Ok(())
    }

    /// True if the file lies in memory (tmpfs): what is made of it ahead of time is never written to a disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        /// TMPFS_MAGIC (statfs(2)).
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        rustix::fs::fstatfs(&self.file).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC)
    }

    /// An error on this output.
    pub(crate) fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Output { operation, path: self.path.clone(), source }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// Something has that name by now and isn't to be overwritten.
    pub fn finish(mut self) -> Result<()> {
        if self.has_name {
            return Ok(());
        }
        let path = self.path.clone();
        let error = |errno| match errno {
            Errno::EXIST => Error::Exists { path: path.clone() },
            errno => fail("name", &path, errno),
        };
        let source = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let link = |to: &Path| linkat(CWD, &source, CWD, to, AtFlags::SYMLINK_FOLLOW);
        match (self.temporary.take(), self.overwrite) {
            (None, false) => link(&path).map_err(error),
            (None, true) => {
                let temporary = hidden_name(&path);
                link(&temporary).map_err(error)?;
                self.temporary = Some(temporary.clone());
                renameat(CWD, &temporary, CWD, &path).map_err(error)?;
                self.temporary = None;
                Ok(())
            }
            (Some(temporary), overwrite) => {
                self.temporary = Some(temporary.clone());
                let flags = if overwrite {
                    rustix::fs::RenameFlags::empty()
                } else {
                    rustix::fs::RenameFlags::NOREPLACE
                };
                match rustix::fs::renameat_with(CWD, &temporary, CWD, &path, flags) {
                    // A file system that knows neither: the check at the beginning has to do.
                    Err(Errno::INVAL | Errno::NOSYS) => renameat(CWD, &temporary, CWD, &path),
                    other => other,
                }
                .map_err(error)?;
                self.temporary = None;
                Ok(())
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(CWD, temporary, AtFlags::empty());
        }
    }
}

/// Makes a hole in what there is of a file, or zeros where the file system has no holes.
pub(crate) fn punch(file: &File, hole: Extent) -> io::Result<()> {
    const ZEROS: u64 = 1 << 20;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, hole.offset, hole.len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        other => return other.map_err(Into::into),
    }
    let end = (hole.offset + hole.len).min(file.metadata()?.len());
    let zeros = vec![0; ZEROS.min(hole.len) as usize];
    for at in (hole.offset..end).step_by(ZEROS as usize) {
        file.write_all_at(&zeros[..(end - at).min(ZEROS) as usize], at)?;
    }
    Ok(())
}

pub(crate) fn hidden_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

pub(crate) fn fail(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Output { operation, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_zeros_and_makes_nothing_longer() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[7; 100], 0).expect("written");
        punch(&file, Extent { offset: 10, len: 20 }).expect("punched");
        punch(&file, Extent { offset: 90, len: 1 << 40 }).expect("punched");
        let mut bytes = [1; 100];
        file.read_exact_at(&mut bytes, 0).expect("as long as it was");
        let expected: [u8; 100] = std::array::from_fn(|i| if matches!(i, 10..30 | 90..) { 0 } else { 7 });
        assert!(bytes == expected && file.metadata().expect("there").len() == 100);
    }

    #[test]
    fn an_output_has_its_name_only_when_finished() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("core");
        let entries = || std::fs::read_dir(directory.path()).expect("readable").count();
        drop(Output::create(&path, false).expect("created"));
        assert_eq!(entries(), 0);
        Output::create(&path, false).expect("created").finish().expect("named");
        assert_eq!(entries(), 1);
        assert!(matches!(Output::create(&path, false), Err(Error::Exists { .. })));
        Output::create(&path, true).expect("created").finish().expect("renamed");
        assert_eq!(entries(), 1);
    }
}
