//! Processes that can't be targets.

use libtest_mimic::Failed;

/// The id of a process that was there and is gone.
pub(crate) fn ended_pid() -> Result<i32, Failed> {
    let child = farspace_victims::sys::fork(|| 0)?;
    farspace_victims::sys::wait_success(child)?;
    Ok(child)
}

/// A process whose PF_KTHREAD flag is set (the seventh field after the name, include/linux/sched.h).
pub(crate) fn kernel_thread() -> Option<i32> {
    const PF_KTHREAD: u32 = 0x0020_0000;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let flags: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
        (flags & PF_KTHREAD != 0).then(|| entry.file_name().to_string_lossy().parse().ok())?
    })
}
