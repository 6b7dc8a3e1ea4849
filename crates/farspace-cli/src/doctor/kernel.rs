//! The kernel itself and the two native calls.

use farspace::{backend, probe};

use super::{Capability, Found, errno_name, read_setting};

/// The oldest release that has everything the stock backend uses.
const COMPLETE: (u32, u32) = (6, 7);

/// The running release.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(super) fn probe() -> Vec<Capability> {
    vec![version(), native_vmsplice(), native_exec(), backend(), io_uring()]
}

fn version() -> Capability {
    let release = release();
    let found = match parse(&release) {
        Some(version) if version >= COMPLETE => Found::Yes,
        Some(_) => Found::Partly,
        None => Found::No,
    };
    let meaning = match found {
        Found::Yes => "new enough for everything; what counts is the probes below",
        _ => "older than 6.7: farspace loses only what the probes below say is missing",
    };
    Capability::new("kernel", found, release, meaning).remedy("run Linux 6.7 or later")
}

/// Major and minor version of a release string.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn native_vmsplice() -> Capability {
    let there = "memory goes into pipes without an agent; the target is never touched";
    let absent = "normal for a stock kernel: the agent does the same from inside the target";
    Capability::probed("process_vmsplice", &probe::native_vmsplice(), there, absent)
        .remedy("optional: a kernel that has the call (number 548)")
}

fn native_exec() -> Capability {
    let there = "guest code runs in another address space by one system call";
    let absent = "normal for a stock kernel; nothing in dump or splice needs it";
    Capability::probed("process_vm_exec", &probe::native_vm_exec(), there, absent)
        .remedy("optional: a kernel that has the call (number 549)")
}

/// What process_vmsplice and process_vm_exec are made of here.
fn backend() -> Capability {
    if let Err(reason) = backend::check() {
        return Capability::new("backend", false, "none", &reason).remedy("unset FARSPACE_BACKEND");
    }
    let meaning = match backend::forced() {
        backend::Forced::No => {
            "the best that the probes have found; FARSPACE_BACKEND=stock|native forces one"
        }
        _ => "FARSPACE_BACKEND asks for it",
    };
    Capability::new("backend", true, backend::name(), meaning)
}

fn io_uring() -> Capability {
    let meaning = "not used by farspace; a target that uses it does work in kernel threads of its own";
    match probe::io_uring() {
        Ok(()) => Capability::new("io_uring", true, "allowed", meaning),
        Err(errno) => Capability::new("io_uring", false, errno_name(errno), meaning),
    }
    .remedy(match read_setting("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("0") | None => "nothing to do; a seccomp filter or the kernel's configuration forbids it",
        Some(_) => "nothing to do; sysctl kernel.io_uring_disabled=0 would allow it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(parse("6.12.43+deb13-amd64"), Some((6, 12)));
        assert_eq!(parse("6.7-rc1"), Some((6, 7)));
        assert_eq!(parse("odd"), None);
    }
}
