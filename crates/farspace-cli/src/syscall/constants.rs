//! Constants of calls on memory, by the names that the manual gives them.

/// The value of a constant.
pub(super) fn find(name: &str) -> Option<u64> {
    all().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// A constant that may have been meant: without its last letters, or in capitals.
pub(super) fn similar(text: &str) -> Option<&'static str> {
    let wanted = text.to_ascii_uppercase();
    let mut names = all().map(|(name, _)| name);
    names.clone().find(|name| *name == wanted).or_else(|| {
        let off = |name: &str| name.bytes().zip(wanted.bytes()).filter(|(a, b)| a != b).count();
        names.find(|name| name.len().abs_diff(wanted.len()) <= 1 && wanted.len() > 4 && off(name) <= 2)
    })
}

fn all() -> impl Iterator<Item = (&'static str, u64)> + Clone {
    CONSTANTS.iter().chain(MORE).copied()
}

/// Those that libc lacks (include/uapi/linux/userfaultfd.h).
const MORE: &[(&str, u64)] = &[("UFFD_USER_MODE_ONLY", 1)];

macro_rules! constants {
    ($($name:ident)*) => {
        &[$((stringify!($name), libc::$name as u64)),*]
    };
}

/// Signed ones (AT_FDCWD) are extended to 64 bits.
const CONSTANTS: &[(&str, u64)] = constants! {
    // mmap(2), mprotect(2)
    PROT_NONE PROT_READ PROT_WRITE PROT_EXEC PROT_GROWSDOWN PROT_GROWSUP MAP_SHARED MAP_PRIVATE
    MAP_SHARED_VALIDATE MAP_FIXED MAP_ANONYMOUS MAP_ANON MAP_GROWSDOWN MAP_LOCKED MAP_NORESERVE
    MAP_POPULATE MAP_NONBLOCK MAP_STACK MAP_HUGETLB MAP_HUGE_2MB MAP_HUGE_1GB MAP_SYNC
    MAP_FIXED_NOREPLACE
    // mremap(2)
    MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP
    // madvise(2)
    MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_FREE MADV_REMOVE
    MADV_DONTFORK MADV_DOFORK MADV_HWPOISON MADV_MERGEABLE MADV_UNMERGEABLE MADV_SOFT_OFFLINE
    MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_COLLAPSE MADV_DONTDUMP MADV_DODUMP MADV_WIPEONFORK
    MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT MADV_POPULATE_READ MADV_POPULATE_WRITE
    // msync(2), mlock(2), mlockall(2)
    MS_ASYNC MS_SYNC MS_INVALIDATE MLOCK_ONFAULT MCL_CURRENT MCL_FUTURE MCL_ONFAULT
    // memfd_create(2)
    MFD_CLOEXEC MFD_ALLOW_SEALING MFD_HUGETLB MFD_NOEXEC_SEAL MFD_EXEC
    // open(2), openat(2)
    O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND O_NONBLOCK
    O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_PATH O_DIRECT O_TMPFILE AT_FDCWD AT_EMPTY_PATH
    AT_SYMLINK_NOFOLLOW
    // vmsplice(2)
    SPLICE_F_MOVE SPLICE_F_NONBLOCK SPLICE_F_MORE SPLICE_F_GIFT
    // preadv2(2)
    RWF_HIPRI RWF_DSYNC RWF_SYNC RWF_NOWAIT RWF_APPEND
    // lseek(2)
    SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE
    // prctl(2)
    PR_GET_DUMPABLE PR_SET_THP_DISABLE PR_GET_THP_DISABLE PR_SET_VMA PR_SET_VMA_ANON_NAME
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_kernels() {
        assert_eq!(find("MAP_ANONYMOUS"), Some(0x20));
        assert_eq!(find("AT_FDCWD"), Some(-100i64 as u64));
        assert_eq!(find("nonsense"), None);
        assert_eq!(similar("prot_read"), Some("PROT_READ"));
        assert_eq!(similar("x"), None);
    }
}
