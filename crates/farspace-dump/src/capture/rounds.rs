//! The rounds of several processes that are to stop together, at the level `converge`.
//!
//! All take part in each round, until what they have changed together is little enough: who is done would only begin again.
//! Who is made meanwhile joins in, who ends or executes another program is taken out, and comes back as what it is then.

use std::collections::HashSet;

use super::job::To;
use super::tree::{Copied, Member, Ready, Tree, children};
use super::way;
use crate::converge::{self, Convergence, Gather, Round};
use crate::{Error, Progress, Result};

impl<'a> Tree<'a> {
    /// Copies everything, then what has changed, and so on.
    pub(super) fn rounds(
        &mut self,
        members: Vec<Member<'a>>,
        gather: &mut Gather,
    ) -> Result<Vec<(Member<'a>, Ready)>> {
        let mut seen: HashSet<i32> = HashSet::new();
        let mut all = Vec::with_capacity(members.len());
        for member in members {
            all.extend(self.watch(member, &mut seen)?);
        }
        let mut rounds: Vec<Round> = Vec::new();
        let mut has_new = false;
        while rounds.len() < self.options.max_rounds
            && (has_new || converge::goes_on(&rounds, self.options.max_rounds))
        {
            let mut together = Round::default();
            let mut kept = Vec::with_capacity(all.len());
            for (member, ready) in all {
                let pid = member.pid;
                match self.round(member, ready, gather, &mut together, rounds.is_empty())? {
                    Some(member) => kept.push(member),
                    // If it lives it is found again.
                    None => _ = seen.remove(&pid),
                }
            }
            all = kept;
            rounds.push(together);
            has_new = self.join(&mut all, &mut seen)?;
        }
        // What was spliced is the targets' until a receiver has it. All go one way.
        let is_copied = |(_, ready): &&(Member<'_>, Ready)| matches!(ready, Ready::Copied(_));
        if let Some((_, Ready::Copied(copied))) = all.iter().find(is_copied) {
            let mut tell = self.teller();
            copied.place.settle(&mut |_| tell(Progress::NONE))?;
        }
        Ok(all)
    }

    /// Begins to watch a process; one that can't be is dumped in another way.
    fn watch(
        &mut self,
        mut member: Member<'a>,
        seen: &mut HashSet<i32>,
    ) -> Result<Option<(Member<'a>, Ready)>> {
        seen.insert(member.pid);
        seen.extend(member.target.agent_pid());
        let begun = way(&member.target, self.options).and_then(|way| {
            let Member { job, target, .. } = &mut member;
            match way {
                Ok(tracker) => Convergence::new(job, target, tracker).map(Some),
                Err(course) => {
                    job.fall_back(course.level, course);
                    Ok(None)
                }
            }
        });
        match begun {
            Ok(Some(run)) => {
                let place = self.begin(member.pid)?;
                Ok(Some((member, Ready::Copied(Box::new(Copied { run, place })))))
            }
            Ok(None) => Ok(self.look(vec![member])?.pop()),
            // To be found again as what it is now.
            Err(_) if member.pid != self.root && !member.program.still_runs() => {
                seen.remove(&member.pid);
                Ok(None)
            }
            Err(error) => self.not_there(member.pid, error).map(|()| None),
        }
    }

    /// One round of one process; nothing if it isn't there any more.
    fn round(
        &mut self,
        mut member: Member<'a>,
        mut ready: Ready,
        gather: &mut Gather,
        together: &mut Round,
        is_first: bool,
    ) -> Result<Option<(Member<'a>, Ready)>> {
        let Ready::Copied(copied) = &mut ready else { return Ok(Some((member, ready))) };
        let Copied { run, place } = &mut **copied;
        let is_new = member.job.course.rounds.is_empty() && !is_first;
        let mut tell = self.teller();
        let mut to = To { place: &*place, progress: &mut tell };
        let done = run.round(&mut member.job, &mut member.target, gather, &mut to);
        drop(tell);
        let done = done.and_then(|()| member.program.check());
        match done.map_err(|error| super::explain(error, place, &member.program, member.pid)) {
            Ok(()) => {
                if let Some(round) = member.job.course.rounds.last() {
                    // All of a new process says nothing of how fast the others change.
                    together.changed_bytes += if is_new { 0 } else { round.changed_bytes };
                    together.copied_bytes += round.copied_bytes;
                }
                Ok(Some((member, ready)))
            }
            Err(error @ Error::Gone { .. }) => {
                gather.forget(member.pid);
                let pid = member.pid;
                if let Ready::Copied(copied) = ready {
                    self.forget(pid, copied.place)?;
                }
                if pid == self.root { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in who was made since, and who has become another program; whether there was one.
    fn join(&mut self, all: &mut Vec<(Member<'a>, Ready)>, seen: &mut HashSet<i32>) -> Result<bool> {
        let mut parents: Vec<i32> = all.iter().map(|(member, _)| member.pid).collect();
        let mut has_new = false;
        while let Some(parent) = parents.pop() {
            for pid in children(parent) {
                if !seen.insert(pid) {
                    continue;
                }
                self.go_on()?;
                let Some(member) = self.attach(pid)? else { continue };
                if let Some(watched) = self.watch(member, seen)? {
                    has_new = true;
                    parents.push(pid);
                    all.push(watched);
                }
            }
        }
        Ok(has_new)
    }
}
