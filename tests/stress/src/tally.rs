//! What has been counted: each kind of call by its answers.

use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Vmsplice,
    Exec,
    Syscall,
}

/// How often each answer was given: an errno, or 0.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<(Kind, i32), u64>>);

impl Tally {
    pub(crate) fn count(&self, kind: Kind, answer: Option<Errno>) {
        let code = answer.map_or(0, |errno| errno.raw_os_error());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, code)).or_default() += 1;
    }

    /// # Errors
    /// A kind that has only failed: then nothing was tested.
    pub(crate) fn every_kind_succeeded(&self) -> Result<(), String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match [Kind::Vmsplice, Kind::Exec, Kind::Syscall]
            .into_iter()
            .find(|kind| !counts.contains_key(&(*kind, 0)))
        {
            Some(kind) => Err(format!("no {kind:?} has ever succeeded")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, answer), count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match answer {
                0 => writeln!(f, "{kind:?}: {count} succeeded")?,
                code => writeln!(f, "{kind:?}: {count} {:?}", Errno::from_raw_os_error(*code))?,
            }
        }
        Ok(())
    }
}
