//! Directories: what is in them, and changes to that.

use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use crate::files::HERE;
use crate::kernel::{Answer, Call, Kernel};
use crate::layout::Bytes;

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_getdents64, getdents64),
    (libc::SYS_getcwd, getcwd),
    (libc::SYS_chdir, |kernel, args| {
        let directory = kernel.find(HERE, args[0], OFlags::DIRECTORY)?;
        kernel.paths.cwd = kernel.paths.name_of(&directory)?;
        Ok(0)
    }),
    (libc::SYS_fchdir, |kernel, args| {
        let file = kernel.files.get(args[0])?;
        if !FileType::from_raw_mode(rustix::fs::fstat(&file.host)?.st_mode).is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        kernel.paths.cwd = kernel.paths.name_of(&file.host)?;
        Ok(0)
    }),
    (libc::SYS_mkdir, |kernel, &[name, mode, ..]| mkdir(kernel, HERE, name, mode)),
    (libc::SYS_mkdirat, |kernel, &[at, name, mode, ..]| mkdir(kernel, at, name, mode)),
    (libc::SYS_mknod, |kernel, &[name, mode, device, ..]| mknod(kernel, HERE, name, mode, device)),
    (libc::SYS_mknodat, |kernel, &[at, name, mode, device, ..]| mknod(kernel, at, name, mode, device)),
    (libc::SYS_rmdir, |kernel, args| unlink(kernel, HERE, args[0], AtFlags::REMOVEDIR)),
    (libc::SYS_unlink, |kernel, args| unlink(kernel, HERE, args[0], AtFlags::empty())),
    (libc::SYS_unlinkat, |kernel, &[at, name, flags, ..]| {
        unlink(kernel, at, name, AtFlags::from_bits_truncate(flags as u32))
    }),
    (libc::SYS_rename, |kernel, &[old, new, ..]| rename(kernel, (HERE, old), (HERE, new), 0)),
    (libc::SYS_renameat, |kernel, &[at, old, to, new, ..]| rename(kernel, (at, old), (to, new), 0)),
    (libc::SYS_renameat2, |kernel, &[at, old, to, new, flags, _]| {
        rename(kernel, (at, old), (to, new), flags)
    }),
    (libc::SYS_link, |kernel, &[old, new, ..]| link(kernel, (HERE, old), (HERE, new))),
    (libc::SYS_linkat, |kernel, &[at, old, to, new, ..]| link(kernel, (at, old), (to, new))),
    (libc::SYS_symlink, |kernel, &[target, new, ..]| symlink(kernel, target, HERE, new)),
    (libc::SYS_symlinkat, |kernel, &[target, to, new, ..]| symlink(kernel, target, to, new)),
    (libc::SYS_readlink, |kernel, &[name, buffer, len, ..]| readlink(kernel, HERE, name, buffer, len)),
    (libc::SYS_readlinkat, |kernel, &[at, name, buffer, len, ..]| readlink(kernel, at, name, buffer, len)),
];

/// A directory's descriptor and a name.
type Place = (u64, u64);

/// `struct linux_dirent64` (getdents(2)). What the host read into a buffer of the guest's size fits that again.
fn getdents64(kernel: &mut Kernel, &[fd, at, len, ..]: &[u64; 6]) -> Answer {
    let file = kernel.files.get(fd)?;
    let mut buffer = Vec::with_capacity(len.min(1 << 20) as usize);
    let mut entries = RawDir::new(&file.host, buffer.spare_capacity_mut());
    let mut bytes = Bytes::default();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let start = bytes.0.len();
        let name = entry.file_name().to_bytes_with_nul();
        let len = (19 + name.len()).next_multiple_of(8);
        bytes.u64(entry.ino());
        bytes.u64(entry.next_entry_cookie());
        bytes.u16(len as u16);
        // DT_*: the type's bits of a mode, twelve lower.
        bytes.0.push((entry.file_type().as_raw_mode() >> 12) as u8);
        bytes.0.extend(name);
        bytes.0.resize(start + len, 0);
        if entries.is_buffer_empty() {
            break;
        }
    }
    kernel.memory.write(at, &bytes.0)?;
    Ok(bytes.0.len() as u64)
}

fn getcwd(kernel: &mut Kernel, &[at, len, ..]: &[u64; 6]) -> Answer {
    let mut name = kernel.paths.cwd.as_bytes().to_vec();
    name.push(0);
    if name.len() as u64 > len {
        return Err(Errno::RANGE.into());
    }
    kernel.memory.write(at, &name)?;
    Ok(name.len() as u64)
}

fn mkdir(kernel: &mut Kernel, at: u64, name: u64, mode: u64) -> Answer {
    let entry = kernel.entry(at, name)?;
    rustix::fs::mkdirat(&entry.parent, &entry.name, Mode::from_raw_mode(mode as u32))?;
    Ok(0)
}

fn mknod(kernel: &mut Kernel, at: u64, name: u64, mode: u64, device: u64) -> Answer {
    let entry = kernel.entry(at, name)?;
    let mode = mode as u32;
    // No device of the host's.
    let kind = match FileType::from_raw_mode(mode) {
        FileType::BlockDevice | FileType::CharacterDevice => return Err(Errno::PERM.into()),
        _ if mode & libc::S_IFMT == 0 => FileType::RegularFile,
        kind => kind,
    };
    rustix::fs::mknodat(&entry.parent, &entry.name, kind, Mode::from_raw_mode(mode), device)?;
    Ok(0)
}

fn unlink(kernel: &mut Kernel, at: u64, name: u64, flags: AtFlags) -> Answer {
    let entry = kernel.entry(at, name)?;
    rustix::fs::unlinkat(&entry.parent, &entry.name, flags)?;
    Ok(0)
}

fn rename(kernel: &mut Kernel, old: Place, new: Place, flags: u64) -> Answer {
    let (old, new) = (kernel.entry(old.0, old.1)?, kernel.entry(new.0, new.1)?);
    let flags = RenameFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    rustix::fs::renameat_with(&old.parent, &old.name, &new.parent, &new.name, flags)?;
    Ok(0)
}

fn link(kernel: &mut Kernel, old: Place, new: Place) -> Answer {
    let (old, new) = (kernel.entry(old.0, old.1)?, kernel.entry(new.0, new.1)?);
    rustix::fs::linkat(&old.parent, &old.name, &new.parent, &new.name, AtFlags::empty())?;
    Ok(0)
}

fn symlink(kernel: &mut Kernel, target: u64, to: u64, name: u64) -> Answer {
    let (target, entry) = (kernel.name(target)?, kernel.entry(to, name)?);
    rustix::fs::symlinkat(&target, &entry.parent, &entry.name)?;
    Ok(0)
}

fn readlink(kernel: &mut Kernel, at: u64, name: u64, buffer: u64, len: u64) -> Answer {
    let target = if kernel.path(at, name)? == "/proc/self/exe" {
        kernel.paths.program.as_bytes().to_vec()
    } else {
        let link = kernel.find(at, name, OFlags::NOFOLLOW)?;
        rustix::fs::readlinkat(&link, "", Vec::new()).map_err(not_a_link)?.into_bytes()
    };
    let len = target.len().min(len as usize);
    kernel.memory.write(buffer, &target[..len])?;
    Ok(len as u64)
}

/// With an empty name, ENOENT is what the host says of a file that isn't a link (readlink(2)).
fn not_a_link(errno: Errno) -> Errno {
    if errno == Errno::NOENT { Errno::INVAL } else { errno }
}
