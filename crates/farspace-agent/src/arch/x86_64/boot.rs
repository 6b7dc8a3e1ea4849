//! What a borrowed thread of the target runs, and the helper it makes.
//!
//! The thread enters at offset 0 of the blob, with the host tracing it. It uses no stack and changes no flag
//! (a signal handler may run on top of it at any time before signals are blocked, and the thread's red zone
//! is not ours), so all tests are made with `cqo` and `jrcxz`. It
//!
//! 1. makes the second half of what is mapped of the region writable,
//! 2. blocks all signals, so that what it clones starts with all signals blocked, and asks for its tid address,
//! 3. finds out whether orphans come back to the target (a child subreaper),
//! 4. clones the helper: same memory and, for one call, same descriptors; exit signal 0,
//! 5. reaps the helper, which has cloned the agent and exited: the agent is nobody's child in the target,
//! 6. restores the signal mask, says so and waits for the host to put the registers back.
//!
//! In a target that takes in orphans itself (an init, a child subreaper) what is cloned in step 4 is a thread
//! of the target and becomes the agent at once; there is nothing to reap in step 5 then.
//!
//! If the host dies at any point the thread goes through to the end, waits in vain for `go_timeout`, loads its
//! registers from the context and continues where it was.
//!
//! Invariants: SAFETY.md, 1, 2, 4 and 5.

use core::arch::global_asm;
use core::mem::offset_of;

use farspace_abi::boot::{BootContext, NOT_IN_A_REAPER, THREAD_DONE, THREAD_LEFT, placement};
use farspace_abi::region::{DATA_BYTES, PRIVATE_BYTES};

use super::super::life::agent_main;
use super::nr;

/// CLOSE_RANGE_UNSHARE: a table of the caller's own, without copying what is closed (close_range(2)).
const CLOSE_RANGE_UNSHARE: u32 = 2;
/// prctl(2).
const PR_GET_CHILD_SUBREAPER: u32 = 37;
const PR_GET_TID_ADDRESS: u32 = 40;
/// __WALL (wait(2)): also a child with exit signal 0.
const WALL: u32 = 0x4000_0000;

global_asm!(
    ".section .boot, \"ax\", @progbits",
    ".globl farspace_boot",
    "farspace_boot:",
    // 1. mprotect(context, DATA_BYTES, PROT_READ | PROT_WRITE)
    "lea rdi, [rip + farspace_context]",
    "mov esi, {data_bytes}",
    "mov edx, 3",
    "mov eax, {mprotect}",
    "syscall",
    "cqo",
    "mov rcx, rdx",
    "jrcxz 2f",
    "jmp 9f",
    // 2. rt_sigprocmask(SIG_SETMASK, all, &saved, 8)
    "2:",
    "mov edi, 2",
    "lea rsi, [rip + farspace_context + {all_signals}]",
    "lea rdx, [rip + farspace_context + {saved_mask}]",
    "mov r10d, 8",
    "mov eax, {sigprocmask}",
    "syscall",
    // prctl(PR_GET_TID_ADDRESS, &tid_address); the address stays 0 where that fails
    "mov edi, {get_tid_address}",
    "lea rsi, [rip + farspace_context + {tid_address}]",
    "mov edx, 0",
    "mov r10d, 0",
    "mov r8d, 0",
    "mov eax, {prctl}",
    "syscall",
    // 3. prctl(PR_GET_CHILD_SUBREAPER, &is_reaper), unless the host knows it for one
    "mov ecx, [rip + farspace_context + {is_reaper}]",
    "jrcxz 2f",
    "jmp 3f",
    "2:",
    "mov edi, {get_child_subreaper}",
    "lea rsi, [rip + farspace_context + {is_reaper}]",
    "mov edx, 0",
    "mov r10d, 0",
    "mov r8d, 0",
    "mov eax, {prctl}",
    "syscall",
    "mov ecx, [rip + farspace_context + {is_reaper}]",
    "jrcxz 4f",
    // Orphans come back: a thread, if that is possible
    "3:",
    "mov rcx, [rip + farspace_context + {thread_flags}]",
    "jrcxz 2f",
    "mov dword ptr [rip + farspace_context + {clone_flags}], ecx",
    "mov dword ptr [rip + farspace_context + {placement}], {thread}",
    "jmp 4f",
    "2:",
    "mov qword ptr [rip + farspace_context + {helper_pid}], {not_in_a_reaper}",
    "jmp 8f",
    // 4. clone; the helper continues on the thread's stack pointer but never uses it
    "4:",
    "mov edi, [rip + farspace_context + {clone_flags}]",
    "mov esi, 0",
    "mov edx, 0",
    "mov r10d, 0",
    "mov r8d, 0",
    "mov eax, {clone}",
    "syscall",
    "mov rcx, rax",
    "jrcxz 5f",
    "mov [rip + farspace_context + {helper_pid}], rax",
    "cqo",
    "mov rcx, rdx",
    "jrcxz 6f",
    "jmp 8f",
    // 5. wait4(helper, 0, __WALL, 0), again after EINTR
    "6:",
    "mov rdi, [rip + farspace_context + {helper_pid}]",
    "mov esi, 0",
    "mov edx, {wall}",
    "mov r10d, 0",
    "mov eax, {wait4}",
    "syscall",
    "lea rcx, [rax + 4]",
    "jrcxz 6b",
    "jmp 8f",
    // The helper: leave the target's descriptors, clone the agent, exit.
    "5:",
    "mov edi, 0",
    "mov esi, 0xffffffff",
    "mov edx, {unshare}",
    "mov eax, {close_range}",
    "syscall",
    "test rax, rax",
    "js 6f",
    "cmp dword ptr [rip + farspace_context + {placement}], {thread}",
    "je 3f",
    "mov edi, {orphan_flags}",
    "lea rsi, [rip + farspace_context + {stack_top}]",
    "mov edx, 0",
    "mov r10d, 0",
    "mov r8d, 0",
    "mov eax, {clone}",
    "syscall",
    "test rax, rax",
    "jz 7f",
    "6:",
    "mov [rip + farspace_context + {agent_pid}], rax",
    "mov edi, 0",
    "mov eax, {exit}",
    "syscall",
    "ud2",
    // The agent: as a thread it is the helper itself, on its own stack from here on.
    "3:",
    "lea rsp, [rip + farspace_context + {stack_top}]",
    "mov eax, {gettid}",
    "syscall",
    "mov [rip + farspace_context + {agent_pid}], rax",
    "7:",
    "lea rdi, [rip + farspace_context]",
    "xor ebp, ebp",
    "call {agent_main}",
    "ud2",
    // 6. rt_sigprocmask(SIG_SETMASK, &saved, 0, 8); done; pselect6(0, 0, 0, 0, timeout, 0). Not a futex: its
    // wait would overwrite the restart block of the call that the thread was taken from.
    "8:",
    "mov edi, 2",
    "lea rsi, [rip + farspace_context + {saved_mask}]",
    "mov edx, 0",
    "mov r10d, 8",
    "mov eax, {sigprocmask}",
    "syscall",
    "mov dword ptr [rip + farspace_context + {thread_done}], {done}",
    "mov edi, 0",
    "mov esi, 0",
    "mov edx, 0",
    "mov r10d, 0",
    "lea r8, [rip + farspace_context + {go_timeout}]",
    "mov r9d, 0",
    "mov eax, {pselect6}",
    "syscall",
    // Nobody came: restore and go on.
    "mov dword ptr [rip + farspace_context + {thread_done}], {left}",
    "9:",
    "mov rax, [rip + farspace_context + {resume}]",
    "mov rcx, [rip + farspace_context + {resume} + 8]",
    "mov rdx, [rip + farspace_context + {resume} + 16]",
    "mov rsi, [rip + farspace_context + {resume} + 24]",
    "mov rdi, [rip + farspace_context + {resume} + 32]",
    "mov r8, [rip + farspace_context + {resume} + 40]",
    "mov r9, [rip + farspace_context + {resume} + 48]",
    "mov r10, [rip + farspace_context + {resume} + 56]",
    "mov r11, [rip + farspace_context + {resume} + 64]",
    "jmp [rip + farspace_context + {resume_rip}]",
    ".text",
    stack_top = const PRIVATE_BYTES - farspace_abi::region::CONTEXT_OFFSET,
    data_bytes = const DATA_BYTES,
    get_child_subreaper = const PR_GET_CHILD_SUBREAPER,
    get_tid_address = const PR_GET_TID_ADDRESS,
    tid_address = const offset_of!(BootContext, tid_address),
    not_in_a_reaper = const NOT_IN_A_REAPER,
    is_reaper = const offset_of!(BootContext, is_reaper),
    thread_flags = const offset_of!(BootContext, thread_flags),
    mprotect = const nr::MPROTECT,
    prctl = const nr::PRCTL,
    all_signals = const offset_of!(BootContext, all_signals),
    saved_mask = const offset_of!(BootContext, saved_mask),
    helper_pid = const offset_of!(BootContext, helper_pid),
    agent_pid = const offset_of!(BootContext, agent_pid),
    thread_done = const offset_of!(BootContext, thread_done),
    done = const THREAD_DONE,
    left = const THREAD_LEFT,
    go_timeout = const offset_of!(BootContext, go_timeout),
    resume = const offset_of!(BootContext, resume),
    resume_rip = const offset_of!(BootContext, resume_rip),
    clone_flags = const offset_of!(BootContext, clone_flags),
    placement = const offset_of!(BootContext, placement),
    thread = const placement::THREAD,
    orphan_flags = const placement::ORPHAN_FLAGS,
    gettid = const nr::GETTID,
    unshare = const CLOSE_RANGE_UNSHARE,
    wall = const WALL,
    sigprocmask = const nr::RT_SIGPROCMASK,
    clone = const nr::CLONE,
    wait4 = const nr::WAIT4,
    close_range = const nr::CLOSE_RANGE,
    exit = const nr::EXIT,
    pselect6 = const nr::PSELECT6,
    agent_main = sym agent_main,
);
