//! Keeping calls away from farspace's own memory in the target.
//!
//! The agent's code, its stack and its mailbox lie in the address space that the calls change. A target that does
//! this to itself harms the agent only; a caller who does it by mistake is told.

use farspace_abi::RemoteIoVec;
use farspace_abi::mailbox::MAX_IOV;
use farspace_inject::Agent;
use farspace_sys::{memory, process};
use rustix::io::Errno;

use crate::syscalls::{Call, Range, Touches, unlisted_touches};
use crate::{Error, RemoteAddr, Result};

const PAGE_BYTES: u64 = 4096;

/// Refuses a call that would map over, change or write to farspace's own memory.
pub(super) fn check(pid: i32, agent: &Agent, nr: u64, call: Option<&Call>, args: &[u64; 6]) -> Result<()> {
    let ranges: Vec<Range> = match call.map(|call| call.touches) {
        Some(Touches::Nothing) => return Ok(()),
        Some(Touches::Ranges(of)) => of(args).to_vec(),
        Some(Touches::Segments) => segments(pid, args),
        None => unlisted_touches(nr, args).to_vec(),
    };
    if ranges.iter().all(|(_, len)| *len == 0) {
        return Ok(());
    }
    for own in process::mappings(pid)?.iter().filter(|mapping| agent.owns(mapping)) {
        if ranges.iter().any(|range| overlaps(*range, (own.start.0, own.end.0))) {
            let reason = "farspace's own agent lives there until it is detached; leave that range out";
            let error = Error::new("change the memory", pid, Errno::BUSY);
            return Err(error.at(own.start).because(reason));
        }
    }
    Ok(())
}

/// The segments that a call writes to, as they are now. One that can't be read gives EFAULT in the call as well.
fn segments(pid: i32, args: &[u64; 6]) -> Vec<Range> {
    let count = usize::try_from(args[2]).unwrap_or(usize::MAX).min(MAX_IOV);
    let mut bytes = vec![0; count * size_of::<RemoteIoVec>()];
    let from = [RemoteIoVec { base: RemoteAddr(args[1]), len: bytes.len() as u64 }];
    let read = memory::process_vm_readv(pid, &from, &mut bytes).unwrap_or(0);
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
    bytes[..read].chunks_exact(16).map(|segment| (word(&segment[..8]), word(&segment[8..]))).collect()
}

/// True if a range, in whole pages, meets the addresses from `start` up to `end`.
fn overlaps((first, len): Range, (start, end): (u64, u64)) -> bool {
    let last = first.saturating_add(len).checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
    len > 0 && first < end && start < last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_in_whole_pages() {
        let own = (0x5000, 0x7000);
        assert!(overlaps((0x5000, 1), own) && overlaps((0x6fff, 1), own) && overlaps((0, u64::MAX), own));
        assert!(overlaps((0x4000, 0x1001), own));
        assert!(
            !overlaps((0x4000, 0x1000), own) && !overlaps((0x7000, 9), own) && !overlaps((0x5000, 0), own)
        );
    }
}
