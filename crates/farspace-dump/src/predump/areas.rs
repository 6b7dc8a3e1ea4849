//! Which memory of a process its image has, by CRIU's rules (criu/proc_parse.c and criu/mem.c of CRIU 3.17.1).

use std::ops::Range;

use farspace::Target;
use farspace_sys::process::{self, Mapping};

use crate::Result;

/// First address beyond those of programs (arch/x86, TASK_SIZE_MAX with four levels).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// What a mapping is to a pre-dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Private memory without a file: each page that is there.
    Anonymous {
        /// A restore may fetch its pages when they are first used.
        lazy: bool,
    },
    /// Private memory of a file: pages that aren't the file's any more.
    PrivateFile,
    /// The vDSO: all of it, for a restore compares it with the new kernel's.
    Vdso,
    /// A mapping of memory that is shared without a file, by the inode of the object.
    Shared {
        /// Inode number.
        inode: u64,
    },
    /// Private huge pages of hugetlbfs. No kernel tells which of them were written, and `criu dump` takes them for
    /// unwritten; so a chain must not have them, and CRIU then says so instead of restoring old contents.
    Untracked,
    /// What a full dump alone has, or nobody: files, memfds, System V shared memory, devices, rings, \[vvar\].
    Nothing,
}

/// One mapping and what it is.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) mapping: Mapping,
    pub(super) kind: Kind,
}

/// The mappings of a target, without those of the visit, in order of address.
pub(super) fn read(target: &Target) -> Result<Vec<Area>> {
    let pid = target.pid();
    let maps = process::mappings(pid)?;
    Ok(maps.into_iter().filter(|map| !target.owns(map)).map(|map| Area::new(pid, map)).collect())
}

/// Those whose pages can be there or not: private memory.
pub(super) fn with_pages(areas: &[Area]) -> Vec<Mapping> {
    let has_pages = |area: &&Area| matches!(area.kind, Kind::Anonymous { .. } | Kind::PrivateFile);
    areas.iter().filter(has_pages).map(|area| area.mapping.clone()).collect()
}

impl Area {
    /// Classifies a mapping of a process.
    pub(super) fn new(pid: i32, mapping: Mapping) -> Self {
        let kind = kind(pid, &mapping);
        Self { mapping, kind }
    }

    /// The addresses.
    pub(super) fn range(&self) -> Range<u64> {
        self.mapping.start.0..self.mapping.end.0
    }
}

fn kind(pid: i32, mapping: &Mapping) -> Kind {
    let name = mapping.name.as_slice();
    if mapping.start.0 >= TASK_SIZE || name.starts_with(b"[vvar") || name.starts_with(b"/[aio]") {
        return Kind::Nothing;
    }
    if mapping.permissions[3] == b's' {
        let is_shared = name == b"/dev/zero (deleted)";
        return if is_shared { Kind::Shared { inode: mapping.inode } } else { Kind::Nothing };
    }
    match name {
        b"[vdso]" => Kind::Vdso,
        b"[stack]" => Kind::Anonymous { lazy: false },
        _ if process::is_hugetlb(pid, mapping) => Kind::Untracked,
        _ if mapping.inode == 0 => Kind::Anonymous { lazy: true },
        _ => Kind::PrivateFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farspace_sys::RemoteAddr;

    fn mapping(permissions: &[u8; 4], inode: u64, name: &str) -> Mapping {
        Mapping {
            start: RemoteAddr(0x1000),
            end: RemoteAddr(0x3000),
            permissions: *permissions,
            offset: 0,
            device: (0, 0),
            inode,
            name: name.as_bytes().to_vec(),
        }
    }

    #[test]
    fn mappings_are_classified_as_criu_does() {
        let of =
            |permissions, inode, name| kind(std::process::id() as i32, &mapping(permissions, inode, name));
        assert_eq!(of(b"rw-p", 0, ""), Kind::Anonymous { lazy: true });
        assert_eq!(of(b"rw-p", 0, "[heap]"), Kind::Anonymous { lazy: true });
        assert_eq!(of(b"rw-p", 0, "[stack]"), Kind::Anonymous { lazy: false });
        assert_eq!(of(b"r-xp", 5, "/usr/bin/x"), Kind::PrivateFile);
        assert_eq!(of(b"r-xp", 0, "[vdso]"), Kind::Vdso);
        assert_eq!(of(b"rw-s", 7, "/dev/zero (deleted)"), Kind::Shared { inode: 7 });
        assert_eq!(of(b"rw-p", 7, "/anon_hugepage (deleted)"), Kind::Untracked);
        for (permissions, name) in [
            (b"r--p", "[vvar]"),
            (b"r--p", "[vvar_vclock]"),
            (b"rw-s", "/tmp/file"),
            (b"rw-s", "/memfd:x (deleted)"),
            (b"rw-s", "/SYSV00000000 (deleted)"),
            (b"rw-s", "/[aio] (deleted)"),
        ] {
            assert_eq!(of(permissions, 3, name), Kind::Nothing, "{name}");
        }
        let vsyscall =
            Mapping { start: RemoteAddr(0xffff_ffff_ff60_0000), ..mapping(b"--xp", 0, "[vsyscall]") };
        assert_eq!(kind(1, &vsyscall), Kind::Nothing);
    }
}
