//! The program of tests/programs/specimen.c, compiled and run.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::child::Running;
use super::programs::{self, wait_until};
use super::workdir::Workdir;

/// A running specimen.
pub(crate) struct Specimen {
    process: Running,
    /// Where its debug information is.
    pub(crate) executable: PathBuf,
    addresses: HashMap<String, u64>,
}

impl Specimen {
    /// Compiles and starts it; `what` is its second argument.
    #[track_caller]
    pub(crate) fn start(dir: &Workdir, what: &str) -> Self {
        let cc = || programs::command("gcc", "gcc libc6-dev");
        let (executable, plugin) = (dir.join("specimen"), dir.join("plugin.so"));
        let source = programs::source;
        programs::output(
            cc().args(["-g", "-O0", "-pthread", "-o"])
                .arg(&executable)
                .arg(source("specimen.c"))
                .args(["-lm", "-ldl"]),
        );
        programs::output(cc().args(["-g", "-shared", "-fPIC", "-o"]).arg(&plugin).arg(source("plugin.c")));
        let mut command = Command::new(&executable);
        // The kernel writes the CPU's number into a registered area whenever a thread runs (rseq(2)), and a visit
        // lets one run: memory would differ from dump to dump.
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0").arg(&plugin).arg(what);
        let mut process = Running::start(&mut command);
        let line = process.line();
        let addresses = line.split_whitespace().filter_map(|word| word.split_once('='));
        let address = |(name, text): (&str, &str)| (name.to_owned(), u64::from_str_radix(text, 16).unwrap());
        let specimen = Self { addresses: addresses.map(address).collect(), executable, process };
        specimen.settle();
        specimen
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The address of the text in its memory of this kind.
    #[track_caller]
    pub(crate) fn address(&self, kind: &str) -> u64 {
        *self.addresses.get(kind).unwrap_or_else(|| panic!("the specimen has no {kind} memory"))
    }

    /// Waits until every thread is where it stays: asleep, but for the one that spins.
    #[track_caller]
    pub(crate) fn settle(&self) {
        wait_until("the specimen's threads sleep", || {
            let states = self.states();
            states.len() == 10 && states.iter().filter(|&&state| state == 'S').count() == 9
        });
    }

    /// Stops it as a shell does.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until("the specimen stops", || self.is_stopped());
    }

    /// Lets it go on.
    #[track_caller]
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
        self.settle();
    }

    /// True if all threads are stopped by SIGSTOP.
    pub(crate) fn is_stopped(&self) -> bool {
        self.states().iter().all(|&state| state == 'T')
    }

    /// Its mappings, as the kernel lists them.
    pub(crate) fn maps(&self) -> String {
        fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap()
    }

    /// The line of its mappings for an address.
    pub(crate) fn mapping(&self, address: u64) -> String {
        let holds = |line: &&str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range = range.map(|(a, b)| (u64::from_str_radix(a, 16), u64::from_str_radix(b, 16)));
            matches!(range, Some((Ok(start), Ok(end))) if (start..end).contains(&address))
        };
        self.maps().lines().find(holds).unwrap_or("no mapping").to_owned()
    }

    fn states(&self) -> Vec<char> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }
}
