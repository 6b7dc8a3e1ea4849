//! Starting the sample target and talking to it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use super::protocol::Hello;
pub(crate) use super::protocol::{Request, State};
use crate::exit::Exit;
use crate::failure::Failure;

/// Which pages the target's memory consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// What the system gives by default.
    Default,
    /// Transparent huge pages, asked for through glibc's malloc.
    Huge,
}

/// What the target does while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It measures how long it is kept from running, which takes some CPU.
    Watching,
    /// Nothing: the CPUs are free for what is measured.
    Asleep,
    /// As watching; and the hot region is written to at this rate.
    Writing {
        /// Random pages per second.
        pages_per_s: u64,
    },
}

/// A running sample target; it is killed on drop.
#[derive(Debug)]
pub(crate) struct SampleTarget {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What it said about itself.
    pub(crate) hello: Hello,
}

impl SampleTarget {
    /// Starts one and waits until its memory is filled.
    pub(crate) fn start(static_bytes: u64, hot_bytes: u64, pages: Pages, life: Life) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("demo-target").args([
            "--size",
            &static_bytes.to_string(),
            "--hot",
            &hot_bytes.to_string(),
        ]);
        match life {
            Life::Watching => {}
            Life::Asleep => drop(command.arg("--asleep")),
            Life::Writing { pages_per_s } => drop(command.args(["--rate", &pages_per_s.to_string()])),
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if pages == Pages::Huge {
            command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        }
        let mut child = command.spawn().context("start the sample target")?;
        let requests = child.stdin.take();
        let answers = child.stdout.take().context("the sample target has no output")?;
        let mut answers = BufReader::new(answers);
        match receive(&mut answers) {
            Ok(hello) => Ok(Self { child, requests, answers, hello }),
            Err(error) => {
                // It is of no use any more; errors on the way out would hide the first one.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.hello.pid
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, request: Request) -> anyhow::Result<State> {
        let requests = self.requests.as_mut().context("the sample target was told to end")?;
        writeln!(requests, "{}", request.word()).map_err(|_| died())?;
        receive(&mut self.answers)
    }

    /// Checks that it is as it was: same memory, no blocking call disturbed; then ends it and sees it end well.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let state = self.ask(Request::Check)?;
        let harmed = |what: String| {
            Err(Failure::new(Exit::Failed, format!("the sample target was harmed: {what}")).into())
        };
        if state.checksum != self.hello.checksum {
            return harmed("its memory changed".to_owned());
        }
        if !state.disturbed.is_empty() {
            return harmed(format!("a blocking call returned: {}", state.disturbed.join(", ")));
        }
        self.requests = None;
        let status = self.child.wait().context("wait for the sample target")?;
        if status.success() { Ok(()) } else { harmed(format!("it ended with {status}")) }
    }
}

impl Drop for SampleTarget {
    fn drop(&mut self) {
        // Both fail if it ended already, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn receive<T: DeserializeOwned>(answers: &mut BufReader<ChildStdout>) -> anyhow::Result<T> {
    let mut line = String::new();
    let len = answers.read_line(&mut line).context("read from the sample target")?;
    if len == 0 {
        return Err(died().into());
    }
    serde_json::from_str(&line).context("understand the sample target")
}

fn died() -> Failure {
    Failure::new(Exit::Failed, "the sample target died")
        .next("see the line above; dmesg if it was killed for memory")
}
