//! The process: its ids, its limits, its end, and what it may know about the machine.

use rustix::process::{getegid, geteuid, getgid, getpgrp, getppid, getuid};
use rustix::rand::GetRandomFlags;

use crate::descriptors::LIMIT;
use crate::kernel::{Answer, Call, Ending, Kernel, Stop};
use crate::layout::Bytes;
use crate::stack;

use rustix::io::Errno;

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_exit, exit),
    (libc::SYS_exit_group, exit),
    (libc::SYS_arch_prctl, arch_prctl),
    (libc::SYS_getpid, |_, _| Ok(own_pid())),
    (libc::SYS_gettid, |_, _| Ok(own_pid())),
    (libc::SYS_set_tid_address, |_, _| Ok(own_pid())),
    (libc::SYS_getppid, |_, _| Ok(getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u64))),
    (libc::SYS_getpgrp, |_, _| Ok(getpgrp().as_raw_nonzero().get() as u64)),
    (libc::SYS_getuid, |_, _| Ok(getuid().as_raw().into())),
    (libc::SYS_geteuid, |_, _| Ok(geteuid().as_raw().into())),
    (libc::SYS_getgid, |_, _| Ok(getgid().as_raw().into())),
    (libc::SYS_getegid, |_, _| Ok(getegid().as_raw().into())),
    (libc::SYS_getgroups, getgroups),
    // One thread only: nobody would use the list.
    (libc::SYS_set_robust_list, |_, _| Ok(0)),
    // It never has children.
    (libc::SYS_wait4, |_, _| Err(Errno::CHILD.into())),
    (libc::SYS_futex, futex),
    (libc::SYS_prctl, |_, args| match args[0] as i32 {
        // The name of a thread is for others to see.
        libc::PR_SET_NAME => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }),
    // The C library does without.
    (libc::SYS_rseq, |_, _| Err(Errno::NOSYS.into())),
    (libc::SYS_getrandom, |kernel, &[at, len, ..]| {
        let mut bytes = vec![0; len.min(256) as usize];
        let count = rustix::rand::getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        kernel.memory.write(at, &bytes[..count])?;
        Ok(count as u64)
    }),
    (libc::SYS_prlimit64, prlimit),
    (libc::SYS_uname, uname),
    (libc::SYS_sysinfo, sysinfo),
];

pub(crate) fn own_pid() -> u64 {
    std::process::id().into()
}

fn exit(_: &mut Kernel, args: &[u64; 6]) -> Answer {
    Err(Stop::End(Ending::Exited(args[0] as u8)))
}

/// There is one thread: nobody is there to be woken, and nobody to wake it.
fn futex(kernel: &mut Kernel, &[at, operation, value, ..]: &[u64; 6]) -> Answer {
    match operation as i32 & libc::FUTEX_CMD_MASK {
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => Ok(0),
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let mut now = [0; 4];
            kernel.memory.read(at, &mut now)?;
            let changed = u32::from_le_bytes(now) != value as u32;
            Err(if changed { Errno::AGAIN } else { Errno::DEADLK }.into())
        }
        _ => Err(Errno::OPNOTSUPP.into()),
    }
}

fn arch_prctl(kernel: &mut Kernel, &[code, address, ..]: &[u64; 6]) -> Answer {
    // arch/x86/include/uapi/asm/prctl.h
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let base = match code {
        SET_FS => return Ok(kernel.vcpu.set_fs_base(address).map(|()| 0)?),
        SET_GS => return Ok(kernel.vcpu.set_gs_base(address).map(|()| 0)?),
        GET_FS => kernel.vcpu.fs_base()?,
        GET_GS => kernel.vcpu.gs_base()?,
        _ => return Err(Errno::INVAL.into()),
    };
    kernel.memory.write(address, &base.to_le_bytes())?;
    Ok(0)
}

fn getgroups(kernel: &mut Kernel, &[room, at, ..]: &[u64; 6]) -> Answer {
    let groups = rustix::process::getgroups()?;
    if room > 0 {
        if groups.len() as u64 > room {
            return Err(Errno::INVAL.into());
        }
        let mut bytes = Bytes::default();
        groups.iter().for_each(|group| bytes.u32(group.as_raw()));
        kernel.memory.write(at, &bytes.0)?;
    }
    Ok(groups.len() as u64)
}

/// Two limits are known; they can't be changed.
fn prlimit(kernel: &mut Kernel, &[pid, resource, new, old, ..]: &[u64; 6]) -> Answer {
    if new != 0 || pid != 0 && pid != own_pid() {
        return Err(Errno::PERM.into());
    }
    let limit = match u32::try_from(resource) {
        Ok(libc::RLIMIT_STACK) => stack::BYTES,
        Ok(libc::RLIMIT_NOFILE) => LIMIT as u64,
        _ => u64::MAX,
    };
    if old != 0 {
        let mut bytes = Bytes::default();
        bytes.u64s([limit, limit]);
        kernel.memory.write(old, &bytes.0)?;
    }
    Ok(0)
}

fn uname(kernel: &mut Kernel, &[at, ..]: &[u64; 6]) -> Answer {
    let host = rustix::system::uname();
    let mut bytes = Vec::new();
    let names =
        [host.sysname(), host.nodename(), host.release(), host.version(), host.machine(), host.domainname()];
    for (index, name) in names.into_iter().enumerate() {
        bytes.extend(name.to_bytes());
        bytes.resize(65 * (index + 1), 0);
    }
    kernel.memory.write(at, &bytes)?;
    Ok(0)
}

/// `struct sysinfo` (sysinfo(2)).
fn sysinfo(kernel: &mut Kernel, &[at, ..]: &[u64; 6]) -> Answer {
    let host = rustix::system::sysinfo();
    let mut bytes = Bytes::default();
    bytes.u64(host.uptime as u64);
    bytes.u64s(host.loads);
    let memory = [host.totalram, host.freeram, host.sharedram, host.bufferram, host.totalswap, host.freeswap];
    bytes.u64s(memory);
    bytes.u64(host.procs.into());
    bytes.u64s([host.totalhigh, host.freehigh]);
    bytes.u64(host.mem_unit.into());
    kernel.memory.write(at, &bytes.0)?;
    Ok(0)
}
