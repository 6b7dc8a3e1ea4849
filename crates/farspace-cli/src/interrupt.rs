//! Ctrl-C, SIGTERM and SIGHUP: stop cleanly, and leave nothing behind.
//!
//! The signals are blocked in every thread and taken by one that waits for them. The first sets a flag, which
//! loops see through [`check`] and library calls through [`flow`] in their progress function: both end in an
//! ordinary error, so that Drop detaches from the target and removes unfinished files. Where nobody looks in
//! time (a receiver that stalls), or at a second signal, the process ends at once after removing what was
//! registered with [`remove_at_exit`]; the library promises that its target survives that at any moment.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use crate::exit::Exit;
use crate::failure::{Failure, eprint_line};

/// How long a clean end may take before the process ends without it.
const GRACE: Duration = Duration::from_secs(2);

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WATCHING: OnceLock<()> = OnceLock::new();
static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts to watch; called by the commands that have something to clean up, before they start any thread.
pub(crate) fn watch() -> anyhow::Result<()> {
    if WATCHING.set(()).is_err() {
        return Ok(());
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("block signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.wait().is_err() {
                return;
            }
            REQUESTED.store(true, Ordering::SeqCst);
            let spawned = thread::Builder::new().spawn(|| {
                thread::sleep(GRACE);
                end_now();
            });
            // A second signal, or no thread to count down: end without waiting.
            if spawned.is_err() || signals.wait().is_ok() {
                end_now();
            }
        })
        .context("start the thread that waits for signals")?;
    Ok(())
}

/// Fails if a signal has arrived.
pub(crate) fn check() -> anyhow::Result<()> {
    if REQUESTED.load(Ordering::Relaxed) { Err(failure().into()) } else { Ok(()) }
}

/// Breaks a library call off, from its progress function, if a signal has arrived.
pub(crate) fn flow() -> ControlFlow<()> {
    if REQUESTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Has `path` (a file or a directory of files) removed even if the process has to end at once.
pub(crate) fn remove_at_exit(path: PathBuf) {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner).push(path);
}

/// The failure that an interruption is.
pub(crate) fn failure() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted").next("the target runs on and no output was left")
}

fn end_now() -> ! {
    // Errors are ignored: the clean end may have removed the path a moment ago.
    for path in PATHS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
    eprint_line("interrupted; the target runs on");
    std::process::exit(Exit::Interrupted.code().into());
}
