//! Where the other side is: tcp:HOST:PORT or unix:PATH.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long a host may take to answer at all.
const CONNECT: Duration = Duration::from_secs(10);

/// The address of a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// HOST:PORT.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// Reads `tcp:HOST:PORT` or `unix:PATH`. Port 0 is for those who listen: any free one.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("tcp:") {
            let (host, port) =
                address.rsplit_once(':').ok_or(format!("'{text}' lacks a port: tcp:HOST:PORT"))?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(format!("'{text}' is not tcp:HOST:PORT with a port up to 65535"));
            }
            return Ok(Self::Tcp(address.to_owned()));
        }
        match text.strip_prefix("unix:") {
            Some("") => Err("'unix:' lacks a path: unix:PATH".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => Err(format!("'{text}' is neither tcp:HOST:PORT nor unix:PATH")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Connects.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(address) => {
                let mut last = io::ErrorKind::AddrNotAvailable.into();
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => return Ok(stream.into()),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
        }
    }
}

/// A socket that others connect to.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// The path is removed when dropped.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        let listener = match address {
            Address::Tcp(address) => Self::Tcp(TcpListener::bind(address.as_str())?),
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                let listener = Self::Unix(listener, path.clone());
                // What comes is as secret as a core is; so nobody else may send one either.
                std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
                listener
            }
        };
        match &listener {
            Self::Tcp(listener) => listener.set_nonblocking(true)?,
            Self::Unix(listener, _) => listener.set_nonblocking(true)?,
        }
        Ok(listener)
    }

    /// Where it listens, with the port that it got.
    pub(crate) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?.to_string()),
            Self::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    /// The next connection and its name; EAGAIN if nobody is there.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, String)> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, from)| (stream.into(), from.to_string())),
            Self::Unix(listener, path) => {
                listener.accept().map(|(stream, _)| (stream.into(), format!("unix:{}", path.display())))
            }
        }
    }
}

impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        for text in ["tcp:host:80", "tcp:[::1]:0", "unix:/run/x", "unix:y"] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "tcp:", "tcp:host", "tcp::80", "tcp:host:99999", "unix:", "host:80", "/run/x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_is_its_owners_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = Listener::bind(&Address::Unix(path.clone())).expect("bound");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(listener.accept().expect_err("nobody").kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert!(!path.exists());
    }
}
