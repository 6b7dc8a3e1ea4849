//! Cases 60 to 63: syscall mode.

use super::guest;
use super::own::{self, Disposition, signal_thread, tid};
use super::place::{Place, Room};
use crate::case::Outcome;
use crate::world::{PAGE, Pipe, expect, expect_bytes};
use farspace_victims::pattern;
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const READ: u64 = libc::PROT_READ as u64;
const WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const FRESH: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
/// -ERESTARTSYS and its relatives (include/linux/errno.h), which no program ever sees.
const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;

fn errno(errno: Errno) -> i64 {
    -i64::from(errno.raw_os_error())
}

pub(super) fn mappings() -> Outcome {
    let room = Room::with(guest::store())?;
    let at = room.hole.addr + PAGE;
    let own_maps = || std::fs::read_to_string("/proc/self/maps");
    let perms = |wanted: &str| -> Outcome {
        let line = room.mapping(at)?.unwrap_or_default();
        expect(
            &format!("{line:?}: range and permissions"),
            &line.starts_with(&format!("{at:x}-{:x} {wanted} ", at + 3 * PAGE)),
            &true,
        )
    };
    room.expect_syscall("mmap", libc::SYS_mmap, &[at, 3 * PAGE, WRITE, FRESH, u64::MAX, 0], at as i64)?;
    perms("rw-p")?;
    expect("mapped here, too", &own_maps()?.contains(&format!("{at:x}-")), &false)?;
    // It is memory: bytes of the caller's go in and come out, over its page boundaries.
    let bytes = pattern::bytes(99, 0, 5000);
    let pipe = Pipe::new()?;
    rustix::io::write(&pipe.writer, &bytes)?;
    let reader = pipe.reader.as_raw_fd() as u64;
    room.expect_syscall("read", libc::SYS_read, &[reader, at + 100, 5000], 5000)?;
    expect_bytes("what the target has", &room.read(at + 100, 5000)?, &bytes)?;

    room.expect_syscall("mprotect", libc::SYS_mprotect, &[at, 3 * PAGE, READ], 0)?;
    perms("r--p")?;
    let info = room.run(&mut farspace::SigContext { rbx: at, ..room.context() })?;
    expect("a store", &(info.signo(), info.code(), info.addr()), &(libc::SIGSEGV, 2, at))?;
    room.expect_syscall("mprotect to none", libc::SYS_mprotect, &[at, 3 * PAGE, 0], 0)?;
    perms("---p")?;
    room.expect_syscall("mprotect back", libc::SYS_mprotect, &[at, 3 * PAGE, WRITE], 0)?;

    room.expect_syscall("madvise", libc::SYS_madvise, &[at, PAGE, libc::MADV_DONTNEED as u64], 0)?;
    expect("a page that was dropped", &room.read_word(at + 104)?, &0)?;
    let page_2 = room.read(at + PAGE, 16)?;
    let moved = at + 8 * PAGE;
    let how = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let args = [at, 3 * PAGE, 3 * PAGE, how, moved];
    room.expect_syscall("mremap", libc::SYS_mremap, &args, moved as i64)?;
    expect("the old place", &room.mapping(at)?, &None)?;
    expect_bytes("the new place", &room.read(moved + PAGE, 16)?, &page_2)?;
    room.expect_syscall("munmap", libc::SYS_munmap, &[moved, 3 * PAGE], 0)?;
    expect("the new place", &room.mapping(moved)?, &None)?;
    let info = room.run(&mut farspace::SigContext { rbx: moved, ..room.context() })?;
    expect("a store", &(info.signo(), info.code(), info.addr()), &(libc::SIGSEGV, 1, moved))?;
    room.unharmed()
}

/// A duplicate of a descriptor, with a number that nobody else has open.
fn far_number(fd: &OwnedFd) -> Result<OwnedFd, Failed> {
    // SAFETY: the descriptor is valid; the new one is owned at once.
    unsafe {
        let number = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 700);
        Ok(OwnedFd::from_raw_fd(own::os("F_DUPFD_CLOEXEC", number.into())? as i32))
    }
}

pub(super) fn callers_descriptors() -> Outcome {
    let mut room = Room::with(guest::syscall())?;
    let pipe = Pipe::new()?;
    let (writer, data) = (far_number(&pipe.writer)?, room.data);
    let number = writer.as_raw_fd() as u64;
    expect("not open there", &std::fs::exists(format!("/proc/{}/fd/{number}", room.pid))?, &false)?;
    room.expect_syscall("write", libc::SYS_write, &[number, data.addr + 5, 6000], 6000)?;
    expect_bytes("through the pipe", &pipe.drain()?, &pattern::bytes(data.seed, 5, 6000))?;

    // An iovec is an address of the target, and so is all that it points to.
    room.announce("data", 0x8000, 32)?;
    let iov = [data.addr + 8, 100, data.addr + 4096, 50].map(u64::to_le_bytes).concat();
    room.write(data.addr + 0x8000, &iov)?;
    room.expect_syscall("writev", libc::SYS_writev, &[number, data.addr + 0x8000, 2], 150)?;
    let wanted = [pattern::bytes(data.seed, 8, 100), pattern::bytes(data.seed, 4096, 50)].concat();
    expect_bytes("through the pipe", &pipe.drain()?, &wanted)?;

    // The number's meaning is that of the moment of the call.
    drop(writer);
    let other = Pipe::new()?;
    let again = far_number(&other.writer)?;
    expect("the number", &(again.as_raw_fd() as u64), &number)?;
    room.expect_syscall("write", libc::SYS_write, &[number, data.addr, 10], 10)?;
    expect("bytes in the first pipe", &pipe.waiting()?, &0)?;
    expect_bytes("in the second pipe", &other.drain()?, &pattern::bytes(data.seed, 0, 10))?;
    drop(again);
    room.expect_syscall("closed", libc::SYS_write, &[number, data.addr, 10], errno(Errno::BADF))?;

    // A file's offset is the caller's, too.
    let file = rustix::fs::memfd_create("conformance", rustix::fs::MemfdFlags::CLOEXEC)?;
    let fd = file.as_raw_fd() as u64;
    room.expect_syscall("write to a file", libc::SYS_write, &[fd, data.addr, 3000], 3000)?;
    expect("its offset", &rustix::fs::tell(&file)?, &3000)?;
    room.announce("data", 0x9000, 100)?;
    room.expect_syscall("pread64", libc::SYS_pread64, &[fd, data.addr + 0x9000, 100, 200], 100)?;
    expect_bytes("read back", &room.read(data.addr + 0x9000, 100)?, &pattern::bytes(data.seed, 200, 100))?;
    room.unharmed()
}

pub(super) fn errors_in_rax() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let (data, hole) = (room.data.addr, room.hole.addr);
    let pipe = Pipe::new()?;
    let writer = pipe.fd() as u64;
    room.expect_syscall("no descriptor", libc::SYS_write, &[u64::MAX, data, 1], errno(Errno::BADF))?;
    room.expect_syscall("no memory there", libc::SYS_write, &[writer, hole, 1], errno(Errno::FAULT))?;
    room.expect_syscall("unaligned", libc::SYS_munmap, &[data + 1, 1], errno(Errno::INVAL))?;
    room.expect_syscall("nothing there", libc::SYS_mprotect, &[hole, PAGE, READ], errno(Errno::NOMEM))?;
    let taken = [data, PAGE, READ, FRESH, u64::MAX, 0];
    room.expect_syscall("taken", libc::SYS_mmap, &taken, errno(Errno::EXIST))?;
    expect("bytes in the pipe", &pipe.waiting()?, &0)?;
    room.unharmed()
}

/// Plays a caller that uses the wrong ends of a pipe: an error at once, not a wait for what can't happen.
pub(super) fn wrong_ends(place: &Place) -> Result<String, Failed> {
    let (pipe, data) = (Pipe::new()?, place.data.addr);
    let (writer, reader) = (pipe.fd() as u64, pipe.reader.as_raw_fd() as u64);
    place.expect_syscall("read", libc::SYS_read, &[writer, data, 1], errno(Errno::BADF))?;
    place.expect_syscall("write", libc::SYS_write, &[reader, data, 1], errno(Errno::BADF))?;
    Ok("ok".to_owned())
}

pub(super) fn wrong_end_of_a_pipe() -> Outcome {
    let room = Room::with(guest::syscall())?;
    room.play("wrong_ends")?;
    room.unharmed()
}

/// A call that waits is interrupted by a signal, as any; what the kernel says among itself stays there.
pub(super) fn interrupted() -> Outcome {
    extern "C" fn nothing(_: i32) {}
    let mut room = Room::with(guest::syscall())?;
    room.announce("data", 0, 8)?;
    for flags in [0, libc::SA_RESTART] {
        let _handler = Disposition::set(libc::SIGUSR2, nothing as *const () as libc::sighandler_t, flags)?;
        let pipe = Pipe::new()?;
        let (caller, data) = (tid(), room.data.addr);
        let (is_over, begin) = (AtomicBool::new(false), Instant::now());
        let result = std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> Outcome {
                // Repeated, for the first may come before the call waits.
                while !is_over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(200));
                    signal_thread(caller, libc::SIGUSR2)?;
                    // Should it be restarted, there is something to read.
                    if flags == libc::SA_RESTART || begin.elapsed() > Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_millis(200));
                        rustix::io::write(&pipe.writer, b"late")?;
                        break;
                    }
                }
                Ok(())
            });
            let result = room.syscall(libc::SYS_read, &[pipe.reader.as_raw_fd() as u64, data, 8]);
            is_over.store(true, Ordering::SeqCst);
            sender.join().map_err(|_| "the sender panicked")??;
            Ok::<_, Failed>(result)
        })?;
        if result.is_ok_and(|rax| RESTARTS.contains(&rax)) {
            return Err(format!("{result:?} is the kernel's own").into());
        }
        let interrupted = result == Err(Errno::INTR) || result == Ok(errno(Errno::INTR));
        let restarted = flags == libc::SA_RESTART && result == Ok(4);
        expect(&format!("{result:?}"), &(interrupted || restarted), &true)?;
    }
    room.unharmed()
}

/// What would change or end a process, its threads, or the way it runs.
pub(super) fn forbidden() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let forbidden = [
        ("execve", libc::SYS_execve),
        ("execveat", libc::SYS_execveat),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("fork", libc::SYS_fork),
        ("vfork", libc::SYS_vfork),
        ("exit", libc::SYS_exit),
        ("exit_group", libc::SYS_exit_group),
        ("ptrace", libc::SYS_ptrace),
        ("rt_sigreturn", libc::SYS_rt_sigreturn),
        ("rt_sigaction", libc::SYS_rt_sigaction),
        ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
        ("kill", libc::SYS_kill),
        ("arch_prctl", libc::SYS_arch_prctl),
        ("prctl", libc::SYS_prctl),
        ("seccomp", libc::SYS_seccomp),
        ("rseq", libc::SYS_rseq),
        ("set_robust_list", libc::SYS_set_robust_list),
        ("close", libc::SYS_close),
        ("dup2", libc::SYS_dup2),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("setuid", libc::SYS_setuid),
        ("chdir", libc::SYS_chdir),
        ("futex", libc::SYS_futex),
        ("process_vmsplice", 548),
        ("process_vm_exec", 549),
        ("none", 9999),
        ("getpid of x32", 0x4000_0027),
        ("negative", -1),
    ];
    for (what, nr) in forbidden {
        expect(what, &room.syscall(nr, &[0; 6]), &Err(Errno::OPNOTSUPP))?;
    }
    room.unharmed()
}
