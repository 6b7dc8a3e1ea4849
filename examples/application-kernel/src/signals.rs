//! Signals: what the guest wants done with them is noted; handlers are never run.

use std::collections::BTreeMap;

use rustix::io::Errno;

use crate::kernel::{Answer, Call, Ending, Kernel, Stop};
use crate::process::own_pid;

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_rt_sigaction, sigaction),
    (libc::SYS_rt_sigprocmask, sigprocmask),
    (libc::SYS_sigaltstack, |_, _| Ok(0)),
    (libc::SYS_kill, |kernel, &[pid, signal, ..]| raise(kernel, pid, signal)),
    (libc::SYS_tkill, |kernel, &[tid, signal, ..]| raise(kernel, tid, signal)),
    (libc::SYS_tgkill, |kernel, &[_, tid, signal, ..]| raise(kernel, tid, signal)),
];

/// `struct kernel_sigaction`: handler, flags, restorer, mask.
type Action = [u8; 32];

/// What the guest has said about signals.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    actions: BTreeMap<u64, Action>,
    blocked: u64,
}

impl Signals {
    /// What a signal does that the guest sends itself.
    ///
    /// # Errors
    ///
    /// The guest's end; EOPNOTSUPP: it has a handler for that, or has blocked it.
    pub(crate) fn raise(&self, signal: i32) -> Result<(), Stop> {
        let harmless = [0, libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];
        let action = self.actions.get(&(signal as u64)).copied().unwrap_or_default();
        let blocked = signal > 0 && self.blocked >> (signal - 1) & 1 != 0;
        match action[..8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)) {
            _ if harmless.contains(&signal) => Ok(()),
            0 if !blocked => Err(Stop::End(Ending::Killed(signal))),
            1 => Ok(()),
            _ => Err(Errno::OPNOTSUPP.into()),
        }
    }
}

fn sigaction(kernel: &mut Kernel, &[signal, new, old, ..]: &[u64; 6]) -> Answer {
    if !(1..=64).contains(&signal) || [9, 19].contains(&signal) && new != 0 {
        return Err(Errno::INVAL.into());
    }
    let mut action = [0; 32];
    if new != 0 {
        kernel.memory.read(new, &mut action)?;
    }
    if old != 0 {
        let before = kernel.signals.actions.get(&signal).copied().unwrap_or_default();
        kernel.memory.write(old, &before)?;
    }
    if new != 0 {
        kernel.signals.actions.insert(signal, action);
    }
    Ok(0)
}

fn sigprocmask(kernel: &mut Kernel, &[how, new, old, ..]: &[u64; 6]) -> Answer {
    let before = kernel.signals.blocked;
    if new != 0 {
        let mut bytes = [0; 8];
        kernel.memory.read(new, &mut bytes)?;
        let set = u64::from_le_bytes(bytes);
        kernel.signals.blocked = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL.into()),
        };
    }
    if old != 0 {
        kernel.memory.write(old, &before.to_le_bytes())?;
    }
    Ok(0)
}

/// To itself only.
fn raise(kernel: &mut Kernel, to: u64, signal: u64) -> Answer {
    match (to, signal) {
        (_, 65..) => Err(Errno::INVAL.into()),
        (to, _) if to != 0 && to != own_pid() => Err(Errno::SRCH.into()),
        (_, signal) => kernel.signals.raise(signal as i32).map(|()| 0),
    }
}
