//! Random instructions between system calls, executed before and after every site is patched.

use farspace_patch::Refusal;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use proptest::prelude::*;

use crate::cases::{Data, assemble, registers};
use crate::harness::{Machine, Outcome};

/// A number that stays ENOSYS if its result is taken for a number again.
const NO_SUCH_CALL: i32 = 0x1000;

/// Writes one instruction out of many, chosen by `kind`; `value` is its operand.
fn emit(a: &mut CodeAssembler, kind: u8, value: u32, data: &Data, out: CodeLabel) -> Result<(), IcedError> {
    let slot = data[value as usize % data.len()];
    let immediate = value as i32;
    match kind {
        0 => a.cmp(rax, immediate),
        1 => a.add(edx, immediate),
        2 => a.mov(rsi, rax),
        3 => a.mov(qword_ptr(slot), rax),
        4 => a.mov(r8, qword_ptr(slot)),
        5 => a.lea(r9, qword_ptr(slot)),
        6 => a.add(dword_ptr(slot), immediate),
        7 => a.cmp(byte_ptr(slot), 0x5a),
        8 => a.nop(),
        9 => a.cdq(),
        10 => a.inc(r12d),
        11 => a.bt(edx, value % 32),
        12 => a.jb(out),
        13 => a.js(out),
        14 => a.jne(out),
        15 => a.jmp(out),
        16 => a.loop_(out),
        17 => a.jrcxz(out),
        18 => a.movups(xmm3, xmmword_ptr(slot)),
        19 => a.vmovdqu(ymm4, ymmword_ptr(slot)),
        20 => a.mov(rdi, u64::from(value) << 20),
        21 => a.cmove(r10, r12),
        22 => a.imul_3(r13, qword_ptr(slot), immediate),
        23 => a.pinsrb(xmm3, byte_ptr(slot), 3),
        24 => a.xor(ecx, ecx),
        25 => a.setg(dl),
        26 => a.nop_1(dword_ptr(rax + rax * 1 + 0x100)),
        27 => a.push(immediate).and_then(|()| a.pop(r14)),
        _ => a.syscall(),
    }
}

fn write(a: &mut CodeAssembler, data: &Data, program: &[(u8, u32)]) -> Result<CodeLabel, IcedError> {
    let mut start = a.create_label();
    a.set_label(&mut start)?;
    for part in program.chunks(6) {
        let mut out = a.create_label();
        a.mov(eax, NO_SUCH_CALL)?;
        a.syscall()?;
        for (kind, value) in part {
            emit(a, *kind, *value, data, out)?;
        }
        a.set_label(&mut out)?;
        a.xor(ebp, 0x11)?;
    }
    a.ret()?;
    Ok(start)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_instructions(program in prop::collection::vec((0u8..29, any::<u32>()), 1..30)) {
        let mut machine = Machine::lock();
        let (code, _) = assemble(&machine, |a, data| write(a, data, &program)).expect("it assembles");
        machine.write(machine.code(), &code);
        machine.write(machine.code() + code.len() as u64, &[0xcc; 32]);
        let expected = machine.run(machine.code(), &registers());
        prop_assert!(matches!(expected, Outcome::Returned(..)));

        // The sites, by decoding what was assembled: the only honest source of boundaries here.
        let mut decoder = iced_x86::Decoder::with_ip(64, &code, machine.code(), 0);
        let sites: Vec<u64> = decoder
            .iter()
            .filter(|instruction| instruction.mnemonic() == iced_x86::Mnemonic::Syscall)
            .map(|instruction| instruction.ip())
            .collect();
        for site in sites {
            // Calls that follow each other closely are refused; room there is always.
            prop_assert_ne!(machine.patch(site), Err(Refusal::NoRoom));
        }
        prop_assert_eq!(machine.run(machine.code(), &registers()), expected.clone());

        let mut seen = machine.read(machine.code(), code.len());
        machine.patches.overlay(machine.code(), &mut seen);
        prop_assert_eq!(&seen, &code);

        machine.undo_all();
        prop_assert_eq!(machine.read(machine.code(), code.len()), code);
        prop_assert_eq!(machine.run(machine.code(), &registers()), expected);
    }
}
