//! The programs that build a kernel: Debian's packages, and bindgen.

use super::cache::Cache;
use super::inputs::Hash;
use crate::packages;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// The source itself, and Debian's Rust, which is new enough and has the library's source.
pub(super) const SOURCE: &str = "linux-source-6.12";

/// What it takes to build it. bindgen looks for libclang.
const PACKAGES: [&str; 18] = [
    SOURCE,
    "bc",
    "bison",
    "bzip2",
    "clang",
    "flex",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "libelf-dev",
    "libssl-dev",
    "lld",
    "llvm",
    "make",
    "patch",
    "rust-web-src",
    "rustc-web",
    "xz-utils",
];

/// Debian's own is too old for the kernel.
const BINDGEN: &str = "0.73.2";

/// Programs and what they are.
pub(super) struct Toolchain {
    pub(super) rustc: PathBuf,
    pub(super) bindgen: PathBuf,
    /// Every package with its version.
    pub(super) versions: String,
}

/// Packages that are needed and can't be had.
pub(super) fn out_of_reach(shell: &Shell) -> BTreeSet<&'static str> {
    packages::out_of_reach(shell, &PACKAGES)
}

impl Toolchain {
    /// Finds all of it, or installs it.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub(super) fn ensure(shell: &Shell, cache: &Cache) -> anyhow::Result<Self> {
        packages::ensure_installed(shell, "building a kernel", &PACKAGES)?;
        let rustc = PathBuf::from("/usr/bin/rustc");
        if !rustc.exists() {
            bail!("rustc-web is installed, but {} is not there", rustc.display());
        }
        let bindgen = bindgen(shell, cache)?;
        let format = "${Package} ${Version}\n";
        let versions = cmd!(shell, "dpkg-query --show --showformat={format} {PACKAGES...}").quiet().read()?;
        Ok(Self { rustc, bindgen, versions: format!("{versions}\nbindgen {BINDGEN}\n") })
    }

    /// A name for them: what another toolchain has compiled is of no use.
    pub(super) fn key(&self) -> String {
        let mut hash = Hash::default();
        hash.text(&self.versions);
        hash.name()
    }
}

/// From the registry of Rust's packages, built once.
fn bindgen(shell: &Shell, cache: &Cache) -> anyhow::Result<PathBuf> {
    let root = cache.path().join(format!("bindgen-{BINDGEN}"));
    let program = root.join("bin/bindgen");
    if !program.exists() {
        println!("== bindgen {BINDGEN}");
        // Not where the workspace is built, and with nothing of its flags.
        let _target = shell.push_env("CARGO_TARGET_DIR", root.join("target"));
        let _flags = shell.push_env("RUSTFLAGS", "");
        cmd!(shell, "cargo install --quiet --locked --root {root} --version {BINDGEN} bindgen-cli")
            .quiet()
            .run()
            .with_context(|| format!("cargo install bindgen-cli {BINDGEN}; is crates.io within reach?"))?;
        let _ = std::fs::remove_dir_all(root.join("target"));
    }
    Ok(program)
}
