//! Debian's own Linux 6.12, from its package: unpacked, not installed.

use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

/// Packages that depend on the newest 6.12: of Debian 12's backport, and of Debian 13.
const NAMES: &[&str] = &["linux-image-6.12-amd64", "linux-image-amd64"];
/// What its name begins with.
const PREFIX: &str = "linux-image-6.12.";

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// vmlinuz.
    pub(super) image: PathBuf,
    /// /lib/modules/RELEASE of it, with modules.dep.
    pub(super) modules: PathBuf,
}

/// Finds the kernel in `folder`, or fetches it.
///
/// # Errors
/// No Debian, or no such package; what failed in fetching it.
pub(super) fn kernel(shell: &Shell, folder: &Path) -> anyhow::Result<Kernel> {
    if let Some(kernel) = unpacked(folder) {
        return Ok(kernel);
    }
    let name = match name(shell) {
        Some(name) => name,
        None => {
            cmd!(shell, "apt-get update --quiet").run().context("which kernels Debian has")?;
            name(shell)
                .with_context(|| format!("Debian has no {PREFIX}* here; see apt-cache depends {NAMES:?}"))?
        }
    };
    println!("== kernel: {name}");
    // Complete only under its last name.
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    {
        let _inside = shell.push_dir(&partial);
        cmd!(shell, "apt-get download --quiet {name}").ignore_stderr().run()?;
    }
    let package =
        fs::read_dir(&partial)?.flatten().map(|entry| entry.path()).next().context("no package came")?;
    let root = partial.join("root");
    cmd!(shell, "dpkg-deb --extract {package} {root}").run()?;
    fs::remove_file(package)?;
    let release = name.strip_prefix("linux-image-").unwrap_or(&name);
    // Debian 12 has /lib apart from /usr/lib, Debian 13 doesn't.
    let base = if root.join("lib/modules").exists() { root.clone() } else { root.join("usr") };
    cmd!(shell, "depmod --basedir {base} {release}").run()?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&partial, folder)?;
    unpacked(folder).with_context(|| format!("{name} has no kernel in it"))
}

fn unpacked(folder: &Path) -> Option<Kernel> {
    let root = folder.join("root");
    let boot = fs::read_dir(root.join("boot")).ok()?.flatten();
    let image = boot.map(|entry| entry.path()).find(|path| is_named(path, "vmlinuz-"))?;
    let release = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
    let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(&release));
    let modules = places.into_iter().find(|place| place.join("modules.dep").exists())?;
    Some(Kernel { image, modules })
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// The package of the newest 6.12.
fn name(shell: &Shell) -> Option<String> {
    NAMES.iter().find_map(|&wanted| {
        let list = cmd!(shell, "apt-cache depends {wanted}").quiet().ignore_stderr().read().ok()?;
        parse(&list).ok()
    })
}

fn parse(list: &str) -> anyhow::Result<String> {
    let found = list.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    match found.into_iter().find(|name| name.starts_with(PREFIX)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("no {PREFIX}*"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_kernel_is_what_the_package_depends_on() {
        let list = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n";
        assert_eq!(parse(list).unwrap(), "linux-image-6.12.117+deb12-amd64");
        assert!(parse("linux-image-amd64\n  Depends: linux-image-6.1.0-40-amd64\n").is_err());
    }
}
