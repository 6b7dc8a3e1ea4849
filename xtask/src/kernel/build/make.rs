//! Running the kernel's make, with a sign of life.

use super::toolchain::Toolchain;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lines of the log that an error shows.
const TAIL: usize = 25;

/// Between two signs of life where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(30);

/// make for one tree.
pub(super) struct Make {
    source: PathBuf,
    log: PathBuf,
    variables: Vec<OsString>,
}

impl Make {
    pub(super) fn new(source: &Path, log: PathBuf, toolchain: &Toolchain) -> Self {
        let variable = |name: &str, value: &Path| {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            variable
        };
        let mut variables =
            vec![variable("RUSTC", &toolchain.rustc), variable("BINDGEN", &toolchain.bindgen)];
        // KASAN and Rust go together with clang only. The rest makes equal inputs give equal images.
        let fixed = [
            "LLVM=1",
            "KBUILD_BUILD_TIMESTAMP=2026-01-01",
            "KBUILD_BUILD_USER=farspace",
            "KBUILD_BUILD_HOST=farspace",
            "KBUILD_BUILD_VERSION=1",
        ];
        variables.extend(fixed.map(OsString::from));
        Self { source: source.to_owned(), log, variables }
    }

    /// Makes `.config` of allnoconfig and these settings.
    pub(super) fn configuration(&self, settings: &Path) -> anyhow::Result<()> {
        let mut command = self.command();
        self.run(command.env("KCONFIG_ALLCONFIG", settings).arg("allnoconfig"), "configuration")
    }

    /// Builds the image with all CPUs.
    pub(super) fn image(&self) -> anyhow::Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        self.run(self.command().arg(format!("--jobs={}", jobs + 1)).arg("bzImage"), "build")
    }

    fn command(&self) -> Command {
        // If this program is killed make gets a SIGTERM, which it passes on to all that it has started.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "make", "--directory"]).arg(&self.source).args(&self.variables);
        // What cargo tells its children isn't meant for the kernel.
        for name in
            ["MAKEFLAGS", "MFLAGS", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "CC", "LD_LIBRARY_PATH"]
        {
            command.env_remove(name);
        }
        command
    }

    /// Runs it, everything it says going to the log.
    ///
    /// # Errors
    /// With the end of the log.
    fn run(&self, command: &mut Command, what: &str) -> anyhow::Result<()> {
        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context("make")?;
        // The command has the other ends of the pipe.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut log = fs::File::create(&self.log).with_context(|| self.log.display().to_string())?;
        let mut progress = Progress::begin(what);
        for line in BufReader::new(reader).split(b'\n') {
            let line = line?;
            log.write_all(&line)?;
            log.write_all(b"\n")?;
            progress.line(&String::from_utf8_lossy(&line));
        }
        let status = child.wait()?;
        progress.end();
        if !status.success() {
            let log = fs::read(&self.log)?;
            let log = String::from_utf8_lossy(&log);
            let lines = log.lines().collect::<Vec<_>>();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            bail!("make failed ({status}):\n{tail}\nThe whole log is {}", self.log.display());
        }
        Ok(())
    }
}

/// How many files are done, on a terminal as a line that changes.
struct Progress {
    what: String,
    bar: ProgressBar,
    files: u64,
    begin: Instant,
    said: Instant,
}

impl Progress {
    fn begin(what: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{spinner} {prefix}: {pos} files, {elapsed}  {wide_msg}");
            let bar = ProgressBar::no_length().with_prefix(what.to_owned());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { what: what.to_owned(), bar, files: 0, begin: Instant::now(), said: Instant::now() }
    }

    /// A line of kbuild's: a short word, then a file.
    fn line(&mut self, line: &str) {
        let Some((_, file)) = line.strip_prefix("  ").and_then(|line| line.split_once(' ')) else {
            return;
        };
        self.files += 1;
        self.bar.inc(1);
        self.bar.set_message(file.trim().to_owned());
        if self.bar.is_hidden() && self.said.elapsed() > INTERVAL {
            self.said = Instant::now();
            println!("{}: {} files, {} s", self.what, self.files, self.begin.elapsed().as_secs());
        }
    }

    fn end(self) {
        self.bar.finish_and_clear();
    }
}
