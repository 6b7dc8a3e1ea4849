//! Registers, segment bases and vector state.

use farspace::SigContext;

use crate::child::Target;
use crate::guest::{DATA, Guest, errno};

#[test]
fn all_registers_make_the_round_trip() {
    let target = Target::start();
    let guest = Guest::new(&target, &[0x0f, 5]);
    let mut context = guest.begin();
    context.eflags = 0x246 | 0x800 | 1;
    let places = |c: &mut SigContext| {
        [c.r8, c.r9, c.r10, c.r12, c.r13, c.r14, c.r15, c.rdi, c.rsi, c.rbp, c.rbx, c.rdx, c.rsp]
    };
    context = SigContext {
        r8: 8,
        r9: 9 << 60,
        r10: 10,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: u64::MAX,
        rdi: 1,
        rsi: 2,
        rbp: 3,
        rbx: 4,
        rdx: 5,
        reserved1: [0x7000_1234_5000, 0x1000, 6, 6, 6, 6, 6, 6],
        ..context
    };
    let mut given = context;
    guest.run(&mut context).expect("a call");
    assert_eq!(places(&mut context), places(&mut given));
    assert_eq!(context.eflags & 0xcff, given.eflags & 0xcff);
    assert_eq!(context.reserved1, given.reserved1);
}

#[test]
fn segment_bases_belong_to_the_guest() {
    let target = Target::start();
    // mov rax, fs:[0]; mov rbx, gs:[8]; wrfsbase rdi; syscall
    let code = [
        0x64, 0x48, 0x8b, 4, 0x25, 0, 0, 0, 0, 0x65, 0x48, 0x8b, 0x1c, 0x25, 8, 0, 0, 0, 0xf3, 0x48, 0x0f,
        0xae, 0xd7, 0x0f, 5,
    ];
    let guest = Guest::new(&target, &code);
    guest.write(DATA, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut context = guest.begin();
    context.reserved1[..2].fill(guest.page + DATA);
    context.rdi = 0x5000;
    let info = guest.run(&mut context).expect("a call");
    assert_eq!((info.syscall(), context.rbx), (1, 2));
    assert_eq!(context.reserved1[..2], [0x5000, guest.page + DATA]);
}

/// A signal frame's area with room for everything.
#[repr(C, align(64))]
struct Area([u8; 16384]);

fn area() -> Box<Area> {
    let features = xgetbv();
    let size = core::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
    let mut area = Box::new(Area([0; 16384]));
    let mut put = |at: usize, bytes: &[u8]| area.0[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x37fu16.to_le_bytes());
    put(24, &0x1f80u32.to_le_bytes());
    put(464, &0x4650_5853u32.to_le_bytes());
    put(468, &(size as u32 + 4).to_le_bytes());
    put(472, &features.to_le_bytes());
    put(480, &(size as u32).to_le_bytes());
    put(size, &0x4650_5845u32.to_le_bytes());
    area
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; Linux enables it wherever it runs.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
    u64::from(low) | u64::from(high) << 32
}

#[test]
fn vector_state_is_clean_or_the_callers() {
    let target = Target::start();
    // movq rbx, xmm3; mov eax, 7; movq xmm3, rax; syscall
    let code = [0x66, 0x48, 0x0f, 0x7e, 0xdb, 0xb8, 7, 0, 0, 0, 0x66, 0x48, 0x0f, 0x6e, 0xd8, 0x0f, 5];
    let guest = Guest::new(&target, &code);
    for _ in 0..2 {
        let mut context = SigContext { rbx: 99, ..guest.begin() };
        guest.run(&mut context).expect("a call");
        assert_eq!(context.rbx, 0, "nothing is left of the guest before");
    }
    let mut area = area();
    // XMM3, and that SSE is in use.
    area.0[160 + 48] = 42;
    area.0[512] = 2;
    let mut context = SigContext { fpstate: &raw mut *area as u64, ..guest.begin() };
    guest.run(&mut context).expect("a call");
    assert_eq!((context.rbx, context.fpstate), (42, &raw mut *area as u64));
    assert_eq!((area.0[160 + 48], area.0[512] & 2), (7, 2));
    assert_eq!(area.0[464..468], 0x4650_5853u32.to_le_bytes());
    area.0[27] = 0x80;
    let mut context = SigContext { fpstate: &raw mut *area as u64, ..guest.begin() };
    assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::EINVAL));
    context.fpstate = 64;
    assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::EFAULT));
}

#[test]
fn protection_keys_are_linuxs_own_at_first() {
    let target = Target::start();
    // xor ecx, ecx; rdpkru; syscall
    let guest = Guest::new(&target, &[0x31, 0xc9, 0x0f, 1, 0xee, 0x89, 0xc3, 0x0f, 5]);
    let mut context = guest.begin();
    match guest.run(&mut context).expect("a call").signo() {
        libc::SIGSYS => assert_eq!(context.rbx, 0x5555_5554),
        _ => eprintln!("skipped: no protection keys"),
    }
}
