//! Which mappings can be watched.

use farspace_sys::process::{ANON_HUGEPAGE, Mapping};

/// What watching a mapping can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every page: private memory without a file.
    Full,
    /// The pages that the target has written to: a private mapping of a file. The others are the file's, which anybody may
    /// change.
    OwnPages,
    /// Nothing, and why.
    None(&'static str),
}

/// What watching this mapping can tell.
pub fn coverage(mapping: &Mapping) -> Coverage {
    if mapping.permissions[3] != b'p' {
        return Coverage::None("shared: others can write to it");
    }
    match mapping.name.as_slice() {
        name if name.starts_with(b"[v") => Coverage::None("the kernel's"),
        // The kernel's marks of its pages can't be told from others.
        name if name.starts_with(ANON_HUGEPAGE) => {
            Coverage::None("can't be watched: from a pool of huge pages")
        }
        name if mapping.inode != 0 || name.starts_with(b"/") => Coverage::OwnPages,
        _ => Coverage::Full,
    }
}

#[cfg(test)]
mod tests {
    use farspace_sys::RemoteAddr;

    use super::*;

    #[test]
    fn by_kind() {
        let of = |permissions: &[u8; 4], inode, name: &[u8]| {
            let (start, end) = (RemoteAddr(0x1000), RemoteAddr(0x2000));
            coverage(&Mapping {
                start,
                end,
                permissions: *permissions,
                offset: 0,
                device: (0, 0),
                inode,
                name: name.to_vec(),
            })
        };
        assert_eq!(of(b"rw-p", 0, b"[heap]"), Coverage::Full);
        assert_eq!(of(b"---p", 0, b""), Coverage::Full);
        assert_eq!(of(b"rw-p", 7, b"/usr/lib/libc.so.6"), Coverage::OwnPages);
        assert!(matches!(of(b"rw-p", 7, b"/anon_hugepage (deleted)"), Coverage::None(_)));
        assert!(matches!(of(b"rw-s", 7, b"/dev/zero (deleted)"), Coverage::None(_)));
        assert!(matches!(of(b"r-xp", 0, b"[vdso]"), Coverage::None(_)));
    }
}
