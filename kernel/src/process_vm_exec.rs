// SPDX-License-Identifier: GPL-2.0-only

//! process_vm_exec: runs code, or one system call, in another process's address space.
//!
//! The thread keeps its identity: credentials, files, signals, accounting. While its guest runs, `current->mm` and
//! `pt_regs`, segments and vector state are the guest's, and `State` has the caller's. A guest runs from one return to user
//! mode to the next entry: there is no loop and no stack for it in the kernel.
//!
//! | from C | when |
//! |---|---|
//! | `vm_exec_call` | the system call |
//! | `vm_exec_syscall` | the guest has made a system call: before anything else looks at it |
//! | `vm_exec_vsyscall` | the same, by the vsyscall page |
//! | `vm_exec_claim` | an exception of the guest's is about to become a signal |
//! | `vm_exec_interrupt` | on the way to user mode, before signals and task work |
//! | `vm_exec_resume` | after them |
//! | `vm_exec_exit` | the task ends |
//!
//! Whatever runs for the caller (signal delivery, ptrace stops, task work, the freezer, core dumps, exit) finds the
//! caller's mm and registers: `vm_exec_interrupt` has taken the guest out before, and `vm_exec_resume` puts it back if
//! the caller's system call would be restarted.
//!
//! Locks: none is held when C code is called that may sleep. `task_lock` is taken for the change of mm, `siglock` for the
//! mask; neither inside the other.

mod context;
mod fpu;
mod known;
mod segments;
mod signals;
mod state;
mod syscall;
mod task;
mod user;

use crate::space::Space;
use crate::target::Target;
use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_ulong};
use kernel::prelude::*;
use known::Known;
use signals::{handler_waits, Mask};
use state::{copy, Call, Event, State};
use task::{Fields, NOTIFY_RESUME, NOTIFY_SIGNAL, SIGPENDING};

/// Flags of the call.
const SYSCALL: c_ulong = 1;
const PIDFD: c_ulong = 2;
/// -ERESTARTNOHAND: EINTR if a handler has run, again if not.
const RESTART_UNLESS_HANDLED: c_long = -514;
/// AUDIT_ARCH_X86_64 and _I386 (include/uapi/linux/audit.h).
const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
const SIGSYS: c_int = 31;
const SYS_USER_DISPATCH: c_int = 2;
const ENOSYS: c_long = -38;
/// What the three entries of the vsyscall page stand for: gettimeofday, time, getcpu.
const VSYSCALLS: [c_int; 3] = [96, 201, 309];

/// The system call.
///
/// # Safety
///
/// `regs` are current's.
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_call(
    regs: *mut bindings::pt_regs,
    id: c_int,
    context: c_ulong,
    flags: c_ulong,
    info: c_ulong,
    mask: c_ulong,
    mask_size: c_ulong,
) -> c_long {
    // SAFETY: current's own, and nobody else's while it is in the kernel.
    let regs = unsafe { &mut *regs };
    returned(call(regs, id, flags, [context, info, mask], mask_size))
}

fn call(
    regs: &mut bindings::pt_regs,
    id: c_int,
    flags: c_ulong,
    [context_at, info_at, mask_at]: [usize; 3],
    mask_size: c_ulong,
) -> Result<c_long> {
    if flags & !(SYSCALL | PIDFD) != 0 || mask_size != 8 {
        return Err(EINVAL);
    }
    // SAFETY: once for this entry.
    let state = unsafe { State::of_current()? };
    state.context.read(context_at, mask_at)?;
    let mask = Mask::new(state.context.mask);
    let target = if flags & PIDFD != 0 { Target::Pidfd(id) } else { Target::Pid(id) };
    if flags & SYSCALL != 0 {
        let target = open(state, target)?;
        return syscall::run(regs, state, target, context_at);
    }
    state.context.check()?;
    let area = state.context.fpstate;
    if area != 0 {
        fpu::check(area)?;
    }
    let target = open(state, target)?;
    loop {
        if let Some(info) = mask.take() {
            return user::write_info(info_at, &info).map(|()| 0);
        }
        if state.task.has(SIGPENDING | NOTIFY_SIGNAL) {
            return Ok(RESTART_UNLESS_HANDLED);
        }
        if !state.task.has(NOTIFY_RESUME) {
            break;
        }
        // SAFETY: the registers are those of the caller's system call, as at its end.
        unsafe { bindings::vm_exec_do_work(regs) };
    }
    state.fpu.make()?;
    state.fpu.start(state.task, area)?;
    copy(&mut state.home, regs);
    state.context.load(regs);
    state.segments = state.context.segments();
    state.event = None;
    state.call = Some(Call { context_at, info_at, mask, target });
    state.enter();
    // The entry code stores this into RAX.
    Ok(regs.ax as c_long)
}

/// The address space of a target that can be visited.
fn open(state: &mut State, target: Target) -> Result<Space> {
    let space = Known::open(&mut state.known, state.task, target)?;
    // SAFETY: the mm is alive.
    if unsafe { bindings::vm_exec_is_refused(space.as_ptr()) } {
        return Err(refused());
    }
    Ok(space)
}

/// EOPNOTSUPP, which Rust's list lacks.
fn refused() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as c_int))
}

/// The value that a system call returns.
fn returned(result: Result<c_long>) -> c_long {
    match result {
        Ok(value) => value,
        Err(error) => error.to_errno() as c_long,
    }
}

/// The guest has made a system call. On return the registers are the caller's.
///
/// # Safety
///
/// `regs` are current's, which is in its guest.
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_syscall(regs: *mut bindings::pt_regs) {
    // SAFETY: by the contract; once for this entry.
    if let (Some(state), regs) = unsafe { (State::existing(), &mut *regs) } {
        let event = dispatched(state.task, regs.ip, regs.orig_ax as c_int);
        finish(state, regs, Some(&event), 0);
    }
}

/// A SIGSYS as Syscall User Dispatch would send it.
fn dispatched(task: Fields, call_addr: usize, nr: c_int) -> Event {
    let mut info = bindings::kernel_siginfo::default();
    let is_compat = task.take_compat();
    // SAFETY: the fields belong to the kind that si_signo and si_code say.
    unsafe {
        let info = &mut info.__bindgen_anon_1;
        (info.si_signo, info.si_code) = (SIGSYS, SYS_USER_DISPATCH);
        info._sifields._sigsys._call_addr = call_addr as *mut _;
        info._sifields._sigsys._syscall = nr;
        info._sifields._sigsys._arch = if is_compat { ARCH_I386 } else { ARCH_X86_64 };
    }
    Event { info, is_fault: false }
}

/// The guest has jumped to the vsyscall page; `caller` is where it would return to.
///
/// # Safety
///
/// As [`vm_exec_syscall`].
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_vsyscall(regs: *mut bindings::pt_regs, nr: c_int, caller: c_ulong) {
    // SAFETY: by the contract; once for this entry.
    let (Some(state), regs) = (unsafe { (State::existing(), &mut *regs) }) else { return };
    let nr = VSYSCALLS.get(nr as usize).copied().unwrap_or(-1);
    state.event = Some(dispatched(state.task, regs.ip, nr));
    regs.ax = ENOSYS as usize;
    regs.ip = caller;
    regs.sp = regs.sp.wrapping_add(8);
    state.task.notify();
}

/// An exception is about to become a signal. True if it is the guest's: then it stays here, and the caller's dispositions
/// and masks are as they were.
///
/// # Safety
///
/// `info` is valid, and current, which is in its guest, is the task that it is for. May be called with interrupts off.
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_claim(info: *const bindings::kernel_siginfo) -> bool {
    // SAFETY: by the contract; once for this entry.
    let Some(state) = (unsafe { State::existing() }) else { return false };
    // SAFETY: by the contract.
    state.event.get_or_insert(Event { info: unsafe { *info }, is_fault: true });
    state.task.notify();
    true
}

/// On the way to user mode: takes the guest out if there is work for the caller, or an event. True if the call is over.
///
/// # Safety
///
/// `regs` are current's, which is in its guest. May sleep.
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_interrupt(regs: *mut bindings::pt_regs, work: c_ulong) -> bool {
    // SAFETY: by the contract; once for this entry.
    let (Some(state), regs) = (unsafe { (State::existing(), &mut *regs) }) else { return false };
    if let Some(event) = state.event.take() {
        if event.is_fault {
            state.context.store_fault(state.task);
        }
        return finish(state, regs, Some(&event), 0);
    }
    if work & (SIGPENDING | NOTIFY_SIGNAL | NOTIFY_RESUME) == 0 {
        return false;
    }
    if work & SIGPENDING != 0 {
        if let Some(info) = state.call.as_ref().and_then(|call| call.mask.take()) {
            return finish(state, regs, Some(&Event { info, is_fault: false }), 0);
        }
        if handler_waits() {
            return finish(state, regs, None, RESTART_UNLESS_HANDLED);
        }
    }
    // Work of either kind may bring a signal, which is looked for at once then.
    let has_signal = work & (SIGPENDING | NOTIFY_SIGNAL) != 0;
    suspend(state, regs, has_signal)
}

/// Takes the guest out for a moment. A signal might be handled nevertheless: then the registers have to be in the
/// caller's memory already. True if they can't be put there, and the call is over.
fn suspend(state: &mut State, regs: &mut bindings::pt_regs, has_signal: bool) -> bool {
    state.abort_probe(regs);
    copy(&mut state.guest, regs);
    state.leave(regs, false);
    let area = if has_signal { state.context.fpstate } else { 0 };
    let mut is_stored = state.fpu.stop(state.task, area, true);
    let State { call: Some(call), context, guest, segments, .. } = &mut *state else { return true };
    if has_signal {
        context.store(guest);
        context.store_segments(segments);
        is_stored &= context.write(call.context_at, false).is_ok();
    }
    call.mask.close(!is_stored);
    regs.ax = RESTART_UNLESS_HANDLED as usize;
    if !is_stored {
        regs.ax = returned(Err(EFAULT)) as usize;
        state.give_up();
    }
    !is_stored
}

/// The guest is done: stores what there is to store and makes the caller's registers those of the end of its system call.
fn finish(state: &mut State, regs: &mut bindings::pt_regs, event: Option<&Event>, result: c_long) -> bool {
    state.abort_probe(regs);
    state.context.store(regs);
    state.leave(regs, true);
    state.context.store_segments(&state.segments);
    regs.ax = returned(store(state, event).map(|()| result)) as usize;
    state.give_up();
    true
}

fn store(state: &mut State, event: Option<&Event>) -> Result {
    let State { call: Some(call), context, fpu, task, .. } = state else { return Err(EFAULT) };
    let is_stored = fpu.stop(*task, context.fpstate, false);
    call.mask.close(true);
    context.write(call.context_at, event.is_some_and(|event| event.is_fault))?;
    if let Some(event) = event {
        user::write_info(call.info_at, &event.info)?;
    }
    if is_stored {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// After the work: puts the guest back if nothing has happened but that. True if something has, and the call is over.
///
/// # Safety
///
/// `regs` are current's, whose guest is away. May sleep.
#[no_mangle]
pub(crate) unsafe extern "C" fn vm_exec_resume(regs: *mut bindings::pt_regs) -> bool {
    // SAFETY: by the contract; once for this entry.
    let (Some(state), regs) = (unsafe { (State::existing(), &mut *regs) }) else { return false };
    if !is_unchanged(regs, &state.home) {
        // A handler, or a tracer.
        if let Some(call) = &state.call {
            call.mask.end();
        }
        state.give_up();
        return true;
    }
    state.fpu.go_on(state.task);
    if let Some(call) = &mut state.call {
        call.mask.restore();
    }
    copy(regs, &state.guest);
    state.enter();
    false
}

/// Whether the registers say that the system call returns -ERESTARTNOHAND, or that it is about to be made again.
fn is_unchanged(regs: &bindings::pt_regs, home: &bindings::pt_regs) -> bool {
    let mut wanted = *home;
    if regs.ax == RESTART_UNLESS_HANDLED as usize {
        wanted.ax = regs.ax;
    } else {
        wanted.ax = home.orig_ax;
        wanted.ip = home.ip.wrapping_sub(2);
    }
    bytes(regs) == bytes(&wanted)
}

fn bytes(regs: &bindings::pt_regs) -> &[u8] {
    let begin: *const bindings::pt_regs = regs;
    // SAFETY: 21 words without padding.
    unsafe { core::slice::from_raw_parts(begin.cast(), core::mem::size_of::<bindings::pt_regs>()) }
}

/// The task ends, from its guest only after a mistake in the kernel.
#[no_mangle]
pub(crate) extern "C" fn vm_exec_exit() {
    // SAFETY: once for this entry.
    let Some(state) = (unsafe { State::existing() }) else { return };
    if state.is_in_guest() {
        let mut unused = state.home;
        state.leave(&mut unused, true);
        state.fpu.stop(state.task, 0, false);
    }
    state.give_up();
    state.forget();
}
