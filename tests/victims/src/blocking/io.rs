//! Reading, writing, accepting, locking.

use super::{Call, Timing, must_fail, must_return, raw};
use crate::sys;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;

/// Reads `expected` from `fd` in one call.
fn must_read(fd: &impl AsRawFd, expected: &[u8]) -> Result<(), String> {
    let mut buffer = [0; 256];
    match sys::read(fd, &mut buffer)? {
        n if &buffer[..n] == expected => Ok(()),
        n => Err(format!("read {:?}, expected {expected:?}", &buffer[..n])),
    }
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("farspace-victim-{}-{name}", std::process::id()))
}

pub(super) fn read_pipe(_: Timing) -> Result<Call, String> {
    let (reader, writer) = sys::pipe()?;
    let writer = Rc::new(writer);
    let other = Rc::clone(&writer);
    let block = move || {
        let _open = &other;
        must_read(&reader, b"through the pipe")
    };
    Call::new(block, move |_| sys::write_all(&*writer, b"through the pipe"))
}

/// Fills a pipe to the last byte.
fn fill(fd: i32) -> Result<usize, String> {
    // SAFETY: no memory is involved; then each write has its valid buffer.
    unsafe {
        sys::os("fcntl", libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK))?;
        let mut total = 0;
        let chunk = [b'f'; 4096];
        while libc::write(fd, chunk.as_ptr().cast(), chunk.len()) == 4096 {
            total += chunk.len();
        }
        sys::os("fcntl", libc::fcntl(fd, libc::F_SETFL, 0))?;
        Ok(total)
    }
}

/// Reads exactly `len` bytes, as many calls as that takes.
fn drain(fd: &OwnedFd, mut len: usize) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 16];
    while len > 0 {
        let mut entry = libc::pollfd { fd: raw(fd), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        must_return("poll for the rest", unsafe { libc::poll(&mut entry, 1, 20_000) }, 1)?;
        let most = len.min(buffer.len());
        match sys::read(fd, &mut buffer[..most])? {
            0 => return Err(format!("pipe ended {len} bytes early")),
            n => len -= n,
        }
    }
    Ok(())
}

fn writing(first_free: usize) -> Result<Call, String> {
    const BYTES: usize = 100_000;
    let (reader, writer) = sys::pipe()?;
    let full = fill(raw(&writer))?;
    drain(&reader, first_free)?;
    let block = move || sys::write_all(&writer, &[b'w'; BYTES]);
    Call::new(block, move |_| drain(&reader, full - first_free + BYTES))
}

pub(super) fn write_pipe(_: Timing) -> Result<Call, String> {
    writing(0)
}

pub(super) fn write_pipe_partial(_: Timing) -> Result<Call, String> {
    writing(8192)
}

pub(super) fn read_tty(_: Timing) -> Result<Call, String> {
    let (mut master, mut slave) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are valid for writes; name, termios and size are not asked for.
    sys::os("openpty", unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) })?;
    let (master, slave) = (sys::owned("openpty", master)?, sys::owned("openpty", slave)?);
    let block = move || must_read(&slave, b"typed line\n");
    Call::new(block, move |_| sys::write_all(&master, b"typed line\n"))
}

pub(super) fn accept(_: Timing) -> Result<Call, String> {
    let path = scratch("accept");
    let listener = UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let block = move || {
        // SAFETY: no address is asked for.
        let fd = unsafe {
            let null = std::ptr::null_mut();
            libc::accept4(listener.as_raw_fd(), null, null.cast(), libc::SOCK_CLOEXEC)
        };
        must_read(&sys::owned("accept", fd)?, b"hello")
    };
    Call::new(block, move |_| {
        let mut stream = UnixStream::connect(&path).map_err(|e| format!("connect: {e}"))?;
        let _ = std::fs::remove_file(&path);
        stream.write_all(b"hello").map_err(|e| format!("send: {e}"))
    })
}

/// recvmsg of eight bytes.
fn receive(stream: &UnixStream, buffer: &mut [u8; 8]) -> i64 {
    // SAFETY: an all-zero msghdr is empty; the buffer is valid for its length.
    unsafe {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        libc::recvmsg(stream.as_raw_fd(), &mut message, 0) as i64
    }
}

fn socket_pair() -> Result<(UnixStream, Rc<UnixStream>), String> {
    let (a, b) = UnixStream::pair().map_err(|e| format!("socketpair: {e}"))?;
    Ok((a, Rc::new(b)))
}

pub(super) fn recvmsg(_: Timing) -> Result<Call, String> {
    let (receiver, sender) = socket_pair()?;
    let block = move || {
        let mut buffer = [0; 8];
        must_return("recvmsg", receive(&receiver, &mut buffer), 8)?;
        if &buffer == b"received" { Ok(()) } else { Err(format!("recvmsg got {buffer:?}")) }
    };
    Call::new(block, move |_| sys::write_all(&*sender, b"received"))
}

pub(super) fn recvmsg_timeout(timing: Timing) -> Result<Call, String> {
    let (receiver, sender) = socket_pair()?;
    receiver.set_read_timeout(Some(timing.duration)).map_err(|e| format!("SO_RCVTIMEO: {e}"))?;
    Call::timed(timing, move || {
        let _open = &sender;
        must_fail("recvmsg", receive(&receiver, &mut [0; 8]), libc::EAGAIN)
    })
}

pub(super) fn inotify(_: Timing) -> Result<Call, String> {
    // SAFETY: no memory is involved; then the path is valid for the call.
    let fd = sys::owned("inotify_init1", unsafe { libc::inotify_init1(libc::IN_CLOEXEC) })?;
    let path = scratch("inotify");
    let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = sys::c_string(&path.to_string_lossy())?;
    // SAFETY: as above.
    sys::os("inotify_add_watch", unsafe {
        libc::inotify_add_watch(raw(&fd), name.as_ptr(), libc::IN_MODIFY)
    })?;
    // The name goes at once; the open file keeps the inode, whose end would be another event.
    std::fs::remove_file(&path).map_err(|e| format!("unlink: {e}"))?;
    let block = move || must_return("inotify read", sys::read(&fd, &mut [0; 256])? as i64, 16);
    Call::new(block, move |_| sys::write_all(&file, b"x"))
}

pub(super) fn flock(_: Timing) -> Result<Call, String> {
    let path = scratch("flock");
    let open = || File::create(&path).map_err(|e| format!("{}: {e}", path.display()));
    let (mine, theirs) = (open()?, open()?);
    let _ = std::fs::remove_file(&path);
    // Both processes hold both descriptors after the fork; the lock goes with LOCK_UN, not with a close.
    let lock = |file: &File, how: i32| {
        // SAFETY: no memory is involved.
        must_return("flock", unsafe { libc::flock(file.as_raw_fd(), how) }, 0)
    };
    lock(&mine, libc::LOCK_EX)?;
    Call::new(move || lock(&theirs, libc::LOCK_EX), move |_| lock(&mine, libc::LOCK_UN))
}

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

const IOCB_CMD_POLL: u16 = 5;

/// An aio context with one poll for `fd` under way, made in the target. It is a mapping, hence set up early.
fn aio(fd: i32) -> Result<u64, String> {
    let mut context = 0_u64;
    let mut block = Iocb {
        data: 42,
        opcode: IOCB_CMD_POLL,
        fd: fd as u32,
        buffer: libc::POLLIN as u64,
        ..Iocb::default()
    };
    let mut blocks = [&raw mut block];
    // SAFETY: context and control block are valid; a poll refers to neither after io_submit returned.
    unsafe {
        sys::os("io_setup", libc::syscall(libc::SYS_io_setup, 4, &raw mut context))?;
        must_return("io_submit", libc::syscall(libc::SYS_io_submit, context, 1, blocks.as_mut_ptr()), 1)?;
    }
    Ok(context)
}

fn get_event(context: u64, timeout: *const libc::timespec) -> (i64, u64) {
    let mut event = [0_u64; 4];
    // SAFETY: room for the one event (four words) asked for.
    let n = unsafe { libc::syscall(libc::SYS_io_getevents, context, 1, 1, event.as_mut_ptr(), timeout) };
    (n, event[0])
}

pub(super) fn getevents(_: Timing) -> Result<Call, String> {
    let (reader, writer) = sys::pipe()?;
    let context = Rc::new(std::cell::Cell::new(0));
    let shared = Rc::clone(&context);
    let block = move || {
        let (n, data) = get_event(shared.get(), std::ptr::null());
        must_return("io_getevents", n, 1)?;
        must_return("io_event data", data as i64, 42)
    };
    let call = Call::new(block, move |_| sys::write_all(&writer, b"x"))?;
    Ok(call.with_setup(move || aio(raw(&reader)).map(|c| context.set(c))))
}

pub(super) fn getevents_timeout(timing: Timing) -> Result<Call, String> {
    let (reader, writer) = sys::pipe()?;
    let context = Rc::new(std::cell::Cell::new(0));
    let shared = Rc::clone(&context);
    let call = Call::timed(timing, move || {
        let _open = &writer;
        let (n, _) = get_event(shared.get(), &sys::timespec(timing.duration));
        must_return("io_getevents", n, 0)
    })?;
    Ok(call.with_setup(move || aio(raw(&reader)).map(|c| context.set(c))))
}
