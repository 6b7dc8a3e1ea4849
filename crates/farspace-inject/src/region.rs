//! The region in the target: where it is, what an earlier visit may have left there, mapping and unmapping it.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use farspace_abi::boot::BootContext;
use farspace_abi::region::{CONTEXT_OFFSET, MAGIC, PRIVATE_BYTES, REGION_BYTES};
use farspace_sys::memory::Memory;
use farspace_sys::process::{self, Mapping};
use farspace_sys::shared::SharedMemory;
use farspace_sys::{RemoteAddr, pidfd};
use rustix::io::Errno;

use crate::borrow::Borrowed;
use crate::cave::Cave;
use crate::context::ContextBytes;
use crate::timing::{GO_TIMEOUT, START};
use crate::{BLOB, Error, Result};

const PAGE: u64 = 4096;

/// Where the region is or will be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub(crate) at: RemoteAddr,
    /// Left by a visit that was killed: mapped already, as a whole or in part.
    is_left_over: bool,
    /// Where the target's random bytes are.
    random: Option<RemoteAddr>,
}

impl Region {
    /// Chooses the place: one that only a tracer can work out, and works out again the next time, so that what a
    /// killed visit left is found and used again.
    pub(crate) fn choose(pid: i32, maps: &[Mapping], memory: &Memory) -> Result<Self> {
        let (random, seed) = random_bytes(pid, memory);
        for at in places(u64::from_le_bytes(seed), PAGE) {
            let end = RemoteAddr(at.0 + REGION_BYTES as u64);
            let mut inside = maps.iter().filter(|m| m.start < end && m.end > at).peekable();
            if inside.peek().is_none() {
                return Ok(Self { at, is_left_over: false, random });
            }
            let ours = inside.all(|m| {
                m.start >= at && m.end <= end && (m.inode == 0 && m.name.is_empty() || is_mailbox(m))
            });
            if ours && Self::begins_like_ours(at, memory) && Self::is_at_rest(at, pid, memory) {
                return Ok(Self { at, is_left_over: true, random });
            }
        }
        Err(Error::Sys(farspace_sys::Error::new("find room in the address space", pid, Errno::NOMEM)))
    }

    /// What a killed visit leaves begins with the blob, or with zeros where it was killed before that was written.
    fn begins_like_ours(at: RemoteAddr, memory: &Memory) -> bool {
        let mut begin = [0; 64];
        memory.read_exact(at, &mut begin).is_ok() && (BLOB.starts_with(&begin) || begin == [0; 64])
    }

    /// True if neither an agent nor a borrowed thread is in there, or nothing is mapped.
    pub(crate) fn is_at_rest(at: RemoteAddr, pid: i32, memory: &Memory) -> bool {
        !in_use(pid, at, memory) && !is_inside(pid, at, memory)
    }

    /// True if an earlier visit has left it.
    pub(crate) fn is_left_over(self) -> bool {
        self.is_left_over
    }

    /// Fails if the process is another program by now than the one for which the place was chosen: that has other random
    /// bytes, or none there.
    pub(crate) fn require_same(self, borrowed: &Borrowed, memory: &Memory) -> Result<()> {
        match self.random {
            Some(at) if borrowed.thread.peek(at)? != memory.read_u64(at)? => {
                Err(Error::host(borrowed.thread.tid(), Errno::AGAIN))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn context(self) -> RemoteAddr {
        RemoteAddr(self.at.0 + CONTEXT_OFFSET as u64)
    }

    /// Where [`BootContext::thread_done`] is.
    pub(crate) fn thread_done(self) -> RemoteAddr {
        RemoteAddr(self.context().0 + offset_of!(BootContext, thread_done) as u64)
    }

    /// True for an address inside.
    pub(crate) fn contains(self, address: RemoteAddr) -> bool {
        address.0.wrapping_sub(self.at.0) < REGION_BYTES as u64
    }

    pub(crate) fn map(self, pid: i32, borrowed: Borrowed, memory: &Memory, cave: Cave) -> Result<Borrowed> {
        let fail = |at: RemoteAddr, result: i64| {
            let errno = Errno::from_raw_os_error((-result) as i32);
            Error::Sys(farspace_sys::Error::new("map the agent into the memory", pid, errno).at(at))
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let borrowed = if self.is_left_over { self.unmap(borrowed, memory, cave)? } else { borrowed };
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let args = [self.at.0, PRIVATE_BYTES as u64, protection, flags as u64, u64::MAX, 0];
        let (borrowed, result) = cave.syscall(borrowed, memory, libc::SYS_mmap as u64, args)?;
        if result != self.at.0 as i64 {
            borrowed.give_back(Instant::now() + START)?;
            return Err(fail(self.at, result));
        }
        Ok(borrowed)
    }

    pub(crate) fn unmap(self, borrowed: Borrowed, memory: &Memory, cave: Cave) -> Result<Borrowed> {
        let args = [self.at.0, REGION_BYTES as u64, 0, 0, 0, 0];
        Ok(cave.syscall(borrowed, memory, libc::SYS_munmap as u64, args)?.0)
    }
}

/// Addresses far from where the kernel puts mappings, between 0x1000_0000_0000 and 0x5000_0000_0000, in an order that the
/// seed says: for mappings of ours, each tried with MAP_FIXED_NOREPLACE.
///
/// The kernel's own choice may be where the target has just unmapped something, to map something else there.
pub fn places(seed: u64, alignment: u64) -> impl Iterator<Item = RemoteAddr> {
    const NR: usize = 64;
    let mut state = seed;
    std::iter::repeat_with(move || {
        // splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        RemoteAddr(0x1000_0000_0000 + ((z % 0x4_0000_0000) << 12) / alignment * alignment)
    })
    .take(NR)
}

fn is_mailbox(mapping: &Mapping) -> bool {
    let name = mapping.name.strip_prefix(b"/memfd:").unwrap_or_default();
    name.starts_with(SharedMemory::NAME.as_bytes())
}

/// The 16 random bytes that the kernel gave the process at exec (getauxval(3), AT_RANDOM), half of them.
fn random_bytes(pid: i32, memory: &Memory) -> (Option<RemoteAddr>, [u8; 8]) {
    const AT_RANDOM: u64 = 25;
    let auxv = std::fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0);
    let entry = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_RANDOM);
    let at = entry.map(|pair| RemoteAddr(word(&pair[8..])));
    let mut seed = [0; 8];
    match at.map(|at| memory.read_exact(at, &mut seed)) {
        Some(Ok(())) => (at, seed),
        // A program without them, or one that has unmapped its first stack: the pid does.
        _ => (None, (pid as u64).to_le_bytes()),
    }
}

/// True if an agent lives in the region.
fn in_use(pid: i32, at: RemoteAddr, memory: &Memory) -> bool {
    let Ok(context) = BootContext::read(memory, RemoteAddr(at.0 + CONTEXT_OFFSET as u64)) else {
        return false;
    };
    let Ok(status) = process::status(pid) else { return false };
    let agent = i32::try_from(context.agent_pid).ok().filter(|pid| *pid > 0);
    agent
        .and_then(|ns_pid| process::pid_in_namespace(pid, &status, ns_pid))
        .is_some_and(|agent| pidfd::same_memory(pid, agent) != Some(false))
}

/// True if the thread that an earlier visit has borrowed may still be in the region.
///
/// A thread that sleeps tells where. One that runs needs far less than a millisecond of CPU in there, so it is
/// elsewhere once it has had more.
fn is_inside(pid: i32, at: RemoteAddr, memory: &Memory) -> bool {
    const ENOUGH: Duration = Duration::from_millis(2);
    let Ok(context) = BootContext::read(memory, RemoteAddr(at.0 + CONTEXT_OFFSET as u64)) else {
        return false;
    };
    if context.magic != MAGIC {
        return false;
    }
    let Some(tid) = process::tid_in_namespace(pid, context.thread[1]) else { return false };
    let Some(before) = process::cpu_time(pid, tid) else { return true };
    let deadline = Instant::now() + 4 * GO_TIMEOUT;
    loop {
        if let Some(instruction) = process::instruction(pid, tid) {
            return instruction.0.wrapping_sub(at.0) < REGION_BYTES as u64;
        }
        match process::cpu_time(pid, tid) {
            Some(now) if now.saturating_sub(before) < ENOUGH && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Some(now) => return now.saturating_sub(before) < ENOUGH,
            // It has ended.
            None => return false,
        }
    }
}
