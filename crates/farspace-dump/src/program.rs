//! Whether a process still runs the program that it ran.

use std::fs;
use std::time::Duration;

use farspace::{Frozen, Target};
use farspace_sys::memory::Memory;
use farspace_sys::{RemoteAddr, process};

use crate::{Error, Result};

/// AT_RANDOM (getauxval(3)): the address of 16 bytes that are other ones after each exec.
const AT_RANDOM: u64 = 25;

/// The program that a process runs at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pid: i32,
    auxv: Vec<u8>,
    random: [u8; 16],
}

impl Program {
    /// Looks at a process; one that has ended runs a program of its own, too.
    pub(crate) fn of(pid: i32) -> Self {
        let auxv = fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default();
        let mut random = [0; 16];
        if let (Some(at), Ok(memory)) = (random_at(&auxv), Memory::open(pid)) {
            // Unmapped by the program: then the addresses have to do.
            let _ = memory.read_exact(at, &mut random);
        }
        Self { pid, auxv, random }
    }

    /// True as long as the process lives and has not executed another program.
    pub(crate) fn still_runs(&self) -> bool {
        process::status(self.pid).is_ok_and(|status| !status.no_memory) && *self == Self::of(self.pid)
    }

    /// Fails if the process has ended or executed another program.
    pub(crate) fn check(&self) -> Result<()> {
        if self.still_runs() { Ok(()) } else { Err(Error::Gone { pid: self.pid }) }
    }

    /// Stops the process that still runs this program: registers and mappings belong to the memory that was opened before.
    pub(crate) fn freeze(&self, target: &Target, timeout: Duration) -> Result<Frozen> {
        let frozen = target.freeze(timeout)?;
        self.check()?;
        Ok(frozen)
    }
}

fn random_at(auxv: &[u8]) -> Option<RemoteAddr> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let entry = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_RANDOM)?;
    Some(RemoteAddr(word(&entry[8..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_program() {
        let own = Program::of(std::process::id() as i32);
        assert!(own.still_runs() && own.random != [0; 16]);
        assert!(!Program { random: [1; 16], ..own }.still_runs());
        assert!(!Program::of(i32::MAX).still_runs());
    }
}
