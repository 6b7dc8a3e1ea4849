//! Calls that are never made in a target, whoever asks: they would harm it, or end or deafen the agent.

/// Why a call must not be made in a target; `None` if it may be.
pub fn forbidden(nr: u64, args: &[u64; 6]) -> Option<&'static str> {
    // The kernel looks at the low 32 bits of the number only, and takes bit 30 for the x32 ABI
    // (arch/x86/entry/syscall_64.c): a larger number would be another call than it seems.
    if nr >= 1024 {
        return Some("the numbers of x86-64 end below 1024");
    }
    let nr = nr as libc::c_long;
    if nr == libc::SYS_prctl {
        let is_about_memory = MEMORY_OPTIONS.iter().any(|option| *option as u64 == args[0]);
        return (!is_about_memory).then_some(
            "prctl would change the agent; only the options on memory and PR_GET_DUMPABLE are let through",
        );
    }
    FORBIDDEN.iter().find(|(numbers, _)| numbers.contains(&nr)).map(|(_, why)| *why)
}

/// Options of prctl(2) that belong to the memory, not to the task, and harm neither.
const MEMORY_OPTIONS: &[libc::c_int] = &[
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_SET_VMA,
    // PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE (include/uapi/linux/prctl.h).
    67,
    68,
];

const FORBIDDEN: &[(&[libc::c_long], &str)] = &[
    (&[libc::SYS_execve, libc::SYS_execveat], "the agent would become another program and be lost"),
    (&[libc::SYS_exit, libc::SYS_exit_group], "the agent would end, and its mappings stay in the target"),
    (
        &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3],
        "a second task would run on the agent's stack in the target's memory",
    ),
    (
        &[
            libc::SYS_rt_sigreturn,
            libc::SYS_restart_syscall,
            libc::SYS_sigaltstack,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigsuspend,
            libc::SYS_pause,
        ],
        "the agent runs with all signals blocked, and must",
    ),
    (&[libc::SYS_ptrace], "the agent would become a tracer or be traced; run a debugger instead"),
    (&[libc::SYS_seccomp], "the agent couldn't leave the target any more"),
    (
        &[
            libc::SYS_arch_prctl,
            libc::SYS_set_tid_address,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_set_thread_area,
            libc::SYS_modify_ldt,
        ],
        "it is a call on a thread's own state, and would change the agent's, or write to the target when that ends",
    ),
    (
        &[libc::SYS_close, libc::SYS_close_range, libc::SYS_dup2, libc::SYS_dup3],
        "the agent's descriptors are how farspace talks to it; descriptors given as fd: are closed after the call",
    ),
    (
        &[
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setreuid,
            libc::SYS_setregid,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
            libc::SYS_setgroups,
            libc::SYS_capset,
        ],
        "credentials are the agent's own, and changing them makes the shared memory undumpable (PR_SET_DUMPABLE)",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_disguise() {
        assert!(forbidden(libc::SYS_execve as u64, &[0; 6]).is_some());
        assert!(forbidden(1 << 32 | libc::SYS_execve as u64, &[0; 6]).is_some());
        assert!(forbidden(1 << 30 | libc::SYS_execve as u64, &[0; 6]).is_some());
        assert!(forbidden(u64::MAX, &[0; 6]).is_some());
        assert_eq!(forbidden(libc::SYS_getpid as u64, &[0; 6]), None);
    }

    #[test]
    fn prctl_by_option() {
        let prctl = |option: i32| forbidden(libc::SYS_prctl as u64, &[option as u64, 0, 0, 0, 0, 0]);
        assert_eq!(prctl(libc::PR_SET_VMA), None);
        assert!(prctl(libc::PR_SET_DUMPABLE).is_some() && prctl(libc::PR_SET_MM).is_some());
    }
}
