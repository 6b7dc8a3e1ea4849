//! Opening files, and their contents.

use std::rc::Rc;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::termios::{SpecialCodeIndex, Termios};

use crate::descriptors::OpenFile;
use crate::kernel::{Answer, Call, Kernel, Stop};
use crate::layout::Bytes;

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_open, |kernel, &[name, flags, mode, ..]| open_at(kernel, HERE, name, flags, mode)),
    (libc::SYS_openat, |kernel, &[at, name, flags, mode, ..]| open_at(kernel, at, name, flags, mode)),
    (libc::SYS_creat, |kernel, &[name, mode, ..]| {
        open_at(kernel, HERE, name, (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64, mode)
    }),
    (libc::SYS_close, |kernel, args| kernel.files.close(args[0]).map(|()| 0)),
    (libc::SYS_read, |kernel, &[fd, at, len, ..]| read_into(kernel, fd, &[(at, len)], None)),
    (libc::SYS_pread64, |kernel, &[fd, at, len, offset, ..]| {
        read_into(kernel, fd, &[(at, len)], Some(offset))
    }),
    (libc::SYS_readv, |kernel, &[fd, vector, count, ..]| {
        let ranges = ranges(kernel, vector, count)?;
        read_into(kernel, fd, &ranges, None)
    }),
    (libc::SYS_write, |kernel, &[fd, at, len, ..]| write_from(kernel, fd, &[(at, len)], None)),
    (libc::SYS_pwrite64, |kernel, &[fd, at, len, offset, ..]| {
        write_from(kernel, fd, &[(at, len)], Some(offset))
    }),
    (libc::SYS_writev, |kernel, &[fd, vector, count, ..]| {
        let ranges = ranges(kernel, vector, count)?;
        write_from(kernel, fd, &ranges, None)
    }),
    (libc::SYS_sendfile, sendfile),
    (libc::SYS_lseek, lseek),
    (libc::SYS_ftruncate, |kernel, &[fd, len, ..]| {
        rustix::fs::ftruncate(&kernel.files.get(fd)?.host, len)?;
        Ok(0)
    }),
    (libc::SYS_fsync, |kernel, args| {
        rustix::fs::fsync(&kernel.files.get(args[0])?.host)?;
        Ok(0)
    }),
    (libc::SYS_fadvise64, |kernel, &[fd, offset, len, ..]| {
        rustix::fs::fadvise(&kernel.files.get(fd)?.host, offset, len.try_into().ok(), Advice::Normal)?;
        Ok(0)
    }),
    (libc::SYS_dup, |kernel, args| {
        let file = kernel.files.get(args[0])?;
        kernel.files.add(file, 0, false)
    }),
    (libc::SYS_dup2, |kernel, &[old, new, ..]| {
        let file = kernel.files.get(old)?;
        if old == new { Ok(new) } else { kernel.files.replace(new, file, false) }
    }),
    (libc::SYS_dup3, |kernel, &[old, new, flags, ..]| {
        let file = kernel.files.get(old)?;
        if old == new {
            return Err(Errno::INVAL.into());
        }
        kernel.files.replace(new, file, flags as i32 & libc::O_CLOEXEC != 0)
    }),
    (libc::SYS_fcntl, fcntl),
    (libc::SYS_ioctl, ioctl),
    (libc::SYS_poll, poll),
];

/// AT_FDCWD, as a register has it.
pub(crate) const HERE: u64 = libc::AT_FDCWD as u32 as u64;
/// More is not moved by one call; a short count is every caller's business.
const MOST: u64 = 1 << 20;
/// UIO_MAXIOV
const MOST_RANGES: u64 = 1024;

fn open_at(kernel: &mut Kernel, at: u64, name: u64, flags: u64, mode: u64) -> Answer {
    let path = kernel.path(at, name)?;
    let flags = OFlags::from_bits_truncate(flags as u32);
    // openat2 wants no mode where none is needed, and no bits that it doesn't know.
    let creates = flags.intersects(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
    let mode = if creates { Mode::from_bits_truncate(mode as u32 & 0o7777) } else { Mode::empty() };
    let host = kernel.paths.open(&path, flags, mode)?;
    kernel.files.add(Rc::new(OpenFile { host }), 0, flags.contains(OFlags::CLOEXEC))
}

/// Reads `struct iovec`s.
fn ranges(kernel: &mut Kernel, at: u64, count: u64) -> Result<Vec<(u64, u64)>, Stop> {
    if count > MOST_RANGES {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = vec![0; 16 * count as usize];
    kernel.memory.read(at, &mut bytes)?;
    let words: Vec<_> = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Ok(words.as_chunks().0.iter().map(|[at, len]| (*at, *len)).collect())
}

fn total(ranges: &[(u64, u64)]) -> usize {
    ranges.iter().fold(0, |sum: u64, (_, len)| sum.saturating_add(*len)).min(MOST) as usize
}

fn read_into(kernel: &mut Kernel, fd: u64, ranges: &[(u64, u64)], offset: Option<u64>) -> Answer {
    let file = kernel.files.get(fd)?;
    let mut buffer = vec![0; total(ranges)];
    let count = match offset {
        None => rustix::io::read(&file.host, &mut buffer)?,
        Some(offset) => rustix::io::pread(&file.host, &mut buffer, offset)?,
    };
    let mut rest = &buffer[..count];
    for (at, len) in ranges {
        let (part, next) = rest.split_at(rest.len().min(*len as usize));
        kernel.memory.write(*at, part)?;
        rest = next;
    }
    Ok(count as u64)
}

fn write_from(kernel: &mut Kernel, fd: u64, ranges: &[(u64, u64)], offset: Option<u64>) -> Answer {
    let file = kernel.files.get(fd)?;
    let mut buffer = vec![0; total(ranges)];
    let mut rest = &mut buffer[..];
    for (at, len) in ranges {
        let (part, next) = rest.split_at_mut(rest.len().min(*len as usize));
        kernel.memory.read(*at, part)?;
        rest = next;
    }
    let written = match offset {
        None => rustix::io::write(&file.host, &buffer),
        Some(offset) => rustix::io::pwrite(&file.host, &buffer, offset),
    };
    match written {
        Ok(count) => Ok(count as u64),
        // This process ignores the signal; the guest may not.
        Err(Errno::PIPE) => match kernel.signals.raise(libc::SIGPIPE) {
            Err(end @ Stop::End(_)) => Err(end),
            _ => Err(Errno::PIPE.into()),
        },
        Err(errno) => Err(errno.into()),
    }
}

fn sendfile(kernel: &mut Kernel, &[to, from, at, count, ..]: &[u64; 6]) -> Answer {
    let (to, from) = (kernel.files.get(to)?, kernel.files.get(from)?);
    let count = count.min(MOST) as usize;
    if at == 0 {
        return Ok(rustix::fs::sendfile(&to.host, &from.host, None, count)? as u64);
    }
    let mut bytes = [0; 8];
    kernel.memory.read(at, &mut bytes)?;
    let mut offset = u64::from_le_bytes(bytes);
    let sent = rustix::fs::sendfile(&to.host, &from.host, Some(&mut offset), count)?;
    kernel.memory.write(at, &offset.to_le_bytes())?;
    Ok(sent as u64)
}

fn lseek(kernel: &mut Kernel, &[fd, offset, whence, ..]: &[u64; 6]) -> Answer {
    let to = match whence as i32 {
        libc::SEEK_SET => SeekFrom::Start(offset),
        libc::SEEK_CUR => SeekFrom::Current(offset as i64),
        libc::SEEK_END => SeekFrom::End(offset as i64),
        libc::SEEK_DATA => SeekFrom::Data(offset),
        libc::SEEK_HOLE => SeekFrom::Hole(offset),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(rustix::fs::seek(&kernel.files.get(fd)?.host, to)?)
}

fn fcntl(kernel: &mut Kernel, &[fd, command, value, ..]: &[u64; 6]) -> Answer {
    let file = kernel.files.get(fd)?;
    match command as i32 {
        libc::F_DUPFD => kernel.files.add(file, value, false),
        libc::F_DUPFD_CLOEXEC => kernel.files.add(file, value, true),
        libc::F_GETFD => kernel.files.close_on_exec(fd).map(u64::from),
        libc::F_SETFD => {
            kernel.files.set_close_on_exec(fd, value as i32 & libc::FD_CLOEXEC != 0)?;
            Ok(0)
        }
        libc::F_GETFL => Ok(rustix::fs::fcntl_getfl(&file.host)?.bits().into()),
        libc::F_SETFL => {
            rustix::fs::fcntl_setfl(&file.host, OFlags::from_bits_retain(value as u32))?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

/// Only what programs ask to find out whether they talk to a terminal.
fn ioctl(kernel: &mut Kernel, &[fd, request, at, ..]: &[u64; 6]) -> Answer {
    let file = kernel.files.get(fd)?;
    let mut bytes = Bytes::default();
    match request {
        libc::TCGETS => terminal(&mut bytes, &rustix::termios::tcgetattr(&file.host)?),
        libc::TIOCGWINSZ => {
            let size = rustix::termios::tcgetwinsize(&file.host)?;
            bytes.u16s([size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel]);
        }
        _ => return Err(Errno::NOTTY.into()),
    }
    kernel.memory.write(at, &bytes.0)?;
    Ok(0)
}

/// `struct termios` (include/uapi/asm-generic/termbits.h).
fn terminal(bytes: &mut Bytes, now: &Termios) {
    use SpecialCodeIndex as I;
    bytes.u32(now.input_modes.bits());
    bytes.u32(now.output_modes.bits());
    bytes.u32(now.control_modes.bits());
    bytes.u32(now.local_modes.bits());
    let codes = [
        I::VINTR,
        I::VQUIT,
        I::VERASE,
        I::VKILL,
        I::VEOF,
        I::VTIME,
        I::VMIN,
        I::VSWTC,
        I::VSTART,
        I::VSTOP,
        I::VSUSP,
        I::VEOL,
        I::VREPRINT,
        I::VDISCARD,
        I::VWERASE,
        I::VLNEXT,
        I::VEOL2,
    ];
    bytes.0.push(now.line_discipline);
    bytes.0.extend(codes.map(|code| now.special_codes[code]));
    bytes.0.resize(36, 0);
}

fn poll(kernel: &mut Kernel, &[at, count, timeout, ..]: &[u64; 6]) -> Answer {
    if count > crate::descriptors::LIMIT as u64 {
        return Err(Errno::INVAL.into());
    }
    // struct pollfd: int fd; short events, revents.
    let mut bytes = vec![0; 8 * count as usize];
    kernel.memory.read(at, &mut bytes)?;
    let entries = bytes.as_chunks_mut::<8>().0;
    let mut files = Vec::new();
    let mut ready = 0;
    for (index, entry) in entries.iter_mut().enumerate() {
        let [a, b, c, d, events @ .., _, _] = *entry;
        let fd = i32::from_le_bytes([a, b, c, d]);
        entry[6..].fill(0);
        match kernel.files.get(fd as u64) {
            _ if fd < 0 => {}
            Ok(file) => files.push((index, file, PollFlags::from_bits_retain(u16::from_le_bytes(events)))),
            Err(_) => {
                entry[6] = PollFlags::NVAL.bits() as u8;
                ready += 1;
            }
        }
    }
    let mut fds: Vec<_> = files.iter().map(|(_, file, events)| PollFd::new(&file.host, *events)).collect();
    let timeout = if ready > 0 { 0 } else { timeout as i32 };
    rustix::event::poll(&mut fds, crate::time::milliseconds(timeout).as_ref())?;
    for ((index, ..), fd) in files.iter().zip(&fds) {
        entries[*index][6..].copy_from_slice(&fd.revents().bits().to_le_bytes());
        ready += u64::from(!fd.revents().is_empty());
    }
    kernel.memory.write(at, &bytes)?;
    Ok(ready)
}
