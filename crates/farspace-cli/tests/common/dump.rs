//! Dumping through the command.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The consistency levels.
pub(crate) const LEVELS: [&str; 4] = ["converge", "snapshot", "frozen", "fuzzy"];

/// Dumps a process and returns the report.
///
/// # Panics
///
/// The command fails, or memory was copied by a fallback.
#[track_caller]
pub(crate) fn dump(pid: i32, path: &Path, level: &str, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["dump", &pid.to_string(), "--json", "--level", level, "-o"]).arg(path).args(more);
    // However long the stop takes on this machine, it is to be this level.
    command.args(["--max-downtime", "60000"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["level"], level);
    assert!(matches!(report["mechanism"].as_str(), Some("agent" | "native")), "{report}\n{errors}");
    report
}
