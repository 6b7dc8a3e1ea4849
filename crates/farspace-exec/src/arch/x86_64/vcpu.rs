//! The vCPUs' code: one page, the only one from which their system calls are let through.
//!
//! Three ways in: the start of a vCPU, a patched site's trampoline, and the handler of every signal that guest code
//! can cause. Each publishes an event in the vCPU's area, waits for the answer and goes on with the guest. Any thread of
//! the guest can write to the area at any time, so nothing is kept there that decides where *this* code goes: between
//! entry and the return to the guest it uses registers only. A guest can jump to any byte of this page: it can wait,
//! wake, load its own registers or trap, and the system call filter allows nothing else.
//!
//! Registers: RBX area, EBP number of the event, R12 signal frame.

use core::arch::global_asm;

use farspace_abi::vcpu::{AREA_BYTES, AREAS, CONSTANTS_OFFSET, KICK, ONE_OFFSET, VCPU_OFFSET, area, command};

use super::frame;
use crate::event::ARCH_X86_64;

global_asm!(
    ".pushsection .rodata.farspace_vcpu, \"a\", @progbits",
    // Publishes event EBP (without its kind) and waits for the answer.
    ".macro farspace_next_event kind",
    "mov ebp, [rbx + {event}]",
    "and ebp, -{one_event}",
    "add ebp, {one_event}",
    "jnz 2f",
    "mov ebp, {one_event}",
    "2:",
    ".if \\kind",
    "or ebp, \\kind",
    ".endif",
    "mov ecx, ebp",
    "xchg [rbx + {event}], ecx",
    "mov eax, [rbx + {engine_asleep}]",
    "test eax, eax",
    "jz 4f",
    "cmp eax, {on_eventfd}",
    "je 3f",
    // futex(&event, FUTEX_WAKE, 1)
    "lea rdi, [rbx + {event}]",
    "mov esi, 1",
    "mov edx, 1",
    "mov eax, {futex}",
    "syscall",
    "jmp 4f",
    // write(0, &one, 8)
    "3:",
    "xor edi, edi",
    "lea rsi, [rip + farspace_vcpu + {one}]",
    "mov edx, 8",
    "mov eax, {write}",
    "syscall",
    "4:",
    "mov ecx, [rbx + {looks}]",
    "5:",
    "cmp [rbx + {answered}], ebp",
    "je 8f",
    "pause",
    "dec ecx",
    "jns 5b",
    "6:",
    "mov eax, 1",
    "xchg [rbx + {stub_asleep}], eax",
    "mov edx, [rbx + {answered}]",
    "cmp edx, ebp",
    "je 7f",
    // futex(&answered, FUTEX_WAIT, as read, no timeout)
    "lea rdi, [rbx + {answered}]",
    "xor esi, esi",
    "xor r10d, r10d",
    "mov eax, {futex}",
    "syscall",
    "jmp 6b",
    "7:",
    "mov dword ptr [rbx + {stub_asleep}], 0",
    "8:",
    ".endm",
    ".balign 64",
    ".globl farspace_vcpu",
    ".hidden farspace_vcpu",
    "farspace_vcpu:",
    // Start: ESI is the selector by which the trampolines find the area. The trap makes the first frame.
    "mov es, esi",
    ".globl farspace_vcpu_trap",
    ".hidden farspace_vcpu_trap",
    "farspace_vcpu_trap:",
    "ud2",
    ".balign 64",
    // From a trampoline: RCX is where it goes on, the quadword before that the address after the system call; RCX and
    // R11 are free, as the instruction clobbers them. Flags and the guest's stack are not touched before they are
    // saved.
    ".globl farspace_vcpu_fast",
    ".hidden farspace_vcpu_fast",
    "farspace_vcpu_fast:",
    "mov r11d, es",
    "lea r11, [r11 * 8 + {areas_scaled}]",
    "lea r11, [r11 * 8]",
    "lea r11, [r11 * 8]",
    "lea r11, [r11 * 8]",
    "lea r11, [r11 * 8]",
    "mov [r11 + {resume}], rcx",
    "mov rcx, [rcx - 8]",
    "mov [r11 + {rip}], rcx",
    "mov [r11 + {rsp}], rsp",
    "mov [r11 + {rax}], rax",
    "mov [r11 + {rdi}], rdi",
    "mov [r11 + {rsi}], rsi",
    "mov [r11 + {rdx}], rdx",
    "mov [r11 + {r10}], r10",
    "mov [r11 + {r8}], r8",
    "mov [r11 + {r9}], r9",
    "mov [r11 + {rbx}], rbx",
    "mov [r11 + {rbp}], rbp",
    "mov [r11 + {r12}], r12",
    "mov [r11 + {r13}], r13",
    "mov [r11 + {r14}], r14",
    "mov [r11 + {r15}], r15",
    "mov rbx, r11",
    "lea rsp, [rbx + {flags_stack}]",
    "pushfq",
    "cld",
    "farspace_next_event 0",
    "test dword ptr [rbx + {command}], {materialize}",
    "jnz farspace_vcpu_trap",
    "mov rax, [rbx + {rax}]",
    "mov rdi, [rbx + {rdi}]",
    "mov rsi, [rbx + {rsi}]",
    "mov rdx, [rbx + {rdx}]",
    "mov r10, [rbx + {r10}]",
    "mov r8, [rbx + {r8}]",
    "mov r9, [rbx + {r9}]",
    "mov rbp, [rbx + {rbp}]",
    "mov r12, [rbx + {r12}]",
    "mov r13, [rbx + {r13}]",
    "mov r14, [rbx + {r14}]",
    "mov r15, [rbx + {r15}]",
    "lea rsp, [rbx + {rflags}]",
    "popfq",
    "mov rsp, [rbx + {rsp}]",
    "mov r11, [rbx + {rflags}]",
    "mov rcx, [rbx + {resume}]",
    "mov rbx, [rbx + {rbx}]",
    "jmp rcx",
    ".balign 64",
    // Handler(signal, siginfo, ucontext), on the alternate stack in the area, all signals blocked. The FS and GS bases
    // aren't in the frame.
    ".globl farspace_vcpu_handler",
    ".hidden farspace_vcpu_handler",
    "farspace_vcpu_handler:",
    "mov r12, rsp",
    "mov rbx, rsp",
    "and rbx, -{area_bytes}",
    // An interruption of this very code: the event that it is about to publish will do.
    "cmp edi, {kick}",
    "jne 1f",
    "mov rax, [rdx + {uc_rip}]",
    "lea rcx, [rip + farspace_vcpu]",
    "sub rax, rcx",
    "cmp rax, 0x1000",
    "jb 9f",
    "1:",
    "mov [rbx + {frame}], r12",
    "rdfsbase rax",
    "mov [rbx + {fs_base}], rax",
    "rdgsbase rax",
    "mov [rbx + {gs_base}], rax",
    // A system call of the 64-bit table, by dispatch or filter: copied to where the engine looks first.
    "cmp edi, {sigsys}",
    "jne farspace_vcpu_other",
    "cmp dword ptr [rsi + {si_arch}], {arch_x86_64}",
    "jne farspace_vcpu_other",
    "mov eax, [rsi + {si_syscall}]",
    "mov [rbx + {rax}], rax",
    "mov rax, [r12 + {frame_rdi}]",
    "mov [rbx + {rdi}], rax",
    "mov rax, [r12 + {frame_rsi}]",
    "mov [rbx + {rsi}], rax",
    "mov rax, [r12 + {frame_rdx}]",
    "mov [rbx + {rdx}], rax",
    "mov rax, [r12 + {frame_r10}]",
    "mov [rbx + {r10}], rax",
    "mov rax, [r12 + {frame_r8}]",
    "mov [rbx + {r8}], rax",
    "mov rax, [r12 + {frame_r9}]",
    "mov [rbx + {r9}], rax",
    "farspace_next_event {kind_trapped}",
    "mov rax, [rbx + {rax}]",
    "mov [r12 + {frame_rax}], rax",
    "jmp farspace_vcpu_bases",
    "farspace_vcpu_other:",
    "farspace_next_event {kind_signal}",
    "farspace_vcpu_bases:",
    "mov ecx, [rbx + {command}]",
    "test ecx, {load_fs}",
    "jz 1f",
    "mov rax, [rbx + {fs_to_load}]",
    "wrfsbase rax",
    "1:",
    "test ecx, {load_gs}",
    "jz 9f",
    "mov rax, [rbx + {gs_to_load}]",
    "wrgsbase rax",
    // rt_sigreturn
    "9:",
    "lea rsp, [r12 + 8]",
    "mov eax, {sigreturn}",
    "syscall",
    "ud2",
    ".globl farspace_vcpu_end",
    ".hidden farspace_vcpu_end",
    "farspace_vcpu_end:",
    ".popsection",
    event = const area::EVENT,
    answered = const area::ANSWERED,
    rax = const area::RAX,
    rdi = const area::RDI,
    rsi = const area::RSI,
    rdx = const area::RDX,
    r10 = const area::R10,
    r8 = const area::R8,
    r9 = const area::R9,
    rbx = const area::RBX,
    rbp = const area::RBP,
    r12 = const area::R12,
    r13 = const area::R13,
    r14 = const area::R14,
    r15 = const area::R15,
    rsp = const area::RSP,
    rip = const area::RIP,
    resume = const area::RESUME,
    rflags = const area::RFLAGS,
    flags_stack = const area::FLAGS_STACK,
    command = const area::COMMAND,
    looks = const area::LOOKS,
    engine_asleep = const area::ENGINE_ASLEEP,
    on_eventfd = const area::ASLEEP_ON_EVENTFD,
    stub_asleep = const area::STUB_ASLEEP,
    frame = const area::FRAME,
    fs_base = const area::FS_BASE,
    gs_base = const area::GS_BASE,
    fs_to_load = const area::LOAD_FS,
    gs_to_load = const area::LOAD_GS,
    one_event = const 1 << area::KIND_BITS,
    kind_signal = const area::KIND_SIGNAL,
    kind_trapped = const area::KIND_TRAPPED,
    sigsys = const libc::SIGSYS,
    arch_x86_64 = const ARCH_X86_64 as i32,
    si_arch = const frame::siginfo::ARCH - frame::SIGINFO,
    si_syscall = const frame::siginfo::SYSCALL - frame::SIGINFO,
    frame_rax = const frame::RAX,
    frame_rdi = const frame::RDI,
    frame_rsi = const frame::RSI,
    frame_rdx = const frame::RDX,
    frame_r10 = const frame::R10,
    frame_r8 = const frame::R8,
    frame_r9 = const frame::R9,
    materialize = const command::MATERIALIZE,
    load_fs = const command::LOAD_FS,
    load_gs = const command::LOAD_GS,
    areas_scaled = const AREAS / 4096,
    area_bytes = const AREA_BYTES,
    one = const CONSTANTS_OFFSET - VCPU_OFFSET + ONE_OFFSET,
    kick = const KICK,
    uc_rip = const frame::RIP - frame::UCONTEXT,
    futex = const libc::SYS_futex,
    write = const libc::SYS_write,
    sigreturn = const libc::SYS_rt_sigreturn,
);

unsafe extern "C" {
    static farspace_vcpu: u8;
    static farspace_vcpu_trap: u8;
    static farspace_vcpu_fast: u8;
    static farspace_vcpu_handler: u8;
    static farspace_vcpu_end: u8;
}

/// The code and where it is entered; offsets from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VcpuCode {
    /// Position-independent, but for trampolines, which only created spaces have; shorter than a page.
    pub(crate) bytes: &'static [u8],
    /// The instruction that traps to make a frame.
    pub(crate) trap: u64,
    /// Where trampolines come in.
    pub(crate) fast: u64,
    /// The signal handler.
    pub(crate) handler: u64,
}

impl VcpuCode {
    pub(crate) fn get() -> Self {
        // SAFETY: all symbols are in one read-only section, in this order (above).
        unsafe {
            let start = &raw const farspace_vcpu;
            let offset = |symbol: *const u8| symbol.offset_from(start) as usize;
            Self {
                bytes: core::slice::from_raw_parts(start, offset(&raw const farspace_vcpu_end)),
                trap: offset(&raw const farspace_vcpu_trap) as u64,
                fast: offset(&raw const farspace_vcpu_fast) as u64,
                handler: offset(&raw const farspace_vcpu_handler) as u64,
            }
        }
    }
}
