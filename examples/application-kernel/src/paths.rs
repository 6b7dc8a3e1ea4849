//! Names of files: the guest's root and its working directory.
//!
//! Every name is looked up by the host from the root, in one step (openat2(2) with RESOLVE_IN_ROOT): no link and no
//! ".." leads out of it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::kernel::{Kernel, Stop};

/// Bytes of the longest name, with its end.
pub(crate) const PATH_MAX: usize = 4096;

/// Where names begin.
#[derive(Debug)]
pub(crate) struct Paths {
    root: OwnedFd,
    /// Its name on the host.
    host: PathBuf,
    /// The guest's, seen from its root.
    pub(crate) cwd: OsString,
    how: ResolveFlags,
    /// What /proc/self/exe shows.
    pub(crate) program: OsString,
}

/// A name's last component, and the directory it is in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) parent: OwnedFd,
    pub(crate) name: OsString,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let host = root.canonicalize()?;
        let whole = host == Path::new("/");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: openat2(CWD, &host, flags, Mode::empty(), ResolveFlags::empty())?,
            cwd: if whole { std::env::current_dir()?.into_os_string() } else { "/".into() },
            how: if whole { ResolveFlags::empty() } else { ResolveFlags::IN_ROOT },
            host,
            program: OsString::new(),
        })
    }

    /// Opens an absolute name.
    pub(crate) fn open(&self, path: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, self.how)
    }

    /// The guest's name of an open directory.
    ///
    /// # Errors
    ///
    /// ENOENT: it isn't below the root.
    pub(crate) fn name_of(&self, host: &OwnedFd) -> Result<OsString, Stop> {
        let path = std::fs::read_link(descriptor(host)).map_err(|_| Errno::NOENT)?;
        let below = path.strip_prefix(&self.host).map_err(|_| Errno::NOENT)?;
        Ok(Path::new("/").join(below).into_os_string())
    }
}

/// The host's name of an open file, for calls that take no descriptor.
pub(crate) fn descriptor(host: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", host.as_raw_fd())
}

impl Kernel {
    /// Copies a name from the guest.
    ///
    /// # Errors
    ///
    /// EFAULT, ENAMETOOLONG.
    pub(crate) fn name(&mut self, at: u64) -> Result<OsString, Stop> {
        let mut name = Vec::new();
        while name.len() < PATH_MAX {
            // Up to the end of a page at a time: the next one may not exist.
            let at = at + name.len() as u64;
            let mut part = vec![0; (256 - at % 256) as usize];
            self.memory.read(at, &mut part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                name.extend(&part[..end]);
                return Ok(OsString::from_vec(name));
            }
            name.extend(part);
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// The absolute name that the guest means by a directory's descriptor and a name.
    ///
    /// # Errors
    ///
    /// ENOENT: the name is empty; as [`Kernel::name`].
    pub(crate) fn path(&mut self, directory: u64, name: u64) -> Result<OsString, Stop> {
        let name = self.name(name)?;
        if name.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if name.as_bytes()[0] == b'/' {
            return Ok(name);
        }
        let mut path = if directory as i32 == libc::AT_FDCWD {
            self.paths.cwd.clone()
        } else {
            self.paths.name_of(&self.files.get(directory)?.host)?
        };
        path.push("/");
        path.push(name);
        Ok(path)
    }

    /// The file of a name, only to be named (O_PATH): `flags` may say O_NOFOLLOW or O_DIRECTORY.
    pub(crate) fn find(&mut self, directory: u64, name: u64, flags: OFlags) -> Result<OwnedFd, Stop> {
        let path = self.path(directory, name)?;
        Ok(self.paths.open(&path, OFlags::PATH | flags, Mode::empty())?)
    }

    /// The place of a name, which may not exist yet.
    pub(crate) fn entry(&mut self, directory: u64, name: u64) -> Result<Entry, Stop> {
        let path = self.path(directory, name)?;
        let bytes = path.as_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/').ok_or(Errno::BUSY)? + 1;
        let start = bytes[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let parent = OsStr::from_bytes(&bytes[..start]);
        let parent = self.paths.open(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Entry { parent, name: OsStr::from_bytes(&bytes[start..end]).to_owned() })
    }
}
