//! What is done to the targets: signals, stops, a tracer, sudden ends; and new ones for those that have ended.

use crate::random::Random;
use crate::slots::Slots;
use crate::target::PROGRAM;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A traced target stops in this time, or is killed.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// Keeps the slots full until the time is over, then ends all targets.
pub(crate) fn run(slots: &Slots, seed: u64, end: Instant, is_over: &AtomicBool) -> Result<(), String> {
    let mut random = Random(seed ^ 0xc4a0_5000);
    let mut targets: Vec<Option<Child>> = (0..slots.len()).map(|_| None).collect();
    let mut outcome = Ok(());
    // Calls that wait for a target that is stopped go on until the last one is through.
    while Instant::now() < end || !is_over.load(Ordering::Relaxed) {
        let nr = random.below(slots.len() as u64) as usize;
        if let Err(reason) = step(slots, nr, &mut targets[nr], &mut random) {
            outcome = Err(reason);
            break;
        }
        std::thread::sleep(Duration::from_micros(random.below(3000)));
    }
    for (nr, target) in targets.iter_mut().enumerate() {
        slots.set(nr, 0);
        if let Some(target) = target {
            let _ = target.kill();
            let _ = target.wait();
        }
    }
    outcome
}

fn step(slots: &Slots, nr: usize, target: &mut Option<Child>, random: &mut Random) -> Result<(), String> {
    let is_alive = match target {
        Some(child) => matches!(child.try_wait(), Ok(None)),
        None => false,
    };
    if !is_alive {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(PROGRAM).arg(random.next().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("a target: {error}"))?;
        slots.set(nr, child.id() as i32);
        *target = Some(child);
        return Ok(());
    }
    let pid = slots.get(nr);
    match random.below(20) {
        0 => kill(pid, libc::SIGKILL),
        1 => {
            kill(pid, libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random.below(2000)));
            kill(pid, libc::SIGCONT);
        }
        2..6 => trace(pid),
        _ => kill(pid, libc::SIGUSR1),
    }
    Ok(())
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: no memory is involved; the pid is that of a child that wasn't waited for.
    unsafe { libc::kill(pid, signal) };
}

/// Seizes it, stops it, lets it go.
fn trace(pid: i32) {
    let begin = Instant::now();
    // SAFETY: no memory of this process is involved in any of these requests.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) != 0 {
            return;
        }
        libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0);
        let mut status = 0;
        loop {
            match libc::waitpid(pid, &mut status, libc::__WALL | libc::WNOHANG) {
                0 if begin.elapsed() < STOP_LIMIT => std::thread::sleep(Duration::from_micros(100)),
                0 => return kill(pid, libc::SIGKILL),
                waited if waited == pid && libc::WIFSTOPPED(status) => break,
                _ => return,
            }
        }
        let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
        libc::ptrace(libc::PTRACE_DETACH, pid, 0, signal);
    }
}
