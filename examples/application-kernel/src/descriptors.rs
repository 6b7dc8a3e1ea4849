//! The guest's descriptors: which host file each number stands for.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;

use crate::kernel::Stop;

/// Descriptors that a guest can have; also its RLIMIT_NOFILE.
pub(crate) const LIMIT: usize = 1024;

/// An open file description. The host's has the offset and the flags.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) host: OwnedFd,
}

#[derive(Clone, Debug)]
struct Slot {
    file: Rc<OpenFile>,
    close_on_exec: bool,
}

/// The table of descriptors.
#[derive(Debug)]
pub(crate) struct Descriptors(Vec<Option<Slot>>);

impl Descriptors {
    /// 0, 1 and 2 as this process has them.
    pub(crate) fn standard() -> std::io::Result<Self> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let mut slots = Vec::new();
        for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            let host = fd.try_clone_to_owned()?;
            slots.push(Some(Slot { file: Rc::new(OpenFile { host }), close_on_exec: false }));
        }
        Ok(Self(slots))
    }

    /// The file behind a descriptor (the upper half of the register counts for nothing).
    ///
    /// # Errors
    ///
    /// EBADF.
    pub(crate) fn get(&self, fd: u64) -> Result<Rc<OpenFile>, Stop> {
        Ok(Rc::clone(&self.slot(fd)?.file))
    }

    fn slot(&self, fd: u64) -> Result<&Slot, Stop> {
        Ok(self.0.get(fd as u32 as usize).and_then(Option::as_ref).ok_or(Errno::BADF)?)
    }

    pub(crate) fn close_on_exec(&self, fd: u64) -> Result<bool, Stop> {
        Ok(self.slot(fd)?.close_on_exec)
    }

    pub(crate) fn set_close_on_exec(&mut self, fd: u64, close_on_exec: bool) -> Result<(), Stop> {
        let file = self.get(fd)?;
        self.0[fd as u32 as usize] = Some(Slot { file, close_on_exec });
        Ok(())
    }

    /// Gives a file the lowest free number from `least` on.
    ///
    /// # Errors
    ///
    /// EMFILE; EINVAL: `least` is too high.
    pub(crate) fn add(&mut self, file: Rc<OpenFile>, least: u64, close_on_exec: bool) -> Result<u64, Stop> {
        let least = usize::try_from(least).ok().filter(|least| *least < LIMIT).ok_or(Errno::INVAL)?;
        let free =
            (least..LIMIT).find(|fd| self.0.get(*fd).is_none_or(Option::is_none)).ok_or(Errno::MFILE)?;
        self.put(free, Slot { file, close_on_exec });
        Ok(free as u64)
    }

    /// Gives a file this number, in place of what had it.
    ///
    /// # Errors
    ///
    /// EBADF: too high.
    pub(crate) fn replace(&mut self, fd: u64, file: Rc<OpenFile>, close_on_exec: bool) -> Result<u64, Stop> {
        let at = usize::try_from(fd).ok().filter(|fd| *fd < LIMIT).ok_or(Errno::BADF)?;
        self.put(at, Slot { file, close_on_exec });
        Ok(fd)
    }

    fn put(&mut self, at: usize, slot: Slot) {
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some(slot);
    }

    pub(crate) fn close(&mut self, fd: u64) -> Result<(), Stop> {
        self.slot(fd)?;
        self.0[fd as u32 as usize] = None;
        Ok(())
    }
}
