//! A target whose processes, threads and mappings come and go all the time.
//!
//! `ready PID area=ADDR:LEN`: the range that the `mmap` storm maps, fills with pattern [`AREA_SEED`] and unmaps.

use crate::baseline::Left;
use crate::witness::Witness;
use crate::{Verdict, control, pattern, sys};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Far below where the kernel places mappings, so that nobody else's ever is in the hole.
const AREA: usize = 0x1300_0000_0000;
const AREA_BYTES: usize = 64 * 4096;
/// The pattern of the area while it is mapped.
const AREA_SEED: u64 = 0xa2ea;

#[derive(Default)]
struct Shared {
    /// Held for reading during one iteration, for writing while the victim looks at itself.
    pause: RwLock<()>,
    harm: Mutex<Option<String>>,
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let shared = Arc::new(Shared::default());
    let all = ["fork", "mmap", "thread", "exec"].map(str::to_owned);
    let mut rounds = Vec::new();
    for name in if args.is_empty() { &all[..] } else { args } {
        let storm: fn() -> Verdict = match name.as_str() {
            "fork" => fork,
            "mmap" => map,
            "thread" => thread,
            "exec" => exec,
            _ => return Err(format!("storm {name}: fork, mmap, thread or exec")),
        };
        // Once in this thread: what is set up lazily is there before the first look.
        storm()?;
        let (shared, count) = (Arc::clone(&shared), Arc::new(AtomicU64::new(0)));
        rounds.push(Arc::clone(&count));
        sys::start_thread(name, move || {
            loop {
                let running = shared.pause.read().unwrap_or_else(PoisonError::into_inner);
                if let Err(reason) = storm() {
                    shared.harm.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
                }
                drop(running);
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
        })?;
    }
    // The witness takes the stack that the thread storm had cached: that one makes another in its next round, which is at the
    // latest the one after the present one.
    let mut witness = Witness::start()?;
    let so_far: Vec<u64> = rounds.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    while rounds.iter().zip(&so_far).any(|(count, so_far)| count.load(Ordering::SeqCst) < so_far + 2) {
        sys::sleep(Duration::from_millis(1))?;
    }
    {
        let _still = shared.pause.write().unwrap_or_else(PoisonError::into_inner);
        witness.rebase()?;
    }
    control::ready(&format!("area={AREA:#x}:{AREA_BYTES:#x}"));
    control::serve(&mut witness, |witness, words| {
        let still = shared.pause.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = shared.harm.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(Err(reason));
        }
        let left = match words {
            ["check"] => Left::Agent,
            ["check", "detached"] => Left::Nothing,
            ["exit", ..] => {
                // The storms stay paused for the last look.
                std::mem::forget(still);
                return None;
            }
            _ => return None,
        };
        Some(witness.check(left).map(|()| "ok".to_owned()))
    })
}

fn fork() -> Verdict {
    // SAFETY: no memory is involved; the child leaves at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: leaves without running exit handlers.
        unsafe { libc::_exit(0) };
    }
    sys::os("fork", child)?;
    sys::wait_success(child)
}

fn map() -> Verdict {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: NOREPLACE never touches an existing mapping; what is filled and unmapped is the new mapping.
    unsafe {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        let at = libc::mmap(AREA as *mut libc::c_void, AREA_BYTES, prot, flags, -1, 0);
        if at as usize != AREA {
            return Err(format!("mmap at {AREA:#x}: {}", std::io::Error::last_os_error()));
        }
        let words = std::slice::from_raw_parts_mut(at.cast::<u64>(), AREA_BYTES / 8);
        for (index, word) in (0..).zip(words.iter_mut()) {
            *word = pattern::word(AREA_SEED, index);
        }
        sys::os("munmap", libc::munmap(at, AREA_BYTES)).map(drop)
    }
}

fn thread() -> Verdict {
    // SAFETY: no memory is involved.
    let tid = || unsafe { libc::gettid() };
    let worker = std::thread::Builder::new().spawn(tid).map_err(|e| format!("thread: {e}"))?;
    let tid = worker.join().map_err(|_| "a thread panicked".to_owned())?;
    // It is joined a moment before it is gone, and would be taken for one that is there at the start.
    while Path::new(&format!("/proc/self/task/{tid}")).exists() {
        std::thread::yield_now();
    }
    Ok(())
}

fn exec() -> Verdict {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(crate::PROGRAM).args(["exit-race", "--after-us", "0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status().map_err(|e| format!("exec: {e}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("exec of a child: {status}")),
    }
}
