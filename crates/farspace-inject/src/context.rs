//! The context page of the region as bytes: it is written and read through /proc/PID/mem.

use std::mem::offset_of;

use farspace_abi::boot::BootContext;
use farspace_sys::RemoteAddr;
use farspace_sys::memory::Memory;

use crate::Result;

pub(crate) trait ContextBytes: Sized {
    fn to_bytes(&self) -> Vec<u8>;
    fn read(memory: &Memory, at: RemoteAddr) -> Result<Self>;
}

impl ContextBytes for BootContext {
    fn to_bytes(&self) -> Vec<u8> {
        let mut words = vec![self.magic, self.resume_rip];
        words.extend(self.resume);
        words.extend([self.all_signals, self.saved_mask]);
        words.extend(self.go_timeout.map(|n| n as u64));
        words.extend([self.helper_pid as u64, self.agent_pid as u64]);
        let halves = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        words.extend([halves(self.thread_done, self.agent_ready), halves(self.host_fd, self.placement)]);
        words.push(halves(self.clone_flags, self.is_reaper));
        words.push(self.thread_flags);
        words.push(halves(self.thread[0] as u32, self.thread[1] as u32));
        words.push(self.tid_address);
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        debug_assert_eq!(bytes.len(), size_of::<Self>());
        bytes
    }

    fn read(memory: &Memory, at: RemoteAddr) -> Result<Self> {
        let mut bytes = [0; size_of::<Self>()];
        memory.read_exact(at, &mut bytes)?;
        let word = |offset: usize| {
            bytes.get(offset..offset + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let half = |offset: usize| {
            bytes.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
        };
        Ok(Self {
            magic: word(offset_of!(Self, magic)),
            helper_pid: word(offset_of!(Self, helper_pid)) as i64,
            agent_pid: word(offset_of!(Self, agent_pid)) as i64,
            thread_done: half(offset_of!(Self, thread_done)),
            agent_ready: half(offset_of!(Self, agent_ready)),
            host_fd: half(offset_of!(Self, host_fd)),
            placement: half(offset_of!(Self, placement)),
            thread: [0, half(offset_of!(Self, thread) + 4) as i32],
            ..Self::default()
        })
    }
}
