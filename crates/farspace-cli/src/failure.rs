//! What the user sees when something fails: one line that says what, on what, why, and what to do next.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::exit::Exit;

/// An error with its exit code and advice.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    cause: Option<String>,
    next: Option<String>,
}

impl Failure {
    /// A failure that is described by `what` alone, such as "dump of process 42".
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: None, next: None }
    }

    /// Adds the cause, usually an errno's text.
    pub(crate) fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A failure of a system call on an output file or socket.
    pub(crate) fn output(what: impl Into<String>, error: &io::Error) -> Self {
        let failure = Self::new(Exit::Output, what).cause(errno_text(error));
        match Errno::from_io_error(error).and_then(output_advice) {
            Some(next) => failure.next(next),
            None => failure,
        }
    }

    /// A failure of a system call on a target, with the exit code and the advice that its errno asks for.
    pub(crate) fn target(what: impl Into<String>, errno: Errno) -> Self {
        let (exit, next) = match errno {
            Errno::SRCH => (Exit::NoSuchProcess, "check the pid with ps -e"),
            Errno::PERM | Errno::ACCESS => (
                Exit::Permission,
                "run as root or as the target's user; farspace doctor says what is missing",
            ),
            Errno::BUSY | Errno::OPNOTSUPP | Errno::TIMEDOUT => {
                (Exit::Refused, "see /proc/PID/status (State, TracerPid) and try again")
            }
            _ => (Exit::Failed, "see farspace doctor"),
        };
        Self::new(exit, what).cause(errno_text(&errno.into())).next(next)
    }
}

impl Failure {
    /// A failure that the library describes itself, advice included.
    ///
    /// The errno at its root decides the exit code, unless the library knows it better.
    pub(crate) fn library(message: String, errno: Errno, known: Option<Exit>) -> Self {
        let by_errno = match errno {
            Errno::SRCH => Exit::NoSuchProcess,
            // A sink that is open already can't be denied any more: this is the target.
            Errno::PERM | Errno::ACCESS => Exit::Permission,
            Errno::BUSY | Errno::OPNOTSUPP | Errno::TIMEDOUT => Exit::Refused,
            errno if output_advice(errno).is_some() => Exit::Output,
            _ => Exit::Failed,
        };
        let exit = known.unwrap_or(by_errno);
        let failure = Self::new(exit, without_os_error(message));
        match output_advice(errno) {
            Some(next) if exit == Exit::Output => failure.next(next),
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "; {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Standard output was closed by its reader: not an error, just the end (`farspace doctor | head -1`).
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// A system call in the target was made and failed: its result is printed already.
#[derive(Debug)]
pub(crate) struct CallFailed;

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system call failed")
    }
}

impl std::error::Error for CallFailed {}

/// The text of an OS error without Rust's "(os error N)".
pub(crate) fn errno_text(error: &io::Error) -> String {
    without_os_error(error.to_string())
}

fn without_os_error(mut text: String) -> String {
    while let Some(start) = text.find(" (os error ") {
        let end = text[start..].find(')').map_or(text.len(), |len| start + len + 1);
        text.replace_range(start..end, "");
    }
    text
}

/// What to do about an output that can't be written.
fn output_advice(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::NOSPC | Errno::DQUOT => "free some space or write to another file system",
        Errno::EXIST => "choose another name, or pass --force to replace it",
        Errno::ROFS | Errno::ACCESS | Errno::PERM => "choose a directory that you can write to",
        Errno::NOENT => "create the directory first",
        Errno::ISDIR => "give a file name, not a directory",
        Errno::PIPE | Errno::CONNRESET => "the receiver went away; start it again and repeat",
        Errno::CONNREFUSED => "start the receiver first",
        Errno::FBIG => "raise the file size limit (ulimit -f)",
        _ => return None,
    })
}

/// Prints the one line and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if error.is::<StdoutClosed>() {
        return Exit::Ok;
    }
    if error.is::<CallFailed>() {
        return Exit::CallFailed;
    }
    eprint_line(&without_os_error(format!("{error:#}")));
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |f| f.exit)
}

/// Prints `farspace: <text>` as one line; a closed stderr is no reason to fail.
pub(crate) fn eprint_line(text: &str) {
    use std::io::Write as _;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(io::stderr(), "farspace: {line}");
}

/// Replaces Rust's panic message by one line; `main` turns the panic into an exit code.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("unknown cause");
        eprint_line(&format!("internal error{place}: {what}; please report this with the command you ran"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_cause_and_advice() {
        let failure = Failure::target("attach to process 42", Errno::SRCH);
        assert_eq!(failure.to_string(), "attach to process 42: No such process; check the pid with ps -e");
    }

    #[test]
    fn library_messages_lose_the_number() {
        let failure =
            Failure::library("no pid 7: No such process (os error 3); look".into(), Errno::SRCH, None);
        assert_eq!(failure.to_string(), "no pid 7: No such process; look");
        assert_eq!(failure.exit, Exit::NoSuchProcess);
    }

    #[test]
    fn exit_code_survives_context() {
        let error = anyhow::Error::new(Failure::target("x", Errno::PERM)).context("dump of process 1");
        assert_eq!(report(&error), Exit::Permission);
    }

    #[test]
    fn output_errors_have_their_own_code() {
        let error = io::Error::from(Errno::NOSPC);
        let failure = Failure::output("write /tmp/x", &error);
        assert!(failure.exit == Exit::Output && failure.to_string().contains("free some space"));
    }
}
