//! Threads that look at the clock without a pause, and report the longest time they did not run.
//!
//! Only what begins with a switch that the scheduler didn't force (getrusage(2), ru_nvcsw) is counted: these threads never
//! sleep, so that they were stopped. Time of it in which they were ready to run but another task had the CPU (schedstat's
//! run_delay) is taken off. A machine that stands still as a whole makes no such switch.
//!
//! `reset` forgets; `report` answers `gap net_ns=N wall_ns=N at_ns=N stops=N samples=N`: the longest gap net of
//! run-queue wait, the longest on the wall clock, when the former ended (CLOCK_MONOTONIC), how many were long enough for a
//! stop, and how often was looked. With `--room` it also is a [`guest-room`](crate::room).

use crate::room::Room;
use crate::witness::Witness;
use crate::{Verdict, control, option, sys};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shorter gaps are the clock's and the caches' own.
const GAP_NS: u64 = 5_000;
/// The run-queue wait is read at least this often, so that a gap is charged only its own.
const REFRESH_NS: u64 = 2_000_000;

/// A stop and a continuation cost at least this: two passes through the scheduler.
const STOP_NS: u64 = 20_000;

#[derive(Clone, Copy, Default)]
struct Gaps {
    net_ns: u64,
    wall_ns: u64,
    at_ns: u64,
    stops: u64,
    samples: u64,
}

#[derive(Default)]
struct Shared {
    gaps: Mutex<Gaps>,
    /// Raised by `reset`: samplers start over.
    generation: AtomicU64,
    /// How often one did.
    restarts: AtomicU64,
    /// How many have everything that they need, and look.
    looking: AtomicU64,
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let threads: usize = option(args, "--threads", 1)?;
    let mut room = if args.iter().any(|arg| arg == "--room") { Some(Room::new(1)?) } else { None };
    let shared = Arc::new(Shared::default());
    for n in 0..threads {
        let shared = Arc::clone(&shared);
        sys::start_thread(&format!("clock{n}"), move || {
            if let Err(reason) = sample(&shared) {
                control::say(&format!("harmed {reason}"));
                std::process::exit(1);
            }
        })?;
    }
    while shared.looking.load(Ordering::SeqCst) < threads as u64 {
        sys::sleep(std::time::Duration::from_millis(1))?;
    }
    let mut witness = Witness::start()?;
    control::ready(&room.as_ref().map(Room::words).unwrap_or_default());
    control::serve(&mut witness, |_, words| match words {
        ["reset"] => {
            let expected = (shared.generation.fetch_add(1, Ordering::SeqCst) + 1) * threads as u64;
            // One that has to wait for a CPU would take what comes next for what was before.
            while shared.restarts.load(Ordering::SeqCst) < expected {
                std::thread::yield_now();
            }
            *shared.lock() = Gaps::default();
            Some(Ok("ok".to_owned()))
        }
        ["report"] => {
            let Gaps { net_ns, wall_ns, at_ns, stops, samples } = *shared.lock();
            Some(Ok(format!(
                "gap net_ns={net_ns} wall_ns={wall_ns} at_ns={at_ns} stops={stops} samples={samples}"
            )))
        }
        _ => room.as_mut().and_then(|room| room.command(words)),
    })
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sample(shared: &Shared) -> Verdict {
    let schedstat = File::open("/proc/thread-self/schedstat").map_err(|e| format!("schedstat: {e}"))?;
    let mut generation = shared.generation.load(Ordering::SeqCst);
    let mut delay = run_delay_ns(&schedstat)?;
    let mut switches = own_switches()?;
    shared.looking.fetch_add(1, Ordering::SeqCst);
    let mut last = sys::now_ns();
    let mut refreshed = last;
    let mut samples = 0;
    loop {
        let now = sys::now_ns();
        samples += 1;
        let wall_ns = now - last;
        last = now;
        if wall_ns < GAP_NS && now - refreshed < REFRESH_NS {
            continue;
        }
        let delay_now = run_delay_ns(&schedstat)?;
        let was_stopped = own_switches()? != switches;
        let net_ns = if was_stopped { wall_ns.saturating_sub(delay_now - delay) } else { 0 };
        delay = delay_now;
        let current = shared.generation.load(Ordering::SeqCst);
        if current == generation {
            let mut gaps = shared.lock();
            gaps.samples += samples;
            gaps.stops += u64::from(net_ns >= STOP_NS);
            gaps.wall_ns = gaps.wall_ns.max(wall_ns);
            if net_ns > gaps.net_ns {
                (gaps.net_ns, gaps.at_ns) = (net_ns, now);
            }
        }
        if current != generation {
            shared.restarts.fetch_add(1, Ordering::SeqCst);
            generation = current;
        }
        samples = 0;
        // The time spent above is this thread's own.
        switches = own_switches()?;
        last = sys::now_ns();
        refreshed = last;
    }
}

/// How often this thread has given its CPU away.
fn own_switches() -> Result<i64, String> {
    // SAFETY: an all-zero rusage is valid, and valid for writes.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        sys::os("getrusage", libc::getrusage(libc::RUSAGE_THREAD, &mut usage))?;
        Ok(usage.ru_nvcsw)
    }
}

/// The second field of schedstat: nanoseconds spent waiting on a run queue.
fn run_delay_ns(schedstat: &File) -> Result<u64, String> {
    let mut text = [0; 96];
    let n = schedstat.read_at(&mut text, 0).map_err(|e| format!("schedstat: {e}"))?;
    let text = String::from_utf8_lossy(&text[..n]);
    text.split_whitespace().nth(1).and_then(|f| f.parse().ok()).ok_or_else(|| format!("schedstat: {text:?}"))
}
