//! Which system calls may be made in a target: the calls on memory of SPEC, syscall mode, and what they name.
//!
//! One table, for [`Target::syscall`](crate::Target::syscall) and everything built on it. Numbers are those of
//! x86-64 (arch/x86/entry/syscalls/syscall_64.tbl), arguments are counted from 0.

mod forbidden;

pub use forbidden::forbidden;

/// A call on memory that may be made.
#[derive(Debug)]
pub struct Call {
    /// Its number.
    pub nr: u64,
    /// Its name.
    pub name: &'static str,
    /// The argument that is a descriptor of the caller's.
    pub fd: Option<usize>,
    /// What it gives.
    pub gives: Gives,
    /// The memory that it maps, changes or writes to.
    pub(crate) touches: Touches,
}

/// What the result of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// A count, or 0.
    Number,
    /// An address of the target.
    Address,
    /// A new descriptor.
    Fd,
}

/// First address and length in bytes.
pub(crate) type Range = (u64, u64);

/// Memory that a call maps, changes or writes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touches {
    /// None that could be farspace's.
    Nothing,
    /// Ranges that the arguments name; an empty one stands for none.
    Ranges(fn(&[u64; 6]) -> [Range; 2]),
    /// The segments of the array at argument 1, as many as argument 2 says.
    Segments,
}

/// The call with this number, if it may be made.
pub fn find(nr: u64) -> Option<&'static Call> {
    ALLOWED.iter().find(|call| call.nr == nr)
}

/// Every call that may be made.
pub const ALLOWED: &[Call] = &[
    on_fd(libc::SYS_read, "read", BUFFER),
    on_fd(libc::SYS_write, "write", Touches::Nothing),
    on_fd(libc::SYS_pread64, "pread64", BUFFER),
    on_fd(libc::SYS_pwrite64, "pwrite64", Touches::Nothing),
    on_fd(libc::SYS_readv, "readv", Touches::Segments),
    on_fd(libc::SYS_writev, "writev", Touches::Nothing),
    on_fd(libc::SYS_preadv, "preadv", Touches::Segments),
    on_fd(libc::SYS_pwritev, "pwritev", Touches::Nothing),
    on_fd(libc::SYS_preadv2, "preadv2", Touches::Segments),
    on_fd(libc::SYS_pwritev2, "pwritev2", Touches::Nothing),
    // From a read end, vmsplice(2) copies into the segments.
    on_fd(libc::SYS_vmsplice, "vmsplice", Touches::Segments),
    Call {
        nr: libc::SYS_mmap as u64,
        name: "mmap",
        fd: Some(4),
        gives: Gives::Address,
        touches: Touches::Ranges(|args| [if_flag(args[3], libc::MAP_FIXED, (args[0], args[1])), NONE]),
    },
    Call {
        nr: libc::SYS_mremap as u64,
        name: "mremap",
        fd: None,
        gives: Gives::Address,
        // An old length of 0 duplicates a shared mapping; its first page counts.
        touches: Touches::Ranges(|args| {
            let new = if_flag(args[3], libc::MREMAP_FIXED, (args[4], args[2]));
            [(args[0], args[1].max(1)), new]
        }),
    },
    on_range(libc::SYS_mprotect, "mprotect", FIRST),
    on_range(libc::SYS_munmap, "munmap", FIRST),
    on_range(libc::SYS_madvise, "madvise", FIRST),
    on_range(libc::SYS_msync, "msync", Touches::Nothing),
    // One byte for each page.
    on_range(
        libc::SYS_mincore,
        "mincore",
        Touches::Ranges(|args| [(args[2], args[1].div_ceil(PAGE_BYTES)), NONE]),
    ),
    on_range(libc::SYS_mlock, "mlock", Touches::Nothing),
    on_range(libc::SYS_mlock2, "mlock2", Touches::Nothing),
    on_range(libc::SYS_munlock, "munlock", Touches::Nothing),
    on_range(libc::SYS_mlockall, "mlockall", Touches::Nothing),
    on_range(libc::SYS_munlockall, "munlockall", Touches::Nothing),
    Call {
        nr: libc::SYS_brk as u64,
        name: "brk",
        fd: None,
        gives: Gives::Address,
        touches: Touches::Nothing,
    },
    makes_fd(libc::SYS_memfd_create, "memfd_create"),
    makes_fd(libc::SYS_userfaultfd, "userfaultfd"),
];

const PAGE_BYTES: u64 = 4096;
const NONE: Range = (0, 0);
const FIRST: Touches = Touches::Ranges(|args| [(args[0], args[1]), NONE]);
const BUFFER: Touches = Touches::Ranges(|args| [(args[1], args[2]), NONE]);

const fn on_fd(nr: libc::c_long, name: &'static str, touches: Touches) -> Call {
    Call { nr: nr as u64, name, fd: Some(0), gives: Gives::Number, touches }
}

const fn on_range(nr: libc::c_long, name: &'static str, touches: Touches) -> Call {
    Call { nr: nr as u64, name, fd: None, gives: Gives::Number, touches }
}

const fn makes_fd(nr: libc::c_long, name: &'static str) -> Call {
    Call { nr: nr as u64, name, fd: None, gives: Gives::Fd, touches: Touches::Nothing }
}

fn if_flag(flags: u64, flag: i32, range: Range) -> Range {
    if flags & flag as u64 != 0 { range } else { NONE }
}

/// What a call outside of the table may touch: every argument could be an address, and a few calls name ranges.
pub(crate) fn unlisted_touches(nr: u64, args: &[u64; 6]) -> [Range; 6] {
    /// mseal(2), Linux 6.10.
    const SYS_MSEAL: libc::c_long = 462;
    let mut ranges = args.map(|address| (address, 1));
    if matches!(nr as libc::c_long, SYS_MSEAL | libc::SYS_pkey_mprotect | libc::SYS_remap_file_pages) {
        ranges[0].1 = args[1];
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_forbidden() {
        for call in ALLOWED {
            assert_eq!(forbidden(call.nr, &[0; 6]), None, "{}", call.name);
            assert_eq!(ALLOWED.iter().filter(|other| other.nr == call.nr).count(), 1, "{}", call.name);
        }
    }

    #[test]
    fn fixed_mappings_touch_their_place() {
        let touched = |nr: libc::c_long, args: [u64; 6]| match find(nr as u64).map(|call| call.touches) {
            Some(Touches::Ranges(ranges)) => ranges(&args),
            other => panic!("{other:?}"),
        };
        let fixed = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u64;
        assert_eq!(touched(libc::SYS_mmap, [0x1000, 0x2000, 0, fixed, 0, 0]), [(0x1000, 0x2000), NONE]);
        assert_eq!(touched(libc::SYS_mmap, [0x1000, 0x2000, 0, 2, 0, 0]), [NONE, NONE]);
        let moved = [0x1000, 0x1000, 0x2000, 3, 0x9000, 0];
        assert_eq!(touched(libc::SYS_mremap, moved), [(0x1000, 0x1000), (0x9000, 0x2000)]);
    }
}
