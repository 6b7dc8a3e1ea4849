//! System calls and faults of guests.

use farspace::SigContext;

use crate::child::Target;
use crate::guest::{DATA, Guest};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ENOSYS: u64 = -38i64 as u64;

#[test]
fn a_system_call_is_reported_and_answered() {
    let mut target = Target::start();
    let before = target.look();
    // mov eax, 39; syscall; mov ebx, eax; mov eax, 0x12345; syscall
    let code = [0xb8, 39, 0, 0, 0, 0x0f, 5, 0x89, 0xc3, 0xb8, 0x45, 0x23, 1, 0, 0x0f, 5];
    let guest = Guest::new(&target, &code);
    let mut context = guest.begin();
    context.r15 = 0x1515;
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.signo(), info.code(), info.syscall(), info.arch()), (libc::SIGSYS, 2, 39, X86_64));
    assert_eq!((info.addr(), context.rip), (guest.page + 7, guest.page + 7));
    assert!(info.bytes[32..].iter().all(|byte| *byte == 0), "filled completely");
    assert_eq!((context.rax, context.r15, context.cs), (ENOSYS, 0x1515, 0x33));
    context.rax = 77;
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.syscall(), context.rbx, context.rip), (0x12345, 77, guest.page + 16));
    guest.remove();
    target.assert_clean(&before);
}

#[test]
fn int_80_is_a_call_of_the_32_bit_table() {
    let target = Target::start();
    // mov eax, 20; int 0x80
    let guest = Guest::new(&target, &[0xb8, 20, 0, 0, 0, 0xcd, 0x80]);
    let mut context = guest.begin();
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.signo(), info.code(), info.syscall(), info.arch()), (libc::SIGSYS, 2, 20, I386));
    assert_eq!((context.rax, context.rip), (ENOSYS, guest.page + 7));
}

#[test]
fn the_vsyscall_page_is_reported_and_answered() {
    let target = Target::start();
    if !std::fs::read_to_string("/proc/self/maps").expect("ours").contains("[vsyscall]") {
        eprintln!("skipped: no vsyscall page");
        return;
    }
    // mov rax, 0xffffffffff600400; xor edi, edi; call rax; mov ebx, eax; syscall
    let code = [0x48, 0xc7, 0xc0, 0, 4, 0x60, 0xff, 0x31, 0xff, 0xff, 0xd0, 0x89, 0xc3, 0x0f, 5];
    let guest = Guest::new(&target, &code);
    let mut context = guest.begin();
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.signo(), info.code(), info.syscall(), info.arch()), (libc::SIGSYS, 2, 201, X86_64));
    assert_eq!(info.addr(), 0xffff_ffff_ff60_0400);
    // As after the return from there.
    assert_eq!((context.rax, context.rip, context.rsp), (ENOSYS, guest.page + 11, guest.page + 0xff0));
    context.rax = 5;
    guest.run(&mut context).expect("a call");
    assert_eq!(context.rbx, 5);
}

#[test]
fn faults_say_where_and_can_be_repaired() {
    let target = Target::start();
    // mov [rdi], eax; syscall
    let guest = Guest::new(&target, &[0x89, 0x07, 0x0f, 5]);
    let mut context = guest.begin();
    context.rdi = 0x1234_5678;
    context.rax = 9;
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.signo(), info.code(), info.addr()), (libc::SIGSEGV, 1, 0x1234_5678));
    assert_eq!((context.trapno, context.err & 2, context.cr2), (14, 2, 0x1234_5678));
    assert_eq!((context.rip, context.rax), (guest.page, 9));
    context.rdi = guest.page + DATA;
    assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSYS);
    assert_eq!(guest.read(DATA) as u32, 9);
}

#[test]
fn other_faults() {
    let target = Target::start();
    let guest = Guest::new(&target, &[]);
    let cases: [(&[u8], i32, i32, u64); 4] = [
        (&[0x0f, 0x0b], libc::SIGILL, 2, 0),
        // xor ecx, ecx; div ecx
        (&[0x31, 0xc9, 0xf7, 0xf1], libc::SIGFPE, 1, 2),
        // int3: after the instruction
        (&[0xcc], libc::SIGTRAP, 0x80, 1),
        (&[0xf4], libc::SIGSEGV, 0x80, 0),
    ];
    for (code, signal, reason, at) in cases {
        guest.write(0, code);
        let mut context = guest.begin();
        let info = guest.run(&mut context).expect("a call");
        assert_eq!((info.signo(), info.code(), context.rip), (signal, reason, guest.page + at), "{code:x?}");
    }
    // nop; nop, with TF
    guest.write(0, &[0x90, 0x90, 0x0f, 5]);
    let mut context = SigContext { eflags: 0x302, ..guest.begin() };
    for step in 1..=2 {
        let info = guest.run(&mut context).expect("a call");
        assert_eq!((info.signo(), info.code(), context.rip), (libc::SIGTRAP, 2, guest.page + step));
    }
}

#[test]
fn a_jump_into_nowhere_is_a_fault() {
    let target = Target::start();
    let guest = Guest::new(&target, &[]);
    for rip in [0x1000, 0x7fff_ffff_f000, 0xffff_ffff_8000_0000] {
        let mut context = SigContext { rip, ..guest.begin() };
        let info = guest.run(&mut context).expect("a call");
        assert_eq!((info.signo(), context.rip), (libc::SIGSEGV, rip));
    }
    let mut context = SigContext { rip: 1 << 60, ..guest.begin() };
    assert_eq!(guest.run(&mut context).map_err(|e| crate::guest::errno(&e)), Err(libc::EINVAL));
}
