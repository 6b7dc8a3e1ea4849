//! System calls in a target that is attached to.

use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, OwnedFd};

use farspace::syscalls::{self, Gives};
use farspace::{Arg, Permit, Returned, Scratch};
use farspace_sys::pidfd;
use rustix::io::Errno;

use super::Attached;
use super::attach::failure;
use crate::exit::Exit;
use crate::failure::{Failure, errno_text};
use crate::interrupt;
use crate::syscall::{Argument, Call, FdSource, Value};

pub(crate) use farspace::Permit as CallPermit;

/// Alignment of each buffer in the target, in bytes: enough for any structure of the kernel.
const ALIGN: u64 = 64;

/// What a call has returned.
#[derive(Debug)]
pub(crate) struct CallOutcome {
    /// The result.
    pub(crate) result: CallResult,
    /// What is in the output buffers now: number of the argument, from 0, and its bytes.
    pub(crate) outputs: Vec<(usize, Vec<u8>)>,
}

/// The kinds of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// A count or the like.
    Number(u64),
    /// An address of the target.
    Address(u64),
    /// A descriptor, which was farspace's for a moment.
    Fd,
    /// The call failed.
    Errno(Errno),
}

/// Refuses a call that wouldn't be made, before the target is touched.
pub(crate) fn check_call(call: Call, args: &[Argument], permit: Permit) -> Result<(), Failure> {
    let refused = |why: &str| Failure::new(Exit::Usage, format!("{} is not made: {why}", call.name()));
    if syscalls::find(call.nr).is_some() {
        return Ok(());
    }
    let mut words = [0; 6];
    for (word, arg) in words.iter_mut().zip(args) {
        *word = arg.number().unwrap_or(0);
    }
    match (syscalls::forbidden(call.nr, &words), permit) {
        (Some(why), _) => Err(refused(why).next("this can't be changed by --any")),
        (None, Permit::Any) => Ok(()),
        (None, Permit::Listed) => {
            let next = "pass --any if you know that it does no harm; for what belongs to a task (pid, \
                        credentials, descriptors) it acts on farspace's agent, not on the target";
            Err(refused("it is not one of the calls on memory").next(next))
        }
    }
}

impl Attached {
    /// Makes a call. Buffers are in the target only for the call.
    pub(crate) fn call(&self, call: Call, args: &[Argument], permit: Permit) -> Result<CallOutcome, Failure> {
        let fds = args.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let buffers = Buffers::new(&self.target, args).map_err(|error| failure(&error))?;
        let mut words = [Arg::Word(0); 6];
        for (i, (word, arg)) in words.iter_mut().zip(args).enumerate() {
            *word = match (&arg.value, &fds[i]) {
                (_, Some(fd)) => Arg::Fd(fd.as_fd()),
                (Value::Number(number), _) => Arg::Word(*number),
                _ => Arg::Word(buffers.address(i)),
            };
        }
        let returned = self.target.syscall_with(call.nr, words, permit, &mut interrupt::flow);
        let returned = returned.map_err(|error| match error.errno() {
            // What the arguments name is farspace's own.
            Errno::BUSY => Failure::library(error.to_string(), Errno::BUSY, Some(Exit::Usage)),
            _ => failure(&error),
        })?;
        let gives = syscalls::find(call.nr).map(|call| call.gives);
        let result = match returned {
            Returned::Errno(_) if interrupt::flow().is_break() => return Err(interrupt::failure()),
            Returned::Errno(errno) => CallResult::Errno(errno),
            Returned::Fd(_) => CallResult::Fd,
            Returned::Value(value) if gives == Some(Gives::Address) => CallResult::Address(value),
            Returned::Value(value) => CallResult::Number(value),
        };
        let outputs = buffers.outputs(args).map_err(|error| failure(&error))?;
        Ok(CallOutcome { result, outputs })
    }
}

/// The buffers of a call in one piece of scratch memory.
struct Buffers<'a> {
    scratch: Option<Scratch<'a>>,
    /// Where each argument's buffer is in there.
    offsets: Vec<u64>,
}

impl<'a> Buffers<'a> {
    fn new(target: &'a farspace::Target, args: &[Argument]) -> farspace::Result<Self> {
        let mut total = 0u64;
        let mut offsets = Vec::new();
        for arg in args {
            offsets.push(total);
            total += match &arg.value {
                Value::Input(bytes) => (bytes.len() as u64).max(1).next_multiple_of(ALIGN),
                Value::Output(len) => len.next_multiple_of(ALIGN),
                Value::Number(_) | Value::Fd(_) => 0,
            };
        }
        let scratch = if total > 0 { Some(target.scratch(total)?) } else { None };
        if let Some(scratch) = &scratch {
            for (arg, offset) in args.iter().zip(&offsets) {
                if let Value::Input(bytes) = &arg.value {
                    scratch.write(*offset, bytes)?;
                }
            }
        }
        Ok(Self { scratch, offsets })
    }

    fn address(&self, argument: usize) -> u64 {
        let base = self.scratch.as_ref().map_or(0, |scratch| scratch.address().0);
        base + self.offsets[argument]
    }

    fn outputs(&self, args: &[Argument]) -> farspace::Result<Vec<(usize, Vec<u8>)>> {
        let mut outputs = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            if let (Value::Output(len), Some(scratch)) = (&arg.value, &self.scratch) {
                let mut bytes = vec![0; *len as usize];
                scratch.read(self.offsets[i], &mut bytes)?;
                outputs.push((i, bytes));
            }
        }
        Ok(outputs)
    }
}

/// The descriptor that an argument asks for.
fn open(arg: &Argument) -> Result<Option<OwnedFd>, Failure> {
    let Value::Fd(source) = &arg.value else { return Ok(None) };
    match source {
        FdSource::Number(number) => {
            let own = std::process::id() as i32;
            // Looked up by the kernel, which knows whether it is open.
            let fd = pidfd::open(own).and_then(|pidfd| pidfd::take_fd(pidfd.as_fd(), own, *number));
            fd.map(Some).map_err(|error| {
                Failure::new(Exit::Usage, format!("cannot use {}", arg.text))
                    .cause(errno_text(&error.errno.into()))
                    .next(format!("open it for farspace first, as in the shell's {number}<>FILE"))
            })
        }
        FdSource::Path(path) => {
            let both = OpenOptions::new().read(true).write(true).open(path);
            let opened = both.or_else(|_| OpenOptions::new().read(true).open(path));
            opened.map(|file| Some(file.into())).map_err(|error| {
                Failure::new(Exit::Usage, format!("cannot open {}", arg.text))
                    .cause(errno_text(&error))
                    .next("give a file that exists and that you can read")
            })
        }
    }
}
