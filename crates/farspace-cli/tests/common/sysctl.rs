//! Settings of the kernel, changed for the time of a test.

use std::fs;
use std::path::PathBuf;

/// A raised limit; back at its value when dropped.
pub(crate) struct Sysctl {
    path: PathBuf,
    before: String,
}

impl Sysctl {
    /// Raises a limit of /proc/sys, if it is lower.
    ///
    /// # Errors
    ///
    /// Why it can't be.
    pub(crate) fn at_least(name: &str, value: u64) -> std::io::Result<Self> {
        let path = PathBuf::from("/proc/sys").join(name);
        let before = fs::read_to_string(&path)?;
        if before.trim().parse::<u64>().is_ok_and(|now| now < value) {
            fs::write(&path, value.to_string())?;
        }
        Ok(Self { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // Fails only where it could not be raised either.
        let _ = fs::write(&self.path, self.before.trim());
    }
}
