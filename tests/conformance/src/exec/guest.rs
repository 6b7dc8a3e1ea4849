//! Guest programs: position independent code, assembled into this program and copied into a target.
//!
//! RBX points to data wherever there is any; what else a program takes is said at each. Registers and memory are the only
//! things that they have in common with the code around them.

use core::arch::asm;

macro_rules! guests {
    ($($(#[$doc:meta])* $name:ident: $($line:literal)*;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name() -> &'static [u8] {
            let (begin, end): (*const u8, *const u8);
            // SAFETY: the code is put aside as read-only data and is not run here; two addresses are computed.
            unsafe {
                asm!(
                    ".pushsection .rodata.guest, \"a\"",
                    // Alignment inside a guest is then alignment from its begin.
                    ".balign 512",
                    "771:",
                    $($line,)*
                    "772:",
                    ".popsection",
                    "lea {begin}, [rip + 771b]",
                    "lea {end}, [rip + 772b]",
                    begin = out(reg) begin,
                    end = out(reg) end,
                    options(nomem, nostack, preserves_flags)
                );
                std::slice::from_raw_parts(begin, end.offset_from(begin) as usize)
            }
        }
    )*};
}

guests! {
    /// Nothing but an instruction that doesn't exist.
    undefined: "ud2";
    /// One system call, number and arguments as in the context.
    syscall: "syscall" "ud2";
    /// System calls without an end; the result of each goes to the next word of the data.
    results: "2:" "syscall" "mov [rbx], rax" "add rbx, 8" "jmp 2b";
    /// The 32-bit entry.
    int80: "int 0x80" "ud2";
    /// The 32-bit fast entry. EBP is the stack pointer with the sixth argument on top.
    sysenter: "sysenter" "ud2";
    /// Calls what RAX points to, and stores what it returned.
    call: "call rax" "mov [rbx], rax" "ud2";
    /// A load.
    load: "mov rax, [rbx]" "ud2";
    /// A store.
    store: "mov [rbx], rax" "ud2";
    /// A jump to the data.
    jump: "jmp rbx";
    /// A breakpoint.
    breakpoint: "int3" "ud2";
    /// RDX:RAX / RCX.
    divide: "div rcx" "ud2";
    /// Four instructions of 1, 3, 1 and 3 bytes, to be stepped.
    steps: "nop" "inc rax" "nop" "inc rax" "ud2";
    /// Counts in R12 and in the first word of the data until the second is not zero; then system call 39.
    spin:
        "2:" "inc r12" "mov [rbx], r12" "cmp qword ptr [rbx + 8], 0" "je 2b"
        "mov eax, 39" "syscall" "ud2";
    /// Counts its system calls (39) in R12 and in the first word of the data.
    count: "2:" "inc r12" "mov [rbx], r12" "mov eax, 39" "syscall" "jmp 2b";
    /// Loads a word by each base (at 0 and 8), then loads the bases with R8 and R9.
    bases: "mov rax, fs:[0]" "mov rdx, gs:[8]" "wrfsbase r8" "wrgsbase r9" "ud2";
    /// The same without changing the bases.
    base_loads: "mov rax, fs:[0]" "mov rdx, gs:[8]" "ud2";
    /// Stores the vector state that EDX:EAX name.
    xsave: "xsave64 [rbx]" "ud2";
    /// Loads the vector state that EDX:EAX name.
    xrstor: "xrstor64 [rbx]" "ud2";
    /// PKRU = EAX; RCX and RDX must be 0.
    wrpkru: "wrpkru" "ud2";
    /// Stores all general registers, RSP after RAX to R15, and the flags at [`STORED`]; then loads them all from
    /// [`LOADED`], in the same order.
    exchange:
        "mov [rip + 3f], rax" "mov [rip + 3f + 8], rbx" "mov [rip + 3f + 16], rcx" "mov [rip + 3f + 24], rdx"
        "mov [rip + 3f + 32], rsi" "mov [rip + 3f + 40], rdi" "mov [rip + 3f + 48], rbp" "mov [rip + 3f + 56], r8"
        "mov [rip + 3f + 64], r9" "mov [rip + 3f + 72], r10" "mov [rip + 3f + 80], r11" "mov [rip + 3f + 88], r12"
        "mov [rip + 3f + 96], r13" "mov [rip + 3f + 104], r14" "mov [rip + 3f + 112], r15"
        "mov [rip + 3f + 120], rsp"
        "lea rsp, [rip + 3f + 136]" "pushfq" "lea rsp, [rip + 4f + 128]" "popfq"
        "mov rax, [rip + 4f]" "mov rbx, [rip + 4f + 8]" "mov rcx, [rip + 4f + 16]" "mov rdx, [rip + 4f + 24]"
        "mov rsi, [rip + 4f + 32]" "mov rdi, [rip + 4f + 40]" "mov rbp, [rip + 4f + 48]" "mov r8, [rip + 4f + 56]"
        "mov r9, [rip + 4f + 64]" "mov r10, [rip + 4f + 72]" "mov r11, [rip + 4f + 80]" "mov r12, [rip + 4f + 88]"
        "mov r13, [rip + 4f + 96]" "mov r14, [rip + 4f + 104]" "mov r15, [rip + 4f + 112]"
        "mov rsp, [rip + 4f + 120]"
        "ud2"
        ".balign 512" "3:" ".zero 512" "4:" ".zero 512";
}

/// Offset in [`exchange`] of what it stores: sixteen registers and the flags.
pub(super) const STORED: u64 = 512;
/// Offset in [`exchange`] of what it loads.
pub(super) const LOADED: u64 = 1024;
/// `ud2`, by which guests end.
pub(super) const UD2: [u8; 2] = [0x0f, 0x0b];

#[cfg(test)]
mod tests {
    #[test]
    fn guests_are_what_was_assembled() {
        assert_eq!(super::undefined(), super::UD2);
        assert_eq!(super::syscall(), [0x0f, 0x05, 0x0f, 0x0b]);
        // What is stored and loaded lies where the constants say.
        assert_eq!(super::exchange().len(), 1536);
        assert!(super::exchange()[super::STORED as usize..].iter().all(|byte| *byte == 0));
    }
}
