//! Pipes and pages: what makes a transfer zero-copy, and how large it can be.

use farspace::probe;
use rustix::pipe::fcntl_setpipe_size;
use rustix::thread::CapabilitySet;

use super::tracing::has_capability;
use super::{Capability, Found, errno_name, read_setting};
use crate::units;

pub(super) fn probe() -> Vec<Capability> {
    vec![vmsplice(), pipe_size(), pipe_pages(), secretmem(), huge_pages(), hugetlb()]
}

fn vmsplice() -> Capability {
    let name = "vmsplice-zero-copy";
    match probe::vmsplice_is_zero_copy() {
        Ok(true) => Capability::new(name, true, "maps pages", "transfers through the agent copy nothing"),
        Ok(false) => {
            Capability::new(name, false, "copies", "transfers through the agent copy once; results say so")
                .remedy("a kernel whose vmsplice maps pages, or one with process_vmsplice")
        }
        Err(errno) => Capability::new(name, false, errno_name(errno), "transfers copy through /proc/PID/mem")
            .remedy("allow vmsplice in the seccomp filter of your container"),
    }
}

/// Tries a pipe above the limit that only CAP_SYS_RESOURCE may pass.
fn pipe_size() -> Capability {
    let name = "pipe-size";
    let limit =
        read_setting("/proc/sys/fs/pipe-max-size").and_then(|s| s.parse::<usize>().ok()).unwrap_or(1 << 20);
    let shown = units::size(limit as u64);
    let Ok((_reader, writer)) = rustix::pipe::pipe() else {
        return Capability::new(name, false, "no pipe", "no pipe can be opened").remedy("raise ulimit -n");
    };
    let beyond =
        has_capability(CapabilitySet::SYS_RESOURCE) && fcntl_setpipe_size(&writer, limit * 2).is_ok();
    if beyond {
        return Capability::new(name, true, "no limit", "pipes can be as large as measurement says is best");
    }
    match fcntl_setpipe_size(&writer, limit) {
        Ok(_) if limit >= 1 << 20 => Capability::new(name, true, format!("up to {shown}"), "large enough"),
        Ok(_) => {
            Capability::new(name, Found::Partly, format!("up to {shown}"), "more wake-ups for each transfer")
                .remedy("sysctl fs.pipe-max-size=1048576, or CAP_SYS_RESOURCE")
        }
        Err(errno) => {
            Capability::new(name, Found::Partly, errno_name(errno), "pipes stay at 64 KiB: slow transfers")
                .remedy("close pipes of this user, raise fs.pipe-user-pages-soft, or CAP_SYS_RESOURCE")
        }
    }
}

fn pipe_pages() -> Capability {
    let name = "pipe-user-pages";
    let soft =
        read_setting("/proc/sys/fs/pipe-user-pages-soft").and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
    let exempt = has_capability(CapabilitySet::SYS_RESOURCE) || has_capability(CapabilitySet::SYS_ADMIN);
    if exempt || soft == 0 {
        return Capability::new(name, true, "no limit", "any number of pipes keeps its full size");
    }
    let detail = format!("{} per user", units::size(soft * 4096));
    Capability::new(name, Found::Partly, detail, "beyond this, new pipes of this user shrink to two pages")
        .remedy("sysctl fs.pipe-user-pages-soft=0, or CAP_SYS_RESOURCE")
}

fn secretmem() -> Capability {
    let name = "secretmem";
    match probe::secretmem() {
        Ok(()) => Capability::new(
            name,
            true,
            "in the kernel",
            "a target's memfd_secret pages can't be read by anyone; a hole",
        ),
        Err(errno) => {
            Capability::new(name, false, errno_name(errno), "no target can hide memory by memfd_secret")
        }
    }
}

fn huge_pages() -> Capability {
    let name = "transparent-huge-pages";
    let Some(setting) = read_setting("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return Capability::new(name, false, "not in the kernel", "every page is 4 KiB: slower snapshots")
            .remedy("a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
    };
    let mode = setting.split('[').nth(1).and_then(|s| s.split(']').next()).unwrap_or("unknown").to_owned();
    match mode.as_str() {
        "always" => Capability::new(name, true, mode, "large targets fork and splice fastest"),
        "madvise" => {
            Capability::new(name, Found::Partly, mode, "only targets that ask for them have them: madvise(2)")
                .remedy("echo always > /sys/kernel/mm/transparent_hugepage/enabled, if that suits the target")
        }
        _ => Capability::new(name, false, mode, "every page is 4 KiB: snapshots stop the target longer")
            .remedy("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    }
}

fn hugetlb() -> Capability {
    let name = "hugetlb-pages";
    let mut pools = Vec::new();
    let mut total = 0;
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        let count = count.trim().parse::<u64>().unwrap_or(0);
        let size = entry.file_name().to_string_lossy().replace("hugepages-", "");
        total += count;
        pools.push(format!("{count} x {size}"));
    }
    pools.sort();
    if pools.is_empty() {
        return Capability::new(name, false, "not in the kernel", "no target has hugetlb memory");
    }
    let meaning = if total > 0 {
        "targets may have hugetlb memory; it is dumped"
    } else {
        "none reserved: no target has any"
    };
    Capability::new(name, total > 0, pools.join(", "), meaning)
        .remedy("only if a program wants them: sysctl vm.nr_hugepages=N")
}
