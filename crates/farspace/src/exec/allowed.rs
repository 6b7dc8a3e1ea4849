//! Syscall mode: one system call in the target's address space, made by the agent.
//!
//! The calls are those on memory; descriptors are the caller's, of which the agent gets a copy for the call. A call that
//! would wait for a pipe or socket waits here, so that a signal ends it and the agent never sleeps for long.

use std::os::fd::{BorrowedFd, IntoRawFd};

use farspace_abi::exec::SigContext;
use farspace_inject::RemoteFd;
use farspace_sys::signal;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::attachment::{Attachment, public};

/// Not yet in libc: the codes by which the kernel asks for a restart (include/linux/errno.h).
const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;

/// Which argument is a descriptor, and what comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// None.
    Plain,
    /// The first argument is one.
    OnFd,
    /// The fifth is one, unless the mapping is anonymous.
    Mmap,
    /// The result is one.
    MakesFd,
}

fn kind(nr: u64) -> Option<Kind> {
    Some(match nr as libc::c_long {
        libc::SYS_read
        | libc::SYS_write
        | libc::SYS_readv
        | libc::SYS_writev
        | libc::SYS_pread64
        | libc::SYS_pwrite64
        | libc::SYS_preadv
        | libc::SYS_pwritev
        | libc::SYS_preadv2
        | libc::SYS_pwritev2
        | libc::SYS_vmsplice => Kind::OnFd,
        libc::SYS_mmap => Kind::Mmap,
        libc::SYS_mprotect
        | libc::SYS_munmap
        | libc::SYS_mremap
        | libc::SYS_madvise
        | libc::SYS_msync
        | libc::SYS_mincore
        | libc::SYS_mlock
        | libc::SYS_mlock2
        | libc::SYS_munlock
        | libc::SYS_mlockall
        | libc::SYS_munlockall
        | libc::SYS_brk => Kind::Plain,
        libc::SYS_userfaultfd | libc::SYS_memfd_create => Kind::MakesFd,
        _ => return None,
    })
}

/// Makes the call that the registers describe; its result goes to RAX. `blocked` is the caller's own signal mask.
///
/// # Errors
///
/// EOPNOTSUPP: it isn't allowed; ESRCH: the target has ended.
pub(super) fn call(attachment: &Attachment, registers: &mut SigContext, blocked: u64) -> Result<(), Errno> {
    let kind = kind(registers.rax).ok_or(Errno::OPNOTSUPP)?;
    let result = make(attachment, registers, kind, blocked)?;
    registers.rax = match result {
        Ok(value) if RESTARTS.contains(&value) => -i64::from(libc::EINTR) as u64,
        Ok(value) => value as u64,
        Err(errno) => -i64::from(errno.raw_os_error()) as u64,
    };
    Ok(())
}

/// The outer error is the call's own, the inner one the system call's.
fn make(
    attachment: &Attachment,
    registers: &SigContext,
    kind: Kind,
    blocked: u64,
) -> Result<Result<i64, Errno>, Errno> {
    let SigContext { rax, rdi, rsi, rdx, r10, r8, r9, .. } = *registers;
    let mut args = [rdi, rsi, rdx, r10, r8, r9];
    let place = match kind {
        Kind::OnFd => Some(0),
        Kind::Mmap if r10 & libc::MAP_ANONYMOUS as u64 == 0 => Some(4),
        _ => None,
    };
    let agent = attachment.agent();
    let gone = |error: farspace_inject::Error| public(error.errno());
    let mut sent: Option<RemoteFd> = None;
    if let Some(index) = place {
        let number = args[index] as i32;
        // SAFETY: only looked up; that it is open is checked at once.
        let fd = unsafe { BorrowedFd::borrow_raw(number.max(0)) };
        if number < 0 || rustix::io::fcntl_getfd(fd).is_err() {
            return Ok(Err(Errno::BADF));
        }
        if kind == Kind::OnFd
            && let Err(errno) = wait(fd, rax as libc::c_long, blocked)
        {
            return Ok(Err(errno));
        }
        let remote = sent.insert(agent.send_fd(fd).map_err(gone)?);
        args[index] = remote.number() as u64;
    }
    let result = agent.channel().syscall(rax, args).map_err(gone)?;
    drop(sent);
    if kind != Kind::MakesFd || result < 0 {
        return Ok(Ok(result));
    }
    let fd = agent.fetch_fd(result as i32).map_err(gone)?;
    Ok(Ok(i64::from(fd.into_raw_fd())))
}

/// Waits until the descriptor has something to read, or room, where the call would block for that.
fn wait(fd: BorrowedFd<'_>, nr: libc::c_long, blocked: u64) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let (Ok(flags), Ok(stat)) = (rustix::fs::fcntl_getfl(fd), rustix::fs::fstat(fd)) else { return Ok(()) };
    let waits = matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice
    );
    if !waits || flags.intersects(OFlags::NONBLOCK | OFlags::PATH) {
        return Ok(());
    }
    let reads = flags & OFlags::RWMODE != OFlags::WRONLY;
    let events = match nr {
        libc::SYS_read | libc::SYS_readv if reads => libc::POLLIN,
        libc::SYS_write | libc::SYS_writev | libc::SYS_vmsplice if !reads || nr != libc::SYS_vmsplice => {
            libc::POLLOUT
        }
        _ => return Ok(()),
    };
    let mut fds = [libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }];
    signal::ppoll(&mut fds, None, blocked).map(drop)
}
