//! A thread: NT_PRSTATUS and its register sets.

use std::time::Duration;

use super::Process;

/// Number of general registers in `struct user_regs_struct` (arch/x86/include/asm/user_64.h).
pub const NR_REGS: usize = 27;
/// Length in bytes of `struct user_fpregs_struct`, the fxsave image (arch/x86/include/asm/user_64.h).
pub const FPREGS_LEN: usize = 512;
/// Length in bytes of `siginfo_t` (SI_MAX_SIZE, include/uapi/asm-generic/siginfo.h).
pub const SIGINFO_LEN: usize = 128;
/// The `siginfo_t` of a thread that the dumper stopped: SIGSTOP by the kernel, as in gcore's cores.
pub const SIGINFO_STOPPED: [u8; SIGINFO_LEN] = {
    // si_signo, si_errno, si_code (include/uapi/asm-generic/siginfo.h); SIGSTOP is 19 and SI_KERNEL 0x80.
    let mut siginfo = [0; SIGINFO_LEN];
    siginfo[0] = 19;
    siginfo[8] = 0x80;
    siginfo
};
/// Length in bytes of `struct elf_prstatus` on x86-64 (include/linux/elfcore.h).
pub(super) const PRSTATUS_LEN: usize = 336;
/// The part of an fxsave image that the processor leaves to software; in an xsave area of ptrace the kernel
/// keeps XCR0 there, in NT_PRFPREG it is zero (copy_xstate_to_uabi_buf in arch/x86/kernel/fpu/xstate.c).
const SOFTWARE_BYTES: std::ops::Range<usize> = 464..512;

/// The processor time that a thread has used (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In user mode (`pr_utime`).
    pub user: Duration,
    /// In the kernel (`pr_stime`).
    pub system: Duration,
    /// In user mode, by children that were waited for (`pr_cutime`).
    pub children_user: Duration,
    /// In the kernel, for children that were waited for (`pr_cstime`).
    pub children_system: Duration,
}

/// One thread at the instant of the dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Thread id.
    pub tid: i32,
    /// The signal it stopped for, 0 for none (`pr_cursig`); gdb says "terminated with signal" for it.
    pub signal: i16,
    /// Bit `n - 1` is set if signal `n` is pending for this thread (`SigPnd` of proc_pid_status(5)).
    pub pending: u64,
    /// Bit `n - 1` is set if signal `n` is blocked (`SigBlk` of proc_pid_status(5)).
    pub blocked: u64,
    /// Processor time used.
    pub times: CpuTimes,
    /// The words of `struct user_regs_struct` in its order, r15 to gs (PTRACE_GETREGS).
    pub regs: [u64; NR_REGS],
    /// The fxsave image (PTRACE_GETFPREGS, NT_PRFPREG); if `None`, it is taken from `xsave`.
    pub fpregs: Option<Box<[u8; FPREGS_LEN]>>,
    /// The xsave area in the standard format with XCR0 at byte 464, as PTRACE_GETREGSET(NT_X86_XSTATE) gives it;
    /// empty leaves the note out, otherwise at least [`XSAVE_MIN_LEN`](super::XSAVE_MIN_LEN) bytes.
    ///
    /// gdb reads from XCR0 and from the length which vector registers there are; see [`trim_xsave`](super::trim_xsave).
    pub xsave: Vec<u8>,
    /// The `siginfo_t` of `signal` (PTRACE_GETSIGINFO, NT_SIGINFO), shown by gdb as `$_siginfo`.
    ///
    /// [`SIGINFO_STOPPED`] for a thread that only the dumper stopped: what ptrace reports then is its own event
    /// (`si_code >> 8` is PTRACE_EVENT_STOP), nothing that happened to the target. `None` leaves the note out, as
    /// gcore does for a process that was stopped before (SIGSTOP, the state `T`).
    pub siginfo: Option<[u8; SIGINFO_LEN]>,
}

impl Thread {
    /// The descriptor of NT_PRFPREG, if the floating-point registers are known.
    pub(super) fn prfpreg(&self) -> Option<[u8; FPREGS_LEN]> {
        if let Some(fpregs) = &self.fpregs {
            return Some(**fpregs);
        }
        let mut fpregs: [u8; FPREGS_LEN] = *self.xsave.first_chunk()?;
        fpregs[SOFTWARE_BYTES].fill(0);
        Some(fpregs)
    }

    /// The descriptor of NT_PRSTATUS.
    pub(super) fn prstatus(&self, process: &Process) -> Vec<u8> {
        let mut out = Vec::with_capacity(PRSTATUS_LEN);
        // pr_info: si_signo, si_code, si_errno; only the first is ever set by the kernel.
        out.extend(i32::from(self.signal).to_le_bytes());
        out.extend([0; 8]);
        out.extend(self.signal.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.pending.to_le_bytes());
        out.extend(self.blocked.to_le_bytes());
        for id in [self.tid, process.ppid, process.pgrp, process.sid] {
            out.extend(id.to_le_bytes());
        }
        let times = &self.times;
        for time in [times.user, times.system, times.children_user, times.children_system] {
            out.extend(time.as_secs().to_le_bytes());
            out.extend(u64::from(time.subsec_micros()).to_le_bytes());
        }
        for reg in self.regs {
            out.extend(reg.to_le_bytes());
        }
        out.extend(u32::from(self.fpregs.is_some() || self.xsave.len() >= FPREGS_LEN).to_le_bytes());
        out.extend([0; 4]);
        debug_assert_eq!(out.len(), PRSTATUS_LEN);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::XSAVE_MIN_LEN;
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let process = Process { ppid: 21, pgrp: 22, sid: 23, ..Process::default() };
        let thread = Thread {
            tid: 20,
            signal: 11,
            pending: 1 << 63,
            blocked: 7,
            times: CpuTimes { children_system: Duration::from_micros(3_000_004), ..CpuTimes::default() },
            regs: std::array::from_fn(|i| 0x1000 + i as u64),
            fpregs: Some(Box::new([1; FPREGS_LEN])),
            ..Thread::default()
        };
        let bytes = thread.prstatus(&process);
        assert_eq!(bytes.len(), PRSTATUS_LEN);
        assert_eq!((bytes[0], bytes[12]), (11, 11));
        assert_eq!(bytes[16..24], (1u64 << 63).to_le_bytes());
        assert_eq!(bytes[24..32], 7u64.to_le_bytes());
        assert_eq!([bytes[32], bytes[36], bytes[40], bytes[44]], [20, 21, 22, 23]);
        assert_eq!((bytes[96], bytes[104]), (3, 4));
        assert_eq!(bytes[112..120], 0x1000u64.to_le_bytes());
        assert_eq!(bytes[320..328], 0x101au64.to_le_bytes());
        assert_eq!(bytes[328], 1);
    }

    #[test]
    fn floating_point_registers_come_from_the_xsave_area_if_need_be() {
        let none = Thread::default();
        assert_eq!(none.prfpreg(), None);
        assert_eq!(none.prstatus(&Process::default())[328], 0);

        let thread = Thread { xsave: vec![0xaa; XSAVE_MIN_LEN], ..Thread::default() };
        let fpregs = thread.prfpreg().expect("taken from xsave");
        assert!(fpregs[..464].iter().all(|&b| b == 0xaa));
        assert!(fpregs[464..].iter().all(|&b| b == 0));
        assert_eq!(thread.prstatus(&Process::default())[328], 1);
    }
}
