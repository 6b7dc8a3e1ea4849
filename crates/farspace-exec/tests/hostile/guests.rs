//! What the hostile guest runs: short pieces of machine code, all of whose operands are registers that the test sets.

use std::arch::global_asm;

use farspace_exec::RemoteAddr;

/// Where the pieces are mapped, read and execute; below 4 GiB, for 32-bit code.
pub(crate) const CODE: RemoteAddr = RemoteAddr(0x40_0000);

global_asm!(
    ".pushsection .rodata.farspace_hostile, \"a\", @progbits",
    ".balign 64",
    "farspace_hostile:",
    // Scribbles: RDX stores to the RSI quadwords from RDI on; RBX random state, R9 64 values of interest.
    "farspace_hostile_scribble:",
    "mov rax, rbx",
    "shl rax, 13",
    "xor rbx, rax",
    "mov rax, rbx",
    "shr rax, 7",
    "xor rbx, rax",
    "mov rax, rbx",
    "shl rax, 17",
    "xor rbx, rax",
    "mov rax, rbx",
    "shr rax, 32",
    "imul rax, rsi",
    "shr rax, 32",
    "lea r10, [rdi + rax * 8]",
    "mov ecx, ebx",
    "and ecx, 63",
    "mov r11, [r9 + rcx * 8]",
    "test ebx, 64",
    "jnz 3f",
    "test ebx, 128",
    "jnz 2f",
    // The next of whatever counts there.
    "mov r11d, [r10]",
    "add r11d, 4",
    "mov [r10], r11d",
    "jmp 4f",
    "2:",
    "mov r11, rbx",
    "3:",
    "mov [r10], r11",
    "4:",
    "dec rdx",
    "jnz farspace_hostile_scribble",
    "syscall",
    "ud2",
    // Forges events: RDX times the next number with each kind into the event word at RDI, RSI into the frame pointer.
    "farspace_hostile_forge:",
    "mov eax, [rdi]",
    "add eax, 4",
    "mov ecx, edx",
    "and ecx, 3",
    "and eax, -4",
    "or eax, ecx",
    "mov [rdi + 0x88], rsi",
    "mov [rdi], eax",
    "mov ecx, 64",
    "1:",
    "pause",
    "dec ecx",
    "jnz 1b",
    "dec rdx",
    "jnz farspace_hostile_forge",
    "syscall",
    "ud2",
    // Waits, RDX times, for the event word at RDI to be cleared for a new vCPU, and says that it has started.
    "farspace_hostile_first:",
    "mov [rdi + 0x88], rsi",
    "mov ecx, 5",
    "xor eax, eax",
    "lock cmpxchg [rdi], ecx",
    "pause",
    "dec rdx",
    "jnz farspace_hostile_first",
    "syscall",
    "ud2",
    // Selector, flags, bases and protection keys of R14 and R15, then to RCX.
    "farspace_hostile_selector:",
    "mov es, r15d",
    "jmp rcx",
    "farspace_hostile_flags:",
    "push r14",
    "popfq",
    "jmp rcx",
    "farspace_hostile_bases:",
    "wrfsbase r14",
    "wrgsbase r15",
    "jmp rcx",
    "farspace_hostile_keys:",
    "mov r11, rcx",
    "mov eax, r14d",
    "xor ecx, ecx",
    "xor edx, edx",
    "wrpkru",
    "jmp r11",
    // Copies a hand-made frame from RSI to RDI, then goes to RAX; RSP and R12 are the test's.
    "farspace_hostile_copy:",
    "rep movsb",
    "jmp rax",
    // Ways into the kernel.
    "farspace_hostile_syscall:",
    "syscall",
    "jmp farspace_hostile_syscall",
    "farspace_hostile_int80:",
    "int 0x80",
    "jmp farspace_hostile_int80",
    "farspace_hostile_sysenter:",
    "sysenter",
    "jmp farspace_hostile_sysenter",
    "farspace_hostile_call:",
    "call rcx",
    "jmp farspace_hostile_syscall",
    // 32-bit mode at ECX; RSP must be below 4 GiB.
    "farspace_hostile_far:",
    "push 0x23",
    "push rcx",
    "retfq",
    ".code32",
    "farspace_hostile_int80_32:",
    "int 0x80",
    "jmp farspace_hostile_int80_32",
    "farspace_hostile_sysenter_32:",
    "mov ebp, esp",
    ".byte 0x0f, 0x34",
    "jmp farspace_hostile_int80_32",
    "farspace_hostile_syscall_32:",
    ".byte 0x0f, 0x05",
    "jmp farspace_hostile_int80_32",
    ".code64",
    // A store to wherever.
    "farspace_hostile_store:",
    "mov [rdi], rax",
    "jmp farspace_hostile_syscall",
    // A loop of honest calls, hot enough to be rewritten.
    "farspace_hostile_hot:",
    "syscall",
    "cmp rax, -4096",
    "inc rbx",
    "jmp farspace_hostile_hot",
    "farspace_hostile_end:",
    ".popsection",
);

macro_rules! pieces {
    ($($name:ident = $symbol:ident),* $(,)?) => {
        unsafe extern "C" {
            static farspace_hostile: u8;
            static farspace_hostile_end: u8;
            $(static $symbol: u8;)*
        }
        $(
            pub(crate) fn $name() -> u64 {
                // SAFETY: both symbols are in one section (above); only addresses are taken.
                unsafe { CODE.0 + (&raw const $symbol).offset_from(&raw const farspace_hostile) as u64 }
            }
        )*
    };
}

pieces! {
    scribble = farspace_hostile_scribble,
    forge = farspace_hostile_forge,
    first = farspace_hostile_first,
    selector = farspace_hostile_selector,
    flags = farspace_hostile_flags,
    bases = farspace_hostile_bases,
    keys = farspace_hostile_keys,
    copy = farspace_hostile_copy,
    syscall = farspace_hostile_syscall,
    int80 = farspace_hostile_int80,
    sysenter = farspace_hostile_sysenter,
    call = farspace_hostile_call,
    far = farspace_hostile_far,
    int80_32 = farspace_hostile_int80_32,
    sysenter_32 = farspace_hostile_sysenter_32,
    syscall_32 = farspace_hostile_syscall_32,
    store = farspace_hostile_store,
    hot = farspace_hostile_hot,
}

/// All pieces.
pub(crate) fn code() -> &'static [u8] {
    // SAFETY: both symbols are in one read-only section, the second last (above).
    unsafe {
        let start = &raw const farspace_hostile;
        std::slice::from_raw_parts(start, (&raw const farspace_hostile_end).offset_from(start) as usize)
    }
}
