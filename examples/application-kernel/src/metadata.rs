//! Attributes of files.

use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, Uid};
use rustix::io::Errno;

use crate::files::HERE;
use crate::kernel::{Answer, Call, Kernel, Stop};
use crate::layout;
use crate::paths::descriptor;

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_stat, |kernel, &[name, at, ..]| stat(kernel, HERE, name, at, 0)),
    (libc::SYS_lstat, |kernel, &[name, at, ..]| stat(kernel, HERE, name, at, NOFOLLOW)),
    (libc::SYS_newfstatat, |kernel, &[from, name, at, flags, ..]| stat(kernel, from, name, at, flags)),
    (libc::SYS_fstat, |kernel, &[fd, at, ..]| {
        let stat = rustix::fs::fstat(&kernel.files.get(fd)?.host)?;
        kernel.memory.write(at, &layout::stat(&stat))?;
        Ok(0)
    }),
    (libc::SYS_statx, statx),
    (libc::SYS_access, |kernel, &[name, mode, ..]| access(kernel, HERE, name, mode)),
    (libc::SYS_faccessat, |kernel, &[at, name, mode, ..]| access(kernel, at, name, mode)),
    (libc::SYS_faccessat2, |kernel, &[at, name, mode, ..]| access(kernel, at, name, mode)),
    (libc::SYS_chmod, |kernel, &[name, mode, ..]| chmod(kernel, HERE, name, mode)),
    (libc::SYS_fchmodat, |kernel, &[at, name, mode, ..]| chmod(kernel, at, name, mode)),
    (libc::SYS_fchmod, |kernel, &[fd, mode, ..]| {
        rustix::fs::fchmod(&kernel.files.get(fd)?.host, Mode::from_raw_mode(mode as u32))?;
        Ok(0)
    }),
    (libc::SYS_chown, |kernel, &[name, uid, gid, ..]| chown(kernel, HERE, name, uid, gid, 0)),
    (libc::SYS_lchown, |kernel, &[name, uid, gid, ..]| chown(kernel, HERE, name, uid, gid, NOFOLLOW)),
    (libc::SYS_fchownat, |kernel, &[at, name, uid, gid, flags, _]| chown(kernel, at, name, uid, gid, flags)),
    (libc::SYS_fchown, |kernel, &[fd, uid, gid, ..]| {
        rustix::fs::fchown(
            &kernel.files.get(fd)?.host,
            id(uid).map(Uid::from_raw),
            id(gid).map(Gid::from_raw),
        )?;
        Ok(0)
    }),
    (libc::SYS_utimensat, utimensat),
    (libc::SYS_statfs, |kernel, &[name, at, ..]| {
        let file = kernel.find(HERE, name, OFlags::empty())?;
        kernel.memory.write(at, &layout::statfs(&rustix::fs::fstatfs(&file)?))?;
        Ok(0)
    }),
    (libc::SYS_fstatfs, |kernel, &[fd, at, ..]| {
        let statfs = rustix::fs::fstatfs(&kernel.files.get(fd)?.host)?;
        kernel.memory.write(at, &layout::statfs(&statfs))?;
        Ok(0)
    }),
    (libc::SYS_getxattr, no_attributes),
    (libc::SYS_lgetxattr, no_attributes),
    (libc::SYS_fgetxattr, no_attributes),
    (libc::SYS_listxattr, no_attributes),
    (libc::SYS_llistxattr, no_attributes),
    (libc::SYS_flistxattr, no_attributes),
    (libc::SYS_truncate, |kernel, &[name, len, ..]| {
        let path = kernel.path(HERE, name)?;
        rustix::fs::ftruncate(&kernel.paths.open(&path, OFlags::WRONLY, Mode::empty())?, len)?;
        Ok(0)
    }),
    (libc::SYS_umask, |_, args| {
        Ok(rustix::process::umask(Mode::from_raw_mode(args[0] as u32)).bits().into())
    }),
];

const NOFOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;

/// The file that a directory's descriptor, a name and flags stand for.
fn subject(kernel: &mut Kernel, at: u64, name: u64, flags: u64) -> Result<OwnedFd, Stop> {
    if flags & EMPTY_PATH != 0 && kernel.name(name)?.is_empty() && at as i32 != libc::AT_FDCWD {
        return Ok(rustix::io::fcntl_dupfd_cloexec(&kernel.files.get(at)?.host, 3)?);
    }
    let follow = if flags & NOFOLLOW != 0 { OFlags::NOFOLLOW } else { OFlags::empty() };
    kernel.find(at, name, follow)
}

fn stat(kernel: &mut Kernel, from: u64, name: u64, at: u64, flags: u64) -> Answer {
    let stat = rustix::fs::fstat(subject(kernel, from, name, flags)?)?;
    kernel.memory.write(at, &layout::stat(&stat))?;
    Ok(0)
}

fn statx(kernel: &mut Kernel, &[from, name, flags, mask, at, _]: &[u64; 6]) -> Answer {
    let file = subject(kernel, from, name, flags)?;
    let mask = StatxFlags::from_bits_truncate(mask as u32);
    let statx = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, mask)?;
    kernel.memory.write(at, &layout::statx(&statx))?;
    Ok(0)
}

fn access(kernel: &mut Kernel, at: u64, name: u64, mode: u64) -> Answer {
    let file = kernel.find(at, name, OFlags::empty())?;
    let mode = Access::from_bits(mode as u32).ok_or(Errno::INVAL)?;
    rustix::fs::access(descriptor(&file), mode)?;
    Ok(0)
}

fn chmod(kernel: &mut Kernel, at: u64, name: u64, mode: u64) -> Answer {
    let file = kernel.find(at, name, OFlags::empty())?;
    rustix::fs::chmod(descriptor(&file), Mode::from_raw_mode(mode as u32))?;
    Ok(0)
}

/// As on a file system that has no extended attributes (xattr(7)).
fn no_attributes(_: &mut Kernel, _: &[u64; 6]) -> Answer {
    Err(Errno::OPNOTSUPP.into())
}

/// -1 leaves an id as it is.
fn id(value: u64) -> Option<u32> {
    Some(value as u32).filter(|id| *id != u32::MAX)
}

fn chown(kernel: &mut Kernel, at: u64, name: u64, uid: u64, gid: u64, flags: u64) -> Answer {
    let file = subject(kernel, at, name, flags)?;
    let (uid, gid) = (id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw));
    rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
    Ok(0)
}

/// Two `struct timespec`s, or none for now; without a name, those of the descriptor.
fn utimensat(kernel: &mut Kernel, &[at, name, times, flags, ..]: &[u64; 6]) -> Answer {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let mut stamps = Timestamps { last_access: now, last_modification: now };
    if times != 0 {
        let mut bytes = [0; 32];
        kernel.memory.read(times, &mut bytes)?;
        stamps.last_access = layout::timespec(&bytes[..16]);
        stamps.last_modification = layout::timespec(&bytes[16..]);
    }
    if name == 0 {
        rustix::fs::futimens(&kernel.files.get(at)?.host, &stamps)?;
    } else {
        let file = subject(kernel, at, name, flags)?;
        rustix::fs::utimensat(&file, "", &stamps, AtFlags::EMPTY_PATH)?;
    }
    Ok(0)
}
