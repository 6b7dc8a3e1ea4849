//! What a program of the host needs to run elsewhere.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of a program; one with a slash is a path already.
///
/// # Errors
/// There is none.
pub(super) fn find(name: &str) -> anyhow::Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    crate::packages::find(name).with_context(|| format!("{name}: there is no such program here"))
}

/// The shared libraries and the loader that a program names; none for a static one.
///
/// # Errors
/// One is missing.
pub(super) fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    // A static program, or a script: ldd says so by its status.
    if !output.status.success() {
        return Ok(Vec::new());
    }
    parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| program.display().to_string())
}

/// From lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("{line}");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        // The vDSO has a name only.
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let text =
            "\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(parse(text).unwrap(), [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld.so")]);
        assert!(parse("\tlibx.so.1 => not found\n").is_err());
    }
}
