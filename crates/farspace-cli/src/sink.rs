//! Where bytes go: FILE, -, tcp:HOST:PORT or unix:PATH.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use farspace_dump::Destination;
use farspace_dump::stream::{Address, StreamOptions};
use rustix::io::Errno;

use crate::cli::StreamArgs;
use crate::engine::NewFile;
use crate::exit::Exit;
use crate::failure::{Failure, errno_text};

/// An output, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SinkSpec {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// A TCP connection to HOST:PORT.
    Tcp(String),
    /// A Unix stream socket that listens on a path.
    Unix(PathBuf),
}

/// Whether an existing file may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is an error.
    Keep,
    /// A new file takes its name.
    Replace,
}

/// Parses the argument of `--output`; a file named like a prefix is written as `./tcp:x`.
pub(crate) fn parse(text: &str) -> Result<SinkSpec, String> {
    if text == "-" {
        return Ok(SinkSpec::Stdout);
    }
    if let Some(address) = text.strip_prefix("tcp:") {
        let (host, port) = address.rsplit_once(':').ok_or(format!("'{text}' lacks a port: tcp:HOST:PORT"))?;
        if host.is_empty() || !port.parse::<u16>().is_ok_and(|p| p != 0) {
            return Err(format!("'{text}' is not tcp:HOST:PORT with a port from 1 to 65535"));
        }
        return Ok(SinkSpec::Tcp(address.to_owned()));
    }
    match text.strip_prefix("unix:") {
        Some("") => Err("'unix:' lacks a path: unix:PATH".to_owned()),
        Some(path) => Ok(SinkSpec::Unix(path.into())),
        None if text.is_empty() => Err("the output's name is empty".to_owned()),
        None => Ok(SinkSpec::File(text.into())),
    }
}

/// Parses the argument of `dump --output`: a core is written in no order, so no plain stream takes it.
pub(crate) fn parse_dump(text: &str) -> Result<SinkSpec, String> {
    match parse(text)? {
        SinkSpec::Stdout => {
            Err("a core is not written from front to back; name a file, or a receiver".to_owned())
        }
        spec => Ok(spec),
    }
}

/// An open output.
#[derive(Debug)]
pub(crate) struct OpenSink {
    /// Where the bytes go.
    pub(crate) fd: OwnedFd,
    /// The regular file that has no name yet.
    pub(crate) unfinished: Option<NewFile>,
}

impl SinkSpec {
    /// Where a dump goes that is sent here.
    pub(crate) fn destination(&self, stream: StreamArgs) -> Destination {
        let address = match self {
            Self::File(path) => return path.as_path().into(),
            // parse_dump() lets none pass.
            Self::Stdout => return Path::new("/dev/stdout").into(),
            Self::Tcp(address) => Address::Tcp(address.clone()),
            Self::Unix(path) => Address::Unix(path.clone()),
        };
        Destination::Stream(StreamOptions { address, compress: stream.compress, timeout: stream.timeout })
    }

    /// Opens or connects it.
    pub(crate) fn open(&self, existing: Existing) -> Result<OpenSink, Failure> {
        let mut unfinished = None;
        let opened = match self {
            // Devices and FIFOs (/dev/null) exist and are not replaced by writing to them.
            Self::File(path) if is_special(path) => File::options().write(true).open(path).map(OwnedFd::from),
            Self::File(path) => unfinished.insert(NewFile::create(path, existing)?).fd(),
            Self::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Self::Tcp(address) => TcpStream::connect(address.as_str()).map(OwnedFd::from).and_then(unblock),
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from).and_then(unblock),
        };
        let fd = opened.map_err(|error| {
            let what = format!("cannot open output {self}");
            match (self, error.raw_os_error()) {
                (Self::Unix(_), Some(code)) if code == Errno::NOENT.raw_os_error() => {
                    Failure::new(Exit::Output, what)
                        .cause(errno_text(&error))
                        .next("start the receiver first")
                }
                (_, Some(_)) => Failure::output(what, &error),
                (_, None) => {
                    let next = "check the host's name and that it can be resolved";
                    Failure::new(Exit::Output, what).cause(errno_text(&error)).next(next)
                }
            }
        })?;
        Ok(OpenSink { fd, unfinished })
    }
}

/// Makes a socket that nobody else has O_NONBLOCK: it is filled faster then (`farspace::Sink::stream`).
fn unblock(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn is_special(path: &std::path::Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdout => f.write_str("standard output"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        assert_eq!(parse("-"), Ok(SinkSpec::Stdout));
        assert_eq!(parse("a/b"), Ok(SinkSpec::File("a/b".into())));
        assert_eq!(parse("tcp:host:80"), Ok(SinkSpec::Tcp("host:80".into())));
        assert_eq!(parse("tcp:[::1]:80"), Ok(SinkSpec::Tcp("[::1]:80".into())));
        assert_eq!(parse("unix:/run/x"), Ok(SinkSpec::Unix("/run/x".into())));
        assert_eq!(parse("./tcp:x"), Ok(SinkSpec::File("./tcp:x".into())));
    }

    #[test]
    fn refuses() {
        for bad in ["", "tcp:", "tcp:host", "tcp::80", "tcp:host:0", "tcp:host:99999", "unix:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn existing_file_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spec = SinkSpec::File(file.path().into());
        let text = spec.open(Existing::Keep).unwrap_err().to_string();
        assert!(text.contains("--force"), "{text}");
        let replaced = spec.open(Existing::Replace).unwrap();
        assert!(file.path().exists());
        replaced.unfinished.unwrap().finish().unwrap();
        SinkSpec::File("/dev/null".into()).open(Existing::Keep).unwrap();
    }
}
