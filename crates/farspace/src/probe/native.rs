//! Whether the kernel's calls with the numbers 548 and 549 are the ones that farspace means.
//!
//! A kernel without them answers ENOSYS; one that has given the numbers to something else answers something. So
//! each probe asks several questions that only the real call answers all as the specification says. The first passes
//! nothing but null pointers and flags that nobody knows, so that a stranger does no harm.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::ptr;

use farspace_abi::exec::{SigContext, SigInfo};
use farspace_abi::native::{NR_PROCESS_VM_EXEC, NR_PROCESS_VMSPLICE};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::check;

/// Tells whether the kernel has `process_vmsplice`, last by a byte of this process that goes through a pipe.
///
/// # Errors
///
/// ENOSYS where it has not, or where the number is something else's; or what stands in the way (EPERM of a filter).
pub fn native_vmsplice() -> Result<(), Errno> {
    let call = |pid: i32, fd: i32, iov: *const libc::iovec, nr_segs: usize, flags: u32| {
        // SAFETY: `iov` is null or an array of `nr_segs`, which name memory of this process that is only read.
        check(unsafe { libc::syscall(NR_PROCESS_VMSPLICE, pid, fd, iov, nr_segs, flags) })
    };
    expect(call(0, -1, ptr::null(), 0, u32::MAX), Err(Errno::INVAL))?;
    expect(call(-1, -1, ptr::null(), 0, 0), Ok(0))?;
    expect(call(-1, -1, ptr::null(), 1025, 0), Err(Errno::INVAL))?;
    expect(call(-1, -1, ptr::null(), 1, 0), Err(Errno::BADF))?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let byte = [0x5a_u8];
    let iov = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    expect(call(std::process::id() as i32, writer.as_raw_fd(), &raw const iov, 1, 0), Ok(1))?;
    let mut seen = [0];
    std::fs::File::from(reader).read_exact(&mut seen).map_err(|_| Errno::IO)?;
    if seen == byte { Ok(()) } else { Err(Errno::NOSYS) }
}

/// Tells whether the kernel has `process_vm_exec`.
///
/// # Errors
///
/// As [`native_vmsplice`].
pub fn native_vm_exec() -> Result<(), Errno> {
    let mut context = SigContext::default();
    let mut info = SigInfo::default();
    let mask = 0_u64;
    let mut call = |flags: u64, has_pointers: bool, sizemask: usize| {
        let (context, info, mask) = match has_pointers {
            true => (&raw mut context, &raw mut info, &raw const mask),
            false => (ptr::null_mut(), ptr::null_mut(), ptr::null()),
        };
        // SAFETY: the pointers are null or to locals that live longer than the call; no process has pid -1.
        check(unsafe { libc::syscall(NR_PROCESS_VM_EXEC, -1, context, flags, info, mask, sizemask) })
    };
    expect(call(u64::MAX, false, 0), Err(Errno::INVAL))?;
    expect(call(0, false, 7), Err(Errno::INVAL))?;
    expect(call(0, false, 8), Err(Errno::FAULT))?;
    expect(call(0, true, 8), Err(Errno::SRCH))
}

/// The one answer that the real call gives. ENOSYS for any other, but what a filter says is passed on.
fn expect(answer: Result<u64, Errno>, wanted: Result<u64, Errno>) -> Result<(), Errno> {
    match answer {
        answer if answer == wanted => Ok(()),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => Err(errno),
        _ => Err(Errno::NOSYS),
    }
}
