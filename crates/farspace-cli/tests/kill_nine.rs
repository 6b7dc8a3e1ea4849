//! farspace killed by SIGKILL at any moment: the target computes on correctly, and nothing is left in it.
//!
//! FARSPACE_TEST_KILLS overrides the number of kills.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "common/computing.rs"]
mod computing;
#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/place.rs"]
mod place;
#[path = "common/random.rs"]
mod random;
#[path = "common/victim.rs"]
mod victim;

use computing::Target;
use leftovers::{LONG, Left};
use place::Place;
use random::Random;

/// Kills in all, unless the environment says otherwise.
const KILLS: u32 = 500;
/// How long before its end a target is left alone.
const LAST: Duration = Duration::from_secs(2);
/// How long the leftovers of a killed farspace may take to vanish: the agent waits 1 s for a host that is dead.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// Where a process that attaches and says when it begins to is asked for: a test of this program.
const ATTACHER: &str = "FARSPACE_TEST_ATTACH";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// The first three milliseconds of an attach, through the library.
    Begin,
    /// Attach, read, detach.
    Splice,
    /// A dump at this level.
    Dump(&'static str),
}

const ALL: [Work; 6] = [
    Work::Begin,
    Work::Splice,
    Work::Dump("converge"),
    Work::Dump("snapshot"),
    Work::Dump("frozen"),
    Work::Dump("fuzzy"),
];

impl Target {
    fn is_alive(&self) -> bool {
        std::fs::read(format!("/proc/{}/maps", self.pid())).is_ok_and(|maps| !maps.is_empty())
    }
}

/// Starts the work; returns when it is about to begin.
fn begin(work: Work, pid: i32, output: &Path) -> Child {
    let farspace = env!("CARGO_BIN_EXE_farspace");
    let mut command = match work {
        Work::Begin => {
            let mut command = Command::new(std::env::current_exe().expect("this test"));
            command.args(["--exact", "attacher", "--nocapture", "--test-threads=1"]);
            command.env(ATTACHER, pid.to_string());
            command
        }
        Work::Splice => {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            // One that has ended has none.
            let range = maps.split_whitespace().next().unwrap_or("0x1000+1").to_owned();
            let mut command = Command::new(farspace);
            command.args(["splice", &pid.to_string(), &range, "-o"]).arg(output);
            command
        }
        Work::Dump(level) => {
            let mut command = Command::new(farspace);
            command.args(["dump", &pid.to_string(), "--level", level, "-o"]).arg(output);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    if work == Work::Begin {
        // The harness says something of its own first.
        let stdout = child.stdout.as_mut().expect("piped");
        let mut byte = [0];
        while byte != *b"!" {
            stdout.read_exact(&mut byte).expect("it attaches");
        }
    }
    child
}

/// Not a test of its own: the process that [`Work::Begin`] kills.
#[test]
fn attacher() {
    let Ok(pid) = std::env::var(ATTACHER) else { return };
    let mut stdout = std::io::stdout();
    stdout.write_all(b"!").expect("a reader");
    stdout.flush().expect("a reader");
    let target = farspace::Target::attach(pid.parse().expect("a pid"));
    drop(target);
    std::thread::sleep(Duration::from_secs(10));
}

/// How long the work takes when nobody disturbs it: the median of a few.
fn measure(work: Work, target: &Target) -> Duration {
    let place = Place::new();
    if work == Work::Begin {
        return Duration::from_millis(3);
    }
    let once = |n: u32| {
        let start = Instant::now();
        let status = begin(work, target.pid(), &place.file(&n.to_string())).wait().expect("an end");
        assert!(status.success(), "{work:?} undisturbed: {status}");
        start.elapsed()
    };
    let mut all: Vec<Duration> = (0..5).map(once).collect();
    all.sort();
    all[2]
}

/// How a kill went.
#[derive(Default, Debug)]
struct Tally {
    kills: u32,
    too_late: u32,
    /// Regions that stayed, to be used again.
    regions: u32,
    longest_cleaning: Duration,
}

/// Kills `work` after `delay`.
fn kill_once(work: Work, target: &Target, delay: Duration, tally: &mut Tally) -> Result<(), String> {
    let place = Place::new();
    let output = place.file("out");
    let mut child = begin(work, target.pid(), &output);
    let start = Instant::now();
    // Microseconds matter.
    while start.elapsed() < delay {
        std::hint::spin_loop();
    }
    let _ = child.kill();
    let status = child.wait().map_err(|e| format!("wait: {e}"))?;
    tally.kills += 1;
    tally.too_late += u32::from(status.code().is_some());

    if !target.is_alive() {
        return Err("the target is dead".to_owned());
    }
    check_output(&place, &output, work, status.success())?;
    match target.before.wait_clean(target.pid(), PATIENCE) {
        Ok(took) => tally.longest_cleaning = tally.longest_cleaning.max(took),
        Err(left) if is_reusable(&left) => {
            eprintln!("{work:?} killed after {delay:?}: {left}");
            tally.regions += 1;
            visit(target)?;
        }
        Err(left) => return Err(left.to_string()),
    }
    Ok(())
}

/// A visit that isn't killed uses what is left, and leaves nothing.
fn visit(target: &Target) -> Result<(), String> {
    let place = Place::new();
    let status = begin(Work::Splice, target.pid(), &place.file("out")).wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("the next visit: {status}"));
    }
    std::fs::remove_file(place.file("out")).map_err(|e| format!("the next visit's output: {e}"))?;
    place.is_empty();
    let clean = target.before.wait_clean(target.pid(), LONG);
    clean.map(drop).map_err(|left| format!("after the next visit: {left}"))
}

/// One region, of at most two mappings, and code in the vDSO may stay if nothing else does: the next visit uses and
/// removes them.
fn is_reusable(left: &Left) -> bool {
    let count = |kind: &str| left.0.iter().filter(|(k, _)| *k == kind).count();
    count("mapping") <= 2 && count("mapping") + count("vdso") == left.0.len()
}

/// The output has its name only if it is complete, and no other name is there where files can be without one.
fn check_output(place: &Place, output: &Path, work: Work, finished: bool) -> Result<(), String> {
    let names = place.names();
    match (names.as_slice(), std::fs::read(output)) {
        ([], _) if !finished || work == Work::Begin => Ok(()),
        ([_], Ok(bytes)) => match work {
            Work::Dump(_) if !is_complete_core(&bytes) => {
                Err("an incomplete core has its final name".to_owned())
            }
            _ => Ok(()),
        },
        _ => Err(format!("left behind: {names:?}")),
    }
}

/// All segments that the header promises lie inside of the file.
fn is_complete_core(bytes: &[u8]) -> bool {
    use object::read::elf::{FileHeader as _, ProgramHeader as _};
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(bytes) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, bytes) else { return false };
    segments.iter().all(|s| s.p_offset(endian) + s.p_filesz(endian) <= bytes.len() as u64)
}

#[test]
fn the_target_outlives_every_kill() {
    let kills = std::env::var("FARSPACE_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let seed = std::env::var("FARSPACE_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(42);
    let mut random = Random(seed);
    let mut tallies: BTreeMap<Work, Tally> = BTreeMap::new();
    let mut failures = Vec::new();
    let first = Target::start();
    let durations = ALL.map(|work| measure(work, &first));
    eprintln!("undisturbed: {:?}", ALL.iter().zip(durations).collect::<Vec<_>>());
    drop(first);

    let mut left = kills;
    let mut at = 0;
    while left > 0 {
        let target = Target::start();
        while left > 0 && target.has_time(PATIENCE + LAST) {
            left -= 1;
            let work = ALL[at % ALL.len()];
            let delay = random.below(durations[at % ALL.len()]);
            at += 1;
            // Not of one whose time was over before this machine got to the end of it.
            if let Err(reason) = kill_once(work, &target, delay, tallies.entry(work).or_default()) {
                if !target.has_time(Duration::ZERO) {
                    break;
                }
                failures.push(format!("{work:?} killed after {delay:?}: {reason}"));
                break;
            }
        }
        if !target.is_alive() && target.has_time(Duration::ZERO) {
            failures.push(format!("the target ended: {:?}", target.victim.result()));
            continue;
        }
        if let Err(reason) = visit(&target)
            && target.has_time(Duration::ZERO)
        {
            failures.push(reason);
        }
        if let Err(failure) = target.victim.result() {
            failures.push(failure.to_string());
        }
    }
    for (work, tally) in &tallies {
        eprintln!("{work:?}: {tally:?}");
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
