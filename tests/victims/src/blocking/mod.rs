//! One thread in one blocking system call, with a result that is known beforehand.
//!
//! The process that is started is the controller; the target is its only child and has a single thread, so
//! that whoever stops "a thread of the target" always hits the blocked one. The controller says `ready` once
//! the kernel shows the target inside the call. `go` completes the call (one with a timeout completes by
//! itself), and the answer tells how it returned. `exit` asks for the last look at the whole process.

mod child;
mod futex;
mod io;
mod ipc;
mod poll;
mod signal;
mod time;

use crate::baseline::{Baseline, Left};
use crate::{Verdict, control, option, pace, sys};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A blocking call that a victim can be asked to sit in.
pub struct Kind {
    /// As given on the command line.
    pub name: &'static str,
    /// Returns by itself when its timeout is over, without `go`.
    pub timed: bool,
    nr: libc::c_long,
    make: fn(Timing) -> Result<Call, String>,
}

const fn kind(name: &'static str, nr: libc::c_long, make: fn(Timing) -> Result<Call, String>) -> Kind {
    Kind { name, timed: false, nr, make }
}

const fn timed(name: &'static str, nr: libc::c_long, make: fn(Timing) -> Result<Call, String>) -> Kind {
    Kind { name, timed: true, nr, make }
}

/// Every kind: what signal(7) lists under "Interruption of system calls", both halves of it.
pub const KINDS: &[Kind] = &[
    kind("accept", libc::SYS_accept4, io::accept),
    timed("clock-nanosleep", libc::SYS_clock_nanosleep, time::clock_nanosleep),
    timed("clock-nanosleep-abs", libc::SYS_clock_nanosleep, time::clock_nanosleep_abs),
    kind("epoll", libc::SYS_epoll_wait, poll::epoll),
    timed("epoll-timeout", libc::SYS_epoll_wait, poll::epoll_timeout),
    kind("epoll-pwait", libc::SYS_epoll_pwait, poll::epoll_pwait),
    kind("flock", libc::SYS_flock, io::flock),
    kind("futex", libc::SYS_futex, futex::wait),
    timed("futex-abs-timeout", libc::SYS_futex, futex::bitset_timeout),
    timed("futex-timeout", libc::SYS_futex, futex::timeout),
    kind("inotify-read", libc::SYS_read, io::inotify),
    kind("io-getevents", libc::SYS_io_getevents, io::getevents),
    timed("io-getevents-timeout", libc::SYS_io_getevents, io::getevents_timeout),
    kind("msgrcv", libc::SYS_msgrcv, ipc::msgrcv),
    timed("nanosleep", libc::SYS_nanosleep, time::nanosleep),
    kind("pause", libc::SYS_pause, signal::pause),
    kind("poll", libc::SYS_poll, poll::poll),
    timed("poll-timeout", libc::SYS_poll, poll::poll_timeout),
    timed("ppoll-timeout", libc::SYS_ppoll, poll::ppoll_timeout),
    kind("read-pipe", libc::SYS_read, io::read_pipe),
    timed("read-timerfd", libc::SYS_read, time::timerfd),
    kind("read-tty", libc::SYS_read, io::read_tty),
    kind("recvmsg", libc::SYS_recvmsg, io::recvmsg),
    timed("recvmsg-timeout", libc::SYS_recvmsg, io::recvmsg_timeout),
    kind("select", libc::SYS_select, poll::select),
    timed("select-timeout", libc::SYS_select, poll::select_timeout),
    kind("semop", libc::SYS_semtimedop, ipc::semop),
    timed("semop-timeout", libc::SYS_semtimedop, ipc::semop_timeout),
    kind("sigsuspend", libc::SYS_rt_sigsuspend, signal::sigsuspend),
    kind("sigtimedwait", libc::SYS_rt_sigtimedwait, signal::sigtimedwait),
    timed("sigtimedwait-timeout", libc::SYS_rt_sigtimedwait, signal::sigtimedwait_timeout),
    kind("vfork", libc::SYS_clone, child::vfork),
    kind("wait4", libc::SYS_wait4, child::wait4),
    kind("wait4-any", libc::SYS_wait4, child::wait4_any),
    kind("waitid", libc::SYS_waitid, child::waitid),
    kind("write-pipe", libc::SYS_write, io::write_pipe),
    // A write that has moved some bytes already returns short when it is interrupted, like with any signal.
    kind("write-pipe-partial", libc::SYS_write, io::write_pipe_partial),
];

/// What a call with a timeout has to keep to.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    duration: Duration,
    late: Duration,
}

impl Timing {
    /// Runs a call with a timeout, which must take `duration`, and at most `late` more.
    fn measure(self, call: impl FnOnce() -> Verdict) -> Verdict {
        let begin = Instant::now();
        call()?;
        let (took, wanted) = (begin.elapsed(), self.duration);
        if took < wanted {
            return Err(format!("timeout of {wanted:?} was over after {took:?}: too early"));
        }
        if took > wanted + self.late {
            return Err(format!("timeout of {wanted:?} was over after {took:?}: too late"));
        }
        Ok(())
    }

    fn ms(self) -> i32 {
        self.duration.as_millis() as i32
    }
}

/// The two sides of a blocking call, and what the target does before its baseline is taken.
pub(crate) struct Call {
    setup: Box<dyn FnMut() -> Verdict>,
    block: Box<dyn FnMut() -> Verdict>,
    release: Box<dyn FnMut(i32) -> Verdict>,
}

impl Call {
    fn new(
        block: impl FnMut() -> Verdict + 'static,
        release: impl FnMut(i32) -> Verdict + 'static,
    ) -> Result<Self, String> {
        Ok(Self { setup: Box::new(|| Ok(())), block: Box::new(block), release: Box::new(release) })
    }

    /// A call that ends by its own timeout.
    fn timed(timing: Timing, mut call: impl FnMut() -> Verdict + 'static) -> Result<Self, String> {
        Self::new(move || timing.measure(&mut call), |_| Ok(()))
    }

    fn with_setup(self, setup: impl FnMut() -> Verdict + 'static) -> Self {
        Self { setup: Box::new(setup), ..self }
    }
}

/// A timeout's errno: the call must fail with exactly this one.
fn must_fail(call: &str, value: impl Into<i64>, errno: i32) -> Verdict {
    let value = value.into();
    match (value, sys::errno()) {
        (-1, e) if e == errno => Ok(()),
        (-1, e) => Err(format!("{call}: {}, expected {}", control::describe(e), control::describe(errno))),
        _ => Err(format!("{call} returned {value}, expected {}", control::describe(errno))),
    }
}

/// A call that must return exactly `expected`.
fn must_return(call: &str, value: impl Into<i64>, expected: i64) -> Verdict {
    match sys::os(call, value)? {
        value if value == expected => Ok(()),
        value => Err(format!("{call} returned {value}, expected {expected}")),
    }
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let wanted = args.first().map_or("", String::as_str);
    let Some(kind) = KINDS.iter().find(|kind| kind.name == wanted) else {
        return Err(format!("blocking {wanted:?}: known are {:?}", KINDS.map_names()));
    };
    let timing = Timing {
        duration: Duration::from_millis(option(args, "--ms", 1500)?),
        late: Duration::from_millis(option(args, "--late-ms", 300)?),
    };
    let mut call = (kind.make)(timing)?;
    let (commands, command) = sys::pipe()?;
    let (verdicts, verdict) = sys::pipe()?;
    let target = sys::fork(|| target(&mut call, kind, &commands, &verdict))?;
    drop((commands, verdict));
    await_blocked(target, kind.nr, &verdicts)?;
    control::say(&format!("ready {target} {wanted}"));
    let result = control_target(&mut call, kind, target, &command, &verdicts);
    if result.is_err() {
        let _ = sys::kill(target, libc::SIGKILL);
    }
    result
}

/// The target: block, report, wait to be told to look around, report again.
fn target(call: &mut Call, kind: &Kind, commands: &OwnedFd, verdict: &OwnedFd) -> i32 {
    let mut story = || -> Verdict {
        sys::die_with_parent()?;
        (call.setup)()?;
        let baseline = Baseline::capture()?;
        (call.block)()?;
        // What ends by itself may do so in the middle of a visit, when there is a tracer to be seen.
        if !kind.timed {
            baseline.check(Left::Agent)?;
        }
        sys::write_all(verdict, b"ok\n")?;
        let mut left = [0];
        sys::read(commands, &mut left)?;
        baseline.check(if left == *b"a" { Left::Agent } else { Left::Nothing })
    };
    let result = story();
    let line = result.as_ref().map_or_else(|reason| format!("{reason}\n"), |()| "ok\n".to_owned());
    let told = sys::write_all(verdict, line.as_bytes());
    i32::from(result.is_err() || told.is_err())
}

/// The controller: relays between the tester and the target.
fn control_target(
    call: &mut Call,
    kind: &Kind,
    target: i32,
    command: &OwnedFd,
    verdicts: &OwnedFd,
) -> Verdict {
    let begin = Instant::now();
    if !kind.timed {
        control::wait_for_go()?;
        // A visit that has just ended may have let it go a moment before it is in its call again: what is done to it by then
        // (a signal, a wake-up) would be lost. Where it doesn't come back it says why below.
        let _ = await_blocked(target, kind.nr, verdicts);
        if let Err(reason) = (call.release)(target) {
            // Most often because the target is not in the call any more: then it said why.
            sys::kill(target, libc::SIGKILL)?;
            let last = line(verdicts).unwrap_or_default();
            return Err(format!("{}: {last} (completing it: {reason})", kind.name));
        }
    }
    let first = line(verdicts)?;
    if first != "ok" {
        return Err(format!("{}: {first}", kind.name));
    }
    control::say(&format!("ok {} returned after {} ms", kind.name, begin.elapsed().as_millis()));
    // `go` for a timed call changes nothing and is answered by the line above.
    let mut end = control::command()?;
    while end.as_deref() == Some("go") {
        end = control::command()?;
    }
    sys::write_all(command, if end.as_deref() == Some("exit attached") { b"a" } else { b"d" })?;
    let last = line(verdicts)?;
    if last != "ok" {
        return Err(format!("{}: {last}", kind.name));
    }
    sys::wait_success(target)?;
    control::say("ok");
    Ok(())
}

/// A line from the target, or its end.
fn line(fd: &OwnedFd) -> Result<String, String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while sys::read(fd, &mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    if text.is_empty() {
        Err("the target died".to_owned())
    } else {
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Waits until the kernel shows `pid` inside system call `nr`, or it has a verdict: a call with a timeout may be over before
/// this process has looked once.
fn await_blocked(pid: i32, nr: libc::c_long, verdicts: &OwnedFd) -> Verdict {
    let calls = [nr, libc::SYS_restart_syscall].map(|nr| nr.to_string());
    let begin = Instant::now();
    let path = format!("/proc/{pid}/syscall");
    let mut seen = String::new();
    while begin.elapsed() < pace::limit(Duration::from_secs(20)) {
        seen = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let is_in = |call: &String| seen.split_whitespace().next() == Some(call.as_str());
        if calls.iter().any(is_in) || is_readable(verdicts) {
            return Ok(());
        }
        sys::sleep(Duration::from_millis(1))?;
    }
    Err(format!("the target isn't in system call {nr} but {}", seen.trim()))
}

/// Whether there is something to read, or the end.
fn is_readable(fd: &OwnedFd) -> bool {
    let mut entry = libc::pollfd { fd: raw(fd), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut entry, 1, 0) > 0 }
}

trait Names {
    fn map_names(&self) -> Vec<&'static str>;
}

impl Names for [Kind] {
    fn map_names(&self) -> Vec<&'static str> {
        self.iter().map(|kind| kind.name).collect()
    }
}

/// A descriptor that the calls share between both processes.
fn raw(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
