//! What some cases need of the machine; a case without it is a visible skip.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
/// One region of 4 MiB, and its neighbour's reservation still being torn down.
const HUGEPAGES: u64 = 4;

/// A requirement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    Root,
    TransparentHugePages,
    HugetlbPages,
    SecretMemory,
    /// What only the system call itself can give.
    NativeBackend,
}

/// What this machine has. Dropping it gives back the huge pages that it reserved.
pub(crate) struct Needs {
    root: bool,
    thp: bool,
    hugetlb: bool,
    secretmem: bool,
}

/// What [`NR_HUGEPAGES`] was before more were reserved, plus one; 0 where nothing was.
static RESERVED_OVER: AtomicU64 = AtomicU64::new(0);

/// Gives back the reserved huge pages; also for a run that ends in the middle.
pub(crate) fn give_back() {
    let before = RESERVED_OVER.swap(0, Ordering::SeqCst);
    if before > 0 {
        let _ = fs::write(NR_HUGEPAGES, (before - 1).to_string());
    }
}

impl Needs {
    /// Looks at the machine; with `reserve`, asks the kernel for huge pages where there are none.
    pub(crate) fn probe(reserve: bool) -> Self {
        let thp = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if reserve {
            reserve_hugepages();
        }
        Self {
            root: rustix::process::geteuid().is_root(),
            thp: !thp.is_empty() && !thp.contains("[never]"),
            hugetlb: free_hugepages() >= HUGEPAGES / 2,
            secretmem: has_secretmem(),
        }
    }

    /// The running kernel's release.
    pub(crate) fn kernel(&self) -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    /// Why `need` is not met, or `None` if it is.
    pub(crate) fn missing(&self, need: Need, backend: &str) -> Option<&'static str> {
        let (met, reason) = match need {
            Need::Root => (self.root, "needs root"),
            Need::TransparentHugePages => (self.thp, "transparent huge pages are off"),
            Need::HugetlbPages => (self.hugetlb, "no hugetlb pages, and none could be reserved"),
            Need::SecretMemory => (self.secretmem, "this kernel has no memfd_secret"),
            Need::NativeBackend => (
                backend == "native",
                "[N] a stock kernel can't guarantee it: a fork in the target may part the page",
            ),
        };
        (!met).then_some(reason)
    }
}

impl Drop for Needs {
    fn drop(&mut self) {
        give_back();
    }
}

fn free_hugepages() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Reserves huge pages where too few are free, if that is allowed.
fn reserve_hugepages() {
    if free_hugepages() >= HUGEPAGES / 2 {
        return;
    }
    let Ok(Ok(before)) = fs::read_to_string(NR_HUGEPAGES).map(|n| n.trim().parse::<u64>()) else { return };
    if fs::write(NR_HUGEPAGES, (before + HUGEPAGES).to_string()).is_ok() {
        RESERVED_OVER.store(before + 1, Ordering::SeqCst);
    }
}

fn has_secretmem() -> bool {
    // SAFETY: no memory is involved; a descriptor that comes back is closed at once.
    unsafe {
        let fd = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
        fd >= 0 && libc::close(fd as i32) == 0
    }
}
