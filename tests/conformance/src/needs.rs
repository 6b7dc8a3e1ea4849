//! What some cases need of the machine; a case without it is a visible skip.

use crate::exec;
use core::arch::asm;
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
    /// The state that signal frames have: x87, SSE, and an extended area.
    Xsave,
    Avx,
    Avx512,
    /// PKRU (pkeys(7)).
    ProtectionKeys,
    /// wrfsbase and its relatives.
    BaseInstructions,
    /// The 32-bit system calls.
    Int80,
    /// Restartable sequences (rseq).
    Rseq,
    Userfaultfd,
    /// What only the system call itself can give; why a stock kernel can't (SPEC, section 3).
    NativeBackend(&'static str),
}

/// What this machine has. Dropping it gives back the huge pages that it reserved.
pub(crate) struct Needs {
    root: bool,
    thp: bool,
    hugetlb: bool,
    secretmem: bool,
    /// Components of the vector state.
    vectors: u64,
    pkru: bool,
    base_instructions: bool,
    int80: bool,
    rseq: bool,
    userfaultfd: bool,
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
            vectors: exec::enabled_vector_state(),
            pkru: exec::has_pkru(),
            base_instructions: has_base_instructions(),
            int80: has_int80(),
            rseq: has_rseq(),
            userfaultfd: has_userfaultfd(),
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
            Need::Xsave => (self.vectors != 0, "this processor has no XSAVE"),
            Need::Avx => (self.vectors & 4 != 0, "this processor has no AVX"),
            Need::Avx512 => (self.vectors & 0xe0 == 0xe0, "this processor has no AVX-512"),
            Need::ProtectionKeys => (self.pkru, "this processor has no protection keys"),
            Need::BaseInstructions => (self.base_instructions, "no wrfsbase for user space"),
            Need::Int80 => (self.int80, "this kernel has no 32-bit system calls"),
            Need::Rseq => (self.rseq, "this kernel has no rseq"),
            Need::Userfaultfd => (self.userfaultfd, "no userfaultfd for this user"),
            Need::NativeBackend(why_not_stock) => (backend == "native", why_not_stock),
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

/// HWCAP2_FSGSBASE (arch/x86/include/uapi/asm/hwcap2.h).
fn has_base_instructions() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// Without the 32-bit entry, int 0x80 is a fault: a child tries.
fn has_int80() -> bool {
    // SAFETY: the child makes one system call, getpid of the 32-bit table, and leaves; a fault ends it quietly.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &no_core);
            let pid: u64;
            asm!("int 0x80", inout("rax") 20_u64 => pid, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            libc::_exit(i32::from(pid as i32 != libc::getpid()));
        }
        let mut status = -1;
        child > 0 && libc::waitpid(child, &mut status, 0) == child && status == 0
    }
}

fn has_rseq() -> bool {
    // SAFETY: an area of no length is refused before it is looked at.
    let result = unsafe { libc::syscall(libc::SYS_rseq, 0, 0, 0, 0) };
    result == -1 && std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

fn has_userfaultfd() -> bool {
    // SAFETY: no memory is involved; a descriptor that comes back is closed at once.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        fd >= 0 && libc::close(fd as i32) == 0
    }
}
