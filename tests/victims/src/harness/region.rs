//! Regions of the `memory` victim, as its ready line names them.

use super::Failure;
use crate::pattern;

/// A range of the target with known content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first byte, in the target.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// The pattern that it is filled with.
    pub seed: u64,
}

impl Region {
    /// What must be at `offset`, as long as nothing was written there.
    pub fn bytes(&self, offset: u64, len: u64) -> Vec<u8> {
        pattern::bytes(self.seed, offset, len as usize)
    }
}

pub(super) fn find(words: &[String], name: &str) -> Result<Region, Failure> {
    let word = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
    let word = word.ok_or_else(|| Failure::Broken(format!("the victim has no region {name}")))?;
    if let Some(reason) = word.strip_prefix("-:") {
        return Err(Failure::Skip(format!("no {name} memory here: {}", reason.replace('_', " "))));
    }
    let mut parts = word.split(':');
    let mut number = || {
        let part = parts.next()?;
        part.strip_prefix("0x").map_or_else(|| part.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
    };
    match (number(), number(), number()) {
        (Some(addr), Some(len), Some(seed)) => Ok(Region { addr, len, seed }),
        _ => Err(Failure::Broken(format!("region {name}: {word:?} not understood"))),
    }
}
