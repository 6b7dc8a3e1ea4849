//! Our own rows: calls and guests in a process that runs already.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use farspace::{
    Arg, ExecFlags, Permit, RemoteAddr, Returned, SigContext, SigInfo, Target, TargetId, process_vm_exec,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags};

use super::engine::PATCHED;
use super::entry::{Entry, Round};
use crate::demo::client::{Life, Pages, SampleTarget};

/// All of them.
pub(super) const ENTRIES: &[Entry] = &[
    Entry { name: "process-vm-exec", against: &["sysemu-one-cpu"], start: guests },
    Entry { name: "remote-syscall", against: &["shared-line-unpinned", "native-getpid"], start: calls },
];

/// Calls of process_vm_exec, each to the guest's next system call.
fn guests() -> anyhow::Result<Round> {
    let target = sample()?;
    let handle = Target::attach(target.pid())?;
    let code = place(&handle)?;
    // The call attaches by itself.
    handle.detach()?;
    let mut context = SigContext { rip: code, rsp: code, ..SigContext::default() };
    Ok(Box::new(move |nr_calls| {
        let mut info = SigInfo::default();
        let begin = Instant::now();
        for _ in 0..nr_calls {
            let id = TargetId::Pid(target.pid());
            process_vm_exec(id, &mut context, ExecFlags::empty(), &mut info, 0)?;
            ensure!(info.signo() == 31 && info.syscall() == 39, "the guest stopped for {info:?}");
            context.rax = 42;
        }
        Ok(begin.elapsed())
    }))
}

/// System calls by the agent.
fn calls() -> anyhow::Result<Round> {
    const GETPID: u64 = 39;
    let target = sample()?;
    let handle = Target::attach(target.pid())?;
    Ok(Box::new(move |nr_calls| {
        let _target = &target;
        let begin = Instant::now();
        for _ in 0..nr_calls {
            let returned = handle
                .syscall_with(GETPID, [Arg::Word(0); 6], Permit::Any, &mut || ControlFlow::Continue(()))?;
            ensure!(matches!(returned, Returned::Value(pid) if pid > 0), "getpid gave {returned:?}");
        }
        Ok(begin.elapsed())
    }))
}

fn sample() -> anyhow::Result<SampleTarget> {
    SampleTarget::start(1 << 20, 0, Pages::Default, Life::Asleep)
}

/// Maps a page of code in the target; its address.
fn place(handle: &Target) -> anyhow::Result<u64> {
    let file =
        memfd_create("farspace-bench", MemfdFlags::CLOEXEC).context("make a file for the guest's code")?;
    rustix::io::write(&file, &PATCHED)?;
    let protection = ProtFlags::READ | ProtFlags::EXEC;
    let file = Some((file.as_fd(), 0));
    Ok(handle.mmap(RemoteAddr::default(), 4096, protection, MapFlags::PRIVATE, file)?.0)
}
