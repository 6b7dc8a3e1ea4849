//! SIGSYS by Syscall User Dispatch, answered in the process that made the call: no hand-off at all.
//!
//! Sources: Documentation/admin-guide/syscall-user-dispatch.rst, prctl(2), and for the frame of a signal handler
//! arch/x86/kernel/signal_64.c.

use std::arch::naked_asm;
use std::mem::{MaybeUninit, offset_of};
use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};
use std::time::{Duration, Instant};

use super::board::Board;
use super::peer::{Peer, getpid, last_errno};
use super::{ANSWER, Cpus, Rounds};
use crate::Result;

/// include/uapi/linux/prctl.h; libc has these for other systems only.
const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
const PR_SYS_DISPATCH_ON: libc::c_ulong = 1;
const FILTER_ALLOW: u8 = 0;
const FILTER_BLOCK: u8 = 1;
/// arch/x86/include/uapi/asm/signal.h.
const SA_RESTORER: u64 = 0x0400_0000;
/// The signal stack: a frame with AVX-512 and AMX state takes some 11 KiB (AT_MINSIGSTKSZ, getauxval(3)).
const STACK_BYTES: usize = 64 << 10;

/// `struct kernel_sigaction` (include/linux/signal_types.h): rt_sigaction(2) as the kernel knows it.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const _: () = assert!(size_of::<KernelSigaction>() == 32 && offset_of!(KernelSigaction, mask) == 24);

/// A child that answers its own calls of getpid(2) in its handler of SIGSYS.
#[derive(Debug)]
pub struct LocalSigsys {
    peer: Peer,
}

impl LocalSigsys {
    /// Starts the child; it may run on any CPU.
    ///
    /// # Errors
    ///
    /// EINVAL: no Syscall User Dispatch here (Linux 5.11); EAGAIN, ENOMEM: no more processes.
    pub fn start() -> Result<Self> {
        // SAFETY: `serve` only accesses the board and its own stack, reads the clock and makes system calls.
        let mut peer = unsafe { Peer::start(Cpus::unpinned(), serve)? };
        peer.ring("turn on Syscall User Dispatch")?;
        Ok(Self { peer })
    }
}

impl Rounds for LocalSigsys {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        self.peer.board().value.store(i64::from(nr_calls), Ordering::Relaxed);
        let ns = self.peer.ring("run the child")?;
        Ok(Duration::from_nanos(ns as u64))
    }
}

/// The child: one bell to set up, one for each round. The value is the number of calls, then their time in ns.
fn serve(board: &Board) {
    let selector = AtomicU8::new(FILTER_ALLOW);
    let mut stack = [MaybeUninit::<u8>::uninit(); STACK_BYTES];
    let mut rung = board.bell.next(0);
    let set_up = install(&mut stack, &selector);
    board.value.store(if set_up { 0 } else { -i64::from(last_errno().raw_os_error()) }, Ordering::Relaxed);
    loop {
        board.bell.answer(rung);
        rung = board.bell.next(rung);
        let nr_calls = board.value.load(Ordering::Relaxed);
        let Some(time) = measure(nr_calls, &selector) else { return };
        board.value.store(time.as_nanos() as i64, Ordering::Relaxed);
    }
}

/// Makes the calls, all of them dispatched; `None` if one was not.
fn measure(nr_calls: i64, selector: &AtomicU8) -> Option<Duration> {
    let start = Instant::now();
    selector.store(FILTER_BLOCK, Ordering::Relaxed);
    // The kernel reads the selector in this thread; only the compiler could reorder.
    compiler_fence(Ordering::SeqCst);
    let all_answered = (0..nr_calls).all(|_| getpid() == ANSWER);
    compiler_fence(Ordering::SeqCst);
    selector.store(FILTER_ALLOW, Ordering::Relaxed);
    all_answered.then(|| start.elapsed())
}

/// Installs handler, signal stack and dispatch, all of which live until the child ends; false with errno.
fn install(stack: &mut [MaybeUninit<u8>], selector: &AtomicU8) -> bool {
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    let action = KernelSigaction {
        handler: answer as *const () as usize,
        flags: (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER,
        restorer: restore as *const () as usize,
        mask: 0,
    };
    // A signal that is forced while blocked kills (kernel/signal.c, force_sig_info_to_task).
    let unblocked = 0u64;
    // The calls of the only instruction in `restore` are never dispatched: it would end in a loop.
    let (allowed, allowed_bytes) = (restore as *const () as usize, 8usize);
    // SAFETY: stack and selector belong to `serve`, which returns only to end the child, and are used by nothing
    // else while a handler runs; the other pointers are to live locals that the kernel copies.
    unsafe {
        libc::sigaltstack(&raw const stack, std::ptr::null_mut()) == 0
            && libc::syscall(libc::SYS_rt_sigaction, libc::SIGSYS, &raw const action, 0usize, 8usize) == 0
            && libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const unblocked,
                0usize,
                8usize,
            ) == 0
            && libc::prctl(
                PR_SET_SYSCALL_USER_DISPATCH,
                PR_SYS_DISPATCH_ON,
                allowed,
                allowed_bytes,
                selector.as_ptr(),
            ) == 0
    }
}

/// The handler: the answer into rax of the interrupted context.
extern "C" fn answer(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes the context that it saved on the signal stack (SA_SIGINFO).
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = ANSWER };
}

/// rt_sigreturn(2), in seven bytes at a known address.
#[unsafe(naked)]
extern "C" fn restore() {
    naked_asm!("mov eax, {nr}", "syscall", nr = const libc::SYS_rt_sigreturn)
}
