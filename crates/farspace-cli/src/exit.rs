//! The exit codes: one enum, from which the code, the help text and the man page are made.

use std::fmt::Write as _;
use std::process::ExitCode;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All done.
    Ok = 0,
    /// The operation failed.
    Failed = 1,
    /// Wrong arguments.
    Usage = 2,
    /// The target does not exist.
    NoSuchProcess = 3,
    /// The caller may not touch the target.
    Permission = 4,
    /// The target is in a state in which it can't be visited.
    Refused = 5,
    /// The output can't be written.
    Output = 6,
    /// The system call that was asked for gave an errno.
    CallFailed = 7,
    /// Ended by a signal.
    Interrupted = 130,
}

impl Exit {
    /// Every code, in order.
    pub(crate) const ALL: [Self; 9] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::NoSuchProcess,
        Self::Permission,
        Self::Refused,
        Self::Output,
        Self::CallFailed,
        Self::Interrupted,
    ];

    /// The number that the shell sees.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for help and man page.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Failed => "the operation failed: I/O error, or the target died or exec'ed meanwhile",
            Self::Usage => "wrong arguments",
            Self::NoSuchProcess => "no such process (also a zombie or a kernel thread)",
            Self::Permission => "no permission to trace or read the target",
            Self::Refused => {
                "the target can't be visited now: traced by another, 32-bit, stuck in the kernel"
            }
            Self::Output => "the output can't be written: exists, no space, read-only, closed pipe or socket",
            Self::CallFailed => "syscall: the call was made and returned an errno, which is printed",
            Self::Interrupted => "interrupted by a signal (Ctrl-C); nothing is left behind",
        }
    }

    /// The list that `--help` ends with.
    pub(crate) fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Self::ALL {
            // Writing to a String can't fail.
            let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_readme_says() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 130]);
    }

    #[test]
    fn help_names_every_code() {
        let help = Exit::help();
        assert!(Exit::ALL.iter().all(|e| help.contains(e.meaning())));
    }
}
