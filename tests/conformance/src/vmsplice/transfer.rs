//! Cases 8 to 18: what is transferred, and when the call waits.

use crate::case::Outcome;
use crate::world::{
    NONBLOCK, PAGE, Pipe, SLOTS, expect, expect_bytes, expect_count, expect_errno, memory, range, unharmed,
};
use farspace::{RemoteIoVec, SpliceFlags, TargetId};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(super) fn one_byte() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let pipe = Pipe::new()?;
    for offset in [0, 1, 123, PAGE - 1, PAGE, anon.len - 1] {
        let iov = [range(anon, offset, 1)];
        expect_count(&format!("offset {offset}"), pipe.call(victim.pid(), &iov, 0), 1)?;
        expect_bytes(&format!("offset {offset}"), &pipe.drain()?, &anon.bytes(offset, 1))?;
        let n = farspace::process_vmsplice(
            TargetId::Pid(victim.pid()),
            pipe.writer.as_fd(),
            &iov,
            SpliceFlags::empty(),
        )?;
        expect("safe call", &n, &1)?;
        expect_bytes(&format!("offset {offset}, safe call"), &pipe.drain()?, &anon.bytes(offset, 1))?;
    }
    unharmed(victim)
}

pub(super) fn cross_page_order() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let pipe = Pipe::new()?;
    // One byte from the end of the buffer comes first; then a page's worth that lies across two pages.
    let iov = [range(anon, 5 * PAGE - 1, 1), range(anon, PAGE + 100, PAGE)];
    expect_count("1 + 4096 bytes", pipe.call(victim.pid(), &iov, 0), 1 + PAGE)?;
    let wanted = [anon.bytes(5 * PAGE - 1, 1), anon.bytes(PAGE + 100, PAGE)].concat();
    expect_bytes("1 + 4096 bytes", &pipe.drain()?, &wanted)?;
    // The same with empty segments between them, and backwards.
    let empty = RemoteIoVec::new(0xdead_0000, 0);
    let iov = [empty, iov[1], empty, iov[0], empty];
    expect_count("4096 + 1 bytes", pipe.call(victim.pid(), &iov, 0), 1 + PAGE)?;
    let wanted = [anon.bytes(PAGE + 100, PAGE), anon.bytes(5 * PAGE - 1, 1)].concat();
    expect_bytes("4096 + 1 bytes", &pipe.drain()?, &wanted)?;
    unharmed(victim)
}

pub(super) fn bad_second_segment() -> Outcome {
    let victim = memory(&["anon:64K", "protnone"])?;
    let anon = victim.region("anon")?;
    let unmapped = RemoteIoVec::new(PAGE, 100);
    let pipe = Pipe::new()?;
    for bad in [unmapped, range(victim.region("protnone")?, 0, 100)] {
        let iov = [range(anon, 10, 100), bad, range(anon, 500, 100)];
        expect_count("up to the bad segment", pipe.call(victim.pid(), &iov, 0), 100)?;
        expect_bytes("up to the bad segment", &pipe.drain()?, &anon.bytes(10, 100))?;
    }
    unharmed(victim)
}

pub(super) fn unreadable_first() -> Outcome {
    let victim = memory(&["anon:64K", "protnone", "vvar", "edge"])?;
    let edge = victim.region("edge")?;
    let good = range(victim.region("anon")?, 0, 100);
    let pipe = Pipe::new()?;
    let bad = [
        ("the null page", RemoteIoVec::new(0, 1)),
        ("PROT_NONE", range(victim.region("protnone")?, 0, 1)),
        ("VM_PFNMAP", range(victim.region("vvar")?, 0, 1)),
        ("behind a mapping", range(edge, edge.len, PAGE)),
        ("kernel addresses", RemoteIoVec::new(0xffff_8000_0000_0000, 1)),
        ("the end of the address space", RemoteIoVec::new(u64::MAX - 10, 100)),
    ];
    for (what, segment) in bad {
        expect_errno(what, pipe.call(victim.pid(), &[segment, good], 0), Errno::FAULT)?;
        expect(what, &pipe.waiting()?, &0)?;
    }
    unharmed(victim)
}

pub(super) fn past_the_end() -> Outcome {
    let victim = memory(&["edge"])?;
    let edge = victim.region("edge")?;
    let pipe = Pipe::new()?;
    let iov = [range(edge, edge.len - 5000, 10_000)];
    expect_count("up to the end of the mapping", pipe.call(victim.pid(), &iov, 0), 5000)?;
    expect_bytes("up to the end of the mapping", &pipe.drain()?, &edge.bytes(edge.len - 5000, 5000))?;
    unharmed(victim)
}

pub(super) fn more_than_fits() -> Outcome {
    let victim = memory(&["anon:1M"])?;
    let anon = victim.region("anon")?;
    let iov = [range(anon, 7, 1), range(anon, PAGE, 100 * PAGE)];
    let fits = (SLOTS as u64 - 1) * PAGE;
    let wanted = [anon.bytes(7, 1), anon.bytes(PAGE, fits)].concat();
    // Blocking or not: it waits for the first slot only, and there are free ones.
    for flags in [NONBLOCK, 0] {
        let pipe = Pipe::new()?;
        expect_count(&format!("flags {flags}"), pipe.call(victim.pid(), &iov, flags), 1 + fits)?;
        expect_bytes(&format!("flags {flags}"), &pipe.drain()?, &wanted)?;
    }
    unharmed(victim)
}

pub(super) fn full_nonblock() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 100)];
    let pipe = Pipe::new()?;
    pipe.fill()?;
    expect_errno("a full pipe", pipe.call(victim.pid(), &iov, NONBLOCK), Errno::AGAIN)?;
    expect("bytes in the pipe", &pipe.waiting()?, &(SLOTS as u64 * PAGE))?;
    // The descriptor's own O_NONBLOCK does the same (pipe_wait_writable's callers look at both).
    rustix::fs::fcntl_setfl(&pipe.writer, rustix::fs::OFlags::NONBLOCK)?;
    expect_errno("a full pipe, O_NONBLOCK", pipe.call(victim.pid(), &iov, NONBLOCK), Errno::AGAIN)?;
    unharmed(victim)
}

pub(super) fn full_blocks_until_slot() -> Outcome {
    const UNTIL_READ: Duration = Duration::from_millis(200);
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let pipe = Pipe::new()?;
    pipe.fill()?;
    let pid = victim.pid();
    let begin = Instant::now();
    let (result, took) = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let result = pipe.call(pid, &[range(anon, 0, 3 * PAGE)], 0);
            (result, begin.elapsed())
        });
        std::thread::sleep(UNTIL_READ);
        // One slot becomes free.
        let read = rustix::io::read(&pipe.reader, &mut [0; PAGE as usize]);
        let joined = caller.join().map_err(|_| "the caller panicked");
        read.map_err(|_| "reading failed").and(joined)
    })?;
    expect_count("the one slot's worth", result, PAGE)?;
    expect("waited for the reader", &(took >= UNTIL_READ), &true)?;
    let data = pipe.drain()?;
    expect_bytes("behind what was there", &data[(SLOTS - 1) * PAGE as usize..], &anon.bytes(0, PAGE))?;
    unharmed(victim)
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Counts `signal` while `story` runs, with a handler that has no SA_RESTART.
fn counting(signal: i32, story: impl FnOnce() -> Outcome) -> Outcome {
    let handle = |handler: libc::sighandler_t| -> Outcome {
        Ok(farspace_victims::sys::on_signal(signal, handler, 0)?)
    };
    HANDLED.store(0, Ordering::SeqCst);
    handle(count as *const () as libc::sighandler_t)?;
    let outcome = story();
    handle(if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL })?;
    outcome
}

pub(super) fn full_signal() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 100)];
    let pipe = Pipe::new()?;
    pipe.fill()?;
    counting(libc::SIGUSR1, || {
        let done = AtomicBool::new(false);
        // SAFETY: names the calling thread, which outlives the scope below.
        let me = unsafe { libc::pthread_self() };
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Repeated, for the first may come before the call waits.
                while !done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(100));
                    // SAFETY: the thread is alive: it waits for this one at the end of the scope.
                    unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                }
            });
            let result = pipe.call(victim.pid(), &iov, 0);
            done.store(true, Ordering::SeqCst);
            result
        });
        expect_errno("a signal while waiting", result, Errno::INTR)?;
        expect("bytes in the pipe", &pipe.waiting()?, &(SLOTS as u64 * PAGE))
    })?;
    unharmed(victim)
}

pub(super) fn no_reader() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let iov = [range(victim.region("anon")?, 0, 100)];
    let Pipe { reader, writer } = Pipe::new()?;
    drop(reader);
    counting(libc::SIGPIPE, || {
        use std::os::fd::AsRawFd;
        for flags in [0, NONBLOCK] {
            expect_errno(
                "no reader",
                crate::world::call(victim.pid(), writer.as_raw_fd(), &iov, flags),
                Errno::PIPE,
            )?;
        }
        expect("SIGPIPE, one for each call", &HANDLED.load(Ordering::SeqCst), &2)
    })?;
    unharmed(victim)
}

pub(super) fn all_empty() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let iov = [range(anon, 0, 0), RemoteIoVec::new(0, 0), RemoteIoVec::new(u64::MAX, 0)];
    let pipe = Pipe::new()?;
    pipe.fill()?;
    for flags in [0, NONBLOCK] {
        expect_count("a full pipe", pipe.call(victim.pid(), &iov, flags), 0)?;
    }
    expect_errno("and no such process", pipe.call(i32::MAX, &iov, 0), Errno::SRCH)?;
    unharmed(victim)
}

pub(super) fn untouched() -> Outcome {
    let victim = memory(&["untouched"])?;
    let region = victim.region("untouched")?;
    let pipe = Pipe::new()?;
    let len = SLOTS as u64 * PAGE;
    expect_count("untouched memory", pipe.call(victim.pid(), &[range(region, 0, len)], 0), len)?;
    expect_bytes("untouched memory", &pipe.drain()?, &vec![0; len as usize])?;
    unharmed(victim)
}
