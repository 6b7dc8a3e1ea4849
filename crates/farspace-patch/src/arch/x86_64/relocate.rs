//! Writing a trampoline: the entry, and the displaced instructions at their new address.
//!
//! Instructions keep their bytes but for displacements, so their lengths are known before the address is. That is why
//! no general encoder is used: it would choose other encodings, and has no say in which original address each new byte
//! stands for.

use std::ops::RangeInclusive;

use super::layout::{AFTER_AT, ENTRY};
use super::window::{Form, Piece, Window};
use super::{JMP_REL32, PAGE};

/// Length of `jmp rel32` and of `jcc rel32`.
const JMP_LEN: usize = 5;
const JCC_LEN: usize = 6;

/// What a `loop` grows by: its branch skips a short jump over a long one.
const COUNTED_EXTRA: usize = 2 + JMP_LEN;

/// The code of a trampoline, and what its bytes stand for.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
    /// (offset, original address), ascending; each holds up to the next.
    pub(crate) marks: Vec<(u16, u64)>,
}

/// Length of the trampoline for a window, in bytes. It doesn't depend on the address.
pub(crate) fn len(window: &Window) -> usize {
    let pieces: usize = window.pieces.iter().map(|piece| piece_len(window, piece)).sum();
    AFTER_AT + pieces + if window.falls_through { JMP_LEN } else { 0 }
}

/// Addresses at which a trampoline reaches everything that it refers to.
pub(crate) fn reach(window: &Window) -> RangeInclusive<u64> {
    // The referring instruction lies within a page of the trampoline's start.
    const REACH: u64 = i32::MAX as u64 - PAGE;
    let mut range = 0..=u64::MAX;
    let targets = window.pieces.iter().filter_map(|piece| piece.form.target());
    for target in targets.chain([window.end()]) {
        let lowest = (*range.start()).max(target.saturating_sub(REACH));
        let highest = (*range.end()).min(target.saturating_add(REACH));
        range = lowest..=highest;
    }
    range
}

/// Writes the trampoline at `at`, within [`reach`].
pub(crate) fn code(window: &Window, at: u64, common: u64) -> Code {
    let mut writer = Writer { at, bytes: Vec::with_capacity(len(window)), marks: Vec::with_capacity(6) };
    writer.mark(window.at);
    writer.bytes.extend(ENTRY);
    writer.bytes.extend(common.to_le_bytes());
    writer.bytes.extend((window.at + super::SYSCALL_LEN as u64).to_le_bytes());
    for piece in &window.pieces {
        writer.piece(window, piece);
    }
    if window.falls_through {
        writer.mark(window.end());
        writer.jump(window.end());
    }
    debug_assert_eq!(writer.bytes.len(), len(window));
    Code { bytes: writer.bytes, marks: writer.marks }
}

impl Form {
    /// The fixed address that the instruction refers to.
    fn target(self) -> Option<u64> {
        match self {
            Form::Copy => None,
            Form::RipRelative { target, .. }
            | Form::Jump { target }
            | Form::Branch { target, .. }
            | Form::Counted { target } => Some(target),
        }
    }
}

fn piece_len(window: &Window, piece: &Piece) -> usize {
    let len = window.bytes(piece).len();
    match piece.form {
        Form::Copy | Form::RipRelative { .. } => len,
        Form::Jump { .. } => JMP_LEN,
        Form::Branch { .. } => JCC_LEN,
        Form::Counted { .. } => len + COUNTED_EXTRA,
    }
}

struct Writer {
    at: u64,
    bytes: Vec<u8>,
    marks: Vec<(u16, u64)>,
}

impl Writer {
    fn piece(&mut self, window: &Window, piece: &Piece) {
        let raw = window.bytes(piece);
        let start = self.bytes.len();
        self.mark(piece.at);
        match piece.form {
            Form::Copy => self.bytes.extend(raw),
            Form::RipRelative { displacement_at, target } => {
                self.bytes.extend(raw);
                let end = self.at + self.bytes.len() as u64;
                let field = start + displacement_at;
                self.bytes[field..field + 4].copy_from_slice(&displacement(end, target));
            }
            Form::Jump { target } => self.jump(self.relocated(window, target)),
            Form::Branch { condition, target } => {
                self.bytes.extend([0x0f, 0x80 | condition]);
                self.displacement_to(self.relocated(window, target));
            }
            Form::Counted { target } => {
                const JMP_SHORT: u8 = 0xeb;
                let next = piece.at + raw.len() as u64;
                // The displacement is the last byte: over the two bytes of the short jump.
                self.bytes.extend(&raw[..raw.len() - 1]);
                self.bytes.push(2);
                // The counter has been changed: from here on the instruction is done.
                self.mark(next);
                self.bytes.extend([JMP_SHORT, JMP_LEN as u8]);
                self.mark(target);
                self.jump(self.relocated(window, target));
            }
        }
    }

    /// Where a branch to `target` leads: to the copy if the original is displaced.
    fn relocated(&self, window: &Window, target: u64) -> u64 {
        if !window.is_inside(target) {
            return target;
        }
        let before = window.pieces.iter().take_while(|piece| piece.at < target);
        let offset = AFTER_AT + before.map(|piece| piece_len(window, piece)).sum::<usize>();
        self.at + offset as u64
    }

    fn jump(&mut self, target: u64) {
        self.bytes.push(JMP_REL32);
        self.displacement_to(target);
    }

    fn displacement_to(&mut self, target: u64) {
        let end = self.at + self.bytes.len() as u64 + 4;
        self.bytes.extend(displacement(end, target));
    }

    fn mark(&mut self, original: u64) {
        self.marks.push((self.bytes.len() as u16, original));
    }
}

/// The 32-bit displacement from `end` to `target`, which [`reach`] has made sure fits.
fn displacement(end: u64, target: u64) -> [u8; 4] {
    let distance = target.wrapping_sub(end) as i64;
    debug_assert!(i32::try_from(distance).is_ok());
    (distance as i32).to_le_bytes()
}

#[cfg(test)]
mod tests;
