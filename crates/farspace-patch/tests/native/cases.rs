//! Hand-written instructions after a system call, run before, while and after the site is patched.

use farspace_patch::{Landing, Refusal};
use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use crate::harness::{CODE_LEN, Machine, Outcome, Registers};

/// Quadwords of the data page that code can name.
pub(crate) type Data = [CodeLabel; 16];

/// Writes what follows the `syscall`, the label.
type Follow = fn(&mut CodeAssembler, CodeLabel, &Data) -> Result<(), IcedError>;

/// Assembles getpid and what follows; returns the site's address.
pub(crate) fn load(
    machine: &Machine,
    follow: impl Fn(&mut CodeAssembler, CodeLabel, &Data) -> Result<(), IcedError>,
) -> u64 {
    let (code, site) = assemble(machine, |a, data| {
        let mut site = a.create_label();
        a.push(rbx)?;
        a.mov(eax, libc::SYS_getpid as i32)?;
        a.set_label(&mut site)?;
        a.syscall()?;
        follow(a, site, data)?;
        a.nop()?;
        Ok(site)
    })
    .expect("it assembles");
    machine.write(machine.code(), &[0xcc; 512]);
    machine.write(machine.code(), &code);
    site
}

/// Assembles code that refers to the data page; returns it and the address of a label.
///
/// The assembler knows addresses by label only, so a first pass finds out how much filler belongs between code and data.
pub(crate) fn assemble(
    machine: &Machine,
    write: impl Fn(&mut CodeAssembler, &Data) -> Result<CodeLabel, IcedError>,
) -> Result<(Vec<u8>, u64), IcedError> {
    let mut len = CODE_LEN;
    loop {
        let mut a = CodeAssembler::new(64)?;
        let mut data: Data = std::array::from_fn(|_| a.create_label());
        let label = write(&mut a, &data)?;
        a.db(&vec![0xcc; CODE_LEN - len])?;
        for quadword in &mut data {
            a.set_label(quadword)?;
            a.dq(&[0])?;
        }
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = a.assemble_options(machine.code(), options)?;
        let (data, at) = (result.label_ip(&data[0])?, result.label_ip(&label)?);
        if data == machine.data() {
            let mut code = result.inner.code_buffer;
            code.truncate(len);
            return Ok((code, at));
        }
        len = (data - machine.code()) as usize;
    }
}

pub(crate) fn registers() -> Registers {
    let mut registers = Registers { general: [0; 16], flags: 0x202 };
    for (i, register) in registers.general.iter_mut().enumerate() {
        *register = 0x0101_0101_0101_0101 * (i as u64 + 1);
    }
    registers.general[3] = 3;
    registers
}

fn check(name: &str, follow: Follow) {
    let mut machine = Machine::lock();
    let site = load(&machine, follow);
    let start = machine.code();
    let before = machine.read(start, 512);
    let expected = machine.run(start, &registers());
    assert!(matches!(expected, Outcome::Returned(..)), "{name}: {expected:x?}");

    let plan = machine.prepare(site).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    // In each state on the way, and from there to the end and back: the same result.
    for step in plan.steps() {
        assert_eq!(machine.run(start, &registers()), expected, "{name}: before {step:x?}");
        machine.apply(step);
    }
    machine.landings();
    assert_eq!(machine.run(start, &registers()), expected, "{name}: patched");
    assert_eq!(machine.landings(), 0, "{name}: the fast path traps");

    let mut overlaid = machine.read(start, 512);
    machine.patches.overlay(start, &mut overlaid);
    assert_eq!(overlaid, before, "{name}: overlay");

    for step in plan.site().undo_steps() {
        machine.apply(step);
        assert_eq!(machine.run(start, &registers()), expected, "{name}: after {step:x?}");
    }
    assert_eq!(machine.read(start, 512), before, "{name}: undone");
    machine.undo_all();
    assert_eq!(machine.patches.pages().count(), 0);
}

macro_rules! cases {
    ($($name:ident: |$a:ident, $site:ident, $data:ident| $body:block)*) => {$(
        #[test]
        fn $name() {
            check(stringify!($name), |$a, $site, $data| {
                let _ = ($site, $data);
                $body
                Ok(())
            });
        }
    )*};
}

cases! {
    compare_and_branch: |a, site, data| {
        let mut error = a.create_label();
        a.cmp(rax, -4096)?;
        a.ja(error)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut error)?;
        a.ud2()?;
    }
    test_and_branch: |a, site, data| {
        let mut fine = a.create_label();
        a.test(eax, eax)?;
        a.jns(fine)?;
        a.ud2()?;
        a.set_label(&mut fine)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    short_branch_first: |a, site, data| {
        let mut there = a.create_label();
        a.jmp(there)?;
        a.nop()?;
        a.ud2()?;
        a.set_label(&mut there)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    pop_and_return_before_nops: |a, site, data| {
        a.pop(rbx)?;
        a.ret()?;
        a.nop_1(word_ptr(rax + rax))?;
        a.nop()?;
    }
    pop_and_return_before_int3: |a, site, data| {
        a.pop(rbx)?;
        a.ret()?;
        a.int3()?;
        a.int3()?;
    }
    stack_pointer: |a, site, data| {
        a.add(rsp, 8)?;
        a.ret()?;
    }
    store_relative: |a, site, data| {
        a.mov(qword_ptr(data[1]), rax)?;
        a.mov(edx, dword_ptr(data[2]))?;
        a.pop(rbx)?;
        a.ret()?;
    }
    store_immediate_relative: |a, site, data| {
        a.mov(dword_ptr(data[1]), 0x1234_5678)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    load_address: |a, site, data| {
        a.lea(rdx, qword_ptr(site))?;
        a.pop(rbx)?;
        a.ret()?;
    }
    locked_relative: |a, site, data| {
        a.lock().xadd(qword_ptr(data[0]), rax)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    move_result: |a, site, data| {
        a.mov(r12, rax)?;
        a.sub(r12d, eax)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    thread_pointer: |a, site, data| {
        a.mov(rdx, qword_ptr(0).fs())?;
        a.pop(rbx)?;
        a.ret()?;
    }
    vector: |a, site, data| {
        a.vzeroupper()?;
        a.movq(xmm0, rax)?;
        a.movq(rdx, xmm0)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    flags_and_set: |a, site, data| {
        a.pushfq()?;
        a.pop(rdx)?;
        a.setc(cl)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    return_address_in_rcx: |a, site, data| {
        a.mov(rdx, rcx)?;
        a.mov(rsi, r11)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    branch_to_the_site: |a, site, data| {
        a.dec(ebx)?;
        a.jne(site)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    branch_to_a_displaced_instruction: |a, site, data| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.dec(ebx)?;
        a.jne(again)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    counted: |a, site, data| {
        let (mut taken, mut out) = (a.create_label(), a.create_label());
        a.loop_(taken)?;
        a.jmp(out)?;
        a.set_label(&mut taken)?;
        a.mov(edx, 1)?;
        a.set_label(&mut out)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    counted_to_zero: |a, site, data| {
        let mut zero = a.create_label();
        a.xor(ecx, ecx)?;
        a.jrcxz(zero)?;
        a.mov(edx, 1)?;
        a.set_label(&mut zero)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    counted_not_to_zero: |a, site, data| {
        a.db(&[0x67, 0xe3, 5])?; // jecxz over the next, which the assembler refuses to encode
        a.mov(edx, 1)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    jump_through_register: |a, site, data| {
        let mut there = a.create_label();
        a.lea(rdx, qword_ptr(there))?;
        a.jmp(rdx)?;
        a.int3()?;
        a.set_label(&mut there)?;
        a.pop(rbx)?;
        a.ret()?;
    }
    string: |a, site, data| {
        a.lea(rdi, qword_ptr(data[0]))?;
        a.mov(ecx, 16)?;
        a.rep().stosb()?;
        a.pop(rbx)?;
        a.ret()?;
    }
}

/// Who jumps to an instruction that is displaced now lands in its copy.
#[test]
fn jumps_to_displaced_instructions_land_in_copies() {
    let mut machine = Machine::lock();
    let site = load(&machine, |a, _, _| {
        a.inc(eax)?; // S+2
        a.cdq()?; // S+4
        a.ret()
    });
    let boundaries = [site, site + 2, site + 4];
    let expected = boundaries.map(|at| machine.run(at, &registers()));
    machine.patch(site).expect("patchable");
    machine.landings();
    for (at, expected) in boundaries.into_iter().zip(expected) {
        assert_eq!(machine.run(at, &registers()), expected, "{at:#x}");
        assert_eq!(machine.landings(), u64::from(at != site));
    }
}

/// Who jumps into the middle of an instruction traps there; undone, the original bytes run.
#[test]
fn jumps_into_the_middle_are_noticed() {
    let mut machine = Machine::lock();
    let site = load(&machine, |a, _, _| {
        a.lock().xadd(qword_ptr(rdi), rax)?; // f0 48 0f c1 07 at S+2
        a.ret()
    });
    let mut registers = registers();
    registers.general[7] = machine.data();
    let expected = machine.run(site + 3, &registers); // without the prefix
    assert!(matches!(expected, Outcome::Returned(..)));
    machine.patch(site).expect("patchable");
    for middle in [site + 1, site + 3, site + 4] {
        assert_eq!(machine.run(middle, &registers), Outcome::Faulted(middle));
        assert!(matches!(machine.patches.landing(middle), Some(Landing::Middle(_))));
    }
    machine.undo_all();
    assert_eq!(machine.run(site + 3, &registers), expected);
}

/// What isn't changed isn't trapped: the tail of a long instruction stays what it was.
#[test]
fn the_tail_of_the_last_instruction_stays() {
    let mut machine = Machine::lock();
    let site = load(&machine, |a, _, _| {
        // movabs rdx, imm64 at S+2, the immediate being: nop nop nop nop cdq ret ..
        a.mov(rdx, 0x9090_c399_9090_9090u64)?;
        a.ret()
    });
    let inside = site + 6;
    let expected = machine.run(inside, &registers());
    assert!(matches!(expected, Outcome::Returned(..)));
    machine.patch(site).expect("patchable");
    machine.landings();
    assert_eq!(machine.run(inside, &registers()), expected);
    assert_eq!(machine.landings(), 0);
}

#[test]
fn adjacent_sites() {
    let mut machine = Machine::lock();
    let first = load(&machine, |a, _, _| {
        a.syscall()?;
        a.cmp(rax, -4096)?;
        a.pop(rbx)?;
        a.ret()
    });
    let expected = machine.run(machine.code(), &registers());
    assert_eq!(machine.prepare(first), Err(Refusal::Trap { at: first + 2 }));
    machine.patch(first + 2).expect("patchable");
    let code = machine.read(first, 16);
    assert!(machine.patches.plan(first, &code, 0, &[]).is_err());
    assert_eq!(machine.run(machine.code(), &registers()), expected);
}

/// The fault of a relocated instruction is reported where the original is.
#[test]
fn faults_have_their_original_address() {
    let mut machine = Machine::lock();
    let site = load(&machine, |a, _, _| {
        a.nop()?;
        a.mov(eax, dword_ptr(0x10).gs())?;
        a.ret()
    });
    let Outcome::Faulted(original) = machine.run(machine.code(), &registers()) else { panic!("no fault") };
    assert_eq!(original, site + 3);
    machine.patch(site).expect("patchable");
    let Outcome::Faulted(moved) = machine.run(machine.code(), &registers()) else { panic!("no fault") };
    assert_ne!(moved, original);
    assert_eq!(machine.patches.origin(moved), Some(original));
}
