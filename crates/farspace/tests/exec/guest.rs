//! A page of code in a target, and calls that run it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use farspace::{Error, ExecFlags, Result, SigContext, SigInfo, TargetId, process_vm_exec};

use crate::child::Target;

/// Offset of the data in the page.
pub(crate) const DATA: u64 = 0x800;

/// One page in a target: code at its begin, data and stack in its second half.
pub(crate) struct Guest {
    pub(crate) pid: i32,
    pub(crate) page: u64,
}

/// Makes one system call in a target.
pub(crate) fn syscall(pid: i32, nr: libc::c_long, args: [u64; 6]) -> Result<i64> {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    let mut context = SigContext { rax: nr as u64, rdi, rsi, rdx, r10, r8, r9, ..SigContext::default() };
    let mut info = SigInfo::default();
    process_vm_exec(TargetId::Pid(pid), &mut context, ExecFlags::SYSCALL, &mut info, 0)?;
    Ok(context.rax as i64)
}

impl Guest {
    pub(crate) fn new(target: &Target, code: &[u8]) -> Self {
        let pid = target.pid();
        let page = syscall(pid, libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0]).expect("a call");
        assert!(page > 0, "mmap: {page}");
        let guest = Self { pid, page: page as u64 };
        guest.write(0, code);
        guest
    }

    /// Unmaps the page.
    pub(crate) fn remove(self) {
        assert_eq!(syscall(self.pid, libc::SYS_munmap, [self.page, 4096, 0, 0, 0, 0]).expect("a call"), 0);
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let mem = OpenOptions::new().write(true).open(format!("/proc/{}/mem", self.pid)).expect("ours");
        mem.write_all_at(bytes, self.page + offset).expect("mapped");
    }

    pub(crate) fn read(&self, offset: u64) -> u64 {
        let mem = OpenOptions::new().read(true).open(format!("/proc/{}/mem", self.pid)).expect("ours");
        let mut bytes = [0; 8];
        mem.read_exact_at(&mut bytes, self.page + offset).expect("mapped");
        u64::from_le_bytes(bytes)
    }

    /// Registers at the begin of the code.
    pub(crate) fn begin(&self) -> SigContext {
        SigContext { rip: self.page, rsp: self.page + 0xff0, eflags: 0x202, ..SigContext::default() }
    }

    pub(crate) fn run(&self, context: &mut SigContext) -> Result<SigInfo> {
        self.run_masked(context, 0)
    }

    pub(crate) fn run_masked(&self, context: &mut SigContext, mask: u64) -> Result<SigInfo> {
        let mut info = SigInfo { bytes: [0xaa; 128] };
        process_vm_exec(TargetId::Pid(self.pid), context, ExecFlags::empty(), &mut info, mask)?;
        Ok(info)
    }
}

/// The bit of a signal.
pub(crate) const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

pub(crate) fn errno(error: &Error) -> i32 {
    error.errno().raw_os_error()
}
