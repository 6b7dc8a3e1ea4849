//! Cases 32 to 34: the checks of the call itself.

use super::place::{PIDFD, Place, Room, SYSCALL};
use super::{guest, own};
use crate::case::Outcome;
use crate::processes::{ended_pid, kernel_thread};
use crate::world::expect;
use farspace::{ExecFlags, SigContext, SigInfo, TargetId};
use farspace_victims::harness::Victim;
use libtest_mimic::Failed;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

/// An address that no x86-64 has, with four or with five levels of page tables.
const NOT_CANONICAL: [u64; 3] = [0x0100_0000_0000_0000, 0x7fff_ffff_ffff_fff0, 0x8000_0000_0000_0000];
const OTHER_USER: u32 = 65_532;

/// One call with pointers as they are.
fn raw(pid: i32, context: u64, flags: u64, info: u64, mask: u64, size: usize) -> Result<(), Errno> {
    // SAFETY: the callers pass their own values, and addresses that hold nothing of this program.
    unsafe {
        farspace::raw::process_vm_exec(pid, context as *mut _, flags, info as *mut _, mask as *const _, size)
    }
}

fn address<T>(value: &mut T) -> u64 {
    &raw mut *value as u64
}

/// The guest still makes its one system call: whatever was refused before has left no trace.
fn still_works(place: &Place) -> Outcome {
    let mut context = SigContext { rax: 7, ..place.context() };
    place.run_to_syscall(&mut context, 7).map(drop)
}

pub(super) fn flags() -> Outcome {
    let room = Room::with(guest::syscall())?;
    for flags in [4, 8, 0x100, 1 << 31, 1 << 32, 1 << 63, u64::MAX, 1 | 4] {
        let result = room.call(&mut room.context(), flags, 0).map(drop);
        expect(&format!("flags {flags:#x}"), &result, &Err(Errno::INVAL))?;
    }
    still_works(&room)?;
    room.unharmed()
}

pub(super) fn mask_size() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let (mut context, mut info, mut mask) = (room.context(), SigInfo::default(), 0_u64);
    for size in [0, 4, 7, 9, 16, 128, usize::MAX] {
        let result = raw(room.pid, address(&mut context), 0, address(&mut info), address(&mut mask), size);
        expect(&format!("sizemask {size}"), &result, &Err(Errno::INVAL))?;
    }
    expect("the context is as it was", &context, &room.context())?;
    still_works(&room)?;
    room.unharmed()
}

pub(super) fn not_canonical() -> Outcome {
    let room = Room::with(guest::syscall())?;
    for bad in NOT_CANONICAL {
        for context in [SigContext { rip: bad, ..room.context() }, SigContext { rsp: bad, ..room.context() }]
        {
            let result = room.call(&mut context.clone(), 0, 0).map(drop);
            expect(&format!("rip {:#x}, rsp {:#x}", context.rip, context.rsp), &result, &Err(Errno::INVAL))?;
        }
    }
    // A canonical address of the kernel's is a place like any other that a guest may not go to.
    let mut context = SigContext { rip: 0xffff_ffff_8100_0000, ..room.context() };
    match room.call(&mut context, 0, 0) {
        Ok(info) => expect("a kernel address", &info.signo(), &libc::SIGSEGV)?,
        Err(errno) => expect("a kernel address", &errno, &Errno::INVAL)?,
    }
    still_works(&room)?;
    room.unharmed()
}

pub(super) fn pointers() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let gone = own::Page::new()?.addr();
    for bad in [0, 8, gone, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX - 7] {
        for (index, what) in ["context", "info", "mask"].into_iter().enumerate() {
            let (mut context, mut info, mut mask) = (room.context(), SigInfo::default(), 0_u64);
            let mut pointers = [address(&mut context), address(&mut info), address(&mut mask)];
            pointers[index] = bad;
            let result = raw(room.pid, pointers[0], 0, pointers[1], pointers[2], 8);
            expect(&format!("{what} at {bad:#x}"), &result, &Err(Errno::FAULT))?;
        }
        let (mut info, mut mask) = (SigInfo::default(), 0_u64);
        let result = raw(room.pid, bad, SYSCALL, address(&mut info), address(&mut mask), 8);
        expect(&format!("system call at {bad:#x}"), &result, &Err(Errno::FAULT))?;
    }
    still_works(&room)?;
    room.unharmed()
}

/// What the call has to write to can't be written.
pub(super) fn read_only() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let page = own::Page::new()?;
    page.store(&room.context());
    page.protect(libc::PROT_READ)?;
    let (mut context, mut info, mut mask) = (room.context(), SigInfo::default(), 0_u64);
    let (good_context, good_info, good_mask) =
        (address(&mut context), address(&mut info), address(&mut mask));
    expect("context", &raw(room.pid, page.addr(), 0, good_info, good_mask, 8), &Err(Errno::FAULT))?;
    expect("info", &raw(room.pid, good_context, 0, page.addr(), good_mask, 8), &Err(Errno::FAULT))?;
    expect("the page is as it was", &page.load(), &room.context())?;
    // The mask is only read.
    page.protect(libc::PROT_READ | libc::PROT_WRITE)?;
    page.store(&0_u64);
    page.protect(libc::PROT_READ)?;
    context = SigContext { rax: 7, ..room.context() };
    expect("mask", &raw(room.pid, address(&mut context), 0, good_info, page.addr(), 8), &Ok(()))?;
    expect("the guest has run", &context.rip, &(room.code.addr + 2))?;
    still_works(&room)?;
    room.unharmed()
}

pub(super) fn bad_fpstate() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let gone = own::Page::new()?.addr();
    for bad in [8, gone, 0xffff_8000_0000_0000] {
        let result = room.call(&mut SigContext { fpstate: bad, ..room.context() }, 0, 0).map(drop);
        expect(&format!("fpstate at {bad:#x}"), &result, &Err(Errno::FAULT))?;
    }
    still_works(&room)?;
    room.unharmed()
}

/// Both modes answer alike for this process.
fn expect_refused(what: &str, pid: i32, wanted: Errno) -> Outcome {
    for flags in [0, SYSCALL] {
        let (mut info, mut mask) = (SigInfo::default(), 0_u64);
        let mut context = SigContext {
            rip: 0x10000,
            rsp: 0x10000,
            eflags: 0x202,
            cs: 0x33,
            ss: 0x2b,
            ..SigContext::default()
        };
        let result = raw(pid, address(&mut context), flags, address(&mut info), address(&mut mask), 8);
        expect(&format!("{what}, flags {flags}"), &result, &Err(wanted))?;
    }
    Ok(())
}

pub(super) fn no_such_process() -> Outcome {
    for pid in [ended_pid()?, i32::MAX, 0, -1, i32::MIN] {
        expect_refused(&format!("pid {pid}"), pid, Errno::SRCH)?;
    }
    let zombie = Victim::spawn("zombie", &["process"])?;
    expect_refused("zombie", zombie.pid(), Errno::SRCH)?;
    crate::world::unharmed(zombie)?;
    match kernel_thread() {
        Some(pid) => expect_refused("kernel thread", pid, Errno::SRCH),
        None => {
            eprintln!("no kernel thread is visible from here: that part is left out");
            Ok(())
        }
    }
}

pub(super) fn no_access() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let as_other = |command: &mut std::process::Command| {
        command.uid(OTHER_USER).gid(OTHER_USER);
    };
    let denied = format!("errno {}", Errno::PERM.raw_os_error());
    let mut caller = room.caller_with("once", as_other)?;
    expect("an unprivileged user, root's target", &caller.line()?, &denied)?;
    still_works(&room)?;
    room.unharmed()
}

/// Plays a caller that makes one call and says how it went.
pub(super) fn once(place: &Place) -> Result<String, Failed> {
    match place.call(&mut SigContext { rax: 7, ..place.context() }, 0, 0) {
        Ok(_) => Ok("ok".to_owned()),
        Err(errno) => Ok(format!("errno {}", errno.raw_os_error())),
    }
}

fn pidfd_of(pid: i32) -> Result<OwnedFd, Failed> {
    Ok(pidfd_open(Pid::from_raw(pid).ok_or("pid 0")?, PidfdFlags::empty())?)
}

pub(super) fn pidfd() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let pidfd = pidfd_of(room.pid)?;
    let call = |context: &mut SigContext| {
        let (mut info, mut mask) = (SigInfo::default(), 0_u64);
        raw(pidfd.as_raw_fd(), address(context), PIDFD, address(&mut info), address(&mut mask), 8)
    };
    let mut context = SigContext { rax: 7, ..room.context() };
    expect("pidfd", &call(&mut context), &Ok(()))?;
    expect("the guest has run", &context.rip, &(room.code.addr + 2))?;
    let (mut context, mut info) = (SigContext { rax: 8, ..room.context() }, SigInfo::default());
    let target = TargetId::PidFd(pidfd.as_fd());
    farspace::process_vm_exec(target, &mut context, ExecFlags::empty(), &mut info, 0)?;
    expect("the safe call's event", &(info.signo(), info.syscall()), &(libc::SIGSYS, 8))?;
    room.unharmed()?;
    expect("stale pidfd", &call(&mut context), &Err(Errno::SRCH))
}
