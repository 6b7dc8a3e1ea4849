//! Target programs for tests, and the tester's side of them.
//!
//! A *victim* is a program that farspace operates on. It is written to notice every way in which that can go
//! wrong for it, so that a test can ask it: "do you still run unharmed?". All of them live in one multi-call
//! program, `farspace-victim NAME ARGS...`; a test program that calls [`host`] first can also serve as its own
//! victims, which is what makes one static binary enough inside a virtual machine.
//!
//! # Protocol
//!
//! One line each way, on stdin and stdout of the victim.
//!
//! * First line: `ready PID [WORD...]`, PID being the process to operate on (not always the one that was
//!   started: some victims are a controller and its child), or `skip REASON`.
//! * `check`: answers `ok` or `harmed REASON`. Allows an agent's mapping to be there.
//! * `check detached`: the same, and nothing may be left in the address space either.
//! * `go`: lets a blocked victim's call complete. It answers `ok ...` or `harmed REASON` and exits.
//! * `exit` (or end of file): a last `check detached`, answered, then exit status 0 if unharmed, 1 if not.
//!   `exit attached` makes it a last `check`.
//!
//! [`harness::Victim`] is the tester's side.

pub mod baseline;
pub mod control;
pub mod harness;
pub mod pace;
pub mod pattern;
pub mod sys;
pub mod witness;
pub mod work;

mod attached;
mod blocking;
mod checksum;
mod children;
mod elf32;
mod ending;
mod holes;
mod mapper;
mod memory;
mod nproc;
mod pool;
mod reaper;
mod region;
mod room;
mod seccomp;
mod smaps;
mod storm;
mod stuck;
mod sweep;
mod timeline;
mod traced;
mod tree;

use std::process::ExitCode;

pub use blocking::KINDS as BLOCKING_KINDS;
pub use region::PAGE;

/// What a victim's main function gives: unharmed, or why not.
pub type Verdict = Result<(), String>;

type Main = fn(&[String]) -> Verdict;

/// Every victim by name, with its arguments.
const VICTIMS: &[(&str, &str, Main)] = &[
    ("blocking", "KIND [--ms N] [--late-ms N]", blocking::main),
    ("checksum", "[--threads N] [--seconds S] [--rounds N] [--block BYTES]", checksum::main),
    ("elf32", "", elf32::main),
    ("exec-loop", "", ending::exec_loop),
    ("exit-race", "[--after-us N] [--threads N]", ending::exit_race),
    ("guest-room", "[--image N]", room::main),
    ("holes", "", holes::main),
    ("idle", "", attached::idle),
    ("mapper", "[--seed N] [--children N]", mapper::main),
    ("memory", "[NAME[:LEN[K|M|G]]...]", memory::main),
    ("nproc", "", nproc::main),
    ("pool", "--pages N [--noreserve N]", pool::main),
    ("reaper", "subreaper|pidns", reaper::main),
    ("seccomp", "kill|errno|strict", seccomp::main),
    ("sigchld", "handler|ignore|nocldwait", children::sigchld),
    ("stopped", "", ending::stopped),
    ("storm", "[fork] [mmap] [thread] [exec]", storm::main),
    ("stuck-room", "", stuck::main),
    ("sweep", "[--pages N] [--pause-us N]", sweep::main),
    ("timeline", "[--threads N] [--room]", timeline::main),
    ("traced", "running|stopped", traced::main),
    ("tree", "[--dir DIR] [--cold-mib N] [--hot PAGES] [--pause-ms N]", tree::main),
    ("undumpable", "[--uid N]", attached::undumpable),
    ("wait-all", "spin|block", children::wait_all),
    ("zombie", "process|leader", ending::zombie),
];

/// The name under which a program behaves as the multi-call victim.
pub const PROGRAM: &str = "farspace-victim";

/// Makes this program able to serve as its own victims: call it first thing in `main`.
///
/// Returns the exit code to leave with when this process was started as a victim, else `None`.
pub fn host() -> Option<ExitCode> {
    let mut args = std::env::args();
    if args.next().as_deref().and_then(|name| name.rsplit('/').next()) == Some(PROGRAM) {
        return Some(run(&args.collect::<Vec<_>>()));
    }
    harness::host_is_self();
    None
}

/// Runs the victim named by the first argument.
pub fn run(args: &[String]) -> ExitCode {
    let Some((_, _, main)) = args.first().and_then(|name| VICTIMS.iter().find(|(known, ..)| known == name))
    else {
        eprintln!("usage: {PROGRAM} NAME ARGS..., where NAME ARGS is one of");
        for (name, usage, _) in VICTIMS {
            eprintln!("  {name} {usage}");
        }
        return ExitCode::from(2);
    };
    sys::keep_heap_in_one_place();
    match main(&args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            control::say(&format!("harmed {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// The value that follows `--name` in `args`, or `default`.
fn option<T: std::str::FromStr>(args: &[String], name: &str, default: T) -> Result<T, String> {
    match args.iter().position(|arg| arg == name) {
        None => Ok(default),
        Some(at) => {
            let value = args.get(at + 1).ok_or_else(|| format!("{name} needs a value"))?;
            value.parse().map_err(|_| format!("{name} {value}: not understood"))
        }
    }
}
