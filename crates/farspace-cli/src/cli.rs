//! The command line: one source for parsing, help, man pages and completions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use farspace_abi::RemoteIoVec;
use farspace_dump::stream::Address;

use crate::exit::Exit;
use crate::failure::eprint_line;
use crate::output::{self, Format};
use crate::sink::SinkSpec;
use crate::syscall::{self, Argument, Call};
use crate::{range, sink, units};

/// Dump and copy the memory of a live process without stopping it for long.
///
/// farspace works on another process's address space: core dumps of a running service, ranges of memory sent
/// straight into a file or socket. Bytes go from the target's pages into a pipe without being copied where the kernel
/// allows it; where it does not, farspace copies and says so. `farspace doctor` tells which it is here.
#[derive(Debug, Parser)]
#[command(name = "farspace", version, after_help = Exit::help(), max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write an ELF core of a running process
    #[command(after_help = examples("dump"))]
    Dump(DumpArgs),
    /// Write images of a process tree's memory for CRIU while it runs, whole or as a difference
    ///
    /// The image directory is one that criu pre-dump would write, and what criu dump --prev-images-dir continues: it has
    /// the memory of the process and its descendants and, with --parent, only what has changed since. Nothing is stopped
    /// for it. CRIU finds changes by soft-dirty bits (CONFIG_MEM_SOFT_DIRTY); on a kernel without them the iterations of
    /// one run are linked, and no others. As with CRIU, a directory must be the next one's parent before another is made
    /// of the same processes.
    #[command(after_help = examples("predump"))]
    Predump(PredumpArgs),
    /// Take a dump that comes from another process or host
    ///
    /// One dump is received, then the command ends. Who connects and isn't farspace is turned away with a line on
    /// stderr. The connection is neither encrypted nor authenticated: use it inside of a tunnel, or listen on an
    /// address that only the sender reaches.
    #[command(after_help = examples("receive"))]
    Receive(ReceiveArgs),
    /// Send ranges of a process's memory to a file, pipe or socket
    #[command(after_help = examples("splice"))]
    Splice(SpliceArgs),
    /// Make a system call in a process's address space
    ///
    /// The call is made by farspace's agent, a task of its own that shares nothing with the process but its memory.
    /// So calls on memory (mmap, mprotect, madvise...) act on the process, and whatever belongs to a task is the
    /// agent's: getpid gives the agent's pid, and credentials, limits and open files are not the process's either.
    /// Descriptors are farspace's own: fd:PATH is opened by farspace, fd:N was inherited by it (and so is the plain
    /// number N, as the descriptor of a call on memory); the agent gets a copy for the call.
    ///
    /// Buffers (str:, in:, out:, iov:) are placed in memory that is mapped in the process for the call and unmapped
    /// after it. What the call itself maps stays. Arguments that are left out are 0.
    #[command(after_help = examples("syscall"))]
    Syscall(SyscallArgs),
    /// Probe what this kernel and this user can do, and say how to get the rest
    #[command(after_help = examples("doctor"))]
    Doctor(ReportArgs),
    /// Start a sample target, dump it live, verify the dump, compare with copying
    #[command(after_help = examples("demo"))]
    Demo(DemoArgs),
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the man page, or write all of them
    #[command(after_help = examples("man"))]
    Man(ManArgs),
    /// Print a shell's completion script
    #[command(after_help = examples("completions"))]
    Completions(CompletionsArgs),
    /// The demo's target (started by demo and bench)
    #[command(hide = true)]
    DemoTarget(TargetArgs),
}

/// Arguments of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The process to dump
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: i32,
    /// The core file, which gets this name only when it is complete; or a receiver (farspace receive):
    /// tcp:HOST:PORT or unix:PATH
    #[arg(short, long, value_name = "FILE", value_parser = sink::parse_dump)]
    pub(crate) output: SinkSpec,
    /// Dump the process and all its descendants as of one instant; FILE is a new directory then, with one core.PID
    /// for each. Memory that they share is only in the first core that has it
    #[arg(long, conflicts_with = "force")]
    pub(crate) tree: bool,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// How consistent the dump is
    #[arg(long, value_enum, default_value_t = LevelArg::Converge)]
    pub(crate) level: LevelArg,
    /// converge: stop the process after at most so many rounds of copying
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_rounds: u32,
    /// converge: the stop may take so many milliseconds
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = parse_milliseconds)]
    pub(crate) max_downtime: Duration,
    /// converge: what to do if it would take longer
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnMissArg::Snapshot)]
    pub(crate) on_miss: OnMissArg,
    /// converge: force the way changes are noticed instead of taking the best
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) tracking: Option<TrackingArg>,
    /// converge: draw pages remaining and downtime for each round
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Dump every mapping, whatever /proc/PID/coredump_filter says
    #[arg(long, conflicts_with = "filter")]
    pub(crate) all: bool,
    /// Use this mask instead of /proc/PID/coredump_filter (core(5); 0x prefix for hexadecimal)
    #[arg(long, value_name = "MASK", value_parser = parse_mask)]
    pub(crate) filter: Option<u32>,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    /// Force the way memory is read instead of taking the best
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) mechanism: Option<MechanismArg>,
    /// Say which mechanism served and why better ones did not
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `predump`.
#[derive(Debug, Args)]
pub(crate) struct PredumpArgs {
    /// The root of the process tree
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: i32,
    /// The image directory, new or empty, which gets this name only when it is complete; or a receiver (farspace
    /// receive): tcp:HOST:PORT or unix:PATH
    #[arg(short, long, value_name = "DIR", value_parser = sink::parse_dump)]
    pub(crate) output: SinkSpec,
    /// Send the pages and pagemaps to a page server, criu page-server or farspace receive --page-server; DIR gets the
    /// rest
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) page_server: Option<Address>,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// The image directory made last of these processes: write only what has changed since
    #[arg(long, value_name = "DIR")]
    pub(crate) parent: Option<PathBuf>,
    /// Make this many, as DIR/1, DIR/2 and so on, each the parent of the next
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) iterations: u32,
    /// Seconds between two of them
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub(crate) interval: Duration,
    /// Force the way memory is read instead of taking the best
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) mechanism: Option<MechanismArg>,
    /// Say which mechanisms served and why better ones did not
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// How a dump goes to a receiver.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct StreamArgs {
    /// To a receiver: compress with zstd, for slow links (LEVEL 3 unless given). The memory is then copied by farspace
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub(crate) compress: Option<i32>,
    /// To a receiver: give up when it takes nothing for so long
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
}

/// Arguments of `receive`.
#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// Where to listen: tcp:HOST:PORT (port 0: any free one, which is printed) or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Address,
    /// The file, or the directory where several come; in a directory that exists, a single file gets the name that
    /// the sender gave it. Nothing has its name before it is complete
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    /// Take the pages that criu pre-dump --page-server or criu dump --page-server sends; FILE is a new directory
    #[arg(long, conflicts_with = "force")]
    pub(crate) page_server: bool,
    /// For pre-dumps: the image directory that the new one continues
    #[arg(long, value_name = "DIR")]
    pub(crate) parent: Option<PathBuf>,
    /// Give up when the sender sends nothing for so long
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `splice`.
#[derive(Debug, Args)]
pub(crate) struct SpliceArgs {
    /// The process to read from
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: i32,
    /// Ranges, sent in this order: 0x7f0000001000+64K, or START-END as in /proc/PID/maps
    #[arg(value_name = "ADDR+LEN", required = true, value_parser = range::parse)]
    pub(crate) ranges: Vec<RemoteIoVec>,
    /// FILE, - (standard output), tcp:HOST:PORT or unix:PATH
    #[arg(short, long, value_name = "SINK", value_parser = sink::parse)]
    pub(crate) output: SinkSpec,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    /// Force the way memory is read instead of taking the best
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) mechanism: Option<MechanismArg>,
    /// Say which mechanism served and why better ones did not
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `syscall`.
#[derive(Debug, Args)]
pub(crate) struct SyscallArgs {
    /// The process in whose memory the call is made
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: i32,
    /// Name or number of the call on x86-64
    #[arg(value_name = "CALL", value_parser = syscall::parse_call)]
    pub(crate) call: Call,
    /// Up to six: a number (4096, 0x1000, 64K, -1), constants (PROT_READ|PROT_WRITE), str:TEXT (address of
    /// TEXT and a NUL), in:HEX or in:@FILE (address of these bytes), out:LEN (address of LEN zeros, shown after the
    /// call), iov:ADDR+LEN,... (address of an array of struct iovec), fd:PATH or fd:N (a descriptor of farspace)
    #[arg(value_name = "ARG", num_args = 0..=6, allow_negative_numbers = true)]
    #[arg(value_parser = syscall::parse_argument)]
    pub(crate) args: Vec<Argument>,
    /// Make calls that are not on memory, too; those that would harm the target or the agent never are
    #[arg(long)]
    pub(crate) any: bool,
    /// Say for how long a thread of the target was held
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// The form of the report.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ReportArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl ReportArgs {
    /// The form asked for.
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { Format::Human }
    }
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Memory of the sample target
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_demo_size)]
    pub(crate) size: u64,
    /// Where dumps are written [default: /dev/shm if it has room, else the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Rounds; each runs every method once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Splicing to every kind of sink against process_vm_readv + write, interleaved in the same run
    #[command(after_help = examples("bench-splice"))]
    Splice(BenchArgs),
    /// Answering a system call for another process: what each known way costs, interleaved in the same run
    #[command(after_help = examples("bench-exec"))]
    Exec(BenchExecArgs),
    /// Dumps of a process that goes on writing: how long it stands still, against gcore and a forked snapshot
    #[command(after_help = examples("bench-dump"))]
    Dump(BenchDumpArgs),
    /// redis and postgres under load while they are dumped: throughput and latency, undumped, converge and gcore
    #[command(after_help = examples("bench-services"))]
    Services(BenchServicesArgs),
}

/// Arguments of `bench services`.
#[derive(Debug, Args)]
pub(crate) struct BenchServicesArgs {
    /// Little memory and one round: to see that it works, not for figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only this service
    #[arg(long, value_name = "NAME", value_parser = ["redis", "postgres"])]
    pub(crate) only: Option<String>,
    /// Draw throughput and latency
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `bench dump`.
#[derive(Debug, Args)]
pub(crate) struct BenchDumpArgs {
    /// Small sizes and few rounds: to see that it works, not for figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only the groups of rows whose name contains this: 1g-4k-10pc, 4g, huge, flat, touch, predump, stream...
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Option<String>,
    /// Where dumps are written [default: /dev/shm if it has room, else the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `bench splice`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Small sizes and few rounds: to see that it works, not for figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only the groups of rows whose name contains this: devnull-4k, tcp, tcp-onward, unix, tmpfs, file, direct, devnull-huge,
    /// curve, attach, dump, memory
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Option<String>,
    /// Directory on a disk, for the file rows [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `bench exec`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchExecArgs {
    /// Few and short rounds: to see that it works, not for figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only the rows with this in their names, and those that they are compared with
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write farspace.1 and one page for each command into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Arguments of `demo-target`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// Memory that does not change
    #[arg(long, value_parser = units::parse_size)]
    pub(crate) size: u64,
    /// Memory that is written all the time; 0 for a target that idles
    #[arg(long, default_value = "0", value_parser = units::parse_size)]
    pub(crate) hot: u64,
    /// Do not measure gaps: no thread of the target wakes up by itself
    #[arg(long)]
    pub(crate) asleep: bool,
    /// Write to so many random pages of the --hot memory per second, instead of all the time
    #[arg(long, value_name = "PAGES")]
    pub(crate) rate: Option<u64>,
}

/// The consistency levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// One instant: copied while it runs, again what changed meanwhile, and so on; stopped for the last changes
    Converge,
    /// One instant: stopped for an injected fork, then read from the child
    Snapshot,
    /// One instant: stopped for the whole copy
    Frozen,
    /// No instant: read while it runs
    Fuzzy,
}

/// What to do about a stop that would be too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnMissArg {
    /// Copy the rest while the process is stopped
    Frozen,
    /// Fork the process as it stands, and copy the rest from the child; shared memory as of when it is written
    Snapshot,
    /// Let it go, and leave no file
    Fail,
}

/// The ways to notice changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrackingArg {
    /// userfaultfd write protection and PAGEMAP_SCAN
    WriteProtect,
    /// Soft-dirty bits; stops the process in each round
    SoftDirty,
    /// Not at all: everything is copied in the stop
    None,
}

/// The ways to read memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MechanismArg {
    /// The process_vmsplice system call
    Native,
    /// vmsplice by the agent in the target
    Agent,
    /// Copying through /proc/PID/mem
    Pidmem,
    /// Copying by process_vm_readv
    Readv,
}

/// Parses the arguments; help goes to stdout, a mistake becomes one line.
pub(crate) fn parse() -> Result<Cli, Exit> {
    Cli::try_parse().map_err(|error| {
        if error.use_stderr() {
            eprint_line(&usage_line(&error, &named_command(std::env::args().skip(1))));
            return Exit::Usage;
        }
        // A reader that closed the pipe has read enough help.
        let _ = output::print(&error.render().to_string());
        Exit::Ok
    })
}

/// clap's message without its usage block, in one line, with what to do next.
fn usage_line(error: &clap::Error, command: &str) -> String {
    use clap::error::ErrorKind;
    let text = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("no command given; try '{command} --help'");
    }
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
    let message = text[..end].trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{message}; try '{command} --help'")
}

/// "farspace bench splice": the command that the arguments name, as far as they do.
fn named_command(args: impl Iterator<Item = String>) -> String {
    let mut command = command();
    let mut name = command.get_name().to_owned();
    for arg in args {
        let Some(child) = command.find_subcommand(&arg).cloned() else { break };
        name = format!("{name} {arg}");
        command = child;
    }
    name
}

/// The clap command without what is hidden, for man pages and completions (clap_complete offers hidden ones too).
pub(crate) fn command() -> clap::Command {
    let all = Cli::command();
    let visible = all.get_subcommands().filter(|child| !child.is_hide_set()).cloned();
    let about = all.get_about().cloned().unwrap_or_default();
    let long_about = all.get_long_about().cloned().unwrap_or_default();
    clap::Command::new("farspace")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .long_about(long_about)
        .after_help(Exit::help())
        .subcommand_required(true)
        .subcommands(visible)
}

/// The examples of a command, as `--help` and its man page show them.
fn examples(command: &str) -> String {
    let mut text = String::from("Examples:\n");
    for (line, what) in crate::manual::examples(command) {
        text.push_str(&format!("  {line}\n      {what}\n"));
    }
    text
}

fn parse_pid(text: &str) -> Result<i32, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| format!("'{text}' is not a process's number; ps -e lists them"))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("'{text}' is no number of seconds from 0.1 to 86400"))
}

/// Milliseconds, also with a fraction.
fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let ms = text.parse().ok().filter(|ms: &f64| *ms >= 0.0 && *ms <= 1e9);
    ms.map(|ms| Duration::from_secs_f64(ms / 1e3))
        .ok_or_else(|| format!("'{text}' is no time in milliseconds; example: 2.5"))
}

fn parse_mask(text: &str) -> Result<u32, String> {
    let value = units::parse_number(text).and_then(|v| u32::try_from(v).ok());
    value.ok_or_else(|| format!("'{text}' is not a 32-bit mask; example: 0x33"))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("'{text}' is not a time in seconds; examples: 1, 0.5"))
}

fn parse_demo_size(text: &str) -> Result<u64, String> {
    let size = units::parse_size(text)?;
    if size < 16 << 20 { Err("the sample target needs at least 16M".to_owned()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
        command().debug_assert();
    }

    #[test]
    fn usage_is_one_line() {
        let error = Cli::try_parse_from(["farspace", "dump"]).unwrap_err();
        let line = usage_line(&error, "farspace dump");
        assert!(line.contains("--output <FILE>") && line.contains("<PID>"), "{line}");
        assert!(line.ends_with("try 'farspace dump --help'") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn names_the_command() {
        let name = |args: &[&str]| named_command(args.iter().map(|a| (*a).to_owned()));
        assert_eq!(name(&["bench", "splice", "--x"]), "farspace bench splice");
        assert_eq!(name(&["dump", "splice"]), "farspace dump");
        assert_eq!(name(&["--x"]), "farspace");
    }

    #[test]
    fn masks() {
        assert_eq!(parse_mask("0x33"), Ok(0x33));
        assert!(parse_mask("0x1ffffffff").is_err());
    }
}
