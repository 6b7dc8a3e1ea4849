//! A vCPU's area, seen from the engine: each value read once, each offset checked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use farspace_abi::vcpu::{AREA_BYTES, AREAS_OFFSET, area};

use crate::arch::frame;
use crate::memory::SpaceMemory;
use crate::regs::Reg;

/// The area of one vCPU.
#[derive(Debug)]
pub(crate) struct Area {
    memory: Arc<SpaceMemory>,
    /// In the memory file.
    offset: usize,
    /// In the space.
    address: u64,
}

/// Offset of a signal frame in an area; frame and offset are known to be in bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameAt(usize);

impl Area {
    pub(crate) fn new(memory: &Arc<SpaceMemory>, index: usize, address: u64) -> Self {
        let offset = AREAS_OFFSET as usize + index * AREA_BYTES as usize;
        Self { memory: Arc::clone(memory), offset, address }
    }

    pub(crate) fn word(&self, field: usize) -> &std::sync::atomic::AtomicU32 {
        self.memory.u32(self.offset + field)
    }

    pub(crate) fn get(&self, field: usize) -> u64 {
        self.memory.u64(self.offset + field).load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, field: usize, value: u64) {
        self.memory.u64(self.offset + field).store(value, Ordering::Relaxed);
    }

    /// The frame of the newest event; `None` if what the area says can't be one.
    pub(crate) fn frame(&self) -> Option<FrameAt> {
        let at = self.get(area::FRAME).wrapping_sub(self.address);
        let room = area::STACK as u64..AREA_BYTES - frame::BYTES as u64;
        (room.contains(&at) && at.is_multiple_of(8)).then_some(FrameAt(at as usize))
    }

    pub(crate) fn in_frame(&self, frame: FrameAt, field: usize) -> u64 {
        self.get(frame.0 + field)
    }

    pub(crate) fn set_in_frame(&self, frame: FrameAt, field: usize, value: u64) {
        self.set(frame.0 + field, value);
    }

    pub(crate) fn word_in_frame(&self, frame: FrameAt, field: usize) -> u32 {
        self.word(frame.0 + field).load(Ordering::Relaxed)
    }

    /// Where the vector state (XSAVE area) of the frame lies in the area, if it has one.
    pub(crate) fn vector_state(&self, frame: FrameAt) -> Option<VectorAt> {
        let at = self.in_frame(frame, frame::FPSTATE).wrapping_sub(self.address);
        let room = AREA_BYTES.checked_sub(at).filter(|room| *room >= 512 && at.is_multiple_of(64))?;
        (at >= area::STACK as u64).then_some(VectorAt { at: at as usize, room: room as usize })
    }

    pub(crate) fn copy_vector_out(&self, vector: VectorAt, bytes: &mut [u8]) {
        let len = bytes.len().min(vector.room);
        self.memory.get(self.offset + vector.at, &mut bytes[..len]);
    }

    pub(crate) fn copy_vector_in(&self, vector: VectorAt, bytes: &[u8]) {
        let len = bytes.len().min(vector.room);
        self.memory.put(self.offset + vector.at, &bytes[..len]);
    }
}

/// An XSAVE area within the area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VectorAt {
    pub(crate) at: usize,
    pub(crate) room: usize,
}

/// Where a register lies after an event at a patched site; RCX and R11 don't: the instruction clobbers them.
pub(crate) const fn patched(reg: Reg) -> usize {
    match reg {
        Reg::Rax => area::RAX,
        Reg::Rbx => area::RBX,
        Reg::Rdx => area::RDX,
        Reg::Rsi => area::RSI,
        Reg::Rdi => area::RDI,
        Reg::Rbp => area::RBP,
        Reg::Rsp => area::RSP,
        Reg::R8 => area::R8,
        Reg::R9 => area::R9,
        Reg::R10 => area::R10,
        Reg::R12 => area::R12,
        Reg::R13 => area::R13,
        Reg::R14 => area::R14,
        Reg::R15 => area::R15,
        // The instruction puts RIP into RCX and the flags into R11.
        Reg::Rcx | Reg::Rip => area::RIP,
        Reg::R11 | Reg::Rflags => area::RFLAGS,
    }
}

/// Where a register lies in a signal frame.
pub(crate) const fn framed(reg: Reg) -> usize {
    match reg {
        Reg::Rax => frame::RAX,
        Reg::Rbx => frame::RBX,
        Reg::Rcx => frame::RCX,
        Reg::Rdx => frame::RDX,
        Reg::Rsi => frame::RSI,
        Reg::Rdi => frame::RDI,
        Reg::Rbp => frame::RBP,
        Reg::Rsp => frame::RSP,
        Reg::R8 => frame::R8,
        Reg::R9 => frame::R9,
        Reg::R10 => frame::R10,
        Reg::R11 => frame::R11,
        Reg::R12 => frame::R12,
        Reg::R13 => frame::R13,
        Reg::R14 => frame::R14,
        Reg::R15 => frame::R15,
        Reg::Rip => frame::RIP,
        Reg::Rflags => frame::RFLAGS,
    }
}
