//! The copy that everybody else makes: process_vm_readv(2).

use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_sys::memory;
use rustix::io::Errno;

/// Copies the target's bytes from `from` on into `buffer`; a short count means that the next page is not there.
///
/// # Errors
///
/// ESRCH no such process; EPERM no ptrace access; EFAULT not one byte could be read.
pub fn process_vm_readv(pid: i32, from: RemoteAddr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let range = RemoteIoVec { base: from, len: buffer.len() as u64 };
    memory::process_vm_readv(pid, &[range], buffer).map_err(|e| e.errno)
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
