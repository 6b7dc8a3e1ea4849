//! RLIMIT_NPROC reached by an unprivileged user: no task can be added in the target's name.

use crate::witness::Witness;
use crate::{Verdict, control, sys};

/// An unprivileged user id that other tests don't use.
const UID: u32 = 65_531;

pub(crate) fn main(_: &[String]) -> Verdict {
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if root {
        // SAFETY: no memory is involved.
        unsafe {
            sys::os("setgroups", libc::setgroups(0, std::ptr::null()))?;
            sys::os("setresgid", libc::setresgid(UID, UID, UID))?;
            sys::os("setresuid", libc::setresuid(UID, UID, UID))?;
            // Changing ids makes a process undumpable; that is another victim's subject.
            sys::os("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 1))?;
        }
    }
    // The witness's thread exists before the limit, and after the C library signalled all threads to change ids.
    let mut witness = Witness::start()?;
    let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: the limit is valid for the call.
    sys::os("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) })?;
    // SAFETY: no memory is involved; a child, if there is one, leaves at once.
    match unsafe { libc::fork() } {
        // SAFETY: leaves without running exit handlers.
        0 => unsafe { libc::_exit(0) },
        -1 if sys::errno() == libc::EAGAIN => {}
        child => {
            let _ = sys::wait(child);
            return control::skip("RLIMIT_NPROC doesn't bind here (privileged user that can't drop its id)");
        }
    }
    witness.rebase()?;
    control::ready("");
    control::serve(&mut witness, |_, _| None)
}
