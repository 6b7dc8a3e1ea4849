//! The system call instruction, and leaving for good.
//!
//! Invariants: SAFETY.md, 8.

use core::arch::asm;

/// Makes one system call and returns what the kernel left in rax.
///
/// # Safety
///
/// The call and its arguments must be sound for the target's address space.
#[inline(always)]
pub(crate) unsafe fn syscall(nr: u64, args: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the registers are those of the x86-64 system call convention (syscall(2)); rcx and r11 are
    // clobbered by the instruction. What the call itself does is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Clones a task that goes to `entry`, with RDI and without a stack; returns what the kernel did.
///
/// # Safety
///
/// With these flags the child must be harmless to this task: it shares no stack, since it uses none.
pub(crate) unsafe fn clone_to(flags: u64, pidfd: *mut i32, clear: u64, entry: u64, rdi: u64) -> i64 {
    let result;
    // SAFETY: the child leaves by the jump and touches neither the stack nor anything else of this function; its
    // registers are its own.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, r12",
            "jmp r13",
            "2:",
            inlateout("rax") super::nr::CLONE => result,
            in("rdi") flags,
            in("rsi") 0u64,
            in("rdx") pidfd,
            in("r10") clear,
            in("r8") 0u64,
            in("r12") rdi,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Unmaps the region this code runs from, and dies.
///
/// The instruction after the call is gone when munmap(2) returns, so the task takes a SIGSEGV. The caller has
/// arranged for that to be harmless and quiet: the task is a process of its own, SIGSEGV is blocked (which
/// makes the kernel's forced signal fatal), has a handler (which keeps the kernel log quiet) and RLIMIT_CORE
/// is 1 (no core, not even to a pipe: core(5)).
///
/// # Safety
///
/// No other task may run in the region, or touch it, from now on.
pub(crate) unsafe fn unmap_and_die(region: u64, len_bytes: u64) -> ! {
    // SAFETY: nothing of this task is needed after the call; other tasks are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            "ud2",
            in("rax") super::nr::MUNMAP,
            in("rdi") region,
            in("rsi") len_bytes,
            options(noreturn, nostack),
        );
    }
}

/// Unmaps the stack this code runs on, and exits without touching it again.
///
/// # Safety
///
/// No other task may use the range from now on.
pub(crate) unsafe fn unmap_and_exit(range: u64, len_bytes: u64) -> ! {
    // SAFETY: nothing but registers is used after the call; other tasks are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            "mov eax, {exit}",
            "xor edi, edi",
            "syscall",
            "ud2",
            exit = const super::nr::EXIT,
            in("rax") super::nr::MUNMAP,
            in("rdi") range,
            in("rsi") len_bytes,
            options(noreturn, nostack),
        );
    }
}
