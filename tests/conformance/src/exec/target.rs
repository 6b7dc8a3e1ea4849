//! Cases 58, 59, 66 and 67: the target dies, execs, is traced, or hangs, while somebody has guests in it.

use super::guest;
use super::own::{self, bit, signal_thread, tid, wait_until};
use super::place::{GETPID, Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use farspace::{SigContext, SigInfo};
use farspace_victims::pace;
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Runs a spinning guest; `meanwhile` is called when it runs, then the caller gets a signal of its mask.
fn spin_while(
    room: &Place,
    meanwhile: impl FnOnce() -> Outcome + Send,
) -> Result<Result<SigInfo, Errno>, Failed> {
    // Blocked, it waits for the call, should that not have begun.
    own::change_mask(libc::SIG_BLOCK, libc::SIGUSR1)?;
    let caller = tid();
    let result = std::thread::scope(|scope| {
        let other = scope.spawn(move || -> Outcome {
            let done = room.wait_for_count(0).and_then(|_| meanwhile());
            std::thread::sleep(Duration::from_millis(100));
            signal_thread(caller, libc::SIGUSR1)?;
            done
        });
        let result = room.call(&mut room.context(), 0, bit(libc::SIGUSR1));
        other.join().map_err(|_| "the other thread panicked")??;
        Ok(result)
    });
    // Whoever took it, it is not to be found later.
    own::drain(libc::SIGUSR1);
    own::change_mask(libc::SIG_UNBLOCK, libc::SIGUSR1)?;
    result
}

fn kill(pid: i32) -> Outcome {
    farspace_victims::sys::kill(pid, libc::SIGKILL)?;
    wait_until("the target's end", || Ok(own::state(pid)? == 'Z'))
}

/// The call ends, one way or the other, and there is nothing to call any more.
pub(super) fn killed() -> Outcome {
    let room = Room::counting(guest::spin())?;
    let pid = room.pid;
    match spin_while(&room, || kill(pid))? {
        Ok(info) => expect("event", &info.signo(), &libc::SIGUSR1)?,
        Err(errno) => expect("the call", &errno, &Errno::SRCH)?,
    }
    expect("the next call", &room.call(&mut room.context(), 0, 0).map(drop), &Err(Errno::SRCH))
}

/// The guest doesn't notice: the address space lives as long as it does.
pub(super) fn guest_outlives() -> Outcome {
    let room = Room::counting(guest::spin())?;
    let pid = room.pid;
    let result = spin_while(&room, || kill(pid))?;
    expect("event", &result.map(|info| info.signo()), &Ok(libc::SIGUSR1))?;
    expect("the next call", &room.call(&mut room.context(), 0, 0).map(drop), &Err(Errno::SRCH))
}

/// What the guest finds at the begin of the data.
fn first_word(room: &mut Room) -> Result<u64, Failed> {
    room.load(guest::load())?;
    let mut context = room.context();
    room.run_to_end(&mut context)?;
    Ok(context.rax)
}

pub(super) fn exec() -> Outcome {
    let mut room = Room::with(guest::load())?;
    for image in 1..5 {
        let wanted = room.data.word(0);
        expect(&format!("image {image}"), &first_word(&mut room)?, &wanted)?;
        expect("again", &first_word(&mut room)?, &wanted)?;
        room.exec()?;
    }
    room.unharmed()
}

/// The guest of an image that is replaced while it runs may end or go on; the next call is to the new image.
pub(super) fn exec_while_running() -> Outcome {
    let mut room = Room::counting(guest::spin())?;
    let (go, when) = channel();
    let result = std::thread::scope(|scope| {
        let place = Place::clone(&room);
        let caller = scope.spawn(move || {
            let _ = go.send(tid());
            own::change_mask(libc::SIG_BLOCK, libc::SIGUSR1)?;
            let mut context = place.context();
            Ok::<_, Failed>(place.call(&mut context, 0, bit(libc::SIGUSR1)))
        });
        let thread = when.recv()?;
        room.wait_for_count(0)?;
        room.exec()?;
        std::thread::sleep(Duration::from_millis(50));
        signal_thread(thread, libc::SIGUSR1)?;
        caller.join().map_err(|_| "the caller panicked")?
    });
    match result? {
        Ok(info) => expect("event", &info.signo(), &libc::SIGUSR1)?,
        Err(errno) => expect("the call", &errno, &Errno::SRCH)?,
    }
    let wanted = room.data.word(0);
    expect("the new image", &first_word(&mut room)?, &wanted)?;
    room.unharmed()
}

/// The guest runs, and a system call is made, beside whatever keeps the target.
fn both_modes(room: &Room) -> Outcome {
    let mut context = SigContext { rax: GETPID, ..room.context() };
    room.run_to_syscall(&mut context, GETPID)?;
    let page = room.hole.addr;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let args = [page, 4096, libc::PROT_READ as u64, flags as u64, u64::MAX, 0];
    room.expect_syscall("mmap", libc::SYS_mmap, &args, page as i64)?;
    room.expect_syscall("munmap", libc::SYS_munmap, &[page, 4096], 0)
}

/// Does something while a thread of this program traces the target.
fn while_traced(room: &Room, call: impl FnOnce() -> Outcome) -> Outcome {
    let pid = room.pid;
    let (seized, begin) = channel();
    let (end, done) = channel::<()>();
    // What a thread traces it lets go when it ends.
    let tracer = std::thread::spawn(move || -> Outcome {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let task: i32 = task.file_name().to_string_lossy().parse()?;
            // SAFETY: no memory is involved.
            own::os("PTRACE_SEIZE", unsafe { libc::ptrace(libc::PTRACE_SEIZE, task, 0, 0) })?;
        }
        seized.send(())?;
        let _ = done.recv();
        Ok(())
    });
    let result = begin.recv().map_err(Failed::from).and_then(|()| call());
    drop(end);
    tracer.join().map_err(|_| "the tracer panicked")??;
    result
}

/// Served, or refused with a reason, and soon.
fn served_or_refused(room: &Room) -> Outcome {
    const SOON: Duration = Duration::from_secs(30);
    let begin = Instant::now();
    match room.call(&mut room.context(), 0, 0) {
        Ok(info) => expect("event", &info.signo(), &libc::SIGSYS)?,
        Err(Errno::PERM | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(format!("the call gives {errno:?}").into()),
    }
    expect("it took not too long", &(begin.elapsed() < pace::limit(SOON)), &true)
}

pub(super) fn traced() -> Outcome {
    let room = Room::with(guest::syscall())?;
    while_traced(&room, || (0..3).try_for_each(|_| both_modes(&room)))?;
    room.unharmed()
}

pub(super) fn traced_is_no_harm() -> Outcome {
    let room = Room::with(guest::syscall())?;
    while_traced(&room, || served_or_refused(&room))?;
    // Nobody traces it any more.
    both_modes(&room)?;
    room.unharmed()
}

pub(super) fn stuck() -> Outcome {
    let room = Room::spawn("stuck-room", &[], guest::syscall())?;
    (0..3).try_for_each(|_| both_modes(&room))?;
    room.unharmed()
}

pub(super) fn stuck_is_no_harm() -> Outcome {
    let room = Room::spawn("stuck-room", &[], guest::syscall())?;
    served_or_refused(&room)?;
    room.unharmed()
}
