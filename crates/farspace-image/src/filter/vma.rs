//! A mapping, as far as the choice of what to dump depends on it.

use bitflags::bitflags;

bitflags! {
    /// The kernel's flags of a mapping that matter here (`VmFlags:` of `/proc/PID/smaps`, proc_pid_smaps(5)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct VmFlags: u32 {
        /// `rd`: readable.
        const READ = 1 << 0;
        /// `sh`: shared. Not the `s` of `/proc/PID/maps`, which stands also for a shared mapping of a file that
        /// was opened for reading only; the kernel treats that one as private.
        const SHARED = 1 << 1;
        /// `ht`: hugetlb pages.
        const HUGETLB = 1 << 2;
        /// `dd`: not to be dumped (madvise(2), MADV_DONTDUMP).
        const DONTDUMP = 1 << 3;
        /// `io`: memory-mapped I/O.
        const IO = 1 << 4;
        /// `pf`: bare page frames, without pages that another process can reach.
        const PFNMAP = 1 << 5;
    }
}

impl VmFlags {
    /// Reads the two-letter codes of a `VmFlags:` line, with or without that label; others are skipped.
    pub fn from_smaps(line: &str) -> Self {
        line.split_ascii_whitespace().fold(Self::empty(), |flags, code| {
            flags
                | match code {
                    "rd" => Self::READ,
                    "sh" => Self::SHARED,
                    "ht" => Self::HUGETLB,
                    "dd" => Self::DONTDUMP,
                    "io" => Self::IO,
                    "pf" => Self::PFNMAP,
                    _ => Self::empty(),
                }
        })
    }
}

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// No file: heap, stack, MAP_ANONYMOUS | MAP_PRIVATE.
    Anonymous,
    /// The kernel itself: `[vdso]`, `[vvar]`, `[vsyscall]`.
    Special,
    /// A file, or shared memory, which is a file without a name to the kernel.
    File {
        /// Whether the file has no name left (`i_nlink` is 0): deleted, memfd, SysV, MAP_ANONYMOUS | MAP_SHARED.
        is_unlinked: bool,
        /// Where in the file the mapping begins, in bytes.
        offset: u64,
        /// Whether the mapped bytes begin with the ELF magic; looked at for a readable mapping of offset 0 only. The
        /// kernel is content with an execute permission of the file, which a memfd has too.
        is_program: bool,
    },
}

impl Backing {
    /// Classifies a line of `/proc/PID/maps` by its pathname and inode; `offset` is in bytes.
    ///
    /// `is_program` is not known from the line and given as true; a caller that cares looks at the first bytes.
    pub fn from_maps(path: &[u8], inode: u64, offset: u64) -> Self {
        const SPECIAL: [&[u8]; 5] = [b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]", b"[uprobes]"];
        if SPECIAL.contains(&path) && inode == 0 {
            return Self::Special;
        }
        // Without a file the kernel prints inode 0, and nothing or a name in brackets.
        if inode == 0 && (path.is_empty() || path.starts_with(b"[")) {
            return Self::Anonymous;
        }
        // Shared memory can be named by prctl(PR_SET_VMA_ANON_NAME), which hides its "/dev/zero (deleted)".
        let is_unlinked = path.ends_with(b" (deleted)") || path.starts_with(b"[anon_shmem:");
        Self::File { is_unlinked, offset, is_program: true }
    }
}

/// A mapping, as far as the choice of what to dump depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vma {
    /// What is behind it.
    pub backing: Backing,
    /// The kernel's flags.
    pub flags: VmFlags,
    /// Whether it has pages of its own, which the target wrote: in smaps, `Anonymous:` or `Swap:` is above 0.
    ///
    /// This stands for the kernel's `vma->anon_vma`, which is also set for some mappings that hold nothing but
    /// zeros. Give true if it isn't known.
    pub is_written: bool,
    /// Whether it maps persistent memory directly; smaps doesn't say, false is a safe answer.
    pub is_dax: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_from_smaps() {
        let flags = VmFlags::from_smaps("VmFlags: rd wr sh mr mw me ms ht dd sd");
        assert_eq!(flags, VmFlags::READ | VmFlags::SHARED | VmFlags::HUGETLB | VmFlags::DONTDUMP);
        assert_eq!(VmFlags::from_smaps("io pf"), VmFlags::IO | VmFlags::PFNMAP);
        assert_eq!(VmFlags::from_smaps(""), VmFlags::empty());
    }

    #[test]
    fn lines_of_maps_are_classified() {
        let file = |is_unlinked| Backing::File { is_unlinked, offset: 4096, is_program: true };
        let of = |path: &[u8], inode| Backing::from_maps(path, inode, 4096);
        assert_eq!(of(b"", 0), Backing::Anonymous);
        assert_eq!(of(b"[heap]", 0), Backing::Anonymous);
        assert_eq!(of(b"[stack]", 0), Backing::Anonymous);
        assert_eq!(of(b"[anon:arena]", 0), Backing::Anonymous);
        assert_eq!(of(b"[vdso]", 0), Backing::Special);
        assert_eq!(of(b"[vvar_vclock]", 0), Backing::Special);
        assert_eq!(of(b"[vsyscall]", 0), Backing::Special);
        assert_eq!(of(b"/lib/libc.so.6", 77), file(false));
        assert_eq!(of(b"/memfd:x (deleted)", 3), file(true));
        assert_eq!(of(b"/SYSV00000000 (deleted)", 0), file(true));
        assert_eq!(of(b"[anon_shmem:x]", 5), file(true));
        assert_eq!(of(b"anon_inode:[perf_event]", 1), file(false));
    }
}
