//! Victims that watch for children: none but their own may ever show up.

use crate::witness::Witness;
use crate::{Verdict, control, sys};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

static SIGCHLDS: AtomicU32 = AtomicU32::new(0);
static LAST_CODE: AtomicI32 = AtomicI32::new(0);

extern "C" fn count(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGCHLDS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    LAST_CODE.store(unsafe { (*info).si_code }, Ordering::SeqCst);
}

/// Its own SIGCHLD handling: a handler that counts, SIG_IGN, or SA_NOCLDWAIT. No SIGCHLD may come that its own
/// child didn't cause, and its own child must still be seen at the end.
pub(crate) fn sigchld(args: &[String]) -> Verdict {
    let how = args.first().map_or("handler", String::as_str);
    let handler = count as *const () as libc::sighandler_t;
    match how {
        "handler" => sys::on_signal(libc::SIGCHLD, handler, libc::SA_SIGINFO)?,
        "ignore" => sys::on_signal(libc::SIGCHLD, libc::SIG_IGN, 0)?,
        "nocldwait" => sys::on_signal(libc::SIGCHLD, handler, libc::SA_SIGINFO | libc::SA_NOCLDWAIT)?,
        _ => return Err(format!("sigchld {how}: handler, ignore or nocldwait")),
    }
    let mut witness = Witness::start()?;
    control::ready(how);
    control::serve(&mut witness, |_, words| {
        let seen = SIGCHLDS.load(Ordering::SeqCst);
        if seen > 0 {
            let code = LAST_CODE.load(Ordering::SeqCst);
            return Some(Err(format!("{seen} SIGCHLD without a child of mine (si_code {code})")));
        }
        (words.first() == Some(&"exit")).then(|| own_child(how).map(|()| String::new()))
    })
}

/// A child of the victim's own is handled as the victim set it up.
fn own_child(how: &str) -> Verdict {
    // SAFETY: no memory is involved; the child leaves at once, it is the copy of a program with threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: leaves without running exit handlers.
        unsafe { libc::_exit(0) };
    }
    sys::os("fork", child)?;
    let waited = loop {
        // SAFETY: no status is asked for.
        let waited = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        // The handler has no SA_RESTART: its own SIGCHLD interrupts this one call legitimately.
        if waited >= 0 || sys::errno() != libc::EINTR {
            break waited;
        }
    };
    let (count, wanted_count) = (SIGCHLDS.load(Ordering::SeqCst), u32::from(how != "ignore"));
    let reaped = waited == child;
    if reaped != (how == "handler") {
        return Err(format!("waitpid for my own child returned {waited}"));
    }
    if count != wanted_count {
        return Err(format!("{count} SIGCHLD for my own child, expected {wanted_count}"));
    }
    Ok(())
}

/// A waitpid(-1, __WALL) loop: `spin` without any child (ECHILD every time), `block` with one child that lives
/// until the end.
pub(crate) fn wait_all(args: &[String]) -> Verdict {
    match args.first().map_or("spin", String::as_str) {
        "spin" => wait_spinning(),
        "block" => wait_blocking(),
        how => Err(format!("wait-all {how}: spin or block")),
    }
}

/// One waitpid(-1, __WALL): what it returned and the errno.
fn wait_any() -> (i32, i32) {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let got = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
    (got, sys::errno())
}

type Found = Arc<Mutex<Option<String>>>;

fn wait_spinning() -> Verdict {
    let found = Found::default();
    let loops = Arc::new(AtomicU64::new(0));
    let (noted, counted) = (Arc::clone(&found), Arc::clone(&loops));
    sys::start_thread("waiter", move || {
        loop {
            let (got, errno) = wait_any();
            if (got, errno) != (-1, libc::ECHILD) {
                let what =
                    format!("waitpid(-1, __WALL) returned {got}, errno {errno}, without a child of mine");
                noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    let mut witness = Witness::start()?;
    control::ready("");
    control::serve(&mut witness, |_, _| found.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Err))
}

fn wait_blocking() -> Verdict {
    let (reader, writer) = sys::pipe()?;
    let child = sys::fork(|| {
        let told = sys::die_with_parent().and_then(|()| sys::read(&reader, &mut [0]));
        if told == Ok(1) { 0 } else { 1 }
    })?;
    let found = Found::default();
    let noted = Arc::clone(&found);
    let reaped = Arc::new(AtomicI32::new(0));
    let told = Arc::clone(&reaped);
    sys::start_thread("waiter", move || {
        let (got, errno) = wait_any();
        if got == child {
            told.store(got, Ordering::SeqCst);
        } else {
            let what = format!("waitpid(-1, __WALL) returned {got}, errno {errno}; my only child is {child}");
            noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        }
        // The thread stays: a missing one would count as harm.
        loop {
            std::thread::park();
        }
    })?;
    let mut witness = Witness::start()?;
    control::ready("");
    control::serve(&mut witness, |witness, words| {
        if let Some(harm) = found.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(Err(harm));
        }
        if words.first() != Some(&"exit") {
            return (reaped.load(Ordering::SeqCst) != 0).then(|| Err("my child ended too early".to_owned()));
        }
        let mut end = || -> Result<String, String> {
            witness.check(crate::baseline::Left::Nothing)?;
            sys::write_all(&writer, b"x")?;
            for _ in 0..20_000 {
                if reaped.load(Ordering::SeqCst) == child {
                    witness.rebase()?;
                    return Ok(String::new());
                }
                sys::sleep(std::time::Duration::from_millis(1))?;
            }
            Err("my child's end was not seen by waitpid(-1, __WALL)".to_owned())
        };
        Some(end())
    })
}
