//! Signals of the caller while a guest runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::child::{Target, wait_for};
use crate::guest::{Guest, bit, errno};

/// jmp self
const SPIN: [u8; 2] = [0xeb, 0xfe];
static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// This thread, for those who send it a signal.
fn thread() -> libc::pthread_t {
    // SAFETY: always succeeds.
    unsafe { libc::pthread_self() }
}

fn send_soon(signals: &'static [(u64, i32)]) -> std::thread::JoinHandle<()> {
    let to = thread();
    std::thread::spawn(move || {
        for (after_ms, signal) in signals {
            std::thread::sleep(Duration::from_millis(*after_ms));
            // SAFETY: the thread waits for this one.
            unsafe { libc::pthread_kill(to, *signal) };
        }
    })
}

fn is_blocked(signal: i32) -> bool {
    // SAFETY: a set of this function's own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        libc::sigismember(&raw const set, signal) == 1
    }
}

fn set_blocked(signal: i32, how: i32) {
    // SAFETY: a set of this function's own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

#[test]
fn a_masked_signal_ends_a_spinning_guest() {
    let target = Target::start();
    let guest = Guest::new(&target, &SPIN);
    let mut context = guest.begin();
    // SIGALRM's default action would kill us.
    let sender = send_soon(&[(30, libc::SIGALRM)]);
    let info = guest.run_masked(&mut context, bit(libc::SIGALRM)).expect("a call");
    sender.join().expect("it ended");
    assert_eq!((info.signo(), info.code()), (libc::SIGALRM, -6));
    assert_eq!(
        u32::from_ne_bytes([info.bytes[16], info.bytes[17], info.bytes[18], info.bytes[19]]),
        std::process::id()
    );
    assert_eq!(context.rip, guest.page);
    assert!(!is_blocked(libc::SIGALRM));
}

#[test]
fn a_pending_signal_runs_no_instruction() {
    let target = Target::start();
    // inc qword [rdi]; jmp self
    let guest = Guest::new(&target, &[0x48, 0xff, 7, 0xeb, 0xfe]);
    let mut context = guest.begin();
    context.rdi = guest.page + 0x800;
    set_blocked(libc::SIGUSR2, libc::SIG_BLOCK);
    // SAFETY: blocked.
    unsafe { libc::pthread_kill(thread(), libc::SIGUSR2) };
    let given = context;
    let info = guest.run_masked(&mut context, bit(libc::SIGUSR2)).expect("a call");
    assert_eq!((info.signo(), context, guest.read(0x800)), (libc::SIGUSR2, given, 0));
    assert!(is_blocked(libc::SIGUSR2));
    set_blocked(libc::SIGUSR2, libc::SIG_UNBLOCK);
}

#[test]
fn a_handler_gives_eintr_and_the_guest_goes_on() {
    let target = Target::start();
    // cmp dword [rdi], 0; je back; syscall
    let guest = Guest::new(&target, &[0x83, 0x3f, 0, 0x74, 0xfb, 0x0f, 5]);
    let mut context = guest.begin();
    context.rdi = guest.page + 0x800;
    context.r12 = 12;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGUSR1, count as extern "C" fn(i32) as usize) };
    let sender = send_soon(&[(20, libc::SIGUSR1)]);
    assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::EINTR));
    sender.join().expect("it ended");
    assert_eq!((HANDLED.load(Ordering::SeqCst), context.r12), (1, 12));
    assert!((guest.page..guest.page + 5).contains(&context.rip));
    guest.write(0x800, &[1]);
    assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSYS);
}

#[test]
fn stop_and_continue_are_not_noticed() {
    // In a child of ours, which can be stopped as a whole.
    let target = Target::start();
    let guest = Guest::new(&target, &[0x83, 0x3f, 0, 0x74, 0xfb, 0x0f, 5]);
    let mut context = guest.begin();
    context.rdi = guest.page + 0x800;
    // SAFETY: the child only makes the call and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = guest.run(&mut context).map(|info| info.signo());
        // SAFETY: ends the child.
        unsafe { libc::_exit(if done.is_ok_and(|signal| signal == libc::SIGSYS) { 0 } else { 1 }) };
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut status = 0;
    // SAFETY: our own child.
    unsafe {
        for _ in 0..3 {
            libc::kill(child, libc::SIGSTOP);
            assert_eq!(libc::waitpid(child, &raw mut status, libc::WUNTRACED), child);
            assert!(libc::WIFSTOPPED(status));
            std::thread::sleep(Duration::from_millis(10));
            libc::kill(child, libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    guest.write(0x800, &[1]);
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

#[test]
fn sigkill_ends_caller_and_guest() {
    let mut target = Target::start();
    let guest = Guest::new(&target, &SPIN);
    farspace::raw::leave_idle();
    let before = target.look();
    for round in 0..20 {
        let mut context = guest.begin();
        // SAFETY: the child only makes the call.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let _ = guest.run(&mut context);
            // SAFETY: ends the child.
            unsafe { libc::_exit(1) };
        }
        // At first while it attaches, later while the guest runs.
        std::thread::sleep(Duration::from_micros(if round < 15 { 500 * round } else { 50_000 }));
        // SAFETY: our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            assert!(libc::WIFSIGNALED(status));
        }
        wait_for("nothing left", || target.look().3 == before.3);
    }
    guest.remove();
    target.assert_clean(&before_without(&before));
}

/// The page of the guest is gone by then.
fn before_without(
    before: &(Vec<String>, usize, usize, std::collections::BTreeSet<i32>),
) -> (Vec<String>, usize, usize, std::collections::BTreeSet<i32>) {
    let mut before = before.clone();
    before.0.retain(|line| !line.contains("rwxp"));
    before
}
