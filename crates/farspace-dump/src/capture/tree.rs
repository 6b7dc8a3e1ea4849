//! A process and its descendants, at one instant.
//!
//! Agents are placed while everything runs. Then the processes are stopped from the root down: a stopped process makes no
//! more children, so a look at its children afterwards is final, and new ones are visited on the way. When the last is
//! stopped all are, and that is the instant.
//!
//! They are stopped by ptrace, although a control group's freezer would take a single write: a group that is frozen stays so
//! when farspace is killed, it holds other processes than the tree, and it would freeze the agents, which live in the
//! same group. A ptrace stop ends with the tracer, whatever ends that.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use farspace::{Frozen, Target};
use farspace_sys::process;
use rustix::io::Errno;

use super::job::{Before, Held, Job, To};
use super::shared::SharedMemory;
use super::{Tell, attach, explain, is_stopped, nanos, report, visitable};
use crate::place::{Destination, Folder};
use crate::program::Program;
use crate::{DumpOptions, DumpReport, Error, Level, Progress, Result, TreeReport};

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
        // Several processes that converge would have to do so at the same moment.
        let level = if options.level == Level::Converge { Level::Snapshot } else { options.level };
        let options = &DumpOptions { level, ..options.clone() };
        let folder = Folder::create(to)?;
        let shared = SharedMemory::default();
        let mut tree =
            Tree { root, options, folder: &folder, shared: &shared, progress, left_out: Vec::new() };
        let (processes, stop_ns, begin) = tree.dump().inspect_err(|error| folder.give_up(error))?;
        let left_out = tree.left_out;
        folder.finish()?;
        Ok(TreeReport {
            pid: root,
            level: options.level.name().to_owned(),
            path: PathBuf::from(to.to_string()),
            stop_ns,
            total_ns: nanos(begin.elapsed()),
            bytes_written: processes.iter().map(|process| process.bytes_written).sum(),
            processes,
            left_out,
        })
    })
}

struct Tree<'a> {
    root: i32,
    options: &'a DumpOptions,
    folder: &'a Folder,
    shared: &'a SharedMemory,
    progress: Tell<'a>,
    left_out: Vec<String>,
}

/// One process of the tree.
struct Member {
    pid: i32,
    program: Program,
    was_stopped: bool,
    target: Target,
}

/// One process that is stopped.
struct Stopped {
    member: Member,
    before: Before,
    frozen: Frozen,
}

type Done = (Vec<DumpReport>, u64, Instant);

impl Tree<'_> {
    fn dump(&mut self) -> Result<Done> {
        let begin = Instant::now();
        let members = self.visit()?;
        let since = Instant::now();
        let stopped = self.stop(members)?;
        // Everything stands still: this is the instant.
        let mut held = Vec::with_capacity(stopped.len());
        for Stopped { mut member, before, frozen } in stopped {
            match self.job(&member, "").at_stop(&mut member.target, &frozen, before) {
                Ok(taken) => held.push((member, frozen, taken)),
                Err(error) => self.leave_out(member.pid, error)?,
            }
        }
        let mut reports = Vec::with_capacity(held.len());
        let stop;
        if self.options.level.copies_stopped() {
            let mut frozen = Vec::with_capacity(held.len());
            for (member, stopped, taken) in held {
                frozen.push(stopped);
                self.write(member, taken, &mut reports)?;
            }
            frozen.clear();
            stop = since.elapsed();
        } else {
            let mut running = Vec::with_capacity(held.len());
            for (member, stopped, taken) in held {
                stopped.thaw();
                running.push((member, taken));
            }
            stop = since.elapsed();
            for (member, taken) in running {
                self.write(member, taken, &mut reports)?;
            }
        }
        for report in &mut reports {
            report.stop_ns = nanos(stop);
        }
        Ok((reports, nanos(stop), begin))
    }

    /// Attaches to all that are there now, parents first.
    fn visit(&mut self) -> Result<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
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

    /// Stops all members, and whoever they have made meanwhile.
    fn stop(&mut self, members: Vec<Member>) -> Result<Vec<Stopped>> {
        let deadline = Instant::now() + self.options.stop_timeout;
        let mut seen: HashSet<i32> = members.iter().map(|member| member.pid).collect();
        seen.extend(members.iter().filter_map(|member| member.target.agent_pid()));
        // What takes long is done before the first is stopped.
        let mut queue = Vec::with_capacity(members.len());
        for member in members.into_iter().rev() {
            match self.job(&member, "").before(&member.target, None) {
                Ok(before) => queue.push((member, before)),
                Err(error) => self.leave_out(member.pid, error)?,
            }
        }
        let mut stopped: Vec<Stopped> = Vec::with_capacity(queue.len());
        while let Some((member, before)) = queue.pop() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Grows { pid: self.root, stopped: stopped.len() });
            }
            let frozen = match member.target.freeze(left) {
                Ok(frozen) => frozen,
                Err(error) => {
                    self.leave_out(member.pid, error.into())?;
                    continue;
                }
            };
            let new: Vec<i32> =
                children(member.pid).into_iter().filter(|child| seen.insert(*child)).collect();
            stopped.push(Stopped { member, before, frozen });
            for pid in new {
                let Some(member) = self.attach(pid)? else { continue };
                seen.extend(member.target.agent_pid());
                match self.job(&member, "").before(&member.target, None) {
                    Ok(before) => queue.push((member, before)),
                    Err(error) => self.leave_out(member.pid, error)?,
                }
            }
            self.go_on()?;
        }
        Ok(stopped)
    }

    fn attach(&mut self, pid: i32) -> Result<Option<Member>> {
        if pid == std::process::id() as i32 {
            self.left_out.push(format!("pid {pid} is farspace itself"));
            return Ok(None);
        }
        let attached = visitable(pid).and_then(|status| {
            let program = Program::of(pid);
            let target = attach(pid, self.options)?;
            Ok(Member { pid, program, was_stopped: is_stopped(&status), target })
        });
        match attached {
            Ok(member) => Ok(Some(member)),
            Err(error) => self.not_there(pid, error).map(|()| None),
        }
    }

    /// A descendant that has ended before the instant is no part of the tree; anything else is an error.
    fn not_there(&self, pid: i32, error: Error) -> Result<()> {
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

    fn job(&self, member: &Member, name: &str) -> Job<'_> {
        Job::new(member.pid, self.options, member.was_stopped).sharing(self.shared, name)
    }

    fn write(&mut self, mut member: Member, held: Held, reports: &mut Vec<DumpReport>) -> Result<()> {
        let begin = Instant::now();
        let name = format!("core.{}", member.pid);
        let place = self.folder.file(&name)?;
        let mut job = Job::new(member.pid, self.options, member.was_stopped).sharing(self.shared, &name);
        let already: u64 = reports.iter().map(|report| report.bytes_written).sum();
        let progress = &mut self.progress;
        let mut tell = |p: Progress| {
            progress(Progress { done_bytes: already + p.done_bytes, total_bytes: already + p.total_bytes })
        };
        let mut written = job.write(&mut member.target, held, &mut To { place: &place, progress: &mut tell });
        if self.options.level.copies_stopped() && written.is_ok() {
            let settled = place.settle(&mut |_| tell(Progress::NONE));
            written = settled.and(written);
        }
        match written.map_err(|error| explain(error, &place, &member.program, member.pid)) {
            Ok(written) => {
                let found = member.target.report().clone();
                member.target.detach()?;
                let path = self.folder.path().join(&name);
                reports.push(report(member.pid, path, self.options, written, found, begin.elapsed()));
                Ok(())
            }
            Err(error) => {
                self.leave_out(member.pid, error)?;
                self.shared.forget(&name);
                self.folder.discard(place, &name)
            }
        }
    }

    fn go_on(&mut self) -> Result<()> {
        if (self.progress)(Progress::NONE).is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The children; of who has ended, none.
fn children(pid: i32) -> Vec<i32> {
    process::children(pid).unwrap_or_default()
}
