//! Which program is the victim.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The directory with the multi-call victim, for those who keep it elsewhere.
const DIRECTORY: &str = "FARSPACE_VICTIMS_DIR";

static SELF: AtomicBool = AtomicBool::new(false);

/// This program answers to the name of the victim (see [`crate::host`]).
pub fn host_is_self() {
    SELF.store(true, Ordering::SeqCst);
}

/// The multi-call victim: where the environment says, this program itself, or next to it.
pub fn program() -> Result<PathBuf, String> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return Ok(Path::new(&directory).join(crate::PROGRAM));
    }
    let own = std::env::current_exe().map_err(|e| format!("own executable: {e}"))?;
    if SELF.load(Ordering::SeqCst) {
        return Ok(own);
    }
    // target/debug/X, or target/debug/deps/X for a test.
    let candidates = own.ancestors().skip(1).take(2).map(|directory| directory.join(crate::PROGRAM));
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        let name = crate::PROGRAM;
        format!("no {name} near {}: run `cargo build -p farspace-victims`, or set {DIRECTORY}", own.display())
    })
}
