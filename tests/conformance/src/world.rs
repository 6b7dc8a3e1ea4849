//! What cases are told in: pipes, calls, expectations, and the last question.

use crate::case::Outcome;
use farspace::RemoteIoVec;
use farspace_victims::harness::{Region, Victim};
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::fmt::Debug;
use std::os::fd::{AsRawFd, OwnedFd};

/// The page size of x86-64.
pub(crate) const PAGE: u64 = 4096;
/// Slots of a pipe that nobody resized.
pub(crate) const SLOTS: usize = 16;
/// PROCESS_VM_PIDFD of the specification.
pub(crate) const PIDFD: u32 = 0x100;
pub(crate) const MOVE: u32 = 1;
pub(crate) const NONBLOCK: u32 = 2;
pub(crate) const GIFT: u32 = 8;

/// A pipe with its kernel default of slots.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> Result<Self, Failed> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let bytes = rustix::pipe::fcntl_getpipe_size(&writer)?;
        if bytes != SLOTS * PAGE as usize {
            return Err(format!("a new pipe has {bytes} bytes: this user's pipe pages are used up").into());
        }
        Ok(Self { reader, writer })
    }

    pub(crate) fn fd(&self) -> i32 {
        self.writer.as_raw_fd()
    }

    /// One call into this pipe.
    pub(crate) fn call(&self, pid: i32, iov: &[RemoteIoVec], flags: u32) -> Result<usize, Errno> {
        call(pid, self.fd(), iov, flags)
    }

    /// Bytes waiting in the pipe.
    pub(crate) fn waiting(&self) -> Result<u64, Failed> {
        Ok(rustix::io::ioctl_fionread(&self.reader)?)
    }

    /// Everything that waits in the pipe.
    pub(crate) fn drain(&self) -> Result<Vec<u8>, Failed> {
        let mut data = vec![0; self.waiting()? as usize];
        let mut at = 0;
        while at < data.len() {
            at += rustix::io::read(&self.reader, &mut data[at..])?;
        }
        Ok(data)
    }

    /// Fills every slot with bytes of this program's own.
    pub(crate) fn fill(&self) -> Outcome {
        let n = rustix::io::write(&self.writer, &vec![b'.'; SLOTS * PAGE as usize])?;
        expect("filling the pipe", &n, &(SLOTS * PAGE as usize))
    }
}

/// The system call's shape, with an iov that is valid.
pub(crate) fn call(pid: i32, fd: i32, iov: &[RemoteIoVec], flags: u32) -> Result<usize, Errno> {
    // SAFETY: the pointer and the count are those of a slice.
    unsafe { farspace::raw::process_vmsplice(pid, fd, iov.as_ptr(), iov.len(), flags) }
}

/// A range of a region.
pub(crate) fn range(region: Region, offset: u64, len: u64) -> RemoteIoVec {
    RemoteIoVec::new(region.addr + offset, len)
}

/// Compares, and says what it was about.
pub(crate) fn expect<T: PartialEq + Debug + ?Sized>(what: &str, got: &T, wanted: &T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, expected {wanted:?}").into()) }
}

/// A call's result is this errno.
pub(crate) fn expect_errno(what: &str, got: Result<usize, Errno>, wanted: Errno) -> Outcome {
    expect(what, &got, &Err(wanted))
}

/// A call's result is this count.
pub(crate) fn expect_count(what: &str, got: Result<usize, Errno>, wanted: u64) -> Outcome {
    expect(what, &got, &Ok(wanted as usize))
}

/// Compares bytes without printing them all.
pub(crate) fn expect_bytes(what: &str, got: &[u8], wanted: &[u8]) -> Outcome {
    expect(&format!("{what}: length"), &got.len(), &wanted.len())?;
    match got.iter().zip(wanted).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => {
            Err(format!("{what}: byte {at} of {} is {:#x}, expected {:#x}", got.len(), got[at], wanted[at])
                .into())
        }
    }
}

/// The last line of every case: the target runs on, unharmed, its memory is as it should be, and nothing is left
/// in it.
pub(crate) fn unharmed(mut victim: Victim) -> Outcome {
    victim.check_detached()?;
    Ok(victim.finish()?)
}

/// A target with the given kinds of memory.
pub(crate) fn memory(regions: &[&str]) -> Result<Victim, Failed> {
    Ok(Victim::spawn("memory", regions)?)
}
