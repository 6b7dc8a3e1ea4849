//! The tester's side: starts a victim, talks to it, asks whether it is unharmed.
//!
//! ```no_run
//! use farspace_victims::harness::Victim;
//! # fn main() -> Result<(), farspace_victims::harness::Failure> {
//! let mut victim = Victim::spawn("memory", &["anon:1M"])?;
//! let anon = victim.region("anon")?;
//! // ... operate on victim.pid() ...
//! victim.check()?; // runs unharmed; an agent may still be attached
//! // ... detach ...
//! victim.finish()?; // and nothing was left behind
//! # Ok(()) }
//! ```

mod find;
mod last;
mod region;

pub use find::{host_is_self, program};
pub use region::Region;

use crate::pace;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// For every answer; victims bound their own waits to less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a victim could not be used, or is harmed.
#[derive(Debug)]
pub enum Failure {
    /// This machine doesn't have what the victim needs.
    Skip(String),
    /// The victim could not be started, found, or talked to.
    Broken(String),
    /// The victim says that it is harmed.
    Harmed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip(reason) => write!(f, "skipped: {reason}"),
            Self::Broken(reason) => f.write_str(reason),
            Self::Harmed(reason) => write!(f, "the target is harmed: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

/// A running victim. Dropping it kills it.
pub struct Victim {
    name: String,
    /// In the environment of everything that comes from this victim, an agent that shares its memory included.
    mark: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    pid: i32,
    words: Vec<String>,
}

impl Victim {
    /// Starts `farspace-victim NAME ARGS...` and waits until it is ready.
    ///
    /// # Errors
    /// [`Failure::Skip`] where the machine lacks what the victim needs.
    pub fn spawn(name: &str, args: &[&str]) -> Result<Self, Failure> {
        Self::spawn_with(name, args, |_| {})
    }

    /// As [`Self::spawn`]; `configure` may change the user, the environment, or what else a command has.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_with(
        name: &str,
        args: &[&str],
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self, Failure> {
        let program = find::program().map_err(Failure::Broken)?;
        let mut command = Command::new(&program);
        let mark = last::mark();
        command.env(last::MARK, &mark);
        command.arg0(crate::PROGRAM).arg(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        configure(&mut command);
        let spawned = command.spawn().map_err(|e| Failure::Broken(format!("{}: {e}", program.display())))?;
        let mut victim = Self::talk_to(name, mark, spawned)?;
        let line = victim.answer()?;
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words.next().map(|pid| pid.parse())) {
            (Some("ready"), Some(Ok(pid))) => victim.pid = pid,
            (Some("skip"), _) => return Err(Failure::Skip(line["skip".len()..].trim().to_owned())),
            _ => return Err(Failure::Broken(format!("{name} says {line:?} instead of ready"))),
        }
        victim.words = words.collect();
        Ok(victim)
    }

    fn talk_to(name: &str, mark: String, mut child: Child) -> Result<Self, Failure> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| Failure::Broken(format!("{name} has no stdout")))?;
        let (sender, lines) = channel();
        // Ends with the victim's stdout.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), mark, child, stdin, lines, pid: 0, words: Vec::new() })
    }

    /// The process to operate on.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What else the ready line said.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The value of `KEY=VALUE` in the ready line.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.words
            .iter()
            .find_map(|word| word.split_once('=').filter(|(k, _)| *k == key).map(|(_, value)| value))
    }

    /// A region of the `memory` victim.
    ///
    /// # Errors
    /// [`Failure::Skip`] where the machine doesn't have that kind.
    pub fn region(&self, name: &str) -> Result<Region, Failure> {
        region::find(&self.words, name)
    }

    /// Sends a command, without waiting for an answer. A victim that has ended already is no error: its last
    /// words are still to be read.
    pub fn send(&mut self, command: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{command}");
        }
    }

    /// The next line of the victim.
    ///
    /// # Errors
    /// `harmed` lines, its death, and silence.
    pub fn answer(&mut self) -> Result<String, Failure> {
        match self.lines.recv_timeout(pace::limit(ANSWER_TIMEOUT)) {
            Ok(line) => match line.strip_prefix("harmed") {
                Some(reason) => Err(Failure::Harmed(format!("{}: {}", self.name, reason.trim()))),
                None => Ok(line),
            },
            Err(RecvTimeoutError::Timeout) => {
                let threads = last::threads(self.pid);
                Err(Failure::Harmed(format!("{}: no answer in {ANSWER_TIMEOUT:?}; {threads}", self.name)))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                Err(Failure::Harmed(format!("{}: ended without an answer ({status})", self.name)))
            }
        }
    }

    /// Sends a command and waits for the answer.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn command(&mut self, command: &str) -> Result<String, Failure> {
        self.send(command);
        self.answer()
    }

    /// The target runs on unharmed; an agent may still be there.
    ///
    /// # Errors
    /// What the victim found.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.command("check").map(drop)
    }

    /// The target runs on unharmed and nothing of farspace is left in it.
    ///
    /// # Errors
    /// What the victim found.
    pub fn check_detached(&mut self) -> Result<(), Failure> {
        self.command("check detached").map(drop)
    }

    /// Lets a `blocking` victim's call complete: how it returned.
    ///
    /// # Errors
    /// Any sign of a disturbance: EINTR, wrong data, too early, too late.
    pub fn release(&mut self) -> Result<String, Failure> {
        self.command("go")
    }

    /// Ends a victim: a last [`Self::check_detached`], and its exit status must be 0.
    ///
    /// # Errors
    /// What the victim found.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.command("exit")?;
        self.ended()
    }

    /// As [`Self::finish`], while an agent may still be there.
    ///
    /// # Errors
    /// What the victim found.
    pub fn finish_attached(mut self) -> Result<(), Failure> {
        self.command("exit attached")?;
        self.ended()
    }

    /// Waits for a victim that ends by itself (`checksum`, `exit-race`): its last line.
    ///
    /// # Errors
    /// What the victim found.
    pub fn result(mut self) -> Result<String, Failure> {
        let line = self.answer()?;
        self.ended().map(|()| line)
    }

    fn ended(&mut self) -> Result<(), Failure> {
        self.stdin = None;
        let status =
            self.child.wait().map_err(|e| Failure::Broken(format!("wait for {}: {e}", self.name)))?;
        if !status.success() {
            return Err(Failure::Harmed(format!("{}: {status}", self.name)));
        }
        match last::left_over(&self.mark) {
            left if left.is_empty() => Ok(()),
            left => Err(Failure::Harmed(format!(
                "{} has ended, but tasks with its memory are left: {left:?}",
                self.name
            ))),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // The controller first: a target of its own dies with it. A stopped victim can still be killed.
        let _ = self.child.kill();
        last::reap(&mut self.child);
        last::kill_left_over(&self.mark);
    }
}
