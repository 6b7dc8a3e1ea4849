//! Reading and writing this process's own memory where it may not be there.
//!
//! Arguments of a system call can point anywhere, and may be unmapped by another thread at any time: the kernel answers
//! EFAULT. So does this, by process_vm_readv(2) and process_vm_writev(2) on the process itself.

use rustix::io::Errno;

/// Copies from the addresses into the buffers.
///
/// # Errors
///
/// EFAULT: not all of it can be read.
pub fn read(parts: &mut [(u64, &mut [u8])]) -> Result<(), Errno> {
    let [mut here, mut there] = [[EMPTY; MOST]; 2];
    let parts = parts.get_mut(..).filter(|parts| parts.len() <= MOST).ok_or(Errno::INVAL)?;
    let mut total = 0;
    for (index, (address, bytes)) in parts.iter_mut().enumerate() {
        here[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        there[index] = libc::iovec { iov_base: *address as *mut _, iov_len: bytes.len() };
        total += bytes.len();
    }
    let count = parts.len() as u64;
    // SAFETY: the local ranges are exclusive buffers that outlive the call; the kernel checks the others.
    let n = unsafe { libc::process_vm_readv(own(), here.as_ptr(), count, there.as_ptr(), count, 0) };
    if usize::try_from(n) == Ok(total) { Ok(()) } else { Err(Errno::FAULT) }
}

/// Copies from the buffers to the addresses.
///
/// # Errors
///
/// EFAULT: not all of it can be written.
///
/// # Safety
///
/// What is there must be the caller's to overwrite, or nothing.
pub unsafe fn write(parts: &[(u64, &[u8])]) -> Result<(), Errno> {
    let [mut here, mut there] = [[EMPTY; MOST]; 2];
    if parts.len() > MOST {
        return Err(Errno::INVAL);
    }
    let mut total = 0;
    for (index, (address, bytes)) in parts.iter().enumerate() {
        here[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        there[index] = libc::iovec { iov_base: *address as *mut _, iov_len: bytes.len() };
        total += bytes.len();
    }
    let count = parts.len() as u64;
    // SAFETY: the local ranges are only read; the others are the caller's promise, and checked by the kernel.
    let n = unsafe { libc::process_vm_writev(own(), here.as_ptr(), count, there.as_ptr(), count, 0) };
    if usize::try_from(n) == Ok(total) { Ok(()) } else { Err(Errno::FAULT) }
}

/// Parts that one copy can have.
const MOST: usize = 4;
const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn own() -> i32 {
    std::process::id() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_errors() {
        let [a, mut b, mut c] = [[1u8; 16], [0; 16], [0; 16]];
        assert_eq!(read(&mut [(a.as_ptr() as u64, &mut b), (8, &mut c)]), Err(Errno::FAULT));
        assert_eq!(read(&mut [(a.as_ptr() as u64, &mut b)]), Ok(()));
        assert_eq!(a, b);
        // SAFETY: the first is a buffer of this function's; the others can't be written to.
        unsafe {
            assert_eq!(write(&[(c.as_mut_ptr() as u64, &a)]), Ok(()));
            assert_eq!(write(&[(u64::MAX - 64, &a)]), Err(Errno::FAULT));
            assert_eq!(write(&[(own as fn() -> i32 as usize as u64, &a)]), Err(Errno::FAULT));
        }
        assert_eq!(c, a);
    }
}
