//! Places for bytes to go, each with a reader where one is needed.

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use rustix::pipe::{SpliceFlags, splice};

use crate::engine::Output;
use crate::failure::{Failure, eprint_line};

/// The kinds of sink that rows are measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    DevNull,
    /// TCP, to a receiver that copies the bytes into its memory.
    Tcp,
    /// TCP, to a receiver that splices the bytes onward, as a relay or a page server does.
    TcpOnward,
    Unix,
    Tmpfs,
    PageCache,
    Direct,
}

impl Kind {
    /// Its part of a row's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DevNull => "devnull",
            Self::Tcp => "tcp",
            Self::TcpOnward => "tcp-onward",
            Self::Unix => "unix",
            Self::Tmpfs => "tmpfs",
            Self::PageCache => "file",
            Self::Direct => "direct",
        }
    }
}

/// A file that is removed on drop.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprint_line(&format!("remove {}: {error}", self.0.display()));
        }
    }
}

/// An open sink; [`Sink::finish`] waits until its reader has everything.
pub(super) struct Sink {
    pub(super) output: Output,
    reader: Option<JoinHandle<io::Result<u64>>>,
    _file: Option<Removed>,
}

impl Sink {
    /// Opens one; `disk` is where file sinks go.
    pub(super) fn open(kind: Kind, disk: &Path) -> Result<Self, Failure> {
        let name = kind.name().to_owned();
        let opened = match kind {
            Kind::DevNull => File::options().write(true).open("/dev/null").map(|f| (f.into(), None, None)),
            Kind::Tcp => tcp(drain).map(|(fd, reader)| (fd, Some(reader), None)),
            Kind::TcpOnward => tcp(pass_on).map(|(fd, reader)| (fd, Some(reader), None)),
            Kind::Unix => unix().map(|(fd, reader)| (fd, Some(reader), None)),
            Kind::Tmpfs => file(Path::new("/dev/shm"), 0),
            Kind::PageCache => file(disk, 0),
            Kind::Direct => file(disk, rustix::fs::OFlags::DIRECT.bits() as i32),
        };
        let (fd, reader, file) =
            opened.map_err(|e| Failure::output(format!("bench: open sink {name}"), &e))?;
        Ok(Self { output: Output { fd, name }, reader, _file: file.map(Removed) })
    }

    /// The same output as `farspace splice` would have opened it.
    pub(super) fn as_by_command(&self) -> Result<&Output, Failure> {
        if self.reader.is_some() {
            let failed = |e: rustix::io::Errno| Failure::output("bench: prepare a socket", &e.into());
            rustix::io::ioctl_fionbio(&self.output.fd, true).map_err(failed)?;
        }
        Ok(&self.output)
    }

    /// Closes it and waits for the reader.
    pub(super) fn finish(self) -> io::Result<()> {
        let Self { output, reader, _file } = self;
        // The reader sees the end only now.
        drop(output);
        match reader.map(JoinHandle::join) {
            Some(Ok(read)) => read.map(drop),
            Some(Err(_)) => Err(io::Error::other("the reader panicked")),
            None => Ok(()),
        }
    }
}

type Opened = (OwnedFd, Option<JoinHandle<io::Result<u64>>>, Option<PathBuf>);

type Reader = JoinHandle<io::Result<u64>>;

fn tcp(reader: fn(TcpStream) -> Reader) -> io::Result<(OwnedFd, Reader)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    Ok((stream.into(), reader(peer)))
}

fn unix() -> io::Result<(OwnedFd, JoinHandle<io::Result<u64>>)> {
    let (stream, peer) = UnixStream::pair()?;
    Ok((stream.into(), drain(peer)))
}

/// Reads and forgets, as a receiver that looks at what it gets would.
fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<io::Result<u64>> {
    thread::spawn(move || {
        let mut buffer = vec![0u8; 256 << 10];
        let mut total = 0;
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(total),
                len => total += len as u64,
            }
        }
    })
}

/// Splices to /dev/null: the pages go on without being looked at.
fn pass_on(from: TcpStream) -> Reader {
    thread::spawn(move || {
        let null = File::options().write(true).open("/dev/null")?;
        let (read, write) = rustix::pipe::pipe()?;
        // Less room is slower, not wrong.
        let room = rustix::pipe::fcntl_setpipe_size(&write, 1 << 20).unwrap_or(64 << 10);
        let mut total = 0;
        loop {
            let len = match splice(&from, None, &write, None, room, SpliceFlags::MOVE)? {
                0 => return Ok(total),
                len => len,
            };
            let mut left = len;
            while left > 0 {
                left -= splice(&read, None, &null, None, left, SpliceFlags::MOVE)?;
            }
            total += len as u64;
        }
    })
}

fn file(dir: &Path, flags: i32) -> io::Result<Opened> {
    let path = dir.join(format!("farspace-bench-{}", std::process::id()));
    crate::interrupt::remove_at_exit(path.clone());
    let file =
        File::options().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(&path)?;
    Ok((file.into(), None, Some(path)))
}
