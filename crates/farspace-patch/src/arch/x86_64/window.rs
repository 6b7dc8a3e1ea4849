//! Decoding forward from a site: which instructions a patch displaces, and whether each can be relocated.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, Register,
};

use super::{PATCH_LEN, SYSCALL, SYSCALL_LEN, WINDOW_MAX};
use crate::Refusal;

/// The instructions that a patch displaces. Where the trampoline will be isn't known yet.
///
/// # Invariants
///
/// * The pieces follow each other without a gap from S+2; the last one ends at or after S+5.
/// * A target inside the patch (after S, before S+5) is the address of a piece.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) at: u64,
    pub(crate) pieces: Vec<Piece>,
    /// Whether the last piece continues with what follows it.
    pub(crate) falls_through: bool,
    bytes: [u8; WINDOW_MAX],
    len: usize,
}

/// One displaced instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    offset: usize,
    len: usize,
    pub(crate) form: Form,
}

/// How an instruction is relocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The same bytes.
    Copy,
    /// The same bytes but for a 32-bit displacement relative to rip.
    RipRelative { displacement_at: usize, target: u64 },
    /// `jmp` to a fixed address.
    Jump { target: u64 },
    /// `jcc` to a fixed address; the low four bits of its opcode.
    Branch { condition: u8, target: u64 },
    /// `loop`, `loope`, `loopne`, `jrcxz` and their ecx forms, which have no long displacement.
    Counted { target: u64 },
}

/// Whether control reaches the byte behind an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continues,
    Ends,
}

impl Window {
    /// Decodes from the site `at`, whose mapping continues with `code`.
    pub(crate) fn read(at: u64, code: &[u8]) -> Result<Self, Refusal> {
        if !code.starts_with(&SYSCALL) {
            return Err(Refusal::NotSyscall { at });
        }
        if at.checked_add(WINDOW_MAX as u64).is_none() {
            return Err(Refusal::Truncated { at });
        }
        let code = &code[..code.len().min(WINDOW_MAX)];
        let mut bytes = [0; WINDOW_MAX];
        bytes[..code.len()].copy_from_slice(code);

        let mut window =
            Self { at, pieces: Vec::with_capacity(4), falls_through: true, bytes, len: SYSCALL_LEN };
        let first = at + SYSCALL_LEN as u64;
        let mut decoder = Decoder::with_ip(64, &code[SYSCALL_LEN..], first, DecoderOptions::NONE);
        let mut flow_has_ended = false;
        while window.len < PATCH_LEN {
            let here = at + window.len as u64;
            if !decoder.can_decode() {
                return Err(Refusal::Truncated { at: here });
            }
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return Err(match decoder.last_error() {
                    DecoderError::NoMoreBytes => Refusal::Truncated { at: here },
                    _ if flow_has_ended => Refusal::NotPadding { at: here },
                    _ => Refusal::Undecodable { at: here },
                });
            }
            let raw = &code[window.len..window.len + instruction.len()];
            let (form, flow) = if flow_has_ended {
                padding(&instruction)?
            } else {
                let displacement_at = decoder.get_constant_offsets(&instruction).displacement_offset();
                classify(&instruction, raw, displacement_at, at)?
            };
            window.pieces.push(Piece { at: here, offset: window.len, len: instruction.len(), form });
            window.len += instruction.len();
            window.falls_through = flow == Flow::Continues;
            flow_has_ended |= flow == Flow::Ends;
        }
        window.check_targets()?;
        Ok(window)
    }

    /// Length of the `syscall` and the displaced instructions, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address of the first instruction that is not displaced.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    /// The bytes that the patch will replace.
    pub(crate) fn original(&self) -> [u8; PATCH_LEN] {
        let mut original = [0; PATCH_LEN];
        original.copy_from_slice(&self.bytes[..PATCH_LEN]);
        original
    }

    /// The bytes of one instruction.
    pub(crate) fn bytes(&self, piece: &Piece) -> &[u8] {
        &self.bytes[piece.offset..piece.offset + piece.len]
    }

    /// Returns whether `address` is one of the changed bytes behind the first. (A jump to the first is one to the site.)
    pub(crate) fn is_inside(&self, address: u64) -> bool {
        address > self.at && address < self.at + PATCH_LEN as u64
    }

    fn check_targets(&self) -> Result<(), Refusal> {
        for piece in &self.pieces {
            if let Form::Jump { target } | Form::Branch { target, .. } | Form::Counted { target } = piece.form
                && self.is_inside(target)
                && !self.pieces.iter().any(|other| other.at == target)
            {
                return Err(Refusal::MiddleTarget { at: piece.at });
            }
        }
        Ok(())
    }
}

/// Accepts what compilers and linkers put between functions. Anything else may be data that somebody reads.
fn padding(instruction: &Instruction) -> Result<(Form, Flow), Refusal> {
    match instruction.mnemonic() {
        Mnemonic::Nop | Mnemonic::Int3 => Ok((Form::Copy, Flow::Continues)),
        _ => Err(Refusal::NotPadding { at: instruction.ip() }),
    }
}

/// Says how an instruction is relocated, and whether control continues behind it.
fn classify(
    instruction: &Instruction,
    raw: &[u8],
    displacement_at: usize,
    site: u64,
) -> Result<(Form, Flow), Refusal> {
    let at = instruction.ip();
    match instruction.flow_control() {
        FlowControl::Next => Ok((plain(instruction, displacement_at, site)?, Flow::Continues)),
        FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => {
            refuse_operand_size(raw, at)?;
            Ok((Form::Jump { target: instruction.near_branch_target() }, Flow::Ends))
        }
        FlowControl::IndirectBranch if instruction.code() == Code::Jmp_rm64 => {
            refuse_operand_size(raw, at)?;
            Ok((plain(instruction, displacement_at, site)?, Flow::Ends))
        }
        FlowControl::ConditionalBranch => {
            refuse_operand_size(raw, at)?;
            Ok((conditional(instruction, raw)?, Flow::Continues))
        }
        FlowControl::Return if matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) => {
            refuse_operand_size(raw, at)?;
            Ok((Form::Copy, Flow::Ends))
        }
        FlowControl::Call if matches!(instruction.mnemonic(), Mnemonic::Call) => Err(Refusal::Call { at }),
        FlowControl::IndirectCall => Err(Refusal::Call { at }),
        // The rest of "call" are syscall, sysenter, vmcall and their like.
        FlowControl::Call | FlowControl::Interrupt | FlowControl::Exception => Err(Refusal::Trap { at }),
        FlowControl::XbeginXabortXend => Err(Refusal::Transaction { at }),
        _ => Err(Refusal::Branch { at }),
    }
}

/// An instruction that isn't a branch, or is one through memory.
fn plain(instruction: &Instruction, displacement_at: usize, site: u64) -> Result<Form, Refusal> {
    let at = instruction.ip();
    if instruction.is_privileged() {
        return Err(Refusal::Trap { at });
    }
    if instruction.cpuid_features().iter().any(is_x87) {
        return Err(Refusal::X87 { at });
    }
    if instruction.mnemonic() == Mnemonic::Nop || !instruction.is_ip_rel_memory_operand() {
        return Ok(Form::Copy);
    }
    let target = instruction.ip_rel_memory_address();
    if instruction.memory_base() != Register::RIP || displacement_at == 0 {
        return Err(Refusal::Operand { at });
    }
    let size = instruction.memory_size().size() as u64;
    // Instructions of unknown size (xsave, fxsave) are far from their own code.
    let reads = target..=target.saturating_add(size.max(64));
    if instruction.mnemonic() != Mnemonic::Lea
        && *reads.start() < site + PATCH_LEN as u64
        && site <= *reads.end()
    {
        return Err(Refusal::Operand { at });
    }
    Ok(Form::RipRelative { displacement_at, target })
}

fn conditional(instruction: &Instruction, raw: &[u8]) -> Result<Form, Refusal> {
    let target = instruction.near_branch_target();
    // The opcode's last byte stands before the displacement, and carries the condition in its low bits.
    let displacement_len = if instruction.is_jcc_near() { 4 } else { 1 };
    let opcode = raw.len().checked_sub(displacement_len + 1).and_then(|at| raw.get(at)).copied().unwrap_or(0);
    if instruction.is_jcc_short_or_near() {
        Ok(Form::Branch { condition: opcode & 0xf, target })
    } else if instruction.is_loop() || instruction.is_loopcc() || instruction.is_jcx_short() {
        Ok(Form::Counted { target })
    } else {
        Err(Refusal::Branch { at: instruction.ip() })
    }
}

/// Refuses a near branch with the prefix 66: Intel ignores it in 64-bit mode, AMD truncates the instruction pointer, and so
/// they disagree on its length.
fn refuse_operand_size(raw: &[u8], at: u64) -> Result<(), Refusal> {
    let is_prefix = |byte: &&u8| matches!(**byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    if raw.iter().take_while(is_prefix).any(|byte| *byte == 0x66) {
        return Err(Refusal::Branch { at });
    }
    Ok(())
}

fn is_x87(feature: &CpuidFeature) -> bool {
    matches!(
        feature,
        CpuidFeature::FPU
            | CpuidFeature::FPU287
            | CpuidFeature::FPU287XL_ONLY
            | CpuidFeature::FPU387
            | CpuidFeature::FPU387SL_ONLY
    )
}

#[cfg(test)]
mod tests;
