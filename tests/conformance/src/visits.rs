//! Visits: attach to a target in an awkward state and detach again, several times, and the target never knows.
//!
//! What the specification and the design list as hazards. Each visit must end in one of the ways that its target
//! allows: served by some mechanism, or a clear error; and the target must run on unharmed in any case.

use crate::case::{Outcome, trial};
use crate::world::unharmed;
use farspace::{AttachOptions, Target};
use farspace_victims::BLOCKING_KINDS;
use farspace_victims::harness::{Failure, Victim};
use farspace_victims::pace;
use libtest_mimic::Trial;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How a visit to the target may end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ends {
    /// By pages, not copies: nothing is in the way.
    Pages,
    /// By any mechanism.
    Served,
    /// With ESRCH.
    Gone,
    /// Served, or ESRCH: the target changes all the time.
    Whatever,
}

/// Victims and how a visit to them may end.
const HAZARDS: &[(&str, &[&str], Ends)] = &[
    ("idle", &[], Ends::Pages),
    ("memory", &[], Ends::Pages),
    ("undumpable", &[], Ends::Pages),
    ("timeline", &["--threads", "2"], Ends::Pages),
    ("nproc", &[], Ends::Served),
    ("elf32", &[], Ends::Served),
    ("seccomp", &["kill"], Ends::Served),
    ("seccomp", &["errno"], Ends::Served),
    ("seccomp", &["strict"], Ends::Served),
    ("wait-all", &["spin"], Ends::Pages),
    ("wait-all", &["block"], Ends::Pages),
    ("sigchld", &["handler"], Ends::Pages),
    ("sigchld", &["ignore"], Ends::Pages),
    ("sigchld", &["nocldwait"], Ends::Pages),
    ("reaper", &["subreaper"], Ends::Served),
    ("reaper", &["pidns"], Ends::Served),
    ("traced", &["running"], Ends::Served),
    ("traced", &["stopped"], Ends::Served),
    ("zombie", &["process"], Ends::Gone),
    ("zombie", &["leader"], Ends::Whatever),
    ("storm", &["fork"], Ends::Served),
    ("storm", &["mmap"], Ends::Served),
    ("storm", &["thread"], Ends::Served),
    ("storm", &["exec"], Ends::Served),
    ("storm", &[], Ends::Served),
    ("exec-loop", &[], Ends::Whatever),
];

/// A single-threaded target in a call that can't be resumed exactly after any stop, whoever makes it.
const UNRESUMABLE: &[(&str, &str)] = &[(
    "write-pipe-partial",
    "a write that has moved bytes returns short on any stop (signal(7)), and there is no other thread to stop",
)];

const VISITS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(5);

/// All visits.
pub(crate) fn trials(backend: &str) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, args, ends) in HAZARDS.iter().copied() {
        let title = std::iter::once(&name).chain(args).copied().collect::<Vec<_>>().join("_");
        trials.push(trial(format!("visit_{title}"), backend, None, move || hazard(name, args, ends)));
    }
    trials.push(trial("visit_stopped".to_owned(), backend, None, stopped));
    trials.push(trial("visit_checksum".to_owned(), backend, None, checksum));
    for kind in BLOCKING_KINDS {
        let skip = UNRESUMABLE.iter().find(|(name, _)| *name == kind.name && backend != "native");
        let skip = skip.map(|(_, reason)| *reason);
        trials.push(trial(format!("visit_blocking_{}", kind.name), backend, skip, || blocking(kind.name)));
    }
    trials
}

/// One attach and detach.
fn visit(pid: i32, ends: Ends) -> Outcome {
    let allowed = |errno: Errno| matches!(ends, Ends::Gone | Ends::Whatever) && errno == Errno::SRCH;
    // Whoever gets no CPU for a second while an agent waits begins anew; after the usual two it would copy instead.
    let usual = AttachOptions::default();
    let patient = AttachOptions { stop_timeout: pace::limit(Duration::from_secs(20)), ..usual.clone() };
    let target = match Target::attach_with(pid, if ends == Ends::Pages { &patient } else { &usual }) {
        Ok(target) => target,
        Err(error) if allowed(error.errno()) => return Ok(()),
        Err(error) => return Err(format!("attach: {error}").into()),
    };
    let report = target.report().clone();
    target.detach().or_else(|error| if allowed(error.errno()) { Ok(()) } else { Err(error) })?;
    match ends {
        Ends::Gone => Err("a process that is gone was attached to".into()),
        Ends::Pages if !report.mechanism.is_zero_copy() => {
            Err(format!("served by {}: {:?}", report.mechanism, report.reasons).into())
        }
        _ => Ok(()),
    }
}

fn visits(pid: i32, ends: Ends) -> Outcome {
    (0..VISITS).try_for_each(|n| {
        visit(pid, ends).map_err(|e| format!("visit {n}: {}", e.message().unwrap_or_default()))?;
        std::thread::sleep(BETWEEN);
        Ok(())
    })
}

/// The harm is worth more than what the visits said: it comes first.
fn judge(visited: Outcome, target: Outcome) -> Outcome {
    match (visited, target) {
        (Err(visited), Err(target)) => {
            let text = |failed: &libtest_mimic::Failed| failed.message().unwrap_or_default().to_owned();
            Err(format!("{}; {}", text(&target), text(&visited)).into())
        }
        (visited, target) => target.and(visited),
    }
}

fn hazard(name: &str, args: &[&str], ends: Ends) -> Outcome {
    let victim = match Victim::spawn(name, args) {
        Err(Failure::Skip(reason)) => {
            eprintln!("not possible here: {reason}");
            return Ok(());
        }
        victim => victim?,
    };
    let visited = visits(victim.pid(), ends);
    let target = if name == "exec-loop" { victim.finish().map_err(Into::into) } else { unharmed(victim) };
    judge(visited, target)
}

fn blocking(kind: &str) -> Outcome {
    // Some timeouts begin anew at each visit, and twenty visits take long on a busy machine: early ends, EINTR and
    // hangs, which are no answer, are the harm that is looked for.
    let mut victim = Victim::spawn("blocking", &[kind, "--ms", "600", "--late-ms", "100000"])?;
    // Nobody can stop the parent of a vfork child: once is enough, for it takes its time.
    let visited =
        if kind == "vfork" { visit(victim.pid(), Ends::Served) } else { visits(victim.pid(), Ends::Pages) };
    let released = victim.release();
    let target = released.and_then(|_| victim.finish()).map_err(Into::into);
    judge(visited, target)
}

/// A process that is stopped by SIGSTOP stays so, through every visit, until its SIGCONT.
fn stopped() -> Outcome {
    let victim = Victim::spawn("stopped", &[])?;
    let pid = victim.pid();
    let is_stopped = || -> Result<bool, libtest_mimic::Failed> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')))
    };
    // A thread that was borrowed needs a CPU to stop again.
    let comes_to_rest = || -> Result<bool, libtest_mimic::Failed> {
        let begin = Instant::now();
        while !is_stopped()? && begin.elapsed() < pace::limit(Duration::from_secs(20)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        is_stopped()
    };
    comes_to_rest()?;
    let visited = visits(pid, Ends::Served).and_then(|()| {
        if comes_to_rest()? { Ok(()) } else { Err("a stopped process was continued by the visits".into()) }
    });
    farspace_victims::sys::kill(pid, libc::SIGCONT)?;
    judge(visited, unharmed(victim))
}

/// Registers and memory of busy threads, visited as often as possible.
fn checksum() -> Outcome {
    let victim = Victim::spawn("checksum", &["--seconds", "100", "--threads", "3"])?;
    let begin = Instant::now();
    let mut visited = Ok(());
    while visited.is_ok() && begin.elapsed() < Duration::from_millis(1500) {
        visited = visit(victim.pid(), Ends::Pages);
    }
    judge(visited, victim.finish().map_err(Into::into))
}
