//! A process and its descendants, at one instant.
//!
//! Agents are placed while everything runs. Then the processes are stopped from the root down: a stopped process makes no
//! more children, so a look at its children afterwards is final, and new ones are visited on the way. When the last is
//! stopped all are, and that is the instant.
//!
//! They are stopped by ptrace, although a control group's freezer would take a single write: a group that is frozen stays so
//! when farspace is killed, it holds other processes than the tree, and it would freeze the agents, which live in the
//! same group. A ptrace stop ends with the tracer, whatever ends that.
//!
//! At the level `converge` all go through the rounds together ([`rounds`](super::rounds)), and what each of them has written
//! last is copied in the one stop. Who is found only in the stop is forked there.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use farspace::{Frozen, Snapshot, Target};
use farspace_sys::process;
use rustix::io::Errno;

use super::job::{Before, Held, Job, To, Written};
use super::shared::SharedMemory;
use super::{Tell, attach, explain, instead, is_stopped, nanos, report, visitable};
use crate::converge::{self, Convergence, Gather, Rest};
use crate::place::{Destination, Folder, Place};
use crate::program::Program;
use crate::{DumpOptions, DumpReport, Error, Level, OnMiss, Progress, Result, TreeReport};

/// Writes the ELF cores of a process and all its descendants, as of one instant, into a new directory or to a receiver:
/// `core.PID` for each.
///
/// Memory that several of them share is in the core of the first that has it; the others have none of its bytes, and
/// their [`weaker`](DumpReport::weaker) says where they are. A process that ends before the instant is no part of
/// the dump. One that ends afterwards, while its core is written, is left out, and the report says so.
///
/// # Errors
///
/// As [`dump`](crate::dump), for the root of the tree; a descendant that can't be visited; processes are made faster than
/// they can be stopped.
pub fn dump_tree(
    pid: i32,
    to: &Destination,
    options: &DumpOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<TreeReport> {
    farspace::on_own_thread(|| {
        let root = visitable(pid)?.tgid;
        let folder = Folder::create(to)?;
        let shared = SharedMemory::default();
        let mut tree =
            Tree { root, options, folder: &folder, shared: &shared, progress, left_out: Vec::new(), done: 0 };
        let (processes, stop_ns, begin) = tree.dump().inspect_err(|error| folder.give_up(error))?;
        let left_out = tree.left_out;
        folder.finish()?;
        // The root's, unless another one has it differently.
        let requested = options.level.name();
        let other = processes.iter().map(|process| process.level.as_str()).find(|level| *level != requested);
        Ok(TreeReport {
            pid: root,
            level: other.unwrap_or(requested).to_owned(),
            requested_level: requested.to_owned(),
            path: PathBuf::from(to.to_string()),
            stop_ns,
            total_ns: nanos(begin.elapsed()),
            bytes_written: processes.iter().map(|process| process.bytes_written).sum(),
            processes,
            left_out,
        })
    })
}

pub(super) struct Tree<'a> {
    pub(super) root: i32,
    pub(super) options: &'a DumpOptions,
    folder: &'a Folder,
    shared: &'a SharedMemory,
    progress: Tell<'a>,
    left_out: Vec<String>,
    /// Bytes that were written for all so far.
    done: u64,
}

/// One process of the tree.
pub(super) struct Member<'a> {
    pub(super) pid: i32,
    pub(super) program: Program,
    pub(super) target: Target,
    pub(super) job: Job<'a>,
}

/// What was done for a process before the stop.
pub(super) enum Ready {
    /// Looked at.
    Looked(Before),
    /// Copied, as far as it stays as it is.
    Copied(Box<Copied>),
}

/// A core that converges.
pub(super) struct Copied {
    pub(super) run: Convergence,
    pub(super) place: Place,
}

/// One process that is stopped.
struct Stopped<'a> {
    member: Member<'a>,
    ready: Ready,
    frozen: Frozen,
}

/// What was taken of a process while it stood still.
enum Taken {
    /// For the levels without rounds.
    Held(Held),
    /// What is left to copy of a core, and a fork to copy it from.
    Rest(Box<Copied>, Box<Rest>, Option<Snapshot>),
}

type Done = (Vec<DumpReport>, u64, Instant);

impl<'a> Tree<'a> {
    fn dump(&mut self) -> Result<Done> {
        let begin = Instant::now();
        let members = self.visit()?;
        let mut gather = None;
        let members = if self.options.level == Level::Converge {
            self.rounds(members, gather.insert(converge::gather()))?
        } else {
            self.look(members)?
        };
        let since = Instant::now();
        let stopped = self.stop(members)?;
        // Everything stands still: this is the instant.
        let mut taken = self.take(stopped)?;
        let missed = match self.miss(&taken, since) {
            Ok(missed) => missed,
            Err(error) => {
                // All go on before the watching ends, which takes a little time.
                let taken: Vec<_> =
                    taken.into_iter().map(|(_, frozen, taken)| (frozen.thaw(), taken)).collect();
                for (_, taken) in taken {
                    if let Taken::Rest(copied, ..) = taken {
                        copied.run.give_up();
                    }
                }
                return Err(error);
            }
        };
        let mut reports = Vec::with_capacity(taken.len());
        let mut later = Vec::with_capacity(taken.len());
        let mut frozen = Vec::with_capacity(taken.len());
        for (mut member, stopped, mut taken) in taken.drain(..) {
            frozen.push(stopped);
            match (&mut taken, &mut gather) {
                (Taken::Held(_), _) if member.job.copies_stopped() => {
                    self.write(member, taken, None, &mut reports)?
                }
                (Taken::Rest(copied, rest, fork), Some(gather)) => {
                    if let Err(error) = self.last(&mut member, copied, rest, fork, missed.as_deref(), gather)
                    {
                        self.drop_core(&member, taken, error, Some(gather))?;
                        continue;
                    }
                    later.push((member, taken));
                }
                _ => later.push((member, taken)),
            }
        }
        for stopped in frozen {
            stopped.thaw();
        }
        let stop = since.elapsed();
        for (member, taken) in later {
            self.write(member, taken, gather.as_mut(), &mut reports)?;
        }
        for report in &mut reports {
            report.stop_ns = nanos(stop);
        }
        Ok((reports, nanos(stop), begin))
    }

    /// What must be taken while everything stands still.
    fn take(&mut self, stopped: Vec<Stopped<'a>>) -> Result<Vec<(Member<'a>, Frozen, Taken)>> {
        let mut all = Vec::with_capacity(stopped.len());
        for Stopped { mut member, ready, frozen } in stopped {
            let Member { target, job, .. } = &mut member;
            match ready {
                Ready::Looked(before) => match job.at_stop(target, &frozen, before) {
                    Ok(held) => all.push((member, frozen, Taken::Held(held))),
                    Err(error) => self.leave_out(member.pid, error)?,
                },
                Ready::Copied(mut copied) => {
                    let census = job.census();
                    match census.and_then(|census| copied.run.rest(job, target, &frozen, census)) {
                        Ok(rest) => all.push((member, frozen, Taken::Rest(copied, Box::new(rest), None))),
                        Err(error) => self.discard(&member, copied.place, error)?,
                    }
                }
            }
        }
        Ok(all)
    }

    /// Whether the stop is longer than it may be, and why.
    fn miss(&self, all: &[(Member<'a>, Frozen, Taken)], since: Instant) -> Result<Option<String>> {
        let (mut bytes, mut time) = (0, since.elapsed());
        for (_, _, taken) in all {
            if let Taken::Rest(copied, rest, _) = taken {
                bytes += rest.bytes();
                time += copied.run.time_for(rest.bytes());
            }
        }
        match converge::miss(self.options, bytes, time) {
            Some(reason) if self.options.on_miss == OnMiss::Fail => {
                Err(Error::Downtime { pid: self.root, reason })
            }
            missed => Ok(missed),
        }
    }

    /// The last of a core that converges: copies what has changed, or forks the process as it stands.
    fn last(
        &mut self,
        member: &mut Member<'a>,
        copied: &mut Copied,
        rest: &Rest,
        fork: &mut Option<Snapshot>,
        missed: Option<&str>,
        gather: &mut Gather,
    ) -> Result<()> {
        let course = &mut member.job.course;
        course.missed = missed.map(str::to_owned);
        let has_agent = member.target.report().mechanism.is_zero_copy();
        course.level = match missed {
            None => Level::Converge,
            Some(_) if self.options.on_miss == OnMiss::Snapshot && has_agent => Level::Snapshot,
            Some(_) => Level::Frozen,
        };
        if course.level == Level::Snapshot {
            *fork = Some(member.target.snapshot()?);
            return Ok(());
        }
        let Copied { run, place } = copied;
        let mut tell = self.teller();
        let mut to = To { place, progress: &mut tell };
        run.copy(&mut member.job, &mut member.target, rest, gather, &mut to)
    }

    /// Attaches to all that are there now, parents first.
    fn visit(&mut self) -> Result<Vec<Member<'a>>> {
        let mut members: Vec<Member<'a>> = Vec::new();
        let mut queue = vec![self.root];
        let mut seen = HashSet::from([self.root]);
        while let Some(pid) = queue.pop() {
            if let Some(member) = self.attach(pid)? {
                seen.extend(member.target.agent_pid());
                members.push(member);
                queue.extend(children(pid).into_iter().rev().filter(|child| seen.insert(*child)));
            }
            self.go_on()?;
        }
        Ok(members)
    }

    /// What takes long is done before the first is stopped.
    pub(super) fn look(&mut self, members: Vec<Member<'a>>) -> Result<Vec<(Member<'a>, Ready)>> {
        let mut looked = Vec::with_capacity(members.len());
        for member in members {
            match member.job.before(&member.target, None) {
                Ok(before) => looked.push((member, Ready::Looked(before))),
                Err(error) => self.leave_out(member.pid, error)?,
            }
        }
        Ok(looked)
    }

    /// Stops all members, and whoever they have made meanwhile.
    fn stop(&mut self, members: Vec<(Member<'a>, Ready)>) -> Result<Vec<Stopped<'a>>> {
        let deadline = Instant::now() + self.options.stop_timeout;
        let mut seen: HashSet<i32> = members.iter().map(|(member, _)| member.pid).collect();
        seen.extend(members.iter().filter_map(|(member, _)| member.target.agent_pid()));
        let mut queue: Vec<_> = members.into_iter().rev().collect();
        let mut stopped: Vec<Stopped<'a>> = Vec::with_capacity(queue.len());
        while let Some((member, ready)) = queue.pop() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Grows { pid: self.root, stopped: stopped.len() });
            }
            let frozen = match member.program.freeze(&member.target, left) {
                Ok(frozen) => frozen,
                Err(error) => {
                    match ready {
                        Ready::Looked(_) => self.leave_out(member.pid, error)?,
                        Ready::Copied(copied) => self.discard(&member, copied.place, error)?,
                    }
                    continue;
                }
            };
            let new: Vec<i32> =
                children(member.pid).into_iter().filter(|child| seen.insert(*child)).collect();
            stopped.push(Stopped { member, ready, frozen });
            for pid in new {
                let Some(mut member) = self.attach(pid)? else { continue };
                seen.extend(member.target.agent_pid());
                if self.options.level == Level::Converge {
                    let course = instead(&member.target, "it was made after the last round", Vec::new());
                    member.job.fall_back(course.level, course);
                }
                queue.extend(self.look(vec![member])?);
            }
            self.go_on()?;
        }
        Ok(stopped)
    }

    pub(super) fn attach(&mut self, pid: i32) -> Result<Option<Member<'a>>> {
        if pid == std::process::id() as i32 {
            let what = format!("pid {pid} is farspace itself");
            if !self.left_out.contains(&what) {
                self.left_out.push(what);
            }
            return Ok(None);
        }
        let attached = visitable(pid).and_then(|status| {
            let program = Program::of(pid);
            let target = attach(pid, self.options)?;
            let job = Job::new(pid, self.options, is_stopped(&status)).sharing(self.shared, &name(pid));
            Ok(Member { pid, program, target, job })
        });
        match attached {
            Ok(member) => Ok(Some(member)),
            Err(error) => self.not_there(pid, error).map(|()| None),
        }
    }

    /// Begins the core of a process.
    pub(super) fn begin(&self, pid: i32) -> Result<Place> {
        self.folder.file(&name(pid))
    }

    /// A descendant that has ended before the instant is no part of the tree; anything else is an error.
    pub(super) fn not_there(&self, pid: i32, error: Error) -> Result<()> {
        let has_ended = process::status(pid).map_or(true, |status| status.no_memory);
        if pid != self.root && has_ended { Ok(()) } else { Err(error) }
    }

    /// The same after the instant is fixed for some: the report says it.
    fn leave_out(&mut self, pid: i32, error: Error) -> Result<()> {
        let gone = match &error {
            Error::Gone { .. } => true,
            Error::Target(error) => error.errno() == Errno::SRCH,
            _ => false,
        };
        if !gone || pid == self.root {
            return self.not_there(pid, error);
        }
        self.left_out
            .push(format!("pid {pid} ended or executed another program before its core was complete"));
        Ok(())
    }

    /// Tells the caller how far all are.
    pub(super) fn teller(&mut self) -> impl FnMut(Progress) -> ControlFlow<()> + Send + '_ {
        let (already, progress) = (self.done, &mut *self.progress);
        move |p: Progress| {
            progress(Progress { done_bytes: already + p.done_bytes, total_bytes: already + p.total_bytes })
        }
    }

    /// Writes a core, or completes it.
    fn write(
        &mut self,
        mut member: Member<'a>,
        taken: Taken,
        gather: Option<&mut Gather>,
        reports: &mut Vec<DumpReport>,
    ) -> Result<()> {
        let begin = Instant::now();
        let (place, written) = match (taken, gather) {
            (Taken::Rest(copied, rest, fork), Some(gather)) => {
                let Copied { mut run, place } = *copied;
                let mut tell = self.teller();
                let mut to = To { place: &place, progress: &mut tell };
                let Member { job, target, .. } = &mut member;
                let forked = fork.map_or(Ok(()), |fork| run.copy_fork(job, target, fork, &rest, &mut to));
                let written = forked.and_then(|()| run.complete(job, *rest, gather, &to));
                drop(tell);
                (place, written)
            }
            (Taken::Held(held), _) => {
                let place = self.begin(member.pid)?;
                let written = self.write_held(&mut member, held, &place);
                (place, written)
            }
            // Nothing is left to copy but where there were rounds.
            (Taken::Rest(..), None) => return Ok(()),
        };
        match written.map_err(|error| explain(error, &place, &member.program, member.pid)) {
            Ok(written) => {
                let found = member.target.report().clone();
                // It may end now: its core is complete.
                let detached = member.target.detach();
                if process::status(member.pid).is_ok_and(|status| !status.no_memory) {
                    detached?;
                }
                let path = self.folder.path().join(name(member.pid));
                self.done += written.bytes;
                reports.push(report(member.pid, path, self.options, written, found, begin.elapsed()));
                Ok(())
            }
            Err(error) => self.discard(&member, place, error),
        }
    }

    fn write_held(&mut self, member: &mut Member<'a>, held: Held, place: &Place) -> Result<Written> {
        let mut tell = self.teller();
        let Member { job, target, program, .. } = member;
        let copies_stopped = job.copies_stopped();
        let written = job.write(target, program, held, &mut To { place, progress: &mut tell })?;
        if copies_stopped {
            place.settle(&mut |_| tell(Progress::NONE))?;
        }
        Ok(written)
    }

    /// Leaves a process out whose core was begun.
    fn discard(&mut self, member: &Member<'a>, place: Place, error: Error) -> Result<()> {
        let error = explain(error, &place, &member.program, member.pid);
        self.leave_out(member.pid, error)?;
        self.forget(member.pid, place)
    }

    /// Removes a core that was begun.
    pub(super) fn forget(&self, pid: i32, place: Place) -> Result<()> {
        self.shared.forget(&name(pid));
        self.folder.discard(place, &name(pid))
    }

    fn drop_core(
        &mut self,
        member: &Member<'a>,
        taken: Taken,
        error: Error,
        gather: Option<&mut Gather>,
    ) -> Result<()> {
        if let Some(gather) = gather {
            gather.forget(member.pid);
        }
        match taken {
            Taken::Rest(copied, ..) => self.discard(member, copied.place, error),
            Taken::Held(_) => self.leave_out(member.pid, error),
        }
    }

    pub(super) fn go_on(&mut self) -> Result<()> {
        if (self.progress)(Progress::NONE).is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The name of a process's core.
fn name(pid: i32) -> String {
    format!("core.{pid}")
}

/// The children; of who has ended, none.
pub(super) fn children(pid: i32) -> Vec<i32> {
    process::children(pid).unwrap_or_default()
}
