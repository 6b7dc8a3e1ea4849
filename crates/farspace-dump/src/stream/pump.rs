//! From a socket into a file, without a copy by this process.
//!
//! Most of the time goes into the file, where pages are made and copied to under the file's lock. So long pieces are written
//! by two threads: one splices, the other one has a pipe of its own and reads it into a mapped window of the file, which
//! takes no lock.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::time::Instant;

use farspace_sys::memory::FileWindow;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::StreamError;
use super::connection::{Connection, Trouble};

/// Bytes of the pipe between the two.
const PIPE_BYTES: usize = 1 << 20;
/// From so many bytes on two threads write.
const LONG: u64 = 8 << 20;

/// Pipes between sockets and files; empty but during a move.
pub(crate) struct Pump {
    pipe: Pipe,
    /// The other thread's, once there is one.
    other: Option<Pipe>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    room: usize,
}

/// Where what is in a pipe goes.
struct Load {
    offset: u64,
    len: usize,
}

/// Which side failed.
#[derive(Debug)]
pub(crate) enum Leak {
    /// The socket, or the caller.
    Trouble(Trouble),
    /// The file.
    File(io::Error),
}

impl Pump {
    pub(crate) fn new() -> Result<Self, StreamError> {
        Ok(Self { pipe: Pipe::new()?, other: None })
    }

    /// Moves exactly `len` bytes to a place in a file. `step` is told the bytes of each step, 0 where nothing moves; `Break`
    /// ends it.
    pub(crate) fn run(
        &mut self,
        from: &Connection,
        to: &File,
        offset: u64,
        len: u64,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Leak> {
        let end = offset + len;
        let has_cpus = || std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        if len < LONG || !has_cpus() {
            return move_all(&self.pipe, None, from, to, offset..end, step);
        }
        let other = match self.other.take() {
            Some(other) => other,
            None => Pipe::new().map_err(|e| Leak::Trouble(e.into()))?,
        };
        // A window doesn't make a file longer.
        let now = to.metadata().map_err(Leak::File)?.len();
        if now < end {
            to.set_len(end).map_err(Leak::File)?;
        }
        let (orders, to_do) = mpsc::channel::<Load>();
        let (done, answers) = mpsc::channel();
        let moved = std::thread::scope(|scope| {
            let pipe = &other;
            let work = move || {
                for load in to_do {
                    if done.send(pipe.empty_by_window(to, &load)).is_err() {
                        return;
                    }
                }
            };
            // Without a thread this one does all.
            let helper = std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let helper = helper.map(|_| Helper { pipe, orders, answers });
            move_all(&self.pipe, helper, from, to, offset..end, step)
        });
        // After an error there may be something in it.
        if moved.is_ok() {
            self.other = Some(other);
        }
        moved
    }
}

/// The other thread, as this one sees it.
struct Helper<'a> {
    pipe: &'a Pipe,
    orders: mpsc::Sender<Load>,
    answers: mpsc::Receiver<io::Result<()>>,
}

fn move_all(
    own: &Pipe,
    helper: Option<Helper<'_>>,
    from: &Connection,
    to: &File,
    range: Range<u64>,
    step: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), Leak> {
    let (mut at, mut is_busy) = (range.start, false);
    let mut deadline = Instant::now() + from.timeout();
    while at < range.end {
        if is_busy && let Some(Ok(answer)) = helper.as_ref().map(|helper| helper.answers.try_recv()) {
            answer.map_err(Leak::File)?;
            is_busy = false;
        }
        let idle = helper.as_ref().filter(|_| !is_busy);
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let Some(len) = idle.map_or(own, |helper| helper.pipe).fill(from, left)? else {
            from.wait(PollFlags::IN, deadline, &mut || step(0)).map_err(Leak::Trouble)?;
            continue;
        };
        let load = Load { offset: at, len };
        match idle {
            Some(helper) => is_busy = helper.orders.send(load).is_ok(),
            None => own.empty(to, &load).map_err(Leak::File)?,
        }
        at += len as u64;
        deadline = Instant::now() + from.timeout();
        if step(len as u64).is_break() {
            return Err(Leak::Trouble(Trouble::Interrupted));
        }
    }
    match helper {
        Some(helper) if is_busy => {
            let failed = |_| Leak::File(io::ErrorKind::BrokenPipe.into());
            helper.answers.recv().map_err(failed)?.map_err(Leak::File)
        }
        _ => Ok(()),
    }
}

impl Pipe {
    fn new() -> Result<Self, StreamError> {
        let (read, write, room) = farspace_sys::pipe::with_room(PIPE_BYTES).map_err(StreamError::of)?;
        Ok(Self { read, write, room })
    }

    /// Takes what there is, at most so many bytes; nothing if one has to wait for it.
    fn fill(&self, from: &Connection, most: usize) -> Result<Option<usize>, Leak> {
        let flags = SpliceFlags::MOVE | SpliceFlags::MORE | SpliceFlags::NONBLOCK;
        loop {
            match splice(from.fd(), None, &self.write, None, most.min(self.room), flags) {
                Ok(0) => return Err(Leak::Trouble(StreamError::Closed.into())),
                Ok(n) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(Leak::Trouble(StreamError::of(errno).into())),
            }
        }
    }

    fn empty(&self, to: &File, load: &Load) -> io::Result<()> {
        let (mut at, end) = (load.offset, load.offset + load.len as u64);
        while at < end {
            let left = (end - at) as usize;
            match splice(self.read.as_fd(), None, to, Some(&mut at), left, SpliceFlags::MOVE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) | Err(Errno::INTR) => {}
                // A file system that takes no pages.
                Err(Errno::INVAL) => {
                    let mut buffer = vec![0; left.min(64 << 10)];
                    let n = rustix::io::read(&self.read, &mut buffer)?;
                    to.write_all_at(&buffer[..n], at)?;
                    at += n as u64;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The same by a window; what can't be had of it (no space, say) is for the other way to say.
    fn empty_by_window(&self, to: &File, load: &Load) -> io::Result<()> {
        let done = match FileWindow::map(to, load.offset, load.len as u64) {
            Ok(mut window) => window.fill_by_read(&self.read).0,
            Err(_) => 0,
        };
        self.empty(to, &Load { offset: load.offset + done, len: load.len - done as usize })
    }
}
