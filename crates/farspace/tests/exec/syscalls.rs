//! Syscall mode.

use std::io::Read as _;
use std::os::fd::AsRawFd as _;

use crate::child::Target;
use crate::guest::{DATA, Guest, errno, syscall};

#[test]
fn memory_calls_and_the_callers_descriptors() {
    let mut target = Target::start();
    let before = target.look();
    let guest = Guest::new(&target, &[]);
    guest.write(DATA, b"from there");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let number = writer.as_raw_fd() as u64;
    let call = |nr, args| syscall(target.pid(), nr, args);
    assert_eq!(call(libc::SYS_write, [number, guest.page + DATA, 10, 0, 0, 0]).expect("a call"), 10);
    let mut bytes = [0; 10];
    reader.read_exact(&mut bytes).expect("it is there");
    assert_eq!(&bytes, b"from there");
    assert_eq!(call(libc::SYS_munmap, [1, 4096, 0, 0, 0, 0]).expect("a call"), -i64::from(libc::EINVAL));
    assert_eq!(
        call(libc::SYS_write, [99_999, guest.page, 1, 0, 0, 0]).expect("a call"),
        -i64::from(libc::EBADF)
    );
    // The wrong ends.
    let [r, w] = [reader.as_raw_fd() as u64, number];
    assert_eq!(call(libc::SYS_read, [w, guest.page, 1, 0, 0, 0]).expect("a call"), -i64::from(libc::EBADF));
    assert_eq!(call(libc::SYS_write, [r, guest.page, 1, 0, 0, 0]).expect("a call"), -i64::from(libc::EBADF));
    for nr in [libc::SYS_execve, libc::SYS_clone, libc::SYS_exit, libc::SYS_getpid, 549, -1] {
        assert_eq!(call(nr, [0; 6]).map_err(|e| errno(&e)), Err(libc::EOPNOTSUPP), "{nr}");
    }
    guest.remove();
    target.assert_clean(&before);
}
