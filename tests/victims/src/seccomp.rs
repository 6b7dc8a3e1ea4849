//! Targets that confine themselves: a system call that they didn't ask for is refused or kills them.

use crate::witness::Witness;
use crate::{Verdict, control, sys};

/// What the victim itself needs, and nothing that injecting code would.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_fcntl,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clock_nanosleep,
    // Where the clock can't be read without the kernel: one that it has found unstable, for instance.
    libc::SYS_clock_gettime,
    libc::SYS_waitid,
    libc::SYS_prctl,
    libc::SYS_personality,
    libc::SYS_getpid,
    libc::SYS_getpgrp,
    libc::SYS_getsid,
    libc::SYS_getpriority,
    libc::SYS_sched_getscheduler,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_munmap,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

pub(crate) fn main(args: &[String]) -> Verdict {
    match args.first().map_or("kill", String::as_str) {
        "kill" => filtered(libc::SECCOMP_RET_KILL_PROCESS),
        "errno" => filtered(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        "strict" => strict(),
        how => Err(format!("seccomp {how}: kill, errno or strict")),
    }
}

fn filtered(otherwise: u32) -> Verdict {
    let mut witness = Witness::start()?;
    // Once before the filter is there, so that whatever is set up lazily is set up.
    witness.check(crate::baseline::Left::Nothing)?;
    install(otherwise)?;
    witness.rebase()?;
    control::ready("");
    control::serve(&mut witness, |_, _| None)
}

/// A filter for all threads: the allow list, everything else `otherwise`.
fn install(otherwise: u32) -> Verdict {
    let load = |offset| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let equal = |value, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k: value };
    let give = |value| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    // seccomp_data: the number at 0, the architecture at 4 (AUDIT_ARCH_X86_64).
    let mut program = vec![load(4), equal(0xc000_003e, 1, 0), give(otherwise), load(0)];
    for &nr in ALLOWED {
        program.extend([equal(nr as u32, 0, 1), give(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(give(otherwise));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter program is valid for the call.
    unsafe {
        sys::os("prctl", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        sys::os("seccomp", libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)).map(drop)
    }
}

/// Seccomp's first mode: read, write, exit and sigreturn only. Too little to look at itself, or for a second
/// thread; it answers that it lives.
fn strict() -> Verdict {
    control::ready("");
    // SAFETY: no memory is involved.
    sys::os("prctl", unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) })?;
    loop {
        let mut line = [0_u8; 64];
        // SAFETY: the buffer is valid; read, write and exit are the calls that are left, and the heap is not
        // touched, for it might need another.
        unsafe {
            let n = libc::read(0, line.as_mut_ptr().cast(), line.len());
            let text = line.get(..n.max(0) as usize).unwrap_or_default();
            let end = n <= 0 || text.starts_with(b"exit");
            let answer: &[u8] = if n < 0 { b"harmed read failed\n" } else { b"ok\n" };
            libc::write(1, answer.as_ptr().cast(), answer.len());
            if end {
                libc::syscall(libc::SYS_exit, libc::c_long::from(n < 0));
            }
        }
    }
}
