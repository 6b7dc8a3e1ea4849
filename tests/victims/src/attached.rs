//! Victims that do nothing special but be there.

use crate::witness::Witness;
use crate::{Verdict, control, sys};

/// The main thread waits for commands, the witness works.
pub(crate) fn idle(_: &[String]) -> Verdict {
    serve()
}

/// Not dumpable: its /proc files belong to root and an unprivileged caller may not attach.
pub(crate) fn undumpable(_: &[String]) -> Verdict {
    // SAFETY: no memory is involved.
    sys::os("prctl", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
    serve()
}

fn serve() -> Verdict {
    let mut witness = Witness::start()?;
    control::ready("");
    control::serve(&mut witness, |_, _| None)
}
