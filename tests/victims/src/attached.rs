//! Victims that do nothing special but be there.

use crate::witness::Witness;
use crate::{Verdict, control, option, sys};

/// The main thread waits for commands, the witness works.
pub(crate) fn idle(_: &[String]) -> Verdict {
    serve()
}

/// Not dumpable: its /proc files belong to root and an unprivileged caller may not attach, not even the same user
/// (`--uid`).
pub(crate) fn undumpable(args: &[String]) -> Verdict {
    let uid: u32 = option(args, "--uid", u32::MAX)?;
    // SAFETY: no memory is involved.
    unsafe {
        if uid != u32::MAX {
            sys::os("setgroups", libc::setgroups(0, std::ptr::null()))?;
            sys::os("setresgid", libc::setresgid(uid, uid, uid))?;
            sys::os("setresuid", libc::setresuid(uid, uid, uid))?;
        }
        sys::os("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 0))?;
    }
    serve()
}

fn serve() -> Verdict {
    let mut witness = Witness::start()?;
    control::ready("");
    control::serve(&mut witness, |_, _| None)
}
