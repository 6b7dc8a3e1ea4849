//! `cargo xtask kernel bench`: instructions, counted in the guest.
//!
//! With `-icount shift=0,sleep=off` one nanosecond of the guest is one instruction, so every run gives the same numbers.
//! The programs are `kernel/bench/*.c`; a line of theirs is a name and a number. Baselines are in the same run, but for
//! those of a kernel without the calls. With `--wall` it is time, medians of several turns, and nothing fails.

use super::build::{self, Flavour, Image, Variant};
use crate::vm::{self, Clock, Echo, Initramfs, Vm};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xshell::{Shell, cmd};

/// On the kernel that has the calls, and on the one that doesn't: what needs neither.
const COMMANDS: &[&str] = &[
    "transfer",
    "intercept_ptrace calls 2000",
    "intercept_vm_exec calls 2000",
    "intercept_ptrace faults 2000",
    "intercept_vm_exec faults 2000",
];
const WITHOUT: &[&str] = &["idle"];

/// What has to be how many times as cheap: a title, the baseline's line and ours, the factor.
const FACTORS: &[(&str, &str, &str, f64)] = &[
    ("to /dev/null, 4 KiB pages", "null-small readv", "null-small vmsplice", 4.0),
    ("to /dev/null, huge pages", "null-huge readv", "null-huge vmsplice", 4.0),
    ("to a socket, 4 KiB pages", "socket-small readv", "socket-small vmsplice", 2.0),
    ("to a socket, huge pages", "socket-huge readv", "socket-huge vmsplice", 2.0),
    ("intercepted system call", "ptrace system call", "process_vm_exec system call", 6.0),
    ("fault and resume", "ptrace fault", "process_vm_exec fault", 4.0),
];

/// What has to cost the same on both kernels, within a hundredth.
const EQUAL: &[(&str, &str)] = &[("getppid", "getppid"), ("context switch by pipes", "switch")];
const TOLERANCE: f64 = 0.01;

/// How often each program takes its turn where each run gives another figure.
const TURNS: usize = 9;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Without the kernel that doesn't have the calls, which would have to be built.
    #[arg(long)]
    no_unpatched: bool,
    /// A processor without this feature, for example erms: then one instruction copies 8 bytes, not one.
    #[arg(long, value_name = "FEATURE")]
    without: Option<String>,
    /// Nanoseconds on the guest's clock, not instructions: another figure in each run; implies --no-unpatched.
    #[arg(long)]
    wall: bool,
    /// This image instead of the one that is built; implies --no-unpatched.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

/// Measures; false if something costs more than it may.
pub(super) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let image = match &options.kernel {
        Some(kernel) => kernel.clone(),
        None => build::image(shell, Flavour::Small, Variant::Patched)?.bzimage,
    };
    let programs = compile(shell)?;
    let all = [COMMANDS, WITHOUT].concat();
    let patched = measure(&image, &programs, &all, options)?;
    let unpatched = if options.no_unpatched || options.wall || options.kernel.is_some() {
        None
    } else {
        let Image { bzimage, .. } = build::image(shell, Flavour::Small, Variant::Unpatched)?;
        Some(measure(&bzimage, &programs, WITHOUT, options)?)
    };
    Ok(report(&patched, unpatched.as_ref(), if options.wall { "nanoseconds" } else { "instructions" })?
        || options.wall)
}

/// Instructions, or nanoseconds, by name.
type Counts = BTreeMap<String, f64>;

fn report(patched: &Counts, unpatched: Option<&Counts>, unit: &str) -> anyhow::Result<bool> {
    let get = |counts: &Counts, name: &str| {
        counts.get(name).copied().with_context(|| format!("no benchmark has printed {name:?}"))
    };
    let mut good = true;
    println!("\n{unit:<28} {:>12} {:>12} {:>8}  at least", "baseline", "ours", "factor");
    for (title, baseline, ours, least) in FACTORS {
        let (baseline, ours) = (get(patched, baseline)?, get(patched, ours)?);
        let factor = baseline / ours;
        good &= factor >= *least;
        let verdict = if factor >= *least { "" } else { "  LESS" };
        println!("{title:<28} {baseline:>12.1} {ours:>12.1} {factor:>7.1}x  {least:.1}x{verdict}");
    }
    let Some(unpatched) = unpatched else { return Ok(good) };
    println!("\n{:<28} {:>12} {:>12} {:>8}  at most", "instructions", "without", "with calls", "more");
    for (title, name) in EQUAL {
        let (without, with) = (get(unpatched, name)?, get(patched, name)?);
        let more = with / without - 1.0;
        good &= more <= TOLERANCE;
        let verdict = if more <= TOLERANCE { "" } else { "  MORE" };
        let percent = 100.0 * more;
        println!(
            "{title:<28} {without:>12.1} {with:>12.1} {percent:>7.2}%  {:.2}%{verdict}",
            100.0 * TOLERANCE
        );
    }
    Ok(good)
}

fn measure(
    kernel: &Path,
    programs: &[PathBuf],
    commands: &[&str],
    options: &Options,
) -> anyhow::Result<Counts> {
    let mut files = Initramfs::with_busybox()?;
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        files.file(program, Path::new("/bin").join(name))?;
    }
    let mut machine = Vm::new("bench", kernel, files);
    machine.clock = if options.wall { Clock::Real } else { Clock::Instructions };
    let turns = if options.wall { TURNS } else { 1 };
    machine.limit = Duration::from_secs(600);
    machine.cpu_without.clone_from(&options.without);
    let outcome = machine.run(&format!("set -e\n{}", commands.repeat(turns).join("\n")), Echo::Yes)?;
    outcome.verdict()?;
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, number) in outcome.output.lines().filter_map(line) {
        all.entry(name).or_default().push(number);
    }
    Ok(all.into_iter().map(|(name, numbers)| (name, median(numbers))).collect())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// `what how 12.5` or `what how 12.5 ns`.
fn line(line: &str) -> Option<(String, f64)> {
    let line = line.trim();
    let (name, number) = line.strip_suffix(" ns").unwrap_or(line).rsplit_once(' ')?;
    Some((name.trim_end_matches(':').to_owned(), number.parse().ok()?))
}

/// Every program of `kernel/bench`, linked statically.
fn compile(shell: &Shell) -> anyhow::Result<Vec<PathBuf>> {
    let target = vm::target().join("kernel-bench");
    std::fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(shell.current_dir().join("kernel/bench"))? {
        let source = entry?.path();
        let (Some(name), true) = (source.file_stem(), source.extension().is_some_and(|kind| kind == "c"))
        else {
            continue;
        };
        let program = target.join(name);
        cmd!(shell, "cc -O2 -Wall -Werror -static -o {program} {source}").quiet().run()?;
        programs.push(program);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_are_a_name_and_a_number() {
        assert_eq!(line("null-small readv 5027"), Some(("null-small readv".to_owned(), 5027.0)));
        assert_eq!(line("ptrace system call: 12.5 ns"), Some(("ptrace system call".to_owned(), 12.5)));
        assert_eq!(line("a message of the kernel's"), None);
    }
}
