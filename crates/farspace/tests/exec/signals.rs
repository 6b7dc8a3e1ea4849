//! Signals of the caller while a guest runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::child::{Target, wait_for};
use crate::guest::{COUNT, Guest, bit, caller, errno};

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

/// Sends this thread a signal once its guest counts: before the call it would mean something else.
fn interrupted<T>(guest: &Guest, signal: i32, call: impl FnOnce() -> T) -> T {
    let to = thread();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            guest.wait_for_count();
            // SAFETY: the thread waits for this one.
            unsafe { libc::pthread_kill(to, signal) };
        });
        call()
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
    let guest = Guest::new(&target, &COUNT);
    let mut context = guest.counting();
    // SIGALRM's default action would kill us.
    let call = || guest.run_masked(&mut context, bit(libc::SIGALRM)).expect("a call");
    let info = interrupted(&guest, libc::SIGALRM, call);
    assert_eq!((info.signo(), info.code()), (libc::SIGALRM, -6));
    assert_eq!(
        u32::from_ne_bytes([info.bytes[16], info.bytes[17], info.bytes[18], info.bytes[19]]),
        std::process::id()
    );
    assert!([guest.page, guest.page + 3].contains(&context.rip));
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
    // inc qword [rdi]; cmp dword [rsi], 0; je back; syscall
    let guest = Guest::new(&target, &[0x48, 0xff, 7, 0x83, 0x3e, 0, 0x74, 0xf8, 0x0f, 5]);
    let mut context = guest.counting();
    context.rsi = guest.page + 0x900;
    context.r12 = 12;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGUSR1, count as extern "C" fn(i32) as usize) };
    let ended = interrupted(&guest, libc::SIGUSR1, || guest.run(&mut context).map_err(|e| errno(&e)));
    assert_eq!(ended, Err(libc::EINTR));
    assert_eq!((HANDLED.load(Ordering::SeqCst), context.r12), (1, 12));
    assert!((guest.page..guest.page + 8).contains(&context.rip));
    guest.write(0x900, &[1]);
    assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSYS);
}

#[test]
fn stop_and_continue_are_not_noticed() {
    let target = Target::start();
    let guest = Guest::new(&target, &[0x83, 0x3f, 0, 0x74, 0xfb, 0x0f, 5]);
    let mut caller = caller(&guest, "wait").spawn().expect("this test");
    let pid = caller.id() as i32;
    std::thread::sleep(Duration::from_millis(100));
    let mut status = 0;
    // SAFETY: our own child.
    unsafe {
        for _ in 0..3 {
            libc::kill(pid, libc::SIGSTOP);
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
            assert!(libc::WIFSTOPPED(status));
            std::thread::sleep(Duration::from_millis(10));
            libc::kill(pid, libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    guest.write(0x800, &[1]);
    assert!(caller.wait().expect("ours").success());
}

#[test]
fn sigkill_ends_caller_and_guest() {
    let mut target = Target::start();
    let before = target.look();
    let guest = Guest::new(&target, &SPIN);
    farspace::raw::leave_idle();
    for round in 0..20 {
        let mut caller = caller(&guest, "spin").spawn().expect("this test");
        let mut output = caller.stdout.take().expect("piped");
        let mut text = Vec::new();
        // The harness says something of its own first.
        while !text.ends_with(b"begin") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut output, &mut byte).expect("it begins");
            text.push(byte[0]);
        }
        // At first while it attaches, later while the guest runs.
        std::thread::sleep(Duration::from_micros(if round < 15 { 300 * round } else { 50_000 }));
        caller.kill().expect("ours");
        caller.wait().expect("ours");
        wait_for("nothing left", || target.look().3.len() == 1);
    }
    guest.remove();
    target.assert_clean(&before);
}
