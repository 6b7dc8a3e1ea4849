//! Rights over other processes: ptrace, pidfd, reading and writing memory.

use farspace::probe::{self, ProbeChild};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::{Capability, Found, errno_name, read_setting};

pub(super) fn probe() -> Vec<Capability> {
    let mut found = vec![permission()];
    match ProbeChild::start() {
        Ok(child) => {
            found.extend(held(&child));
            found.extend(beside(&child));
        }
        Err(errno) => {
            let meaning = "no child could be forked, so ptrace, pidfd and /proc/PID/mem were not probed";
            found.push(
                Capability::new("probe-child", false, errno_name(errno), meaning).remedy("raise ulimit -u"),
            );
        }
    }
    found
}

/// Whether this thread has a capability in effect.
pub(super) fn has_capability(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// Yama and CAP_SYS_PTRACE: a child can always be probed, so these must be read.
fn permission() -> Capability {
    let scope = read_setting("/proc/sys/kernel/yama/ptrace_scope");
    let capable = has_capability(CapabilitySet::SYS_PTRACE);
    let name = "ptrace-permission";
    let cap = if capable { "CAP_SYS_PTRACE" } else { "no CAP_SYS_PTRACE" };
    let detail = match &scope {
        Some(scope) => format!("ptrace_scope={scope}, {cap}"),
        None => format!("no Yama, {cap}"),
    };
    match (scope.as_deref(), capable) {
        (Some("3"), _) => Capability::new(name, false, detail, "nobody may trace until the next boot")
            .remedy("boot without kernel.yama.ptrace_scope=3"),
        (_, true) => Capability::new(name, true, detail, "any process of this pid namespace can be a target"),
        (Some("0") | None, false) => {
            Capability::new(name, Found::Partly, detail, "targets: your own processes that are dumpable")
                .remedy("run as root for processes of others")
        }
        (Some(_), false) => Capability::new(name, Found::Partly, detail, "targets: only your own children")
            .remedy("run as root, or sysctl kernel.yama.ptrace_scope=0"),
    }
}

/// What is seen of the child while ptrace holds it.
fn held(child: &ProbeChild) -> Vec<Capability> {
    let seized = match child.seize() {
        Ok(seized) => seized,
        Err(errno) => {
            let meaning = "no agent and no registers: farspace can only copy memory that it may read";
            let remedy = "allow ptrace: in a container --cap-add=SYS_PTRACE; else see ptrace-permission";
            return vec![Capability::new("ptrace-seize", false, errno_name(errno), meaning).remedy(remedy)];
        }
    };
    let seize = Capability::new("ptrace-seize", true, "works", "the agent gets in by one stop of one thread");
    let suspend = Capability::probed(
        "ptrace-suspend-seccomp",
        &seized.suspend_seccomp(),
        "targets with a seccomp filter can take an agent",
        "targets whose seccomp filter forbids a call that the agent needs are copied instead",
    )
    .remedy("CAP_SYS_ADMIN (run as root), a kernel with CONFIG_CHECKPOINT_RESTORE, and no filter on farspace itself");
    let rseq = match seized.rseq() {
        Ok(rseq) => {
            let detail =
                if rseq.address == 0 { "works".into() } else { format!("works, {} bytes", rseq.size) };
            Capability::new(
                "ptrace-rseq",
                true,
                detail,
                "a thread in an rseq critical section is seen and let out first",
            )
        }
        Err(errno) => {
            Capability::new("ptrace-rseq", false, errno_name(errno), "rseq critical sections can't be seen")
                .remedy("run Linux 5.13 or later with CONFIG_RSEQ")
        }
    };
    let xsave = match seized.xstate() {
        Ok(area) => xsave(&area),
        Err(errno) => {
            Capability::new("xsave", false, errno_name(errno), "cores hold only x87 and SSE registers")
        }
    };
    vec![seize, suspend, rseq, xsave]
}

/// Size and components of the extended state; XCR0 is at byte 464 (the software-reserved bytes of the FXSAVE area,
/// arch/x86/include/uapi/asm/sigcontext.h).
fn xsave(area: &[u8]) -> Capability {
    const COMPONENTS: [(u32, &str); 8] = [
        (0, "x87"),
        (1, "SSE"),
        (2, "AVX"),
        (3, "MPX"),
        (5, "AVX-512"),
        (9, "PKRU"),
        (11, "CET"),
        (17, "AMX"),
    ];
    let bytes = area.get(464..472).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let names: Vec<_> =
        COMPONENTS.iter().filter(|(bit, _)| bytes & (1 << bit) != 0).map(|(_, name)| *name).collect();
    let detail = format!("{} bytes: {}", area.len(), names.join(" "));
    Capability::new("xsave", true, detail, "all of these registers are in the core of each thread")
}

/// What can be done to the child from outside.
fn beside(child: &ProbeChild) -> Vec<Capability> {
    let pidfd = child.pidfd().map(drop);
    let probed = Capability::probed::<()>;
    vec![
        probed(
            "pidfd_open",
            &pidfd,
            "a reused pid can never be mistaken for the target",
            "a pid that is reused between two calls can't be told from the target",
        )
        .remedy("run Linux 5.3 or later"),
        probed(
            "pidfd_getfd",
            &child.pidfd_getfd(),
            "descriptors cross between farspace and its agent",
            "descriptors have to cross by a socket",
        )
        .remedy("run Linux 5.6 or later, with ptrace access to the target"),
        probed(
            "process_vm_readv",
            &child.process_vm_readv(),
            "the last fallback for reading memory works",
            "the last fallback for reading memory is missing",
        )
        .remedy("a kernel with CONFIG_CROSS_MEMORY_ATTACH, and ptrace access"),
        probed(
            "proc-mem-read",
            &child.proc_mem_read(),
            "PROT_NONE and snapshot memory can be read by copying",
            "PROT_NONE memory is left out of dumps; snapshots need vmsplice",
        )
        .remedy("mount /proc without hidepid, with ptrace access to the target"),
        force_write(&child.proc_mem_force_write()),
        probed(
            "kcmp",
            &child.kcmp(),
            "tasks that share an address space are recognised",
            "tasks that share an address space can't be recognised",
        )
        .remedy("a kernel with CONFIG_KCMP"),
    ]
}

fn force_write(result: &Result<(), Errno>) -> Capability {
    let there = "code can be placed in read-only memory (FOLL_FORCE)";
    let absent = "the agent's entry has to be written by ptrace";
    Capability::probed("proc-mem-write", result, there, absent)
        .remedy("boot with proc_mem.force_override=ptrace (Linux 6.12 and later)")
}

/// Whether user shadow stacks are there, which an injected call must respect.
pub(super) fn shadow_stack() -> Capability {
    let meaning = "targets that run with one are refused for injection and copied instead";
    match probe::shadow_stack() {
        Ok(true) => Capability::new("shadow-stack", true, "on in this process", meaning),
        Ok(false) => Capability::new("shadow-stack", true, "available, off in this process", meaning),
        Err(errno) => {
            let meaning = "no target has one, so none is refused for it";
            Capability::new("shadow-stack", false, errno_name(errno), meaning)
        }
    }
}
