//! System calls in a target through the library: typed helpers, descriptors, blocking, and what is refused.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farspace::{Arg, AttachOptions, Mechanism, Permit, RemoteAddr, RemoteIoVec, Returned, Target};
use farspace_victims::harness::Victim;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags, UserfaultfdFlags};

#[path = "common/victim.rs"]
mod victim;

const PAGE: u64 = 4096;
/// include/uapi/linux/userfaultfd.h.
const UFFD_USER_MODE_ONLY: u32 = 1;

fn memory() -> Victim {
    victim::spawn("memory", &["anon:64K"]).expect("anonymous memory is everywhere")
}

fn attach(victim: &Victim) -> Target {
    let options = AttachOptions { mechanism: Some(Mechanism::Agent), ..AttachOptions::default() };
    Target::attach_with(victim.pid(), &options).expect("an agent")
}

fn words(words: [u64; 6]) -> [Arg<'static>; 6] {
    words.map(Arg::Word)
}

#[track_caller]
fn detached_and_unharmed(target: Target, victim: Victim) {
    target.detach().expect("it leaves");
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn mappings_come_and_go() {
    let victim = memory();
    let target = attach(&victim);
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let base = target.mmap(RemoteAddr(0), 4 * PAGE, protection, MapFlags::PRIVATE, None).expect("mmap");
    let page = RemoteIoVec { base, len: PAGE };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (&writer).write_all(b"bytes of the caller").expect("written");

    let read = |at: RemoteAddr| {
        let args = [Arg::Fd(reader.as_fd()), at.0.into(), 5.into(), 0.into(), 0.into(), 0.into()];
        target.syscall(libc::SYS_read as u64, args).expect("made").into_raw()
    };
    assert_eq!(read(base), 5);
    target.mprotect(page, MprotectFlags::READ).expect("mprotect");
    assert_eq!(read(base), -i64::from(libc::EFAULT));
    // By number; it is sent as if it were a descriptor of this process, which it is.
    let args = words([writer.as_raw_fd() as u64, base.0, 5, 0, 0, 0]);
    assert_eq!(target.syscall(libc::SYS_write as u64, args).expect("made").into_raw(), 5);

    target.madvise(page, libc::MADV_DONTNEED).expect("madvise");
    let all = RemoteIoVec { base, len: 4 * PAGE };
    let error = target.madvise(all, 12345).expect_err("no such advice");
    assert_eq!((error.errno(), error.address()), (Errno::INVAL, Some(base)));
    assert!(error.to_string().contains("Invalid argument"), "{error}");
    // The first page has another protection, so it is a mapping of its own.
    let rest = RemoteIoVec { base: RemoteAddr(base.0 + PAGE), len: 3 * PAGE };
    let moved = target.mremap(rest, 32 * PAGE, MremapFlags::MAYMOVE, None).expect("mremap");
    target.munmap(RemoteIoVec { base: moved, len: 32 * PAGE }).expect("munmap");
    target.munmap(page).expect("munmap");
    detached_and_unharmed(target, victim);
}

#[test]
fn descriptors_come_back() {
    let victim = memory();
    let target = attach(&victim);
    let file = target.memfd_create("a name", MemfdFlags::CLOEXEC).expect("memfd");
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("ours");
    assert!(name.to_string_lossy().starts_with("/memfd:a name"), "{name:?}");
    assert_eq!(
        target.memfd_create("nul\0", MemfdFlags::empty()).map_err(|e| e.errno()).err(),
        Some(Errno::INVAL)
    );
    let long = "x".repeat(300);
    let error = target.memfd_create(&long, MemfdFlags::empty()).expect_err("too long");
    assert_eq!(error.errno(), Errno::INVAL);

    // Mapped into the target, and written to from here.
    rustix::io::write(&file, b"shared").expect("written");
    let at = target
        .mmap(RemoteAddr(0), PAGE, ProtFlags::READ, MapFlags::SHARED, Some((file.as_fd(), 0)))
        .expect("mmap");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let args = [Arg::Fd(writer.as_fd()), at.0.into(), 6.into(), 0.into(), 0.into(), 0.into()];
    assert_eq!(target.syscall(libc::SYS_write as u64, args).expect("made").into_raw(), 6);
    let mut bytes = [0; 6];
    rustix::io::read(&reader, &mut bytes).expect("read");
    assert_eq!(&bytes, b"shared");
    target.munmap(RemoteIoVec { base: at, len: PAGE }).expect("munmap");

    match target.userfaultfd(UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY)) {
        Ok(uffd) => {
            let name = std::fs::read_link(format!("/proc/self/fd/{}", uffd.as_raw_fd())).expect("ours");
            assert_eq!(name.to_string_lossy(), "anon_inode:[userfaultfd]");
        }
        Err(error) => assert_eq!(error.errno(), Errno::NOSYS, "{error}"),
    }
    // Nothing stays in the agent's table: 1 socket, 4 bells, the target's pidfd, and standard places that are free.
    let agent = target
        .syscall_with(libc::SYS_getpid as u64, words([0; 6]), Permit::Any, &mut || ControlFlow::Continue(()))
        .expect("made")
        .into_raw();
    assert_eq!(std::fs::read_dir(format!("/proc/{agent}/fd")).expect("it lives").count(), 6);
    detached_and_unharmed(target, victim);
}

#[test]
fn calls_are_refused() {
    let victim = memory();
    let target = attach(&victim);
    for nr in [libc::SYS_execve, libc::SYS_clone, libc::SYS_exit_group, libc::SYS_getpid] {
        let error = target.syscall(nr as u64, words([0; 6])).expect_err("refused");
        assert_eq!(error.errno(), Errno::OPNOTSUPP, "{error}");
        assert!(error.to_string().contains(&format!("call {nr} is not made")), "{error}");
    }
    let nothing = &mut || ControlFlow::Continue(());
    let error = target.syscall_with(libc::SYS_exit as u64, words([0; 6]), Permit::Any, nothing);
    assert_eq!(error.map_err(|e| e.errno()).err(), Some(Errno::OPNOTSUPP));

    let own = farspace_sys::process::mappings(victim.pid()).expect("maps");
    let own: Vec<_> = own.iter().filter(|mapping| target.owns(mapping)).collect();
    assert!(own.len() >= 3, "code, data, mailbox: {own:?}");
    for mapping in own {
        let error = target.munmap(RemoteIoVec { base: mapping.start, len: PAGE }).expect_err("refused");
        assert_eq!((error.errno(), error.address()), (Errno::BUSY, Some(mapping.start)), "{error}");
        // What the kernel would write there.
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let args = [Arg::Fd(reader.as_fd()), mapping.start.0.into(), 1.into(), 0.into(), 0.into(), 0.into()];
        let error = target.syscall(libc::SYS_read as u64, args).expect_err("refused");
        assert_eq!(error.errno(), Errno::BUSY, "{error}");
    }
    detached_and_unharmed(target, victim);

    let victim = memory();
    let options = AttachOptions { mechanism: Some(Mechanism::PidMem), ..AttachOptions::default() };
    let target = Target::attach_with(victim.pid(), &options).expect("a copy");
    let error = target.syscall(libc::SYS_brk as u64, words([0; 6])).expect_err("no agent");
    assert_eq!(error.errno(), Errno::OPNOTSUPP);
    assert!(error.to_string().contains("agent"), "{error}");
    detached_and_unharmed(target, victim);
}

/// A read on an empty pipe: waited for here, and so until bytes come or it is broken off.
#[test]
fn a_read_waits_for_bytes() {
    let victim = memory();
    let target = attach(&victim);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let scratch = target.scratch(8).expect("scratch");
    let at = scratch.address().0;
    let args = [Arg::Fd(reader.as_fd()), at.into(), 8.into(), 0.into(), 0.into(), 0.into()];
    let begin = Instant::now();
    let returned = make_for(&target, libc::SYS_read, args, Duration::from_millis(200));
    assert!(matches!(returned, Returned::Errno(Errno::INTR)), "{returned:?}");
    assert!(begin.elapsed() > Duration::from_millis(190), "too early: {:?}", begin.elapsed());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            (&writer).write_all(b"late").expect("written");
        });
        assert_eq!(make_for(&target, libc::SYS_read, args, Duration::from_secs(60)).into_raw(), 4);
    });
    let mut bytes = [0; 5];
    scratch.read(0, &mut bytes).expect("read");
    assert_eq!(&bytes, b"late\0");
    // What fails at once, or has nothing to do, doesn't wait.
    let mut nothing = args;
    nothing[2] = Arg::Word(0);
    assert_eq!(target.syscall(libc::SYS_read as u64, nothing).expect("made").into_raw(), 0);
    let wrong = [Arg::Fd(writer.as_fd()), at.into(), 8.into(), 0.into(), 0.into(), 0.into()];
    for (nr, args, errno) in [
        (libc::SYS_read, wrong, libc::EBADF),
        (libc::SYS_write, args, libc::EBADF),
        (libc::SYS_pread64, args, libc::ESPIPE),
    ] {
        assert_eq!(target.syscall(nr as u64, args).expect("made").into_raw(), -i64::from(errno), "call {nr}");
    }
    drop(scratch);
    detached_and_unharmed(target, victim);
}

/// A call with a caller who loses patience.
fn make_for(target: &Target, nr: libc::c_long, args: [Arg<'_>; 6], patience: Duration) -> Returned {
    let begin = Instant::now();
    let mut go_on = || match begin.elapsed() < patience {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    target.syscall_with(nr as u64, args, Permit::Any, &mut go_on).expect("made")
}

/// A write of more than a pipe has room for blocks the agent; broken off, it says how much it has written. A sleep is
/// interrupted. And the agent goes on working.
fn blocks_until_told(victim: Victim) {
    const LEN: u64 = 1 << 20;
    let target = attach(&victim);
    let scratch = target.scratch(LEN).expect("scratch");
    // An hour.
    scratch.write(0, &3600u64.to_le_bytes()).expect("written");
    let hour = words([scratch.address().0, 0, 0, 0, 0, 0]);
    for _ in 0..10 {
        let begin = Instant::now();
        let returned = make_for(&target, libc::SYS_nanosleep, hour, Duration::from_millis(100));
        assert!(matches!(returned, Returned::Errno(Errno::INTR)), "{returned:?}");
        assert!(begin.elapsed() > Duration::from_millis(90), "too early: {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(20), "too late: {:?}", begin.elapsed());

        let (reader, writer) = std::io::pipe().expect("a pipe");
        let room = rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe");
        let at = scratch.address().0;
        let args = [Arg::Fd(writer.as_fd()), at.into(), LEN.into(), 0.into(), 0.into(), 0.into()];
        let written = make_for(&target, libc::SYS_write, args, Duration::from_millis(100)).into_raw();
        assert_eq!(written, room as i64);
        drop((reader, writer));
    }
    drop(scratch);
    detached_and_unharmed(target, victim);
}

#[test]
fn a_call_that_blocks() {
    blocks_until_told(memory());
}

#[test]
fn a_call_that_blocks_under_a_seccomp_filter() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: suspending a filter needs CAP_SYS_ADMIN");
        return;
    }
    let Some(victim) = victim::spawn("seccomp", &["errno"]) else { return };
    blocks_until_told(victim);
}

#[test]
fn a_call_that_blocks_in_an_agent_that_is_a_thread() {
    let Some(victim) = victim::spawn("reaper", &["subreaper"]) else { return };
    blocks_until_told(victim);
}

#[test]
fn the_end_of_the_target_ends_a_call_that_blocks() {
    let victim = memory();
    let target = attach(&victim);
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    for blocks_agent in [true, false] {
        let begin = Instant::now();
        let error = std::thread::scope(|scope| {
            let pid = rustix::process::Pid::from_raw(victim.pid()).expect("a pid");
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            });
            let nothing = &mut || ControlFlow::Continue(());
            let (nr, first) = match blocks_agent {
                // poll(2) of nothing, for ever.
                true => (libc::SYS_poll, Arg::Word(0)),
                false => (libc::SYS_read, Arg::Fd(reader.as_fd())),
            };
            let args = [first, 0.into(), u64::MAX.into(), 0.into(), 0.into(), 0.into()];
            target.syscall_with(nr as u64, args, Permit::Any, nothing).expect_err("it is gone")
        });
        assert_eq!(error.errno(), Errno::SRCH, "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20), "too late: {:?}", begin.elapsed());
    }
}

#[test]
fn a_signal_ends_a_call_that_blocks() {
    let victim = memory();
    let target = attach(&victim);
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    extern "C" fn nothing(_: libc::c_int) {}
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGUSR1, &action) }.expect("installed");
    // SAFETY: no arguments.
    let thread = unsafe { libc::gettid() };
    let scratch = target.scratch(8).expect("scratch");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One that comes before the call blocks does nothing to it.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                // SAFETY: a signal to a thread of this process, with a handler.
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1) };
            }
        });
        let at = scratch.address().0;
        let args = [Arg::Fd(reader.as_fd()), at.into(), 8.into(), 0.into(), 0.into(), 0.into()];
        let returned = target.syscall(libc::SYS_read as u64, args);
        is_over.store(true, Ordering::Relaxed);
        let returned = returned.expect("made");
        assert!(matches!(returned, Returned::Errno(Errno::INTR)), "{returned:?}");
    });
    drop(scratch);
    detached_and_unharmed(target, victim);
}
