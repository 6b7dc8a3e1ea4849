//! Sender or receiver killed by SIGKILL at any moment of a stream: the target computes on, the other side says that it
//! broke, and nothing that is left looks like a dump.
//!
//! FARSPACE_TEST_KILLS overrides the number of kills, FARSPACE_TEST_SEED their moments.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "common/computing.rs"]
mod computing;
#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/place.rs"]
#[expect(dead_code, reason = "what may be left is decided here")]
mod place;
#[path = "common/random.rs"]
mod random;
#[path = "common/run.rs"]
#[expect(dead_code, reason = "only how a run ended is of interest here")]
mod run;
#[path = "common/stream.rs"]
mod stream;
#[path = "common/victim.rs"]
mod victim;

use computing::Target;
use leftovers::LONG;
use place::Place;
use random::Random;
use run::Run;
use stream::{Receiving, dump};

const KILLS: u32 = 300;
/// How long before its end a target is left alone.
const LAST: Duration = Duration::from_secs(5);
/// How long the leftovers of a killed farspace may take to vanish: the agent waits 1 s for a host that is dead.
const PATIENCE: Duration = Duration::from_millis(2_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
struct Work {
    level: &'static str,
    more: &'static [&'static str],
}

const ALL: [Work; 7] = [
    Work { level: "converge", more: &[] },
    Work { level: "converge", more: &["--compress=1"] },
    Work { level: "converge", more: &["--tree"] },
    Work { level: "snapshot", more: &[] },
    Work { level: "frozen", more: &[] },
    Work { level: "fuzzy", more: &["--compress=1"] },
    Work { level: "snapshot", more: &["--tree"] },
];

/// Streams once, with one side killed after `delay`, or nobody; what remains, or why it is wrong.
fn once(work: Work, pid: i32, fate: Option<(Side, Duration)>) -> Result<Duration, String> {
    let place = Place::new();
    let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file("out"), &[]);
    let args = [&["--level", work.level], work.more].concat();
    let begin = Instant::now();
    let mut sender = dump(pid, &receiving.address, &args).spawn().map_err(|e| e.to_string())?;
    if let Some((side, delay)) = fate {
        while begin.elapsed() < delay {
            std::hint::spin_loop();
        }
        match side {
            Side::Sender => drop(sender.kill()),
            Side::Receiver => kill_nine(receiving.pid()),
        }
    }
    let killed = fate.map(|(side, _)| side);
    // The one that lives must end by itself, but for a receiver that nobody has come to yet.
    let sent = Run::ended(sender.wait_with_output().map_err(|e| e.to_string())?);
    let took = begin.elapsed();
    let received = {
        let waiting = Instant::now();
        // Long before its time limit it has noticed.
        if killed == Some(Side::Sender) && !place.file("out").exists() {
            while is_running(receiving.pid()) && waiting.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if is_running(receiving.pid()) {
                // Nobody had said hello, and it still waits; or it has had no CPU, and cleans up yet.
                let _ = kill(Pid::from_raw(receiving.pid() as i32), Signal::SIGTERM);
            }
        }
        receiving.finish()
    };
    let names = place.names();
    let complete = names.contains(&"out".to_owned());
    let hidden = names.iter().filter(|name| *name != "out").collect::<Vec<_>>();
    // Only a killed receiver may leave something, under a name that says what it is.
    let allowed = |name: &&String| {
        killed == Some(Side::Receiver) && name.starts_with(".out.") && name.ends_with(".partial")
    };
    if !hidden.iter().all(allowed) {
        return Err(format!("left behind: {names:?}"));
    }
    match killed {
        None if sent.code != Some(0) || received.code != Some(0) || !complete => {
            return Err(format!("undisturbed: {sent:?} {received:?} {names:?}"));
        }
        // Whoever says that all is well is right.
        Some(Side::Sender) if received.code == Some(0) && !complete => return Err(format!("{received:?}")),
        // 130: it was told to end.
        Some(Side::Sender) if received.code.is_some_and(|code| ![0, 130].contains(&code)) && complete => {
            return Err(format!("an unfinished dump has its name: {received:?}"));
        }
        Some(Side::Receiver) if sent.code == Some(0) && !complete => return Err(format!("{sent:?}")),
        Some(Side::Receiver)
            if sent.code != Some(0) && !(sent.code == Some(6) && sent.stderr.lines().count() == 1) =>
        {
            return Err(format!("the sender's error: {sent:?}"));
        }
        _ => {}
    }
    if complete && !is_whole(&place, pid) {
        return Err(format!("what has its name isn't complete: {names:?}"));
    }
    Ok(took)
}

fn kill_nine(pid: u32) {
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// All segments that the header promises lie inside of the file.
fn is_whole(place: &Place, pid: i32) -> bool {
    use object::read::elf::{FileHeader as _, ProgramHeader as _};
    let out = place.file("out");
    let core = if out.is_dir() { out.join(format!("core.{pid}")) } else { out };
    let Ok(bytes) = std::fs::read(core) else { return false };
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(&*bytes) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, &*bytes) else { return false };
    segments.iter().all(|s| s.p_offset(endian) + s.p_filesz(endian) <= bytes.len() as u64)
}

#[test]
fn either_side_killed_at_any_moment() {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let kills = number("FARSPACE_TEST_KILLS", u64::from(KILLS)) as u32;
    let mut random = Random(number("FARSPACE_TEST_SEED", 42));
    let first = Target::start();
    let durations = ALL.map(|work| once(work, first.pid(), None).expect("undisturbed"));
    drop(first);
    let (mut failures, mut done) = (Vec::new(), 0);
    while done < kills && failures.len() < 5 {
        let target = Target::start();
        while done < kills && target.has_time(PATIENCE + LAST) {
            let at = done as usize % ALL.len();
            let side =
                if (done as usize / ALL.len()).is_multiple_of(2) { Side::Sender } else { Side::Receiver };
            let delay = random.below(durations[at]);
            done += 1;
            let what = || format!("{:?}, {side:?} killed after {delay:?}", ALL[at]);
            // Not of a target whose time was over before this machine got to the end of it.
            if let Err(reason) = once(ALL[at], target.pid(), Some((side, delay))) {
                if !target.has_time(Duration::ZERO) {
                    break;
                }
                failures.push(format!("{}: {reason}", what()));
                break;
            }
            if let Err(left) = target.before.wait_clean(target.pid(), PATIENCE) {
                // A region that stays is used and taken away by the next visit.
                let again = once(ALL[at], target.pid(), None);
                let clean = target.before.wait_clean(target.pid(), LONG);
                if !target.has_time(Duration::ZERO) {
                    break;
                }
                if again.is_err() || clean.is_err() {
                    failures.push(format!("{}: {left}, then {again:?} {clean:?}", what()));
                    break;
                }
            }
        }
        // The next run succeeds.
        if let Err(reason) = once(ALL[0], target.pid(), None)
            && target.has_time(Duration::ZERO)
        {
            failures.push(format!("after kills: {reason}"));
        }
        if let Err(failure) = target.victim.result() {
            failures.push(failure.to_string());
        }
    }
    eprintln!("{done} kills; undisturbed: {durations:?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
