//! `cargo xtask kernel lines`: how much of the kernel part is Rust, how much C, how much is in other people's files.

use anyhow::Context;
use std::fs;
use std::path::Path;
use xshell::Shell;

/// Counts and prints; blank lines and comments don't count.
pub(super) fn run(shell: &Shell) -> anyhow::Result<bool> {
    let kernel = shell.current_dir().join("kernel");
    let (rust, c) = (count(&kernel.join("src"), &["rs"])?, count(&kernel.join("src"), &["c", "h"])?);
    let header = count(&kernel.join("include"), &["h"])?;
    let (added, removed) = hooks(&kernel.join("patches"))?;
    let share = 100 * rust / (rust + c + added).max(1);
    println!("Rust                      {rust:>6}  {share} % of what is compiled into the kernel");
    println!("C, of its own             {c:>6}");
    println!("lines added by patches    {added:>6}");
    println!("lines removed by patches  {removed:>6}");
    println!("header for programs       {header:>6}");
    Ok(true)
}

/// Lines of code in the files below a folder that have one of these extensions.
fn count(folder: &Path, extensions: &[&str]) -> anyhow::Result<usize> {
    let mut lines = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let kind = path.extension().unwrap_or_default();
        if path.is_dir() {
            lines += count(&path, extensions)?;
        } else if extensions.iter().any(|extension| kind == *extension) {
            lines += code(&fs::read_to_string(&path)?);
        }
    }
    Ok(lines)
}

/// Lines that are neither blank nor part of a comment that begins its line.
fn code(text: &str) -> usize {
    let mut inside = false;
    let is_code = |line: &&str| {
        let line = line.trim();
        let comment = inside || line.starts_with("/*") || line.starts_with("//");
        inside = (inside || line.starts_with("/*")) && !line.contains("*/");
        !comment && !line.is_empty()
    };
    text.lines().filter(is_code).count()
}

/// Lines that the patches add and remove; theirs count with their comments.
fn hooks(folder: &Path) -> anyhow::Result<(usize, usize)> {
    let (mut added, mut removed) = (0, 0);
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "patch") {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            added += usize::from(line.starts_with('+') && !line.starts_with("+++ "));
            removed += usize::from(line.starts_with('-') && !line.starts_with("--- "));
        }
    }
    Ok((added, removed))
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn comments_and_blank_lines_are_no_code() {
        assert_eq!(code("/* a\n b\n */\nint x; /* y */\n\n// z\nint y;\n"), 2);
        assert_eq!(code("/// doc\nfn a() {}\n    // why\n    b();\n"), 2);
    }
}
