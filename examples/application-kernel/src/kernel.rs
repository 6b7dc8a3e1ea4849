//! Events in, answers out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use farspace_exec::{ARCH_X86_64, Error, Event, Fault, Reg, Route, Space, Syscall, Vcpu};
use rustix::io::Errno;

use crate::descriptors::Descriptors;
use crate::memory::AddressSpace;
use crate::paths::Paths;
use crate::signals::Signals;
use crate::{files, mappings, metadata, process, signals, time, tree};

/// What answers a system call: the arguments are those of syscalls(2).
pub(crate) type Call = fn(&mut Kernel, &[u64; 6]) -> Answer;
/// The result that the guest gets, unless it has ended.
pub(crate) type Answer = Result<u64, Stop>;

/// Why a system call has no result.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The guest gets an error.
    Errno(Errno),
    /// The guest has ended.
    End(Ending),
    /// The engine can't go on.
    Engine(Error),
}

/// How the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With this code.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::System { errno, .. } | Error::Memory { errno, .. } => Self::Errno(errno),
            error => Self::Engine(error),
        }
    }
}

/// One program and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) memory: AddressSpace,
    pub(crate) vcpu: Vcpu,
    pub(crate) files: Descriptors,
    pub(crate) paths: Paths,
    pub(crate) signals: Signals,
    calls: Vec<Option<Call>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    patched: u64,
    trapped: u64,
    faults: u64,
    /// Table and number of those that nobody answers, and how often they came.
    unknown: BTreeMap<(u32, u64), u64>,
}

impl Kernel {
    pub(crate) fn new(space: Space, root: &Path) -> anyhow::Result<Self> {
        let mut calls = Vec::new();
        let topics = [
            files::CALLS,
            mappings::CALLS,
            metadata::CALLS,
            process::CALLS,
            signals::CALLS,
            time::CALLS,
            tree::CALLS,
        ];
        for (nr, call) in topics.into_iter().flatten() {
            let nr = *nr as usize;
            calls.resize(calls.len().max(nr + 1), None);
            calls[nr] = Some(*call);
        }
        Ok(Self {
            vcpu: space.vcpu()?,
            memory: AddressSpace::new(space),
            files: Descriptors::standard()?,
            paths: Paths::new(root)?,
            signals: Signals::default(),
            calls,
            counts: Counts::default(),
        })
    }

    /// Runs the guest to its end.
    pub(crate) fn run(&mut self) -> Result<Ending, Error> {
        loop {
            let outcome = match self.vcpu.run(None)? {
                Event::Syscall(call) => self.answer(&call).map(Some),
                Event::Fault(fault) => self.serve(&fault).map(|()| None),
                Event::Interrupted => Ok(None),
            };
            let result = match outcome {
                Ok(None) => continue,
                Ok(Some(result)) => result,
                Err(Stop::Errno(errno)) => -i64::from(errno.raw_os_error()) as u64,
                Err(Stop::End(ending)) => return Ok(ending),
                Err(Stop::Engine(error)) => return Err(error),
            };
            self.vcpu.set_reg(Reg::Rax, result)?;
        }
    }

    fn answer(&mut self, call: &Syscall) -> Answer {
        match call.route {
            Route::Patched => self.counts.patched += 1,
            Route::Trapped => self.counts.trapped += 1,
        }
        let known = self.calls.get(call.nr as usize).copied().flatten().filter(|_| call.arch == ARCH_X86_64);
        match known {
            Some(function) => function(self, &call.args),
            None => self.unknown(call),
        }
    }

    fn unknown(&mut self, call: &Syscall) -> Answer {
        *self.counts.unknown.entry((call.arch, call.nr)).or_default() += 1;
        Err(Errno::NOSYS.into())
    }

    /// Maps what a page fault asked for; any other fault ends the guest.
    fn serve(&mut self, fault: &Fault) -> Result<(), Stop> {
        let killed = Err(Stop::End(Ending::Killed(fault.signal)));
        match fault.access() {
            Some(access) if fault.signal == libc::SIGSEGV => {
                self.counts.faults += 1;
                match self.memory.fault(fault.addr.0, access) {
                    Err(Stop::Errno(_)) => killed,
                    served => served,
                }
            }
            _ => killed,
        }
    }

    /// Tells on stderr which system calls were answered with ENOSYS.
    pub(crate) fn tell_unknown(&self) {
        for ((arch, nr), times) in &self.counts.unknown {
            let table = if *arch == ARCH_X86_64 { "" } else { " of the 32-bit table" };
            eprintln!("application-kernel: system call {nr}{table} is not known here; made {times} times");
        }
    }

    /// Tells on stderr what there was to do.
    pub(crate) fn tell_statistics(&self, elapsed: Duration) {
        let Counts { patched, trapped, faults, .. } = self.counts;
        eprintln!(
            "application-kernel: {} system calls ({patched} from patched sites, {trapped} trapped), \
             {faults} page faults, {} mappings for them and for copies, {:.1} ms",
            patched + trapped,
            self.memory.filled(),
            elapsed.as_secs_f64() * 1e3,
        );
    }
}
