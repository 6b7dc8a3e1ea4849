//! Probes of what the running kernel grants this process, each found by doing the thing.
//!
//! Version numbers lie (backports, hardening patches, container filters), so every function here performs
//! the operation on something harmless: this process, an own pipe, or a forked child that waits on a pipe
//! and dies with it. `Ok` carries what was seen, `Err` the errno that says why not. `farspace doctor` turns
//! the answers into words; the backends may use them to choose a mechanism.
//!
//! # Safety
//!
//! The unsafe blocks are raw system calls and accesses to mappings that the same function created.

use std::io::Read;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

mod child;
mod mapping;
mod native;
mod tracking;

pub use child::{ProbeChild, RseqConfiguration, SuspendSeccomp};
pub use native::{native_vm_exec, native_vmsplice};
pub use tracking::{WriteTracking, write_tracking};

use mapping::Mapping;

/// `arch_prctl` code that reads the shadow stack state (arch/x86/include/uapi/asm/prctl.h).
const ARCH_SHSTK_STATUS: libc::c_long = 0x5005;
/// `kcmp` type that compares address spaces (include/uapi/linux/kcmp.h).
const KCMP_VM: libc::c_long = 1;

/// The last errno as a rustix error.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Turns a raw system call's return value into a result.
fn check(value: libc::c_long) -> Result<u64, Errno> {
    u64::try_from(value).map_err(|_| last_errno())
}

/// Tells whether vmsplice(2) maps pages into a pipe (`true`) or copies them (`false`).
///
/// An own page goes into a pipe, is changed, and the pipe is read: the new value shows that the pipe held the
/// page itself.
///
/// # Errors
///
/// What pipe2, mmap, vmsplice or read fail with.
pub fn vmsplice_is_zero_copy() -> Result<bool, Errno> {
    let mut page = Mapping::anonymous(4096)?;
    page.bytes_mut().fill(1);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let range = libc::iovec { iov_base: page.as_ptr().cast(), iov_len: page.len_bytes() };
    // SAFETY: the range is the mapping above, which outlives the pipe's use of it in this function.
    let spliced = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const range, 1, 0) };
    check(spliced as libc::c_long)?;
    page.bytes_mut().fill(2);
    let mut first = [0u8; 1];
    std::fs::File::from(reader).read_exact(&mut first).map_err(|_| Errno::IO)?;
    Ok(first[0] == 2)
}

/// Tells whether memfd_secret(2) memory exists here; such memory can be read by nobody but its owner.
///
/// # Errors
///
/// ENOSYS where the kernel has none or it is disabled at boot.
pub fn secretmem() -> Result<(), Errno> {
    // SAFETY: no pointers; a descriptor that is returned is closed at once.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    close_raw(check(fd)?);
    Ok(())
}

/// Tells whether this process may use io_uring.
///
/// # Errors
///
/// EPERM where the kernel.io_uring_disabled sysctl or a filter forbids it; ENOSYS where there is none.
pub fn io_uring() -> Result<(), Errno> {
    // struct io_uring_params is 120 bytes (include/uapi/linux/io_uring.h).
    let mut params = [0u64; 15];
    // SAFETY: `params` is as large as the kernel's structure; a ring of one entry is closed at once.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    close_raw(check(fd)?);
    Ok(())
}

/// Tells whether user shadow stacks exist, and whether this thread runs with one (`true`).
///
/// # Errors
///
/// EINVAL or ENOTSUP where kernel or processor have none.
pub fn shadow_stack() -> Result<bool, Errno> {
    let mut features = 0u64;
    // SAFETY: the call writes one u64 to the address given.
    check(unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut features) })?;
    Ok(features & 1 != 0)
}

/// Closes a descriptor that a raw system call has just returned.
fn close_raw(fd: u64) {
    // SAFETY: the caller owns the descriptor and does not use it afterwards.
    unsafe { libc::close(fd as libc::c_int) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_stable() {
        assert_eq!(native_vmsplice(), native_vmsplice());
        assert_eq!(native_vm_exec(), native_vm_exec());
        assert_eq!(vmsplice_is_zero_copy(), vmsplice_is_zero_copy());
    }

    #[test]
    fn tracking_sees_exactly_the_written_page() {
        match write_tracking() {
            Ok(found) => assert!(found.exact, "{found:?}"),
            Err(errno) => eprintln!("skipped: no write tracking here: {errno}"),
        }
    }

    #[test]
    fn child_is_readable_and_gone_afterwards() {
        let child = ProbeChild::start().unwrap();
        let pid = child.pid();
        child.process_vm_readv().unwrap();
        child.proc_mem_read().unwrap();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn child_can_be_seized() {
        let child = ProbeChild::start().unwrap();
        match child.seize() {
            Ok(seized) => assert!(seized.xstate().unwrap().len() >= 576),
            Err(errno) => eprintln!("skipped: ptrace is not allowed here: {errno}"),
        }
    }
}
