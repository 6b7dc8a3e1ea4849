//! `farspace splice` into sockets, which the agent fills by itself: whole transfers, and every way one can break off.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use farspace_victims::harness::{Region, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/victim.rs"]
mod victim;

use leftovers::View;

/// How soon everything must be over where nobody has to be waited for. Whoever does wait would do so for ever.
const SOON: Duration = Duration::from_secs(30);
/// More than any socket holds.
const SIZE: &str = "64M";

/// A kind of stream socket.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Unix,
    Tcp,
}

const KINDS: [Kind; 2] = [Kind::Unix, Kind::Tcp];

/// The receiver's end of a connection.
trait Peer: Read + Send {
    fn set_timeout(&self, timeout: Duration);
}

impl Peer for UnixStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).expect("a socket");
    }
}

impl Peer for TcpStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).expect("a socket");
    }
}

/// A splice under way.
struct Splice {
    farspace: Child,
    peer: Box<dyn Peer>,
}

impl Splice {
    /// Starts `farspace splice` of these ranges into a new connection.
    fn start(kind: Kind, pid: i32, ranges: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.arg("splice").arg(pid.to_string()).args(ranges).arg("-o");
        let piped = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("farspace starts")
        };
        match kind {
            Kind::Unix => {
                let place = tempfile::tempdir().expect("a temporary directory");
                let path = place.path().join("socket");
                let listener = UnixListener::bind(&path).expect("bind");
                let farspace = piped(command.arg(format!("unix:{}", path.display())));
                Self { farspace, peer: Box::new(listener.accept().expect("a connection").0) }
            }
            Kind::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
                let port = listener.local_addr().expect("bound").port();
                let farspace = piped(command.arg(format!("tcp:127.0.0.1:{port}")));
                Self { farspace, peer: Box::new(listener.accept().expect("a connection").0) }
            }
        }
    }

    /// Reads some bytes and then waits until farspace must have filled the socket.
    fn stall(&mut self) -> Vec<u8> {
        let mut first = vec![0; 1 << 16];
        self.peer.read_exact(&mut first).expect("the first bytes");
        sleep(Duration::from_millis(200));
        first
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.farspace.id() as i32), signal).expect("not reaped yet");
    }

    /// Everything that is still to come, and how long it took to the end of the stream.
    fn drain(&mut self) -> (Vec<u8>, Duration) {
        let begin = Instant::now();
        let mut rest = Vec::new();
        self.peer.set_timeout(Duration::from_secs(20));
        match self.peer.read_to_end(&mut rest) {
            Ok(_) => {}
            // With bytes unread, the end can come as a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("no end of the stream: {error}"),
        }
        (rest, begin.elapsed())
    }

    /// Waits for farspace: exit code and message.
    fn end(self) -> (Option<i32>, String) {
        drop(self.peer);
        let output = self.farspace.wait_with_output().expect("an end");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn memory() -> (Victim, Region, View) {
    let victim = victim::spawn("memory", &[&format!("anon:{SIZE}")]).expect("anonymous memory");
    let region = victim.region("anon").expect("asked for");
    let view = View::of(victim.pid());
    (victim, region, view)
}

fn range(addr: u64, len: u64) -> String {
    format!("{addr:#x}+{len}")
}

/// Nothing is left in the target, and it is well.
fn unharmed(victim: Victim, before: &View) {
    before.wait_clean(victim.pid(), SOON).unwrap_or_else(|left| panic!("{left}"));
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn whole_and_in_order() {
    for kind in KINDS {
        let (victim, region, before) = memory();
        // More ranges than one request carries, of odd lengths, the last bytes first.
        let (half, odd) = (region.len / 2, 12345);
        let mut wanted = vec![(half, region.len - half)];
        wanted.extend((0..1500).map(|i| (i * odd, odd)));
        let ranges: Vec<_> = wanted.iter().map(|(at, len)| range(region.addr + at, *len)).collect();
        let mut splice = Splice::start(kind, victim.pid(), &ranges);
        let (got, _) = splice.drain();
        let (code, message) = splice.end();
        assert_eq!(code, Some(0), "{message}");
        let expected: Vec<u8> = wanted.iter().flat_map(|(at, len)| region.bytes(*at, *len)).collect();
        assert!(got == expected, "{kind:?}: wrong bytes");
        unharmed(victim, &before);
    }
}

#[test]
fn a_hole_in_the_range() {
    for kind in KINDS {
        let (victim, region, before) = memory();
        let ranges = [range(region.addr, region.len), range(0x10000 - 4096, 4096)];
        let mut splice = Splice::start(kind, victim.pid(), &ranges);
        let (got, _) = splice.drain();
        let (code, message) = splice.end();
        assert!(code == Some(1) && message.contains("0xf000"), "{kind:?}: {code:?}: {message}");
        assert!(got == region.bytes(0, region.len), "{kind:?}: what is before the hole arrives");
        unharmed(victim, &before);
    }
}

#[test]
fn interrupted_while_the_receiver_stalls() {
    for kind in KINDS {
        let (victim, region, before) = memory();
        let mut splice = Splice::start(kind, victim.pid(), &[range(region.addr, region.len)]);
        splice.stall();
        let begin = Instant::now();
        splice.signal(Signal::SIGINT);
        let output = splice.farspace.wait_with_output().expect("an end");
        let took = begin.elapsed();
        let message = String::from_utf8_lossy(&output.stderr);
        // Said at a clean end only; where nobody looks for two seconds, the process ends without that.
        let is_clean = message.contains("no output was left") || took >= Duration::from_secs(2);
        assert!(
            !output.status.success() && message.contains("interrupted") && is_clean,
            "{kind:?}: {message}"
        );
        assert!(took < SOON, "{kind:?}: {took:?}");
        unharmed(victim, &before);
    }
}

#[test]
fn killed_while_the_receiver_stalls() {
    for kind in KINDS {
        let (victim, region, before) = memory();
        let mut splice = Splice::start(kind, victim.pid(), &[range(region.addr, region.len)]);
        let mut got = splice.stall();
        splice.signal(Signal::SIGKILL);
        before.wait_clean(victim.pid(), SOON).unwrap_or_else(|left| panic!("{kind:?}: {left}"));
        let (rest, took) = splice.drain();
        got.extend(rest);
        assert!(took < SOON && (got.len() as u64) < region.len, "{kind:?}: {took:?}");
        assert!(got == region.bytes(0, got.len() as u64), "{kind:?}: wrong bytes");
        assert_eq!(splice.end().0, None);
        unharmed(victim, &before);
    }
}

/// The agent looks around also while everything flows.
#[test]
fn killed_while_the_receiver_reads() {
    for kind in KINDS {
        let (victim, region, before) = memory();
        let many = vec![range(region.addr, region.len); 200];
        let mut splice = Splice::start(kind, victim.pid(), &many);
        let mut buffer = vec![0; 1 << 18];
        splice.peer.read_exact(&mut buffer).expect("the first bytes");
        splice.signal(Signal::SIGKILL);
        let mut rest = 0;
        while let Ok(n) = splice.peer.read(&mut buffer)
            && n > 0
        {
            rest += n as u64;
        }
        assert!(rest < region.len * 100, "{kind:?}: {rest} bytes after its end");
        splice.end();
        unharmed(victim, &before);
    }
}

#[test]
fn a_receiver_that_goes_away() {
    for kind in KINDS {
        for stalls in [true, false] {
            let (victim, region, before) = memory();
            let mut splice = Splice::start(kind, victim.pid(), &vec![range(region.addr, region.len); 20]);
            if stalls {
                splice.stall();
            }
            let (code, message) = splice.end();
            assert!(code == Some(6) && message.contains("the receiver went away"), "{kind:?}: {message}");
            unharmed(victim, &before);
        }
    }
}

#[test]
fn a_target_that_ends_while_the_receiver_stalls() {
    for kind in KINDS {
        let (victim, region, _) = memory();
        let pid = victim.pid();
        let mut splice = Splice::start(kind, pid, &[range(region.addr, region.len)]);
        splice.stall();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
        let begin = Instant::now();
        let output = splice.farspace.wait_with_output().expect("an end");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("ended or executed another program"), "{kind:?}: {message}");
        assert!(begin.elapsed() < SOON, "{kind:?}: {:?}", begin.elapsed());
        drop(victim);
    }
}

/// A descriptor that others may share stays as it is, and is served all the same.
#[test]
fn a_socket_that_blocks() {
    let (victim, region, before) = memory();
    let (ours, mut peer) = UnixStream::pair().expect("a pair");
    let standard = ours.as_fd().try_clone_to_owned().expect("a copy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["splice", &victim.pid().to_string(), &range(region.addr, region.len), "-o", "-"]);
    let mut farspace = command.stdout(standard).spawn().expect("farspace starts");
    drop(command);
    let mut got = vec![0; region.len as usize];
    peer.read_exact(&mut got).expect("all of it");
    assert!(farspace.wait().expect("an end").success());
    assert!(got == region.bytes(0, region.len), "wrong bytes");
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&ours)));
    let flags = flags.expect("fdinfo");
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
    assert_eq!(u32::from_str_radix(flags, 8).expect("octal") & 0o4000, 0, "O_NONBLOCK was set");
    unharmed(victim, &before);
}
