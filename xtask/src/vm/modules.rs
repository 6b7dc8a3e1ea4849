//! Kernel modules and what they depend on, from modules.dep(5).

use anyhow::{Context, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Names and contents of the modules and of those that they depend on, in the order in which they are to be loaded.
///
/// # Errors
/// There is no module of that name, built in or not.
pub(super) fn with_dependencies(folder: &Path, names: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let (table, built_in) = (read("modules.dep")?, read("modules.builtin")?);
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for name in names {
        let Some(paths) = order(&table, name) else {
            if built_in.lines().any(|path| stem(path) == canonical(name)) {
                continue;
            }
            bail!("{}: no module {name}", folder.display());
        };
        for path in paths {
            let name = stem(path);
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, load(&folder.join(path))?));
            }
        }
    }
    Ok(found)
}

/// The module's file and those before it. A line lists dependencies from the nearest to the farthest.
fn order<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (path, others) = table.lines().find_map(|line| {
        let (path, others) = line.split_once(':')?;
        (stem(path) == canonical(name)).then_some((path, others))
    })?;
    let mut paths: Vec<_> = others.split_whitespace().rev().collect();
    paths.push(path);
    Some(paths)
}

/// `9pnet_virtio` for `kernel/net/9p/9pnet_virtio.ko.xz`.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    canonical(name.split(".ko").next().unwrap_or(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The content, unpacked: not every kernel can do that by itself.
fn load(path: &Path) -> anyhow::Result<Vec<u8>> {
    let unpacker = match path.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| path.display().to_string()),
    };
    let output = Command::new(unpacker).arg("-dc").arg(path).output().context(unpacker)?;
    if !output.status.success() {
        bail!("{unpacker} -dc {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let table = "a/near.ko.xz: a/far.ko.xz\na/far.ko.xz:\na/my-mod.ko: a/near.ko.xz a/far.ko.xz\n";
        assert_eq!(order(table, "my_mod").unwrap(), ["a/far.ko.xz", "a/near.ko.xz", "a/my-mod.ko"]);
        assert_eq!(order(table, "far").unwrap(), ["a/far.ko.xz"]);
        assert_eq!(order(table, "mod"), None);
    }
}
