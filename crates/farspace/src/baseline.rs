//! The copy that everybody else makes: process_vm_readv(2), wrapped for comparisons.
//!
//! Benchmarks and the demo run this beside farspace's own path, in the same run and over the same ranges. It is
//! also the last rung of the fallback ladder.

use farspace_abi::RemoteAddr;
use rustix::io::Errno;

/// Copies the target's bytes from `from` on into `buffer`; a short count means that the next page is not there.
///
/// # Errors
///
/// ESRCH no such process; EPERM no ptrace access; EFAULT not one byte could be read.
pub fn process_vm_readv(pid: i32, from: RemoteAddr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: from.0 as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is exclusively borrowed; the
    // remote address means nothing in this process and is only handed to the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_own_memory() {
        let source = [7u8; 100];
        let mut copy = [0u8; 100];
        let pid = std::process::id() as i32;
        let from = RemoteAddr(source.as_ptr() as u64);
        assert_eq!(process_vm_readv(pid, from, &mut copy), Ok(100));
        assert_eq!(source, copy);
    }

    #[test]
    fn bad_address_is_efault() {
        let pid = std::process::id() as i32;
        assert_eq!(process_vm_readv(pid, RemoteAddr(0), &mut [0u8; 8]), Err(Errno::FAULT));
    }
}
