use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::super::layout::{COMMON_AT, ENTRY_AT, JMP_AT, RETURN_AT};
use super::*;

const AT: u64 = 0x7f00_0000_1000;
const TRAMPOLINE: u64 = 0x7f00_1716_1234;
const COMMON: u64 = 0x1122_3344_5566_7788;

fn relocated(follow: &[u8]) -> Code {
    let window = Window::read(AT, &[&[0x0f, 0x05], follow].concat()).expect("relocatable");
    let code = code(&window, TRAMPOLINE, COMMON);
    assert_eq!(code.bytes.len(), len(&window));
    code
}

fn decode(code: &Code, offset: usize) -> iced_x86::Instruction {
    let at = TRAMPOLINE + offset as u64;
    Decoder::with_ip(64, &code.bytes[offset..], at, DecoderOptions::NONE).decode()
}

#[test]
fn the_entry_is_as_documented() {
    let code = relocated(&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]);
    let lea = decode(&code, ENTRY_AT);
    assert_eq!(lea.mnemonic(), Mnemonic::Lea);
    assert_eq!(lea.ip_rel_memory_address(), TRAMPOLINE + AFTER_AT as u64);
    let jmp = decode(&code, JMP_AT);
    assert!(jmp.is_jmp_near_indirect());
    assert_eq!(jmp.ip_rel_memory_address(), TRAMPOLINE + COMMON_AT as u64);
    assert_eq!(code.bytes[COMMON_AT..COMMON_AT + 8], COMMON.to_le_bytes());
    assert_eq!(code.bytes[RETURN_AT..AFTER_AT], (AT + 2).to_le_bytes());
    assert_eq!(code.bytes[AFTER_AT..AFTER_AT + 6], [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]);
    let back = decode(&code, AFTER_AT + 6);
    assert_eq!((back.mnemonic(), back.near_branch_target()), (Mnemonic::Jmp, AT + 8));
    assert_eq!(code.marks, [(0, AT), (29, AT + 2), (35, AT + 8)]);
}

#[test]
fn branches_keep_their_target() {
    let code = relocated(&[0x90, 0x77, 0x10]);
    let branch = decode(&code, AFTER_AT + 1);
    assert_eq!((branch.mnemonic(), branch.near_branch_target()), (Mnemonic::Ja, AT + 5 + 0x10));
    let code = relocated(&[0xe9, 0, 1, 0, 0]);
    assert_eq!(decode(&code, AFTER_AT).near_branch_target(), AT + 7 + 0x100);
    assert_eq!(code.bytes.len(), AFTER_AT + 5, "no way back is needed");
}

#[test]
fn branches_inside_lead_to_copies() {
    let code = relocated(&[0x90, 0x75, 0xfd]); // jne to S+2
    assert_eq!(decode(&code, AFTER_AT + 1).near_branch_target(), TRAMPOLINE + AFTER_AT as u64);
    let code = relocated(&[0x90, 0x75, 0xfb]); // jne to S
    assert_eq!(decode(&code, AFTER_AT + 1).near_branch_target(), AT);
}

#[test]
fn relative_operands_keep_their_target() {
    let code = relocated(&[0x48, 0x89, 0x05, 0, 1, 0, 0]);
    assert_eq!(decode(&code, AFTER_AT).ip_rel_memory_address(), AT + 9 + 0x100);
    // With an immediate behind the displacement.
    let code = relocated(&[0xc7, 0x05, 0, 1, 0, 0, 1, 2, 3, 4]);
    let store = decode(&code, AFTER_AT);
    assert_eq!((store.ip_rel_memory_address(), store.immediate32()), (AT + 12 + 0x100, 0x0403_0201));
}

#[test]
fn counted_branches_are_expanded() {
    let code = relocated(&[0x90, 0xe2, 0x10]);
    let loop_ = decode(&code, AFTER_AT + 1);
    let long = AFTER_AT + 1 + 2 + 2;
    assert_eq!((loop_.mnemonic(), loop_.near_branch_target()), (Mnemonic::Loop, TRAMPOLINE + long as u64));
    assert_eq!(decode(&code, long).near_branch_target(), AT + 5 + 0x10);
    let short = decode(&code, AFTER_AT + 3);
    assert_eq!(short.near_branch_target(), TRAMPOLINE + long as u64 + 5);
    // When the counter is changed the instruction is over.
    let marks = [(0, AT), (29, AT + 2), (30, AT + 3), (32, AT + 5), (34, AT + 0x15), (39, AT + 5)];
    assert_eq!(code.marks, marks);
}

#[test]
fn reach_covers_every_target() {
    let window = Window::read(AT, &[0x0f, 0x05, 0x48, 0x89, 0x05, 0, 0, 0, 0x70]).expect("relocatable");
    let target = AT + 9 + 0x7000_0000;
    let reach = reach(&window);
    assert!(!reach.contains(&(AT - 0x2000_0000)), "too far from the operand");
    for at in [*reach.start(), *reach.end()] {
        let code = code(&window, at, COMMON);
        let decoded = Decoder::with_ip(64, &code.bytes[AFTER_AT..], at + AFTER_AT as u64, 0).decode();
        assert_eq!(decoded.ip_rel_memory_address(), target);
    }
}
