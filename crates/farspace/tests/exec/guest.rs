//! A page of code in a target, and calls that run it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use farspace::{Error, ExecFlags, Result, SigContext, SigInfo, TargetId, process_vm_exec};

use crate::child::{Target, wait_for};

/// Offset of the data in the page.
pub(crate) const DATA: u64 = 0x800;

/// `inc qword [rdi]; jmp back`, for ever.
pub(crate) const COUNT: [u8; 5] = [0x48, 0xff, 0x07, 0xeb, 0xfb];

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

    /// The same of one that counts.
    pub(crate) fn counting(&self) -> SigContext {
        SigContext { rdi: self.page + DATA, ..self.begin() }
    }

    /// Waits until it has counted: the call has begun.
    pub(crate) fn wait_for_count(&self) {
        wait_for("the guest", || self.read(DATA) > 0);
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

/// Where a caller in a process of its own finds its target's pid and page, and what it is to do.
const CALLER: &str = "FARSPACE_TEST_CALLER";

/// A process of its own that acts as it is told: this test program once more, so that it may be killed, and may fork
/// without other tests' threads.
pub(crate) fn caller(guest: &Guest, act: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "caller::process", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(CALLER, format!("{act} {} {}", guest.pid, guest.page));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// In that process: what to do, and on what.
pub(crate) fn called() -> Option<(String, Guest)> {
    let text = std::env::var(CALLER).ok()?;
    let mut words = text.split(' ');
    let act = words.next()?.to_owned();
    Some((act, Guest { pid: words.next()?.parse().ok()?, page: words.next()?.parse().ok()? }))
}
