//! Cases 1 to 7: the checks, and their order.

use crate::caller;
use crate::case::Outcome;
use crate::processes::{ended_pid, kernel_thread};
use crate::world::{
    GIFT, MOVE, NONBLOCK, PIDFD, Pipe, call, expect, expect_count, expect_errno, memory, range, unharmed,
};
use farspace::RemoteIoVec;
use farspace_victims::harness::Victim;
use rustix::io::Errno;
use std::os::fd::AsRawFd;

const UNKNOWN_FLAGS: [u32; 4] = [0x10, 0x200, 0x8000_0000, 0x10 | NONBLOCK];

pub(super) fn no_segments() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    for (pid, fd) in [(victim.pid(), -1), (-77, 9999), (i32::MAX, 0), (0, i32::MIN)] {
        for flags in [0, MOVE | NONBLOCK | GIFT, PIDFD] {
            expect_count(&format!("pid {pid}, fd {fd}, flags {flags:#x}"), call(pid, fd, &[], flags), 0)?;
        }
    }
    // SAFETY: no segment is read; that the pointer doesn't matter is what is tested.
    let junk = unsafe { farspace::raw::process_vmsplice(1, 1, std::ptr::dangling(), 0, 0) };
    expect_count("junk iov", junk, 0)?;
    unharmed(victim)
}

pub(super) fn unknown_flag() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 1)];
    let pipe = Pipe::new()?;
    for flags in UNKNOWN_FLAGS {
        expect_errno(&format!("flags {flags:#x}"), pipe.call(victim.pid(), &iov, flags), Errno::INVAL)?;
        expect_errno(&format!("flags {flags:#x}, no segments"), call(-1, -1, &[], flags), Errno::INVAL)?;
    }
    expect("bytes in the pipe", &pipe.waiting()?, &0)?;
    unharmed(victim)
}

pub(super) fn too_many_segments() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let mut iov = vec![RemoteIoVec::default(); 1025];
    let pipe = Pipe::new()?;
    expect_errno("1025 segments", pipe.call(victim.pid(), &iov, 0), Errno::INVAL)?;
    expect_errno("1025 segments, bad fd and pid", call(-1, -1, &iov, 0), Errno::INVAL)?;
    iov[1023] = range(victim.region("anon")?, 5, 3);
    expect_count("1024 segments", pipe.call(victim.pid(), &iov[..1024], 0), 3)?;
    unharmed(victim)
}

pub(super) fn not_a_pipe_to_write() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 1)];
    let pipe = Pipe::new()?;
    let file = std::fs::File::open("/proc/self/exe")?;
    let scratch = tempfile()?;
    let (socket, _peer) = std::os::unix::net::UnixStream::pair()?;
    let closed = std::fs::File::open("/dev/null")?.as_raw_fd();
    let wrong = [
        ("negative", -1),
        ("closed", closed),
        ("read end", pipe.reader.as_raw_fd()),
        ("file for reading", file.as_raw_fd()),
        ("file for writing", scratch.as_raw_fd()),
        ("socket", socket.as_raw_fd()),
    ];
    for (what, fd) in wrong {
        expect_errno(what, call(victim.pid(), fd, &iov, 0), Errno::BADF)?;
        expect_errno(&format!("{what}, and no such process"), call(ended_pid()?, fd, &iov, 0), Errno::BADF)?;
    }
    expect_count("the write end", pipe.call(victim.pid(), &iov, 0), 1)?;
    unharmed(victim)
}

pub(super) fn no_such_process() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 1)];
    let pipe = Pipe::new()?;
    for pid in [ended_pid()?, i32::MAX, 0, -1] {
        expect_errno(&format!("pid {pid}"), pipe.call(pid, &iov, 0), Errno::SRCH)?;
    }
    let zombie = Victim::spawn("zombie", &["process"])?;
    expect_errno("zombie", pipe.call(zombie.pid(), &iov, 0), Errno::SRCH)?;
    match kernel_thread() {
        Some(pid) => expect_errno("kernel thread", pipe.call(pid, &iov, 0), Errno::SRCH)?,
        None => eprintln!("no kernel thread is visible from here: that part is left out"),
    }
    // SAFETY: the bad pointer must not even be looked at, and is never followed by this process.
    let order =
        unsafe { farspace::raw::process_vmsplice(ended_pid()?, pipe.fd(), std::ptr::dangling(), 1, 0) };
    expect_errno("no such process comes before the bad iov", order, Errno::SRCH)?;
    unharmed(zombie)?;
    unharmed(victim)
}

pub(super) fn no_access() -> Outcome {
    const OTHER_USER: u32 = 65_532;
    let victim = memory(&["anon:64K"])?;
    let iov = range(victim.region("anon")?, 0, 1);
    let denied = format!("errno {}", Errno::PERM.raw_os_error());
    expect("an unprivileged user, root's target", &caller::call_as(OTHER_USER, victim.pid(), iov)?, &denied)?;
    unharmed(victim)?;
    let undumpable = Victim::spawn("undumpable", &["--uid", &OTHER_USER.to_string()])?;
    let iov = RemoteIoVec::new(farspace_victims::PAGE as u64, 1);
    expect("a target that is not dumpable", &caller::call_as(OTHER_USER, undumpable.pid(), iov)?, &denied)?;
    unharmed(undumpable)
}

pub(super) fn bad_iov() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let pipe = Pipe::new()?;
    for address in [0_usize, 8, usize::MAX & !7, 0x8000_0000_0000] {
        // SAFETY: bad pointers are what is tested: the call reports them and doesn't follow them.
        let result = unsafe {
            farspace::raw::process_vmsplice(victim.pid(), pipe.fd(), address as *const RemoteIoVec, 1, 0)
        };
        expect_errno(&format!("iov at {address:#x}"), result, Errno::FAULT)?;
    }
    let good = range(victim.region("anon")?, 0, 1);
    for len in [u64::MAX, 1 << 63] {
        let negative = RemoteIoVec::new(good.base.0, len);
        for iov in [[negative, good], [good, negative]] {
            expect_errno(&format!("length {len:#x}"), pipe.call(victim.pid(), &iov, 0), Errno::INVAL)?;
        }
    }
    expect("bytes in the pipe", &pipe.waiting()?, &0)?;
    unharmed(victim)
}

/// A file without a name.
fn tempfile() -> Result<std::fs::File, libtest_mimic::Failed> {
    let fd = rustix::fs::memfd_create("conformance", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(fd.into())
}
