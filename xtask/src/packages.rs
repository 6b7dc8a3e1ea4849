//! What the tests need of the machine: found by looking for the programs, installed where that is possible.

use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

/// A program and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cc", "gcc"),
    ("crit", "criu"),
    ("criu", "criu"),
    ("depmod", "kmod"),
    ("gcore", "gdb"),
    ("gdb", "gdb"),
    ("javac", "default-jdk-headless"),
    ("pgbench", "postgresql-contrib"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("python3", "python3"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("readelf", "binutils"),
    ("redis-benchmark", "redis-tools"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("xz", "xz-utils"),
];

/// Debian keeps the server's programs in a directory for each version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// A variable that is set where nothing may be installed.
pub(crate) const NO_INSTALL: &str = "FARSPACE_TEST_NO_INSTALL";

/// Finds or installs everything.
///
/// # Errors
/// What is missing and the command that would install it, where this program may not or can't.
pub(crate) fn ensure(shell: &Shell) -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.iter().map(|(_, package)| *package).collect::<BTreeSet<_>>();
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if !may_install() {
        bail!(
            "the tests need {programs}, which {} not here; on Debian:\n    \
             sudo apt-get update && sudo apt-get install --no-install-recommends {list}\n\
             (as root this command does that itself; --no-install runs without them)",
            if missing.len() == 1 { "is" } else { "are" }
        );
    }
    println!("== packages: {list}");
    install(shell, &packages).with_context(|| format!("installing {list}"))?;
    match self::missing() {
        left if left.is_empty() => Ok(()),
        left => bail!("still missing after the installation: {left:?}"),
    }
}

/// Installs packages of which more is needed than a program on the path.
///
/// # Errors
/// What is missing and the command that would install it, where this program may not or can't.
pub(crate) fn ensure_installed(
    shell: &Shell,
    purpose: &str,
    packages: &[&'static str],
) -> anyhow::Result<()> {
    let missing = not_installed(shell, packages);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().copied().collect::<Vec<_>>().join(" ");
    if !may_install() {
        bail!(
            "{purpose} takes these Debian packages, which are not here:\n    \
             sudo apt-get update && sudo apt-get install --no-install-recommends {list}"
        );
    }
    println!("== packages: {list}");
    install(shell, &missing).with_context(|| format!("installing {list}"))
}

/// Those of the packages that are neither there nor can be installed by this program.
pub(crate) fn out_of_reach(shell: &Shell, packages: &[&'static str]) -> BTreeSet<&'static str> {
    if may_install() { BTreeSet::new() } else { not_installed(shell, packages) }
}

fn not_installed(shell: &Shell, packages: &[&'static str]) -> BTreeSet<&'static str> {
    packages.iter().copied().filter(|package| !is_installed(shell, package)).collect()
}

/// As root on Debian, unless it is forbidden.
fn may_install() -> bool {
    let is_debian = Path::new("/etc/debian_version").exists() && find("apt-get").is_some();
    is_debian && rustix::process::geteuid().is_root() && std::env::var_os(NO_INSTALL).is_none()
}

fn is_installed(shell: &Shell, package: &str) -> bool {
    let format = "${db:Status-Status}";
    let status = cmd!(shell, "dpkg-query --show --showformat={format} {package}");
    status.quiet().ignore_stderr().read().is_ok_and(|status| status == "installed")
}

fn missing() -> Vec<(&'static str, &'static str)> {
    PROGRAMS.iter().copied().filter(|(program, _)| find(program).is_none()).collect()
}

/// The path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions =
        fs::read_dir(POSTGRES).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    // An administrator's programs are not on every user's path.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(system).chain(versions);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn install(shell: &Shell, packages: &BTreeSet<&str>) -> anyhow::Result<()> {
    let _quiet = NoServices::begin()?;
    let _env = shell.push_env("DEBIAN_FRONTEND", "noninteractive");
    cmd!(shell, "apt-get update --quiet").run()?;
    cmd!(shell, "apt-get install --quiet --yes --no-install-recommends {packages...}").run()?;
    Ok(())
}

/// While this is there, packages don't start their services (policy-rc.d of invoke-rc.d): the tests run their own
/// servers, and those of the machine are left as they are.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn begin() -> anyhow::Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        // A policy of the administrator's stays in force.
        if path.exists() {
            return Ok(Self(None));
        }
        // 101: action forbidden by policy.
        fs::write(&path, "#!/bin/sh\nexit 101\n").with_context(|| path.display().to_string())?;
        let policy = Self(Some(path.clone()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
