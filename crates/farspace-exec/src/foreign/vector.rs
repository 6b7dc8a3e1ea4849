//! The vector state of a guest: between the area that the caller gave and the one in the frame.

use rustix::io::Errno;

use crate::arch::xsave::{
    EXTENDED, MAGIC1, MAGIC2, MXCSR, MXCSR_INIT, PKRU, PKRU_INIT, SOFTWARE, SW_FEATURES, SW_MAGIC, SW_SIZE,
    XCOMP_BV, XSTATE_BV, pkru_offset,
};
use crate::area::{Area, VectorAt};

/// No XSAVE area is larger; those that there are have 2.7 KiB, or 11 KiB with tiles.
const MOST: usize = 1 << 16;

/// A copy of an XSAVE area as in a signal frame, checked.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Without what software added.
    bytes: Vec<u8>,
    features: u64,
}

impl Vector {
    /// Bytes before that tell its length.
    pub const HEAD: usize = EXTENDED;
    /// The first bytes that are written back: those before what software keeps there.
    pub const LEGACY: std::ops::Range<usize> = 0..SOFTWARE;

    /// Length of an area, without the magic number behind it, from its first [`HEAD`](Self::HEAD) bytes.
    ///
    /// # Errors
    ///
    /// EINVAL: it isn't the area of a signal frame.
    pub fn len_of(head: &[u8; EXTENDED]) -> Result<usize, Errno> {
        let size = word(head, SW_SIZE) as usize;
        if word(head, SW_MAGIC) == MAGIC1 && (EXTENDED..MOST).contains(&size) {
            Ok(size)
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Checks an area, with the four bytes of the magic number behind it.
    ///
    /// # Errors
    ///
    /// EINVAL: no magic number, or a header that isn't of the standard format.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, Errno> {
        let size = bytes.len().checked_sub(4).filter(|size| *size >= EXTENDED).ok_or(Errno::INVAL)?;
        let is_compact = bytes[XCOMP_BV..EXTENDED].iter().any(|byte| *byte != 0);
        if word(&bytes, size) != MAGIC2 || is_compact {
            return Err(Errno::INVAL);
        }
        bytes.truncate(size);
        let features = long(&bytes, SW_FEATURES);
        Ok(Self { bytes, features })
    }

    /// What is written back: the area, whose part between [`LEGACY`](Self::LEGACY) and [`extended`](Self::extended) is
    /// the caller's own.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Header and what follows it.
    pub fn extended(&self) -> std::ops::Range<usize> {
        XSTATE_BV..self.bytes.len()
    }
}

/// What the kernel has put into the first frame of a task, which no guest has seen before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    size: usize,
    features: u64,
    mxcsr_mask: u32,
}

impl Layout {
    /// Learns it.
    pub(super) fn of(area: &Area, vector: VectorAt) -> Self {
        let low = |at: usize| area.get(vector.at + (at & !7)) >> (8 * (at & 7)) & u64::from(u32::MAX);
        let is_extended = low(SW_MAGIC) == u64::from(MAGIC1);
        let size = if is_extended { low(SW_SIZE) as usize } else { 512 };
        // The kernel writes 0 where all bits but one may be set (the processor's manual, volume 1, 11.6.6).
        let mask = match low(MXCSR + 4) as u32 {
            0 => 0xffbf,
            mask => mask,
        };
        let features = if is_extended { area.get(vector.at + SW_FEATURES) } else { 3 };
        Self { size: size.min(vector.room) & !7, features, mxcsr_mask: mask }
    }

    /// Loads the state that a program begins with.
    pub(super) fn clean(&self, area: &Area, vector: VectorAt) {
        area.set(vector.at + MXCSR, u64::from(MXCSR_INIT) | u64::from(self.mxcsr_mask) << 32);
        if self.size < EXTENDED {
            return;
        }
        let keys = pkru_offset();
        let has_keys = self.features & PKRU != 0 && keys.is_multiple_of(8) && keys + 8 <= self.size;
        if has_keys {
            area.set(vector.at + keys, u64::from(PKRU_INIT));
        }
        area.set(vector.at + XSTATE_BV, if has_keys { PKRU } else { 0 });
        area.set(vector.at + XCOMP_BV, 0);
    }

    /// Loads a state of the caller's.
    pub(super) fn load(&self, area: &Area, vector: VectorAt, state: &Vector) -> Result<(), Errno> {
        // The processor refuses other bits.
        let mxcsr = word(&state.bytes, MXCSR);
        if mxcsr & !self.mxcsr_mask != 0 || self.size < EXTENDED {
            return Err(Errno::INVAL);
        }
        put(area, vector.at, &state.bytes[Vector::LEGACY]);
        area.set(vector.at + MXCSR, u64::from(mxcsr) | u64::from(self.mxcsr_mask) << 32);
        let used = long(&state.bytes, XSTATE_BV) & state.features & self.features;
        area.set(vector.at + XSTATE_BV, used);
        area.set(vector.at + XCOMP_BV, 0);
        let end = state.bytes.len().min(self.size) & !7;
        put(area, vector.at + EXTENDED, &state.bytes[EXTENDED..end]);
        Ok(())
    }

    /// Takes the guest's state.
    pub(super) fn store(&self, area: &Area, vector: VectorAt, state: &mut Vector) {
        get(area, vector.at, &mut state.bytes[Vector::LEGACY]);
        let used = area.get(vector.at + XSTATE_BV) & state.features & self.features;
        state.bytes[XSTATE_BV..XCOMP_BV].copy_from_slice(&used.to_le_bytes());
        let end = state.bytes.len().min(self.size) & !7;
        get(area, vector.at + EXTENDED, &mut state.bytes[EXTENDED..end]);
    }
}

fn put(area: &Area, at: usize, bytes: &[u8]) {
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        area.set(at + 8 * index, long(word, 0));
    }
}

fn get(area: &Area, at: usize, bytes: &mut [u8]) {
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&area.get(at + 8 * index).to_le_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
