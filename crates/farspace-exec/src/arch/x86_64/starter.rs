//! How a task in a foreign process prepares itself: system calls from a list in its area, then the vCPUs' code.
//!
//! It uses no stack. The list lies in memory that the target's threads can write to; a task of theirs could make the
//! same calls. It runs once: when it ends the filter is in force, and a guest that jumps here gets a report for each of
//! the calls.
//!
//! Registers: RDI area on entry, R12 step.

use core::arch::global_asm;

use farspace_abi::vcpu::{STEWARD_OFFSET, VCPU_OFFSET, area, orders};

global_asm!(
    ".pushsection .rodata.farspace_starter, \"a\", @progbits",
    ".balign 64",
    ".globl farspace_starter",
    ".hidden farspace_starter",
    "farspace_starter:",
    "lea r12, [rdi + {start}]",
    "1:",
    "mov eax, [r12]",
    "cmp eax, {end}",
    "je 4f",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov ecx, [r12 + 4]",
    "test ecx, {expect}",
    "jz 2f",
    "cmp rax, [r12 + 48]",
    "jne 5f",
    "2:",
    "test ecx, {may_fail}",
    "jnz 3f",
    "cmp rax, -4095",
    "jae 5f",
    "3:",
    "add r12, {step_bytes}",
    "jmp 1b",
    // ESI: no selector, there are no trampolines in foreign processes.
    "4:",
    "xor esi, esi",
    "lea rax, [rip + farspace_starter + {to_vcpu}]",
    "jmp rax",
    "5:",
    "mov edi, 1",
    "mov eax, {exit_group}",
    "syscall",
    "ud2",
    ".globl farspace_starter_end",
    ".hidden farspace_starter_end",
    "farspace_starter_end:",
    ".popsection",
    start = const area::START,
    step_bytes = const orders::STEP_BYTES,
    end = const orders::END as i32,
    expect = const orders::EXPECT,
    may_fail = const orders::MAY_FAIL,
    to_vcpu = const VCPU_OFFSET - STEWARD_OFFSET,
    exit_group = const libc::SYS_exit_group,
);

unsafe extern "C" {
    static farspace_starter: u8;
    static farspace_starter_end: u8;
}

/// The code, position-independent, for the start of a page one page before the vCPUs' code.
pub(super) fn code() -> &'static [u8] {
    // SAFETY: both symbols are in one read-only section, the second after the first (above).
    unsafe { super::between(&raw const farspace_starter, &raw const farspace_starter_end) }
}
